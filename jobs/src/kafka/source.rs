//! Reads one topic: what to read is decided by the caller, what arrives is handed over in chunks.
//!
//! A [`Source`] is used from one thread. [`Source::poll`] reports what the group wants
//! ([`Event::Assigning`], [`Event::Revoking`], [`Event::Lost`]); the caller answers with
//! [`Source::assign`] or [`Source::unassign`] when it is ready (offsets looked up, or flushed), and
//! polls on meanwhile, with `max` 0 if it has no room. Where to begin is always an explicit offset:
//! nothing is ever read from the group's offsets.
//!
//! The broker is Kafka's, by librdkafka ([`super::client`]); in tests it may be one in memory.
//!
//! Invariants: S1 between two `assign` or `seek` of a partition its messages come in order, each
//! once, and none is jumped; S2 after `assign` or `seek` nothing from before it is delivered; S3 a
//! partition that is not assigned delivers nothing.

use super::client::Client;
#[cfg(test)]
use super::memory;
use super::message::Chunk;
use crate::error::Result;
use crate::project::settings::Options;
use std::collections::BTreeMap;
use std::time::Duration;

/// Who decides which partitions are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The consumer group of this name.
    Group {
        /// `group.id`.
        group: String,
    },
    /// The user: these partitions. The group is only where offsets are committed for lag tools.
    Manual {
        /// `group.id` of the commits.
        group: String,
        /// Partitions to read.
        partitions: Vec<i32>,
    },
}

/// What a poll tells besides messages. An event comes after the messages of the same poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// These partitions are ours as soon as [`Source::assign`] is called for all of them (the list
    /// may be empty and is answered all the same).
    Assigning(Vec<i32>),
    /// These partitions go to another member as soon as [`Source::unassign`] is called.
    Revoking(Vec<i32>),
    /// These partitions are somebody else's already; answered by [`Source::unassign`].
    Lost(Vec<i32>),
    /// Everything readable below `position` was delivered; later offsets do not exist yet or are not
    /// readable yet (an open transaction).
    EndOfPartition {
        /// Partition.
        partition: i32,
        /// The next offset that can be delivered.
        position: i64,
    },
    /// The broker is away or unwilling; librdkafka goes on trying.
    Trouble {
        /// librdkafka's words, without secrets.
        text: String,
    },
}

/// A reader of one topic.
pub struct Source(By);

/// By whom it is read.
enum By {
    Librdkafka(Box<Client>),
    #[cfg(test)]
    Memory(memory::Reader),
}

/// The same of whoever reads.
macro_rules! by {
    ($source:expr, $reader:ident => $call:expr) => {
        match $source {
            By::Librdkafka($reader) => $call,
            #[cfg(test)]
            By::Memory($reader) => $call,
        }
    };
}

impl Source {
    /// Opens a reader of `topic`; `queue_bytes` is the memory that prefetched messages may take.
    ///
    /// # Errors
    /// [`Class::User`](crate::error::Class::User) for a refused option, failed authentication, a missing topic or partition;
    /// [`Class::Outside`](crate::error::Class::Outside) if no broker answers.
    pub fn open(options: &Options, topic: &str, mode: Mode, queue_bytes: usize, want_headers: bool) -> Result<Self> {
        #[cfg(test)]
        if let Some(broker) = memory::Broker::of(options) {
            return memory::Reader::open(broker?, topic, mode, want_headers).map(|reader| Self(By::Memory(reader)));
        }
        let client = Client::open(options, topic, mode, queue_bytes, want_headers)?;
        Ok(Self(By::Librdkafka(Box::new(client))))
    }

    /// Serves the group, then takes up to `max` messages into `chunk` (emptied first), waiting up to
    /// `timeout` for the first. With `max` 0 it only keeps the membership alive. Returns at once
    /// with whatever there is when the group wants something.
    ///
    /// # Errors
    /// [`Class::InputLost`](crate::error::Class::InputLost) if an offset is not in the log any more; [`Class::User`](crate::error::Class::User) for refused
    /// credentials, missing rights or a deleted topic; [`Class::Outside`](crate::error::Class::Outside) for a message that the
    /// broker holds but librdkafka cannot read.
    pub fn poll(&mut self, chunk: &mut Chunk, max: usize, timeout: Duration, clock_ms: i64) -> Result<Vec<Event>> {
        by!(&mut self.0, reader => reader.poll(chunk, max, timeout, clock_ms))
    }

    /// Carries out [`Event::Assigning`]: reads each partition from its offset on.
    ///
    /// # Errors
    /// [`Class::Outside`](crate::error::Class::Outside) if librdkafka refuses.
    pub fn assign(&mut self, starts: &[(i32, i64)]) -> Result<()> {
        by!(&mut self.0, reader => reader.assign(starts))
    }

    /// Carries out [`Event::Revoking`] or [`Event::Lost`], or gives partitions up by hand.
    ///
    /// # Errors
    /// [`Class::Outside`](crate::error::Class::Outside) if librdkafka refuses.
    pub fn unassign(&mut self, partitions: &[i32]) -> Result<()> {
        by!(&mut self.0, reader => reader.unassign(partitions))
    }

    /// Reads these partitions from these offsets on; those not assigned are left out. A seek that
    /// cannot be carried out now is carried out by a later poll; until then the partition is silent.
    pub fn seek(&mut self, targets: &[(i32, i64)]) {
        by!(&mut self.0, reader => reader.seek(targets))
    }

    /// Commits the group's offsets, for lag tools; they are never read back. The broker's answer is
    /// not awaited.
    ///
    /// # Errors
    /// For the log only.
    pub fn commit_group(&self, nexts: &[(i32, i64)]) -> Result<()> {
        by!(&self.0, reader => reader.commit_group(nexts))
    }

    /// Stops fetching these partitions; what was prefetched is dropped and fetched again later.
    ///
    /// # Errors
    /// [`Class::Outside`](crate::error::Class::Outside) if librdkafka refuses.
    pub fn pause(&mut self, partitions: &[i32]) -> Result<()> {
        by!(&mut self.0, reader => reader.pause(partitions))
    }

    /// Fetches these partitions again, from where they were left.
    ///
    /// # Errors
    /// [`Class::Outside`](crate::error::Class::Outside) if librdkafka refuses.
    pub fn resume(&mut self, partitions: &[i32]) -> Result<()> {
        by!(&mut self.0, reader => reader.resume(partitions))
    }

    /// The assigned partitions and the offset that each delivers next, or a later one.
    #[must_use]
    pub fn positions(&self) -> &BTreeMap<i32, i64> {
        by!(&self.0, reader => reader.positions())
    }
}

//! Asks the broker what it holds: watermarks, partition counts, offsets for times and of groups.
//!
//! Watermarks are those of a reader of everything: an open transaction hides no offset here. The broker is Kafka's, by
//! librdkafka ([`super::inquiry`]); in tests it may be one in memory.

use super::inquiry::Inquiry;
#[cfg(test)]
use super::memory;
use crate::error::Result;
use crate::project::settings::Options;
use std::collections::BTreeMap;
#[cfg(test)]
use std::sync::Arc;

/// Answers questions about topics. May be shared between threads.
pub struct Watermarks(By);

/// Who is asked.
enum By {
    Librdkafka(Box<Inquiry>),
    #[cfg(test)]
    Memory(Arc<memory::Broker>),
}

/// The same of whoever is asked.
macro_rules! by {
    ($watermarks:expr, $asked:ident => $call:expr) => {
        match $watermarks {
            By::Librdkafka($asked) => $call,
            #[cfg(test)]
            By::Memory($asked) => $call,
        }
    };
}

impl Watermarks {
    /// Opens the client; asks nothing yet.
    ///
    /// # Errors
    /// [`Class::User`](crate::error::Class::User) for a refused option.
    pub fn open(options: &Options) -> Result<Self> {
        #[cfg(test)]
        if let Some(broker) = memory::Broker::of(options) {
            return broker.map(|broker| Self(By::Memory(broker)));
        }
        Ok(Self(By::Librdkafka(Box::new(Inquiry::open(options)?))))
    }

    /// How many partitions the topic has.
    ///
    /// # Errors
    /// [`Class::User`](crate::error::Class::User) if there is no such topic or access is refused, [`Class::Outside`](crate::error::Class::Outside) if no broker answers.
    pub fn partition_count(&self, topic: &str) -> Result<i32> {
        by!(&self.0, asked => asked.partition_count(topic))
    }

    /// The earliest offset that the broker holds, and the offset after the last one written.
    ///
    /// # Errors
    /// [`Class::Outside`](crate::error::Class::Outside) if the broker does not answer.
    pub fn low_high(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        by!(&self.0, asked => asked.low_high(topic, partition))
    }

    /// Kafka's time, ms, of the readable message exactly at `offset`; `None` if nothing readable
    /// lies there (a marker, an aborted or compacted message, below low, at or above high) or the
    /// message has no time.
    ///
    /// # Errors
    /// [`Class::InputNotYet`](crate::error::Class::InputNotYet) if an open transaction hides it;
    /// [`Class::Outside`](crate::error::Class::Outside) if the broker does not answer within 15 s.
    pub fn message_time_at(&self, topic: &str, partition: i32, offset: i64) -> Result<Option<i64>> {
        by!(&self.0, asked => asked.message_time_at(topic, partition, offset))
    }

    /// Per partition the first offset whose message is not older than `time_ms`; the high watermark
    /// where there is none.
    ///
    /// # Errors
    /// [`Class::Outside`](crate::error::Class::Outside) if the broker does not answer.
    pub fn offsets_for_time(&self, topic: &str, partitions: &[i32], time_ms: i64) -> Result<BTreeMap<i32, i64>> {
        by!(&self.0, asked => asked.offsets_for_time(topic, partitions, time_ms))
    }

    /// The high watermarks of several partitions, asked for at once.
    ///
    /// # Errors
    /// [`Class::Outside`](crate::error::Class::Outside) if the broker does not answer; no partition is left out in silence.
    pub fn highs(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        by!(&self.0, asked => asked.highs(topic, partitions))
    }

    /// The committed offsets of a group, where it has any.
    ///
    /// # Errors
    /// [`Class::Outside`](crate::error::Class::Outside) if the broker does not answer.
    pub fn group_offsets(&self, group: &str, topic: &str) -> Result<BTreeMap<i32, i64>> {
        by!(&self.0, asked => asked.group_offsets(group, topic))
    }
}

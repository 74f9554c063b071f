//! The reading thread of one pipeline: takes messages from the broker, hands them to the workers, and
//! decides when a flush begins.
//!
//! One flush is in flight at most; meanwhile the next one fills. What has been read and not yet
//! committed is bounded by bytes: beyond that, polling goes on (so that the group keeps us) but
//! takes no messages.
//!
//! Invariants: R1 a worker hears of a partition before its first message, and of an end of it only
//! after the messages before that end; R2 what a flush order says was read to its end was handed to the workers before the order.

use super::committer::Outcome;
use super::meter::Meter;
use super::options::StreamOptions;
use super::takeover::Takeover;
use super::worker::{FlushOrder, Item, Taken};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::kafka::message::Chunk;
use crate::kafka::monitor::{Monitor, Observation};
use crate::kafka::source::{Event, Source};
use crate::project::settings::Pipeline;
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Messages of one poll.
const POLL_MESSAGES: usize = 4_096;
/// How long one poll waits for messages.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// Chunks that may wait for one worker.
const WAITING_CHUNKS_MAX: usize = 8;
/// How long a revoked partition waits for the commit in flight, so that its new owner reads it.
const REVOKE_WAIT: Duration = Duration::from_secs(10);
/// Bytes that a message costs beside its payload.
const MESSAGE_OVERHEAD: u64 = 64;

/// The ends that a reader is wired to.
pub struct Wiring {
    /// One queue per worker; partition p belongs to worker p mod n.
    pub workers: Vec<Sender<Item>>,
    /// Chunks to fill again.
    pub used: Receiver<Chunk>,
    /// What became of the flushes.
    pub outcomes: Receiver<Outcome>,
    /// Tells the reader to drain.
    pub stop: CancellationToken,
}

/// The reading thread's state.
pub struct Reader {
    pipeline: Arc<Pipeline>,
    options: StreamOptions,
    source: Source,
    monitor: Monitor,
    takeover: Takeover,
    runtime: tokio::runtime::Handle,
    wiring: Wiring,
    meter: Arc<Meter>,
    clock: Clock,
    outstanding_bytes_max: u64,
    owned: BTreeMap<i32, Position>,
    assigned_once: bool,
    open: Load,
    in_flight: Option<Load>,
    sequence: u64,
    heartbeat: Instant,
}

/// How far one partition has been read.
#[derive(Debug, Clone, Copy)]
struct Position {
    next: i64,
    /// Where a bounded run ends.
    end: i64,
    at_end: bool,
    /// The latest instant (ms) at which an end was observed that `next` has reached.
    read_to_end_at_ms: Option<i64>,
    /// An observed end that `next` may not have reached yet.
    awaited: Option<Observation>,
}

/// What has been handed to the workers since the last flush order.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    messages: u64,
    bytes: u64,
    since: Option<Instant>,
}

/// Why reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A bounded run has read everything.
    CaughtUp,
    /// The run was told to end, and everything read is committed.
    Stopped,
}

impl Reader {
    /// A reader that owns nothing yet.
    #[expect(clippy::too_many_arguments, reason = "the parts of one thread, named once, where it is spawned")]
    pub fn new(
        pipeline: Arc<Pipeline>,
        options: StreamOptions,
        source: Source,
        monitor: Monitor,
        takeover: Takeover,
        runtime: tokio::runtime::Handle,
        wiring: Wiring,
        meter: Arc<Meter>,
        clock: Clock,
        outstanding_bytes_max: u64,
    ) -> Self {
        Self {
            pipeline,
            options,
            source,
            monitor,
            takeover,
            runtime,
            wiring,
            meter,
            clock,
            outstanding_bytes_max,
            owned: BTreeMap::new(),
            assigned_once: false,
            open: Load::default(),
            in_flight: None,
            sequence: 0,
            heartbeat: Instant::now(),
        }
    }

    /// Reads until the run is caught up or told to stop, and everything read is committed.
    ///
    /// # Errors
    /// What stops landing: lost history, a topic that is gone, a flush that cannot be committed.
    pub fn run(mut self) -> Result<Ended> {
        let mut chunk = Chunk::default();
        loop {
            while let Ok(outcome) = self.wiring.outcomes.try_recv() {
                self.settle(outcome)?;
            }
            if self.wiring.stop.is_cancelled() {
                self.drain(Instant::now() + self.options.drain_deadline)?;
                return Ok(Ended::Stopped);
            }
            let max = if self.has_room() { POLL_MESSAGES.min(self.rows_left()) } else { 0 };
            let events = self.source.poll(&mut chunk, max, POLL_WAIT, self.clock.now_ms())?;
            // messages first: an end of partition in the same poll lies behind them
            chunk = self.hand_over(chunk)?;
            for event in events {
                self.react(event)?;
            }
            self.observe_ends();
            if self.flush_is_due() {
                self.order_flush()?;
            }
            if self.options.until_caught_up && self.is_caught_up() {
                self.drain(Instant::now() + self.options.give_up_after)?;
                // unless another writer was ahead, and there is something to read again
                if self.is_caught_up() {
                    return Ok(Ended::CaughtUp);
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        let bytes = self.open.bytes + self.in_flight.map_or(0, |f| f.bytes);
        bytes < self.outstanding_bytes_max && self.wiring.workers.iter().all(|w| w.len() < WAITING_CHUNKS_MAX)
    }

    /// Messages until the open flush is full: a flush never holds more than `commit.rows`.
    fn rows_left(&self) -> usize {
        usize::try_from(self.pipeline.commit.rows.saturating_sub(self.open.messages)).unwrap_or(usize::MAX)
    }

    fn react(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Assigning(partitions) => {
                self.assigned_once = true;
                let Some(taken) = self.take(&partitions)? else { return Ok(()) };
                self.source.assign(&starts(&taken))?;
                self.tell_taken(taken)
            }
            Event::Revoking(partitions) => {
                self.await_flush(Instant::now() + REVOKE_WAIT)?;
                self.forget(&partitions)?;
                self.source.unassign(&partitions)
            }
            Event::Lost(partitions) => {
                self.forget(&partitions)?;
                self.source.unassign(&partitions)
            }
            Event::EndOfPartition { partition, position } => {
                if let Some(p) = self.owned.get_mut(&partition) {
                    p.at_end = true;
                    p.next = p.next.max(position);
                    self.tell(Item::Position { partition, position }, partition)?;
                }
                Ok(())
            }
            Event::Trouble { text } => {
                tracing::warn!(pipeline = %self.pipeline.name, error = %text, "broker trouble, going on");
                Ok(())
            }
        }
    }

    /// `None` if the run was told to end meanwhile: nothing is taken over then.
    fn take(&mut self, partitions: &[i32]) -> Result<Option<Vec<Taken>>> {
        if partitions.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let takeover = self.wiring.stop.run_until_cancelled(self.takeover.take(partitions));
        let Some(taken) = self.runtime.block_on(takeover).transpose()? else { return Ok(None) };
        for t in &taken {
            let next = t.lost_below.unwrap_or(t.progress.next.0);
            let awaited = self.takeover.end_of(t.partition);
            let end = awaited.map_or(next, |end| end.high);
            let position = Position { next, end, at_end: false, read_to_end_at_ms: None, awaited };
            self.owned.insert(t.partition, position);
        }
        self.monitor.watch(self.owned.keys().copied());
        let to_read = self.owned.values().map(|p| p.end.saturating_sub(p.next).max(0) as u64).sum::<u64>();
        self.meter.to_read.store(to_read + self.meter.messages.load(Relaxed), Relaxed);
        Ok(Some(taken))
    }

    fn tell_taken(&self, taken: Vec<Taken>) -> Result<()> {
        let mut by_worker: BTreeMap<usize, Vec<Taken>> = BTreeMap::new();
        for t in taken {
            by_worker.entry(t.partition as usize % self.wiring.workers.len()).or_default().push(t);
        }
        by_worker.into_iter().try_for_each(|(w, taken)| send(&self.wiring.workers[w], Item::Take(taken)))
    }

    /// Gives partitions up: what they have uncommitted is dropped, the next owner reads it again.
    fn forget(&mut self, partitions: &[i32]) -> Result<()> {
        for partition in partitions {
            self.owned.remove(partition);
            self.meter.forget_lag(*partition);
        }
        self.monitor.watch(self.owned.keys().copied());
        self.wiring.workers.iter().try_for_each(|w| send(w, Item::Drop(partitions.to_vec())))
    }

    /// Somebody else moved a partition of the flush: drop everything and go where the log says.
    fn retake(&mut self) -> Result<()> {
        let partitions: Vec<i32> = self.owned.keys().copied().collect();
        tracing::info!(pipeline = %self.pipeline.name, ?partitions, "another writer was ahead, going on at its progress");
        self.forget(&partitions)?;
        self.open = Load::default();
        let Some(taken) = self.take(&partitions)? else { return Ok(()) };
        self.source.seek(&starts(&taken));
        self.tell_taken(taken)
    }

    fn hand_over(&mut self, chunk: Chunk) -> Result<Chunk> {
        if chunk.messages.is_empty() {
            return Ok(chunk);
        }
        let mut messages = 0;
        let mut bytes = 0;
        for message in &chunk.messages {
            if let Some(position) = self.owned.get_mut(&message.partition) {
                position.next = position.next.max(message.offset + 1);
                messages += 1;
                bytes += message.payload.as_ref().map_or(0, ExactSizeIterator::len) as u64;
            }
        }
        Meter::add(&self.meter.messages, messages);
        Meter::add(&self.meter.bytes, bytes);
        self.open.messages += messages;
        self.open.bytes += bytes + messages * MESSAGE_OVERHEAD;
        self.open.since.get_or_insert_with(Instant::now);
        let chunk = Arc::new(chunk);
        for worker in &self.wiring.workers {
            send(worker, Item::Chunk(chunk.clone()))?;
        }
        drop(chunk);
        let mut next = self.wiring.used.try_recv().unwrap_or_default();
        next.clear();
        Ok(next)
    }

    /// Takes in what the monitor saw of the partitions' ends; until it has seen one, that of the run's beginning
    /// serves, since a short bounded run may be over before.
    fn observe_ends(&mut self) {
        let seen = self.monitor.seen();
        if let Some(count) = seen.partition_count {
            self.takeover.partition_count.store(count, Relaxed);
        }
        for (partition, position) in &mut self.owned {
            let newest = seen.highs.get(partition).copied();
            if let Some(newest) = newest {
                self.meter.set_lag(*partition, newest.high - position.next);
            }
            let awaited = match (position.awaited, newest) {
                // the log was made anew, and may never come as far again
                (Some(end), Some(newest)) if newest.high < end.high => Some(newest),
                (awaited, newest) => awaited.or(newest),
            };
            position.awaited = awaited;
            if let Some(end) = awaited.filter(|end| position.next >= end.high) {
                position.read_to_end_at_ms = position.read_to_end_at_ms.max(Some(end.observed_at_ms));
                position.awaited = newest.filter(|newest| newest.observed_at_ms > end.observed_at_ms);
            }
        }
    }

    fn flush_is_due(&self) -> bool {
        if self.in_flight.is_some() {
            return false;
        }
        let policy = self.pipeline.commit;
        match self.open.since {
            Some(since) => {
                self.open.messages >= policy.rows
                    || self.open.bytes >= policy.bytes.min(self.outstanding_bytes_max / 2)
                    || since.elapsed() >= policy.every
            }
            None => !self.owned.is_empty() && self.heartbeat.elapsed() >= self.pipeline.idle_after,
        }
    }

    fn order_flush(&mut self) -> Result<()> {
        self.sequence += 1;
        let read_to_end_at_ms =
            self.owned.iter().filter_map(|(p, position)| Some((*p, position.read_to_end_at_ms?))).collect();
        let order = FlushOrder { sequence: self.sequence, read_to_end_at_ms };
        for worker in &self.wiring.workers {
            send(worker, Item::Flush(order.clone()))?;
        }
        self.in_flight = Some(std::mem::take(&mut self.open));
        self.heartbeat = Instant::now();
        Ok(())
    }

    fn settle(&mut self, outcome: Outcome) -> Result<()> {
        self.in_flight = None;
        match outcome {
            Outcome::Committed { nexts } => {
                self.meter.last_commit_ms.store(self.clock.now_ms(), Relaxed);
                let ours: Vec<_> = nexts.into_iter().filter(|(p, _)| self.owned.contains_key(p)).collect();
                crate::faults::point("before_group_commit");
                if let Err(error) = self.source.commit_group(&ours) {
                    // only lag tools read it; the next commit carries a later offset anyway
                    tracing::debug!(pipeline = %self.pipeline.name, %error, "group offsets not committed");
                }
                Ok(())
            }
            Outcome::Elsewhere => self.retake(),
            Outcome::Failed(error) => Err(error),
        }
    }

    fn is_caught_up(&self) -> bool {
        self.assigned_once && self.owned.values().all(|p| p.at_end || p.next >= p.end)
    }

    fn await_flush(&mut self, deadline: Instant) -> Result<()> {
        while self.in_flight.is_some() {
            match self.wiring.outcomes.recv_deadline(deadline) {
                Ok(outcome) => self.settle(outcome)?,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => return Ok(()),
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Err(hung_up()),
            }
        }
        Ok(())
    }

    /// Commits everything that was read, then ends.
    fn drain(&mut self, deadline: Instant) -> Result<()> {
        self.await_flush(deadline)?;
        if self.in_flight.is_none() {
            self.observe_ends();
            self.order_flush()?;
            self.await_flush(deadline)?;
        }
        if self.in_flight.is_some() {
            return Err(Error::new(
                Stage::Land,
                Class::Outside,
                format!("pipeline `{}`: the last flush was not committed in time", self.pipeline.name),
            )
            .hint("nothing is lost: the next run reads these messages again"));
        }
        Ok(())
    }

    fn tell(&self, item: Item, partition: i32) -> Result<()> {
        send(&self.wiring.workers[partition as usize % self.wiring.workers.len()], item)
    }
}

fn starts(taken: &[Taken]) -> Vec<(i32, i64)> {
    taken.iter().map(|t| (t.partition, t.lost_below.unwrap_or(t.progress.next.0))).collect()
}

fn send(worker: &Sender<Item>, item: Item) -> Result<()> {
    worker.send(item).map_err(|_| hung_up())
}

/// The other thread ended first; its own error is the one that is reported.
fn hung_up() -> Error {
    Error::new(Stage::Land, Class::Internal, "a landing thread ended early")
}

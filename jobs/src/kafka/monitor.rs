//! Watches a topic's high watermarks and partition count from a thread of its own.
//!
//! An observation carries the instant *before* the question was sent: whatever was written by then
//! lies below the observed watermark, so a reader that has passed it has read all of that instant.

use super::watermarks::Watermarks;
use crate::error::{Class, Error, Result, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The clock of the edge: ms since the Unix epoch.
pub type ClockMs = Arc<dyn Fn() -> i64 + Send + Sync>;

/// One observation of a high watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Taken before the question was sent, ms.
    pub observed_at_ms: i64,
    /// The offset after the last one written, read_uncommitted.
    pub high: i64,
}

/// What was seen last.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Per watched partition.
    pub highs: BTreeMap<i32, Observation>,
    /// Number of partitions of the topic.
    pub partition_count: Option<i32>,
}

#[derive(Default)]
struct State {
    watched: BTreeSet<i32>,
    seen: Seen,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The watching thread; it ends when this is dropped.
pub struct Monitor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts watching `topic`; one round of questions every `every`. A broker that does not answer
    /// is asked again; its last answers stay, with their old instants.
    ///
    /// # Errors
    /// [`Class::Outside`] if the system has no thread left.
    pub fn start(watermarks: Arc<Watermarks>, topic: &str, every: Duration, clock: ClockMs) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (theirs, topic) = (Arc::clone(&shared), topic.to_owned());
        let thread = std::thread::Builder::new()
            .name("kafka-monitor".into())
            .spawn(move || watch(&theirs, &watermarks, &topic, every, &clock))
            .map_err(|e| Error::new(Stage::Kafka, Class::Outside, "no thread for the watermark monitor").because(e))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Says which partitions to watch from now on, and asks for them at once.
    pub fn watch(&self, partitions: impl IntoIterator<Item = i32>) {
        let mut state = self.shared.state();
        state.watched = partitions.into_iter().collect();
        let State { watched, seen, .. } = &mut *state;
        seen.highs.retain(|p, _| watched.contains(p));
        self.shared.changed.notify_all();
    }

    /// What was seen last.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.shared.state().seen.clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watermark monitor panicked");
        }
    }
}

fn watch(shared: &Shared, watermarks: &Watermarks, topic: &str, every: Duration, clock: &ClockMs) {
    loop {
        let watched: Vec<i32> = {
            let state = shared.state();
            if state.stop {
                return;
            }
            state.watched.iter().copied().collect()
        };
        let observed_at_ms = clock();
        let highs = watermarks.highs(topic, &watched);
        let count = watermarks.partition_count(topic);
        for error in [highs.as_ref().err(), count.as_ref().err()].into_iter().flatten() {
            tracing::debug!(topic, %error, "watermarks not observed");
        }
        let mut state = shared.state();
        for (partition, high) in highs.unwrap_or_default() {
            if state.watched.contains(&partition) {
                state.seen.highs.insert(partition, Observation { observed_at_ms, high });
            }
        }
        if let Ok(count) = count {
            state.seen.partition_count = Some(count);
        }
        if state.stop {
            return;
        }
        // New partitions to watch wake it early.
        if state.watched.iter().copied().eq(watched) {
            drop(shared.changed.wait_timeout(state, every).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

//! What a pipeline is doing right now, for the live line, `/metrics` and `/healthz`.
//!
//! Counters only grow and are written by one thread each; readers may be a moment behind.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Live figures of one pipeline.
#[derive(Debug)]
pub struct Meter {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Messages taken from the broker.
    pub messages: AtomicU64,
    /// Their payload bytes.
    pub bytes: AtomicU64,
    /// Rows committed to raw.
    pub landed: AtomicU64,
    /// Messages committed to rejects.
    pub rejected: AtomicU64,
    /// Messages skipped by rule.
    pub skipped: AtomicU64,
    /// Offsets without a message.
    pub gaps: AtomicU64,
    /// Commits of raw.
    pub commits: AtomicU64,
    /// Time that these took, from the last row of each to its end: files, log, and upkeep of the log, µs.
    pub commit_us: AtomicU64,
    /// When raw was last committed or known to be up to date, ms since the Unix epoch.
    pub last_commit_ms: AtomicI64,
    /// Version of raw.
    pub version: AtomicI64,
    /// Messages that lie between the position and the end, per partition.
    lag: Mutex<BTreeMap<i32, i64>>,
    /// Messages to read in a bounded run.
    pub to_read: AtomicU64,
}

impl Meter {
    /// All figures zero.
    #[must_use]
    pub fn new(pipeline: &str, now_ms: i64) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            landed: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            commit_us: AtomicU64::new(0),
            last_commit_ms: AtomicI64::new(now_ms),
            version: AtomicI64::new(-1),
            lag: Mutex::new(BTreeMap::new()),
            to_read: AtomicU64::new(0),
        }
    }

    /// Messages between position and end, per partition.
    #[must_use]
    pub fn lag(&self) -> BTreeMap<i32, i64> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the lag of one partition.
    pub fn set_lag(&self, partition: i32, messages: i64) {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, messages.max(0));
    }

    /// The partition is no longer ours.
    pub fn forget_lag(&self, partition: i32) {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }

    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Relaxed);
    }
}

//! What a batch run is doing right now, for the live line; or a fill, whose units are files or pieces of a topic; or upkeep,
//! whose units are dates. Counters only grow within a run.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Live figures of one run.
#[derive(Debug, Default)]
pub struct Meter {
    /// Units to compute.
    pub units: AtomicU64,
    /// Of these: done.
    pub units_done: AtomicU64,
    /// Bytes of the files to read; 0 where there are none.
    pub bytes: AtomicU64,
    /// Of these: read.
    pub bytes_read: AtomicU64,
    /// Rows read, values or ids.
    pub rows: AtomicU64,
    /// Times that units were begun again with more buckets of keys, because memory was too small.
    pub begun_again: AtomicU64,
}

impl Meter {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Relaxed);
    }
}

//! The queue between landing and speed: bounded in commits and in bytes of their rows, and never waited for.

use crate::land::tap::{Landed, Tap};
use arrow::array::RecordBatch;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use tokio::sync::mpsc;

/// Commits that may wait.
const WAITING_MAX: usize = 16;

/// What waits.
#[derive(Debug)]
pub(super) struct Queue {
    bytes: AtomicUsize,
    bytes_max: usize,
    /// A commit did not fit.
    overflowed: AtomicBool,
}

/// The end of the queue that landing has.
pub(super) struct Inlet {
    columns: Vec<String>,
    sender: mpsc::Sender<Landed>,
    queue: Arc<Queue>,
}

/// A queue for these columns and at most so many bytes of rows: its two ends, and what waits between.
pub(super) fn queue(columns: Vec<String>, bytes_max: usize) -> (Inlet, mpsc::Receiver<Landed>, Arc<Queue>) {
    let (sender, inbox) = mpsc::channel(WAITING_MAX);
    let queue = Arc::new(Queue { bytes: AtomicUsize::new(0), bytes_max, overflowed: AtomicBool::new(false) });
    (Inlet { columns, sender, queue: Arc::clone(&queue) }, inbox, queue)
}

impl Queue {
    /// A commit of so many bytes waits no more; whether one was left out meanwhile.
    pub fn done(&self, bytes: usize) -> bool {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.overflowed.swap(false, Relaxed)
    }
}

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl Tap for Inlet {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn room_bytes(&self) -> usize {
        self.queue.bytes_max.saturating_sub(self.queue.bytes.load(Relaxed))
    }

    fn landed(&self, mut landed: Landed) {
        let bytes = bytes_of(landed.rows.as_deref());
        if bytes > self.room_bytes() {
            landed.rows = None;
        }
        let bytes = bytes_of(landed.rows.as_deref());
        self.queue.bytes.fetch_add(bytes, Relaxed);
        if self.sender.try_send(landed).is_err() {
            self.queue.bytes.fetch_sub(bytes, Relaxed);
            // whatever fills the queue wakes the task
            self.queue.overflowed.store(true, Relaxed);
        }
    }
}

/// Bytes that rows hold in memory.
pub(super) fn bytes_of(rows: Option<&[RecordBatch]>) -> usize {
    rows.unwrap_or_default().iter().map(RecordBatch::get_array_memory_size).sum()
}

//! Whoever wants landed rows while they are still in memory: told of each raw commit after it was made.
//!
//! Landing knows nothing of what a tap does. It never waits for one, and never fails because of one: what a
//! tap cannot take, it reads from raw later.

use arrow::array::RecordBatch;
use deltaworks_core::commit_plan::Claim;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// One raw commit.
#[derive(Debug, Clone)]
pub struct Landed {
    /// Name of the raw table's rows, see [`deltaworks_core::progress::AppIds::rows_id`].
    pub raw_table: String,
    /// Version that the commit made.
    pub version: i64,
    /// Topic with its epoch.
    pub topic: String,
    /// The offsets that it covers, of partitions that moved.
    pub claims: Vec<Claim>,
    /// Its rows, with the columns of [`Tap::columns`]; `None` if there was no room for them.
    pub rows: Option<Vec<RecordBatch>>,
}

/// Takes landed rows.
pub trait Tap: Debug + Send + Sync {
    /// The columns of raw that it wants.
    fn columns(&self) -> &[String];

    /// Bytes of rows that it has room for now; a commit with more comes without its rows.
    fn room_bytes(&self) -> usize;

    /// Takes a commit; returns at once.
    fn landed(&self, landed: Landed);
}

/// The taps of a run.
#[derive(Debug, Clone, Default)]
pub struct Taps {
    /// By name of the pipeline.
    pub of: BTreeMap<String, Arc<dyn Tap>>,
    /// What they take of the memory budget, all together.
    pub memory_bytes: usize,
}

/// A worker's share of a tap's room.
#[derive(Debug, Clone)]
pub struct Share {
    /// The tap.
    pub tap: Arc<dyn Tap>,
    /// Workers that share it.
    pub among: usize,
}

/// The columns that a tap wants of a worker's rows, if it has room for them.
pub(super) fn wanted<'b>(share: &Share, batches: impl Iterator<Item = &'b RecordBatch>) -> Option<Vec<RecordBatch>> {
    let Share { tap, among } = share;
    let room = tap.room_bytes() / among.max(&1);
    let mut bytes = 0;
    let mut rows = Vec::new();
    for batch in batches {
        let schema = batch.schema_ref();
        let columns: Vec<usize> = tap.columns().iter().filter_map(|name| schema.index_of(name).ok()).collect();
        let share = batch.project(&columns).ok()?;
        bytes += share.get_array_memory_size();
        if bytes > room {
            return None;
        }
        rows.push(share);
    }
    Some(rows)
}

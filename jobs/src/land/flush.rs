//! A flush: what the workers hand over together, and what its commit tells.

use super::worker::{FlushPart, PartitionFlush};
use crate::checksum::{self, RowSum};
use crate::lake::{EncodedFile, PartitionValues};
use arrow::array::RecordBatch;
use deltaworks_core::commit_info::{Identity, PartitionEntry, RawCommit};
use deltaworks_core::commit_plan::Claim;
use deltaworks_core::place::OffsetRange;
use std::collections::BTreeMap;

/// A flush, put together from the workers' parts.
pub(super) struct Flush {
    pub sequence: u64,
    pub files: Vec<(PartitionValues, EncodedFile)>,
    pub rejects: Vec<RecordBatch>,
    pub partitions: BTreeMap<i32, PartitionFlush>,
    pub dates: BTreeMap<i32, RowSum>,
    pub tapped: Option<Vec<RecordBatch>>,
}

impl Flush {
    /// All parts of one flush, one of each worker.
    pub fn of(parts: Vec<FlushPart>) -> Self {
        let mut whole = Self {
            sequence: parts.first().map_or(0, |p| p.sequence),
            files: Vec::new(),
            rejects: Vec::new(),
            partitions: BTreeMap::new(),
            dates: BTreeMap::new(),
            tapped: Some(Vec::new()),
        };
        for part in parts {
            whole.tapped = whole.tapped.zip(part.tapped).map(|(mut rows, more)| {
                rows.extend(more);
                rows
            });
            whole.files.extend(part.files);
            whole.rejects.extend(part.rejects.into_iter().filter(|b| b.num_rows() > 0));
            whole.partitions.extend(part.partitions);
            for (date, sum) in part.dates {
                whole.dates.entry(date).or_default().merge(sum);
            }
        }
        whole
    }
}

/// What a commit of raw tells of itself.
pub(super) fn told(
    identity: Identity,
    pipeline: &str,
    topic: String,
    partitions: &BTreeMap<i32, PartitionFlush>,
    dates: &BTreeMap<i32, RowSum>,
) -> RawCommit {
    let entry = |(partition, f): (&i32, &PartitionFlush)| PartitionEntry {
        partition: *partition,
        tally: f.tally.clone(),
        frontier_ms: f.progress.frontier_ms,
        reached_ms: f.progress.reached_ms,
        seen_ms: f.progress.seen_ms,
    };
    RawCommit {
        identity,
        pipeline: pipeline.to_owned(),
        topic,
        partitions: partitions.iter().map(entry).collect(),
        dates: checksum::entries(dates),
    }
}

/// Next offset to read, per partition.
pub(super) fn nexts(partitions: &BTreeMap<i32, PartitionFlush>) -> Vec<(i32, i64)> {
    partitions.iter().map(|(p, f)| (*p, f.progress.next.0)).collect()
}

/// The offsets that a flush is about.
pub(super) fn claims(partitions: &BTreeMap<i32, PartitionFlush>) -> Vec<Claim> {
    let range = |f: &PartitionFlush| OffsetRange { from: f.tally.from, to: f.tally.to };
    partitions.iter().map(|(partition, f)| Claim { partition: *partition, range: range(f) }).collect()
}

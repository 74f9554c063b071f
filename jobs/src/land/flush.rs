//! A flush: what the workers hand over together, and what its commit tells.

use crate::checksum::{self, RowSum};
use crate::lake::{EncodedFile, PartitionValues};
use arrow::array::RecordBatch;
use deltaworks_core::commit_info::{Identity, PartitionEntry, RawCommit};
use deltaworks_core::commit_plan::Claim;
use deltaworks_core::place::OffsetRange;
use deltaworks_core::progress::Progress;
use deltaworks_core::tally::Tally;
use std::collections::BTreeMap;

/// What one commit lands; or one worker's part of it.
#[derive(Debug)]
pub struct Flush {
    /// Number of the flush.
    pub sequence: u64,
    /// Encoded raw files, by their partition values.
    pub files: Vec<(PartitionValues, EncodedFile)>,
    /// Rows of the rejects table.
    pub rejects: Vec<RecordBatch>,
    /// What became of each partition's offsets, and its progress afterwards.
    pub partitions: BTreeMap<i32, PartitionFlush>,
    /// Rows and checksum per event date.
    pub dates: BTreeMap<i32, RowSum>,
    /// What the tap wants of the rows; `None` if there is no tap, or no room.
    pub tapped: Option<Vec<RecordBatch>>,
}

/// One partition in a flush.
#[derive(Debug, Clone)]
pub struct PartitionFlush {
    /// Counts over the range.
    pub tally: Tally,
    /// Progress after it.
    pub progress: Progress,
}

impl Flush {
    /// Takes in the part of another worker, which has other partitions.
    pub fn join(mut self, part: Self) -> Self {
        self.tapped = self.tapped.zip(part.tapped).map(|(rows, more)| [rows, more].concat());
        self.files.extend(part.files);
        self.rejects.extend(part.rejects);
        self.partitions.extend(part.partitions);
        for (date, sum) in part.dates {
            self.dates.entry(date).or_default().merge(sum);
        }
        self
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

//! The ids of the last landed rows of each partition, read back from raw.
//!
//! `_repeat` must not depend on where a run was killed, so whoever takes a partition over first
//! remembers what the last owner remembered: the last `repeat_rows` rows below `next`, by offset.

use super::rows::{offset_column, partition_column};
use crate::error::Result;
use crate::lake::{LiveFile, Table};
use crate::land::decode::id_hashes;
use crate::project::settings::Pipeline;
use arrow::array::{Array, AsArray, RecordBatch};
use deltaworks_core::place::Offset;
use futures::TryStreamExt;
use futures::future::try_join_all;
use std::collections::{BTreeMap, BTreeSet};

/// Id hashes of a partition's last landed rows, oldest first.
pub type LastIds = BTreeMap<i32, Vec<Option<u128>>>;
/// Offsets and id hashes of rows of one partition.
type Rows = BTreeSet<(i64, Option<u128>)>;

/// Files that are read side by side: where every commit made one, a partition's rows lie in thousands.
const READS_MAX: usize = 32;
/// Rows that files read side by side may have together; a file of more is read alone.
const ROWS_MAX: u64 = 100_000;

/// A file, and what its statistics say.
struct Candidate {
    file: LiveFile,
    /// Its greatest offset.
    reaches: i64,
    /// Its least and greatest partition.
    partitions: (i64, i64),
}

impl Candidate {
    fn of(file: LiveFile) -> Self {
        let reaches = file.bounds_of("_offset").map_or(i64::MAX, |(_, max)| max);
        let partitions = file.bounds_of("_partition").unwrap_or((i64::MIN, i64::MAX));
        Self { file, reaches, partitions }
    }

    /// Whether it may have one of the last rows of a partition, of which `found` are known.
    fn may_have(&self, partition: i32, found: Option<&Rows>, rows_max: usize) -> bool {
        let (first, last) = self.partitions;
        let is_complete = |rows: &&Rows| rows.len() >= rows_max;
        let least = found.filter(is_complete).and_then(|rows| rows.first());
        (first..=last).contains(&i64::from(partition)) && least.is_none_or(|(least, _)| self.reaches > *least)
    }
}

/// Whose last rows are wanted, and how many.
struct Wanted<'a> {
    topic: &'a str,
    nexts: &'a [(i32, Offset)],
    id: &'a str,
    rows_max: usize,
}

/// Reads the last ids of several partitions in one pass. Files are read from the youngest offset
/// down, some at a time, until every partition has its `repeat_rows` or no file is left.
///
/// # Errors
/// A store that does not answer.
pub async fn last_ids(raw: &Table, pipeline: &Pipeline, topic: &str, nexts: &[(i32, Offset)]) -> Result<LastIds> {
    let rows_max = pipeline.repeat_rows;
    let Some(id) = pipeline.contract.id_column().filter(|_| rows_max > 0) else {
        return Ok(LastIds::new());
    };
    if nexts.iter().all(|(_, next)| next.0 == 0) {
        return Ok(LastIds::new());
    }
    let wanted = Wanted { topic, nexts, id: &id.name, rows_max };
    let mut candidates: Vec<Candidate> = raw.live_files().await?.into_iter().map(Candidate::of).collect();
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.reaches));
    let mut candidates = candidates.into_iter().peekable();
    let mut found: BTreeMap<i32, Rows> = BTreeMap::new();
    while candidates.peek().is_some() {
        let (mut reads, mut rows) = (Vec::new(), 0);
        while let Some(next) = candidates.peek() {
            if nexts.iter().any(|(partition, _)| next.may_have(*partition, found.get(partition), rows_max)) {
                rows += next.file.rows.unwrap_or(ROWS_MAX);
                if reads.len() == READS_MAX || (!reads.is_empty() && rows > ROWS_MAX) {
                    break;
                }
                reads.push(wanted.read(raw, next.file.clone()));
            }
            candidates.next();
        }
        for (partition, rows) in try_join_all(reads).await?.into_iter().flatten() {
            let known = found.entry(partition).or_default();
            known.extend(rows);
            keep_last(known, rows_max);
        }
    }
    Ok(found.into_iter().map(|(p, rows)| (p, rows.into_iter().map(|(_, hash)| hash).collect())).collect())
}

impl Wanted<'_> {
    /// The last rows of a file, batch by batch: it may be a large one.
    async fn read(&self, raw: &Table, file: LiveFile) -> Result<BTreeMap<i32, Rows>> {
        let mut found = BTreeMap::new();
        let mut batches = raw.read_file(&file, &["_topic", "_partition", "_offset", "_fill", self.id]).await?;
        while let Some(batch) = batches.try_next().await? {
            self.collect(&batch, &mut found)?;
        }
        Ok(found)
    }

    fn collect(&self, batch: &RecordBatch, found: &mut BTreeMap<i32, Rows>) -> Result<()> {
        let topics = batch.column_by_name("_topic").map(|c| c.as_string::<i32>());
        let fills = batch.column_by_name("_fill");
        let hashes = id_hashes(batch, self.id)?;
        let places = partition_column(batch)?.values().iter().zip(offset_column(batch)?.values());
        for (row, (partition, offset)) in places.enumerate() {
            let landed = topics.is_some_and(|t| t.value(row) == self.topic) && fills.is_none_or(|f| f.is_null(row));
            if landed && self.nexts.iter().any(|(p, next)| p == partition && *offset < next.0) {
                let rows = found.entry(*partition).or_default();
                rows.insert((*offset, hashes[row]));
                keep_last(rows, self.rows_max);
            }
        }
        Ok(())
    }
}

fn keep_last(rows: &mut Rows, rows_max: usize) {
    while rows.len() > rows_max {
        rows.pop_first();
    }
}

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
use std::collections::{BTreeMap, BTreeSet};

/// Id hashes of a partition's last landed rows, oldest first.
pub type LastIds = BTreeMap<i32, Vec<Option<u128>>>;

/// Reads the last ids of several partitions in one pass. Files are read from the youngest offset
/// down, until every partition has its `repeat_rows` or no file is left.
///
/// # Errors
/// A store that does not answer.
pub async fn last_ids(raw: &Table, pipeline: &Pipeline, topic: &str, nexts: &[(i32, Offset)]) -> Result<LastIds> {
    let mut found: BTreeMap<i32, BTreeSet<(i64, Option<u128>)>> = BTreeMap::new();
    let Some(id) = pipeline.contract.id_column().filter(|_| pipeline.repeat_rows > 0) else {
        return Ok(LastIds::new());
    };
    if nexts.iter().all(|(_, next)| next.0 == 0) {
        return Ok(LastIds::new());
    }
    let greatest = |file: &LiveFile| file.bounds_of("_offset").map_or(i64::MAX, |(_, max)| max);
    let mut files = raw.live_files().await?;
    files.sort_by_key(|file| std::cmp::Reverse(greatest(file)));
    for file in files {
        let reaches = greatest(&file);
        let wanted = |partition: i32| match found.get(&partition) {
            Some(rows) if rows.len() >= pipeline.repeat_rows => rows.first().is_some_and(|(least, _)| reaches > *least),
            _ => true,
        };
        if !nexts.iter().any(|(partition, _)| wanted(*partition)) {
            break;
        }
        let mut batches = raw.read_file(&file, &["_topic", "_partition", "_offset", "_fill", &id.name]).await?;
        while let Some(batch) = batches.try_next().await? {
            collect(&batch, &id.name, topic, nexts, pipeline.repeat_rows, &mut found)?;
        }
    }
    Ok(found.into_iter().map(|(p, rows)| (p, rows.into_iter().map(|(_, hash)| hash).collect())).collect())
}

fn collect(
    batch: &RecordBatch,
    id: &str,
    topic: &str,
    nexts: &[(i32, Offset)],
    rows_max: usize,
    found: &mut BTreeMap<i32, BTreeSet<(i64, Option<u128>)>>,
) -> Result<()> {
    let topics = batch.column_by_name("_topic").map(|c| c.as_string::<i32>());
    let fills = batch.column_by_name("_fill");
    let hashes = id_hashes(batch, id)?;
    let places = partition_column(batch)?.values().iter().zip(offset_column(batch)?.values());
    for (row, (partition, offset)) in places.enumerate() {
        let landed = topics.is_some_and(|t| t.value(row) == topic) && fills.is_none_or(|f| f.is_null(row));
        if landed && nexts.iter().any(|(p, next)| p == partition && *offset < next.0) {
            let rows = found.entry(*partition).or_default();
            rows.insert((*offset, hashes[row]));
            if rows.len() > rows_max {
                rows.pop_first();
            }
        }
    }
    Ok(())
}

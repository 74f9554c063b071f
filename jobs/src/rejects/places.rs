//! Sets of places, small enough to hold those of every reject.

use crate::batch::{primitive, texts};
use crate::error::Result;
use crate::lake::{LiveFile, Table};
use arrow::array::RecordBatch;
use arrow::datatypes::{Int32Type, Int64Type};
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringTreemap;
use std::collections::BTreeMap;

/// The columns of a place.
pub const PLACE: [&str; 3] = ["_topic", "_partition", "_offset"];
/// Files that are read at the same time.
const READS_MAX: usize = 4;

/// Places by topic (with its epoch, or the URL of a file) and partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Places(BTreeMap<String, BTreeMap<i32, RoaringTreemap>>);

impl Places {
    /// Adds a place; `false` if it is there already.
    pub fn insert(&mut self, topic: &str, partition: i32, offset: i64) -> bool {
        // spelled anew only where the topic is
        if !self.0.contains_key(topic) {
            self.0.insert(topic.to_owned(), BTreeMap::new());
        }
        self.0.get_mut(topic).is_some_and(|of| of.entry(partition).or_default().insert(number(offset)))
    }

    /// Whether it has the place.
    #[must_use]
    pub fn contains(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let of = self.0.get(topic).and_then(|of| of.get(&partition));
        of.is_some_and(|set| set.contains(number(offset)))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.values().flat_map(BTreeMap::values).map(RoaringTreemap::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a file may hold one of them, as far as its statistics know.
    #[must_use]
    pub fn may_lie_in(&self, file: &LiveFile) -> bool {
        let (first, last) = file.bounds_of("_partition").unwrap_or((i64::MIN, i64::MAX));
        let (least, greatest) = file.bounds_of("_offset").unwrap_or((0, i64::MAX));
        let sets = self.0.values().flatten().filter(|(partition, _)| (first..=last).contains(&i64::from(**partition)));
        let mut sets = sets.map(|(_, set)| set);
        sets.any(|set| set.range_cardinality(number(least)..=number(greatest)) > 0)
    }
}

fn number(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or(0)
}

/// Calls `each` with row, topic, partition and offset of every row.
///
/// # Errors
/// The batch lacks the columns of a place, which is a bug.
pub fn each_place(batch: &RecordBatch, mut each: impl FnMut(usize, &str, i32, i64)) -> Result<()> {
    let (topics, partitions) = (texts(batch, "_topic")?, primitive::<Int32Type>(batch, "_partition")?);
    let offsets = primitive::<Int64Type>(batch, "_offset")?;
    for row in 0..batch.num_rows() {
        each(row, topics.value(row), partitions.value(row), offsets.value(row));
    }
    Ok(())
}

/// Reads `columns` of the live files that `wanted` takes, some files at a time, in no order.
///
/// # Errors
/// A file cannot be read; what `take` returns.
pub async fn scan(
    table: &Table,
    columns: &[&str],
    wanted: impl Fn(&LiveFile) -> bool,
    mut take: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let files: Vec<LiveFile> = table.live_files().await?.into_iter().filter(wanted).collect();
    let opened = files.iter().map(|file| table.read_file(file, columns));
    let mut opened = futures::stream::iter(opened).buffer_unordered(READS_MAX);
    while let Some(mut batches) = opened.try_next().await? {
        while let Some(batch) = batches.try_next().await? {
            take(&batch)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::PartitionValues;
    use rstest::rstest;

    fn file(stats: Option<&str>) -> LiveFile {
        LiveFile {
            path: String::new(),
            partition_values: PartitionValues::new(),
            size: 1,
            rows: Some(1),
            modified_ms: 0,
            stats: stats.map(str::to_owned),
        }
    }

    #[rstest]
    #[case::of_it(
        "{\"minValues\":{\"_partition\":1,\"_offset\":5},\"maxValues\":{\"_partition\":3,\"_offset\":9}}",
        true
    )]
    #[case::between(
        "{\"minValues\":{\"_partition\":1,\"_offset\":8},\"maxValues\":{\"_partition\":3,\"_offset\":99}}",
        false
    )]
    #[case::other_partition(
        "{\"minValues\":{\"_partition\":3,\"_offset\":5},\"maxValues\":{\"_partition\":3,\"_offset\":9}}",
        false
    )]
    #[case::of_a_file(
        "{\"minValues\":{\"_partition\":-1,\"_offset\":0},\"maxValues\":{\"_partition\":-1,\"_offset\":0}}",
        true
    )]
    #[case::nobody_knows("{}", true)]
    fn files_are_read_only_where_they_may_hold_a_place(#[case] stats: &str, #[case] want: bool) {
        let mut places = Places::default();
        assert!(places.insert("t", 2, 7) && places.insert("t", 2, 1_000) && places.insert("file:///x", -1, 0));
        assert!(!places.insert("t", 2, 7));
        assert_eq!(places.may_lie_in(&file(Some(stats))), want);
        assert!(places.may_lie_in(&file(None)) && !Places::default().may_lie_in(&file(None)));
        assert!(places.contains("t", 2, 7) && !places.contains("t#1", 2, 7) && places.len() == 3);
    }
}

//! Rows that leave a table on purpose, counted by where they came from.
//!
//! A commit that takes rows away says so in its commitInfo: per topic and partition how many had come by the stream
//! and how many by fills, and per date their rows and checksum. So `prove` misses none of them. Counts are all that
//! is kept: what was in the rows is nowhere.

use crate::batch::{primitive, texts};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{LiveFile, Table};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use deltaworks_core::commit_info::ChangedPartition;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;

/// Files that are read at the same time.
const READS_MAX: usize = 8;
/// The columns that say where a row came from; rejects lack the last.
const PLACE: [&str; 4] = ["_topic", "_partition", "_offset", "_fill"];

/// A topic (with its epoch) and a partition of it.
pub(super) type Partition = (String, i32);

/// Rows by where they came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts(BTreeMap<Partition, Count>);

/// Rows of one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Rows of the stream.
    pub landed: u64,
    /// Rows of fills.
    pub filled: u64,
    /// The greatest offset of all.
    pub last: i64,
}

impl Counts {
    /// Takes the rows of a batch in.
    ///
    /// # Errors
    /// They have no place.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let (topics, partitions) = (texts(batch, "_topic")?, primitive::<Int32Type>(batch, "_partition")?);
        let offsets = primitive::<Int64Type>(batch, "_offset")?;
        let fills = batch.column_by_name("_fill").and_then(|column| column.as_primitive_opt::<Int64Type>());
        for row in 0..batch.num_rows() {
            let (topic, partition) = (topics.value(row), partitions.value(row));
            let one = match fills.is_some_and(|fills| fills.is_valid(row)) {
                true => Count { landed: 0, filled: 1, last: offsets.value(row) },
                false => Count { landed: 1, filled: 0, last: offsets.value(row) },
            };
            // rows of one partition mostly follow each other, and a look costs no new text
            match self.0.iter_mut().find(|((t, p), _)| *p == partition && t == topic) {
                Some((_, count)) => count.merge(one),
                None => drop(self.0.insert((topic.to_owned(), partition), one)),
            }
        }
        Ok(())
    }

    /// Takes other counts in.
    pub fn merge(&mut self, other: &Self) {
        for (partition, count) in &other.0 {
            match self.0.get_mut(partition) {
                Some(have) => have.merge(*count),
                None => drop(self.0.insert(partition.clone(), *count)),
            }
        }
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        self.0.values().map(|count| count.landed + count.filled).sum()
    }

    /// Each partition.
    pub fn iter(&self) -> impl Iterator<Item = (&Partition, &Count)> {
        self.0.iter()
    }

    /// As commitInfo tells it.
    pub fn told(&self) -> Vec<ChangedPartition> {
        let told = |((topic, partition), count): (&Partition, &Count)| ChangedPartition {
            topic: topic.clone(),
            partition: *partition,
            landed: count.landed,
            filled: count.filled,
        };
        self.iter().map(told).collect()
    }
}

impl Count {
    fn merge(&mut self, other: Self) {
        self.landed += other.landed;
        self.filled += other.filled;
        self.last = self.last.max(other.last);
    }
}

/// The rows of each of these files, in their order.
///
/// # Errors
/// A file cannot be read; [`Class::Internal`] if it has other rows than the log says.
pub(super) async fn counts_of(table: &Table, files: &[LiveFile]) -> Result<Vec<Counts>> {
    let reads = files.iter().map(|file| async {
        let mut counts = Counts::default();
        let mut batches = table.read_file(file, &PLACE).await?;
        while let Some(batch) = batches.next().await.transpose()? {
            counts.add(&batch)?;
        }
        match file.rows.filter(|logged| *logged != counts.rows()) {
            None => Ok(counts),
            Some(logged) => {
                let message = format!(
                    "table `{}`: `{}` has {} rows, and the log says {logged}",
                    table.name(),
                    file.path,
                    counts.rows()
                );
                Err(Error::new(Stage::Upkeep, Class::Internal, message).hint("`deltaworks prove` looks at all of them"))
            }
        }
    });
    futures::stream::iter(reads).buffered(READS_MAX).try_collect().await
}

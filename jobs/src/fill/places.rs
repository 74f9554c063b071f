//! Places, as sets: which of those wanted a table has already.
//!
//! Files that cannot hold any of them are left out by their statistics; of the others, only the columns of a place
//! are read.

use crate::batch::{primitive, texts};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{LiveFile, Table};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringTreemap;
use std::collections::{BTreeMap, BTreeSet};

/// The columns of a place.
const COLUMNS: [&str; 3] = ["_topic", "_partition", "_offset"];
/// Files that are read at the same time.
const READS_MAX: usize = 4;

/// A topic with its epoch, or the URL of a file; and a partition, which is −1 of a file.
pub(super) type Partition = (String, i32);

/// A set of places.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Places(BTreeMap<Partition, RoaringTreemap>);

impl Places {
    /// The places of rows.
    pub(super) fn of<'b>(batches: impl IntoIterator<Item = &'b RecordBatch>) -> Result<Self> {
        let mut places = Self::default();
        for batch in batches {
            places.take(batch, |_| true)?;
        }
        Ok(places)
    }

    /// Each partition, with its least and greatest offset.
    pub(super) fn bounds(&self) -> impl Iterator<Item = (&Partition, u64, u64)> {
        self.0.iter().filter_map(|(partition, set)| Some((partition, set.min()?, set.max()?)))
    }

    /// How many of each partition.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&Partition, u64)> {
        self.0.iter().map(|(partition, set)| (partition, set.len()))
    }

    /// Takes in the places of `other`.
    pub(super) fn extend(&mut self, other: &Self) {
        for (partition, set) in &other.0 {
            *self.0.entry(partition.clone()).or_default() |= set;
        }
    }

    /// The rows whose places are not in the set; they are in it afterwards, so one that comes twice is kept once.
    pub(super) fn keep_new(&mut self, batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
        let mut fresh = Vec::new();
        for batch in batches {
            let mut keep = Vec::with_capacity(batch.num_rows());
            each(batch, |topic, partition, offset| keep.push(self.insert(topic, partition, offset)))?;
            let rows = filter_record_batch(batch, &BooleanArray::from(keep))
                .map_err(|e| Error::new(Stage::Fill, Class::Internal, "rows cannot be filtered").because(e))?;
            if rows.num_rows() > 0 {
                fresh.push(rows);
            }
        }
        Ok(fresh)
    }

    fn take(&mut self, batch: &RecordBatch, wanted: impl Fn(&Partition) -> bool) -> Result<()> {
        each(batch, |topic, partition, offset| {
            if wanted(&(topic.to_owned(), partition)) {
                self.insert(topic, partition, offset);
            }
        })
    }

    fn insert(&mut self, topic: &str, partition: i32, offset: i64) -> bool {
        let key = (topic.to_owned(), partition);
        self.0.entry(key).or_default().insert(u64::try_from(offset).unwrap_or(u64::MAX))
    }
}

/// What is known of the rows of files, so that they are not read again for each part of a backfill.
#[derive(Debug, Default)]
pub(super) struct KnownFiles {
    /// The fill up to which it is known.
    at: i64,
    /// URLs of which every place is known, or will be asked for.
    urls: BTreeSet<String>,
    scanned: BTreeSet<String>,
    places: Places,
}

impl KnownFiles {
    /// These will be asked for.
    pub(super) fn expect(&mut self, urls: impl IntoIterator<Item = String>) {
        self.urls.extend(urls);
    }

    /// A fill of our own is in the table.
    pub(super) fn filled(&mut self, before: i64, fill: i64, places: &Places) {
        if self.at == before {
            self.at = fill;
            for (partition, set) in places.0.iter().filter(|((url, p), _)| *p < 0 && self.scanned.contains(url)) {
                *self.places.0.entry(partition.clone()).or_default() |= set;
            }
        }
    }

    /// All places of `urls` in the table, whose last fill is `fill`.
    async fn of(&mut self, table: &Table, files: &[LiveFile], fill: i64, urls: BTreeSet<String>) -> Result<&Places> {
        if self.at != fill {
            (self.at, self.scanned, self.places) = (fill, BTreeSet::new(), Places::default());
        }
        self.urls.extend(urls.iter().cloned());
        if !urls.is_subset(&self.scanned) {
            let unknown: BTreeSet<Partition> =
                self.urls.difference(&self.scanned).map(|url| (url.clone(), -1)).collect();
            let may_hold = |file: &&LiveFile| unknown.iter().any(|p| holds(file, p, 0, i64::MAX as u64));
            let found = read(table, files.iter().filter(may_hold), |partition| unknown.contains(partition)).await?;
            self.places.extend(&found);
            self.scanned.extend(unknown.into_iter().map(|(url, _)| url));
        }
        Ok(&self.places)
    }
}

/// The places in `table` among the partitions and offsets that `wanted` reaches over; maybe more. `fill` is the
/// table's last fill.
pub(super) async fn there(table: &Table, wanted: &Places, known: &mut KnownFiles, fill: i64) -> Result<Places> {
    let files = table.live_files().await?;
    let of_topics: Vec<(&Partition, u64, u64)> = wanted.bounds().filter(|((_, p), ..)| *p >= 0).collect();
    let may_hold = |file: &&LiveFile| of_topics.iter().any(|(p, least, greatest)| holds(file, p, *least, *greatest));
    let is_wanted = |partition: &Partition| of_topics.iter().any(|(p, ..)| *p == partition);
    let mut found = read(table, files.iter().filter(may_hold), is_wanted).await?;
    let urls: BTreeSet<String> = wanted.0.keys().filter(|(_, p)| *p < 0).map(|(url, _)| url.clone()).collect();
    if !urls.is_empty() {
        let of_files = known.of(table, &files, fill, urls.clone()).await?;
        for (partition, set) in of_files.0.iter().filter(|((url, _), _)| urls.contains(url)) {
            found.0.insert(partition.clone(), set.clone());
        }
    }
    Ok(found)
}

async fn read(
    table: &Table,
    files: impl Iterator<Item = &LiveFile>,
    wanted: impl Fn(&Partition) -> bool,
) -> Result<Places> {
    let mut found = Places::default();
    let mut reads = futures::stream::iter(files.cloned())
        .map(|file| async move { table.read_file(&file, &COLUMNS).await })
        .buffer_unordered(READS_MAX);
    while let Some(mut batches) = reads.try_next().await? {
        while let Some(batch) = batches.try_next().await? {
            found.take(&batch, &wanted)?;
        }
    }
    Ok(found)
}

/// Whether a file may hold offsets of a partition, by its statistics. Long texts are cut there.
fn holds(file: &LiveFile, (topic, partition): &Partition, least: u64, greatest: u64) -> bool {
    let inside = |column: &str, low: i64, high: i64| file.bounds_of(column).is_none_or(|(a, b)| a <= high && low <= b);
    let number = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
    let (first, last) = file.text_bounds_of("_topic");
    inside("_partition", i64::from(*partition), i64::from(*partition))
        && inside("_offset", number(least), number(greatest))
        && first.is_none_or(|first| first <= *topic)
        && last.is_none_or(|last| *topic <= last || topic.starts_with(&last))
}

fn each(batch: &RecordBatch, mut of: impl FnMut(&str, i32, i64)) -> Result<()> {
    let (topics, partitions) = (texts(batch, "_topic")?, primitive::<Int32Type>(batch, "_partition")?);
    let offsets = primitive::<Int64Type>(batch, "_offset")?;
    for row in 0..batch.num_rows() {
        of(topics.value(row), partitions.value(row), offsets.value(row));
    }
    Ok(())
}

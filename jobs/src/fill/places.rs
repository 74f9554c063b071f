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
pub(crate) const PLACE: [&str; 3] = ["_topic", "_partition", "_offset"];
/// The partition of rows of files.
const OF_FILES: i32 = -1;
/// Files that are read at the same time.
const READS_MAX: usize = 4;

/// A topic with its epoch, or the URL of a file; and a partition, which is −1 of a file.
pub(super) type Partition<'p> = (&'p str, i32);

/// A set of places, by topic and partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Places(BTreeMap<String, BTreeMap<i32, RoaringTreemap>>);

impl Places {
    /// The places of rows.
    pub(super) fn of<'b>(batches: impl IntoIterator<Item = &'b RecordBatch>) -> Result<Self> {
        let mut places = Self::default();
        for batch in batches {
            places.take(batch, |_| true)?;
        }
        Ok(places)
    }

    /// Adds a place; `false` if it is there already.
    pub(crate) fn insert(&mut self, topic: &str, partition: i32, offset: i64) -> bool {
        // spelled anew only where the topic is
        match self.0.get_mut(topic).and_then(|of| of.get_mut(&partition)) {
            Some(set) => set.insert(number(offset)),
            None => self.set(topic, partition).insert(number(offset)),
        }
    }

    /// Whether it has a place.
    pub(crate) fn contains(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let set = self.0.get(topic).and_then(|of| of.get(&partition));
        set.is_some_and(|set| set.contains(number(offset)))
    }

    /// Whether a file may hold one of them, as far as its statistics know.
    pub(crate) fn may_lie_in(&self, file: &LiveFile) -> bool {
        let (least, greatest) = file.bounds_of("_offset").unwrap_or((0, i64::MAX));
        let offsets = number(least)..=number(greatest);
        self.sets().any(|(of, set)| set.range_cardinality(offsets.clone()) > 0 && holds(file, of, 0, u64::MAX))
    }

    /// Each partition, with its least and greatest offset.
    pub(super) fn bounds(&self) -> impl Iterator<Item = (Partition<'_>, u64, u64)> {
        self.sets().filter_map(|(partition, set)| Some((partition, set.min()?, set.max()?)))
    }

    /// How many of each partition.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Partition<'_>, u64)> {
        self.sets().map(|(partition, set)| (partition, set.len()))
    }

    /// Takes in the places of `other`.
    pub(super) fn extend(&mut self, other: &Self) {
        for ((topic, partition), set) in other.sets() {
            *self.set(topic, partition) |= set;
        }
    }

    /// The rows whose places are not in the set; they are in it afterwards, so one that comes twice is kept once.
    pub(super) fn keep_new(&mut self, batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
        let mut fresh = Vec::new();
        for batch in batches {
            let mut keep = Vec::with_capacity(batch.num_rows());
            each_place(batch, |_, topic, partition, offset| keep.push(self.insert(topic, partition, offset)))?;
            let rows = filter_record_batch(batch, &BooleanArray::from(keep))
                .map_err(|e| Error::new(Stage::Fill, Class::Internal, "rows cannot be filtered").because(e))?;
            if rows.num_rows() > 0 {
                fresh.push(rows);
            }
        }
        Ok(fresh)
    }

    fn take(&mut self, batch: &RecordBatch, wanted: impl Fn(Partition<'_>) -> bool) -> Result<()> {
        each_place(batch, |_, topic, partition, offset| {
            if wanted((topic, partition)) {
                self.insert(topic, partition, offset);
            }
        })
    }

    fn sets(&self) -> impl Iterator<Item = (Partition<'_>, &RoaringTreemap)> {
        self.0.iter().flat_map(|(topic, of)| of.iter().map(move |(p, set)| ((topic.as_str(), *p), set)))
    }

    fn set(&mut self, topic: &str, partition: i32) -> &mut RoaringTreemap {
        self.0.entry(topic.to_owned()).or_default().entry(partition).or_default()
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
            for ((url, partition), set) in places.sets().filter(|((url, p), _)| *p < 0 && self.scanned.contains(*url)) {
                *self.places.set(url, partition) |= set;
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
            let unknown: BTreeSet<String> = self.urls.difference(&self.scanned).cloned().collect();
            let may_hold = |file: &&LiveFile| unknown.iter().any(|url| holds(file, (url, OF_FILES), 0, u64::MAX));
            let is_wanted = |(url, partition): Partition<'_>| partition == OF_FILES && unknown.contains(url);
            let found = read(table, files.iter().filter(may_hold), is_wanted).await?;
            self.places.extend(&found);
            self.scanned.extend(unknown);
        }
        Ok(&self.places)
    }
}

/// The places in `table` among the partitions and offsets that `wanted` reaches over; maybe more. `fill` is the
/// table's last fill.
pub(super) async fn there(table: &Table, wanted: &Places, known: &mut KnownFiles, fill: i64) -> Result<Places> {
    let files = table.live_files().await?;
    let of_topics: Vec<(Partition<'_>, u64, u64)> = wanted.bounds().filter(|((_, p), ..)| *p >= 0).collect();
    let may_hold = |file: &&LiveFile| of_topics.iter().any(|(p, least, greatest)| holds(file, *p, *least, *greatest));
    let is_wanted = |partition: Partition<'_>| of_topics.iter().any(|(p, ..)| *p == partition);
    let mut found = read(table, files.iter().filter(may_hold), is_wanted).await?;
    let urls: BTreeSet<String> =
        wanted.sets().filter(|((_, p), _)| *p < 0).map(|((url, _), _)| url.to_owned()).collect();
    if !urls.is_empty() {
        let of_files = known.of(table, &files, fill, urls.clone()).await?;
        for ((url, partition), set) in of_files.sets().filter(|((url, _), _)| urls.contains(*url)) {
            *found.set(url, partition) |= set;
        }
    }
    Ok(found)
}

async fn read(
    table: &Table,
    files: impl Iterator<Item = &LiveFile>,
    wanted: impl Fn(Partition<'_>) -> bool,
) -> Result<Places> {
    let mut found = Places::default();
    scan(table, files.cloned().collect(), &PLACE, |batch| found.take(batch, &wanted)).await?;
    Ok(found)
}

/// Reads columns of live files, some files at a time, in no order.
///
/// # Errors
/// A file cannot be read; what `take` returns.
pub(crate) async fn scan(
    table: &Table,
    files: Vec<LiveFile>,
    columns: &[&str],
    mut take: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let mut reads = futures::stream::iter(files)
        .map(|file| async move { table.read_file(&file, columns).await })
        .buffer_unordered(READS_MAX);
    while let Some(mut batches) = reads.try_next().await? {
        while let Some(batch) = batches.try_next().await? {
            take(&batch)?;
        }
    }
    Ok(())
}

/// Calls `each` with row, topic, partition and offset of every row.
///
/// # Errors
/// The batch lacks the columns of a place, which is a bug.
pub(crate) fn each_place(batch: &RecordBatch, mut each: impl FnMut(usize, &str, i32, i64)) -> Result<()> {
    let (topics, partitions) = (texts(batch, "_topic")?, primitive::<Int32Type>(batch, "_partition")?);
    let offsets = primitive::<Int64Type>(batch, "_offset")?;
    for row in 0..batch.num_rows() {
        each(row, topics.value(row), partitions.value(row), offsets.value(row));
    }
    Ok(())
}

/// Whether a file may hold offsets of a partition, by its statistics. Long texts are cut there.
fn holds(file: &LiveFile, (topic, partition): Partition<'_>, least: u64, greatest: u64) -> bool {
    let inside = |column: &str, low: i64, high: i64| file.bounds_of(column).is_none_or(|(a, b)| a <= high && low <= b);
    let signed = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
    let (first, last) = file.text_bounds_of("_topic");
    inside("_partition", i64::from(partition), i64::from(partition))
        && inside("_offset", signed(least), signed(greatest))
        && first.is_none_or(|first| *first <= *topic)
        && last.is_none_or(|last| *topic <= *last || topic.starts_with(&last))
}

fn number(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or(u64::MAX)
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

    /// Of partition 2 of `t` the offsets 7 and 1,000, and the first row of a file.
    #[rstest]
    #[case::of_it("t", 1, 3, 5, 9, true)]
    #[case::between("t", 1, 3, 8, 99, false)]
    #[case::of_another_partition("t", 3, 3, 5, 9, false)]
    #[case::of_another_topic("s", 1, 3, 5, 9, false)]
    #[case::of_a_file("file:///x", -1, -1, 0, 0, true)]
    fn files_are_read_only_where_they_may_hold_a_place(
        #[case] topic: &str,
        #[case] first: i32,
        #[case] last: i32,
        #[case] least: i64,
        #[case] greatest: i64,
        #[case] want: bool,
    ) {
        let mut places = Places::default();
        assert!(places.insert("t", 2, 7) && places.insert("t", 2, 1_000) && places.insert("file:///x", -1, 0));
        assert!(!places.insert("t", 2, 7));
        let bounds = |partition: i32, offset: i64| serde_json::json!({ "_topic": topic, "_partition": partition, "_offset": offset });
        let stats = serde_json::json!({ "minValues": bounds(first, least), "maxValues": bounds(last, greatest) });
        assert_eq!(places.may_lie_in(&file(Some(&stats.to_string()))), want);
        assert!(places.may_lie_in(&file(Some("{}"))) && places.may_lie_in(&file(None)), "nobody knows");
        assert!(!Places::default().may_lie_in(&file(None)));
        assert!(places.contains("t", 2, 7) && !places.contains("t#1", 2, 7) && !places.contains("t", 2, 8));
    }
}

//! Raw and rejects against what their commits told: no offset without a fate, no place twice, every row as
//! it was landed.
//!
//! All live files are read, each once. Invariant Q1: nothing is taken from statistics or progress alone that
//! rows can say.

use super::report::{Check, Checking};
use crate::batch::{conform, primitive, texts};
use crate::checksum::{RowSum, by_date};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::ledger::{self, ToldByAll};
use crate::lake::{Lake, LiveFile, Table};
use crate::land::tables::{raw_name, rejects_name};
use crate::project::settings::Pipeline;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, Schema, SchemaRef};
use deltaworks_core::commit_info::DateEntry;
use deltaworks_core::place::{Offset, OffsetRange};
use deltaworks_core::progress::{AppIds, TopicProgress};
use deltaworks_core::proof::{Told, flaws};
use deltaworks_core::units::Pin;
use futures::StreamExt;
use jiff::civil::Date;
use roaring::RoaringTreemap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Files that are read at the same time.
const READS_MAX: usize = 4;
/// The columns of a place, and whether a fill wrote the row.
const PLACE: [&str; 4] = ["_topic", "_partition", "_offset", "_fill"];

/// A topic (with its epoch) and a partition of it.
pub(super) type Partition = (String, i32);
/// Offsets by partition.
pub(super) type Places = BTreeMap<Partition, RoaringTreemap>;

/// The places of a table.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// All of them.
    all: Places,
    /// Those of rows that a fill wrote.
    filled: Places,
}

/// Some offsets of one partition; whether a fill wrote their rows.
#[derive(Debug)]
struct Offsets {
    partition: Partition,
    filled: bool,
    offsets: Vec<i64>,
}

/// What a pipeline has landed.
#[derive(Debug)]
pub(super) struct Landed {
    /// How far raw is in the current epoch of the topic.
    pub(super) progress: TopicProgress,
    /// What the commits told.
    pub(super) told: ToldByAll,
    /// Places in raw.
    raw: Found,
    /// Places in rejects, below `next`.
    rejects: Found,
    /// Rejects that were removed on purpose.
    rejects_removed: BTreeMap<Partition, u64>,
}

/// What the rows of one file say.
#[derive(Debug, Default)]
struct FileSays {
    rows: u64,
    sums: BTreeMap<i32, RowSum>,
    places: Vec<Offsets>,
}

/// Checks raw and rejects; also what was found, for those who look further. `None` if nothing was landed.
pub(super) async fn landed(lake: &Lake, pipeline: &Pipeline) -> Result<(Vec<Check>, Option<Landed>)> {
    let mut offsets = Checking::new("offsets", raw_name(pipeline));
    let (mut rows, mut places) =
        (Checking::new("rows", raw_name(pipeline)), Checking::new("places", raw_name(pipeline)));
    let Some(raw) = lake.open_table(&raw_name(pipeline)).await? else {
        return Ok((vec![offsets.end(), rows.end(), places.end()], None));
    };
    let told = ledger::read(lake, &raw, &pipeline.name).await?;
    let pin = Pin::of_snapshot(&pipeline.name, raw.id().to_owned(), raw.version(), raw.txns(), None, BTreeMap::new());
    let next: BTreeMap<Partition, Offset> = pin
        .next
        .iter()
        .flat_map(|(topic, partitions)| partitions.iter().map(move |(p, next)| ((topic.clone(), *p), *next)))
        .collect();
    check_offsets(&mut offsets, &told, &next);
    let in_raw = check_rows(&mut rows, &mut places, &raw, &told).await?;
    let (mut in_rejects, mut rejects_removed) = (Found::default(), BTreeMap::new());
    if let Some(rejects) = lake.open_table(&rejects_name(pipeline)).await? {
        in_rejects = rejected(&mut places, &rejects).await?;
        rejects_removed = AppIds::new(&pipeline.name).read_rejects_removed(rejects.txns());
    }
    // a message that was rejected, and is not in raw's progress yet, will be read again
    for (partition, found) in &mut in_rejects.all {
        found.remove_range(number(next.get(partition).copied().unwrap_or(Offset(0)))..);
    }
    for partition in told.partitions.keys().chain(told.changed.keys()).chain(in_raw.all.keys()).collect::<BTreeSet<_>>()
    {
        let removed = rejects_removed.get(partition).copied().unwrap_or(0);
        check_places(&mut places, partition, &told, &in_raw, (&in_rejects, removed));
    }
    let checks = vec![offsets.end(), rows.end(), places.end()];
    let progress = AppIds::new(&pipeline.name).read(&pipeline.topic, raw.txns());
    Ok((checks, Some(Landed { progress, told, raw: in_raw, rejects: in_rejects, rejects_removed })))
}

fn check_offsets(check: &mut Checking, told: &ToldByAll, next: &BTreeMap<Partition, Offset>) {
    told.broken.iter().for_each(|broken| check.refute(format!("ops.offsets: {broken}")));
    let all: BTreeSet<&Partition> = told.partitions.keys().chain(next.keys()).collect();
    for partition in all {
        let none = Vec::new();
        let told = told.partitions.get(partition).unwrap_or(&none);
        check.compared("offsets", told.iter().map(|told| told.range.len()).sum());
        check.compared("commits", told.len() as u64);
        let next = next.get(partition).copied().unwrap_or(Offset(0));
        flaws(told, next).iter().for_each(|flaw| check.refute(format!("{}/{}: {flaw}", partition.0, partition.1)));
    }
    if !told.changed.is_empty() {
        check.compared("partitions changed", told.changed.len() as u64);
    }
}

/// Reads every file of raw: rows and checksums by date, and the places.
async fn check_rows(rows: &mut Checking, places: &mut Checking, raw: &Table, told: &ToldByAll) -> Result<Found> {
    let schema = raw.schema();
    let (mut sums, mut found): (BTreeMap<i32, RowSum>, Found) = (BTreeMap::new(), Found::default());
    for_each_file(rows, raw, schema, |_, says| {
        for (date, sum) in &says.sums {
            sums.entry(*date).or_default().merge(*sum);
        }
        says.add_to(&mut found, places, raw.name());
    })
    .await?;
    let epoch = jiff::civil::date(1970, 1, 1);
    let told: BTreeMap<i32, (&Date, &DateEntry)> =
        told.dates.iter().map(|told| ((*told.0 - epoch).get_days(), told)).collect();
    for day in told.keys().chain(sums.keys()).collect::<BTreeSet<_>>() {
        let (told, have) = (told.get(day), sums.get(day).copied().unwrap_or_default());
        let date = told.map_or_else(|| format!("day {day}"), |(date, _)| date.to_string());
        rows.compared("dates", 1);
        rows.compared("rows", have.rows);
        rows.equal(format!("rows of {date}"), have.rows, told.map_or(0, |(_, told)| told.rows));
        let checksum = told.map(|(_, told)| told.checksum).unwrap_or_default();
        rows.equal(format!("checksum of {date}"), have.hex(), checksum);
    }
    Ok(found)
}

async fn rejected(places: &mut Checking, rejects: &Table) -> Result<Found> {
    let fields = rejects.schema().fields().iter().filter(|f| PLACE.contains(&f.name().as_str())).cloned();
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut found = Found::default();
    for_each_file(places, rejects, &schema, |places, says| says.add_to(&mut found, places, rejects.name())).await?;
    Ok(found)
}

/// Reads every live file of a table, some at a time, each by a task of its own: decoding and summing keep a core
/// busy. A file that is gone, or has other rows than the log says, refutes.
async fn for_each_file(
    check: &mut Checking,
    table: &Table,
    schema: &SchemaRef,
    mut take: impl FnMut(&mut Checking, FileSays),
) -> Result<()> {
    let mut files = table.live_files().await?.into_iter();
    let mut reads = JoinSet::new();
    loop {
        for file in files.by_ref().take(READS_MAX - reads.len()) {
            let (table, schema) = (table.clone(), schema.clone());
            reads.spawn(async move {
                let says = read(&table, &file, &schema).await;
                (file, says)
            });
        }
        let Some(read) = reads.join_next().await else { return Ok(()) };
        let broken = |e| Error::new(Stage::Prove, Class::Internal, "a task that reads a file broke down").because(e);
        let (file, says) = read.map_err(broken)?;
        match says {
            Ok(says) => {
                if let Some(rows) = file.rows {
                    check.equal(format!("rows of `{}`", file.path), says.rows, rows);
                }
                take(check, says);
            }
            Err(error) if error.class == Class::InputLost => check.refute(error.message),
            Err(error) => return Err(error),
        }
    }
}

async fn read(table: &Table, file: &LiveFile, schema: &SchemaRef) -> Result<FileSays> {
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|f| f.name().as_str())
        .filter(|name| !table.partition_columns().iter().any(|c| c == name))
        .collect();
    let mut says = FileSays::default();
    let mut batches = table.read_file(file, &names).await?;
    while let Some(batch) = batches.next().await.transpose()? {
        let batch = conform(&batch, &file.partition_values, schema)?;
        says.rows += batch.num_rows() as u64;
        if batch.column_by_name("event_date").is_some() {
            for (date, sum) in by_date(&batch, "event_date")? {
                says.sums.entry(date).or_default().merge(sum);
            }
        }
        says.places.extend(places_of(&batch)?);
    }
    Ok(says)
}

/// The offsets of each partition.
fn places_of(batch: &RecordBatch) -> Result<Vec<Offsets>> {
    let (topics, partitions) = (texts(batch, "_topic")?, primitive::<Int32Type>(batch, "_partition")?);
    let offsets = primitive::<Int64Type>(batch, "_offset")?;
    // a table of rejects that was made before fills could write to it has no such column
    let fills = batch.column_by_name("_fill").map(|_| primitive::<Int64Type>(batch, "_fill")).transpose()?;
    let mut found: Vec<Offsets> = Vec::new();
    for row in 0..batch.num_rows() {
        let (topic, partition) = (topics.value(row), partitions.value(row));
        let filled = fills.is_some_and(|fills| fills.is_valid(row));
        match found.last_mut().filter(|f| f.partition.0 == topic && f.partition.1 == partition && f.filled == filled) {
            Some(same) => same.offsets.push(offsets.value(row)),
            None => found.push(Offsets {
                partition: (topic.to_owned(), partition),
                filled,
                offsets: vec![offsets.value(row)],
            }),
        }
    }
    Ok(found)
}

impl FileSays {
    /// Adds its places to those found; one that is there already refutes.
    fn add_to(&self, found: &mut Found, check: &mut Checking, table: impl std::fmt::Display) {
        for Offsets { partition, filled, offsets } in &self.places {
            let all = found.all.entry(partition.clone()).or_default();
            check.compared("rows", offsets.len() as u64);
            for offset in offsets {
                if !all.insert(number(Offset(*offset))) {
                    check.refute(format!("{table} has {}/{}@{offset} twice", partition.0, partition.1));
                }
            }
            if *filled {
                let numbers = offsets.iter().map(|offset| number(Offset(*offset)));
                found.filled.entry(partition.clone()).or_default().extend(numbers);
            }
        }
    }
}

/// The places of one partition against what was told of it.
fn check_places(
    check: &mut Checking,
    partition: &Partition,
    told: &ToldByAll,
    raw: &Found,
    (rejects, rejects_removed): (&Found, u64),
) {
    let place = format!("{}/{}", partition.0, partition.1);
    let at = |what: &str| format!("{place}: {what}");
    let changed = told.changed.get(partition).copied().unwrap_or_default();
    let told = told.partitions.get(partition).map_or(&[] as &[Told], Vec::as_slice);
    let sum = |of: fn(&Told) -> u64| told.iter().map(of).sum::<u64>();
    let none = RoaringTreemap::new();
    let [in_raw, by_fills, in_rejects, filled_rejects] =
        [&raw.all, &raw.filled, &rejects.all, &rejects.filled].map(|places| places.get(partition).unwrap_or(&none));
    let by_stream = in_raw - by_fills;
    check.equal(at("rows in raw"), by_stream.len(), sum(|t| t.landed).saturating_sub(changed.removed));
    check.equal(at("rows of fills in raw"), by_fills.len(), changed.filled);
    // a message that was rejected first and landed under another contract counts as landed; one that a stream
    // rejected ahead of its raw commit, before a person skipped it, counts as skipped
    let rejected = in_rejects - filled_rejects - skipped_whole(told);
    let alone = (&rejected - &by_stream).len();
    // some that went from raw may have been rejected before; of those that went from rejects, some may have landed
    let (least, most) = (sum(|t| t.rejected).saturating_sub(rejects_removed), sum(|t| t.rejected) + changed.removed);
    if least == most {
        check.equal(at("messages in rejects alone"), alone, most);
    } else if alone < least || most < alone {
        check.refute(format!("{place}: messages in rejects alone: {alone}, and should be {least} to {most}"));
    }
    let both = in_raw | in_rejects;
    for gap in told.iter().flat_map(|t| &t.gaps) {
        let mut inside = RoaringTreemap::new();
        inside.insert_range(number(gap.from)..number(gap.to));
        if let Some(offset) = (&both & &inside).min() {
            check.refute(format!("{place}@{offset} has a row, and was told to be in the gap {gap}"));
        }
    }
    let (first, next) = (told.iter().map(|t| t.range.from).min(), told.iter().map(|t| t.range.to).max());
    let streamed = &by_stream | &rejected;
    let outside = streamed.min().filter(|least| first.is_none_or(|first| *least < number(first)));
    let outside =
        outside.or_else(|| streamed.max().filter(|greatest| next.is_none_or(|next| *greatest >= number(next))));
    if let Some(offset) = outside {
        check.refute(format!("{place}@{offset} has a row, and no commit told of it"));
    }
}

/// Offsets of commits that landed nothing of their range, and skipped all of it.
fn skipped_whole(told: &[Told]) -> RoaringTreemap {
    let mut offsets = RoaringTreemap::new();
    for Told { range, .. } in told.iter().filter(|told| told.skipped == told.range.len()) {
        offsets.insert_range(number(range.from)..number(range.to));
    }
    offsets
}

fn number(offset: Offset) -> u64 {
    u64::try_from(offset.0).unwrap_or(u64::MAX)
}

impl Landed {
    /// Whether a place has a row.
    pub(super) fn has(&self, partition: &Partition, offset: Offset) -> bool {
        let at = number(offset);
        [&self.raw, &self.rejects].iter().any(|found| found.all.get(partition).is_some_and(|set| set.contains(at)))
    }

    /// The first offset that a commit told of.
    pub(super) fn first(&self, partition: &Partition) -> Option<Offset> {
        self.of(partition).map(|told| told.range.from).min()
    }

    /// The gap in which an offset was told to be.
    pub(super) fn gap_at(&self, partition: &Partition, offset: Offset) -> Option<OffsetRange> {
        self.of(partition).flat_map(|told| &told.gaps).copied().find(|gap| gap.from <= offset && offset < gap.to)
    }

    /// How many messages were left out by a rule, or have no row any more.
    pub(super) fn without_row(&self, partition: &Partition) -> u64 {
        let removed = self.told.changed.get(partition).map_or(0, |changed| changed.removed + changed.filled_removed);
        let rejects_removed = self.rejects_removed.get(partition).copied().unwrap_or(0);
        self.of(partition).map(|told| told.skipped).sum::<u64>() + removed + rejects_removed
    }

    fn of(&self, partition: &Partition) -> impl Iterator<Item = &Told> {
        self.told.partitions.get(partition).into_iter().flatten()
    }
}

//! States as rows of the table, and back.
//!
//! Invariant R1: what is read of a row's states is what was written, bit for bit.

use super::table::{WINDOW_DATE, out_of_range};
use crate::batch::{conform, named};
use crate::engine::aggregate::{Definition, States};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{AddedFile, FileProfile, LiveFile, PartitionValues, Table, file_schema};
use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use deltaworks_core::place::{Offset, OffsetRange};
use deltaworks_core::speed::{Stored, joined};
use deltaworks_core::windows::{Instant, Window};
use futures::StreamExt;
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Columns before the states.
pub(super) const META: [&str; 7] = ["_topic", "_partition", "_from_offset", "_to_offset", "events", "late", "repeats"];
/// The engine's counts are the last states: events, late, duplicates, filled.
const COUNTS: usize = 4;

/// Rows that wait for a commit, by window date.
pub(super) type ByDate = BTreeMap<Date, Vec<RecordBatch>>;

/// What was counted, of one partition or all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// On time, and no repeats.
    pub events: i64,
    /// Late, and left out.
    pub late: i64,
    /// On time, and left out as repeats.
    pub repeats: i64,
}

/// A partition and the offsets whose rows some states are of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub topic: String,
    pub partition: i32,
}

/// Rows of one file.
#[derive(Debug)]
pub(super) struct Part {
    pub date: Date,
    pub rows: RecordBatch,
}

impl Counts {
    /// Takes in what was counted elsewhere.
    pub const fn add(&mut self, other: Self) {
        self.events += other.events;
        self.late += other.late;
        self.repeats += other.repeats;
    }
}

/// States of one partition and range as rows of the table, by window date from `floor` on; what they count.
pub(super) fn to_rows(
    definition: &Definition,
    schema: &SchemaRef,
    place: &Place,
    range: OffsetRange,
    states: &States,
    floor: Option<Date>,
    into: &mut ByDate,
) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut dates = Dates { definition, known: HashMap::new() };
    for batch in states.batches().filter(|batch| batch.num_rows() > 0) {
        let whole = with_meta(schema, batch, place, range).map_err(failed)?;
        let of_rows = dates.of(batch)?;
        let distinct: BTreeSet<Date> =
            of_rows.iter().copied().filter(|date| floor.is_none_or(|f| f <= *date)).collect();
        for date in &distinct {
            let mask: BooleanArray = of_rows.iter().map(|d| Some(d == date)).collect();
            let share = if mask.true_count() == whole.num_rows() {
                whole.clone()
            } else {
                filter_record_batch(&whole, &mask).map_err(failed)?
            };
            counts.add(counted(&share));
            into.entry(*date).or_default().push(share);
        }
    }
    Ok(counts)
}

/// Puts rows of `schema` into files, one per window date. The table has it, or is about to.
pub(super) async fn put(table: &Table, schema: &SchemaRef, rows: ByDate) -> Result<Vec<AddedFile>> {
    let mut added = Vec::new();
    for (date, batches) in rows {
        let profile = FileProfile::new(schema.clone()).steady(["_from_offset", "_to_offset"]);
        let values = PartitionValues::from([(WINDOW_DATE.to_owned(), Some(date.to_string()))]);
        added.extend(table.put_rows(values, profile, batches).await?);
    }
    Ok(added)
}

/// The rows of some files.
pub(super) async fn read(table: &Table, definition: &Definition, files: &[LiveFile]) -> Result<Vec<Part>> {
    let schema = file_schema(&super::table::speed_table(definition).schema, table.partition_columns());
    let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let mut parts = Vec::new();
    for file in files {
        let date = file.partition_values.get(WINDOW_DATE).and_then(Option::as_deref).and_then(|d| d.parse().ok());
        let mut batches = table.read_file(file, &columns).await?;
        while let Some(batch) = batches.next().await.transpose()? {
            let rows = conform(&batch, &file.partition_values, &schema)?;
            parts.push(Part { date: date.unwrap_or_default(), rows });
        }
    }
    Ok(parts)
}

/// The partitions and ranges of one file.
pub(super) async fn places_of(table: &Table, file: &LiveFile) -> Result<Vec<(Place, OffsetRange)>> {
    let mut batches = table.read_file(file, &META[..4]).await?;
    let mut places = Vec::new();
    while let Some(rows) = batches.next().await.transpose()? {
        let rows = conform(&rows, &file.partition_values, &named(table.schema(), META[..4].iter().copied()))?;
        places.extend(Part { date: Date::default(), rows }.places()?);
    }
    places.sort_unstable_by(|(a, x), (b, y)| (a, x.from).cmp(&(b, y.from)));
    places.dedup();
    Ok(places)
}

/// Whether no offset of a partition is in twice on any date, and none beyond its progress.
pub(super) fn check_ranges(parts: &[Part], stored: &Stored) -> Result<(), String> {
    let mut ranges: BTreeMap<(Date, Place), BTreeSet<(Offset, Offset)>> = BTreeMap::new();
    for part in parts {
        for (place, range) in part.places().map_err(|e| e.message)? {
            ranges.entry((part.date, place)).or_default().insert((range.from, range.to));
        }
    }
    for ((date, Place { topic, partition }), ranges) in ranges {
        let all = joined(ranges.into_iter().map(|(from, to)| OffsetRange { from, to }))
            .map_err(|e| format!("{e} on {date} in `{topic}/{partition}`"))?;
        let next = stored.next_of(&topic, partition);
        if all.is_some_and(|all| all.to > next) {
            return Err(format!("states of `{topic}/{partition}` go beyond its progress {next}"));
        }
    }
    Ok(())
}

impl Part {
    /// The partition and range of each row, equal neighbours once.
    pub fn places(&self) -> Result<Vec<(Place, OffsetRange)>> {
        let topics = self.rows.column_by_name("_topic").and_then(|c| c.as_string_opt::<i32>()).ok_or_else(lacking)?;
        let partitions = self.rows.column_by_name("_partition").and_then(|c| c.as_primitive_opt::<Int32Type>());
        let partitions = partitions.ok_or_else(lacking)?;
        let (from, to) = (int(&self.rows, "_from_offset")?, int(&self.rows, "_to_offset")?);
        let mut places: Vec<(Place, OffsetRange)> = Vec::new();
        for row in 0..self.rows.num_rows() {
            let (topic, partition) = (topics.value(row), partitions.value(row));
            let range = OffsetRange::new(from.value(row), to.value(row));
            let same = places.last().is_some_and(|(p, r)| p.topic == topic && p.partition == partition && *r == range);
            if !same {
                places.push((Place { topic: topic.to_owned(), partition }, range));
            }
        }
        Ok(places)
    }

    /// The states of one partition.
    pub fn states_of(&self, place: &Place) -> Result<RecordBatch> {
        let topics = self.rows.column_by_name("_topic").and_then(|c| c.as_string_opt::<i32>()).ok_or_else(lacking)?;
        let partitions = self.rows.column_by_name("_partition").and_then(|c| c.as_primitive_opt::<Int32Type>());
        let partitions = partitions.ok_or_else(lacking)?;
        let mask: BooleanArray = topics
            .iter()
            .zip(partitions.values())
            .map(|(topic, partition)| Some(topic == Some(place.topic.as_str()) && *partition == place.partition))
            .collect();
        filter_record_batch(&self.states()?, &mask).map_err(failed)
    }

    /// The states of base windows that start within `within`.
    pub fn states_within(&self, within: Window) -> Result<RecordBatch> {
        let states = self.states()?;
        let starts = starts(&states)?;
        let mask: BooleanArray = starts.values().iter().map(|us| Some(within.contains(Instant(*us)))).collect();
        if mask.true_count() == states.num_rows() {
            return Ok(states);
        }
        filter_record_batch(&states, &mask).map_err(failed)
    }

    /// The columns after those of [`META`].
    fn states(&self) -> Result<RecordBatch> {
        let columns: Vec<usize> = (META.len()..self.rows.num_columns()).collect();
        self.rows.project(&columns).map_err(failed)
    }
}

/// The local date of each state's window.
struct Dates<'d> {
    definition: &'d Definition,
    known: HashMap<i64, Date>,
}

impl Dates<'_> {
    fn of(&mut self, states: &RecordBatch) -> Result<Vec<Date>> {
        let starts = starts(states)?;
        let mut dates = Vec::with_capacity(starts.len());
        for start in starts.values() {
            let date = match self.known.get(start) {
                Some(date) => *date,
                None => {
                    let date = self.definition.zone.local_date(Instant(*start)).map_err(out_of_range)?;
                    self.known.insert(*start, date);
                    date
                }
            };
            dates.push(date);
        }
        Ok(dates)
    }
}

fn with_meta(
    schema: &SchemaRef,
    states: &RecordBatch,
    place: &Place,
    range: OffsetRange,
) -> Result<RecordBatch, ArrowError> {
    let rows = states.num_rows();
    let first_count = states.num_columns().saturating_sub(COUNTS);
    let column = |name: &str| -> ArrayRef {
        match name {
            "_topic" => std::sync::Arc::new(StringArray::new_repeated(place.topic.as_str(), rows)),
            "_partition" => std::sync::Arc::new(Int32Array::from(vec![place.partition; rows])),
            "_from_offset" => std::sync::Arc::new(Int64Array::from(vec![range.from.0; rows])),
            "_to_offset" => std::sync::Arc::new(Int64Array::from(vec![range.to.0; rows])),
            "events" => states.column(first_count).clone(),
            "late" => states.column(first_count + 1).clone(),
            _ => states.column(first_count + 2).clone(),
        }
    };
    let columns = META.iter().map(|name| column(name)).chain(states.columns().iter().cloned());
    RecordBatch::try_new(schema.clone(), columns.collect())
}

fn counted(rows: &RecordBatch) -> Counts {
    let sum = |name| int(rows, name).map_or(0, |counts| counts.values().iter().sum());
    Counts { events: sum("events"), late: sum("late"), repeats: sum("repeats") }
}

fn starts(states: &RecordBatch) -> Result<&TimestampMicrosecondArray> {
    states.column(0).as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(lacking)
}

fn int<'r>(rows: &'r RecordBatch, name: &str) -> Result<&'r Int64Array> {
    rows.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>()).ok_or_else(lacking)
}

fn lacking() -> Error {
    Error::new(Stage::Speed, Class::Internal, "states lack a column, or it has another type")
}

fn failed(e: ArrowError) -> Error {
    Error::new(Stage::Speed, Class::Internal, "rows of states cannot be made").because(e)
}

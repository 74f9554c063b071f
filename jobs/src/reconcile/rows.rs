//! The rows of one unit: batch's judged against those that are served, and those of open windows.
//!
//! Invariants: R1 rows are compared bit for bit, by their values and counts and never by where they come from;
//! R2 a row that keeps its values keeps its state, generation and pin.

use super::table::Hour;
use crate::batch::{conform, primitive, texts};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::PartitionValues;
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Date32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::row::{Row, RowConverter, Rows, SortField};
use deltaworks_core::served::{State, Taken, Verdict, judge};
use deltaworks_core::windows::{Granularity, Instant};
use jiff::civil::Date;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const HOUR_US: i64 = 3_600_000_000;
/// Columns that say where rows come from, and not what they are.
const ORIGIN: [&str; 3] = ["state", "generation", "pin"];

/// The columns of served rows, as their files have them.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    rows: SchemaRef,
    /// Without their origin.
    content: SchemaRef,
    /// What tells rows of one granularity apart.
    keys: Vec<String>,
}

/// Rows of covered windows, and how many of them are new or changed, by their state.
#[derive(Debug)]
pub(super) struct Covered {
    pub rows: RecordBatch,
    pub finals: u64,
    pub restated: u64,
}

impl Shape {
    /// Rows of this schema, whose windows have rows of these keys.
    pub fn new<'k>(rows: SchemaRef, keys: impl Iterator<Item = &'k str>) -> Self {
        let content = rows.fields().iter().filter(|f| !ORIGIN.contains(&f.name().as_str())).cloned();
        let content = Arc::new(Schema::new(content.collect::<Vec<_>>()));
        let keys = std::iter::once("window_start").chain(keys).map(str::to_owned).collect();
        Self { rows, content, keys }
    }

    /// The columns that batch has, too.
    pub const fn content(&self) -> &SchemaRef {
        &self.content
    }

    /// One batch of them all.
    pub fn one(&self, batches: &[RecordBatch]) -> Result<RecordBatch> {
        concat_batches(&self.rows, batches).map_err(broken)
    }

    /// The rows that end after `after`, or those that end by then; none do without it.
    pub fn ending(&self, rows: &RecordBatch, after: Option<Instant>, open: bool) -> Result<RecordBatch> {
        let is_open = ends_after(rows, after)?;
        let mask = if open { is_open } else { arrow::compute::not(&is_open).map_err(broken)? };
        filter_record_batch(rows, &mask).map_err(broken)
    }

    /// Batch's rows of covered windows, judged against those served. `was_covered`: the bound taken over before.
    pub fn covered(
        &self,
        served: &RecordBatch,
        was_covered: Option<Instant>,
        batch: &[RecordBatch],
        taken: &Taken,
    ) -> Result<Covered> {
        let batch = concat_batches(&self.content, batch).map_err(broken)?;
        let (served_keys, served_values) = (self.encoded(served, true)?, self.encoded(served, false)?);
        let (keys, values) = (self.encoded(&batch, true)?, self.encoded(&batch, false)?);
        let before: HashMap<Row<'_>, usize> = (0..served.num_rows()).map(|n| (served_keys.row(n), n)).collect();
        let ends = primitive::<TimestampMicrosecondType>(&batch, "window_end")?;
        let (old_states, old_generations) = (texts(served, "state")?, primitive::<Int64Type>(served, "generation")?);
        let old_pins = texts(served, "pin")?;
        let (mut states, mut generations, mut pins) = (Vec::new(), Vec::new(), Vec::new());
        let (pin, mut finals, mut restated) = (taken.pin.to_string(), 0, 0);
        for row in 0..batch.num_rows() {
            let covered_before = was_covered.is_some_and(|bound| ends.value(row) <= bound.0);
            let old = before.get(&keys.row(row)).copied();
            let same = old.map(|old| served_values.row(old) == values.row(row));
            match (judge(covered_before, same), old) {
                (Verdict::Keep, Some(old)) => {
                    states.push(old_states.value(old).to_owned());
                    generations.push(old_generations.value(old));
                    pins.push(old_pins.is_valid(old).then(|| old_pins.value(old).to_owned()));
                }
                (verdict, _) => {
                    let state = if let Verdict::Serve(state) = verdict { state } else { State::Restated };
                    finals += u64::from(state == State::Final);
                    restated += u64::from(state == State::Restated);
                    states.push(state.to_string());
                    generations.push(taken.generation);
                    pins.push(Some(pin.clone()));
                }
            }
        }
        let (states, generations) = (StringArray::from(states), Int64Array::from(generations));
        let rows =
            self.with_origin(&batch, Arc::new(states), Arc::new(generations), Arc::new(StringArray::from(pins)))?;
        Ok(Covered { rows, finals, restated })
    }

    /// Results of speed as provisional rows: those of the unit's date that end after `after`.
    pub fn provisional(&self, results: &[RecordBatch], date: Date, after: Option<Instant>) -> Result<RecordBatch> {
        let day = (date - jiff::civil::date(1970, 1, 1)).get_days();
        let mut rows = Vec::new();
        for batch in results {
            let dates = primitive::<Date32Type>(batch, "window_date")?;
            let mask: BooleanArray = dates.values().iter().map(|date| Some(*date == day)).collect();
            let batch = filter_record_batch(batch, &mask).map_err(broken)?;
            let content = conform(&batch, &PartitionValues::new(), &self.content)?;
            let n = content.num_rows();
            let states = StringArray::from(vec![State::Provisional.to_string(); n]);
            let pins = self.rows.field_with_name("pin").map_err(broken)?.data_type();
            let generations = Int64Array::from(vec![0; n]);
            let whole = self.with_origin(&content, Arc::new(states), Arc::new(generations), new_null_array(pins, n))?;
            rows.push(self.ending(&whole, after, true)?);
        }
        self.one(&rows)
    }

    /// The rows by the hour that they are filed under, each in the order they have.
    pub fn by_hour(&self, granularity: Granularity, rows: &RecordBatch) -> Result<BTreeMap<Hour, RecordBatch>> {
        let starts = primitive::<TimestampMicrosecondType>(rows, "window_start")?;
        let mut places: BTreeMap<Hour, Vec<u32>> = BTreeMap::new();
        for (row, start) in (0..).zip(starts.values()) {
            places.entry(hour_of(granularity, Instant(*start))).or_default().push(row);
        }
        let part = |(hour, rows_of): (Hour, Vec<u32>)| {
            let taken = take_record_batch(rows, &UInt32Array::from(rows_of)).map_err(broken)?;
            Ok((hour, taken))
        };
        places.into_iter().map(part).collect()
    }

    fn with_origin(
        &self,
        content: &RecordBatch,
        states: ArrayRef,
        generations: ArrayRef,
        pins: ArrayRef,
    ) -> Result<RecordBatch> {
        let columns = self.rows.fields().iter().map(|field| match field.name().as_str() {
            "state" => Arc::clone(&states),
            "generation" => Arc::clone(&generations),
            "pin" => Arc::clone(&pins),
            name => match content.column_by_name(name) {
                Some(column) => Arc::clone(column),
                None => new_null_array(field.data_type(), content.num_rows()),
            },
        });
        RecordBatch::try_new(Arc::clone(&self.rows), columns.collect()).map_err(broken)
    }

    /// Keys or values of rows, as bytes that are equal iff they are, bit for bit.
    fn encoded(&self, rows: &RecordBatch, keys: bool) -> Result<Rows> {
        let fields = self.content.fields().iter().filter(|f| !keys || self.keys.contains(f.name()));
        let fields: Vec<_> = fields.collect();
        let sorts = fields.iter().map(|f| SortField::new(f.data_type().clone())).collect();
        let columns: Vec<ArrayRef> =
            fields.iter().filter_map(|f| rows.column_by_name(f.name())).map(Arc::clone).collect();
        RowConverter::new(sorts).and_then(|converter| converter.convert_columns(&columns)).map_err(broken)
    }
}

/// Row by row, whether its window ends after an instant; all do without one.
pub(super) fn ends_after(rows: &RecordBatch, after: Option<Instant>) -> Result<BooleanArray> {
    let ends = primitive::<TimestampMicrosecondType>(rows, "window_end")?;
    Ok(ends.values().iter().map(|end| Some(after.is_none_or(|after| *end > after.0))).collect())
}

/// The hour under which a window is filed.
pub(super) fn hour_of(granularity: Granularity, start: Instant) -> Hour {
    match granularity {
        Granularity::Under(size) if size.micros() < HOUR_US => {
            // of 24
            Hour::try_from(start.0.div_euclid(HOUR_US).rem_euclid(24)).unwrap_or(0)
        }
        _ => 0,
    }
}

fn broken(error: ArrowError) -> Error {
    Error::new(Stage::Reconcile, Class::Internal, "rows of a unit do not fit together").because(error)
}

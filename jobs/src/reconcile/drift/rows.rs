//! Rows of a drift table: the values of one window and key after each step, side by side.
//!
//! Invariants: R1 values are compared bit for bit; R2 what no step explains is found by comparing the last step with
//! batch, and what is stored with what the same rows give, and never by subtracting.

use super::super::rows::ends_after;
use crate::batch::conform;
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::PartitionValues;
use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, StructArray, UInt32Array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{CastOptions, cast_with_options, concat_batches, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use deltaworks_core::drift::{Moved, Share};
use deltaworks_core::units::Fingerprint;
use deltaworks_core::windows::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The values that a row has, in the order of the way.
pub(super) const STEPS: [&str; 7] = ["served", "definition", "base", "arrived", "fills", "late", "dedup"];
/// Counts that the engine adds to a row.
const COUNTS: [&str; 4] = ["events", "late", "duplicates", "filled"];

/// Which columns of an aggregate are which.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    /// Columns of a row as served has them, without their origin.
    content: SchemaRef,
    /// What tells rows of one granularity apart.
    keys: Vec<String>,
    /// What a step may move: the user's values, and `events`.
    values: Vec<String>,
}

/// Everything that is known of the windows of one unit.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// By [`STEPS`].
    pub steps: [Vec<RecordBatch>; 7],
    /// What batch has.
    pub batch: Vec<RecordBatch>,
    /// What is stored of some of them.
    pub stored: Option<Stored>,
}

/// What the stored states of windows give, and what the same rows of raw give.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub stored: Vec<RecordBatch>,
    pub again: Vec<RecordBatch>,
    /// The starts of the windows that are compared.
    pub starts: BTreeSet<Instant>,
}

/// A window that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Looked {
    /// Whether it is covered for the first time.
    pub is_new: bool,
    /// The pin under which it first was.
    pub first_pin: Fingerprint,
    /// The pin that was served before; none where nothing was.
    pub served_pin: Option<Fingerprint>,
}

/// The rows of some windows of a unit, and how much moved there.
#[derive(Debug)]
pub(super) struct Written {
    rows: RecordBatch,
    moved: u64,
    unexplained: u64,
    /// How much of each column of numbers.
    shares: BTreeMap<String, Share>,
}

/// Rows that can be found by their key.
struct Keyed {
    rows: RecordBatch,
    at: BTreeMap<Box<[u8]>, u32>,
}

/// Bytes of the columns of rows, one converter per column.
struct Cells(Vec<Rows>);

impl Columns {
    /// The columns of an aggregate whose rows have these, without their origin.
    pub fn new(definition: &Definition, content: &SchemaRef) -> Self {
        let users: Vec<&str> = definition.keys().map(|c| c.name.as_str()).collect();
        let is_key = |name: &str| users.contains(&name);
        let fixed = ["window_start", "window_end"];
        let is_value =
            |name: &&str| !is_key(name) && !fixed.contains(name) && (*name == "events" || !COUNTS.contains(name));
        let names = content.fields().iter().map(|f| f.name().as_str());
        let values = names.filter(is_value).map(str::to_owned).collect();
        let keys = std::iter::once("window_start").chain(users).map(str::to_owned).collect();
        Self { content: Arc::clone(content), keys, values }
    }

    /// The columns of the table's files.
    pub fn schema(&self) -> SchemaRef {
        let field = |name: &str| self.content.field_with_name(name).ok().cloned();
        let mut fields: Vec<Field> = ["window_start", "window_end"].into_iter().filter_map(field).collect();
        fields.extend(self.keys.iter().skip(1).filter_map(|name| field(name)));
        fields.push(Field::new("generation", DataType::Int64, false));
        fields.push(Field::new("pin", DataType::Utf8, false));
        fields.push(Field::new("first_pin", DataType::Utf8, false));
        fields.push(Field::new("served_pin", DataType::Utf8, true));
        fields.extend(STEPS.map(|step| Field::new(step, self.step(), true)));
        fields.push(Field::new("unexplained", DataType::Int64, false));
        Arc::new(Schema::new(fields))
    }

    /// The values after one step.
    fn step(&self) -> DataType {
        let fields = self.values.iter().filter_map(|name| self.content.field_with_name(name).ok());
        DataType::Struct(fields.map(|f| f.clone().with_nullable(true)).collect())
    }

    /// Rows of results or tables, in windows that are looked at.
    fn keyed(&self, batches: &[RecordBatch], windows: &BTreeMap<Instant, Looked>) -> Result<Keyed> {
        let batches = batches
            .iter()
            .map(|batch| conform(batch, &PartitionValues::new(), &self.content))
            .collect::<Result<Vec<_>>>()?;
        let looked_at = batches.iter().map(|rows| {
            let starts = column(rows, "window_start")?.as_primitive::<TimestampMicrosecondType>();
            let mask = starts.values().iter().map(|start| Some(windows.contains_key(&Instant(*start)))).collect();
            filter_record_batch(rows, &mask).map_err(broken)
        });
        let rows = concat_batches(&self.content, &looked_at.collect::<Result<Vec<_>>>()?).map_err(broken)?;
        let keys = cells(&rows, &self.keys)?;
        let at = (0..rows.num_rows()).zip(0_u32..).map(|(row, number)| (keys.bytes(row), number)).collect();
        Ok(Keyed { rows, at })
    }

    /// The windows, by start, of which a row is in one of both only, or is another one there.
    ///
    /// # Errors
    /// Columns do not fit together, which is a bug.
    pub fn changed(&self, served: &[RecordBatch], batch: &[RecordBatch], bound: Instant) -> Result<BTreeSet<Instant>> {
        let whole = |batches: &[RecordBatch]| {
            let batches = batches.iter().map(|rows| ending_in(rows, None, bound)).collect::<Result<Vec<_>>>()?;
            let batches = batches.iter().map(|rows| conform(rows, &PartitionValues::new(), &self.content));
            concat_batches(&self.content, &batches.collect::<Result<Vec<_>>>()?).map_err(broken)
        };
        let mut seen: [BTreeSet<(Box<[u8]>, Instant)>; 2] = [BTreeSet::new(), BTreeSet::new()];
        for (rows, seen) in [whole(served)?, whole(batch)?].iter().zip(&mut seen) {
            let names: Vec<String> = self.keys.iter().cloned().chain(self.compared()).collect();
            let cells = cells(rows, &names)?;
            let starts = column(rows, "window_start")?.as_primitive::<TimestampMicrosecondType>();
            seen.extend((0..rows.num_rows()).map(|row| (cells.bytes(row), Instant(starts.value(row)))));
        }
        let [served, batch] = seen;
        Ok(served.symmetric_difference(&batch).map(|(_, start)| *start).collect())
    }

    /// What is written of a unit whose windows (by start) are looked at.
    ///
    /// # Errors
    /// Columns do not fit together, which is a bug.
    pub fn write(
        &self,
        values: &Values,
        windows: &BTreeMap<Instant, Looked>,
        (generation, pin): (i64, Fingerprint),
    ) -> Result<Written> {
        let steps = values.steps.iter().map(|rows| self.keyed(rows, windows)).collect::<Result<Vec<_>>>()?;
        let batch = self.keyed(&values.batch, windows)?;
        let stored = match &values.stored {
            Some(Stored { stored, again, starts }) => {
                let some = windows.iter().filter(|(at, _)| starts.contains(at)).map(|(at, l)| (*at, *l)).collect();
                Some((self.keyed(stored, &some)?, self.keyed(again, &some)?))
            }
            None => None,
        };
        let sources = || steps.iter().chain([&batch]).chain(stored.iter().flat_map(|(a, b)| [a, b]));
        let keys: BTreeSet<&[u8]> = sources().flat_map(|source| source.at.keys()).map(AsRef::as_ref).collect();
        let keys: Vec<&[u8]> = keys.into_iter().collect();
        let of = |source: &Keyed| self.cells_of(source, &keys);
        let [served, _, base, .., dedup] = steps.as_slice() else { return Err(lacking("steps")) };
        let (served_cells, base_cells, dedup_cells, batch_cells) = (of(served)?, of(base)?, of(dedup)?, of(&batch)?);
        let stored_cells = stored.as_ref().map(|(a, b)| Ok::<_, Error>((of(a)?, of(b)?))).transpose()?;
        let first = self.first_rows(&keys, sources())?;
        let starts = column(&first, "window_start")?.as_primitive::<TimestampMicrosecondType>().clone();
        let moving = self.places(&self.values);
        let (mut kept, mut unexplained) = (Vec::new(), Vec::new());
        let (mut first_pins, mut served_pins) = (Vec::new(), Vec::new());
        let (mut moved, mut open_in_all) = (0, 0);
        for n in 0..keys.len() {
            let Some(looked) = windows.get(&Instant(starts.value(n))) else { continue };
            let mut open = batch_cells.differ(&dedup_cells, n, None);
            // windows that are not compared have no cells in either
            if let Some((stored, again)) = &stored_cells {
                open += stored.differ(again, n, None);
            }
            let has_moved = match looked.is_new {
                true => base_cells.differ(&dedup_cells, n, Some(&moving)) > 0,
                false => served_cells.differ(&batch_cells, n, None) > 0,
            };
            open_in_all += open;
            if has_moved || open > 0 {
                moved += u64::from(has_moved);
                kept.push(n);
                unexplained.push(i64::try_from(open).unwrap_or(i64::MAX));
                first_pins.push(looked.first_pin.to_string());
                served_pins.push(looked.served_pin.map(|pin| pin.to_string()));
            }
        }
        let shares = self.shares(&keys, windows, &starts, (base, served), &batch)?;
        let keys: Vec<&[u8]> = kept.iter().filter_map(|n| keys.get(*n).copied()).collect();
        let first =
            take_rows(&first, &UInt32Array::from_iter_values(kept.iter().filter_map(|n| u32::try_from(*n).ok())))?;
        let step = |source: &Keyed| self.struct_of(source, &keys);
        let steps = STEPS.into_iter().zip(&steps).map(|(name, source)| Ok((name, step(source)?)));
        let steps = steps.collect::<Result<BTreeMap<&str, ArrayRef>>>()?;
        let schema = self.schema();
        let columns = schema.fields().iter().map(|field| -> Result<ArrayRef> {
            Ok(match field.name().as_str() {
                "generation" => Arc::new(Int64Array::from(vec![generation; keys.len()])),
                "pin" => Arc::new(StringArray::new_repeated(pin.to_string(), keys.len())),
                "first_pin" => Arc::new(StringArray::from(first_pins.clone())),
                "served_pin" => Arc::new(StringArray::from(served_pins.clone())),
                "unexplained" => Arc::new(Int64Array::from(unexplained.clone())),
                // a key may be called as a step is only in tables that are older than its name is taken
                name => match steps.get(name) {
                    Some(step) => Arc::clone(step),
                    None => column(&first, name)?.clone(),
                },
            })
        });
        let rows = RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<_>>()?).map_err(broken)?;
        Ok(Written { rows, moved, unexplained: open_in_all, shares })
    }

    /// All that is written of a unit, and how much it moved.
    ///
    /// # Errors
    /// Rows do not fit together, which is a bug.
    pub fn together(&self, pieces: Vec<Written>) -> Result<(RecordBatch, Moved)> {
        let rows = concat_batches(&self.schema(), pieces.iter().map(|piece| &piece.rows)).map_err(broken)?;
        let (mut moved, mut shares) = (Moved::default(), BTreeMap::<String, Share>::new());
        for piece in pieces {
            moved.rows += piece.moved;
            moved.unexplained += piece.unexplained;
            piece.shares.into_iter().for_each(|(name, share)| shares.entry(name).or_default().merge(share));
        }
        let parts = shares.into_iter().map(|(name, share)| (share.part(), name));
        moved.size = parts.reduce(|a, b| if b.0 > a.0 { b } else { a });
        Ok((rows, moved))
    }

    /// How much of each column of numbers moved.
    fn shares(
        &self,
        keys: &[&[u8]],
        windows: &BTreeMap<Instant, Looked>,
        starts: &arrow::array::TimestampMicrosecondArray,
        (base, served): (&Keyed, &Keyed),
        batch: &Keyed,
    ) -> Result<BTreeMap<String, Share>> {
        let mut shares = BTreeMap::new();
        for name in &self.values {
            let numbers = |source: &Keyed| numbers(column(&source.rows, name)?);
            let (Some(base_numbers), Some(served_numbers), Some(now)) =
                (numbers(base)?, numbers(served)?, numbers(batch)?)
            else {
                continue;
            };
            let mut share = Share::default();
            for (n, key) in keys.iter().enumerate() {
                let Some(looked) = windows.get(&Instant(starts.value(n))) else { continue };
                let (source, before) = if looked.is_new { (base, &base_numbers) } else { (served, &served_numbers) };
                let at = |source: &Keyed, numbers: &arrow::array::Float64Array| {
                    let row = *source.at.get(*key)? as usize;
                    numbers.is_valid(row).then(|| numbers.value(row))
                };
                share.add(at(source, before), at(batch, &now));
            }
            shares.insert(name.clone(), share);
        }
        Ok(shares)
    }

    /// Window and keys of each key, from whichever source has it.
    fn first_rows<'k>(&self, keys: &[&[u8]], sources: impl Iterator<Item = &'k Keyed>) -> Result<RecordBatch> {
        let sources: Vec<&Keyed> = sources.collect();
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(keys.len());
        for key in keys {
            let found = sources.iter().enumerate().find_map(|(n, source)| Some((n, *source.at.get(*key)? as usize)));
            places.push(found.ok_or_else(|| lacking("a key"))?);
        }
        let rows: Vec<&RecordBatch> = sources.iter().map(|source| &source.rows).collect();
        arrow::compute::interleave_record_batch(&rows, &places).map_err(broken)
    }

    /// The cells of each key: empty where a source has no row of it.
    fn cells_of(&self, source: &Keyed, keys: &[&[u8]]) -> Result<Cells> {
        let names: Vec<String> = self.compared();
        cells(&take_rows(&source.rows, &places_in(source, keys))?, &names)
    }

    /// All columns but the keys: values and counts.
    fn compared(&self) -> Vec<String> {
        let names = self.content.fields().iter().map(|f| f.name());
        names.filter(|name| !self.keys.contains(name) && *name != "window_end").cloned().collect()
    }

    /// The places of some columns among those that are compared.
    fn places(&self, names: &[String]) -> Vec<usize> {
        let compared = self.compared();
        names.iter().filter_map(|name| compared.iter().position(|c| c == name)).collect()
    }

    fn struct_of(&self, source: &Keyed, keys: &[&[u8]]) -> Result<ArrayRef> {
        let places = places_in(source, keys);
        let DataType::Struct(fields) = self.step() else { return Err(lacking("steps")) };
        let taken = take_rows(&source.rows, &places)?;
        let columns = fields.iter().map(|f| column(&taken, f.name()).cloned());
        let nulls = NullBuffer::from_iter(places.iter().map(|place| place.is_some()));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let built = StructArray::try_new_with_length(fields, columns, Some(nulls), keys.len());
        Ok(Arc::new(built.map_err(broken)?))
    }
}

impl Cells {
    fn bytes(&self, row: usize) -> Box<[u8]> {
        self.0.iter().flat_map(|rows| rows.row(row).as_ref().to_vec()).collect()
    }

    /// How many columns (or how many of those at `places`) differ in one row.
    fn differ(&self, other: &Self, row: usize, places: Option<&[usize]>) -> u64 {
        let all = self.0.iter().zip(&other.0).enumerate();
        let some = all.filter(|(n, _)| places.is_none_or(|places| places.contains(n)));
        some.filter(|(_, (a, b))| a.row(row) != b.row(row)).count() as u64
    }
}

/// The rows that end after `after`, if given, and at or before `bound`.
pub(super) fn ending_in(rows: &RecordBatch, after: Option<Instant>, bound: Instant) -> Result<RecordBatch> {
    let mask = ends_after(rows, after)?;
    let covered = arrow::compute::not(&ends_after(rows, Some(bound))?).map_err(broken)?;
    let mask = arrow::compute::and(&mask, &covered).map_err(broken)?;
    arrow::compute::filter_record_batch(rows, &mask).map_err(broken)
}

fn places_in(source: &Keyed, keys: &[&[u8]]) -> UInt32Array {
    keys.iter().map(|key| source.at.get(*key).copied()).collect()
}

fn cells(rows: &RecordBatch, names: &[String]) -> Result<Cells> {
    let cells = names.iter().map(|name| {
        let column = column(rows, name)?;
        let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())]).map_err(broken)?;
        converter.convert_columns(std::slice::from_ref(column)).map_err(broken)
    });
    Ok(Cells(cells.collect::<Result<_>>()?))
}

fn take_rows(rows: &RecordBatch, places: &UInt32Array) -> Result<RecordBatch> {
    let columns = rows.columns().iter().map(|c| match rows.num_rows() {
        0 => Ok(new_null_array(c.data_type(), places.len())),
        _ => take(c, places, None),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(broken)?;
    let fields = rows.schema_ref().fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(places.len()));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(broken)
}

/// A column as numbers; `None` if it is none of numbers.
fn numbers(column: &ArrayRef) -> Result<Option<arrow::array::Float64Array>> {
    if !column.data_type().is_numeric() {
        return Ok(None);
    }
    let cast = cast_with_options(column, &DataType::Float64, &CastOptions::default()).map_err(broken)?;
    Ok(Some(cast.as_primitive::<Float64Type>().clone()))
}

fn column<'r>(rows: &'r RecordBatch, name: &str) -> Result<&'r ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| lacking(name))
}

fn lacking(what: &str) -> Error {
    Error::new(Stage::Reconcile, Class::Internal, format!("rows of drift lack `{what}`"))
}

fn broken(error: ArrowError) -> Error {
    Error::new(Stage::Reconcile, Class::Internal, "values of steps do not fit together").because(error)
}

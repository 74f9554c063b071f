//! The rows of `ops.backfills`.
//!
//! Append-only, partitioned by the date (UTC) of creation, which a backfill's id tells. One row for each event; with the
//! first of them, in the same commit and in a file of their own, the items of the plan, one row of JSON each. Files
//! are chosen by their statistics, and rows by what they say, so it does not matter who rewrites them.

use super::state::Backfill;
use crate::batch::{Run, conform, primitive, texts};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{AddedFile, FileProfile, LiveFile, PartitionValues, Table, TableName, TableSpec, file_schema};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use deltaworks_core::backfill::{BackfillId, Event, State};
use deltaworks_core::windows::Instant;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a row of a plan has as its event.
const PLANNED: &str = "planned";
/// Files that are read at the same time.
const READS_MAX: usize = 16;

/// What `ops.backfills` must be like.
#[must_use]
pub fn table() -> TableSpec {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let always = [("created_date", DataType::Date32), ("backfill", DataType::Utf8), ("event", DataType::Utf8)]
        .into_iter()
        .chain([("at", instant), ("run_id", DataType::Utf8), ("kind", DataType::Utf8), ("target", DataType::Utf8)]);
    let seldom =
        [("spec", DataType::Utf8), ("items", DataType::Int64), ("number", DataType::Int64), ("item", DataType::Utf8)];
    let fields = always.map(|(name, data_type)| Field::new(name, data_type, false));
    let fields = fields.chain(seldom.map(|(name, data_type)| Field::new(name, data_type, true)));
    TableSpec {
        name: TableName::new("ops", "backfills"),
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        partition_columns: vec!["created_date".into()],
        properties: BTreeMap::new(),
        description: Some("What backfills were made to do, and how they ended".into()),
    }
}

/// All backfills, or the one of an id; the newest first.
///
/// # Errors
/// The table cannot be read.
pub async fn backfills(table: &Table, only: Option<BackfillId>) -> Result<Vec<Backfill>> {
    let mut told: BTreeMap<BackfillId, Vec<Told>> = BTreeMap::new();
    // a file of nothing but a plan is left alone
    let has_events =
        |file: &LiveFile| file.text_bounds_of("event") != (Some(PLANNED.to_owned()), Some(PLANNED.to_owned()));
    let columns = ["backfill", "event", "at", "kind", "target", "spec", "items"];
    for batch in read(table, only, &columns, has_events).await? {
        let events = texts(&batch, "event")?;
        for row in (0..batch.num_rows()).filter(|row| events.value(*row) != PLANNED) {
            let (id, row) = Told::of(&batch, row)?;
            if only.is_none_or(|only| only == id) {
                told.entry(id).or_default().push(row);
            }
        }
    }
    let mut all: Vec<Backfill> = told.into_iter().map(|(id, told)| fold(id, told)).collect::<Result<_>>()?;
    all.sort_by_key(|backfill| std::cmp::Reverse((backfill.created_at, backfill.id)));
    Ok(all)
}

/// The items of a plan, by their number.
///
/// # Errors
/// The table cannot be read.
pub async fn plan_rows(table: &Table, id: BackfillId) -> Result<BTreeMap<i64, String>> {
    let may_hold = |file: &LiveFile| {
        let (least, greatest) = file.text_bounds_of("event");
        least.is_none_or(|least| least.as_str() <= PLANNED)
            && greatest.is_none_or(|greatest| greatest.as_str() >= PLANNED)
    };
    let (mut items, spelled) = (BTreeMap::new(), id.to_string());
    for batch in read(table, Some(id), &["backfill", "event", "number", "item"], may_hold).await? {
        let (ids, events) = (texts(&batch, "backfill")?, texts(&batch, "event")?);
        let (numbers, texts) = (primitive::<Int64Type>(&batch, "number")?, texts(&batch, "item")?);
        for row in (0..batch.num_rows()).filter(|row| ids.value(*row) == spelled && events.value(*row) == PLANNED) {
            items.insert(numbers.value(row), texts.value(row).to_owned());
        }
    }
    Ok(items)
}

/// Puts the first rows of a backfill: that it was created, and its plan.
///
/// # Errors
/// An item is no JSON, or the store fails.
pub async fn put_created<T: Serialize>(
    table: &Table,
    backfill: &Backfill,
    items: &[T],
    run: &Run,
) -> Result<Vec<AddedFile>> {
    let event = event_row(table, backfill, Event::Created, backfill.created_at, run)?;
    let spelled = items.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
    let spelled = spelled.map_err(|e| internal("an item of a plan cannot be spelled").because(e))?;
    let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let mut columns = common(backfill, PLANNED, backfill.created_at, run, items.len());
    columns.insert("number", Arc::new(Int64Array::from_iter_values(0..count)));
    columns.insert("item", Arc::new(StringArray::from_iter_values(spelled)));
    let plan = batch(table, columns, items.len())?;
    let mut files = Vec::new();
    for rows in [event, plan] {
        files.extend(table.put_rows(partition_of(backfill.id), profile(table), vec![rows]).await?);
    }
    Ok(files)
}

/// Puts the row that tells how a backfill ended.
///
/// # Errors
/// The store fails.
pub async fn put_ended(
    table: &Table,
    backfill: &Backfill,
    event: Event,
    at: Instant,
    run: &Run,
) -> Result<Vec<AddedFile>> {
    let rows = event_row(table, backfill, event, at, run)?;
    Ok(table.put_rows(partition_of(backfill.id), profile(table), vec![rows]).await?.into_iter().collect())
}

/// A row of an event.
struct Told {
    event: Event,
    at: Instant,
    kind: String,
    target: String,
    spec: Option<String>,
    items: Option<i64>,
}

impl Told {
    fn of(batch: &RecordBatch, row: usize) -> Result<(BackfillId, Self)> {
        let text = |name| texts(batch, name);
        let (spec, items) = (text("spec")?, primitive::<Int64Type>(batch, "items")?);
        let id = text("backfill")?.value(row).parse().map_err(|e| internal("a row has no id").because(e))?;
        let told = Self {
            event: parsed(text("event")?.value(row))?,
            at: Instant(primitive::<TimestampMicrosecondType>(batch, "at")?.value(row)),
            kind: text("kind")?.value(row).to_owned(),
            target: text("target")?.value(row).to_owned(),
            spec: spec.is_valid(row).then(|| spec.value(row).to_owned()),
            items: items.is_valid(row).then(|| items.value(row)),
        };
        Ok((id, told))
    }
}

/// What its events make of a backfill.
fn fold(id: BackfillId, mut told: Vec<Told>) -> Result<Backfill> {
    told.sort_by_key(|row| (row.event != Event::Created, row.at));
    let state = State::of(told.iter().map(|row| row.event));
    let lacks = || internal(format!("backfill `{id}` lacks the row of its creation"));
    let first = told.first().filter(|row| row.event == Event::Created).ok_or_else(lacks)?;
    let (spec, items) = first.spec.as_ref().zip(first.items).ok_or_else(lacks)?;
    Ok(Backfill {
        id,
        kind: parsed(&first.kind)?,
        target: first.target.clone(),
        spec: serde_json::from_str(spec).map_err(|e| lacks().because(e))?,
        items: u64::try_from(items).map_err(|e| lacks().because(e))?,
        created_at: first.at,
        state,
        ended_at: told.get(1).map(|end| end.at),
    })
}

fn event_row(table: &Table, backfill: &Backfill, event: Event, at: Instant, run: &Run) -> Result<RecordBatch> {
    let mut columns = common(backfill, &spelled(&event), at, run, 1);
    if event == Event::Created {
        columns.insert("spec", Arc::new(StringArray::from(vec![backfill.spec.to_string()])));
        columns.insert("items", Arc::new(Int64Array::from(vec![i64::try_from(backfill.items).unwrap_or(i64::MAX)])));
    }
    batch(table, columns, 1)
}

/// What all rows have.
fn common(backfill: &Backfill, event: &str, at: Instant, run: &Run, rows: usize) -> BTreeMap<&'static str, ArrayRef> {
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::new_repeated(text, rows)) };
    BTreeMap::from([
        ("backfill", text(&backfill.id.to_string())),
        ("event", text(event)),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![at.0; rows]).with_timezone("UTC")) as ArrayRef),
        ("run_id", text(&run.id)),
        ("kind", text(&spelled(&backfill.kind))),
        ("target", text(&backfill.target)),
    ])
}

/// The columns of a file; those that are not given are null.
fn batch(table: &Table, columns: BTreeMap<&str, ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let schema = file_schema(table.schema(), table.partition_columns());
    let column = |field: &Arc<Field>| {
        let given = columns.get(field.name().as_str()).cloned();
        given.unwrap_or_else(|| arrow::array::new_null_array(field.data_type(), rows))
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(schema, columns).map_err(|e| internal("rows cannot be made").because(e))
}

/// The batches of the files that are wanted, with these columns.
async fn read(
    table: &Table,
    only: Option<BackfillId>,
    columns: &[&str],
    is_wanted: impl Fn(&LiveFile) -> bool,
) -> Result<Vec<RecordBatch>> {
    let schema = file_schema(table.schema(), table.partition_columns());
    let fields = schema.fields().iter().filter(|f| columns.contains(&f.name().as_str())).cloned();
    let wanted = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let files = table.live_files().await?;
    let is_of_date = |file: &&LiveFile| only.is_none_or(|id| file.partition_values == partition_of(id));
    let reads = files.iter().filter(is_of_date).filter(|file| is_wanted(file)).map(|file| async {
        let batches: Vec<RecordBatch> = table.read_file(file, columns).await?.try_collect().await?;
        let conformed = batches.iter().map(|batch| conform(batch, &file.partition_values, &wanted));
        conformed.collect::<Result<Vec<_>>>()
    });
    let reads: Vec<_> = reads.collect();
    let read: Vec<Vec<RecordBatch>> = futures::stream::iter(reads).buffer_unordered(READS_MAX).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

fn partition_of(id: BackfillId) -> PartitionValues {
    PartitionValues::from([("created_date".into(), Some(id.created().to_string()))])
}

fn profile(table: &Table) -> FileProfile {
    FileProfile::new(file_schema(table.schema(), table.partition_columns()))
}

/// A name as it is spelled in rows.
fn spelled(name: &impl Serialize) -> String {
    match serde_json::to_value(name) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_value(Value::from(text)).map_err(|e| {
        internal(format!("`{text}` is nothing that this version knows"))
            .hint("a newer version has written it; use that one")
            .because(e)
    })
}

fn internal(what: impl std::fmt::Display) -> Error {
    Error::new(Stage::Backfill, Class::Internal, format!("table `ops.backfills`: {what}"))
}

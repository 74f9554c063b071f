//! `ops.pins` and `ops.runs`: what was computed from what, and what each run did.
//!
//! Both only grow. Pins are written before any unit names them, so a unit's pin is always found; a pin
//! that no unit came to name is harmless. Invariant L1: a row is appended once, whatever the store
//! answered.

use super::publish::Run;
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{
    Commit, CommitOutcome, FileProfile, Lake, PartitionValues, TableName, TableSpec, encode, file_schema,
};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use deltaworks_core::units::{Fingerprint, Pin};
use deltaworks_core::windows::Instant;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Times that an append is tried.
const ATTEMPTS_MAX: u32 = 20;
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// Files of pins that are read at the same time.
const READS_MAX: usize = 16;

/// A pin and a definition that units are computed under.
#[derive(Debug, Clone)]
pub struct PinRow<'a> {
    /// The pin.
    pub pin: &'a Pin,
    /// Name of the pipeline.
    pub pipeline: &'a str,
    /// The definition.
    pub definition: &'a Definition,
    /// Its short name.
    pub definition_id: Fingerprint,
    /// Its file.
    pub sql: &'a str,
}

/// What a run did with one input.
#[derive(Debug, Clone)]
pub struct RunRow {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Id of its raw table.
    pub table_id: String,
    /// Version of it.
    pub version: i64,
    /// Pins that units were computed from.
    pub pins: BTreeSet<Fingerprint>,
    /// Rows of the dates that were read.
    pub rows: u64,
    /// Order-free checksum of their places.
    pub checksum: String,
    /// Begin and end, ms since the Unix epoch.
    pub times_ms: (i64, i64),
    /// How it ended.
    pub verdict: String,
}

/// The pins of these ids.
///
/// # Errors
/// [`Class::Internal`] if one is missing or cannot be read.
pub async fn pins(lake: &Lake, ids: &BTreeSet<Fingerprint>) -> Result<BTreeMap<Fingerprint, Pin>> {
    let mut found = BTreeMap::new();
    if ids.is_empty() {
        return Ok(found);
    }
    if let Some(table) = lake.open_table(&pins_table().name).await? {
        let files = table.live_files().await?;
        let reads = files.iter().map(|file| async {
            let mut wanted = Vec::new();
            let mut batches = table.read_file(file, &["pin", "json"]).await?;
            while let Some(batch) = batches.next().await.transpose()? {
                wanted.extend(pins_of(&batch, ids)?);
            }
            Ok::<_, Error>(wanted)
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(READS_MAX);
        while let Some(wanted) = reads.next().await.transpose()? {
            found.extend(wanted);
        }
    }
    match ids.iter().find(|id| !found.contains_key(id)) {
        None => Ok(found),
        Some(id) => Err(Error::new(Stage::Batch, Class::Internal, format!("pin `{id}` is not in `ops.pins`"))
            .hint("the table was changed by another tool; `batch --force` computes without it once it is restored")),
    }
}

fn pins_of(batch: &RecordBatch, ids: &BTreeSet<Fingerprint>) -> Result<Vec<(Fingerprint, Pin)>> {
    let broken = |what: &str| Error::new(Stage::Batch, Class::Internal, format!("`ops.pins` has {what}"));
    let column = |name| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
    let (names, texts) = column("pin").zip(column("json")).ok_or_else(|| broken("other columns"))?;
    let mut found = Vec::new();
    for (name, text) in names.iter().zip(texts) {
        let (Some(Ok(id)), Some(text)) = (name.map(str::parse::<Fingerprint>), text) else { continue };
        if ids.contains(&id) {
            let pin: Pin = serde_json::from_str(text).map_err(|e| broken("a pin that cannot be read").because(e))?;
            if pin.id() != id {
                return Err(broken("a pin under another name"));
            }
            found.push((id, pin));
        }
    }
    Ok(found)
}

/// Appends pins to `ops.pins`.
///
/// # Errors
/// The store fails, or others keep committing first.
pub async fn record_pins(lake: &Lake, rows: &[PinRow<'_>], run: &Run, now_ms: i64) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut json = Vec::with_capacity(rows.len());
    for row in rows {
        let failed = |e| Error::new(Stage::Batch, Class::Internal, "a pin cannot be spelled").because(e);
        json.push(serde_json::to_string(row.pin).map_err(failed)?);
    }
    let engine = format!("{} {}", env!("CARGO_PKG_VERSION"), crate::engine::aggregate::ENGINE_VERSION);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("pin", texts(rows, |r| r.pin.id().to_string())),
        ("pipeline", texts(rows, |r| r.pipeline.to_owned())),
        ("table_id", texts(rows, |r| r.pin.table.clone())),
        ("version", Arc::new(rows.iter().map(|r| Some(r.pin.version)).collect::<Int64Array>())),
        ("json", Arc::new(StringArray::from(json))),
        ("aggregate", texts(rows, |r| r.definition.name.clone())),
        ("definition", texts(rows, |r| r.definition_id.to_string())),
        ("canonical", texts(rows, |r| r.definition.canonical.clone())),
        ("sql", texts(rows, |r| r.sql.to_owned())),
        ("engine", texts(rows, |_| engine.clone())),
        ("run_id", texts(rows, |_| run.id.clone())),
    ];
    append(lake, &pins_table(), columns, run, now_ms).await
}

/// Appends what a run did to `ops.runs`.
///
/// # Errors
/// As [`record_pins`].
pub async fn record_runs(lake: &Lake, rows: &[RunRow], run: &Run, now_ms: i64) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let instants = |get: &dyn Fn(&RunRow) -> i64| -> ArrayRef {
        let us = rows.iter().map(|r| get(r).saturating_mul(1_000));
        Arc::new(TimestampMicrosecondArray::from_iter_values(us).with_timezone("UTC"))
    };
    let pins = |r: &RunRow| r.pins.iter().map(ToString::to_string).collect::<Vec<_>>();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("job", texts(rows, |_| "batch".to_owned())),
        ("run_id", texts(rows, |_| run.id.clone())),
        ("pipeline", texts(rows, |r| r.pipeline.clone())),
        ("table_id", texts(rows, |r| r.table_id.clone())),
        ("version", Arc::new(rows.iter().map(|r| Some(r.version)).collect::<Int64Array>())),
        ("pins", texts(rows, |r| serde_json::json!(pins(r)).to_string())),
        ("rows", Arc::new(rows.iter().map(|r| i64::try_from(r.rows).ok()).collect::<Int64Array>())),
        ("checksum", texts(rows, |r| r.checksum.clone())),
        ("began_at", instants(&|r| r.times_ms.0)),
        ("ended_at", instants(&|r| r.times_ms.1)),
        ("verdict", texts(rows, |r| r.verdict.clone())),
    ];
    append(lake, &runs_table(), columns, run, now_ms).await
}

fn texts<R>(rows: &[R], get: impl Fn(&R) -> String) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(get)))
}

/// What `ops.pins` must be like: one row per pin and definition.
#[must_use]
pub fn pins_table() -> TableSpec {
    let names = [
        "pin",
        "pipeline",
        "table_id",
        "version",
        "json",
        "aggregate",
        "definition",
        "canonical",
        "sql",
        "engine",
        "run_id",
    ];
    table("pins", &names, "What units of batch were computed from, and under which definition")
}

/// What `ops.runs` must be like: one row per run and input.
#[must_use]
pub fn runs_table() -> TableSpec {
    let names = [
        "job", "run_id", "pipeline", "table_id", "version", "pins", "rows", "checksum", "began_at", "ended_at",
        "verdict",
    ];
    table("runs", &names, "What each run read, and how it ended")
}

fn table(name: &str, columns: &[&str], description: &str) -> TableSpec {
    let mut fields = vec![Field::new("run_date", DataType::Date32, false)];
    fields.extend(columns.iter().map(|column| {
        let data_type = match *column {
            "version" | "rows" => DataType::Int64,
            "began_at" | "ended_at" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            _ => DataType::Utf8,
        };
        Field::new(*column, data_type, false)
    }));
    TableSpec {
        name: TableName::new("ops", name),
        schema: Arc::new(Schema::new(fields)),
        partition_columns: vec!["run_date".into()],
        properties: BTreeMap::new(),
        description: Some(description.into()),
    }
}

async fn append(lake: &Lake, spec: &TableSpec, columns: Vec<(&str, ArrayRef)>, run: &Run, now_ms: i64) -> Result<()> {
    let failed =
        |e| Error::new(Stage::Batch, Class::Internal, format!("rows of `{}` cannot be made", spec.name)).because(e);
    let mut table = lake.ensure_table(spec).await?;
    let schema: SchemaRef = file_schema(table.schema(), table.partition_columns());
    let batch = RecordBatch::try_from_iter(columns).map_err(failed)?;
    let ordered = schema.fields().iter().map(|f| {
        let column = batch.column_by_name(f.name()).cloned();
        column.unwrap_or_else(|| arrow::array::new_null_array(f.data_type(), batch.num_rows()))
    });
    let batch = RecordBatch::try_new(schema.clone(), ordered.collect()).map_err(failed)?;
    let date = Instant::of_ms(now_ms).utc_date().map_err(|e| {
        Error::new(Stage::Batch, Class::Outside, "the clock stands in no year that dates are made for").because(e)
    })?;
    let values = PartitionValues::from([("run_date".into(), Some(date.to_string()))]);
    let file = table.sink().put(values, encode(&FileProfile::new(schema), [Ok(batch)])?).await?;
    let identity = run.identity();
    let mut error = Error::new(Stage::Batch, Class::Overlap, format!("`{}`: others keep committing first", spec.name));
    for _ in 0..ATTEMPTS_MAX {
        let mut commit = Commit::new("WRITE", &identity)?;
        commit.adds = vec![file.clone()];
        match table.commit(commit).await {
            CommitOutcome::Committed(_) => return Ok(()),
            CommitOutcome::Failed(e) => return Err(e),
            CommitOutcome::Conflicted => {}
            CommitOutcome::Unknown(e) => error = e,
        }
        tokio::time::sleep(PAUSE).await;
        table.refresh().await?;
        if table.find_commit(&identity).is_some() {
            return Ok(());
        }
    }
    Err(error)
}

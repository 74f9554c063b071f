//! `ops.pins` and `ops.runs`: what was computed from what, and what each run did.
//!
//! Both only grow. Pins are written before any unit names them, so a unit's pin is always found; a pin
//! that no unit came to name is harmless. Invariant L1: a row is appended once, whatever the store
//! answered.

use super::columns::texts as column_texts;
use super::publish::Run;
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{
    Attempts, Commit, CommitOutcome, FileProfile, Lake, LiveFile, PartitionValues, TableName, TableSpec, encode,
    file_schema,
};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use deltaworks_core::units::{Fingerprint, Pin};
use deltaworks_core::windows::Instant;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A commit of at most this many pins has a file for each, so that later plans read only those they need.
const FILES_MAX: usize = 8;
/// Files of pins that are read at the same time.
const READS_MAX: usize = 16;
/// Times that `ops.pins` is looked at for a pin that it should have.
const LOOKS_MAX: usize = 3;

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

/// What a job other than batch did to one raw table, for audit.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// As it is typed: `offsets skip`.
    pub job: &'static str,
    /// Name of the pipeline.
    pub pipeline: String,
    /// Id of its raw table.
    pub table_id: String,
    /// Version of it afterwards.
    pub version: i64,
    /// Rows that it brought.
    pub rows: u64,
    /// Begin and end, ms since the Unix epoch.
    pub times_ms: (i64, i64),
    /// How it ended.
    pub verdict: String,
    /// What was asked for and what was done.
    pub detail: serde_json::Value,
}

/// What `ops.pins` keeps of one aggregate.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Pins by their id.
    pub pins: BTreeMap<Fingerprint, Pin>,
    /// The file of each definition.
    pub sql: BTreeMap<Fingerprint, String>,
}

impl Kept {
    /// Ids of all pins and definitions, as tables spell them.
    #[must_use]
    pub fn recorded(&self) -> BTreeSet<String> {
        self.pins.keys().chain(self.sql.keys()).map(ToString::to_string).collect()
    }
}

/// What `ops.pins` keeps of one aggregate. A pin that cannot be read, or has another name than its content, is
/// left out.
///
/// # Errors
/// The table cannot be read.
pub async fn kept(lake: &Lake, aggregate: &str) -> Result<Kept> {
    let mut kept = Kept::default();
    let Some(table) = lake.open_table(&pins_table().name).await? else { return Ok(kept) };
    let files = table.live_files().await?;
    let reads = files.iter().map(|file| table.read_file(file, &["pin", "json", "aggregate", "definition", "sql"]));
    let mut reads = futures::stream::iter(reads).buffer_unordered(READS_MAX);
    while let Some(mut batches) = reads.next().await.transpose()? {
        while let Some(batch) = batches.next().await.transpose()? {
            kept.add(&batch, aggregate)?;
        }
    }
    Ok(kept)
}

impl Kept {
    fn add(&mut self, batch: &RecordBatch, aggregate: &str) -> Result<()> {
        let (pins, json) = (column_texts(batch, "pin")?, column_texts(batch, "json")?);
        let names = column_texts(batch, "aggregate")?;
        let (definitions, sql) = (column_texts(batch, "definition")?, column_texts(batch, "sql")?);
        for row in (0..batch.num_rows()).filter(|row| names.value(*row) == aggregate) {
            if let Ok(pin) = serde_json::from_str::<Pin>(json.value(row))
                && pins.value(row) == pin.id().to_string()
            {
                self.pins.insert(pin.id(), pin);
            }
            if let Ok(definition) = definitions.value(row).parse() {
                self.sql.insert(definition, sql.value(row).to_owned());
            }
        }
        Ok(())
    }
}

/// The pins of these ids.
///
/// # Errors
/// [`Class::Internal`] if one is missing or cannot be read.
pub async fn pins(lake: &Lake, ids: &BTreeSet<Fingerprint>) -> Result<BTreeMap<Fingerprint, Pin>> {
    let found = pins_there(lake, ids).await?;
    match ids.iter().find(|id| !found.contains_key(id)) {
        None => Ok(found),
        Some(id) => Err(Error::new(Stage::Batch, Class::Internal, format!("pin `{id}` is not in `ops.pins`"))
            .hint("the table was changed by another tool; `batch --force` computes without it once it is restored")),
    }
}

/// The pins of these ids that there are. Who names a pin has recorded it before, so where one is missing a listing may
/// lag behind, and it looks again.
///
/// # Errors
/// [`Class::Internal`] if one cannot be read.
pub async fn pins_there(lake: &Lake, ids: &BTreeSet<Fingerprint>) -> Result<BTreeMap<Fingerprint, Pin>> {
    let mut found = BTreeMap::new();
    for _ in 0..LOOKS_MAX {
        found = pins_seen(lake, ids).await?;
        if found.len() == ids.len() {
            break;
        }
    }
    Ok(found)
}

async fn pins_seen(lake: &Lake, ids: &BTreeSet<Fingerprint>) -> Result<BTreeMap<Fingerprint, Pin>> {
    let mut found = BTreeMap::new();
    if ids.is_empty() {
        return Ok(found);
    }
    if let Some(table) = lake.open_table(&pins_table().name).await? {
        let files = table.live_files().await?;
        let wanted = files.iter().filter(|file| may_hold(file, ids));
        let reads = wanted.map(|file| async {
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
    Ok(found)
}

/// Whether a file may hold one of these pins, as far as its statistics know.
fn may_hold(file: &LiveFile, ids: &BTreeSet<Fingerprint>) -> bool {
    let bound = |text: Option<&str>| text.and_then(|text| text.parse::<Fingerprint>().ok());
    let (least, greatest) = file.text_bounds_of("pin");
    match (bound(least.as_deref()), bound(greatest.as_deref())) {
        (Some(least), Some(greatest)) if least <= greatest => ids.range(least..=greatest).next().is_some(),
        _ => true,
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
    append(lake, &pins_table(), columns, run, now_ms, FILES_MAX).await
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
    append(lake, &runs_table(), columns, run, now_ms, 1).await
}

/// Appends what a job did to `ops.runs`: it computed nothing, so it names no pins and no checksum.
///
/// # Errors
/// As [`record_pins`].
pub async fn record_job(lake: &Lake, row: &JobRow, run: &Run, now_ms: i64) -> Result<()> {
    let rows = std::slice::from_ref(row);
    let instant = |ms: i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values([ms.saturating_mul(1_000)]).with_timezone("UTC"))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("job", texts(rows, |r| r.job.to_owned())),
        ("run_id", texts(rows, |_| run.id.clone())),
        ("pipeline", texts(rows, |r| r.pipeline.clone())),
        ("table_id", texts(rows, |r| r.table_id.clone())),
        ("version", Arc::new(Int64Array::from(vec![row.version]))),
        ("pins", texts(rows, |_| "[]".to_owned())),
        ("rows", Arc::new(Int64Array::from(vec![i64::try_from(row.rows).ok()]))),
        ("checksum", texts(rows, |_| String::new())),
        ("began_at", instant(row.times_ms.0)),
        ("ended_at", instant(row.times_ms.1)),
        ("verdict", texts(rows, |r| r.verdict.clone())),
        ("detail", texts(rows, |r| r.detail.to_string())),
    ];
    append(lake, &runs_table(), columns, run, now_ms, 1).await
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
    ops_table("pins", &names, "What units of batch were computed from, and under which definition")
}

/// What `ops.runs` must be like: one row per run and input.
#[must_use]
pub fn runs_table() -> TableSpec {
    let names = [
        "job", "run_id", "pipeline", "table_id", "version", "pins", "rows", "checksum", "began_at", "ended_at",
        "verdict",
    ];
    let mut spec = ops_table("runs", &names, "What each run read, and how it ended");
    // of jobs that compute nothing: what they did, as JSON
    let detail = Field::new("detail", DataType::Utf8, true);
    let fields = spec.schema.fields().iter().map(|field| field.as_ref().clone()).chain([detail]);
    spec.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    spec
}

/// What a table of the layer `ops` with these columns is like.
pub(crate) fn ops_table(name: &str, columns: &[&str], description: &str) -> TableSpec {
    let mut fields = vec![Field::new("run_date", DataType::Date32, false)];
    fields.extend(columns.iter().map(|column| {
        let data_type = match *column {
            "version" | "rows" => DataType::Int64,
            "value" => DataType::Float64,
            "event_date" => DataType::Date32,
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

/// Appends rows by one commit; at most `files_max` of them have a file each, more have one together.
pub(crate) async fn append(
    lake: &Lake,
    spec: &TableSpec,
    columns: Vec<(&str, ArrayRef)>,
    run: &Run,
    now_ms: i64,
    files_max: usize,
) -> Result<()> {
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
    let profile = FileProfile::new(schema);
    let rows = batch.num_rows();
    let rows_per_file = if rows <= files_max { 1 } else { rows };
    let mut files = Vec::new();
    for first in (0..rows).step_by(rows_per_file) {
        let file = encode(&profile, [Ok(batch.slice(first, rows_per_file))])?;
        files.push(table.sink().put(values.clone(), file).await?);
    }
    let identity = run.identity();
    let mut attempts = Attempts::new(Stage::Batch, format!("table `{}`", spec.name));
    loop {
        let mut commit = Commit::new("WRITE", &identity)?;
        commit.adds = files.clone();
        match table.commit(commit).await {
            CommitOutcome::Committed(_) => {
                table.keep_log_short().await;
                return Ok(());
            }
            outcome => attempts.after(outcome).await?,
        }
        table.refresh().await?;
        if table.find_commit(&identity).is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::{EncodedFile, FileEncoder};
    use rstest::rstest;

    fn file(ids: &[Fingerprint]) -> LiveFile {
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(ids.iter().map(ToString::to_string)));
        let batch = RecordBatch::try_from_iter([("pin", ids)]).unwrap();
        let mut encoder = FileEncoder::new(&FileProfile::new(batch.schema())).unwrap();
        encoder.push(&batch).unwrap();
        let EncodedFile { rows, stats, .. } = encoder.finish().unwrap();
        let (path, partition_values) = (String::new(), PartitionValues::new());
        LiveFile { path, partition_values, size: 1, rows: Some(rows), modified_ms: 0, stats: Some(stats) }
    }

    #[rstest]
    #[case::itself(&[5], &[5], true)]
    #[case::other(&[5], &[4, 6], false)]
    #[case::ends(&[5, 9], &[9], true)]
    #[case::between(&[5, 9], &[7], true)]
    #[case::outside(&[5, 9], &[4, 10], false)]
    fn only_files_that_may_hold_a_pin_are_read(#[case] held: &[i64], #[case] ids: &[i64], #[case] read: bool) {
        let id = |n: &i64| Fingerprint::of_txn(*n).unwrap();
        let file = file(&held.iter().map(id).collect::<Vec<_>>());
        let ids = ids.iter().map(id).collect();
        assert_eq!(may_hold(&file, &ids), read);
        assert!(may_hold(&LiveFile { stats: None, ..file }, &ids), "nobody knows");
    }
}

//! `ops.resolutions`: what became of rejects, one row per place and resolution. It only grows.
//!
//! Rows name the id of their rejects table: a pipeline that was started over meets its places again, and nobody
//! has settled those yet. An append is an anti-join by place against the very snapshot that it is committed on.
//!
//! Invariant S1: a place has each resolution at most once, whoever appends at the same time.

use crate::batch::texts;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::fill::{PLACE, Places, each_place};
use crate::lake::{
    Attempts, Commit, CommitOutcome, FileProfile, Lake, LiveFile, PartitionValues, Table, TableName, TableSpec, encode,
    file_schema,
};
use crate::land::schema::timestamp_type;
use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use deltaworks_core::commit_info::Identity;
use deltaworks_core::resolution::Resolution;
use deltaworks_core::windows::Instant;
use futures::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What of a row a reader of the current state wants, in this order.
pub const DETAILS: [&str; 5] = ["resolution", "because", "fill", "run_id", "at"];

/// `ops.resolutions`.
#[must_use]
pub fn resolutions_table() -> TableSpec {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let fields = vec![
        Field::new("run_date", DataType::Date32, false),
        text("pipeline", false),
        text("table_id", false),
        text("_topic", false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        text("resolution", false),
        text("because", true),
        Field::new("fill", DataType::Int64, true),
        text("run_id", false),
        Field::new("at", timestamp_type(), false),
    ];
    TableSpec {
        name: TableName::new("ops", "resolutions"),
        schema: Arc::new(Schema::new(fields)),
        partition_columns: vec!["run_date".into()],
        properties: BTreeMap::new(),
        description: Some("What became of rejects: redriven or discarded, by which run, and why".into()),
    }
}

/// A place that is settled now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Settled {
    /// Topic with its epoch, or the URL of a file.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// The fill that brought it into raw, if it was one.
    pub fill: Option<i64>,
}

/// Who settles, and why.
#[derive(Debug, Clone)]
pub struct Author {
    /// Id of the run.
    pub run_id: String,
    /// Why, where a person says so.
    pub because: Option<String>,
}

/// What is known of the rejects of one table.
#[derive(Debug)]
pub struct Resolutions {
    lake: Lake,
    pipeline: String,
    rejects_id: String,
    table: Option<Table>,
    /// Files that were read, or written here.
    read: BTreeSet<String>,
    redriven: Places,
    discarded: Places,
    sequence: u64,
}

impl Resolutions {
    /// Reads what is there.
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn load(lake: &Lake, pipeline: &str, rejects_id: &str) -> Result<Self> {
        let mut loaded = Self {
            lake: lake.clone(),
            pipeline: pipeline.to_owned(),
            rejects_id: rejects_id.to_owned(),
            table: lake.open_table(&resolutions_table().name).await?,
            read: BTreeSet::new(),
            redriven: Places::default(),
            discarded: Places::default(),
            sequence: 0,
        };
        loaded.learn().await?;
        Ok(loaded)
    }

    /// Places that were redriven.
    #[must_use]
    pub(super) const fn redriven(&self) -> &Places {
        &self.redriven
    }

    /// Places that were discarded, redriven since or not.
    #[must_use]
    pub(super) const fn discarded(&self) -> &Places {
        &self.discarded
    }

    /// The rows of this rejects table: place and [`DETAILS`].
    ///
    /// # Errors
    /// The table cannot be read.
    pub async fn rows(&self) -> Result<Vec<RecordBatch>> {
        let mut found = Vec::new();
        let Some(table) = &self.table else { return Ok(found) };
        for file in table.live_files().await?.into_iter().filter(|file| self.may_be_in(file)) {
            let columns = [&PLACE[..], &DETAILS[..], &["pipeline", "table_id"]].concat();
            let mut batches = table.read_file(&file, &columns).await?;
            while let Some(batch) = batches.try_next().await? {
                found.push(self.ours(&batch)?);
            }
        }
        Ok(found)
    }

    /// Says that these places are settled so; those that are already are left out. Returns how many were not.
    ///
    /// # Errors
    /// The store fails, or others keep committing first.
    pub async fn append(&mut self, rows: &[Settled], as_what: Resolution, by: &Author, now_ms: i64) -> Result<u64> {
        if rows.is_empty() {
            return Ok(0);
        }
        if self.table.is_none() {
            self.table = Some(self.lake.ensure_table(&resolutions_table()).await?);
        }
        self.sequence += 1;
        let identity = Identity { run_id: by.run_id.clone(), sequence: self.sequence };
        let mut attempts = Attempts::new(Stage::Fill, "table `ops.resolutions`");
        loop {
            self.learn().await?;
            let Some(table) = &mut self.table else { return Ok(0) };
            let known = match as_what {
                Resolution::Redriven => &self.redriven,
                Resolution::Discarded => &self.discarded,
            };
            let fresh: BTreeSet<&Settled> =
                rows.iter().filter(|row| !known.contains(&row.topic, row.partition, row.offset)).collect();
            if fresh.is_empty() {
                return Ok(0);
            }
            let (schema, date) = (file_schema(table.schema(), table.partition_columns()), run_date(now_ms)?);
            let batch = batch_of(&schema, &self.pipeline, &self.rejects_id, &fresh, as_what, by, now_ms)?;
            let profile = FileProfile::new(schema).steady(["_partition", "_offset"]);
            let values = PartitionValues::from([("run_date".into(), Some(date))]);
            let mut commit = Commit::new("WRITE", &identity)?;
            commit.adds = vec![table.sink().put(values, encode(&profile, [Ok(batch)])?).await?];
            faults::point("before_resolutions");
            let outcome = table.commit(commit).await;
            let ours = match outcome {
                CommitOutcome::Committed(_) => true,
                outcome => {
                    attempts.after(outcome).await?;
                    table.refresh().await?;
                    table.find_commit(&identity).is_some()
                }
            };
            if ours {
                faults::point("after_resolutions");
                table.keep_log_short().await;
                let count = fresh.len() as u64;
                self.learn().await?;
                return Ok(count);
            }
        }
    }

    /// Takes in the files of the snapshot that were not read yet.
    async fn learn(&mut self) -> Result<()> {
        let Some(table) = self.table.clone() else { return Ok(()) };
        for file in table.live_files().await? {
            if self.read.contains(&file.path) {
                continue;
            }
            if self.may_be_in(&file) {
                let columns = [&PLACE[..], &["resolution", "pipeline", "table_id"]].concat();
                let mut batches = table.read_file(&file, &columns).await?;
                while let Some(batch) = batches.try_next().await? {
                    self.take(&self.ours(&batch)?)?;
                }
            }
            self.read.insert(file.path);
        }
        Ok(())
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let resolutions = texts(batch, "resolution")?;
        let (redriven, discarded) = (&mut self.redriven, &mut self.discarded);
        each_place(batch, |row, topic, partition, offset| match resolutions.value(row).parse() {
            Ok(Resolution::Redriven) => drop(redriven.insert(topic, partition, offset)),
            Ok(Resolution::Discarded) => drop(discarded.insert(topic, partition, offset)),
            // of a later version of this program: it says nothing that we can act on
            Err(_) => {}
        })
    }

    /// The rows of this rejects table.
    fn ours(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let (pipelines, ids) = (texts(batch, "pipeline")?, texts(batch, "table_id")?);
        let ours = pipelines.iter().zip(ids);
        let mask: BooleanArray =
            ours.map(|(p, id)| Some(p == Some(&*self.pipeline) && id == Some(&*self.rejects_id))).collect();
        filter_record_batch(batch, &mask).map_err(broken)
    }

    fn may_be_in(&self, file: &LiveFile) -> bool {
        let (least, greatest) = file.text_bounds_of("pipeline");
        // bounds of long names are cut: then they are no bounds to go by
        let short = |bound: &String| bound.len() < 32;
        match (least.filter(short), greatest.filter(short)) {
            (Some(least), Some(greatest)) => least <= self.pipeline && self.pipeline <= greatest,
            _ => true,
        }
    }
}

fn run_date(now_ms: i64) -> Result<String> {
    let date = Instant::of_ms(now_ms).utc_date().map_err(|e| {
        Error::new(Stage::Fill, Class::Outside, "the clock stands in no year that dates are made for").because(e)
    })?;
    Ok(date.to_string())
}

fn batch_of(
    schema: &SchemaRef,
    pipeline: &str,
    rejects_id: &str,
    rows: &BTreeSet<&Settled>,
    as_what: Resolution,
    by: &Author,
    now_ms: i64,
) -> Result<RecordBatch> {
    let all = |text: &str| -> ArrayRef { Arc::new(StringArray::new_repeated(text, rows.len())) };
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "pipeline" => all(pipeline),
            "table_id" => all(rejects_id),
            "_topic" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.topic))),
            "_partition" => Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.partition))),
            "_offset" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.offset))),
            "resolution" => all(as_what.as_str()),
            "because" if by.because.is_some() => all(by.because.as_deref().unwrap_or_default()),
            "fill" => Arc::new(rows.iter().map(|row| row.fill).collect::<Int64Array>()),
            "run_id" => all(&by.run_id),
            "at" => {
                let at = std::iter::repeat_n(now_ms.saturating_mul(1_000), rows.len());
                Arc::new(TimestampMicrosecondArray::from_iter_values(at).with_timezone("UTC"))
            }
            _ => arrow::array::new_null_array(field.data_type(), rows.len()),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).map_err(broken)
}

fn broken(source: arrow::error::ArrowError) -> Error {
    Error::new(Stage::Fill, Class::Internal, "rows of `ops.resolutions` cannot be made").because(source)
}

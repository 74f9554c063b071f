//! A project in a temporary folder, whose raw table a test writes itself.

use crate::batch::{BatchOptions, BatchReport, batch_on, meter::Meter};
use crate::clock::Clock;
use crate::lake::{
    AddedFile, Commit, CommitOutcome, FileProfile, Lake, LiveFile, PartitionValues, Table, TableName, encode,
};
use crate::land::tables::{raw_profile, raw_table};
use crate::project::{self, settings::Pipeline, settings::Settings};
use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use deltaworks_core::commit_info::Identity;
use deltaworks_core::place::Offset;
use deltaworks_core::progress::{AppIds, Progress};
use deltaworks_core::units::Interval;
use futures::TryStreamExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio_util::sync::CancellationToken;

const CONTRACT: &str = "apiVersion: v3.1.0
kind: DataContract
id: event
version: 1.0.0
status: active
schema:
  - name: event
    properties:
      - {name: id, logicalType: string, primaryKey: true, required: true}
      - {name: at, logicalType: timestamp, required: true}
      - {name: value, logicalType: integer}
      - {name: key, logicalType: string}
";

pub const LATENESS_US: i64 = 3_600_000_000;

/// An event as it was landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: String,
    pub at_us: i64,
    pub value: Option<i64>,
    pub key: Option<String>,
    pub kafka_us: Option<i64>,
    pub partition: i32,
    pub offset: i64,
    pub behind_ms: i64,
    pub repeat: bool,
}

/// An aggregate's file.
#[derive(Debug, Clone, Copy)]
pub struct Sql {
    pub name: &'static str,
    pub windows: &'static str,
    pub zone: &'static str,
    pub select: &'static str,
}

/// Granularity, window start in microseconds, key: total, greatest, events, late, duplicates.
pub type Windows = BTreeMap<(String, i64, Option<String>), (Option<i64>, Option<i64>, i64, i64, i64)>;

pub struct Kit {
    pub settings: Settings,
    pub lake: Lake,
    runs: AtomicU64,
    sequence: AtomicU64,
    folder: tempfile::TempDir,
}

impl Kit {
    pub fn new(aggregates: &[Sql]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("event.odcs.yaml"), CONTRACT).unwrap();
        let settings = write(folder.path(), aggregates, 1_000);
        let lake = Lake::open(&settings.lake).unwrap();
        Self { settings, lake, runs: AtomicU64::new(0), sequence: AtomicU64::new(0), folder }
    }

    /// Puts other aggregates in place.
    pub fn define(&mut self, aggregates: &[Sql]) {
        self.define_within(aggregates, 1_000);
    }

    /// The same; batch redoes as many days by itself.
    pub fn define_within(&mut self, aggregates: &[Sql], redefine_days: u32) {
        self.settings = write(self.folder.path(), aggregates, redefine_days);
    }

    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.settings.pipelines[0]
    }

    pub fn path(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn options(&self) -> BatchOptions {
        BatchOptions {
            run_id: format!("run-{}", self.runs.fetch_add(1, Relaxed)),
            aggregates: Vec::new(),
            interval: Interval::default(),
            forced: false,
            any_age: false,
            granularities: Vec::new(),
            parallel: 2,
            input_version: None,
        }
    }

    pub async fn batch(&self, options: &BatchOptions) -> BatchReport {
        self.batch_on(&self.lake, options).await
    }

    pub async fn batch_on(&self, lake: &Lake, options: &BatchOptions) -> BatchReport {
        let (clock, stop) = (Clock::of(|| 1_700_000_000_000), CancellationToken::new());
        batch_on(lake, &self.settings, options, &Arc::new(Meter::default()), &clock, &stop).await
    }

    /// Runs, and fails unless it ended well.
    pub async fn batch_well(&self) -> BatchReport {
        let report = self.batch(&self.options()).await;
        assert!(report.error.is_none(), "{report:?}");
        report
    }

    pub async fn raw(&self) -> Table {
        self.lake.ensure_table(&raw_table(self.pipeline())).await.unwrap()
    }

    /// Lands rows as one commit, in files of at most `file_rows` rows, and says that both partitions were
    /// read up to `reached_us`.
    pub async fn land(&self, rows: &[Row], file_rows: usize, reached_us: i64) {
        let mut raw = self.raw().await;
        let ids = AppIds::new("events");
        let mut commit = self.commit();
        let mut by_date: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for row in rows {
            by_date.entry(date_of(row.at_us)).or_default().push(row.clone());
        }
        for (date, rows) in by_date {
            for some in rows.chunks(file_rows) {
                commit.adds.push(self.put(&raw, &date, &self.batch_of(some)).await);
            }
        }
        let known = ids.read("events", raw.txns());
        for partition in 0..2 {
            let before = known.partitions.get(&partition).map_or(0, |p| p.next.0);
            let next = rows.iter().filter(|r| r.partition == partition).map(|r| r.offset + 1).max();
            let ms = reached_us.div_euclid(1_000);
            let progress = Progress {
                next: Offset(next.unwrap_or(0).max(before)),
                frontier_ms: Some(ms),
                reached_ms: Some(ms),
                seen_ms: None,
            };
            commit.txns.extend(ids.write("events", partition, &progress));
        }
        commit.txns.push(ids.write_partition_count("events", 2));
        committed(raw.commit(commit).await);
    }

    /// Rewrites all files of a date into one, its rows in another order.
    pub async fn compact(&self, date: &str) {
        let mut raw = self.raw().await;
        let files: Vec<LiveFile> = raw.live_files().await.unwrap();
        let files: Vec<LiveFile> =
            files.into_iter().filter(|f| f.partition_values["event_date"].as_deref() == Some(date)).collect();
        if files.is_empty() {
            return;
        }
        let profile = raw_profile(self.pipeline());
        let columns: Vec<&str> = profile.schema().fields().iter().map(|f| f.name().as_str()).collect();
        let mut batches: Vec<RecordBatch> = Vec::new();
        for file in &files {
            batches.extend(raw.read_file(file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap());
        }
        let all = concat_batches(profile.schema(), &batches).unwrap();
        let turned = UInt32Array::from_iter_values((0..all.num_rows() as u32).rev());
        let all = arrow::compute::take_record_batch(&all, &turned).unwrap();
        let mut commit = self.commit();
        commit.adds = vec![self.put(&raw, date, &all).await];
        (commit.removes, commit.rewrite) = (files, true);
        committed(raw.commit(commit).await);
    }

    pub fn commit(&self) -> Commit {
        let sequence = self.sequence.fetch_add(1, Relaxed);
        Commit::new("WRITE", &Identity { run_id: "test".into(), sequence }).unwrap()
    }

    pub async fn put(&self, raw: &Table, date: &str, batch: &RecordBatch) -> AddedFile {
        let values = PartitionValues::from([("event_date".into(), Some(date.to_owned()))]);
        let profile: FileProfile = raw_profile(self.pipeline());
        raw.sink().put(values, encode(&profile, [Ok(batch.clone())]).unwrap()).await.unwrap()
    }

    pub fn batch_of(&self, rows: &[Row]) -> RecordBatch {
        let profile = raw_profile(self.pipeline());
        let n = rows.len();
        let instants = |get: &dyn Fn(&Row) -> Option<i64>| -> ArrayRef {
            Arc::new(rows.iter().map(get).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        };
        let columns = profile.schema().fields().iter().map(|f| -> ArrayRef {
            match f.name().as_str() {
                "id" => Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.id))),
                "at" => instants(&|r| Some(r.at_us)),
                "value" => Arc::new(rows.iter().map(|r| r.value).collect::<Int64Array>()),
                "key" => Arc::new(rows.iter().map(|r| r.key.as_deref()).collect::<StringArray>()),
                "_topic" => Arc::new(StringArray::from(vec!["events"; n])),
                "_partition" => Arc::new(rows.iter().map(|r| Some(r.partition)).collect::<Int32Array>()),
                "_offset" => Arc::new(rows.iter().map(|r| Some(r.offset)).collect::<Int64Array>()),
                "_kafka_time" => instants(&|r| r.kafka_us),
                "_behind_ms" => Arc::new(rows.iter().map(|r| Some(r.behind_ms)).collect::<Int64Array>()),
                "_repeat" => Arc::new(rows.iter().map(|r| Some(r.repeat)).collect::<BooleanArray>()),
                "_fill" => arrow::array::new_null_array(&DataType::Int64, n),
                other => panic!("unknown column `{other}`"),
            }
        });
        RecordBatch::try_new(profile.schema().clone(), columns.collect()).unwrap()
    }

    /// Windows of an aggregate with the columns `key`, `total`, `greatest`.
    pub async fn published(&self, aggregate: &str) -> Windows {
        let mut windows = Windows::new();
        let Some(table) = self.lake.open_table(&TableName::new("batch", aggregate)).await.unwrap() else {
            return windows;
        };
        let columns = ["window_start", "key", "total", "greatest", "events", "late", "duplicates"];
        for file in table.live_files().await.unwrap() {
            let granularity = file.partition_values["granularity"].clone().unwrap();
            for batch in table.read_file(&file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
                let starts = batch["window_start"].as_primitive::<TimestampMicrosecondType>();
                let keys = batch["key"].as_string::<i32>();
                let int = |name: &str, row: usize| {
                    let column = batch[name].as_primitive::<Int64Type>();
                    arrow::array::Array::is_valid(column, row).then(|| column.value(row))
                };
                for row in 0..batch.num_rows() {
                    let key = arrow::array::Array::is_valid(keys, row).then(|| keys.value(row).to_owned());
                    let count = |name| int(name, row).unwrap();
                    let values =
                        (int("total", row), int("greatest", row), count("events"), count("late"), count("duplicates"));
                    let before = windows.insert((granularity.clone(), starts.value(row), key), values);
                    assert!(before.is_none(), "a window is there twice");
                }
            }
        }
        windows
    }

    /// Generation of each unit, as the ledger has it.
    pub async fn generations(&self, aggregate: &str) -> BTreeMap<String, i64> {
        let table = self.lake.open_table(&TableName::new("batch", aggregate)).await.unwrap().unwrap();
        let ledger = crate::batch::publish::ledger_of(aggregate, &table).unwrap();
        ledger.into_iter().map(|(unit, entry)| (unit.to_string(), entry.generation)).collect()
    }
}

fn write(folder: &std::path::Path, aggregates: &[Sql], redefine_days: u32) -> Settings {
    let mut names = Vec::new();
    for Sql { name, windows, zone, select } in aggregates {
        let text = format!(
            "-- aggregate: {name}\n-- grain: one row per key and window\n-- from: events\n-- windows: {windows}\n\
             -- timezone: {zone}\n-- redefine: {redefine_days}d\n{select}\n"
        );
        std::fs::write(folder.join(format!("{name}.sql")), text).unwrap();
        names.push(format!("{name}.sql"));
    }
    let text = format!(
        "version: 1\nlake: file://{}/lake\nkafka:\n  bootstrap.servers: nowhere\npipelines:\n  events:\n    topic: events\n    \
         contract: event.odcs.yaml\n    event_time: at\n    lateness: 1h\naggregates: [{}]\n",
        folder.display(),
        names.join(", ")
    );
    std::fs::write(folder.join("deltaworks.yaml"), text).unwrap();
    project::load(folder, &|_| None).unwrap()
}

pub fn date_of(us: i64) -> String {
    Timestamp::from_microsecond(us).unwrap().to_zoned(TimeZone::UTC).date().to_string()
}

pub fn committed(outcome: CommitOutcome) {
    assert!(matches!(outcome, CommitOutcome::Committed(_)), "{outcome:?}");
}

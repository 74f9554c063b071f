//! A project in a temporary folder, files to fill it with, and looks at what came of them.

use crate::backfill::files::{Earlier, FilesPlan, FilesReport, FilesRun, Reading, plan, reading};
use crate::batch::meter::Meter;
use crate::clock::Clock;
use crate::error::Result;
use crate::lake::{Lake, TableName};
use crate::project::{self, settings::Pipeline, settings::Settings};
use crate::prove::{ProveOptions, prove_on};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use deltaworks_core::units::Interval;
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
      - {name: n, logicalType: integer, logicalTypeOptions: {maximum: 1000000000000000000}}
      - {name: price, logicalType: number, physicalType: 'decimal(20,6)'}
      - {name: ratio, logicalType: number}
      - {name: ok, logicalType: boolean}
      - {name: day, logicalType: date}
      - {name: note, logicalType: string}
      - {name: seen, logicalType: timestamp, physicalType: epoch_ms}
      - {name: tags, logicalType: array, items: {logicalType: string}}
      - name: spot
        logicalType: object
        properties:
          - {name: lane, logicalType: integer, required: true}
      - {name: rest, logicalType: string, physicalType: json}
      - {name: camera, logicalType: string}
";

/// 2026-11-01.
pub const CLOCK_MS: i64 = 1_793_491_200_000;

pub struct Kit {
    pub settings: Settings,
    pub lake: Lake,
    folder: tempfile::TempDir,
}

impl Kit {
    pub fn new() -> Self {
        Self::with("")
    }

    /// `extra` are more lines of the pipeline.
    pub fn with(extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("event.odcs.yaml"), CONTRACT).unwrap();
        let text = format!(
            "version: 1\nlake: ./lake\nkafka:\n  bootstrap.servers: nowhere\npipelines:\n  events:\n    topic: events\n    \
             contract: event.odcs.yaml\n    event_time: at\n    columns: {{camera: {{from: key}}}}\n{extra}"
        );
        std::fs::write(folder.path().join("deltaworks.yaml"), text).unwrap();
        let settings = project::load(folder.path(), &|_| None).unwrap();
        let lake = Lake::open(&settings.lake).unwrap();
        Self { settings, lake, folder }
    }

    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.settings.pipelines[0]
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file below `in/`.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join("in").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn reading(&self) -> Reading {
        reading(self.pipeline())
    }

    pub async fn plan(&self) -> Result<FilesPlan> {
        self.plan_of(&["in"], &[]).await
    }

    pub async fn plan_of(&self, from: &[&str], earlier: &[Earlier<'_>]) -> Result<FilesPlan> {
        let from: Vec<String> = from.iter().map(|f| (*f).to_owned()).collect();
        plan(&self.lake, &self.settings, self.pipeline(), &from, &self.reading(), earlier).await
    }

    pub async fn run(&self, id: &str, plan: &FilesPlan) -> FilesReport {
        self.run_on(&self.lake, id, plan, &CancellationToken::new()).await
    }

    pub async fn run_on(&self, lake: &Lake, id: &str, plan: &FilesPlan, stop: &CancellationToken) -> FilesReport {
        let (settings, pipeline) = (&self.settings, self.pipeline());
        let (meter, clock) = (&Meter::default(), &Clock::of(|| CLOCK_MS));
        FilesRun { lake, settings, pipeline, id, plan, meter, clock, stop }.run().await
    }

    /// Freezes what is below `in/` and carries it out.
    pub async fn fill(&self) -> FilesReport {
        let plan = self.plan().await.unwrap();
        let report = self.run("x", &plan).await;
        assert!(report.error.is_none(), "{:?}", report.error);
        assert!(report.is_done(), "{report:?}");
        report
    }

    /// Every row of a table by name of its file and number, with these columns; fails if a place is there twice.
    pub async fn rows(&self, layer: &str, columns: &[&str]) -> BTreeMap<(String, i64), Vec<String>> {
        let mut rows = BTreeMap::new();
        let wanted: Vec<&str> = ["_topic", "_partition", "_offset"].iter().chain(columns).copied().collect();
        let Some(table) = self.lake.open_table(&TableName::new(layer, "events")).await.unwrap() else { return rows };
        for file in table.live_files().await.unwrap() {
            let batches: Vec<RecordBatch> = table.read_file(&file, &wanted).await.unwrap().try_collect().await.unwrap();
            for batch in batches {
                let options = FormatOptions::default().with_null("∅");
                let cell = |name: &&str, row: usize| {
                    let column = batch.column_by_name(name).unwrap();
                    if let Some(bytes) = column.as_binary_opt::<i32>() {
                        return String::from_utf8_lossy(bytes.value(row)).into_owned();
                    }
                    ArrayFormatter::try_new(column.as_ref(), &options).unwrap().value(row).to_string()
                };
                for row in 0..batch.num_rows() {
                    let url = batch["_topic"].as_string::<i32>().value(row);
                    let number = batch["_offset"].as_primitive::<Int64Type>().value(row);
                    let partition = batch["_partition"].as_primitive::<Int32Type>();
                    assert!(partition.is_valid(row));
                    let name = url.rsplit('/').next().unwrap().to_owned();
                    let cells = columns.iter().map(|name| cell(name, row)).collect();
                    let known = rows.insert((name.clone(), number), cells);
                    assert!(known.is_none(), "{name} {number} is there twice");
                }
            }
        }
        rows
    }

    /// Number of rows of raw.
    pub async fn count(&self) -> usize {
        self.rows("raw", &[]).await.len()
    }

    /// Reason, field and bytes of every reject.
    pub async fn rejects(&self) -> BTreeMap<(String, i64), Vec<String>> {
        self.rows("rejects", &["reason", "field", "payload"]).await
    }

    pub async fn prove(&self) {
        let options = ProveOptions { names: vec!["events".into()], offline: true, interval: Interval::default() };
        let report = prove_on(&self.lake, &self.settings, &options, &Clock::of(|| CLOCK_MS)).await.unwrap();
        assert!(report.error().is_none(), "{:?}", report.error());
        assert!(report.compared.get("rows").copied().unwrap_or(0) > 0, "nothing was compared");
    }
}

/// A good line.
pub fn line(n: i64) -> String {
    let at = jiff::Timestamp::from_second(1_760_000_000 + n * 60).unwrap();
    format!("{{\"id\":\"id-{n}\",\"at\":\"{at}\",\"n\":{n},\"camera\":\"c{}\"}}\n", n % 3)
}

pub fn lines(numbers: std::ops::Range<i64>) -> String {
    numbers.map(line).collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

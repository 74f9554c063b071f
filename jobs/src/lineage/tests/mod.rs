//! Events as they are told: whole, delivered to sinks that misbehave, and to whom.

mod delivery;
mod events;
mod whom;

use super::*;
use crate::clock::Clock;
use crate::lake::{AddedFile, Attempt, Commit, TableName};
use crate::project::settings::{Destination, LineageSettings, Options, Settings};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const RUN_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const SECRET: &str = "hunter2";
const NOW_MS: i64 = 1_772_366_400_000;

/// A project on S3, of which nothing is opened.
fn settings(dir: &Path) -> Settings {
    crate::project::init(dir, Some("traffic")).unwrap();
    let mut settings = crate::project::load(dir, &|_| None).unwrap();
    settings.lake.url = "s3://bucket/lake".parse().unwrap();
    settings.kafka.0.insert("bootstrap.servers".to_owned(), "broker:9092,other:9092".to_owned());
    settings.kafka.0.insert("sasl.password".to_owned(), SECRET.to_owned());
    settings.pipelines.truncate(1);
    settings
}

fn schema() -> Arc<Schema> {
    let inner = Fields::from(vec![Field::new("x", DataType::Int64, true)]);
    let fields = vec![Field::new("id", DataType::Utf8, false), Field::new("s", DataType::Struct(inner), true)];
    Arc::new(Schema::new(fields))
}

/// Whom to tell, at a destination of the test's own.
fn to_tests() -> LineageSettings {
    LineageSettings { to: None, namespace: "tests".to_owned(), every: crate::project::EVERY }
}

fn wrote(settings: &Settings, table: &TableName, version: i64, rows: u64, info: Value) {
    let adds = vec![AddedFile {
        path: "a.parquet".to_owned(),
        partition_values: BTreeMap::default(),
        size: 10 * rows,
        rows,
        stats: String::new(),
    }];
    let attempt = Attempt::of(&Commit { adds, info, ..Commit::default() });
    settings.lake.witness.committed(table, version, attempt, &schema());
}

/// What is told of a run, as it is read from a file.
async fn told(settings: &Settings, job: Job, outcome: &Outcome, facts: &Facts) -> Vec<Value> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("below/lineage.jsonl");
    let teller = Arc::new(Teller::start(&Destination::File(file.clone())));
    let run_of = |name: &str| RunOf { namespace: "dags".to_owned(), name: name.to_owned(), run_id: RUN_ID.to_owned() };
    let parent = Parent { run: run_of("nightly.land"), root: run_of("nightly") };
    let clock = Clock::of(|| NOW_MS);
    let telling = Telling::begin(teller.clone(), job, settings, &to_tests(), Some(parent), clock);
    telling.running();
    telling.end(outcome, facts);
    assert_eq!(teller.end(Duration::from_secs(10)).await, Counts { told: 3, dropped: 0 });
    lines(&file)
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// A facet as it must be: with who tells it and where its form is described.
fn facet(schema: &str, mut body: Value) -> Value {
    let name = schema.split_once('/').unwrap().1;
    body["_producer"] = json!(format!("urn:deltaworks:{}", env!("CARGO_PKG_VERSION")));
    body["_schemaURL"] = json!(format!("https://openlineage.io/spec/facets/{schema}.json#/$defs/{name}"));
    body
}

fn begin(teller: &Arc<Teller>, settings: &Settings) -> Telling {
    let job = Job::new(Kind::Batch, RUN_ID, settings);
    Telling::begin(teller.clone(), job, settings, &to_tests(), None, Clock::of(|| NOW_MS))
}

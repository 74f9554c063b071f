//! PROVE, from outside: what was landed proves itself after a kill, and whatever is changed behind its back is
//! found by the check that is meant for it.

use crate::harness::project::{CATCH_UP, Knobs, TOPIC, block_on};
use crate::harness::{Event, Feed, Lake, MockBroker, Project, Rng};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use deltaworks_core::commit_info::Identity;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lake::{Commit, CommitOutcome, FileProfile, LiveFile, Table, TableName, encode, file_schema};
use deltaworks_jobs::prove::{ProveOptions, Verdict, prove};
use futures::TryStreamExt;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

const PARTITIONS: i32 = 4;
/// Changes that are tried, each on a lake of its own.
const CHANGES: u64 = 1_000;

const AGGREGATE: &str = "-- aggregate: totals
-- grain: one row per window
-- from: events
-- windows: [1h, 1d]
SELECT sum(value) AS total, count(*) AS n FROM events
";

struct Story {
    broker: MockBroker,
    project: Project,
    feed: Feed,
    rng: Rng,
}

impl Story {
    fn begin(seed: u64) -> Self {
        let broker = MockBroker::start(TOPIC, PARTITIONS);
        let top = vec!["aggregates: [totals.sql]"];
        let knobs = Knobs { commit: "{every: 5s, rows: 30}", top, ..Knobs::default() };
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("totals.sql"), AGGREGATE).unwrap();
        let lake = Lake::folder(&dir.path().join("lake"));
        let project = Project::on(dir, &broker, &lake, &knobs);
        Self { broker, project, feed: Feed::new(), rng: Rng(seed) }
    }

    fn send(&mut self, count: usize) {
        let events = Event::mix(&mut self.rng, count, 20);
        self.feed.send(&self.broker, PARTITIONS, &events);
    }

    /// The result of `prove`, and the checks that were refuted.
    fn prove(&self, code: i32) -> (Value, BTreeSet<String>) {
        let result = self.project.run(&["prove"]).expect(code).result();
        let refuted = result["checks"].as_array().unwrap().iter().filter(|c| c["verdict"] == "refuted");
        let refuted = refuted.map(|c| c["check"].as_str().unwrap().to_owned()).collect();
        (result, refuted)
    }
}

#[test]
fn what_was_landed_proves_itself_and_says_how_much_was_compared() {
    let mut story = Story::begin(1);
    story.prove(3);
    story.send(150);
    story
        .project
        .start_faulty("after_rejects_commit=1*off->return", &CATCH_UP)
        .wait()
        .expect_fault("after_rejects_commit");
    story.send(60);
    story.project.catch_up().expect(0);
    let (result, _) = story.prove(0);
    let compared = &result["compared"];
    assert_eq!((compared["offsets"].as_i64(), compared["messages"].as_i64()), (Some(210), Some(210)), "{result}");
    assert!(compared["rows"].as_i64() > Some(210), "raw twice, rejects once: {result}");
    let shown = story.project.run(&["prove", "--offline"]).expect(0);
    let not_proved = shown.result()["not_proved"].to_string();
    assert!(not_proved.contains("broker of events: offline") && not_proved.contains("batch.totals"), "{not_proved}");
    assert!(shown.stdout.contains("proved") && shown.stdout.contains("210 offsets"), "{}", shown.stdout);
    story.project.run(&["prove", "nothing"]).expect(2);
}

#[test]
fn a_message_that_has_no_row_is_found_by_the_broker() {
    let mut story = Story::begin(2);
    story.send(40);
    story.project.catch_up().expect(0);
    story.prove(0);
    // a commit that tells of a gap where messages are: everything in the lake agrees
    story.send(8);
    let lie = story.project.nexts();
    block_on(async {
        let mut raw = open(&story.project, "raw").await;
        let partitions: Vec<Value> = lie
            .iter()
            .map(|(partition, next)| {
                let gap = serde_json::json!([{ "from": next, "to": next + 2 }]);
                serde_json::json!({ "partition": partition, "from": next, "to": next + 2, "landed": 0, "rejected": 0,
                    "skipped": 0, "gaps": gap })
            })
            .collect();
        let info = serde_json::json!({ "run_id": "liar", "sequence": 0, "pipeline": "events", "topic": TOPIC,
            "partitions": partitions, "dates": {} });
        let mut commit = Commit::new("WRITE", &info).unwrap();
        commit.txns = lie.iter().map(|(p, next)| (format!("deltaworks/events/{TOPIC}/{p}/next"), next + 2)).collect();
        assert!(matches!(raw.commit(commit).await, CommitOutcome::Committed(_)));
    });
    let (result, refuted) = story.prove(3);
    assert_eq!(refuted, BTreeSet::from(["broker".to_owned()]), "{result}");
    let broker = result["checks"].as_array().unwrap().iter().find(|c| c["check"] == "broker").unwrap();
    assert_eq!(broker["found"], 8, "{result}");
}

#[test]
fn every_single_change_is_found_by_the_check_that_is_meant_for_it() {
    let mut story = Story::begin(3);
    story.send(120);
    story.project.catch_up().expect(0);
    story.send(90);
    story.project.catch_up().expect(0);
    let kept = tempfile::tempdir().unwrap();
    let lake = story.project.path().join("lake");
    copy(&lake, kept.path());
    let mut kinds = BTreeSet::new();
    for seed in 0..CHANGES {
        let (change, meant) = block_on(change(&story.project, &mut Rng(seed)));
        kinds.insert(change.split(':').next().unwrap().to_owned());
        let options = ProveOptions { offline: true, ..ProveOptions::default() };
        let report = block_on(prove(&story.project.settings(), &options, &Clock::system())).unwrap();
        let refuted: Vec<&str> =
            report.checks.iter().filter(|c| c.verdict == Verdict::Refuted).map(|c| c.check).collect();
        assert!(refuted.contains(&meant), "seed {seed}: {change} should refute `{meant}`, and did {refuted:?}");
        std::fs::remove_dir_all(&lake).unwrap();
        copy(kept.path(), &lake);
    }
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    story.prove(0);
}

#[test]
fn one_command_lands_computes_and_proves() {
    let mut story = Story::begin(4);
    story.send(50);
    let run = ["run", "--partitions", "0-3", "--skip-exit-code"];
    let first = story.project.run(&run).expect(0).result();
    let landed = &first["stream"]["pipelines"]["events"];
    assert_eq!(landed["landed"].as_i64().unwrap() + landed["rejected"].as_i64().unwrap(), 50, "{first}");
    assert_eq!((&first["prove"]["status"], &first["prove"]["compared"]["messages"]), (&"done".into(), &50.into()));
    assert!(first["batch"]["units"]["changed"].as_u64() > Some(0), "{first}");
    assert!(first["reconcile"]["status"] == "done", "{first}");
    let served = story.project.rows("SELECT state, count(*) AS n FROM served.totals GROUP BY state");
    assert!(served.iter().all(|row| row["state"] == "final") && !served.is_empty(), "{served:?}");
    let idle = story.project.run(&run).expect(99).result();
    assert_eq!((&idle["status"], &idle["prove"]["status"]), (&"nothing_to_do".into(), &"done".into()), "{idle}");
    // what cannot be proved ends the run with 3, and everything before it is told
    block_on(async {
        let (mut rejects, file) = some_file(&story.project, "rejects", &mut story.rng).await;
        let commit = Commit { removes: vec![file], ..liar() };
        assert!(matches!(rejects.commit(commit).await, CommitOutcome::Committed(_)));
    });
    let broken = story.project.run(&run).expect(3).result();
    assert_eq!(
        (&broken["stream"]["status"], &broken["prove"]["status"]),
        (&"done".into(), &"failed".into()),
        "{broken}"
    );
    // and a step that fails keeps the next from beginning
    let failed = story.project.run(&["run", "--partitions", "77"]);
    let result = failed.result();
    assert!(result["stream"]["status"] == "failed" && result.get("prove").is_none(), "{result}");
}

#[test]
fn served_windows_are_held_against_batch() {
    let mut story = Story::begin(5);
    story.send(60);
    let first = story.project.run(&["run", "--partitions", "0-3"]).expect(0).result();
    let checks = first["prove"]["checks"].as_array().unwrap();
    let served = checks.iter().find(|c| c["check"] == "served").unwrap();
    assert!(served["verdict"] == "proved" && served["compared"]["windows"].as_u64() > Some(1), "{served}");
    let kept = tempfile::tempdir().unwrap();
    let lake = story.project.path().join("lake");
    copy(&lake, kept.path());
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let change = block_on(async {
            let (mut served, file) = some_file(&story.project, "served", &mut rng).await;
            let mut told = String::new();
            rewrite(&mut served, &file, |batch| match rng.below(3) {
                0 => {
                    told = "twice".into();
                    doubled(batch, &mut rng)
                }
                1 => {
                    told = "gone".into();
                    without_one(batch, &mut rng)
                }
                _ => {
                    let (column, row) = some_cell(batch, &mut rng, |name| name != "generation" && name != "pin");
                    told = batch.schema().field(column).name().clone();
                    with_cell(batch, column, row)
                }
            })
            .await;
            told
        });
        let (result, refuted) = story.prove(3);
        assert_eq!(refuted, BTreeSet::from(["served".to_owned()]), "{change}: {result}");
        std::fs::remove_dir_all(&lake).unwrap();
        copy(kept.path(), &lake);
    }
}

/// Makes one change; what it was, and the check that must find it.
async fn change(project: &Project, rng: &mut Rng) -> (String, &'static str) {
    match rng.below(9) {
        0 => {
            let (mut raw, file) = some_file(project, "raw", rng).await;
            let mut told = String::new();
            rewrite(&mut raw, &file, |batch| {
                let (column, row) = some_cell(batch, rng, |name| !name.starts_with("_offset"));
                told = format!("raw cell: {} of row {row}", batch.schema().field(column).name());
                with_cell(batch, column, row)
            })
            .await;
            (told, "rows")
        }
        1 => {
            let (mut raw, file) = some_file(project, "raw", rng).await;
            rewrite(&mut raw, &file, |batch| {
                let column = batch.schema().index_of("_offset").unwrap();
                with_cell(batch, column, rng.below(batch.num_rows() as u64) as usize)
            })
            .await;
            ("raw offset: shifted".into(), "rows")
        }
        2 => {
            let (mut raw, file) = some_file(project, "raw", rng).await;
            let mut commit = liar();
            commit.removes = vec![file.clone()];
            assert!(matches!(raw.commit(commit).await, CommitOutcome::Committed(_)));
            (format!("raw file: dropped {}", file.path), "places")
        }
        3 => {
            let (_, file) = some_file(project, "raw", rng).await;
            std::fs::remove_file(project.path().join("lake/raw/events").join(&file.path)).unwrap();
            (format!("raw file gone: {}", file.path), "rows")
        }
        4 => {
            let (mut raw, file) = some_file(project, "raw", rng).await;
            rewrite(&mut raw, &file, |batch| doubled(batch, rng)).await;
            ("raw row: twice".into(), "places")
        }
        5 => {
            let (mut rejects, file) = some_file(project, "rejects", rng).await;
            let twice = rng.below(2) == 0;
            rewrite(&mut rejects, &file, |batch| if twice { doubled(batch, rng) } else { without_one(batch, rng) })
                .await;
            (format!("rejects row: twice {twice}"), "places")
        }
        6 => {
            let (mut ledger, file) = some_file(project, "ops", rng).await;
            let mut told = String::new();
            rewrite(&mut ledger, &file, |batch| {
                let (column, row) = some_cell(batch, rng, |_| true);
                told = format!("ledger cell: {} of row {row}", batch.schema().field(column).name());
                with_cell(batch, column, row)
            })
            .await;
            (told, "offsets")
        }
        7 => {
            let (mut ledger, file) = some_file(project, "ops", rng).await;
            let twice = rng.below(2) == 0;
            rewrite(&mut ledger, &file, |batch| if twice { doubled(batch, rng) } else { without_one(batch, rng) })
                .await;
            (format!("ledger row: twice {twice}"), "offsets")
        }
        _ => {
            let mut raw = open(project, "raw").await;
            let (partition, next) = project_next(&raw, rng);
            let mut commit = liar();
            commit.txns = vec![(format!("deltaworks/events/{TOPIC}/{partition}/next"), next + 1)];
            assert!(matches!(raw.commit(commit).await, CommitOutcome::Committed(_)));
            (format!("raw progress: {partition} at {next}"), "offsets")
        }
    }
}

fn project_next(raw: &Table, rng: &mut Rng) -> (i32, i64) {
    let nexts: Vec<(i32, i64)> = (0..PARTITIONS)
        .filter_map(|p| Some((p, *raw.txns().get(&format!("deltaworks/events/{TOPIC}/{p}/next"))?)))
        .collect();
    nexts[rng.below(nexts.len() as u64) as usize]
}

fn liar() -> Commit {
    Commit::new("WRITE", &Identity { run_id: "liar".into(), sequence: 0 }).unwrap()
}

async fn open(project: &Project, layer: &str) -> Table {
    let name = match layer {
        "ops" => "offsets",
        "served" => "totals",
        _ => "events",
    };
    let name = TableName::new(layer, name);
    let lake = deltaworks_jobs::lake::Lake::open(&project.settings().lake).unwrap();
    lake.open_table(&name).await.unwrap().expect("the table is there")
}

async fn some_file(project: &Project, layer: &str, rng: &mut Rng) -> (Table, LiveFile) {
    let table = open(project, layer).await;
    let mut files = table.live_files().await.unwrap();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let file = files.swap_remove(rng.below(files.len() as u64) as usize);
    (table, file)
}

/// Puts other rows in the place of a file's.
async fn rewrite(table: &mut Table, file: &LiveFile, change: impl FnOnce(&RecordBatch) -> RecordBatch) {
    let schema = file_schema(table.schema(), table.partition_columns());
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let batches: Vec<RecordBatch> = table.read_file(file, &names).await.unwrap().try_collect().await.unwrap();
    let whole = concat_batches(&batches[0].schema(), &batches).unwrap();
    let changed = change(&whole);
    let encoded = encode(&FileProfile::new(schema), [Ok(changed)]).unwrap();
    let mut commit = liar();
    commit.removes = vec![file.clone()];
    commit.adds = vec![table.sink().put(file.partition_values.clone(), encoded).await.unwrap()];
    assert!(matches!(table.commit(commit).await, CommitOutcome::Committed(_)));
}

fn some_cell(batch: &RecordBatch, rng: &mut Rng, wanted: impl Fn(&str) -> bool) -> (usize, usize) {
    loop {
        let column = rng.below(batch.num_columns() as u64) as usize;
        let row = rng.below(batch.num_rows() as u64) as usize;
        if wanted(batch.schema().field(column).name()) && batch.column(column).is_valid(row) {
            return (column, row);
        }
    }
}

/// The batch with another value in one cell.
fn with_cell(batch: &RecordBatch, column: usize, row: usize) -> RecordBatch {
    let old = batch.column(column);
    let new: ArrayRef = match old.data_type() {
        DataType::Int64 => {
            Arc::new(changed(old.as_primitive::<Int64Type>().iter(), row, |n| n + 1).collect::<Int64Array>())
        }
        DataType::Int32 => {
            Arc::new(changed(old.as_primitive::<Int32Type>().iter(), row, |n| n + 1).collect::<Int32Array>())
        }
        DataType::Timestamp(..) => {
            let new = changed(old.as_primitive::<TimestampMicrosecondType>().iter(), row, |us| us + 1);
            Arc::new(new.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        DataType::Boolean => Arc::new(changed(old.as_boolean().iter(), row, |b| !b).collect::<BooleanArray>()),
        DataType::Utf8 => {
            let text = |text: &str| {
                format!("{}0", text.strip_suffix('0').map_or_else(|| text.to_owned(), |t| format!("{t}1")))
            };
            Arc::new(
                old.as_string::<i32>()
                    .iter()
                    .enumerate()
                    .map(|(n, t)| t.map(|t| if n == row { text(t) } else { t.to_owned() }))
                    .collect::<StringArray>(),
            )
        }
        DataType::Date32 => {
            let new = changed(old.as_primitive::<arrow::datatypes::Date32Type>().iter(), row, |d| d + 1);
            Arc::new(new.collect::<arrow::array::Date32Array>())
        }
        other => panic!("no other value of {other} is known"),
    };
    let mut columns = batch.columns().to_vec();
    columns[column] = new;
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

fn changed<T: Copy>(
    values: impl Iterator<Item = Option<T>>,
    row: usize,
    change: impl Fn(T) -> T,
) -> impl Iterator<Item = Option<T>> {
    values.enumerate().map(move |(n, value)| value.map(|v| if n == row { change(v) } else { v }))
}

fn doubled(batch: &RecordBatch, rng: &mut Rng) -> RecordBatch {
    with_row_twice(batch, rng.below(batch.num_rows() as u64) as usize)
}

fn with_row_twice(batch: &RecordBatch, row: usize) -> RecordBatch {
    let rows = (0..batch.num_rows()).chain([row]).map(|n| n as u32);
    take_record_batch(batch, &UInt32Array::from_iter_values(rows)).unwrap()
}

fn without_one(batch: &RecordBatch, rng: &mut Rng) -> RecordBatch {
    without(batch, rng.below(batch.num_rows() as u64) as usize)
}

fn without(batch: &RecordBatch, row: usize) -> RecordBatch {
    let mask: BooleanArray = (0..batch.num_rows()).map(|n| Some(n != row)).collect();
    filter_record_batch(batch, &mask).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&source, &target);
        } else {
            std::fs::copy(&source, &target).unwrap();
        }
    }
}

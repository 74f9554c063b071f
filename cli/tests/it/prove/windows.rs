//! Batch windows held against a second engine: every golden case is proved, and every change is found.

use super::changes::{change, doubled, liar, open, rewrite, some_cell, some_file, with_cell, without, without_one};
use super::{Story, copy, proved, refuted};
use crate::harness::project::block_on;
use crate::harness::{MockBroker, Project, Rng};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use deltaworks_jobs::kafka::producer::Outgoing;
use deltaworks_jobs::lake::{Commit, CommitOutcome};
use deltaworks_jobs::prove::Verdict;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Changes that are tried, each on a lake of its own.
const CHANGES: u64 = 48;
const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/cases");
const CONTRACT: &str = include_str!("../../../../fixtures/cases/event.odcs.yaml");

#[test]
fn every_change_of_what_batch_has_published_is_found() {
    let mut story = Story::with("aggregates: [notes.sql]", 11);
    story.send(160);
    story.project.run(&["run", "--partitions", "0-3"]).expect(0);
    let whole = proved(&story.project);
    assert!(whole.iter().all(|check| check.verdict == Verdict::Proved || check.check == "broker"), "{whole:#?}");
    let kept = tempfile::tempdir().unwrap();
    let lake = story.project.path().join("lake");
    copy(&lake, kept.path());
    let mut kinds = BTreeSet::new();
    for seed in 0..CHANGES {
        let (what, meant) = block_on(change_batch(&story.project, &mut Rng(seed)));
        kinds.insert(what.split(':').next().unwrap().to_owned());
        let refuted = refuted(&proved(&story.project));
        for meant in meant {
            assert!(refuted.contains(meant), "seed {seed}: {what} should refute `{meant}`, and did {refuted:?}");
        }
        std::fs::remove_dir_all(&lake).unwrap();
        copy(kept.path(), &lake);
    }
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    story.prove(0);
}

/// Makes one change; what it was, and the checks that must find it.
async fn change_batch(project: &Project, rng: &mut Rng) -> (String, &'static [&'static str]) {
    let (table, batch) = ("batch.notes", open(project, "batch.notes").await);
    match rng.below(9) {
        0 => {
            let (mut batch, file) = some_file(project, table, rng).await;
            let mut told = String::new();
            rewrite(&mut batch, &file, |rows| {
                let (column, row) = some_cell(rows, rng, |_| true);
                told = rows.schema().field(column).name().clone();
                with_cell(rows, column, row)
            })
            .await;
            let is_balanced = !matches!(told.as_str(), "events" | "duplicates");
            let meant: &[&str] = if is_balanced { &["windows"] } else { &["windows", "balance"] };
            (format!("cell: {told}"), meant)
        }
        1 => {
            let (mut batch, file) = some_file(project, table, rng).await;
            rewrite(&mut batch, &file, |rows| doubled(rows, rng)).await;
            ("row twice:".into(), &["windows", "balance"])
        }
        2 => {
            let (mut batch, file) = some_file(project, table, rng).await;
            rewrite(&mut batch, &file, |rows| without_one(rows, rng)).await;
            ("row gone:".into(), &["windows", "balance"])
        }
        3 => {
            let (mut batch, file) = some_file(project, table, rng).await;
            rewrite(&mut batch, &file, |rows| without_window(rows, rng)).await;
            ("window gone:".into(), &["windows", "balance"])
        }
        4 => {
            let (mut batch, file) = some_file(project, table, rng).await;
            let commit = Commit { removes: vec![file.clone()], ..liar() };
            assert!(matches!(batch.commit(commit).await, CommitOutcome::Committed(_)));
            (format!("unit gone: {}", file.path), &["windows", "balance"])
        }
        5 => {
            let (_, file) = some_file(project, table, rng).await;
            std::fs::remove_file(project.path().join("lake/batch/notes").join(&file.path)).unwrap();
            (format!("file gone: {}", file.path), &["windows"])
        }
        6 => {
            let (mut pins, file) = some_file(project, "ops.pins", rng).await;
            let is_gone = rng.below(2) == 0;
            rewrite(&mut pins, &file, |rows| {
                let row = rng.below(rows.num_rows() as u64) as usize;
                let json = rows.schema().index_of("json").unwrap();
                if is_gone { without(rows, row) } else { with_cell(rows, json, row) }
            })
            .await;
            (format!("pin: gone {is_gone}"), &["windows"])
        }
        7 => {
            let generations: Vec<(&String, &i64)> =
                batch.txns().iter().filter(|(id, _)| id.ends_with("/generation")).collect();
            let (id, generation) = generations[rng.below(generations.len() as u64) as usize];
            let mut commit = liar();
            commit.txns = vec![(id.clone(), generation + 1)];
            let (told, mut batch) = (format!("ledger: {id}"), batch.clone());
            assert!(matches!(batch.commit(commit).await, CommitOutcome::Committed(_)));
            (told, &["windows"])
        }
        _ => {
            let (what, meant) = change(project, rng).await;
            let meant: &[&str] = match meant {
                "rows" => &["rows"],
                "places" => &["places"],
                _ => &["offsets"],
            };
            (format!("raw: {what}"), meant)
        }
    }
}

fn without_window(rows: &RecordBatch, rng: &mut Rng) -> RecordBatch {
    let starts = rows.column_by_name("window_start").unwrap().as_primitive::<TimestampMicrosecondType>();
    let gone = starts.value(rng.below(starts.len() as u64) as usize);
    let stays: BooleanArray = starts.iter().map(|start| Some(start != Some(gone))).collect();
    filter_record_batch(rows, &stays).unwrap()
}

#[test]
fn an_interval_proves_some_units_and_is_refused_where_it_is_empty() {
    let mut story = Story::with("aggregates: [totals.sql]", 12);
    story.send(60);
    story.project.run(&["run", "--partitions", "0-3"]).expect(0);
    let compared = |args: &[&str]| {
        let args: Vec<&str> = ["prove", "--offline"].iter().chain(args).copied().collect();
        let compared = story.project.run(&args).expect(0).result()["compared"].clone();
        ["windows", "windows recomputed", "offsets"].map(|what| compared[what].as_u64().unwrap_or(0))
    };
    let [windows, recomputed, offsets] = compared(&[]);
    let [of_day, recomputed_of_day, offsets_of_day] =
        compared(&["--interval-start", "2024-03-01T00:00:00Z", "--interval-end", "2024-03-02T00:00:00Z"]);
    assert!(0 < of_day && of_day < windows, "{of_day} of {windows} served windows");
    assert_eq!(recomputed_of_day, 24 + 1);
    assert!(recomputed_of_day < recomputed && offsets == offsets_of_day, "{recomputed}, {offsets}");
    let noon = "2024-03-01T12:00:00Z";
    story.project.run(&["prove", "--interval-start", noon, "--interval-end", noon]).expect(2);
}

/// The lines of the steps of a case.
struct Case {
    name: String,
    steps: Vec<Vec<String>>,
}

#[test]
fn every_golden_case_is_proved() {
    let (cases, partitions) = (cases(), 3);
    let broker = MockBroker::start(&cases[0].name, partitions);
    cases[1..].iter().for_each(|case| broker.create_topic(&case.name, partitions));
    let project = project(&cases, &broker);
    let mut sent = vec![0_i64; cases.len()];
    for step in 0..cases.iter().map(|case| case.steps.len()).max().unwrap() {
        for (case, sent) in cases.iter().zip(&mut sent) {
            case.send(step, &broker, partitions, sent);
        }
        project.run(&["stream", "--until-caught-up", "--partitions", "0-2"]).expect(0);
        project.run(&["batch"]).expect(0);
    }
    let result = project.run(&["prove", "--offline"]).expect(0).result();
    for case in &cases {
        let of = format!("batch.{}", case.name);
        let checks = result["checks"].as_array().unwrap().iter();
        let checks: Vec<&Value> =
            checks.filter(|check| check["of"] == of.as_str() && check["check"] == "windows").collect();
        assert!(matches!(*checks, [check] if check["verdict"] == "proved"), "{}: {checks:#?}", case.name);
    }
}

fn cases() -> Vec<Case> {
    let mut folders: Vec<_> = std::fs::read_dir(CASES).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    assert!(!folders.is_empty(), "{CASES} has no cases");
    folders.iter().map(|folder| Case::read(folder)).collect()
}

fn project(cases: &[Case], broker: &MockBroker) -> Project {
    let project = Project::new(broker);
    project.deploy(CONTRACT);
    let (mut aggregates, mut pipelines) = (String::new(), String::new());
    for Case { name, .. } in cases {
        let sql = std::fs::read_to_string(Path::new(CASES).join(name).join("aggregate.sql")).unwrap();
        std::fs::write(project.path().join(format!("{name}.sql")), sql).unwrap();
        writeln!(aggregates, "  - {name}.sql").unwrap();
        writeln!(
            pipelines,
            "  {name}_events:\n    topic: {name}\n    contract: event.odcs.yaml\n    event_time: at\n    lateness: 1h"
        )
        .unwrap();
    }
    let text = format!(
        "version: 1\nlake: ${{DELTAWORKS_LAKE}}\nkafka:\n  bootstrap.servers: ${{KAFKA_BROKERS}}\n\
         pipelines:\n{pipelines}aggregates:\n{aggregates}"
    );
    std::fs::write(project.path().join("deltaworks.yaml"), text).unwrap();
    project
}

impl Case {
    fn read(folder: &Path) -> Self {
        let events = std::fs::read_to_string(folder.join("events.jsonl")).unwrap();
        let steps = events.trim_end().split("\n\n").map(|step| step.lines().map(str::to_owned).collect()).collect();
        Self { name: folder.file_name().unwrap().to_str().unwrap().to_owned(), steps }
    }

    /// Sends a step, if the case has that many, over the partitions in turn.
    fn send(&self, step: usize, broker: &MockBroker, partitions: i32, sent: &mut i64) {
        let Some(lines) = self.steps.get(step) else { return };
        let since_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64 - 60_000;
        let message = |(line, n): (&'_ String, i64)| (line.clone(), (n % i64::from(partitions)) as i32, since_ms + n);
        let messages: Vec<(String, i32, i64)> = lines.iter().zip(*sent..).map(message).collect();
        let messages: Vec<Outgoing<'_>> = messages
            .iter()
            .map(|(line, partition, at_ms)| Outgoing {
                partition: Some(*partition),
                payload: Some(line.as_bytes()),
                timestamp_ms: Some(*at_ms),
                ..Outgoing::default()
            })
            .collect();
        broker.send(&self.name, &messages);
        *sent += messages.len() as i64;
    }
}

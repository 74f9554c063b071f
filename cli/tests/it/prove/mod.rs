//! PROVE, from outside: what was landed proves itself after a kill, and whatever is changed behind its back is
//! found by the check that is meant for it.

mod changes;
mod windows;

use crate::harness::project::{CATCH_UP, Knobs, TOPIC, block_on};
use crate::harness::{Event, Feed, MockBroker, Project, Rng};
use changes::{change, doubled, liar, open, rewrite, some_cell, some_file, with_cell, without_one};
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lake::{Commit, CommitOutcome};
use deltaworks_jobs::prove::{Check, ProveOptions, Verdict, prove};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

const PARTITIONS: i32 = 4;
/// Changes that are tried, each on a lake of its own.
const CHANGES: u64 = 1_000;

const TOTALS: &str = "-- aggregate: totals
-- grain: one row per window
-- from: events
-- windows: [1h, 1d]
SELECT sum(value) AS total, count(*) AS n FROM events
";

const NOTES: &str = "-- aggregate: notes
-- grain: one row per kind of note and window
-- from: events
-- windows: [6h, 1w]
-- timezone: Europe/Kyiv
SELECT substr(note, 1, 7) AS kind, note IS NULL AS has_none, avg(value) AS mean, median(value) AS middle, max(at) AS last_at,
  first_value(id ORDER BY at) AS first_id, count(DISTINCT value) FILTER (WHERE value > 500) AS great, bool_or(value > 900) AS any_great
FROM events WHERE value <> 7 GROUP BY 1, 2 HAVING count(*) > 1
";

struct Story {
    broker: MockBroker,
    project: Project,
    feed: Feed,
    rng: Rng,
}

impl Story {
    fn begin(seed: u64) -> Self {
        Self::with("aggregates: [totals.sql]", seed)
    }

    /// With some of the aggregates of this file.
    fn with(aggregates: &'static str, seed: u64) -> Self {
        let broker = MockBroker::start(TOPIC, PARTITIONS);
        let top = vec![aggregates];
        let knobs = Knobs { commit: "{every: 5s, rows: 30}", top, ..Knobs::default() };
        let project = Project::with(&broker, &knobs);
        project.put("totals.sql", TOTALS);
        project.put("notes.sql", NOTES);
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

/// All checks but those of the broker, in this process.
fn proved(project: &Project) -> Vec<Check> {
    let options = ProveOptions { offline: true, ..ProveOptions::default() };
    block_on(prove(&project.settings(), &options, &Clock::system())).unwrap().checks
}

fn refuted(checks: &[Check]) -> Vec<&'static str> {
    checks.iter().filter(|check| check.verdict == Verdict::Refuted).map(|check| check.check).collect()
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
    assert!(not_proved.contains("broker of events: offline"), "{not_proved}");
    assert!(not_proved.contains("windows of batch.totals: batch has published nothing yet"), "{not_proved}");
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
        let mut raw = open(&story.project, "raw.events").await;
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
        let refuted = refuted(&proved(&story.project));
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
        let (mut rejects, file) = some_file(&story.project, "rejects.events", &mut story.rng).await;
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
    for seed in 0..30 {
        let mut rng = Rng(seed);
        let change = block_on(async {
            let (mut served, file) = some_file(&story.project, "served.totals", &mut rng).await;
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
        assert_eq!(refuted(&proved(&story.project)), ["served"], "{change}");
        std::fs::remove_dir_all(&lake).unwrap();
        copy(kept.path(), &lake);
    }
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

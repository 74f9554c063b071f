//! Upkeep from outside: beside a running stream, killed at its commits, and what it prints.

use crate::harness::project::{CATCH_UP, Knobs, TOPIC};
use crate::harness::{Ended, Event, Feed, MockBroker, Project, Rng};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const PARTITIONS: i32 = 4;
const COMPACT: [&str; 4] = ["tables", "compact", "raw.events", "rejects.events"];

/// A project that has landed 200 messages in commits of 10.
fn landed(seed: u64) -> (MockBroker, Project, Feed) {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(seed), 200, 20));
    project.run(&CATCH_UP).expect_worked();
    (broker, project, feed)
}

fn described(project: &Project, table: &str) -> Value {
    let ended = project.run(&["tables", "describe", table, "--format", "json"]).expect(0);
    serde_json::from_str(ended.stdout.trim()).unwrap()
}

fn history(project: &Project) -> Vec<Value> {
    let ended = project.run(&["tables", "history", "raw.events", "--limit", "100", "--format", "json"]).expect(0);
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn data_files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().flatten().map(|e| e.path());
    entries
        .filter(|path| !path.ends_with("_delta_log"))
        .map(|path| if path.is_dir() { data_files(&path) } else { 1 })
        .sum()
}

fn dates(ended: &Ended) -> Vec<Value> {
    ended.result()["dates"].as_array().unwrap().clone()
}

#[test]
fn compaction_beside_a_running_stream_loses_nothing() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 50ms, rows: 20}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(71));
    let stream = project.start(&["stream", "--partitions", "0-3"]);
    let mut compacted = 0;
    for round in 0..12 {
        feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 50, 10));
        std::thread::sleep(Duration::from_millis(400));
        if round > 1 {
            compacted += dates(&project.run(&COMPACT).expect(0)).len();
        }
    }
    stream.signal("TERM");
    stream.wait().expect(143);
    assert!(compacted > 3, "{compacted}");
    project.catch_up().expect(0);
    feed.verify(&project);
    project.run(&COMPACT).expect(0);
    feed.verify(&project);
    project.run(&[&COMPACT[..], &["--skip-exit-code"]].concat()).expect(99);
    project.run(&["prove", "--offline"]).expect(0);
}

#[test]
fn killed_at_its_commit_it_goes_on() {
    let (_broker, project, feed) = landed(72);
    let before = described(&project, "raw.events");
    project.start_faulty("before_compact_commit=1*off->return", &COMPACT).wait().expect_fault("before_compact_commit");
    feed.verify(&project);
    project.start_faulty("after_compact_commit=return", &COMPACT).wait().expect_fault("after_compact_commit");
    feed.verify(&project);
    project.run(&COMPACT).expect(0);
    feed.verify(&project);
    let after = described(&project, "raw.events");
    assert_eq!((&after["id"], &after["rows"]), (&before["id"], &before["rows"]));
    assert!(after["files"].as_u64() < before["files"].as_u64(), "{before} {after}");
    // what was replaced and what was never committed goes, where nobody may need it
    let folder = project.path().join("lake/raw/events");
    assert!(data_files(&folder) as u64 > after["files"].as_u64().unwrap());
    let vacuum = ["tables", "vacuum", "raw.events", "--older-than", "0s"];
    assert!(project.run(&vacuum).expect(2).stderr.contains("--force"));
    let forced = [&vacuum[..], &["--force"]].concat();
    let planned = project.run(&[&forced[..], &["--dry-run"]].concat()).expect(0).result();
    let doomed = planned["tables"][0]["list"].as_array().unwrap().len() as u64;
    let done = project.run(&forced).expect(0).result();
    assert_eq!(done["tables"][0]["files"].as_u64(), Some(doomed), "{planned} {done}");
    assert_eq!(data_files(&folder) as u64, after["files"].as_u64().unwrap());
    feed.verify(&project);
    project.run(&[&forced[..], &["--skip-exit-code"]].concat()).expect(99);
}

/// Both tables have the same to do; it is killed between them, and at the end of the second.
#[test]
fn vacuum_and_checkpoint_killed_at_each_step_go_on() {
    let (_broker, project, feed) = landed(75);
    project.run(&COMPACT).expect(0);
    let tables = ["raw.events", "rejects.events"];
    let doomed = |table: &str| {
        let folder = project.path().join("lake").join(table.replace('.', "/"));
        data_files(&folder) as u64 - described(&project, table)["files"].as_u64().unwrap()
    };
    let vacuum = [&["tables", "vacuum"], &tables[..], &["--older-than", "0s", "--force"]].concat();
    assert!(tables.iter().all(|table| doomed(table) > 0));
    project.start_faulty("before_vacuum_delete=1*off->return", &vacuum).wait().expect_fault("before_vacuum_delete");
    assert!(doomed(tables[0]) == 0 && doomed(tables[1]) > 0);
    project.start_faulty("after_vacuum_delete=return", &vacuum).wait().expect_fault("after_vacuum_delete");
    assert!(tables.iter().all(|table| doomed(table) == 0));
    project.run(&[&vacuum[..], &["--skip-exit-code"]].concat()).expect(99);
    feed.verify(&project);
    let has_checkpoint = |table: &str| {
        let described = described(&project, table);
        described["checkpoint"] == described["version"]
    };
    let checkpoint = [&["tables", "checkpoint", "--force"], &tables[..]].concat();
    assert!(!tables.iter().any(|table| has_checkpoint(table)));
    for (fault, point, done) in [
        ("before_asked_checkpoint=1*off->return", "before_asked_checkpoint", [true, false]),
        ("after_asked_checkpoint=return", "after_asked_checkpoint", [true, true]),
    ] {
        project.start_faulty(fault, &checkpoint).wait().expect_fault(point);
        assert_eq!(tables.map(has_checkpoint), done, "{point}");
    }
    project.run(&[&checkpoint[..], &["--skip-exit-code"]].concat()).expect(99);
    feed.verify(&project);
    project.run(&["prove", "--offline"]).expect(0);
}

#[test]
fn plans_change_nothing_and_say_what_would() {
    let (_broker, project, feed) = landed(73);
    let before = history(&project);
    let planned = project.run(&[&COMPACT[..], &["--dry-run"]].concat()).expect(0).result();
    assert_eq!(planned["status"], "planned");
    let checkpoint = project.run(&["tables", "checkpoint", "raw.events", "--force", "--dry-run"]).expect(0).result();
    assert_eq!((&checkpoint["status"], &checkpoint["tables"][0]["write"]), (&"planned".into(), &true.into()));
    assert_eq!(history(&project), before);
    assert_eq!(described(&project, "raw.events")["checkpoint"], checkpoint["tables"][0]["last"]);
    let done = project.run(&[&COMPACT[..], &["--sort-by", "_offset"]].concat()).expect(0);
    let files = |date: &Value| date["files"].as_u64().unwrap() - date["files_after"].as_u64().unwrap();
    let planned_dates = planned["dates"].as_array().unwrap();
    assert_eq!(dates(&done).iter().map(files).collect::<Vec<_>>(), planned_dates.iter().map(files).collect::<Vec<_>>());
    let after = history(&project);
    let rewrites: Vec<&Value> = after.iter().filter(|c| c["operation"] == "OPTIMIZE").collect();
    let of_raw = dates(&done).iter().filter(|d| d["table"] == "raw.events").count();
    assert_eq!(rewrites.len(), of_raw);
    assert!(rewrites.iter().all(|c| c["run_id"] == done.result()["run_id"] && c["rows_added"] == 0), "{after:?}");
    feed.verify(&project);
    project.run(&["tables", "checkpoint", "raw.events", "--force"]).expect(0);
    project.run(&["tables", "checkpoint", "raw.events", "--force", "--skip-exit-code"]).expect(99);
    let table = described(&project, "raw.events");
    assert_eq!(table["checkpoint"], table["version"]);
    feed.verify(&project);
}

#[test]
fn a_table_that_is_not_there_is_named() {
    let (_broker, project, _) = landed(74);
    let ended = project.run(&["tables", "describe", "raw.nobody"]).expect(2);
    assert!(ended.stderr.contains("there is no table `raw.nobody`"), "{}", ended.stderr);
    assert!(ended.stderr.contains("`raw.events`") && ended.stdout.is_empty(), "{ended:?}");
    let ended = project.run(&["tables", "compact", "speed.any"]).expect(2);
    assert_eq!(ended.result()["status"], "failed");
    project.run(&["tables", "vacuum", "events"]).expect(2);
    let shown = project.run(&["tables", "describe", "raw.events"]).expect(0).stdout;
    assert!(shown.contains("partitioned by") && shown.contains("event_date"), "{shown}");
}

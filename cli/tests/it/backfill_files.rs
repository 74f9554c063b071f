//! `backfill create PIPELINE --from files`: killed at every step, gone on with by its id, given up, two at once.

use crate::harness::events::DAY_US;
use crate::harness::project::{Knobs, TOPIC};
use crate::harness::{Ended, MockBroker, Project, wait_until};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const FILES: usize = 6;
const ROWS: usize = 40;

/// A project with six files of forty rows; parts are of 25 rows.
struct Story {
    #[expect(dead_code, reason = "held")]
    broker: MockBroker,
    project: Project,
}

impl Story {
    fn new() -> Self {
        let broker = MockBroker::start(TOPIC, 1);
        let project = Project::with(&broker, &Knobs { commit: "{every: 60s, rows: 25}", ..Knobs::default() });
        let story = Self { broker, project };
        fs::create_dir(story.input()).unwrap();
        for file in 0..FILES {
            let line = |n: usize| {
                let at = jiff::Timestamp::from_microsecond(1_704_067_200_000_000 + n as i64 * DAY_US / 50).unwrap();
                format!("{{\"id\":\"e-{n:x}\",\"at\":\"{at}\",\"value\":{n}}}\n")
            };
            let text: String = (file * ROWS..(file + 1) * ROWS).map(line).collect();
            fs::write(story.input().join(format!("{file}.jsonl")), text).unwrap();
        }
        story
    }

    fn input(&self) -> PathBuf {
        self.project.path().join("in")
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.project.run(&[&["backfill"], args].concat())
    }

    fn listed(&self) -> Vec<Value> {
        let ended = self.run(&["list", "--format", "json"]).expect(0);
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Rows in raw, each place once.
    fn rows(&self) -> u64 {
        let sql = "SELECT count(*) AS n, count(DISTINCT _topic || '@' || _offset) AS places FROM raw.events";
        let row = self.project.rows(sql).remove(0);
        assert_eq!(row["n"], row["places"]);
        row["n"].as_u64().unwrap()
    }

    #[track_caller]
    fn verify(&self) {
        assert_eq!(self.rows(), (FILES * ROWS) as u64);
        self.project.run(&["prove", "--offline"]).expect(0);
    }
}

const CREATE: [&str; 6] = ["backfill", "create", "events", "--from", "files", "--path"];

fn create(pattern: &str) -> Vec<&str> {
    [&CREATE[..], &[pattern]].concat()
}

#[test]
fn files_fill_a_pipeline() {
    let story = Story::new();
    let plan = story.project.run(&[&create("in/*.jsonl")[..], &["--dry-run"]].concat()).expect(0).result();
    assert_eq!((&plan["status"], plan["files"].as_array().unwrap().len()), (&"planned".into(), FILES), "{plan}");
    assert!(!story.project.path().join("lake/ops").exists() && !story.project.path().join("lake/raw").exists());
    let ended = story.project.run(&create("in/*.jsonl")).expect(0);
    let result = ended.result();
    assert_eq!((&result["files"], &result["files_done"]), (&FILES.into(), &FILES.into()), "{result}");
    assert_eq!(result["landed"], FILES * ROWS, "{result}");
    let id = result["backfill"].as_str().unwrap();
    let first = ended.stderr.lines().next().unwrap();
    assert!(first.contains(&format!("deltaworks backfill resume {id}")), "{first}");
    story.verify();
    let status = story.run(&["status", id, "--format", "json"]).expect(0);
    let line: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((&line["kind"], &line["state"], &line["left"]), (&"files".into(), &"finished".into(), &0.into()));
    story.run(&["resume", id, "--skip-exit-code"]).expect(99);
    // the same files once more add nothing
    let again = story.project.run(&create("in")).expect(0).result();
    assert_eq!((&again["landed"], &again["already"]), (&0.into(), &(FILES * ROWS).into()), "{again}");
    story.verify();
    // and a copy of one is refused
    fs::copy(story.input().join("3.jsonl"), story.input().join("copy.jsonl")).unwrap();
    let refused = story.project.run(&create("in/copy.jsonl")).expect(2);
    assert!(refused.stderr.contains("has the same content as"), "{}", refused.stderr);
}

/// Kills a run at the `nth` time that it comes to `point`; what was created is gone on with, or else created.
fn killed_at(point: &str, nth: u64) {
    let story = Story::new();
    let fault = format!("{point}={}*off->return", nth - 1);
    story.project.start_faulty(&fault, &create("in")).wait().expect_fault(point);
    match story.listed().first() {
        None => {
            assert!(["after_files_listed", "before_backfill_create"].contains(&point), "{point}");
            story.project.run(&create("in")).expect(0);
        }
        Some(line) => {
            assert_eq!((&line["state"], &line["total"]), (&"open".into(), &FILES.into()), "{line}");
            let (id, done) = (line["id"].as_str().unwrap(), line["done"].as_u64().unwrap());
            let left = story.run(&["resume", id, "--dry-run"]).expect(0).result();
            assert_eq!(left["left"].as_array().unwrap().len() as u64, FILES as u64 - done, "{left}");
            let result = story.run(&["resume", id]).expect(0).result();
            assert_eq!((&result["backfill"], &result["files_done"]), (&line["id"], &FILES.into()), "{result}");
            assert!(result["already"].as_u64().unwrap() <= ROWS as u64, "only what was begun is read again: {result}");
        }
    }
    story.verify();
    let states: Vec<Value> = story.listed().iter().map(|line| line["state"].clone()).collect();
    assert_eq!(states, ["finished"]);
}

#[test]
fn after_files_listed() {
    killed_at("after_files_listed", 1);
}

#[test]
fn before_and_after_backfill_create() {
    killed_at("before_backfill_create", 1);
    killed_at("after_backfill_create", 1);
}

#[test]
fn before_and_after_files_part() {
    killed_at("before_files_part", 3);
    killed_at("after_files_part", 5);
}

#[test]
fn before_fill_finish() {
    killed_at("before_fill_finish", 1);
}

#[test]
fn given_up_while_it_runs() {
    let story = Story::new();
    let mut child = story.project.start_faulty("before_files_part=sleep(1500)", &create("in"));
    child.wait_for("deltaworks backfill resume");
    let id = story.listed()[0]["id"].as_str().unwrap().to_owned();
    wait_until("a part to land", || story.project.path().join("lake/raw/events/_delta_log").exists());
    assert_eq!(story.run(&["cancel", &id]).expect(0).result()["state"], "cancelled");
    let ended = child.wait().expect(2);
    assert!(ended.stderr.contains(&format!("backfill `{id}` was cancelled")), "{}", ended.stderr);
    assert_eq!(ended.result()["resume"], Value::Null);
    assert!(story.rows() < (FILES * ROWS) as u64);
    story.run(&["resume", &id]).expect(2);
    // another one does the rest
    story.project.run(&create("in")).expect(0);
    story.verify();
}

#[test]
fn two_at_once_read_each_row_once() {
    let story = Story::new();
    let slow = |pattern: &'static str| story.project.start_faulty("before_files_part=sleep(60)", &create(pattern));
    let (one, other) = (slow("in"), slow("in"));
    let (one, other) = (one.wait().expect(0).result(), other.wait().expect(0).result());
    assert_eq!(one["backfill"], other["backfill"]);
    story.verify();
    // of two names of one content, at most one is read
    fs::write(story.input().join("x.jsonl"), "{\"id\":\"e-fff\",\"at\":\"2024-01-01T00:00:00Z\",\"value\":1}\n")
        .unwrap();
    fs::copy(story.input().join("x.jsonl"), story.input().join("y.jsonl")).unwrap();
    let late = |pattern: &'static str| story.project.start_faulty("after_files_listed=sleep(300)", &create(pattern));
    let (one, other) = (late("in/x.jsonl"), late("in/y.jsonl"));
    let mut codes = [one.wait().code, other.wait().code];
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(2)]);
    assert_eq!(story.rows(), (FILES * ROWS) as u64 + 1);
}

#[test]
fn words_that_do_not_go_together() {
    let story = Story::new();
    let run = |args: &[&str]| story.run(&[&["create", "events"], args].concat()).expect(2).stderr;
    assert!(run(&["--from", "files"]).contains("--path"));
    assert!(run(&["--path", "in"]).contains("--from"));
    assert!(run(&[]).contains("--interval-start"));
    let both = ["--from", "files", "--path", "in", "--interval-start", "2024-01-01T00:00:00Z"];
    assert!(run(&both).contains("--interval-start means nothing for --from files"));
    assert!(run(&["--from", "files", "--path", "nowhere/*"]).contains("no file matches"));
    let other = story.run(&["create", "evnts", "--from", "files", "--path", "in"]).expect(2);
    assert!(other.stderr.contains("there is no pipeline `evnts`"), "{}", other.stderr);
}

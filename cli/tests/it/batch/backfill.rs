//! `backfill`: past units once more, killed at every step and gone on with, given up, beside other runs.
//!
//! Every story computes three days under a wrong definition first, and mends them afterwards: a unit that was mended twice
//! would be of generation 3.

use super::{AGGREGATE, FIRST_US, Story, event, reach, three_days};
use crate::harness::events::DAY_US;
use crate::harness::{Ended, Rng, wait_until};
use serde_json::{Value, json};
use std::fs;

/// All that is complete of the three days.
const INTERVAL: [&str; 4] = ["--interval-start", "2024-03-01T00:00:00Z", "--interval-end", "2024-04-01T23:00:00Z"];

fn define(story: &Story, select: &str) {
    let text = AGGREGATE.replace("-- timezone", "-- redefine: 0d\n-- timezone").replace("sum(value) AS total", select);
    fs::write(story.project.path().join("sql/totals.sql"), text).unwrap();
}

/// Three days under a wrong definition, which is mended by now.
fn mended(seed: u64) -> Story {
    let mut story = Story::begin();
    define(&story, "sum(value) + 1 AS total");
    story.send(&three_days(&mut Rng(seed)));
    story.send(&reach(1_000, FIRST_US + 3 * DAY_US));
    story.batch(&[]).expect(0);
    define(&story, "sum(value) AS total");
    story
}

fn backfill(story: &Story, args: &[&str]) -> Ended {
    story.project.run(&[&["backfill"], args].concat())
}

fn create(more: &[&'static str]) -> Vec<&'static str> {
    [&["backfill", "create", "totals"], &INTERVAL[..], more].concat()
}

/// The backfills that there are.
fn listed(story: &Story) -> Vec<Value> {
    let ended = backfill(story, &["list", "--format", "json"]).expect(0);
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn id_of(line: &Value) -> String {
    line["id"].as_str().unwrap().to_owned()
}

/// Fails unless all is mended, each unit once, and nothing is left to do.
#[track_caller]
fn verify(story: &Story) {
    story.verify();
    let generations = story.generations();
    assert!(generations.values().all(|g| *g == 2), "no unit was mended twice: {generations:?}");
    story.batch(&["--skip-exit-code"]).expect(99);
}

#[test]
fn the_command_that_batch_names_does_the_rest() {
    let story = mended(701);
    let left = story.batch(&[]).expect(0);
    assert!(left.stderr.contains("backfill create totals"), "{}", left.stderr);
    let left = left.result()["left"].clone();
    assert!(left["definition_kept"].as_u64().unwrap() > 8, "{left}");
    let commands: Vec<&str> = left["backfill"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    assert_eq!(commands.len(), 1, "{left}");
    let words: Vec<&str> = commands[0].split(' ').collect();
    assert_eq!(words[..3], ["deltaworks", "backfill", "create"]);
    let ended = story.project.run(&words[1..]).expect(0);
    let result = ended.result();
    assert_eq!((&result["status"], &result["units"]["total"]), (&"done".into(), &left["definition_kept"]), "{result}");
    assert_eq!((&result["units"]["left"], &result["resume"]), (&0.into(), &Value::Null), "{result}");
    // the id and the command come first
    let id = result["backfill"].as_str().unwrap();
    let first = ended.stderr.lines().next().unwrap();
    assert!(first.contains(id) && first.contains(&format!("deltaworks backfill resume {id}")), "{first}");
    verify(&story);
    story.project.run(&[&words[1..], &["--skip-exit-code"]].concat()).expect(99);
}

/// Kills a run at the `nth` time that it comes to `point`; what was created is gone on with, or else created.
fn killed_at(point: &str, nth: u64, more: &[&'static str], seed: u64) {
    let story = mended(seed);
    let fault = format!("{point}={}*off->return", nth - 1);
    story.project.start_faulty(&fault, &create(more)).wait().expect_fault(point);
    match listed(&story).first() {
        None => assert_eq!(point, "before_backfill_create"),
        Some(line) => {
            assert_eq!(line["state"], "open", "{line}");
            let total = line["total"].as_u64().unwrap();
            assert_eq!(line["done"].as_u64().unwrap() + line["left"].as_u64().unwrap(), total, "{line}");
            let (id, done) = (id_of(line), line["done"].clone());
            let result = backfill(&story, &["resume", &id]).expect(0).result();
            assert_eq!((&result["units"]["done"], &result["units"]["left"]), (&done, &0.into()), "{result}");
        }
    }
    // the same words find what is there
    let again = story.project.run(&create(more)).expect(0).result();
    assert_eq!(again["units"]["left"], if point == "before_backfill_create" { json!(0) } else { Value::Null });
    verify(&story);
    let states: Vec<Value> = listed(&story).iter().map(|line| line["state"].clone()).collect();
    assert_eq!(states, ["finished"]);
}

#[test]
fn before_backfill_create() {
    killed_at("before_backfill_create", 1, &[], 702);
}

#[test]
fn after_backfill_create() {
    killed_at("after_backfill_create", 1, &[], 703);
}

#[test]
fn after_backfill_portion() {
    killed_at("after_backfill_portion", 2, &["--backwards"], 704);
}

#[test]
fn before_backfill_finish() {
    killed_at("before_backfill_finish", 1, &[], 705);
}

#[test]
fn before_batch_commit() {
    killed_at("before_batch_commit", 4, &[], 706);
}

#[test]
fn after_batch_commit() {
    killed_at("after_batch_commit", 5, &["--backwards"], 707);
}

#[test]
fn after_pins() {
    killed_at("after_pins", 3, &["--backwards"], 708);
}

/// A scheduler runs the same command again, and never asks for an id.
#[test]
fn the_same_command_goes_on() {
    let story = mended(709);
    let words = create(&["--force"]);
    story.project.start_faulty("after_batch_commit=3*off->return", &words).wait().expect_fault("after_batch_commit");
    let open = listed(&story).remove(0);
    assert_eq!(open["done"], 4, "{open}");
    let result = story.project.run(&words).expect(0).result();
    assert_eq!((&result["backfill"], &result["units"]["done"]), (&open["id"], &4.into()), "{result}");
    verify(&story);
}

#[test]
fn terminated() {
    let story = mended(710);
    let mut child = story.project.start_faulty("after_ids=sleep(600)", &create(&[]));
    child.wait_for("deltaworks backfill resume");
    child.signal("TERM");
    let ended = child.wait().expect(143);
    let result = ended.result();
    assert_eq!((&result["status"], &result["retryable"]), (&"interrupted".into(), &true.into()));
    let command: Vec<&str> = result["resume"].as_str().unwrap().split(' ').collect();
    story.project.run(&command[1..]).expect(0);
    verify(&story);
}

#[test]
fn given_up_while_it_runs() {
    let story = mended(711);
    let mut child = story.project.start_faulty("before_batch_commit=sleep(400)", &create(&[]));
    child.wait_for("deltaworks backfill resume");
    let id = id_of(&listed(&story)[0]);
    wait_until("a unit to be mended", || listed(&story)[0]["done"] != 0);
    let tried = backfill(&story, &["cancel", &id, "--dry-run"]).expect(0).result();
    assert_eq!((&tried["status"], &tried["state"]), (&"planned".into(), &"open".into()), "{tried}");
    let cancelled = backfill(&story, &["cancel", &id]).expect(0).result();
    assert_eq!(cancelled["state"], "cancelled");
    let ended = child.wait().expect(2);
    assert!(ended.stderr.contains(&format!("backfill `{id}` was cancelled")), "{}", ended.stderr);
    let result = ended.result();
    assert_eq!(result["resume"], Value::Null, "{result}");
    let (left, total) = (result["units"]["left"].as_u64().unwrap(), result["units"]["total"].as_u64().unwrap());
    assert!(left > 0 && left < total, "{result}");
    let refused = backfill(&story, &["resume", &id]).expect(2);
    assert!(refused.stderr.contains("was cancelled") && refused.stderr.contains("hint:"), "{}", refused.stderr);
    backfill(&story, &["cancel", &id]).expect(0);
    backfill(&story, &["cancel", &id, "--skip-exit-code"]).expect(99);
    // another one does the rest
    let rest = story.project.run(&create(&[])).expect(0).result();
    assert_eq!(rest["units"]["total"], left, "{rest}");
    assert_ne!(rest["backfill"], *id);
    verify(&story);
}

#[test]
fn a_trial_prints_the_plan_and_writes_nothing() {
    let story = mended(712);
    let plan = story.project.run(&create(&["--dry-run"])).expect(0).result();
    assert_eq!((&plan["status"], &plan["continues"]), (&"planned".into(), &Value::Null), "{plan}");
    let units = plan["units"].as_array().unwrap();
    assert!(units.len() > 8 && units.iter().all(|unit| unit["reasons"][0]["reason"] == "definition_changed"), "{plan}");
    assert!(!story.project.path().join("lake/ops/backfills").exists());
    assert_eq!(listed(&story), [Value::Null; 0]);
    story.project.start_faulty("after_batch_commit=return", &create(&[])).wait().expect_fault("after_batch_commit");
    let id = id_of(&listed(&story)[0]);
    let left = backfill(&story, &["resume", &id, "--dry-run"]).expect(0).result();
    assert_eq!(left["left"].as_array().unwrap().len(), units.len() - 1, "{left}");
    assert_eq!(listed(&story)[0]["left"].as_u64().unwrap(), units.len() as u64 - 1);
    // by day alone
    let days = story.project.run(&create(&["--dry-run", "--granularity", "1d", "--force"])).expect(0).result();
    assert_eq!(days["units"].as_array().unwrap().len(), 3, "{days}");
}

#[test]
fn it_is_shown_as_it_is_asked_for() {
    let story = mended(713);
    let id = story.project.run(&create(&[])).expect(0).result()["backfill"].as_str().unwrap().to_owned();
    let status = backfill(&story, &["status", &id, "--format", "json"]).expect(0);
    let line: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((&line["state"], &line["kind"], &line["left"]), (&"finished".into(), &"recompute".into(), &0.into()));
    assert_eq!((&line["target"], &line["done"]), (&"totals".into(), &line["total"]), "{line}");
    assert_eq!(line["spec"]["interval_end"], "2024-04-01T23:00:00Z", "{line}");
    let table = backfill(&story, &["status", &id]).expect(0).stdout;
    assert!(table.contains(&id) && table.contains("interval_start"), "{table}");
    let csv = backfill(&story, &["list", "--format", "csv"]).expect(0).stdout;
    assert!(csv.starts_with("id,kind,target,state,done,total,"), "{csv}");
    assert!(csv.lines().nth(1).unwrap().starts_with(&format!("{id},recompute,totals,finished,")), "{csv}");
    // stdout of a question is its answer, and nothing else
    let unknown = backfill(&story, &["status", "20240101-00000000"]).expect(2);
    assert!(unknown.stdout.is_empty() && unknown.stderr.contains("there is no backfill `20240101-00000000`"));
    assert!(backfill(&story, &["resume", "yesterday"]).expect(2).stderr.contains("is no id of a backfill"));
    let turned = ["--interval-start", "2024-04-01T00:00:00Z", "--interval-end", "2024-03-01T00:00:00Z"];
    story.project.run(&[&["backfill", "create", "totals"], &turned[..]].concat()).expect(2);
    let early = ["--interval-start", "2024-04-01T00:00:00Z", "--interval-end", "2024-06-01T00:00:00Z"];
    story.project.run(&[&["backfill", "create", "totals"], &early[..]].concat()).expect(7);
}

#[test]
fn two_processes_at_once() {
    let story = mended(714);
    story
        .project
        .start_faulty("after_backfill_create=return", &create(&[]))
        .wait()
        .expect_fault("after_backfill_create");
    let id = id_of(&listed(&story)[0]);
    let slow = || story.project.start_faulty("before_batch_commit=sleep(50)", &["backfill", "resume", &id]);
    let (one, other) = (slow(), slow());
    let (one, other) = (one.wait().expect(0).result(), other.wait().expect(0).result());
    assert!(one["units"]["left"] == 0 && other["units"]["left"] == 0, "{one} {other}");
    verify(&story);
}

#[test]
fn beside_stream_and_batch() {
    let mut story = mended(715);
    let child = story.project.start_faulty("before_batch_commit=sleep(60)", &create(&["--force", "--backwards"]));
    for n in 0..3 {
        let batch = story.project.start(&["batch"]);
        story.send(&[event(5_000 + n, FIRST_US + n as i64 * DAY_US + 77, 9)]);
        batch.wait().expect(0);
    }
    child.wait().expect(0);
    story.batch(&[]).expect(0);
    story.verify();
    story.batch(&["--skip-exit-code"]).expect(99);
}

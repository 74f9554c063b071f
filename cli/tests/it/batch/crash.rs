//! Killed at every step of plan, compute and publish: no unit is there in part, and the next run completes.

use super::{FIRST_US, Story, event, reach, three_days};
use crate::harness::Rng;
use crate::harness::events::DAY_US;

/// Kills a first run and a run over late events at the `nth` time that they come to `point`.
fn killed_at(point: &str, nth: u64, seed: u64) {
    let mut story = Story::begin();
    story.send(&three_days(&mut Rng(seed)));
    story.send(&reach(1_000, FIRST_US + 3 * DAY_US));
    let fault = format!("{point}={}*off->return", nth - 1);
    story.project.start_faulty(&fault, &["batch"]).wait().expect_fault(point);
    story.verify_whole_units();
    story.batch(&[]).expect(0);
    story.verify();
    assert!(story.generations().values().all(|g| *g == 1), "{:?}", story.generations());
    story.send(&[event(2_000, FIRST_US + 5_000_000, 500), event(2_001, FIRST_US + DAY_US, 1)]);
    story.project.start_faulty(&format!("{point}=return"), &["batch"]).wait().expect_fault(point);
    story.batch(&[]).expect(0);
    story.verify();
    assert!(story.generations().values().all(|g| *g <= 2), "no unit was published twice: {:?}", story.generations());
    story.batch(&["--skip-exit-code"]).expect(99);
}

#[test]
fn after_batch_plan() {
    killed_at("after_batch_plan", 1, 1);
}

#[test]
fn after_pins() {
    killed_at("after_pins", 1, 2);
}

#[test]
fn after_ids() {
    killed_at("after_ids", 3, 3);
}

#[test]
fn before_batch_write() {
    killed_at("before_batch_write", 5, 4);
}

#[test]
fn before_batch_commit() {
    killed_at("before_batch_commit", 7, 5);
}

#[test]
fn after_batch_commit() {
    killed_at("after_batch_commit", 3, 6);
}

#[test]
fn before_run_record() {
    let mut story = Story::begin();
    story.send(&three_days(&mut Rng(7)));
    story.send(&reach(1_000, FIRST_US + 3 * DAY_US));
    story.project.start_faulty("before_run_record=return", &["batch"]).wait().expect_fault("before_run_record");
    // everything was published by then
    story.verify();
    story.batch(&["--skip-exit-code"]).expect(99);
}

/// Told to end while it publishes: what is published stays, and the next run goes on.
#[test]
fn terminated() {
    let mut story = Story::begin();
    story.send(&three_days(&mut Rng(8)));
    story.send(&reach(1_000, FIRST_US + 3 * DAY_US));
    let mut child = story.project.start_faulty("after_ids=sleep(600)", &["batch"]);
    child.wait_for("batch begins");
    child.signal("TERM");
    let ended = child.wait().expect(143);
    assert_eq!((&ended.result()["status"], &ended.result()["retryable"]), (&"interrupted".into(), &true.into()));
    story.verify_whole_units();
    story.batch(&[]).expect(0);
    story.verify();
}

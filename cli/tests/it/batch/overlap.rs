//! Several processes at once: on the same units, on neighbouring ones, and while events are landed.

use super::{FIRST_US, Story, reach, three_days};
use crate::harness::Rng;
use crate::harness::events::DAY_US;

#[test]
fn two_runs_at_once() {
    let mut story = Story::begin();
    story.send(&three_days(&mut Rng(11)));
    story.send(&reach(1_000, FIRST_US + 3 * DAY_US));
    // both are slow to publish, so that they meet
    let slow = || story.project.start_faulty("before_batch_commit=sleep(50)", &["batch"]);
    let (one, other) = (slow(), slow());
    let (one, other) = (one.wait().expect(0), other.wait().expect(0));
    let changed = |ended: &crate::harness::Ended| ended.result()["units"]["changed"].as_u64().unwrap();
    assert!(one.stderr.contains("another run was first") || other.stderr.contains("another run was first"));
    story.verify();
    let generations = story.generations();
    assert!(generations.values().all(|g| *g == 1), "{generations:?}");
    assert!(changed(&one) + changed(&other) >= generations.len() as u64);
    story.batch(&["--skip-exit-code"]).expect(99);
}

#[test]
fn one_process_per_interval() {
    let mut story = Story::begin();
    story.send(&three_days(&mut Rng(12)));
    story.send(&reach(1_000, FIRST_US + 3 * DAY_US));
    let noon = "2024-03-31T12:00:00Z";
    let before = story.project.start(&["batch", "--interval-end", noon]);
    let after = story.project.start(&["batch", "--interval-start", noon]);
    before.wait().expect(0);
    after.wait().expect(0);
    story.verify();
    story.batch(&["--skip-exit-code"]).expect(99);
    story.batch(&["--interval-end", "2024-04-09T00:00:00+03:00"]).expect(7);
    story.batch(&["--interval-start", "2024-04-09T00:00:00"]).expect(2);
}

#[test]
fn while_events_are_landed() {
    let mut story = Story::begin();
    let events = three_days(&mut Rng(13));
    for some in events.chunks(50) {
        let child = story.project.start(&["batch"]);
        story.send(some);
        child.wait().expect(0);
    }
    story.send(&reach(1_000, FIRST_US + 3 * DAY_US));
    story.batch(&[]).expect(0);
    story.verify();
    story.batch(&["--skip-exit-code"]).expect(99);
}

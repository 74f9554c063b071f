//! The golden cases from Kafka to the served table: one file of final windows, one of provisional ones and one of the
//! way between them, whatever happens.
//!
//! Provisional windows and drift depend on how events are dealt out to partitions, and on nothing else; final windows not
//! even on that. A fault is one process ended by SIGKILL while it works for all cases, each of which is somewhere else by then.

mod seen;

use crate::harness::Rng;
use crate::harness::cases::{Cases, Setup};
use seen::Seen;

/// Reconciles that a stream does by itself.
const IN_STREAM: &str = "served: { every: 500ms }\n";
/// The steps of landing, of speed beside it and of reconcile within it.
const LANDING: [(&str, u64); 12] = [
    ("before_write", 2),
    ("after_write", 5),
    ("after_rejects_commit", 3),
    ("after_raw_commit", 8),
    ("before_group_commit", 11),
    ("before_speed_commit", 4),
    ("after_speed_commit", 9),
    ("before_served_write", 1),
    ("before_served_commit", 2),
    ("after_served_commit", 3),
    ("at_checkpoint", 1),
    ("after_checkpoint", 1),
];
/// The steps of batch.
const COMPUTING: [(&str, u64); 6] = [
    ("after_batch_plan", 3),
    ("after_pins", 5),
    ("after_ids", 7),
    ("before_batch_write", 9),
    ("before_batch_commit", 11),
    ("after_batch_commit", 13),
];
/// The steps of reconcile.
const SERVING: [(&str, u64); 3] =
    [("before_served_write", 8), ("before_served_commit", 16), ("after_served_commit", 24)];
/// The steps of drift within it.
const EXPLAINING: [(&str, u64); 3] = [("before_drift_write", 1), ("before_drift_commit", 2), ("after_drift_commit", 3)];
/// Verbs before everything is sent.
const ROUNDS: u32 = 7;

#[test]
fn by_batch_alone() {
    let mut cases = Cases::begin(&Setup { partitions: 1, commit: "{}", speed: false, top: "" });
    let mut seen = Seen::default();
    for step in 0..cases.step_count() {
        cases.send_step(step);
        cases.land();
        cases.batch();
        cases.reconcile();
        seen.look(&cases);
    }
    cases.verify_final("served");
    assert!(seen.restated() > 0 && seen.gone() > 0, "{seen:?}");
    cases.project.run(&["reconcile", "--skip-exit-code"]).expect(99);
}

/// One of two streams dies between a raw commit and its speed commits, while the other goes on. Both reconcile.
#[test]
fn by_two_streams_and_then_batch() {
    let mut cases = Cases::begin(&Setup { partitions: 3, commit: "{rows: 7}", speed: true, top: IN_STREAM });
    cases.send_all();
    let mut other = cases.project.start(&["stream", "--partitions", "2"]);
    other.wait_for("landing begins");
    cases.killed("after_raw_commit", 6, &["stream", "--until-caught-up", "--partitions", "0-1"]);
    cases.project.run(&["stream", "--until-caught-up", "--partitions", "0-1"]).expect(0);
    other.signal("TERM");
    other.wait().expect(143);
    cases.land();
    cases.verify_landed();
    cases.verify_provisional();
    finish(&cases, &mut Seen::default());
    cases.verify_drift();
}

#[test]
fn killed_at_each_step_of_landing() {
    let mut cases = Cases::begin(&Setup { partitions: 1, commit: "{rows: 1}", speed: true, top: IN_STREAM });
    let partitions = cases.partitions();
    cases.send_broken();
    cases.send_step(0);
    cases.send_broken();
    cases.send_all();
    cases.send_broken();
    for (point, nth) in LANDING {
        cases.killed(point, nth, &["stream", "--until-caught-up", "--partitions", &partitions]);
    }
    cases.land();
    cases.verify_landed();
    cases.verify_provisional();
    finish(&cases, &mut Seen::default());
    cases.verify_drift();
}

/// The speed tables are dropped half way, and again before anything is served.
#[test]
fn killed_at_each_step_of_speed_batch_and_reconcile() {
    let mut cases = Cases::begin(&Setup { partitions: 3, commit: "{}", speed: true, top: "" });
    let mut seen = Seen::default();
    let drop_speed = |cases: &Cases| std::fs::remove_dir_all(cases.project.path().join("lake/speed")).unwrap();
    cases.send_step(0);
    cases.land();
    drop_speed(&cases);
    cases.killed("before_speed_catch_up", 4, &["speed", "catch-up"]);
    cases.send_all();
    cases.land();
    drop_speed(&cases);
    cases.killed("after_speed_catch_up", 9, &["speed", "catch-up"]);
    cases.project.run(&["speed", "catch-up"]).expect(0);
    for (point, nth) in SERVING {
        cases.killed(point, nth, &["reconcile"]);
    }
    cases.reconcile();
    cases.verify_provisional();
    for (n, (point, nth)) in COMPUTING.into_iter().enumerate() {
        cases.killed(point, nth, &["batch"]);
        if let Some((point, nth)) = SERVING.get(n.wrapping_sub(3)) {
            cases.killed(point, *nth, &["reconcile"]);
            seen.look(&cases);
        }
    }
    cases.batch();
    for (point, nth) in EXPLAINING {
        cases.killed(point, nth, &["reconcile"]);
    }
    finish(&cases, &mut seen);
    cases.verify_drift();
}

#[test]
fn by_one_command() {
    let mut cases = Cases::begin(&Setup { partitions: 3, commit: "{rows: 7}", speed: true, top: "" });
    cases.send_all();
    cases.project.run(&["run", "--partitions", &cases.partitions()]).expect(0);
    cases.verify_landed();
    cases.verify_final("served");
    cases.verify_drift();
}

/// Whatever verb comes next, whatever has been sent by then, and whatever partition is read first. Batch computes every
/// other case on the way, so that the others stay provisional up to the end. DELTAWORKS_SEED brings another order.
#[test]
fn in_any_order() {
    let mut cases = Cases::begin(&Setup { partitions: 3, commit: "{rows: 3}", speed: true, top: "" });
    let seed = std::env::var("DELTAWORKS_SEED").map_or(11, |seed| seed.parse().unwrap());
    let (mut rng, mut seen) = (Rng(seed), Seen::default());
    let computed: Vec<String> = cases.all.iter().step_by(2).map(|case| case.name.clone()).collect();
    let computing: Vec<&str> = std::iter::once("batch").chain(computed.iter().map(String::as_str)).collect();
    for _ in 0..ROUNDS {
        for n in 0..cases.all.len() {
            cases.send_some(n, rng.below(6) as usize);
        }
        match rng.below(6) {
            0..3 => {
                let partition = rng.below(3).to_string();
                cases.project.run(&["stream", "--until-caught-up", "--partitions", &partition]).expect(0);
            }
            3 => drop(cases.project.run(&computing).expect(0)),
            4 => drop(cases.project.run(&["speed", "catch-up"]).expect(0)),
            // there may be none yet
            _ => drop(std::fs::remove_dir_all(cases.project.path().join("lake/speed"))),
        }
        cases.reconcile();
        seen.look(&cases);
    }
    cases.send_all();
    cases.land();
    cases.verify_landed();
    cases.project.run(&computing).expect(0);
    cases.reconcile();
    cases.verify_provisional_of(&cases.all.iter().skip(1).step_by(2).collect::<Vec<_>>());
    seen.look(&cases);
    finish(&cases, &mut seen);
}

/// Served windows are as they must be after batch, and only go where they may.
fn finish(cases: &Cases, seen: &mut Seen) {
    seen.look(cases);
    cases.batch();
    cases.reconcile();
    cases.verify_final("served");
    seen.look(cases);
}

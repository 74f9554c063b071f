//! Killed at every step of a commit of landing, and started again; and whether there is a kill for every step of all
//! stages.

use crate::harness::{
    Event, Feed, MockBroker, Project, Rng,
    project::{CATCH_UP, Knobs, TOPIC},
};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PARTITIONS: i32 = 4;

/// Kills a run at the `nth` time it comes to `point`, lands the rest, and looks at every message.
fn killed_at(point: &str, nth: u64, seed: u64, events: usize, bad_percent: u64) {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 5s, rows: 10}", ..Knobs::default() });
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(seed), events, bad_percent));
    project.start_faulty(&format!("{point}={}*off->return", nth - 1), &CATCH_UP).wait().expect_fault(point);
    project.catch_up().expect_worked();
    feed.verify(&project);
    project.catch_up().expect_idle();
    feed.verify(&project);
}

macro_rules! killed_at {
    ($($test:ident: $point:literal, $($nth:literal of $events:literal with $bad:literal % bad),+;)+) => {$(
        #[test]
        fn $test() {
            let mut seed = 0;
            $(seed += 1; killed_at($point, $nth, seed, $events, $bad);)+
        }
    )+};
}

killed_at! {
    before_write: "before_write", 1 of 80 with 10 % bad, 3 of 90 with 40 % bad, 5 of 101 with 0 % bad;
    after_write: "after_write", 1 of 75 with 15 % bad, 2 of 93 with 50 % bad, 6 of 105 with 5 % bad;
    after_rejects_commit: "after_rejects_commit", 1 of 70 with 60 % bad, 3 of 88 with 30 % bad, 5 of 102 with 100 % bad;
    after_raw_commit: "after_raw_commit", 1 of 72 with 10 % bad, 4 of 97 with 40 % bad, 6 of 103 with 0 % bad;
    before_group_commit: "before_group_commit", 1 of 80 with 20 % bad, 2 of 91 with 100 % bad, 5 of 99 with 5 % bad;
    at_checkpoint: "at_checkpoint", 1 of 260 with 10 % bad, 1 of 301 with 30 % bad, 1 of 275 with 0 % bad;
    after_checkpoint: "after_checkpoint", 1 of 262 with 20 % bad, 1 of 290 with 0 % bad, 1 of 255 with 40 % bad;
}

/// A step that nobody is killed at is found here, of whatever stage.
#[test]
fn every_fault_point_is_named_in_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (product, tests) = (sources(&root.join("../jobs/src")), sources(&root.join("tests/it")));
    let points: BTreeSet<&str> =
        product.split("faults::point(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(points.len() > 20, "{points:?}");
    let is_named = |point: &&str| ["\"", "="].iter().any(|end| tests.contains(&format!("\"{point}{end}")));
    let unnamed: Vec<_> = points.into_iter().filter(|point| !is_named(point)).collect();
    assert!(unnamed.is_empty(), "no test kills a process at {unnamed:?}");
}

/// All of Rust below a folder.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
    text
}

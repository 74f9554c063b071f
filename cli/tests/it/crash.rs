//! Killed at every step of a commit, and started again.

use crate::harness::{
    Event, Feed, MockBroker, Project, Rng,
    project::{CATCH_UP, Knobs, TOPIC},
};

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
}

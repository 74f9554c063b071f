//! Two writers on the same partitions, and one that comes back from the dead.

use crate::harness::events::{CONTRACT, Values};
use crate::harness::project::{CATCH_UP, Knobs, TOPIC};
use crate::harness::{Event, Feed, MockBroker, Project, Rng, wait_until};
use std::path::Path;
use std::time::Duration;

const PARTITIONS: i32 = 4;

#[test]
fn two_writers_land_each_message_once() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 50ms, rows: 40}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(61));
    let one = project.start(&["stream", "--partitions", "0-3"]);
    let other = project.start(&["stream", "--partitions", "0-3"]);
    for _ in 0..40 {
        feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 25, 20));
        std::thread::sleep(Duration::from_millis(75));
    }
    one.signal("TERM");
    other.signal("TERM");
    let ended = [one.wait().expect(143), other.wait().expect(143)];
    let says = ["the log is elsewhere", "another writer was ahead", "another writer landed the same offsets"];
    let met = ended.iter().any(|e| says.iter().any(|text| e.stderr.contains(text)));
    assert!(met, "the two never met: {ended:?}");
    let rest = project.catch_up().expect(0);
    let counted: u64 = ended.iter().chain([&rest]).map(|ended| ended.messages()).sum();
    assert_eq!(counted, 1_000, "each message is counted by the run that landed it: {ended:?} {rest:?}");
    feed.verify(&project);
    project.catch_up().expect_idle();
}

/// One run stops in the middle of its first flush, another lands everything, then the first goes on.
fn comes_back(point: &str, seed: u64, in_the_middle: impl Fn(&Path) -> bool) {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 5s, rows: 30}", ..Knobs::default() });
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(seed), 100, 40));
    let zombie = project.start_faulty(&format!("{point}=1*sleep(6000)->off"), &CATCH_UP);
    let lake = project.path().join("lake");
    wait_until("the first flush to be under way", || in_the_middle(&lake));
    zombie.signal("STOP");
    assert_eq!(project.catch_up().expect(0).messages(), 100, "the zombie was not in the middle of anything");
    feed.verify(&project);
    zombie.signal("CONT");
    let ended = zombie.wait().expect(0);
    assert!(ended.stderr.contains("another writer was ahead"), "{ended:?}");
    feed.verify(&project);
    project.catch_up().expect_idle();
}

#[test]
fn a_zombie_with_uploaded_files_lands_nothing_twice() {
    comes_back("after_write", 62, |lake| has_parquet(&lake.join("raw/events")));
}

#[test]
fn a_zombie_with_committed_rejects_lands_nothing_twice() {
    comes_back("after_rejects_commit", 63, |lake| {
        lake.join("rejects/events/_delta_log/00000000000000000001.json").exists()
    });
}

/// The zombie calls a message bad that its rival has landed meanwhile, by a looser contract.
#[test]
fn a_zombie_rejects_nothing_that_was_landed_meanwhile() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 5s, rows: 30}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(64));
    let high = |rng: &mut Rng| Event::of(Values { value: 5_000, ..Event::good(rng, 3).row.unwrap() });
    let events: Vec<Event> = (0..60).map(|_| high(&mut rng)).collect();
    feed.send(&broker, PARTITIONS, &events);
    let zombie = project.start_faulty("after_write=1*sleep(6000)->off", &CATCH_UP);
    // all of its first flush is rejects, so there is no raw file to wait for
    wait_until("the partitions to begin", || zombie.stderr().contains("partitions begin"));
    std::thread::sleep(Duration::from_millis(1_500));
    zombie.signal("STOP");
    project.deploy(&CONTRACT.replace("maximum: 1000", "maximum: 10000"));
    assert_eq!(project.catch_up().expect(0).pipeline()["landed"], 60, "the zombie was too early");
    zombie.signal("CONT");
    zombie.wait().expect(0);
    let landed = feed.verify(&project);
    assert_eq!((landed.raw, landed.rejects), (60, 0));
}

/// The rival lands only a part of what the zombie has rejected, so the zombie reads its own rejects again.
#[test]
fn a_zombie_meets_its_own_rejects_again() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 30s, rows: 1000}", ..Knobs::default() });
    let mut feed = Feed::new();
    feed.send(&broker, 1, &Event::mix(&mut Rng(65), 40, 100));
    let zombie = project.start_faulty("after_rejects_commit=1*sleep(6000)->off", &CATCH_UP);
    let rejects = project.path().join("lake/rejects/events/_delta_log/00000000000000000001.json");
    wait_until("the rejects", || rejects.exists());
    zombie.signal("STOP");
    project.configure(&Knobs { commit: "{every: 30s, rows: 10}", ..Knobs::default() });
    project.start_faulty("after_raw_commit=return", &CATCH_UP).wait().expect_fault("after_raw_commit");
    assert_eq!(project.nexts().get(&0), Some(&10));
    zombie.signal("CONT");
    let ended = zombie.wait().expect_worked();
    assert!(ended.stderr.contains("another writer was ahead"), "{ended:?}");
    feed.verify(&project);
}

fn has_parquet(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        path.extension().is_some_and(|e| e == "parquet")
            || (path.is_dir() && !path.ends_with("_delta_log") && has_parquet(&path))
    })
}

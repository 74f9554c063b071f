//! Where a first run begins, and that only a first run asks.
//!
//! The mock cannot look offsets up by time, so a start at an instant is tested against a real broker.

use crate::harness::project::{Knobs, TOPIC};
use crate::harness::{Ended, Event, Feed, MockBroker, Project, Rng};

const PARTITIONS: i32 = 4;

fn catch_up_from(project: &Project, start: &str) -> Ended {
    project.run(&["stream", "--until-caught-up", "--partitions", "0-3", "--start", start])
}

#[test]
fn latest_leaves_the_past_alone_and_later_runs_ignore_start() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let mut rng = Rng(51);
    Feed::new().send(&broker, PARTITIONS, &Event::mix(&mut rng, 40, 10));
    catch_up_from(&project, "latest").expect_idle();
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 41, 10));
    // neither goes back to the beginning nor leaves the new ones out
    assert_eq!(catch_up_from(&project, "earliest").expect(0).messages(), 41);
    feed.verify(&project);
    feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 13, 10));
    assert_eq!(catch_up_from(&project, "latest").expect(0).messages(), 13);
    feed.verify(&project);
}

/// Also if it is over before anybody looks at the broker's watermarks a second time.
#[test]
fn a_short_run_says_how_far_quiet_partitions_are_complete() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project =
        Project::with(&broker, &Knobs { pipeline: vec!["lateness: 1h", "idle_after: 5m"], ..Knobs::default() });
    let mut feed = Feed::new();
    for _ in 0..6 {
        let begun = jiff::Timestamp::now();
        // event times lie in 2024, and at least three partitions have nothing new
        feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(54), 1, 0));
        let ended = project.catch_up().expect(0);
        let through: jiff::Timestamp = ended.pipeline()["valid_through"].as_str().unwrap().parse().unwrap();
        let quiet = begun - (jiff::SignedDuration::from_hours(1) + jiff::SignedDuration::from_mins(5));
        assert!(through > quiet - jiff::SignedDuration::from_millis(1), "{through} and not {quiet}");
    }
}

#[test]
fn offsets_of_a_file() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(52), 40, 10));
    let file = project.path().join("starts.json");
    std::fs::write(&file, "{\"0\": 4, \"2\": 10}").unwrap();
    catch_up_from(&project, &format!("offsets:{}", file.display())).expect_worked();
    // partition 2 begins at its end, 1 and 3 are not named and begin at the earliest
    feed.retain(|(partition, offset)| match partition {
        0 => offset >= 4,
        2 => offset >= 10,
        _ => true,
    });
    feed.verify(&project);
    std::fs::write(&file, "{\"0\": 0}").unwrap();
    catch_up_from(&project, &format!("offsets:{}", file.display())).expect_idle();
    feed.verify(&project);
}

#[test]
fn a_start_that_cannot_be_is_refused_and_nothing_begins() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(53), 12, 10));
    let file = project.path().join("starts.csv");
    std::fs::write(&file, "1,99\n").unwrap();
    let ended = catch_up_from(&project, &format!("offsets:{}", file.display())).expect(2);
    assert!(ended.stderr.contains("99") && ended.stderr.contains("partition 1"), "{}", ended.stderr);
    for nonsense in ["yesterday", "offsets:/nowhere/at/all", "2024-03-01T00:00:00"] {
        catch_up_from(&project, nonsense).expect(2);
    }
    assert_eq!(catch_up_from(&project, "earliest").expect(0).messages(), 12);
    feed.verify(&project);
}

//! SIGTERM and SIGINT: everything read is flushed, and the next run goes on from there.

use crate::harness::project::{Knobs, TOPIC};
use crate::harness::{Event, Feed, MockBroker, Project, Rng, wait_until};
use std::time::Duration;

/// As promised to supervisors.
const DRAIN_MAX: Duration = Duration::from_secs(10);

fn drains_at(signal: &str, code: i32) {
    let broker = MockBroker::start(TOPIC, 4);
    // no commit is due while the test runs: only the drain can make it
    let project = Project::with(&broker, &Knobs { commit: "{every: 600s}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(41));
    feed.send(&broker, 4, &Event::mix(&mut rng, 500, 20));
    let child = project.start(&["stream", "--partitions", "0-3", "--listen", "127.0.0.1:0"]);
    wait_until("all messages read", || child.metric("deltaworks_messages_total") == Some(500));
    assert_eq!(child.metric("deltaworks_landed_rows_total"), Some(0), "it was not the drain that committed");
    child.signal(signal);
    let ended = child.wait_within(DRAIN_MAX).expect(code);
    assert_eq!(ended.result()["status"], "interrupted");
    assert_eq!(ended.result()["exit_code"], code);
    assert_eq!(ended.messages(), 500);
    feed.verify(&project);
    let first_next = ended.pipeline()["next"].clone();
    feed.send(&broker, 4, &Event::mix(&mut rng, 40, 20));
    let second = project.catch_up().expect(0);
    assert_eq!(second.messages(), 40);
    assert_eq!(second.pipeline()["first"], first_next);
    feed.verify(&project);
}

#[test]
fn sigterm_drains() {
    drains_at("TERM", 143);
}

#[test]
fn sigint_drains() {
    drains_at("INT", 130);
}

#[test]
fn a_signal_in_a_quiet_stream_ends_it_at_once() {
    let broker = MockBroker::start(TOPIC, 4);
    let project = Project::new(&broker);
    let mut child = project.start(&["stream", "--partitions", "0-3"]);
    child.wait_for("landing begins");
    child.signal("TERM");
    let ended = child.wait_within(DRAIN_MAX).expect(143);
    assert_eq!(ended.result()["status"], "interrupted");
}

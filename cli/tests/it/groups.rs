//! Members of one consumer group share the partitions, and hand them over.

use crate::harness::project::{Knobs, TOPIC};
use crate::harness::{Child, Event, Feed, MockBroker, Project, Rng, wait_until};
use std::time::Duration;

const PARTITIONS: i32 = 4;

/// Sends a few events at a time until `done`.
fn send_until(broker: &MockBroker, feed: &mut Feed, rng: &mut Rng, what: &str, done: impl Fn() -> bool) {
    wait_until(what, || {
        feed.send(broker, PARTITIONS, &Event::mix(rng, 8, 20));
        std::thread::sleep(Duration::from_millis(80));
        done()
    });
}

#[test]
fn a_bounded_run_of_a_group_ends() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(111), 60, 20));
    assert_eq!(project.run(&["stream", "--until-caught-up"]).expect(0).messages(), 60);
    feed.verify(&project);
    project.run(&["stream", "--until-caught-up"]).expect_idle();
}

/// A second member takes some partitions over, the first leaves, and events arrive all the time.
#[test]
fn partitions_move_from_member_to_member() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 50ms, rows: 30}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(112));
    let member = || project.start(&["stream", "--listen", "127.0.0.1:0"]);
    let landed = |child: &Child| child.metric("deltaworks_landed_rows_total").unwrap_or(0);
    let first = member();
    send_until(&broker, &mut feed, &mut rng, "the first member to land", || landed(&first) > 100);
    let second = member();
    send_until(&broker, &mut feed, &mut rng, "the second member to land", || landed(&second) > 20);
    let before = landed(&first);
    send_until(&broker, &mut feed, &mut rng, "the first member to go on", || landed(&first) > before);
    first.signal("TERM");
    first.wait().expect(143);
    let before = landed(&second);
    send_until(&broker, &mut feed, &mut rng, "the second member to take over", || landed(&second) > before + 100);
    second.signal("TERM");
    second.wait().expect(143);
    project.catch_up().expect(0);
    feed.verify(&project);
}

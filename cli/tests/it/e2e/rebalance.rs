//! Processes of one group that come and go in the middle of flushes.

use super::support::{PATIENCE, Running, World, eventually};
use super::truth::Sender;
use std::thread::sleep;
use std::time::Duration;

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn members_join_and_leave() {
    let world = World::new("rebalance", 6, &[]).set("commit", "{ every: 100ms }");
    let mut sender = Sender::new(&world, 6, 3);
    sender.while_sending(15, Duration::from_millis(30), || {
        let alone = world.stream(&[]);
        eventually("the first member lands", || world.landed() > 0);
        let second = world.stream(&[]);
        moved(&world, 2);
        let third = world.stream(&[]);
        moved(&world, 3);
        // an orderly end in the middle of it: its partitions go on elsewhere
        leaves(alone);
        let fourth = world.stream(&[]);
        moved(&world, 4);
        assert!(second.kill9(), "the second member was gone already");
        let fifth = world.stream(&[]);
        moved(&world, 5);
        leaves(third);
        assert!(fourth.kill9(), "the fourth member was gone already");
        // only the fifth is left: it takes over everything
        let begun = world.landed();
        eventually("the last member lands", || world.landed() > begun);
        leaves(fifth);
    });
    let last = world.catch_up(&[]);
    assert!(last["landed"].as_u64().is_some(), "{last}");
    world.verify(&sender.truth);
    let owners = world.query(
        "SELECT partition, count(DISTINCT run_id) AS owners FROM ops.offsets WHERE to_offset > from_offset GROUP BY partition",
    );
    let moved = owners.iter().filter(|row| row["owners"].as_u64() > Some(1)).count();
    assert_eq!(moved, 6, "every partition moved: {owners:?}");
}

/// Waits until this many runs have committed rows.
fn moved(world: &World, runs: u64) {
    eventually(&format!("{runs} members have landed something"), || world.runs_that_landed() >= runs);
    sleep(Duration::from_millis(300));
}

fn leaves(mut run: Running) {
    assert!(run.is_alive(), "{} ended by itself:\n{}", run.what, run.log());
    let ended = run.term();
    assert_eq!(ended.code(), 143, "{ended}");
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn a_process_that_ends_leaves_its_group_at_once() {
    // a member that does not leave holds its partitions for this long, which is more than a run may take
    let world = World::new("leaving", 4, &[]).set_kafka("session.timeout.ms", "180000");
    let mut sender = Sender::new(&world, 4, 4);
    sender.send(500);
    sender.settle();
    world.catch_up(&[]);
    sender.send(500);
    sender.settle();
    let run = world.stream(&[]);
    eventually("the second run lands", || world.landed() > 500);
    let ended = run.term();
    assert_eq!(ended.code(), 143, "{ended}");
    sender.send(500);
    sender.settle();
    let last = world.stream(&["--until-caught-up"]).wait(PATIENCE);
    assert_eq!(last.code(), 0, "{last}");
    world.verify(&sender.truth);
}

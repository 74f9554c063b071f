//! History that is lost: landing stops and says so, and goes on only when told to.

use super::support::{Ended, PATIENCE, World, eventually, now_ms};
use super::truth::Sender;

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn retention_passed_the_stored_offset() {
    let world = World::new("retention", 1, &[("retention.ms", "6000")]);
    let mut sender = Sender::new(&world, 1, 11);
    let at_ms = now_ms() - 60_000;
    for _ in 0..100 {
        sender.event(0, at_ms, None);
    }
    sender.settle();
    assert_eq!(world.catch_up(&[])["landed"], 100);
    for _ in 0..50 {
        sender.event(0, at_ms, None);
    }
    sender.settle();
    let watermarks = world.watermarks();
    eventually("retention has removed everything", || watermarks.low_high(&world.topic, 0).unwrap().0 == 150);
    // these stay
    for _ in 0..25 {
        sender.event(0, at_ms, Some(now_ms() + 1_800_000));
    }
    sender.settle();

    let stopped = bounded(&world, &[]);
    assert_eq!(stopped.code(), 6, "{stopped}");
    assert!(stopped.stderr.contains("offsets 100 to 150 of"), "{stopped}");
    assert!(stopped.stderr.contains("--on-data-loss accept"), "{stopped}");
    assert_eq!(world.landed(), 100);

    let accepted = world.catch_up(&["--on-data-loss", "accept"]);
    assert_eq!((&accepted["landed"], &accepted["gaps"]), (&25.into(), &50.into()), "{accepted}");
    assert_eq!(sender.truth.forget(|_, offset| (100..150).contains(&offset)), 50);
    assert_eq!(world.catch_up(&[])["landed"], 0);
    world.verify(&sender.truth);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn the_topic_was_recreated_shorter() {
    recreated("recreated-shorter", 20);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn the_topic_was_recreated_longer() {
    recreated("recreated-longer", 300);
}

fn recreated(name: &str, messages: usize) {
    let world = World::new(name, 2, &[]);
    let mut sender = Sender::new(&world, 2, 12);
    sender.send(200);
    sender.settle();
    let first = world.catch_up(&[]);
    world.admin().delete(&world.topic).unwrap();
    world.create_topic(2, &[]);
    sender.truth.epoch = "#1".to_owned();
    // a producer would go on with the sequence numbers of the old topic
    let truth = sender.truth;
    let mut sender = Sender::new(&world, 2, 13);
    sender.truth = truth;
    sender.send(messages);
    sender.settle();

    let stopped = bounded(&world, &[]);
    assert_eq!(stopped.code(), 6, "{stopped}");
    assert!(stopped.stderr.contains("the topic was recreated"), "{stopped}");
    assert!(stopped.stderr.contains("--on-data-loss accept"), "{stopped}");
    assert_eq!(Some(world.landed()), first["landed"].as_u64());

    let accepted = world.catch_up(&["--on-data-loss", "accept"]);
    let both = accepted["landed"].as_u64().unwrap() + accepted["rejected"].as_u64().unwrap();
    assert_eq!(both, messages as u64, "{accepted}");
    sender.send(50);
    sender.settle();
    world.catch_up(&[]);
    assert_eq!(world.catch_up(&[])["landed"], 0);
    world.verify(&sender.truth);
}

fn bounded(world: &World, more: &[&str]) -> Ended {
    world.stream(&[&["--until-caught-up"], more].concat()).wait(PATIENCE)
}

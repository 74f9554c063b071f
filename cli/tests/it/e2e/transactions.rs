//! Transactions: what is aborted is a gap, and what is open holds everything behind it.

use super::support::{PATIENCE, World, instant_ms, now_ms};
use super::truth::Sender;
use deltaworks_jobs::kafka::producer::Producer;
use std::thread::sleep;
use std::time::Duration;

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn markers_are_gaps_and_an_open_transaction_holds_valid_through() {
    let world = World::new("transactions", 1, &[]).set("lateness", "1s").set("idle_after", "1s");
    let producer = Producer::open_transactional(&world.options, &world.topic).unwrap();
    let mut inside = Sender::over(producer, &world, 1, 6);
    let mut beside = Sender::new(&world, 1, 7);

    inside.producer.begin().unwrap();
    inside.send(50);
    inside.settle();
    inside.producer.commit().unwrap();
    inside.producer.begin().unwrap();
    inside.send(30);
    assert_eq!(inside.settle_as_never_readable(), 30);
    inside.producer.abort().unwrap();
    beside.send(20);
    beside.settle();
    let first = world.catch_up(&[]);
    assert_eq!(first["gaps"], 30 + 2, "the aborted messages and two markers: {first}");
    assert_eq!(first["landed"].as_u64().unwrap() + first["rejected"].as_u64().unwrap(), 70, "{first}");

    sleep(Duration::from_secs(1));
    let opened_ms = now_ms();
    inside.producer.begin().unwrap();
    for _ in 0..10 {
        inside.event(0, now_ms() - 60_000, None);
    }
    inside.settle();
    beside.event(0, now_ms() - 30_000, None);
    beside.settle();
    sleep(Duration::from_secs(4));
    let bounded = world.catch_up(&[]);
    let running = world.stream(&[]);
    sleep(Duration::from_secs(6));
    let unbounded = running.term().pipeline();
    for (how, seen) in [("bounded", bounded), ("unbounded", unbounded)] {
        assert_eq!((&seen["landed"], &seen["next"]["0"]), (&0.into(), &102.into()), "{how}: {seen}");
        let through_ms = instant_ms(&seen["valid_through"]);
        assert!(
            through_ms < opened_ms,
            "{how}: valid-through passed an open transaction by {} ms",
            through_ms - opened_ms
        );
    }

    inside.producer.commit().unwrap();
    sleep(Duration::from_secs(3));
    let last = world.catch_up(&[]);
    assert_eq!((&last["landed"], &last["gaps"]), (&11.into(), &1.into()), "{last}");
    let through_ms = instant_ms(&last["valid_through"]);
    assert!(through_ms > opened_ms, "valid-through stays {} ms behind", opened_ms - through_ms);

    // one more that is aborted at the very end of the log
    inside.producer.begin().unwrap();
    inside.send(5);
    assert_eq!(inside.settle_as_never_readable(), 5);
    // nobody can tell what a skip into it would leave out
    let skip = ["offsets", "skip", "camera_events", "--partition", "0", "--to", "116", "--yes"];
    let refused = world.start(&skip).wait(PATIENCE);
    assert_eq!(refused.code(), 7, "{refused}");
    assert!(refused.stderr.contains("a transaction that is still open hides the offsets 114 to "), "{refused}");
    inside.producer.abort().unwrap();
    let end = world.catch_up(&[]);
    assert_eq!((&end["landed"], &end["gaps"], &end["next"]["0"]), (&0.into(), &6.into(), &120.into()), "{end}");

    let mut truth = inside.truth;
    truth.merge(beside.truth);
    world.verify(&truth);
}

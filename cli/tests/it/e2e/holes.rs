//! Topics that are not a plain row of messages: compacted, quiet, empty, widened.

use super::support::{World, eventually, instant_ms, now_ms};
use super::truth::Sender;
use std::thread::sleep;
use std::time::Duration;

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn what_compaction_removed_is_a_gap() {
    let compact = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "300"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("max.compaction.lag.ms", "500"),
    ];
    let world = World::new("compacted", 1, &compact);
    let mut sender = Sender::new(&world, 1, 8);
    for _ in 0..6 {
        for key in 0..20 {
            sender.keyed(0, &format!("camera {key}"), now_ms() - 60_000);
        }
        sender.settle();
        // the next round begins a new segment
        sleep(Duration::from_millis(400));
    }
    let mut seen = Vec::new();
    eventually("compaction has come to rest", || {
        sleep(Duration::from_secs(2));
        let readable = world.readable(0);
        let rests = readable.len() < 120 && readable == seen;
        seen = readable;
        rests
    });
    // the last message of a key is never removed
    assert!((100..120).all(|offset| seen.contains(&offset)), "{seen:?}");
    let gone = sender.truth.forget(|_, offset| !seen.contains(&offset));
    assert!(gone > 0, "the fault did not fire");

    let first = world.catch_up(&[]);
    assert_eq!(first["gaps"].as_u64(), Some(gone as u64), "{first}");
    world.verify(&sender.truth);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn quiet_and_empty_partitions_do_not_hold_valid_through() {
    let world = World::new("quiet", 3, &[]).set("lateness", "1s").set("idle_after", "2s");
    let mut sender = Sender::new(&world, 3, 9);
    for _ in 0..100 {
        sender.event(0, now_ms() - 3_600_000, None);
    }
    sender.settle();
    let bounded = world.catch_up(&[]);
    assert_eq!(bounded["next"]["0"], 100, "{bounded}");
    let running = world.stream(&[]);
    eventually("all three partitions have been quiet for a while", || world.valid_through_ms() > now_ms() - 15_000);
    let first_ms = world.valid_through_ms();
    eventually("valid-through goes on", || world.valid_through_ms() > first_ms);
    let ended = running.term();
    let through_ms = instant_ms(&ended.pipeline()["valid_through"]);
    // `idle_after` and `lateness` before the last look at the ends, and never ahead of that
    assert!((now_ms() - 15_000..=now_ms() - 3_000).contains(&through_ms), "{} ms ago", now_ms() - through_ms);
    world.verify(&sender.truth);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn new_partitions_are_read_from_their_beginning() {
    let world = World::new("widened", 2, &[]);
    let mut sender = Sender::new(&world, 2, 10);
    sender.send(200);
    sender.settle();
    let ends: Vec<_> = (0..2).map(|p| (p, world.watermarks().low_high(&world.topic, p).unwrap().1)).collect();
    let running = world.stream(&["--start", "latest"]);
    eventually("the partitions have their starts", || running.log().contains("partitions begin"));
    // that is said before it is committed
    eventually("the starts are committed", || world.starts() == 2);
    assert_eq!(sender.truth.forget(|_, _| true), 200);
    for (partition, end) in ends {
        sender.truth.starts.insert((String::new(), partition), end);
    }
    sender.send(200);
    sender.settle();
    eventually("rows of the old partitions", || world.landed() > 0);
    world.admin().add_partitions(&world.topic, 5).unwrap();
    eventually("the broker has them", || world.watermarks().partition_count(&world.topic).unwrap() == 5);
    let truth = sender.truth;
    // the old producer does not know the new partitions
    let mut sender = Sender::new(&world, 5, 11);
    sender.truth = truth;
    sender.send(500);
    sender.settle();
    let good = sender.truth.good();
    eventually("rows of the new partitions", || world.landed() == good);
    assert_eq!(running.term().code(), 143);
    world.catch_up(&[]);
    world.verify(&sender.truth);
    let first = world
        .query("SELECT partition, min(from_offset) AS least FROM ops.offsets WHERE partition >= 2 GROUP BY partition");
    assert!(first.len() == 3 && first.iter().all(|row| row["least"] == 0), "{first:?}");
}

//! Where a first run begins, and what `check --online` says before it.

use super::support::{PATIENCE, World, eventually};
use super::truth::Sender;
use deltaworks_jobs::kafka::source::{Mode, Source};

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn where_another_group_stopped() {
    let world = World::new("group", 3, &[]);
    let mut sender = Sender::new(&world, 3, 14);
    sender.send(600);
    sender.settle();
    let (group, stopped) = (format!("{}.old", world.group), [(0, 50), (1, 120)]);
    let old = Mode::Manual { group: group.clone(), partitions: vec![0, 1, 2] };
    let old = Source::open(&world.options, &world.topic, old, 1 << 20, false).unwrap();
    old.commit_group(&stopped).unwrap();
    let watermarks = world.watermarks();
    eventually("the old group's offsets are committed", || {
        watermarks.group_offsets(&group, &world.topic).unwrap() == stopped.into()
    });
    drop(old);

    let first = world.catch_up(&["--start", &format!("group:{group}")]);
    assert_eq!(first["first"], serde_json::json!({ "0": 50, "1": 120, "2": 0 }), "{first}");
    let passed =
        sender.truth.forget(|partition, offset| stopped.iter().any(|(p, end)| *p == partition && offset < *end));
    assert_eq!(passed, 50 + 120);
    for (partition, offset) in stopped {
        sender.truth.starts.insert((String::new(), partition), offset);
    }
    world.verify(&sender.truth);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn check_online() {
    let world = World::new("check", 3, &[]);
    let check = || world.start(&["check", "--online"]).wait(PATIENCE);
    let good = check();
    assert_eq!(good.code(), 0, "{good}");
    assert!(good.stderr.contains(&format!("ok  topic `{}`: 3 partitions", world.topic)), "{good}");
    assert!(good.stderr.contains("honours conditional put"), "{good}");

    world.admin().delete(&world.topic).unwrap();
    eventually("the topic is gone", || world.watermarks().partition_count(&world.topic).is_err());
    let missing = check();
    assert_eq!(missing.code(), 2, "{missing}");
    assert!(missing.stderr.contains("does not exist") && missing.stderr.contains("topics create"), "{missing}");
    assert!(missing.stderr.contains("honours conditional put"), "the store is looked at all the same: {missing}");
    world.create_topic(3, &[]);

    let mut elsewhere = world.command(&["check", "--online"]);
    let store = elsewhere.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").output().unwrap();
    let said = String::from_utf8_lossy(&store.stderr);
    assert_eq!(store.status.code(), Some(1), "{said}");
    assert!(said.contains("bad store") && said.contains("ok  topic"), "{said}");

    let world = world.set_kafka("bootstrap.servers", "127.0.0.1:9");
    let broker = world.start(&["check", "--online"]).wait(PATIENCE);
    assert_eq!(broker.code(), 1, "{broker}");
    assert!(broker.stderr.contains("no broker answers"), "{broker}");
}

//! Days on which the tables are in trouble, or what they hold.

use super::book::Book;
use super::{serve, spread};
use crate::e2e::support::{PATIENCE, World, env, eventually, service};
use crate::e2e::truth::{Fate, Sender};
use serde_json::{Value, json};
use std::fs;

/// The person of the README.
const PLATE: &str = "AA1234BB";

/// A figure of raw's description.
fn figure(world: &World, name: &str) -> u64 {
    let described = world.ends(&["tables", "describe", "raw.camera_events", "--format", "json"], 0);
    described[name].as_u64().unwrap()
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn store_outage() {
    let world = World::alone("book-outage", 4).aggregate("avg_speed");
    let mut sender = Sender::new(&world, 4, 45);
    // 4 dates, so that a batch has some units to publish
    spread(&mut sender, 800, "2026-03-01T00:00:00Z", 432_000);
    world.catch_up(&[]);
    let mut stream = world.stream(&[]);
    spread(&mut sender, 50, "2026-03-20T00:00:00Z", 60_000);
    eventually("the stream lands", || world.landed() == 850);
    let batch = world.start_slowed("before_batch_commit=sleep(400)", &["batch"]);
    eventually("some units are published", || world.count("batch.avg_speed") > 0);
    service("kill9", "minio");
    spread(&mut sender, 50, "2026-03-20T01:00:00Z", 60_000);

    let mut book = Book::open(&world, "store-outage");
    book.block();
    let ended = batch.wait(4 * PATIENCE);
    assert_eq!(ended.code(), 4, "some units were published, and the same command continues: {ended}");
    eventually("the stream misses the store", || stream.log().contains("trying again"));
    assert!(stream.is_alive(), "{} ended:\n{}", stream.what, stream.log());

    service("start", "minio");
    eventually("the stream has landed what came meanwhile", || world.landed() == 900);
    assert_eq!(stream.term().code(), 143);
    book.rest();
    world.verify(&sender.truth);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn small_files() {
    let world = World::new("book-files", 4, &[]).set("commit", "{ every: 60s, rows: 30 }").aggregate("avg_speed");
    let mut sender = Sender::new(&world, 4, 46);
    spread(&mut sender, 720, "2026-03-02T00:00:00Z", 110_000);
    serve(&world);
    let rows = || world.query("SELECT * FROM raw.camera_events ORDER BY _partition, _offset");
    let before = rows();

    let stream = world.stream(&[]);
    eventually("the stream runs", || stream.log().contains("landing begins"));
    let mut book = Book::open(&world, "small-files");
    book.block();
    assert_eq!(rows(), before);
    book.block();
    assert_eq!(stream.term().code(), 143);

    spread(&mut sender, 720, "2026-03-03T00:00:00Z", 110_000);
    serve(&world);
    let before = rows();
    book.rest();
    assert_eq!(rows(), before);
    world.verify(&sender.truth);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn disk_bill() {
    let world = World::new("book-disk", 4, &[]).aggregate("avg_speed");
    let mut sender = Sender::new(&world, 4, 47);
    for (events, at) in [(100, "00:00"), (1, "23:30")] {
        for day in 1..=6 {
            spread(&mut sender, events, &format!("2026-03-{day:02}T{at}:00Z"), 840_000);
        }
        world.catch_up(&[]);
    }
    // what a cron line does that forgets to vacuum
    let compacted = world.ends(&["tables", "compact", "raw.camera_events"], 0);
    assert_eq!(compacted["dates"].as_array().unwrap().len(), 6, "{compacted}");
    serve(&world);
    sender.truth.holds(&world);

    let archive = format!("s3://{}/e2e-archives/{}", env("DELTAWORKS_S3_BUCKET"), world.topic);
    // the test cannot wait for an hour, and nothing else writes here
    let book = Book::open(&world, "disk-bill").named("--older-than 1h", "--older-than 0s --force");
    let mut book = book.named("s3://cold/camera_events", &archive);
    let (rows, bytes) = (figure(&world, "rows"), figure(&world, "bytes"));
    book.block();
    assert_eq!((figure(&world, "rows"), figure(&world, "bytes")), (rows, bytes), "dead files are no part of the table");
    let contract = world.dir().join("schemas/traffic/camera_event.odcs.yaml");
    let text = fs::read_to_string(&contract).unwrap();
    let shorter = text.replace("    value: 400\n", "    value: 30\n");
    assert_ne!(shorter, text);
    fs::write(&contract, shorter).unwrap();
    book.block();
    book.block();
    assert_eq!((rows, figure(&world, "rows")), (606, 303));
    assert!(
        figure(&world, "bytes") < bytes * 3 / 4,
        "half of the rows are gone: {} of {bytes}",
        figure(&world, "bytes")
    );
    book.rest();
    assert_eq!(figure(&world, "rows"), 404);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn forgotten() {
    let world = World::new("book-forgotten", 4, &[]).aggregate("avg_speed");
    let mut sender = Sender::new(&world, 4, 48);
    spread(&mut sender, 300, "2026-03-02T06:00:00Z", 60_000);
    for n in 0..4 {
        let payload = sender.payload(super::at_ms("2026-03-02T08:00:00Z") + i64::from(n));
        let mut event: Value = serde_json::from_str(&payload).unwrap();
        event["plate_number"] = json!(PLATE);
        if n == 3 {
            event["lane"] = json!(12);
        }
        let fate = if n == 3 { Fate::Rejected("out_of_range") } else { Fate::Landed };
        sender.text(n, &event.to_string(), fate);
    }
    sender.settle();
    serve(&world);
    sender.truth.holds(&world);
    let counted = "SELECT sum(events) AS n FROM served.avg_speed WHERE granularity = '1d'";
    let there = format!("raw.camera_events WHERE plate_number = '{PLATE}'");
    assert_eq!((world.number(counted), world.count(&there)), (303, 3));

    let mut book = Book::open(&world, "forgotten").named("--older-than 1h", "--older-than 0s --force");
    book.block();
    assert_eq!((world.number(counted), world.count(&there), world.count("rejects.camera_events")), (300, 0, 0));
    assert!(!book.said.contains(PLATE), "no output shows who it is");
    book.rest();
}

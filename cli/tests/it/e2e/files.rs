//! History in the store fills a table that lives: beside a stream that lands and a batch that computes, killed in the
//! middle, gone on with by two at once; then the contract's rules are asked of it, before and after it is published.

use super::support::{PATIENCE, World, env, eventually, now_ms};
use super::truth::Sender;
use super::windows::batch;
use serde_json::Value;
use std::fs;
use std::process::Command;

const DAY_MS: i64 = 86_400_000;
const FILES: i64 = 8;
const ROWS: i64 = 900;
const CONTRACT: &str = "schemas/traffic/camera_event.odcs.yaml";

/// Puts a text into the store; returns its URL.
fn put(world: &World, name: &str, text: &str) -> String {
    let file = world.dir().join("upload");
    fs::write(&file, text).unwrap();
    let key = format!("{}/e2e-files/{}/{name}", env("DELTAWORKS_S3_BUCKET"), world.topic);
    let region = std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned());
    let user = format!("{}:{}", env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY"));
    let mut curl = Command::new("curl");
    curl.args(["-fsS", "--noproxy", "*", "--aws-sigv4", &format!("aws:amz:{region}:s3"), "--user", &user]);
    let put = curl.arg("-T").arg(&file).arg(format!("{}/{key}", env("AWS_ENDPOINT_URL"))).output().unwrap();
    assert!(put.status.success(), "{put:?}");
    format!("s3://{key}")
}

fn run(world: &World, args: &[&str], code: i32) -> Value {
    let ended = world.start(args).wait(2 * PATIENCE);
    assert_eq!(ended.code(), code, "{ended}");
    ended.result()
}

/// Rows that files brought.
fn filled(world: &World) -> u64 {
    world.number("SELECT count(*) AS n FROM raw.camera_events WHERE _fill >= 0")
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn files() {
    let world = World::new("files", 2, &[]).set("commit", "{ every: 200ms, rows: 60 }").aggregate("avg_speed");
    let mut sender = Sender::new(&world, 2, 51);
    sender.send(200);
    sender.settle();
    world.catch_up(&[]);
    let mut texts = Vec::new();
    for file in 0..FILES {
        let at_ms = |n: i64| now_ms() - (3 + file % 4) * DAY_MS - n * 1_000;
        let text: String = (0..ROWS).map(|n| sender.payload(at_ms(n)) + "\n").collect();
        put(&world, &format!("{file}.jsonl"), &text);
        texts.push(text);
    }
    let first = put(&world, "0.jsonl", &texts[0]);
    let pattern = first.replace("/0.jsonl", "/*.jsonl");

    let stream = world.stream(&[]);
    let create = ["backfill", "create", "camera_events", "--from", "files", "--path", &pattern];
    let planned = run(&world, &[&create[..], &["--dry-run"]].concat(), 0);
    assert_eq!(planned["files"].as_array().unwrap().len(), 8, "{planned}");
    // slow enough to be met in its middle
    let running = world.start_slowed("after_fill_commit=sleep(300)", &create);
    eventually("some rows have come", || filled(&world) > 0);
    assert!(running.kill9(), "the fault fired");
    let rows = (FILES * ROWS).unsigned_abs();
    let there = filled(&world);
    assert!(there < rows, "it was killed in the middle: {there} of {rows}");
    let open = run(&world, &["backfill", "list", "--format", "json"], 0);
    let id = open["id"].as_str().unwrap();

    sender.send(200);
    sender.settle();
    let resumed = [(); 2].map(|()| world.start(&["backfill", "resume", id]));
    batch(&world, &[], 0);
    for resumed in resumed {
        let ended = resumed.wait(2 * PATIENCE);
        assert_eq!((ended.code(), &ended.result()["files_done"]), (0, &8.into()), "{ended}");
    }
    assert_eq!(filled(&world), rows);
    run(&world, &["backfill", "resume", id, "--skip-exit-code"], 99);
    assert_eq!(stream.term().code(), 143);
    world.catch_up(&[]);
    assert_eq!(filled(&world), rows);
    assert_eq!(
        world.number("SELECT count(DISTINCT _topic || '@' || _offset) AS n FROM raw.camera_events WHERE _fill >= 0"),
        rows
    );
    run(&world, &["run"], 0);
    let proved = run(&world, &["prove"], 0);
    assert_eq!(proved["refuted"], 0, "{proved}");

    // what was read before under another name is refused, and both are named
    let other = put(&world, "again.jsonl", &texts[3]);
    let ended =
        world.start(&["backfill", "create", "camera_events", "--from", "files", "--path", &other]).wait(PATIENCE);
    assert_eq!(ended.code(), 2, "{ended}");
    assert!(ended.stderr.contains("again.jsonl") && ended.stderr.contains("/3.jsonl"), "{ended}");
    assert_eq!(filled(&world), rows);
    rules(&world, &mut sender);
}

/// Asks the contract's rules of the dates, and lets them stand before what batch publishes.
fn rules(world: &World, sender: &mut Sender) {
    let told = run(world, &["quality", "run"], 0);
    assert!(told["judged"].as_u64() > Some(0), "{told}");
    run(world, &["quality", "run", "--skip-exit-code"], 99);
    let contract = world.dir().join(CONTRACT);
    let text = fs::read_to_string(&contract).unwrap();
    let strict = text.replace(
        "metric: rowCount\n        mustBeGreaterThan: 0",
        "metric: rowCount\n        mustBeGreaterThan: 900000",
    );
    assert_ne!(text, strict);
    fs::write(&contract, strict).unwrap();
    let breached = run(world, &["quality", "run"], 3);
    assert_eq!(breached["breached"]["error"], breached["dates"], "{breached}");

    sender.event(0, now_ms() - 4 * DAY_MS, None);
    sender.settle();
    world.catch_up(&[]);
    let before = world.query("SELECT max(generation) AS n, sum(events) AS events FROM batch.avg_speed");
    let held = run(world, &["batch", "--before-publish"], 3);
    assert_eq!(
        world.query("SELECT max(generation) AS n, sum(events) AS events FROM batch.avg_speed"),
        before,
        "{held}"
    );
    fs::write(&contract, text).unwrap();
    run(world, &["batch", "--before-publish"], 0);
    assert_ne!(world.query("SELECT max(generation) AS n, sum(events) AS events FROM batch.avg_speed"), before);
    run(world, &["reconcile"], 0);
    assert_eq!(run(world, &["prove"], 0)["refuted"], 0);
}

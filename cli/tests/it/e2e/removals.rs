//! Rows that leave for good, on a real broker and a real store: fewer files, archived dates, a person, dead files; and after
//! each of them everything is proved, the topic included.

use super::support::{PATIENCE, World, env, now_ms};
use super::truth::Sender;
use crate::harness::Rng;
use serde_json::Value;
use std::fs;

const DAY_MS: i64 = 86_400_000;
/// Days back that have events; those beyond five days are not kept.
const DAYS_BACK: [i64; 5] = [1, 2, 7, 8, 9];

fn run(world: &World, args: &[&str], code: i32) -> Value {
    let ended = world.start(args).wait(PATIENCE);
    assert_eq!(ended.code(), code, "{ended}");
    ended.result()
}

fn keep_up(world: &World) {
    world.catch_up(&[]);
    run(world, &["batch"], 0);
    run(world, &["reconcile"], 0);
}

/// Everything agrees, and the broker's messages were read again.
fn prove(world: &World) {
    let proved = run(world, &["prove"], 0);
    assert!(proved["compared"]["messages"].as_u64().unwrap() > 0, "{proved}");
    assert_eq!(proved["refuted"], 0, "{proved}");
}

fn rows_of(tables: &Value) -> u64 {
    tables["tables"][0]["dates"].as_array().unwrap().iter().map(|date| date["rows"].as_u64().unwrap()).sum()
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn removals() {
    let world = World::new("removals", 4, &[]).aggregate("avg_speed");
    let contract = world.dir().join("schemas/traffic/camera_event.odcs.yaml");
    let text = fs::read_to_string(&contract).unwrap();
    fs::write(&contract, text.replace("    value: 400\n", "    value: 5\n")).unwrap();
    let (mut sender, mut random) = (Sender::new(&world, 4, 31), Rng(32));
    let mut below = |end: i64| random.below(end.unsigned_abs()).cast_signed();
    for n in 0..1_200 {
        let days = DAYS_BACK[usize::try_from(below(5)).unwrap()];
        sender.event(i32::try_from(below(4)).unwrap(), now_ms() - days * DAY_MS - below(DAY_MS / 2), None);
        if n % 300 == 299 {
            sender.settle();
            world.catch_up(&[]);
        }
    }
    keep_up(&world);
    prove(&world);
    let all = world.landed();

    let compacted = run(&world, &["tables", "compact", "raw.camera_events"], 0);
    assert!(!compacted["dates"].as_array().unwrap().is_empty(), "{compacted}");
    assert_eq!(world.landed(), all);
    let checkpoint = ["tables", "checkpoint", "raw.camera_events", "--force"];
    assert_eq!(run(&world, &checkpoint, 0)["tables"][0]["write"], true);
    run(&world, &[&checkpoint[..], &["--skip-exit-code"]].concat(), 99);
    prove(&world);

    let url = format!("s3://{}/e2e-archives/{}", env("DELTAWORKS_S3_BUCKET"), world.topic);
    let retain = ["tables", "retain", "raw.camera_events", "--archived-to", &url];
    assert_eq!(run(&world, &retain, 6)["status"], "failed", "nothing is archived yet");
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().to_string();
    let archive = ["tables", "archive", "raw.camera_events", "--before", &today, "--to", &url];
    let archived = run(&world, &archive, 0);
    assert!(archived["dates"].as_array().unwrap().len() >= 5, "{archived}");
    run(&world, &[&archive[..], &["--skip-exit-code"]].concat(), 99);
    let gone = rows_of(&run(&world, &retain, 0));
    assert!(gone > 0 && gone < all, "{gone} of {all}");
    assert_eq!(world.landed(), all - gone);
    run(&world, &[&retain[..], &["--skip-exit-code"]].concat(), 99);
    run(&world, &["batch", "--skip-exit-code"], 99);
    prove(&world);

    // what is archived can be had again, and goes again
    let days_ago = |days: i64| jiff::Timestamp::from_millisecond(now_ms() - days * DAY_MS).unwrap();
    let midnight = |days: i64| days_ago(days).strftime("%Y-%m-%dT00:00:00Z").to_string();
    let create = [
        "backfill",
        "create",
        "camera_events",
        "--from",
        "archive",
        "--path",
        &url,
        "--interval-start",
        &midnight(10),
        "--interval-end",
        &midnight(0),
    ];
    let restored = run(&world, &create, 0);
    assert_eq!(world.landed(), all, "{restored}");
    run(&world, &[&create[..], &["--skip-exit-code"]].concat(), 99);
    keep_up(&world);
    prove(&world);
    // they are rows of a fill now, which the archive has to have
    run(&world, &retain, 6);
    run(&world, &archive, 0);
    assert_eq!(rows_of(&run(&world, &retain, 0)), gone);
    assert_eq!(world.landed(), all - gone);
    prove(&world);

    let who =
        world.query("SELECT camera_id, count(*) AS n FROM raw.camera_events GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1");
    let (who, rows) = (who[0]["camera_id"].as_str().unwrap().to_owned(), who[0]["n"].as_u64().unwrap());
    let key = format!("camera_id={who}");
    let forgotten = run(&world, &["tables", "forget", "camera_events", "--where", &key], 0);
    let counted = forgotten["dates"].as_array().unwrap().iter().map(|date| date["rows"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(counted, rows, "{forgotten}");
    prove(&world);
    keep_up(&world);
    let shown = format!("SELECT count(*) AS n FROM raw.camera_events WHERE camera_id = '{who}'");
    assert_eq!(world.number(&shown), 0);
    prove(&world);

    let history = ["tables", "history", "raw.camera_events", "--limit", "1000", "--format", "json"];
    let history = world.start(&history).wait(PATIENCE).stdout;
    let commits = |operation: &str| history.matches(&format!("\"operation\":\"{operation}\"")).count();
    assert!(commits("OPTIMIZE") >= compacted["dates"].as_array().unwrap().len() && commits("DELETE") > 1, "{history}");

    let vacuumed = run(&world, &["tables", "vacuum", "raw.camera_events", "--older-than", "0s", "--force"], 0);
    assert!(vacuumed["tables"][0]["files"].as_u64().unwrap() > 0, "{vacuumed}");
    assert_eq!(world.landed(), all - gone - rows);
    run(&world, &["upkeep"], 0);
    run(&world, &["upkeep", "--skip-exit-code"], 99);
    prove(&world);
}

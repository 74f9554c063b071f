//! A week under a wrong definition, on a real store: mended by the command that batch names, killed in the middle, gone on
//! with by its id, beside a stream that lands and a batch that computes.

use super::support::{Ended, PATIENCE, Running, World, eventually, now_ms};
use super::truth::Sender;
use super::windows::{SPEEDS, batch, rows_of};
use crate::harness::Rng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

const DAY_MS: i64 = 86_400_000;
const DAYS: i64 = 7;

fn define(world: &World, total: &str) {
    let text = SPEEDS.replace("-- timezone", "-- redefine: 0d\n-- timezone").replace("sum(vehicle_speed)", total);
    fs::write(world.dir().join("sql/traffic/speeds.sql"), text).unwrap();
}

fn ended(running: Running, code: i32) -> Ended {
    let ended = running.wait(2 * PATIENCE);
    assert_eq!(ended.code(), code, "{ended}");
    ended
}

/// The only backfill; null while there is none.
fn shown(world: &World) -> Value {
    let listed = world.start(&["backfill", "list", "--format", "json", "--quiet"]).wait(PATIENCE);
    listed.stdout.lines().next().map_or(Value::Null, |line| serde_json::from_str(line).unwrap())
}

/// The generation of each unit.
fn generations(world: &World) -> BTreeMap<String, i64> {
    let rows = world.query("SELECT DISTINCT granularity, window_date, generation FROM batch.speeds");
    let unit = |row: &Value| format!("{}/{}", row["granularity"], row["window_date"]);
    let found: Vec<(String, i64)> = rows.iter().map(|row| (unit(row), row["generation"].as_i64().unwrap())).collect();
    assert_eq!(found.iter().map(|(unit, _)| unit).collect::<std::collections::BTreeSet<_>>().len(), found.len());
    found.into_iter().collect()
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn backfill() {
    let world = World::new("backfill", 4, &[]);
    define(&world, "sum(vehicle_speed) + 1");
    let right = SPEEDS.replace("aggregate: speeds", "aggregate: right");
    fs::write(world.dir().join("sql/traffic/right.sql"), right).unwrap();
    let world = world.aggregate("speeds").aggregate("right");
    let mut sender = Sender::new(&world, 4, 27);
    let mut random = Rng(28);
    let mut below = |end: i64| random.below(end.unsigned_abs()).cast_signed();
    for number in 0..900 {
        let at_ms = now_ms() - (1 + number % DAYS) * DAY_MS - below(DAY_MS / 2);
        sender.event(i32::try_from(below(4)).unwrap(), at_ms, None);
    }
    sender.settle();
    world.catch_up(&[]);
    batch(&world, &[], 0);
    define(&world, "sum(vehicle_speed)");
    let left = batch(&world, &[], 0).result()["left"].clone();
    let commands: Vec<&str> = left["backfill"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    assert_eq!(commands.len(), 1, "{left}");
    let words: Vec<&str> = commands[0].split(' ').skip(1).collect();

    // killed once it has mended some units and not all
    let running = world.start_slowed("before_batch_commit=sleep(200)", &words);
    eventually("some units are mended", || shown(&world)["done"].as_u64() > Some(0));
    assert!(running.kill9(), "the fault fired");
    let open = shown(&world);
    assert_eq!(open["state"], "open", "{open}");
    assert!(open["left"].as_u64() > Some(0), "it was killed in the middle: {open}");
    let id = open["id"].as_str().unwrap().to_owned();
    let mended: Vec<String> = generations(&world).into_iter().filter(|(_, g)| *g == 2).map(|(unit, _)| unit).collect();
    assert!(!mended.is_empty());

    // gone on with, twice at once, while late events land and are computed
    let late: Vec<i64> = (0..12).map(|n| now_ms() - (1 + n % DAYS) * DAY_MS - below(DAY_MS / 2)).collect();
    let resumed = [world.start(&["backfill", "resume", &id]), world.start(&["backfill", "resume", &id])];
    for at_ms in late {
        sender.event(i32::try_from(below(4)).unwrap(), at_ms, None);
    }
    sender.settle();
    world.catch_up(&[]);
    batch(&world, &[], 0);
    for running in resumed {
        let result = ended(running, 0).result();
        assert_eq!(result["units"]["left"], 0, "{result}");
    }
    assert_eq!(shown(&world)["state"], "finished");
    batch(&world, &[], 0);
    batch(&world, &["--skip-exit-code"], 99);
    assert_eq!(rows_of(&world, "speeds"), rows_of(&world, "right"));
    // wrong, mended, and once more where late events came after that
    let generations = generations(&world);
    assert!(generations.values().all(|g| (2..=3).contains(g)), "{generations:?}");
    assert!(ended(world.start(&["backfill", "cancel", &id]), 0).result()["state"] == "finished");
    world.verify(&sender.truth);
}

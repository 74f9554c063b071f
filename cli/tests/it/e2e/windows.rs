//! Exact windows on a real store: computed, restated by late events, left alone; and left for the other readers.

use super::support::{Ended, PATIENCE, World, now_ms};
use super::truth::Sender;
use crate::harness::Rng;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const DAY_MS: i64 = 86_400_000;
pub const ZONE: &str = "Europe/Kyiv";
const GRANULARITIES: [&str; 5] = ["5m", "1h", "1d", "1w", "1mo"];
/// Days back that have events: of two and more months, with neighbours.
const DAYS_BACK: [i64; 9] = [1, 2, 3, 9, 32, 33, 34, 61, 62];
/// The days back that late events belong to; the last has no others.
const LATE_DAYS_BACK: [i64; 3] = [2, 33, 150];

/// Of all granularities, and with what other readers can compute to the last bit or nearly so.
pub const SPEEDS: &str = "-- aggregate: speeds
-- grain: one row per camera and window
-- from: camera_events
-- windows: [5m, 1h, 1d, 1w, 1mo]
-- timezone: Europe/Kyiv
SELECT camera_id, count(*) AS vehicles, min(vehicle_speed) AS slowest, max(vehicle_speed) AS fastest,
  sum(vehicle_speed) AS total, avg(vehicle_speed) AS avg_speed, avg(CAST(vehicle_speed AS DOUBLE) / 3.6) AS metres_per_second
FROM camera_events
GROUP BY camera_id
";

/// Granularity, window start (microseconds), camera.
pub type Key = (String, i64, String);

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn windows() {
    let world = World::new("windows", 4, &[]);
    fs::write(world.dir().join("sql/traffic/speeds.sql"), SPEEDS).unwrap();
    let world = world.aggregate("avg_speed").aggregate("speeds");
    let mut sender = Sender::new(&world, 4, 17);
    let mut random = Rng(18);
    let mut below = |end: i64| random.below(end.unsigned_abs()).cast_signed();
    // the newest event is older than lateness and idling, so that all windows are complete that they can complete
    let ago_ms = |days: i64, within_ms: i64| now_ms() - days * DAY_MS - within_ms;
    for _ in 0..1_500 {
        let days = DAYS_BACK[usize::try_from(below(9)).unwrap()];
        sender.event(i32::try_from(below(4)).unwrap(), ago_ms(days, below(DAY_MS)), None);
    }
    for number in (0..sender.sent()).step_by(11) {
        let moved = [None, Some(ago_ms(2, below(DAY_MS))), Some(ago_ms(33, below(DAY_MS)))];
        sender.copy(number, i32::try_from(below(4)).unwrap(), moved[number % 3]);
    }
    sender.broken(0);
    sender.settle();
    world.catch_up(&[]);
    let first = batch(&world, &[], 0).result();
    assert!(first["units"]["changed"].as_u64().unwrap() > 50, "{first}");
    assert_eq!((&first["units"]["failed"], &first["units"]["unchanged"]), (&0.into(), &0.into()), "{first}");
    assert!(first["duplicates"].as_u64().unwrap() > 50, "{first}");
    let (before, through_ms) = (rows(&world), world.valid_through_ms());

    let late: Vec<i64> = (0..24).map(|n| ago_ms(LATE_DAYS_BACK[n % 3], below(DAY_MS / 4))).collect();
    for at_ms in &late {
        sender.event(i32::try_from(below(4)).unwrap(), *at_ms, None);
    }
    sender.settle();
    world.catch_up(&[]);
    let second = batch(&world, &[], 0).result();
    assert!(second["late"].as_u64().unwrap() >= 24, "{second}");
    let after = rows(&world);
    verify_restated(&before, &after, &late, through_ms);

    let third = batch(&world, &[], 0).result();
    assert_eq!((&third["status"], &third["units"]["computed"]), (&"done".into(), &0.into()), "{third}");
    batch(&world, &["--skip-exit-code"], 99);
    assert_eq!(rows(&world), after);
    world.verify(&sender.truth);
    hand_over(&world);
}

/// Runs `batch`, which has to end like this.
pub fn batch(world: &World, more: &[&str], code: i32) -> Ended {
    let ended = world.start(&[&["batch"], more].concat()).wait(2 * PATIENCE);
    assert_eq!(ended.code(), code, "{ended}");
    ended
}

/// Every window of `speeds` and what it says.
fn rows(world: &World) -> BTreeMap<Key, Value> {
    rows_of(world, "speeds")
}

/// Every window of an aggregate like that.
pub fn rows_of(world: &World, aggregate: &str) -> BTreeMap<Key, Value> {
    let rows = world.query(&format!("SELECT *, arrow_cast(window_start, 'Int64') AS start_us FROM batch.{aggregate}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut windows = BTreeMap::new();
    for mut row in rows {
        let key = (text(&row["granularity"]), row["start_us"].as_i64().unwrap(), text(&row["camera_id"]));
        // where a unit comes from is the same for all its windows
        row.as_object_mut().unwrap().retain(|name, _| !["pin", "generation", "definition"].contains(&name.as_str()));
        assert!(windows.insert(key.clone(), row).is_none(), "{key:?} is there twice");
    }
    windows
}

/// Fails unless the windows of the late events have changed and no other that was complete before. Their cameras
/// are not looked at: each window has several.
fn verify_restated(before: &BTreeMap<Key, Value>, after: &BTreeMap<Key, Value>, late: &[i64], through_ms: i64) {
    let moved: BTreeSet<(&str, i64)> = before
        .keys()
        .chain(after.keys())
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|(granularity, start, _)| (granularity.as_str(), *start))
        .filter(|(granularity, start)| window(granularity, *start).1 <= through_ms * 1_000)
        .collect();
    let expected: BTreeSet<(&str, i64)> = GRANULARITIES
        .into_iter()
        .flat_map(|granularity| late.iter().map(move |at_ms| (granularity, window(granularity, at_ms * 1_000))))
        .filter(|(_, (_, end))| *end <= through_ms * 1_000)
        .map(|(granularity, (start, _))| (granularity, start))
        .collect();
    assert_eq!(moved, expected);
    assert!(expected.iter().any(|(granularity, _)| *granularity == "1mo"), "{expected:?}");
}

/// Start and end, microseconds, by jiff alone.
pub fn window(granularity: &str, at_us: i64) -> (i64, i64) {
    let us = match granularity {
        "5m" => 300_000_000,
        "1h" => 3_600_000_000,
        _ => {
            let zone = TimeZone::get(ZONE).unwrap();
            let date = Timestamp::from_microsecond(at_us).unwrap().to_zoned(zone.clone()).date();
            let (first, next) = match granularity {
                "1d" => (date, date.tomorrow().unwrap()),
                "1w" => {
                    let monday = date.checked_sub(i64::from(date.weekday().to_monday_zero_offset()).days()).unwrap();
                    (monday, monday.checked_add(7.days()).unwrap())
                }
                _ => (date.first_of_month(), date.last_of_month().tomorrow().unwrap()),
            };
            let midnight = |date: Date| date.to_zoned(zone.clone()).unwrap().timestamp().as_microsecond();
            return (midnight(first), midnight(next));
        }
    };
    (at_us.div_euclid(us) * us, at_us.div_euclid(us) * us + us)
}

/// Leaves for the other readers where the tables are and what they must hold, if anybody asked.
fn hand_over(world: &World) {
    let Some(folder) = std::env::var_os("E2E_TRUTH") else { return };
    let table = |name: &str, granularities: &[&str]| json!({ "url": format!("{}/batch/{name}", world.lake), "granularities": granularities });
    let facts = json!({
        "raw": format!("{}/raw/camera_events", world.lake),
        "zone": ZONE,
        "lateness_ms": 3_600_000,
        "through_us": world.valid_through_ms() * 1_000,
        "tables": [table("avg_speed", &["5m", "1h", "1d"]), table("speeds", &GRANULARITIES)],
    });
    fs::write(Path::new(&folder).join(&world.name).with_extension("windows"), facts.to_string()).unwrap();
}

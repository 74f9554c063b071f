//! What a served table must hold, from what was sent and by nothing of the product but its rules.
//!
//! A covered window counts every event, unless an equal id lies before it on its date (UTC) or on the day before. An
//! open one counts what was on time and no repeat, as landing decides it in each partition by the order of offsets.

use super::support::World;
use super::truth::{Fate, Truth, micros};
use super::windows::window;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const DAY_US: i64 = 86_400_000_000;
pub const AGGREGATE: &str = "soak";
pub const GRANULARITIES: [&str; 3] = ["5m", "1h", "1d"];
pub const SQL: &str = "-- aggregate: soak
-- grain: one row per lane and window
-- from: camera_events
-- windows: [5m, 1h, 1d]
-- timezone: Europe/Kyiv
SELECT lane, count(*) AS vehicles, min(vehicle_speed) AS slowest, max(vehicle_speed) AS fastest,
  sum(vehicle_speed) AS total, avg(vehicle_speed) AS avg_speed
FROM camera_events
GROUP BY lane
";

/// Granularity, window start (microseconds), lane.
pub type Key = (String, i64, Option<i64>);

/// One row of the served table. Speeds are in hundredths of km/h, their mean in millionths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    pub is_covered: bool,
    events: i64,
    vehicles: i64,
    /// Covered: of the events. Open: beside them.
    late: i64,
    /// Rows that are not among the events because another one is.
    duplicates: i64,
    slowest: i64,
    fastest: i64,
    total: i64,
    mean: i64,
}

/// A row that raw must have.
struct Landed {
    order: (i64, Option<i64>, i32, i64),
    id: String,
    lane: Option<i64>,
    speed: i64,
    is_late: bool,
    is_repeat: bool,
    /// Whether an equal id lies before it.
    is_duplicate: bool,
}

/// Every row that raw must have.
pub struct Model(Vec<Landed>);

impl Model {
    /// The rows of what was sent. No partition may have more rows than landing remembers ids.
    pub fn of(truth: &Truth, lateness_ms: i64) -> Self {
        let (mut frontiers, mut ids) = (BTreeMap::<i32, i64>::new(), BTreeSet::new());
        let mut rows = Vec::new();
        for (partition, offset, sent) in truth.messages().filter(|(_, _, sent)| sent.fate == Fate::Landed) {
            let event: Value = serde_json::from_slice(&sent.payload).unwrap();
            let id = event["event_id"].as_str().unwrap().to_owned();
            let at_us = micros(event["observed_at"].as_str().unwrap());
            let at_ms = at_us.div_euclid(1_000);
            let frontier = frontiers.entry(partition).or_insert(at_ms);
            let is_late = *frontier - at_ms > lateness_ms;
            *frontier = at_ms.max(*frontier);
            rows.push(Landed {
                order: (at_us, sent.kafka_ms, partition, offset),
                is_repeat: !ids.insert((partition, id.clone())),
                id,
                lane: event["lane"].as_i64(),
                speed: (event["vehicle_speed"].as_f64().unwrap() * 100.0).round() as i64,
                is_late,
                is_duplicate: false,
            });
        }
        rows.sort_by(|a, b| a.order.cmp(&b.order));
        // the dates of each id among the rows before
        let mut seen: BTreeSet<(String, i64)> = BTreeSet::new();
        for row in &mut rows {
            let date = row.order.0.div_euclid(DAY_US);
            row.is_duplicate = [date, date - 1].into_iter().any(|date| seen.contains(&(row.id.clone(), date)));
            seen.insert((row.id.clone(), date));
        }
        Self(rows)
    }

    /// The share of late rows, and of rows whose id lies before them.
    pub fn shares(&self) -> (f64, f64) {
        let share = |of: fn(&Landed) -> bool| self.0.iter().filter(|row| of(row)).count() as f64 / self.0.len() as f64;
        (share(|row| row.is_late), share(|row| row.is_duplicate))
    }

    /// What must be served once windows that end by `through_us` are covered.
    pub fn served(&self, through_us: i64) -> BTreeMap<Key, Row> {
        let mut windows: BTreeMap<Key, Row> = BTreeMap::new();
        for row in &self.0 {
            for granularity in GRANULARITIES {
                let (start, end) = window(granularity, row.order.0);
                let key = (granularity.to_owned(), start, row.lane);
                let into = windows.entry(key).or_insert_with(|| Row { slowest: i64::MAX, ..Row::default() });
                into.is_covered = end <= through_us;
                into.add(row);
            }
        }
        windows.retain(|_, row| row.events > 0);
        windows.values_mut().for_each(|row| row.mean = mean(row.total * 10_000, row.events));
        windows
    }
}

impl Row {
    fn add(&mut self, row: &Landed) {
        let (late, duplicate) = (i64::from(row.is_late), i64::from(row.is_duplicate));
        let counts = if self.is_covered {
            self.late += late * (1 - duplicate);
            self.duplicates += duplicate;
            !row.is_duplicate
        } else {
            self.late += late;
            self.duplicates += i64::from(row.is_repeat && !row.is_late);
            !row.is_late && !row.is_repeat
        };
        if counts {
            self.events += 1;
            self.vehicles += 1;
            self.slowest = self.slowest.min(row.speed);
            self.fastest = self.fastest.max(row.speed);
            self.total += row.speed;
        }
    }
}

/// The mean, a half to the even.
fn mean(total: i64, count: i64) -> i64 {
    let (whole, rest) = (total.div_euclid(count), total.rem_euclid(count));
    let up = (2 * rest).cmp(&count).then((whole % 2).cmp(&0)).is_gt();
    whole + i64::from(up)
}

/// What is served, and how many windows are in each state. Fails where a window is there twice.
pub fn served(world: &World) -> (BTreeMap<Key, Row>, BTreeMap<String, usize>) {
    let decimals =
        ["slowest", "fastest", "total", "avg_speed"].map(|name| format!("CAST({name} AS VARCHAR) AS {name}"));
    let sql = format!(
        "SELECT granularity, arrow_cast(window_start, 'Int64') AS start_us, lane, state, events, vehicles, late, duplicates, {} \
         FROM served.{AGGREGATE}",
        decimals.join(", ")
    );
    let (mut windows, mut states) = (BTreeMap::new(), BTreeMap::<String, usize>::new());
    for row in world.query(&sql) {
        let text = |name: &str| row[name].as_str().unwrap_or_else(|| panic!("{name}: {row}")).to_owned();
        let whole = |name: &str| row[name].as_i64().unwrap_or_else(|| panic!("{name}: {row}"));
        let digits = |name: &str| text(name).replace('.', "").parse::<i64>().unwrap();
        let state = text("state");
        let key = (text("granularity"), whole("start_us"), row["lane"].as_i64());
        let found = Row {
            is_covered: state != "provisional",
            events: whole("events"),
            vehicles: whole("vehicles"),
            late: whole("late"),
            duplicates: whole("duplicates"),
            slowest: digits("slowest"),
            fastest: digits("fastest"),
            total: digits("total"),
            mean: digits("avg_speed"),
        };
        assert!(windows.insert(key.clone(), found).is_none(), "{key:?} is served twice");
        *states.entry(state).or_default() += 1;
    }
    (windows, states)
}

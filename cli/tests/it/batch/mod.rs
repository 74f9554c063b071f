//! BATCH, from outside: what is published equals a naive count of what was sent, after every step.
//!
//! The model knows no function of the product: it bins by jiff alone, deduplicates by the total order and
//! sums in one loop.

mod backfill;
mod cases;
mod crash;
mod overlap;
mod restate;
mod try_out;

use crate::harness::events::{CONTRACT, DAY_US, Values};
use crate::harness::project::{Knobs, TOPIC};
use crate::harness::{Ended, Event, Feed, MockBroker, Project, Rng};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::Value;
use std::collections::BTreeMap;

const PARTITIONS: i32 = 4;
const ZONE: &str = "Europe/Kyiv";
const LATENESS_US: i64 = 3_600_000_000;
/// 2024-03-30, the day before the clocks go ahead.
const FIRST_US: i64 = 1_711_756_800_000_000;

const AGGREGATE: &str = "-- aggregate: totals
-- grain: one row per residue and window
-- from: events
-- windows: [5m, 1h, 1d, 1w]
-- timezone: Europe/Kyiv
SELECT value % 3 AS residue, sum(value) AS total, max(value) AS greatest, count(*) AS n
FROM events GROUP BY value % 3
";

/// Granularity, window start (microseconds), residue: total, greatest, count.
type Windows = BTreeMap<(String, i64, i64), (i64, i64, i64)>;

struct Story {
    broker: MockBroker,
    project: Project,
    feed: Feed,
    sent: Vec<((i32, i64), Values)>,
}

impl Story {
    fn begin() -> Self {
        let broker = MockBroker::start(TOPIC, PARTITIONS);
        let knobs = Knobs {
            pipeline: vec!["lateness: 1h", "idle_after: 36500d"],
            top: vec!["aggregates: [sql/totals.sql]"],
            ..Knobs::default()
        };
        let project = Project::with(&broker, &knobs);
        project.put("sql/totals.sql", AGGREGATE);
        assert!(CONTRACT.contains("primaryKey"));
        Self { broker, project, feed: Feed::new(), sent: Vec::new() }
    }

    fn send(&mut self, events: &[Event]) {
        let places = self.feed.send(&self.broker, PARTITIONS, events);
        let rows = events.iter().filter_map(|e| e.row.clone());
        self.sent.extend(places.into_iter().zip(rows));
        self.project.catch_up().expect(0);
    }

    fn batch(&self, more: &[&str]) -> Ended {
        let args: Vec<&str> = ["batch"].iter().chain(more).copied().collect();
        self.project.run(&args)
    }

    /// Windows as they must be: of all events but copies, those that end by valid-through.
    fn expected(&self) -> Windows {
        let zone = TimeZone::get(ZONE).unwrap();
        let frontier =
            (0..PARTITIONS).map(|p| self.sent.iter().filter(|(at, _)| at.0 == p).map(|(_, v)| v.at_us).max());
        let through = frontier.map(Option::unwrap).min().unwrap() / 1_000 * 1_000 - LATENESS_US;
        // Kafka's time is the moment of sending, which only grows with the order of sending here
        let mut first: BTreeMap<(&str, i64), (i64, usize)> = BTreeMap::new();
        for (n, (_, v)) in self.sent.iter().enumerate() {
            let key = (v.id.as_str(), v.at_us.div_euclid(DAY_US));
            first.entry(key).and_modify(|f| *f = (*f).min((v.at_us, n))).or_insert((v.at_us, n));
        }
        let mut windows = Windows::new();
        for (n, (_, v)) in self.sent.iter().enumerate() {
            let day = v.at_us.div_euclid(DAY_US);
            if first[&(v.id.as_str(), day)].1 != n || first.contains_key(&(v.id.as_str(), day - 1)) {
                continue;
            }
            for granularity in ["5m", "1h", "1d", "1w"] {
                let (start, end) = window(granularity, v.at_us, &zone);
                if end <= through {
                    let w = windows.entry((granularity.into(), start, v.value % 3)).or_insert((0, 0, 0));
                    *w = (w.0 + v.value, w.1.max(v.value), w.2 + 1);
                }
            }
        }
        windows
    }

    /// Windows as they are.
    fn published(&self) -> Windows {
        let sql = "SELECT granularity, arrow_cast(window_start, 'Int64') AS start, residue, total, greatest, n, events \
                   FROM batch.totals";
        if !self.project.path().join("lake/batch/totals/_delta_log").exists() {
            return Windows::new();
        }
        let rows = self.project.rows(sql);
        let int = |row: &Value, name: &str| row[name].as_i64().unwrap();
        let mut windows = Windows::new();
        for row in &rows {
            assert_eq!(row["n"], row["events"], "{row}");
            let key = (row["granularity"].as_str().unwrap().to_owned(), int(row, "start"), int(row, "residue"));
            let before = windows.insert(key, (int(row, "total"), int(row, "greatest"), int(row, "n")));
            assert!(before.is_none(), "{row} is there twice");
        }
        windows
    }

    /// Fails if a unit is there in part: each has all of its windows as they must be, or none.
    #[track_caller]
    fn verify_whole_units(&self) {
        let (expected, published) = (self.expected(), self.published());
        let zone = TimeZone::get(ZONE).unwrap();
        let unit = |(granularity, start, _): &(String, i64, i64)| {
            (granularity.clone(), Timestamp::from_microsecond(*start).unwrap().to_zoned(zone.clone()).date())
        };
        let units: std::collections::BTreeSet<_> = published.keys().map(unit).collect();
        let whole: Windows = expected.into_iter().filter(|(key, _)| units.contains(&unit(key))).collect();
        assert_eq!(published, whole);
    }

    #[track_caller]
    fn verify(&self) -> Windows {
        self.feed.verify(&self.project);
        let (expected, published) = (self.expected(), self.published());
        assert!(!expected.is_empty());
        assert_eq!(published, expected);
        expected
    }

    /// The generation of each published unit that has rows.
    fn generations(&self) -> BTreeMap<(String, String), i64> {
        let rows = self.project.rows("SELECT DISTINCT granularity, window_date, generation FROM batch.totals");
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        rows.iter()
            .map(|r| ((text(&r["granularity"]), text(&r["window_date"])), r["generation"].as_i64().unwrap()))
            .collect()
    }
}

fn window(granularity: &str, at_us: i64, zone: &TimeZone) -> (i64, i64) {
    let us = match granularity {
        "5m" => 300_000_000,
        "1h" => 3_600_000_000,
        _ => {
            let date = Timestamp::from_microsecond(at_us).unwrap().to_zoned(zone.clone()).date();
            let midnight = |date: Date| date.to_zoned(zone.clone()).unwrap().timestamp().as_microsecond();
            let (from, to) = if granularity == "1d" {
                (date, date.tomorrow().unwrap())
            } else {
                let monday = date.checked_sub(i64::from(date.weekday().to_monday_zero_offset()).days()).unwrap();
                (monday, monday.checked_add(7.days()).unwrap())
            };
            return (midnight(from), midnight(to));
        }
    };
    (at_us.div_euclid(us) * us, at_us.div_euclid(us) * us + us)
}

fn event(id: u64, at_us: i64, value: i64) -> Event {
    Event::of(Values { id: format!("e-{id:x}"), at_us, value, note: None })
}

/// One event per partition, so that all partitions reach `at_us`.
fn reach(id: u64, at_us: i64) -> Vec<Event> {
    (0..PARTITIONS as u64).map(|p| event(id + p, at_us, 7)).collect()
}

/// Events of three days, some of them copies: in the same window, on another hour, and over midnight.
fn three_days(rng: &mut Rng) -> Vec<Event> {
    let mut events: Vec<Event> =
        (0..240).map(|n| event(n, FIRST_US + rng.below(3 * DAY_US as u64) as i64, rng.below(1_000) as i64)).collect();
    for n in [3, 40, 77, 200] {
        let at = events[n].row.clone().unwrap().at_us;
        for moved in [0, 7_200_000_000, DAY_US, -DAY_US] {
            events.push(event(n as u64, (at + moved).max(FIRST_US), 999));
        }
    }
    events.sort_by_key(|e| e.row.as_ref().unwrap().at_us);
    events
}

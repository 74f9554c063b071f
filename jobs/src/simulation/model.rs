//! What is to be served, by plain loops over rows. Rows are what raw holds; no function of the product computes here.
//!
//! A window that is covered has the value of all rows that count, each id once in its date and the day before. One that
//! is not has that of the rows that landed on time and were no repeats. A unit of which raw no longer keeps a date that
//! it is made of, or the day before the first, keeps what it had.

use super::world::{Aggregate, LATENESS_MS, ZONE};
use crate::batch::tests::naive::window;
use deltaworks_core::units::Removed;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use std::collections::BTreeMap;

const DAY_US: i64 = 86_400_000_000;

/// A row of raw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub kafka_us: Option<i64>,
    pub id: String,
    pub at_us: i64,
    pub value: i64,
    pub key: Option<String>,
    pub behind_ms: Option<i64>,
    pub repeat: Option<bool>,
    pub fill: Option<i64>,
}

/// Granularity, window start in microseconds, key.
pub type Key = (String, i64, Option<String>);

/// Total, greatest, events, late, duplicates.
pub type Values = (i64, i64, i64, i64, i64);

pub type Windows = BTreeMap<Key, Values>;

/// What of an aggregate is to be served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Of windows that are covered.
    pub settled: Windows,
    /// Of those that are not.
    pub open: Windows,
}

/// What raw holds, and how far.
#[derive(Debug)]
pub struct Facts {
    pub rows: Vec<Row>,
    /// The next offset to read of each partition.
    pub nexts: BTreeMap<i32, i64>,
    /// Windows that end by then are covered.
    pub through_us: i64,
    pub removed: Removed,
}

impl Facts {
    /// What is to be served, where `before` was.
    pub fn expected(&self, of: &Aggregate, before: &Windows) -> Expected {
        let zone = TimeZone::get(ZONE).unwrap();
        let copies = self.copies();
        let (mut settled, mut open) = (Windows::new(), Windows::new());
        for (row, is_copy) in self.rows.iter().zip(copies) {
            let is_late = row.behind_ms.is_some_and(|behind| behind > LATENESS_MS);
            for granularity in of.windows {
                let (start, end) = window(granularity, row.at_us, &zone);
                let key = ((*granularity).to_owned(), start, row.key.clone());
                if end <= self.through_us {
                    count(settled.entry(key).or_insert(EMPTY), row, !is_copy, is_late && !is_copy, is_copy);
                } else if row.fill.is_none() {
                    let is_repeat = !is_late && row.repeat == Some(true);
                    count(open.entry(key).or_insert(EMPTY), row, !is_late && !is_repeat, is_late, is_repeat);
                }
            }
        }
        for windows in [&mut settled, &mut open] {
            windows.retain(|_, values| values.2 > 0 && of.having_less_than.is_none_or(|less| values.1 < less));
        }
        settled.retain(|key, _| !self.is_frozen(key, &zone));
        let kept = before.iter().filter(|(key, _)| self.is_frozen(key, &zone));
        settled.extend(kept.map(|(key, values)| (key.clone(), *values)));
        Expected { settled, open }
    }

    /// Whether raw no longer keeps all that the window's unit is made of.
    pub fn is_frozen(&self, key: &Key, zone: &TimeZone) -> bool {
        let local = Timestamp::from_microsecond(key.1).unwrap().to_zoned(zone.clone()).date();
        self.lacks(unit(&key.0, local, zone))
    }

    /// Windows that can never be computed again although they were not complete: granularity, local date, and their end.
    pub fn frozen_too_early(&self, of: &Aggregate) -> Option<(String, Date, i64)> {
        let zone = TimeZone::get(ZONE).unwrap();
        let through = self.removed.through?;
        let units = of.windows.iter().flat_map(|granularity| {
            let dates = (-2..3).map(|days| through + days.days());
            dates.map(|local| ((*granularity).to_owned(), local, unit(granularity, local, &zone)))
        });
        let mut early = units.filter(|(.., unit)| self.lacks(*unit) && unit.1 > self.through_us);
        early.next().map(|(granularity, local, (_, end))| (granularity, local, end))
    }

    /// Whether a date is gone of those that a unit is made of, or the day before the first.
    fn lacks(&self, (begin, end): (i64, i64)) -> bool {
        let day = |us: i64| date(1970, 1, 1) + us.div_euclid(DAY_US).days();
        let mut at = day(begin).yesterday().unwrap();
        while at <= day(end - 1) {
            if self.removed.contains(at) {
                return true;
            }
            at = at.tomorrow().unwrap();
        }
        false
    }

    /// Which rows are copies: the least of an id in its date and the day before counts.
    pub fn copies(&self) -> Vec<bool> {
        let mut by_id: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in &self.rows {
            by_id.entry(&row.id).or_default().push(row);
        }
        let order = |r: &Row| (r.at_us, r.kafka_us.is_none(), r.kafka_us, r.topic.clone(), r.partition, r.offset);
        let day = |r: &Row| r.at_us.div_euclid(DAY_US);
        let is_copy = |of: &Row| {
            by_id[of.id.as_str()].iter().any(|r| (day(r) == day(of) || day(r) == day(of) - 1) && order(r) < order(of))
        };
        self.rows.iter().map(is_copy).collect()
    }
}

/// Begin and end of the windows that start on a local date: the first may start later than it, the last end later.
fn unit(granularity: &str, local: Date, zone: &TimeZone) -> (i64, i64) {
    let begin = |date: Date| date.to_zoned(zone.clone()).unwrap().timestamp().as_microsecond();
    let (begin, end) = (begin(local), begin(local.tomorrow().unwrap()));
    let first = window(granularity, begin, zone);
    (if first.0 < begin { first.1 } else { first.0 }, window(granularity, end - 1, zone).1)
}

/// Of no row; the greatest of none is less than any.
const EMPTY: Values = (0, i64::MIN, 0, 0, 0);

fn count(values: &mut Values, row: &Row, counts: bool, is_late: bool, is_copy: bool) {
    if counts {
        values.0 += row.value;
        values.1 = values.1.max(row.value);
        values.2 += 1;
    }
    values.3 += i64::from(is_late);
    values.4 += i64::from(is_copy);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Aggregate = Aggregate { name: "all", windows: &["15m", "6h", "1d"], having_less_than: None };

    fn row(offset: i64, at: &str) -> Row {
        Row {
            topic: "events".into(),
            partition: 0,
            offset,
            kafka_us: None,
            id: format!("id-{offset}"),
            at_us: at.parse::<Timestamp>().unwrap().as_microsecond(),
            value: 1 << offset,
            key: None,
            behind_ms: Some(0),
            repeat: Some(false),
            fill: None,
        }
    }

    fn facts(rows: Vec<Row>, through: &str, removed: Option<&str>) -> Facts {
        let through_us = through.parse::<Timestamp>().unwrap().as_microsecond();
        let through = removed.map(|date| date.parse().unwrap());
        Facts {
            rows,
            nexts: BTreeMap::new(),
            through_us,
            removed: Removed { through, restored: std::collections::BTreeSet::new() },
        }
    }

    #[test]
    fn an_id_counts_once_in_two_days() {
        let at = ["2026-03-02T10:00:00Z", "2026-03-03T10:00:00Z", "2026-03-04T10:00:00Z"];
        let rows = (0..).zip(at).map(|(n, at)| Row { id: "x".into(), ..row(n, at) }).collect();
        let expected = facts(rows, "2026-03-09T00:00:00Z", None).expected(&ALL, &Windows::new());
        let days: Vec<_> = expected.settled.iter().filter(|(key, _)| key.0 == "1d").map(|(_, v)| v.2).collect();
        assert_eq!(days, [1], "the copy of a copy is one too");
    }

    #[test]
    fn what_raw_no_longer_keeps_stays_as_it_was() {
        let rows = vec![row(0, "2026-03-03T10:00:00Z"), row(1, "2026-03-05T10:00:00Z")];
        let through = "2026-03-09T00:00:00Z";
        let before = facts(rows.clone(), through, None).expected(&ALL, &Windows::new()).settled;
        let late = vec![row(2, "2026-03-03T10:00:00Z"), rows[1].clone()];
        let after = facts(late, through, Some("2026-03-03")).expected(&ALL, &before).settled;
        assert_eq!(after, before);
        let all = facts(rows, through, Some("2026-03-04")).expected(&ALL, &Windows::new()).settled;
        assert!(all.is_empty(), "nor is the day after it made of the day before");
    }

    #[test]
    fn a_date_goes_too_early_where_the_next_is_not_over() {
        // in Kyiv the 6th begins two hours before it does in UTC, with windows of the 5th
        let at = |through| facts(vec![], through, Some("2026-03-04")).frozen_too_early(&ALL);
        assert_eq!(at("2026-03-06T22:00:00Z"), None);
        let (granularity, local, _) = at("2026-03-06T21:59:59Z").unwrap();
        assert_eq!((granularity.as_str(), local), ("15m", date(2026, 3, 6)));
    }
}

//! What a result was computed from, so that it can be told later whether it still holds, and computed
//! once more from the very same rows.
//!
//! A pin names rows by place and not by file, so it outlives compaction and vacuum of the raw table. It
//! also holds the *covered bound*: the windows of the unit that ended at or before it were complete when
//! they were computed, and stay published, even if the pipeline's lateness grows or a partition is added
//! and valid-through falls.
//!
//! Invariant U1: the covered bound of a unit never falls.

use super::Fingerprint;
use crate::place::Offset;
use crate::progress::AppIds;
use crate::windows::{Dates, Instant};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The rows of a raw table at one instant. As JSON: one compact object, always in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Id of the raw table. A recreated table has another one, and its versions begin anew.
    pub table: String,
    /// Version of the raw table.
    pub version: i64,
    /// Next offset to read per topic and partition: every epoch that has rows, not only the current.
    pub next: BTreeMap<String, BTreeMap<i32, Offset>>,
    /// Number of the last fill; 0 before the first.
    pub fill: i64,
    /// The instant up to which the table is complete; `None` while a partition holds it open.
    pub valid_through: Option<Instant>,
    /// The covered bound; see [`Pin::after`].
    pub covered: Option<Instant>,
    /// Rows per event date; a date without rows is not in it.
    pub rows: BTreeMap<Date, u64>,
    /// How often the rows of an event date have become others in place, where they have: `forget` rewrote it, or it
    /// was brought back from an archive, as a fill.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rewritten: BTreeMap<Date, i64>,
}

impl Pin {
    /// The pin of a snapshot of a raw table, from the snapshot's own `txn` entries: `next` of every
    /// partition of every topic and epoch, the last fill, and what `forget` rewrote or an archive brought back.
    #[must_use]
    pub fn of_snapshot(
        pipeline: &str,
        table: String,
        version: i64,
        txns: &BTreeMap<String, i64>,
        valid_through: Option<Instant>,
        rows: BTreeMap<Date, u64>,
    ) -> Self {
        let fill = txns.get(&AppIds::new(pipeline).fill()).copied().unwrap_or(0);
        let (mut next, mut rewritten) = (BTreeMap::<_, BTreeMap<_, _>>::new(), BTreeMap::<Date, i64>::new());
        let prefix = format!("deltaworks/{pipeline}/");
        for (id, value) in txns {
            let parts: Vec<&str> = id.strip_prefix(&prefix).map(|rest| rest.split('/').collect()).unwrap_or_default();
            match *parts {
                [topic, partition, "next"] => {
                    if let Ok(partition) = partition.parse::<i32>() {
                        next.entry(topic.to_owned()).or_default().insert(partition, Offset(*value));
                    }
                }
                ["rewritten" | "restored", date] => {
                    if let Ok(date) = date.parse::<Date>() {
                        *rewritten.entry(date).or_default() += *value;
                    }
                }
                _ => {}
            }
        }
        Self { table, version, next, fill, valid_through, covered: valid_through, rows, rewritten }
    }

    /// Whether a row is among the pin's: it came by a fill that the pin knows, or by the stream and from
    /// below the pin's `next`. `topic` is spelled with its epoch; `fill` is null for the stream.
    #[must_use]
    pub fn contains(&self, topic: &str, partition: i32, offset: Offset, fill: Option<i64>) -> bool {
        match fill {
            Some(fill) => fill <= self.fill,
            None => self.next.get(topic).and_then(|p| p.get(&partition)).is_some_and(|next| offset < *next),
        }
    }

    /// The pin for a unit that was computed before: its covered bound is not below the previous one.
    #[must_use]
    pub fn after(&self, previous: Option<&Self>) -> Self {
        Self { covered: covered_bound(self.valid_through, previous), ..self.clone() }
    }

    /// The pin with the row counts of `dates` only. To plan a unit later, its own dates and its dedup
    /// day must be among them.
    #[must_use]
    pub fn narrowed(mut self, dates: Dates) -> Self {
        self.rows.retain(|date, _| dates.contains(*date));
        self.rewritten.retain(|date, _| dates.contains(*date));
        self
    }

    /// Rows of one event date.
    #[must_use]
    pub fn rows_of(&self, date: Date) -> u64 {
        self.rows.get(&date).copied().unwrap_or(0)
    }

    /// How often `forget` has rewritten one event date.
    #[must_use]
    pub fn rewritten_of(&self, date: Date) -> i64 {
        self.rewritten.get(&date).copied().unwrap_or(0)
    }

    /// A short name: equal pins have equal names, on every machine and in every version of the product.
    #[must_use]
    pub fn id(&self) -> Fingerprint {
        let mut text = format!("{:?} {} {}", self.table, self.version, self.fill);
        let us = |at: Option<Instant>| at.map_or_else(|| "-".to_owned(), |at| at.0.to_string());
        // Writing to a text cannot fail.
        let _ = write!(text, " {} {}", us(self.valid_through), us(self.covered));
        for (topic, partitions) in &self.next {
            let _ = write!(text, "\n{topic:?}");
            for (partition, next) in partitions {
                let _ = write!(text, " {partition}:{next}");
            }
        }
        for (date, rows) in &self.rows {
            let _ = write!(text, "\n{date} {rows}");
        }
        for (date, times) in &self.rewritten {
            let _ = write!(text, "\n{date} rewritten {times}");
        }
        Fingerprint::of(text.as_bytes())
    }

    /// Whether this pin of the same table lies before `last` in any place: rows that `last` had may be
    /// missing from it.
    pub(super) fn went_back(&self, last: &Self) -> bool {
        let next_of = |topic: &String, partition: &i32| self.next.get(topic).and_then(|p| p.get(partition));
        let lower = |(topic, partitions): (&String, &BTreeMap<i32, Offset>)| {
            partitions.iter().any(|(partition, next)| next_of(topic, partition).is_none_or(|now| now < next))
        };
        self.fill < last.fill || last.next.iter().any(lower)
    }
}

/// How far a unit is covered: up to valid-through, and never less far than before (U1). `None`: no
/// window of it may be published.
#[must_use]
pub fn covered_bound(valid_through: Option<Instant>, previous: Option<&Pin>) -> Option<Instant> {
    valid_through.max(previous.and_then(|pin| pin.covered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::units::tests::{day, pin, read_to, with};
    use rstest::rstest;
    use std::collections::BTreeSet;

    #[rstest]
    #[case::stream_below_next("t", 0, 99, None, true)]
    #[case::stream_at_next("t", 0, 100, None, false)]
    #[case::fill_below_next("t", 0, 5, Some(2), true)]
    #[case::later_fill_below_next("t", 0, 5, Some(3), false)]
    #[case::partition_not_read("t", 1, 0, None, false)]
    #[case::epoch_not_read("t#1", 0, 0, None, false)]
    #[case::fill_of_a_file("file:///a.parquet", -1, 9, Some(1), true)]
    fn rows_of_a_pin(
        #[case] topic: &str,
        #[case] partition: i32,
        #[case] offset: i64,
        #[case] fill: Option<i64>,
        #[case] inside: bool,
    ) {
        assert_eq!(pin().contains(topic, partition, Offset(offset), fill), inside);
    }

    #[test]
    fn a_snapshot_gives_every_epoch_and_nothing_of_others() {
        let ids = AppIds::new("p");
        let at = |next| Progress { next: Offset(next), frontier_ms: Some(1), reached_ms: Some(2), seen_ms: None };
        let mut txns: BTreeMap<_, _> = ids.write("t", 0, &at(100)).into_iter().collect();
        txns.extend(ids.write("t#1", 0, &at(5)));
        txns.extend(ids.write("t#1", 10, &at(6)));
        txns.extend(AppIds::new("p2").write("t", 3, &at(7)));
        txns.extend([ids.write_partition_count("t", 1), (ids.fill(), 4), (AppIds::new("p2").fill(), 9)]);
        txns.extend([("deltaworks/p/rewritten/2026-01-05".into(), 2), ("deltaworks/p/rewrite".into(), 8)]);
        txns.extend([("deltaworks/p/restored/2026-01-05".into(), 1), ("deltaworks/p/restored/2026-01-06".into(), 4)]);
        let rows = BTreeMap::from([(day(5), 3)]);
        let through = Some(Instant(9));
        let offsets = |next: &[(i32, i64)]| next.iter().map(|(p, next)| (*p, Offset(*next))).collect();
        let expected = Pin {
            table: "raw-1".into(),
            version: 12,
            next: BTreeMap::from([("t".into(), offsets(&[(0, 100)])), ("t#1".into(), offsets(&[(0, 5), (10, 6)]))]),
            fill: 4,
            valid_through: through,
            covered: through,
            rows: rows.clone(),
            rewritten: BTreeMap::from([(day(5), 3), (day(6), 4)]),
        };
        assert_eq!(Pin::of_snapshot("p", "raw-1".into(), 12, &txns, through, rows), expected);
        assert_eq!(Pin::of_snapshot("q", "raw-1".into(), 12, &txns, None, BTreeMap::new()).fill, 0);
    }

    #[test]
    fn a_pin_is_one_compact_json_in_a_stable_order() {
        let pin = with(|p| p.rows = BTreeMap::from([(day(2), 3), (day(1), 4)]));
        let json = concat!(
            r#"{"table":"raw-1","version":7,"next":{"t":{"0":100,"2":7,"10":20}},"fill":2,"#,
            r#""valid_through":"2026-01-07T06:00:00Z","covered":"2026-01-07T06:00:00Z","rows":{"2026-01-01":4,"2026-01-02":3}}"#
        );
        assert_eq!(serde_json::to_string(&pin).unwrap(), json);
        assert_eq!(serde_json::from_str::<Pin>(json).unwrap(), pin);
        let forgotten = Pin { rewritten: BTreeMap::from([(day(2), 1)]), valid_through: None, ..pin };
        let json = serde_json::to_string(&forgotten).unwrap();
        assert_eq!(serde_json::from_str::<Pin>(&json).unwrap(), forgotten);
        assert!(serde_json::from_str::<Pin>(&json.replace("fill", "fil")).is_err(), "a pin is never half understood");
    }

    #[test]
    fn every_field_of_a_pin_is_in_its_name() {
        let changes: [fn(&mut Pin); 11] = [
            |_| (),
            |p| p.table = "raw-2".into(),
            |p| p.version = 8,
            |p| p.fill = 3,
            |p| p.valid_through = None,
            |p| p.covered = None,
            |p| p.next = BTreeMap::new(),
            |p| p.next.extend([read_to(&[(0, 101), (2, 7), (10, 20)])]),
            |p| p.rows.extend([(day(6), 11)]),
            |p| p.rows.clear(),
            |p| p.rewritten.extend([(day(6), 10)]),
        ];
        let names: BTreeSet<_> = changes.iter().map(|change| with(change).id()).collect();
        assert_eq!(names.len(), changes.len());
        assert_eq!(pin().id().to_string(), "755bbe22e0ecda31", "a format: never changes");
    }

    #[test]
    fn the_covered_bound_never_falls() {
        let (early, late) = (Some(Instant(5)), Some(Instant(9)));
        let last = |covered| with(|p| p.covered = covered);
        assert_eq!(covered_bound(None, None), None);
        assert_eq!(covered_bound(early, None), early);
        assert_eq!(covered_bound(early, Some(&last(late))), late, "lateness was raised");
        assert_eq!(covered_bound(None, Some(&last(early))), early, "a partition was added");
        assert_eq!(covered_bound(late, Some(&last(early))), late);
        let now = with(|p| p.valid_through = early);
        assert_eq!(now.after(Some(&last(late))), Pin { covered: late, ..now.clone() });
    }
}

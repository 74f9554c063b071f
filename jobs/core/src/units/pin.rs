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
    /// How often `forget` has rewritten an event date, where it has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rewritten: BTreeMap<Date, i64>,
}

impl Pin {
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

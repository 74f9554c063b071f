//! The way from a provisional value to the exact one: which step each row belongs to, how sure a move is to be
//! shown, and how much of it may be published.
//!
//! ```text
//! definition ─> base ─> arrived ─> fills ─> late ─> dedup = what batch has
//! ```
//!
//! Steps add rows, and the last one takes batch's verdict on copies in place of landing's hint. Each step has a value
//! of its own, computed from all rows so far and never from the value before it.
//!
//! Invariants: D1 a row of the pin is in one step at most, and in exactly one unless landing took it for a repeat;
//! D2 nothing is left over: a difference that no step makes is *unexplained*, and is found by comparing, not by
//! subtracting.

use crate::units::Fingerprint;
use crate::windows::Instant;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The steps after the base, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// On time, no fill, and landed before the window was covered: what speed has shown.
    Base,
    /// Landed after what was last served, or on time and after the window was first covered.
    Arrived,
    /// Written below `next`: redriven, rewound or backfilled.
    Fill,
    /// Further behind its partition's frontier than the pipeline's lateness.
    Late,
}

/// What is known of a row of the pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Whether it is among the rows of the pin under which its window was first covered.
    pub in_first: bool,
    /// Whether it is among those of the pin that was served before this one.
    pub in_served: bool,
    /// Whether it is a fill.
    pub is_fill: bool,
    /// Whether it is late.
    pub is_late: bool,
}

impl Row {
    /// The first class that fits.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self { in_first: true, is_fill: false, is_late: false, .. } => Class::Base,
            Self { in_served: false, .. } => Class::Arrived,
            Self { is_fill: true, .. } => Class::Fill,
            Self { is_late: true, .. } => Class::Late,
            _ => Class::Arrived,
        }
    }
}

/// The pin under which a window was first covered: of all that are known of its unit, the one that covers least and
/// still covers the window.
#[must_use]
pub fn first_covering(end: Instant, known: &BTreeMap<Fingerprint, Instant>) -> Option<Fingerprint> {
    let covering = known.iter().filter(|(_, covered)| end <= **covered);
    covering.min_by_key(|(id, covered)| (**covered, **id)).map(|(id, _)| *id)
}

/// How much may move before a unit is held back.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// Values that no step explains.
    pub unexplained: u64,
    /// Part of a column that may move: the sum of all moves over the sum of what was there. None for any.
    pub size: Option<f64>,
}

/// How much a unit moved.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moved {
    /// Windows with their keys whose value moved.
    pub rows: u64,
    /// Values that no step explains.
    pub unexplained: u64,
    /// The part of a column that moved, and the column: the greatest of all.
    pub size: Option<(f64, String)>,
}

/// A limit is broken.
#[derive(Debug, Clone, PartialEq)]
pub enum Broken {
    /// More values than this are unexplained.
    Unexplained {
        /// How many.
        have: u64,
        /// How many may be.
        limit: u64,
    },
    /// More of a column than this moved.
    Size {
        /// The column.
        column: String,
        /// How much of it.
        have: f64,
        /// How much may.
        limit: f64,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unexplained { have, limit } => write!(f, "{have} values are unexplained, and {limit} may be"),
            Self::Size { column, have, limit } => {
                write!(f, "`{column}` moved by {}, and {} may", percent(*have), percent(*limit))
            }
        }
    }
}

fn percent(part: f64) -> String {
    if part.is_finite() { format!("{:.1} %", part * 100.0) } else { "more than all there was".to_owned() }
}

impl Limit {
    /// Whether a unit that moved so may be published; why not, if it may not.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn judge(&self, moved: &Moved) -> Result<(), Broken> {
        if moved.unexplained > self.unexplained {
            return Err(Broken::Unexplained { have: moved.unexplained, limit: self.unexplained });
        }
        match (self.size, &moved.size) {
            (Some(limit), Some((have, column))) if *have > limit => {
                Err(Broken::Size { column: column.clone(), have: *have, limit })
            }
            _ => Ok(()),
        }
    }
}

/// How much of one column moved, over all windows and keys of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Share {
    moved: f64,
    whole: f64,
}

impl Share {
    /// Takes in one window and key: what was there before, and what is there now; nothing counts as 0.
    pub fn add(&mut self, before: Option<f64>, now: Option<f64>) {
        let number = |value: Option<f64>| value.filter(|v| v.is_finite()).unwrap_or(0.0);
        let (before, now) = (number(before), number(now));
        self.moved += (now - before).abs();
        self.whole += before.abs();
    }

    /// Takes in other windows.
    pub const fn merge(&mut self, other: Self) {
        self.moved += other.moved;
        self.whole += other.whole;
    }

    /// The part that moved; infinite if something came where nothing was.
    #[must_use]
    pub fn part(&self) -> f64 {
        if self.moved == 0.0 { 0.0 } else { self.moved / self.whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::shown_by_speed((true, true, false, false), Class::Base)]
    #[case::shown_by_speed_and_never_served((true, false, false, false), Class::Base)]
    #[case::new_and_on_time((false, false, false, false), Class::Arrived)]
    #[case::new_and_late((false, false, false, true), Class::Arrived)]
    #[case::new_fill((false, false, true, false), Class::Arrived)]
    #[case::on_time_and_served_by_a_restatement((false, true, false, false), Class::Arrived)]
    #[case::fill((true, true, true, false), Class::Fill)]
    #[case::late_fill((true, true, true, true), Class::Fill)]
    #[case::late((true, true, false, true), Class::Late)]
    #[case::late_after_first((false, true, false, true), Class::Late)]
    fn classes(#[case] (in_first, in_served, is_fill, is_late): (bool, bool, bool, bool), #[case] expected: Class) {
        assert_eq!(Row { in_first, in_served, is_fill, is_late }.class(), expected);
    }

    #[test]
    fn the_least_pin_that_covers_a_window_is_its_first() {
        let id = |n: i64| Fingerprint::of_txn(n).unwrap();
        let known = BTreeMap::from([(id(1), Instant(30)), (id(2), Instant(10)), (id(3), Instant(20))]);
        assert_eq!(first_covering(Instant(10), &known), Some(id(2)));
        assert_eq!(first_covering(Instant(11), &known), Some(id(3)));
        assert_eq!(first_covering(Instant(30), &known), Some(id(1)));
        assert_eq!(first_covering(Instant(31), &known), None);
    }

    #[test]
    fn limits() {
        let moved = |unexplained, size: f64| Moved { rows: 9, unexplained, size: Some((size, "total".into())) };
        assert_eq!(Limit::default().judge(&moved(0, 5.0)), Ok(()), "any size, if it is explained");
        let broken = Limit::default().judge(&moved(1, 0.0)).unwrap_err();
        assert_eq!(broken.to_string(), "1 values are unexplained, and 0 may be");
        assert_eq!(Limit { unexplained: 1, size: None }.judge(&moved(1, 0.0)), Ok(()));
        let limit = Limit { unexplained: 0, size: Some(0.1) };
        assert_eq!(limit.judge(&moved(0, 0.1)), Ok(()));
        assert_eq!(limit.judge(&moved(0, 0.123)).unwrap_err().to_string(), "`total` moved by 12.3 %, and 10.0 % may");
        assert_eq!(limit.judge(&Moved::default()), Ok(()));
        assert!(limit.judge(&moved(0, f64::INFINITY)).unwrap_err().to_string().contains("more than all there was"));
    }

    #[test]
    fn moves_up_and_down_do_not_cancel() {
        let mut share = Share::default();
        assert_eq!(share.part(), 0.0);
        share.add(Some(10.0), Some(11.0));
        share.add(Some(10.0), Some(9.0));
        assert_eq!(share.part(), 0.1);
        share.add(None, Some(2.0));
        share.add(Some(f64::NAN), None);
        assert_eq!(share.part(), 0.2);
        let mut first = Share::default();
        first.add(None, Some(1.0));
        assert_eq!(first.part(), f64::INFINITY);
    }
}

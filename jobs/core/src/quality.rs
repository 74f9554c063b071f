//! Whether what was measured of a date keeps a contract's rule.
//!
//! A rule measures one number over the rows of one date and says what it must be. How a number is measured is decided
//! elsewhere; here it is only judged.
//!
//! Invariants: Y1 a rule without any bound is never kept by accident: it is refused when the contract is read; Y2 a
//! number that is none (NaN) keeps no bound.

use serde::Serialize;
use std::fmt;

/// What a number must be. Bounds of a range are inside it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Bound {
    /// Equal.
    MustBe(f64),
    /// Another one.
    MustNotBe(f64),
    /// Above.
    MustBeGreaterThan(f64),
    /// Above or equal.
    MustBeGreaterOrEqualTo(f64),
    /// Below.
    MustBeLessThan(f64),
    /// Below or equal.
    MustBeLessOrEqualTo(f64),
    /// Inside the range.
    MustBeBetween(f64, f64),
    /// Outside the range.
    MustNotBeBetween(f64, f64),
}

impl Bound {
    /// Whether a number keeps it.
    #[must_use]
    pub fn is_kept_by(self, value: f64) -> bool {
        match self {
            Self::MustBe(bound) => value == bound,
            Self::MustNotBe(bound) => !value.is_nan() && value != bound,
            Self::MustBeGreaterThan(bound) => value > bound,
            Self::MustBeGreaterOrEqualTo(bound) => value >= bound,
            Self::MustBeLessThan(bound) => value < bound,
            Self::MustBeLessOrEqualTo(bound) => value <= bound,
            Self::MustBeBetween(least, greatest) => least <= value && value <= greatest,
            Self::MustNotBeBetween(least, greatest) => value < least || greatest < value,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MustBe(bound) => write!(f, "= {bound}"),
            Self::MustNotBe(bound) => write!(f, "≠ {bound}"),
            Self::MustBeGreaterThan(bound) => write!(f, "> {bound}"),
            Self::MustBeGreaterOrEqualTo(bound) => write!(f, "≥ {bound}"),
            Self::MustBeLessThan(bound) => write!(f, "< {bound}"),
            Self::MustBeLessOrEqualTo(bound) => write!(f, "≤ {bound}"),
            Self::MustBeBetween(least, greatest) => write!(f, "{least} to {greatest}"),
            Self::MustNotBeBetween(least, greatest) => write!(f, "not {least} to {greatest}"),
        }
    }
}

/// What a number of rows is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// As counted.
    #[default]
    Rows,
    /// Of the date's rows; 0 where it has none.
    Percent,
}

impl Unit {
    /// A count in this unit.
    #[must_use]
    pub fn of(self, count: f64, rows: u64) -> f64 {
        match self {
            Self::Rows => count,
            Self::Percent if rows == 0 => 0.0,
            Self::Percent => count * 100.0 / rows as f64,
        }
    }
}

/// What a breach means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warning,
    /// Not to be built upon: exit code 3, and nothing is published where batch asks first.
    #[default]
    Error,
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Error];

    /// As contracts and tables spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What became of a rule over one date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Verdict {
    /// Every bound is kept.
    Kept,
    /// A bound is not.
    Breached,
}

impl Verdict {
    /// As tables spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Breached => "breached",
        }
    }
}

/// Judges a number by all bounds of its rule.
pub fn judge(value: f64, bounds: &[Bound]) -> Verdict {
    if !bounds.is_empty() && bounds.iter().all(|bound| bound.is_kept_by(value)) {
        Verdict::Kept
    } else {
        Verdict::Breached
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Bound::{
        MustBe, MustBeBetween, MustBeGreaterOrEqualTo, MustBeGreaterThan, MustBeLessOrEqualTo, MustBeLessThan,
        MustNotBe, MustNotBeBetween,
    };
    use rstest::rstest;

    #[rstest]
    #[case(MustBe(5.0), [false, true, false])]
    #[case(MustNotBe(5.0), [true, false, true])]
    #[case(MustBeGreaterThan(5.0), [false, false, true])]
    #[case(MustBeGreaterOrEqualTo(5.0), [false, true, true])]
    #[case(MustBeLessThan(5.0), [true, false, false])]
    #[case(MustBeLessOrEqualTo(5.0), [true, true, false])]
    #[case(MustBeBetween(5.0, 6.0), [false, true, true])]
    #[case(MustNotBeBetween(4.0, 5.0), [false, false, true])]
    fn a_bound_is_kept_or_not(#[case] bound: Bound, #[case] by_4_5_6: [bool; 3]) {
        assert_eq!([4.0, 5.0, 6.0].map(|value| bound.is_kept_by(value)), by_4_5_6);
        assert!(!bound.is_kept_by(f64::NAN), "no number keeps no bound");
    }

    #[test]
    fn a_rule_is_kept_by_all_its_bounds_or_not() {
        assert_eq!(judge(3.0, &[MustBeGreaterThan(1.0), MustBeLessThan(4.0)]), Verdict::Kept);
        assert_eq!(judge(5.0, &[MustBeGreaterThan(1.0), MustBeLessThan(4.0)]), Verdict::Breached);
        assert_eq!(judge(5.0, &[]), Verdict::Breached);
    }

    #[test]
    fn a_share_of_no_rows_is_none() {
        assert_eq!(Unit::Percent.of(0.0, 0), 0.0);
        assert_eq!(Unit::Percent.of(1.0, 8), 12.5);
        assert_eq!(Unit::Rows.of(7.0, 0), 7.0);
    }
}

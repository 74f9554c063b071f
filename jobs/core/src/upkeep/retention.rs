//! Which dates may go, and whether the windows made of them are final.
//!
//! A date that goes takes the means with it to compute any window again that needs it: its own windows, those that
//! reach over its end, and those of the next date, whose copies are told by the ids of the day before. So each of
//! their units must be what a recompute would give, complete, and served.
//!
//! Invariants: T1 no date goes that the contract still keeps; T2 a unit that passes [`judge`] says the same with its
//! dates gone.

use crate::units::{Fingerprint, Idle, Plan, Refusal};
use crate::windows::Instant;
use jiff::Span;
use jiff::civil::Date;
use std::fmt;

/// Why dates cannot go as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Kept {
    /// The contract keeps them longer.
    #[error("the contract keeps {days} days, so nothing from {first_kept} on may go")]
    ByContract {
        /// Its retention.
        days: u32,
        /// The first date that it keeps.
        first_kept: Date,
    },
    /// They are not over.
    #[error("{before} lies ahead of today, {today}")]
    Ahead {
        /// The first date that was to be kept.
        before: Date,
        /// The date now, UTC.
        today: Date,
    },
}

/// What is known of a unit that needs dates which are to go.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// What batch would do with it now.
    pub plan: &'a Plan,
    /// Where its last window ends.
    pub end: Option<Instant>,
    /// Its covered bound.
    pub covered: Option<Instant>,
    /// Generation and pin that batch has published.
    pub published: Option<(i64, Fingerprint)>,
    /// Generation and pin that are served.
    pub served: Option<(i64, Fingerprint)>,
}

/// Why the windows of a unit are not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFinal {
    /// Some of them are not complete.
    NotCovered,
    /// Batch has to compute it.
    NotComputed,
    /// Batch cannot compute it right.
    Refused,
    /// What batch has published is not served.
    NotServed,
}

impl fmt::Display for NotFinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotCovered => "has windows that are not complete",
            Self::NotComputed => "is to be computed",
            Self::Refused => "cannot be computed right",
            Self::NotServed => "is not served as batch has it",
        })
    }
}

/// The first date that is kept; `None` for all. `before` is what the user asks for, `days` the contract's retention.
///
/// # Errors
/// The user asks for dates to go that are kept (T1).
pub fn first_kept(today: Date, days: Option<u32>, before: Option<Date>) -> Result<Option<Date>, Kept> {
    // what is longer than all years that there are is for ever
    let less = |days: u32| Span::new().try_days(i64::from(days)).map_or(Date::MIN, |span| today.saturating_sub(span));
    let by_contract = days.map(less);
    match (before, by_contract, days) {
        (Some(before), _, _) if before > today => Err(Kept::Ahead { before, today }),
        (Some(before), Some(first_kept), Some(days)) if before > first_kept => {
            Err(Kept::ByContract { days, first_kept })
        }
        (before, by_contract, _) => Ok(before.or(by_contract)),
    }
}

/// Whether the windows of a unit are final; why not otherwise.
///
/// # Errors
/// What stands in the way.
pub fn judge(standing: &Standing<'_>) -> Result<(), NotFinal> {
    match standing.plan {
        // a unit that can never be computed again loses nothing more
        Plan::Nothing { why: Idle::NoRows | Idle::OutsideInterval }
        | Plan::Refused { why: Refusal::BeyondRetention { .. } } => Ok(()),
        Plan::Nothing { why: Idle::UpToDate | Idle::DefinitionKept } => {
            if standing.end.is_some_and(|end| standing.covered.is_none_or(|covered| covered < end)) {
                Err(NotFinal::NotCovered)
            } else if standing.published != standing.served {
                Err(NotFinal::NotServed)
            } else {
                Ok(())
            }
        }
        Plan::Nothing { why: Idle::NotCovered | Idle::RecreatedBehind } => Err(NotFinal::NotCovered),
        Plan::Recompute { .. } | Plan::CompareIds { .. } | Plan::Repin => Err(NotFinal::NotComputed),
        Plan::Refused { .. } => Err(NotFinal::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Reason;
    use jiff::civil::date;
    use rstest::rstest;

    fn day(day: i8) -> Date {
        date(2026, 1, day)
    }

    #[rstest]
    #[case::nothing_said(None, None, Ok(None))]
    #[case::by_contract(Some(10), None, Ok(Some(day(11))))]
    #[case::nothing_kept(Some(0), None, Ok(Some(day(21))))]
    #[case::asked(None, Some(day(21)), Ok(Some(day(21))))]
    #[case::less_than_allowed(Some(10), Some(day(9)), Ok(Some(day(9))))]
    #[case::as_allowed(Some(10), Some(day(11)), Ok(Some(day(11))))]
    #[case::more_than_allowed(Some(10), Some(day(12)), Err(Kept::ByContract { days: 10, first_kept: day(11) }))]
    #[case::tomorrow(None, Some(day(22)), Err(Kept::Ahead { before: day(22), today: day(21) }))]
    #[case::for_ever(Some(u32::MAX), None, Ok(Some(Date::MIN)))]
    fn dates_that_are_kept(
        #[case] days: Option<u32>,
        #[case] before: Option<Date>,
        #[case] expected: Result<Option<Date>, Kept>,
    ) {
        assert_eq!(first_kept(day(21), days, before), expected);
    }

    #[test]
    fn only_units_that_are_computed_complete_and_served_pass() {
        let id = |text: &str| Some((1, Fingerprint::of(text.as_bytes())));
        let plan = Plan::Nothing { why: Idle::UpToDate };
        let at = |us| Some(Instant(us));
        let good = Standing { plan: &plan, end: at(9), covered: at(9), published: id("a"), served: id("a") };
        assert_eq!(judge(&good), Ok(()));
        let cases = [
            (Standing { covered: at(8), ..good }, NotFinal::NotCovered),
            (Standing { covered: None, ..good }, NotFinal::NotCovered),
            (Standing { served: None, ..good }, NotFinal::NotServed),
            (Standing { served: id("b"), ..good }, NotFinal::NotServed),
            (Standing { plan: &Plan::Repin, ..good }, NotFinal::NotComputed),
            (
                Standing { plan: &Plan::Recompute { reasons: vec![], covered: Instant(9) }, ..good },
                NotFinal::NotComputed,
            ),
            (Standing { plan: &Plan::Nothing { why: Idle::NotCovered }, ..good }, NotFinal::NotCovered),
            (Standing { plan: &Plan::Refused { why: Refusal::WentBack }, ..good }, NotFinal::Refused),
        ];
        for (standing, expected) in cases {
            assert_eq!(judge(&standing), Err(expected), "{standing:?}");
        }
    }

    #[test]
    fn units_that_nothing_can_be_made_of_any_more_do_not_hold_dates() {
        let why = Refusal::BeyondRetention { dates: vec![day(1)], reasons: vec![Reason::Missing] };
        for plan in [Plan::Refused { why }, Plan::Nothing { why: Idle::NoRows }] {
            let standing = Standing { plan: &plan, end: None, covered: None, published: None, served: None };
            assert_eq!(judge(&standing), Ok(()));
        }
    }
}

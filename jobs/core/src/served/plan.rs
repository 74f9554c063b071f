//! What one unit takes from batch, and what from speed.
//!
//! Invariants: V1 a lower generation, covered bound or version of batch never replaces a higher one; V2 nor do states with less of
//! the same rows in them; V3 what was taken is not taken again.

use super::{Shown, Taken};
use serde::Serialize;

/// What a unit takes from batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum FromBatch {
    /// Nothing: batch has what was taken over, or never published the unit.
    Same,
    /// All rows of the unit.
    Take(Taken),
    /// Nothing: batch is behind what was taken over.
    Behind,
}

/// What the open windows of a unit take from speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum FromSpeed {
    /// Nothing: they are of these states.
    Same,
    /// All their rows.
    Take(Shown),
    /// Nothing: they stay as they are.
    Keep(Kept),
}

/// Why provisional rows stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// There are no states that could be used.
    NoStates,
    /// The states have less in them than what is served, as while they are made anew.
    Behind,
}

impl Taken {
    /// Whether both were computed from the same rows in the same way, wherever they were found.
    fn is_like(&self, other: &Self) -> bool {
        let what = |t: &Self| (t.generation, t.pin, t.definition);
        what(self) == what(other)
    }

    /// Whether this is of an older version of batch than `other`.
    #[must_use]
    pub fn is_behind(&self, other: &Self) -> bool {
        self.generation < other.generation || self.covered < other.covered || self.version < other.version
    }
}

/// What to take of what batch has of a unit; `None` is a unit that batch never published.
pub fn judge_batch(taken: Option<Taken>, offer: Option<Taken>) -> FromBatch {
    match (taken, offer) {
        (None, None) => FromBatch::Same,
        (None, Some(offer)) => FromBatch::Take(offer),
        (Some(_), None) => FromBatch::Behind,
        (Some(taken), Some(offer)) if taken.is_like(&offer) => FromBatch::Same,
        (Some(taken), Some(offer)) if offer.is_behind(&taken) => FromBatch::Behind,
        (Some(_), Some(offer)) => FromBatch::Take(offer),
    }
}

/// What to take of the states that there are; `None` if none can be used.
pub fn judge_speed(shown: Option<Shown>, offer: Option<Shown>) -> FromSpeed {
    match (shown, offer) {
        (_, None) => FromSpeed::Keep(Kept::NoStates),
        (Some(shown), Some(offer)) if shown.origin == offer.origin && offer.progress < shown.progress => {
            FromSpeed::Keep(Kept::Behind)
        }
        (Some(shown), Some(offer)) if shown.origin == offer.origin && offer.states == shown.states => FromSpeed::Same,
        (_, Some(offer)) => FromSpeed::Take(offer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Fingerprint;
    use crate::windows::Instant;
    use rstest::rstest;

    fn taken((generation, covered): (i64, i64)) -> Taken {
        Taken {
            generation,
            pin: Fingerprint::of(&covered.to_le_bytes()),
            covered: Instant(covered),
            version: 10 * generation + covered,
            definition: Fingerprint::of(b"definition"),
        }
    }

    #[rstest]
    #[case::never_published(None, None, FromBatch::Same)]
    #[case::first(None, Some((1, 5)), FromBatch::Take(taken((1, 5))))]
    #[case::same(Some((1, 5)), Some((1, 5)), FromBatch::Same)]
    #[case::same_rows_cover_more(Some((1, 5)), Some((1, 6)), FromBatch::Take(taken((1, 6))))]
    #[case::other_rows(Some((1, 5)), Some((2, 5)), FromBatch::Take(taken((2, 5))))]
    #[case::older_rows(Some((2, 5)), Some((1, 6)), FromBatch::Behind)]
    #[case::less_covered(Some((2, 6)), Some((3, 5)), FromBatch::Behind)]
    #[case::gone(Some((2, 6)), None, FromBatch::Behind)]
    fn batch(#[case] have: Option<(i64, i64)>, #[case] offer: Option<(i64, i64)>, #[case] expected: FromBatch) {
        let (have, offer) = (have.map(taken), offer.map(taken));
        assert_eq!(judge_batch(have, offer), expected);
        if let FromBatch::Take(taken) = expected {
            assert_eq!(judge_batch(Some(taken), offer), FromBatch::Same, "V3");
            assert_ne!(judge_batch(Some(taken), have), FromBatch::Take(taken), "V1");
        }
    }

    #[test]
    fn a_new_pin_of_the_same_rows_is_recorded() {
        let (old, new) = (taken((1, 5)), Taken { pin: Fingerprint::of(b"new"), version: 16, ..taken((1, 5)) });
        assert_eq!(judge_batch(Some(old), Some(new)), FromBatch::Take(new));
        assert_eq!(judge_batch(Some(new), Some(old)), FromBatch::Behind, "nor is it taken back");
        assert_eq!(judge_batch(Some(new), Some(Taken { version: 17, ..new })), FromBatch::Same);
    }

    fn shown((origin, progress, states): (u8, i64, u8)) -> Shown {
        Shown { origin: Fingerprint::of(&[origin]), progress, states: Fingerprint::of(&[states]) }
    }

    #[rstest]
    #[case::none(None, None, FromSpeed::Keep(Kept::NoStates))]
    #[case::gone(Some((1, 5, 1)), None, FromSpeed::Keep(Kept::NoStates))]
    #[case::first(None, Some((1, 5, 1)), FromSpeed::Take(shown((1, 5, 1))))]
    #[case::same(Some((1, 5, 1)), Some((1, 5, 1)), FromSpeed::Same)]
    #[case::other_dates_went_on(Some((1, 5, 1)), Some((1, 9, 1)), FromSpeed::Same)]
    #[case::more(Some((1, 5, 1)), Some((1, 9, 2)), FromSpeed::Take(shown((1, 9, 2))))]
    #[case::merged(Some((1, 5, 1)), Some((1, 5, 2)), FromSpeed::Take(shown((1, 5, 2))))]
    #[case::made_anew_and_not_there_yet(Some((1, 5, 1)), Some((1, 4, 2)), FromSpeed::Keep(Kept::Behind))]
    #[case::of_another_table(Some((1, 5, 1)), Some((2, 1, 2)), FromSpeed::Take(shown((2, 1, 2))))]
    fn speed(#[case] have: Option<(u8, i64, u8)>, #[case] offer: Option<(u8, i64, u8)>, #[case] expected: FromSpeed) {
        assert_eq!(judge_speed(have.map(shown), offer.map(shown)), expected);
        if let FromSpeed::Take(shown) = expected {
            assert_eq!(judge_speed(Some(shown), Some(shown)), FromSpeed::Same, "V3");
        }
    }
}

//! What became of a reject, judged from the facts about its place.
//!
//! | in raw, or a resolution says redriven | a resolution says discarded | below raw's `next` | standing |
//! |---|---|---|---|
//! | yes | any | any | `Settled(Redriven)` |
//! | no | yes | any | `Settled(Discarded)` |
//! | no | no | no | `Pending`: the stream will judge the message again |
//! | no | no | yes | `Open` |
//!
//! Invariants: R1 a place whose row is in raw is never open, so a redrive that died before it could say so is
//! not repeated; R2 the order in which resolutions were written does not matter.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a row of `ops.resolutions` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The message is in raw.
    Redriven,
    /// A person gave the message up.
    Discarded,
}

impl Resolution {
    /// As tables spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redriven => "redriven",
            Self::Discarded => "discarded",
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is no resolution.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither `redriven` nor `discarded`")]
pub struct NotAResolution(String);

impl FromStr for Resolution {
    type Err = NotAResolution;

    fn from_str(text: &str) -> Result<Self, NotAResolution> {
        [Self::Redriven, Self::Discarded]
            .into_iter()
            .find(|resolution| resolution.as_str() == text)
            .ok_or_else(|| NotAResolution(text.to_owned()))
    }
}

/// What is known of one place in a rejects table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Raw has a row of the place.
    pub in_raw: bool,
    /// A resolution says that it was redriven.
    pub redriven: bool,
    /// A resolution says that it was discarded.
    pub discarded: bool,
    /// The stream has passed the place; true for rows of files, which no stream reads.
    pub below_next: bool,
}

/// How a reject stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has settled it.
    Open,
    /// It was rejected ahead of raw's progress, by a run that died: the stream judges it again.
    Pending,
    /// It is settled.
    Settled(Resolution),
}

/// Judges one place.
#[must_use]
pub const fn standing(facts: Facts) -> Standing {
    if facts.in_raw || facts.redriven {
        Standing::Settled(Resolution::Redriven)
    } else if facts.discarded {
        Standing::Settled(Resolution::Discarded)
    } else if facts.below_next {
        Standing::Open
    } else {
        Standing::Pending
    }
}

impl Standing {
    /// Whether a redrive takes it: what was discarded only where that is asked for.
    #[must_use]
    pub const fn may_be_redriven(self, discarded_too: bool) -> bool {
        match self {
            Self::Open => true,
            Self::Settled(Resolution::Discarded) => discarded_too,
            Self::Settled(Resolution::Redriven) | Self::Pending => false,
        }
    }

    /// Whether it may be given up.
    #[must_use]
    pub const fn may_be_discarded(self) -> bool {
        matches!(self, Self::Open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Resolution::{Discarded, Redriven};
    use Standing::{Open, Pending, Settled};
    use rstest::rstest;

    #[rstest]
    #[case::new([false, false, false, true], Open)]
    #[case::ahead([false, false, false, false], Pending)]
    #[case::redriven([true, true, false, true], Settled(Redriven))]
    #[case::resolution_lost([true, false, false, true], Settled(Redriven))]
    #[case::raw_removed_since([false, true, false, true], Settled(Redriven))]
    #[case::discarded([false, false, true, true], Settled(Discarded))]
    #[case::discarded_while_it_was_redriven([true, false, true, true], Settled(Redriven))]
    #[case::discarded_first_redriven_then([true, true, true, true], Settled(Redriven))]
    fn truth_table(#[case] facts: [bool; 4], #[case] want: Standing) {
        let [in_raw, redriven, discarded, below_next] = facts;
        assert_eq!(standing(Facts { in_raw, redriven, discarded, below_next }), want);
    }

    #[rstest]
    #[case(Open, [true, true, true])]
    #[case(Pending, [false, false, false])]
    #[case(Settled(Redriven), [false, false, false])]
    #[case(Settled(Discarded), [false, true, false])]
    fn what_may_be_done(#[case] standing: Standing, #[case] want: [bool; 3]) {
        let may = [standing.may_be_redriven(false), standing.may_be_redriven(true), standing.may_be_discarded()];
        assert_eq!(may, want);
    }

    #[test]
    fn the_written_form_is_read() {
        for resolution in [Redriven, Discarded] {
            assert_eq!(resolution.as_str().parse(), Ok(resolution));
            assert_eq!(serde_json::to_value(resolution).unwrap(), resolution.as_str());
        }
        assert!("open".parse::<Resolution>().is_err());
    }
}

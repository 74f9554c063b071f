//! What becomes of one row of a covered window.
//!
//! | window was covered before | row that was served | verdict |
//! |---|---|---|
//! | no | any or none | final |
//! | yes | same | keep |
//! | yes | other, or none | restated |
//!
//! A window that was covered and had no row was served, too: its last value is that there is none. So a row that
//! comes later is restated.
//!
//! Invariants: S1 no row of a covered window is provisional; S2 judging what was made so changes nothing.

use std::fmt;
use std::str::FromStr;

/// How sure a served row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Its window is not complete: on-time events so far.
    Provisional,
    /// As batch first gave it.
    Final,
    /// It came, or changed, after its window had been final.
    Restated,
}

/// What to do with the row that batch has for a covered window and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The served row is the same: leave it, with its generation.
    Keep,
    /// Serve batch's row in this state, with batch's generation.
    Serve(State),
}

/// Judges a row of batch. `was_covered`: the window was covered by what was taken over before; `same`: the
/// served row of that window and key, if there is one, has the same values and counts.
pub const fn judge(was_covered: bool, same: Option<bool>) -> Verdict {
    match (was_covered, same) {
        (false, _) => Verdict::Serve(State::Final),
        (true, Some(true)) => Verdict::Keep,
        (true, Some(false) | None) => Verdict::Serve(State::Restated),
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Provisional => "provisional",
            Self::Final => "final",
            Self::Restated => "restated",
        })
    }
}

/// A text is no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not `provisional`, `final` or `restated`")]
pub struct NotAState(pub String);

impl FromStr for State {
    type Err = NotAState;

    fn from_str(text: &str) -> Result<Self, NotAState> {
        let all = [Self::Provisional, Self::Final, Self::Restated];
        all.into_iter().find(|state| state.to_string() == text).ok_or_else(|| NotAState(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::first_with_provisional(false, Some(false), Verdict::Serve(State::Final))]
    #[case::first_that_speed_had_right(false, Some(true), Verdict::Serve(State::Final))]
    #[case::first_without(false, None, Verdict::Serve(State::Final))]
    #[case::unchanged(true, Some(true), Verdict::Keep)]
    #[case::changed(true, Some(false), Verdict::Serve(State::Restated))]
    #[case::came_later_or_back(true, None, Verdict::Serve(State::Restated))]
    fn rows_of_covered_windows(#[case] was_covered: bool, #[case] same: Option<bool>, #[case] expected: Verdict) {
        assert_eq!(judge(was_covered, same), expected);
        assert_eq!(judge(true, Some(true)), Verdict::Keep, "again");
    }

    #[test]
    fn states_survive_their_text() {
        for state in [State::Provisional, State::Final, State::Restated] {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert_eq!("Final".parse::<State>(), Err(NotAState("Final".into())));
    }
}

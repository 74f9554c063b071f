//! What a backfill is: its id, how its events make its state, the order of its units, and what is left of a plan that
//! was frozen.
//!
//! A backfill keeps no progress of its own. A recompute knows how often each unit had been computed when it was created;
//! a unit is done once the ledger counts more, under the definition that the backfill was created for. So it does
//! not matter who computed it, a backfill that is interrupted repeats nothing, and any machine can go on. A new pin
//! alone is no computation: the rows were not looked at.
//!
//! | of one unit, since the plan was frozen | it is |
//! |---|---|
//! | nothing, or its pin was renewed | left |
//! | computed, its rows changed or the same, under the plan's definition | done |
//! | computed, and last under another definition | left |
//! | its ledger is gone | left |
//!
//! Invariants: F1 what is done stays done while the definition stays; F2 a backfill ends once, and what ended first holds;
//! F3 the portions are all units, each once, in their order.

use crate::units::{Entry, Fingerprint, Unit};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

#[cfg(test)]
mod model;

/// The id of a backfill: the date (UTC) of its creation and eight hex digits, such as `20260105-9f31c2aa`. Short enough to
/// be typed, and it tells where its rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BackfillId {
    created: Date,
    tag: u32,
}

/// A text is no id of a backfill.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no id of a backfill: one looks like `20260105-9f31c2aa`")]
pub struct NotABackfillId(String);

/// What a backfill does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Computes units of past intervals again.
    Recompute,
    /// Fills raw from files.
    Files,
    /// Fills raw from the topic.
    Kafka,
    /// Fills raw from archived dates.
    Archive,
}

/// What is told of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It was created, with its plan.
    Created,
    /// All of it is done.
    Finished,
    /// Somebody gave it up.
    Cancelled,
}

/// Where a backfill is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Under way, or interrupted: it can be resumed.
    Open,
    /// Done.
    Finished,
    /// Given up: what was done stays, what was left is left.
    Cancelled,
}

/// What comes of the wish to end a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// Record the event.
    Record,
    /// It has ended, as wished or otherwise, and stays so.
    Ended(State),
}

/// A unit of a frozen plan, and what the ledger said of it then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenUnit {
    /// The unit.
    #[serde(flatten)]
    pub unit: Unit,
    /// How often it had been computed.
    pub computations: i64,
    /// How often it had been published.
    pub generation: i64,
    /// The pin that it had, if it was ever published.
    pub pin: Option<Fingerprint>,
}

impl BackfillId {
    /// An id for a backfill that is created on `date`; equal seeds give equal ids.
    #[must_use]
    pub fn new(date: Date, seed: &str) -> Self {
        let name = Fingerprint::of(seed.as_bytes()).txn().cast_unsigned();
        Self { created: date, tag: u32::try_from(name >> 31).unwrap_or(u32::MAX) }
    }

    /// The date (UTC) of its creation.
    #[must_use]
    pub const fn created(self) -> Date {
        self.created
    }
}

impl fmt::Display for BackfillId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.created.to_string().replace('-', ""), self.tag)
    }
}

impl FromStr for BackfillId {
    type Err = NotABackfillId;

    fn from_str(text: &str) -> Result<Self, NotABackfillId> {
        let parse = || {
            let (date, tag) = text.split_once('-').filter(|(date, _)| date.len() == 8)?;
            let number = |range: std::ops::Range<usize>| date.get(range)?.parse::<i16>().ok();
            let small = |range| i8::try_from(number(range)?).ok();
            let created = Date::new(number(0..4)?, small(4..6)?, small(6..8)?).ok()?;
            let id = Self { created, tag: u32::from_str_radix(tag, 16).ok()? };
            (id.to_string() == text).then_some(id)
        };
        parse().ok_or_else(|| NotABackfillId(text.to_owned()))
    }
}

impl TryFrom<String> for BackfillId {
    type Error = NotABackfillId;

    fn try_from(text: String) -> Result<Self, NotABackfillId> {
        text.parse()
    }
}

impl From<BackfillId> for String {
    fn from(id: BackfillId) -> Self {
        id.to_string()
    }
}

impl State {
    /// What its events, in the order in which they were recorded, have made of a backfill.
    #[must_use]
    pub fn of(events: impl IntoIterator<Item = Event>) -> Self {
        let ends = events.into_iter().find_map(|event| match event {
            Event::Created => None,
            Event::Finished => Some(Self::Finished),
            Event::Cancelled => Some(Self::Cancelled),
        });
        ends.unwrap_or(Self::Open)
    }

    /// Whether a backfill that is here may be ended.
    pub const fn turn(self) -> Turn {
        match self {
            Self::Open => Turn::Record,
            ended => Turn::Ended(ended),
        }
    }
}

impl FrozenUnit {
    /// A unit as the ledger has it now.
    #[must_use]
    pub fn of(unit: Unit, entry: Option<Entry>) -> Self {
        Self {
            unit,
            computations: entry.map_or(0, Entry::computations),
            generation: entry.map_or(0, |entry| entry.generation),
            pin: entry.map(|entry| entry.pin),
        }
    }

    /// Whether it was computed since, last under the plan's definition.
    #[must_use]
    pub fn is_done(&self, definition: Fingerprint, now: Option<Entry>) -> bool {
        now.is_some_and(|now| now.computations() > self.computations && now.definition == definition)
    }
}

/// The units of a plan that are left, in its order.
#[must_use]
pub fn left<'p>(plan: &'p [FrozenUnit], definition: Fingerprint, now: &BTreeMap<Unit, Entry>) -> Vec<&'p FrozenUnit> {
    plan.iter().filter(|frozen| !frozen.is_done(definition, now.get(&frozen.unit).copied())).collect()
}

/// Puts units in the order in which they are computed: by window date, the newest first if `backwards`; of a
/// date, fine windows before coarse ones.
pub fn put_in_order(units: &mut [FrozenUnit], backwards: bool) {
    units.sort_by(|a, b| {
        let by_date = a.unit.window_date.cmp(&b.unit.window_date);
        let by_date = if backwards { by_date.reverse() } else { by_date };
        by_date.then_with(|| a.unit.cmp(&b.unit))
    });
}

/// Cuts units that are in order into portions that are computed in one pass each: whole window dates, together at most
/// `units_max` units unless one date alone has more. Backwards every date is a portion, since a pass goes forwards.
#[must_use]
pub fn portions<'p, 'u>(units: &'p [&'u FrozenUnit], backwards: bool, units_max: usize) -> Vec<&'p [&'u FrozenUnit]> {
    let mut portions = Vec::new();
    let (mut from, mut to) = (0, 0);
    for date in units.chunk_by(|a, b| a.unit.window_date == b.unit.window_date) {
        if to > from && (backwards || to - from + date.len() > units_max) {
            portions.push(&units[from..to]);
            from = to;
        }
        to += date.len();
    }
    if to > from {
        portions.push(&units[from..to]);
    }
    portions
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use proptest::prelude::*;
    use rstest::rstest;

    #[test]
    fn an_id_is_short_and_tells_its_date() {
        let id = BackfillId::new(date(2026, 1, 5), "run 1");
        assert_eq!(id, BackfillId::new(date(2026, 1, 5), "run 1"));
        assert_ne!(id, BackfillId::new(date(2026, 1, 5), "run 2"));
        assert_eq!((id.created(), id.to_string().len()), (date(2026, 1, 5), 17));
        assert!(id.to_string().starts_with("20260105-"), "{id}");
    }

    #[rstest]
    #[case("")]
    #[case("20260105")]
    #[case("20260105-")]
    #[case("20260105-9F31C2AA")]
    #[case("20260105-9f31c2a")]
    #[case("20260105-9f31c2aab")]
    #[case("20261305-9f31c2aa")]
    #[case("2026-1-5-9f31c2aa")]
    #[case("+0260105-9f31c2aa")]
    #[case("20260105-+f31c2aa")]
    #[case("2026é05-9f31c2aa")]
    fn other_texts_are_no_ids(#[case] text: &str) {
        assert_eq!(text.parse::<BackfillId>(), Err(NotABackfillId(text.into())));
    }

    #[rstest]
    #[case(&[Event::Created], State::Open, Turn::Record)]
    #[case(&[Event::Created, Event::Finished], State::Finished, Turn::Ended(State::Finished))]
    #[case(&[Event::Created, Event::Cancelled], State::Cancelled, Turn::Ended(State::Cancelled))]
    #[case(&[Event::Created, Event::Cancelled, Event::Finished], State::Cancelled, Turn::Ended(State::Cancelled))]
    fn events_make_the_state(#[case] events: &[Event], #[case] state: State, #[case] turn: Turn) {
        assert_eq!(State::of(events.iter().copied()), state);
        assert_eq!(state.turn(), turn);
    }

    fn frozen(granularity: &str, day: i8) -> FrozenUnit {
        let (granularity, window_date) = (granularity.parse().unwrap(), date(2026, 1, day));
        FrozenUnit::of(Unit { aggregate: "a".into(), granularity, window_date }, None)
    }

    fn names(units: &[&FrozenUnit]) -> String {
        let name = |f: &&FrozenUnit| format!("{}/{}", f.unit.granularity, f.unit.window_date.day());
        units.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_frozen_unit_is_one_row_of_json() {
        let entry = Entry { generation: 3, pin: Fingerprint::of(b"p"), definition: Fingerprint::of(b"d"), held: 2 };
        let frozen = FrozenUnit::of(frozen("5m", 3).unit, Some(entry));
        let json = serde_json::to_string(&frozen).unwrap();
        assert_eq!(
            json,
            format!(
                r#"{{"aggregate":"a","granularity":"5m","window_date":"2026-01-03","computations":5,"generation":3,"pin":"{}"}}"#,
                entry.pin
            )
        );
        assert_eq!(serde_json::from_str::<FrozenUnit>(&json).unwrap(), frozen);
    }

    #[rstest]
    #[case(false, 3, &["5m/1 1d/1 1w/1", "5m/2 1d/2 5m/5"])]
    #[case(false, 5, &["5m/1 1d/1 1w/1 5m/2 1d/2", "5m/5"])]
    #[case(false, 1, &["5m/1 1d/1 1w/1", "5m/2 1d/2", "5m/5"])]
    #[case(false, 9, &["5m/1 1d/1 1w/1 5m/2 1d/2 5m/5"])]
    #[case(true, 9, &["5m/5", "5m/2 1d/2", "5m/1 1d/1 1w/1"])]
    fn units_are_cut_by_date(#[case] backwards: bool, #[case] units_max: usize, #[case] expected: &[&str]) {
        let units = [("1d", 2), ("5m", 5), ("1w", 1), ("5m", 1), ("5m", 2), ("1d", 1)];
        let mut units = units.map(|(granularity, day)| frozen(granularity, day));
        put_in_order(&mut units, backwards);
        let units: Vec<&FrozenUnit> = units.iter().collect();
        let cut: Vec<String> = portions(&units, backwards, units_max).into_iter().map(names).collect();
        assert_eq!(cut, expected);
    }

    proptest! {
        #[test]
        fn portions_are_all_units_once(
            days in prop::collection::btree_set((1i8..15, prop::sample::select(vec!["5m", "1h", "1d"])), 0..30),
            backwards: bool,
            units_max in 1usize..12,
        ) {
            let mut units: Vec<FrozenUnit> = days.into_iter().map(|(day, granularity)| frozen(granularity, day)).collect();
            put_in_order(&mut units, backwards);
            let all: Vec<&FrozenUnit> = units.iter().collect();
            let cut = portions(&all, backwards, units_max);
            prop_assert_eq!(cut.concat(), all.clone());
            for portion in &cut {
                let dates = portion.chunk_by(|a, b| a.unit.window_date == b.unit.window_date).count();
                prop_assert!(dates == 1 || (portion.len() <= units_max && !backwards));
            }
            for pair in cut.windows(2) {
                let (before, after) = (pair[0].last().unwrap().unit.window_date, pair[1][0].unit.window_date);
                let (earlier, later) = if backwards { (after, before) } else { (before, after) };
                prop_assert!(earlier < later);
            }
        }

        #[test]
        fn ids_survive_their_text(days in 0i32..20_000, seed in ".{0,9}") {
            let id = BackfillId::new(date(1970, 1, 1).checked_add(jiff::Span::new().days(days)).unwrap(), &seed);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}

//! Decides for one unit whether batch computes it again, and why.
//!
//! A date of raw only gains rows or vanishes whole, so a date has changed iff its live row count, or the
//! number of times that `forget` rewrote it, differs from the unit's pin. No log is read and nothing can
//! be missed by compaction or clean-up. A unit depends on the event dates that its windows touch and,
//! for dedup, on the *dedup day* before the first of them: an event there takes the count from an equal
//! id on the first date. So if only the dedup day gained rows, the ids decide ([`Plan::CompareIds`]).
//!
//! | what is so | plan |
//! |---|---|
//! | no window ends in the interval asked for | `Nothing`: outside the interval |
//! | the input is older than the last pin, or the table went back | `Refused` |
//! | the raw table is another one and not yet as far as what is published | `Nothing`: behind |
//! | no window is covered | `Nothing`: not covered |
//! | never published, no rows on its dates | `Nothing`: no rows |
//! | something calls for a recompute, and a date of it was removed, or has lost rows | `Refused` |
//! | only the definition changed, and it ended more than `redefine_days` before valid-through | `Nothing`: definition kept |
//! | missing, dirty, newly covered, definition changed, table recreated, forced | `Recompute` |
//! | only the dedup day gained rows | `CompareIds`, then `Recompute` or `Repin` |
//! | otherwise | `Nothing`: up to date |
//!
//! Invariants: U2 once a plan is carried out, each unit equals the full recompute of its covered windows,
//! or was refused or kept by name; U3 planning again with nothing changed calls for nothing.

use super::changes::Changes;
use super::{Fingerprint, Pin, covered_bound};
use crate::exit::Class;
use crate::windows::{DAY_US, Extent, Granularity, Instant, OutOfRange, Windows, Zone, window_dates_touched_by};
use jiff::civil::Date;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is known when all units of an aggregate are planned.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The input: raw as it is, or at the version asked for.
    pub now: &'a Pin,
    /// The aggregate's definition.
    pub definition: Fingerprint,
    /// Dates that raw no longer keeps.
    pub removed: &'a Removed,
    /// Whether events are deduplicated, so that the day before counts.
    pub dedup: bool,
    /// What the user bounds the work to.
    pub interval: Interval,
    /// Whether the user asks for a recompute whatever the facts.
    pub forced: bool,
    /// How many days of 24 hours before valid-through a changed definition reaches back by itself.
    pub redefine_days: u32,
}

/// What the ledger says of a unit that was published.
#[derive(Debug, Clone, Copy)]
pub struct Last<'a> {
    /// What it was computed from.
    pub pin: &'a Pin,
    /// Under which definition.
    pub definition: Fingerprint,
}

/// Dates that `retain` removed from raw, and dates that an archive fill brought back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// The last date removed.
    pub through: Option<Date>,
    /// Dates that are whole again, which outranks their removal.
    pub restored: BTreeSet<Date>,
}

/// The interval `(from, to]` that ends of windows lie in. Intervals that follow each other select each
/// window exactly once, when it completes: a month with its last day, and never before it can be covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval {
    /// `--interval-start`.
    pub from: Option<Instant>,
    /// `--interval-end`.
    pub to: Option<Instant>,
}

/// Whether an id among the rows that are new on the dedup day occurs on the first date of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// Not yet looked at.
    Unknown,
    /// No id does.
    Apart,
    /// An id does.
    Shared,
}

/// What to do with a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "plan")]
#[must_use]
pub enum Plan {
    /// Compute its covered windows and replace it.
    Recompute {
        /// All that call for it, at least one.
        reasons: Vec<Reason>,
        /// The covered bound: windows that end at or before it are published.
        covered: Instant,
    },
    /// Compare the ids of the rows of `dedup_day` that the last pin does not contain with the ids of
    /// `first`, and plan again with the answer.
    CompareIds {
        /// The day before the unit's dates.
        dedup_day: Date,
        /// The first of its dates.
        first: Date,
    },
    /// The content holds: record the pin of now, [`Pin::after`] the last one, and keep rows and
    /// definition.
    Repin,
    /// Leave it.
    Nothing {
        /// Why.
        why: Idle,
    },
    /// It cannot be computed right: leave it and say so.
    Refused {
        /// Why.
        why: Refusal,
    },
}

/// What calls for a recompute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Reason {
    /// It was never published.
    Missing,
    /// Rows of these of its dates changed.
    Dirty {
        /// Event dates, in order.
        dates: Vec<Date>,
    },
    /// The day before its first date gained rows with ids of its own, or was rewritten.
    DedupDay {
        /// That day.
        date: Date,
    },
    /// Valid-through has passed the end of windows that the last pin had left out.
    NewlyCovered {
        /// How many.
        windows: u64,
    },
    /// The aggregate means something else.
    DefinitionChanged,
    /// The raw table was recreated, so its pins say nothing of it.
    TableRecreated,
    /// The user asks.
    Forced,
}

/// Why a unit is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Idle {
    /// It is what a recompute would give.
    UpToDate,
    /// No window of it ends in the interval asked for.
    OutsideInterval,
    /// No window of it is complete.
    NotCovered,
    /// It was never published, and there is nothing to publish.
    NoRows,
    /// Only the definition changed, and too long ago to redo it unasked: needs a `backfill`.
    DefinitionKept,
    /// The raw table was recreated and has not yet come as far as what is published.
    RecreatedBehind,
}

/// Why a unit cannot be computed right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "refused")]
pub enum Refusal {
    /// The input is older than what the unit was computed from.
    OlderPin {
        /// Version asked for.
        version: i64,
        /// Version of the last pin.
        last: i64,
    },
    /// The same table has a later version and yet lower offsets or fills: somebody restored it.
    WentBack,
    /// Dates of it, or its dedup day, were removed from raw: beyond retention.
    BeyondRetention {
        /// The removed ones.
        dates: Vec<Date>,
        /// What called for the recompute.
        reasons: Vec<Reason>,
    },
    /// Dates have fewer rows than the last pin says, and nobody removed or rewrote them.
    FewerRows {
        /// Those dates.
        dates: Vec<Date>,
    },
}

impl Removed {
    /// Whether raw no longer keeps `date` whole.
    #[must_use]
    pub fn contains(&self, date: Date) -> bool {
        self.through.is_some_and(|through| date <= through) && !self.restored.contains(&date)
    }
}

impl Interval {
    /// The windows that the interval selects.
    #[must_use]
    pub fn select(self, windows: &Windows) -> Windows {
        windows.ending_in(self.from, self.to.unwrap_or(Instant(i64::MAX)))
    }

    /// Whether it selects windows that are not covered yet, so that the input is not complete for it.
    #[must_use]
    pub fn waits_for(self, windows: &Windows, covered: Option<Instant>) -> bool {
        let selected = self.select(windows);
        covered.map_or(!selected.is_empty(), |bound| selected.ending_in(None, bound).len() < selected.len())
    }
}

impl Refusal {
    /// How a job ends that meets it; `None` where it is reported and the job goes on: late rows for a
    /// date beyond retention land like all others, and nobody asked for them to be counted.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        match self {
            Self::OlderPin { .. } => Some(Class::User),
            Self::WentBack => Some(Class::Internal),
            Self::BeyondRetention { reasons, .. } => reasons.contains(&Reason::Forced).then_some(Class::InputLost),
            Self::FewerRows { .. } => Some(Class::InputLost),
        }
    }
}

/// Plans one unit of the given extent. `last` is `None` if it was never published; `ids` is
/// [`Ids::Unknown`] at first.
pub fn plan(facts: &Facts<'_>, extent: &Extent, last: Option<Last<'_>>, ids: Ids) -> Plan {
    if facts.interval.select(&extent.windows).is_empty() {
        return nothing(Idle::OutsideInterval);
    }
    if let Some(why) = last.and_then(|last| too_old(facts.now, last.pin)) {
        return Plan::Refused { why };
    }
    if last.is_some_and(|last| is_behind(facts.now, last.pin, extent)) {
        return nothing(Idle::RecreatedBehind);
    }
    let bound = covered_bound(facts.now.valid_through, last.map(|last| last.pin));
    let covered = bound.map(|bound| extent.windows.ending_in(None, bound)).unwrap_or_default();
    let (Some(bound), Some(end)) = (bound, covered.end()) else {
        return nothing(Idle::NotCovered);
    };
    if last.is_none() && extent.dates.iter().all(|date| facts.now.rows_of(date) == 0) {
        return nothing(Idle::NoRows);
    }
    let changes = Changes::of(facts, extent, last);
    let reasons = changes.reasons(facts, extent, last, bound, ids);
    if let Some(why) = incomplete(facts, &changes, &reasons) {
        return Plan::Refused { why };
    }
    let keeps_definition = reasons == [Reason::DefinitionChanged] && !is_recent(facts, end);
    match (changes.gained_before, ids) {
        (Some(dedup_day), Ids::Unknown) if reasons.is_empty() || keeps_definition => {
            Plan::CompareIds { dedup_day, first: extent.dates.from }
        }
        (Some(_), Ids::Apart) if reasons.is_empty() || keeps_definition => Plan::Repin,
        _ if reasons.is_empty() => nothing(Idle::UpToDate),
        _ if keeps_definition => nothing(Idle::DefinitionKept),
        _ => Plan::Recompute { reasons, covered: bound },
    }
}

/// The window dates of all units of `granularity` that hold rows: those that dates of raw with rows
/// (`rows` per event date) touch. Together with the published units these are all there is to plan.
///
/// # Errors
/// Close to the end of the years that windows are made for.
pub fn window_dates(
    granularity: Granularity,
    zone: &Zone,
    rows: &BTreeMap<Date, u64>,
) -> Result<BTreeSet<Date>, OutOfRange> {
    let mut dates = BTreeSet::new();
    for (date, _) in rows.iter().filter(|(_, rows)| **rows > 0) {
        dates.extend(window_dates_touched_by(granularity, zone, *date)?);
    }
    Ok(dates)
}

const fn nothing(why: Idle) -> Plan {
    Plan::Nothing { why }
}

/// Whether the input lies before what the unit was computed from. Versions of two tables say nothing
/// about each other.
fn too_old(now: &Pin, last: &Pin) -> Option<Refusal> {
    if now.table != last.table {
        None
    } else if now.version < last.version {
        Some(Refusal::OlderPin { version: now.version, last: last.version })
    } else {
        now.went_back(last).then_some(Refusal::WentBack)
    }
}

/// Whether a recreated table does not yet cover all windows that are published.
fn is_behind(now: &Pin, last: &Pin, extent: &Extent) -> bool {
    let covered = |bound: Option<Instant>| bound.map_or(0, |bound| extent.windows.ending_in(None, bound).len());
    now.table != last.table && covered(now.valid_through) < covered(last.covered)
}

/// Why what must be computed cannot be computed right, if so.
fn incomplete(facts: &Facts<'_>, changes: &Changes, reasons: &[Reason]) -> Option<Refusal> {
    let asked_by = match (reasons, changes.gained_before) {
        ([], None) => return None,
        ([], Some(date)) => vec![Reason::DedupDay { date }],
        _ => reasons.to_vec(),
    };
    if !changes.removed.is_empty() {
        return Some(Refusal::BeyondRetention { dates: changes.removed.clone(), reasons: asked_by });
    }
    let lost = !changes.fewer.is_empty() && !facts.forced;
    lost.then(|| Refusal::FewerRows { dates: changes.fewer.clone() })
}

/// Whether what ended at `end` is within the days that a changed definition reaches back.
fn is_recent(facts: &Facts<'_>, end: Instant) -> bool {
    let reach = i64::from(facts.redefine_days).saturating_mul(DAY_US);
    facts.now.valid_through.is_some_and(|through| end.0 > through.0.saturating_sub(reach))
}

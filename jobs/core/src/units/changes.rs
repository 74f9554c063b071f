//! What differs between a unit's last pin and now, and what of it calls for a recompute.

use super::{Facts, Ids, Last, Pin, Reason};
use crate::windows::{Extent, Instant};
use jiff::civil::Date;
use std::cmp::Ordering;

/// How the dates of a unit differ from its last pin.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Its dates with other rows.
    pub own: Vec<Date>,
    /// The dedup day, if its rows changed in a way that ids cannot tell about.
    pub before: Option<Date>,
    /// The dedup day, if it only gained rows.
    pub gained_before: Option<Date>,
    /// Dates, the dedup day included, that lost rows and were neither removed nor rewritten.
    pub fewer: Vec<Date>,
    /// Dates, the dedup day included, that raw no longer keeps.
    pub removed: Vec<Date>,
}

impl Changes {
    /// Compares every date that the unit depends on.
    pub fn of(facts: &Facts<'_>, extent: &Extent, last: Option<Last<'_>>) -> Self {
        let mut changes = Self::default();
        let dedup_day = extent.dates.from.yesterday().ok().filter(|_| facts.dedup);
        for date in dedup_day.into_iter().chain(extent.dates.iter()) {
            let is_removed = facts.removed.contains(date);
            if is_removed {
                changes.removed.push(date);
            }
            let Some(last) = last else { continue };
            let change = RowChange::of(date, facts.now, last.pin, is_removed);
            if change == RowChange::Fewer {
                changes.fewer.push(date);
            }
            match change {
                RowChange::None => {}
                _ if extent.dates.contains(date) => changes.own.push(date),
                RowChange::Gained => changes.gained_before = Some(date),
                RowChange::Fewer | RowChange::Otherwise => changes.before = Some(date),
            }
        }
        changes
    }

    /// All that calls for a recompute.
    pub fn reasons(
        &self,
        facts: &Facts<'_>,
        extent: &Extent,
        last: Option<Last<'_>>,
        bound: Instant,
        ids: Ids,
    ) -> Vec<Reason> {
        let mut reasons = Vec::new();
        match last {
            None => reasons.push(Reason::Missing),
            Some(last) if last.pin.table != facts.now.table => reasons.push(Reason::TableRecreated),
            Some(_) => {
                if !self.own.is_empty() {
                    reasons.push(Reason::Dirty { dates: self.own.clone() });
                }
                let shared = self.gained_before.filter(|_| ids == Ids::Shared);
                reasons.extend(self.before.or(shared).map(|date| Reason::DedupDay { date }));
            }
        }
        if let Some(last) = last {
            let windows = extent.windows.ending_in(last.pin.covered, bound).len();
            if windows > 0 {
                reasons.push(Reason::NewlyCovered { windows });
            }
            if last.definition != facts.definition {
                reasons.push(Reason::DefinitionChanged);
            }
        }
        if facts.forced {
            reasons.push(Reason::Forced);
        }
        reasons
    }
}

/// How the rows of one date differ between two pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowChange {
    None,
    /// Rows came, and none went.
    Gained,
    /// Rows went, and nobody says why.
    Fewer,
    /// Rewritten, or rows that came after the date was removed.
    Otherwise,
}

impl RowChange {
    fn of(date: Date, now: &Pin, last: &Pin, is_removed: bool) -> Self {
        let (rows, rows_before) = (now.rows_of(date), last.rows_of(date));
        if is_removed {
            return if rows == 0 { Self::None } else { Self::Otherwise };
        }
        if now.table == last.table && now.rewritten_of(date) != last.rewritten_of(date) {
            return Self::Otherwise;
        }
        match rows.cmp(&rows_before) {
            Ordering::Less => Self::Fewer,
            Ordering::Equal => Self::None,
            Ordering::Greater => Self::Gained,
        }
    }
}

//! May a computed unit be published? Puts together what was counted and asks [`deltaworks_core::balance`].

use super::compute::Computed;
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use deltaworks_core::balance::{Counts, Empty, Verdict, judge};
use deltaworks_core::units::Unit;

/// What was counted of one unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnitTally {
    /// Rows of its dates, as the log says.
    pub expected: u64,
    /// Rows of its dates that were read.
    pub read: u64,
    /// Rows in its covered windows.
    pub landed: u64,
    /// Copies among these, before WHERE.
    pub duplicates: u64,
    /// Windows that have events, before HAVING.
    pub windows: u64,
    /// Events that the engine counted.
    pub events: u64,
    /// Windows with their keys, before HAVING.
    pub groups: u64,
    /// Rows of the result.
    pub rows: u64,
}

/// Judges a unit; why it is empty, if it is.
///
/// # Errors
/// [`Class::Internal`] if a row is not accounted for.
pub fn check(unit: &Unit, computed: &Computed, definition: &Definition) -> Result<Option<Empty>> {
    let UnitTally { expected, read, landed, duplicates, windows: _, events, groups, rows } = computed.counts;
    // nobody counts what WHERE leaves out; where there is none, nothing may be missing
    let left = landed.saturating_sub(duplicates).saturating_sub(events);
    let filtered = if definition.filters() { left } else { 0 };
    let counts = Counts { expected, read, landed, counted: events, duplicates, filtered, groups, rows };
    match judge(&counts, definition.has_having()) {
        Verdict::Publish => Ok(None),
        Verdict::PublishEmpty { why } => Ok(Some(why)),
        Verdict::Broken { what } => {
            Err(Error::new(Stage::Batch, Class::Internal, format!("unit `{unit}` does not balance: {what}"))
                .hint("nothing of it was published; the raw table is damaged, or this is a bug"))
        }
    }
}

//! From which local date on states are still needed, as far as what batch has published tells.
//!
//! A window is final once batch has covered it, so a date of which every window of every granularity is
//! covered needs no states. Where batch has published nothing of a granularity, nobody can know, and all
//! dates are needed.

use super::table::out_of_range;
use crate::batch::{Input, batch_name, ledger_of, pins, units_of};
use crate::engine::aggregate::Definition;
use crate::error::Result;
use crate::lake::Lake;
use deltaworks_core::units::Fingerprint;
use deltaworks_core::windows::{Granularity, Instant, UnderDay, Windows};
use jiff::civil::Date;
use std::collections::BTreeSet;

/// The first local date whose states are needed; `None` for all.
///
/// # Errors
/// The batch table or its pins cannot be read.
pub(super) async fn open_from(lake: &Lake, input: &Input, definition: &Definition) -> Result<Option<Date>> {
    let Some(table) = lake.open_table(&batch_name(&definition.name)).await? else { return Ok(None) };
    let entries = ledger_of(&definition.name, &table)?;
    let named: BTreeSet<Fingerprint> = entries.values().map(|entry| entry.pin).collect();
    let pins = pins(lake, &named).await?;
    let mut first: Option<Instant> = None;
    for granularity in &definition.granularities {
        let (mut open, mut covered) = (None, None);
        for (unit, extent) in units_of(definition, &input.pin, &entries, &[*granularity])? {
            let bound = entries.get(&unit).and_then(|entry| pins.get(&entry.pin)).and_then(|pin| pin.covered);
            covered = covered.max(bound);
            let whole = bound.is_some_and(|bound| extent.windows.end().is_some_and(|end| end <= bound));
            if !whole {
                open = open.or(bound.and_then(|bound| first_open(&extent.windows, bound)).or(extent.windows.start()));
            }
        }
        // nothing of this size was ever published: anything may be open
        let Some(covered) = covered else { return Ok(None) };
        // rows that come later make windows that nothing covers yet
        let from = open.map_or(covered, |open| open.min(covered));
        first = Some(first.map_or(from, |first| first.min(from)));
    }
    first.map(|first| floor_at(definition, first)).transpose()
}

/// The floor when windows that start before `bound` are all final.
///
/// # Errors
/// Beyond the years that windows are made for.
pub(super) fn floor_at(definition: &Definition, bound: Instant) -> Result<Date> {
    let date = definition.zone.local_date(bound).map_err(out_of_range)?;
    // where the clocks go back over a midnight, the date before goes on
    let Ok(before) = date.yesterday() else { return Ok(date) };
    let rest = Windows::of(Granularity::Under(UnderDay::QUARTER), &definition.zone, before).map_err(out_of_range)?;
    Ok(if rest.end().is_some_and(|end| end > bound) { before } else { date })
}

/// The start of the first window that ends after `bound`.
fn first_open(windows: &Windows, bound: Instant) -> Option<Instant> {
    windows.ending_in(Some(bound), Instant(i64::MAX)).start()
}

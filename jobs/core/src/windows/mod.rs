//! Which window an instant belongs to, and which windows, dates and units belong together. All window
//! arithmetic of the product is here.
//!
//! ```text
//! granularity  the sizes that exist and how they are spelled
//! instant      a point in time, a window [start, end), dates of UTC
//! zone         when the dates of a time zone begin
//! extent       all windows of a unit (granularity, window_date), and the event dates they touch
//! base         the finest windows, which states are kept in; which granularities nest
//! binner       the window of millions of instants, fast
//! ```
//!
//! Windows are half-open, in microseconds of UTC. Sizes under a day align to the Unix epoch in every
//! zone; days, ISO weeks and months follow the zone, so a day has 23, 24 or 25 hours (47, where a zone
//! moved over the date line). `window_date` is the local date of a window's start.
//!
//! Invariants: W2 the windows of a granularity tile all time: each ends where the next starts; W3 a window
//! belongs to exactly one unit; W4 the dates of a unit and the units of a date mirror each other.

mod base;
mod binner;
mod extent;
mod granularity;
mod instant;
#[cfg(test)]
pub(crate) mod oracle;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod zone;

pub use base::{Base, nests};
pub use binner::Binner;
pub use extent::{Extent, Windows, window_dates_of_local, window_dates_touched_by};
pub use granularity::{BadGranularity, Granularity, UnderDay, Why};
pub use instant::{DAY_US, Dates, Instant, NotAnInstant, OutOfRange, Window, date_of_epoch_days, epoch_days};
pub use zone::Zone;

use jiff::ToSpan as _;
use jiff::civil::Date;

/// The window of `granularity` that `instant` lies in.
///
/// # Errors
/// Beyond the years that jiff knows, or closer to their end than the window is long.
pub fn window_of(granularity: Granularity, zone: &Zone, instant: Instant) -> Result<Window, OutOfRange> {
    match granularity {
        Granularity::Under(size) => aligned(size, instant),
        Granularity::Day | Granularity::Week | Granularity::Month => {
            let (first, next) = calendar_dates(granularity, zone.date_at(instant)?)?;
            Ok(Window { start: zone.beginning_of(first)?, end: zone.beginning_of(next)? })
        }
    }
}

/// The date that files a window: the local date of its start.
///
/// # Errors
/// Beyond the years that jiff knows.
pub fn window_date(zone: &Zone, window: Window) -> Result<Date, OutOfRange> {
    zone.local_date(window.start)
}

/// The window under a day that `instant` lies in, the same in every zone.
fn aligned(size: UnderDay, instant: Instant) -> Result<Window, OutOfRange> {
    let size_us = size.micros();
    let start = instant.0.checked_sub(instant.0.rem_euclid(size_us));
    start
        .and_then(|start| Some(Window { start: Instant(start), end: Instant(start.checked_add(size_us)?) }))
        .ok_or_else(|| OutOfRange::instant(instant))
}

/// The first date of the calendar window that holds `date`, and the first date of the next one.
fn calendar_dates(granularity: Granularity, date: Date) -> Result<(Date, Date), OutOfRange> {
    let (first, length) = match granularity {
        Granularity::Week => {
            let past_monday = date.weekday().to_monday_zero_offset();
            (date.checked_sub(i64::from(past_monday).days()).map_err(|_| OutOfRange::date(date))?, 1.week())
        }
        Granularity::Month => (date.first_of_month(), 1.month()),
        Granularity::Day | Granularity::Under(_) => (date, 1.day()),
    };
    Ok((first, first.checked_add(length).map_err(|_| OutOfRange::date(date))?))
}

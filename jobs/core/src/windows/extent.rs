//! What a unit is made of: its windows, and the event dates that they touch.
//!
//! A unit is one (granularity, window_date). Its windows may hold parts of two dates of UTC even where
//! they are one day, and 24 and a half hours of them where the clocks go back; where a date does not
//! exist there are none.

use super::{DAY_US, Dates, Granularity, Instant, OutOfRange, UnderDay, Window, Zone, window_date, window_of};
use jiff::civil::Date;
use serde::Serialize;
use std::collections::BTreeSet;

/// The windows of a unit, and the event dates (UTC) that they touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// All windows that start on the unit's window date.
    pub windows: Windows,
    /// The dates of UTC that hold their events. A date between two windows would be among them too,
    /// which happens in no zone since 1867.
    pub dates: Dates,
}

impl Extent {
    /// The extent of the unit (`granularity`, `date`), or `None` where no window starts on that date:
    /// it is no Monday, no first of a month, or does not exist in the zone.
    ///
    /// # Errors
    /// Close to the end of the years that jiff knows.
    pub fn of(granularity: Granularity, zone: &Zone, date: Date) -> Result<Option<Self>, OutOfRange> {
        let windows = Windows::of(granularity, zone, date)?;
        let (Some(first), Some(end)) = (windows.start(), windows.end()) else {
            return Ok(None);
        };
        let last = Instant(end.0 - 1).utc_date()?;
        let to = last.tomorrow().map_err(|_| OutOfRange::date(last))?;
        Ok(Some(Self { windows, dates: Dates { from: first.utc_date()?, to } }))
    }
}

/// Windows in order, kept as runs of neighbours of equal size, so that a day of seconds takes no more
/// room than a day of hours.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Windows {
    runs: Vec<Run>,
}

/// Windows `[start, start + size)`, `[start + size, …)`, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Run {
    start_us: i64,
    size_us: i64,
    count: i64,
}

impl Windows {
    /// The windows of `granularity` that start on the local date `date`.
    ///
    /// # Errors
    /// Close to the end of the years that jiff knows.
    pub fn of(granularity: Granularity, zone: &Zone, date: Date) -> Result<Self, OutOfRange> {
        if let Granularity::Under(size) = granularity {
            return Self::under_day(size, zone, date);
        }
        let beginning = zone.beginning_of(date)?;
        let window = window_of(granularity, zone, beginning)?;
        if window.start != beginning || zone.local_date(beginning)? != date {
            return Ok(Self::default());
        }
        let size_us = window.end.0 - window.start.0;
        Ok(Self { runs: vec![Run { start_us: window.start.0, size_us, count: 1 }] })
    }

    fn under_day(size: UnderDay, zone: &Zone, date: Date) -> Result<Self, OutOfRange> {
        let size_us = size.micros();
        let runs = zone.stretches_of(date)?.into_iter().map(|s| {
            let start_us = ceil(s.from_us, size_us);
            Run { start_us, size_us, count: (ceil(s.to_us, size_us) - start_us) / size_us }
        });
        Ok(Self { runs: runs.filter(|run| run.count > 0).collect() })
    }

    /// Every window, in order.
    pub fn iter(&self) -> impl Iterator<Item = Window> {
        self.runs.iter().flat_map(|run| (0..run.count).map(|n| run.window(n)))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| run.count.unsigned_abs()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Start of the first.
    #[must_use]
    pub fn start(&self) -> Option<Instant> {
        self.runs.first().map(|run| Instant(run.start_us))
    }

    /// End of the last.
    #[must_use]
    pub fn end(&self) -> Option<Instant> {
        self.runs.last().map(|run| run.window(run.count - 1).end)
    }

    /// Those whose end is after `after` (if given) and at or before `bound`: with the covered bound of
    /// now as `bound`, those that are covered, and with the bound of before as `after`, newly so.
    #[must_use]
    pub fn ending_in(&self, after: Option<Instant>, bound: Instant) -> Self {
        let cut = |run: &Run| {
            let first = after.map_or(0, |after| run.ended_by(after));
            let count = run.ended_by(bound) - first;
            (count > 0).then(|| Run { start_us: run.window(first).start.0, count, ..*run })
        };
        Self { runs: self.runs.iter().filter_map(cut).collect() }
    }
}

impl Run {
    const fn window(&self, n: i64) -> Window {
        let start = self.start_us + n * self.size_us;
        Window { start: Instant(start), end: Instant(start + self.size_us) }
    }

    /// How many of them end at or before `bound`.
    fn ended_by(&self, bound: Instant) -> i64 {
        (bound.0.saturating_sub(self.start_us) / self.size_us).clamp(0, self.count)
    }
}

/// The window dates of all units of `granularity` that have a window which touches the event date
/// `date` (UTC).
///
/// # Errors
/// Close to the end of the years that jiff knows.
pub fn window_dates_touched_by(
    granularity: Granularity,
    zone: &Zone,
    date: Date,
) -> Result<BTreeSet<Date>, OutOfRange> {
    let from = Instant::of_utc_date(date)?;
    let to = Instant(from.0 + DAY_US);
    let mut dates = BTreeSet::new();
    if let Granularity::Under(size) = granularity {
        // Such a size divides the date, so the windows that touch it are those that start in it.
        for s in zone.stretches(from.0, to.0)? {
            let (first, next) = (ceil(s.from_us, size.micros()), ceil(s.to_us, size.micros()));
            if first < next {
                let days =
                    (first + s.offset_us).div_euclid(DAY_US)..=(next - size.micros() + s.offset_us).div_euclid(DAY_US);
                for day in days {
                    dates.insert(Instant(day * DAY_US).utc_date()?);
                }
            }
        }
        return Ok(dates);
    }
    let mut at = from;
    while at < to {
        let window = window_of(granularity, zone, at)?;
        dates.insert(window_date(zone, window)?);
        at = window.end;
    }
    Ok(dates)
}

/// The window dates of all units of `granularity` that have a window in which an instant of the local date
/// `date` lies.
///
/// # Errors
/// Close to the end of the years that jiff knows.
pub fn window_dates_of_local(granularity: Granularity, zone: &Zone, date: Date) -> Result<BTreeSet<Date>, OutOfRange> {
    let mut dates = BTreeSet::new();
    for s in zone.stretches_of(date)? {
        for at in [s.from_us, s.to_us - 1] {
            dates.insert(window_date(zone, window_of(granularity, zone, Instant(at))?)?);
        }
        // those of less than a day in between start on the date itself
        if matches!(granularity, Granularity::Under(_)) {
            dates.insert(date);
        }
    }
    Ok(dates)
}

/// The least multiple of `size` at or after `us`.
const fn ceil(us: i64, size: i64) -> i64 {
    let past = us.rem_euclid(size);
    if past == 0 { us } else { us - past + size }
}

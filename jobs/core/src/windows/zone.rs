//! When the dates of a time zone begin.
//!
//! Local time is not a line: clocks jump ahead (a midnight, or in Apia a whole date, does not exist) and
//! back (in St John's a date began, stopped after a minute, and began again). A date here begins at the
//! *first* instant whose local date is that date or a later one. So the beginnings never run backwards,
//! each date ends where the next begins, and a date that does not exist is empty. Between a date's first
//! beginning and the second, when the clocks are back before midnight, the date goes on.
//!
//! Everything follows from one fact: a zone is a row of stretches of constant offset. jiff's own
//! `start_of_day` is not used: where a jump begins before midnight and ends after it (Toronto in 1919), it
//! names an instant after the date's first.

use super::instant::{DAY_US, Instant, OutOfRange};
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// No offset is as large as this (jiff's limit is 25:59:59).
const OFFSET_US: i64 = 26 * 3_600_000_000;

/// A time zone, as jiff loaded it. Loading one reads the machine's zone files, so that is the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// A stretch of time with one offset from UTC: local = UTC + offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    /// First instant inside, µs.
    pub from_us: i64,
    /// First instant after, µs.
    pub to_us: i64,
    /// Local time less UTC, µs.
    pub offset_us: i64,
}

impl Zone {
    /// The zone that jiff loaded.
    #[must_use]
    pub const fn new(zone: TimeZone) -> Self {
        Self(zone)
    }

    /// The zone whose local time is UTC.
    #[must_use]
    pub const fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The name in the IANA database, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.iana_name()
    }

    /// The date that local clocks show at `instant`.
    ///
    /// # Errors
    /// Beyond the years that jiff knows.
    pub fn local_date(&self, instant: Instant) -> Result<Date, OutOfRange> {
        Ok(self.0.to_datetime(instant.timestamp()?).date())
    }

    /// The first instant whose local date is `date` or a later one.
    ///
    /// # Errors
    /// Within two days of the end of the years that jiff knows.
    pub fn beginning_of(&self, date: Date) -> Result<Instant, OutOfRange> {
        let midnight = Instant::of_utc_date(date)?.0;
        self.stretches(midnight - OFFSET_US, midnight + OFFSET_US + 1)?
            .into_iter()
            .map(|s| (s.from_us.max(midnight - s.offset_us), s.to_us))
            .find(|(first, to)| first < to)
            .map(|(first, _)| Instant(first))
            .ok_or_else(|| OutOfRange::date(date))
    }

    /// The date that `instant` belongs to: the last one that has begun. It is the local date, but for
    /// clocks that went back over a midnight.
    pub(super) fn date_at(&self, instant: Instant) -> Result<Date, OutOfRange> {
        let mut date = self.local_date(instant)?;
        loop {
            let next = date.tomorrow().map_err(|_| OutOfRange::date(date))?;
            if self.beginning_of(next)? > instant {
                return Ok(date);
            }
            date = next;
        }
    }

    /// The stretches of `[from, to)` whose local time lies within `date`, in order: none for a date that
    /// does not exist, two where the clocks went back into it.
    pub(super) fn stretches_of(&self, date: Date) -> Result<Vec<Stretch>, OutOfRange> {
        let midnight = Instant::of_utc_date(date)?.0;
        let mut stretches = self.stretches(midnight - OFFSET_US, midnight + DAY_US + OFFSET_US)?;
        for s in &mut stretches {
            s.from_us = s.from_us.max(midnight - s.offset_us);
            s.to_us = s.to_us.min(midnight + DAY_US - s.offset_us);
        }
        stretches.retain(|s| s.from_us < s.to_us);
        Ok(stretches)
    }

    /// The stretches of `[from, to)`, in order and without holes.
    pub(super) fn stretches(&self, from_us: i64, to_us: i64) -> Result<Vec<Stretch>, OutOfRange> {
        let first = Instant(from_us).timestamp()?;
        Instant(to_us).timestamp()?;
        let offset_us = |seconds: i32| i64::from(seconds) * 1_000_000;
        let mut stretches = vec![Stretch { from_us, to_us, offset_us: offset_us(self.0.to_offset(first).seconds()) }];
        for change in self.0.following(first) {
            let at = change.timestamp().as_microsecond();
            if at >= to_us {
                break;
            }
            if let Some(last) = stretches.last_mut() {
                last.to_us = at;
            }
            stretches.push(Stretch { from_us: at, to_us, offset_us: offset_us(change.offset().seconds()) });
        }
        Ok(stretches)
    }
}

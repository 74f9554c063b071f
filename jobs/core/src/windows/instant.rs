//! An instant, a window between two of them, and the dates of UTC that a window touches.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Microseconds of a day of UTC.
pub const DAY_US: i64 = 86_400_000_000;

/// A point in time, microseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(pub i64);

impl Instant {
    /// The instant at `ms` milliseconds, as progress records them; far ends stay far ends.
    #[must_use]
    pub const fn of_ms(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// The first instant of a date of UTC.
    ///
    /// # Errors
    /// Within a day of the end of the years that jiff knows (−9999 to 9999).
    pub fn of_utc_date(date: Date) -> Result<Self, OutOfRange> {
        let midnight = Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).map_err(|_| OutOfRange::date(date))?;
        Ok(Self(midnight.as_microsecond()))
    }

    /// The date of UTC, which is the `event_date` of an event at this instant.
    ///
    /// # Errors
    /// Beyond the years that jiff knows.
    pub fn utc_date(self) -> Result<Date, OutOfRange> {
        Ok(Offset::UTC.to_datetime(self.timestamp()?).date())
    }

    /// The instant for jiff.
    ///
    /// # Errors
    /// Beyond the years that jiff knows.
    pub(super) fn timestamp(self) -> Result<Timestamp, OutOfRange> {
        Timestamp::from_microsecond(self.0).map_err(|_| OutOfRange::instant(self))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timestamp() {
            Ok(timestamp) => timestamp.fmt(f),
            Err(_) => write!(f, "{} µs", self.0),
        }
    }
}

/// A window, half-open: `start` lies in it, `end` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Window {
    /// First instant inside.
    pub start: Instant,
    /// First instant after.
    pub end: Instant,
}

impl Window {
    /// Whether `instant` lies in the window.
    #[must_use]
    pub fn contains(self, instant: Instant) -> bool {
        self.start <= instant && instant < self.end
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// Dates in a row, half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Dates {
    /// First date inside.
    pub from: Date,
    /// First date after.
    pub to: Date,
}

impl Dates {
    /// Every date, in order.
    pub fn iter(self) -> impl Iterator<Item = Date> {
        std::iter::successors(Some(self.from), |date| date.tomorrow().ok()).take_while(move |date| *date < self.to)
    }

    /// Whether `date` is among them.
    #[must_use]
    pub fn contains(self, date: Date) -> bool {
        self.from <= date && date < self.to
    }
}

/// A time lies beyond the years −9999 to 9999, or so close to their end that its window does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is beyond the years that windows are made for")]
pub struct OutOfRange(String);

impl OutOfRange {
    /// Blames an instant.
    pub(super) fn instant(instant: Instant) -> Self {
        Self(format!("{} µs", instant.0))
    }

    /// Blames a date.
    pub(super) fn date(date: Date) -> Self {
        Self(format!("`{date}`"))
    }
}

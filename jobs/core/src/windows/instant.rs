//! An instant, a window between two of them, and the dates of UTC that a window touches.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Microseconds of a day of UTC.
pub const DAY_US: i64 = 86_400_000_000;

/// Days from the Unix epoch to a date, below 0 before it: as date columns and progress keep it.
#[must_use]
pub fn epoch_days(date: Date) -> i32 {
    (date - jiff::civil::date(1970, 1, 1)).get_days()
}

/// The date that lies so many days after the Unix epoch; `None` beyond the years that jiff knows.
#[must_use]
pub fn date_of_epoch_days(days: i32) -> Option<Date> {
    jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().try_days(days).ok()?).ok()
}

/// A point in time, microseconds since the Unix epoch, UTC. Spelled in RFC 3339, also as JSON; beyond the
/// years that jiff knows, as the number and ` µs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
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

/// A text is no instant of whole microseconds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no instant: write RFC 3339 with an offset and at most microseconds, such as 2026-01-05T00:00:00Z")]
pub struct NotAnInstant(String);

impl FromStr for Instant {
    type Err = NotAnInstant;

    fn from_str(text: &str) -> Result<Self, NotAnInstant> {
        if let Some(us) = text.strip_suffix(" µs").and_then(|us| us.parse().ok()) {
            return Ok(Self(us));
        }
        let timestamp = text.parse::<Timestamp>().ok();
        let whole = timestamp.filter(|t| t.subsec_nanosecond() % 1_000 == 0);
        whole.map(|t| Self(t.as_microsecond())).ok_or_else(|| NotAnInstant(text.to_owned()))
    }
}

impl TryFrom<String> for Instant {
    type Error = NotAnInstant;

    fn try_from(text: String) -> Result<Self, NotAnInstant> {
        text.parse()
    }
}

impl From<Instant> for String {
    fn from(instant: Instant) -> Self {
        instant.to_string()
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

    /// What two windows that meet have in common.
    pub(super) fn common(self, other: Self) -> Self {
        Self { start: self.start.max(other.start), end: self.end.min(other.end) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("1969-12-31T23:59:59.999999Z", -1)]
    #[case("2026-01-05T02:00:00+02:00", 1_767_571_200_000_000)]
    #[case("9223372036854775807 µs", i64::MAX)]
    fn read(#[case] text: &str, #[case] us: i64) {
        assert_eq!(text.parse(), Ok(Instant(us)));
    }

    #[rstest]
    #[case("2026-01-05T02:00:00")]
    #[case("2026-01-05")]
    #[case("2026-01-05T02:00:00.0000001Z")]
    #[case("7")]
    fn refused(#[case] text: &str) {
        let error = text.parse::<Instant>().unwrap_err();
        assert!(error.to_string().starts_with(&format!("`{text}` is no instant")), "{error}");
    }

    #[test]
    fn far_ends_stay_far_ends() {
        assert_eq!(Instant::of_ms(-1), Instant(-1_000));
        assert_eq!(Instant::of_ms(i64::MAX), Instant(i64::MAX));
        assert_eq!(Instant::of_ms(i64::MIN), Instant(i64::MIN));
    }

    proptest! {
        #[test]
        fn survives_its_text(us in prop_oneof![any::<i64>(), -10_000_000..10_000_000i64]) {
            prop_assert_eq!(Instant(us).to_string().parse(), Ok(Instant(us)));
        }
    }
}

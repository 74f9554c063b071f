//! The sizes that windows may have, and how they are spelled.
//!
//! A size under a day must divide a day evenly. Then its windows, which align to the Unix epoch (a UTC
//! midnight), begin at the same times of every UTC day, no window lies across a UTC midnight, and an
//! `event_date` holds whole windows only. `7m` or `5h` would begin at other times each day, so no two
//! days could be compared. Days, weeks and months follow the zone, one at a time: `2d` or `2w` would
//! need an anchor that no calendar gives. `24h` is refused, because a day in a zone has not always 24.
//!
//! Invariant W1: parsing what [`Granularity`] displays gives it back, and equal sizes display alike.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

const SECONDS_PER_DAY: u32 = 86_400;

/// The size of the windows of one granularity. Ordered from fine to coarse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Granularity {
    /// A size under a day.
    Under(UnderDay),
    /// A day of the zone, from its first instant to the next day's.
    Day,
    /// An ISO week of the zone, from Monday on.
    Week,
    /// A month of the zone.
    Month,
}

/// A size under a day that divides it evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnderDay(NonZeroU32);

impl UnderDay {
    /// Fifteen minutes, which divide every midnight of today's zones.
    pub const QUARTER: Self = Self(NonZeroU32::MIN.saturating_add(899));

    /// A size of `seconds`, if that divides a day evenly and is no whole day.
    #[must_use]
    pub const fn of_seconds(seconds: u32) -> Option<Self> {
        match NonZeroU32::new(seconds) {
            Some(size) if seconds < SECONDS_PER_DAY && SECONDS_PER_DAY.is_multiple_of(seconds) => Some(Self(size)),
            _ => None,
        }
    }

    /// The size in seconds.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.0.get()
    }

    /// The size in microseconds.
    #[must_use]
    pub fn micros(self) -> i64 {
        i64::from(self.seconds()) * 1_000_000
    }

    /// The greatest size that divides both.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        let (mut a, mut rest) = (self.0, other.seconds());
        while let Some(b) = NonZeroU32::new(rest) {
            (a, rest) = (b, a.get() % b);
        }
        Self(a)
    }
}

/// A text is no size that windows may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no window size: {why}; allowed are seconds, minutes and hours that divide a day evenly (`30s`, `5m`, `1h`), and `1d`, `1w`, `1mo`"
)]
pub struct BadGranularity {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// No number, or no known unit after it.
    #[error("it is not a whole number and a unit")]
    Unknown,
    /// Zero.
    #[error("it is empty")]
    Zero,
    /// Under a second, or a broken number of seconds.
    #[error("it has parts of a second")]
    SubSecond,
    /// A size whose windows begin at other times each day.
    #[error("it does not divide a day evenly, so its windows would begin at other times each day")]
    Uneven,
    /// A day or more, counted in hours or less.
    #[error("days follow the time zone and have not always 24 hours, so they are written `1d`")]
    HoursOfDays,
    /// Several days, weeks or months.
    #[error("no calendar says where several days, weeks or months would begin")]
    Several,
}

impl FromStr for Granularity {
    type Err = BadGranularity;

    fn from_str(text: &str) -> Result<Self, BadGranularity> {
        parse(text).map_err(|why| BadGranularity { text: text.to_owned(), why })
    }
}

impl TryFrom<String> for Granularity {
    type Error = BadGranularity;

    fn try_from(text: String) -> Result<Self, BadGranularity> {
        text.parse()
    }
}

impl From<Granularity> for String {
    fn from(granularity: Granularity) -> Self {
        granularity.to_string()
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Under(size) => match size.seconds() {
                s if s.is_multiple_of(3_600) => write!(f, "{}h", s / 3_600),
                s if s.is_multiple_of(60) => write!(f, "{}m", s / 60),
                s => write!(f, "{s}s"),
            },
            Self::Day => f.write_str("1d"),
            Self::Week => f.write_str("1w"),
            Self::Month => f.write_str("1mo"),
        }
    }
}

fn parse(text: &str) -> Result<Granularity, Why> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    if number.is_empty() {
        return Err(Why::Unknown);
    }
    let seconds_each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => return one(number, Granularity::Day),
        "w" => return one(number, Granularity::Week),
        "mo" => return one(number, Granularity::Month),
        "ms" | "us" | "µs" | "ns" => return Err(Why::SubSecond),
        _ if is_fraction_of_seconds(unit) => return Err(Why::SubSecond),
        _ => return Err(Why::Unknown),
    };
    // A number too long to be one is a day or more, whatever its unit.
    let seconds = number.parse::<u32>().ok().and_then(|n| n.checked_mul(seconds_each)).ok_or(Why::HoursOfDays)?;
    match UnderDay::of_seconds(seconds) {
        Some(size) => Ok(Granularity::Under(size)),
        None if seconds == 0 => Err(Why::Zero),
        None if seconds >= SECONDS_PER_DAY => Err(Why::HoursOfDays),
        None => Err(Why::Uneven),
    }
}

/// The one calendar size that `number` may count.
fn one(number: &str, granularity: Granularity) -> Result<Granularity, Why> {
    match number.trim_start_matches('0') {
        "1" => Ok(granularity),
        "" => Err(Why::Zero),
        _ => Err(Why::Several),
    }
}

/// `.5s`, the rest of `1.5s`.
fn is_fraction_of_seconds(rest: &str) -> bool {
    rest.strip_prefix('.')
        .and_then(|r| r.strip_suffix('s'))
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("30s", "30s")]
    #[case("90s", "90s")]
    #[case("120s", "2m")]
    #[case("5m", "5m")]
    #[case("05m", "5m")]
    #[case("60m", "1h")]
    #[case("90m", "90m")]
    #[case("3600s", "1h")]
    #[case("12h", "12h")]
    #[case("1d", "1d")]
    #[case("1w", "1w")]
    #[case("1mo", "1mo")]
    fn spelled_in_canonical_form(#[case] text: &str, #[case] canonical: &str) {
        assert_eq!(text.parse::<Granularity>().unwrap().to_string(), canonical);
    }

    #[rstest]
    #[case("", Why::Unknown)]
    #[case("5", Why::Unknown)]
    #[case("m", Why::Unknown)]
    #[case("+5m", Why::Unknown)]
    #[case("-5m", Why::Unknown)]
    #[case("5 m", Why::Unknown)]
    #[case(" 5m", Why::Unknown)]
    #[case("5M", Why::Unknown)]
    #[case("1y", Why::Unknown)]
    #[case("٣m", Why::Unknown)]
    #[case("0s", Why::Zero)]
    #[case("000h", Why::Zero)]
    #[case("0d", Why::Zero)]
    #[case("500ms", Why::SubSecond)]
    #[case("1.5s", Why::SubSecond)]
    #[case("1.s", Why::Unknown)]
    #[case("7m", Why::Uneven)]
    #[case("5h", Why::Uneven)]
    #[case("86399s", Why::Uneven)]
    #[case("24h", Why::HoursOfDays)]
    #[case("1440m", Why::HoursOfDays)]
    #[case("36h", Why::HoursOfDays)]
    #[case("99999999999999999999h", Why::HoursOfDays)]
    #[case("4294967295h", Why::HoursOfDays)]
    #[case("2d", Why::Several)]
    #[case("7d", Why::Several)]
    #[case("3mo", Why::Several)]
    fn refused(#[case] text: &str, #[case] why: Why) {
        let error = text.parse::<Granularity>().unwrap_err();
        assert_eq!(error, BadGranularity { text: text.to_owned(), why });
        assert!(error.to_string().contains("`30s`, `5m`, `1h`"), "says what is allowed: {error}");
    }

    #[test]
    fn json_is_the_text() {
        let hour: Granularity = serde_json::from_str("\"60m\"").unwrap();
        assert_eq!(serde_json::to_string(&hour).unwrap(), "\"1h\"");
        assert!(serde_json::from_str::<Granularity>("\"7m\"").unwrap_err().to_string().contains("`7m`"));
    }

    #[test]
    fn every_divisor_of_a_day_survives_its_text_and_keeps_the_order() {
        let all: Vec<Granularity> = (1..SECONDS_PER_DAY)
            .filter_map(UnderDay::of_seconds)
            .map(Granularity::Under)
            .chain([Granularity::Day, Granularity::Week, Granularity::Month])
            .collect();
        assert_eq!(all.len(), 95 + 3, "86,400 has 96 divisors, itself among them");
        assert!(all.is_sorted());
        for granularity in all {
            assert_eq!(granularity.to_string().parse(), Ok(granularity));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,8}|[0-9]{0,22}(ms|mo|[smhdw])") {
            if let Ok(granularity) = text.parse::<Granularity>() {
                prop_assert_eq!(granularity.to_string().parse(), Ok(granularity));
            }
        }
    }
}

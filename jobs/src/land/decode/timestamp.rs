//! Dates and instants from their text or number.
//!
//! Choices:
//! - RFC 3339 text is `YYYY-MM-DDTHH:MM:SS[.f]` with `Z` or `±hh:mm`; a space or a small `t` or `z`
//!   is fine. Everything else (`+0000`, no seconds, week dates) needs a `format` in the contract.
//! - Digits beyond the microsecond must be zeros: a cut instant would be another instant.
//! - A leap second (`:60`) is refused: no table type can hold it.
//! - A text without offset takes the contract's zone; a local time that occurs twice is the first
//!   one, and one that the clocks jump over moves ahead by the gap (RFC 5545, as Temporal does).
//! - An epoch number whose instant lies outside 1971 to 2199 in the contract's unit, but inside in
//!   another one, is refused: that is what a wrong unit looks like. Others are believed from year 1
//!   to 9999.

use super::number;
use super::refusal::{Judged, expected, out_of_range, wrong_type};
use crate::project::contract::TimestampForm;
use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

const US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * US;
/// 1971-01-01 and 2200-01-01: where an epoch number is plausible.
const PLAUSIBLE_US: std::ops::Range<i64> = 365 * DAY_US..84_006 * DAY_US;
/// 0001-01-01 and 10000-01-01.
const POSSIBLE_US: std::ops::Range<i64> = -719_162 * DAY_US..2_932_897 * DAY_US;

/// What a timestamp of this form looks like, for details.
pub(super) fn describe(form: &TimestampForm) -> &'static str {
    match form {
        TimestampForm::Rfc3339 { .. } => "a string with an RFC 3339 time such as `2026-01-31T12:00:00Z`",
        TimestampForm::EpochSeconds => "a whole number of seconds since 1970",
        TimestampForm::EpochMillis => "a whole number of milliseconds since 1970",
        TimestampForm::EpochMicros => "a whole number of microseconds since 1970",
        TimestampForm::Format { .. } => "a string in the contract's time format",
    }
}

/// An instant from the text of a form that is written as a string.
pub(super) fn from_text(text: &str, form: &TimestampForm) -> Judged<i64> {
    match form {
        TimestampForm::Rfc3339 { zone } => rfc3339(text, zone.as_ref()),
        TimestampForm::Format { format, zone } => formatted(text, format, zone.as_ref()),
        _ => Err(expected(describe(form), "\"")),
    }
}

/// An instant from the number of a form that counts from the Unix epoch.
pub(super) fn from_number(token: &str, form: &TimestampForm) -> Judged<i64> {
    let unit_us = match form {
        TimestampForm::EpochSeconds => US,
        TimestampForm::EpochMillis => 1_000,
        TimestampForm::EpochMicros => 1,
        _ => return Err(expected(describe(form), "0")),
    };
    let count = number::integer(token)?;
    let us = count.checked_mul(unit_us).filter(|us| POSSIBLE_US.contains(us));
    if us.is_some_and(|us| PLAUSIBLE_US.contains(&us)) {
        return us.ok_or_else(|| out_of_range("not an instant"));
    }
    let units = [("seconds", US), ("milliseconds", 1_000), ("microseconds", 1)];
    let likely = units
        .iter()
        .find(|(_, other)| *other != unit_us && count.checked_mul(*other).is_some_and(|us| PLAUSIBLE_US.contains(&us)));
    match (us, likely) {
        (_, Some((name, _))) => {
            Err(out_of_range(format!("expected {}, found a number that looks like {name}", describe(form))))
        }
        (Some(us), None) => Ok(us),
        (None, None) => Err(out_of_range("the instant is outside the years 1 to 9999")),
    }
}

/// A calendar date as days since the Unix epoch.
pub(super) fn date(text: &str) -> Judged<i32> {
    let bytes = text.as_bytes();
    let form = || wrong_type("expected a string with a date `YYYY-MM-DD`, found other text");
    if bytes.len() != 10 {
        return Err(form());
    }
    let (year, month, day) = year_month_day(bytes).ok_or_else(form)?;
    days(year, month, day).ok_or_else(|| out_of_range("the date does not exist"))
}

fn rfc3339(text: &str, zone: Option<&TimeZone>) -> Judged<i64> {
    let bytes = text.as_bytes();
    let form = || wrong_type("expected an RFC 3339 time such as `2026-01-31T12:00:00Z`, found other text");
    if bytes.len() < 19 || bytes[13] != b':' || bytes[16] != b':' || !matches!(bytes[10], b'T' | b't' | b' ') {
        return Err(form());
    }
    let (year, month, day) = year_month_day(bytes).ok_or_else(form)?;
    let (Some(hour), Some(minute), Some(second)) = (two(bytes, 11), two(bytes, 14), two(bytes, 17)) else {
        return Err(form());
    };
    let (fraction_us, rest) = fraction(&bytes[19..])?;
    let date = days(year, month, day).ok_or_else(|| out_of_range("the date does not exist"))?;
    if second == 60 {
        return Err(out_of_range("a leap second has no place in a timestamp"));
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err(out_of_range("the time of day does not exist"));
    }
    let clock = i64::from(hour * 3_600 + minute * 60 + second);
    let local = (i64::from(date) * 86_400 + clock) * US + fraction_us;
    match rest {
        [b'Z' | b'z'] => Ok(local),
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (Some(hours), Some(minutes)) = (two(rest, 1), two(rest, 4)) else { return Err(form()) };
            if hours > 23 || minutes > 59 {
                return Err(out_of_range("the offset from UTC does not exist"));
            }
            let offset = i64::from(hours * 3_600 + minutes * 60) * US;
            Ok(if *sign == b'+' { local - offset } else { local + offset })
        }
        [] => {
            let zone = zone.ok_or_else(no_offset)?;
            // `year` has four digits and the rest is checked above, so jiff's narrower types hold
            let civil = DateTime::new(
                year as i16,
                month as i8,
                day as i8,
                hour as i8,
                minute as i8,
                second as i8,
                (fraction_us * 1_000) as i32,
            )
            .map_err(|_| out_of_range("the time does not exist"))?;
            in_zone(civil, zone)
        }
        _ => Err(form()),
    }
}

fn formatted(text: &str, format: &str, zone: Option<&TimeZone>) -> Judged<i64> {
    let other = || wrong_type("expected a string in the contract's time format, found other text");
    let parts = strtime::parse(format, text).map_err(|_| other())?;
    if parts.second() == Some(59) && is_leap_second(text, format) {
        return Err(out_of_range("a leap second has no place in a timestamp"));
    }
    if parts.subsec_nanosecond().is_some_and(|ns| ns % 1_000 != 0) {
        return Err(too_fine());
    }
    if let Ok(instant) = parts.to_timestamp() {
        return Ok(instant.as_microsecond());
    }
    if parts.offset().is_some() {
        return Err(out_of_range("the time does not exist"));
    }
    let civil = parts.to_datetime().map_err(|_| out_of_range("the time does not exist"))?;
    in_zone(civil, zone.ok_or_else(no_offset)?)
}

/// jiff reads second 60 as 59. If any `60` of the text turned into `58` is read as second 58, that
/// `60` was the second.
fn is_leap_second(text: &str, format: &str) -> bool {
    text.match_indices("60").any(|(at, _)| {
        let changed = format!("{}58{}", &text[..at], &text[at + 2..]);
        strtime::parse(format, changed).is_ok_and(|parts| parts.second() == Some(58))
    })
}

fn in_zone(civil: DateTime, zone: &TimeZone) -> Judged<i64> {
    let instant = zone.to_ambiguous_timestamp(civil).compatible();
    Ok(instant.map_err(|_| out_of_range("the instant is outside the years 1 to 9999"))?.as_microsecond())
}

#[cold]
fn no_offset() -> Box<deltaworks_core::reason::Refusal> {
    wrong_type("the time has no offset from UTC, and the contract gives no `timezone` for it")
}

#[cold]
fn too_fine() -> Box<deltaworks_core::reason::Refusal> {
    out_of_range("the time is finer than a microsecond; digits beyond the sixth must be 0")
}

/// `.f{1,}` as microseconds, and what follows it.
fn fraction(bytes: &[u8]) -> Judged<(i64, &[u8])> {
    let Some((b'.', digits)) = bytes.split_first() else { return Ok((0, bytes)) };
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if count == 0 {
        return Err(wrong_type("expected digits after the point of the seconds"));
    }
    let (digits, rest) = digits.split_at(count);
    if digits.iter().skip(6).any(|b| *b != b'0') {
        return Err(too_fine());
    }
    let micros = (0..6).fold(0, |us, i| us * 10 + digits.get(i).map_or(0, |b| i64::from(b - b'0')));
    Ok((micros, rest))
}

/// `YYYY-MM-DD` at the start of at least ten bytes.
fn year_month_day(bytes: &[u8]) -> Option<(u32, u32, u32)> {
    if bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    Some((two(bytes, 0)? * 100 + two(bytes, 2)?, two(bytes, 5)?, two(bytes, 8)?))
}

fn two(bytes: &[u8], at: usize) -> Option<u32> {
    let (tens, ones) = (bytes[at].wrapping_sub(b'0'), bytes[at + 1].wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| u32::from(tens) * 10 + u32::from(ones))
}

/// Days since the Unix epoch in the proleptic Gregorian calendar; `None` if there is no such day.
fn days(year: u32, month: u32, day: u32) -> Option<i32> {
    const LENGTHS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = LENGTHS.get(month.checked_sub(1)? as usize)? + u32::from(leap && month == 2);
    if day == 0 || day > length {
        return None;
    }
    // years begin in March, so that the leap day is the last one; 400 of them have 146,097 days
    let year = year as i32 - i32::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month as i32 + 9) % 12) + 2) / 5 + day as i32 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use deltaworks_core::reason::Reason;
    use jiff::Timestamp;
    use proptest::prelude::*;
    use rstest::rstest;

    const UTC: TimestampForm = TimestampForm::Rfc3339 { zone: None };

    fn kyiv() -> TimestampForm {
        TimestampForm::Rfc3339 { zone: Some(TimeZone::get("Europe/Kyiv").unwrap()) }
    }

    fn us(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    #[rstest]
    #[case("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z")]
    #[case("2026-01-31 12:00:00z", "2026-01-31T12:00:00Z")]
    #[case("2026-01-31T12:00:00.123456Z", "2026-01-31T12:00:00.123456Z")]
    #[case("2026-01-31T12:00:00.1Z", "2026-01-31T12:00:00.1Z")]
    #[case("2026-01-31T12:00:00.123456000Z", "2026-01-31T12:00:00.123456Z")]
    #[case("2026-01-31T12:00:00+02:30", "2026-01-31T09:30:00Z")]
    #[case("2026-01-31T12:00:00-02:30", "2026-01-31T14:30:00Z")]
    #[case("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z")]
    #[case("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z")]
    #[case("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z")]
    fn rfc3339_texts(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(from_text(text, &UTC).unwrap(), us(expected));
    }

    #[rstest]
    #[case("2026-01-31T12:00:00", Reason::WrongType)]
    #[case("2026-01-31T12:00Z", Reason::WrongType)]
    #[case("2026-01-31T12:00:00+0200", Reason::WrongType)]
    #[case("2026-01-31T12:00:00.Z", Reason::WrongType)]
    #[case("2026-01-31T12:00:00ZZ", Reason::WrongType)]
    #[case("2026-01-31", Reason::WrongType)]
    #[case("20é6-01-31T12:00:00Z", Reason::WrongType)]
    #[case("", Reason::WrongType)]
    #[case("2026-02-29T12:00:00Z", Reason::OutOfRange)]
    #[case("2026-13-01T12:00:00Z", Reason::OutOfRange)]
    #[case("2026-00-01T12:00:00Z", Reason::OutOfRange)]
    #[case("2026-01-31T24:00:00Z", Reason::OutOfRange)]
    #[case("2016-12-31T23:59:60Z", Reason::OutOfRange)]
    #[case("2026-01-31T12:00:00+24:00", Reason::OutOfRange)]
    #[case("2026-01-31T12:00:00.123456789Z", Reason::OutOfRange)]
    fn refused_texts(#[case] text: &str, #[case] reason: Reason) {
        assert_eq!(from_text(text, &UTC).unwrap_err().reason, reason);
    }

    #[rstest]
    #[case("2026-07-01T12:00:00", "2026-07-01T09:00:00Z")]
    #[case("2026-01-01T12:00:00.5", "2026-01-01T10:00:00.5Z")]
    // an offset in the text wins over the zone
    #[case("2026-07-01T12:00:00Z", "2026-07-01T12:00:00Z")]
    // 03:30 is skipped on 2026-03-29: it moves ahead by the gap
    #[case("2026-03-29T03:30:00", "2026-03-29T01:30:00Z")]
    // 03:30 occurs twice on 2026-10-25: the first one
    #[case("2026-10-25T03:30:00", "2026-10-25T00:30:00Z")]
    fn zones_stand_in_for_an_offset(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(from_text(text, &kyiv()).unwrap(), us(expected));
    }

    #[rstest]
    #[case("%d.%m.%Y %H:%M:%S", Some("Europe/Kyiv"), "01.07.2026 12:00:59", Ok("2026-07-01T09:00:59Z"))]
    #[case("%Y-%m-%dT%H:%M:%S%z", None, "2026-07-01T12:00:00+0200", Ok("2026-07-01T10:00:00Z"))]
    #[case("%Y-%m-%d %H:%M:%S%.f %z", None, "2026-07-01 12:00:00.25 +0000", Ok("2026-07-01T12:00:00.25Z"))]
    #[case("%Y-%m-%d %H:%M:%S%.f %z", None, "2026-07-01 12:00:00.1234567 +0000", Err(Reason::OutOfRange))]
    #[case("%d.%m.%Y %H:%M:%S", None, "01.07.2026 12:00:00", Err(Reason::WrongType))]
    #[case("%d.%m.%Y %H:%M:%S", Some("UTC"), "2026-07-01 12:00:00", Err(Reason::WrongType))]
    #[case("%d.%m.%Y %H:%M:%S", Some("UTC"), "31.12.2016 23:59:60", Err(Reason::OutOfRange))]
    #[case("%d.%m.%Y %H:%M:%S", Some("UTC"), "30.02.2016 23:59:00", Err(Reason::OutOfRange))]
    fn formats(
        #[case] format: &str,
        #[case] zone: Option<&str>,
        #[case] text: &str,
        #[case] expected: Result<&str, Reason>,
    ) {
        let form = TimestampForm::Format { format: format.into(), zone: zone.map(|z| TimeZone::get(z).unwrap()) };
        assert_eq!(from_text(text, &form).map_err(|r| r.reason), expected.map(us));
    }

    #[rstest]
    #[case(TimestampForm::EpochSeconds, "1785000000", Ok(1_785_000_000_000_000))]
    #[case(TimestampForm::EpochMillis, "1785000000123", Ok(1_785_000_000_123_000))]
    #[case(TimestampForm::EpochMicros, "1785000000123456", Ok(1_785_000_000_123_456))]
    #[case(TimestampForm::EpochSeconds, "0", Ok(0))]
    #[case(TimestampForm::EpochMillis, "-86400000", Ok(-86_400_000_000))]
    #[case(TimestampForm::EpochSeconds, "1785000000123", Err("looks like milliseconds"))]
    #[case(TimestampForm::EpochSeconds, "1785000000123456", Err("looks like microseconds"))]
    #[case(TimestampForm::EpochMillis, "1785000000", Err("looks like seconds"))]
    #[case(TimestampForm::EpochMillis, "1785000000123456", Err("looks like microseconds"))]
    #[case(TimestampForm::EpochMicros, "1785000000", Err("looks like seconds"))]
    #[case(TimestampForm::EpochMicros, "1785000000123", Err("looks like milliseconds"))]
    #[case(TimestampForm::EpochSeconds, "9223372036854775807", Err("outside the years"))]
    #[case(TimestampForm::EpochSeconds, "1785000000.5", Err("plain digits"))]
    fn epochs(#[case] form: TimestampForm, #[case] token: &str, #[case] expected: Result<i64, &str>) {
        match (from_number(token, &form), expected) {
            (Ok(got), Ok(us)) => assert_eq!(got, us),
            (Err(refusal), Err(part)) => assert!(refusal.detail.contains(part), "{}", refusal.detail),
            (got, _) => panic!("{got:?}"),
        }
    }

    #[rstest]
    #[case("2026-02-30", Reason::OutOfRange)]
    #[case("1900-02-29", Reason::OutOfRange)]
    #[case("2026-2-3", Reason::WrongType)]
    #[case("2026-02-03T", Reason::WrongType)]
    fn refused_dates(#[case] text: &str, #[case] reason: Reason) {
        assert_eq!(date(text).unwrap_err().reason, reason);
    }

    proptest! {
        #[test]
        fn days_agree_with_jiff(offset in -719_528i32..2_932_896) {
            let day = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(offset)).unwrap();
            prop_assert_eq!(date(&day.to_string()).unwrap(), offset);
        }

        #[test]
        fn instants_survive_the_text(us in -62_135_596_800_000_000i64..253_402_200_000_000_000) {
            let text = Timestamp::from_microsecond(us).unwrap().to_string();
            prop_assert_eq!(from_text(&text, &UTC).unwrap(), us);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = from_text(&text, &kyiv());
            let _ = date(&text);
        }

        #[test]
        fn no_near_miss_panics(at in 0usize..27, with in any::<char>()) {
            let good = "2026-01-31T12:00:00.123456Z";
            let mut text: Vec<char> = good.chars().collect();
            text[at] = with;
            let text: String = text.into_iter().collect();
            if let (Ok(got), Ok(expected)) = (from_text(&text, &UTC), text.parse::<Timestamp>()) {
                prop_assert_eq!(got, expected.as_microsecond());
            }
        }
    }
}

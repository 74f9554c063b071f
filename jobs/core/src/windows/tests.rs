//! Windows on the dates on which zones are odd, and the rules of bases and nesting.

use super::*;
use crate::windows::oracle;
use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use rstest::rstest;
use std::collections::BTreeSet;

pub fn tz(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap_or_else(|e| panic!("the machine needs the zone files of {name}: {e}"))
}

pub fn zone(name: &str) -> Zone {
    Zone::new(tz(name))
}

pub fn at(text: &str) -> Instant {
    Instant(text.parse::<Timestamp>().unwrap().as_microsecond())
}

pub fn granularity(text: &str) -> Granularity {
    text.parse().unwrap()
}

fn hours(window: Window) -> i64 {
    (window.end.0 - window.start.0) / 3_600_000_000
}

#[rstest]
#[case::plain(
    "Europe/Kyiv",
    "1d",
    "2026-01-05T12:00:00Z",
    "2026-01-04T22:00:00Z",
    "2026-01-05T22:00:00Z",
    "2026-01-05"
)]
#[case::spring(
    "Europe/Kyiv",
    "1d",
    "2026-03-29T12:00:00Z",
    "2026-03-28T22:00:00Z",
    "2026-03-29T21:00:00Z",
    "2026-03-29"
)]
#[case::autumn(
    "Europe/Kyiv",
    "1d",
    "2026-10-25T12:00:00Z",
    "2026-10-24T21:00:00Z",
    "2026-10-25T22:00:00Z",
    "2026-10-25"
)]
#[case::half_hour(
    "Asia/Kolkata",
    "1d",
    "2026-01-05T18:29:59Z",
    "2026-01-04T18:30:00Z",
    "2026-01-05T18:30:00Z",
    "2026-01-05"
)]
#[case::half_hour_of_summer(
    "Australia/Lord_Howe",
    "1d",
    "2026-04-05T00:00:00Z",
    "2026-04-04T13:00:00Z",
    "2026-04-05T13:30:00Z",
    "2026-04-05"
)]
#[case::hour_in_half_hour_zone(
    "Asia/Kolkata",
    "1h",
    "2026-01-04T18:45:00Z",
    "2026-01-04T18:00:00Z",
    "2026-01-04T19:00:00Z",
    "2026-01-04"
)]
#[case::no_midnight(
    "America/Sao_Paulo",
    "1d",
    "2018-11-04T03:00:00Z",
    "2018-11-04T03:00:00Z",
    "2018-11-05T02:00:00Z",
    "2018-11-04"
)]
#[case::before_no_midnight(
    "America/Sao_Paulo",
    "1d",
    "2018-11-04T02:59:59Z",
    "2018-11-03T03:00:00Z",
    "2018-11-04T03:00:00Z",
    "2018-11-03"
)]
#[case::before_the_lost_date(
    "Pacific/Apia",
    "1d",
    "2011-12-30T09:59:59Z",
    "2011-12-29T10:00:00Z",
    "2011-12-30T10:00:00Z",
    "2011-12-29"
)]
#[case::after_the_lost_date(
    "Pacific/Apia",
    "1d",
    "2011-12-30T10:00:00Z",
    "2011-12-30T10:00:00Z",
    "2011-12-31T10:00:00Z",
    "2011-12-31"
)]
#[case::jump_over_midnight(
    "America/Toronto",
    "1d",
    "1919-03-31T04:30:00Z",
    "1919-03-31T04:30:00Z",
    "1919-04-01T04:00:00Z",
    "1919-03-31"
)]
#[case::midnight_twice_first(
    "America/St_Johns",
    "1d",
    "2010-11-07T02:30:30Z",
    "2010-11-07T02:30:00Z",
    "2010-11-08T03:30:00Z",
    "2010-11-07"
)]
#[case::midnight_twice_between(
    "America/St_Johns",
    "1d",
    "2010-11-07T03:00:00Z",
    "2010-11-07T02:30:00Z",
    "2010-11-08T03:30:00Z",
    "2010-11-07"
)]
#[case::date_twice(
    "Pacific/Kwajalein",
    "1d",
    "1969-09-30T20:00:00Z",
    "1969-09-29T13:00:00Z",
    "1969-10-01T12:00:00Z",
    "1969-09-30"
)]
#[case::week("Europe/Kyiv", "1w", "2026-03-29T12:00:00Z", "2026-03-22T22:00:00Z", "2026-03-29T21:00:00Z", "2026-03-23")]
#[case::week_over_new_year(
    "UTC",
    "1w",
    "2026-01-01T00:00:00Z",
    "2025-12-29T00:00:00Z",
    "2026-01-05T00:00:00Z",
    "2025-12-29"
)]
#[case::month(
    "Europe/Kyiv",
    "1mo",
    "2026-03-31T21:00:00Z",
    "2026-03-31T21:00:00Z",
    "2026-04-30T21:00:00Z",
    "2026-04-01"
)]
#[case::leap_month(
    "UTC",
    "1mo",
    "2024-02-29T23:59:59.999999Z",
    "2024-02-01T00:00:00Z",
    "2024-03-01T00:00:00Z",
    "2024-02-01"
)]
#[case::before_1970(
    "UTC",
    "1h",
    "1969-12-31T23:59:59.999999Z",
    "1969-12-31T23:00:00Z",
    "1970-01-01T00:00:00Z",
    "1969-12-31"
)]
#[case::first_instant(
    "UTC",
    "5m",
    "1969-12-31T23:55:00Z",
    "1969-12-31T23:55:00Z",
    "1970-01-01T00:00:00Z",
    "1969-12-31"
)]
fn windows_of_odd_dates(
    #[case] name: &str,
    #[case] size: &str,
    #[case] instant: &str,
    #[case] start: &str,
    #[case] end: &str,
    #[case] filed: Date,
) {
    let window = window_of(granularity(size), &zone(name), at(instant)).unwrap();
    assert_eq!(window.to_string(), format!("[{start}, {end})"));
    assert_eq!(window_date(&zone(name), window).unwrap(), filed);
    let naive = oracle::window_of(size, &tz(name), at(instant).0);
    assert_eq!(naive, (window.start.0, window.end.0, filed));
}

#[test]
fn days_have_23_24_25_and_once_47_hours() {
    let day = |name, instant| hours(window_of(Granularity::Day, &zone(name), at(instant)).unwrap());
    assert_eq!(day("Europe/Kyiv", "2026-03-29T12:00:00Z"), 23);
    assert_eq!(day("Europe/Kyiv", "2026-06-01T12:00:00Z"), 24);
    assert_eq!(day("Europe/Kyiv", "2026-10-25T12:00:00Z"), 25);
    assert_eq!(day("Pacific/Kwajalein", "1969-09-30T20:00:00Z"), 47);
}

#[rstest]
#[case::plain("Europe/Kyiv", "1d", "2026-01-05", 1, "2026-01-04", "2026-01-06")]
#[case::hours("Europe/Kyiv", "1h", "2026-03-29", 23, "2026-03-28", "2026-03-30")]
#[case::hours_of_autumn("Europe/Kyiv", "1h", "2026-10-25", 25, "2026-10-24", "2026-10-26")]
#[case::utc("UTC", "1h", "2026-01-05", 24, "2026-01-05", "2026-01-06")]
#[case::month("UTC", "1mo", "2026-02-01", 1, "2026-02-01", "2026-03-01")]
#[case::month_of_kyiv("Europe/Kyiv", "1mo", "2026-02-01", 1, "2026-01-31", "2026-03-01")]
#[case::hour_over_midnight("Asia/Kolkata", "1h", "2026-01-05", 24, "2026-01-04", "2026-01-06")]
#[case::long_windows_in_a_zone("Asia/Kolkata", "12h", "2026-01-05", 2, "2026-01-05", "2026-01-06")]
fn extents(
    #[case] name: &str,
    #[case] size: &str,
    #[case] day: Date,
    #[case] n: u64,
    #[case] from: Date,
    #[case] to: Date,
) {
    let extent = Extent::of(granularity(size), &zone(name), day).unwrap().unwrap();
    assert_eq!((extent.windows.len(), extent.dates), (n, Dates { from, to }));
    assert_eq!(extent.windows.iter().count() as u64, n);
}

#[rstest]
#[case::tuesday("UTC", "1w", "2026-01-06")]
#[case::second_of_month("UTC", "1mo", "2026-01-02")]
#[case::lost_day("Pacific/Apia", "1d", "2011-12-30")]
#[case::hours_of_a_lost_day("Pacific/Apia", "1h", "2011-12-30")]
fn dates_without_windows(#[case] name: &str, #[case] size: &str, #[case] day: Date) {
    assert_eq!(Extent::of(granularity(size), &zone(name), day), Ok(None));
}

#[test]
fn a_stretch_too_short_for_a_window_is_not_the_units_start() {
    // 7 November began at 02:30Z, was left after a minute, and began again at 03:30Z
    let windows = Windows::of(granularity("1h"), &zone("America/St_Johns"), date(2010, 11, 7)).unwrap();
    assert_eq!((windows.start(), windows.end()), (Some(at("2010-11-07T04:00:00Z")), Some(at("2010-11-08T04:00:00Z"))));
    let short = Windows::of(granularity("30s"), &zone("America/St_Johns"), date(2010, 11, 7)).unwrap();
    assert_eq!(short.iter().nth(1).unwrap().end, at("2010-11-07T02:31:00Z"));
    assert_eq!(short.iter().nth(2).unwrap().start, at("2010-11-07T03:30:00Z"));
    assert_eq!(short.ending_in(None, at("2010-11-07T03:00:00Z")).len(), 2);
}

#[test]
fn covered_windows_are_counted_without_walking() {
    let windows = Windows::of(granularity("1h"), &zone("Europe/Kyiv"), date(2026, 1, 5)).unwrap();
    let start = windows.start().unwrap();
    let hour = |n: i64| Instant(start.0 + n * 3_600_000_000);
    assert_eq!(windows.ending_in(None, start).len(), 0);
    assert_eq!(windows.ending_in(None, Instant(hour(1).0 - 1)).len(), 0);
    assert_eq!(windows.ending_in(None, hour(1)).len(), 1, "a window that ends at the bound is covered");
    assert_eq!(windows.ending_in(None, Instant(i64::MAX)), windows);
    assert_eq!(windows.ending_in(None, Instant(i64::MIN)), Windows::default());
    assert_eq!(windows.ending_in(Some(Instant(i64::MIN)), Instant(i64::MAX)), windows);
    let fresh = windows.ending_in(Some(hour(3)), hour(5));
    assert_eq!(fresh.iter().map(|w| w.start).collect::<Vec<_>>(), [hour(3), hour(4)]);
    assert!(windows.ending_in(Some(hour(5)), hour(5)).is_empty());
    assert!(windows.ending_in(Some(hour(5)), hour(3)).is_empty(), "a bound that fell covers nothing new");
}

/// A base as text: `5m`, `5m|1d` (cut at days), `|1d` (days).
fn spell(base: Base) -> String {
    match base {
        Base::Aligned(size) => Granularity::Under(size).to_string(),
        Base::Cut(size, at) => format!("{}|{at}", Granularity::Under(size)),
        Base::Calendar(at) => format!("|{at}"),
    }
}

#[rstest]
#[case(&["5m", "1h"], "5m", "5m")]
#[case(&["90s", "1m"], "30s", "30s")]
#[case(&["8h", "12h"], "4h", "4h")]
#[case(&["5m", "1h", "1d"], "5m|1d", "5m|1d")]
#[case(&["1h", "1d"], "15m|1d", "1h|1d")]
#[case(&["10m", "1d"], "5m|1d", "10m|1d")]
#[case(&["25s", "1w"], "25s|1w", "25s|1w")]
#[case(&["1d"], "15m|1d", "|1d")]
#[case(&["1mo"], "15m|1mo", "|1mo")]
#[case(&["1mo", "1mo"], "15m|1mo", "|1mo")]
#[case(&["1mo", "1w"], "15m|1d", "|1d")]
#[case(&["1mo", "1d", "1h"], "15m|1d", "1h|1d")]
fn bases(#[case] sizes: &[&str], #[case] of_states: &str, #[case] coarsest: &str) {
    let list: Vec<_> = sizes.iter().map(|s| granularity(s)).collect();
    assert_eq!(spell(Base::of_states(&list).unwrap()), of_states);
    assert_eq!(spell(Base::coarsest(&list).unwrap()), coarsest);
}

#[test]
fn no_granularity_has_no_base() {
    assert_eq!((Base::of_states(&[]), Base::coarsest(&[])), (None, None));
}

#[test]
fn a_base_window_is_cut_where_history_has_an_odd_midnight_and_nowhere_else() {
    let (kyiv, base) = (zone("Europe/Kyiv"), Base::of_states(&[Granularity::Day]).unwrap());
    let cut = base.window_of(&kyiv, at("1910-05-01T21:50:00Z")).unwrap();
    assert_eq!(cut.to_string(), "[1910-05-01T21:45:00Z, 1910-05-01T21:57:56Z)", "+02:02:04");
    let rest = base.window_of(&kyiv, cut.end).unwrap();
    assert_eq!(rest.to_string(), "[1910-05-01T21:57:56Z, 1910-05-01T22:00:00Z)");
    let today = base.window_of(&kyiv, at("2026-05-01T21:00:00Z")).unwrap();
    assert_eq!(today.to_string(), "[2026-05-01T21:00:00Z, 2026-05-01T21:15:00Z)");
    let mut binner = Binner::of_base(base, kyiv);
    for (inside, window) in [(rest.start, rest), (cut.start, cut), (rest.start, rest), (today.end, today)] {
        let expected = if window.contains(inside) { window.start } else { window.end };
        assert_eq!(binner.bin(inside), Ok(expected));
    }
}

#[rstest]
#[case("5m", "1h", "Europe/Kyiv", true)]
#[case("15m", "25s", "Europe/Kyiv", false)]
#[case("8h", "12h", "Europe/Kyiv", false)]
#[case("1h", "1d", "Europe/Kyiv", true)]
#[case("1h", "1mo", "Europe/Kyiv", true)]
#[case("8h", "1d", "Europe/Kyiv", false)]
#[case("1h", "1d", "Asia/Kolkata", false)]
#[case("30m", "1d", "Asia/Kolkata", true)]
#[case("30m", "1d", "Asia/Kathmandu", false)]
#[case("15m", "1w", "Asia/Kathmandu", true)]
#[case("12h", "1d", "UTC", true)]
#[case("1d", "1w", "Europe/Kyiv", true)]
#[case("1d", "1mo", "Pacific/Apia", true)]
#[case("1w", "1mo", "Europe/Kyiv", false)]
#[case("1w", "1d", "UTC", false)]
#[case("1d", "12h", "UTC", false)]
#[case("1d", "1d", "UTC", true)]
fn nesting_today(#[case] inner: &str, #[case] outer: &str, #[case] name: &str, #[case] expected: bool) {
    let span = Window { start: at("2026-01-01T00:00:00Z"), end: at("2027-01-01T00:00:00Z") };
    assert_eq!(nests(granularity(inner), granularity(outer), &zone(name), span), Ok(expected));
}

#[test]
fn nesting_depends_on_the_time_too() {
    let nests_in = |from: &str, to: &str| {
        let span = Window { start: at(from), end: at(to) };
        nests(granularity("15m"), Granularity::Day, &zone("Africa/Monrovia"), span).unwrap()
    };
    assert!(!nests_in("1971-01-01T00:00:00Z", "1971-01-02T00:00:00Z"), "-00:44:30");
    assert!(nests_in("1973-01-01T00:00:00Z", "1973-01-02T00:00:00Z"));
    // from -04:00 to -04:30 at 03:00 of 9 December: that day begins at a whole hour of UTC and ends at a half
    let caracas = |from: &str, to: &str| {
        let span = Window { start: at(from), end: at(to) };
        nests(granularity("1h"), Granularity::Day, &zone("America/Caracas"), span).unwrap()
    };
    assert!(caracas("2007-12-08T12:00:00Z", "2007-12-09T04:00:00Z"));
    assert!(!caracas("2007-12-09T12:00:00Z", "2007-12-09T13:00:00Z"));
    assert!(!caracas("2007-12-08T12:00:00Z", "2007-12-09T04:00:00.000001Z"));
}

#[rstest]
#[case("1d", i64::MAX)]
#[case("1mo", i64::MIN)]
#[case("5m", i64::MAX)]
#[case("5m", i64::MIN)]
fn the_ends_of_time_are_refused(#[case] size: &str, #[case] us: i64) {
    let error = window_of(granularity(size), &zone("Europe/Kyiv"), Instant(us)).unwrap_err();
    assert!(error.to_string().contains(&us.to_string()), "{error}");
}

/// Instants of a local date, a minute apart, and the windows they lie in; clocks go back, ahead, and over a date.
#[rstest]
fn every_window_of_a_local_date_is_of_one_of_its_units(
    #[values("UTC", "Europe/Kyiv", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu")] zone: &str,
    #[values("2011-12-29", "2011-12-30", "2006-10-29", "2026-03-29", "2026-06-01")] day: &str,
    #[values("15m", "6h", "1d", "1w", "1mo")] granularity: &str,
) {
    let zone = self::zone(zone);
    let (day, granularity): (Date, Granularity) = (day.parse().unwrap(), granularity.parse().unwrap());
    let utc = Instant::of_utc_date(day).unwrap().0;
    let mut expected = BTreeSet::new();
    for minute in -1_560..3_000 {
        let at = Instant(utc + minute * 60_000_000);
        if zone.local_date(at).unwrap() == day {
            expected.insert(window_date(&zone, window_of(granularity, &zone, at).unwrap()).unwrap());
        }
    }
    let found = window_dates_of_local(granularity, &zone, day).unwrap();
    assert!(found.is_superset(&expected), "{expected:?} {found:?}");
    assert!(found.iter().all(|date| expected.contains(date) || *date == day), "{expected:?} {found:?}");
}

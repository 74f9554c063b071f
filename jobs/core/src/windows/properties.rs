//! The window arithmetic against the naive oracle, in many zones, from 1900 to 2100.

use super::tests::{at, granularity, tz, zone};
use super::*;
use crate::windows::oracle;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use std::collections::BTreeSet;

const GRANULARITIES: [&str; 12] = ["1s", "25s", "30s", "1m", "5m", "15m", "90m", "1h", "8h", "1d", "1w", "1mo"];

/// Zones with whole, half and quarter hours, with seconds, with midnights that do not exist or come
/// twice, with dates that do not exist or come twice, south and north, with and without summer time.
const ZONES: [&str; 40] = [
    "UTC",
    "Europe/Kyiv",
    "Europe/London",
    "Europe/Dublin",
    "Europe/Amsterdam",
    "Europe/Lisbon",
    "Europe/Moscow",
    "Atlantic/Azores",
    "America/New_York",
    "America/Toronto",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Asuncion",
    "America/Santiago",
    "America/Havana",
    "America/Caracas",
    "America/Nuuk",
    "America/Scoresbysund",
    "America/Anchorage",
    "America/Goose_Bay",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Asia/Gaza",
    "Asia/Amman",
    "Asia/Beirut",
    "Asia/Pyongyang",
    "Asia/Manila",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "Australia/Lord_Howe",
    "Australia/Adelaide",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Apia",
    "Pacific/Fakaofo",
    "Pacific/Kwajalein",
    "Pacific/Kiritimati",
    "Antarctica/Troll",
];

/// An instant from 1900 to 2100, half of them close to a change of the zone's offset.
fn instants() -> impl Strategy<Value = (&'static str, Instant)> {
    let (from, to) = (at("1900-01-01T00:00:00Z").0, at("2100-01-01T00:00:00Z").0);
    let day = DAY_US;
    let near = prop_oneof![-3 * day..3 * day, -7_200_000_000..7_200_000_000i64, Just(0), Just(-1), Just(1)];
    (prop::sample::select(&ZONES[..]), from..to, prop::option::of(near)).prop_map(move |(name, us, near)| {
        let change =
            tz(name).following(Instant(us).timestamp().unwrap()).next().map(|c| c.timestamp().as_microsecond());
        let moved = change.filter(|c| *c < to).zip(near).map(|(change, near)| change + near);
        (name, Instant(moved.unwrap_or(us)))
    })
}

fn sizes() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&GRANULARITIES[..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn windows_are_the_oracles((name, instant) in instants(), size in sizes()) {
        let (granularity, zone) = (granularity(size), zone(name));
        let window = window_of(granularity, &zone, instant).unwrap();
        let filed = window_date(&zone, window).unwrap();
        prop_assert_eq!((window.start.0, window.end.0, filed), oracle::window_of(size, &tz(name), instant.0));
    }

    #[test]
    fn windows_tile_all_time((name, instant) in instants(), size in sizes()) {
        let (granularity, zone) = (granularity(size), zone(name));
        let window = window_of(granularity, &zone, instant).unwrap();
        prop_assert!(window.contains(instant));
        for inside in [window.start, Instant(window.end.0 - 1)] {
            prop_assert_eq!(window_of(granularity, &zone, inside).unwrap(), window);
        }
        prop_assert_eq!(window_of(granularity, &zone, window.end).unwrap().start, window.end);
        prop_assert_eq!(window_of(granularity, &zone, Instant(window.start.0 - 1)).unwrap().end, window.start);
    }

    #[test]
    fn a_window_is_in_exactly_its_unit((name, instant) in instants(), size in sizes()) {
        let (granularity, zone) = (granularity(size), zone(name));
        let window = window_of(granularity, &zone, instant).unwrap();
        let filed = window_date(&zone, window).unwrap();
        for (day, expected) in [(filed.yesterday(), 0), (Ok(filed), 1), (filed.tomorrow(), 0)] {
            let windows = Windows::of(granularity, &zone, day.unwrap()).unwrap();
            prop_assert_eq!(windows.iter().filter(|w| *w == window).count(), expected);
        }
    }

    #[test]
    fn dates_of_units_and_units_of_dates_mirror_each_other((name, instant) in instants(), size in sizes()) {
        let (granularity, zone) = (granularity(size), zone(name));
        let date = instant.utc_date().unwrap();
        let touched = window_dates_touched_by(granularity, &zone, date).unwrap();
        prop_assert!(touched.contains(&oracle::window_of(size, &tz(name), instant.0).2));
        let mut day = date.checked_sub(jiff::Span::new().days(34)).unwrap();
        let end = date.checked_add(jiff::Span::new().days(3)).unwrap();
        while day <= end {
            let extent = Extent::of(granularity, &zone, day).unwrap();
            let holds = extent.is_some_and(|e| e.dates.contains(date));
            prop_assert_eq!(holds, touched.contains(&day), "{} and {}", day, date);
            day = day.tomorrow().unwrap();
        }
    }

    #[test]
    fn base_windows_lie_in_one_window_of_each_granularity(
        (name, instant) in instants(),
        list in prop::collection::vec(sizes(), 1..4),
    ) {
        let (list, zone): (Vec<_>, _) = (list.into_iter().map(granularity).collect(), zone(name));
        for base in [Base::of_states(&list).unwrap(), Base::coarsest(&list).unwrap()] {
            let window = base.window_of(&zone, instant).unwrap();
            prop_assert!(window.contains(instant));
            prop_assert_eq!(base.window_of(&zone, window.end).unwrap().start, window.end);
            for granularity in &list {
                let outer = window_of(*granularity, &zone, window.start).unwrap();
                prop_assert!(window.end <= outer.end, "{} in {}", window, outer);
            }
        }
    }

    #[test]
    fn nesting_holds_for_every_window((name, instant) in instants(), inner in sizes(), outer in sizes()) {
        let (inner, outer, zone) = (granularity(inner), granularity(outer), zone(name));
        let span = Window { start: instant, end: Instant(instant.0 + 2 * DAY_US) };
        let said = nests(inner, outer, &zone, span).unwrap();
        let (mut at, mut seen) = (span.start, true);
        while at < span.end && seen {
            let (window, around) = (window_of(inner, &zone, at).unwrap(), window_of(outer, &zone, at).unwrap());
            seen = around.start <= window.start && window.end <= around.end;
            at = window.end.max(Instant(around.end.0 - 1)).min(Instant(window.end.0 + DAY_US));
        }
        prop_assert!(seen || !said, "what nests has no window that sticks out");
    }

    #[test]
    fn a_binner_gives_what_the_plain_functions_give(
        name in prop::sample::select(&ZONES[..]),
        size in sizes(),
        us in prop::collection::vec(prop_oneof![0..90 * DAY_US, Just(3i64), at("1900-01-01T00:00:00Z").0..at("2100-01-01T00:00:00Z").0], 1..40),
    ) {
        let (granularity, zone) = (granularity(size), zone(name));
        let base = Base::of_states(&[granularity]).unwrap();
        let (mut plain, mut of_base) = (Binner::new(granularity, zone.clone()), Binner::of_base(base, zone.clone()));
        for instant in us.into_iter().map(Instant) {
            let window = window_of(granularity, &zone, instant).unwrap();
            prop_assert_eq!(plain.window(instant).unwrap(), window);
            prop_assert_eq!(plain.bin(window.end).unwrap(), window.end);
            for edge in [instant, window.start, Instant(window.start.0 - 1), window.end] {
                prop_assert_eq!(of_base.window(edge).unwrap(), base.window_of(&zone, edge).unwrap());
            }
        }
    }
}

proptest! {
    // each case walks three days
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_windows_of_a_unit_are_all_that_start_on_its_date((name, instant) in instants(), size in sizes()) {
        // a second is too small to walk
        let size = if size == "1s" { "30s" } else { size };
        let day = oracle::local(&tz(name), instant.0);
        let mut naive = Vec::new();
        let mut at = Instant::of_utc_date(day).unwrap().0 - 27 * 3_600_000_000;
        let end = at + 3 * DAY_US;
        while at < end {
            let step = oracle::size_or_day_us(size);
            let window = oracle::window_of(size, &tz(name), at);
            if window.2 == day && naive.last() != Some(&window) {
                naive.push(window);
            }
            at += step;
        }
        let extent = Extent::of(granularity(size), &zone(name), day).unwrap();
        let windows: Vec<_> = extent.iter().flat_map(|e| e.windows.iter()).map(|w| (w.start.0, w.end.0, day)).collect();
        prop_assert_eq!(&windows, &naive);
        if let Some(extent) = extent {
            prop_assert_eq!(extent.windows.start(), naive.first().map(|w| Instant(w.0)));
            prop_assert_eq!(extent.windows.end(), naive.last().map(|w| Instant(w.1)));
            let utc = |us| oracle::local(&TimeZone::UTC, us);
            let touched: BTreeSet<_> = naive.iter().flat_map(|w| (w.0..w.1).step_by(3_600_000_000).chain([w.1 - 1]).map(utc)).collect();
            prop_assert_eq!(extent.dates.iter().collect::<BTreeSet<_>>(), touched);
        }
    }
}

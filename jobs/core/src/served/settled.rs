//! How far back every window of every granularity is final, so that the states of their rows are needed no more.
//!
//! Invariant F1: no window that starts before the instant is open. Where nothing of a granularity was ever
//! taken over from batch, nobody can know.

use crate::windows::{Extent, Granularity, Instant};

/// How far one unit is final.
#[derive(Debug, Clone, Copy)]
pub struct Reach<'a> {
    /// Size of its windows.
    pub granularity: Granularity,
    /// Its windows.
    pub extent: &'a Extent,
    /// The covered bound that was taken over; `None` if nothing was.
    pub covered: Option<Instant>,
}

/// Windows that start before this instant are final; `None` if none is for sure. `units` are all that have
/// states or were served.
#[must_use]
pub fn settled_before<'a>(
    granularities: &[Granularity],
    units: impl IntoIterator<Item = Reach<'a>> + Clone,
) -> Option<Instant> {
    let of = |granularity: Granularity| {
        let units = || units.clone().into_iter().filter(move |unit| unit.granularity == granularity);
        let covered = units().filter_map(|unit| unit.covered).max()?;
        let open = units().filter_map(first_open).min();
        // rows that come later make windows that nothing covers yet
        Some(open.map_or(covered, |open| open.min(covered)))
    };
    granularities.iter().map(|granularity| of(*granularity)).min().flatten()
}

/// The start of the first window of a unit that is not covered.
fn first_open(unit: Reach<'_>) -> Option<Instant> {
    unit.extent.windows.ending_in(unit.covered, Instant(i64::MAX)).start()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::Zone;
    use jiff::civil::date;
    use rstest::rstest;

    const HOUR_US: i64 = 3_600_000_000;

    /// Units of 1970-01-01 and 02: hours of both dates, and days; each covered up to an hour of the first date.
    #[rstest]
    #[case::nothing_of_days(&[("1h", 1, Some(24))], None)]
    #[case::nothing_taken(&[("1h", 1, None), ("1d", 1, None)], None)]
    #[case::open_day(&[("1h", 1, Some(5)), ("1d", 1, Some(5))], Some(0))]
    #[case::whole_day(&[("1h", 1, Some(24)), ("1d", 1, Some(24))], Some(24))]
    #[case::covered_beyond(&[("1h", 1, Some(30)), ("1d", 1, Some(30))], Some(30))]
    #[case::next_day_is_open(&[("1h", 1, Some(30)), ("1d", 1, Some(30)), ("1d", 2, Some(30))], Some(24))]
    #[case::next_day_was_never_taken(&[("1h", 1, Some(30)), ("1d", 1, Some(30)), ("1h", 2, None)], Some(24))]
    fn windows_before_are_final(#[case] units: &[(&str, i8, Option<i64>)], #[case] expected: Option<i64>) {
        let zone = Zone::utc();
        let made: Vec<_> = units
            .iter()
            .map(|(granularity, day, covered)| {
                let granularity: Granularity = granularity.parse().unwrap();
                let extent = Extent::of(granularity, &zone, date(1970, 1, *day)).unwrap().unwrap();
                (granularity, extent, covered.map(|hours| Instant(hours * HOUR_US)))
            })
            .collect();
        let reach = made.iter().map(|(granularity, extent, covered)| Reach {
            granularity: *granularity,
            extent,
            covered: *covered,
        });
        let granularities = ["1h".parse().unwrap(), "1d".parse().unwrap()];
        let settled = settled_before(&granularities, reach);
        assert_eq!(settled, expected.map(|hours| Instant(hours * HOUR_US)));
    }
}

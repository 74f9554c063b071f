//! How many rows of one event date lie in any window, counted once for all granularities and zones.
//!
//! Windows begin and end at whole seconds, in every zone and every year, so a count per second of the
//! date answers for each of them. Invariant S1: a row is in exactly one second.

use crate::error::{Class, Error, Result, Stage};
use deltaworks_core::windows::{DAY_US, Instant, Windows};
use jiff::civil::Date;

const SECOND_US: i64 = 1_000_000;
const SECONDS: usize = 86_400;

/// Rows per second of a date.
#[derive(Debug, Clone)]
pub struct Seconds {
    from_us: i64,
    rows: Vec<u32>,
}

/// The same, summed up from the beginning of the date.
#[derive(Debug, Clone)]
pub struct Sums {
    from_us: i64,
    before: Vec<u64>,
}

impl Seconds {
    /// No rows yet.
    ///
    /// # Errors
    /// The date is beyond the years that windows are made for.
    pub fn new(date: Date) -> Result<Self> {
        let from = Instant::of_utc_date(date)
            .map_err(|e| Error::new(Stage::Batch, Class::User, "an event date cannot be counted").because(e))?;
        Ok(Self { from_us: from.0, rows: vec![0; SECONDS] })
    }

    /// Counts an event of the date.
    ///
    /// # Errors
    /// It lies on another date.
    pub fn add(&mut self, event_us: i64) -> Result<()> {
        let second = usize::try_from(event_us.wrapping_sub(self.from_us).div_euclid(SECOND_US)).ok();
        let count = second.and_then(|second| self.rows.get_mut(second)).ok_or_else(|| {
            let message = format!("an event at {} lies in a file of another date", Instant(event_us));
            Error::new(Stage::Batch, Class::Internal, message).hint("the raw table was written by another tool")
        })?;
        *count += 1;
        Ok(())
    }

    /// Takes in what another part counted of the same date.
    pub fn merge(&mut self, other: &Self) {
        self.rows.iter_mut().zip(&other.rows).for_each(|(count, more)| *count += more);
    }

    /// Ready to be asked.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let mut sum = 0;
        let running = self.rows.iter().map(|rows| {
            sum += u64::from(*rows);
            sum
        });
        Sums { from_us: self.from_us, before: std::iter::once(0).chain(running).collect() }
    }
}

impl Sums {
    /// Rows of the date that lie in these windows.
    #[must_use]
    pub fn within(&self, windows: &Windows) -> u64 {
        let to_us = self.from_us + DAY_US;
        let touching = windows.iter().skip_while(|w| w.end.0 <= self.from_us).take_while(|w| w.start.0 < to_us);
        touching.map(|w| self.before_instant(w.end) - self.before_instant(w.start)).sum()
    }

    fn before_instant(&self, at: Instant) -> u64 {
        let second = (at.0.saturating_sub(self.from_us)).div_euclid(SECOND_US).clamp(0, SECONDS as i64);
        self.before.get(second as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deltaworks_core::windows::{Extent, Zone};
    use jiff::civil::date;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_a_count_of_each_event(
            times in prop::collection::vec(0..DAY_US, 0..50),
            size in prop::sample::select(vec!["1s", "90s", "5m", "1h", "1d", "1w"]),
            zone in prop::sample::select(vec!["UTC", "Asia/Kolkata", "America/St_Johns"]),
            bound in 0..3 * DAY_US,
        ) {
            let day = date(1969, 12, 31);
            let start = Instant::of_utc_date(day).unwrap().0;
            let mut seconds = Seconds::new(day).unwrap();
            for time in &times {
                seconds.add(start + time).unwrap();
            }
            let zone = Zone::new(jiff::tz::TimeZone::get(zone).unwrap());
            for unit in [date(1969, 12, 29), date(1969, 12, 30), day, date(1970, 1, 1)] {
                let Some(extent) = Extent::of(size.parse().unwrap(), &zone, unit).unwrap() else { continue };
                let windows = extent.windows.ending_in(None, Instant(start - DAY_US + bound));
                let naive = windows.iter().map(|w| times.iter().filter(|t| w.contains(Instant(start + **t))).count());
                prop_assert_eq!(seconds.sums().within(&windows), naive.sum::<usize>() as u64);
            }
        }
    }

    #[test]
    fn an_event_of_another_date_is_refused() {
        let mut seconds = Seconds::new(date(1970, 1, 1)).unwrap();
        for us in [-1, DAY_US, i64::MAX, i64::MIN] {
            assert!(seconds.add(us).is_err(), "{us}");
        }
        seconds.add(DAY_US - 1).unwrap();
    }
}

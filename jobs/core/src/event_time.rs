//! Event time against the clocks: is it believable, how far behind, what does it do to the frontier.
//!
//! Everything is decided once, at landing, and stored. Units: event times in microseconds since the
//! Unix epoch, frontier and behind in milliseconds, floored, so that times before 1970 behave too.
//!
//! Invariants: E1 the frontier never falls; E2 it never passes the believable instant
//! (`min(Kafka's time, the poll's clock) + max_ahead`), so one bad clock cannot close everybody's
//! windows; E3 `behind` is never negative.

use crate::reason::{Reason, Refusal};

/// The configured limits on event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTimeLimits {
    /// How far an event may be ahead of the clock, ms.
    pub ahead_ms_max: i64,
    /// Earliest event time that is believed, microseconds; `None` believes all.
    pub earliest_us: Option<i64>,
}

/// Floors microseconds to milliseconds.
#[must_use]
pub const fn floor_ms(us: i64) -> i64 {
    us.div_euclid(1_000)
}

/// The latest instant an event may claim, ms: `min(Kafka's time, clock) + max_ahead`, or the clock
/// alone where Kafka's time is absent.
#[must_use]
pub fn believable_ms(kafka_time_ms: Option<i64>, clock_ms: i64, limits: EventTimeLimits) -> i64 {
    kafka_time_ms.map_or(clock_ms, |k| k.min(clock_ms)).saturating_add(limits.ahead_ms_max)
}

/// Refuses an event time that is not believable.
///
/// # Errors
/// [`Reason::EventTimeInFuture`] or [`Reason::EventTimeTooOld`], blaming `field`.
pub fn judge(
    event_us: i64,
    kafka_time_ms: Option<i64>,
    clock_ms: i64,
    limits: EventTimeLimits,
    field: &str,
) -> Result<(), Refusal> {
    let latest = believable_ms(kafka_time_ms, clock_ms, limits);
    if floor_ms(event_us) > latest {
        let ahead = floor_ms(event_us) - (latest - limits.ahead_ms_max);
        return Err(Refusal::at(
            Reason::EventTimeInFuture,
            field,
            format!("{ahead} ms ahead of the clock, at most {} ms are allowed", limits.ahead_ms_max),
        ));
    }
    match limits.earliest_us {
        Some(earliest) if event_us < earliest => {
            Err(Refusal::at(Reason::EventTimeTooOld, field, "before the configured `min_event_time`"))
        }
        _ => Ok(()),
    }
}

/// The greatest event time seen in one partition so far, ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frontier(pub Option<i64>);

impl Frontier {
    /// Takes in one landed event: returns how far it is behind the frontier as it was before, ms,
    /// and moves the frontier to `min(event time, believable)` if that is ahead.
    pub fn observe(&mut self, event_us: i64, believable_ms: i64) -> i64 {
        let event_ms = floor_ms(event_us);
        let behind = self.0.map_or(0, |f| f.saturating_sub(event_ms).max(0));
        let claim = event_ms.min(believable_ms);
        self.0 = Some(self.0.map_or(claim, |f| f.max(claim)));
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: EventTimeLimits = EventTimeLimits { ahead_ms_max: 300_000, earliest_us: None };

    #[test]
    fn the_earlier_of_both_clocks_decides() {
        let clock = 10_000_000;
        assert!(judge((clock + 300_000) * 1_000, None, clock, LIMITS, "t").is_ok());
        assert!(judge((clock + 300_001) * 1_000, None, clock, LIMITS, "t").is_err());
        // a broker time an hour ago makes the same event unbelievable
        assert!(judge(clock * 1_000, Some(clock - 3_600_000), clock, LIMITS, "t").is_err());
        // a broker time in the future gives nobody more room
        assert!(judge((clock + 300_001) * 1_000, Some(clock + 9_999_999), clock, LIMITS, "t").is_err());
    }

    #[test]
    fn the_minimum_is_off_unless_configured() {
        assert!(judge(i64::MIN / 2, None, 0, LIMITS, "t").is_ok());
        let old = EventTimeLimits { earliest_us: Some(0), ..LIMITS };
        assert_eq!(judge(-1, None, 0, old, "t").unwrap_err().reason, Reason::EventTimeTooOld);
        assert!(judge(0, None, 0, old, "t").is_ok());
    }

    #[test]
    fn before_1970_floors_downwards() {
        assert_eq!(floor_ms(-1), -1);
        assert_eq!(floor_ms(-1_000), -1);
        assert_eq!(floor_ms(999), 0);
    }

    proptest! {
        #[test]
        fn frontier_grows_and_behind_is_not_negative(events in prop::collection::vec(-5_000_000i64..5_000_000, 1..60), clock in -4_000i64..4_000) {
            let mut frontier = Frontier::default();
            for event in events {
                let before = frontier;
                let behind = frontier.observe(event, clock);
                prop_assert!(behind >= 0);
                prop_assert!(frontier.0 >= before.0);
                prop_assert!(frontier.0.is_some_and(|f| f <= clock.max(before.0.unwrap_or(i64::MIN))));
            }
        }
    }
}

//! The finest windows of an aggregate, which its partial states are kept in, and which granularities
//! can be rolled up from which.
//!
//! A base window lies in one window of each granularity, always. Sizes under a day see to that by their
//! greatest common divisor. The days, weeks and months of a zone do not begin at multiples of any size:
//! half-hour zones, and in history local mean time (Kyiv was at +02:02:04 until 1924, Monrovia at
//! −00:44:30 until 1972). A base so small that it divides every midnight there ever was would make every
//! state pay for that, so a base window that the beginning of a day (week, month) falls into is cut in two
//! there instead. Where those beginnings are multiples of its size, nothing is cut.
//!
//! What is kept uses 15 minutes where there are days, weeks or months, so that open days can be shown and
//! today's midnights cut nothing ([`Base::of_states`]). What lives for one pass only can be as coarse as
//! the granularities are ([`Base::coarsest`]).

use super::{Granularity, Instant, OutOfRange, UnderDay, Window, Zone, aligned, window_of};

/// What base windows are, for a list of granularities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Base {
    /// Windows under a day, never cut: there are no days, weeks or months.
    Aligned(UnderDay),
    /// Windows under a day, cut where a window of this calendar granularity begins.
    Cut(UnderDay, Granularity),
    /// The windows of a calendar granularity: there are no sizes under a day.
    Calendar(Granularity),
}

impl Base {
    /// The base that the stored states of these granularities are kept in: with days, weeks or months
    /// at most 15 minutes. `None` without any granularity.
    #[must_use]
    pub fn of_states(granularities: &[Granularity]) -> Option<Self> {
        match Self::coarsest(granularities)? {
            aligned @ Self::Aligned(_) => Some(aligned),
            Self::Cut(size, at) => Some(Self::Cut(size.common(UnderDay::QUARTER), at)),
            Self::Calendar(at) => Some(Self::Cut(UnderDay::QUARTER, at)),
        }
    }

    /// The coarsest base that all of these granularities can be made from. `None` without any.
    #[must_use]
    pub fn coarsest(granularities: &[Granularity]) -> Option<Self> {
        let under_day = granularities.iter().filter_map(|g| match g {
            Granularity::Under(size) => Some(*size),
            Granularity::Day | Granularity::Week | Granularity::Month => None,
        });
        let calendar = granularities.iter().copied().filter(|g| !matches!(g, Granularity::Under(_)));
        // Weeks and months have nothing in common but days.
        let in_common = |a, b| if a == b { a } else { Granularity::Day };
        match (under_day.reduce(UnderDay::common), calendar.reduce(in_common)) {
            (Some(size), None) => Some(Self::Aligned(size)),
            (Some(size), Some(at)) => Some(Self::Cut(size, at)),
            (None, at) => at.map(Self::Calendar),
        }
    }

    /// The base window that `instant` lies in.
    ///
    /// # Errors
    /// As [`window_of`].
    pub fn window_of(self, zone: &Zone, instant: Instant) -> Result<Window, OutOfRange> {
        match self {
            Self::Aligned(size) => aligned(size, instant),
            Self::Calendar(granularity) => window_of(granularity, zone, instant),
            Self::Cut(size, granularity) => Ok(aligned(size, instant)?.common(window_of(granularity, zone, instant)?)),
        }
    }
}

/// Whether each window of `inner` that touches `span` lies within one window of `outer`, so that `outer`
/// can be rolled up from it. For a size under a day within a day, week or month that depends on where
/// those begin, so on the zone and on the time: hours nest in Kyiv's days today, not in Kolkata's.
///
/// # Errors
/// As [`window_of`].
pub fn nests(inner: Granularity, outer: Granularity, zone: &Zone, span: Window) -> Result<bool, OutOfRange> {
    use Granularity::{Day, Month, Under, Week};
    match (inner, outer) {
        (Under(inner), Under(outer)) => Ok(outer.seconds().is_multiple_of(inner.seconds())),
        (Under(inner), Day | Week | Month) => aligned_ends(inner, outer, zone, span),
        (Day, Day | Week | Month) | (Week, Week) | (Month, Month) => Ok(true),
        (Day | Week | Month, Under(_)) | (Week | Month, Day) | (Week, Month) | (Month, Week) => Ok(false),
    }
}

/// Whether both ends of each window of `outer` that touches `span` are multiples of `inner`.
fn aligned_ends(inner: UnderDay, outer: Granularity, zone: &Zone, span: Window) -> Result<bool, OutOfRange> {
    let is_aligned = |instant: Instant| instant.0.rem_euclid(inner.micros()) == 0;
    let mut at = span.start;
    while at < span.end {
        let window = window_of(outer, zone, at)?;
        if !is_aligned(window.start) || !is_aligned(window.end) {
            return Ok(false);
        }
        at = window.end;
    }
    Ok(true)
}

//! The finest windows of an aggregate, which its partial states are kept in, and which granularities
//! can be rolled up from which.
//!
//! The base size is the greatest common divisor of the sizes under a day and, if there are days, weeks
//! or months, of 15 minutes. Every midnight of today's zones is a multiple of 15 minutes, but history
//! knows others: local mean time (Kyiv was +02:02:04 until 1924), Monrovia at −00:44:30 until 1972. A
//! smaller base for all time would pay for that in every state, so a base window that a date's beginning
//! falls into is cut in two there instead. So a base window lies in one window of each granularity,
//! always; and where midnights are multiples of the base size, nothing is ever cut.

use super::{Granularity, Instant, OutOfRange, UnderDay, Window, Zone, aligned, window_of};

/// What base windows are, for a list of granularities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    /// Size of a base window that is not cut.
    pub size: UnderDay,
    /// Whether base windows are cut where a date of the zone begins, because days, weeks or months are
    /// made from them.
    pub cut: bool,
}

impl Base {
    /// The base of windows of these granularities; `None` without any.
    #[must_use]
    pub fn of(granularities: &[Granularity]) -> Option<Self> {
        let size = granularities.iter().map(|g| match g {
            Granularity::Under(size) => *size,
            Granularity::Day | Granularity::Week | Granularity::Month => UnderDay::QUARTER,
        });
        let cut = granularities.iter().any(|g| !matches!(g, Granularity::Under(_)));
        Some(Self { size: size.reduce(UnderDay::common)?, cut })
    }

    /// The base window that `instant` lies in.
    ///
    /// # Errors
    /// As [`window_of`].
    pub fn window_of(self, zone: &Zone, instant: Instant) -> Result<Window, OutOfRange> {
        let whole = aligned(self.size, instant)?;
        if !self.cut {
            return Ok(whole);
        }
        let day = window_of(Granularity::Day, zone, instant)?;
        Ok(Window { start: whole.start.max(day.start), end: whole.end.min(day.end) })
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

//! The window of one event after the other, for millions of events.
//!
//! Events lie close together in time, so the window of the last one mostly holds the next one too.
//! Sizes under a day need one division; days, weeks and months ask the zone once per window and keep
//! the answer, so events that jump between dates are fast as well.
//!
//! Invariant W5: a binner gives what [`window_of`] and [`Base::window_of`] give, in any order of asking.

use super::{Base, Granularity, Instant, OutOfRange, UnderDay, Window, Zone, aligned, window_of};
use std::collections::BTreeMap;

/// How many calendar windows are kept: the days of 11 years.
const KEPT_WINDOWS_MAX: usize = 4_096;

/// Bins instants into windows.
#[derive(Debug, Clone)]
pub struct Binner {
    rule: Rule,
    last: Window,
}

#[derive(Debug, Clone)]
enum Rule {
    Aligned(UnderDay),
    Calendar {
        granularity: Granularity,
        zone: Zone,
        kept: BTreeMap<Instant, Instant>,
    },
    /// Aligned, and cut where a window of the calendar binner begins.
    Cut(UnderDay, Box<Binner>),
}

impl Binner {
    /// Bins into the windows of `granularity`.
    #[must_use]
    pub fn new(granularity: Granularity, zone: Zone) -> Self {
        Self::with(match granularity {
            Granularity::Under(size) => Rule::Aligned(size),
            _ => Rule::Calendar { granularity, zone, kept: BTreeMap::new() },
        })
    }

    /// Bins into base windows.
    #[must_use]
    pub fn of_base(base: Base, zone: Zone) -> Self {
        match base {
            Base::Aligned(size) => Self::new(Granularity::Under(size), zone),
            Base::Calendar(granularity) => Self::new(granularity, zone),
            Base::Cut(size, granularity) => Self::with(Rule::Cut(size, Box::new(Self::new(granularity, zone)))),
        }
    }

    /// The start of the window that `instant` lies in.
    ///
    /// # Errors
    /// As [`window_of`].
    #[inline]
    pub fn bin(&mut self, instant: Instant) -> Result<Instant, OutOfRange> {
        if !self.last.contains(instant) {
            self.last = self.find(instant)?;
        }
        Ok(self.last.start)
    }

    /// The window that `instant` lies in.
    ///
    /// # Errors
    /// As [`window_of`].
    pub fn window(&mut self, instant: Instant) -> Result<Window, OutOfRange> {
        self.bin(instant)?;
        Ok(self.last)
    }

    const fn with(rule: Rule) -> Self {
        Self { rule, last: Window { start: Instant(0), end: Instant(0) } }
    }

    fn find(&mut self, instant: Instant) -> Result<Window, OutOfRange> {
        match &mut self.rule {
            Rule::Aligned(size) => aligned(*size, instant),
            Rule::Cut(size, calendar) => Ok(aligned(*size, instant)?.common(calendar.window(instant)?)),
            Rule::Calendar { granularity, zone, kept } => {
                if let Some((start, end)) = kept.range(..=instant).next_back()
                    && instant < *end
                {
                    return Ok(Window { start: *start, end: *end });
                }
                let window = window_of(*granularity, zone, instant)?;
                if kept.len() >= KEPT_WINDOWS_MAX {
                    kept.clear();
                }
                kept.insert(window.start, window.end);
                Ok(window)
            }
        }
    }
}

//! What is stored of windows that are covered for the first time, against what the same rows of raw give.
//!
//! Only states that can be right are compared: of the definition that batch computed under, of dates that were not let
//! go, and of rows that nobody has rewritten since. Invariant C1: a state that cannot be read, or does not fit into
//! memory for one window alone, is told and stops nothing.

use super::super::portions::results;
use super::super::provisional::Speed;
use super::rows::{Stored, Values};
use super::steps::dates_of;
use super::windows::{Looks, Subject};
use super::{Drifts, Wanted};
use crate::batch::Input;
use crate::error::{Class, Error, Result};
use crate::speed::rolled_from_raw;
use deltaworks_core::windows::Window;

impl Drifts {
    /// What is stored of windows that are new, and what the same rows of raw give.
    pub(super) async fn stored(
        &self,
        wanted: &Wanted,
        speed: &Speed,
        subjects: &[Subject<'_>],
        looks: &[Looks],
        values: &mut [Values],
    ) -> Result<()> {
        let Some(input) = &self.input else { return Ok(()) };
        let new = self.comparable(wanted, speed, input, subjects, looks)?;
        let definition = &wanted.definition;
        for ((subject, values), new) in subjects.iter().zip(values).zip(new) {
            let hull = |a: Window, b: Window| Window { start: a.start.min(b.start), end: a.end.max(b.end) };
            let Some(within) = new.iter().copied().reduce(hull) else { continue };
            let granularity = subject.unit.granularity;
            let both = async {
                let stored = speed.results(definition, within, &[granularity]).await?.remove(&granularity);
                let states = rolled_from_raw(input, definition, granularity, &speed.progress(), within).await?;
                Ok::<_, Error>((stored.unwrap_or_default(), results(definition, states, granularity).await?))
            };
            match both.await {
                Ok((stored, again)) => {
                    let starts = new.iter().map(|window| window.start).collect();
                    values.stored = Some(Stored { stored, again, starts });
                }
                // of raw, nothing may be missing
                Err(error) if error.class == Class::InputLost => return Err(error),
                Err(error) => {
                    tracing::warn!(unit = %subject.unit, %error, "stored states are not compared");
                }
            }
        }
        Ok(())
    }

    /// The windows of each unit whose states can be right.
    fn comparable(
        &self,
        wanted: &Wanted,
        speed: &Speed,
        input: &Input,
        subjects: &[Subject<'_>],
        looks: &[Looks],
    ) -> Result<Vec<Vec<Window>>> {
        let current = self.definitions.current();
        let mut new: Vec<Vec<Window>> = vec![Vec::new(); subjects.len()];
        for ((subject, look), new) in subjects.iter().zip(looks).zip(&mut new) {
            if subject.taken.definition != current {
                continue;
            }
            let is_new = |window: &Window| look.windows.get(&window.start).is_some_and(|looked| looked.is_new);
            for window in subject.extent.windows.iter().filter(is_new) {
                let date = wanted.definition.zone.local_date(window.start).map_err(super::super::gather::out)?;
                let is_there = speed.floor().is_none_or(|floor| floor <= date);
                if is_there && dates_of(&[window])?.iter().all(|date| input.pin.rewritten_of(*date) == 0) {
                    new.push(window);
                }
            }
        }
        Ok(new)
    }
}

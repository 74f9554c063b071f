//! What is stored of windows that are covered for the first time, against what the same rows of raw give.
//!
//! Only states that can be right are compared: of the definition that batch computed under, of dates that were not let
//! go, and of rows that nobody has rewritten since. Invariant C1: a state that cannot be read, or is too large to be
//! computed again, is told and stops nothing.

use super::super::provisional::Speed;
use super::rows::{Stored, Values};
use super::steps::{Results, dates_of, finish};
use super::windows::{Looks, Subject};
use super::{Drifts, Wanted};
use crate::batch::Input;
use crate::engine::aggregate::is_out_of_memory;
use crate::error::{Error, Result};
use crate::speed::from_raw;
use deltaworks_core::windows::{Granularity, Window};
use std::collections::BTreeSet;

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
        let Some(within) =
            new.iter().flatten().copied().reduce(|a, b| Window { start: a.start.min(b.start), end: a.end.max(b.end) })
        else {
            return Ok(());
        };
        let granularities: BTreeSet<Granularity> = subjects.iter().map(|subject| subject.unit.granularity).collect();
        let granularities: Vec<Granularity> = granularities.into_iter().collect();
        let definition = &wanted.definition;
        let skipped = |error: &Error| {
            tracing::warn!(aggregate = %definition.name, %error, "stored states are not compared");
        };
        let stored = match speed.results(definition, within, &granularities).await {
            Ok(stored) => stored,
            Err(error) => {
                skipped(&error);
                return Ok(());
            }
        };
        let again = async {
            let states = from_raw(input, definition, &speed.progress(), within).await?;
            finish(definition, &states, &granularities).await
        };
        let again = match again.await {
            Ok(again) => again,
            // memory that is enough for a bucket of keys is not for all of their states
            Err(error) if is_out_of_memory(&error) => {
                skipped(&error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for ((subject, values), new) in subjects.iter().zip(values).zip(new) {
            let of = |results: &Results| results.get(&subject.unit.granularity).cloned().unwrap_or_default();
            let starts = new.iter().map(|window| window.start).collect();
            values.stored = Some(Stored { stored: of(&stored), again: of(&again), starts });
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
                if is_there && dates_of(&window)?.iter().all(|date| input.pin.rewritten_of(*date) == 0) {
                    new.push(window);
                }
            }
        }
        Ok(new)
    }
}

//! Which windows of a unit are looked at, and the pins that decide about their rows.

use super::rows::{Looked, ending_in};
use super::steps::Pins;
use super::table::Drift;
use crate::batch::{named, pins_there, primitive, texts};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use deltaworks_core::drift::first_covering;
use deltaworks_core::served::{State, Taken};
use deltaworks_core::units::{Fingerprint, Pin, Unit};
use deltaworks_core::windows::{Extent, Instant, Window};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A unit that takes something over from batch.
#[derive(Debug)]
pub(in super::super) struct Subject<'a> {
    pub unit: &'a Unit,
    pub extent: &'a Extent,
    /// What was taken over before.
    pub served: Option<Taken>,
    /// What is to be taken over.
    pub taken: Taken,
    /// Its served rows, with their origin.
    pub rows: RecordBatch,
    /// What batch has.
    pub batch: Vec<RecordBatch>,
}

/// The windows of one unit that are looked at, and the pins of each.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// By start.
    pub windows: BTreeMap<Instant, Looked>,
    /// Windows with the pins that decide about their rows.
    pub by_pins: Vec<(Pins, Vec<Window>)>,
}

impl Subject<'_> {
    /// The windows that are covered for the first time (`new`), and those among `changed` starts.
    fn windows(&self, new: bool, changed: &BTreeSet<Instant>) -> Vec<(Window, bool)> {
        let before = self.served.map(|served| served.covered);
        let newly = self.extent.windows.ending_in(before, self.taken.covered);
        let old = before.map(|before| self.extent.windows.ending_in(None, before)).unwrap_or_default();
        let old = old.iter().filter(|window| changed.contains(&window.start)).map(|window| (window, false));
        let newly = newly.iter().filter(|_| new).map(|window| (window, true));
        old.chain(newly).collect()
    }

    /// Looks for the pins of its windows.
    ///
    /// # Errors
    /// `ops.pins` or the drift table cannot be read, or the pin that is to be taken over is not there.
    pub(super) async fn look(
        &self,
        lake: &Lake,
        drift: &Drift,
        new: bool,
        changed: &BTreeSet<Instant>,
    ) -> Result<Looks> {
        let windows = self.windows(new, changed);
        if windows.is_empty() {
            return Ok(Looks::default());
        }
        let mut firsts = BTreeMap::new();
        if windows.iter().any(|(_, is_new)| !is_new) {
            firsts = self.first_pins(drift).await?;
        }
        let mut ids: BTreeSet<Fingerprint> = firsts.values().copied().collect();
        ids.extend(self.served.map(|served| served.pin));
        ids.insert(self.taken.pin);
        let pins: BTreeMap<Fingerprint, Arc<Pin>> =
            pins_there(lake, &ids).await?.into_iter().map(|(id, pin)| (id, Arc::new(pin))).collect();
        let taken = pins.get(&self.taken.pin).ok_or_else(|| {
            let message = format!("pin `{}` of unit `{}` is not in `ops.pins`", self.taken.pin, self.unit);
            Error::new(Stage::Reconcile, Class::Internal, message).hint("the table was changed by another tool")
        })?;
        // pins of a table that was made anew since say nothing of the rows that there are now
        let usable = |id: &Fingerprint| pins.get(id).filter(|pin| pin.table == taken.table);
        let covered: BTreeMap<Fingerprint, Instant> =
            ids.iter().filter_map(|id| Some((*id, usable(id)?.covered?))).collect();
        let served = self.served.and_then(|served| usable(&served.pin)).unwrap_or(taken);
        let mut looks = Looks::default();
        for (window, is_new) in windows {
            let known = firsts.get(&window.start).copied().filter(|id| usable(id).is_some());
            let first_pin = match is_new {
                true => self.taken.pin,
                false => known.or_else(|| first_covering(window.end, &covered)).unwrap_or(self.taken.pin),
            };
            let first = usable(&first_pin).unwrap_or(taken);
            let served = if is_new { taken } else { served };
            let pins = Pins { first: Arc::clone(first), served: Arc::clone(served), taken: Arc::clone(taken) };
            looks.windows.insert(window.start, Looked { is_new, first_pin });
            match looks.by_pins.iter_mut().find(|(have, _)| have.are_like(&pins)) {
                Some((_, windows)) => windows.push(window),
                None => looks.by_pins.push((pins, vec![window])),
            }
        }
        Ok(looks)
    }

    /// The pins under which windows were first covered, as far as rows tell: a row that is final has the pin of that
    /// moment, and one that was restated has left it in its drift.
    async fn first_pins(&self, drift: &Drift) -> Result<BTreeMap<Instant, Fingerprint>> {
        let mut firsts = BTreeMap::new();
        let wanted = named(drift.columns(), ["window_start", "window_end", "generation", "first_pin"]);
        for rows in drift.rows(self.unit, &wanted).await? {
            let rows = match self.served {
                Some(served) => ending_in(&rows, None, served.covered)?,
                None => continue,
            };
            let starts = primitive::<TimestampMicrosecondType>(&rows, "window_start")?;
            let (generations, pins) = (primitive::<Int64Type>(&rows, "generation")?, texts(&rows, "first_pin")?);
            for row in 0..rows.num_rows() {
                let is_served = self.served.is_some_and(|served| generations.value(row) <= served.generation);
                if let (true, Ok(pin)) = (is_served, pins.value(row).parse()) {
                    firsts.insert(Instant(starts.value(row)), pin);
                }
            }
        }
        let starts = primitive::<TimestampMicrosecondType>(&self.rows, "window_start")?;
        let (states, pins) = (texts(&self.rows, "state")?, texts(&self.rows, "pin")?);
        for row in 0..self.rows.num_rows() {
            let is_final = states.value(row).parse() == Ok(State::Final) && pins.is_valid(row);
            if let (true, Ok(pin)) = (is_final, pins.value(row).parse()) {
                firsts.insert(Instant(starts.value(row)), pin);
            }
        }
        Ok(firsts)
    }
}

//! DRIFT: how a window came from what was shown to what is served now, step by step.
//!
//! ```text
//!   served rows ─┐
//!   batch rows ──┼─> windows (which, and their pins) ─> steps (raw, once per set of pins) ─┐
//!                │ in pieces that fit into memory                                          ├─> rows ─> drift.<aggregate>
//!   speed, raw ──┴─> what is stored, against what the same rows give ──────────────────────┘
//! ```
//!
//! Windows are looked at when they are covered for the first time (where speed has shown them), and when batch has
//! restated them. What a row adds, and in which step, is decided by [`deltaworks_core::drift`].
//!
//! Invariant F1: drift is committed before what it explains is served, so a crash between both repeats it.

// in flow order
mod windows;

mod pieces;

mod definitions;
mod steps;
mod stored;

mod rows;

mod table;

// beside the flow
mod explain;
mod show;

pub use explain::{Event, ExplainOptions, Explained, StepValues, explain};
pub use show::{ShowOptions, show};
pub(super) use table::Put;
pub use table::drift_name;
pub(super) use windows::Subject;

use super::gather::Wanted;
use super::provisional::Speed;
use crate::batch::{Input, meter::Meter, primitive};
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use definitions::Definitions;
use deltaworks_core::commit_info::Identity;
use deltaworks_core::drift::Moved;
use deltaworks_core::served::Taken;
use deltaworks_core::units::Unit;
use deltaworks_core::windows::Window;
use jiff::civil::Date;
use pieces::pieces;
use rows::{Columns, Values, Written};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use steps::{Answer, Pins, Question, Steps, steps};
use table::Drift;
use windows::Looks;

/// Why nothing can be said of the way of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Raw has other rows of a date than when batch computed the unit: they were removed or rewritten.
    RowsGone(Date),
    /// Batch computed it under a definition that cannot be read any more: lateness or lookups have changed since.
    Definition,
    /// Nothing is landed.
    NoRaw,
}

/// What is known of the way of one unit.
#[derive(Debug)]
pub(super) enum Way {
    /// No window of it is new or changed.
    Same,
    /// The rows to write, and how much moved.
    Known(Box<Known>),
    /// Nothing.
    Unknown(Unknown),
}

/// The rows of one unit.
#[derive(Debug)]
pub(super) struct Known {
    rows: RecordBatch,
    /// How much moved.
    pub moved: Moved,
}

/// The drift of one aggregate.
#[derive(Debug)]
pub(super) struct Drifts {
    table: Drift,
    columns: Columns,
    input: Option<Input>,
    definitions: Definitions,
    meter: Meter,
}

/// The definition that a unit was computed under, and the one before.
type OfUnit = (Arc<Definition>, Option<Arc<Definition>>);

/// Windows that one pass over raw answers for.
struct Pass {
    definition: Arc<Definition>,
    before: Option<Arc<Definition>>,
    pins: Pins,
    /// By the place of their unit in the list.
    windows: BTreeMap<usize, Vec<Window>>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RowsGone(date) => write!(f, "raw has other rows of {date} than when it was computed"),
            Self::Definition => f.write_str("the definition it was computed under cannot be read any more"),
            Self::NoRaw => f.write_str("the raw table is gone"),
        }
    }
}

impl Drifts {
    /// Opens the table and the newest version of raw. `content`: the columns of a served row, without their origin.
    ///
    /// # Errors
    /// A table cannot be read or made.
    pub async fn open(lake: &Lake, wanted: &Wanted, content: &SchemaRef) -> Result<Self> {
        let columns = Columns::new(&wanted.definition, content);
        let table = Drift::open(lake, &wanted.definition, &wanted.grain, &columns).await?;
        let input = Input::gather(lake, &wanted.pipeline, None).await?;
        let definitions = Definitions::new(&wanted.definition);
        Ok(Self { table, columns, input, definitions, meter: Meter::default() })
    }

    /// The way of each unit, in their order. What `speed` stores is compared where it is given.
    ///
    /// # Errors
    /// A table cannot be read, or memory is too small.
    pub async fn ways(
        &mut self,
        lake: &Lake,
        wanted: &Wanted,
        speed: Option<&Speed>,
        subjects: &[Subject<'_>],
    ) -> Result<Vec<Way>> {
        let (mut looks, mut definitions) = (Vec::new(), Vec::new());
        let mut unknown: BTreeMap<usize, Unknown> = BTreeMap::new();
        for (number, subject) in subjects.iter().enumerate() {
            let look = self.look(lake, wanted, subject).await?;
            let of_unit = match look.windows.is_empty() {
                true => None,
                false => self.definitions_of(lake, wanted, subject).await?,
            };
            if of_unit.is_none() && !look.windows.is_empty() {
                unknown.insert(number, Unknown::Definition);
            }
            definitions.push(of_unit);
            looks.push(look);
        }
        let mut written: Vec<Vec<Written>> = subjects.iter().map(|_| Vec::new()).collect();
        for piece in pieces(&looks, subjects, wanted.memory_bytes)? {
            let values = self.values(wanted, speed, subjects, &piece, &definitions, &mut unknown).await?;
            for (number, (subject, (look, values))) in subjects.iter().zip(piece.iter().zip(values)).enumerate() {
                let is_known = !look.windows.is_empty() && !unknown.contains_key(&number);
                if let Some(written) = written.get_mut(number).filter(|_| is_known) {
                    let origin = (subject.taken.generation, subject.taken.pin);
                    written.push(self.columns.write(&values, &look.windows, origin)?);
                }
            }
        }
        let ways = looks.iter().zip(written).enumerate().map(|(number, (look, written))| {
            if let Some(why) = unknown.remove(&number) {
                return Ok(Way::Unknown(why));
            }
            if look.windows.is_empty() {
                return Ok(Way::Same);
            }
            let (rows, moved) = self.columns.together(written)?;
            Ok(Way::Known(Box::new(Known { rows, moved })))
        });
        ways.collect()
    }

    /// The definition that a unit was computed under, and the one before, if that was another; `None` if the first
    /// cannot be read any more.
    async fn definitions_of(&mut self, lake: &Lake, wanted: &Wanted, subject: &Subject<'_>) -> Result<Option<OfUnit>> {
        let taken = subject.taken.definition;
        let Some(definition) = self.definitions.get(lake, wanted, taken).await? else { return Ok(None) };
        let before = match subject.served.filter(|served| served.definition != taken) {
            Some(served) => self.definitions.get(lake, wanted, served.definition).await?,
            None => None,
        };
        Ok(Some((definition, before)))
    }

    /// The values of a piece of the windows of each unit. What nothing can be said of goes to `unknown`.
    async fn values(
        &self,
        wanted: &Wanted,
        speed: Option<&Speed>,
        subjects: &[Subject<'_>],
        looks: &[Looks],
        definitions: &[Option<OfUnit>],
        unknown: &mut BTreeMap<usize, Unknown>,
    ) -> Result<Vec<Values>> {
        let mut passes: Vec<Pass> = Vec::new();
        for (number, (look, definitions)) in looks.iter().zip(definitions).enumerate() {
            if let Some((definition, before)) = definitions {
                deal(&mut passes, number, look, definition, before.as_ref());
            }
        }
        let mut values: Vec<Values> = subjects.iter().map(Values::of).collect();
        for pass in passes {
            match self.pass(wanted, &pass, subjects).await? {
                Ok(steps) => pass.give(&steps, subjects, &mut values)?,
                Err(why) => unknown.extend(pass.windows.keys().map(|number| (*number, why.clone()))),
            }
        }
        if let Some(speed) = speed {
            self.stored(wanted, speed, subjects, looks, &mut values).await?;
        }
        Ok(values)
    }

    /// Whether any way of a unit is told, of windows that are served or not.
    pub fn has(&self, unit: &Unit) -> bool {
        self.table.has(unit)
    }

    /// Tries to commit the way of a unit. Where there is none to tell, what was told of a generation that did not come
    /// to be served gives way all the same.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub async fn put(
        &mut self,
        unit: &Unit,
        served: Option<&Taken>,
        taken: Taken,
        way: &Way,
        identity: &Identity,
    ) -> Result<Put> {
        let nothing = RecordBatch::new_empty(self.columns.schema());
        let rows = if let Way::Known(known) = way { &known.rows } else { &nothing };
        self.table.put(unit, served, taken, rows, identity).await
    }

    /// Moves on to the newest version of the table; whether it has a commit of this identity.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn refresh(&mut self, identity: &Identity) -> Result<bool> {
        self.table.refresh(identity).await
    }

    /// Writes a checkpoint if one is due.
    ///
    /// # Errors
    /// The store fails; the next run tries again.
    pub async fn end(&self) -> Result<()> {
        self.table.end().await
    }

    /// Times that a pass over raw was begun again with more buckets of keys.
    pub fn begun_again(&self) -> u64 {
        self.meter.begun_again.load(Relaxed)
    }

    async fn look(&self, lake: &Lake, wanted: &Wanted, subject: &Subject<'_>) -> Result<Looks> {
        let changed = match subject.served {
            Some(served) => {
                let rows = std::slice::from_ref(&subject.rows);
                self.columns.changed(rows, &subject.batch, served.covered)?
            }
            None => BTreeSet::new(),
        };
        subject.look(lake, &self.table, wanted.speed, &changed).await
    }

    async fn pass(&self, wanted: &Wanted, pass: &Pass, subjects: &[Subject<'_>]) -> Result<Result<Steps, Unknown>> {
        let Some(input) = self.input.as_ref().filter(|input| input.pin.table == pass.pins.taken.table) else {
            return Ok(Err(Unknown::NoRaw));
        };
        let granularity = |number: &usize| subjects.get(*number).map(|subject| subject.unit.granularity);
        let question = Question {
            input,
            definition: &pass.definition,
            before: pass.before.as_ref(),
            pins: &pass.pins,
            windows: apart(pass.windows.values().flatten().copied()),
            granularities: pass.windows.keys().filter_map(granularity).collect(),
            parallel: wanted.parallel,
            memory_bytes: wanted.memory_bytes,
            meter: &self.meter,
        };
        Ok(match steps(&question).await? {
            Answer::Steps(steps) => Ok(steps),
            Answer::RowsGone(date) => Err(Unknown::RowsGone(date)),
        })
    }
}

impl Values {
    fn of(subject: &Subject<'_>) -> Self {
        let mut values = Self { batch: subject.batch.clone(), ..Self::default() };
        if let Some(served) = values.steps.first_mut() {
            served.push(subject.rows.clone());
        }
        values
    }
}

/// Adds the windows of one unit to the passes that answer for them.
fn deal(
    passes: &mut Vec<Pass>,
    number: usize,
    look: &Looks,
    definition: &Arc<Definition>,
    before: Option<&Arc<Definition>>,
) {
    let same = |a: &Arc<Definition>, b: &Arc<Definition>| Arc::ptr_eq(a, b);
    for (pins, windows) in &look.by_pins {
        let is_it = |pass: &&mut Pass| {
            let same_before = match (&pass.before, before) {
                (Some(a), Some(b)) => same(a, b),
                (a, b) => a.is_none() && b.is_none(),
            };
            same(&pass.definition, definition) && same_before && pass.pins.are_like(pins)
        };
        match passes.iter_mut().find(is_it) {
            Some(pass) => {
                pass.pins.add_rows(pins);
                pass.windows.entry(number).or_default().extend(windows);
            }
            None => passes.push(Pass {
                definition: Arc::clone(definition),
                before: before.cloned(),
                pins: pins.clone(),
                windows: BTreeMap::from([(number, windows.clone())]),
            }),
        }
    }
}

impl Pass {
    /// Gives each unit the results of its own windows.
    fn give(&self, steps: &Steps, subjects: &[Subject<'_>], values: &mut [Values]) -> Result<()> {
        for (number, windows) in &self.windows {
            let (Some(subject), Some(values)) = (subjects.get(*number), values.get_mut(*number)) else { continue };
            let starts: BTreeSet<i64> = windows.iter().map(|window| window.start.0).collect();
            let given = [&steps.definition, &steps.base, &steps.arrived, &steps.fills, &steps.late, &steps.dedup];
            for (step, results) in values.steps.iter_mut().skip(1).zip(given) {
                for batch in results.get(&subject.unit.granularity).into_iter().flatten() {
                    step.push(starting_at(batch, &starts)?);
                }
            }
        }
        Ok(())
    }
}

fn starting_at(rows: &RecordBatch, starts: &BTreeSet<i64>) -> Result<RecordBatch> {
    let mask: BooleanArray = primitive::<TimestampMicrosecondType>(rows, "window_start")?
        .values()
        .iter()
        .map(|start| Some(starts.contains(start)))
        .collect();
    filter_record_batch(rows, &mask)
        .map_err(|e| Error::new(Stage::Reconcile, Class::Internal, "results cannot be split").because(e))
}

/// The same instants as windows that are ascending and apart.
fn apart(windows: impl Iterator<Item = Window>) -> Vec<Window> {
    let mut all: Vec<Window> = windows.collect();
    all.sort_unstable_by_key(|window| (window.start, window.end));
    let mut apart: Vec<Window> = Vec::new();
    for window in all {
        match apart.last_mut().filter(|last| window.start <= last.end) {
            Some(last) => last.end = last.end.max(window.end),
            None => apart.push(window),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;
    use deltaworks_core::windows::Instant;

    #[test]
    fn windows_that_touch_or_hold_each_other_become_one() {
        let window = |(start, end)| Window { start: Instant(start), end: Instant(end) };
        let apart = |windows: &[(i64, i64)]| -> Vec<(i64, i64)> {
            super::apart(windows.iter().copied().map(window)).iter().map(|w| (w.start.0, w.end.0)).collect()
        };
        assert_eq!(apart(&[]), []);
        assert_eq!(apart(&[(5, 9), (0, 3)]), [(0, 3), (5, 9)]);
        assert_eq!(apart(&[(3, 9), (0, 3), (4, 5)]), [(0, 9)]);
    }
}

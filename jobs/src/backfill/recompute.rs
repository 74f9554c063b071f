//! Goes on with a recompute: the units of its plan that are left, portion by portion, by batch's own rounds.
//!
//! Each portion reads raw as it is then. What batch finds moved meanwhile is looked at again after the others; what raw no
//! longer keeps is named at the end, once all others are done.
//!
//! Invariants: Q1 no unit is computed that was computed since the plan was frozen; Q2 memory is that of one portion and
//! of the plan, whatever the interval; Q3 a backfill is finished once no unit of it is left, and not before.

use super::freeze::{Spec, definition_of, job_of, named, no_longer_kept};
use super::resume::{Figures, UnitFigures};
use super::state::{self, Backfill, Watch, cancelled};
use super::watched::Resumed;
use crate::batch::{
    BatchOptions, BatchReport, Chosen, Context, Input, Job, Permit, Run, UnitCounts, batch_name, ledger_of,
};
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::Lake;
use deltaworks_core::backfill::{BackfillId, Event, FrozenUnit, Kind, State, Turn, left, portions};
use deltaworks_core::units::{Entry, Fingerprint, Unit};
use std::collections::{BTreeMap, BTreeSet};

/// Units of a portion, unless one date alone has more.
const PORTION_UNITS: usize = 96;
/// Times that what is left is gone through, where other runs keep coming in between.
const PASSES_MAX: usize = 4;

/// What has been found out while it goes on.
#[derive(Default)]
struct Progress {
    batch: BatchReport,
    /// Done, or in need of nothing.
    settled: BTreeSet<Unit>,
    set_aside: Chosen,
}

impl Resumed<'_> {
    /// Goes on; the figures say how far it got, also if it failed. `true` where it was told to end.
    ///
    /// # Errors
    /// What ends a run of batch; [`Class::User`] if the definition changed or the backfill was given up;
    /// [`Class::InputLost`] if raw no longer keeps the dates of some units: the others are done.
    pub async fn recompute(&self, figures: &mut Figures) -> Result<bool> {
        let spec = Spec::of(self.backfill)?;
        let plan: Vec<FrozenUnit> = state::items(self.lake, self.backfill).await?;
        let mut progress = Progress::default();
        figures.units.total = plan.len() as u64;
        let ended = self.all(&spec, &plan, figures, &mut progress).await;
        self.count(&spec, &plan, figures, &progress).await;
        let published = figures.units.changed + figures.units.unchanged > 0;
        ended.map_err(|error| match error.class {
            Class::Outside if published => Error { class: Class::Partly, ..error },
            _ => error,
        })
    }

    /// Counts what was done, also where it failed.
    async fn count(&self, spec: &Spec, plan: &[FrozenUnit], figures: &mut Figures, progress: &Progress) {
        let BatchReport { units, windows, rows, late, duplicates, .. } = progress.batch;
        let left = match left_of(self.lake, self.backfill, spec, plan).await {
            Ok(left) => left.iter().filter(|frozen| !progress.settled.contains(&frozen.unit)).count() as u64,
            Err(_) => figures.units.total.saturating_sub(figures.units.done + units.changed + units.unchanged),
        };
        let UnitFigures { total, done, .. } = figures.units;
        let UnitCounts { computed, changed, unchanged, failed } = units;
        figures.units = UnitFigures { total, done, computed, changed, unchanged, failed, left };
        (figures.windows, figures.rows, figures.late, figures.duplicates) = (windows, rows, late, duplicates);
        figures.beyond_retention = progress.set_aside.beyond_retention.iter().map(ToString::to_string).collect();
    }

    async fn all(
        &self,
        spec: &Spec,
        plan: &[FrozenUnit],
        figures: &mut Figures,
        progress: &mut Progress,
    ) -> Result<bool> {
        let mut todo = left_of(self.lake, self.backfill, spec, plan).await?;
        figures.units.done = figures.units.total - todo.len() as u64;
        if todo.is_empty() {
            return self.finish().await;
        }
        let job = job_of(self.settings, &self.backfill.target, self.options.parallel).await?;
        self.judge_definition(&job, spec.definition)?;
        let options = spec.batch(self.options.run_id.clone(), self.backfill.target.clone(), self.options.parallel);
        let watch = Watch::new(self.lake, self.backfill.id).await?;
        let context = self.context(&options, &watch);
        for _ in 0..PASSES_MAX {
            progress.set_aside = Chosen::default();
            if !self.pass(&context, &job, spec, &todo, progress).await? {
                return if watch.is_cancelled().await { Err(cancelled(self.backfill.id)) } else { Ok(true) };
            }
            if progress.set_aside.moved.is_empty() {
                self.judge_rest(&progress.set_aside)?;
                return self.finish().await;
            }
            let still = left_of(self.lake, self.backfill, spec, plan).await?;
            todo = still.into_iter().filter(|frozen| !progress.settled.contains(&frozen.unit)).collect();
        }
        let moved: Vec<&Unit> = progress.set_aside.moved.iter().collect();
        let message = format!("another run keeps publishing {}", named(&moved));
        Err(Error::new(Stage::Backfill, Class::Overlap, message).hint("go on when it has ended"))
    }

    /// Goes through what is left once; `false` if it was told to end.
    async fn pass(
        &self,
        context: &Context<'_>,
        job: &Job,
        spec: &Spec,
        todo: &[&FrozenUnit],
        progress: &mut Progress,
    ) -> Result<bool> {
        let mut input: Option<(Input, usize)> = None;
        for portion in portions(todo, spec.backwards, PORTION_UNITS) {
            if self.stop.is_cancelled() || !context.may_go_on().await? {
                return Ok(false);
            }
            // portions of single dates share what was gathered
            let (gathered, units) = match input.take() {
                Some((gathered, units)) if units + portion.len() <= PORTION_UNITS => (gathered, units),
                _ => (self.gather(job).await?, 0),
            };
            let ledger = ledger(self.lake, &self.backfill.target).await?;
            let is_left = |frozen: &&&FrozenUnit| !frozen.is_done(spec.definition, ledger.get(&frozen.unit).copied());
            let units_left: BTreeSet<Unit> = portion.iter().filter(is_left).map(|frozen| frozen.unit.clone()).collect();
            let chosen = context.chosen(job, &gathered, &units_left, &mut progress.batch).await?;
            if progress.batch.stopped {
                return Ok(false);
            }
            progress.take(portion, chosen);
            faults::point("after_backfill_portion");
            let (done, of) = (progress.settled.len(), todo.len());
            tracing::info!(backfill = %self.backfill.id, done, of, "units");
            input = Some((gathered, units + portion.len()));
        }
        Ok(true)
    }

    fn context<'c>(&'c self, options: &'c BatchOptions, watch: &'c Watch) -> Context<'c> {
        Context {
            lake: self.lake.clone(),
            settings: self.settings,
            options,
            run: Run::new(self.options.run_id.clone()),
            meter: self.meter,
            clock: self.clock,
            stop: self.stop,
            permit: Some(watch as &dyn Permit),
        }
    }

    async fn gather(&self, job: &Job) -> Result<Input> {
        Input::gather(self.lake, &job.pipeline, None).await?.ok_or_else(|| {
            let message = format!("table `raw.{}` is gone", job.pipeline.name);
            Error::new(Stage::Backfill, Class::InputLost, message)
                .hint("land the topic again, or give the backfill up with `deltaworks backfill cancel`")
        })
    }

    fn judge_definition(&self, job: &Job, frozen: Fingerprint) -> Result<()> {
        if definition_of(job) == Some(frozen) {
            return Ok(());
        }
        let Backfill { id, target, .. } = self.backfill;
        let message = format!("aggregate `{target}` means something else than when backfill `{id}` was created");
        Err(Error::new(Stage::Backfill, Class::User, message)
            .hint(format!("bring its definition back, or `deltaworks backfill cancel {id}` and create another one")))
    }

    /// What is neither done nor can be.
    fn judge_rest(&self, rest: &Chosen) -> Result<()> {
        no_longer_kept(&rest.beyond_retention.iter().collect::<Vec<_>>(), Some(self.backfill))?;
        if rest.waiting.is_empty() {
            return Ok(());
        }
        let message = format!("raw is not complete for {}", named(&rest.waiting.iter().collect::<Vec<_>>()));
        Err(Error::new(Stage::Backfill, Class::InputNotYet, message)
            .hint(format!("run `stream` further, then `{}`", self.backfill.resume_command())))
    }

    async fn finish(&self) -> Result<bool> {
        faults::point("before_backfill_finish");
        let run = Run::new(self.options.run_id.clone());
        let id = self.backfill.id;
        match state::end(self.lake, id, Event::Finished, &run, self.clock.now_ms()).await? {
            Turn::Ended(State::Cancelled) => Err(cancelled(id)),
            Turn::Record | Turn::Ended(_) => Ok(false),
        }
    }
}

impl Progress {
    fn take(&mut self, portion: &[&FrozenUnit], chosen: Chosen) {
        let Chosen { moved, beyond_retention, waiting } = chosen;
        let is_settled = |unit: &&Unit| [&moved, &beyond_retention, &waiting].iter().all(|set| !set.contains(*unit));
        self.settled.extend(portion.iter().map(|frozen| &frozen.unit).filter(is_settled).cloned());
        self.set_aside.moved.extend(moved);
        self.set_aside.beyond_retention.extend(beyond_retention);
        self.set_aside.waiting.extend(waiting);
    }
}

/// The units of a plan that are left, as the ledger of the batch table tells.
///
/// # Errors
/// The table cannot be read, or its ledger is broken.
pub async fn left_of<'p>(
    lake: &Lake,
    backfill: &Backfill,
    spec: &Spec,
    plan: &'p [FrozenUnit],
) -> Result<Vec<&'p FrozenUnit>> {
    Ok(left(plan, spec.definition, &ledger(lake, &backfill.target).await?))
}

/// The units of an aggregate that open backfills have still to compute, each with one of these.
///
/// # Errors
/// A table cannot be read, or an open backfill is of another version.
pub async fn units_left(lake: &Lake, aggregate: &str) -> Result<BTreeMap<Unit, BackfillId>> {
    let mut found = BTreeMap::new();
    let is_open = |b: &Backfill| b.kind == Kind::Recompute && b.state == State::Open && b.target == aggregate;
    for backfill in state::all(lake).await?.into_iter().filter(is_open) {
        let plan: Vec<FrozenUnit> = state::items(lake, &backfill).await?;
        let left = left_of(lake, &backfill, &Spec::of(&backfill)?, &plan).await?;
        found.extend(left.into_iter().map(|frozen| (frozen.unit.clone(), backfill.id)));
    }
    Ok(found)
}

async fn ledger(lake: &Lake, aggregate: &str) -> Result<BTreeMap<Unit, Entry>> {
    let table = lake.open_table(&batch_name(aggregate)).await?;
    table.map_or_else(|| Ok(BTreeMap::new()), |table| ledger_of(aggregate, &table))
}

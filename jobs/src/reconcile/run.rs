//! One run: for each aggregate gather, then unit by unit.
//!
//! Invariants: R1 a run that fails or is interrupted keeps what it has committed, and the next one goes on from
//! there; R2 a run that finds nothing new commits nothing.

use super::drift::Drifts;
use super::gather::{Facts, Wanted};
use super::provisional::SpeedUse;
use super::table::Served;
use super::unit::Pass;
use crate::batch::{DEDUP_SHARE, Run, jobs_of};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use crate::project::settings::Settings;
use deltaworks_core::drift::Limit;
use deltaworks_core::served::{FromBatch, FromSpeed, Reach, settled_before};
use deltaworks_core::units::Unit;
use deltaworks_core::windows::{Extent, Granularity, Instant};
use jiff::civil::Date;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What a run is asked for.
#[derive(Debug, Clone)]
pub struct ReconcileOptions {
    /// Id of the run.
    pub run_id: String,
    /// Aggregates; empty for all.
    pub aggregates: Vec<String>,
    /// Threads' worth of work at a time.
    pub parallel: usize,
    /// Publish units whatever their drift.
    pub accept_drift: bool,
}

/// What became of units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UnitCounts {
    /// Given new rows, or a new covered bound.
    pub reconciled: u64,
    /// Left as they are.
    pub unchanged: u64,
}

/// Rows (one per window and key) that were written because something of them is new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WindowCounts {
    /// Of hours that were refreshed.
    pub provisional: u64,
    /// Newly final.
    #[serde(rename = "final")]
    pub finals: u64,
    /// Newly restated.
    pub restated: u64,
}

/// What was found of the way of windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DriftCounts {
    /// Rows (one per window and key) whose value moved.
    pub moved: u64,
    /// Values that no step explains.
    pub unexplained: u64,
    /// Units of whose way nothing can be said.
    pub unknown_units: u64,
    /// Units that a limit holds back.
    pub held_units: u64,
}

/// What a run did.
#[derive(Debug, Default, Serialize)]
pub struct ReconcileReport {
    /// Units.
    pub units: UnitCounts,
    /// Rows.
    pub windows: WindowCounts,
    /// How windows came to their values.
    pub drift: DriftCounts,
    /// How provisional windows did, by aggregate.
    pub speed: BTreeMap<String, SpeedUse>,
    /// Times that raw was read again with more buckets of keys, because memory was too small.
    #[serde(skip)]
    pub begun_again: u64,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// The aggregates of a run, judged once.
#[derive(Debug)]
pub(super) struct Reconciler {
    wanted: Vec<Wanted>,
    run: Run,
    accept_drift: bool,
}

/// A unit of the plan, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedUnit {
    /// The unit.
    pub unit: String,
    /// The generation to take over from batch, if that is new.
    pub generation: Option<i64>,
    /// Up to where its windows will be covered.
    pub covered: Option<Instant>,
    /// Whether its open windows are looked at.
    pub provisional: bool,
}

impl UnitCounts {
    pub(super) const fn add(&mut self, other: Self) {
        self.reconciled += other.reconciled;
        self.unchanged += other.unchanged;
    }
}

impl WindowCounts {
    pub(super) const fn add(&mut self, other: Self) {
        self.provisional += other.provisional;
        self.finals += other.finals;
        self.restated += other.restated;
    }
}

impl DriftCounts {
    pub(super) const fn add(&mut self, other: Self) {
        self.moved += other.moved;
        self.unexplained += other.unexplained;
        self.unknown_units += other.unknown_units;
        self.held_units += other.held_units;
    }
}

impl ReconcileReport {
    /// Whether nothing was new.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.error.is_none() && self.units.reconciled == 0
    }
}

/// Reconciles; the report says how far it got, also if it failed.
pub async fn reconcile(settings: &Settings, options: &ReconcileOptions, stop: &CancellationToken) -> ReconcileReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => run_on(&lake, settings, options, stop).await,
        Err(error) => ReconcileReport { error: Some(error), ..ReconcileReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn run_on(
    lake: &Lake,
    settings: &Settings,
    options: &ReconcileOptions,
    stop: &CancellationToken,
) -> ReconcileReport {
    match Reconciler::new(settings, options).await {
        Ok(reconciler) => reconciler.pass(lake, stop).await,
        Err(error) => ReconcileReport { error: Some(error), ..ReconcileReport::default() },
    }
}

impl Reconciler {
    /// Reads and judges the aggregates.
    ///
    /// # Errors
    /// [`Class::User`] if a name is unknown or an aggregate is wrong.
    pub(super) async fn new(settings: &Settings, options: &ReconcileOptions) -> Result<Self> {
        let (run, accept_drift) = (Run::new(options.run_id.clone()), options.accept_drift);
        Ok(Self { wanted: wanted(settings, options).await?, run, accept_drift })
    }

    /// Reconciles what there is now; the report says how far it got, also if it failed.
    pub(super) async fn pass(&self, lake: &Lake, stop: &CancellationToken) -> ReconcileReport {
        let mut report = ReconcileReport::default();
        let mut held = Vec::new();
        for wanted in &self.wanted {
            if let Err(error) = self.one(lake, wanted, stop, &mut report, &mut held).await {
                let partly = report.units.reconciled > 0 && error.class == Class::Outside;
                let class = if partly { Class::Partly } else { error.class };
                report.error = Some(Error { class, ..error });
            }
            if report.stopped || report.error.is_some() {
                break;
            }
        }
        report.drift.held_units = held.len() as u64;
        if report.error.is_none() {
            report.error = over_limit(&held);
        }
        report
    }

    /// One aggregate; units that a limit holds back go to `held`.
    async fn one(
        &self,
        lake: &Lake,
        wanted: &Wanted,
        stop: &CancellationToken,
        report: &mut ReconcileReport,
        held: &mut Vec<String>,
    ) -> Result<()> {
        let mut facts = Facts::gather(lake, wanted).await?;
        if !facts.units.is_empty() {
            let (opened, published) = (facts.served.take(), facts.published());
            facts.served = Some(Served::ensure(opened, lake, &wanted.definition, &wanted.grain, published).await?);
        }
        let groups = groups(&facts.units);
        let limit = if self.accept_drift { Limit { unexplained: u64::MAX, size: None } } else { wanted.limit };
        let mut pass = Pass::new(lake, wanted, &mut facts, &self.run, limit);
        let mut ended = Ok(());
        for group in &groups {
            if stop.is_cancelled() {
                report.stopped = true;
                break;
            }
            ended = pass.group(group).await;
            if ended.is_err() {
                break;
            }
        }
        let Pass { units, windows, drift, held: held_here, drifts, .. } = pass;
        report.units.add(units);
        report.windows.add(windows);
        report.drift.add(drift);
        held.extend(held_here);
        report.begun_again += drifts.as_ref().map_or(0, Drifts::begun_again);
        report.speed.insert(wanted.definition.name.clone(), facts.speed_use);
        ended?;
        if let Some(drifts) = &drifts {
            later(drifts.end().await);
        }
        if let Some(served) = &facts.served {
            later(served.end().await);
        }
        if !report.stopped {
            let_go(wanted, &mut facts, &self.run).await?;
        }
        Ok(())
    }
}

/// The error of units that are held back: the first of them.
fn over_limit(held: &[String]) -> Option<Error> {
    let first = held.first()?;
    let message = match held.len() {
        1 => format!("{first}; the unit stays as it is served"),
        all => format!("{first}; {all} units stay as they are served"),
    };
    let hint = "`drift show` says what moved; `reconcile --accept-drift` publishes it all the same";
    Some(Error::new(Stage::Reconcile, Class::Limit, message).hint(hint))
}

/// Plans, and does nothing.
///
/// # Errors
/// An aggregate is wrong, or a table cannot be read.
pub async fn plan_only(settings: &Settings, options: &ReconcileOptions) -> Result<Vec<PlannedUnit>> {
    let lake = Lake::open(&settings.lake)?;
    let mut units = Vec::new();
    for wanted in wanted(settings, options).await? {
        let facts = Facts::gather(&lake, &wanted).await?;
        for (unit, extent) in &facts.units {
            let plan = facts.plan(unit, extent).await?;
            if !plan.is_idle() {
                let generation = if let FromBatch::Take(taken) = plan.batch { Some(taken.generation) } else { None };
                let provisional = matches!(plan.speed, FromSpeed::Take(_));
                units.push(PlannedUnit { unit: unit.to_string(), generation, covered: plan.covered, provisional });
            }
        }
    }
    Ok(units)
}

/// The aggregates that are asked for, judged.
///
/// # Errors
/// [`Class::User`] if a name is unknown or an aggregate is wrong.
pub(super) async fn wanted(settings: &Settings, options: &ReconcileOptions) -> Result<Vec<Wanted>> {
    let jobs = jobs_of(settings, &options.aggregates, options.parallel, Stage::Reconcile).await?;
    let of_job = jobs.into_iter().flat_map(|job| {
        let (pipeline, engine) = (job.pipeline, job.engine);
        job.aggregates.into_iter().map(move |aggregate| Wanted {
            pipeline: Arc::clone(&pipeline),
            grain: aggregate.file.grain.clone(),
            speed: aggregate.file.speed,
            limit: aggregate.file.drift_limit,
            definition: Arc::new(aggregate.definition),
            engine: Arc::clone(&engine),
            parallel: options.parallel,
            memory_bytes: settings.memory_bytes / DEDUP_SHARE,
        })
    });
    Ok(of_job.collect())
}

/// Upkeep of a log that failed is tried again by the next run.
fn later(ended: Result<()>) {
    if let Err(error) = ended {
        tracing::warn!(%error, "log upkeep will be tried again");
    }
}

/// Units, with their windows.
type Group = Vec<(Unit, Extent)>;

/// Units whose states are read together: those of one window date, but for weeks and months.
fn groups(units: &BTreeMap<Unit, Extent>) -> Vec<Group> {
    let mut groups: BTreeMap<(Date, Option<Granularity>), Group> = BTreeMap::new();
    for (unit, extent) in units {
        let alone = matches!(unit.granularity, Granularity::Week | Granularity::Month);
        let key = (unit.window_date, alone.then_some(unit.granularity));
        groups.entry(key).or_default().push((unit.clone(), extent.clone()));
    }
    groups.into_values().collect()
}

/// Lets go of the states of windows that are all final. A failure is not the run's: the next one does it.
async fn let_go(wanted: &Wanted, facts: &mut Facts, run: &Run) -> Result<()> {
    let (Some(served), Some(_)) = (&facts.served, &facts.speed) else { return Ok(()) };
    let ledger = served.ledger()?;
    let reach = facts.units.iter().map(|(unit, extent)| Reach {
        granularity: unit.granularity,
        extent,
        covered: ledger.get(unit).and_then(|entry| entry.covered()),
    });
    let settled = settled_before(&wanted.definition.granularities, reach);
    if let (Some(settled), Some(speed)) = (settled, &mut facts.speed)
        && let Err(error) = speed.table().drop_final(settled, run).await
    {
        tracing::warn!(aggregate = %wanted.definition.name, %error, "states of final windows stay for now");
    }
    Ok(())
}

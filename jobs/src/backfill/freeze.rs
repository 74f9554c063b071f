//! The plan of a recompute: which units of an interval call for it, and what the ledger says of them now.
//!
//! Facts are gathered and judged as by a run of batch, but that a changed definition reaches back however long. The plan is
//! judged whole: where raw no longer keeps what a unit is made of, or is not complete for the interval, nothing is created.
//!
//! Invariant Z1: nothing is written until the plan is judged, and then all of it at once.

use super::state::{self, Backfill, New};
use crate::batch::{
    BatchOptions, Input, Job, Planned, PlannedUnit, Run, Summary, definition_id, guard, jobs_of, judge_granularities,
    plan_units, shown, summary,
};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use crate::project::settings::Settings;
use deltaworks_core::backfill::{BackfillId, FrozenUnit, Kind, put_in_order};
use deltaworks_core::units::{Fingerprint, Interval, Plan as UnitPlan, Reason, Refusal, Unit};
use deltaworks_core::windows::{Granularity, Instant};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Units that a message names at most.
const NAMES_MAX: usize = 20;

/// What a recompute is asked for.
#[derive(Debug, Clone)]
pub struct RecomputeOptions {
    /// Id of the run.
    pub run_id: String,
    /// The aggregate.
    pub aggregate: String,
    /// Only windows that end after this.
    pub from: Instant,
    /// Only windows that end by this; all of them must be complete.
    pub to: Instant,
    /// Granularities; empty for all.
    pub granularities: Vec<Granularity>,
    /// Compute units whatever the facts.
    pub forced: bool,
    /// The newest first.
    pub backwards: bool,
    /// Files read, and threads' worth of work, at a time.
    pub parallel: usize,
}

/// What a recompute was made to do, as `ops.backfills` keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Only windows that end after this.
    pub interval_start: Instant,
    /// Only windows that end by this.
    pub interval_end: Instant,
    /// Granularities; empty for all.
    pub granularities: Vec<Granularity>,
    /// Whatever the facts.
    pub forced: bool,
    /// The newest first.
    pub backwards: bool,
    /// The definition that it was created for.
    pub definition: Fingerprint,
}

/// A plan, as it is shown.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The open backfill of the same words, which would be gone on with.
    pub continues: Option<BackfillId>,
    /// The units to compute, and those that cannot be.
    pub units: Vec<PlannedUnit>,
    /// Units left as they are.
    pub left: Summary,
}

/// What was gathered for a plan.
struct Gathered {
    job: Job,
    spec: Spec,
    batch: BatchOptions,
    input: Option<Input>,
    planned: Vec<Planned>,
}

/// Plans, and does nothing.
///
/// # Errors
/// An option or the aggregate is wrong, or a table cannot be read.
pub async fn plan(settings: &Settings, options: &RecomputeOptions) -> Result<Plan> {
    plan_on(&Lake::open(&settings.lake)?, settings, options).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`plan`].
pub async fn plan_on(lake: &Lake, settings: &Settings, options: &RecomputeOptions) -> Result<Plan> {
    let gathered = gather(lake, settings, options).await?;
    let continues = state::open_one(lake, Kind::Recompute, &options.aggregate, &gathered.spec.json()?).await?;
    let is_work = |p: &&Planned| matches!(p.plan, UnitPlan::Recompute { .. } | UnitPlan::Refused { .. });
    let work: Vec<Planned> = gathered.planned.iter().filter(is_work).cloned().collect();
    Ok(Plan {
        continues: continues.map(|backfill| backfill.id),
        units: gathered.input.map_or_else(Vec::new, |input| shown(&input, &work)),
        left: summary(&gathered.job.aggregates, &gathered.planned),
    })
}

/// Creates a recompute, or finds the open one of the same words; `None` where no unit calls for it.
///
/// # Errors
/// An option or the aggregate is wrong; raw has no longer, or not yet, what units are made of: none is created then.
pub async fn create(settings: &Settings, options: &RecomputeOptions, clock: &Clock) -> Result<Option<Backfill>> {
    create_on(&Lake::open(&settings.lake)?, settings, options, clock).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`create`].
pub async fn create_on(
    lake: &Lake,
    settings: &Settings,
    options: &RecomputeOptions,
    clock: &Clock,
) -> Result<Option<Backfill>> {
    let gathered = gather(lake, settings, options).await?;
    let spec = gathered.spec.json()?;
    if let Some(open) = state::open_one(lake, Kind::Recompute, &options.aggregate, &spec).await? {
        return Ok(Some(open));
    }
    let Gathered { job, batch, input, planned, .. } = gathered;
    let gone = planned.iter().filter(|p| is_asked_for_and_gone(p)).map(|p| &p.unit);
    no_longer_kept(&gone.collect::<Vec<_>>(), None)?;
    guard(input.as_ref(), &job.aggregates, &planned, &batch)?;
    let left = summary(&job.aggregates, &planned);
    let work = planned.into_iter().filter(|p| matches!(p.plan, UnitPlan::Recompute { .. }));
    let mut items: Vec<FrozenUnit> = work.map(|p| FrozenUnit::of(p.unit, p.entry)).collect();
    if items.is_empty() {
        left.tell(&job.pipeline.name);
        return Ok(None);
    }
    put_in_order(&mut items, options.backwards);
    let new = New { kind: Kind::Recompute, target: options.aggregate.clone(), spec, items, judged_against: None };
    state::create(lake, &new, &Run::new(options.run_id.clone()), clock.now_ms()).await?.by_itself().map(Some)
}

impl Spec {
    /// What the rows of a backfill say.
    ///
    /// # Errors
    /// They were written by another version.
    pub fn of(backfill: &Backfill) -> Result<Self> {
        let message = || format!("what backfill `{}` was made to do cannot be read", backfill.id);
        let unknown = |e| Error::new(Stage::Backfill, Class::Internal, message()).because(e);
        serde_json::from_value(backfill.spec.clone()).map_err(unknown)
    }

    fn json(&self) -> Result<Value> {
        let failed = |e| Error::new(Stage::Backfill, Class::Internal, "options cannot be spelled").because(e);
        serde_json::to_value(self).map_err(failed)
    }

    /// What batch is asked for, to do the same.
    #[must_use]
    pub fn batch(&self, run_id: String, aggregate: String, parallel: usize) -> BatchOptions {
        BatchOptions {
            run_id,
            aggregates: vec![aggregate],
            interval: Interval { from: Some(self.interval_start), to: Some(self.interval_end) },
            forced: self.forced,
            any_age: true,
            granularities: self.granularities.clone(),
            parallel,
            input_version: None,
            quality_first: false,
        }
    }
}

/// The one aggregate of this name, with its definition.
///
/// # Errors
/// [`Class::User`] if there is none, or its SELECT is wrong.
pub async fn job_of(settings: &Settings, aggregate: &str, parallel: usize) -> Result<Job> {
    let jobs = jobs_of(settings, &[aggregate.to_owned()], parallel, Stage::Backfill).await?;
    jobs.into_iter().next().ok_or_else(|| {
        Error::new(Stage::Backfill, Class::Internal, format!("aggregate `{aggregate}` was found and is gone"))
    })
}

/// The definition of the one aggregate of a job.
pub fn definition_of(job: &Job) -> Option<Fingerprint> {
    job.aggregates.first().map(|aggregate| definition_id(&aggregate.definition))
}

/// An error that names units whose dates raw no longer keeps, if there are any.
///
/// # Errors
/// [`Class::InputLost`] if there are.
pub fn no_longer_kept(units: &[&Unit], backfill: Option<&Backfill>) -> Result<()> {
    if units.is_empty() {
        return Ok(());
    }
    let hint = match backfill {
        None => "bound the interval to what raw keeps, or bring the dates back from an archive first".to_owned(),
        Some(backfill) => format!(
            "the others are done; bring the dates back from an archive and go on with `{}`, or give these up with \
             `deltaworks backfill cancel {}`",
            backfill.resume_command(),
            backfill.id
        ),
    };
    let message = format!("raw no longer keeps the dates of {}", named(units));
    Err(Error::new(Stage::Backfill, Class::InputLost, message).hint(hint))
}

/// How many units, and which.
#[must_use]
pub fn named(units: &[&Unit]) -> String {
    let names: Vec<String> = units.iter().take(NAMES_MAX).map(|unit| format!("`{unit}`")).collect();
    let more = units.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{} units: {}{more}", units.len(), names.join(", "))
}

async fn gather(lake: &Lake, settings: &Settings, options: &RecomputeOptions) -> Result<Gathered> {
    let job = job_of(settings, &options.aggregate, options.parallel).await?;
    judge_granularities(&options.granularities, job.aggregates.iter().map(|a| &a.definition))?;
    let lost = || Error::new(Stage::Backfill, Class::Internal, "a job without an aggregate");
    let spec = Spec {
        interval_start: options.from,
        interval_end: options.to,
        granularities: options.granularities.clone(),
        forced: options.forced,
        backwards: options.backwards,
        definition: definition_of(&job).ok_or_else(lost)?,
    };
    let batch = spec.batch(options.run_id.clone(), options.aggregate.clone(), options.parallel);
    let input = Input::gather(lake, &job.pipeline, None).await?;
    let planned = match &input {
        Some(input) => plan_units(lake, input, &job.aggregates, &batch, None).await?,
        None => Vec::new(),
    };
    Ok(Gathered { job, spec, batch, input, planned })
}

/// Whether a unit that is asked for cannot be computed any more. Late rows of a date that raw no longer keeps ask for
/// nothing: they are reported, as by batch.
fn is_asked_for_and_gone(p: &Planned) -> bool {
    let asks = |reason: &Reason| matches!(reason, Reason::Forced | Reason::DefinitionChanged);
    matches!(&p.plan, UnitPlan::Refused { why: Refusal::BeyondRetention { reasons, .. } } if reasons.iter().any(asks))
}

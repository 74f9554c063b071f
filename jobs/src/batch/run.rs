//! One run: for each pipeline gather, plan, compute, publish; what another run has published meanwhile is
//! planned once more. How a plan is carried out is in `round.rs`.
//!
//! Invariant: R1 nothing is published if any planned unit cannot be computed right.

use super::input::Input;
use super::ledger::{RunRow, record_runs};
use super::meter::Meter;
use super::plan::{Planned, PlannedUnit, Summary, guard, plan_units, shown, summary};
use super::publish::Run;
use super::round::{Context, Done};
use super::select::{Job, jobs};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{Lake, TableName};
use crate::land::tables::raw_name;
use crate::project::settings::{Pipeline, Settings};
use crate::quality::Rulings;
use deltaworks_core::units::{Interval, Plan, Refusal, Unit};
use deltaworks_core::windows::Granularity;
use jiff::civil::Date;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Times that units which another run was first at are planned.
const ROUNDS_MAX: usize = 4;
/// Share of the memory budget for ids.
pub(crate) const DEDUP_SHARE: usize = 2;

/// What a run is asked for.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// Id of the run.
    pub run_id: String,
    /// Aggregates; empty for all.
    pub aggregates: Vec<String>,
    /// The interval `(from, to]` that ends of windows lie in.
    pub interval: Interval,
    /// Compute units whatever the facts.
    pub forced: bool,
    /// Redo units of a changed definition however long ago they ended.
    pub any_age: bool,
    /// Granularities; empty for all.
    pub granularities: Vec<Granularity>,
    /// Files read, and threads' worth of work, at a time.
    pub parallel: usize,
    /// The version of the raw table to read; `None` for the newest.
    pub input_version: Option<i64>,
    /// Measure the contracts' rules first, and hold units back that are made of a date that breaks one.
    pub quality_first: bool,
}

/// What became of the units that something was done with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UnitCounts {
    /// Computed.
    pub computed: u64,
    /// Published with new rows.
    pub changed: u64,
    /// Given a new pin, because their rows are what they were.
    pub unchanged: u64,
    /// Planned, and neither of these.
    pub failed: u64,
}

/// A unit that was held back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The unit.
    pub unit: String,
    /// An event date of it.
    pub date: Date,
    /// A rule that the date breaks.
    pub rule: String,
}

/// What a run did.
#[derive(Debug, Default, Serialize)]
pub struct BatchReport {
    /// Units.
    pub units: UnitCounts,
    /// Units left as they are.
    pub left: Summary,
    /// Windows with events, of the units computed.
    pub windows: u64,
    /// Raw rows read, each once.
    pub rows: u64,
    /// Late ones among them.
    pub late: u64,
    /// Copies among them.
    pub duplicates: u64,
    /// Units that were held back because a date of theirs breaks a rule, and which.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Held>,
    /// Rows read, by raw table.
    #[serde(skip)]
    pub rows_of: BTreeMap<TableName, u64>,
    /// What became of the rules that were measured first.
    #[serde(skip)]
    pub rulings: Rulings,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

impl BatchReport {
    /// Whether no unit needed anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.error.is_none() && self.units == UnitCounts::default()
    }
}

/// Plans, and does nothing.
///
/// # Errors
/// An aggregate or option is wrong, or a table cannot be read.
pub async fn plan_only(settings: &Settings, options: &BatchOptions) -> Result<(Vec<PlannedUnit>, Summary)> {
    let lake = Lake::open(&settings.lake)?;
    let (mut units, mut left) = (Vec::new(), Summary::default());
    for job in jobs(settings, options).await? {
        let Some(input) = Input::gather(&lake, &job.pipeline, options.input_version).await? else { continue };
        let planned = plan_units(&lake, &input, &job.aggregates, options, None).await?;
        units.extend(shown(&input, &planned));
        left.add(summary(&job.aggregates, &planned));
    }
    Ok((units, left))
}

/// Runs; the report says how far it got, also if it failed.
pub async fn batch(
    settings: &Settings,
    options: &BatchOptions,
    meter: &Arc<Meter>,
    clock: &Clock,
    stop: &CancellationToken,
) -> BatchReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => batch_on(&lake, settings, options, meter, clock, stop).await,
        Err(error) => BatchReport { error: Some(error), ..BatchReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn batch_on(
    lake: &Lake,
    settings: &Settings,
    options: &BatchOptions,
    meter: &Arc<Meter>,
    clock: &Clock,
    stop: &CancellationToken,
) -> BatchReport {
    let mut report = BatchReport::default();
    let run = Run::new(options.run_id.clone());
    let context = Context { lake: lake.clone(), settings, options, run, meter, clock, stop, permit: None };
    if let Err(error) = context.run(&mut report).await {
        let published = report.units.changed + report.units.unchanged > 0;
        let class = if published && error.class == Class::Outside { Class::Partly } else { error.class };
        report.error = Some(Error { class, ..error });
    }
    report
}

impl Context<'_> {
    async fn run(&self, report: &mut BatchReport) -> Result<()> {
        for job in jobs(self.settings, self.options).await? {
            let began_ms = self.clock.now_ms();
            let mut done = Done::default();
            let ended = self.pipeline(&job, report, &mut done).await;
            let verdict = verdict(&ended, report.stopped);
            if done.input.is_some() {
                report.rows_of.insert(raw_name(&job.pipeline), done.read.places.rows);
            }
            let recorded = self.record(&job.pipeline, done, began_ms, verdict).await;
            ended?;
            recorded?;
            if report.stopped {
                break;
            }
        }
        let Some(Held { unit, date, rule }) = report.held.first() else { return Ok(()) };
        let message = format!(
            "{} units are held back, such as `{unit}`: {date} breaks the quality rule `{rule}`",
            report.held.len()
        );
        let hint = "`deltaworks query \"SELECT * FROM ops.quality WHERE verdict = 'breached'\"` says by how much; mend the \
                    data or the rule, or run without --before-publish";
        Err(Error::new(Stage::Batch, Class::Limit, message).hint(hint))
    }

    /// Brings the units of one pipeline up to date.
    async fn pipeline(&self, job: &Job, report: &mut BatchReport, done: &mut Done) -> Result<()> {
        let (mut again, mut first): (Option<BTreeSet<Unit>>, Option<Unit>) = (None, None);
        for _ in 0..ROUNDS_MAX {
            let input = Input::gather(&self.lake, &job.pipeline, self.options.input_version).await?;
            let Some(input) = input else {
                return guard(None, &job.aggregates, &[], self.options);
            };
            let planned = plan_units(&self.lake, &input, &job.aggregates, self.options, again.as_ref()).await?;
            if let Some(unit) = overtaken(&planned, self.options) {
                tracing::info!(%unit, "another run has computed it from a later version meanwhile; plan again");
                first = Some(unit);
                continue;
            }
            guard(Some(&input), &job.aggregates, &planned, self.options)?;
            if again.is_none() {
                let left = summary(&job.aggregates, &planned);
                left.tell(&job.pipeline.name);
                report.left.add(left);
            }
            let overlapped = self.round(&input, job, &planned, report, done).await?;
            if overlapped.is_empty() || report.stopped {
                return Ok(());
            }
            tracing::info!(pipeline = %job.pipeline.name, units = overlapped.len(), "another run was first; plan again");
            first = overlapped.first().cloned();
            again = Some(overlapped);
        }
        report.units.failed += again.as_ref().map_or(0, BTreeSet::len) as u64;
        let first = first.as_ref().map(ToString::to_string).unwrap_or_default();
        let message = format!("another run keeps publishing the same units, such as `{first}`");
        Err(Error::new(Stage::Batch, Class::Overlap, message).hint("schedule one `batch` at a time"))
    }

    /// Records what was done; a pipeline that needed nothing leaves no row.
    pub(super) async fn record(&self, pipeline: &Pipeline, done: Done, began_ms: i64, verdict: String) -> Result<()> {
        let Some((table_id, version)) = done.input else { return Ok(()) };
        faults::point("before_run_record");
        let now_ms = self.clock.now_ms();
        let row = RunRow {
            pipeline: pipeline.name.clone(),
            table_id,
            version,
            pins: done.pins,
            rows: done.read.places.rows,
            checksum: done.read.places.hex(),
            times_ms: (began_ms, now_ms),
            verdict,
        };
        record_runs(&self.lake, &[row], &self.run, now_ms).await
    }
}

/// A unit that was computed from a later version than the newest that this run saw: the other run was not there yet when
/// it looked.
fn overtaken(planned: &[Planned], options: &BatchOptions) -> Option<Unit> {
    let is_older = |p: &&Planned| matches!(p.plan, Plan::Refused { why: Refusal::OlderPin { .. } });
    let older = planned.iter().find(is_older).filter(|_| options.input_version.is_none());
    older.map(|planned| planned.unit.clone())
}

/// How `ops.runs` calls an end.
pub(super) fn verdict<T>(ended: &Result<T>, stopped: bool) -> String {
    match ended {
        Err(error) => format!("failed: {}", error.message),
        Ok(_) if stopped => "interrupted".to_owned(),
        Ok(_) => "done".to_owned(),
    }
}

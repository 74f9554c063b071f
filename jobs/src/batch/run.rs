//! One run: for each pipeline gather, plan, compute, publish; what another run has published meanwhile is
//! planned once more.
//!
//! Invariants: R1 nothing is published if any planned unit cannot be computed right; R2 pins are recorded
//! before the units that name them; R3 a run that is interrupted or fails keeps what it has published, and
//! the next one goes on from there.

use super::check::check;
use super::compute::{Compute, Computed, Read, Task};
use super::input::Input;
use super::ledger::{PinRow, RunRow, record_pins, record_runs};
use super::meter::Meter;
use super::plan::{Aggregate, Planned, PlannedUnit, Summary, guard, plan_units, shown, summary};
use super::publish::{Published, Publisher, Run, definition_id};
use super::select::{Job, jobs};
use crate::clock::Clock;
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::Lake;
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::units::{Entry, Fingerprint, Interval, Plan, Unit};
use deltaworks_core::windows::Granularity;
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
    /// Granularities; empty for all.
    pub granularities: Vec<Granularity>,
    /// Files read, and threads' worth of work, at a time.
    pub parallel: usize,
    /// The version of the raw table to read; `None` for the newest.
    pub input_version: Option<i64>,
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
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// What all parts of a run share.
struct Context<'a> {
    lake: Lake,
    settings: &'a Settings,
    options: &'a BatchOptions,
    run: Run,
    meter: &'a Arc<Meter>,
    clock: &'a Clock,
    stop: &'a CancellationToken,
}

/// What was done of one pipeline, for `ops.runs`.
#[derive(Debug, Default)]
struct Done {
    input: Option<(String, i64)>,
    pins: BTreeSet<Fingerprint>,
    read: Read,
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
        left.add(summary(&planned));
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
    let context = Context { lake: lake.clone(), settings, options, run, meter, clock, stop };
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
            let verdict = match &ended {
                Err(error) => format!("failed: {}", error.message),
                Ok(()) if report.stopped => "interrupted".to_owned(),
                Ok(()) => "done".to_owned(),
            };
            let recorded = self.record(&job.pipeline, done, began_ms, verdict).await;
            ended?;
            recorded?;
            if report.stopped {
                break;
            }
        }
        Ok(())
    }

    /// Brings the units of one pipeline up to date.
    async fn pipeline(&self, job: &Job, report: &mut BatchReport, done: &mut Done) -> Result<()> {
        let mut again: Option<BTreeSet<Unit>> = None;
        for _ in 0..ROUNDS_MAX {
            let input = Input::gather(&self.lake, &job.pipeline, self.options.input_version).await?;
            let Some(input) = input else {
                return guard(None, &job.aggregates, &[], self.options);
            };
            let planned = plan_units(&self.lake, &input, &job.aggregates, self.options, again.as_ref()).await?;
            guard(Some(&input), &job.aggregates, &planned, self.options)?;
            if again.is_none() {
                let left = summary(&planned);
                left.tell(&job.pipeline.name);
                report.left.add(left);
            }
            let overlapped = self.round(&input, job, &planned, report, done).await?;
            if overlapped.is_empty() || report.stopped {
                return Ok(());
            }
            tracing::info!(pipeline = %job.pipeline.name, units = overlapped.len(), "another run was first; plan again");
            again = Some(overlapped);
        }
        report.units.failed += again.as_ref().map_or(0, BTreeSet::len) as u64;
        let first = again.iter().flatten().next().map(ToString::to_string).unwrap_or_default();
        let message = format!("another run keeps publishing the same units, such as `{first}`");
        Err(Error::new(Stage::Batch, Class::Overlap, message).hint("schedule one `batch` at a time"))
    }

    /// Carries out one plan; the units that another run was first at.
    async fn round(
        &self,
        input: &Input,
        job: &Job,
        planned: &[Planned],
        report: &mut BatchReport,
        done: &mut Done,
    ) -> Result<BTreeSet<Unit>> {
        let work: Vec<&Planned> =
            planned.iter().filter(|p| matches!(p.plan, Plan::Recompute { .. } | Plan::Repin)).collect();
        if work.is_empty() {
            return Ok(BTreeSet::new());
        }
        done.input = Some((input.pin.table.clone(), input.pin.version));
        faults::point("after_batch_plan");
        self.record_pins(job, &work).await?;
        faults::point("after_pins");
        let mut publishers = BTreeMap::new();
        for number in work.iter().map(|p| p.aggregate).collect::<BTreeSet<_>>() {
            let Aggregate { file, definition } = &job.aggregates[number];
            publishers.insert(number, Publisher::open(&self.lake, definition, &file.grain, &self.run).await?);
        }
        let left = work.len() as u64;
        let mut units = UnitsDone { overlapped: BTreeSet::new(), done: 0 };
        let mut fill = Fill { publishers: &mut publishers, report: &mut *report, done, units: &mut units };
        let ended = self.carry_out(input, job, &work, &mut fill).await;
        if ended.is_err() {
            report.units.failed += left - units.done;
        }
        for publisher in publishers.values() {
            if let Err(error) = publisher.end().await {
                tracing::warn!(%error, "log upkeep will be tried again");
            }
        }
        ended?;
        Ok(units.overlapped)
    }

    async fn carry_out(&self, input: &Input, job: &Job, work: &[&Planned], fill: &mut Fill<'_>) -> Result<()> {
        let (compute, repin): (Vec<&Planned>, Vec<&Planned>) =
            work.iter().partition(|p| matches!(p.plan, Plan::Recompute { .. }));
        for p in repin {
            if let (Some(publisher), Some(entry)) = (fill.publishers.get_mut(&p.aggregate), p.entry) {
                let published = publisher.repin(&p.unit, entry, p.pin.id()).await?;
                fill.count(p, published);
            }
        }
        let tasks: Vec<Task> = compute.iter().filter_map(|p| task(p)).collect();
        announce(&tasks, input, self.meter);
        let definitions: Vec<&Definition> = job.aggregates.iter().map(|a| &a.definition).collect();
        let memory_bytes = self.settings.memory_bytes / DEDUP_SHARE;
        let parallel = self.options.parallel;
        let mut computing = Compute::new(input, &definitions, &tasks, parallel, memory_bytes, self.meter.clone())?;
        let ended = self.publish_all(&mut computing, &compute, &definitions, fill).await;
        fill.read(computing.read());
        ended
    }

    /// Publishes units as they are finished, while the next date is computed.
    async fn publish_all(
        &self,
        computing: &mut Compute<'_>,
        compute: &[&Planned],
        definitions: &[&Definition],
        fill: &mut Fill<'_>,
    ) -> Result<()> {
        let mut finished = Vec::new();
        loop {
            let next = async {
                tokio::select! {
                    next = computing.next() => next.map(|next| next.map_or(Next::End, Next::Finished)),
                    () = self.stop.cancelled() => Ok(Next::Stopped),
                }
            };
            let publish = self.publish_each(&finished, compute, definitions, fill);
            let (next, published) = tokio::join!(next, publish);
            published?;
            match next? {
                Next::Finished(units) => finished = units,
                Next::End => return Ok(()),
                Next::Stopped => {
                    fill.report.stopped = true;
                    return Ok(());
                }
            }
        }
    }

    async fn publish_each(
        &self,
        finished: &[Computed],
        compute: &[&Planned],
        definitions: &[&Definition],
        fill: &mut Fill<'_>,
    ) -> Result<()> {
        for computed in finished {
            let p = compute[computed.task];
            let Some(publisher) = fill.publishers.get_mut(&p.aggregate) else { continue };
            let published = publish(p, computed, definitions[p.aggregate], publisher).await?;
            fill.done.pins.insert(p.pin.id());
            fill.report.units.computed += 1;
            fill.report.windows += computed.counts.windows;
            fill.count(p, published);
            Meter::add(&self.meter.units_done, 1);
        }
        Ok(())
    }

    async fn record_pins(&self, job: &Job, work: &[&Planned]) -> Result<()> {
        let mut rows: BTreeMap<(Fingerprint, usize), PinRow<'_>> = BTreeMap::new();
        for p in work {
            let Aggregate { file, definition } = &job.aggregates[p.aggregate];
            let definition_id = definition_id(definition);
            let row = PinRow { pin: &p.pin, pipeline: &job.pipeline.name, definition, definition_id, sql: &file.sql };
            rows.insert((p.pin.id(), p.aggregate), row);
        }
        let rows: Vec<PinRow<'_>> = rows.into_values().collect();
        record_pins(&self.lake, &rows, &self.run, self.clock.now_ms()).await
    }

    /// Records what was done; a pipeline that needed nothing leaves no row.
    async fn record(&self, pipeline: &Pipeline, done: Done, began_ms: i64, verdict: String) -> Result<()> {
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

/// What became of the units of a round.
struct UnitsDone {
    overlapped: BTreeSet<Unit>,
    done: u64,
}

/// What the next date has brought.
enum Next {
    Finished(Vec<Computed>),
    End,
    Stopped,
}

/// What a round publishes with, and what it fills.
struct Fill<'r> {
    publishers: &'r mut BTreeMap<usize, Publisher>,
    report: &'r mut BatchReport,
    done: &'r mut Done,
    units: &'r mut UnitsDone,
}

impl Fill<'_> {
    fn count(&mut self, planned: &Planned, published: Published) {
        self.units.done += 1;
        match published {
            Published::Changed => self.report.units.changed += 1,
            Published::Unchanged => self.report.units.unchanged += 1,
            Published::Overlap => {
                self.units.overlapped.insert(planned.unit.clone());
            }
        }
    }

    fn read(&mut self, read: Read) {
        self.report.rows += read.rows;
        self.report.late += read.late;
        self.report.duplicates += read.duplicates;
        self.done.read.add(read);
    }
}

/// Says to the live line what there is to do.
pub(super) fn announce(tasks: &[Task], input: &Input, meter: &Meter) {
    Meter::add(&meter.units, tasks.len() as u64);
    let dates: BTreeSet<_> = tasks.iter().flat_map(|t| t.extent.dates.iter()).collect();
    let bytes = dates.iter().filter_map(|date| input.dates.get(date)).map(|files| files.bytes).sum();
    Meter::add(&meter.bytes, bytes);
}

fn task(p: &Planned) -> Option<Task> {
    let Plan::Recompute { covered, .. } = &p.plan else { return None };
    Some(Task {
        aggregate: p.aggregate,
        granularity: p.unit.granularity,
        window_date: p.unit.window_date,
        extent: p.extent.clone(),
        covered: *covered,
    })
}

async fn publish(
    p: &Planned,
    computed: &Computed,
    definition: &Definition,
    publisher: &mut Publisher,
) -> Result<Published> {
    let empty = check(&p.unit, computed, definition)?;
    let before: Option<Entry> = p.entry;
    let published = publisher.publish(&p.unit, before, &computed.rows, p.pin.id()).await?;
    tracing::debug!(unit = %p.unit, ?published, ?empty, rows = computed.counts.rows, "unit");
    Ok(published)
}

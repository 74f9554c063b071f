//! One plan carried out: pins first, then unit by unit, published while the next date is computed.
//!
//! Invariants: R2 pins are recorded before the units that name them; R3 what is published when a round is stopped or fails
//! stays, and whoever comes next goes on from there.

use super::check::check;
use super::compute::{Compute, Computed, Read, Task};
use super::input::Input;
use super::ledger::{PinRow, record_pins};
use super::meter::Meter;
use super::plan::{Aggregate, Planned};
use super::publish::{Published, Publisher, Run, definition_id};
use super::run::{BatchOptions, BatchReport, DEDUP_SHARE, Held};
use super::select::Job;
use crate::clock::Clock;
use crate::engine::aggregate::Definition;
use crate::error::Result;
use crate::faults;
use crate::lake::Lake;
use crate::project::settings::Settings;
use crate::quality::{self, RawDates};
use async_trait::async_trait;
use deltaworks_core::units::{Entry, Fingerprint, Plan, Unit};
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What all parts of a run share.
pub struct Context<'a> {
    /// The lake.
    pub lake: Lake,
    /// The project.
    pub settings: &'a Settings,
    /// What is asked for.
    pub options: &'a BatchOptions,
    /// Numbers the commits.
    pub run: Run,
    /// Live figures.
    pub meter: &'a Arc<Meter>,
    /// The time.
    pub clock: &'a Clock,
    /// Cancelled where the run is to end.
    pub stop: &'a CancellationToken,
    /// Who may end it beside that.
    pub permit: Option<&'a dyn Permit>,
}

/// What was done of one pipeline, for `ops.runs`.
#[derive(Debug, Default)]
pub struct Done {
    /// Raw table and version, once there was something to do.
    pub input: Option<(String, i64)>,
    /// Pins of the units.
    pub pins: BTreeSet<Fingerprint>,
    /// What was read.
    pub read: Read,
}

/// Asked before each unit is published whether the run may go on.
#[async_trait]
pub trait Permit: Send + Sync {
    /// Whether it may. A run that may not ends as one that was stopped.
    async fn may_go_on(&self) -> Result<bool>;
}

impl Context<'_> {
    /// Whether nobody ends the run but who stops the process.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn may_go_on(&self) -> Result<bool> {
        match self.permit {
            Some(permit) => permit.may_go_on().await,
            None => Ok(true),
        }
    }

    /// Carries out one plan; the units that another run was first at.
    ///
    /// # Errors
    /// A unit cannot be computed or published; those before it are.
    pub async fn round(
        &self,
        input: &Input,
        job: &Job,
        planned: &[Planned],
        report: &mut BatchReport,
        done: &mut Done,
    ) -> Result<BTreeSet<Unit>> {
        let mut work: Vec<&Planned> =
            planned.iter().filter(|p| matches!(p.plan, Plan::Recompute { .. } | Plan::Repin)).collect();
        if self.options.quality_first {
            self.hold_back(input, job, &mut work, report).await?;
        }
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

    /// Takes out the units that are made of a date that breaks a rule of severity error.
    async fn hold_back(
        &self,
        input: &Input,
        job: &Job,
        work: &mut Vec<&Planned>,
        report: &mut BatchReport,
    ) -> Result<()> {
        let computed = work.iter().filter(|p| matches!(p.plan, Plan::Recompute { .. }));
        let dates: BTreeSet<Date> = computed.flat_map(|p| p.extent.dates.iter()).collect();
        let raw = RawDates { pipeline: &job.pipeline, version: input.pin.version, dates };
        let memory_bytes = self.settings.memory_bytes;
        let breached =
            quality::breached(&self.lake, raw, memory_bytes, &self.run, self.clock.now_ms(), &mut report.rulings)
                .await?;
        work.retain(|p| {
            let dates = p.extent.dates;
            let breach = breached.iter().find(|(date, _)| dates.from <= **date && **date < dates.to);
            let held = breach.filter(|_| matches!(p.plan, Plan::Recompute { .. }));
            let held = held.map(|(date, rule)| Held { unit: p.unit.to_string(), date: *date, rule: rule.clone() });
            let stays = held.is_none();
            report.held.extend(held);
            stays
        });
        Ok(())
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
            if fill.report.stopped {
                return Ok(());
            }
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
            if !self.may_go_on().await? {
                fill.report.stopped = true;
                return Ok(());
            }
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

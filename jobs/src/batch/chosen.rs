//! Units that somebody else has chosen: judged and computed as a run would, each at most once.
//!
//! Which units, and in what order, is the caller's. A run refuses all of its plan where one unit cannot be computed right;
//! here units beyond retention are set aside by name, since those before them are published already.
//!
//! Invariant: R4 each unit is computed here, or in one of the sets, or it is what a recompute would give.

use super::input::Input;
use super::plan::{Planned, guard, plan_units};
use super::round::{Context, Done};
use super::run::{BatchReport, verdict};
use super::select::Job;
use crate::error::{Class, Error, Result, Stage};
use deltaworks_core::units::{Idle, Plan, Refusal, Unit};
use deltaworks_core::windows::{Dates, Extent};
use std::collections::BTreeSet;

/// What became of units that were not computed.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Another run was first at them, or has read a later version than this one: to be looked at again.
    pub moved: BTreeSet<Unit>,
    /// Raw no longer keeps all their dates.
    pub beyond_retention: BTreeSet<Unit>,
    /// Raw is not complete enough for them.
    pub waiting: BTreeSet<Unit>,
}

/// Where a planned unit belongs.
enum Standing {
    Work,
    Settled,
    Moved,
    BeyondRetention,
    Waiting,
}

impl Context<'_> {
    /// Brings `units` of one pipeline up to `input`, once. Where the report says `stopped`, some of them were not
    /// looked at.
    ///
    /// # Errors
    /// What makes a run fail, but for dates that were removed.
    pub async fn chosen(
        &self,
        job: &Job,
        input: &Input,
        units: &BTreeSet<Unit>,
        report: &mut BatchReport,
    ) -> Result<Chosen> {
        let began_ms = self.clock.now_ms();
        let planned = plan_units(&self.lake, input, &job.aggregates, self.options, Some(units)).await?;
        let (mut chosen, mut work) = (Chosen::default(), Vec::new());
        // without rows and never published: nothing was planned for them
        let mut rest = units.clone();
        for p in planned {
            rest.remove(&p.unit);
            match standing(input, &p) {
                Standing::Work => work.push(p),
                Standing::Settled => {}
                Standing::Moved => {
                    chosen.moved.insert(p.unit);
                }
                Standing::BeyondRetention => {
                    chosen.beyond_retention.insert(p.unit);
                }
                Standing::Waiting => {
                    chosen.waiting.insert(p.unit);
                }
            }
        }
        for unit in rest {
            if extent(job, &unit)?.is_some_and(|extent| is_removed(input, &extent)) {
                chosen.beyond_retention.insert(unit);
            }
        }
        guard(Some(input), &job.aggregates, &work, self.options)?;
        let mut done = Done::default();
        let ended = self.round(input, job, &work, report, &mut done).await;
        let verdict = verdict(&ended, report.stopped);
        let recorded = self.record(&job.pipeline, done, began_ms, verdict).await;
        chosen.moved.extend(ended?);
        recorded?;
        Ok(chosen)
    }
}

fn standing(input: &Input, p: &Planned) -> Standing {
    match &p.plan {
        Plan::Refused { why: Refusal::BeyondRetention { .. } } => Standing::BeyondRetention,
        Plan::Refused { why: Refusal::OlderPin { .. } } => Standing::Moved,
        // the guard names it
        Plan::Refused { .. } | Plan::Recompute { .. } | Plan::Repin | Plan::CompareIds { .. } => Standing::Work,
        Plan::Nothing { why: Idle::NotCovered | Idle::RecreatedBehind } => Standing::Waiting,
        Plan::Nothing { why: Idle::NoRows } if is_removed(input, &p.extent) => Standing::BeyondRetention,
        Plan::Nothing { why: Idle::NoRows | Idle::UpToDate | Idle::OutsideInterval | Idle::DefinitionKept } => {
            Standing::Settled
        }
    }
}

/// Whether raw no longer keeps a date that the unit is computed from.
fn is_removed(input: &Input, Extent { dates, .. }: &Extent) -> bool {
    let from = if input.has_ids() { dates.from.yesterday().unwrap_or(dates.from) } else { dates.from };
    Dates { from, to: dates.to }.iter().any(|date| input.removed.contains(date))
}

fn extent(job: &Job, unit: &Unit) -> Result<Option<Extent>> {
    let Some(aggregate) = job.aggregates.iter().find(|a| a.definition.name == unit.aggregate) else { return Ok(None) };
    Extent::of(unit.granularity, &aggregate.definition.zone, unit.window_date)
        .map_err(|e| Error::new(Stage::Batch, Class::User, "windows cannot be made").because(e))
}

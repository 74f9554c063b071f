//! Whether all windows that need some dates of a raw table are final: asks [`deltaworks_core::upkeep::retention`] of
//! every unit of every aggregate over it. What an open backfill has still to compute is not, nor is a unit that nothing has
//! landed of yet, as long as something may.

use crate::backfill::units_left;
use crate::batch::{BatchOptions, Input, Job, Planned, batch_name, jobs_of, ledger_of, plan_units, units_of};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use crate::project::settings::Settings;
use crate::reconcile::served_name;
use deltaworks_core::served::read_ledger;
use deltaworks_core::units::{Fingerprint, Interval, Pin, Unit};
use deltaworks_core::upkeep::retention::{NotFinal, Standing, judge};
use deltaworks_core::windows::Extent;
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};

/// Generation and pin of each unit.
type Origins = BTreeMap<Unit, (i64, Fingerprint)>;

/// The aggregates over one raw table.
pub(in crate::upkeep) struct Windows {
    lake: Lake,
    jobs: Vec<Job>,
}

impl Windows {
    /// Reads the aggregates of a pipeline.
    ///
    /// # Errors
    /// [`Class::User`] if one of them is wrong.
    pub async fn of(lake: &Lake, settings: &Settings, pipeline: &str) -> Result<Self> {
        let ours = settings.aggregates.iter().filter(|aggregate| aggregate.from == pipeline);
        let names: Vec<String> = ours.map(|aggregate| aggregate.name.clone()).collect();
        let jobs = match names.is_empty() {
            true => Vec::new(),
            false => jobs_of(settings, &names, 1, Stage::Upkeep).await?,
        };
        Ok(Self { lake: lake.clone(), jobs })
    }

    /// The units that need one of the dates that go and are not final, each with the reason; `last` is the last date that
    /// may go.
    ///
    /// # Errors
    /// A table cannot be read.
    pub async fn not_final(&self, input: &Input, last: Date, goes: impl Fn(Date) -> bool) -> Result<Vec<String>> {
        let options = BatchOptions {
            run_id: String::new(),
            aggregates: Vec::new(),
            interval: Interval::default(),
            forced: false,
            any_age: false,
            granularities: Vec::new(),
            parallel: 1,
            input_version: None,
            quality_first: false,
        };
        let mut found = Vec::new();
        for job in &self.jobs {
            let planned = plan_units(&self.lake, input, &job.aggregates, &options, None).await?;
            let (mut origins, mut open) = (Vec::new(), BTreeMap::new());
            for aggregate in &job.aggregates {
                // in this order: what is served then is not newer than what batch has, nor that than the plan
                let served = self.served(&aggregate.definition.name).await?;
                origins.push((served, self.published(&aggregate.definition.name).await?));
                open.extend(units_left(&self.lake, &aggregate.definition.name).await?);
            }
            found.extend(to_come(input, job, &planned, last, &goes)?);
            for planned in planned {
                if !needs(input, &planned.extent, &goes) {
                    continue;
                }
                let origins = origins.get(planned.aggregate);
                let standing = Standing {
                    plan: &planned.plan,
                    end: planned.extent.windows.end(),
                    covered: planned.pin.covered,
                    published: origins.and_then(|(_, published)| published.get(&planned.unit).copied()),
                    served: origins.and_then(|(served, _)| served.get(&planned.unit).copied()),
                };
                match (judge(&standing), open.get(&planned.unit)) {
                    (Err(why), _) => found.push(format!("unit `{}` {why}", planned.unit)),
                    (Ok(()), Some(id)) => found.push(format!("unit `{}` is left of backfill `{id}`", planned.unit)),
                    (Ok(()), None) => {}
                }
            }
        }
        Ok(found)
    }

    async fn published(&self, aggregate: &str) -> Result<Origins> {
        let Some(table) = self.lake.open_table(&batch_name(aggregate)).await? else { return Ok(Origins::new()) };
        let entries = ledger_of(aggregate, &table)?;
        Ok(entries.into_iter().map(|(unit, entry)| (unit, (entry.generation, entry.pin))).collect())
    }

    async fn served(&self, aggregate: &str) -> Result<Origins> {
        let Some(table) = self.lake.open_table(&served_name(aggregate)).await? else { return Ok(Origins::new()) };
        let broken = |e| Error::new(Stage::Upkeep, Class::Internal, "the entries of a served table").because(e);
        let entries = read_ledger(aggregate, table.txns()).map_err(broken)?;
        let taken = |(unit, entry): (Unit, deltaworks_core::served::Entry)| {
            entry.taken.map(|taken| (unit, (taken.generation, taken.pin)))
        };
        Ok(entries.into_iter().filter_map(taken).collect())
    }
}

/// Whether a unit is made of a date that goes, or its copies are told by one.
fn needs(input: &Input, extent: &Extent, goes: impl Fn(Date) -> bool) -> bool {
    let dedup_day = extent.dates.from.yesterday().ok().filter(|_| input.has_ids());
    dedup_day.into_iter().chain(extent.dates.iter()).any(goes)
}

/// Units that need one of the dates that go, and that nothing has landed of yet: what lands of them as long as they are
/// not complete is on time.
fn to_come(
    input: &Input,
    job: &Job,
    planned: &[Planned],
    last: Date,
    goes: impl Fn(Date) -> bool,
) -> Result<Vec<String>> {
    let known: BTreeSet<&Unit> = planned.iter().map(|planned| &planned.unit).collect();
    let around = std::iter::once(last).chain(last.tomorrow()).map(|date| (date, 1)).collect();
    let pin = Pin { rows: around, ..input.pin.clone() };
    let is_open = |extent: &Extent| extent.windows.end() > input.pin.valid_through;
    let mut found = Vec::new();
    for aggregate in &job.aggregates {
        let units = units_of(&aggregate.definition, &pin, &BTreeMap::new(), &[])?;
        let open = units.into_iter().filter(|(unit, extent)| !known.contains(unit) && is_open(extent));
        let open = open.filter(|(_, extent)| needs(input, extent, &goes));
        found.extend(open.map(|(unit, _)| format!("unit `{unit}` {}", NotFinal::NotCovered)));
    }
    Ok(found)
}

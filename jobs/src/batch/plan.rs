//! Which units of the selected aggregates to compute, and why: gathers the facts of each and asks
//! [`deltaworks_core::units::plan`].
//!
//! Facts are the pin of the input, the entries of the batch tables and the pins that they name. No log is
//! read for them, and no file but those of `ops.pins`; only where a dedup day gained rows are ids
//! compared, once for all units of that day.

use super::ids::share_an_id;
use super::input::Input;
use super::ledger;
use super::publish::{batch_name, definition_id, judge_grain, ledger_of};
use super::redefined::backfill_lines;
use super::run::BatchOptions;
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use crate::project::settings::AggregateFile;
use deltaworks_core::place::Offset;
use deltaworks_core::units::{
    Entry, Facts, Fingerprint, Idle, Ids, Last, Pin, Plan, Refusal, Unit, plan, window_dates,
};
use deltaworks_core::windows::{Dates, Extent, Granularity, Instant, OutOfRange, window_of};
use jiff::civil::Date;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An aggregate and what is published of it.
#[derive(Debug)]
pub struct Aggregate {
    /// Its file.
    pub file: Arc<AggregateFile>,
    /// Its definition.
    pub definition: Definition,
}

/// What to do with one unit.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Which aggregate, by its place in the list.
    pub aggregate: usize,
    /// The unit.
    pub unit: Unit,
    /// Its windows and event dates.
    pub extent: Extent,
    /// Its entry when it was planned.
    pub entry: Option<Entry>,
    /// What to do.
    pub plan: Plan,
    /// The pin to record with it.
    pub pin: Pin,
}

/// A unit of the plan, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedUnit {
    /// The unit.
    pub unit: String,
    /// What to do with it, and why.
    #[serde(flatten)]
    pub plan: Plan,
    /// Files of its event dates.
    pub files: usize,
    /// Bytes of these.
    pub bytes: u64,
    /// Id of the pin.
    pub pin: Fingerprint,
    /// The pin's version of the raw table.
    pub version: i64,
    /// Windows that may be published.
    pub windows: u64,
    /// The date from which raw may no longer keep all that the unit is computed from, if events are not
    /// kept for ever: late rows that come then change it no more.
    pub kept_until: Option<Date>,
}

/// How many units are left as they are, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// They are what a recompute would give.
    pub up_to_date: u64,
    /// No window of them is complete.
    pub not_covered: u64,
    /// Only the definition changed, too long ago to redo them unasked.
    pub definition_kept: u64,
    /// Late rows came for dates that raw no longer keeps.
    pub beyond_retention: u64,
    /// The raw table was recreated and is not yet as far.
    pub recreated_behind: u64,
    /// The commands that redo those with a former definition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backfill: Vec<String>,
}

impl Summary {
    /// Says what a person may want to do about it.
    pub fn tell(&self, pipeline: &str) {
        if self.definition_kept > 0 {
            let redo = self.backfill.join("; ");
            tracing::warn!(pipeline, units = self.definition_kept, redo, "older units keep their former definition");
        }
        if self.beyond_retention > 0 {
            tracing::warn!(
                pipeline,
                units = self.beyond_retention,
                "late rows came for dates that raw no longer keeps"
            );
        }
    }

    /// Takes in what was left of another pipeline.
    pub fn add(&mut self, other: Self) {
        self.up_to_date += other.up_to_date;
        self.not_covered += other.not_covered;
        self.definition_kept += other.definition_kept;
        self.beyond_retention += other.beyond_retention;
        self.recreated_behind += other.recreated_behind;
        self.backfill.extend(other.backfill);
    }
}

/// Ids that were compared already: of one first date, since one pin.
type Compared = BTreeMap<(Date, String), bool>;

/// Plans every unit of `aggregates`, or only those of `only`.
///
/// # Errors
/// A table cannot be read, or its ledger is broken.
pub async fn plan_units(
    lake: &Lake,
    input: &Input,
    aggregates: &[Aggregate],
    options: &BatchOptions,
    only: Option<&BTreeSet<Unit>>,
) -> Result<Vec<Planned>> {
    let mut entries = Vec::new();
    for aggregate in aggregates {
        let table = lake.open_table(&batch_name(&aggregate.definition.name)).await?;
        if let Some(table) = &table {
            judge_grain(&aggregate.definition, table)?;
        }
        entries.push(table.map_or_else(|| Ok(BTreeMap::new()), |t| ledger_of(&aggregate.definition.name, &t))?);
    }
    let is_asked_for = |unit: &Unit| only.is_none_or(|only| only.contains(unit));
    let named = entries.iter().flatten().filter(|(unit, _)| is_asked_for(unit)).map(|(_, entry)| entry.pin);
    let named: BTreeSet<Fingerprint> = named.collect();
    let pins = ledger::pins(lake, &named).await?;
    let (mut planned, mut compared) = (Vec::new(), Compared::new());
    for (number, (aggregate, entries)) in aggregates.iter().zip(&entries).enumerate() {
        let facts = Facts {
            now: &input.pin,
            definition: definition_id(&aggregate.definition),
            removed: &input.removed,
            dedup: input.has_ids(),
            interval: options.interval,
            forced: options.forced,
            redefine_days: if options.any_age { u32::MAX } else { aggregate.file.redefine_days },
        };
        for (unit, extent) in units_of(&aggregate.definition, &input.pin, entries, &options.granularities)? {
            if !is_asked_for(&unit) {
                continue;
            }
            let entry = entries.get(&unit).copied();
            let last = entry.and_then(|e| Some(Last { pin: pins.get(&e.pin)?, definition: e.definition }));
            let plan = plan_one(input, &facts, &extent, last, options.parallel, &mut compared).await?;
            let dates = Dates { from: extent.dates.from.yesterday().unwrap_or(extent.dates.from), to: extent.dates.to };
            let pin = input.pin.after(last.map(|last| last.pin)).narrowed(dates);
            planned.push(Planned { aggregate: number, unit, extent, entry, plan, pin });
        }
    }
    Ok(planned)
}

/// All units that there are to plan: those with rows, and those that were published (`entries`).
///
/// # Errors
/// A date lies beyond the years that windows are made for.
pub fn units_of(
    definition: &Definition,
    pin: &Pin,
    entries: &BTreeMap<Unit, Entry>,
    granularities: &[Granularity],
) -> Result<Vec<(Unit, Extent)>> {
    let mut units = Vec::new();
    for granularity in &definition.granularities {
        if !granularities.is_empty() && !granularities.contains(granularity) {
            continue;
        }
        let mut dates = window_dates(*granularity, &definition.zone, &pin.rows).map_err(out_of_range)?;
        dates.extend(entries.keys().filter(|u| u.granularity == *granularity).map(|u| u.window_date));
        for window_date in dates {
            // a date that was one in another zone may be none in this one
            if let Some(extent) = Extent::of(*granularity, &definition.zone, window_date).map_err(out_of_range)? {
                let unit = Unit { aggregate: definition.name.clone(), granularity: *granularity, window_date };
                units.push((unit, extent));
            }
        }
    }
    Ok(units)
}

async fn plan_one(
    input: &Input,
    facts: &Facts<'_>,
    extent: &Extent,
    last: Option<Last<'_>>,
    parallel: usize,
    compared: &mut Compared,
) -> Result<Plan> {
    let planned = plan(facts, extent, last, Ids::Unknown);
    let (Plan::CompareIds { dedup_day, first }, Some(last)) = (&planned, last) else { return Ok(planned) };
    let since: &BTreeMap<String, BTreeMap<i32, Offset>> = &last.pin.next;
    let key = (*first, format!("{since:?} {}", last.pin.fill));
    let shared = match compared.get(&key) {
        Some(shared) => *shared,
        None => {
            let (dedup_day, first) = (input.dates.get(dedup_day), input.dates.get(first));
            let shared = share_an_id(input, last.pin, dedup_day, first, parallel).await?;
            compared.insert(key, shared);
            shared
        }
    };
    Ok(plan(facts, extent, Some(last), if shared { Ids::Shared } else { Ids::Apart }))
}

/// What stands in the way of the whole run: a unit that cannot be computed right, or windows asked for
/// that are not complete yet.
///
/// # Errors
/// The first of these, by unit.
pub fn guard(
    input: Option<&Input>,
    aggregates: &[Aggregate],
    planned: &[Planned],
    options: &BatchOptions,
) -> Result<()> {
    for Planned { unit, plan, .. } in planned {
        let Plan::Refused { why } = plan else { continue };
        if matches!(why, Refusal::OlderPin { .. }) && options.input_version.is_none() {
            let message = format!("unit `{unit}` was computed from a later version meanwhile");
            return Err(Error::new(Stage::Batch, Class::Overlap, message).hint("run it again"));
        }
        if let Some(class) = why.class() {
            return Err(refused(unit, why, class));
        }
    }
    let Some(to) = options.interval.to else { return Ok(()) };
    let through = input.and_then(|input| input.pin.valid_through);
    for Aggregate { definition, .. } in aggregates {
        for granularity in &definition.granularities {
            let asked = options.granularities.is_empty() || options.granularities.contains(granularity);
            let last = last_end(*granularity, definition, to).map_err(out_of_range)?;
            let is_empty = options.interval.from.is_some_and(|from| last <= from);
            if asked && !is_empty && through.is_none_or(|through| through < last) {
                let reached = through.map_or_else(|| "no instant yet".to_owned(), |through| through.to_string());
                let message = format!(
                    "windows of `{}/{granularity}` that end by {to} are not complete: raw is valid through {reached}",
                    definition.name
                );
                return Err(Error::new(Stage::Batch, Class::InputNotYet, message)
                    .hint("run `stream` further, or leave out `--interval-end` to compute what is complete"));
            }
        }
    }
    Ok(())
}

/// The end of the last window that ends at or before `to`.
fn last_end(granularity: Granularity, definition: &Definition, to: Instant) -> Result<Instant, OutOfRange> {
    Ok(window_of(granularity, &definition.zone, to)?.start)
}

/// The error of a unit that cannot be computed right.
pub fn refused(unit: &Unit, why: &Refusal, class: Class) -> Error {
    let (message, hint) = refusal(why);
    Error::new(Stage::Batch, class, format!("unit `{unit}`: {message}")).hint(hint)
}

fn refusal(why: &Refusal) -> (String, &'static str) {
    let list = |dates: &[Date]| dates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match why {
        Refusal::OlderPin { version, last } => (
            format!("it was computed from version {last}, and version {version} is older"),
            "leave out `--input-version`, or name a later one",
        ),
        Refusal::WentBack => (
            "the raw table is behind what the unit was computed from".into(),
            "somebody restored the raw table to an older version",
        ),
        Refusal::BeyondRetention { dates, .. } => (
            format!("raw no longer keeps {}", list(dates)),
            "bound the interval to what raw keeps, or bring the dates back from an archive first",
        ),
        Refusal::FewerRows { dates } => (
            format!("raw has lost rows of {}", list(dates)),
            "somebody removed files; restore them, or accept the loss with `--force`",
        ),
    }
}

/// Counts the units that are left as they are.
#[must_use]
pub fn summary(aggregates: &[Aggregate], planned: &[Planned]) -> Summary {
    let mut summary = Summary { backfill: backfill_lines(aggregates, planned), ..Summary::default() };
    for Planned { plan, .. } in planned {
        match plan {
            Plan::Nothing { why: Idle::UpToDate } => summary.up_to_date += 1,
            Plan::Nothing { why: Idle::NotCovered } => summary.not_covered += 1,
            Plan::Nothing { why: Idle::DefinitionKept } => summary.definition_kept += 1,
            Plan::Nothing { why: Idle::RecreatedBehind } => summary.recreated_behind += 1,
            Plan::Refused { why: Refusal::BeyondRetention { .. } } => summary.beyond_retention += 1,
            _ => {}
        }
    }
    summary
}

/// The units that something is done with, or that cannot be, as they are shown.
#[must_use]
pub fn shown(input: &Input, planned: &[Planned]) -> Vec<PlannedUnit> {
    let told = planned.iter().filter(|p| !matches!(p.plan, Plan::Nothing { .. }));
    told.map(|p| {
        let files = || p.extent.dates.iter().filter_map(|date| input.dates.get(&date));
        let bound = p.pin.covered.map(|bound| p.extent.windows.ending_in(None, bound).len());
        PlannedUnit {
            unit: p.unit.to_string(),
            plan: p.plan.clone(),
            files: files().map(super::scan::DateFiles::len).sum(),
            bytes: files().map(|files| files.bytes).sum(),
            pin: p.pin.id(),
            version: p.pin.version,
            windows: bound.unwrap_or(0),
            kept_until: kept_until(input, &p.extent),
        }
    })
    .collect()
}

/// The retention of the first date that a unit needs, from its end on.
fn kept_until(input: &Input, extent: &Extent) -> Option<Date> {
    let days = input.pipeline.contract.retention_days?;
    let first = if input.has_ids() { extent.dates.from.yesterday().ok()? } else { extent.dates.from };
    first.checked_add(jiff::Span::new().try_days(i64::from(days) + 1).ok()?).ok()
}

fn out_of_range(e: OutOfRange) -> Error {
    Error::new(Stage::Batch, Class::User, "windows cannot be made").because(e)
}

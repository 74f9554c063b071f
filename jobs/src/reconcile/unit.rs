//! Units of one window date, one after the other: what each is to hold, and one commit where that is something
//! else.
//!
//! Read, decide, act: the unit's entry, [`Facts::plan`], one compare-and-set. Where another reconciler was first, the
//! unit is planned again on what that one made.

use super::drift::{Drifts, Put, Subject, Way};
use super::gather::{Facts, Planned, Wanted, open_windows};
use super::portions::Results;
use super::provisional::SpeedUse;
use super::rows::{Shape, hour_of};
use super::run::{DriftCounts, UnitCounts, WindowCounts};
use super::table::{Change, Hour, Served};
use crate::batch::{Run, same_rows};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Attempts, Lake};
use arrow::array::RecordBatch;
use deltaworks_core::drift::Limit;
use deltaworks_core::served::{FromBatch, FromSpeed};
use deltaworks_core::units::Unit;
use deltaworks_core::windows::{Extent, Granularity, Window};
use std::collections::{BTreeMap, BTreeSet};

/// Times that a unit which other reconcilers were first at is planned.
const ROUNDS_MAX: usize = 8;

/// One pass over one aggregate.
pub(super) struct Pass<'a> {
    lake: &'a Lake,
    wanted: &'a Wanted,
    facts: &'a mut Facts,
    run: &'a Run,
    limit: Limit,
    /// Opened by the first unit that takes something over from batch.
    pub drifts: Option<Drifts>,
    pub units: UnitCounts,
    pub windows: WindowCounts,
    pub drift: DriftCounts,
    /// Units that the limit holds back, and why.
    pub held: Vec<String>,
}

/// What a unit takes over from batch, and the way of its windows there.
#[derive(Debug)]
struct Taking {
    batch: Vec<RecordBatch>,
    way: Way,
}

/// Whether a unit may be changed.
enum Cleared {
    Go,
    /// What is served is not what was planned on.
    Moved,
    /// Another reconciler is further.
    Behind,
    /// A limit holds it back.
    Held,
}

impl<'a> Pass<'a> {
    /// Prepares a pass.
    pub fn new(lake: &'a Lake, wanted: &'a Wanted, facts: &'a mut Facts, run: &'a Run, limit: Limit) -> Self {
        let (units, windows, drift) = (UnitCounts::default(), WindowCounts::default(), DriftCounts::default());
        Self { lake, wanted, facts, run, limit, drifts: None, units, windows, drift, held: Vec::new() }
    }

    /// Brings some units up to date that have one window date.
    pub async fn group(&mut self, units: &[(Unit, Extent)]) -> Result<()> {
        let mut planned = Vec::new();
        for (unit, extent) in units {
            planned.push(self.facts.plan(unit, extent).await?);
        }
        let busy = || units.iter().zip(&planned).filter(|(_, plan)| !plan.is_idle());
        self.units.unchanged += (units.len() - busy().count()) as u64;
        if busy().next().is_none() {
            return Ok(());
        }
        let results = self.results(busy()).await;
        let busy: Vec<(&Unit, &Extent, Planned)> = busy().map(|((unit, extent), plan)| (unit, extent, *plan)).collect();
        let mut taking = self.taking(&busy).await?;
        for (unit, extent, plan) in busy {
            let taking = taking.remove(unit);
            self.unit(unit, extent, plan, &results, taking).await?;
        }
        Ok(())
    }

    /// What is taken over from batch by those units that take anything, and the way of their windows.
    async fn taking(&mut self, units: &[(&Unit, &Extent, Planned)]) -> Result<BTreeMap<Unit, Taking>> {
        let Some(served) = &self.facts.served else { return Ok(BTreeMap::new()) };
        let shape = self.shape(served);
        let mut subjects = Vec::new();
        for (unit, extent, plan) in units {
            let FromBatch::Take(taken) = plan.batch else { continue };
            let mut rows = Vec::new();
            for hour in served.hours(unit).await? {
                rows.extend(served.rows(unit, hour).await?);
            }
            let batch = self.facts.batch_rows(unit, shape.content()).await?;
            subjects.push(Subject { unit, extent, served: plan.before.taken, taken, rows: shape.one(&rows)?, batch });
        }
        if subjects.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut drifts = match self.drifts.take() {
            Some(drifts) => drifts,
            None => Drifts::open(self.lake, self.wanted, shape.content()).await?,
        };
        let ways = drifts.ways(self.lake, self.wanted, self.facts.speed.as_ref(), &subjects).await;
        self.drifts = Some(drifts);
        let taking = subjects.into_iter().zip(ways?);
        Ok(taking.map(|(Subject { unit, batch, .. }, way)| (unit.clone(), Taking { batch, way })).collect())
    }

    fn shape(&self, served: &Served) -> Shape {
        let keys: Vec<&str> = self.wanted.definition.keys().map(|c| c.name.as_str()).collect();
        Shape::new(served.schema(), keys.into_iter())
    }

    /// Results of the granularities that take from speed; none where its states cannot be read.
    async fn results<'p>(&mut self, units: impl Iterator<Item = (&'p (Unit, Extent), &'p Planned)>) -> Results {
        let taking = units.filter(|(_, plan)| matches!(plan.speed, FromSpeed::Take(_)));
        let open: BTreeMap<Granularity, Window> = taking
            .filter_map(|((unit, extent), plan)| Some((unit.granularity, open_windows(extent, plan.covered)?)))
            .collect();
        let whole = open.values().copied().reduce(|a, b| Window { start: a.start.min(b.start), end: a.end.max(b.end) });
        let (Some(whole), Some(speed)) = (whole, &self.facts.speed) else { return Results::new() };
        let granularities: Vec<Granularity> = open.into_keys().collect();
        let definition = &self.wanted.definition;
        match speed.results(definition, whole, &granularities).await {
            Ok(results) => results,
            Err(error) => {
                tracing::warn!(aggregate = %definition.name, %error, "provisional windows stay as they are");
                self.facts.speed_use = SpeedUse::Failed;
                Results::new()
            }
        }
    }

    /// Brings one unit up to date.
    async fn unit(
        &mut self,
        unit: &Unit,
        extent: &Extent,
        first: Planned,
        results: &Results,
        mut taking: Option<Taking>,
    ) -> Result<()> {
        let mut plan = first;
        for _ in 0..ROUNDS_MAX {
            if let FromSpeed::Take(_) = plan.speed
                && !results.contains_key(&unit.granularity)
            {
                plan.speed = FromSpeed::Same;
            }
            let Some(served) = &self.facts.served else { return Ok(()) };
            let built = match plan.is_idle() {
                true => None,
                false => self.build(served, unit, extent, &plan, results, taking.as_ref()).await?,
            };
            let Some((change, counts)) = built else {
                self.units.unchanged += 1;
                return Ok(());
            };
            let is_clear = match self.clear(unit, &plan, taking.as_ref()).await? {
                Cleared::Go => true,
                Cleared::Moved => false,
                Cleared::Held | Cleared::Behind => {
                    self.units.unchanged += 1;
                    return Ok(());
                }
            };
            let Some(served) = &mut self.facts.served else { return Ok(()) };
            if is_clear && served.commit(&change, self.run).await? {
                tracing::debug!(%unit, ?plan, hours = change.hours.len(), "unit");
                self.count(taking.as_ref());
                self.units.reconciled += 1;
                self.windows.add(counts);
                return Ok(());
            }
            plan = self.facts.plan(unit, extent).await?;
            taking = self.taking(&[(unit, extent, plan)]).await?.remove(unit);
        }
        let message = format!("served unit `{unit}`: other reconcilers keep changing it first");
        Err(Error::new(Stage::Reconcile, Class::Overlap, message))
    }

    /// Commits the way of a unit's windows, before what it explains is served.
    async fn clear(&mut self, unit: &Unit, plan: &Planned, taking: Option<&Taking>) -> Result<Cleared> {
        let (FromBatch::Take(taken), Some(taking), Some(drifts)) = (plan.batch, taking, &mut self.drifts) else {
            return Ok(Cleared::Go);
        };
        if let Way::Unknown(why) = &taking.way {
            tracing::warn!(%unit, %why, "nothing can be said of how its windows came to their values");
        }
        if !matches!(taking.way, Way::Known(_)) && !drifts.has(unit) {
            return Ok(Cleared::Go);
        }
        let Some(served) = &mut self.facts.served else { return Ok(Cleared::Go) };
        let identity = self.run.identity();
        let mut attempts = Attempts::new(Stage::Reconcile, format!("drift of unit `{unit}`"));
        loop {
            // rows are beside those of what is served: whoever served more meanwhile has put in more
            if served.newest_entry(unit).await? != plan.before {
                // it has left the first pins of what it restated
                drifts.refresh(&identity).await?;
                return Ok(Cleared::Moved);
            }
            match drifts.put(unit, plan.before.taken.as_ref(), taken, &taking.way, &identity).await? {
                Put::Done => break,
                Put::Behind => {
                    tracing::info!(%unit, "another reconciler has a newer version of batch: it is left to that one");
                    return Ok(Cleared::Behind);
                }
                Put::Again(outcome) => attempts.after(outcome).await?,
            }
            if drifts.refresh(&identity).await? {
                break;
            }
        }
        let judged = if let Way::Known(known) = &taking.way { self.limit.judge(&known.moved) } else { Ok(()) };
        match judged {
            Ok(()) => Ok(Cleared::Go),
            Err(broken) => {
                self.held.push(format!("unit `{unit}`: {broken}"));
                self.count(Some(taking));
                Ok(Cleared::Held)
            }
        }
    }

    /// Counts what was found of the way of a unit's windows, once it is clear that it stands.
    fn count(&mut self, taking: Option<&Taking>) {
        match taking {
            Some(Taking { way: Way::Known(known), .. }) => {
                self.drift.moved += known.moved.rows;
                self.drift.unexplained += known.moved.unexplained;
            }
            Some(Taking { way: Way::Unknown(_), .. }) => self.drift.unknown_units += 1,
            Some(Taking { way: Way::Same, .. }) | None => {}
        }
    }

    /// What changes; `None` if nothing does.
    async fn build(
        &self,
        served: &Served,
        unit: &Unit,
        extent: &Extent,
        plan: &Planned,
        results: &Results,
        taking: Option<&Taking>,
    ) -> Result<Option<(Change, WindowCounts)>> {
        let shape = self.shape(served);
        let mut old: BTreeMap<Hour, RecordBatch> = BTreeMap::new();
        for hour in hours(served, unit, extent, plan).await? {
            old.insert(hour, shape.one(&served.rows(unit, hour).await?)?);
        }
        let have = shape.one(&old.values().cloned().collect::<Vec<_>>())?;
        let mut counts = WindowCounts::default();
        let covered = match (plan.batch, taking) {
            (FromBatch::Take(taken), Some(taking)) => {
                let covered = shape.covered(&have, plan.before.covered(), &taking.batch, &taken)?;
                (counts.finals, counts.restated) = (covered.finals, covered.restated);
                covered.rows
            }
            _ => shape.ending(&have, plan.covered, false)?,
        };
        let open = match (plan.speed, results.get(&unit.granularity)) {
            (FromSpeed::Take(_), Some(results)) => shape.provisional(results, unit.window_date, plan.covered)?,
            _ => shape.ending(&have, plan.covered, true)?,
        };
        let now = shape.by_hour(unit.granularity, &shape.one(&[covered, open])?)?;
        let mut changed = BTreeMap::new();
        for hour in old.keys().chain(now.keys()).copied().collect::<BTreeSet<_>>() {
            let rows_of = |rows: &BTreeMap<Hour, RecordBatch>| rows.get(&hour).cloned().into_iter().collect::<Vec<_>>();
            let (old, now) = (rows_of(&old), rows_of(&now));
            if !same_rows(&old, &now)? {
                let open = shape.ending(&shape.one(&now)?, plan.covered, true)?;
                counts.provisional += open.num_rows() as u64;
                changed.insert(hour, now);
            }
        }
        let after = plan.after();
        if changed.is_empty() && after.taken == plan.before.taken {
            return Ok(None);
        }
        let change = Change { unit: unit.clone(), before: plan.before, after, hours: changed };
        Ok(Some((change, counts)))
    }
}

/// The hours of a unit that may change: all of them where batch's rows are taken, else those of open windows.
async fn hours(served: &Served, unit: &Unit, extent: &Extent, plan: &Planned) -> Result<BTreeSet<Hour>> {
    let have = served.hours(unit).await?;
    if matches!(plan.batch, FromBatch::Take(_)) {
        return Ok(have);
    }
    let Some(open) = open_windows(extent, plan.covered) else { return Ok(BTreeSet::new()) };
    let starts = extent.windows.ending_in(plan.covered, open.end);
    let hours: BTreeSet<Hour> = starts.iter().map(|window| hour_of(unit.granularity, window.start)).collect();
    Ok(have.intersection(&hours).copied().collect())
}

//! Computes units of one pipeline, event date by event date, so that memory is that of a date and not of
//! the interval.
//!
//! Windows under a day never lie across a UTC midnight, so a date's own states finish them. States of
//! days, weeks and months are carried from date to date, and let go of once their window has ended.
//!
//! Invariants: P1 each file is read once for its ids and once for its values; P2 a unit is finished with
//! the last of its dates, and only then; P3 what is carried over a date that was left out is dropped.

use super::check::UnitTally;
use super::ids::{DateIds, IdScan};
use super::input::Input;
use super::meter::Meter;
use super::scan::DateFiles;
use super::seconds::Sums;
use super::values::{Passed, Rules, Share, fan_out};
use crate::checksum::RowSum;
use crate::engine::aggregate::{Counted, Definition, Finished, Life, States};
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Date32Type, SchemaRef, TimestampMicrosecondType};
use deltaworks_core::windows::{Extent, Granularity, Instant, OutOfRange, Windows, window_of};
use futures::future::try_join_all;
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A unit to compute.
#[derive(Debug, Clone)]
pub struct Task {
    /// Which aggregate, by its place in the list.
    pub aggregate: usize,
    /// Size of its windows.
    pub granularity: Granularity,
    /// Its date.
    pub window_date: Date,
    /// Its windows and event dates.
    pub extent: Extent,
    /// Windows that end later are not published.
    pub covered: Instant,
}

/// A unit that was computed.
#[derive(Debug)]
pub struct Computed {
    /// Its place in the list of tasks.
    pub task: usize,
    /// Its rows, of the definition's result schema, by window and keys.
    pub rows: Vec<RecordBatch>,
    /// What was counted.
    pub counts: UnitTally,
}

/// What was read so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Read {
    /// Rows whose values were read, inside the pin.
    pub rows: u64,
    /// Late ones among them.
    pub late: u64,
    /// Copies among them.
    pub duplicates: u64,
    /// Rows whose ids were read, and the checksum of their places.
    pub places: RowSum,
}

/// A computation under way.
pub struct Compute<'a> {
    input: &'a Input,
    aggregates: Vec<Aggregate<'a>>,
    steps: VecDeque<Step>,
    ids: IdScan,
    wanted: SchemaRef,
    parallel: usize,
    meter: Arc<Meter>,
    /// What was read so far.
    pub read: Read,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    date: Date,
    /// Whether values are read, or only ids.
    values: bool,
}

struct Aggregate<'a> {
    definition: &'a Definition,
    /// States of windows that began on dates before.
    carried: BTreeMap<Granularity, States>,
    units: Vec<Pending>,
}

struct Pending {
    number: usize,
    task: Task,
    /// Its covered windows.
    windows: Windows,
    rows: Vec<RecordBatch>,
    counts: UnitTally,
}

impl<'a> Compute<'a> {
    /// Prepares to compute `tasks` of `definitions`; `memory_bytes` is what dedup may take.
    ///
    /// # Errors
    /// A temporary file is needed and cannot be made.
    pub fn new(
        input: &'a Input,
        definitions: &[&'a Definition],
        tasks: &[Task],
        parallel: usize,
        memory_bytes: usize,
        meter: Arc<Meter>,
    ) -> Result<Self> {
        let values: BTreeSet<Date> = tasks.iter().flat_map(|t| t.extent.dates.iter()).collect();
        let before = tasks.iter().filter_map(|t| t.extent.dates.from.yesterday().ok()).filter(|_| input.has_ids());
        let all: BTreeSet<Date> = values.iter().copied().chain(before).collect();
        let steps: VecDeque<Step> = all.into_iter().map(|date| Step { date, values: values.contains(&date) }).collect();
        let rows = |step: &Step| input.dates.get(&step.date).map_or(0, |files| files.rows);
        let pairs = steps.iter().zip(steps.iter().skip(1)).map(|(a, b)| rows(a) + rows(b));
        let rows_max = pairs.chain(steps.iter().map(rows)).max().unwrap_or(0);
        let mut aggregates: Vec<Aggregate<'a>> = definitions
            .iter()
            .map(|definition| Aggregate { definition, carried: BTreeMap::new(), units: Vec::new() })
            .collect();
        for (number, task) in tasks.iter().enumerate() {
            let windows = task.extent.windows.ending_in(None, task.covered);
            let pending =
                Pending { number, task: task.clone(), windows, rows: Vec::new(), counts: UnitTally::default() };
            if let Some(aggregate) = aggregates.get_mut(task.aggregate) {
                aggregate.units.push(pending);
            }
        }
        let wanted = wanted(input, definitions);
        let ids = IdScan::new(input, rows_max, memory_bytes)?;
        Ok(Self { input, aggregates, steps, ids, wanted, parallel, meter, read: Read::default() })
    }

    /// Computes the next date; the units that are finished with it. `None` after the last one.
    ///
    /// # Errors
    /// A file cannot be read, a value cannot be computed, or memory is too small.
    pub async fn next(&mut self) -> Result<Option<Vec<Computed>>> {
        let Some(Step { date, values }) = self.steps.pop_front() else { return Ok(None) };
        let files = self.input.dates.get(&date);
        let ids = self.ids.date(self.input, date, files, self.parallel, &self.meter).await?;
        self.read.places.merge(ids.places);
        faults::point("after_ids");
        if !values {
            self.aggregates.iter_mut().for_each(|a| a.carried.clear());
            return Ok(Some(Vec::new()));
        }
        let next = self.steps.front().filter(|step| step.values).map(|step| step.date);
        let follows = date.tomorrow().is_ok_and(|tomorrow| next == Some(tomorrow));
        let passed = self.values(date, files, &ids).await?;
        self.read.rows += passed.read;
        self.read.late += passed.late;
        self.read.duplicates += passed.duplicates;
        let expected = files.map_or(0, |files| files.rows) - ids.outside.count();
        let (landed, copies) = (passed.landed.sums(), passed.copies.sums());
        Meter::add(&self.meter.bytes_read, files.map_or(0, |files| files.bytes));
        let mut done = Vec::new();
        for aggregate in &mut self.aggregates {
            aggregate.units.iter_mut().filter(|u| u.task.extent.dates.contains(date)).for_each(|unit| {
                unit.count(expected, passed.read, &landed, &copies);
            });
            if !follows {
                aggregate.carried.clear();
            }
            done.extend(aggregate.take_done(date));
        }
        Ok(Some(done))
    }

    /// Reads the values of a date into every aggregate that has units there.
    async fn values(&mut self, date: Date, files: Option<&DateFiles>, ids: &DateIds) -> Result<Passed> {
        let (input, parallel) = (self.input, self.parallel);
        let mut takers: Vec<&mut Aggregate<'a>> =
            self.aggregates.iter_mut().filter(|a| a.units.iter().any(|u| u.task.extent.dates.contains(date))).collect();
        let Some(files) = files else {
            for aggregate in &mut takers {
                aggregate.advance(date, None).await?;
            }
            return Passed::none(date);
        };
        let rules = Rules {
            date,
            event_time: input.source.event_time.as_slice().into(),
            lateness_ms: input.source.lateness_ms,
            ids: ids.clone(),
        };
        let parts = files.read(&input.raw, &self.wanted, parallel);
        let (shares, reading) = fan_out(parts, &rules, takers.len(), &self.meter);
        let definitions: Vec<&Definition> = takers.iter().map(|a| a.definition).collect();
        let states = try_join_all(definitions.into_iter().zip(shares).map(|(d, share)| states(d, share))).await;
        // where reading failed, its error is the cause of the others
        let (passed, states) = match states {
            Ok(states) => (reading.end().await?, states),
            Err(error) => return Err(reading.cause_of(error).await),
        };
        for (aggregate, states) in takers.iter_mut().zip(states) {
            aggregate.advance(date, Some(states)).await?;
        }
        Ok(passed)
    }
}

/// The states of one date: of what counts, and of copies.
async fn states(definition: &Definition, share: Share) -> Result<States> {
    let Share { counted, duplicates } = share;
    if duplicates.is_empty() {
        return definition.partial(counted, Life::Pass).await;
    }
    let (counted, copies) = futures::future::try_join(
        definition.partial(counted, Life::Pass),
        definition.duplicates(duplicates, Life::Pass),
    )
    .await?;
    definition.merge([counted, copies]).await
}

impl Aggregate<'_> {
    /// Takes the states of a date in, and finishes the windows that end with it.
    async fn advance(&mut self, date: Date, states: Option<States>) -> Result<()> {
        let granularities: BTreeSet<Granularity> =
            self.units.iter().filter(|u| u.task.extent.dates.contains(date)).map(|u| u.task.granularity).collect();
        let granularities: Vec<Granularity> = granularities.into_iter().collect();
        let mut rolled: BTreeMap<Granularity, States> = match &states {
            Some(states) => self.definition.rollups(states, &granularities).await?.into_iter().collect(),
            None => BTreeMap::new(),
        };
        for granularity in granularities {
            let of_date = rolled.remove(&granularity);
            let all = match (self.carried.remove(&granularity), of_date) {
                (None, None) => continue,
                (Some(one), None) | (None, Some(one)) => one,
                (Some(before), Some(now)) => self.definition.merge([before, now]).await?,
            };
            let (ended, open) = all.split(self.open_from(granularity, date)?)?;
            if !open.is_empty() {
                self.carried.insert(granularity, open);
            }
            if !ended.is_empty() {
                let finished = self.definition.finish_one(&ended, granularity).await?;
                self.deal_out(&finished)?;
            }
        }
        Ok(())
    }

    /// Windows that start before this instant have ended with `date`.
    fn open_from(&self, granularity: Granularity, date: Date) -> Result<Instant> {
        let open = || -> Result<Instant, OutOfRange> {
            let next = date.tomorrow().map_or(Ok(Instant(i64::MAX)), Instant::of_utc_date)?;
            Ok(window_of(granularity, &self.definition.zone, next)?.start)
        };
        open().map_err(|e| Error::new(Stage::Batch, Class::User, "windows cannot be told apart").because(e))
    }

    /// Gives each unit its rows and counts.
    fn deal_out(&mut self, finished: &Finished) -> Result<()> {
        for unit in self.units.iter_mut().filter(|u| u.task.granularity == finished.granularity) {
            for batch in &finished.rows {
                let rows = unit.rows_of(batch)?;
                if rows.num_rows() > 0 {
                    unit.counts.rows += rows.num_rows() as u64;
                    unit.rows.push(rows);
                }
            }
            for window in unit.windows.iter() {
                if let Some(Counted { keys, events, .. }) = finished.counted.get(&window.start.0) {
                    unit.counts.windows += u64::from(*events > 0);
                    unit.counts.groups += keys;
                    unit.counts.events += u64::try_from(*events).unwrap_or(0);
                }
            }
        }
        Ok(())
    }

    /// The units whose last date has passed.
    fn take_done(&mut self, date: Date) -> Vec<Computed> {
        let (done, open) = std::mem::take(&mut self.units)
            .into_iter()
            .partition(|u: &Pending| u.task.extent.dates.iter().all(|d| d <= date));
        self.units = open;
        done.into_iter().map(|u| Computed { task: u.number, rows: u.rows, counts: u.counts }).collect()
    }
}

impl Pending {
    fn count(&mut self, expected: u64, read: u64, landed: &Sums, copies: &Sums) {
        self.counts.expected += expected;
        self.counts.read += read;
        self.counts.landed += landed.within(&self.windows);
        self.counts.duplicates += copies.within(&self.windows);
    }

    /// The rows of its covered windows.
    fn rows_of(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let internal = |what: &str| Error::new(Stage::Batch, Class::Internal, format!("results have no {what}"));
        let dates = batch.column_by_name("window_date").and_then(|c| c.as_primitive_opt::<Date32Type>());
        let ends = batch.column_by_name("window_end").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let (dates, ends) = dates.zip(ends).ok_or_else(|| internal("windows"))?;
        let day = (self.task.window_date - jiff::civil::date(1970, 1, 1)).get_days();
        let mask: BooleanArray = dates
            .values()
            .iter()
            .zip(ends.values())
            .map(|(date, end)| Some(*date == day && *end <= self.task.covered.0))
            .collect();
        filter_record_batch(batch, &mask).map_err(|e| internal("order").because(e))
    }
}

/// The columns that any of the aggregates reads, and those that are counted by.
fn wanted(input: &Input, definitions: &[&Definition]) -> SchemaRef {
    let names = definitions.iter().flat_map(|d| d.needed.iter().map(String::as_str));
    let event_time = input.source.event_time.first().map(String::as_str);
    super::columns::named(&input.source.schema, names.chain(event_time).chain(["_behind_ms", "_fill"]))
}

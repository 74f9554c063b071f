//! Computes units of one pipeline, event date by event date, so that memory is that of a date and not of
//! the interval.
//!
//! Windows under a day never lie across a UTC midnight, so a date's own states finish them. States of
//! days, weeks and months are carried from date to date, and let go of once their window has ended.
//!
//! While the values of a date are read, the windows of the date before are finished and the ids of the date
//! after are read.
//!
//! Where memory is too small for the states of all keys, the units that are left are begun again with the
//! keys in several buckets, and values are read once for each.
//!
//! Invariants: P1 each file is read once for its ids and once for the values of each bucket of keys; P2 a
//! unit is finished with the last of its dates, and only then; P3 what is carried over a date that was left
//! out is dropped; P4 what is begun again keeps nothing of before.

use super::check::UnitTally;
use super::ids::{DateIds, IdScan};
use super::input::Input;
use super::meter::Meter;
use super::pending::{Aggregate, Pending};
use super::scan::DateFiles;
use super::values::{Passed, Rules, Share, fan_out};
use crate::checksum::RowSum;
use crate::engine::aggregate::{Bucket, Definition, Life, States, Take, is_out_of_memory};
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use deltaworks_core::windows::{Extent, Granularity, Instant};
use futures::future::try_join_all;
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

/// Times as many buckets of keys when memory was too small.
const BUCKETS_TIMES: NonZeroU32 = NonZeroU32::MIN.saturating_add(3);
/// States that take a greater part of the memory for ids than this are finished before more values are read.
const WAITING_SHARE: usize = 2;
/// With more buckets than this, reading values again and again would take too long.
const BUCKETS_MAX: u32 = 64;

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
    /// Ids of the next date, where they were read ahead: an error waits for its turn.
    ahead: Option<Result<DateIds>>,
    /// What was read and is not in windows yet.
    waiting: Option<Portion>,
    buckets: NonZeroU32,
    wanted: SchemaRef,
    parallel: usize,
    memory_bytes: usize,
    meter: Arc<Meter>,
    /// What was read of each date.
    read: BTreeMap<Date, Read>,
}

/// The values of one bucket of keys of a date.
struct Portion {
    date: Date,
    bucket: Bucket,
    /// By aggregate, of those that have units on the date; none where the date has no files.
    states: Vec<(usize, Option<States>)>,
    passed: Passed,
    /// With the last bucket of the date.
    end: Option<DateEnd>,
}

/// What is known of a date when all its values were read.
struct DateEnd {
    /// Rows that its files should have inside the pin.
    expected: u64,
    /// Whether the next date is read as well.
    follows: bool,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    date: Date,
    /// Whether values are read, or only ids.
    values: bool,
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
        let mut aggregates: Vec<Aggregate<'a>> =
            definitions.iter().map(|definition| Aggregate::new(definition)).collect();
        for (number, task) in tasks.iter().enumerate() {
            let windows = task.extent.windows.ending_in(None, task.covered);
            if let Some(aggregate) = aggregates.get_mut(task.aggregate) {
                aggregate.units.push(Pending::new(number, task.clone(), windows));
            }
        }
        let wanted = wanted(input, definitions);
        let (steps, ids) = schedule(input, &aggregates, memory_bytes)?;
        let buckets = NonZeroU32::MIN;
        Ok(Self {
            input,
            aggregates,
            steps,
            ids,
            ahead: None,
            waiting: None,
            buckets,
            wanted,
            parallel,
            memory_bytes,
            meter,
            read: BTreeMap::new(),
        })
    }

    /// What was read so far, each row counted once.
    #[must_use]
    pub fn read(&self) -> Read {
        let mut all = Read::default();
        self.read.values().for_each(|read| all.add(*read));
        all
    }

    /// Reads the next date; the units that were finished meanwhile. `None` after the last one.
    ///
    /// # Errors
    /// A file cannot be read, a value cannot be computed, or memory is too small for the keys of any bucket.
    pub async fn next(&mut self) -> Result<Option<Vec<Computed>>> {
        let mut done = Vec::new();
        let ended = match self.steps.pop_front() {
            Some(step) => self.date(step, &mut done).await,
            None if self.waiting.is_some() => self.finish_waiting(&mut done).await,
            None => return Ok(None),
        };
        match ended {
            Err(error) if is_out_of_memory(&error) => self.begin_again(error)?,
            ended => ended?,
        }
        Ok(Some(done))
    }

    /// Begins all units that are left again, with fewer keys at a time.
    fn begin_again(&mut self, error: Error) -> Result<()> {
        let more = self.buckets.saturating_mul(BUCKETS_TIMES);
        let can_split = self.aggregates.iter().any(|a| !a.units.is_empty() && a.definition.has_keys());
        if more.get() > BUCKETS_MAX || !can_split {
            let why = if can_split {
                format!("{} buckets of keys are not enough", self.buckets)
            } else {
                "there are no keys to split".into()
            };
            let message = format!("{}; {why}", error.message);
            return Err(Error { message, ..error }.hint("set `memory` in deltaworks.yaml to more"));
        }
        tracing::info!(buckets = more, why = %error.message, "memory is too small for all keys at once: begin again with buckets of keys");
        Meter::add(&self.meter.begun_again, 1);
        self.buckets = more;
        for aggregate in &mut self.aggregates {
            aggregate.carried.clear();
            for unit in &mut aggregate.units {
                *unit = Pending::new(unit.number, unit.task.clone(), unit.windows.clone());
            }
        }
        (self.steps, self.ids) = schedule(self.input, &self.aggregates, self.memory_bytes)?;
        (self.ahead, self.waiting) = (None, None);
        Ok(())
    }

    async fn date(&mut self, Step { date, values }: Step, done: &mut Vec<Computed>) -> Result<()> {
        let files = self.input.dates.get(&date);
        let ids = match self.ahead.take() {
            Some(ids) => ids?,
            None => self.ids.date(self.input, date, files, self.parallel, &self.meter).await?,
        };
        self.read.entry(date).or_default().places = ids.places;
        faults::point("after_ids");
        if !values {
            self.finish_waiting(done).await?;
            self.aggregates.iter_mut().for_each(|a| a.carried.clear());
            return Ok(());
        }
        let mut first = None;
        for index in 0..self.buckets.get() {
            let bucket = Bucket { index, of: self.buckets };
            let portion = self.portion(date, files, &ids, bucket, done).await?;
            // what passes does not depend on the keys
            let rows = portion.passed.read;
            if *first.get_or_insert(rows) != rows {
                let message = format!("the rows of {date} were not the same when they were read again");
                return Err(Error::new(Stage::Batch, Class::Internal, message));
            }
            let bytes: usize = portion.states.iter().flat_map(|(_, states)| states).map(States::memory_bytes).sum();
            self.waiting = Some(portion);
            if bytes > self.memory_bytes / WAITING_SHARE {
                self.finish_waiting(done).await?;
            }
        }
        Meter::add(&self.meter.bytes_read, files.map_or(0, |files| files.bytes));
        Ok(())
    }

    /// Reads the values of one bucket of a date; beside that, finishes what was read before, and reads the
    /// ids of the next date.
    async fn portion(
        &mut self,
        date: Date,
        files: Option<&DateFiles>,
        ids: &DateIds,
        bucket: Bucket,
        done: &mut Vec<Computed>,
    ) -> Result<Portion> {
        let next = self.steps.front().copied();
        let waiting = self.waiting.take();
        let is_on_date = |a: &Aggregate<'_>| a.units.iter().any(|u| u.task.extent.dates.contains(date));
        let takers = self.aggregates.iter().enumerate().filter(|(_, a)| is_on_date(a));
        let takers: Vec<(usize, &Definition)> = takers.map(|(number, a)| (number, a.definition)).collect();
        let Self { input, aggregates, ids: scan, ahead, wanted, parallel, meter, .. } = self;
        let reader = ValueReader { input, wanted, parallel: *parallel, meter };
        let values = reader.values(date, files, ids, bucket, &takers);
        let ids_ahead = async {
            if let (Some(next), None) = (next, ahead.as_ref()) {
                *ahead = Some(scan.date(input, next.date, input.dates.get(&next.date), *parallel, meter).await);
            }
        };
        let finished = async {
            match waiting {
                Some(waiting) => finish(aggregates, waiting).await,
                None => Ok(Vec::new()),
            }
        };
        let (values, finished, ()) = tokio::join!(values, finished, ids_ahead);
        done.extend(finished?);
        let (passed, states) = values?;
        let read = Read { rows: passed.read, late: passed.late, duplicates: passed.duplicates, places: ids.places };
        self.read.insert(date, read);
        let follows = date.tomorrow().is_ok_and(|tomorrow| next.is_some_and(|n| n.values && n.date == tomorrow));
        let expected = files.map_or(0, |files| files.rows) - ids.outside.count();
        let is_last = bucket.index + 1 == bucket.of.get();
        Ok(Portion { date, bucket, states, passed, end: is_last.then_some(DateEnd { expected, follows }) })
    }

    /// Brings what was read into windows.
    async fn finish_waiting(&mut self, done: &mut Vec<Computed>) -> Result<()> {
        if let Some(portion) = self.waiting.take() {
            done.extend(finish(&mut self.aggregates, portion).await?);
        }
        Ok(())
    }
}

/// Brings what was read into windows; the units that end with it.
async fn finish(aggregates: &mut [Aggregate<'_>], portion: Portion) -> Result<Vec<Computed>> {
    let Portion { date, bucket, states, passed, end } = portion;
    for (number, states) in states {
        if let Some(aggregate) = aggregates.get_mut(number) {
            aggregate.advance(date, bucket, states).await?;
        }
    }
    let Some(DateEnd { expected, follows }) = end else { return Ok(Vec::new()) };
    let (landed, copies) = (passed.landed.sums(), passed.copies.sums());
    let mut done = Vec::new();
    for aggregate in aggregates {
        aggregate.units.iter_mut().filter(|u| u.task.extent.dates.contains(date)).for_each(|unit| {
            unit.count(expected, passed.read, &landed, &copies);
        });
        if !follows {
            aggregate.carried.clear();
        }
        done.extend(aggregate.take_done(date));
    }
    Ok(done)
}

/// Reads values.
struct ValueReader<'c> {
    input: &'c Input,
    wanted: &'c SchemaRef,
    parallel: usize,
    meter: &'c Arc<Meter>,
}

impl ValueReader<'_> {
    /// Reads the values of a date and of one bucket of keys into states of every taker.
    async fn values(
        &self,
        date: Date,
        files: Option<&DateFiles>,
        ids: &DateIds,
        bucket: Bucket,
        takers: &[(usize, &Definition)],
    ) -> Result<(Passed, Vec<(usize, Option<States>)>)> {
        let Some(files) = files else {
            return Ok((Passed::none(date)?, takers.iter().map(|(number, _)| (*number, None)).collect()));
        };
        let rules = Rules {
            date,
            event_time: self.input.source.event_time.as_slice().into(),
            lateness_ms: self.input.source.lateness_ms,
            ids: ids.clone(),
        };
        let parts = files.read(&self.input.raw, self.wanted, self.parallel);
        let (shares, reading) = fan_out(parts, &rules, takers.len(), self.meter);
        let states = takers.iter().zip(shares).map(|((number, definition), share)| async move {
            Ok((*number, Some(states(definition, share, bucket).await?)))
        });
        // where reading failed, its error is the cause of the others
        match try_join_all(states).await {
            Ok(states) => Ok((reading.end().await?, states)),
            Err(error) => Err(reading.cause_of(error).await),
        }
    }
}

/// The dates to read, ascending, and who reads their ids.
fn schedule(input: &Input, aggregates: &[Aggregate<'_>], memory_bytes: usize) -> Result<(VecDeque<Step>, IdScan)> {
    let extents = || aggregates.iter().flat_map(|a| &a.units).map(|unit| &unit.task.extent.dates);
    let values: BTreeSet<Date> = extents().flat_map(|dates| dates.iter()).collect();
    let before = extents().filter_map(|dates| dates.from.yesterday().ok()).filter(|_| input.has_ids());
    let all: BTreeSet<Date> = values.iter().copied().chain(before).collect();
    let steps: VecDeque<Step> = all.into_iter().map(|date| Step { date, values: values.contains(&date) }).collect();
    let rows = |step: &Step| input.dates.get(&step.date).map_or(0, |files| files.rows);
    let pairs = steps.iter().zip(steps.iter().skip(1)).map(|(a, b)| rows(a) + rows(b));
    let rows_max = pairs.chain(steps.iter().map(rows)).max().unwrap_or(0);
    Ok((steps, IdScan::new(input, rows_max, memory_bytes)?))
}

/// The states of one date: of what counts, and of copies.
async fn states(definition: &Definition, share: Share, bucket: Bucket) -> Result<States> {
    let Share { counted, duplicates } = share;
    definition.partial_with_duplicates(counted, duplicates, Take { life: Life::Pass, bucket }).await
}

impl Read {
    /// Takes over what was read elsewhere.
    pub const fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.late += other.late;
        self.duplicates += other.duplicates;
        self.places.merge(other.places);
    }
}

/// The columns that any of the aggregates reads, and those that are counted by.
fn wanted(input: &Input, definitions: &[&Definition]) -> SchemaRef {
    let names = definitions.iter().flat_map(|d| d.needed.iter().map(String::as_str));
    let event_time = input.source.event_time.first().map(String::as_str);
    super::columns::named(&input.source.schema, names.chain(event_time).chain(["_behind_ms", "_fill"]))
}

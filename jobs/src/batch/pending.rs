//! Units under way: what the dates so far have made of them.

use super::carried::Carried;
use super::check::UnitTally;
use super::compute::{Computed, Task};
use super::seconds::Sums;
use crate::engine::aggregate::{Bucket, Counted, Definition, Finished, States};
use crate::error::{Class, Error, Result, Stage};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Date32Type, TimestampMicrosecondType};
use deltaworks_core::windows::{Granularity, Instant, OutOfRange, Windows, window_of};
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};

/// One aggregate, with its units that are under way.
pub struct Aggregate<'a> {
    /// What it is.
    pub definition: &'a Definition,
    /// States of windows that began on dates before.
    pub carried: Carried,
    /// Units that are not finished.
    pub units: Vec<Pending>,
}

/// A unit that is under way.
pub struct Pending {
    /// Its place in the list of tasks.
    pub number: usize,
    /// What is to be computed.
    pub task: Task,
    /// Its covered windows.
    pub windows: Windows,
    rows: Vec<RecordBatch>,
    counts: UnitTally,
    /// Starts of windows that have events.
    seen: BTreeSet<Instant>,
}

impl<'a> Aggregate<'a> {
    /// One without units.
    pub fn new(definition: &'a Definition) -> Self {
        Self { definition, carried: Carried::default(), units: Vec::new() }
    }

    /// Takes the states of a date in, and finishes the windows that end with it.
    pub async fn advance(&mut self, date: Date, bucket: Bucket, states: Option<States>) -> Result<()> {
        let granularities: BTreeSet<Granularity> =
            self.units.iter().filter(|u| u.task.extent.dates.contains(date)).map(|u| u.task.granularity).collect();
        let granularities: Vec<Granularity> = granularities.into_iter().collect();
        let mut rolled: BTreeMap<Granularity, States> = match &states {
            Some(states) => self.definition.rollups(states, &granularities).await?.into_iter().collect(),
            None => BTreeMap::new(),
        };
        for granularity in granularities {
            let (now, open_from) = (rolled.remove(&granularity), self.open_from(granularity, date)?);
            let ended = self.carried.advance(self.definition, (granularity, bucket), now, open_from).await?;
            if let Some(ended) = ended {
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
                    if *events > 0 {
                        unit.seen.insert(window.start);
                    }
                    unit.counts.groups += keys;
                    unit.counts.events += u64::try_from(*events).unwrap_or(0);
                }
            }
        }
        Ok(())
    }

    /// The units whose last date has passed.
    pub fn take_done(&mut self, date: Date) -> Vec<Computed> {
        let (done, open) = std::mem::take(&mut self.units)
            .into_iter()
            .partition(|u: &Pending| u.task.extent.dates.iter().all(|d| d <= date));
        self.units = open;
        let computed = |u: Pending| {
            let counts = UnitTally { windows: u.seen.len() as u64, ..u.counts };
            Computed { task: u.number, rows: u.rows, counts }
        };
        done.into_iter().map(computed).collect()
    }
}

impl Pending {
    pub fn new(number: usize, task: Task, windows: Windows) -> Self {
        let (rows, counts, seen) = (Vec::new(), UnitTally::default(), BTreeSet::new());
        Self { number, task, windows, rows, counts, seen }
    }

    pub fn count(&mut self, expected: u64, read: u64, landed: &Sums, copies: &Sums) {
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

//! The values of one event date, read once and handed to every aggregate: rows that count in one kind of
//! stream, copies in another.
//!
//! Streams are bounded, so the slowest aggregate sets the pace. Invariants: V1 a stream that ends early
//! is an error of its task, so a result holds only once all tasks have ended well; V2 rows outside the pin
//! go nowhere.

use super::columns::{event_times, primitive};
use super::dedup::Marked;
use super::ids::DateIds;
use super::meter::Meter;
use super::scan::{Numbered, NumberedBatches, broke_down};
use super::seconds::Seconds;
use crate::engine::aggregate::Batches;
use crate::error::{Class, Error, Result, Stage};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use jiff::civil::Date;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;

/// Batches that a stream may be ahead of its aggregate.
const AHEAD: usize = 2;

/// How rows are judged as they pass.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The date that is read.
    pub date: Date,
    /// Where the event time is.
    pub event_time: Arc<[String]>,
    /// Rows further behind are late, ms.
    pub lateness_ms: i64,
    /// Copies and rows outside the pin.
    pub ids: DateIds,
}

/// What passed.
#[derive(Debug, Clone)]
pub struct Passed {
    /// Rows inside the pin.
    pub read: u64,
    /// Of these: late, and no copies.
    pub late: u64,
    /// Of these: copies.
    pub duplicates: u64,
    /// All of them, by second.
    pub landed: Seconds,
    /// The copies, by second.
    pub copies: Seconds,
}

/// What one aggregate takes.
pub struct Share {
    /// Rows that count.
    pub counted: Vec<Batches>,
    /// Copies; no streams where the date has none.
    pub duplicates: Vec<Batches>,
}

/// The tasks that read.
#[derive(Debug)]
pub struct Reading {
    tasks: JoinSet<Result<Passed>>,
    date: Date,
}

struct Outlets {
    counted: Vec<Sender<RecordBatch>>,
    duplicates: Vec<Sender<RecordBatch>>,
}

/// Begins to read `parts` for this many aggregates, each of which must take all its streams at once.
#[must_use]
pub fn fan_out(
    parts: Vec<NumberedBatches>,
    rules: &Rules,
    aggregates: usize,
    meter: &Arc<Meter>,
) -> (Vec<Share>, Reading) {
    let mut shares: Vec<Share> =
        (0..aggregates).map(|_| Share { counted: Vec::new(), duplicates: Vec::new() }).collect();
    let mut tasks = JoinSet::new();
    let has_copies = rules.ids.duplicates.count() > 0;
    for part in parts {
        let mut outlets = Outlets { counted: Vec::new(), duplicates: Vec::new() };
        let whole = Arc::new(AtomicBool::new(false));
        for share in &mut shares {
            let (sender, batches) = stream(&whole);
            outlets.counted.push(sender);
            share.counted.push(batches);
            if has_copies {
                let (sender, batches) = stream(&whole);
                outlets.duplicates.push(sender);
                share.duplicates.push(batches);
            }
        }
        let (rules, meter) = (rules.clone(), meter.clone());
        tasks.spawn(async move {
            let passed = pass(part, &rules, &outlets, &meter).await;
            whole.store(passed.is_ok(), Relaxed);
            passed
        });
    }
    (shares, Reading { tasks, date: rules.date })
}

impl Reading {
    /// Waits for the end of all tasks.
    ///
    /// # Errors
    /// The first error that a task met.
    pub async fn end(mut self) -> Result<Passed> {
        let mut all = Passed::none(self.date)?;
        while let Some(ended) = self.tasks.join_next().await {
            all.merge(&ended.map_err(broke_down)??);
        }
        Ok(all)
    }

    /// Why an aggregate failed: because its rows did, or else for `error`, a reason of its own.
    pub async fn cause_of(self, error: Error) -> Error {
        // its streams are gone by now, so the tasks run into their ends unheard
        match self.end().await {
            Err(cause) => cause,
            Ok(_) => error,
        }
    }
}

impl Passed {
    /// No rows.
    ///
    /// # Errors
    /// As [`Seconds::new`].
    pub fn none(date: Date) -> Result<Self> {
        let seconds = Seconds::new(date)?;
        Ok(Self { read: 0, late: 0, duplicates: 0, landed: seconds.clone(), copies: seconds })
    }

    fn merge(&mut self, other: &Self) {
        self.read += other.read;
        self.late += other.late;
        self.duplicates += other.duplicates;
        self.landed.merge(&other.landed);
        self.copies.merge(&other.copies);
    }
}

/// A stream that ends in an error unless its task says that it read everything.
pub fn stream(whole: &Arc<AtomicBool>) -> (Sender<RecordBatch>, Batches) {
    let (sender, receiver) = mpsc::channel::<RecordBatch>(AHEAD);
    let state: Option<(Receiver<RecordBatch>, Arc<AtomicBool>)> = Some((receiver, whole.clone()));
    let batches = futures::stream::unfold(state, |state| async move {
        let (mut receiver, whole) = state?;
        if let Some(batch) = receiver.recv().await {
            return Some((Ok(batch), Some((receiver, whole))));
        }
        let cut = || Error::new(Stage::Batch, Class::Outside, "the rows of a date were not read to their end");
        (!whole.load(Relaxed)).then(|| (Err(cut()), None))
    });
    (sender, batches.boxed())
}

async fn pass(mut part: NumberedBatches, rules: &Rules, outlets: &Outlets, meter: &Meter) -> Result<Passed> {
    let mut passed = Passed::none(rules.date)?;
    while let Some(numbered) = part.next().await.transpose()? {
        Meter::add(&meter.rows, numbered.batch.num_rows() as u64);
        let (counted, copies) = split(&numbered, rules)?;
        passed.count(&counted, rules, false)?;
        send(&outlets.counted, counted).await;
        if let Some(copies) = copies {
            passed.count(&copies, rules, true)?;
            send(&outlets.duplicates, copies).await;
        }
        if outlets.counted.iter().all(Sender::is_closed) {
            break;
        }
    }
    Ok(passed)
}

/// Gives a batch to whoever takes from these.
pub async fn send(outlets: &[Sender<RecordBatch>], batch: RecordBatch) {
    if batch.num_rows() == 0 {
        return;
    }
    for outlet in outlets {
        // an aggregate that is gone has an error of its own to tell
        let _ = outlet.send(batch.clone()).await;
    }
}

/// The rows that count, and the copies if there are any.
fn split(numbered: &Numbered, rules: &Rules) -> Result<(RecordBatch, Option<RecordBatch>)> {
    let Numbered { first, batch } = numbered;
    let count = batch.num_rows();
    let marks = |marked: &Marked| -> Option<BooleanArray> {
        if marked.count() == 0 {
            return None;
        }
        let marks: Vec<bool> = (*first..).take(count).map(|number| marked.contains(number)).collect();
        marks.contains(&true).then(|| marks.into())
    };
    let (copies, outside) = (marks(&rules.ids.duplicates), marks(&rules.ids.outside));
    let left_out = match (&copies, &outside) {
        (None, None) => return Ok((batch.clone(), None)),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (Some(a), Some(b)) => arrow::compute::or(a, b).map_err(failed)?,
    };
    let counted = arrow::compute::not(&left_out).and_then(|mask| filter_record_batch(batch, &mask)).map_err(failed)?;
    let copies = copies.map(|mask| filter_record_batch(batch, &mask).map_err(failed)).transpose()?;
    Ok((counted, copies))
}

impl Passed {
    fn count(&mut self, batch: &RecordBatch, rules: &Rules, are_copies: bool) -> Result<()> {
        let rows = batch.num_rows() as u64;
        self.read += rows;
        for at in event_times(batch, &rules.event_time)?.values() {
            self.landed.add(*at)?;
            if are_copies {
                self.copies.add(*at)?;
            }
        }
        if are_copies {
            self.duplicates += rows;
            return Ok(());
        }
        let behind = primitive::<Int64Type>(batch, "_behind_ms")?;
        self.late += behind.iter().flatten().filter(|ms| *ms > rules.lateness_ms).count() as u64;
        Ok(())
    }
}

fn failed(e: arrow::error::ArrowError) -> Error {
    Error::new(Stage::Batch, Class::Internal, "rows cannot be split").because(e)
}

//! Decodes rejects again under today's contract; what is good now goes to raw, as a fill under its old place.
//!
//! A message is judged as if it were read from Kafka now: its event time against its old Kafka time, or against the
//! clock where it has none. So what was ahead of *our* clock then is fine now, and what claims to be younger than
//! the broker that took it in is still refused, however old it has grown.
//!
//! Each portion goes to raw first, and is said to be redriven second. Who dies in between leaves places in raw that
//! nobody has said so of: they count as redriven all the same, and the next run says it.
//!
//! Invariants: D1 the rejects table is never written; D2 twice redriven adds nothing, by whomever and at the same
//! time; D3 memory holds one portion.

use super::current::Current;
use super::filter::Filter;
use super::resolutions::{Author, Settled};
use super::select::{LeftOut, files, heads, taken, to_chunk, topics, whole};
use crate::batch::{conform, texts};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::fill::{Added, Filler, Part, Pushed, Stamper};
use crate::lake::{Lake, LiveFile};
use crate::project::settings::{Pipeline, Settings};
use arrow::array::RecordBatch;
use deltaworks_core::resolution::{Resolution, Standing};
use futures::TryStreamExt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A portion may take this share of the memory that the project has, as rows: their files take more.
const PORTION_SHARE: usize = 16;
/// Bytes that a place costs until it is said to be redriven.
const PLACE_BYTES: usize = 96;
/// Topics (files have one each) that are decoded side by side.
const STAMPERS_MAX: usize = 64;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RedriveOptions {
    /// Id of the run.
    pub run_id: String,
    /// Which rejects.
    pub filter: Filter,
    /// Those too that were discarded.
    pub discarded_too: bool,
}

/// What a redrive did, or would do.
#[derive(Debug, Default, Serialize)]
pub struct RedriveReport {
    /// Messages that pass now, by the reason for which they were refused.
    pub passed: BTreeMap<String, u64>,
    /// Messages that do not, by the same: they keep it.
    pub refused: BTreeMap<String, u64>,
    /// The same messages by the reason that today's contract has.
    pub refused_for: BTreeMap<String, u64>,
    /// Messages that a rule leaves out now; they stay open.
    pub skipped: u64,
    /// Meant, and not looked at.
    pub left_out: LeftOut,
    /// Rows that raw has now, and had not before.
    pub landed: u64,
    /// Resolutions that an earlier run did not get to write.
    pub repaired: u64,
    /// The fills that brought them.
    pub fills: Vec<i64>,
    /// Version of raw afterwards.
    pub version: Option<i64>,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

impl RedriveReport {
    /// Whether nothing changed, and nothing kept it from changing.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.landed == 0 && self.repaired == 0 && self.error.is_none()
    }
}

/// Decodes, counts, and writes nothing.
///
/// # Errors
/// The filter means nothing; a table cannot be read.
pub async fn plan_redrive(
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    options: &RedriveOptions,
    clock: &Clock,
) -> Result<RedriveReport> {
    plan_redrive_on(&Lake::open(&settings.lake)?, settings, pipeline, options, clock).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`plan_redrive`].
pub async fn plan_redrive_on(
    lake: &Lake,
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    options: &RedriveOptions,
    clock: &Clock,
) -> Result<RedriveReport> {
    let mut report = RedriveReport::default();
    let redrive = Redrive::begin(lake, settings, pipeline, options, clock, false).await?;
    if let Some(redrive) = redrive {
        redrive.run(&mut report, &CancellationToken::new()).await?;
    }
    Ok(report)
}

/// Redrives; the report says how far it got, also if it failed.
pub async fn redrive(
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    options: &RedriveOptions,
    clock: &Clock,
    stop: &CancellationToken,
) -> RedriveReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => redrive_on(&lake, settings, pipeline, options, clock, stop).await,
        Err(error) => RedriveReport { error: Some(error), ..RedriveReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn redrive_on(
    lake: &Lake,
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    options: &RedriveOptions,
    clock: &Clock,
    stop: &CancellationToken,
) -> RedriveReport {
    let mut report = RedriveReport::default();
    let ended = async {
        let redrive = Redrive::begin(lake, settings, pipeline, options, clock, true).await?;
        match redrive {
            Some(redrive) => redrive.run(&mut report, stop).await,
            None => Ok(()),
        }
    };
    let ended = ended.await;
    report.error = ended.err();
    report
}

/// One run.
struct Redrive<'r> {
    lake: &'r Lake,
    pipeline: &'r Arc<Pipeline>,
    options: &'r RedriveOptions,
    clock: &'r Clock,
    current: Current,
    /// `None` writes nothing.
    filler: Option<Filler>,
    portion: Portion,
    portion_bytes_max: usize,
    /// Others redrove the same: what is in raw has to be looked up.
    others: bool,
}

/// What waits for the next fill.
#[derive(Default)]
struct Portion {
    stampers: BTreeMap<String, Stamper>,
    settled: Vec<Settled>,
}

impl Portion {
    fn is_full(&self, bytes_max: usize) -> bool {
        let bytes = self.stampers.values().map(Stamper::bytes).sum::<usize>() + self.settled.len() * PLACE_BYTES;
        bytes >= bytes_max || self.stampers.len() >= STAMPERS_MAX
    }
}

impl<'r> Redrive<'r> {
    /// `None` if there are no rejects at all.
    async fn begin(
        lake: &'r Lake,
        settings: &'r Settings,
        pipeline: &'r Arc<Pipeline>,
        options: &'r RedriveOptions,
        clock: &'r Clock,
        writes: bool,
    ) -> Result<Option<Self>> {
        options.filter.validate()?;
        let Some(current) = Current::load(lake, &pipeline.name).await? else { return Ok(None) };
        let filler = match writes {
            true => Some(Filler::open(lake, pipeline, &*options.run_id).await?),
            false => None,
        };
        let portion_bytes_max = settings.memory_bytes / PORTION_SHARE;
        let portion_bytes_max = portion_bytes_max.min(usize::try_from(pipeline.commit.bytes).unwrap_or(usize::MAX));
        let portion = Portion::default();
        Ok(Some(Self { lake, pipeline, options, clock, current, filler, portion, portion_bytes_max, others: false }))
    }

    async fn run(mut self, report: &mut RedriveReport, stop: &CancellationToken) -> Result<()> {
        if self.filler.is_some() {
            let unsaid = std::mem::take(&mut self.current.unsaid);
            report.repaired += self.say(&unsaid).await?;
        }
        for file in files(&self.current, &self.options.filter).await? {
            self.file(&file, report, stop).await?;
            if stop.is_cancelled() {
                report.stopped = true;
                break;
            }
        }
        self.flush(report).await?;
        if self.others
            && let Some(again) = Current::load(self.lake, &self.pipeline.name).await?
        {
            self.say(&again.unsaid).await?;
        }
        if let Some(filler) = self.filler {
            filler.end().await;
        }
        Ok(())
    }

    async fn file(&mut self, file: &LiveFile, report: &mut RedriveReport, stop: &CancellationToken) -> Result<()> {
        let (filter, discarded_too) = (self.options.filter.clone(), self.options.discarded_too);
        let may = move |standing: Standing| standing.may_be_redriven(discarded_too);
        let (mut any, mut left_out) = (false, LeftOut::default());
        let current = &self.current;
        heads(current, file, |batch| {
            any |= taken(batch, &filter, current, may, &mut left_out)?.contains(&true);
            Ok(())
        })
        .await?;
        let add = |sum: &mut u64, more: u64| *sum += more;
        add(&mut report.left_out.redriven, left_out.redriven);
        add(&mut report.left_out.discarded, left_out.discarded);
        add(&mut report.left_out.pending, left_out.pending);
        if !any {
            return Ok(());
        }
        let (columns, schema) = whole();
        let mut batches = self.current.rejects.read_file(file, &columns).await?;
        while let Some(batch) = batches.try_next().await? {
            let batch = conform(&batch, &file.partition_values, &schema)?;
            let rows = taken(&batch, &filter, &self.current, may, &mut LeftOut::default())?;
            for topic in topics(&batch, &rows)? {
                self.decode(&batch, &rows, &topic, report).await?;
            }
            if stop.is_cancelled() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Decodes the rows of one topic, portion by portion.
    async fn decode(
        &mut self,
        batch: &RecordBatch,
        taken: &[bool],
        topic: &str,
        report: &mut RedriveReport,
    ) -> Result<()> {
        let (chunk, rows) = to_chunk(batch, taken, topic, self.clock.now_ms())?;
        let reasons = texts(batch, "reason")?;
        for (message, row) in chunk.iter().zip(rows) {
            let reason = reasons.value(row);
            let stamper = match self.portion.stampers.entry(topic.to_owned()) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(Stamper::new(self.pipeline, topic)?),
            };
            match stamper.push(&message)? {
                Pushed::Row => {
                    *report.passed.entry(reason.to_owned()).or_default() += 1;
                    let (topic, partition) = (topic.to_owned(), message.partition());
                    self.portion.settled.push(Settled { topic, partition, offset: message.offset(), fill: None });
                }
                // it is in rejects already, and keeps its reason
                Pushed::Refused(now) => {
                    *report.refused.entry(reason.to_owned()).or_default() += 1;
                    *report.refused_for.entry(now.reason.as_str().to_owned()).or_default() += 1;
                }
                Pushed::Skipped => report.skipped += 1,
            }
            if self.portion.is_full(self.portion_bytes_max) {
                self.flush(report).await?;
            }
        }
        Ok(())
    }

    /// Brings the portion to raw, and says so.
    async fn flush(&mut self, report: &mut RedriveReport) -> Result<()> {
        let Portion { stampers, mut settled } = std::mem::take(&mut self.portion);
        let mut rows = Vec::new();
        for mut stamper in stampers.into_values() {
            rows.extend(stamper.finish()?.0);
        }
        let Some(filler) = &mut self.filler else { return Ok(()) };
        if settled.is_empty() {
            return Ok(());
        }
        let part = Part { source: "redrive".to_owned(), rows, ..Part::default() };
        let Added { fill, version, landed, already, .. } = filler.add(&part).await?;
        report.landed += landed;
        report.fills.extend(fill);
        report.version = version.or(report.version);
        if already > 0 {
            self.others = true;
            return Ok(());
        }
        settled.iter_mut().for_each(|row| row.fill = fill);
        self.say(&settled).await.map(drop)
    }

    /// Says that places are redriven.
    async fn say(&mut self, settled: &[Settled]) -> Result<u64> {
        let by = Author { run_id: self.options.run_id.clone(), because: None };
        self.current.resolutions.append(settled, Resolution::Redriven, &by, self.clock.now_ms()).await
    }
}

//! Ranges that the stream has passed, read from Kafka once more: what is nowhere yet, neither in raw nor in rejects,
//! becomes rows and rejects.
//!
//! What was rejected stays a reject, and rows of dates that retention has removed are left out. `next` and everything
//! else that the stream goes by is not touched, so reading again may be interrupted, repeated, or done twice at once.
//!
//! Invariants: W1 no place gets a second row; W2 nothing at or above `next` is written; W3 memory holds one portion
//! and the places of the ranges; W4 progress moves with the last portion.

use super::filler::{Filler, Part, Progress};
use super::kafka::{Ranges, Reading};
use super::places::{PLACE, Places, each_place, scan};
use super::stamper::{Pushed, Stamper};
use crate::batch::{primitive, removed_from};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::kafka::message::Chunk;
use crate::lake::{Lake, LiveFile, Table};
use crate::land::tables::{raw_name, rejects_name, wants_headers};
use crate::project::settings::{Pipeline, Settings};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Date32Type;
use deltaworks_core::place::OffsetRange;
use deltaworks_core::progress::AppIds;
use deltaworks_core::units::Removed;
use deltaworks_core::windows::date_of_epoch_days;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A portion may take this share of the memory that the project has, as rows: their files take more.
const PORTION_SHARE: usize = 16;

/// What is asked for.
#[derive(Debug)]
pub struct Again<'a> {
    /// Id of the run.
    pub run_id: &'a str,
    /// Where rows come from, for the log: `rewind`, `backfill <id>`.
    pub source: String,
    /// Below `next` of each partition.
    pub ranges: &'a Ranges,
    /// Read and count, write nothing.
    pub dry_run: bool,
    /// Moves when all of the ranges is in.
    pub progress: Option<Progress>,
}

/// What reading again did, or would do.
#[derive(Debug, Default, Serialize)]
pub struct Reread {
    /// Each partition that was read again.
    pub partitions: Vec<RangeRead>,
    /// Rows that raw has now, and had not before.
    pub landed: u64,
    /// Messages that rejects has now, and had not before.
    pub rejected: u64,
    /// Rows of dates that retention has removed: they were left out.
    pub beyond_retention: u64,
    /// The fills that brought them.
    pub fills: Vec<i64>,
    /// Version of raw afterwards.
    pub version: Option<i64>,
    /// Whether somebody else moved the progress meanwhile: the ranges are theirs.
    #[serde(skip)]
    pub elsewhere: bool,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

impl Reread {
    /// Whether nothing changed, and nothing kept it from changing.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.landed == 0 && self.rejected == 0 && self.error.is_none()
    }
}

/// One partition that was read again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RangeRead {
    /// Partition.
    pub partition: i32,
    /// First offset of the range.
    pub from: i64,
    /// Where it ended: `next`.
    pub to: i64,
    /// Readable messages in it.
    pub messages: u64,
    /// Offsets that hold none.
    pub gaps: u64,
    /// Messages whose row is in raw.
    pub in_raw: u64,
    /// Messages that are in rejects only.
    pub in_rejects: u64,
    /// Messages that were nowhere, and become rows.
    pub landed: u64,
    /// Messages that were nowhere, and become rejects.
    pub rejected: u64,
    /// Messages that a rule leaves out.
    pub skipped: u64,
    /// Messages that would be there twice.
    pub duplicates: u64,
}

impl Again<'_> {
    /// Reads, and fills in; the report says how far it got, also if it failed.
    ///
    /// # Errors
    /// The broker or the store fails; a table is gone.
    pub async fn read(
        &self,
        lake: &Lake,
        settings: &Settings,
        pipeline: &Arc<Pipeline>,
        clock: &Clock,
        stop: &CancellationToken,
        report: &mut Reread,
    ) -> Result<()> {
        let mut running = Running::begin(lake, settings, pipeline, self).await?;
        let (topic, ranges) = (&pipeline.topic, self.ranges.clone());
        let mut reading = Reading::begin(&settings.kafka, topic, ranges, wants_headers(pipeline), clock);
        while let Some(chunk) = reading.next().await? {
            running.take(chunk)?;
            if running.stamper.bytes() >= running.portion_bytes_max {
                running.flush(report, None).await?;
            }
            if stop.is_cancelled() {
                report.stopped = true;
                break;
            }
        }
        let progress = self.progress.clone().filter(|_| !report.stopped);
        running.flush(report, progress).await?;
        for (partition, passed) in reading.passed() {
            if let Some(read) = running.partitions.get_mut(&partition) {
                (read.messages, read.gaps) = (passed.messages, if report.stopped { 0 } else { passed.gaps });
            }
        }
        report.partitions.extend(running.partitions.into_values());
        if let Some(filler) = running.filler.take() {
            filler.end().await;
        }
        Ok(())
    }
}

/// One run.
struct Running {
    topic: String,
    /// Where rows come from, for the log.
    source: String,
    in_raw: Places,
    in_rejects: Places,
    stamper: Stamper,
    /// Dates that raw no longer keeps.
    removed: Removed,
    /// `None` writes nothing.
    filler: Option<Filler>,
    partitions: BTreeMap<i32, RangeRead>,
    portion_bytes_max: usize,
}

impl Running {
    async fn begin(lake: &Lake, settings: &Settings, pipeline: &Arc<Pipeline>, asked: &Again<'_>) -> Result<Self> {
        let ranges = asked.ranges;
        // rejects first: a redrive that goes on meanwhile moves places from there to raw
        let mut in_rejects = Places::default();
        let rejects = lake.open_table(&rejects_name(pipeline)).await?;
        let missing = || Error::new(Stage::Fill, Class::Outside, format!("table `{}` is gone", raw_name(pipeline)));
        let raw = lake.open_table(&raw_name(pipeline)).await?.ok_or_else(missing)?;
        let topic = AppIds::new(&pipeline.name).read(&pipeline.topic, raw.txns()).topic;
        if let Some(rejects) = &rejects {
            in_rejects = places_in(rejects, &topic, ranges).await?;
        }
        let in_raw = places_in(&raw, &topic, ranges).await?;
        let filler = match asked.dry_run {
            true => None,
            false => Some(Filler::open(lake, pipeline, asked.run_id).await?),
        };
        let portion_bytes_max = settings.memory_bytes / PORTION_SHARE;
        let portion_bytes_max = portion_bytes_max.min(usize::try_from(pipeline.commit.bytes).unwrap_or(usize::MAX));
        let begun = |(partition, range): (&i32, &OffsetRange)| {
            let (from, to) = (range.from.0, range.to.0);
            (*partition, RangeRead { partition: *partition, from, to, ..RangeRead::default() })
        };
        Ok(Self {
            stamper: Stamper::new(pipeline, &topic)?,
            source: asked.source.clone(),
            removed: removed_from(&pipeline.name, &raw),
            partitions: ranges.iter().map(begun).collect(),
            topic,
            in_raw,
            in_rejects,
            filler,
            portion_bytes_max,
        })
    }

    /// Decodes what is nowhere yet.
    fn take(&mut self, mut chunk: Chunk) -> Result<()> {
        let (in_raw, in_rejects, topic, partitions) =
            (&self.in_raw, &self.in_rejects, &self.topic, &mut self.partitions);
        chunk.messages.retain(|message| {
            let Some(read) = partitions.get_mut(&message.partition) else { return false };
            if in_raw.contains(topic, message.partition, message.offset) {
                read.in_raw += 1;
                return false;
            }
            if in_rejects.contains(topic, message.partition, message.offset) {
                read.in_rejects += 1;
                return false;
            }
            true
        });
        for message in chunk.iter() {
            let pushed = self.stamper.push(&message)?;
            let Some(read) = self.partitions.get_mut(&message.partition()) else { continue };
            match pushed {
                Pushed::Row => read.landed += 1,
                Pushed::Refused(refusal) => {
                    read.rejected += 1;
                    self.stamper.reject(&message, &refusal)?;
                }
                Pushed::Skipped => read.skipped += 1,
            }
        }
        Ok(())
    }

    /// The rows of dates that retention has not removed.
    fn kept(&self, rows: Vec<RecordBatch>, report: &mut Reread) -> Result<Vec<RecordBatch>> {
        if self.removed.through.is_none() {
            return Ok(rows);
        }
        let mut kept = Vec::new();
        for batch in rows {
            let dates = primitive::<Date32Type>(&batch, "event_date")?;
            let is_removed = |days| date_of_epoch_days(days).is_some_and(|date| self.removed.contains(date));
            let mask: BooleanArray = dates.values().iter().map(|days| Some(!is_removed(*days))).collect();
            let some = filter_record_batch(&batch, &mask)
                .map_err(|e| Error::new(Stage::Fill, Class::Internal, "rows cannot be filtered").because(e))?;
            report.beyond_retention += (batch.num_rows() - some.num_rows()) as u64;
            kept.extend((some.num_rows() > 0).then_some(some));
        }
        Ok(kept)
    }

    /// Fills in what was decoded.
    async fn flush(&mut self, report: &mut Reread, progress: Option<Progress>) -> Result<()> {
        let (rows, rejects) = self.stamper.finish()?;
        let rows = self.kept(rows, report)?;
        let Some(filler) = &mut self.filler else { return Ok(()) };
        if rows.is_empty() && rejects.is_empty() && progress.is_none() {
            return Ok(());
        }
        let part = Part { source: self.source.clone(), rows, rejects, progress, ..Part::default() };
        let added = filler.add(&part).await?;
        report.elsewhere |= added.elsewhere;
        report.landed += added.landed;
        report.rejected += added.rejected;
        report.fills.extend(added.fill);
        report.version = added.version.or(report.version);
        Ok(())
    }
}

/// Places of a table in these ranges.
async fn places_in(table: &Table, topic: &str, ranges: &Ranges) -> Result<Places> {
    let mut found = Places::default();
    let wanted = |file: &LiveFile| {
        let (first, last) = file.bounds_of("_partition").unwrap_or((i64::MIN, i64::MAX));
        let (least, greatest) = file.bounds_of("_offset").unwrap_or((i64::MIN, i64::MAX));
        ranges.iter().any(|(partition, range)| {
            (first..=last).contains(&i64::from(*partition)) && least < range.to.0 && greatest >= range.from.0
        })
    };
    let take = |batch: &RecordBatch| {
        each_place(batch, |_, of, partition, offset| {
            let inside = ranges.get(&partition).is_some_and(|range| range.from.0 <= offset && offset < range.to.0);
            if inside && of == topic {
                found.insert(of, partition, offset);
            }
        })
    };
    let mut files = table.live_files().await?;
    files.retain(wanted);
    scan(table, files, &PLACE, take).await?;
    Ok(found)
}

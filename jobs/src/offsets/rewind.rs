//! Reads a range below `next` from Kafka again, and fills in what is nowhere yet: neither in raw nor in rejects.
//!
//! What was rejected stays with `rejects redrive`, what was discarded stays discarded, and rows of dates that
//! retention has removed are left out. `next` and everything else that the stream goes by is not touched, so a
//! rewind may be interrupted, repeated, or run twice at once.
//!
//! Invariants: W1 no place gets a second row; W2 nothing at or above `next` is written; W3 memory holds one portion
//! and the places of the range.

use super::audit::{Audit, record};
use super::plan::{Act, PartitionPlan, Targets, judged};
use crate::batch::{Run, primitive, removed_from};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::fill::kafka::{Ranges, Reading};
use crate::fill::{Filler, PLACE, Part, Places, Pushed, Stamper, each_place, scan};
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
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A portion may take this share of the memory that the project has, as rows: their files take more.
const PORTION_SHARE: usize = 16;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RewindOptions {
    /// Id of the run.
    pub run_id: String,
    /// Which partitions, and how far back.
    pub targets: Targets,
    /// Read and count, write nothing.
    pub dry_run: bool,
}

/// What a rewind did, or would do.
#[derive(Debug, Default, Serialize)]
pub struct RewindReport {
    /// Each partition that was read again.
    pub partitions: Vec<Rewound>,
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
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

impl RewindReport {
    /// Whether nothing changed, and nothing kept it from changing.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.landed == 0 && self.rejected == 0 && self.error.is_none()
    }
}

/// One partition that was read again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Rewound {
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

/// Rewinds; the report says how far it got, also if it failed.
pub async fn rewind(
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    options: &RewindOptions,
    clock: &Clock,
    stop: &CancellationToken,
) -> RewindReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => rewind_on(&lake, settings, pipeline, options, clock, stop).await,
        Err(error) => RewindReport { error: Some(error), ..RewindReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn rewind_on(
    lake: &Lake,
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    options: &RewindOptions,
    clock: &Clock,
    stop: &CancellationToken,
) -> RewindReport {
    let mut report = RewindReport::default();
    let ended = carry_out(lake, settings, pipeline, options, clock, stop, &mut report).await;
    report.error = ended.err();
    report
}

async fn carry_out(
    lake: &Lake,
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    options: &RewindOptions,
    clock: &Clock,
    stop: &CancellationToken,
    report: &mut RewindReport,
) -> Result<()> {
    let plans = judged(lake, settings, pipeline, &options.targets).await?;
    let ranges = ranges(pipeline, &plans)?;
    if ranges.is_empty() {
        return Ok(());
    }
    let run = Run::new(&options.run_id);
    let began_ms = clock.now_ms();
    let mut rewind = Rewind::begin(lake, settings, pipeline, options, &ranges).await?;
    if !options.dry_run {
        let raw = rewind.table_id.clone();
        let detail = json!({ "partitions": plans });
        let audit = Audit { job: "offsets rewind", table_id: &raw, version: rewind.version, rows: 0, detail };
        record(lake, pipeline, &audit, "begun", &run, (began_ms, began_ms)).await?;
    }
    let mut reading = Reading::begin(&settings.kafka, &pipeline.topic, ranges.clone(), wants_headers(pipeline), clock);
    while let Some(chunk) = reading.next().await? {
        rewind.take(chunk)?;
        if rewind.stamper.bytes() >= rewind.portion_bytes_max {
            rewind.flush(report).await?;
        }
        if stop.is_cancelled() {
            report.stopped = true;
            break;
        }
    }
    rewind.flush(report).await?;
    for (partition, passed) in reading.passed() {
        if let Some(rewound) = rewind.partitions.get_mut(&partition) {
            (rewound.messages, rewound.gaps) = (passed.messages, if report.stopped { 0 } else { passed.gaps });
        }
    }
    report.partitions = rewind.partitions.values().cloned().collect();
    if let Some(filler) = rewind.filler.take() {
        filler.end().await;
    }
    if !options.dry_run && !report.stopped {
        let version = report.version.unwrap_or(rewind.version);
        let (table_id, detail) = (&rewind.table_id, json!({ "partitions": report.partitions }));
        let audit = Audit { job: "offsets rewind", table_id, version, rows: report.landed, detail };
        record(lake, pipeline, &audit, "done", &run, (began_ms, clock.now_ms())).await?;
    }
    Ok(())
}

/// What is read of each partition; refuses what the broker no longer holds, and what the stream has yet to read.
fn ranges(pipeline: &Pipeline, plans: &[PartitionPlan]) -> Result<Ranges> {
    let mut ranges = Ranges::new();
    for plan in plans {
        let place = format!("{}/{}", pipeline.topic, plan.partition);
        if plan.act == Act::Skip {
            let message = format!("{place}: the stream goes on at {}, and has yet to read {}", plan.next, plan.to);
            return Err(Error::new(Stage::Fill, Class::User, message).hint(
                "`offsets rewind` reads again what the stream has passed; `offsets skip` leaves out what is ahead",
            ));
        }
        if plan.gone > 0 {
            let message =
                format!("{place}: the broker no longer holds offsets below {}, asked for is {}", plan.low, plan.to);
            return Err(Error::new(Stage::Fill, Class::InputLost, message).hint(format!(
                "`--to {}` reads what is left; older messages may be in files or an archive",
                plan.low
            )));
        }
        if plan.reads > 0 {
            ranges.insert(plan.partition, OffsetRange::new(plan.to, plan.next));
        }
    }
    Ok(ranges)
}

/// One run.
struct Rewind {
    topic: String,
    table_id: String,
    /// Of raw, when it began.
    version: i64,
    in_raw: Places,
    in_rejects: Places,
    stamper: Stamper,
    /// Dates that raw no longer keeps.
    removed: Removed,
    /// `None` writes nothing.
    filler: Option<Filler>,
    partitions: BTreeMap<i32, Rewound>,
    portion_bytes_max: usize,
}

impl Rewind {
    async fn begin(
        lake: &Lake,
        settings: &Settings,
        pipeline: &Arc<Pipeline>,
        options: &RewindOptions,
        ranges: &Ranges,
    ) -> Result<Self> {
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
        let filler = match options.dry_run {
            true => None,
            false => Some(Filler::open(lake, pipeline, &*options.run_id).await?),
        };
        let portion_bytes_max = settings.memory_bytes / PORTION_SHARE;
        let portion_bytes_max = portion_bytes_max.min(usize::try_from(pipeline.commit.bytes).unwrap_or(usize::MAX));
        let begun = |(partition, range): (&i32, &OffsetRange)| {
            let (from, to) = (range.from.0, range.to.0);
            (*partition, Rewound { partition: *partition, from, to, ..Rewound::default() })
        };
        Ok(Self {
            stamper: Stamper::new(pipeline, &topic)?,
            table_id: raw.id().to_owned(),
            version: raw.version(),
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
            let Some(rewound) = partitions.get_mut(&message.partition) else { return false };
            if in_raw.contains(topic, message.partition, message.offset) {
                rewound.in_raw += 1;
                return false;
            }
            if in_rejects.contains(topic, message.partition, message.offset) {
                rewound.in_rejects += 1;
                return false;
            }
            true
        });
        for message in chunk.iter() {
            let pushed = self.stamper.push(&message)?;
            let Some(rewound) = self.partitions.get_mut(&message.partition()) else { continue };
            match pushed {
                Pushed::Row => rewound.landed += 1,
                Pushed::Refused(refusal) => {
                    rewound.rejected += 1;
                    self.stamper.reject(&message, &refusal)?;
                }
                Pushed::Skipped => rewound.skipped += 1,
            }
        }
        Ok(())
    }

    /// The rows of dates that retention has not removed.
    fn kept(&self, rows: Vec<RecordBatch>, report: &mut RewindReport) -> Result<Vec<RecordBatch>> {
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
    async fn flush(&mut self, report: &mut RewindReport) -> Result<()> {
        let (rows, rejects) = self.stamper.finish()?;
        let rows = self.kept(rows, report)?;
        let Some(filler) = &mut self.filler else { return Ok(()) };
        if rows.is_empty() && rejects.is_empty() {
            return Ok(());
        }
        let part = Part { source: "rewind".to_owned(), rows, rejects, ..Part::default() };
        let added = filler.add(&part).await?;
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

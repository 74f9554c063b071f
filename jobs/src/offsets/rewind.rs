//! Reads a range below `next` from Kafka again, and fills in what is nowhere yet: neither in raw nor in rejects.
//!
//! What was rejected stays with `rejects redrive`, what was discarded stays discarded, and rows of dates that
//! retention has removed are left out. `next` and everything else that the stream goes by is not touched, so a
//! rewind may be interrupted, repeated, or run twice at once.
//!
//! Invariant W1: what is done is told before and after, in `ops.runs`.

use super::audit::{Audit, record};
use super::plan::{Act, PartitionPlan, Targets, judged};
use crate::batch::Run;
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::fill::kafka::Ranges;
use crate::fill::{Again, Reread};
use crate::lake::Lake;
use crate::land::tables::raw_name;
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::place::OffsetRange;
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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

/// Rewinds; the report says how far it got, also if it failed.
pub async fn rewind(
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    options: &RewindOptions,
    clock: &Clock,
    stop: &CancellationToken,
) -> Reread {
    match Lake::open(&settings.lake) {
        Ok(lake) => rewind_on(&lake, settings, pipeline, options, clock, stop).await,
        Err(error) => Reread { error: Some(error), ..Reread::default() },
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
) -> Reread {
    let mut report = Reread::default();
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
    report: &mut Reread,
) -> Result<()> {
    let plans = judged(lake, settings, pipeline, &options.targets).await?;
    let ranges = ranges(pipeline, &plans)?;
    if ranges.is_empty() {
        return Ok(());
    }
    let run = Run::new(&options.run_id);
    let began_ms = clock.now_ms();
    let raw = lake.open_table(&raw_name(pipeline)).await?;
    let (table_id, version) = raw.map_or_else(Default::default, |raw| (raw.id().to_owned(), raw.version()));
    if !options.dry_run {
        let detail = json!({ "partitions": plans });
        let audit = Audit { job: "offsets rewind", table_id: &table_id, version, rows: 0, detail };
        record(lake, pipeline, &audit, "begun", &run, (began_ms, began_ms)).await?;
    }
    let again = Again {
        run_id: &options.run_id,
        source: "rewind".to_owned(),
        ranges: &ranges,
        dry_run: options.dry_run,
        progress: None,
    };
    again.read(lake, settings, pipeline, clock, stop, report).await?;
    if !options.dry_run && !report.stopped {
        let version = report.version.unwrap_or(version);
        let detail = json!({ "partitions": report.partitions });
        let audit = Audit { job: "offsets rewind", table_id: &table_id, version, rows: report.landed, detail };
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

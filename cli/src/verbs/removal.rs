//! `tables retain|archive|forget`: rows that leave for good, and those that are kept elsewhere first.

use super::{one, settings};
use crate::args::{ArchiveCodec, Global, TablesArchive, TablesForget, TablesRetain};
use crate::ending::Ending;
use crate::output;
use crate::signals::Signals;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lake::Codec;
use deltaworks_jobs::upkeep::{self, ArchiveOptions, ForgetOptions, ForgetReport, RetainOptions};
use deltaworks_jobs::{Result, Stage};
use serde_json::json;
use std::collections::BTreeSet;

/// Removes dates that are kept no longer.
pub async fn retain(global: &Global, args: &TablesRetain) -> Result<Ending> {
    let settings = settings(global)?;
    let options = RetainOptions {
        run_id: deltaworks_jobs::run_id(),
        tables: args.tables.clone(),
        before: args.before,
        forced: args.force,
        archived_to: args.archived_to.clone(),
    };
    let now_ms = Clock::system().now_ms();
    if args.dry_run {
        let tables = upkeep::plan_retain(&settings, &options, now_ms).await?;
        return Ok(Ending::with(json!({ "status": "planned", "tables": tables })));
    }
    let signals = Signals::listen(Stage::Upkeep)?;
    let mut report = upkeep::retain(&settings, &options, now_ms, &signals.stop).await;
    let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
    let stopped = signals.class().filter(|_| stopped);
    Ok(Ending::job(&options.run_id, &report, stopped, idle && args.skip_exit_code).and_error(error))
}

/// Keeps dates elsewhere.
pub async fn archive(global: &Global, args: &TablesArchive) -> Result<Ending> {
    let settings = settings(global)?;
    let codec = match args.codec {
        ArchiveCodec::Zstd => Codec::Zstd,
        ArchiveCodec::Snappy => Codec::Snappy,
    };
    let options = ArchiveOptions { table: args.table.clone(), before: args.before, to: args.to.clone(), codec };
    if args.dry_run {
        let dates = upkeep::plan_archive(&settings, &options).await?;
        return Ok(Ending::with(json!({ "status": "planned", "dates": dates })));
    }
    let signals = Signals::listen(Stage::Upkeep)?;
    tracing::info!("archiving begins; the same command continues after an interruption");
    let mut report = upkeep::archive(&settings, &options, &signals.stop).await;
    let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
    let stopped = signals.class().filter(|_| stopped);
    Ok(Ending::job(&deltaworks_jobs::run_id(), &report, stopped, idle && args.skip_exit_code).and_error(error))
}

/// Removes a person's rows.
pub async fn forget(global: &Global, args: &TablesForget) -> Result<Ending> {
    let settings = settings(global)?;
    let options = ForgetOptions {
        run_id: deltaworks_jobs::run_id(),
        pipeline: one(&settings, &args.pipeline)?,
        key: args.key.clone(),
        because: args.because.clone(),
    };
    if args.dry_run {
        let dates = upkeep::plan_forget(&settings, &options).await?;
        return Ok(Ending::with(json!({ "status": "planned", "dates": dates })));
    }
    let signals = Signals::listen(Stage::Upkeep)?;
    tracing::info!(run_id = %options.run_id, "forgetting begins; the same command continues after an interruption");
    let mut report = upkeep::forget(&settings, &options, &signals.stop).await;
    let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
    if !report.dates.is_empty() {
        output::talk(&what_is_left(&report, &args.pipeline));
    }
    let stopped = signals.class().filter(|_| stopped);
    Ok(Ending::job(&options.run_id, &report, stopped, idle && args.skip_exit_code).and_error(error))
}

/// What the person is still in.
fn what_is_left(report: &ForgetReport, pipeline: &str) -> String {
    let tables: BTreeSet<&str> = report.dates.iter().map(|date| date.table.as_str()).collect();
    let tables = tables.into_iter().collect::<Vec<_>>().join(" ");
    format!(
        "older versions of these tables still hold the rows until they are vacuumed:\n  \
         deltaworks tables vacuum {tables} --older-than 1h\n\
         which keeps versions that batch has pinned since the day began: run it again tomorrow. Windows change with the \
         next `batch` and `reconcile`. Older versions of these, archives of raw.{pipeline} and the topic itself may hold \
         the rows still, and a topic that is read again lands them again."
    )
}

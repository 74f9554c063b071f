//! `tables retain|archive|forget`: rows that leave for good, and those that are kept elsewhere first.

use super::settings;
use crate::args::{ArchiveCodec, Global, TablesArchive, TablesForget, TablesRetain};
use crate::bar;
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::logging::Screen;
use crate::output;
use crate::signals::Signals;
use deltaworks_jobs::batch::meter::Meter;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lake::Codec;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::upkeep::{self, ArchiveOptions, ForgetOptions, ForgetReport, RetainOptions};
use deltaworks_jobs::{Result, Stage};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Removes dates that are kept no longer.
pub async fn retain(global: &Global, args: &TablesRetain, lineage: &Lineage) -> Result<Ending> {
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
    let work = async {
        let mut report = upkeep::retain(&settings, &options, now_ms, &signals.stop).await;
        let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
        let stopped = signals.class().filter(|_| stopped);
        let skipped = idle && args.skip_exit_code;
        Ok((Ending::job(&options.run_id, &report, stopped, skipped).and_error(error), Facts::default()))
    };
    lineage.around(&settings, Job::new(Kind::Retain, &options.run_id, &settings), work).await
}

/// Keeps dates elsewhere.
pub async fn archive(global: &Global, args: &TablesArchive, screen: &Screen, lineage: &Lineage) -> Result<Ending> {
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
    let run_id = deltaworks_jobs::run_id();
    let job = Job::new(Kind::Archive, &run_id, &settings);
    let job = job.of_pipelines(std::slice::from_ref(&args.table.name)).archiving_to(&args.to);
    let work = async {
        let meter = Arc::new(Meter::default());
        let work = upkeep::archive(&settings, &options, &meter, &signals.stop);
        let mut report = bar::around("archive", "dates", &meter, screen, work).await;
        let mut facts = Facts::default();
        for date in &report.dates {
            facts.kept.rows += date.rows;
            facts.kept.bytes += date.bytes;
            facts.kept.files += date.files;
        }
        facts.rows.insert(args.table.clone(), facts.kept.rows);
        let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
        let stopped = signals.class().filter(|_| stopped);
        let skipped = idle && args.skip_exit_code;
        Ok((Ending::job(&run_id, &report, stopped, skipped).and_error(error), facts))
    };
    lineage.around(&settings, job, work).await
}

/// Removes a person's rows.
pub async fn forget(global: &Global, args: &TablesForget, lineage: &Lineage) -> Result<Ending> {
    let settings = settings(global)?;
    let options = ForgetOptions {
        run_id: deltaworks_jobs::run_id(),
        pipeline: settings.pipeline(&args.pipeline)?.clone(),
        key: args.key.clone(),
        because: args.because.clone(),
    };
    if args.dry_run {
        let dates = upkeep::plan_forget(&settings, &options).await?;
        return Ok(Ending::with(json!({ "status": "planned", "dates": dates })));
    }
    let signals = Signals::listen(Stage::Upkeep)?;
    tracing::info!(run_id = %options.run_id, "forgetting begins; the same command continues after an interruption");
    let job = Job::new(Kind::Forget, &options.run_id, &settings).of_pipelines(std::slice::from_ref(&args.pipeline));
    let work = async {
        let mut report = upkeep::forget(&settings, &options, &signals.stop).await;
        let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
        if !report.dates.is_empty() {
            output::talk(&what_is_left(&report, &args.pipeline));
        }
        let stopped = signals.class().filter(|_| stopped);
        let skipped = idle && args.skip_exit_code;
        Ok((Ending::job(&options.run_id, &report, stopped, skipped).and_error(error), Facts::default()))
    };
    lineage.around(&settings, job, work).await
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

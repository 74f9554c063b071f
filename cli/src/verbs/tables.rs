//! `tables compact|retain|archive|forget|vacuum|checkpoint|describe|history`: upkeep of the tables, and what they are.

use super::{removal, settings};
use crate::args::{Format, Global, Tables, TablesCheckpoint, TablesCompact, TablesVacuum};
use crate::bar;
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::logging::Screen;
use crate::output;
use crate::signals::Signals;
use deltaworks_jobs::batch::meter::Meter;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::upkeep::{self, CompactOptions, Described, VacuumOptions};
use deltaworks_jobs::{Result, Stage};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;

const COMMITS: [&str; 7] = ["version", "time", "operation", "run_id", "files_added", "files_removed", "rows_added"];

/// One thing that a table is, as a person reads it.
#[derive(Serialize)]
struct Line {
    what: String,
    value: String,
}

/// Runs the verb.
pub async fn run(global: &Global, verb: &Tables, screen: &Screen, lineage: &Lineage) -> Result<Ending> {
    match verb {
        Tables::Compact(args) => compact(global, args, screen, lineage).await,
        Tables::Retain(args) => removal::retain(global, args, lineage).await,
        Tables::Archive(args) => removal::archive(global, args, screen, lineage).await,
        Tables::Forget(args) => removal::forget(global, args, lineage).await,
        Tables::Vacuum(args) => vacuum(global, args).await,
        Tables::Checkpoint(args) => checkpoint(global, args).await,
        Tables::Describe { table, format } => {
            let described = upkeep::describe(&settings(global)?, table).await?;
            match format {
                Format::Json => output::records(&[described], &[], Format::Json)?,
                other => output::records(&lines(&described), &["what", "value"], *other)?,
            }
            Ok(Ending::done())
        }
        Tables::History { table, limit, format } => {
            let commits = upkeep::history(&settings(global)?, table, *limit).await?;
            output::records(&commits, &COMMITS, *format)?;
            Ok(Ending::done())
        }
    }
}

async fn compact(global: &Global, args: &TablesCompact, screen: &Screen, lineage: &Lineage) -> Result<Ending> {
    let settings = settings(global)?;
    let options = CompactOptions {
        run_id: deltaworks_jobs::run_id(),
        tables: args.tables.clone(),
        before: args.before,
        target_bytes: args.target_size,
        sort_by: args.sort_by.clone(),
        files_min: 0,
    };
    if args.dry_run {
        let dates = upkeep::plan_compaction(&settings, &options).await?;
        return Ok(Ending::with(json!({ "status": "planned", "dates": dates })));
    }
    let signals = Signals::listen(Stage::Upkeep)?;
    tracing::info!(run_id = %options.run_id, "compaction begins; the same command continues after an interruption");
    let work = async {
        let meter = Arc::new(Meter::default());
        let work = upkeep::compact(&settings, &options, &meter, &signals.stop);
        let mut report = bar::around("compact", "dates", &meter, screen, work).await;
        let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
        let stopped = signals.class().filter(|_| stopped);
        let skipped = idle && args.skip_exit_code;
        Ok((Ending::job(&options.run_id, &report, stopped, skipped).and_error(error), Facts::default()))
    };
    lineage.around(&settings, Job::new(Kind::Compact, &options.run_id, &settings), work).await
}

async fn vacuum(global: &Global, args: &TablesVacuum) -> Result<Ending> {
    let settings = settings(global)?;
    let options = VacuumOptions { tables: args.tables.clone(), older_than: args.older_than, forced: args.force };
    let now_ms = Clock::system().now_ms();
    if args.dry_run {
        let tables = upkeep::plan_vacuum(&settings, &options, now_ms).await?;
        return Ok(Ending::with(json!({ "status": "planned", "tables": tables })));
    }
    let signals = Signals::listen(Stage::Upkeep)?;
    let mut report = upkeep::vacuum(&settings, &options, now_ms, &signals.stop).await;
    let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
    let stopped = signals.class().filter(|_| stopped);
    let run_id = deltaworks_jobs::run_id();
    Ok(Ending::job(&run_id, &report, stopped, idle && args.skip_exit_code).and_error(error))
}

async fn checkpoint(global: &Global, args: &TablesCheckpoint) -> Result<Ending> {
    let tables = upkeep::checkpoints(&settings(global)?, &args.tables, args.force, args.dry_run).await?;
    let idle = tables.iter().all(|table| !table.write);
    if args.dry_run {
        return Ok(Ending::with(json!({ "status": "planned", "tables": tables })));
    }
    let figures = json!({ "tables": tables });
    Ok(Ending::job(&deltaworks_jobs::run_id(), &figures, None, idle && args.skip_exit_code))
}

fn lines(table: &Described) -> Vec<Line> {
    let line = |what: &str, value: String| Line { what: what.to_owned(), value };
    let size = |bytes: Option<u64>| bytes.map_or_else(String::new, |bytes| bytes.to_string());
    let mut lines = vec![
        line("table", table.table.clone()),
        line("url", table.url.clone()),
        line("id", table.id.clone()),
        line("version", table.version.to_string()),
        line("rows", table.rows.to_string()),
        line("files", table.files.to_string()),
        line("bytes", table.bytes.to_string()),
        line("smallest file", size(table.smallest)),
        line("median file", size(table.median)),
        line("largest file", size(table.largest)),
        line("last checkpoint", table.checkpoint.map_or_else(|| "none".into(), |v| v.to_string())),
        line("versions since", table.versions_since_checkpoint.to_string()),
        line("partitioned by", table.partition_columns.join(", ")),
    ];
    lines.extend(table.columns.iter().map(|column| {
        let required = if column.nullable { "" } else { ", required" };
        line(&format!("column {}", column.name), format!("{}{required}", column.data_type))
    }));
    lines.extend(table.entries.iter().map(|(kind, found)| {
        let value = format!("{} from {} to {}", found["count"], found["least"], found["greatest"]);
        line(&format!("txn {kind}"), value)
    }));
    lines.extend(table.properties.iter().map(|(name, value)| line(name, value.clone().unwrap_or_default())));
    lines
}

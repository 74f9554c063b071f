//! `batch`: compute exact windows, and publish those that changed.

use super::settings;
use crate::args::{Batch, Format, Global};
use crate::bar;
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::logging::Screen;
use crate::output;
use crate::signals::Signals;
use deltaworks_core::units::Interval;
use deltaworks_jobs::batch::{self, BatchOptions, Tried, TryOptions, meter::Meter};
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::project::settings::Settings;
use deltaworks_jobs::{Class, Error, Result, Stage};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// Runs the verb.
pub async fn run(global: &Global, args: &Batch, screen: &Screen, lineage: &Lineage) -> Result<Ending> {
    let settings = settings(global)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if let (Some(from), Some(to)) = (args.interval_start, args.interval_end)
        && from >= to
    {
        return Err(Error::new(Stage::Batch, Class::User, format!("the interval ({from}, {to}] is empty")));
    }
    let parallel = args.max_parallel.map_or(cores, std::num::NonZero::get);
    if let Some(file) = &args.try_file {
        return try_out(&settings, args, file, parallel, global.quiet, screen).await;
    }
    let options = BatchOptions {
        run_id: deltaworks_jobs::run_id(),
        aggregates: args.aggregates.clone(),
        interval: Interval { from: args.interval_start, to: args.interval_end },
        forced: args.force,
        any_age: false,
        granularities: args.granularities.clone(),
        parallel,
        input_version: args.input_version,
        quality_first: args.before_publish,
    };
    if args.dry_run {
        let (units, left) = batch::plan_only(&settings, &options).await?;
        return Ok(Ending::with(json!({ "status": "planned", "units": units, "left": left })));
    }
    let job = Job::new(Kind::Batch, &options.run_id, &settings).of_aggregates(&args.aggregates, &settings);
    let work = compute(&settings, &options, args.skip_exit_code, screen);
    lineage.around(&settings, job.over(options.interval), work).await
}

async fn compute(
    settings: &Settings,
    options: &BatchOptions,
    skip_exit_code: bool,
    screen: &Screen,
) -> Result<(Ending, Facts)> {
    let signals = Signals::listen(Stage::Batch)?;
    let (meter, clock) = (Arc::new(Meter::default()), Clock::system());
    tracing::info!(run_id = %options.run_id, "batch begins; the same command continues after an interruption");
    let work = batch::batch(settings, options, &meter, &clock, &signals.stop);
    let mut report = bar::around("batch", "units", &meter, screen, work).await;
    let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
    let stopped = signals.class().filter(|_| stopped);
    let ending = Ending::job(&options.run_id, &report, stopped, idle && skip_exit_code).and_error(error);
    Ok((ending, Facts { rows: report.rows_of, rulings: report.rulings, ..Facts::default() }))
}

/// Prints the windows of an aggregate that need not be in the project.
async fn try_out(
    settings: &Settings,
    args: &Batch,
    file: &Path,
    parallel: usize,
    quiet: bool,
    screen: &Screen,
) -> Result<Ending> {
    let (Some(from), Some(to)) = (args.interval_start, args.interval_end) else {
        return Err(Error::new(Stage::Batch, Class::User, "`--try` needs an interval").hint(
            "add `--interval-start TIME --interval-end TIME`, RFC 3339 with offset: windows that end after the one and \
             by the other are computed",
        ));
    };
    let options = TryOptions {
        file: file.to_path_buf(),
        from,
        to,
        granularities: args.granularities.clone(),
        parallel,
        input_version: args.input_version,
    };
    let meter = Arc::new(Meter::default());
    let work = batch::try_out(settings, &options, &meter);
    let Tried { rows, open, valid_through } = bar::around("batch", "units", &meter, screen, work).await?;
    output::rows(rows, args.format.unwrap_or(Format::Table), None).await?;
    if !quiet && valid_through.is_none_or(|through| through < to) {
        let through = valid_through.map_or_else(|| "no instant yet".to_owned(), |through| through.to_string());
        output::talk(&format!(
            "raw is valid through {through}: windows that end later are left out, {open} of them on dates that have events"
        ));
    }
    Ok(Ending::done())
}

//! `speed catch-up` and `speed rebuild`: bring the states of open windows up to raw.

use super::settings;
use crate::args::{Global, Speed};
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::signals::Signals;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::speed::{self, SpeedOptions};
use deltaworks_jobs::{Result, Stage};
use serde_json::json;

/// Runs the verb.
pub async fn run(global: &Global, verb: &Speed, lineage: &Lineage) -> Result<Ending> {
    let settings = settings(global)?;
    let (args, rebuild) = match verb {
        Speed::CatchUp(args) => (args, false),
        Speed::Rebuild(args) => (args, true),
    };
    let options = SpeedOptions {
        run_id: deltaworks_jobs::run_id(),
        aggregates: args.aggregates.clone(),
        rebuild,
        parallel: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    if args.dry_run {
        let plans = speed::plan_only(&settings, &options).await?;
        return Ok(Ending::with(json!({ "status": "planned", "aggregates": plans })));
    }
    let signals = Signals::listen(Stage::Speed)?;
    tracing::info!(run_id = %options.run_id, "speed begins; the same command continues after an interruption");
    let kind = if rebuild { Kind::SpeedRebuild } else { Kind::SpeedCatchUp };
    let job = Job::new(kind, &options.run_id, &settings).of_aggregates(&args.aggregates, &settings);
    let work = async {
        let mut report = speed::run(&settings, &options, &signals.stop).await;
        let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
        let stopped = signals.class().filter(|_| stopped);
        let skipped = idle && args.skip_exit_code;
        Ok((Ending::job(&options.run_id, &report, stopped, skipped).and_error(error), Facts::default()))
    };
    lineage.around(&settings, job, work).await
}

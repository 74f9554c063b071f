//! `upkeep`: what is due for every table.

use super::settings;
use crate::args::{Global, Upkeep, UpkeepStep};
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::signals::Signals;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::upkeep::{self, Step, UpkeepOptions};
use deltaworks_jobs::{Result, Stage};
use serde_json::json;

/// Runs the verb.
pub async fn run(global: &Global, args: &Upkeep, lineage: &Lineage) -> Result<Ending> {
    let settings = settings(global)?;
    let skip = args.skip.iter().map(|step| match step {
        UpkeepStep::Retain => Step::Retain,
        UpkeepStep::Compact => Step::Compact,
        UpkeepStep::Checkpoint => Step::Checkpoint,
        UpkeepStep::Vacuum => Step::Vacuum,
    });
    let (run_id, skip) = (deltaworks_jobs::run_id(), skip.collect());
    let options = UpkeepOptions { run_id, older_than: args.older_than, skip };
    let now_ms = Clock::system().now_ms();
    if args.dry_run {
        let plan = upkeep::plan_upkeep(&settings, &options, now_ms).await?;
        let mut planned = json!(plan);
        planned["status"] = "planned".into();
        return Ok(Ending::with(planned));
    }
    let signals = Signals::listen(Stage::Upkeep)?;
    tracing::info!(run_id = %options.run_id, "upkeep begins; the same command continues after an interruption");
    let work = async {
        let mut report = upkeep::upkeep(&settings, &options, now_ms, &signals.stop).await;
        let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
        let stopped = signals.class().filter(|_| stopped);
        let skipped = idle && args.skip_exit_code;
        Ok((Ending::job(&options.run_id, &report, stopped, skipped).and_error(error), Facts::default()))
    };
    lineage.around(&settings, Job::new(Kind::Upkeep, &options.run_id, &settings), work).await
}

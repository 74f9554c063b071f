//! `reconcile`: bring exact and provisional windows together in one table.

use super::settings;
use crate::args::{Global, Reconcile};
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::signals::Signals;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::reconcile::{self, ReconcileOptions};
use deltaworks_jobs::{Result, Stage};
use serde_json::json;

/// Runs the verb.
pub async fn run(global: &Global, args: &Reconcile, lineage: &Lineage) -> Result<Ending> {
    let settings = settings(global)?;
    let options = ReconcileOptions {
        run_id: deltaworks_jobs::run_id(),
        aggregates: args.aggregates.clone(),
        parallel: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        accept_drift: args.accept_drift,
    };
    if args.dry_run {
        let units = reconcile::plan_only(&settings, &options).await?;
        return Ok(Ending::with(json!({ "status": "planned", "units": units })));
    }
    let signals = Signals::listen(Stage::Reconcile)?;
    tracing::info!(run_id = %options.run_id, "reconcile begins; the same command continues after an interruption");
    let job = Job::new(Kind::Reconcile, &options.run_id, &settings).of_aggregates(&args.aggregates, &settings);
    let work = async {
        let mut report = reconcile::reconcile(&settings, &options, &signals.stop).await;
        let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
        let stopped = signals.class().filter(|_| stopped);
        let skipped = idle && args.skip_exit_code;
        Ok((Ending::job(&options.run_id, &report, stopped, skipped).and_error(error), Facts::default()))
    };
    lineage.around(&settings, job, work).await
}

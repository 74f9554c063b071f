//! `speed catch-up` and `speed rebuild`: bring the states of open windows up to raw.

use super::settings;
use crate::args::{Global, Speed};
use crate::ending::Ending;
use crate::signals::Signals;
use deltaworks_jobs::speed::{self, SpeedOptions};
use deltaworks_jobs::{Class, Error, Result, Stage};
use serde_json::{Value, json};

/// Runs the verb.
pub async fn run(global: &Global, verb: &Speed) -> Result<Ending> {
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
    let signals = Signals::listen()
        .map_err(|e| Error::new(Stage::Speed, Class::Outside, "signals cannot be heard").because(e))?;
    tracing::info!(run_id = %options.run_id, "speed begins; the same command continues after an interruption");
    let mut report = speed::run(&settings, &options, &signals.stop).await;
    let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
    let mut result = json!({ "run_id": options.run_id, "retryable": false });
    if let (Some(result), Ok(Value::Object(figures))) = (result.as_object_mut(), serde_json::to_value(&report)) {
        result.extend(figures);
    }
    let ending = match signals.class().filter(|_| stopped) {
        Some(class) => Ending::classed(class, result),
        None if idle && args.skip_exit_code => Ending::classed(Class::Skipped, result),
        None => Ending::with(result),
    };
    Ok(ending.and_error(error))
}

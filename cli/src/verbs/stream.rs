//! `stream`: land topics in raw tables, exactly once.

use super::{pick, settings};
use crate::args::{Global, OnDataLoss, Stream};
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::logging::Screen;
use crate::signals::Signals;
use crate::{health, live};
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::land::{self, DataLoss, Start, StreamOptions, inspect, meter::Meter};
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::project::settings::{Pipeline, Settings};
use deltaworks_jobs::{Result, Stage, reconcile, speed};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a bounded run keeps trying while the store is away.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);
/// How long the last flush may take after a signal.
const DRAIN_DEADLINE: Duration = Duration::from_secs(9);

/// Runs the verb.
pub async fn run(global: &Global, args: &Stream, screen: &Screen, lineage: &Lineage) -> Result<Ending> {
    let settings = settings(global)?;
    let pipelines = pick(&settings, &args.pipelines)?;
    let options = StreamOptions {
        run_id: deltaworks_jobs::run_id(),
        until_caught_up: args.until_caught_up,
        start: Start::parse(&args.start)?,
        partitions: args.partitions.as_ref().map(|list| list.0.clone()),
        data_loss: match args.on_data_loss {
            OnDataLoss::Stop => DataLoss::Stop,
            OnDataLoss::Accept => DataLoss::Accept,
        },
        give_up_after: GIVE_UP_AFTER,
        drain_deadline: DRAIN_DEADLINE,
    };
    if args.dry_run {
        let mut plan = Vec::new();
        for pipeline in &pipelines {
            plan.extend(inspect::offsets(&settings, pipeline).await?);
        }
        return Ok(Ending::with(json!({ "status": "planned", "start": args.start, "partitions": plan })));
    }
    let names: Vec<String> = pipelines.iter().map(|p| p.name.clone()).collect();
    let job = Job::new(Kind::Stream, &options.run_id, &settings).of_pipelines(&names).endless(!options.until_caught_up);
    lineage.around(&settings, job, land(&settings, &pipelines, &options, args.listen, screen)).await
}

async fn land(
    settings: &Settings,
    pipelines: &[Arc<Pipeline>],
    options: &StreamOptions,
    listen: Option<SocketAddr>,
    screen: &Screen,
) -> Result<(Ending, Facts)> {
    let signals = Signals::listen(Stage::Land)?;
    let clock = Clock::system();
    let meters: Vec<_> = pipelines.iter().map(|p| Arc::new(Meter::new(&p.name, clock.now_ms()))).collect();
    let live = speed::Live::start(settings, pipelines, &options.run_id, &signals.stop).await;
    let served = reconcile::Live::start(settings, pipelines, &options.run_id, &signals.stop);
    if let Some(address) = listen {
        let beside = (live.status(), served.status());
        health::serve(address, pipelines, &meters, beside, clock.clone()).await?;
    }
    tracing::info!(run_id = %options.run_id, pipelines = pipelines.len(), "landing begins");
    let done = CancellationToken::new();
    let watch = live::watch(meters.clone(), screen.clone(), options.until_caught_up, clock.clone(), done.clone());
    let watching = tokio::spawn(watch);
    let taps = live.taps().clone();
    let report = land::stream(settings, pipelines, options, &meters, &clock, &signals.stop, &taps).await;
    drop(taps);
    let speed = live.end().await;
    let served = served.end().await;
    done.cancel();
    // the line has to be gone before the result is printed
    let _ = watching.await;
    let mut messages: BTreeMap<String, u64> = BTreeMap::new();
    for pipeline in pipelines {
        if let Some(done) = report.pipelines.get(&pipeline.name) {
            *messages.entry(pipeline.topic.clone()).or_default() += done.landed + done.rejected + done.skipped;
        }
    }
    let mut result = json!({ "run_id": options.run_id, "pipelines": report.pipelines });
    if !speed.is_empty() {
        result["speed"] = json!(speed);
    }
    if let Some(served) = served {
        result["served"] = json!(served);
    }
    let ending = match signals.class().filter(|_| report.stopped) {
        Some(class) => Ending::classed(class, result),
        None => Ending::with(result),
    };
    Ok((ending.and_error(report.error), Facts { messages, ..Facts::default() }))
}

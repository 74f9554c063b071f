//! `/metrics` for Prometheus and `/healthz` for a supervisor, while a run lands.
//!
//! Health is the age of the last commit and nothing else: a process that runs and does not commit is
//! not healthy, whatever else it does.

use axum::{Router, extract::State, http::StatusCode, routing::get};
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::land::meter::Meter;
use deltaworks_jobs::project::settings::Pipeline;
use deltaworks_jobs::reconcile::LiveStatus;
use deltaworks_jobs::speed::{Health, Status};
use deltaworks_jobs::{Class, Error, Result, Stage};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A commit may be this much later than the settings say before the run counts as unhealthy.
const GRACE: Duration = Duration::from_secs(60);

/// What the endpoints look at.
#[derive(Clone)]
struct Watched {
    pipelines: Arc<Vec<(Arc<Meter>, Duration)>>,
    /// Speed and reconcile.
    beside: (Status, LiveStatus),
    clock: Clock,
    prometheus: PrometheusHandle,
}

/// Serves until the process ends.
pub async fn serve(
    address: SocketAddr,
    pipelines: &[Arc<Pipeline>],
    meters: &[Arc<Meter>],
    beside: (Status, LiveStatus),
    clock: Clock,
) -> Result<SocketAddr> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(Stage::Land, Class::User, format!("cannot listen on `{address}`"))
            .because(e)
            .hint("choose another `--listen` address")
    };
    let prometheus = PrometheusBuilder::new().install_recorder().map_err(|e| failed(e.into()))?;
    describe();
    let age_max = |p: &Pipeline| p.commit.every.max(p.idle_after) + GRACE;
    let pipelines = meters.iter().zip(pipelines).map(|(m, p)| (m.clone(), age_max(p))).collect();
    let watched = Watched { pipelines: Arc::new(pipelines), beside, clock, prometheus };
    let app = Router::new().route("/metrics", get(metrics_text)).route("/healthz", get(healthz)).with_state(watched);
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| failed(e.into()))?;
    let bound = listener.local_addr().map_err(|e| failed(e.into()))?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "metrics and health are no longer served");
        }
    });
    tracing::info!(address = %bound, "serving /metrics and /healthz");
    Ok(bound)
}

fn describe() {
    use metrics::{describe_counter, describe_gauge};
    describe_counter!("deltaworks_messages_total", "Messages taken from the broker");
    describe_counter!("deltaworks_bytes_total", "Payload bytes taken from the broker");
    describe_counter!("deltaworks_landed_rows_total", "Rows committed to raw");
    describe_counter!("deltaworks_rejected_total", "Messages committed to rejects");
    describe_counter!("deltaworks_skipped_total", "Messages skipped by rule");
    describe_counter!("deltaworks_gap_offsets_total", "Offsets that hold no message");
    describe_counter!("deltaworks_commits_total", "Flushes committed");
    describe_counter!(
        "deltaworks_commit_milliseconds_total",
        "Time that flushes took from their last row to their end: files, log, and upkeep of the log"
    );
    describe_gauge!("deltaworks_lag_messages", "Messages between the position and the end of the partition");
    describe_gauge!("deltaworks_commit_age_seconds", "Seconds since the last commit");
    describe_gauge!("deltaworks_table_version", "Version of the raw table");
    describe_gauge!(
        "deltaworks_speed_degraded",
        "1 while the speed table of an aggregate has failed and is tried again"
    );
    describe_gauge!("deltaworks_speed_behind", "1 while the speed table of an aggregate is being caught up from raw");
    describe_counter!("deltaworks_speed_failures_total", "Times that an aggregate became degraded");
    describe_counter!("deltaworks_speed_commits_total", "Commits of the speed table of an aggregate");
    describe_gauge!(
        "deltaworks_reconcile_degraded",
        "1 while served windows stay as they are, because the last pass failed"
    );
    describe_counter!("deltaworks_reconcile_failures_total", "Reconciles of this process that failed");
    describe_counter!("deltaworks_reconcile_passes_total", "Reconciles of this process that came to their end");
    describe_counter!("deltaworks_reconcile_units_total", "Units of served tables that they changed");
}

async fn metrics_text(State(watched): State<Watched>) -> String {
    use metrics::{counter, gauge};
    let now_ms = watched.clock.now_ms();
    for (meter, _) in watched.pipelines.iter() {
        let name = || meter.pipeline.clone();
        counter!("deltaworks_messages_total", "pipeline" => name()).absolute(meter.messages.load(Relaxed));
        counter!("deltaworks_bytes_total", "pipeline" => name()).absolute(meter.bytes.load(Relaxed));
        counter!("deltaworks_landed_rows_total", "pipeline" => name()).absolute(meter.landed.load(Relaxed));
        counter!("deltaworks_rejected_total", "pipeline" => name()).absolute(meter.rejected.load(Relaxed));
        counter!("deltaworks_skipped_total", "pipeline" => name()).absolute(meter.skipped.load(Relaxed));
        counter!("deltaworks_gap_offsets_total", "pipeline" => name()).absolute(meter.gaps.load(Relaxed));
        counter!("deltaworks_commits_total", "pipeline" => name()).absolute(meter.commits.load(Relaxed));
        counter!("deltaworks_commit_milliseconds_total", "pipeline" => name())
            .absolute(meter.commit_us.load(Relaxed) / 1_000);
        for (partition, lag) in meter.lag() {
            gauge!("deltaworks_lag_messages", "pipeline" => name(), "partition" => partition.to_string())
                .set(lag as f64);
        }
        let age_ms = now_ms - meter.last_commit_ms.load(Relaxed);
        gauge!("deltaworks_commit_age_seconds", "pipeline" => name()).set(age_ms as f64 / 1e3);
        gauge!("deltaworks_table_version", "pipeline" => name()).set(meter.version.load(Relaxed) as f64);
    }
    for (aggregate, report) in watched.beside.0.reports() {
        let is = |health: Health| f64::from(u8::from(report.health == health));
        let name = || aggregate.clone();
        gauge!("deltaworks_speed_degraded", "aggregate" => name()).set(is(Health::Degraded));
        gauge!("deltaworks_speed_behind", "aggregate" => name()).set(is(Health::Behind));
        counter!("deltaworks_speed_failures_total", "aggregate" => name()).absolute(report.failures);
        counter!("deltaworks_speed_commits_total", "aggregate" => name()).absolute(report.commits);
    }
    let served = watched.beside.1.report();
    gauge!("deltaworks_reconcile_degraded").set(f64::from(u8::from(served.why.is_some())));
    counter!("deltaworks_reconcile_failures_total").absolute(served.failures);
    counter!("deltaworks_reconcile_passes_total").absolute(served.passes);
    counter!("deltaworks_reconcile_units_total").absolute(served.units.reconciled);
    watched.prometheus.render()
}

async fn healthz(State(watched): State<Watched>) -> (StatusCode, String) {
    let now_ms = watched.clock.now_ms();
    let mut text = String::new();
    let mut status = StatusCode::OK;
    for (meter, age_max) in watched.pipelines.iter() {
        let age = Duration::from_millis(u64::try_from(now_ms - meter.last_commit_ms.load(Relaxed)).unwrap_or(0));
        let healthy = age <= *age_max;
        if !healthy {
            status = StatusCode::SERVICE_UNAVAILABLE;
        }
        text.push_str(&format!(
            "{}: {}, last commit {} s ago, at most {} s\n",
            meter.pipeline,
            if healthy { "ok" } else { "stalled" },
            age.as_secs(),
            age_max.as_secs()
        ));
    }
    (status, text)
}

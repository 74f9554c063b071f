//! `produce`: events into a topic, from a file or generated from the pipeline's contract.

use super::settings;
use crate::args::{BuiltIn, Global, Produce};
use crate::ending::Ending;
use crate::logging::Screen;
use crate::signals::Signals;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::produce::generate::Plan;
use deltaworks_jobs::produce::shapes::Shape;
use deltaworks_jobs::produce::{self, Input, ProduceOptions};
use deltaworks_jobs::project::settings::{Pipeline, Settings};
use deltaworks_jobs::{Class, Error, Result, Stage};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Runs the verb.
pub async fn run(global: &Global, args: &Produce, screen: &Screen) -> Result<Ending> {
    let settings = settings(global)?;
    let pipeline = settings.pipeline(&args.pipeline)?;
    let options = options(args, &settings, pipeline)?;
    if args.dry_run {
        let plan = json!({
            "status": "planned", "topic": pipeline.topic, "count": options.count, "file": args.file,
            "seed": args.seed, "late": args.late, "duplicate": args.duplicate, "corrupt": args.corrupt,
            "rate": args.rate,
        });
        return Ok(Ending::with(plan));
    }
    let signals = Signals::listen(Stage::Produce)?;
    let stop = Arc::new(AtomicBool::new(false));
    let options = ProduceOptions { stop: Some(stop.clone()), ..options };
    let heard = signals.stop.clone();
    tokio::spawn(async move {
        heard.cancelled().await;
        stop.store(true, Relaxed);
    });
    let bar = bar(screen, options.count);
    let moving = bar.clone();
    let sending = tokio::task::spawn_blocking(move || {
        produce::run(options, &|progress| {
            if let Some(bar) = &moving {
                bar.set_position(progress.sent);
            }
        })
    });
    let summary = sending
        .await
        .map_err(|e| Error::new(Stage::Produce, Class::Internal, "the producer ended abnormally").because(e))??;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let result = json!({ "topic": pipeline.topic, "produced": summary, "truth": args.truth });
    Ok(match signals.class() {
        Some(class) => Ending::classed(class, result),
        None => Ending::with(result),
    })
}

fn options(args: &Produce, settings: &Settings, pipeline: &Pipeline) -> Result<ProduceOptions> {
    let start_ms = match &args.start {
        None => Clock::system().now_ms(),
        Some(text) => text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond).map_err(|e| {
            Error::new(Stage::Produce, Class::User, format!("`{text}` is no RFC 3339 time"))
                .because(e)
                .hint("write e.g. 2026-03-01T00:00:00Z")
        })?,
    };
    for (name, share) in [("late", args.late), ("duplicate", args.duplicate), ("corrupt", args.corrupt)] {
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::new(Stage::Produce, Class::User, format!("`--{name}` is a share from 0 to 1")));
        }
    }
    let input = match (&args.file, args.shape) {
        (Some(path), _) => Input::File { path: path.clone(), key: args.key.clone() },
        (None, Some(BuiltIn::Small)) => Input::Shape { shape: Shape::Traffic, seed: args.seed, start_ms },
        (None, Some(BuiltIn::Large)) => Input::Shape { shape: Shape::Device, seed: args.seed, start_ms },
        (None, None) => Input::Generated {
            contract: pipeline.contract.clone(),
            event_time: pipeline.event_time.clone(),
            plan: Plan {
                seed: args.seed,
                start_us: start_ms.saturating_mul(1_000),
                spacing: Duration::from_millis(args.spacing_ms),
                late: args.late,
                duplicates: args.duplicate,
                corrupt: args.corrupt,
                reasons: if args.corrupt > 0.0 { produce::breakable(pipeline) } else { Vec::new() },
                message_bytes_max: pipeline.message_bytes_max,
                depth_max: pipeline.depth_max,
                key: args.key.clone(),
                ..Plan::default()
            },
        },
    };
    Ok(ProduceOptions {
        kafka: settings.kafka.clone(),
        topic: pipeline.topic.clone(),
        count: if args.file.is_some() { None } else { Some(args.count) },
        input,
        duration: None,
        rate: (args.rate > 0.0).then_some(args.rate),
        round_robin: args.key.is_none(),
        truth: args.truth.clone(),
        stop: None,
    })
}

fn bar(screen: &Screen, total: Option<u64>) -> Option<ProgressBar> {
    let bar = screen.live.then(|| screen.bars.add(ProgressBar::new(total.unwrap_or(0))))?;
    let template = "{prefix:.bold} {bar:24} {human_pos} of {human_len} events · {per_sec} · eta {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix("produce");
    Some(bar)
}

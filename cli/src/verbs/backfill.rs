//! `backfill create|status|resume|cancel|list`: past windows once more, by a plan that outlives the process.

use super::settings;
use crate::args::{Backfill, BackfillCreate, BackfillResume, Format, Global, LogFormat};
use crate::bar;
use crate::ending::Ending;
use crate::logging::Screen;
use crate::output;
use crate::signals::Signals;
use deltaworks_core::backfill::{BackfillId, Kind, State};
use deltaworks_jobs::backfill::{self, FilesOptions, Line, RecomputeOptions, ResumeOptions};
use deltaworks_jobs::batch::meter::Meter;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::project::settings::Settings;
use deltaworks_jobs::{Class, Error, Result, Stage};
use serde::Serialize;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const COLUMNS: [&str; 9] = ["id", "kind", "target", "state", "done", "total", "created_at", "ended_at", "resume"];

const BEFORE_SPEC: [&str; 10] =
    ["id", "kind", "target", "state", "done", "total", "left", "next", "created_at", "ended_at"];

/// One thing that a backfill is, as a person reads it.
#[derive(Serialize)]
struct Fact {
    what: String,
    value: String,
}

/// Runs the verb.
pub async fn run(global: &Global, verb: &Backfill, screen: &Screen) -> Result<Ending> {
    match verb {
        Backfill::Create(args) => create(global, args, screen).await,
        Backfill::Resume(args) => resume(global, args, screen).await,
        Backfill::Cancel { id, skip_exit_code, dry_run } => cancel(global, *id, *skip_exit_code, *dry_run).await,
        Backfill::Status { id, format } => {
            let line = backfill::status(&settings(global)?, *id).await?;
            match format {
                Format::Json => output::records(&[line], &COLUMNS, Format::Json)?,
                other => output::records(&facts(&line), &["what", "value"], *other)?,
            }
            Ok(Ending::done())
        }
        Backfill::List { limit, format } => {
            output::records(&backfill::list(&settings(global)?, *limit).await?, &COLUMNS, *format)?;
            Ok(Ending::done())
        }
    }
}

async fn create(global: &Global, args: &BackfillCreate, screen: &Screen) -> Result<Ending> {
    let settings = settings(global)?;
    let (Some(from), Some(to)) = (args.interval_start, args.interval_end) else {
        return create_files(global, &settings, args, screen).await;
    };
    if from >= to {
        return Err(Error::new(Stage::Backfill, Class::User, format!("the interval ({from}, {to}] is empty")));
    }
    let options = RecomputeOptions {
        run_id: deltaworks_jobs::run_id(),
        aggregate: args.name.clone(),
        from,
        to,
        granularities: args.granularities.clone(),
        forced: args.force,
        backwards: args.backwards,
        parallel: parallel(args.max_parallel),
    };
    if args.dry_run {
        return Ok(planned(&backfill::plan(&settings, &options).await?));
    }
    match backfill::create(&settings, &options, &Clock::system()).await? {
        Some(created) => {
            let options = ResumeOptions { run_id: options.run_id, parallel: options.parallel };
            go_on(global, &settings, &created, &options, args.skip_exit_code, screen).await
        }
        None => Ok(Ending::job(&options.run_id, &json!({ "backfill": null }), None, args.skip_exit_code)),
    }
}

async fn create_files(global: &Global, settings: &Settings, args: &BackfillCreate, screen: &Screen) -> Result<Ending> {
    let options = FilesOptions {
        run_id: deltaworks_jobs::run_id(),
        pipeline: args.name.clone(),
        from: args.paths.clone(),
        format: args.file_format,
        delimiter: args.delimiter,
        timezone: args.timezone.clone(),
    };
    if args.dry_run {
        return Ok(planned(&backfill::plan_files(settings, &options).await?));
    }
    let created = backfill::create_files(settings, &options, &Clock::system()).await?;
    let options = ResumeOptions { run_id: options.run_id, parallel: parallel(None) };
    go_on(global, settings, &created, &options, args.skip_exit_code, screen).await
}

async fn resume(global: &Global, args: &BackfillResume, screen: &Screen) -> Result<Ending> {
    let settings = settings(global)?;
    if args.dry_run {
        let left = backfill::what_is_left(&settings, args.id).await?;
        return Ok(planned(&json!({ "backfill": args.id, "left": left })));
    }
    let options = ResumeOptions { run_id: deltaworks_jobs::run_id(), parallel: parallel(args.max_parallel) };
    let found = backfill::find(&settings, args.id).await?;
    go_on(global, &settings, &found, &options, args.skip_exit_code, screen).await
}

/// Carries out what is left, after saying how to go on if that is interrupted.
async fn go_on(
    global: &Global,
    settings: &Settings,
    backfill: &backfill::Backfill,
    options: &ResumeOptions,
    skip_exit_code: bool,
    screen: &Screen,
) -> Result<Ending> {
    let (id, command) = (backfill.id, backfill.resume_command());
    if backfill.state == State::Open {
        output::talk(&match global.log_format {
            LogFormat::Text => format!("backfill {id}, {} items; to go on with it: {command}", backfill.items),
            LogFormat::Json => json!({ "backfill": id, "items": backfill.items, "resume": command }).to_string(),
        });
    }
    let signals = Signals::listen(Stage::Backfill)?;
    let (meter, clock, done) = (Arc::new(Meter::default()), Clock::system(), CancellationToken::new());
    if backfill.kind != Kind::Recompute {
        // the line shows units
        done.cancel();
    }
    let watching = tokio::spawn(bar::watch(meter.clone(), screen.clone(), done.clone()));
    let mut report = backfill::resume(settings, id, options, &meter, &clock, &signals.stop).await;
    done.cancel();
    // the line has to be gone before the result is printed
    let _ = watching.await;
    let (idle, error) = (report.is_idle(), report.error.take());
    let stopped = signals.class().filter(|_| report.stopped);
    let mut figures = report.json();
    figures["backfill"] = json!(id);
    figures["resume"] = json!(report.resume);
    Ok(Ending::job(&options.run_id, &figures, stopped, idle && skip_exit_code).and_error(error))
}

async fn cancel(global: &Global, id: BackfillId, skip_exit_code: bool, dry_run: bool) -> Result<Ending> {
    let settings = settings(global)?;
    if dry_run {
        let line = backfill::status(&settings, id).await?;
        return Ok(planned(&json!({ "backfill": id, "state": line.state, "left": line.left })));
    }
    let run_id = deltaworks_jobs::run_id();
    let cancelled = backfill::cancel(&settings, id, &run_id, &Clock::system()).await?;
    Ok(Ending::job(&run_id, &cancelled, None, cancelled.was_ended && skip_exit_code))
}

/// A plan as the last line.
fn planned(plan: &impl Serialize) -> Ending {
    let mut result = serde_json::to_value(plan).unwrap_or_default();
    result["status"] = json!("planned");
    Ending::with(result)
}

fn parallel(asked: Option<NonZeroUsize>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    asked.map_or_else(cores, NonZeroUsize::get)
}

/// A backfill, one thing that it is a line.
fn facts(line: &Line) -> Vec<Fact> {
    let all = serde_json::to_value(line).unwrap_or_default();
    let fact = |what: &str, value: &Value| Fact { what: what.to_owned(), value: spelled(value) };
    let spec = line.spec.as_object().into_iter().flatten().map(|(what, value)| fact(what, value));
    let before = BEFORE_SPEC.iter().map(|what| fact(what, &all[*what]));
    before.chain(spec).chain([fact("resume", &all["resume"])]).collect()
}

fn spelled(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(spelled).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

//! `backfill create|status|resume|cancel|list`: past windows once more, by a plan that outlives the process.

use super::settings;
use crate::args::{Backfill, BackfillCreate, BackfillFrom as From, BackfillResume, Format, Global, LogFormat};
use crate::bar;
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::logging::Screen;
use crate::output;
use crate::signals::Signals;
use deltaworks_core::backfill::{BackfillId, Kind, State};
use deltaworks_core::windows::{Dates, Instant};
use deltaworks_jobs::backfill::{
    self, ArchiveBackfill, Bound, FilesOptions, KafkaBackfill, Line, RecomputeOptions, ResumeOptions,
};
use deltaworks_jobs::batch::meter::Meter;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lake::TableName;
use deltaworks_jobs::lineage::{self, Facts, Job};
use deltaworks_jobs::project::settings::Settings;
use deltaworks_jobs::{Class, Error, Result, Stage};
use jiff::ToSpan as _;
use serde::Serialize;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::sync::Arc;

const COLUMNS: [&str; 9] = ["id", "kind", "target", "state", "done", "total", "created_at", "ended_at", "resume"];

const BEFORE_SPEC: [&str; 10] =
    ["id", "kind", "target", "state", "done", "total", "left", "next", "created_at", "ended_at"];

/// One thing that a backfill is, as a person reads it.
#[derive(Serialize)]
struct Fact {
    what: String,
    value: String,
}

/// Where what a backfill does is shown and told.
struct Edge<'e> {
    global: &'e Global,
    screen: &'e Screen,
    lineage: &'e Lineage,
}

/// Runs the verb.
pub async fn run(global: &Global, verb: &Backfill, screen: &Screen, lineage: &Lineage) -> Result<Ending> {
    let edge = Edge { global, screen, lineage };
    match verb {
        Backfill::Create(args) => create(&edge, args).await,
        Backfill::Resume(args) => resume(&edge, args).await,
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

async fn create(edge: &Edge<'_>, args: &BackfillCreate) -> Result<Ending> {
    let settings = settings(edge.global)?;
    fits(args)?;
    if let (Some(from), Some(to)) = (args.interval_start, args.interval_end)
        && from >= to
    {
        return Err(user(format!("the interval from {from} to {to} is empty")));
    }
    match args.from {
        None => create_recompute(edge, &settings, args).await,
        Some(From::Files) => create_files(edge, &settings, args).await,
        Some(From::Kafka) => create_kafka(edge, &settings, args).await,
        Some(From::Archive) => create_archive(edge, &settings, args).await,
    }
}

/// Refuses options that mean nothing for what is asked.
fn fits(args: &BackfillCreate) -> Result<()> {
    let BackfillCreate { paths, interval_start, interval_end, .. } = args;
    let recompute = [
        ("--granularity", !args.granularities.is_empty()),
        ("--force", args.force),
        ("--backwards", args.backwards),
        ("--max-parallel", args.max_parallel.is_some()),
    ];
    let of_files = [
        ("--file-format", args.file_format.is_some()),
        ("--delimiter", args.delimiter.is_some()),
        ("--timezone", args.timezone.is_some()),
    ];
    let of_topic = [("--partition", args.partitions.is_some()), ("--from-offset", args.from_offset.is_some())];
    let path = [("--path", !paths.is_empty())];
    let interval = [("--interval-start", interval_start.is_some()), ("--interval-end", interval_end.is_some())];
    let (what, wrong): (&str, Vec<(&str, bool)>) = match args.from {
        None => ("an aggregate", [&path[..], &of_files, &of_topic].concat()),
        Some(From::Files) => ("--from files", [&recompute[..], &of_topic, &interval].concat()),
        Some(From::Kafka) => ("--from kafka", [&recompute[..], &of_files, &path].concat()),
        Some(From::Archive) => ("--from archive", [&recompute[..], &of_files, &of_topic].concat()),
    };
    if let Some((option, _)) = wrong.iter().find(|(_, given)| *given) {
        return Err(user(format!("{option} means nothing for {what}")));
    }
    let lacks = |option: &str| user(format!("{what} needs {option}"));
    match args.from {
        Some(From::Files) if paths.is_empty() => Err(lacks("--path")),
        Some(From::Kafka) if args.from_offset.is_none() && interval_start.is_none() => {
            Err(lacks("--from-offset with --partition, or --interval-start"))
        }
        Some(From::Archive) if paths.len() != 1 => Err(lacks("one --path, the URL of the archive")),
        Some(From::Archive) if interval_start.is_none() || interval_end.is_none() => {
            Err(lacks("--interval-start and --interval-end"))
        }
        _ => Ok(()),
    }
}

async fn create_recompute(edge: &Edge<'_>, settings: &Settings, args: &BackfillCreate) -> Result<Ending> {
    let (Some(from), Some(to)) = (args.interval_start, args.interval_end) else {
        return Err(user("an aggregate needs --interval-start and --interval-end"));
    };
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
        return Ok(planned(&backfill::plan(settings, &options).await?));
    }
    let created = backfill::create(settings, &options, &Clock::system()).await?;
    carry_out(edge, settings, created, options.run_id, args).await
}

async fn create_files(edge: &Edge<'_>, settings: &Settings, args: &BackfillCreate) -> Result<Ending> {
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
    go_on(edge, settings, &created, &options, args.skip_exit_code).await
}

async fn create_kafka(edge: &Edge<'_>, settings: &Settings, args: &BackfillCreate) -> Result<Ending> {
    let bound =
        |offset: Option<i64>, time: Option<Instant>| offset.map(Bound::Offset).or_else(|| time.map(Bound::Time));
    let options = KafkaBackfill {
        run_id: deltaworks_jobs::run_id(),
        pipeline: args.name.clone(),
        partitions: args.partitions.as_ref().map(|list| list.0.clone()),
        from: bound(args.from_offset, args.interval_start).unwrap_or(Bound::Offset(0)),
        to: bound(args.to_offset, args.interval_end),
    };
    if args.dry_run {
        return Ok(planned(&backfill::plan_kafka(settings, &options).await?));
    }
    let created = backfill::create_kafka(settings, &options, &Clock::system()).await?;
    carry_out(edge, settings, created, options.run_id, args).await
}

async fn create_archive(edge: &Edge<'_>, settings: &Settings, args: &BackfillCreate) -> Result<Ending> {
    let beyond = |_| user("the interval reaches beyond the years that dates are made for");
    let date = |instant: Option<Instant>| instant.unwrap_or(Instant(0)).utc_date().map_err(beyond);
    let last = args.interval_end.map(|end| Instant(end.0 - 1));
    let options = ArchiveBackfill {
        run_id: deltaworks_jobs::run_id(),
        pipeline: args.name.clone(),
        from: args.paths.first().cloned().unwrap_or_default(),
        dates: Dates { from: date(args.interval_start)?, to: date(last)?.saturating_add(1.day()) },
    };
    if args.dry_run {
        return Ok(planned(&backfill::plan_archive(settings, &options).await?));
    }
    let created = backfill::create_archive(settings, &options, &Clock::system()).await?;
    carry_out(edge, settings, created, options.run_id, args).await
}

/// Goes on with what was created; there may be nothing to do.
async fn carry_out(
    edge: &Edge<'_>,
    settings: &Settings,
    created: Option<backfill::Backfill>,
    run_id: String,
    args: &BackfillCreate,
) -> Result<Ending> {
    match created {
        Some(created) => {
            let options = ResumeOptions { run_id, parallel: parallel(args.max_parallel) };
            go_on(edge, settings, &created, &options, args.skip_exit_code).await
        }
        None => Ok(Ending::job(&run_id, &json!({ "backfill": null }), None, args.skip_exit_code)),
    }
}

fn user(message: impl Into<String>) -> Error {
    Error::new(Stage::Backfill, Class::User, message)
}

async fn resume(edge: &Edge<'_>, args: &BackfillResume) -> Result<Ending> {
    let settings = settings(edge.global)?;
    if args.dry_run {
        let left = backfill::what_is_left(&settings, args.id).await?;
        return Ok(planned(&json!({ "backfill": args.id, "left": left })));
    }
    let options = ResumeOptions { run_id: deltaworks_jobs::run_id(), parallel: parallel(args.max_parallel) };
    let found = backfill::find(&settings, args.id).await?;
    go_on(edge, &settings, &found, &options, args.skip_exit_code).await
}

/// Carries out what is left, after saying how to go on if that is interrupted.
async fn go_on(
    edge: &Edge<'_>,
    settings: &Settings,
    backfill: &backfill::Backfill,
    options: &ResumeOptions,
    skip_exit_code: bool,
) -> Result<Ending> {
    let (id, command) = (backfill.id, backfill.resume_command());
    if backfill.state == State::Open {
        let s = if backfill.items == 1 { "" } else { "s" };
        output::talk(&match edge.global.log_format {
            LogFormat::Text => format!("backfill {id}, {} item{s}; to go on with it: {command}", backfill.items),
            LogFormat::Json => json!({ "backfill": id, "items": backfill.items, "resume": command }).to_string(),
        });
    }
    let work = do_what_is_left(settings, backfill, options, skip_exit_code, edge.screen);
    edge.lineage.around(settings, job(settings, backfill, &options.run_id), work).await
}

async fn do_what_is_left(
    settings: &Settings,
    backfill: &backfill::Backfill,
    options: &ResumeOptions,
    skip_exit_code: bool,
    screen: &Screen,
) -> Result<(Ending, Facts)> {
    let id = backfill.id;
    let signals = Signals::listen(Stage::Backfill)?;
    let (meter, clock) = (Arc::new(Meter::default()), Clock::system());
    let noun = match backfill.kind {
        Kind::Recompute => "units",
        Kind::Files => "files",
        Kind::Kafka => "pieces",
        Kind::Archive => "dates",
    };
    let work = backfill::resume(settings, id, options, &meter, &clock, &signals.stop);
    let mut report = bar::around("backfill", noun, &meter, screen, work).await;
    let (idle, error) = (report.is_idle(), report.error.take());
    let stopped = signals.class().filter(|_| report.stopped);
    let mut figures = report.json();
    figures["backfill"] = json!(id);
    figures["resume"] = json!(report.resume);
    let ending = Ending::job(&options.run_id, &figures, stopped, idle && skip_exit_code).and_error(error);
    Ok((ending, read(settings, backfill, &report)))
}

/// What a run over a backfill is to others.
fn job(settings: &Settings, backfill: &backfill::Backfill, run_id: &str) -> Job {
    let target = std::slice::from_ref(&backfill.target);
    let fill = |kind| Job::new(kind, run_id, settings).of_pipelines(target);
    match backfill.kind {
        Kind::Recompute => Job::new(lineage::Kind::Recompute, run_id, settings).of_aggregates(target, settings),
        Kind::Kafka => fill(lineage::Kind::FillFromTopic),
        Kind::Files => fill(lineage::Kind::Fill).of_files(texts(&backfill.spec["from"])),
        Kind::Archive => fill(lineage::Kind::Fill).of_files(texts(&backfill.spec["archive"])),
    }
}

/// What it has read.
fn read(settings: &Settings, backfill: &backfill::Backfill, report: &backfill::Report) -> Facts {
    let mut facts = Facts::default();
    if let Some(files) = &report.files {
        facts.file_rows = Some(files.landed + files.already + files.rejected);
    } else if let Some(dates) = &report.dates {
        facts.file_rows = Some(dates.dates.iter().map(|date| date.rows + date.already).sum());
    } else if let Some(pieces) = &report.pieces {
        let messages = pieces.read.partitions.iter().map(|range| range.messages).sum();
        let pipeline = settings.pipeline(&backfill.target).ok();
        facts.messages.extend(pipeline.map(|pipeline| (pipeline.topic.clone(), messages)));
    } else {
        let aggregate = settings.aggregates.iter().find(|aggregate| aggregate.name == backfill.target);
        let raw = aggregate.map(|aggregate| TableName::new("raw", &aggregate.from));
        facts.rows.extend(raw.map(|raw| (raw, report.figures.rows)));
    }
    facts
}

/// A text, or several.
fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    all.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
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

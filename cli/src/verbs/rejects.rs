//! `rejects`: what broke its contract, and why; and what becomes of it.

use super::settings;
use crate::args::{Format, Global, RejectsDiscard, RejectsRedrive, RejectsVerb, Which};
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::output;
use crate::signals::Signals;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lake::TableName;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::project::settings::Settings;
use deltaworks_jobs::rejects::{self, DiscardOptions, Filter, RedriveOptions};
use deltaworks_jobs::{Result, Stage, engine};
use serde_json::json;

/// Characters of a payload that a table shows.
const SHOWN_MAX: usize = 300;

/// Runs the verb.
pub async fn run(global: &Global, args: &RejectsVerb, lineage: &Lineage) -> Result<Ending> {
    let settings = settings(global)?;
    let (sql, format) = match args {
        RejectsVerb::List { pipeline, all, format } => (list(&settings.pipeline(pipeline)?.name, *all), *format),
        RejectsVerb::Show { pipeline, reason, all, limit, format } => {
            let only = reason.map_or(String::new(), |reason| format!("reason = '{reason}'"));
            (show(&settings.pipeline(pipeline)?.name, only, *all, *limit, *format), *format)
        }
        RejectsVerb::Redrive(args) => return redrive(&settings, args, lineage).await,
        RejectsVerb::Discard(args) => return discard(&settings, args, lineage).await,
    };
    let rows = engine::query(&settings.lake, &sql, settings.memory_bytes).await?;
    output::rows(rows, format, None).await?;
    Ok(Ending::done())
}

fn list(table: &str, all: bool) -> String {
    let (by, only) =
        if all { ("reason, field, resolution", "") } else { ("reason, field", "WHERE resolution IS NULL ") };
    format!(
        "SELECT reject_date, {by}, count(*) AS messages, min(_kafka_time) AS first, max(_kafka_time) AS last \
         FROM rejects.{table}_current {only}GROUP BY reject_date, {by} ORDER BY reject_date, messages DESC, {by}"
    )
}

fn show(table: &str, only: String, all: bool, limit: u32, format: Format) -> String {
    let payload = "coalesce(try_cast(payload AS VARCHAR), concat('0x', encode(payload, 'hex')))";
    let payload = match format {
        // for people: a payload may have megabytes
        Format::Table => format!(
            "CASE WHEN character_length({payload}) > {SHOWN_MAX} THEN concat(left({payload}, {SHOWN_MAX}), '… of ', \
             character_length({payload}), ' characters; --format json shows all') ELSE {payload} END"
        ),
        _ => payload.to_owned(),
    };
    let open = if all { String::new() } else { "resolution IS NULL".to_owned() };
    let only: Vec<String> = [only, open].into_iter().filter(|text| !text.is_empty()).collect();
    let only = if only.is_empty() { String::new() } else { format!("WHERE {} ", only.join(" AND ")) };
    let settled = if all { ", resolution, because" } else { "" };
    format!(
        "SELECT _topic, _partition, _offset, _kafka_time, reason, field, detail, contract_version{settled}, {payload} AS payload \
         FROM rejects.{table}_current {only}ORDER BY _topic, _partition, _offset LIMIT {limit}"
    )
}

async fn redrive(settings: &Settings, args: &RejectsRedrive, lineage: &Lineage) -> Result<Ending> {
    let pipeline = settings.pipeline(&args.pipeline)?;
    let options = RedriveOptions {
        run_id: deltaworks_jobs::run_id(),
        filter: filter(&args.which),
        discarded_too: args.discarded,
    };
    let clock = Clock::system();
    if args.dry_run {
        let report = rejects::plan_redrive(settings, pipeline, &options, &clock).await?;
        return Ok(Ending::with(json!({ "status": "planned", "plan": report })));
    }
    let signals = Signals::listen(Stage::Fill)?;
    tracing::info!(run_id = %options.run_id, "redrive begins; the same command continues after an interruption");
    let job = Job::new(Kind::Redrive, &options.run_id, settings).of_pipelines(std::slice::from_ref(&args.pipeline));
    let work = async {
        let mut report = rejects::redrive(settings, pipeline, &options, &clock, &signals.stop).await;
        let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
        let stopped = signals.class().filter(|_| stopped);
        let skipped = idle && args.skip_exit_code;
        let read = report.passed.values().chain(report.refused.values()).sum::<u64>() + report.skipped;
        let facts = Facts { rows: [(TableName::new("rejects", &pipeline.name), read)].into(), ..Facts::default() };
        Ok((Ending::job(&options.run_id, &report, stopped, skipped).and_error(error), facts))
    };
    lineage.around(settings, job, work).await
}

async fn discard(settings: &Settings, args: &RejectsDiscard, lineage: &Lineage) -> Result<Ending> {
    let pipeline = settings.pipeline(&args.pipeline)?;
    let options = DiscardOptions {
        run_id: deltaworks_jobs::run_id(),
        filter: filter(&args.which),
        because: args.because.clone(),
        dry_run: args.dry_run,
    };
    if args.dry_run {
        let report = rejects::discard(settings, pipeline, &options, &Clock::system()).await?;
        return Ok(Ending::with(json!({ "status": "planned", "plan": report })));
    }
    let job = Job::new(Kind::Discard, &options.run_id, settings).of_pipelines(std::slice::from_ref(&args.pipeline));
    let work = async {
        let report = rejects::discard(settings, pipeline, &options, &Clock::system()).await?;
        let skipped = report.is_idle() && args.skip_exit_code;
        Ok((Ending::job(&options.run_id, &report, None, skipped), Facts::default()))
    };
    lineage.around(settings, job, work).await
}

fn filter(which: &Which) -> Filter {
    Filter {
        reasons: which.reasons.clone(),
        from: which.interval_start,
        to: which.interval_end,
        topic: which.topic.clone(),
        partition: which.partition,
        from_offset: which.from_offset,
        to_offset: which.to_offset,
        contract_version: which.contract_version.clone(),
    }
}

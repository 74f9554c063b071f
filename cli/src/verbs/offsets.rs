//! `offsets`: progress in Delta, in the group, in the broker; and moved by hand, with the plan first.

use super::{pick, settings};
use crate::args::{Global, Offsets, Target};
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::output;
use crate::signals::Signals;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::land::inspect;
use deltaworks_jobs::lineage::{Facts, Job, Kind};
use deltaworks_jobs::offsets::{self, PartitionPlan, RewindOptions, Targets};
use deltaworks_jobs::project::settings::{Pipeline, Settings};
use deltaworks_jobs::{Result, Stage};
use serde_json::json;
use std::sync::Arc;

const SHOWN: [&str; 9] = ["pipeline", "topic", "partition", "delta", "group", "low", "high", "lag", "lost"];
const PLANNED: [&str; 11] =
    ["partition", "act", "low", "next", "high", "to", "reads", "duplicates", "loses", "first_time", "last_time"];

/// What `rewind` is asked for.
struct Asked<'a> {
    target: &'a Target,
    skip_exit_code: bool,
    dry_run: bool,
}

/// Runs the verb.
pub async fn run(global: &Global, args: &Offsets, lineage: &Lineage) -> Result<Ending> {
    let settings = settings(global)?;
    match args {
        Offsets::Show { pipelines, format } => {
            let mut rows = Vec::new();
            for pipeline in pick(&settings, pipelines)? {
                rows.extend(inspect::offsets(&settings, &pipeline).await?);
            }
            output::records(&rows, &SHOWN, *format)?;
            Ok(Ending::done())
        }
        Offsets::Plan { pipeline, target, format } => {
            let pipeline = settings.pipeline(pipeline)?;
            let plans = offsets::plan(&settings, pipeline, &targets(target)).await?;
            output::records(&plans, &PLANNED, *format)?;
            Ok(Ending::done())
        }
        Offsets::Rewind { pipeline, target, skip_exit_code, dry_run } => {
            let asked = Asked { target, skip_exit_code: *skip_exit_code, dry_run: *dry_run };
            rewind(&settings, settings.pipeline(pipeline)?, &asked, lineage).await
        }
        Offsets::Skip { pipeline, target, yes, dry_run } => {
            let pipeline = settings.pipeline(pipeline)?;
            skip(&settings, pipeline, target, *yes && !*dry_run, *dry_run, lineage).await
        }
    }
}

async fn rewind(settings: &Settings, pipeline: &Arc<Pipeline>, asked: &Asked<'_>, lineage: &Lineage) -> Result<Ending> {
    let Asked { target, skip_exit_code, dry_run } = *asked;
    let signals = Signals::listen(Stage::Fill)?;
    let options = RewindOptions { run_id: deltaworks_jobs::run_id(), targets: targets(target), dry_run };
    tracing::info!(run_id = %options.run_id, "rewind begins; the same command continues after an interruption");
    let work = async {
        let mut report = offsets::rewind(settings, pipeline, &options, &Clock::system(), &signals.stop).await;
        let (idle, stopped, error) = (report.is_idle(), report.stopped, report.error.take());
        if dry_run && error.is_none() {
            return Ok((Ending::with(json!({ "status": "planned", "plan": report })), Facts::default()));
        }
        let stopped = signals.class().filter(|_| stopped);
        let skipped = idle && skip_exit_code;
        let messages = report.partitions.iter().map(|partition| partition.messages).sum();
        let facts = Facts { messages: [(pipeline.topic.clone(), messages)].into(), ..Facts::default() };
        Ok((Ending::job(&options.run_id, &report, stopped, skipped).and_error(error), facts))
    };
    if dry_run {
        return work.await.map(|(ending, _)| ending);
    }
    let job = Job::new(Kind::Rewind, &options.run_id, settings).of_pipelines(std::slice::from_ref(&pipeline.name));
    lineage.around(settings, job, work).await
}

async fn skip(
    settings: &Settings,
    pipeline: &Pipeline,
    target: &Target,
    carry_out: bool,
    dry_run: bool,
    lineage: &Lineage,
) -> Result<Ending> {
    let targets = targets(target);
    let plans = offsets::plan_skip(settings, pipeline, &targets).await?;
    for plan in &plans {
        output::talk(&loses(pipeline, plan));
    }
    if !carry_out {
        if !dry_run {
            output::talk("nothing was changed; add --yes to carry this out, beside a running stream or without");
        }
        return Ok(Ending::with(json!({ "status": "planned", "plan": plans })));
    }
    let run_id = deltaworks_jobs::run_id();
    let job = Job::new(Kind::Skip, &run_id, settings).of_pipelines(std::slice::from_ref(&pipeline.name));
    let work = async {
        let report = offsets::skip(settings, pipeline, &targets, &run_id, &Clock::system()).await?;
        Ok((Ending::job(&run_id, &report, None, false), Facts::default()))
    };
    lineage.around(settings, job, work).await
}

fn loses(pipeline: &Pipeline, plan: &PartitionPlan) -> String {
    let place = format!("{}/{}", pipeline.topic, plan.partition);
    let PartitionPlan { next, to, loses, first_time, last_time, .. } = plan;
    if *loses == 0 {
        return format!("{place} stands at {next} already");
    }
    let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "?".to_owned());
    format!(
        "{place} loses offsets {next} to {to}: at most {loses} messages, of {} to {}",
        time(first_time),
        time(last_time)
    )
}

fn targets(target: &Target) -> Targets {
    let to = match (target.to, target.to_time) {
        (Some(offset), _) => offsets::Target::Offset(offset),
        (None, Some(at)) => offsets::Target::Time(at.0.div_euclid(1_000)),
        // one of them is required
        (None, None) => offsets::Target::Time(i64::MAX),
    };
    Targets { partitions: target.partitions.as_ref().map(|list| list.0.clone()), to }
}

//! Moves `next` of partitions up: what lies in between is never read by the stream.
//!
//! A skip is a commit as landing makes them: the same compare-and-set on `next`, and a tally in which every offset
//! was skipped by a rule. So progress joins without a hole, and a stream that is in the middle of the range sees that
//! the log is elsewhere, drops what it has, and goes on behind it.
//!
//! Invariants: K1 `next` only grows, and never beyond what the broker has; K2 what was landed stays; K3 one attempt
//! is judged and committed on one snapshot.

use super::audit::{Audit, record};
use super::plan::{Act, PartitionPlan, Targets, judged, plan_on};
use crate::batch::Run;
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::kafka::watermarks::Watermarks;
use crate::lake::{Attempts, Commit, CommitOutcome, Lake, Table};
use crate::land::tables::raw_name;
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::commit_info::{Identity, PartitionEntry, RawCommit};
use deltaworks_core::place::Offset;
use deltaworks_core::progress::{AppIds, Progress, TopicProgress};
use deltaworks_core::tally::Tally;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// What a skip did.
#[derive(Debug, Default, Serialize)]
pub struct SkipReport {
    /// Each partition, as it was when it moved.
    pub partitions: Vec<Skipped>,
    /// Version of raw that moved them; `None` if nothing had to.
    pub version: Option<i64>,
}

/// A partition that moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Partition.
    pub partition: i32,
    /// Where the stream stood.
    pub from: i64,
    /// Where it goes on.
    pub to: i64,
}

/// Says what a skip would leave out.
///
/// # Errors
/// [`Class::User`] if a target lies below `next` or beyond the high watermark; as [`plan_on`].
pub async fn plan_skip(settings: &Settings, pipeline: &Pipeline, targets: &Targets) -> Result<Vec<PartitionPlan>> {
    plan_skip_on(&Lake::open(&settings.lake)?, settings, pipeline, targets).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`plan_skip`].
pub async fn plan_skip_on(
    lake: &Lake,
    settings: &Settings,
    pipeline: &Pipeline,
    targets: &Targets,
) -> Result<Vec<PartitionPlan>> {
    let plans = plan_on(lake, settings, pipeline, targets).await?;
    check(pipeline, &plans)?;
    Ok(plans)
}

/// A skip goes ahead, and not beyond the end.
fn check(pipeline: &Pipeline, plans: &[PartitionPlan]) -> Result<()> {
    if let Some(plan) = plans.iter().find(|plan| plan.act == Act::Rewind) {
        let message = format!(
            "{}/{}: offset {} is behind the stream, which goes on at {}: what was passed cannot be skipped",
            pipeline.topic, plan.partition, plan.to, plan.next
        );
        return Err(Error::new(Stage::Fill, Class::User, message)
            .hint("`offsets rewind` reads it again, and never lowers where the stream goes on"));
    }
    if let Some(plan) = plans.iter().find(|plan| plan.to > plan.high) {
        let message = format!(
            "{}/{}: offset {} does not exist yet: the log ends at {}",
            pipeline.topic, plan.partition, plan.to, plan.high
        );
        return Err(Error::new(Stage::Fill, Class::User, message));
    }
    Ok(())
}

/// Carries a plan out. Where the stream has got further meanwhile, less is skipped, and never more.
///
/// # Errors
/// The store fails, or others keep committing first; the topic was recreated.
pub async fn skip(
    settings: &Settings,
    pipeline: &Pipeline,
    targets: &Targets,
    run_id: &str,
    clock: &Clock,
) -> Result<SkipReport> {
    skip_on(&Lake::open(&settings.lake)?, settings, pipeline, targets, run_id, clock).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`skip`].
pub async fn skip_on(
    lake: &Lake,
    settings: &Settings,
    pipeline: &Pipeline,
    targets: &Targets,
    run_id: &str,
    clock: &Clock,
) -> Result<SkipReport> {
    let began_ms = clock.now_ms();
    let plans = judged(lake, settings, pipeline, targets).await?;
    check(pipeline, &plans)?;
    let wanted: BTreeMap<i32, i64> = plans.iter().map(|plan| (plan.partition, plan.to)).collect();
    if plans.iter().all(|plan| plan.act == Act::Nothing) {
        return Ok(SkipReport::default());
    }
    let seen = seen_before(settings, pipeline, &wanted)?;
    let missing = || Error::new(Stage::Fill, Class::Outside, format!("table `{}` is gone", raw_name(pipeline)));
    let mut raw = lake.open_table(&raw_name(pipeline)).await?.ok_or_else(missing)?;
    let (run, table_id) = (Run::new(run_id), raw.id().to_owned());
    let audit = |version, detail| Audit { job: "offsets skip", table_id: &table_id, version, rows: 0, detail };
    let begun = audit(raw.version(), json!({ "partitions": plans }));
    record(lake, pipeline, &begun, "begun", &run, (began_ms, began_ms)).await?;
    let report = commit(&mut raw, pipeline, &wanted, &seen, run_id).await?;
    faults::point("after_skip_commit");
    let done = audit(raw.version(), json!({ "partitions": report.partitions }));
    record(lake, pipeline, &done, "done", &run, (began_ms, clock.now_ms())).await?;
    Ok(report)
}

/// Kafka's time of the message before each target: by it the stream knows its log again.
fn seen_before(settings: &Settings, pipeline: &Pipeline, wanted: &BTreeMap<i32, i64>) -> Result<BTreeMap<i32, i64>> {
    let broker = Watermarks::open(&settings.kafka)?;
    let mut seen = BTreeMap::new();
    for (partition, to) in wanted {
        if let Some(ms) = broker.message_time_at(&pipeline.topic, *partition, to - 1)? {
            seen.insert(*partition, ms);
        }
    }
    Ok(seen)
}

async fn commit(
    raw: &mut Table,
    pipeline: &Pipeline,
    wanted: &BTreeMap<i32, i64>,
    seen: &BTreeMap<i32, i64>,
    run_id: &str,
) -> Result<SkipReport> {
    let ids = AppIds::new(&pipeline.name);
    let identity = Identity { run_id: run_id.to_owned(), sequence: 1 };
    let mut attempts = Attempts::new(Stage::Fill, format!("table `{}`", raw.name()));
    loop {
        let progress = ids.read(&pipeline.topic, raw.txns());
        let moves = moves(&progress, wanted, seen);
        if moves.is_empty() {
            return Ok(SkipReport::default());
        }
        let partitions = moves.iter().map(|(partition, skipped, after)| entry(*partition, skipped, after)).collect();
        let info = RawCommit {
            identity: identity.clone(),
            pipeline: pipeline.name.clone(),
            topic: progress.topic.clone(),
            partitions,
            dates: BTreeMap::new(),
        };
        let mut commit = Commit::new("SKIP", &info)?;
        commit.txns = moves.iter().flat_map(|(p, _, after)| ids.write(&progress.topic, *p, after)).collect();
        let report = |version| SkipReport {
            partitions: moves.iter().map(|(_, skipped, _)| skipped.clone()).collect(),
            version: Some(version),
        };
        faults::point("before_skip_commit");
        match raw.commit(commit).await {
            CommitOutcome::Committed(version) => return Ok(report(version)),
            outcome => attempts.after(outcome).await?,
        }
        raw.refresh().await?;
        if let Some(version) = raw.find_commit(&identity) {
            return Ok(report(version));
        }
    }
}

/// What moves on this snapshot, from where to where, and the progress afterwards.
fn moves(
    progress: &TopicProgress,
    wanted: &BTreeMap<i32, i64>,
    seen: &BTreeMap<i32, i64>,
) -> Vec<(i32, Skipped, Progress)> {
    let one = |(partition, to): (&i32, &i64)| {
        let at = progress.partitions.get(partition).filter(|at| at.next.0 < *to)?;
        let skipped = Skipped { partition: *partition, from: at.next.0, to: *to };
        let after = Progress { next: Offset(*to), seen_ms: seen.get(partition).copied(), ..*at };
        Some((*partition, skipped, after))
    };
    wanted.iter().filter_map(one).collect()
}

fn entry(partition: i32, skipped: &Skipped, after: &Progress) -> PartitionEntry {
    let (from, to) = (Offset(skipped.from), Offset(skipped.to));
    let tally = Tally { to, skipped: (skipped.to - skipped.from).unsigned_abs(), ..Tally::at(from) };
    PartitionEntry {
        partition,
        tally,
        frontier_ms: after.frontier_ms,
        reached_ms: after.reached_ms,
        seen_ms: after.seen_ms,
    }
}

//! What is due for a whole project, in one go: dates beyond their retention, small files, checkpoints, dead files.
//!
//! In this order: what goes anyway is not compacted first, checkpoints come after the commits that readers would have
//! to pass, and what all of it leaves behind is deleted last, once it is old. What is due is seen from the tables
//! alone, so it does not matter who did what before, or when.
//!
//! Invariant D1: what cannot be done for one table holds up no other; it is told, and the next run tries again.

use super::checkpoint::{CheckpointDone, checkpoints_on};
use super::compact::{CompactOptions, CompactReport, CompactedDate, DatePlan, compact_on, plan_compaction_on};
use super::retain::{RetainOptions, RetainTable, plan_retain_on, retain_on};
use super::vacuum::{VacuumOptions, VacuumTable, plan_vacuum_on, vacuum_on};
use crate::batch::meter::Meter;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Lake, TableName};
use crate::land::tables::{raw_name, rejects_name};
use crate::project::settings::Settings;
use deltaworks_core::upkeep::FILES_DUE;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Size of compacted files, bytes.
const TARGET_BYTES: u64 = 128 << 20;
/// A layer whose files are merged by those who write them.
const MERGED_ELSEWHERE: &str = "speed";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct UpkeepOptions {
    /// Id of the run.
    pub run_id: String,
    /// How long no version may have needed a file that is deleted.
    pub older_than: Duration,
    /// Steps that are left out.
    pub skip: BTreeSet<Step>,
}

/// What is done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Dates beyond their retention go.
    Retain,
    /// Small files become larger ones.
    Compact,
    /// Readers pass fewer commits.
    Checkpoint,
    /// Dead files go.
    Vacuum,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retain => "retain",
            Self::Compact => "compact",
            Self::Checkpoint => "checkpoint",
            Self::Vacuum => "vacuum",
        })
    }
}

/// What is due.
#[derive(Debug, Default, Serialize)]
pub struct UpkeepPlan {
    /// Tables with dates beyond their retention.
    pub retain: Vec<RetainTable>,
    /// Dates with many small files.
    pub compact: Vec<DatePlan>,
    /// Tables with many commits since their last checkpoint.
    pub checkpoint: Vec<CheckpointDone>,
    /// Tables with dead files.
    pub vacuum: Vec<VacuumTable>,
}

/// What could not be done for one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotDone {
    /// Which step.
    pub step: Step,
    /// Table.
    pub table: String,
    /// Why.
    pub error: String,
    #[serde(skip)]
    class: Class,
}

/// What a run did.
#[derive(Debug, Default, Serialize)]
pub struct UpkeepReport {
    /// Tables that lost dates, or kept them though they are due.
    pub retain: Vec<RetainTable>,
    /// Dates that were compacted.
    pub compact: Vec<CompactedDate>,
    /// Tables that got a checkpoint.
    pub checkpoint: Vec<CheckpointDone>,
    /// Tables that lost dead files.
    pub vacuum: Vec<VacuumTable>,
    /// What could not be done.
    pub not_done: Vec<NotDone>,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// One run over one lake.
struct Upkeep<'a> {
    lake: &'a Lake,
    settings: &'a Settings,
    options: &'a UpkeepOptions,
    now_ms: i64,
}

impl UpkeepReport {
    /// Whether nothing was due.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let done = self.retain.iter().all(|table| table.version.is_none());
        self.error.is_none() && done && self.compact.is_empty() && self.checkpoint.is_empty() && self.vacuum.is_empty()
    }

    fn not_done(&mut self, step: Step, table: &TableName, error: &Error) {
        tracing::warn!(%table, %step, %error, "what is due is not done");
        self.not_done.push(NotDone { step, table: table.to_string(), error: error.to_string(), class: error.class });
    }

    /// The error of what was not done: the same command may do it later, unless somebody has to change something.
    fn closed(mut self) -> Self {
        let later = [Class::InputLost, Class::Outside, Class::Overlap, Class::Partly];
        let worst = self.not_done.iter().find(|n| !later.contains(&n.class)).or(self.not_done.first());
        if let Some(NotDone { step, table, error, class }) = worst {
            let class = if later.contains(class) { Class::Partly } else { *class };
            let message =
                format!("{} that were due are not done, such as {step} of `{table}`: {error}", self.not_done.len());
            self.error = Some(Error::new(Stage::Upkeep, class, message));
        }
        self
    }
}

/// Says what is due, and does nothing.
///
/// # Errors
/// A table cannot be read.
pub async fn plan_upkeep(settings: &Settings, options: &UpkeepOptions, now_ms: i64) -> Result<UpkeepPlan> {
    plan_upkeep_on(&Lake::open(&settings.lake)?, settings, options, now_ms).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`plan_upkeep`].
pub async fn plan_upkeep_on(
    lake: &Lake,
    settings: &Settings,
    options: &UpkeepOptions,
    now_ms: i64,
) -> Result<UpkeepPlan> {
    let upkeep = Upkeep { lake, settings, options, now_ms };
    let all = lake.list_tables().await?;
    let mut plan = UpkeepPlan::default();
    for name in upkeep.with_retention(&all) {
        let tables = plan_retain_on(lake, settings, &upkeep.retain(name), now_ms).await?;
        plan.retain.extend(tables.into_iter().filter(|table| !table.dates.is_empty()));
    }
    for name in upkeep.compacted_here(&all) {
        plan.compact.extend(plan_compaction_on(lake, settings, &upkeep.compact(name)).await?);
    }
    let checkpoints = checkpoints_on(lake, upkeep.unless(Step::Checkpoint, &all), false, true).await?;
    plan.checkpoint = checkpoints.into_iter().filter(|table| table.write).collect();
    for name in upkeep.unless(Step::Vacuum, &all) {
        let tables = plan_vacuum_on(lake, &upkeep.vacuum(name), now_ms).await?;
        let dead = tables.into_iter().filter(|table| table.files > 0);
        plan.vacuum.extend(dead.map(|table| VacuumTable { list: Vec::new(), ..table }));
    }
    Ok(plan)
}

/// Does what is due; the report says what was done and what could not be.
pub async fn upkeep(
    settings: &Settings,
    options: &UpkeepOptions,
    now_ms: i64,
    stop: &CancellationToken,
) -> UpkeepReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => upkeep_on(&lake, settings, options, now_ms, stop).await,
        Err(error) => UpkeepReport { error: Some(error), ..UpkeepReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn upkeep_on(
    lake: &Lake,
    settings: &Settings,
    options: &UpkeepOptions,
    now_ms: i64,
    stop: &CancellationToken,
) -> UpkeepReport {
    let mut report = UpkeepReport::default();
    let all = match lake.list_tables().await {
        Ok(all) => all,
        Err(error) => return UpkeepReport { error: Some(error), ..report },
    };
    let upkeep = Upkeep { lake, settings, options, now_ms };
    for name in upkeep.with_retention(&all) {
        upkeep.retain_one(name, &mut report, stop).await;
    }
    for name in upkeep.compacted_here(&all) {
        upkeep.compact_one(name, &mut report, stop).await;
    }
    for name in upkeep.unless(Step::Checkpoint, &all).iter().filter(|_| !stop.is_cancelled()) {
        match checkpoints_on(lake, std::slice::from_ref(name), false, false).await {
            Ok(tables) => report.checkpoint.extend(tables.into_iter().filter(|table| table.write)),
            Err(error) => report.not_done(Step::Checkpoint, name, &error),
        }
    }
    for name in upkeep.unless(Step::Vacuum, &all) {
        upkeep.vacuum_one(name, &mut report, stop).await;
    }
    report.stopped = stop.is_cancelled();
    report.closed()
}

impl Upkeep<'_> {
    /// The tables that a contract or a pipeline says a retention of.
    fn with_retention<'t>(&self, all: &'t [TableName]) -> Vec<&'t TableName> {
        let has = |name: &&TableName| {
            let of_raw = |pipeline: &&std::sync::Arc<crate::project::settings::Pipeline>| {
                raw_name(pipeline) == **name && pipeline.contract.retention_days.is_some()
            };
            let pipelines = &self.settings.pipelines;
            pipelines.iter().any(|pipeline| of_raw(&pipeline) || rejects_name(pipeline) == **name)
        };
        self.unless(Step::Retain, all).iter().filter(has).collect()
    }

    fn compacted_here<'t>(&self, all: &'t [TableName]) -> impl Iterator<Item = &'t TableName> {
        self.unless(Step::Compact, all).iter().filter(|name| name.layer != MERGED_ELSEWHERE)
    }

    /// The tables, or none where the step is left out.
    fn unless<'t>(&self, step: Step, all: &'t [TableName]) -> &'t [TableName] {
        if self.options.skip.contains(&step) { &[] } else { all }
    }

    fn retain(&self, name: &TableName) -> RetainOptions {
        let (run_id, tables) = (self.options.run_id.clone(), vec![name.clone()]);
        RetainOptions { run_id, tables, before: None, forced: false, archived_to: None }
    }

    fn compact(&self, name: &TableName) -> CompactOptions {
        CompactOptions {
            run_id: self.options.run_id.clone(),
            tables: vec![name.clone()],
            before: None,
            target_bytes: TARGET_BYTES,
            sort_by: Vec::new(),
            files_min: FILES_DUE,
        }
    }

    fn vacuum(&self, name: &TableName) -> VacuumOptions {
        VacuumOptions { tables: vec![name.clone()], older_than: self.options.older_than, forced: false }
    }

    async fn retain_one(&self, name: &TableName, report: &mut UpkeepReport, stop: &CancellationToken) {
        let done = retain_on(self.lake, self.settings, &self.retain(name), self.now_ms, stop).await;
        report.retain.extend(done.tables.into_iter().filter(|table| !table.dates.is_empty()));
        if let Some(error) = done.error {
            report.not_done(Step::Retain, name, &error);
        }
    }

    async fn compact_one(&self, name: &TableName, report: &mut UpkeepReport, stop: &CancellationToken) {
        let CompactReport { dates, error, .. } =
            compact_on(self.lake, self.settings, &self.compact(name), &Meter::default(), stop).await;
        report.compact.extend(dates);
        if let Some(error) = error {
            report.not_done(Step::Compact, name, &error);
        }
    }

    async fn vacuum_one(&self, name: &TableName, report: &mut UpkeepReport, stop: &CancellationToken) {
        if stop.is_cancelled() {
            return;
        }
        let done = vacuum_on(self.lake, &self.vacuum(name), self.now_ms, stop).await;
        report.vacuum.extend(done.tables.into_iter().filter(|table| table.files > 0));
        if let Some(error) = done.error {
            report.not_done(Step::Vacuum, name, &error);
        }
    }
}

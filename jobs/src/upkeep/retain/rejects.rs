//! Dates that leave a rejects table.
//!
//! How many rejects of a partition have gone is counted in a txn of that table, so `prove` does not miss them. A date
//! stays while messages of it are not in raw's progress: whoever lands them looks for what a crash has left here.

use super::{Plan, Retain, RetainTable, due, shown};
use crate::error::{Result, Stage};
use crate::faults;
use crate::lake::{Attempts, Commit, CommitOutcome, LiveFile, Table};
use crate::land::tables::{REJECT_DATE, raw_name, rejects_name};
use crate::project::settings::Pipeline;
use crate::upkeep::removal::{Count, Counts, Partition, counts_of};
use deltaworks_core::commit_info::{ChangeCommit, Operation};
use deltaworks_core::progress::AppIds;
use deltaworks_core::speed::Nexts;
use deltaworks_core::units::Pin;
use std::collections::{BTreeMap, BTreeSet};

/// Says what would go.
pub(super) async fn plan(retain: &Retain<'_>, pipeline: &Pipeline) -> Result<RetainTable> {
    let table = retain.open(&rejects_name(pipeline)).await?;
    Ok(judge(retain, pipeline, &table).await?.0.shown)
}

/// Removes what may go.
pub(super) async fn retain(retain: &Retain<'_>, pipeline: &Pipeline) -> Result<RetainTable> {
    let mut table = retain.open(&rejects_name(pipeline)).await?;
    let identity = retain.run.identity();
    let mut attempts = Attempts::new(Stage::Upkeep, format!("table `{}`", table.name()));
    loop {
        let (mut plan, counts) = judge(retain, pipeline, &table).await?;
        if plan.files.is_empty() {
            return Ok(plan.shown);
        }
        let info = ChangeCommit {
            identity: identity.clone(),
            pipeline: pipeline.name.clone(),
            operation: Operation::Retain,
            fill: None,
            source: None,
            changed: counts.told(),
            dates: BTreeMap::new(),
        };
        let mut commit = Commit::new("DELETE", &info)?;
        (commit.removes, commit.txns) = (plan.files.clone(), removed_txns(&table, pipeline, &counts));
        faults::point("before_retain_commit");
        match table.commit(commit).await {
            CommitOutcome::Committed(version) => plan.shown.version = Some(version),
            outcome => {
                attempts.after(outcome).await?;
                table.refresh().await?;
                plan.shown.version = table.find_commit(&identity);
            }
        }
        if plan.shown.version.is_some() {
            faults::point("after_retain_commit");
            return Ok(plan.shown);
        }
    }
}

/// The entries that count rejects of each partition that have gone.
pub(in crate::upkeep) fn removed_txns(table: &Table, pipeline: &Pipeline, counts: &Counts) -> Vec<(String, i64)> {
    let ids = AppIds::new(&pipeline.name);
    let txn = |((topic, partition), count): (&Partition, &Count)| {
        let id = ids.rejects_removed(topic, *partition);
        let before = table.txns().get(&id).copied().unwrap_or(0);
        (id, before + i64::try_from(count.landed + count.filled).unwrap_or(i64::MAX))
    };
    counts.iter().map(txn).collect()
}

/// What may go from this version, and how many rejects of each partition that are.
async fn judge(retain: &Retain<'_>, pipeline: &Pipeline, table: &Table) -> Result<(Plan, Counts)> {
    let first_kept = retain.first_kept(table.name(), Some(pipeline.rejects.retention_days))?;
    let mut due = due(table.live_files().await?, REJECT_DATE, first_kept);
    let raw = retain.lake.open_table(&raw_name(pipeline)).await?;
    let none = BTreeMap::new();
    let txns = raw.as_ref().map_or(&none, Table::txns);
    let next = Pin::of_snapshot(&pipeline.name, String::new(), 0, txns, None, BTreeMap::new()).next;
    let mut counts = Counts::default();
    let mut waiting = BTreeSet::new();
    for (date, files) in &due {
        match counted(table, files, &next).await? {
            Some(of_date) => counts.merge(&of_date),
            None => drop(waiting.insert(*date)),
        }
    }
    due.retain(|date, _| !waiting.contains(date));
    if let (Some(first), Some(last)) = (waiting.first(), waiting.last()) {
        tracing::warn!(table = %table.name(), %first, %last, "rejects stay that are not in raw's progress yet");
    }
    let shown = shown(table.name(), first_kept, &due);
    Ok((Plan { shown, files: due.into_values().flatten().collect() }, counts))
}

/// The rejects of these files; `None` if a message of them is not in raw's progress.
async fn counted(table: &Table, files: &[LiveFile], next: &Nexts) -> Result<Option<Counts>> {
    let mut all = Counts::default();
    for counts in counts_of(table, files).await? {
        all.merge(&counts);
    }
    let is_landed = |((topic, partition), count): (&Partition, &Count)| {
        let next = next.get(topic).and_then(|partitions| partitions.get(partition));
        // files have no progress of this kind: their place is (URL, −1, row)
        *partition < 0 || next.is_some_and(|next| count.last < next.0)
    };
    let are_landed = all.iter().all(is_landed);
    Ok(are_landed.then_some(all))
}

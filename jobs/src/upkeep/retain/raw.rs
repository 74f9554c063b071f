//! Dates that leave a raw table: those whose windows are final, or, if told, any.
//!
//! Invariants: A1 `removed_through` never falls, and what lands at or before it later goes with the next run; A2 the
//! rows and checksums that a commit tells are those that the ledger has of the dates, and their files have as many.

use super::finality::Windows;
use super::{Plan, Retain, RetainTable, due, shown};
use crate::batch::Input;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{Attempts, Commit, CommitOutcome, LiveFile, Table, ledger};
use crate::land::tables::raw_name;
use crate::project::settings::Pipeline;
use crate::upkeep::archive::not_archived;
use crate::upkeep::removal::{Counts, counts_of};
use deltaworks_core::commit_info::{ChangeCommit, DateEntry, Identity, Operation};
use deltaworks_core::progress::AppIds;
use deltaworks_core::windows::{Instant, epoch_days};
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Says what would go.
pub(super) async fn plan(retain: &Retain<'_>, pipeline: &Arc<Pipeline>) -> Result<RetainTable> {
    let windows = Windows::of(retain.lake, retain.settings, &pipeline.name).await?;
    Ok(judge(retain, pipeline, &windows).await?.1.shown)
}

/// Removes what may go.
pub(super) async fn retain(retain: &Retain<'_>, pipeline: &Arc<Pipeline>) -> Result<RetainTable> {
    let windows = Windows::of(retain.lake, retain.settings, &pipeline.name).await?;
    let mut attempts = Attempts::new(Stage::Upkeep, format!("table `{}`", raw_name(pipeline)));
    loop {
        let (input, mut plan) = judge(retain, pipeline, &windows).await?;
        if plan.files.is_empty() || !plan.shown.refused.is_empty() {
            return Ok(plan.shown);
        }
        let removal = removal(retain, pipeline, &input, &plan).await?;
        faults::point("before_retain_commit");
        if let Some(version) = commit(&input, &plan, &removal, &mut attempts).await? {
            faults::point("after_retain_commit");
            plan.shown.version = Some(version);
            return Ok(plan.shown);
        }
        tracing::info!(table = %input.raw.name(), "others changed these dates; plan again");
    }
}

/// Looks at the newest version.
pub(in crate::upkeep) async fn judge(
    retain: &Retain<'_>,
    pipeline: &Arc<Pipeline>,
    windows: &Windows,
) -> Result<(Input, Plan)> {
    let name = raw_name(pipeline);
    // names the tables of the lake where there is none
    let Some(input) = Input::gather(retain.lake, pipeline, None).await? else {
        return Err(retain.open(&name).await.err().unwrap_or_else(|| gone(&name)));
    };
    let first_kept = retain.first_kept(&name, pipeline.contract.retention_days)?;
    let due = due(input.raw.live_files().await?, "event_date", first_kept);
    let mut shown = shown(&name, first_kept, &due);
    if let Some(archive) = &retain.archive {
        let told = ledger::read(retain.lake, &input.raw, &pipeline.name).await?;
        // of a date that went before, the archive has what was final
        let wanted =
            told.dates.into_iter().filter(|(date, _)| due.contains_key(date) && !input.removed.contains(*date));
        shown.refused = not_archived(archive, &input, &wanted.collect()).await?;
    }
    if let Some(first_kept) = first_kept.filter(|_| !due.is_empty() && !retain.options.forced) {
        shown.refused.extend(refused(&input, windows, first_kept, due.keys().copied().collect()).await?);
    }
    Ok((input, Plan { shown, files: due.into_values().flatten().collect() }))
}

fn gone(name: &crate::lake::TableName) -> Error {
    Error::new(Stage::Upkeep, Class::Outside, format!("table `{name}` is being made or dropped"))
}

/// What stands in the way of dates.
async fn refused(input: &Input, windows: &Windows, first_kept: Date, due: BTreeSet<Date>) -> Result<Vec<String>> {
    // of a date that was removed before, only what came later is left: no window can be made of that
    let was_removed = |date: &Date| input.removed.contains(*date);
    if due.iter().all(was_removed) {
        return Ok(Vec::new());
    }
    let midnight = Instant::of_utc_date(first_kept).map_err(|e| {
        Error::new(Stage::Upkeep, Class::User, format!("{first_kept} is no date that windows are made for")).because(e)
    })?;
    let mut refused = Vec::new();
    match input.pin.valid_through {
        Some(through) if through >= midnight => {}
        Some(through) => refused.push(format!("it is complete only up to {through}")),
        None => refused.push("nobody knows yet up to where it is complete".to_owned()),
    }
    let goes = |date: Date| date < first_kept && !input.removed.contains(date);
    if let Ok(last) = first_kept.yesterday() {
        refused.extend(windows.not_final(input, last, goes).await?);
    }
    Ok(refused)
}

/// What the commit tells of the rows that go.
pub(in crate::upkeep) async fn removal(
    retain: &Retain<'_>,
    pipeline: &Pipeline,
    input: &Input,
    plan: &Plan,
) -> Result<ChangeCommit> {
    let told = ledger::read(retain.lake, &input.raw, &pipeline.name).await?;
    let mut dates = BTreeMap::new();
    for going in &plan.shown.dates {
        let entry = told.dates.get(&going.date).copied();
        let rows = entry.map_or(0, |entry: DateEntry| entry.rows);
        if rows != going.rows {
            let message = format!(
                "table `{}` has {} rows of {}, and its commits told of {rows}",
                input.raw.name(),
                going.rows,
                going.date
            );
            return Err(Error::new(Stage::Upkeep, Class::Internal, message)
                .hint("the table was changed by another tool: see `deltaworks prove`"));
        }
        dates.extend(entry.map(|entry| (going.date.to_string(), entry)));
    }
    let mut counts = Counts::default();
    for of_file in counts_of(&input.raw, &plan.files).await? {
        counts.merge(&of_file);
    }
    Ok(ChangeCommit {
        identity: retain.run.identity(),
        pipeline: pipeline.name.clone(),
        operation: Operation::Retain,
        fill: None,
        source: None,
        changed: counts.told(),
        dates,
    })
}

/// The version of the commit; `None` if the files of these dates are no longer those that were judged.
pub(in crate::upkeep) async fn commit(
    input: &Input,
    plan: &Plan,
    removal: &ChangeCommit,
    attempts: &mut Attempts,
) -> Result<Option<i64>> {
    let (mut raw, identity): (Table, &Identity) = (input.raw.clone(), &removal.identity);
    let paths = |files: &[LiveFile]| files.iter().map(|file| file.path.clone()).collect::<BTreeSet<_>>();
    loop {
        let mut commit = Commit::new("DELETE", removal)?;
        commit.removes = plan.files.clone();
        commit.txns = progress(input, &raw, plan);
        match raw.commit(commit).await {
            CommitOutcome::Committed(version) => return Ok(Some(version)),
            outcome => attempts.after(outcome).await?,
        }
        raw.refresh().await?;
        if let Some(version) = raw.find_commit(identity) {
            return Ok(Some(version));
        }
        let now = due(raw.live_files().await?, "event_date", plan.shown.first_kept);
        let now: Vec<LiveFile> = now.into_values().flatten().collect();
        if paths(&now) != paths(&plan.files) {
            return Ok(None);
        }
    }
}

/// The entries that say that these dates are gone; one that was brought back counts its removal.
fn progress(input: &Input, raw: &Table, plan: &Plan) -> Vec<(String, i64)> {
    let ids = AppIds::new(&input.pipeline.name);
    let Some(last) = plan.shown.first_kept.and_then(|first| first.yesterday().ok()) else { return Vec::new() };
    let before = raw.txns().get(&ids.removed_through()).copied();
    let through = i64::from(epoch_days(last));
    let through = before.map_or(through, |before| before.max(through));
    let restored = input.removed.restored.iter().filter(|date| **date <= last).map(|date| {
        let id = ids.restored(*date);
        let times = raw.txns().get(&id).copied().unwrap_or(0);
        (id, times + 1)
    });
    std::iter::once((ids.removed_through(), through)).chain(restored).collect()
}

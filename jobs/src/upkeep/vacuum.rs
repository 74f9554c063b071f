//! Deletes files that no version needs any more.
//!
//! A file may go if it was written before the limit and no version needs it that was the newest at or after the
//! limit. That covers files that have left the table and files that were never committed, so the limit is also
//! what a slow writer may take from its first file to its commit.
//!
//! Jobs read one version for as long as they run, so a run that began within the limit keeps its files. A run may
//! also ask for an older version (`batch --input-version`). It records that in `ops.pins` before it reads; so the
//! versions that pins of the time since the limit name are kept too. Older pins do not hold files: a pin names rows
//! by place and outlives them, and whoever asks for a version that is gone gets exit code 6.
//!
//! Invariants: V1 no live file goes, nor one that is younger than the limit; V2 the folder is listed before the log
//! is read, see [`crate::lake::Needed`].

use super::open::open;
use crate::batch::{pins_table, primitive, texts};
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{Lake, Needed, StoredFile, Table, TableName};
use crate::project::settings::Settings;
use arrow::datatypes::Int64Type;
use deltaworks_core::upkeep::{Fate, fate};
use deltaworks_core::windows::Instant;
use futures::StreamExt;
use jiff::civil::Date;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// No writer is expected to be slower; less has to be forced.
const LIMIT_LEAST: Duration = Duration::from_secs(3_600);
/// Files deleted at a time, between looks at the signal.
const FILES_AT_A_TIME: usize = 1_000;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct VacuumOptions {
    /// Tables.
    pub tables: Vec<TableName>,
    /// How long ago a file must have been needed last.
    pub older_than: Duration,
    /// Allows less than an hour.
    pub forced: bool,
}

/// A file that may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnneededFile {
    /// Path below the table.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// When it was written, ms since the Unix epoch.
    pub written_ms: i64,
}

/// What was done to one table, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VacuumTable {
    /// Table.
    pub table: String,
    /// Files that may go, or went.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files in no version yet, and too young to go.
    pub young: u64,
    /// This version and all after it can be read as before.
    pub readable_from: i64,
    /// Older versions that are kept as well, since pins of the time since the limit name them.
    pub pinned: Vec<i64>,
    /// The files, in a plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<UnneededFile>,
}

/// What a run did.
#[derive(Debug, Default, Serialize)]
pub struct VacuumReport {
    /// Each table that was looked at.
    pub tables: Vec<VacuumTable>,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// What may go from one table.
struct Found {
    table: Table,
    files: Vec<StoredFile>,
    shown: VacuumTable,
}

impl VacuumReport {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.error.is_none() && self.tables.iter().all(|table| table.files == 0)
    }
}

/// Looks, and does nothing.
///
/// # Errors
/// The limit is too near; a table is not there or cannot be read.
pub async fn plan_vacuum(settings: &Settings, options: &VacuumOptions, now_ms: i64) -> Result<Vec<VacuumTable>> {
    plan_vacuum_on(&Lake::open(&settings.lake)?, options, now_ms).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`plan_vacuum`].
pub async fn plan_vacuum_on(lake: &Lake, options: &VacuumOptions, now_ms: i64) -> Result<Vec<VacuumTable>> {
    let mut plans = Vec::new();
    for name in &options.tables {
        let Found { files, mut shown, .. } = find(lake, name, options, now_ms).await?;
        let listed = files.into_iter();
        let listed = listed.map(|f| UnneededFile { path: f.path, bytes: f.size, written_ms: f.written_ms });
        shown.list = listed.collect();
        plans.push(shown);
    }
    Ok(plans)
}

/// Deletes; the report says how far it got, also if it failed. `now_ms` is compared with the store's clock.
pub async fn vacuum(
    settings: &Settings,
    options: &VacuumOptions,
    now_ms: i64,
    stop: &CancellationToken,
) -> VacuumReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => vacuum_on(&lake, options, now_ms, stop).await,
        Err(error) => VacuumReport { error: Some(error), ..VacuumReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn vacuum_on(lake: &Lake, options: &VacuumOptions, now_ms: i64, stop: &CancellationToken) -> VacuumReport {
    let mut report = VacuumReport::default();
    for name in &options.tables {
        if let Err(error) = delete(lake, name, options, now_ms, stop, &mut report).await {
            report.error = Some(error);
        }
        if report.error.is_some() || report.stopped {
            break;
        }
    }
    report
}

async fn delete(
    lake: &Lake,
    name: &TableName,
    options: &VacuumOptions,
    now_ms: i64,
    stop: &CancellationToken,
    report: &mut VacuumReport,
) -> Result<()> {
    let Found { mut table, files, shown } = find(lake, name, options, now_ms).await?;
    let mut done = VacuumTable { files: 0, bytes: 0, ..shown };
    let mut ended = Ok(());
    for some in files.chunks(FILES_AT_A_TIME) {
        if stop.is_cancelled() {
            report.stopped = true;
            break;
        }
        faults::point("before_vacuum_delete");
        ended = table.delete_stored(some).await;
        if ended.is_err() {
            break;
        }
        faults::point("after_vacuum_delete");
        done.files += some.len() as u64;
        done.bytes += some.iter().map(|file| file.size).sum::<u64>();
    }
    report.tables.push(done);
    ended
}

async fn find(lake: &Lake, name: &TableName, options: &VacuumOptions, now_ms: i64) -> Result<Found> {
    if options.older_than < LIMIT_LEAST && !options.forced {
        let message = "files that were needed within the last hour are not deleted";
        return Err(Error::new(Stage::Upkeep, Class::User, message)
            .hint("a job that runs now may need them; where none does, say `--force`"));
    }
    let before_ms = i64::try_from(options.older_than.as_millis()).unwrap_or(i64::MAX);
    let limit_ms = now_ms.saturating_sub(before_ms);
    let mut table = open(lake, name).await?;
    let stored = table.stored_files().await?;
    table.refresh().await?;
    let mut needed = table.needed_since(limit_ms).await?;
    let pinned = keep_pinned(lake, &table, &mut needed, limit_ms).await?;
    let (mut files, mut young) = (Vec::new(), 0);
    for file in stored {
        match fate(needed.has(&file), file.written_ms, limit_ms) {
            Fate::Needed => {}
            Fate::Young => young += 1,
            Fate::Unneeded => files.push(file),
        }
    }
    let shown = VacuumTable {
        table: name.to_string(),
        files: files.len() as u64,
        bytes: files.iter().map(|file| file.size).sum(),
        young,
        readable_from: needed.from_version,
        pinned,
        list: Vec::new(),
    };
    Ok(Found { table, files, shown })
}

/// Keeps the older versions that pins since the limit name, and returns those that there are.
async fn keep_pinned(lake: &Lake, table: &Table, needed: &mut Needed, limit_ms: i64) -> Result<Vec<i64>> {
    let mut kept = Vec::new();
    for version in pinned_since(lake, table, limit_ms).await? {
        if version < needed.from_version && table.need_version(needed, version).await? {
            kept.push(version);
        }
    }
    Ok(kept)
}

/// The versions of a table that pins of the limit's day or later name.
async fn pinned_since(lake: &Lake, table: &Table, limit_ms: i64) -> Result<BTreeSet<i64>> {
    let mut versions = BTreeSet::new();
    let Some(pins) = lake.open_table(&pins_table().name).await? else { return Ok(versions) };
    // a limit before all dates leaves out none
    let since = Instant::of_ms(limit_ms).utc_date().ok();
    for file in pins.live_files().await? {
        let date = file.partition_values.get("run_date").and_then(Option::as_deref);
        let date = date.and_then(|date| date.parse::<Date>().ok());
        if date.zip(since).is_some_and(|(date, since)| date < since) {
            continue;
        }
        let mut batches = pins.read_file(&file, &["table_id", "version"]).await?;
        while let Some(batch) = batches.next().await.transpose()? {
            let (ids, numbers) = (texts(&batch, "table_id")?, primitive::<Int64Type>(&batch, "version")?);
            let ours = ids.iter().zip(numbers).filter(|(id, _)| *id == Some(table.id()));
            versions.extend(ours.filter_map(|(_, version)| version));
        }
    }
    Ok(versions)
}

//! Whole dates that are kept no longer leave a table, in one commit that says what went.
//!
//! ```text
//!   contract, `--before` ─> dates that go ─┬─> raw: are all windows of them final? archived? ──┬─> one commit: files out,
//!                                          └─> rejects: are they all in raw's progress? ───────┘   counts, progress
//! ```
//!
//! Only files leave, so nothing is read but where rows came from. Older versions keep the rows until `vacuum`.
//! Events and rejects have a retention; what is computed from them is small and stays, and `ops` is what `prove`
//! goes by.
//!
//! Invariants: T1 what goes was judged on the version before the commit, so an event that lands in one of the dates
//! meanwhile is seen and judged as well; T2 a table of which anything may not go keeps everything.

pub(super) mod finality;
pub(super) mod raw;
mod rejects;

pub(super) use rejects::removed_txns;

use super::open::open;
use crate::batch::Run;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Folder, Lake, LiveFile, Table, TableName};
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::upkeep::retention::first_kept;
use deltaworks_core::windows::Instant;
use jiff::civil::Date;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Units named by an error.
const NAMED_MAX: usize = 5;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RetainOptions {
    /// Id of the run.
    pub run_id: String,
    /// Tables of the layers `raw` and `rejects`.
    pub tables: Vec<TableName>,
    /// Remove dates before this one; `None` for those that the retention no longer covers.
    pub before: Option<Date>,
    /// Remove dates also where windows are not final.
    pub forced: bool,
    /// URL of an archive that must have the dates of raw tables, as they are now.
    pub archived_to: Option<String>,
}

/// A date that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetainDate {
    /// The date.
    pub date: Date,
    /// Its files.
    pub files: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was done to one table, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetainTable {
    /// Table.
    pub table: String,
    /// The first date that is kept; null for all.
    pub first_kept: Option<Date>,
    /// The dates that went, or would go.
    pub dates: Vec<RetainDate>,
    /// What stands in their way.
    pub refused: Vec<String>,
    /// The commit; null where nothing was changed.
    pub version: Option<i64>,
}

/// What a run did.
#[derive(Debug, Default, Serialize)]
pub struct RetainReport {
    /// Each table that was looked at.
    pub tables: Vec<RetainTable>,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// What all tables of a run share.
pub(super) struct Retain<'a> {
    lake: &'a Lake,
    settings: &'a Settings,
    options: &'a RetainOptions,
    run: Run,
    today: Date,
    archive: Option<Folder>,
}

/// What may leave one table.
pub(super) struct Plan {
    pub shown: RetainTable,
    files: Vec<LiveFile>,
}

impl RetainReport {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.error.is_none() && self.tables.iter().all(|table| table.version.is_none())
    }
}

/// Plans, and does nothing.
///
/// # Errors
/// A table is not there, has no retention, or cannot be read; dates are asked for that the contract keeps.
pub async fn plan_retain(settings: &Settings, options: &RetainOptions, now_ms: i64) -> Result<Vec<RetainTable>> {
    plan_retain_on(&Lake::open(&settings.lake)?, settings, options, now_ms).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`plan_retain`].
pub async fn plan_retain_on(
    lake: &Lake,
    settings: &Settings,
    options: &RetainOptions,
    now_ms: i64,
) -> Result<Vec<RetainTable>> {
    let retain = Retain::new(lake, settings, options, now_ms)?;
    let mut plans = Vec::new();
    for name in &options.tables {
        plans.push(match retain.subject(name)? {
            Subject::Raw(pipeline) => raw::plan(&retain, &pipeline).await?,
            Subject::Rejects(pipeline) => rejects::plan(&retain, &pipeline).await?,
        });
    }
    Ok(plans)
}

/// Removes what is kept no longer; the report says how far it got, also if it failed.
pub async fn retain(
    settings: &Settings,
    options: &RetainOptions,
    now_ms: i64,
    stop: &CancellationToken,
) -> RetainReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => retain_on(&lake, settings, options, now_ms, stop).await,
        Err(error) => RetainReport { error: Some(error), ..RetainReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn retain_on(
    lake: &Lake,
    settings: &Settings,
    options: &RetainOptions,
    now_ms: i64,
    stop: &CancellationToken,
) -> RetainReport {
    let mut report = RetainReport::default();
    let retain = match Retain::new(lake, settings, options, now_ms) {
        Ok(retain) => retain,
        Err(error) => return RetainReport { error: Some(error), ..report },
    };
    for name in &options.tables {
        if stop.is_cancelled() {
            report.stopped = true;
            break;
        }
        match retain.table(name).await {
            Ok(done) => {
                // what may not go from one table says nothing of the next
                report.error = report.error.or_else(|| done.refusal());
                report.tables.push(done);
            }
            Err(error) => {
                let changed = report.tables.iter().any(|table| table.version.is_some());
                let class = if changed && error.class == Class::Outside { Class::Partly } else { error.class };
                report.error = Some(Error { class, ..error });
                break;
            }
        }
    }
    report
}

impl RetainTable {
    /// The error of a table that keeps its dates though they are due.
    fn refusal(&self) -> Option<Error> {
        let first = self.refused.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        let more = self.refused.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let before = self.first_kept.map_or_else(String::new, |date| format!(" before {date}"));
        let message = format!("table `{}` keeps its dates{before}: {first}{more}", self.table);
        (!self.refused.is_empty()).then(|| {
            Error::new(Stage::Upkeep, Class::InputLost, message).hint(
                "`stream`, `batch` and `reconcile` make windows final, and `tables archive` archives dates; `--force` \
                 removes what is not final all the same, and its windows stay as they are for ever",
            )
        })
    }
}

/// Which table of which pipeline.
enum Subject {
    Raw(Arc<Pipeline>),
    Rejects(Arc<Pipeline>),
}

impl<'a> Retain<'a> {
    pub fn new(lake: &'a Lake, settings: &'a Settings, options: &'a RetainOptions, now_ms: i64) -> Result<Self> {
        let today = Instant::of_ms(now_ms).utc_date().map_err(|e| {
            Error::new(Stage::Upkeep, Class::Outside, "the clock stands in no year that dates are made for").because(e)
        })?;
        let archive =
            options.archived_to.as_deref().map(|url| Folder::open(url, &settings.lake.storage)).transpose()?;
        Ok(Self { lake, settings, options, run: Run::new(options.run_id.clone()), today, archive })
    }

    async fn table(&self, name: &TableName) -> Result<RetainTable> {
        match self.subject(name)? {
            Subject::Raw(pipeline) => raw::retain(self, &pipeline).await,
            Subject::Rejects(pipeline) => rejects::retain(self, &pipeline).await,
        }
    }

    fn subject(&self, name: &TableName) -> Result<Subject> {
        let user = |message: String| Error::new(Stage::Upkeep, Class::User, message);
        if !["raw", "rejects"].contains(&name.layer.as_str()) {
            return Err(user(format!("table `{name}` has no retention"))
                .hint("events and rejects have one: name tables of the layers `raw` and `rejects`"));
        }
        let pipeline = self.settings.pipelines.iter().find(|pipeline| pipeline.name == name.name).cloned();
        let pipeline = pipeline.ok_or_else(|| {
            user(format!("table `{name}` is of no pipeline of the project"))
                .hint("its contract, which says what is kept, is named under `pipelines`")
        })?;
        Ok(if name.layer == "raw" { Subject::Raw(pipeline) } else { Subject::Rejects(pipeline) })
    }

    /// The first date of a table that is kept.
    fn first_kept(&self, table: &TableName, days: Option<u32>) -> Result<Option<Date>> {
        first_kept(self.today, days, self.options.before).map_err(|kept| {
            Error::new(Stage::Upkeep, Class::User, format!("table `{table}`: {kept}"))
                .hint("the contract says under `slaProperties`, and a pipeline under `rejects`, how long is kept")
        })
    }

    async fn open(&self, name: &TableName) -> Result<Table> {
        open(self.lake, name).await
    }
}

/// The files of dates before `first_kept`, by date; one without a date stays.
fn due(files: Vec<LiveFile>, column: &str, first_kept: Option<Date>) -> BTreeMap<Date, Vec<LiveFile>> {
    let mut due: BTreeMap<Date, Vec<LiveFile>> = BTreeMap::new();
    for file in files {
        let date = file.partition_values.get(column).and_then(Option::as_deref).and_then(|date| date.parse().ok());
        if let Some(date) = date.filter(|date| first_kept.is_some_and(|first| *date < first)) {
            due.entry(date).or_default().push(file);
        }
    }
    due
}

fn shown(table: &TableName, first_kept: Option<Date>, due: &BTreeMap<Date, Vec<LiveFile>>) -> RetainTable {
    let dates = due.iter().map(|(date, files)| RetainDate {
        date: *date,
        files: files.len() as u64,
        rows: files.iter().filter_map(|file| file.rows).sum(),
        bytes: files.iter().map(|file| file.size).sum(),
    });
    RetainTable { table: table.to_string(), first_kept, dates: dates.collect(), refused: Vec::new(), version: None }
}

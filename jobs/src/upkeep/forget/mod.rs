//! A person's rows leave raw and rejects; every other row stays, bit for bit.
//!
//! ```text
//!   column = value ─> files that hold such rows ─> written anew without them ─> one commit a date ─┐
//!                          └──────────<─── look again, until there is none ───<────────────────────┘
//! ```
//!
//! Files are replaced one by one, and files without such rows are not touched. A commit tells how many rows went and
//! their checksum, never what was in them, and counts in `…/rewritten/<date>` that the date has other rows now: so
//! batch computes its windows again, pins know, and speed begins anew.
//!
//! Rejects come first: what a redrive moves meanwhile is found in raw then. What is not reached: older versions of the
//! tables until they are vacuumed, archives, the topic itself, and results that hold the key as a column until they
//! are computed again.
//!
//! Invariants: F1 the value is nowhere in what is written or said; F2 what a commit takes out are the rows that it
//! does not bring in again (W3 of [`super::rewrite`]); F3 every file that it takes out is live on the version before.

mod key;
mod payload;

use super::removal::Counts;
use super::retain::removed_txns;
use super::rewrite::{Manner, Set, Sieve, Thinned, rewrite_without};
use crate::batch::{Run, conform, named};
use crate::checksum::RowSum;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{Attempts, Commit, CommitOutcome, Lake, LiveFile, Table, TableName};
use crate::land::tables::{REJECT_DATE, raw_name, rejects_name};
use crate::project::settings::{Pipeline, Settings};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use deltaworks_core::commit_info::{ChangeCommit, Checksum, DateEntry, Operation};
use deltaworks_core::progress::AppIds;
use futures::{StreamExt, TryStreamExt};
use jiff::civil::Date;
use key::Key;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Times that a table is looked at again because rows came meanwhile.
const ROUNDS_MAX: usize = 8;
/// Files that are looked at at the same time.
const READS_MAX: usize = 4;
/// What a file in the making may hold in any case.
const FILE_BYTES_LEAST: usize = 8 << 20;

/// What is asked for.
#[derive(Clone)]
pub struct ForgetOptions {
    /// Id of the run.
    pub run_id: String,
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// `column=value`. It never shows.
    pub key: String,
    /// Why; commitInfo keeps it.
    pub because: Option<String>,
}

impl fmt::Debug for ForgetOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run_id, pipeline, because, .. } = self;
        let mut shown = f.debug_struct("ForgetOptions");
        shown
            .field("run_id", run_id)
            .field("pipeline", &pipeline.name)
            .field("because", because)
            .finish_non_exhaustive()
    }
}

/// What was found of one date, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForgottenDate {
    /// Table.
    pub table: String,
    /// The date.
    pub date: Date,
    /// Files that hold such rows.
    pub files: u64,
    /// Such rows.
    pub rows: u64,
    /// The commit; null in a plan.
    pub version: Option<i64>,
}

/// What a run did.
#[derive(Debug, Default, Serialize)]
pub struct ForgetReport {
    /// Each date that was rewritten.
    pub dates: Vec<ForgottenDate>,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// Both tables, one after the other.
struct Forget<'a> {
    lake: &'a Lake,
    options: &'a ForgetOptions,
    key: Key,
    run: Run,
    file_bytes_max: usize,
}

/// One table, and how rows in it are told.
struct Subject {
    table: Table,
    is_raw: bool,
    /// Partition column.
    date_column: &'static str,
    goes: Sieve,
    /// What has to be read to tell.
    needed: SchemaRef,
}

/// The files of one date that hold such rows, with how many.
type Found = BTreeMap<Date, Vec<(LiveFile, u64)>>;

impl ForgetReport {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.error.is_none() && self.dates.is_empty()
    }
}

/// Looks, and does nothing.
///
/// # Errors
/// The key is none; a table cannot be read.
pub async fn plan_forget(settings: &Settings, options: &ForgetOptions) -> Result<Vec<ForgottenDate>> {
    let lake = Lake::open(&settings.lake)?;
    let forget = Forget::new(&lake, settings, options)?;
    let mut plans = Vec::new();
    for subject in forget.subjects().await? {
        let found = subject.find(&forget.key).await?;
        plans.extend(found.iter().map(|(date, files)| shown(subject.table.name(), *date, files, None)));
    }
    Ok(plans)
}

/// Forgets; the report says how far it got, also if it failed. Run again, it goes on.
pub async fn forget(settings: &Settings, options: &ForgetOptions, stop: &CancellationToken) -> ForgetReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => forget_on(&lake, settings, options, stop).await,
        Err(error) => ForgetReport { error: Some(error), ..ForgetReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn forget_on(
    lake: &Lake,
    settings: &Settings,
    options: &ForgetOptions,
    stop: &CancellationToken,
) -> ForgetReport {
    let mut report = ForgetReport::default();
    let done = async {
        let forget = Forget::new(lake, settings, options)?;
        for subject in forget.subjects().await? {
            forget.table(subject, &mut report, stop).await?;
        }
        Ok::<(), Error>(())
    };
    if let Err(error) = done.await {
        let class = if report.dates.is_empty() || error.class != Class::Outside { error.class } else { Class::Partly };
        report.error = Some(Error { class, ..error });
    }
    report
}

impl<'a> Forget<'a> {
    fn new(lake: &'a Lake, settings: &Settings, options: &'a ForgetOptions) -> Result<Self> {
        let key = Key::new(&options.pipeline, &options.key)?;
        if options.because.as_ref().is_some_and(|because| because.contains(&key.text)) {
            let message = "the reason holds the value that is to be forgotten";
            return Err(Error::new(Stage::Upkeep, Class::User, message)
                .hint("it is kept beside the counts: write a case number instead"));
        }
        let file_bytes_max = (settings.memory_bytes / 4).max(FILE_BYTES_LEAST);
        Ok(Self { lake, options, key, run: Run::new(options.run_id.clone()), file_bytes_max })
    }

    /// The tables that are there.
    async fn subjects(&self) -> Result<Vec<Subject>> {
        let pipeline = &self.options.pipeline;
        let mut subjects = Vec::new();
        if let Some(table) = self.lake.open_table(&rejects_name(pipeline)).await? {
            let key = self.key.clone();
            let needed = named(table.schema(), payload::COLUMNS);
            let goes: Sieve = Arc::new(move |batch: &RecordBatch| payload::is_in(&key, batch));
            subjects.push(Subject { table, is_raw: false, date_column: REJECT_DATE, goes, needed });
        }
        if let Some(table) = self.lake.open_table(&raw_name(pipeline)).await? {
            let key = self.key.clone();
            let needed = self.key.columns(table.schema());
            let goes: Sieve = Arc::new(move |batch: &RecordBatch| key.is_in(batch));
            subjects.push(Subject { table, is_raw: true, date_column: "event_date", goes, needed });
        }
        if subjects.is_empty() {
            let message = format!("pipeline `{}` has landed nothing yet", pipeline.name);
            return Err(Error::new(Stage::Upkeep, Class::User, message));
        }
        Ok(subjects)
    }

    /// Rewrites date after date until no row is left.
    async fn table(&self, mut subject: Subject, report: &mut ForgetReport, stop: &CancellationToken) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            subject.table.refresh().await?;
            let found = subject.find(&self.key).await?;
            if found.is_empty() || report.stopped {
                return Ok(());
            }
            let version = subject.table.version();
            for (date, files) in found {
                if stop.is_cancelled() {
                    report.stopped = true;
                    return Ok(());
                }
                let done = self.date(&mut subject, date, &files, version).await?;
                report.dates.extend(done);
            }
        }
        let message = format!("table `{}`: others keep changing the same files", subject.table.name());
        Err(Error::new(Stage::Upkeep, Class::Overlap, message))
    }

    /// Rewrites one date; `None` if its files are no longer live: then they are looked for again.
    async fn date(
        &self,
        subject: &mut Subject,
        date: Date,
        files: &[(LiveFile, u64)],
        version: i64,
    ) -> Result<Option<ForgottenDate>> {
        let manner = Manner { sort_by: Vec::new(), sort_bytes: 0, file_bytes_max: self.file_bytes_max };
        let mut all = Thinned::default();
        for (file, _) in files {
            let set = Set {
                values: file.partition_values.clone(),
                files: vec![file.clone()],
                files_after: 1,
                rows_per_file: u64::MAX,
            };
            let thinned = rewrite_without(&subject.table, &set, &manner, subject.goes.clone()).await?;
            all.files.extend(thinned.files);
            all.gone.merge(thinned.gone);
            all.counts.merge(&thinned.counts);
        }
        let dates = match subject.is_raw {
            true => BTreeMap::from([(date.to_string(), entry(all.gone))]),
            false => BTreeMap::new(),
        };
        let told = ChangeCommit {
            identity: self.run.identity(),
            pipeline: self.options.pipeline.name.clone(),
            operation: Operation::Forget,
            fill: None,
            source: self.options.because.clone(),
            changed: all.counts.told(),
            dates,
        };
        faults::point("before_forget_commit");
        let done = self.commit(subject, date, files, version, &told, &all).await?;
        faults::point("after_forget_commit");
        Ok(done.map(|version| {
            let rows = all.gone.rows;
            ForgottenDate { rows, ..shown(subject.table.name(), date, files, Some(version)) }
        }))
    }

    async fn commit(
        &self,
        subject: &mut Subject,
        date: Date,
        files: &[(LiveFile, u64)],
        version: i64,
        told: &ChangeCommit,
        thinned: &Thinned,
    ) -> Result<Option<i64>> {
        let mut attempts = Attempts::new(Stage::Upkeep, format!("table `{}`", subject.table.name()));
        loop {
            let changes = subject.table.changes_since(version).await?;
            if files.iter().any(|(file, _)| changes.removed.contains(&file.path)) {
                return Ok(None);
            }
            let mut commit = Commit::new("DELETE", told)?;
            commit.removes = files.iter().map(|(file, _)| file.clone()).collect();
            commit.adds = thinned.files.clone();
            commit.txns = self.txns(subject, date, &thinned.counts);
            match subject.table.commit(commit).await {
                CommitOutcome::Committed(version) => return Ok(Some(version)),
                outcome => attempts.after(outcome).await?,
            }
            subject.table.refresh().await?;
            if let Some(version) = subject.table.find_commit(&told.identity) {
                return Ok(Some(version));
            }
        }
    }

    /// The entries that say that a date was rewritten.
    fn txns(&self, subject: &Subject, date: Date, counts: &Counts) -> Vec<(String, i64)> {
        let next = |id: String| {
            let before = subject.table.txns().get(&id).copied().unwrap_or(0);
            (id, before + 1)
        };
        let mut txns = vec![next(format!("deltaworks/{}/rewrite", subject.table.name()))];
        if subject.is_raw {
            txns.push(next(AppIds::new(&self.options.pipeline.name).rewritten(date)));
        } else {
            txns.extend(removed_txns(&subject.table, &self.options.pipeline, counts));
        }
        txns
    }
}

impl Subject {
    /// The files that hold such rows, by date.
    async fn find(&self, key: &Key) -> Result<Found> {
        let files = self.table.live_files().await?.into_iter().filter(|file| !self.is_raw || key.may_be_in(file));
        let looks = files.map(|file| async move {
            let rows = self.rows_in(&file).await?;
            Ok::<_, Error>((file, rows))
        });
        let mut looked = futures::stream::iter(looks).buffered(READS_MAX);
        let mut found = Found::new();
        while let Some((file, rows)) = looked.try_next().await? {
            if rows > 0 {
                found.entry(self.date_of(&file)?).or_default().push((file, rows));
            }
        }
        Ok(found)
    }

    async fn rows_in(&self, file: &LiveFile) -> Result<u64> {
        let columns: Vec<&str> = self.needed.fields().iter().map(|field| field.name().as_str()).collect();
        let mut batches = self.table.read_file(file, &columns).await?;
        let mut rows = 0;
        while let Some(batch) = batches.next().await.transpose()? {
            let batch = conform(&batch, &file.partition_values, &self.needed)?;
            rows += (self.goes)(&batch)?.true_count() as u64;
        }
        Ok(rows)
    }

    fn date_of(&self, file: &LiveFile) -> Result<Date> {
        let spelled = file.partition_values.get(self.date_column).and_then(Option::as_deref);
        spelled.and_then(|date| date.parse().ok()).ok_or_else(|| {
            let message = format!("table `{}`: file `{}` has no date", self.table.name(), file.path);
            Error::new(Stage::Upkeep, Class::Internal, message)
        })
    }
}

const fn entry(gone: RowSum) -> DateEntry {
    DateEntry { rows: gone.rows, checksum: Checksum(gone.sum) }
}

fn shown(table: &TableName, date: Date, files: &[(LiveFile, u64)], version: Option<i64>) -> ForgottenDate {
    ForgottenDate {
        table: table.to_string(),
        date,
        files: files.len() as u64,
        rows: files.iter().map(|(_, rows)| rows).sum(),
        version,
    }
}

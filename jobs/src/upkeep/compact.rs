//! Small files of a date into larger ones, beside whatever else is going on in the table.
//!
//! One commit a date: its removes and adds change no data, and carry `deltaworks/<table>/rewrite` + 1. A commit lands
//! on the version after the one that it was judged on, or not at all. So where another writer was first, the log is
//! read again: if a file that was rewritten is no longer live, the date is planned anew and nothing was changed.
//!
//! Invariants: K1 a commit takes out what it brings in, row for row (W1 of [`super::rewrite`]); K2 every file that it
//! takes out is live on the version before it, so two compactions of the same files never both land.

use super::open::open;
use super::rewrite::{Manner, Set, Written, rewrite};
use crate::batch::Run;
use crate::batch::meter::Meter;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{Attempts, Commit, CommitOutcome, Lake, LiveFile, PartitionValues, Table, TableName};
use crate::project::settings::Settings;
use arrow::datatypes::DataType;
use deltaworks_core::commit_info::Identity;
use deltaworks_core::upkeep::{self, FileSize};
use jiff::civil::Date;
use serde::Serialize;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// Times that a date is planned anew because others were first.
const ROUNDS_MAX: usize = 4;
/// What a file in the making may hold in any case: encoders take some for themselves.
const FILE_BYTES_LEAST: usize = 8 << 20;
/// Layers whose files are not merged here.
const OTHERS: [&str; 1] = ["speed"];

/// What is asked for.
#[derive(Debug, Clone)]
pub struct CompactOptions {
    /// Id of the run.
    pub run_id: String,
    /// Tables, none of the layer `speed`.
    pub tables: Vec<TableName>,
    /// Only dates before this one.
    pub before: Option<Date>,
    /// Size of the new files, bytes; it is cut to a quarter of the memory.
    pub target_bytes: u64,
    /// Columns by which the rows that are rewritten are sorted.
    pub sort_by: Vec<String>,
    /// Dates with fewer small files are left alone.
    pub files_min: u64,
}

/// What there is to do for one date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatePlan {
    /// Table.
    pub table: String,
    /// The date, as the table spells it; none where it has no dates.
    pub date: Option<String>,
    /// Small files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
    /// Files that come in their place.
    pub files_after: u64,
}

/// What was done for one date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CompactedDate {
    /// What was planned.
    #[serde(flatten)]
    pub plan: DatePlan,
    /// Bytes of the new files.
    pub bytes_after: u64,
    /// Checksum of the rows, before and after.
    pub checksum: String,
    /// The commit.
    pub version: i64,
}

/// What a run did.
#[derive(Debug, Default, Serialize)]
pub struct CompactReport {
    /// Each date that was compacted.
    pub dates: Vec<CompactedDate>,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// The work of one date.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub date: Option<String>,
    pub sets: Vec<Set>,
    /// The version that it was planned on.
    pub version: i64,
}

impl CompactReport {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.error.is_none() && self.dates.is_empty()
    }
}

/// Plans, and does nothing.
///
/// # Errors
/// A table is not there, is not compacted here, or cannot be read; a column to sort by is not there.
pub async fn plan_compaction(settings: &Settings, options: &CompactOptions) -> Result<Vec<DatePlan>> {
    plan_compaction_on(&Lake::open(&settings.lake)?, settings, options).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`plan_compaction`].
pub async fn plan_compaction_on(lake: &Lake, settings: &Settings, options: &CompactOptions) -> Result<Vec<DatePlan>> {
    let mut plans = Vec::new();
    for name in &options.tables {
        let table = open_judged(lake, name, options).await?;
        let work = plan(&table, options, target(options, settings.memory_bytes)).await?;
        plans.extend(work.iter().map(|work| shown(name, work)));
    }
    Ok(plans)
}

/// Compacts; the report says how far it got, also if it failed.
pub async fn compact(
    settings: &Settings,
    options: &CompactOptions,
    meter: &Meter,
    stop: &CancellationToken,
) -> CompactReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => compact_on(&lake, settings, options, meter, stop).await,
        Err(error) => CompactReport { error: Some(error), ..CompactReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn compact_on(
    lake: &Lake,
    settings: &Settings,
    options: &CompactOptions,
    meter: &Meter,
    stop: &CancellationToken,
) -> CompactReport {
    let mut report = CompactReport::default();
    let run = Run::new(options.run_id.clone());
    for name in &options.tables {
        let done = match open_judged(lake, name, options).await {
            Ok(table) => {
                Compaction { table, options, run: &run, memory_bytes: settings.memory_bytes }
                    .all_dates(&mut report, meter, stop)
                    .await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            let class =
                if report.dates.is_empty() || error.class != Class::Outside { error.class } else { Class::Partly };
            report.error = Some(Error { class, ..error });
        }
        if report.error.is_some() || report.stopped {
            break;
        }
    }
    report
}

/// The table under work.
pub(super) struct Compaction<'a> {
    pub table: Table,
    pub options: &'a CompactOptions,
    pub run: &'a Run,
    pub memory_bytes: usize,
}

impl Compaction<'_> {
    async fn all_dates(&mut self, report: &mut CompactReport, meter: &Meter, stop: &CancellationToken) -> Result<()> {
        let plan = self.plan().await?;
        Meter::add(&meter.units, plan.len() as u64);
        for work in plan {
            if stop.is_cancelled() {
                report.stopped = true;
                return Ok(());
            }
            let done = self.date(work).await?;
            Meter::add(&meter.rows, done.iter().map(|date| date.plan.rows).sum());
            Meter::add(&meter.units_done, 1);
            report.dates.extend(done);
        }
        Ok(())
    }

    /// Compacts one date; `None` if others have done so meanwhile.
    async fn date(&mut self, mut work: Work) -> Result<Option<CompactedDate>> {
        for _ in 0..ROUNDS_MAX {
            let written = self.write(&work).await?;
            faults::point("before_compact_commit");
            if let Some(version) = self.commit(&work, &written).await? {
                faults::point("after_compact_commit");
                return Ok(Some(self.done(&work, &written, version)));
            }
            tracing::info!(table = %self.table.name(), date = ?work.date, "others changed its files; plan again");
            let again = self.plan().await?.into_iter().find(|w| w.date == work.date);
            let Some(again) = again else { return Ok(None) };
            work = again;
        }
        let message = format!("table `{}`: others keep changing the files of {:?}", self.table.name(), work.date);
        Err(Error::new(Stage::Upkeep, Class::Overlap, message).hint("run one compaction of a table at a time"))
    }

    pub async fn plan(&self) -> Result<Vec<Work>> {
        plan(&self.table, self.options, target(self.options, self.memory_bytes)).await
    }

    /// Writes the new files; nobody sees them yet.
    pub async fn write(&self, work: &Work) -> Result<Written> {
        let quarter = self.memory_bytes / 4;
        let manner = Manner {
            sort_by: self.options.sort_by.clone(),
            sort_bytes: quarter,
            // what a file grows in has up to twice its size
            file_bytes_max: (quarter * 2).max(FILE_BYTES_LEAST),
        };
        let mut all = Written::default();
        for set in &work.sets {
            let written = rewrite(&self.table, set, &manner).await?;
            all.files.extend(written.files);
            all.rows.merge(written.rows);
        }
        Ok(all)
    }

    /// The version of the commit; `None` if a file is no longer live, and nothing was changed.
    pub async fn commit(&mut self, work: &Work, written: &Written) -> Result<Option<i64>> {
        let (identity, rewrite) = (self.run.identity(), rewrite_id(self.table.name()));
        let mut attempts = Attempts::new(Stage::Upkeep, format!("table `{}`", self.table.name()));
        loop {
            // the version it is judged on is the one before the commit
            let changes = self.table.changes_since(work.version).await?;
            if let Some(version) = self.ours(&identity) {
                return Ok(Some(version));
            }
            if work.files().any(|file| changes.removed.contains(&file.path)) {
                return Ok(None);
            }
            let mut commit = Commit::new("OPTIMIZE", &identity)?;
            (commit.removes, commit.adds) = (work.files().cloned().collect(), written.files.clone());
            commit.rewrite = true;
            commit.txns = vec![(rewrite.clone(), self.table.txns().get(&rewrite).copied().unwrap_or(0) + 1)];
            match self.table.commit(commit).await {
                CommitOutcome::Committed(version) => return Ok(Some(version)),
                outcome => attempts.after(outcome).await?,
            }
            self.table.refresh().await?;
        }
    }

    fn ours(&self, identity: &Identity) -> Option<i64> {
        self.table.find_commit(identity)
    }

    fn done(&self, work: &Work, written: &Written, version: i64) -> CompactedDate {
        let mut plan = shown(self.table.name(), work);
        plan.files_after = written.files.len() as u64;
        let bytes_after = written.files.iter().map(|file| file.size).sum();
        CompactedDate { plan, bytes_after, checksum: written.rows.hex(), version }
    }
}

impl Work {
    fn files(&self) -> impl Iterator<Item = &LiveFile> {
        self.sets.iter().flat_map(|set| &set.files)
    }
}

/// The txn that orders rewrites of a table.
fn rewrite_id(table: &TableName) -> String {
    format!("deltaworks/{table}/rewrite")
}

async fn open_judged(lake: &Lake, name: &TableName, options: &CompactOptions) -> Result<Table> {
    let user = |message: String| Error::new(Stage::Upkeep, Class::User, message);
    if OTHERS.contains(&name.layer.as_str()) {
        return Err(user(format!("table `{name}` is not compacted by hand"))
            .hint("`stream` and `speed catch-up` merge the states of a date themselves"));
    }
    let table = open(lake, name).await?;
    let columns = table.schema().fields().iter().map(|f| f.name());
    let sortable: Vec<&String> = columns.filter(|c| !table.partition_columns().contains(c)).collect();
    if let Some(missing) = options.sort_by.iter().find(|by| !sortable.contains(by)) {
        return Err(
            user(format!("table `{name}` has no column `{missing}` to sort by")).hint(format!("it has {sortable:?}"))
        );
    }
    Ok(table)
}

fn target(options: &CompactOptions, memory_bytes: usize) -> u64 {
    options.target_bytes.min(memory_bytes as u64 / 4)
}

/// What there is to do, in the order of the dates.
async fn plan(table: &Table, options: &CompactOptions, target_bytes: u64) -> Result<Vec<Work>> {
    let column = date_column(table);
    let mut partitions: BTreeMap<PartitionValues, Vec<LiveFile>> = BTreeMap::new();
    for file in table.live_files().await? {
        // without a count nothing could be held against what is read
        if file.rows.is_some() {
            partitions.entry(file.partition_values.clone()).or_default().push(file);
        }
    }
    let mut dates: BTreeMap<Option<String>, Vec<Set>> = BTreeMap::new();
    for (values, files) in partitions {
        let date = column.as_deref().and_then(|column| values.get(column).cloned().flatten());
        if is_before(date.as_deref(), options.before)
            && let Some(set) = set(values, files, target_bytes)
        {
            dates.entry(date).or_default().push(set);
        }
    }
    let version = table.version();
    let work = dates.into_iter().map(|(date, sets)| Work { date, sets, version });
    Ok(work.filter(|work| work.files().count() as u64 >= options.files_min).collect())
}

fn set(values: PartitionValues, files: Vec<LiveFile>, target_bytes: u64) -> Option<Set> {
    let sizes: Vec<FileSize> = files.iter().map(|f| FileSize { bytes: f.size, rows: f.rows.unwrap_or(0) }).collect();
    let upkeep::Rewrite { files: small, files_after, rows_per_file } = upkeep::rewrite(&sizes, target_bytes)?;
    let files = small.into_iter().map(|n| files[n].clone()).collect();
    Some(Set { values, files, files_after, rows_per_file })
}

/// The partition column that holds dates; none where the table has none.
fn date_column(table: &Table) -> Option<String> {
    let is_date =
        |name: &&String| table.schema().field_with_name(name).is_ok_and(|field| *field.data_type() == DataType::Date32);
    table.partition_columns().iter().find(is_date).cloned()
}

/// A partition without a date is before none, and taken only where no limit is set.
fn is_before(date: Option<&str>, limit: Option<Date>) -> bool {
    let Some(limit) = limit else { return true };
    date.and_then(|date| date.parse::<Date>().ok()).is_some_and(|date| date < limit)
}

fn shown(name: &TableName, work: &Work) -> DatePlan {
    DatePlan {
        table: name.to_string(),
        date: work.date.clone(),
        files: work.files().count() as u64,
        bytes: work.files().map(|file| file.size).sum(),
        rows: work.files().filter_map(|file| file.rows).sum(),
        files_after: work.sets.iter().map(|set| set.files_after).sum(),
    }
}

//! Writes fills: rejects first, raw second, each only what its table does not have.
//!
//! A fill is an anti-join by place against one snapshot of raw. The stream only adds places at or above `next`, and a
//! fill only those below it, so what was read of raw holds until another fill lands: the txn of fills says whether one
//! has. Raw is loaded before rejects: then every reject of the stream below raw's `next` is seen.
//!
//! Invariants: F1 a place is in raw once, and in rejects once, whoever else fills; F2 a fill's number is in the same
//! commit as its rows; F3 progress moves in the same commit as the last rows that it stands for; F4 nothing is retried
//! blind.

use super::places::{KnownFiles, Places, there};
use crate::checksum::{self, RowSum};
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{AddedFile, Attempts, Commit, CommitOutcome, FileProfile, Lake, Table, file_schema, ledger};
use crate::land::rows::encode_split;
use crate::land::tables::{REJECT_DATE, raw_partition_columns, raw_profile, raw_table, rejects_profile, rejects_table};
use crate::project::settings::Pipeline;
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use deltaworks_core::commit_info::{ChangeCommit, ChangedPartition, Identity, Operation};
use deltaworks_core::place::Offset;
use deltaworks_core::progress::AppIds;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Uploads that run side by side.
const UPLOADS_MAX: usize = 4;
/// Column that tells which fill wrote a row.
const FILL: &str = "_fill";

/// Some rows to fill in.
#[derive(Debug, Default)]
pub struct Part {
    /// Where they come from, for the log: `redrive`, `rewind`, `backfill <id>`.
    pub source: String,
    /// Rows as raw has them; their `_fill` is set here.
    pub rows: Vec<RecordBatch>,
    /// Rows as rejects has them; those whose place is in raw or in rejects are left out.
    pub rejects: Vec<RecordBatch>,
    /// Moves in the same commit.
    pub progress: Option<Progress>,
    /// Other txn entries of the same commit.
    pub txns: Vec<(String, i64)>,
}

/// A txn entry of raw that moves with the rows: if it is no longer where it should be, nothing is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Application id, as [`AppIds::backfill`] spells it.
    pub app_id: String,
    /// Where it stands; 0 if it is not there.
    pub from: i64,
    /// Where it stands afterwards.
    pub to: i64,
}

/// What became of a part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Added {
    /// Number of the fill; none if no row was new.
    pub fill: Option<i64>,
    /// The commit of raw; none if nothing was to be said.
    pub version: Option<i64>,
    /// Rows that are in raw now and were not.
    pub landed: u64,
    /// Rows that raw had.
    pub already: u64,
    /// Messages that are in rejects now and were not.
    pub rejected: u64,
    /// Somebody else moved the progress: nothing was written to raw.
    pub elsewhere: bool,
}

/// Writes fills of one pipeline, one after the other.
#[derive(Debug)]
pub struct Filler {
    lake: Lake,
    pipeline: Arc<Pipeline>,
    run_id: String,
    sequence: u64,
    raw: Table,
    rejects: Table,
    known: KnownFiles,
}

/// Files for one attempt, as long as no other fill lands.
struct Ready {
    /// The last fill when they were written.
    last: i64,
    adds: Vec<AddedFile>,
    info: ChangeCommit,
    places: Places,
    added: Added,
}

impl Filler {
    /// Opens the tables of a pipeline; they are made where they are not there.
    ///
    /// # Errors
    /// The store fails, or a table does not fit the contract.
    pub async fn open(lake: &Lake, pipeline: &Arc<Pipeline>, run_id: impl Into<String>) -> Result<Self> {
        Ok(Self {
            lake: lake.clone(),
            run_id: run_id.into(),
            sequence: 0,
            raw: lake.ensure_table(&raw_table(pipeline)).await?,
            rejects: lake.ensure_table(&rejects_table(pipeline)).await?,
            known: KnownFiles::default(),
            pipeline: pipeline.clone(),
        })
    }

    /// Raw as it was after the last part.
    #[must_use]
    pub const fn raw(&self) -> &Table {
        &self.raw
    }

    /// Rows of these files will come: what raw has of them is read once for all.
    pub fn expect(&mut self, urls: impl IntoIterator<Item = String>) {
        self.known.expect(urls);
    }

    /// Writes what is new of a part. Doing so again is right, and writes nothing.
    ///
    /// # Errors
    /// A row of a topic lies at or above raw's `next`; the store fails; others keep committing first.
    pub async fn add(&mut self, part: &Part) -> Result<Added> {
        self.sequence += 1;
        let identity = Identity { run_id: self.run_id.clone(), sequence: self.sequence };
        let mut attempts = Attempts::new(Stage::Fill, format!("table `{}`", self.raw.name()));
        let mut ready: Option<Ready> = None;
        let mut rejected = 0;
        self.refresh(&mut attempts).await?;
        loop {
            if let Some(version) = self.raw.find_commit(&identity)
                && let Some(ready) = ready.take()
            {
                return Ok(self.landed(ready, version, rejected));
            }
            if part.progress.as_ref().is_some_and(|p| self.txn(&p.app_id) != p.from) {
                return Ok(Added { elsewhere: true, rejected, ..Added::default() });
            }
            let now = match ready.take().filter(|ready| ready.last == self.last_fill()) {
                Some(ready) => ready,
                None => {
                    let (ready, newly) = self.prepare(part, &identity).await?;
                    rejected += newly;
                    ready
                }
            };
            if now.adds.is_empty() && part.progress.is_none() && part.txns.is_empty() {
                return Ok(Added { rejected, ..now.added });
            }
            faults::point("before_fill_commit");
            let outcome = self.raw.commit(self.commit(&now, part)?).await;
            if let CommitOutcome::Committed(version) = outcome {
                faults::point("after_fill_commit");
                return Ok(self.landed(now, version, rejected));
            }
            ready = Some(now);
            attempts.after(outcome).await?;
            self.refresh(&mut attempts).await?;
        }
    }

    /// Copies the ledger, as landing does: whoever copies, copies all.
    pub async fn end(self) {
        let writer = Identity { run_id: self.run_id.clone(), sequence: 0 };
        if let Err(error) = ledger::copy(&self.lake, &self.raw, &self.pipeline.name, &writer).await {
            tracing::warn!(pipeline = %self.pipeline.name, %error, "the ledger is behind; the next run copies on");
        }
    }

    async fn refresh(&mut self, attempts: &mut Attempts) -> Result<()> {
        while let Err(error) = self.raw.refresh().await {
            attempts.after(CommitOutcome::Unknown(error)).await?;
        }
        Ok(())
    }

    fn landed(&mut self, ready: Ready, version: i64, rejected: u64) -> Added {
        if let Some(fill) = ready.added.fill {
            self.known.filled(ready.last, fill, &ready.places);
        }
        Added { version: Some(version), rejected, ..ready.added }
    }

    fn ids(&self) -> AppIds<'_> {
        AppIds::new(&self.pipeline.name)
    }

    fn txn(&self, app_id: &str) -> i64 {
        self.raw.txns().get(app_id).copied().unwrap_or(0)
    }

    fn last_fill(&self) -> i64 {
        self.txn(&self.ids().fill())
    }

    fn commit(&self, ready: &Ready, part: &Part) -> Result<Commit> {
        let mut commit = Commit::new("WRITE", &ready.info)?;
        commit.adds = ready.adds.clone();
        commit.txns = part.txns.clone();
        commit.txns.extend(ready.added.fill.map(|fill| (self.ids().fill(), fill)));
        commit.txns.extend(part.progress.as_ref().map(|p| (p.app_id.clone(), p.to)));
        Ok(commit)
    }

    /// Writes the files of a part, and lands its rejects; returns how many were new.
    async fn prepare(&mut self, part: &Part, identity: &Identity) -> Result<(Ready, u64)> {
        let wanted = Places::of(part.rows.iter().chain(&part.rejects))?;
        self.check_below_next(&wanted)?;
        let last = self.last_fill();
        let mut in_raw = there(&self.raw, &wanted, &mut self.known, last).await?;
        let fresh = in_raw.keep_new(&part.rows)?;
        let places = Places::of(&fresh)?;
        let rejected = self.land_rejects(part, &in_raw, last + 1, identity).await?;
        faults::point("after_fill_rejects");
        let rows = |batches: &[RecordBatch]| batches.iter().map(|b| b.num_rows() as u64).sum::<u64>();
        let landed = rows(&fresh);
        let fill = (landed > 0).then_some(last + 1);
        let fresh: Vec<RecordBatch> = fresh.into_iter().map(|b| stamped(&b, last + 1)).collect::<Result<_>>()?;
        let mut dates: BTreeMap<i32, RowSum> = BTreeMap::new();
        for batch in &fresh {
            for (date, sum) in checksum::by_date(batch, "event_date")? {
                dates.entry(date).or_default().merge(sum);
            }
        }
        let adds = put(&self.raw, fresh, raw_partition_columns(&self.pipeline), raw_profile(&self.pipeline)).await?;
        let info = ChangeCommit {
            identity: identity.clone(),
            pipeline: self.pipeline.name.clone(),
            operation: Operation::Fill,
            fill,
            source: Some(part.source.clone()),
            changed: places
                .counts()
                .map(|((topic, partition), filled)| ChangedPartition {
                    topic: topic.to_owned(),
                    partition,
                    landed: 0,
                    filled,
                })
                .collect(),
            dates: checksum::entries(&dates),
        };
        let added = Added { fill, landed, already: rows(&part.rows) - landed, ..Added::default() };
        Ok((Ready { last, adds, info, places, added }, rejected))
    }

    /// What the stream has yet to read is its own to land.
    fn check_below_next(&self, wanted: &Places) -> Result<()> {
        for ((topic, partition), _, greatest) in wanted.bounds().filter(|((_, p), ..)| *p >= 0) {
            let next = self.ids().next_of(topic, partition, self.raw.txns()).unwrap_or(Offset(0));
            if u64::try_from(next.0).unwrap_or(0) <= greatest {
                let message =
                    format!("{topic}/{partition}@{greatest} is not below {}, the next offset to land", next.0);
                return Err(Error::new(Stage::Fill, Class::Internal, message));
            }
        }
        Ok(())
    }

    /// Lands those rejects whose places neither table has; returns how many.
    async fn land_rejects(&mut self, part: &Part, in_raw: &Places, fill: i64, identity: &Identity) -> Result<u64> {
        if part.rejects.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(0);
        }
        let wanted = Places::of(&part.rejects)?;
        let app_id = self.ids().fill_rejects();
        let mut attempts = Attempts::new(Stage::Fill, format!("table `{}`", self.rejects.name()));
        // files and the txn that they were judged on
        let mut ready: Option<(Option<i64>, Vec<AddedFile>, u64)> = None;
        loop {
            while let Err(error) = self.rejects.refresh().await {
                attempts.after(CommitOutcome::Unknown(error)).await?;
            }
            if self.rejects.find_commit(identity).is_some() {
                return Ok(ready.map_or(0, |(_, _, rows)| rows));
            }
            let at = self.rejects.txns().get(&app_id).copied();
            if ready.as_ref().is_none_or(|(judged, ..)| *judged != at) {
                let mut known = there(&self.rejects, &wanted, &mut KnownFiles::default(), at.unwrap_or(0)).await?;
                known.extend(in_raw);
                let fresh: Vec<RecordBatch> =
                    known.keep_new(&part.rejects)?.iter().map(|b| stamped(b, fill)).collect::<Result<_>>()?;
                let rows = fresh.iter().map(|batch| batch.num_rows() as u64).sum();
                if rows == 0 {
                    return Ok(0);
                }
                let adds = put(&self.rejects, fresh, vec![REJECT_DATE.to_owned()], rejects_profile()).await?;
                ready = Some((at, adds, rows));
            }
            let Some((_, adds, rows)) = &ready else { continue };
            let mut commit = Commit::new("WRITE", identity)?;
            commit.adds = adds.clone();
            commit.txns = vec![(app_id.clone(), self.rejects.version() + 1)];
            match self.rejects.commit(commit).await {
                CommitOutcome::Committed(_) => return Ok(*rows),
                outcome => attempts.after(outcome).await?,
            }
        }
    }
}

/// Splits rows by partition value, encodes them in the background, and uploads the files.
pub(super) async fn put(
    table: &Table,
    rows: Vec<RecordBatch>,
    by: Vec<String>,
    profile: FileProfile,
) -> Result<Vec<AddedFile>> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    // rows of an archive may have columns that the contract has no longer
    let own = file_schema(&first.schema(), &by);
    let profile = if profile.schema() == &own { profile } else { FileProfile::new(own) };
    let encoded = tokio::task::spawn_blocking(move || encode_split(rows, &by, &profile)).await;
    let broken = |e| Error::new(Stage::Fill, Class::Internal, "encoding files broke down").because(e);
    let sink = table.sink();
    futures::stream::iter(encoded.map_err(broken)??)
        .map(|(values, file)| sink.put(values, file))
        .buffer_unordered(UPLOADS_MAX)
        .try_collect()
        .await
}

fn stamped(batch: &RecordBatch, fill: i64) -> Result<RecordBatch> {
    let number: ArrayRef = Arc::new(Int64Array::from_value(fill, batch.num_rows()));
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    let columns = columns.map(|(field, column)| if field.name() == FILL { number.clone() } else { column.clone() });
    RecordBatch::try_new(batch.schema(), columns.collect())
        .map_err(|e| Error::new(Stage::Fill, Class::Internal, "rows cannot take the number of a fill").because(e))
}

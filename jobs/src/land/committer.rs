//! Carries out flushes, one after the other: upload, rejects, raw.
//!
//! Each attempt is read, decide, act: the table's progress, one question to
//! [`deltaworks_core::commit_plan`], one compare-and-set commit on the very snapshot the progress was
//! read from. A conflict or an unknown outcome is answered by loading the log anew and asking again.
//!
//! Invariants: C1 rejects commit before raw, and raw's `next` alone says where to begin; C2 a flush
//! whose tallies do not balance is never committed; C3 nothing is retried blind.

use super::flush::{Flush, PartitionFlush, claims, nexts, told};
use super::meter::Meter;
use super::options::StreamOptions;
use super::patience::Patience;
use super::rejects::{RejectsTable, RejectsVerdict};
use super::tap::{self, Tap};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{AddedFile, Commit, CommitOutcome, EncodedFile, Lake, PartitionValues, Table, ledger};
use crate::project::settings::{Pipeline, RejectsLimit};
use arrow::array::RecordBatch;
use deltaworks_core::commit_info::{Identity, RawCommit};
use deltaworks_core::commit_plan::{Claim, Verdict, judge};
use deltaworks_core::progress::{AppIds, TopicProgress};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tokio::sync::{Mutex, mpsc::UnboundedReceiver};

/// Uploads of one flush that run side by side.
const UPLOADS_MAX: usize = 8;
/// Versions of raw that are copied to the ledger together.
const COPY_EVERY: i64 = 20;
/// Log files are kept this long, so that readers can go back to older versions: 30 days.
const LOG_RETENTION_MS: i64 = 30 * 86_400_000;
/// Messages of a run before a share of rejects means anything.
const SHARE_AFTER: u64 = 1_000;

/// What became of a flush.
#[derive(Debug)]
pub enum Outcome {
    /// Everything in it is in the log.
    Committed {
        /// Next offset to read, per partition.
        nexts: Vec<(i32, i64)>,
    },
    /// Somebody else moved a partition: the flush was dropped.
    Elsewhere,
    /// Landing must stop.
    Failed(Error),
}

/// What one run did to one pipeline.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Rows in raw.
    pub landed: u64,
    /// Messages in rejects.
    pub rejected: u64,
    /// Messages skipped by rule.
    pub skipped: u64,
    /// Offsets without message.
    pub gaps: u64,
    /// First offset of the run, per partition.
    pub first: BTreeMap<i32, i64>,
    /// Next offset to read, per partition.
    pub next: BTreeMap<i32, i64>,
}

impl Totals {
    /// Takes in how far a flush went.
    fn pass(&mut self, partitions: &BTreeMap<i32, PartitionFlush>) {
        for (partition, PartitionFlush { tally, .. }) in partitions {
            self.first.entry(*partition).or_insert(tally.from.0);
            self.next.insert(*partition, tally.to.0);
        }
    }
}

/// The committing task of one pipeline.
pub struct Committer {
    /// Which pipeline.
    pub pipeline: Arc<Pipeline>,
    /// The run.
    pub options: StreamOptions,
    /// The raw table, shared with the takeover.
    pub raw: Arc<Mutex<Table>>,
    /// The rejects table.
    pub rejects: RejectsTable,
    /// The lake, for the ledger of raw commits.
    pub lake: Lake,
    /// Live figures.
    pub meter: Arc<Meter>,
    /// Clock of the commit times.
    pub clock: Clock,
    /// How many parts make a flush.
    pub workers: usize,
    /// Number of partitions of the topic, as last seen.
    pub partition_count: Arc<std::sync::atomic::AtomicI32>,
    /// Who wants landed rows.
    pub tap: Option<Arc<dyn Tap>>,
    /// Up to which version the ledger has raw's commits, or had not less when this run began to land.
    pub copied: Option<i64>,
}

enum Landed {
    /// By this run, at this version; `None` had nothing new to say.
    At(Option<i64>),
    /// The same offsets, by another run.
    ByOther(i64),
    Elsewhere,
}

impl Committer {
    /// Commits flushes until the workers hang up; returns what the run did.
    pub async fn run(
        mut self,
        mut parts: UnboundedReceiver<Flush>,
        outcomes: crossbeam_channel::Sender<Outcome>,
    ) -> Totals {
        let mut totals = Totals::default();
        let mut waiting: Vec<Flush> = Vec::new();
        while let Some(part) = parts.recv().await {
            waiting.push(part);
            if waiting.len() < self.workers {
                continue;
            }
            let Some(flush) = waiting.drain(..).reduce(Flush::join) else { continue };
            let began = Instant::now();
            let outcome = self.settle(flush, &mut totals).await.unwrap_or_else(Outcome::Failed);
            Meter::add(&self.meter.commit_us, u64::try_from(began.elapsed().as_micros()).unwrap_or(0));
            if outcomes.send(outcome).is_err() {
                break;
            }
        }
        if let Err(error) = self.copy_ledger().await {
            tracing::warn!(pipeline = %self.pipeline.name, %error, "the ledger is behind; the next run copies on");
        }
        totals
    }

    async fn settle(&mut self, mut flush: Flush, totals: &mut Totals) -> Result<Outcome> {
        let (partitions, tapped) = (flush.partitions.clone(), flush.tapped.take());
        match self.land(flush).await? {
            Landed::Elsewhere => {
                self.rejects.forget();
                Ok(Outcome::Elsewhere)
            }
            Landed::At(version) => {
                self.count(&partitions, totals);
                if let Some(version) = version {
                    self.meter.version.store(version, Relaxed);
                    self.tell_tap(version, &partitions, tapped).await;
                    self.after_commit().await;
                }
                self.check_limit(totals)?;
                Ok(Outcome::Committed { nexts: nexts(&partitions) })
            }
            Landed::ByOther(version) => {
                tracing::info!(pipeline = %self.pipeline.name, version, "another writer landed the same offsets");
                totals.pass(&partitions);
                self.meter.version.store(version, Relaxed);
                Ok(Outcome::Committed { nexts: nexts(&partitions) })
            }
        }
    }

    /// Hands the rows of a commit on. A commit of another writer is that writer's to hand on.
    async fn tell_tap(&self, version: i64, partitions: &BTreeMap<i32, PartitionFlush>, rows: Option<Vec<RecordBatch>>) {
        let Some(tap) = &self.tap else { return };
        let claims: Vec<Claim> = claims(partitions).into_iter().filter(|claim| !claim.range.is_empty()).collect();
        if !claims.is_empty() {
            let raw = self.raw.lock().await;
            let raw_table = AppIds::new(&self.pipeline.name).rows_id(raw.id(), raw.txns());
            let topic = self.progress(&raw).topic;
            tap.landed(tap::Landed { raw_table, version, topic, claims, rows });
        }
    }

    /// Lands a flush: rejects first, raw second.
    async fn land(&mut self, flush: Flush) -> Result<Landed> {
        if let Some(partition) = flush.partitions.iter().find(|(_, f)| !f.tally.balances()).map(|(p, _)| p) {
            return Err(self.error(Class::Internal, format!("the counts of partition {partition} do not balance")));
        }
        let raw = self.raw.clone();
        let mut raw = raw.lock().await;
        if self.has_nothing_new(&flush, &raw) {
            return Ok(Landed::At(None));
        }
        faults::point("before_write");
        let adds = self.upload(&raw, flush.files).await?;
        faults::point("after_write");
        let claims = claims(&flush.partitions);
        let identity = Identity { run_id: self.options.run_id.clone(), sequence: flush.sequence };
        if !flush.rejects.is_empty() {
            let mut patience = Patience::new(&self.options);
            loop {
                match self.rejects.land(&flush.rejects, &claims, &mut raw, &self.pipeline, &identity).await {
                    Ok(RejectsVerdict::Landed) => break,
                    Ok(RejectsVerdict::AlreadyInRaw) => return Ok(already_there(&raw, &identity)),
                    Ok(RejectsVerdict::Elsewhere) => return Ok(Landed::Elsewhere),
                    Err(error) => patience.pause(error).await?,
                }
            }
        }
        faults::point("after_rejects_commit");
        let topic = self.progress(&raw).topic;
        let info = told(identity, &self.pipeline.name, topic, &flush.partitions, &flush.dates);
        let landed = self.commit_raw(&mut raw, adds, &claims, &flush.partitions, &info).await?;
        faults::point("after_raw_commit");
        Ok(landed)
    }

    async fn commit_raw(
        &self,
        raw: &mut Table,
        adds: Vec<AddedFile>,
        claims: &[Claim],
        partitions: &BTreeMap<i32, PartitionFlush>,
        info: &RawCommit,
    ) -> Result<Landed> {
        let mut patience = Patience::new(&self.options);
        loop {
            match judge(claims, &self.progress(raw).nexts()) {
                Verdict::AlreadyThere => return Ok(already_there(raw, &info.identity)),
                Verdict::Elsewhere(log) => {
                    tracing::info!(pipeline = %self.pipeline.name, ?log, "flush dropped: the log is elsewhere");
                    return Ok(Landed::Elsewhere);
                }
                Verdict::Commit => {}
            }
            let mut commit = Commit::new("WRITE", info)?;
            commit.adds = adds.clone();
            commit.txns = self.txns(raw, partitions);
            match raw.commit(commit).await {
                CommitOutcome::Committed(version) => return Ok(Landed::At(Some(version))),
                CommitOutcome::Conflicted => {}
                CommitOutcome::Unknown(error) | CommitOutcome::Failed(error) => patience.pause(error).await?,
            }
            while let Err(error) = raw.refresh().await {
                patience.pause(error).await?;
            }
        }
    }

    fn progress(&self, raw: &Table) -> TopicProgress {
        AppIds::new(&self.pipeline.name).read(&self.pipeline.topic, raw.txns())
    }

    fn txns(&self, raw: &Table, partitions: &BTreeMap<i32, PartitionFlush>) -> Vec<(String, i64)> {
        let ids = AppIds::new(&self.pipeline.name);
        let progress = self.progress(raw);
        let mut txns: Vec<_> =
            partitions.iter().flat_map(|(p, flush)| ids.write(&progress.topic, *p, &flush.progress)).collect();
        let count = self.partition_count.load(Relaxed);
        if count > 0 && progress.partition_count != Some(count) {
            txns.push(ids.write_partition_count(&progress.topic, count));
        }
        txns
    }

    /// Nothing read, nothing passed, no instant reached: no commit is owed.
    fn has_nothing_new(&self, flush: &Flush, raw: &Table) -> bool {
        let progress = self.progress(raw);
        let count = self.partition_count.load(Relaxed);
        (count == 0 || progress.partition_count == Some(count))
            && flush
                .partitions
                .iter()
                .all(|(p, f)| f.tally.is_empty() && progress.partitions.get(p).is_some_and(|log| *log == f.progress))
    }

    async fn upload(&self, raw: &Table, files: Vec<(PartitionValues, EncodedFile)>) -> Result<Vec<AddedFile>> {
        use futures::{StreamExt, TryStreamExt};
        let sink = raw.sink();
        futures::stream::iter(files)
            .map(|(values, file)| {
                let sink = sink.clone();
                async move {
                    let mut patience = Patience::new(&self.options);
                    loop {
                        match sink.put(values.clone(), file.clone()).await {
                            Ok(added) => return Ok(added),
                            Err(error) => patience.pause(error).await?,
                        }
                    }
                }
            })
            .buffer_unordered(UPLOADS_MAX)
            .try_collect()
            .await
    }

    /// Checkpoint, ledger and log clean-up are upkeep: a failure is logged, and the next time tries again.
    async fn after_commit(&mut self) {
        if let Err(error) = self.rejects.keep_log_short(self.clock.now_ms(), LOG_RETENTION_MS).await {
            tracing::warn!(pipeline = %self.pipeline.name, %error, "upkeep of the rejects log will be tried again");
        }
        if let Err(error) = self.keep_log_short().await {
            tracing::warn!(pipeline = %self.pipeline.name, %error, "log upkeep will be tried again");
        }
    }

    /// Copies the ledger now and then; where a checkpoint is due, writes it, and removes old log files that the ledger has
    /// seen.
    async fn keep_log_short(&mut self) -> Result<()> {
        let (version, is_checkpoint_due) = {
            let raw = self.raw.lock().await;
            (raw.version(), raw.is_checkpoint_due().await)
        };
        if !is_checkpoint_due {
            if version - *self.copied.get_or_insert(version) >= COPY_EVERY {
                self.copy_ledger().await?;
            }
            return Ok(());
        }
        faults::point("at_checkpoint");
        let copied = self.copy_ledger().await?;
        let raw = self.raw.lock().await;
        raw.checkpoint().await?;
        let removed = raw.clean_log(copied + 1, self.clock.now_ms(), LOG_RETENTION_MS).await?;
        if removed > 0 {
            tracing::info!(pipeline = %self.pipeline.name, removed, "old log files removed");
        }
        faults::point("after_checkpoint");
        Ok(())
    }

    /// Copies raw's commits to `ops.offsets`; returns the last version that is there.
    async fn copy_ledger(&mut self) -> Result<i64> {
        let raw = self.raw.lock().await;
        let writer = Identity { run_id: self.options.run_id.clone(), sequence: 0 };
        let copied = ledger::copy(&self.lake, &raw, &self.pipeline.name, &writer).await?.upto;
        self.copied = Some(copied);
        Ok(copied)
    }

    fn count(&self, partitions: &BTreeMap<i32, PartitionFlush>, totals: &mut Totals) {
        for tally in partitions.values().map(|flush| &flush.tally) {
            totals.landed += tally.landed;
            totals.rejected += tally.rejected;
            totals.skipped += tally.skipped;
            totals.gaps += tally.gap_len();
        }
        totals.pass(partitions);
        self.meter.landed.store(totals.landed, Relaxed);
        self.meter.rejected.store(totals.rejected, Relaxed);
        self.meter.skipped.store(totals.skipped, Relaxed);
        self.meter.gaps.store(totals.gaps, Relaxed);
        Meter::add(&self.meter.commits, 1);
    }

    fn check_limit(&self, totals: &Totals) -> Result<()> {
        let messages = totals.landed + totals.rejected;
        let broken = match self.pipeline.rejects.limit {
            None => false,
            Some(RejectsLimit::Count(max)) => totals.rejected > max,
            Some(RejectsLimit::Share(max)) => messages >= SHARE_AFTER && totals.rejected as f64 > max * messages as f64,
        };
        if !broken {
            return Ok(());
        }
        let what =
            format!("{} of {messages} messages of this run were rejected, beyond `rejects.limit`", totals.rejected);
        Err(self.error(Class::Limit, what).hint(format!(
            "what was landed stays, and the rest is read again; see `deltaworks rejects list {}`, mend the contract or the producer, and run again",
            self.pipeline.name
        )))
    }

    fn error(&self, class: Class, message: String) -> Error {
        Error::new(Stage::Land, class, format!("pipeline `{}`: {message}", self.pipeline.name))
    }
}

/// Whose commit it is that has this flush's offsets: a reply may have been lost.
fn already_there(raw: &Table, identity: &Identity) -> Landed {
    match raw.find_commit(identity) {
        Some(version) => Landed::At(Some(version)),
        None => Landed::ByOther(raw.version()),
    }
}

//! Where does each partition go on? Asked on every assignment, before the first message is read.
//!
//! Progress comes from raw's log alone. A partition without any gets its start committed first, in a
//! commit without rows, so that two first runs cannot choose two starts. History is judged by
//! [`deltaworks_core::history`]: offsets that are gone or a topic that was made anew stop the job
//! with exit code 6, unless the user accepts the loss.

use super::last_ids::last_ids;
use super::options::{DataLoss, StreamOptions};
use super::patience::Patience;
use super::worker::Taken;
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::kafka::monitor::Observation;
use crate::kafka::watermarks::Watermarks;
use crate::lake::{Commit, CommitOutcome, Table};
use crate::project::settings::Pipeline;
use deltaworks_core::commit_info::Identity;
use deltaworks_core::history::{Facts, History, judge};
use deltaworks_core::place::{Offset, OffsetRange};
use deltaworks_core::progress::{AppIds, Progress, TopicProgress, epoch_of, with_epoch};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use tokio::sync::Mutex;

/// Takes partitions over for one pipeline.
pub struct Takeover {
    /// Which pipeline.
    pub pipeline: Arc<Pipeline>,
    /// The run.
    pub options: StreamOptions,
    /// The raw table, shared with the committer.
    pub raw: Arc<Mutex<Table>>,
    /// Client that sees past open transactions.
    pub watermarks: Arc<Watermarks>,
    /// Number of partitions, shared with the committer.
    pub partition_count: Arc<AtomicI32>,
    /// Where each partition ended when the run began.
    ends: BTreeMap<i32, Observation>,
}

/// One partition's judgement.
enum Plan {
    GoOn { lost_below: Option<i64> },
    NewEpoch,
}

impl Takeover {
    /// Notes where the partitions end now: a bounded run goes no further.
    ///
    /// # Errors
    /// If the broker or the topic is not there.
    pub fn begin(
        pipeline: Arc<Pipeline>,
        options: StreamOptions,
        raw: Arc<Mutex<Table>>,
        watermarks: Arc<Watermarks>,
        clock: &Clock,
    ) -> Result<Self> {
        let count = watermarks.partition_count(&pipeline.topic)?;
        let mut ends = BTreeMap::new();
        for partition in 0..count {
            let observed_at_ms = clock.now_ms();
            let (_, high) = watermarks.low_high(&pipeline.topic, partition)?;
            ends.insert(partition, Observation { observed_at_ms, high });
        }
        Ok(Self { pipeline, options, raw, watermarks, partition_count: Arc::new(AtomicI32::new(count)), ends })
    }

    /// Where the partition ended when the run began; `None` for one that came later.
    pub fn end_of(&self, partition: i32) -> Option<Observation> {
        self.ends.get(&partition).copied()
    }

    /// Takes partitions over: each goes on at the log's `next`.
    ///
    /// # Errors
    /// Lost history ([`Class::InputLost`]), or a store or broker that stays away.
    pub async fn take(&mut self, partitions: &[i32]) -> Result<Vec<Taken>> {
        let mut patience = Patience::new(&self.options);
        self.partition_count.store(self.watermarks.partition_count(&self.pipeline.topic)?, Relaxed);
        loop {
            match self.attempt(partitions).await {
                Ok(Some(taken)) => return Ok(taken),
                Ok(None) => {}
                Err(error) => patience.pause(error).await?,
            }
        }
    }

    /// One attempt on one snapshot; `None` if somebody else committed meanwhile.
    async fn attempt(&self, partitions: &[i32]) -> Result<Option<Vec<Taken>>> {
        let Some((snapshot, progress, lost)) = self.settle(partitions).await? else { return Ok(None) };
        let nexts: Vec<_> = partitions.iter().map(|p| (*p, progress.partitions[p].next)).collect();
        // flushes of other partitions are committed meanwhile: these may be many files
        let mut remembered = last_ids(&snapshot, &self.pipeline, &progress.topic, &nexts).await?;
        let taken = progress.partitions.iter().filter(|(p, _)| partitions.contains(p)).map(|(partition, at)| Taken {
            partition: *partition,
            topic: progress.topic.clone(),
            progress: *at,
            lost_below: lost.get(partition).copied(),
            last_ids: remembered.remove(partition).unwrap_or_default(),
        });
        Ok(Some(taken.collect()))
    }

    /// A snapshot in which every partition has its progress and the broker its history, that progress, and the offsets
    /// below which history is gone; `None` if that took a commit.
    async fn settle(&self, partitions: &[i32]) -> Result<Option<(Table, TopicProgress, BTreeMap<i32, i64>)>> {
        let mut raw = self.raw.lock().await;
        raw.refresh().await?;
        let progress = AppIds::new(&self.pipeline.name).read(&self.pipeline.topic, raw.txns());
        let mut lost = BTreeMap::new();
        for (partition, at) in progress.partitions.iter().filter(|(p, _)| partitions.contains(p)) {
            match self.judge(*partition, at)? {
                Plan::GoOn { lost_below: Some(low) } => drop(lost.insert(*partition, low)),
                Plan::GoOn { lost_below: None } => {}
                Plan::NewEpoch => {
                    self.open_epoch(&mut raw, &progress).await?;
                    return Ok(None);
                }
            }
        }
        let missing: Vec<i32> = partitions.iter().copied().filter(|p| !progress.partitions.contains_key(p)).collect();
        if !missing.is_empty() {
            self.commit_starts(&mut raw, &progress, &missing).await?;
            return Ok(None);
        }
        Ok(Some((raw.clone(), progress, lost)))
    }

    fn judge(&self, partition: i32, at: &Progress) -> Result<Plan> {
        let topic = &self.pipeline.topic;
        let (low, high) = self.watermarks.low_high(topic, partition)?;
        let before = at.next.0 - 1;
        let there_ms = if at.seen_ms.is_some() && before >= low && before < high {
            self.watermarks.message_time_at(topic, partition, before)?
        } else {
            None
        };
        let facts = Facts { next: at.next, seen_ms: at.seen_ms, low: Offset(low), high: Offset(high), there_ms };
        let accept = self.options.data_loss == DataLoss::Accept;
        match judge(facts) {
            History::Intact => Ok(Plan::GoOn { lost_below: None }),
            History::Lost(range) if accept => Ok(Plan::GoOn { lost_below: Some(range.to.0) }),
            History::RecreatedShorter | History::RecreatedLonger if accept => Ok(Plan::NewEpoch),
            history => Err(self.lost(partition, history, facts)),
        }
    }

    fn lost(&self, partition: i32, history: History, facts: Facts) -> Error {
        let place = format!("{}/{partition}", self.pipeline.topic);
        let (message, accept) = match history {
            History::Lost(OffsetRange { from, to }) => (
                format!("offsets {from} to {to} of {place} are gone: retention removed them before they were landed"),
                "go on at the low watermark and record the gap",
            ),
            _ => (
                format!(
                    "{place} is not the log that was landed up to offset {}: the topic was recreated (now {} to {})",
                    facts.next, facts.low, facts.high
                ),
                "land the new topic from its beginning, under a new epoch",
            ),
        };
        Error::new(Stage::Land, Class::InputLost, format!("pipeline `{}`: {message}", self.pipeline.name))
            .hint(format!("`--on-data-loss accept` will {accept}"))
    }

    /// Commits where partitions without progress begin: where the start policy says if the topic has
    /// none at all, else at the earliest offset.
    async fn commit_starts(&self, raw: &mut Table, progress: &TopicProgress, missing: &[i32]) -> Result<()> {
        let count = self.partition_count.load(Relaxed);
        let first_run = progress.partitions.is_empty() && epoch_of(&progress.topic, &self.pipeline.topic) == Some(0);
        let starts = if first_run {
            let all: Vec<i32> = (0..count).collect();
            self.options.start.resolve(&self.watermarks, &self.pipeline.topic, &all)?
        } else {
            let mut starts = BTreeMap::new();
            for partition in missing {
                starts.insert(*partition, self.watermarks.low_high(&self.pipeline.topic, *partition)?.0);
            }
            starts
        };
        tracing::info!(pipeline = %self.pipeline.name, ?starts, "partitions begin");
        self.commit_nexts(raw, &progress.topic, &starts).await
    }

    /// The topic was recreated and the user accepted it: all its partitions begin anew.
    async fn open_epoch(&self, raw: &mut Table, progress: &TopicProgress) -> Result<()> {
        let epoch = epoch_of(&progress.topic, &self.pipeline.topic).unwrap_or(0) + 1;
        let mut starts = BTreeMap::new();
        for partition in 0..self.partition_count.load(Relaxed) {
            starts.insert(partition, self.watermarks.low_high(&self.pipeline.topic, partition)?.0);
        }
        let topic = with_epoch(&self.pipeline.topic, epoch);
        tracing::warn!(pipeline = %self.pipeline.name, %topic, "the topic was recreated: a new epoch begins");
        self.commit_nexts(raw, &topic, &starts).await
    }

    /// Commits progress without rows. A conflict is no error: the caller looks again.
    async fn commit_nexts(&self, raw: &mut Table, topic: &str, starts: &BTreeMap<i32, i64>) -> Result<()> {
        let ids = AppIds::new(&self.pipeline.name);
        let progress = |next| Progress { next: Offset(next), frontier_ms: None, reached_ms: None, seen_ms: None };
        let mut txns: Vec<_> = starts.iter().flat_map(|(p, next)| ids.write(topic, *p, &progress(*next))).collect();
        txns.push(ids.write_partition_count(topic, self.partition_count.load(Relaxed)));
        // sequence 0 of a run: where its partitions begin
        let identity = Identity { run_id: self.options.run_id.clone(), sequence: 0 };
        let mut commit = Commit::new("WRITE", &identity)?;
        commit.txns = txns;
        match raw.commit(commit).await {
            CommitOutcome::Committed(_) | CommitOutcome::Conflicted => Ok(()),
            CommitOutcome::Unknown(error) | CommitOutcome::Failed(error) => Err(error),
        }
    }
}

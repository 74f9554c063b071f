//! The rejects table of one pipeline: commits that come before raw's, each place once.
//!
//! A rejects commit is an anti-join by place against its own snapshot. What may lie there already, at
//! or above raw's `next`, is what a crashed run or another writer committed before raw; below `next`
//! nothing of ours can be. Raw's `next` is read again after the rejects snapshot is loaded: if the
//! partition has moved meanwhile, these rejects are the new owner's business.
//!
//! Every rejects commit writes its version as a txn of each partition in it. So what was read of a
//! partition holds until that txn grows: writers of other partitions cost nothing but another attempt,
//! and cannot starve this one.
//!
//! Invariant J1: `known` of a partition holds every place at or above raw's `next` in all versions up
//! to `at`.

use super::rows::{encode_split, offset_column, partition_column};
use super::committer::CHECKPOINT_EVERY;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{AddedFile, Commit, CommitOutcome, FileProfile, LiveFile, Table};
use crate::project::settings::Pipeline;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use deltaworks_core::commit_info::Identity;
use deltaworks_core::commit_plan::{Claim, Verdict, judge};
use deltaworks_core::progress::AppIds;
use futures::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet};

/// The rejects table and what is known of it.
pub struct RejectsTable {
    table: Table,
    profile: FileProfile,
    /// What was read, by topic with its epoch and partition.
    known: BTreeMap<(String, i32), Known>,
    /// Version from which the next checkpoint is due.
    checkpoint_at: i64,
}

/// The places of one partition that are in the table already.
struct Known {
    /// The version that was read, or our own last commit after it.
    at: i64,
    offsets: BTreeSet<i64>,
}

/// What became of a flush's rejects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum RejectsVerdict {
    /// They are in the table, each once.
    Landed,
    /// Raw holds the whole flush already.
    AlreadyInRaw,
    /// Raw has moved on elsewhere: drop the flush.
    Elsewhere,
}

impl RejectsTable {
    /// Wraps the table.
    pub fn new(table: Table, profile: FileProfile) -> Self {
        let checkpoint_at = table.version() + CHECKPOINT_EVERY;
        Self { table, profile, known: BTreeMap::new(), checkpoint_at }
    }

    /// Lands rejects. On an error nothing is known; calling again is right.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn land(
        &mut self,
        batches: &[RecordBatch],
        claims: &[Claim],
        raw: &mut Table,
        pipeline: &Pipeline,
        identity: &Identity,
    ) -> Result<RejectsVerdict> {
        let partitions = partitions_of(batches)?;
        let mut uploaded: Option<Vec<AddedFile>> = None;
        loop {
            self.table.refresh().await?;
            raw.refresh().await?;
            let ids = AppIds::new(&pipeline.name);
            let progress = ids.read(&pipeline.topic, raw.txns());
            let topic = &progress.topic;
            match judge(claims, &progress.nexts()) {
                Verdict::Commit => {}
                Verdict::AlreadyThere => return Ok(RejectsVerdict::AlreadyInRaw),
                Verdict::Elsewhere(_) => return Ok(RejectsVerdict::Elsewhere),
            }
            if self.learn(&ids, topic, claims, &partitions).await? {
                uploaded = None;
            }
            let adds = match uploaded.take() {
                Some(adds) => adds,
                None => {
                    let fresh = self.without_known(batches, topic)?;
                    if fresh.is_empty() {
                        return Ok(RejectsVerdict::Landed);
                    }
                    self.upload(fresh).await?
                }
            };
            let version = self.table.version() + 1;
            let mut commit = Commit::new("WRITE", identity)?;
            commit.adds = adds.clone();
            commit.txns = claims.iter().map(|c| (ids.rejects(topic, c.partition), version)).collect();
            match self.table.commit(commit).await {
                CommitOutcome::Committed(version) => {
                    self.passed(topic, claims, version);
                    return Ok(RejectsVerdict::Landed);
                }
                CommitOutcome::Conflicted => uploaded = Some(adds),
                CommitOutcome::Unknown(error) | CommitOutcome::Failed(error) => return Err(error),
            }
        }
    }

    /// Makes `known` hold for these partitions of the flush; returns whether anything had to be read.
    async fn learn(
        &mut self,
        ids: &AppIds<'_>,
        topic: &str,
        claims: &[Claim],
        partitions: &BTreeSet<i32>,
    ) -> Result<bool> {
        let at = self.table.version();
        let mut unread = BTreeMap::new();
        for claim in claims {
            let key = (topic.to_owned(), claim.partition);
            match self.table.txns().get(&ids.rejects(topic, claim.partition)) {
                // nobody has ever written rejects of it
                None => drop(self.known.entry(key).or_insert(Known { at, offsets: BTreeSet::new() })),
                Some(written) if self.known.get(&key).is_some_and(|k| k.at >= *written) => {}
                Some(_) if partitions.contains(&claim.partition) => {
                    unread.insert(claim.partition, claim.range.from.0);
                }
                Some(_) => {}
            }
        }
        if unread.is_empty() {
            return Ok(false);
        }
        let mut found = self.places_at_or_above(&unread, topic).await?;
        for partition in unread.into_keys() {
            let offsets = found.remove(&partition).unwrap_or_default();
            self.known.insert((topic.to_owned(), partition), Known { at, offsets });
        }
        Ok(true)
    }

    /// Our own commit adds nothing to what is known above the flush; of what lies below, nothing is asked again.
    fn passed(&mut self, topic: &str, claims: &[Claim], version: i64) {
        for claim in claims {
            if let Some(known) = self.known.get_mut(&(topic.to_owned(), claim.partition)) {
                known.at = version;
                known.offsets = known.offsets.split_off(&claim.range.to.0);
            }
        }
    }

    /// The rows whose places are not in the table yet.
    fn without_known(&self, batches: &[RecordBatch], topic: &str) -> Result<Vec<RecordBatch>> {
        let known = |partition: i32| self.known.get(&(topic.to_owned(), partition)).map(|k| &k.offsets);
        let mut fresh = Vec::new();
        for batch in batches {
            let places = partition_column(batch)?.values().iter().zip(offset_column(batch)?.values());
            let keep: BooleanArray = places.map(|(p, o)| Some(known(*p).is_none_or(|k| !k.contains(o)))).collect();
            let rows = filter_record_batch(batch, &keep)
                .map_err(|e| Error::new(Stage::Land, Class::Internal, "rejects cannot be filtered").because(e))?;
            if rows.num_rows() > 0 {
                fresh.push(rows);
            }
        }
        Ok(fresh)
    }

    /// Offsets in the table, of these partitions, at or above the offset given for each.
    async fn places_at_or_above(&self, from: &BTreeMap<i32, i64>, topic: &str) -> Result<BTreeMap<i32, BTreeSet<i64>>> {
        let mut known: BTreeMap<i32, BTreeSet<i64>> = BTreeMap::new();
        let reaches = |file: &LiveFile| {
            let (first, last) = file.bounds_of("_partition").map_or((0, i64::from(i32::MAX)), |bounds| bounds);
            let greatest = file.bounds_of("_offset").map_or(i64::MAX, |(_, greatest)| greatest);
            from.iter().any(|(p, least)| (first..=last).contains(&i64::from(*p)) && greatest >= *least)
        };
        for file in self.table.live_files().await?.into_iter().filter(reaches) {
            let mut batches = self.table.read_file(&file, &["_topic", "_partition", "_offset"]).await?;
            while let Some(batch) = batches.try_next().await? {
                let topics =
                    batch.column_by_name("_topic").map(|c| arrow::array::AsArray::as_string::<i32>(c.as_ref()));
                let rows = partition_column(&batch)?.values().iter().zip(offset_column(&batch)?.values()).enumerate();
                for (row, (partition, offset)) in rows {
                    let wanted = from.get(partition).is_some_and(|least| offset >= least);
                    if wanted && topics.is_some_and(|t| t.value(row) == topic) {
                        known.entry(*partition).or_default().insert(*offset);
                    }
                }
            }
        }
        Ok(known)
    }

    /// Checkpoints the log now and then, and removes files older than `older_than_ms`.
    ///
    /// # Errors
    /// The store fails; nothing is lost, and a later commit tries again.
    pub async fn keep_log_short(&mut self, older_than_ms: i64) -> Result<()> {
        if self.table.version() >= self.checkpoint_at {
            self.table.checkpoint().await?;
            self.table.clean_log(self.table.version(), older_than_ms).await?;
            self.checkpoint_at = self.table.version() + CHECKPOINT_EVERY;
        }
        Ok(())
    }

    async fn upload(&self, batches: Vec<RecordBatch>) -> Result<Vec<AddedFile>> {
        let by = ["reject_date".to_owned()];
        let mut adds = Vec::new();
        for (values, file) in encode_split(batches, &by, &self.profile)? {
            adds.push(self.table.sink().put(values, file).await?);
        }
        Ok(adds)
    }
}

fn partitions_of(batches: &[RecordBatch]) -> Result<BTreeSet<i32>> {
    let mut partitions = BTreeSet::new();
    for batch in batches {
        partitions.extend(partition_column(batch)?.values());
    }
    Ok(partitions)
}

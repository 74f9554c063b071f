//! The rejects table of one pipeline: commits that come before raw's, each place once.
//!
//! A rejects commit is an anti-join by place against its own snapshot. What may lie there already, at
//! or above raw's `next`, is what a crashed run or another writer committed before raw; below `next`
//! nothing of ours can be. Raw's `next` is read again after the rejects snapshot is loaded: if the
//! partition has moved meanwhile, these rejects are the new owner's business.

use super::rows::{encode_split, offset_column, partition_column};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{AddedFile, Commit, CommitOutcome, FileProfile, LiveFile, Table};
use crate::project::settings::Pipeline;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use deltaworks_core::commit_info::Identity;
use deltaworks_core::commit_plan::{Claim, Verdict, judge};
use deltaworks_core::progress::AppIds;
use futures::TryStreamExt;
use std::collections::HashSet;

/// The rejects table and what is known of it.
pub struct RejectsTable {
    table: Table,
    profile: FileProfile,
    /// Version up to which no place at or above `next` can be there: our own last commit.
    clean_at: Option<i64>,
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
        Self { table, profile, clean_at: None }
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
        loop {
            self.table.refresh().await?;
            raw.refresh().await?;
            let ids = AppIds::new(&pipeline.name);
            let progress = ids.read(&pipeline.topic, raw.txns());
            match judge(claims, &progress.nexts()) {
                Verdict::Commit => {}
                Verdict::AlreadyThere => return Ok(RejectsVerdict::AlreadyInRaw),
                Verdict::Elsewhere(_) => return Ok(RejectsVerdict::Elsewhere),
            }
            let fresh = self.without_known(batches, claims, &progress.topic).await?;
            if fresh.is_empty() {
                return Ok(RejectsVerdict::Landed);
            }
            let version = self.table.version() + 1;
            let mut commit = Commit::new("WRITE", identity)?;
            commit.adds = self.upload(fresh).await?;
            commit.txns = claims.iter().map(|c| (ids.rejects(&progress.topic, c.partition), version)).collect();
            match self.table.commit(commit).await {
                CommitOutcome::Committed(version) => {
                    self.clean_at = Some(version);
                    return Ok(RejectsVerdict::Landed);
                }
                CommitOutcome::Conflicted => {}
                CommitOutcome::Unknown(error) | CommitOutcome::Failed(error) => return Err(error),
            }
        }
    }

    /// Checkpoints the log and removes files older than `older_than_ms`.
    ///
    /// # Errors
    /// The store fails; nothing is lost.
    pub async fn keep_log_short(&self, older_than_ms: i64) -> Result<()> {
        if self.table.version() > 0 {
            self.table.checkpoint().await?;
            self.table.clean_log(self.table.version(), older_than_ms).await?;
        }
        Ok(())
    }

    /// The rows whose places are not in the table yet.
    async fn without_known(&self, batches: &[RecordBatch], claims: &[Claim], topic: &str) -> Result<Vec<RecordBatch>> {
        if self.clean_at == Some(self.table.version()) {
            return Ok(batches.to_vec());
        }
        let known = self.places_at_or_above(claims, topic).await?;
        let mut fresh = Vec::new();
        for batch in batches {
            let places = partition_column(batch)?.values().iter().zip(offset_column(batch)?.values());
            let keep: BooleanArray = places.map(|(p, o)| Some(!known.contains(&(*p, *o)))).collect();
            let rows = filter_record_batch(batch, &keep)
                .map_err(|e| Error::new(Stage::Land, Class::Internal, "rejects cannot be filtered").because(e))?;
            if rows.num_rows() > 0 {
                fresh.push(rows);
            }
        }
        Ok(fresh)
    }

    async fn places_at_or_above(&self, claims: &[Claim], topic: &str) -> Result<HashSet<(i32, i64)>> {
        let least = claims.iter().map(|c| c.range.from.0).min().unwrap_or(i64::MAX);
        let mut known = HashSet::new();
        let reaches = |file: &LiveFile| file.bounds_of("_offset").is_none_or(|(_, greatest)| greatest >= least);
        for file in self.table.live_files().await?.into_iter().filter(reaches) {
            let mut batches = self.table.read_file(&file, &["_topic", "_partition", "_offset"]).await?;
            while let Some(batch) = batches.try_next().await? {
                let topics =
                    batch.column_by_name("_topic").map(|c| arrow::array::AsArray::as_string::<i32>(c.as_ref()));
                let rows = partition_column(&batch)?.values().iter().zip(offset_column(&batch)?.values()).enumerate();
                for (row, (partition, offset)) in rows {
                    if *offset >= least && topics.is_some_and(|t| t.value(row) == topic) {
                        known.insert((*partition, *offset));
                    }
                }
            }
        }
        Ok(known)
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

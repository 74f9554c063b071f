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
        Self { table, profile, known: BTreeMap::new() }
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

    /// A flush was dropped after its rejects may have been committed, and is read again: what was known
    /// of its places no longer holds.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Checkpoints the log now and then, and removes files older than `older_than_ms`.
    ///
    /// # Errors
    /// The store fails; nothing is lost, and a later commit tries again.
    pub async fn keep_log_short(&self, now_ms: i64, retention_ms: i64) -> Result<()> {
        if self.table.is_checkpoint_due().await {
            self.table.checkpoint().await?;
            self.table.clean_log(self.table.version(), now_ms, retention_ms).await?;
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

#[cfg(test)]
mod tests {
    use super::super::rows::{Reject, Rejects};
    use super::super::{schema, tables};
    use super::*;
    use crate::lake::{Lake, Witness};
    use crate::project;
    use crate::project::settings::{LakeSettings, Options};
    use deltaworks_core::place::{Offset, OffsetRange};
    use deltaworks_core::progress::Progress;
    use deltaworks_core::reason::{Reason, Refusal};
    use std::sync::Arc;

    /// A lake with the tables of one pipeline, whose partitions begin at 0.
    struct Place {
        lake: Lake,
        pipeline: Arc<Pipeline>,
        raw: Table,
    }

    impl Place {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            project::init(dir.path(), Some("traffic")).unwrap();
            let pipeline = project::load(dir.path(), &|_| None).unwrap().pipelines[0].clone();
            let url = "memory:///lake".parse().unwrap();
            let lake =
                Lake::open(&LakeSettings { url, storage: Options::default(), witness: Witness::default() }).unwrap();
            let raw = lake.ensure_table(&tables::raw_table(&pipeline)).await.unwrap();
            let mut place = Self { lake, pipeline, raw };
            place.advance(&[(0, 0), (1, 0)]).await;
            place
        }

        async fn rejects(&self) -> RejectsTable {
            let table = self.lake.ensure_table(&tables::rejects_table(&self.pipeline)).await.unwrap();
            RejectsTable::new(table, tables::rejects_profile())
        }

        /// What a raw commit does to progress.
        async fn advance(&mut self, nexts: &[(i32, i64)]) {
            let ids = AppIds::new(&self.pipeline.name);
            let at = |next| Progress { next: Offset(next), frontier_ms: None, reached_ms: None, seen_ms: None };
            self.raw.refresh().await.unwrap();
            let mut commit = Commit::new("WRITE", &identity()).unwrap();
            commit.txns = nexts.iter().flat_map(|(p, next)| ids.write(&self.pipeline.topic, *p, &at(*next))).collect();
            assert!(matches!(self.raw.commit(commit).await, CommitOutcome::Committed(_)));
        }

        /// Lands the rejects of a flush of `claims`.
        async fn land(&mut self, table: &mut RejectsTable, claims: &[(i32, i64, i64)], places: &[(i32, i64)]) {
            let claim = |(partition, from, to): &(i32, i64, i64)| Claim {
                partition: *partition,
                range: OffsetRange::new(*from, *to),
            };
            let claims: Vec<Claim> = claims.iter().map(claim).collect();
            let batch = self.batch(places);
            let landed = table.land(&[batch], &claims, &mut self.raw, &self.pipeline, &identity()).await.unwrap();
            assert_eq!(landed, RejectsVerdict::Landed);
        }

        fn batch(&self, places: &[(i32, i64)]) -> RecordBatch {
            let refusal = Refusal::of(Reason::NotJson, "it is not");
            let mut rejects = Rejects::default();
            for (partition, offset) in places {
                rejects.push(Reject {
                    partition: *partition,
                    offset: *offset,
                    kafka_time_ms: None,
                    key: None,
                    payload: Some(b"{"),
                    headers: None,
                    refusal: &refusal,
                    clock_ms: 0,
                });
            }
            rejects.finish(&schema::rejects_schema(), &self.pipeline.topic, "1").unwrap()
        }

        /// Every place in the table, twice if it is there twice.
        async fn places(&self) -> Vec<(i32, i64)> {
            let table = self.lake.open_table(&tables::rejects_name(&self.pipeline)).await.unwrap().unwrap();
            let mut places = Vec::new();
            for file in table.live_files().await.unwrap() {
                let mut batches = table.read_file(&file, &["_partition", "_offset"]).await.unwrap();
                while let Some(batch) = batches.try_next().await.unwrap() {
                    let (partitions, offsets) = (partition_column(&batch).unwrap(), offset_column(&batch).unwrap());
                    places.extend(partitions.values().iter().copied().zip(offsets.values().iter().copied()));
                }
            }
            places.sort_unstable();
            places
        }
    }

    fn identity() -> Identity {
        Identity { run_id: "r".into(), sequence: 1 }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_killed_run_left_beyond_the_next_flush_comes_once() {
        let mut place = Place::new().await;
        let mut killed = place.rejects().await;
        place.land(&mut killed, &[(0, 0, 500)], &[(0, 10), (0, 400)]).await;
        // killed before raw: the next run's flushes are smaller, and another partition has something new
        let mut table = place.rejects().await;
        place.land(&mut table, &[(0, 0, 300), (1, 0, 50)], &[(0, 10), (1, 20)]).await;
        place.advance(&[(0, 300), (1, 50)]).await;
        place.land(&mut table, &[(0, 300, 500)], &[(0, 400), (0, 450)]).await;
        assert_eq!(place.places().await, [(0, 10), (0, 400), (0, 450), (1, 20)]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_writer_of_another_partition_causes_no_reading() {
        let mut place = Place::new().await;
        let (mut ours, mut theirs) = (place.rejects().await, place.rejects().await);
        place.land(&mut ours, &[(0, 0, 5)], &[(0, 1)]).await;
        place.advance(&[(0, 5)]).await;
        let pipeline = place.pipeline.clone();
        let (ids, topic) = (AppIds::new(&pipeline.name), &pipeline.topic);
        let claims = [Claim { partition: 0, range: OffsetRange::new(5, 9) }];
        for round in 0..3 {
            let from = round * 10;
            place.land(&mut theirs, &[(1, from, from + 10)], &[(1, from + 3)]).await;
            place.advance(&[(1, from + 10)]).await;
            ours.table.refresh().await.unwrap();
            assert!(!ours.learn(&ids, topic, &claims, &BTreeSet::from([0])).await.unwrap());
        }
        // but one of the same partition does
        place.land(&mut theirs, &[(0, 5, 9)], &[(0, 7)]).await;
        ours.table.refresh().await.unwrap();
        assert!(ours.learn(&ids, topic, &claims, &BTreeSet::from([0])).await.unwrap());
        place.land(&mut ours, &[(0, 5, 9)], &[(0, 7), (0, 8)]).await;
        assert_eq!(place.places().await, [(0, 1), (0, 7), (0, 8), (1, 3), (1, 13), (1, 23)]);
    }
}

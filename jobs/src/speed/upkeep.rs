//! Keeps a speed table small: many states of a date become one per window, key and partition, and states of
//! windows that are final go away.
//!
//! Invariants: K1 what is merged counts the same rows, bit for bit: the joined range holds the ranges of all
//! that were merged, in their partition and date; K2 a date is taken as it is in one snapshot, and put back
//! only while every file of it that was read is still live; K3 the floor never falls.

use super::append::{SpeedCommit, wanted_file_schema};
use super::catch_up::merged;
use super::floor::floor_at;
use super::rows::{self, ByDate, Part, Place};
use super::table::SpeedTable;
use crate::batch::Run;
use crate::error::Result;
use crate::faults;
use crate::lake::{AddedFile, Commit, CommitOutcome, LiveFile};
use deltaworks_core::commit_info::Identity;
use deltaworks_core::place::OffsetRange;
use deltaworks_core::speed::{SpeedIds, joined};
use deltaworks_core::windows::Instant;
use jiff::civil::Date;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What upkeep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Dates whose states were merged.
    pub merged: u64,
    /// Dates whose states were dropped.
    pub dropped: u64,
}

impl SpeedTable {
    /// Merges small files of a date, where there are at least `files_min`, into one; files of together at most
    /// `bytes_max` bytes at a time. What another process merges meanwhile is left to it.
    ///
    /// # Errors
    /// The store fails, or offsets are in twice.
    pub async fn merge(&mut self, files_min: usize, bytes_max: u64, run: &Run) -> Result<Kept> {
        let mut kept = Kept::default();
        for date in self.window_dates().await? {
            let mut files = self.files_on(date).await?;
            files.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
            let sizes: Vec<u64> = files.iter().map(|file| file.size).collect();
            let others = files.split_off(due(&sizes, files_min.max(2), bytes_max));
            if files.is_empty() {
                continue;
            }
            let files = self.with_those_between(files, others).await?;
            if files.iter().map(|file| file.size).sum::<u64>() > bytes_max {
                continue;
            }
            kept.merged += u64::from(self.merge_date(date, files, run).await?);
        }
        Ok(kept)
    }

    /// Drops the states of dates all of whose windows start before `bound`. The caller knows that every window
    /// that starts before `bound`, of every granularity, is final.
    ///
    /// # Errors
    /// The store fails, or a window lies beyond the years that windows are made for.
    pub async fn drop_final(&mut self, bound: Instant, run: &Run) -> Result<Kept> {
        let ids_of = self.definition.name.clone();
        let ids = SpeedIds::new(&ids_of);
        let floor = floor_at(&self.definition, bound)?;
        let identity = run.identity();
        let mut attempts = self.attempts();
        loop {
            let floor = self.floor().map_or(floor, |have| have.max(floor));
            let mut dates = BTreeSet::new();
            let mut removes = Vec::new();
            for file in self.live().await? {
                let date = self.date_of(file)?;
                if date < floor {
                    dates.insert(date);
                    removes.push(file.clone());
                }
            }
            let kept = Kept { dropped: dates.len() as u64, ..Kept::default() };
            if removes.is_empty() && self.floor() == Some(floor) {
                return Ok(Kept::default());
            }
            let mut commit = Commit::new("DELETE", &self.said(&identity))?;
            commit.removes = removes;
            commit.txns = vec![ids.write_floor(floor)];
            match self.commit(commit).await {
                CommitOutcome::Committed(_) => return Ok(kept),
                outcome => attempts.after(outcome).await?,
            }
            self.refresh().await?;
            if self.table.find_commit(&identity).is_some() {
                return Ok(kept);
            }
        }
    }

    /// Writes a checkpoint if one is due, and removes log files before it that were written more than `retention_ms` ago.
    ///
    /// # Errors
    /// The store fails; the table is as good as before.
    pub async fn keep_log_short(&self, now_ms: i64, retention_ms: i64) -> Result<()> {
        self.table.checkpoint_if_due().await?;
        self.table.clean_log(self.version(), now_ms, retention_ms).await.map(drop)
    }

    /// Takes the files that commits of this object took out; they are still in the store.
    pub(super) fn take_removed(&mut self) -> Vec<LiveFile> {
        std::mem::take(&mut self.removed)
    }

    async fn files_on(&self, date: Date) -> Result<Vec<LiveFile>> {
        let mut files = Vec::new();
        for file in self.live().await? {
            if self.date_of(file)? == date {
                files.push(file.clone());
            }
        }
        Ok(files)
    }

    /// The files, and those of the others whose offsets lie between theirs: without them a joined range would
    /// seem to hold offsets that are elsewhere.
    async fn with_those_between(&self, files: Vec<LiveFile>, others: Vec<LiveFile>) -> Result<Vec<LiveFile>> {
        if others.is_empty() {
            return Ok(files);
        }
        let mut inside = BTreeMap::new();
        for file in &files {
            span(&mut inside, &rows::places_of(&self.table, file).await?);
        }
        let mut outside = Vec::new();
        for file in others {
            let places = rows::places_of(&self.table, &file).await?;
            outside.push((file, places));
        }
        let mut all = files;
        loop {
            let between = outside.iter().position(|(_, places)| places.iter().any(|(p, r)| meets(&inside, p, *r)));
            let Some(n) = between else { return Ok(all) };
            let (file, places) = outside.swap_remove(n);
            span(&mut inside, &places);
            all.push(file);
        }
    }

    /// Merges one date; `false` if somebody else has changed it meanwhile.
    async fn merge_date(&mut self, date: Date, files: Vec<LiveFile>, run: &Run) -> Result<bool> {
        let parts = rows::read(&self.table, &self.definition, &files).await?;
        rows::check_ranges(&parts, &self.stored()).map_err(|e| self.broken(&e))?;
        let added = self.merged_files(&parts).await?;
        faults::point("before_speed_merge");
        let name = self.definition.name.clone();
        let rewrite = SpeedIds::new(&name).rewrite();
        let identity = run.identity();
        let mut attempts = self.attempts();
        loop {
            let live = self.files_on(date).await?;
            // what was appended since has offsets of its own, and stays
            if files.iter().any(|file| live.iter().all(|l| l.path != file.path)) {
                return Ok(false);
            }
            let mut commit = Commit::new("OPTIMIZE", &self.said(&identity))?;
            commit.removes = files.clone();
            commit.adds = added.clone();
            commit.txns = vec![(rewrite.clone(), self.table.txns().get(&rewrite).copied().unwrap_or(0) + 1)];
            match self.commit(commit).await {
                CommitOutcome::Committed(_) => return Ok(true),
                outcome => attempts.after(outcome).await?,
            }
            self.refresh().await?;
            if self.table.find_commit(&identity).is_some() {
                return Ok(true);
            }
        }
    }

    /// The states of some files of one date, merged by partition.
    async fn merged_files(&self, parts: &[Part]) -> Result<Vec<AddedFile>> {
        let mut ranges: BTreeMap<Place, Vec<OffsetRange>> = BTreeMap::new();
        for part in parts {
            for (place, range) in part.places()? {
                ranges.entry(place).or_default().push(range);
            }
        }
        let schema = wanted_file_schema(&self.definition);
        let mut by_date = ByDate::new();
        for (place, ranges) in ranges {
            let range = joined(ranges).map_err(|e| self.broken(&e))?;
            let Some(range) = range else { continue };
            let batches = parts.iter().map(|part| part.states_of(&place)).collect::<Result<Vec<_>>>()?;
            let several = batches.iter().map(|batch| self.definition.stored(std::slice::from_ref(batch)));
            for states in merged(&self.definition, several.collect::<Result<_>>()?).await? {
                rows::to_rows(&self.definition, &schema, &place, range, &states, None, &mut by_date)?;
            }
        }
        rows::put(&self.table, &schema, by_date).await
    }

    fn said(&self, identity: &Identity) -> SpeedCommit<'_> {
        SpeedCommit { identity: identity.clone(), aggregate: &self.definition.name, partitions: Vec::new() }
    }
}

/// How many of the smallest files to merge, of `sizes` that grow: as many as are small beside all that are
/// smaller, so that a large file is written again only once as much has come since.
fn due(sizes: &[u64], files_min: usize, bytes_max: u64) -> usize {
    let mut due = 0;
    let mut smaller: u64 = 0;
    for (n, size) in (1..).zip(sizes) {
        let together = smaller.saturating_add(*size);
        if together > bytes_max {
            break;
        }
        if n >= files_min && smaller.saturating_mul(2) >= *size {
            due = n;
        }
        smaller = together;
    }
    due
}

/// Widens the ranges by those of a file.
fn span(ranges: &mut BTreeMap<Place, OffsetRange>, places: &[(Place, OffsetRange)]) {
    for (place, range) in places {
        let whole = ranges.entry(place.clone()).or_insert(*range);
        *whole = OffsetRange { from: whole.from.min(range.from), to: whole.to.max(range.to) };
    }
}

fn meets(ranges: &BTreeMap<Place, OffsetRange>, place: &Place, range: OffsetRange) -> bool {
    ranges.get(place).is_some_and(|whole| range.from < whole.to && whole.from < range.to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::too_few(&[5, 5, 5], 4, 100, 0)]
    #[case::alike(&[5, 5, 5, 5], 4, 100, 4)]
    #[case::large_one_stays(&[5, 5, 5, 5, 90], 4, 1_000, 4)]
    #[case::as_much_has_come_since(&[5, 5, 5, 5, 40], 4, 1_000, 5)]
    #[case::over_the_budget(&[5, 5, 5, 5, 6], 4, 20, 4)]
    #[case::all_over_the_budget(&[50, 50], 2, 60, 0)]
    #[case::none(&[], 2, 60, 0)]
    fn small_files_are_merged(#[case] sizes: &[u64], #[case] min: usize, #[case] bytes: u64, #[case] expected: usize) {
        assert_eq!(due(sizes, min, bytes), expected);
    }

    #[test]
    fn a_file_with_offsets_in_between_is_seen() {
        let place = |partition| Place { topic: "t".into(), partition };
        let mut inside = BTreeMap::new();
        span(&mut inside, &[(place(0), OffsetRange::new(0, 10)), (place(0), OffsetRange::new(20, 30))]);
        assert!(meets(&inside, &place(0), OffsetRange::new(10, 20)));
        assert!(!meets(&inside, &place(0), OffsetRange::new(30, 40)));
        assert!(!meets(&inside, &place(1), OffsetRange::new(10, 20)));
    }
}

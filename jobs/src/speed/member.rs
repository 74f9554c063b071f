//! The tables of one pipeline as a stream keeps them: each raw commit is appended, or, where that cannot be,
//! caught up from raw.
//!
//! Invariants: M1 an aggregate that fails leaves the others alone; M2 a failed one is tried again after a
//! pause that grows, never in a loop.

use super::append::{Addition, Appended, append};
use super::catch_up::{Ask, CaughtUp, Work, bring_up};
use super::inlet::{Queue, bytes_of};
use super::portions;
use super::rows::Counts;
use super::status::{Health, Status};
use super::table::SpeedTable;
use crate::error::{Error, Result};
use crate::lake::LiveFile;
use crate::land::tap::Landed;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First and longest pause before a failed table is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Commits between two times of upkeep.
const UPKEEP_EVERY: i64 = 20;
/// Files of a date from which on they are merged.
const FILES_MIN: usize = 16;
/// Share of the states' memory that files to merge may have, compressed.
const MERGE_SHARE: usize = 16;
/// Merged files stay this long, for those who still read an older version.
const REMOVED_STAY: Duration = Duration::from_secs(3_600);
/// Log files are kept this long: nobody asks what a transient table was like yesterday.
const LOG_RETENTION_MS: i64 = 86_400_000;

/// The tables of one pipeline.
pub(super) struct Task {
    pub members: Vec<Member>,
    pub inbox: mpsc::Receiver<Landed>,
    pub queue: Arc<Queue>,
    pub status: Status,
    /// End when nothing waits.
    pub closing: CancellationToken,
}

/// One aggregate.
pub(super) struct Member {
    work: Work,
    /// Open while it is live.
    table: Option<SpeedTable>,
    /// When to try again after a failure, and the pause that led there.
    retry: Option<(Instant, Duration)>,
    /// It was live before: should it mean something else by now, a newer process has said so.
    was_live: bool,
    /// Files that were merged, and when; those that are left at the end stay.
    removed: VecDeque<(Instant, Vec<LiveFile>)>,
}

impl Task {
    /// Works until it is told to close and nothing waits, or nobody lands any more.
    pub async fn run(mut self) {
        let Self { members, inbox, queue, status, closing } = &mut self;
        for member in members.iter_mut() {
            member.catch_up(status).await;
        }
        loop {
            let retry = members.iter().filter_map(|m| m.retry).map(|(at, _)| at).min();
            let landed = tokio::select! {
                biased;
                landed = inbox.recv() => landed,
                () = closing.cancelled(), if !inbox.is_closed() => {
                    inbox.close();
                    continue;
                }
                () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {
                    for member in members.iter_mut().filter(|m| m.is_due()) {
                        member.catch_up(status).await;
                    }
                    continue;
                }
            };
            let Some(landed) = landed else { break };
            let bytes = bytes_of(landed.rows.as_deref());
            for member in members.iter_mut() {
                member.take(&landed, status).await;
            }
            drop(landed);
            if queue.done(bytes) {
                for member in members.iter_mut().filter(|m| m.retry.is_none()) {
                    member.catch_up(status).await;
                }
            }
        }
        for member in members.iter_mut().filter(|m| m.table.is_none()) {
            member.catch_up(status).await;
        }
    }
}

impl Member {
    /// An aggregate that is not open yet.
    pub const fn new(work: Work) -> Self {
        Self { work, table: None, retry: None, was_live: false, removed: VecDeque::new() }
    }

    fn name(&self) -> &str {
        &self.work.definition.name
    }

    fn is_due(&self) -> bool {
        self.retry.is_some_and(|(at, _)| at <= Instant::now())
    }

    /// Takes one raw commit in.
    async fn take(&mut self, landed: &Landed, status: &Status) {
        if self.retry.is_some() && !self.is_due() {
            return;
        }
        match self.append(landed).await {
            Ok(Some((version, counts))) => {
                status.change(self.name(), |report| {
                    report.commits += 1;
                    report.version = Some(version);
                    report.counts.add(counts);
                });
                self.keep(version).await;
            }
            Ok(None) => {}
            Err(Missed::Behind) => self.catch_up(status).await,
            Err(Missed::Failed(error)) => {
                self.failed(&error, status);
                self.catch_up(status).await;
            }
        }
    }

    async fn append(&mut self, landed: &Landed) -> Result<Option<(i64, Counts)>, Missed> {
        let (Some(table), Some(rows)) = (&mut self.table, &landed.rows) else { return Err(Missed::Behind) };
        // a table that was dropped shows here, before anything is put where it was
        table.refresh().await.map_err(Missed::Failed)?;
        let states = portions::landed(&self.work.definition, rows.clone()).await.map_err(Missed::Failed)?;
        let addition = Addition {
            raw_table: landed.raw_table.clone(),
            topic: landed.topic.clone(),
            claims: landed.claims.clone(),
            states,
        };
        match append(table, &addition, &self.work.run).await.map_err(Missed::Failed)? {
            Appended::At(version, counts) => Ok(Some((version, counts))),
            Appended::AlreadyThere => Ok(None),
            Appended::Behind | Appended::Unusable(_) => Err(Missed::Behind),
        }
    }

    /// Brings the table up to raw.
    async fn catch_up(&mut self, status: &Status) {
        self.table = None;
        status.change(self.name(), |report| {
            if report.health == Health::Live {
                report.health = Health::Behind;
            }
        });
        let ask = if self.was_live { Ask::KeepMeaning } else { Ask::CatchUp };
        match bring_up(&self.work, ask).await {
            Ok(done) => {
                self.retry = None;
                self.was_live |= done.is_some();
                // without a raw table there is nothing to be behind of
                let (table, done) = done.unzip();
                self.table = table;
                self.caught_up(&done.unwrap_or_default(), status);
            }
            Err(error) => self.failed(&error, status),
        }
    }

    fn caught_up(&self, done: &CaughtUp, status: &Status) {
        let name = self.name();
        status.change(name, |report| {
            if report.health == Health::Degraded {
                tracing::info!(aggregate = name, offsets = done.offsets, "the speed table is whole again");
            } else if done.offsets > 0 {
                tracing::info!(aggregate = name, offsets = done.offsets, anew = ?done.anew, "speed was caught up from raw");
            }
            report.health = Health::Live;
            report.why = None;
            report.caught_up += u64::from(done.offsets > 0);
            report.commits += u64::from(done.offsets > 0);
            report.counts.add(done.counts);
            report.version = done.version.or(report.version);
        });
    }

    fn failed(&mut self, error: &Error, status: &Status) {
        let pause = self.retry.map_or(PAUSES.0, |(_, pause)| (pause * 2).min(PAUSES.1));
        self.retry = Some((Instant::now() + pause, pause));
        self.table = None;
        let source = error.source.as_ref().map(|source| format!(": {source}")).unwrap_or_default();
        status.degrade(self.name(), format!("{error}{source}"));
    }

    /// Upkeep: a failure is logged, and the next time tries again.
    async fn keep(&mut self, version: i64) {
        if version % UPKEEP_EVERY != 0 {
            return;
        }
        let Some(table) = &mut self.table else { return };
        let bytes_max = (self.work.held_bytes_max / MERGE_SHARE) as u64;
        let now_ms = self.work.lake.now_ms();
        let kept = async {
            table.merge(FILES_MIN, bytes_max, &self.work.run).await?;
            let removed = table.take_removed();
            if !removed.is_empty() {
                self.removed.push_back((Instant::now(), removed));
            }
            while let Some((at, old)) = self.removed.front()
                && at.elapsed() >= REMOVED_STAY
            {
                table.table.delete_removed(old).await?;
                self.removed.pop_front();
            }
            table.keep_log_short(now_ms, LOG_RETENTION_MS).await
        };
        if let Err(error) = kept.await {
            tracing::warn!(aggregate = %self.work.definition.name, %error, "upkeep of the speed table will be tried again");
        }
    }
}

/// Why a commit was not appended.
enum Missed {
    /// Rows come from raw.
    Behind,
    Failed(Error),
}

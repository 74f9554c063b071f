//! Speed within a stream: states of each raw commit, from the rows that are still in memory.
//!
//! One task per pipeline takes commits from a bounded queue and keeps the tables of all its aggregates. What
//! it cannot take, because the queue is full or a table failed, it takes from raw later. An aggregate is
//! *live* while every raw commit of this process was appended, *behind* while it is being caught up from raw,
//! and *degraded* after a failure, until catching up works again.
//!
//! Invariants: L1 landing waits for nothing here; L2 bytes of rows that wait are bounded; L3 an aggregate that
//! fails leaves the others alone.

use super::append::{Addition, Appended, append};
use super::catch_up::{CaughtUp, Work, bring_up};
use super::rows::Counts;
use super::table::SpeedTable;
use crate::batch::{Engine, Run};
use crate::engine::aggregate::{Batches, Definition, Source};
use crate::error::{Error, Result};
use crate::lake::Lake;
use crate::land::tap::{Landed, Tap, Taps};
use crate::project::Report;
use crate::project::settings::{AggregateFile, Pipeline, Settings};
use arrow::array::RecordBatch;
use futures::StreamExt;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Share of the memory budget for speed.
const MEMORY_SHARE: usize = 4;
/// Share of that for rows that wait, and again for states that wait.
const WAITING_SHARE: usize = 2;
/// Commits that may wait.
const WAITING_MAX: usize = 16;
/// First and longest pause before a failed table is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long what is under way may take once the run is told to end.
const DRAIN: Duration = Duration::from_secs(2);
/// How long landing waits until aggregates are planned.
const START_MAX: Duration = Duration::from_secs(10);
/// Commits between two times of upkeep.
const UPKEEP_EVERY: i64 = 20;
/// Files of a date from which on they are merged.
const FILES_MIN: usize = 16;
/// Share of the states' memory that files to merge may have, compressed.
const MERGE_SHARE: usize = 16;
/// Log files are kept this long: nobody asks what a transient table was like yesterday.
const LOG_RETENTION_MS: i64 = 86_400_000;

/// How an aggregate does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It is being caught up from raw.
    #[default]
    Behind,
    /// Every raw commit of this process is in.
    Live,
    /// Something failed; it is tried again.
    Degraded,
}

/// What a stream did to one speed table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpeedReport {
    /// How it does.
    pub health: Health,
    /// Why it is degraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Times that it became degraded.
    pub failures: u64,
    /// Commits that it got.
    pub commits: u64,
    /// Times that rows came from raw.
    pub caught_up: u64,
    /// Rows that were taken, from memory or raw.
    #[serde(flatten)]
    pub counts: Counts,
    /// Version of the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

/// How all aggregates do, now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Status(Arc<Mutex<BTreeMap<String, SpeedReport>>>);

/// The speed layer of a stream that runs.
#[derive(Debug)]
pub struct Live {
    taps: Taps,
    threads: Vec<JoinHandle<()>>,
    status: Status,
    /// The run is told to end.
    stop: CancellationToken,
    /// The threads are.
    halt: CancellationToken,
}

impl Status {
    /// A copy.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<String, SpeedReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, aggregate: &str, change: impl FnOnce(&mut SpeedReport)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(aggregate.to_owned()).or_default());
    }
}

impl Live {
    /// Begins for the aggregates of `pipelines`. Never fails: what is wrong makes an aggregate degraded.
    pub async fn start(
        settings: &Settings,
        pipelines: &[Arc<Pipeline>],
        run_id: &str,
        stop: &CancellationToken,
    ) -> Self {
        match Lake::open(&settings.lake) {
            Ok(lake) => Self::start_on(&lake, settings, pipelines, run_id, stop).await,
            // landing will say so
            Err(_) => Self::none(stop),
        }
    }

    /// The same, on a lake that is open.
    pub async fn start_on(
        lake: &Lake,
        settings: &Settings,
        pipelines: &[Arc<Pipeline>],
        run_id: &str,
        stop: &CancellationToken,
    ) -> Self {
        let mut live = Self::none(stop);
        let of = |pipeline: &Pipeline| {
            let files = settings.aggregates.iter().filter(|a| a.speed && a.from == pipeline.name);
            files.cloned().collect::<Vec<_>>()
        };
        let busy: Vec<_> = pipelines.iter().map(|p| (p, of(p))).filter(|(_, files)| !files.is_empty()).collect();
        if busy.is_empty() {
            return live;
        }
        live.taps.memory_bytes = settings.memory_bytes / MEMORY_SHARE;
        let share = live.taps.memory_bytes / WAITING_SHARE / busy.len();
        let run = Run::new(format!("{run_id}-speed"));
        for (pipeline, files) in busy {
            let small = Settings { memory_bytes: share, ..settings.clone() };
            let planned = tokio::time::timeout(START_MAX, definitions(&small, pipeline, &files)).await;
            let mut works = Vec::new();
            for (n, file) in files.iter().enumerate() {
                live.status.change(&file.name, |_| {});
                let definition = match &planned {
                    Ok(definitions) => definitions[n].clone(),
                    Err(_) => Err("it was not planned in time".to_owned()),
                };
                match definition {
                    Ok(definition) => works.push(Work {
                        lake: lake.clone(),
                        pipeline: Arc::clone(pipeline),
                        definition,
                        run: run.clone(),
                        held_bytes_max: share,
                    }),
                    Err(why) => degrade(&live.status, &file.name, why),
                }
            }
            live.spawn(pipeline, works, share);
        }
        live
    }

    fn none(stop: &CancellationToken) -> Self {
        let (taps, threads, status) = (Taps::default(), Vec::new(), Status::default());
        Self { taps, threads, status, stop: stop.clone(), halt: CancellationToken::new() }
    }

    /// A thread of its own: making states keeps no one else from their turn.
    fn spawn(&mut self, pipeline: &Pipeline, works: Vec<Work>, bytes_max: usize) {
        if works.is_empty() {
            return;
        }
        let needed: BTreeSet<&String> = works.iter().flat_map(|work| &work.definition.needed_landed).collect();
        let (sender, inbox) = mpsc::channel(WAITING_MAX);
        let queue = Arc::new(Queue { bytes: AtomicUsize::new(0), bytes_max, overflowed: AtomicBool::new(false) });
        let columns = needed.into_iter().cloned().collect();
        self.taps.of.insert(pipeline.name.clone(), Arc::new(Inlet { columns, sender, queue: queue.clone() }));
        let names: Vec<String> = works.iter().map(|work| work.definition.name.clone()).collect();
        let members = works.into_iter().map(|work| Member { work, table: None, retry: None }).collect();
        let task = Task { members, inbox, queue, status: self.status.clone() };
        let (runtime, halt) = (tokio::runtime::Handle::current(), self.halt.clone());
        let thread = std::thread::Builder::new().name("speed".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = task.run() => {}
                    () = halt.cancelled() => {}
                }
            });
        });
        match thread {
            Ok(thread) => self.threads.push(thread),
            Err(error) => names.iter().for_each(|name| degrade(&self.status, name, error.to_string())),
        }
    }

    /// What landing tells of its commits.
    #[must_use]
    pub const fn taps(&self) -> &Taps {
        &self.taps
    }

    /// How the aggregates do.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Ends, once landing has: what waits is appended, and what is behind is tried once more; a run that was
    /// told to end leaves it to the next one after a moment.
    pub async fn end(self) -> BTreeMap<String, SpeedReport> {
        let Self { taps, threads, status, stop, halt } = self;
        drop(taps);
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(JoinHandle::join));
        let hurry = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
            halt.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = ended => {
                if !matches!(ended, Ok(Ok(()))) {
                    tracing::error!("a thread of the speed layer ended abnormally");
                }
            }
            () = hurry => {}
        }
        status.reports()
    }
}

/// What each file means, or why it means nothing.
async fn definitions(
    settings: &Settings,
    pipeline: &Pipeline,
    files: &[Arc<AggregateFile>],
) -> Vec<Result<Arc<Definition>, String>> {
    let engine = match Engine::start(settings, 1).await {
        Ok(engine) => engine,
        Err(error) => return files.iter().map(|_| Err(error.to_string())).collect(),
    };
    let source = Source::of(pipeline);
    let mut definitions = Vec::new();
    for file in files {
        let definition = Definition::new(file, &source, &engine.lookups, &engine.session).await;
        definitions.push(definition.map(Arc::new).map_err(|found| Report::new(found).to_string()));
    }
    definitions
}

/// What waits.
#[derive(Debug)]
struct Queue {
    bytes: AtomicUsize,
    bytes_max: usize,
    /// A commit did not fit.
    overflowed: AtomicBool,
}

/// The end of the queue that landing has.
struct Inlet {
    columns: Vec<String>,
    sender: mpsc::Sender<Landed>,
    queue: Arc<Queue>,
}

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl Tap for Inlet {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn room_bytes(&self) -> usize {
        self.queue.bytes_max.saturating_sub(self.queue.bytes.load(Relaxed))
    }

    fn landed(&self, mut landed: Landed) {
        let bytes = bytes_of(landed.rows.as_deref());
        if bytes > self.room_bytes() {
            landed.rows = None;
        }
        let bytes = bytes_of(landed.rows.as_deref());
        self.queue.bytes.fetch_add(bytes, Relaxed);
        if self.sender.try_send(landed).is_err() {
            self.queue.bytes.fetch_sub(bytes, Relaxed);
            // whatever fills the queue wakes the task
            self.queue.overflowed.store(true, Relaxed);
        }
    }
}

fn bytes_of(rows: Option<&[RecordBatch]>) -> usize {
    rows.unwrap_or_default().iter().map(RecordBatch::get_array_memory_size).sum()
}

/// The tables of one pipeline.
struct Task {
    members: Vec<Member>,
    inbox: mpsc::Receiver<Landed>,
    queue: Arc<Queue>,
    status: Status,
}

/// One aggregate.
struct Member {
    work: Work,
    /// Open while it is live.
    table: Option<SpeedTable>,
    /// When to try again after a failure, and the pause that led there.
    retry: Option<(Instant, Duration)>,
}

impl Task {
    async fn run(mut self) {
        let Self { members, inbox, queue, status } = &mut self;
        for member in members.iter_mut() {
            member.catch_up(status).await;
        }
        loop {
            let retry = members.iter().filter_map(|m| m.retry).map(|(at, _)| at).min();
            let landed = tokio::select! {
                biased;
                landed = inbox.recv() => landed,
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
            queue.bytes.fetch_sub(bytes, Relaxed);
            if queue.overflowed.swap(false, Relaxed) {
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
        let rows: Batches = futures::stream::iter(rows.clone().into_iter().map(Ok)).boxed();
        let states = self.work.definition.landed(vec![rows]).await.map_err(Missed::Failed)?;
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
        match bring_up(&self.work, false).await {
            Ok(done) => {
                self.retry = None;
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
        degrade(status, self.name(), format!("{error}{source}"));
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
            table.keep_log_short(now_ms - LOG_RETENTION_MS).await
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

fn degrade(status: &Status, aggregate: &str, why: String) {
    status.change(aggregate, |report| {
        if report.health != Health::Degraded {
            report.failures += 1;
            tracing::warn!(aggregate, error = why, "speed is degraded: windows are shown late until it is caught up");
        }
        report.health = Health::Degraded;
        report.why = Some(why);
    });
}

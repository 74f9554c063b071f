//! Speed within a stream: states of each raw commit, from the rows that are still in memory.
//!
//! One thread per pipeline takes commits from a bounded queue and keeps the tables of all its aggregates. What
//! it cannot take, because the queue is full or a table failed, it takes from raw later. An aggregate is
//! *live* while every raw commit of this process was appended, *behind* while it is being caught up from raw,
//! and *degraded* after a failure, until catching up works again.
//!
//! Invariants: L1 landing waits for nothing here, once it has begun; L2 bytes of rows that wait are bounded.

use super::catch_up::Work;
use super::inlet::queue;
use super::member::{Member, Task};
use super::status::{SpeedReport, Status};
use crate::batch::{Engine, Run};
use crate::engine::aggregate::{Definition, Source};
use crate::lake::Lake;
use crate::land::tap::Taps;
use crate::project::Report;
use crate::project::settings::{AggregateFile, Pipeline, Settings};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Share of the memory budget for speed.
const MEMORY_SHARE: usize = 4;
/// Share of that for rows that wait, and again for states that wait.
const WAITING_SHARE: usize = 2;
/// How long what is under way may take once the run is told to end.
const DRAIN: Duration = Duration::from_secs(2);
/// How long landing waits until aggregates are planned.
const START_MAX: Duration = Duration::from_secs(10);

/// The speed layer of a stream that runs.
#[derive(Debug)]
pub struct Live {
    taps: Taps,
    /// With the aggregates that each is for.
    threads: Vec<(Vec<String>, JoinHandle<()>)>,
    status: Status,
    /// The run is told to end.
    stop: CancellationToken,
    /// The threads are to end when nothing waits.
    closing: CancellationToken,
    /// The threads are to end.
    halt: CancellationToken,
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
                    Err(why) => live.status.degrade(&file.name, why),
                }
            }
            live.spawn(pipeline, works, share);
        }
        live
    }

    fn none(stop: &CancellationToken) -> Self {
        let (taps, threads, status) = (Taps::default(), Vec::new(), Status::default());
        let (closing, halt) = (CancellationToken::new(), CancellationToken::new());
        Self { taps, threads, status, stop: stop.clone(), closing, halt }
    }

    /// A thread of its own: making states keeps no one else from their turn.
    fn spawn(&mut self, pipeline: &Pipeline, works: Vec<Work>, bytes_max: usize) {
        if works.is_empty() {
            return;
        }
        let needed: BTreeSet<&String> = works.iter().flat_map(|work| &work.definition.needed_landed).collect();
        let (inlet, inbox, queue) = queue(needed.into_iter().cloned().collect(), bytes_max);
        self.taps.of.insert(pipeline.name.clone(), Arc::new(inlet));
        let names: Vec<String> = works.iter().map(|work| work.definition.name.clone()).collect();
        let members = works.into_iter().map(Member::new).collect();
        let task = Task { members, inbox, queue, status: self.status.clone(), closing: self.closing.clone() };
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
            Ok(thread) => self.threads.push((names, thread)),
            Err(error) => names.iter().for_each(|name| self.status.degrade(name, error.to_string())),
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
        let Self { threads, status, stop, closing, halt, .. } = self;
        closing.cancel();
        let broken = tokio::task::spawn_blocking(move || {
            let ended = threads.into_iter().map(|(names, thread)| (names, thread.join()));
            ended.filter(|(_, ended)| ended.is_err()).flat_map(|(names, _)| names).collect::<Vec<_>>()
        });
        let hurry = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
            halt.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            broken = broken => {
                for aggregate in broken.unwrap_or_default() {
                    status.degrade(&aggregate, "its thread ended abnormally".to_owned());
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

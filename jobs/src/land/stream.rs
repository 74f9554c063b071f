//! `stream`: lands pipelines until told to stop, or until they are caught up.
//!
//! The only place where landing's threads and tasks are spawned. If one pipeline must stop, a bounded
//! run lets the others finish, and an unbounded one drains them: a process that lands half of what it
//! should is worse than one that its supervisor restarts.

use super::committer::{Committer, Outcome, Totals};
use super::flush::Flush;
use super::meter::Meter;
use super::options::StreamOptions;
use super::reader::{Ended, Reader, Wiring};
use super::rejects::RejectsTable;
use super::takeover::Takeover;
use super::tap::{Share, Tap, Taps};
use super::worker::{Item, Worker};
use super::{decode, tables};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::kafka::monitor::Monitor;
use crate::kafka::source::{Mode, Source};
use crate::kafka::watermarks::Watermarks;
use crate::lake::{Lake, Table};
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::progress::{AppIds, valid_through_ms};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

/// How often the ends of the partitions are looked up.
const MONITOR_EVERY: Duration = Duration::from_secs(1);
/// Share of the memory budget for librdkafka's queues.
const QUEUE_SHARE: usize = 4;
/// Share of the memory budget for messages read and not yet committed.
const OUTSTANDING_SHARE: usize = 2;

/// What a run did to one pipeline.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PipelineReport {
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
    /// Version of the raw table.
    pub version: Option<i64>,
    /// The instant up to which the raw table is complete, RFC 3339.
    pub valid_through: Option<String>,
}

/// What a run did, also where it failed.
#[derive(Debug, Default)]
pub struct StreamReport {
    /// Per pipeline.
    pub pipelines: BTreeMap<String, PipelineReport>,
    /// Whether the run was told to stop.
    pub stopped: bool,
    /// Why it failed: the first error that stopped a pipeline.
    pub error: Option<Error>,
}

/// Lands `pipelines` until `stop` is cancelled, or, in a bounded run, until they are caught up. Landed rows are
/// handed to `taps`, which have their share of the memory budget.
pub async fn stream(
    settings: &Settings,
    pipelines: &[Arc<Pipeline>],
    options: &StreamOptions,
    meters: &[Arc<Meter>],
    clock: &Clock,
    stop: &CancellationToken,
    taps: &Taps,
) -> StreamReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => stream_on(&lake, settings, pipelines, options, meters, clock, stop, taps).await,
        Err(error) => {
            let reports = pipelines.iter().map(|p| (p.name.clone(), PipelineReport::default())).collect();
            StreamReport { pipelines: reports, stopped: stop.is_cancelled(), error: Some(error) }
        }
    }
}

/// The same on a lake that is open already, such as one behind a decorated store; the one in
/// `settings` is not looked at.
#[expect(clippy::too_many_arguments, reason = "the parts of one run, named once")]
pub async fn stream_on(
    lake: &Lake,
    settings: &Settings,
    pipelines: &[Arc<Pipeline>],
    options: &StreamOptions,
    meters: &[Arc<Meter>],
    clock: &Clock,
    stop: &CancellationToken,
    taps: &Taps,
) -> StreamReport {
    let halt = stop.child_token();
    let memory = settings.memory_bytes.saturating_sub(taps.memory_bytes) / pipelines.len().max(1);
    let mut running = tokio::task::JoinSet::new();
    for (pipeline, meter) in pipelines.iter().zip(meters) {
        let (lake, settings, pipeline, options) = (lake.clone(), settings.clone(), pipeline.clone(), options.clone());
        let (meter, clock, halt) = (meter.clone(), clock.clone(), halt.clone());
        let tap = taps.of.get(&pipeline.name).cloned();
        running.spawn(async move {
            let outcome = land(lake, &settings, pipeline.clone(), &options, meter, clock, &halt, memory, tap).await;
            (pipeline.name.clone(), outcome)
        });
    }
    let mut report = StreamReport { stopped: false, ..StreamReport::default() };
    while let Some(joined) = running.join_next().await {
        match joined {
            Ok((name, (pipeline, error))) => {
                report.pipelines.insert(name, pipeline);
                if let Some(error) = error {
                    report.error.get_or_insert(error);
                }
            }
            Err(error) => {
                let error = Error::new(Stage::Land, Class::Internal, "a landing task ended abnormally").because(error);
                report.error.get_or_insert(error);
            }
        }
        if report.error.is_some() && !options.until_caught_up {
            halt.cancel();
        }
    }
    report.stopped = stop.is_cancelled();
    report
}

#[expect(clippy::too_many_arguments, reason = "the parts of one run, named once, where it is spawned")]
async fn land(
    lake: Lake,
    settings: &Settings,
    pipeline: Arc<Pipeline>,
    options: &StreamOptions,
    meter: Arc<Meter>,
    clock: Clock,
    stop: &CancellationToken,
    memory: usize,
    tap: Option<Arc<dyn Tap>>,
) -> (PipelineReport, Option<Error>) {
    match Parts::open(lake, settings, &pipeline, options, &clock, memory).await {
        Ok(parts) => {
            let raw = parts.raw.clone();
            let (totals, error) = parts.run(options, meter, clock, stop, memory, tap).await;
            (report(&pipeline, &totals, &*raw.lock().await), error)
        }
        Err(error) => (PipelineReport::default(), Some(error)),
    }
}

fn report(pipeline: &Pipeline, totals: &Totals, raw: &Table) -> PipelineReport {
    let progress = AppIds::new(&pipeline.name).read(&pipeline.topic, raw.txns());
    let lateness_ms = i64::try_from(pipeline.lateness.as_millis()).unwrap_or(i64::MAX);
    PipelineReport {
        landed: totals.landed,
        rejected: totals.rejected,
        skipped: totals.skipped,
        gaps: totals.gaps,
        first: totals.first.clone(),
        next: if totals.next.is_empty() {
            progress.nexts().into_iter().map(|(p, next)| (p, next.0)).collect()
        } else {
            totals.next.clone()
        },
        version: Some(raw.version()),
        valid_through: valid_through_ms(&progress, lateness_ms)
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
            .map(|t| t.to_string()),
    }
}

/// Everything opened for one pipeline, before anything runs.
struct Parts {
    pipeline: Arc<Pipeline>,
    raw: Arc<Mutex<Table>>,
    rejects: RejectsTable,
    lake: Lake,
    source: Source,
    monitor: Monitor,
    takeover: Takeover,
    decoders: Vec<Box<dyn decode::Decoder>>,
}

impl Parts {
    /// Opens tables first: a contract that the table cannot hold is refused before a message is read.
    async fn open(
        lake: Lake,
        settings: &Settings,
        pipeline: &Arc<Pipeline>,
        options: &StreamOptions,
        clock: &Clock,
        memory: usize,
    ) -> Result<Self> {
        let raw = Arc::new(Mutex::new(lake.ensure_table(&tables::raw_table(pipeline)).await?));
        let rejects = lake.ensure_table(&tables::rejects_table(pipeline)).await?;
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1).max(1));
        let decoders = (0..workers).map(|_| decode::decoder(pipeline)).collect::<Result<_>>()?;
        let watermarks = Arc::new(Watermarks::open(&settings.kafka)?);
        let takeover = Takeover::begin(pipeline.clone(), options.clone(), raw.clone(), watermarks.clone(), clock)?;
        let monitor = Monitor::start(watermarks, &pipeline.topic, MONITOR_EVERY, clock.as_fn())?;
        let mode = match &options.partitions {
            Some(partitions) => Mode::Manual { group: pipeline.group.clone(), partitions: partitions.clone() },
            None => Mode::Group { group: pipeline.group.clone() },
        };
        let source = Source::open(
            &settings.kafka,
            &pipeline.topic,
            mode,
            memory / QUEUE_SHARE,
            tables::wants_headers(pipeline),
        )?;
        let rejects = RejectsTable::new(rejects, tables::rejects_profile());
        Ok(Self { pipeline: pipeline.clone(), raw, rejects, lake, source, monitor, takeover, decoders })
    }

    /// Spawns reader, workers and committer, and waits for all of them.
    async fn run(
        self,
        options: &StreamOptions,
        meter: Arc<Meter>,
        clock: Clock,
        stop: &CancellationToken,
        memory: usize,
        tap: Option<Arc<dyn Tap>>,
    ) -> (Totals, Option<Error>) {
        let (outcomes_in, outcomes) = crossbeam_channel::unbounded();
        let (used_in, used) = crossbeam_channel::bounded(16);
        let (parts_in, parts) = mpsc::unbounded_channel::<Flush>();
        let workers = self.decoders.len();
        let share = tap.clone().map(|tap| Share { tap, among: workers });
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for (n, decoder) in self.decoders.into_iter().enumerate() {
            let (queue, items) = crossbeam_channel::unbounded::<Item>();
            queues.push(queue);
            let worker = Worker::new(self.pipeline.clone(), decoder, share.clone());
            let (used_in, parts_in, failed) = (used_in.clone(), parts_in.clone(), outcomes_in.clone());
            threads.push(spawn(format!("decode-{n}"), move || {
                if let Err(error) = worker.run(&items, &used_in, &parts_in) {
                    let _ = failed.send(Outcome::Failed(error));
                }
            }));
        }
        drop((used_in, parts_in));
        let committer = Committer {
            pipeline: self.pipeline.clone(),
            options: options.clone(),
            raw: self.raw,
            rejects: self.rejects,
            lake: self.lake,
            meter: meter.clone(),
            clock: clock.clone(),
            workers,
            partition_count: self.takeover.partition_count.clone(),
            tap,
            copied: None,
        };
        let committer = tokio::spawn(committer.run(parts, outcomes_in));
        let wiring = Wiring { workers: queues, used, outcomes, stop: stop.clone() };
        let reader = Reader::new(
            self.pipeline,
            options.clone(),
            self.source,
            self.monitor,
            self.takeover,
            tokio::runtime::Handle::current(),
            wiring,
            meter,
            clock,
            (memory / OUTSTANDING_SHARE) as u64,
        );
        let ended = join(spawn("read".to_owned(), move || reader.run())).await;
        for thread in threads {
            if let Err(error) = join(thread).await {
                tracing::error!(%error, "a decoding thread ended abnormally");
            }
        }
        let totals = committer.await.unwrap_or_default();
        match ended.and_then(|ended: Result<Ended>| ended) {
            Ok(_) => (totals, None),
            Err(error) => (totals, Some(error)),
        }
    }
}

fn spawn<T: Send + 'static>(name: String, run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(run)
        .map_err(|e| Error::new(Stage::Land, Class::Outside, format!("thread `{name}` cannot be started")).because(e))
}

/// Waits for a thread without blocking the runtime.
async fn join<T: Send + 'static>(thread: Result<JoinHandle<T>>) -> Result<T> {
    let thread = thread?;
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    match joined {
        Ok(Ok(value)) => Ok(value),
        _ => Err(Error::new(Stage::Land, Class::Internal, "a landing thread ended abnormally")),
    }
}

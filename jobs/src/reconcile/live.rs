//! Reconcile within a stream: a pass every `served.every`, and a last one at its end.
//!
//! One thread for the aggregates of all its pipelines. Invariant L1: landing and speed wait for nothing here, and
//! nothing that fails here stops them: the next pass does what this one did not.

use super::run::{ReconcileOptions, ReconcileReport, Reconciler, UnitCounts, WindowCounts};
use crate::error::{Error, Result};
use crate::lake::Lake;
use crate::project::settings::{Pipeline, Settings};
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Share of the memory budget for one pass.
const MEMORY_SHARE: usize = 4;
/// How long the last pass may take once the run is told to end.
const DRAIN: Duration = Duration::from_secs(2);

/// What a stream's passes did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LiveReport {
    /// Passes that came to their end.
    pub passes: u64,
    /// Passes that did not.
    pub failures: u64,
    /// Why the last one did not; `None` while all is well.
    pub why: Option<String>,
    /// Units of all passes.
    pub units: UnitCounts,
    /// Rows of all passes.
    pub windows: WindowCounts,
}

/// The report of passes that go on.
#[derive(Debug, Clone, Default)]
pub struct LiveStatus(Arc<Mutex<LiveReport>>);

/// The reconciles of a stream that runs.
#[derive(Debug)]
pub struct Live {
    thread: Option<JoinHandle<()>>,
    status: LiveStatus,
    /// The run is told to end.
    stop: CancellationToken,
    /// One more pass, and the thread is to end.
    closing: CancellationToken,
    /// The thread is to end.
    halt: CancellationToken,
}

impl LiveStatus {
    /// What there is to say by now.
    #[must_use]
    pub fn report(&self) -> LiveReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self, pass: Result<ReconcileReport, Error>) {
        let mut report = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match pass {
            Ok(pass) => {
                report.units.add(pass.units);
                report.windows.add(pass.windows);
                pass.error
            }
            Err(error) => Some(error),
        };
        match &why {
            None => report.passes += 1,
            Some(error) => {
                report.failures += 1;
                tracing::warn!(%error, "reconcile failed, and is tried again: served windows stay as they are");
            }
        }
        report.why = why.map(|error| error.to_string());
    }
}

impl Live {
    /// Begins for the aggregates of `pipelines`, if the project asks for it; what is wrong is told in the report.
    #[must_use]
    pub fn start(settings: &Settings, pipelines: &[Arc<Pipeline>], run_id: &str, stop: &CancellationToken) -> Self {
        match Lake::open(&settings.lake) {
            Ok(lake) => Self::start_on(&lake, settings, pipelines, run_id, stop),
            // landing will say so
            Err(_) => Self::none(stop),
        }
    }

    /// The same, on a lake that is open.
    #[must_use]
    pub fn start_on(
        lake: &Lake,
        settings: &Settings,
        pipelines: &[Arc<Pipeline>],
        run_id: &str,
        stop: &CancellationToken,
    ) -> Self {
        let mut live = Self::none(stop);
        let of = |name: &String| pipelines.iter().any(|pipeline| pipeline.name == *name);
        let names: Vec<String> = settings.aggregates.iter().filter(|a| of(&a.from)).map(|a| a.name.clone()).collect();
        let Some(every) = settings.served_every.filter(|_| !names.is_empty()) else { return live };
        let options = ReconcileOptions {
            run_id: format!("{run_id}-reconcile"),
            aggregates: names,
            parallel: 1,
            accept_drift: false,
        };
        let task = Task {
            lake: lake.clone(),
            settings: Settings { memory_bytes: settings.memory_bytes / MEMORY_SHARE, ..settings.clone() },
            options,
            every,
            status: live.status.clone(),
            closing: live.closing.clone(),
            halt: live.halt.clone(),
        };
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new().name("reconcile".to_owned());
        match thread.spawn(move || runtime.block_on(task.run())) {
            Ok(thread) => live.thread = Some(thread),
            Err(error) => tracing::warn!(%error, "reconcile cannot begin beside landing"),
        }
        live
    }

    fn none(stop: &CancellationToken) -> Self {
        let (closing, halt) = (CancellationToken::new(), CancellationToken::new());
        Self { thread: None, status: LiveStatus::default(), stop: stop.clone(), closing, halt }
    }

    /// How it does.
    #[must_use]
    pub fn status(&self) -> LiveStatus {
        self.status.clone()
    }

    /// Ends with one more pass, once landing and speed have ended; a run that was told to end waits a moment only.
    /// `None` if there was nothing to do for it.
    pub async fn end(self) -> Option<LiveReport> {
        let thread = self.thread?;
        self.closing.cancel();
        let hurry = async {
            self.stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
            self.halt.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = tokio::task::spawn_blocking(move || thread.join()) => {
                if !matches!(ended, Ok(Ok(()))) {
                    tracing::warn!("the thread of reconcile ended abnormally");
                }
            }
            () = hurry => {}
        }
        Some(self.status.report())
    }
}

/// What the thread has.
struct Task {
    lake: Lake,
    settings: Settings,
    options: ReconcileOptions,
    every: Duration,
    status: LiveStatus,
    closing: CancellationToken,
    halt: CancellationToken,
}

impl Task {
    async fn run(self) {
        let mut reconciler = None;
        loop {
            let is_last = tokio::select! {
                biased;
                () = self.closing.cancelled() => true,
                () = tokio::time::sleep(self.every) => false,
            };
            let pass = tokio::select! {
                biased;
                () = self.halt.cancelled() => return,
                pass = self.pass(&mut reconciler) => pass,
            };
            self.status.take(pass);
            if is_last {
                return;
            }
        }
    }

    async fn pass(&self, reconciler: &mut Option<Reconciler>) -> Result<ReconcileReport> {
        let reconciler = match reconciler {
            Some(reconciler) => reconciler,
            None => reconciler.insert(Reconciler::new(&self.settings, &self.options).await?),
        };
        Ok(reconciler.pass(&self.lake, &self.halt).await)
    }
}

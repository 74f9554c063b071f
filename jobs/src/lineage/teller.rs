//! Delivers events beside the job: a bounded queue, and one task that empties it.
//!
//! Invariants: T1 [`Teller::tell`] never waits; T2 [`Teller::end`] waits at most its deadline; T3 every event is either
//! delivered or counted as dropped; T4 whatever goes wrong, there is one warning.

use super::event::RunEvent;
use super::file::Lines;
use super::http::Poster;
use crate::project::settings::Destination;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Events that wait for delivery.
const QUEUE_MAX: usize = 256;
/// Times that an event is tried, while the other side is not known to be away.
const TRIES: u32 = 3;
/// Pause before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(200);

/// What became of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Delivered.
    pub told: u64,
    /// Given up.
    pub dropped: u64,
}

/// Why an event was not taken.
#[derive(Debug)]
pub(super) struct Refused {
    /// In words without secrets.
    pub(super) why: String,
    /// Whether another try can help.
    pub(super) retry: bool,
}

/// Delivers events.
#[derive(Debug)]
pub struct Teller {
    /// Taken at the end.
    running: Mutex<Option<(mpsc::Sender<String>, JoinHandle<()>)>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    given: AtomicU64,
    told: AtomicU64,
    warned: AtomicBool,
}

/// Where events go.
#[derive(Debug)]
enum Edge {
    Http(Poster),
    File(Lines),
    /// Nothing can be delivered, and why.
    Nowhere(String),
}

impl Teller {
    /// Starts the task; must be called inside the runtime.
    #[must_use]
    pub fn start(to: &Destination) -> Self {
        let shared = Arc::new(Shared::default());
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        let task = tokio::spawn(deliver(to.clone(), events, shared.clone()));
        Self { running: Mutex::new(Some((queue, task))), shared }
    }

    /// Queues an event; drops it where the queue is full or at its end.
    pub fn tell(&self, event: &RunEvent) {
        self.shared.given.fetch_add(1, Relaxed);
        let Ok(line) = serde_json::to_string(event) else { return };
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let queued = running.as_ref().map(|(queue, _)| queue.try_send(line).is_ok());
        if queued != Some(true) {
            self.shared.drop_one("too many events wait for delivery");
        }
    }

    /// Waits until all events are delivered or given up, at most until the deadline; the rest is dropped.
    pub async fn end(&self, deadline: Duration) -> Counts {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((queue, mut task)) = running {
            drop(queue);
            if tokio::time::timeout(deadline, &mut task).await.is_err() {
                task.abort();
            }
        }
        let counts = self.counts();
        if counts.dropped > 0 {
            self.shared.warn("the other side did not answer in time");
            tracing::debug!(told = counts.told, dropped = counts.dropped, "lineage is incomplete");
        }
        counts
    }

    /// What became of events so far; those that still wait count as dropped.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let told = self.shared.told.load(Relaxed);
        Counts { told, dropped: self.shared.given.load(Relaxed).saturating_sub(told) }
    }
}

impl Shared {
    fn drop_one(&self, why: &str) {
        metrics::counter!("deltaworks_lineage_dropped_total").increment(1);
        self.warn(why);
    }

    fn warn(&self, why: &str) {
        if !self.warned.swap(true, Relaxed) {
            tracing::warn!(why, "lineage events are dropped; the job goes on");
        }
    }
}

async fn deliver(to: Destination, mut events: mpsc::Receiver<String>, shared: Arc<Shared>) {
    // reads the certificates of the machine, for which no job has to wait
    let edge = Edge::to(&to);
    let mut away = false;
    while let Some(event) = events.recv().await {
        let tries = if away { 1 } else { TRIES };
        match edge.tried(&event, tries).await {
            Ok(()) => {
                away = false;
                shared.told.fetch_add(1, Relaxed);
            }
            Err(why) => {
                away = true;
                shared.drop_one(&why);
            }
        }
    }
}

impl Edge {
    fn to(destination: &Destination) -> Self {
        match destination {
            Destination::Http { url, headers } => Poster::new(url, headers).map_or_else(Self::Nowhere, Self::Http),
            Destination::File(path) => Self::File(Lines::new(path)),
        }
    }

    async fn tried(&self, event: &str, tries: u32) -> Result<(), String> {
        let mut last = String::new();
        for n in 0..tries {
            if n > 0 {
                tokio::time::sleep(PAUSE * 2_u32.pow(n - 1)).await;
            }
            match self.once(event).await {
                Ok(()) => return Ok(()),
                Err(Refused { why, retry: false }) => return Err(why),
                Err(Refused { why, .. }) => last = why,
            }
        }
        Err(last)
    }

    async fn once(&self, event: &str) -> Result<(), Refused> {
        match self {
            Self::Http(poster) => poster.post(event).await,
            Self::File(lines) => lines.append(event).await,
            Self::Nowhere(why) => Err(Refused { why: why.clone(), retry: false }),
        }
    }
}

//! SIGINT and SIGTERM: the first asks the run to drain, the second ends the process.

use deltaworks_jobs::{Class, Error, Result, Stage};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Listens for signals.
#[derive(Debug, Clone)]
pub struct Signals {
    /// Cancelled at the first signal.
    pub stop: CancellationToken,
    seen: Arc<AtomicU8>,
}

impl Signals {
    /// Starts listening for a job of `stage`; must be called inside the runtime.
    pub fn listen(stage: Stage) -> Result<Self> {
        let deaf = |e: std::io::Error| Error::new(stage, Class::Outside, "signals cannot be heard").because(e);
        let signals = Self { stop: CancellationToken::new(), seen: Arc::default() };
        let mut int = signal(SignalKind::interrupt()).map_err(deaf)?;
        let mut term = signal(SignalKind::terminate()).map_err(deaf)?;
        let heard = signals.clone();
        tokio::spawn(async move {
            loop {
                let code = tokio::select! { _ = int.recv() => 130, _ = term.recv() => 143 };
                if heard.seen.swap(code, Relaxed) != 0 {
                    std::process::exit(i32::from(code));
                }
                tracing::info!("draining: a second signal ends at once, and loses nothing either");
                heard.stop.cancel();
            }
        });
        Ok(signals)
    }

    /// How the process ends because of a signal, if one came.
    pub fn class(&self) -> Option<Class> {
        match self.seen.load(Relaxed) {
            130 => Some(Class::Interrupted),
            143 => Some(Class::Terminated),
            _ => None,
        }
    }
}

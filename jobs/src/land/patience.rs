//! How long a commit is tried again while the store or another writer is in the way.

use super::options::StreamOptions;
use crate::error::{Error, Result};
use std::time::{Duration, Instant};

/// First and longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long to go on trying while the store or another writer is in the way.
pub struct Patience {
    until: Option<Instant>,
    pause: Duration,
}

impl Patience {
    /// Unbounded runs never give up; bounded ones do after a while.
    pub fn new(options: &StreamOptions) -> Self {
        let until = options.until_caught_up.then(|| Instant::now() + options.give_up_after);
        Self { until, pause: PAUSES.0 }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// Gives `error` back if it is none that a retry can help, or if patience is at its end.
    pub async fn pause(&mut self, error: Error) -> Result<()> {
        if !error.class.retryable() || self.until.is_some_and(|until| Instant::now() + self.pause > until) {
            return Err(error);
        }
        tracing::warn!(error = error.told(), pause_ms = self.pause.as_millis() as u64, "trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        Ok(())
    }
}

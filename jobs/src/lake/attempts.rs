//! How often one commit is tried, and how long to wait in between.
//!
//! Invariant A1: nothing is retried blind: whoever waited here loads the log anew and compares before it tries again.

use super::CommitOutcome;
use crate::error::{Class, Error, Result, Stage};
use std::time::Duration;

/// Times that a commit is tried.
const ATTEMPTS_MAX: u32 = 20;
/// First pause between attempts; it doubles up to 64-fold.
const PAUSE: Duration = Duration::from_millis(20);

/// Pauses between attempts at one commit, and the error when they are used up.
#[derive(Debug)]
pub struct Attempts {
    left: u32,
    stage: Stage,
    error: Error,
}

impl Attempts {
    /// Attempts at changing `what`, such as "table `speed.x`", for a stage.
    #[must_use]
    pub fn new(stage: Stage, what: impl std::fmt::Display) -> Self {
        let message = format!("{what}: others keep committing first");
        Self { left: ATTEMPTS_MAX, stage, error: Error::new(stage, Class::Overlap, message) }
    }

    /// Waits after an outcome that was no commit.
    ///
    /// # Errors
    /// The commit is surely refused, or was tried too often.
    pub async fn after(&mut self, outcome: CommitOutcome) -> Result<()> {
        match outcome {
            CommitOutcome::Failed(error) => return Err(error),
            CommitOutcome::Unknown(error) => self.error = error,
            CommitOutcome::Committed(_) | CommitOutcome::Conflicted => {}
        }
        self.left -= 1;
        if self.left == 0 {
            let spent = Error::new(self.stage, self.error.class, self.error.message.clone());
            return Err(std::mem::replace(&mut self.error, spent));
        }
        tokio::time::sleep(PAUSE * 2_u32.pow((ATTEMPTS_MAX - self.left).min(6))).await;
        Ok(())
    }
}

//! How speed does in a stream: for its result, the metrics and the log.

use super::rows::Counts;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

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

impl Status {
    /// A copy.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<String, SpeedReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change(&self, aggregate: &str, change: impl FnOnce(&mut SpeedReport)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(aggregate.to_owned()).or_default());
    }

    /// Says that an aggregate has failed; told once, until it is well again.
    pub(super) fn degrade(&self, aggregate: &str, why: String) {
        self.change(aggregate, |report| {
            if report.health != Health::Degraded {
                report.failures += 1;
                tracing::warn!(
                    aggregate,
                    error = why,
                    "speed is degraded: windows are shown late until it is caught up"
                );
            }
            report.health = Health::Degraded;
            report.why = Some(why);
        });
    }
}

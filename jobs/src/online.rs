//! `check --online`: is everything there that the project needs, before a job needs it?

use crate::error::{Class, Error, Result, Stage};
use crate::kafka::watermarks::Watermarks;
use crate::lake::Lake;
use crate::project::settings::{Pipeline, Settings};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// Clocks further apart than this make `event_time_in_future` and log clean-up unreliable, ms.
const SKEW_MS_MAX: i64 = 30_000;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// What was found, where it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What is wrong, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrong: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(skip)]
    class: Option<Class>,
}

impl Finding {
    fn of(what: impl Into<String>, found: Result<String>) -> Self {
        let what = what.into();
        match found {
            Ok(found) => Self { what, found: Some(found), wrong: None, hint: None, class: None },
            Err(error) => {
                Self { what, found: None, wrong: Some(error.told()), hint: error.hint, class: Some(error.class) }
            }
        }
    }

    /// The class of what is wrong; `None` where all is well.
    #[must_use]
    pub const fn class(&self) -> Option<Class> {
        self.class
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.found, &self.wrong) {
            (Some(found), _) => write!(f, "ok  {}: {found}", self.what),
            (None, wrong) => {
                write!(f, "bad {}: {}", self.what, wrong.as_deref().unwrap_or_default())?;
                self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n  hint: {hint}"))
            }
        }
    }
}

/// Looks at broker, topics and store; one finding for each, whatever the others say.
pub async fn check(settings: &Settings) -> Vec<Finding> {
    let mut findings = kafka(settings);
    findings.extend(store(settings).await);
    findings
}

fn kafka(settings: &Settings) -> Vec<Finding> {
    let watermarks = match Watermarks::open(&settings.kafka) {
        Ok(watermarks) => watermarks,
        Err(error) => return vec![Finding::of("broker", Err(error))],
    };
    let topics: BTreeSet<&str> =
        settings.pipelines.iter().map(|p: &std::sync::Arc<Pipeline>| p.topic.as_str()).collect();
    topics
        .into_iter()
        .map(|topic| {
            let found = watermarks.partition_count(topic).map(|n| format!("{n} partitions"));
            Finding::of(format!("topic `{topic}`"), found)
        })
        .collect()
}

async fn store(settings: &Settings) -> Vec<Finding> {
    let report = match Lake::open(&settings.lake) {
        Ok(lake) => lake.check_store().await,
        Err(error) => Err(error),
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => return vec![Finding::of(format!("store `{}`", settings.lake.url), Err(error))],
    };
    let skew_ms = report.clock_skew_ms;
    let skew = if skew_ms.abs() > SKEW_MS_MAX {
        let message = format!("the store's clock differs by {skew_ms} ms, at most {SKEW_MS_MAX} ms are well");
        Err(Error::new(Stage::Lake, Class::Outside, message).hint("synchronise the clocks, for example by NTP"))
    } else {
        Ok(format!("within {} ms", skew_ms.abs()))
    };
    vec![
        Finding::of(format!("store `{}`", settings.lake.url), Ok("writable, honours conditional put".to_owned())),
        Finding::of("clock of the store", skew),
    ]
}

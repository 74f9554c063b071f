//! All checks of the pipelines and aggregates that were asked for.

use super::broker::broker;
use super::landed::landed;
use super::report::{Check, Checking, Verdict};
use super::served::served;
use super::windows::windows;
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use crate::project::settings::{AggregateFile, Pipeline, Settings};
use deltaworks_core::units::Interval;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct ProveOptions {
    /// Pipelines and aggregates; empty for all. An aggregate brings its pipeline along.
    pub names: Vec<String>,
    /// Leave the broker alone.
    pub offline: bool,
    /// Only units that have windows ending in it; raw is proved whole all the same.
    pub interval: Interval,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct ProveReport {
    /// Every check.
    pub checks: Vec<Check>,
    /// How much was compared by all of them.
    pub compared: BTreeMap<&'static str, u64>,
    /// How many checks were refuted.
    pub refuted: u64,
    /// What was not proved, and why.
    pub not_proved: Vec<String>,
}

impl ProveReport {
    fn add(&mut self, check: Check) {
        for (what, count) in &check.compared {
            *self.compared.entry(what).or_default() += count;
        }
        match check.verdict {
            Verdict::Proved => {}
            Verdict::Refuted => self.refuted += 1,
            Verdict::NotProved => {
                let why = check.why.as_deref().unwrap_or_default();
                self.not_proved.push(format!("{} of {}: {why}", check.check, check.of));
            }
        }
        self.checks.push(check);
    }

    /// The error of a report in which something is refuted: the first counter-examples.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        let refuted = self.checks.iter().filter(|c| c.verdict == Verdict::Refuted);
        let first: Vec<String> = refuted
            .filter_map(|c| Some(format!("{} of {}: {} ({} in all)", c.check, c.of, c.examples.first()?, c.found)))
            .collect();
        (!first.is_empty()).then(|| {
            Error::new(Stage::Prove, Class::Limit, first.join("; "))
                .hint("the lake was changed from outside, or this is a bug: nothing was mended")
        })
    }
}

/// Carries out every check; what is refuted is in the report and no error.
///
/// # Errors
/// A name is not known; a table or the broker cannot be read.
pub async fn prove(settings: &Settings, options: &ProveOptions, clock: &Clock) -> Result<ProveReport> {
    prove_on(&Lake::open(&settings.lake)?, settings, options, clock).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`prove`].
pub async fn prove_on(lake: &Lake, settings: &Settings, options: &ProveOptions, clock: &Clock) -> Result<ProveReport> {
    let (pipelines, aggregates) = chosen(settings, &options.names)?;
    let mut report = ProveReport::default();
    for pipeline in pipelines {
        let (checks, found) = landed(lake, &pipeline).await?;
        checks.into_iter().for_each(|check| report.add(check));
        let check = match found {
            None => Checking::new("broker", &pipeline.topic).not_proved("nothing was landed"),
            Some(_) if options.offline => Checking::new("broker", &pipeline.topic).not_proved("offline"),
            Some(found) => {
                let (kafka, now_ms) = (settings.kafka.clone(), clock.now_ms());
                let asked = tokio::task::spawn_blocking(move || broker(&kafka, &pipeline, &found, now_ms));
                let broken = |e| Error::new(Stage::Prove, Class::Internal, "reading the broker broke down").because(e);
                asked.await.map_err(broken)??
            }
        };
        report.add(check);
    }
    for aggregate in aggregates {
        report.add(served(lake, &aggregate, options.interval).await?);
        windows(lake, settings, &aggregate, options.interval).await?.into_iter().for_each(|check| report.add(check));
    }
    Ok(report)
}

/// Pipelines and aggregates.
type Chosen = (Vec<Arc<Pipeline>>, Vec<Arc<AggregateFile>>);

/// What these names stand for.
fn chosen(settings: &Settings, names: &[String]) -> Result<Chosen> {
    if names.is_empty() {
        return Ok((settings.pipelines.clone(), settings.aggregates.clone()));
    }
    let (mut pipelines, mut aggregates) = (Vec::<Arc<Pipeline>>::new(), Vec::new());
    for name in names {
        let aggregate = settings.aggregates.iter().find(|a| a.name == *name);
        let of = aggregate.map_or(name, |a| &a.from);
        let pipeline = settings.pipelines.iter().find(|p| p.name == *of).ok_or_else(|| {
            Error::new(Stage::Prove, Class::User, format!("there is no pipeline or aggregate `{name}`"))
                .hint("deltaworks.yaml names them under `pipelines` and `aggregates`")
        })?;
        if pipelines.iter().all(|p| p.name != pipeline.name) {
            pipelines.push(pipeline.clone());
        }
        aggregates.extend(aggregate.cloned());
    }
    Ok((pipelines, aggregates))
}

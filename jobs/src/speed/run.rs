//! `speed catch-up` and `speed rebuild`: the aggregates they are about, one after the other.

use super::catch_up::{Ask, CaughtUp, Planned, Work, bring_up, look};
use crate::batch::{Engine, Run};
use crate::engine::aggregate::{Definition, Source};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use crate::project::Report;
use crate::project::settings::{AggregateFile, Settings};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Share of the memory budget for states that wait for their file.
pub(super) const HELD_SHARE: usize = 4;

/// What a run is asked for.
#[derive(Debug, Clone)]
pub struct SpeedOptions {
    /// Id of the run.
    pub run_id: String,
    /// Aggregates; empty for all that have speed.
    pub aggregates: Vec<String>,
    /// Make everything anew.
    pub rebuild: bool,
    /// Threads' worth of work at a time.
    pub parallel: usize,
}

/// What a run did, also where it failed.
#[derive(Debug, Default, Serialize)]
pub struct VerbReport {
    /// Per aggregate.
    pub aggregates: BTreeMap<String, CaughtUp>,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

impl VerbReport {
    /// Whether no table needed anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.error.is_none() && self.aggregates.values().all(|done| done.offsets == 0 && done.anew.is_none())
    }
}

/// Brings speed tables up to raw.
pub async fn run(settings: &Settings, options: &SpeedOptions, stop: &CancellationToken) -> VerbReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => run_on(&lake, settings, options, stop).await,
        Err(error) => VerbReport { error: Some(error), ..VerbReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn run_on(lake: &Lake, settings: &Settings, options: &SpeedOptions, stop: &CancellationToken) -> VerbReport {
    let mut report = VerbReport::default();
    let works = match works(lake, settings, options).await {
        Ok(works) => works,
        Err(error) => return VerbReport { error: Some(error), ..report },
    };
    for work in works {
        let name = work.definition.name.clone();
        let brought = tokio::select! {
            brought = bring(&work, ask(options)) => brought,
            () = stop.cancelled() => {
                report.stopped = true;
                return report;
            }
        };
        match brought {
            Ok(done) => {
                tracing::info!(aggregate = name, offsets = done.offsets, anew = ?done.anew, "speed is up to raw");
                report.aggregates.insert(name, done);
            }
            Err(error) => {
                let class = if report.aggregates.is_empty() || error.class != Class::Outside {
                    error.class
                } else {
                    Class::Partly
                };
                report.error = Some(Error { class, ..error });
                return report;
            }
        }
    }
    report
}

/// Plans, and does nothing.
///
/// # Errors
/// An aggregate is wrong or has no speed, or a table cannot be read.
pub async fn plan_only(settings: &Settings, options: &SpeedOptions) -> Result<BTreeMap<String, Option<Planned>>> {
    let lake = Lake::open(&settings.lake)?;
    let mut plans = BTreeMap::new();
    for work in works(&lake, settings, options).await? {
        plans.insert(work.definition.name.clone(), look(&work, ask(options)).await?);
    }
    Ok(plans)
}

const fn ask(options: &SpeedOptions) -> Ask {
    if options.rebuild { Ask::Rebuild } else { Ask::CatchUp }
}

/// A table that cannot be read at all is dropped first, where it is made anew anyway.
async fn bring(work: &Work, ask: Ask) -> Result<CaughtUp> {
    let done = match bring_up(work, ask).await {
        Err(error) if ask == Ask::Rebuild && error.class == Class::Internal => {
            tracing::warn!(aggregate = %work.definition.name, %error, "the speed table cannot be read: it is dropped");
            work.lake.drop_table(&super::speed_name(&work.definition.name)).await?;
            bring_up(work, ask).await?
        }
        done => done?,
    };
    Ok(done.map(|(_, done)| done).unwrap_or_default())
}

async fn works(lake: &Lake, settings: &Settings, options: &SpeedOptions) -> Result<Vec<Work>> {
    let files = select(settings, &options.aggregates)?;
    let engine = Engine::start(settings, options.parallel).await?;
    let run = Run::new(options.run_id.clone());
    let (mut works, mut wrong) = (Vec::new(), Vec::new());
    for file in files {
        let Some(pipeline) = settings.pipelines.iter().find(|p| p.name == file.from) else { continue };
        match Definition::new(&file, &Source::of(pipeline), &engine.lookups, &engine.session).await {
            Ok(definition) => works.push(Work {
                lake: lake.clone(),
                pipeline: Arc::clone(pipeline),
                definition: Arc::new(definition),
                run: run.clone(),
                held_bytes_max: settings.memory_bytes / HELD_SHARE,
            }),
            Err(found) => wrong.extend(found),
        }
    }
    if wrong.is_empty() { Ok(works) } else { Err(Report::new(wrong).into()) }
}

fn select(settings: &Settings, names: &[String]) -> Result<Vec<Arc<AggregateFile>>> {
    let user = |message: String| Error::new(Stage::Speed, Class::User, message);
    let known = || settings.aggregates.iter().map(|a| format!("`{}`", a.name)).collect::<Vec<_>>().join(", ");
    if settings.aggregates.is_empty() {
        return Err(user("the project has no aggregates".into()).hint("name their files under `aggregates`"));
    }
    if names.is_empty() {
        return Ok(settings.aggregates.iter().filter(|a| a.speed).cloned().collect());
    }
    names
        .iter()
        .map(|name| {
            let file = settings.aggregates.iter().find(|a| a.name == *name).cloned();
            let unknown =
                || user(format!("there is no aggregate `{name}`")).hint(format!("deltaworks.yaml has {}", known()));
            let file = file.ok_or_else(unknown)?;
            if !file.speed {
                return Err(user(format!("the aggregate `{name}` has no speed table"))
                    .hint(format!("its header says `speed: false`: take that out of `{}`", file.path.display())));
            }
            Ok(file)
        })
        .collect()
}

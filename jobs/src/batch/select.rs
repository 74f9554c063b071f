//! The aggregates that a run is about, read, judged and put together by pipeline.

use super::plan::Aggregate;
use super::run::BatchOptions;
use crate::engine::aggregate::{Definition, Limits, Lookups, Session, Source};
use crate::error::{Class, Error, Result, Stage};
use crate::project::Report;
use crate::project::settings::{AggregateFile, Pipeline, Settings};
use deltaworks_core::windows::Granularity;
use std::sync::Arc;

/// Share of the memory budget for hash tables, sorts and join sides; ids have the other. Files and batches that are read
/// and written come on top.
const ENGINE_SHARE: usize = 2;

/// A pipeline and the selected aggregates of it.
pub struct Job {
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// Its aggregates.
    pub aggregates: Vec<Aggregate>,
    /// What their definitions were made in.
    pub engine: Arc<Engine>,
}

/// What definitions are made and computed in.
#[derive(Debug)]
pub struct Engine {
    /// Plans and runs them.
    pub session: Session,
    /// The tables that they may join.
    pub lookups: Lookups,
}

impl Engine {
    /// A session with its share of the memory budget, and the project's lookups.
    ///
    /// # Errors
    /// [`Class::User`] if a lookup is wrong.
    pub async fn start(settings: &Settings, parallel: usize) -> Result<Self> {
        let memory_bytes = settings.memory_bytes / ENGINE_SHARE;
        let session = Session::new(&Limits { memory_bytes, parallel })?;
        let lookups = Lookups::load(settings, &session).await.map_err(|found| Error::from(Report::new(found)))?;
        Ok(Self { session, lookups })
    }
}

/// The selected aggregates, by pipeline.
///
/// # Errors
/// [`Class::User`] if a name is unknown or an aggregate's SELECT is wrong.
pub async fn jobs(settings: &Settings, options: &BatchOptions) -> Result<Vec<Job>> {
    let jobs = jobs_of(settings, &options.aggregates, options.parallel, Stage::Batch).await?;
    let definitions = jobs.iter().flat_map(|job| &job.aggregates).map(|a| &a.definition);
    judge_granularities(&options.granularities, definitions)?;
    if options.input_version.is_some() && jobs.len() > 1 {
        let message = "one version cannot be that of several raw tables";
        return Err(Error::new(Stage::Batch, Class::User, message).hint("name aggregates of one pipeline"));
    }
    Ok(jobs)
}

/// The aggregates of these names, or all, by pipeline, for a job of `stage`.
///
/// # Errors
/// [`Class::User`] if a name is unknown or an aggregate's SELECT is wrong.
pub async fn jobs_of(settings: &Settings, names: &[String], parallel: usize, stage: Stage) -> Result<Vec<Job>> {
    let files = select(settings, names, stage)?;
    let engine = Arc::new(Engine::start(settings, parallel).await?);
    let mut jobs: Vec<Job> = Vec::new();
    let mut wrong = Vec::new();
    for file in files {
        let Some(pipeline) = settings.pipelines.iter().find(|p| p.name == file.from) else { continue };
        let definition = match Definition::new(&file, &Source::of(pipeline), &engine.lookups, &engine.session).await {
            Ok(definition) => definition,
            Err(found) => {
                wrong.extend(found);
                continue;
            }
        };
        let aggregate = Aggregate { file, definition };
        match jobs.iter_mut().find(|job| job.pipeline.name == pipeline.name) {
            Some(job) => job.aggregates.push(aggregate),
            None => {
                let (pipeline, engine) = (Arc::clone(pipeline), Arc::clone(&engine));
                jobs.push(Job { pipeline, aggregates: vec![aggregate], engine });
            }
        }
    }
    if wrong.is_empty() { Ok(jobs) } else { Err(Report::new(wrong).into()) }
}

/// Refuses sizes that none of the aggregates has.
///
/// # Errors
/// [`Class::User`] for the first of these.
pub fn judge_granularities<'d>(
    asked: &[Granularity],
    mut definitions: impl Iterator<Item = &'d Definition> + Clone,
) -> Result<()> {
    let Some(size) = asked.iter().find(|g| !definitions.clone().any(|d| d.granularities.contains(g))) else {
        return Ok(());
    };
    let have: Vec<String> =
        definitions.next().map_or_else(Vec::new, |d| d.granularities.iter().map(ToString::to_string).collect());
    let message = format!("no aggregate has windows of `{size}`");
    Err(Error::new(Stage::Batch, Class::User, message).hint(format!("the first has {}", have.join(", "))))
}

/// The aggregates of these names, or all.
///
/// # Errors
/// [`Class::User`] if a name is unknown, or there are none.
pub fn select(settings: &Settings, names: &[String], stage: Stage) -> Result<Vec<Arc<AggregateFile>>> {
    let known = || settings.aggregates.iter().map(|a| format!("`{}`", a.name)).collect::<Vec<_>>().join(", ");
    let user = |message: String| Error::new(stage, Class::User, message);
    if settings.aggregates.is_empty() {
        return Err(user("the project has no aggregates".into()).hint("name their files under `aggregates`"));
    }
    if names.is_empty() {
        return Ok(settings.aggregates.clone());
    }
    let find = |name: &String| settings.aggregates.iter().find(|a| a.name == *name).cloned();
    let unknown = |name: &String| {
        user(format!("there is no aggregate `{name}`")).hint(format!("deltaworks.yaml has {}", known()))
    };
    names.iter().map(|name| find(name).ok_or_else(|| unknown(name))).collect()
}

//! One file per verb: settings in, a call into the stages, an ending out. No data logic.

mod backfill;
mod batch;
mod check;
mod demo;
pub mod drift;
mod init;
mod offsets;

mod produce;
mod prove;
mod quality;
mod query;
mod reconcile;
mod rejects;
mod removal;
mod reset;
mod run;
mod speed;
mod status;
mod stream;
mod tables;
mod topics;
mod upkeep;

use crate::args::{Args, Backfill, Global, Offsets, RejectsVerb, Tables, Verb};
use crate::ending::Ending;
use crate::lineage::Lineage;
use crate::logging::Screen;
use deltaworks_jobs::project::{
    self,
    settings::{Pipeline, Settings},
};
use deltaworks_jobs::{Class, Error, Result, Stage};
use std::path::PathBuf;
use std::sync::Arc;

/// Carries out what was typed.
pub async fn run(args: &Args, screen: &Screen, lineage: &Lineage) -> Ending {
    let global = &args.global;
    let ending = match &args.verb {
        Verb::Init(verb) => init::run(verb),
        Verb::Check(verb) => check::run(global, verb).await,
        Verb::Demo(verb) => demo::run(verb).await,
        Verb::Produce(verb) => produce::run(global, verb, screen).await,
        Verb::Topics(verb) => topics::run(global, verb).await,
        Verb::Stream(verb) => stream::run(global, verb, screen, lineage).await,
        Verb::Batch(verb) => batch::run(global, verb, screen, lineage).await,
        Verb::Speed(verb) => speed::run(global, verb, lineage).await,
        Verb::Run(verb) => run::run(global, verb, screen, lineage).await,
        Verb::Backfill(verb) => backfill::run(global, verb, screen, lineage).await,
        Verb::Prove(verb) => prove::run(global, verb, lineage).await,
        Verb::Quality(verb) => quality::run(global, verb, lineage).await,
        Verb::Tables(verb) => tables::run(global, verb, screen, lineage).await,
        Verb::Upkeep(verb) => upkeep::run(global, verb, lineage).await,
        Verb::Reconcile(verb) => reconcile::run(global, verb, lineage).await,
        Verb::Drift(verb) => drift::run(global, verb).await,
        Verb::Rejects(verb) => rejects::run(global, verb, lineage).await,
        Verb::Offsets(verb) => offsets::run(global, verb, lineage).await,
        Verb::Query(verb) => query::run(global, verb).await,
        Verb::Status(verb) => status::run(global, verb).await,
        Verb::Reset(verb) => reset::run(global, verb).await,
    };
    let asks = match &args.verb {
        Verb::Drift(_) | Verb::Query(_) | Verb::Status(_) => true,
        Verb::Rejects(verb) => matches!(verb, RejectsVerb::List { .. } | RejectsVerb::Show { .. }),
        Verb::Offsets(verb) => matches!(verb, Offsets::Show { .. } | Offsets::Plan { .. }),
        Verb::Tables(verb) => matches!(verb, Tables::Describe { .. } | Tables::History { .. }),
        Verb::Backfill(verb) => matches!(verb, Backfill::Status { .. } | Backfill::List { .. }),
        Verb::Batch(verb) => verb.try_file.is_some(),
        _ => false,
    };
    match ending {
        Ok(ending) => ending,
        // stdout of a question is its answer, and nothing else
        Err(error) if asks => Ending::done().and_error(Some(error)),
        Err(error) => Ending::from(error),
    }
}

/// Reads the project that the command is about.
fn settings(global: &Global) -> Result<Settings> {
    Ok(project::load(&folder(global)?, &|name| std::env::var(name).ok())?)
}

/// The folder of the project that the command is about.
fn folder(global: &Global) -> Result<PathBuf> {
    if let Some(dir) = &global.project {
        return Ok(dir.clone());
    }
    let here = std::env::current_dir()
        .map_err(|e| Error::new(Stage::Project, Class::User, "the current folder is gone").because(e))?;
    project::find(&here)
}

/// The named pipelines, or all of them.
fn pick(settings: &Settings, names: &[String]) -> Result<Vec<Arc<Pipeline>>> {
    if names.is_empty() {
        return Ok(settings.pipelines.clone());
    }
    names.iter().map(|name| settings.pipeline(name).cloned()).collect()
}

//! `check`: every error of the project at once; with `--online`, broker and store too.

use super::folder;
use crate::args::{Check, Global};
use crate::ending::Ending;
use crate::output;
use deltaworks_jobs::engine::aggregate::{self, Checked};
use deltaworks_jobs::project::{Report, settings::Settings};
use deltaworks_jobs::{Class, Result, online, project, quality};
use serde_json::json;

/// Runs the verb.
pub async fn run(global: &Global, args: &Check) -> Result<Ending> {
    if args.schema {
        output::line(&serde_json::to_string_pretty(&project::json_schema()).unwrap_or_default());
        return Ok(Ending::done());
    }
    let (settings, checked) = project_of(global).await?;
    for pipeline in &settings.pipelines {
        output::talk(&format!(
            "ok  pipeline `{}`: topic `{}`, contract `{}` {}, {} columns{}",
            pipeline.name,
            pipeline.topic,
            pipeline.contract.path.display(),
            pipeline.contract.version,
            pipeline.contract.columns.len(),
            match pipeline.contract.quality.len() {
                0 => String::new(),
                rules => format!(", {rules} quality rules"),
            }
        ));
    }
    for definition in &checked.definitions {
        let windows: Vec<_> = definition.granularities.iter().map(ToString::to_string).collect();
        output::talk(&format!(
            "ok  aggregate `{}`: windows {}, {} columns",
            definition.name,
            windows.join(", "),
            definition.columns.len()
        ));
    }
    for cost in &checked.costs {
        output::talk(&format!("costly  {cost}"));
    }
    let aggregates: Vec<_> = settings.aggregates.iter().map(|a| a.name.clone()).collect();
    let pipelines: Vec<_> = settings.pipelines.iter().map(|p| p.name.clone()).collect();
    if !args.online {
        return Ok(Ending::with(json!({ "status": "done", "pipelines": pipelines, "aggregates": aggregates })));
    }
    let findings = online::check(&settings).await;
    for finding in &findings {
        output::talk(&finding.to_string());
    }
    let result = json!({ "pipelines": pipelines, "aggregates": aggregates, "online": findings });
    Ok(match findings.iter().filter_map(|f| f.class()).max_by_key(|c| (*c == Class::User, c.code())) {
        None => Ending::with(result),
        Some(class) => Ending::classed(class, result),
    })
}

/// The project and its aggregates; every diagnostic of both is in the error.
async fn project_of(global: &Global) -> Result<(Settings, Checked)> {
    let (report, settings) = project::survey(&folder(global)?, &|name| std::env::var(name).ok());
    let Some(settings) = settings else { return Err(report.diagnostics.into()) };
    quality::check(&settings).await?;
    let mut checked = aggregate::check(&settings).await?;
    let errors = report.diagnostics.diagnostics().iter().cloned().chain(std::mem::take(&mut checked.errors));
    let errors = Report::new(errors.collect());
    if errors.is_empty() { Ok((settings, checked)) } else { Err(errors.into()) }
}

//! `check`: every error of the project at once; with `--online`, broker and store too.

use super::settings;
use crate::args::{Check, Global};
use crate::ending::Ending;
use crate::output;
use deltaworks_jobs::{Class, Result, online, project};
use serde_json::json;

/// Runs the verb.
pub async fn run(global: &Global, args: &Check) -> Result<Ending> {
    if args.schema {
        output::line(&serde_json::to_string_pretty(&project::json_schema()).unwrap_or_default());
        return Ok(Ending::done());
    }
    // every diagnostic is in the error
    let settings = settings(global)?;
    for pipeline in &settings.pipelines {
        output::talk(&format!(
            "ok  pipeline `{}`: topic `{}`, contract `{}` {}, {} columns",
            pipeline.name,
            pipeline.topic,
            pipeline.contract.path.display(),
            pipeline.contract.version,
            pipeline.contract.columns.len()
        ));
    }
    let pipelines: Vec<_> = settings.pipelines.iter().map(|p| p.name.clone()).collect();
    if !args.online {
        return Ok(Ending::with(json!({ "status": "done", "pipelines": pipelines })));
    }
    let findings = online::check(&settings).await;
    for finding in &findings {
        output::talk(&finding.to_string());
    }
    let result = json!({ "pipelines": pipelines, "online": findings });
    Ok(match findings.iter().filter_map(|f| f.class()).max_by_key(|c| (*c == Class::User, c.code())) {
        None => Ending::with(result),
        Some(class) => Ending::classed(class, result),
    })
}

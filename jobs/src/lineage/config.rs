//! Where lineage goes: what the project says, else what the environment says by OpenLineage's own variables.
//!
//! A project that has `lineage` is not mixed with the environment, so no key is sent to a URL that it is not for.

use super::job::{Parent, RunOf};
use crate::project::settings::{Destination, LineageSettings, Options, Settings};
use crate::project::{self, Env, is_header};
use std::collections::BTreeMap;

/// Who is told, if anybody is.
///
/// # Errors
/// A variable cannot be used, in words that repeat nothing of it. It concerns no job.
pub fn resolve(settings: &Settings, env: Env<'_>) -> Result<Option<LineageSettings>, String> {
    let given = |name: &str| env(name).filter(|value| !value.is_empty());
    if given("OPENLINEAGE_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    if let Some(settings) = &settings.lineage {
        return Ok(settings.to.is_some().then(|| settings.clone()));
    }
    let Some(url) = given("OPENLINEAGE_URL") else { return Ok(None) };
    let endpoint = given("OPENLINEAGE_ENDPOINT").unwrap_or_else(|| project::ENDPOINT.to_owned());
    let url = project::endpoint_url(&url, &endpoint).map_err(|why| format!("`OPENLINEAGE_URL` {why}"))?;
    let mut headers = BTreeMap::new();
    if let Some(key) = given("OPENLINEAGE_API_KEY") {
        let value = format!("Bearer {key}");
        if !is_header("authorization", &value) {
            return Err("`OPENLINEAGE_API_KEY` cannot be sent".to_owned());
        }
        headers.insert("authorization".to_owned(), value);
    }
    Ok(Some(LineageSettings {
        to: Some(Destination::Http { url, headers: Options(headers) }),
        namespace: given("OPENLINEAGE_NAMESPACE").unwrap_or_else(|| project::NAMESPACE.to_owned()),
        every: project::EVERY,
    }))
}

/// The run that a scheduler names in `OPENLINEAGE_PARENT_ID`, as `namespace/job/run id`, and the outermost one in
/// `OPENLINEAGE_ROOT_PARENT_ID`.
#[must_use]
pub fn env_parent(env: Env<'_>) -> Option<Parent> {
    let run = run_of(&env("OPENLINEAGE_PARENT_ID")?)?;
    let root = env("OPENLINEAGE_ROOT_PARENT_ID").and_then(|text| run_of(&text));
    Some(Parent { root: root.unwrap_or_else(|| run.clone()), run })
}

fn run_of(text: &str) -> Option<RunOf> {
    let (rest, run_id) = text.rsplit_once('/')?;
    let (namespace, name) = rest.rsplit_once('/')?;
    uuid::Uuid::parse_str(run_id).ok()?;
    (!namespace.is_empty() && !name.is_empty()).then(|| RunOf {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        run_id: run_id.to_owned(),
    })
}

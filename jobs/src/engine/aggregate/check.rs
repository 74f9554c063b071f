//! All aggregates of a project, judged at once, without broker or rows.

use super::{Definition, Limits, Lookups, Session, Source};
use crate::error::Result;
use crate::project::Diagnostic;
use crate::project::settings::Settings;

/// More than planning ever takes.
const MEMORY_BYTES: usize = 64 << 20;

/// What the check of the aggregates found.
#[derive(Debug, Default)]
pub struct Checked {
    /// The good ones, in the order of the project.
    pub definitions: Vec<Definition>,
    /// What is wrong.
    pub errors: Vec<Diagnostic>,
    /// What is right but costs.
    pub costs: Vec<Diagnostic>,
}

/// Reads the lookups and judges every aggregate.
///
/// # Errors
/// Only if the engine itself cannot be set up; what is wrong with the project is in [`Checked`].
pub async fn check(settings: &Settings) -> Result<Checked> {
    let session = Session::new(&Limits { memory_bytes: MEMORY_BYTES, parallel: 1 })?;
    let mut checked = Checked::default();
    let lookups = match Lookups::load(settings, &session).await {
        Ok(lookups) => lookups,
        Err(errors) => {
            // without them every join would be refused too, for no reason of its own
            checked.errors = errors;
            return Ok(checked);
        }
    };
    for file in &settings.aggregates {
        let Some(pipeline) = settings.pipelines.iter().find(|p| p.name == file.from) else { continue };
        match Definition::new(file, &Source::of(pipeline), &lookups, &session).await {
            Ok(definition) => {
                checked.costs.extend(definition.costs.iter().cloned());
                checked.definitions.push(definition);
            }
            Err(errors) => checked.errors.extend(errors),
        }
    }
    Ok(checked)
}

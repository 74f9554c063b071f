//! The offline check: everything that is wrong with a project, without broker or store.

use super::diagnostics::Report;
use super::load;
use super::variables::Env;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What a check looked at and found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Pipelines of `deltaworks.yaml`, in file order.
    pub pipelines: Vec<String>,
    /// Contract files that were read, relative to the project.
    pub contracts: Vec<PathBuf>,
    /// Everything that is wrong, in order of file and place.
    pub diagnostics: Report,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.diagnostics.is_empty()
    }
}

/// Checks the project in `dir`: the config, its contracts and the paths it names.
#[must_use]
pub fn check(dir: &Path, env: Env<'_>) -> CheckReport {
    let reading = load::read(dir, env);
    let diagnostics = reading.report();
    CheckReport { pipelines: reading.pipelines, contracts: reading.contracts, diagnostics }
}

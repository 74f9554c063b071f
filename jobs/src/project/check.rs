//! The offline check: everything that is wrong with a project, without broker or store.

use super::diagnostics::Report;
use super::load;
use super::settings::Settings;
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
    /// Aggregate files that were read, relative to the project.
    pub aggregates: Vec<PathBuf>,
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

/// Checks the project in `dir`: the config, its contracts, the headers of its aggregates and the paths
/// it names.
#[must_use]
pub fn check(dir: &Path, env: Env<'_>) -> CheckReport {
    survey(dir, env).0
}

/// The check, and what could be read of the project, for checks that go on from there. The settings
/// leave out what is wrong; only with a good report are they the project's.
#[must_use]
pub fn survey(dir: &Path, env: Env<'_>) -> (CheckReport, Option<Settings>) {
    let mut reading = load::read(dir, env);
    let report = CheckReport {
        diagnostics: reading.report(),
        pipelines: std::mem::take(&mut reading.pipelines),
        contracts: std::mem::take(&mut reading.contracts),
        aggregates: std::mem::take(&mut reading.aggregates),
    };
    (report, reading.into_partial())
}

//! Writes a checkpoint where readers would have to pass many commits.

use super::open::open;
use crate::error::Result;
use crate::faults;
use crate::lake::{Lake, TableName};
use crate::project::settings::Settings;
use deltaworks_core::upkeep::{Checkpoint, checkpoint, versions_since};
use serde::Serialize;

/// What was done to one table, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointDone {
    /// Table.
    pub table: String,
    /// Its newest version.
    pub version: i64,
    /// The version of the last checkpoint before.
    pub last: Option<i64>,
    /// Commits after it.
    pub versions_since: i64,
    /// Whether one is written.
    pub write: bool,
}

/// Writes a checkpoint of each table that needs one, or, if `forced`, of each that has commits after the last; if
/// `planned`, only says so.
///
/// # Errors
/// A table is not there; the store fails. The tables are as good as before.
pub async fn checkpoints(
    settings: &Settings,
    tables: &[TableName],
    forced: bool,
    planned: bool,
) -> Result<Vec<CheckpointDone>> {
    checkpoints_on(&Lake::open(&settings.lake)?, tables, forced, planned).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`checkpoints`].
pub async fn checkpoints_on(
    lake: &Lake,
    tables: &[TableName],
    forced: bool,
    planned: bool,
) -> Result<Vec<CheckpointDone>> {
    let mut all = Vec::new();
    for name in tables {
        let table = open(lake, name).await?;
        let (version, last) = (table.version(), table.last_checkpoint().await?);
        let write = checkpoint(version, last, forced) == Checkpoint::Write;
        if write && !planned {
            faults::point("before_asked_checkpoint");
            table.checkpoint().await?;
            faults::point("after_asked_checkpoint");
        }
        let (versions_since, last) = (versions_since(version, last), last.map(|last| last.version));
        all.push(CheckpointDone { table: name.to_string(), version, last, versions_since, write });
    }
    Ok(all)
}

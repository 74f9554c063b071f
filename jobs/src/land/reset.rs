//! Starting a pipeline over: its tables go, and with them its progress.

use super::tables::{raw_name, rejects_name};
use crate::error::Result;
use crate::lake::{Lake, TableName};
use crate::project::settings::{Pipeline, Settings};
use serde::Serialize;

/// What a reset removes.
#[derive(Debug, Clone, Serialize)]
pub struct ResetPlan {
    /// Pipeline.
    pub pipeline: String,
    /// Tables that would be dropped.
    pub tables: Vec<DroppedTable>,
    /// What the next run does.
    pub then: String,
}

/// A table that would be dropped.
#[derive(Debug, Clone, Serialize)]
pub struct DroppedTable {
    /// `<layer>.<name>`.
    pub table: String,
    /// Version.
    pub version: i64,
    /// Rows.
    pub rows: u64,
    /// Live files.
    pub files: u64,
}

/// Says what a reset of `pipeline` would remove.
///
/// # Errors
/// If the store does not answer.
pub async fn plan(settings: &Settings, pipeline: &Pipeline) -> Result<ResetPlan> {
    let lake = Lake::open(&settings.lake)?;
    let mut tables = Vec::new();
    for name in names(pipeline) {
        if let Some(table) = lake.open_table(&name).await? {
            let files = table.live_files().await?;
            tables.push(DroppedTable {
                table: name.to_string(),
                version: table.version(),
                rows: files.iter().filter_map(|f| f.rows).sum(),
                files: files.len() as u64,
            });
        }
    }
    let then = format!("`deltaworks stream {}` begins where `--start` says", pipeline.name);
    Ok(ResetPlan { pipeline: pipeline.name.clone(), tables, then })
}

/// Removes them. Interrupted, it may be called again.
///
/// # Errors
/// If the store does not answer.
pub async fn carry_out(settings: &Settings, pipeline: &Pipeline) -> Result<()> {
    let lake = Lake::open(&settings.lake)?;
    for name in names(pipeline) {
        lake.drop_table(&name).await?;
    }
    Ok(())
}

/// Raw goes last: while it is there, progress is, and a stream that still runs notices.
fn names(pipeline: &Pipeline) -> [TableName; 2] {
    [rejects_name(pipeline), raw_name(pipeline)]
}

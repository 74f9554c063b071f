//! `query`: ask the tables in SQL.

use super::settings;
use crate::args::{Global, Query};
use crate::ending::Ending;
use crate::output;
use deltaworks_jobs::{Result, engine};

/// Runs the verb.
pub async fn run(global: &Global, args: &Query) -> Result<Ending> {
    let settings = settings(global)?;
    let rows = engine::query(&settings.lake, &args.sql, settings.memory_bytes).await?;
    output::rows(rows, args.format, args.output.as_deref()).await?;
    Ok(Ending::done())
}

//! `offsets`: progress in Delta, in the group, in the broker.

use super::{pick, settings};
use crate::args::{Global, Offsets};
use crate::ending::Ending;
use crate::output;
use deltaworks_jobs::Result;
use deltaworks_jobs::land::inspect;

const COLUMNS: [&str; 8] = ["pipeline", "topic", "partition", "delta", "group", "low", "high", "lag"];

/// Runs the verb.
pub async fn run(global: &Global, args: &Offsets) -> Result<Ending> {
    let Offsets::Show { pipelines, format } = args;
    let settings = settings(global)?;
    let mut rows = Vec::new();
    for pipeline in pick(&settings, pipelines)? {
        rows.extend(inspect::offsets(&settings, &pipeline).await?);
    }
    output::records(&rows, &COLUMNS, *format)?;
    Ok(Ending::done())
}

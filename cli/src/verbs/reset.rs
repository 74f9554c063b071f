//! `reset`: start a pipeline over, with a plan first.

use super::settings;
use crate::args::{Global, Reset};
use crate::ending::Ending;
use crate::output;
use deltaworks_jobs::Result;
use deltaworks_jobs::land::reset;
use serde_json::json;

/// Runs the verb.
pub async fn run(global: &Global, args: &Reset) -> Result<Ending> {
    let settings = settings(global)?;
    let pipeline = settings.pipeline(&args.pipeline)?;
    let plan = reset::plan(&settings, pipeline).await?;
    for table in &plan.tables {
        output::talk(&format!(
            "drops {}: {} rows in {} files, version {}",
            table.table, table.rows, table.files, table.version
        ));
    }
    if args.dry_run || !args.yes {
        if !args.dry_run {
            output::talk("nothing was changed; add --yes to carry this out, with no stream running");
        }
        return Ok(Ending::with(json!({ "status": "planned", "plan": plan })));
    }
    reset::carry_out(&settings, pipeline).await?;
    Ok(Ending::with(json!({ "status": "done", "plan": plan })))
}

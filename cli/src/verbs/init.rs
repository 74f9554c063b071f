//! `init`: write a new project.

use crate::args::Init;
use crate::ending::Ending;
use crate::output;
use deltaworks_jobs::{Result, project};
use serde_json::json;

/// Runs the verb.
pub fn run(args: &Init) -> Result<Ending> {
    let written = project::init(&args.dir, args.example.as_deref())?;
    for path in &written {
        output::talk(&format!("wrote {}", path.display()));
    }
    output::talk(&format!("next: cd {} && deltaworks check", args.dir.display()));
    Ok(Ending::with(json!({ "status": "done", "written": written })))
}

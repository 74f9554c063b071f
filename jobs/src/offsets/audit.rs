//! Who moved what: rows in `ops.runs` of each act on offsets, one before it and one after.
//!
//! The first one is there before anything moves: an act that died in between has left its `begun`, and the raw
//! table's own log says how far it got.

use crate::batch::{JobRow, Run, record_job};
use crate::error::Result;
use crate::faults;
use crate::lake::Lake;
use crate::project::settings::Pipeline;

/// What was done.
pub(crate) struct Audit<'a> {
    /// As it is typed.
    pub job: &'static str,
    /// Id of the raw table.
    pub table_id: &'a str,
    /// Version of it afterwards.
    pub version: i64,
    /// Rows that it got.
    pub rows: u64,
    /// What was asked for and what was done.
    pub detail: serde_json::Value,
}

/// Records it; the verdict is `begun` or `done`, `times_ms` are begin and end.
///
/// # Errors
/// The store fails. What was done stays done.
pub(crate) async fn record(
    lake: &Lake,
    pipeline: &Pipeline,
    audit: &Audit<'_>,
    verdict: &str,
    run: &Run,
    times_ms: (i64, i64),
) -> Result<()> {
    faults::point("before_audit");
    let row = JobRow {
        job: audit.job,
        pipeline: pipeline.name.clone(),
        table_id: audit.table_id.to_owned(),
        version: audit.version,
        rows: audit.rows,
        times_ms,
        verdict: verdict.to_owned(),
        detail: audit.detail.clone(),
    };
    record_job(lake, &row, run, times_ms.1).await
}

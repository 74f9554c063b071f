//! The ledger `ops.offsets`: what every raw commit said about itself, kept longer than raw's log.
//!
//! Rows are copied from the raw commits' commitInfo in the order of versions. Whoever copies, copies
//! all up to its own version; txn [`copied_id`] is the last raw version copied, written in the same
//! commit as its rows. So a crash or a second copier changes nothing: the compare-and-set lets one of
//! them through, and the other finds `copied` further on.
//!
//! [`read`] is the other way: what all commits told, out of the ledger and out of raw's own log.
//!
//! Two kinds of rows: per raw commit and partition (`partition` is set, `event_date` is null), and per
//! raw commit and event date (the other way round). `operation` is null where a commit landed; else rows came by
//! a fill, or went: then counts are below zero, and checksums such that sums over a date are right all the same.
//!
//! Invariants: B1 the rows of a raw version are there once iff it is at or below `copied`;
//! B2 landed + rejected + skipped + gaps = to_offset − from_offset in every partition row of a landing.

mod rows;
mod told;

pub use told::{Changed, ToldByAll, read};

use super::commit::{Commit, Outcome};
use super::file::{FileProfile, encode, file_schema};
use super::table::Table;
use super::{CommitHead, Lake, PartitionValues, TableName, TableSpec, lake_error};
use crate::{Class, Result};
use deltaworks_core::commit_info::Identity;
use rows::{Row, rows_of, schema, to_batch};
use std::collections::BTreeMap;

/// Raw versions copied in one ledger commit.
const VERSIONS_MAX: i64 = 1_000;
/// Times that another copier may come first.
const ATTEMPTS_MAX: usize = 20;

/// What was copied by one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The last raw version in the ledger, whoever copied it.
    pub upto: i64,
    /// Rows that this call added.
    pub rows: u64,
}

/// The txn of the ledger that holds the last raw version copied. It names the raw table's id, since
/// a table that was made anew counts its versions from 0 again.
#[must_use]
pub fn copied_id(pipeline: &str, table_id: &str) -> String {
    format!("deltaworks/{pipeline}/{table_id}/copied")
}

/// What `ops.offsets` must be like.
#[must_use]
pub fn spec() -> TableSpec {
    TableSpec {
        name: TableName::new("ops", "offsets"),
        schema: schema(),
        partition_columns: vec!["run_date".into()],
        properties: BTreeMap::new(),
        description: Some("What every raw commit did: offsets per partition, rows and checksum per event date".into()),
    }
}

/// The last raw version that is in the ledger; `None` if none is.
///
/// # Errors
/// The ledger cannot be read.
pub async fn copied(lake: &Lake, raw: &Table, pipeline: &str) -> Result<Option<i64>> {
    let ledger = lake.open_table(&spec().name).await?;
    Ok(ledger.and_then(|t| t.txns().get(&copied_id(pipeline, raw.id())).copied()))
}

/// Copies everything up to `raw`'s version that is not in the ledger yet.
///
/// # Errors
/// A raw commit cannot be read or was cleaned away before it was copied; the store fails.
pub async fn copy(lake: &Lake, raw: &Table, pipeline: &str, writer: &Identity) -> Result<Copied> {
    let (mut ledger, id) = (lake.ensure_table(&spec()).await?, copied_id(pipeline, raw.id()));
    let (mut rows, mut failures) = (0, 0);
    // rows of an attempt whose outcome is unknown count as ours only if its commit is found
    loop {
        let copied = ledger.txns().get(&id).copied().unwrap_or(-1);
        if copied >= raw.version() {
            // whoever opens it next would have to pass all of its commits
            ledger.keep_log_short().await;
            return Ok(Copied { upto: copied, rows });
        }
        let upto = raw.version().min(copied + VERSIONS_MAX);
        let heads = raw.commit_heads(copied + 1, upto).await?;
        let (mut commit, added) = build(&ledger, raw, pipeline, &heads, writer).await?;
        commit.txns.push((id.clone(), upto));
        let error = match ledger.commit(commit).await {
            Outcome::Committed(_) => {
                rows += added;
                continue;
            }
            Outcome::Failed(e) => return Err(e),
            Outcome::Conflicted => lake_error(Class::Overlap, "table `ops.offsets`: others keep committing first"),
            Outcome::Unknown(e) => e,
        };
        failures += 1;
        if failures >= ATTEMPTS_MAX {
            return Err(error);
        }
        ledger.refresh().await?;
    }
}

/// Puts the rows of `heads` into files and returns the commit that names them, and the row count.
async fn build(
    ledger: &Table,
    raw: &Table,
    pipeline: &str,
    heads: &[CommitHead],
    writer: &Identity,
) -> Result<(Commit, u64)> {
    let mut by_date: BTreeMap<jiff::civil::Date, Vec<Row>> = BTreeMap::new();
    for head in heads {
        for row in rows_of(raw, head)? {
            by_date.entry(date_of(row.committed_us)).or_default().push(row);
        }
    }
    let mut commit = Commit::new("WRITE", writer)?;
    let mut added = 0;
    for (date, rows) in by_date {
        let schema = file_schema(&schema(), ledger.partition_columns());
        let batch = to_batch(&schema, pipeline, raw.id(), &rows)?;
        let file = encode(&FileProfile::new(schema).steady(["version", "sequence"]), [Ok(batch)])?;
        added += file.rows;
        let values = PartitionValues::from([("run_date".into(), Some(date.to_string()))]);
        commit.adds.push(ledger.sink().put(values, file).await?);
    }
    Ok((commit, added))
}

fn date_of(us: i64) -> jiff::civil::Date {
    let instant = jiff::Timestamp::from_microsecond(us).unwrap_or_default();
    instant.to_zoned(jiff::tz::TimeZone::UTC).date()
}

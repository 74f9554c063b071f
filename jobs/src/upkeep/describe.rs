//! What a table is, and what its commits did. Nothing is written.

use super::open::open;
use crate::error::Result;
use crate::lake::{CommitFacts, Lake, LiveFile, TableName, schema};
use crate::project::settings::Settings;
use deltaworks_core::upkeep::{summarize, versions_since};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A table at its newest version.
#[derive(Debug, Clone, Serialize)]
pub struct Described {
    /// Table.
    pub table: String,
    /// Where it is.
    pub url: String,
    /// Its id: a table that was made anew has another one.
    pub id: String,
    /// Version.
    pub version: i64,
    /// Rows.
    pub rows: u64,
    /// Live files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the smallest, the median and the largest file; null for none.
    pub smallest: Option<u64>,
    /// See `smallest`.
    pub median: Option<u64>,
    /// See `smallest`.
    pub largest: Option<u64>,
    /// Version of the last checkpoint.
    pub checkpoint: Option<i64>,
    /// Commits after it.
    pub versions_since_checkpoint: i64,
    /// Names of the partition columns.
    pub partition_columns: Vec<String>,
    /// Columns in their order.
    pub columns: Vec<ColumnLine>,
    /// Txn entries by kind: how many, the least value and the greatest.
    pub entries: BTreeMap<String, Value>,
    /// Table properties.
    pub properties: BTreeMap<String, Option<String>>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnLine {
    /// Name.
    pub name: String,
    /// Type, as Delta calls it; one of parts as its JSON.
    pub data_type: String,
    /// Whether it may be null.
    pub nullable: bool,
}

/// What one commit did.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryLine {
    /// Version.
    pub version: i64,
    /// When it was committed, RFC 3339.
    pub time: Option<String>,
    /// Delta's operation.
    pub operation: Option<String>,
    /// The run that made it.
    pub run_id: Option<String>,
    /// Files that joined.
    pub files_added: u64,
    /// Files that left.
    pub files_removed: u64,
    /// Rows that joined; a rewrite brings none.
    pub rows_added: u64,
}

/// Describes a table.
///
/// # Errors
/// It is not there, or cannot be read.
pub async fn describe(settings: &Settings, name: &TableName) -> Result<Described> {
    let table = open(&Lake::open(&settings.lake)?, name).await?;
    let files = table.live_files().await?;
    let checkpoint = table.last_checkpoint().await?;
    let [smallest, median, largest] = spread(&files);
    let entries = summarize(table.txns().iter().map(|(id, value)| (id.as_str(), *value)));
    let shown = |e: deltaworks_core::upkeep::Entries| {
        (e.kind, json!({ "count": e.count, "least": e.range.0, "greatest": e.range.1 }))
    };
    Ok(Described {
        table: name.to_string(),
        url: table.url(),
        id: table.id().to_owned(),
        version: table.version(),
        rows: files.iter().filter_map(|f| f.rows).sum(),
        files: files.len() as u64,
        bytes: files.iter().map(|f| f.size).sum(),
        smallest,
        median,
        largest,
        checkpoint: checkpoint.map(|last| last.version),
        versions_since_checkpoint: versions_since(table.version(), checkpoint),
        partition_columns: table.partition_columns().to_vec(),
        columns: columns(&schema::to_delta(table.schema())?),
        entries: entries.into_iter().map(shown).collect(),
        properties: table.properties().clone(),
    })
}

/// What the last `limit` commits of a table did, the newest first.
///
/// # Errors
/// It is not there, or cannot be read.
pub async fn history(settings: &Settings, name: &TableName, limit: usize) -> Result<Vec<HistoryLine>> {
    let table = open(&Lake::open(&settings.lake)?, name).await?;
    Ok(table.history(limit).await?.into_iter().map(line).collect())
}

fn line(facts: CommitFacts) -> HistoryLine {
    let time = facts.timestamp_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    HistoryLine {
        version: facts.version,
        time: time.map(|time| time.to_string()),
        operation: facts.operation,
        run_id: facts.run_id,
        files_added: facts.files_added,
        files_removed: facts.files_removed,
        rows_added: facts.rows_added,
    }
}

fn spread(files: &[LiveFile]) -> [Option<u64>; 3] {
    let mut sizes: Vec<u64> = files.iter().map(|f| f.size).collect();
    sizes.sort_unstable();
    [sizes.first().copied(), sizes.get(sizes.len() / 2).copied(), sizes.last().copied()]
}

/// Columns out of Delta's own spelling of a schema.
fn columns(schema: &str) -> Vec<ColumnLine> {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let fields = schema["fields"].as_array().cloned().unwrap_or_default();
    let named = fields.into_iter().filter_map(|f| {
        Some(ColumnLine {
            name: f["name"].as_str()?.to_owned(),
            data_type: f["type"].as_str().map_or_else(|| f["type"].to_string(), str::to_owned),
            nullable: f["nullable"] != json!(false),
        })
    });
    named.collect()
}

//! The Delta log's lines, as serde types: reader version 1, writer version 2.
//!
//! A commit file holds one JSON object per line, each with one key. Unknown keys are left alone;
//! [`super::log`] refuses tables whose protocol says that they may not be ignored.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Values of the partition columns by name; `None` is null.
pub type PartitionValues = BTreeMap<String, Option<String>>;

/// One line.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_info: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<Metadata>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<Txn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove: Option<Remove>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<Add>,
}

/// What a reader and a writer must be able to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub min_reader_version: i32,
    pub min_writer_version: i32,
}

/// Schema, partitioning and properties.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default)]
    pub format: Format,
    pub schema_string: String,
    #[serde(default)]
    pub partition_columns: Vec<String>,
    #[serde(default)]
    pub configuration: BTreeMap<String, Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<i64>,
}

/// Always Parquet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Format {
    pub provider: String,
    #[serde(default)]
    pub options: Option<BTreeMap<String, Option<String>>>,
}

impl Default for Format {
    fn default() -> Self {
        Self { provider: "parquet".into(), options: Some(BTreeMap::new()) }
    }
}

/// An application's version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub app_id: String,
    pub version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

/// A file joins the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    pub path: String,
    pub partition_values: PartitionValues,
    pub size: i64,
    pub modification_time: i64,
    #[serde(default)]
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    #[serde(default, skip_serializing)]
    pub deletion_vector: Option<Value>,
}

/// A file leaves the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    #[serde(default)]
    pub data_change: bool,
    #[serde(default)]
    pub extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<PartitionValues>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_keys_of_a_checkpoint_row_are_absent_keys() {
        let line: Line = serde_json::from_str(
            r#"{"txn":{"appId":"a","version":3,"lastUpdated":null},"add":null,"metaData":null,"other":{"x":1}}"#,
        )
        .unwrap();
        assert_eq!(line.txn.unwrap().version, 3);
        assert!(line.add.is_none() && line.remove.is_none());
    }

    #[test]
    fn a_null_partition_value_stays() {
        let add = Add {
            path: "a".into(),
            partition_values: BTreeMap::from([("d".into(), None)]),
            size: 1,
            modification_time: 2,
            data_change: true,
            stats: None,
            deletion_vector: None,
        };
        let text = serde_json::to_string(&Line { add: Some(add), ..Line::default() }).unwrap();
        let want =
            r#"{"add":{"path":"a","partitionValues":{"d":null},"size":1,"modificationTime":2,"dataChange":true}}"#;
        assert_eq!(text, want);
    }
}

//! The files of a version, and what their statistics say.

use super::actions::{Add, PartitionValues};
use super::file::AddedFile;
use super::table::Table;
use crate::{Class, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveFile {
    /// Path below the table, as the log spells it.
    pub path: String,
    /// Values of the partition columns.
    pub partition_values: PartitionValues,
    /// Bytes.
    pub size: u64,
    /// `numRecords` of its statistics; `None` if another writer left them out.
    pub rows: Option<u64>,
    /// When it was added, ms.
    pub modified_ms: i64,
    /// Delta's statistics as JSON.
    pub stats: Option<String>,
}

impl LiveFile {
    pub(super) fn of(add: Add) -> Self {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Rows {
            num_records: Option<u64>,
        }
        let rows = add.stats.as_deref().and_then(|s| serde_json::from_str::<Rows>(s).ok()?.num_records);
        Self {
            path: add.path,
            partition_values: add.partition_values,
            size: u64::try_from(add.size).unwrap_or(0),
            rows,
            modified_ms: add.modification_time,
            stats: add.stats,
        }
    }

    /// Whether the statistics say that a column (dotted) has no value in any row.
    #[must_use]
    pub fn is_all_null(&self, column: &str) -> bool {
        let stats: Option<Value> = self.stats.as_deref().and_then(|s| serde_json::from_str(s).ok());
        let nulls = stats
            .as_ref()
            .and_then(|stats| column.split('.').try_fold(&stats["nullCount"], |node, name| node.get(name))?.as_u64());
        nulls.is_some() && nulls == self.rows
    }

    /// Least and greatest value of a text column (dotted), as far as the statistics know them; long texts
    /// are cut there.
    #[must_use]
    pub fn text_bounds_of(&self, column: &str) -> (Option<String>, Option<String>) {
        let stats: Option<Value> = self.stats.as_deref().and_then(|s| serde_json::from_str(s).ok());
        let bound = |side: &str| {
            let bounds = &stats.as_ref()?[side];
            Some(column.split('.').try_fold(bounds, |node, name| node.get(name))?.as_str()?.to_owned())
        };
        (bound("minValues"), bound("maxValues"))
    }

    /// Least and greatest value of an integer column (dotted), if the statistics know them.
    #[must_use]
    pub fn bounds_of(&self, column: &str) -> Option<(i64, i64)> {
        let stats: Value = serde_json::from_str(self.stats.as_deref()?).ok()?;
        let bound = |side: &str| column.split('.').try_fold(&stats[side], |node, name| node.get(name))?.as_i64();
        Some((bound("minValues")?, bound("maxValues")?))
    }
}

impl From<&AddedFile> for LiveFile {
    fn from(added: &AddedFile) -> Self {
        Self {
            path: added.path.clone(),
            partition_values: added.partition_values.clone(),
            size: added.size,
            rows: Some(added.rows),
            modified_ms: 0,
            stats: Some(added.stats.clone()),
        }
    }
}

impl Table {
    /// The files of this version, by path. Passes over the whole log segment: ask once, keep what you
    /// need.
    ///
    /// # Errors
    /// The log cannot be read, or the version has been cleaned away.
    pub async fn live_files(&self) -> Result<Vec<LiveFile>> {
        let segment = self.log.segment(Some(self.version())).await?;
        let segment = segment.ok_or_else(|| self.log.error(Class::Outside, "the table is gone"))?;
        let mut files = BTreeMap::new();
        let mut marked = false;
        let columns =
            ["add.path", "add.partitionValues", "add.size", "add.modificationTime", "add.stats", "add.dataChange"];
        self.log
            .replay(&segment, &columns, |line| {
                if let Some(remove) = line.remove {
                    files.remove(&remove.path);
                }
                if let Some(add) = line.add {
                    marked |= add.deletion_vector.is_some();
                    files.insert(add.path.clone(), LiveFile::of(add));
                }
            })
            .await?;
        if marked {
            return Err(self.log.error(Class::User, "it has deletion vectors, written by another tool"));
        }
        Ok(files.into_values().collect())
    }
}

//! What an archive says of one date: a JSON file beside its Parquet files, written last.
//!
//! `event_date=2026-01-05/_manifest.json`; readers of folders pass over names that begin so. Invariant M1: a manifest is
//! there iff every file that it names was read back with these checksums.

use crate::checksum::RowSum;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Folder;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use deltaworks_core::commit_info::{Checksum, DateEntry};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Grows when a manifest means something else.
const FORMAT: u32 = 1;

/// One date of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this text.
    pub format: u32,
    /// Table.
    pub table: String,
    /// Its id.
    pub table_id: String,
    /// The version that was read.
    pub version: i64,
    /// The date.
    pub date: Date,
    /// All rows.
    pub rows: u64,
    /// Sum of their checksums, over all columns of the table, as in `ops.offsets`.
    pub checksum: Checksum,
    /// Columns of the table, with Arrow's names of their types.
    pub columns: Vec<ArchivedColumn>,
    /// The files, in order.
    pub files: Vec<ArchivedFile>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedColumn {
    /// Name.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Whether it may be null.
    pub nullable: bool,
}

/// A Parquet file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedFile {
    /// Path below the archive.
    pub path: String,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of these, 64 hexadecimal digits.
    pub sha256: String,
}

/// The folder of a date.
pub(super) fn folder_of(date: Date) -> String {
    format!("event_date={date}")
}

fn path_of(date: Date) -> String {
    format!("{}/_manifest.json", folder_of(date))
}

/// SHA-256 as 64 hexadecimal digits.
pub(in crate::upkeep) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    /// One of no files yet.
    pub fn new(table: String, table_id: String, version: i64, date: Date, schema: &SchemaRef) -> Self {
        let columns = schema.fields().iter().map(|field| ArchivedColumn {
            name: field.name().clone(),
            data_type: field.data_type().to_string(),
            nullable: field.is_nullable(),
        });
        let columns = columns.collect();
        let (rows, checksum, files) = (0, Checksum::default(), Vec::new());
        Self { format: FORMAT, table, table_id, version, date, rows, checksum, columns, files }
    }

    /// Reads the manifest of a date; `None` if there is none.
    ///
    /// # Errors
    /// The store fails; [`Class::User`] if it cannot be understood.
    pub async fn read(archive: &Folder, date: Date) -> Result<Option<Self>> {
        let Some(bytes) = archive.get(&path_of(date)).await? else { return Ok(None) };
        let broken = || {
            let message = format!("the manifest of {date} below `{}` cannot be understood", archive.url());
            Error::new(Stage::Upkeep, Class::User, message)
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|e| broken().because(e))?;
        if manifest.format != FORMAT || manifest.date != date {
            return Err(broken().hint("it was written by another version of deltaworks, or was moved"));
        }
        Ok(Some(manifest))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The store fails.
    pub async fn write(&self, archive: &Folder) -> Result<()> {
        let failed = |e| Error::new(Stage::Upkeep, Class::Internal, "a manifest cannot be written").because(e);
        let text = serde_json::to_vec_pretty(self).map_err(failed)?;
        archive.put(&path_of(self.date), Bytes::from(text)).await
    }

    /// Takes everything of a date away, the manifest first: without it nobody goes by the files.
    ///
    /// # Errors
    /// The store fails.
    pub async fn clear(archive: &Folder, date: Date) -> Result<()> {
        archive.delete(&path_of(date)).await?;
        for path in archive.list(&folder_of(date)).await? {
            archive.delete(&path).await?;
        }
        Ok(())
    }

    /// Its rows, as the ledger tells them.
    #[must_use]
    pub const fn entry(&self) -> DateEntry {
        DateEntry { rows: self.rows, checksum: self.checksum }
    }

    /// Takes a file in.
    pub(super) fn add(&mut self, file: ArchivedFile, sum: RowSum) {
        self.rows += sum.rows;
        self.checksum = self.checksum.plus(Checksum(sum.sum));
        self.files.push(file);
    }
}

//! Archived rows, read back and held against their manifest.

use super::manifest::{ArchivedFile, Manifest, folder_of, sha256};
use crate::batch::conform;
use crate::checksum::{RowSum, total};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Folder, PartitionValues};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use deltaworks_core::commit_info::{Checksum, DateEntry};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Rows of a batch.
const BATCH_ROWS: usize = 8_192;

/// The bytes of a file, held against its size and SHA-256.
///
/// # Errors
/// [`Class::InputLost`] if it is gone or has become another.
pub(super) async fn bytes_of(archive: &Folder, file: &ArchivedFile) -> Result<Bytes> {
    let lost = |what: &str| {
        let message = format!("archived file `{}` below `{}` {what}", file.path, archive.url());
        Error::new(Stage::Upkeep, Class::InputLost, message)
    };
    let bytes = archive.get(&file.path).await?.ok_or_else(|| lost("is gone"))?;
    if bytes.len() as u64 != file.bytes || sha256(&bytes) != file.sha256 {
        return Err(lost("has other bytes than its manifest says"));
    }
    Ok(bytes)
}

/// The rows of a file with the columns of `schema`, a raw table's.
///
/// # Errors
/// It is no Parquet file, or its columns do not fit.
pub(super) async fn rows_of(date: jiff::civil::Date, bytes: Bytes, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let schema = schema.clone();
    let read = move || -> Result<Vec<RecordBatch>> {
        let broken = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(Stage::Upkeep, Class::Outside, format!("a file of `{}` cannot be read", folder_of(date)))
                .because(e)
        };
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| broken(Box::new(e)))?;
        let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| broken(Box::new(e)))?;
        let of_folder = PartitionValues::from([("event_date".to_owned(), Some(date.to_string()))]);
        batches.map(|batch| conform(&batch.map_err(|e| broken(Box::new(e)))?, &of_folder, &schema)).collect()
    };
    let failed = |e| Error::new(Stage::Upkeep, Class::Internal, "reading a file broke down").because(e);
    tokio::task::spawn_blocking(read).await.map_err(failed)?
}

/// The sum of some rows.
///
/// # Errors
/// As [`total`].
pub(super) fn sum_of(batches: &[RecordBatch]) -> Result<RowSum> {
    let mut sum = RowSum::default();
    for batch in batches {
        sum.merge(total(batch, &[])?);
    }
    Ok(sum)
}

/// Reads every file of a date again and holds bytes and rows against the manifest.
///
/// # Errors
/// [`Class::InputLost`] if anything is not as it says.
pub(super) async fn verify(archive: &Folder, manifest: &Manifest, schema: &SchemaRef) -> Result<()> {
    let mut all = RowSum::default();
    for file in &manifest.files {
        let rows = rows_of(manifest.date, bytes_of(archive, file).await?, schema).await?;
        all.merge(sum_of(&rows)?);
    }
    if (DateEntry { rows: all.rows, checksum: Checksum(all.sum) }) == manifest.entry() {
        return Ok(());
    }
    let message = format!(
        "the archive of {} below `{}` has {} rows with checksum {}, and its manifest says {} with {}",
        manifest.date,
        archive.url(),
        all.rows,
        all.hex(),
        manifest.rows,
        manifest.checksum
    );
    Err(Error::new(Stage::Upkeep, Class::InputLost, message))
}

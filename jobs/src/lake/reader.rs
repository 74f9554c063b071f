//! Reads Parquet files from the store: only the chunks of the wanted columns, in batches that stay small even
//! where values are large.

use super::file::FileSink;
use super::live::LiveFile;
use super::table::Table;
use crate::{Class, Result};
use arrow::array::RecordBatch;
use bytes::Bytes;
use deltalake::logstore::object_store::{self, ObjectStore, ObjectStoreExt as _, path::Path};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::ops::Range;
use std::sync::Arc;

/// Most rows of a batch.
const BATCH_ROWS: usize = 8_192;
/// Bytes that a batch is meant to have at most: values are taken to be as large as they are on average in their
/// row group.
const BATCH_BYTES: u64 = 16 << 20;

/// Bytes from a file's end that are read at once, in the hope that they have the whole footer.
const FOOTER_BYTES: usize = 16 << 10;

/// One Parquet file of a store.
#[derive(Debug)]
pub(super) struct ObjectReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// Bytes, where the log tells them.
    size: Option<u64>,
}

/// Batches of the leaves whose dotted path begins with one of `columns`.
pub(super) async fn open(
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: Option<u64>,
    columns: &[&str],
) -> Result<ParquetRecordBatchStream<ObjectReader>, ParquetError> {
    let builder = ParquetRecordBatchStreamBuilder::new(ObjectReader { store, path, size }).await?;
    let leaves = builder.parquet_schema().columns().iter().enumerate();
    let wanted = |path: &str| {
        columns.iter().any(|c| path.strip_prefix(c).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    let wanted: Vec<usize> = leaves.filter(|(_, leaf)| wanted(&leaf.path().string())).map(|(i, _)| i).collect();
    let rows = batch_rows(builder.metadata(), &wanted);
    let mask = ProjectionMask::leaves(builder.parquet_schema(), wanted);
    builder.with_projection(mask).with_batch_size(rows).build()
}

/// How many rows of these leaves a batch may have.
fn batch_rows(file: &ParquetMetaData, leaves: &[usize]) -> usize {
    let row_bytes = file.row_groups().iter().map(|group| {
        let bytes = leaves.iter().filter_map(|leaf| group.columns().get(*leaf)).map(|c| c.uncompressed_size());
        let bytes = u64::try_from(bytes.sum::<i64>()).unwrap_or(0);
        bytes / u64::try_from(group.num_rows()).unwrap_or(0).max(1)
    });
    let rows = BATCH_BYTES / row_bytes.max().unwrap_or(0).max(1);
    usize::try_from(rows).unwrap_or(usize::MAX).clamp(1, BATCH_ROWS)
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let size = match self.size {
                Some(size) => size,
                None => self.store.head(&self.path).await.map_err(external)?.size,
            };
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
            reader.load_and_finish(self, size).await.map(Arc::new)
        }
        .boxed()
    }
}

/// Whether the store says that there is no such object.
fn is_gone(e: &ParquetError) -> bool {
    let ParquetError::External(source) = e else { return false };
    source.downcast_ref::<object_store::Error>().is_some_and(|e| matches!(e, object_store::Error::NotFound { .. }))
}

fn external(e: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(e))
}

impl Table {
    /// Reads `columns` (dotted, a struct with all below it) of one live file. Partition columns are not
    /// in the file, and a file older than a column lacks it.
    ///
    /// # Errors
    /// The file cannot be read; [`Class::InputLost`] if the store has it no more.
    pub async fn read_file(
        &self,
        file: &LiveFile,
        columns: &[&str],
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let (table, path) = (self.log.table.clone(), file.path.clone());
        let failed = move |e: ParquetError| {
            let class = if is_gone(&e) { Class::InputLost } else { Class::Outside };
            crate::Error::new(crate::Stage::Lake, class, format!("table `{table}`: cannot read `{path}`")).because(e)
        };
        let batches =
            open(self.sink().store, self.location(file)?, Some(file.size), columns).await.map_err(failed.clone())?;
        Ok(batches.map_err(failed).boxed())
    }

    /// The bytes of one live file, undecoded.
    ///
    /// # Errors
    /// As [`Self::read_file`].
    pub async fn file_bytes(&self, file: &LiveFile) -> Result<Bytes> {
        let failed = |e: object_store::Error| {
            let class =
                if matches!(e, object_store::Error::NotFound { .. }) { Class::InputLost } else { Class::Outside };
            crate::Error::new(
                crate::Stage::Lake,
                class,
                format!("table `{}`: cannot read `{}`", self.log.table, file.path),
            )
            .because(e)
        };
        let found = self.sink().store.get(&self.location(file)?).await.map_err(failed)?;
        found.bytes().await.map_err(failed)
    }

    /// Where a file lies in the store.
    pub(super) fn location(&self, file: &LiveFile) -> Result<Path> {
        self.locate(&file.path)
    }

    /// Where the log's path `below` leads to in the store.
    pub(super) fn locate(&self, below: &str) -> Result<Path> {
        let FileSink { path, .. } = self.sink();
        let broken = || self.log.error(Class::Internal, format!("`{below}` is no path"));
        let relative = Path::from_url_path(below).map_err(|e| broken().because(e))?;
        Path::parse(format!("{path}/{relative}")).map_err(|e| broken().because(e))
    }
}

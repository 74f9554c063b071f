//! Writes the rows of some files of one partition anew, as fewer files, and proves that they are the same rows; or
//! all but some, and proves that no other is missing.
//!
//! Rows are streamed: one file in the making is all that is held, beside a few batches and what a sort may take.
//!
//! Invariants: W1 what is returned was read again from the store, and has as many rows, with the same checksum, as
//! what was read and as the log says; W2 nothing is committed here, so whatever fails leaves orphans only; W3 rows
//! that are left out and rows that are written are together those that were read.

use super::removal::Counts;
use crate::batch::conform;
use crate::checksum::{self, RowSum};
use crate::engine::sort;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{AddedFile, EncodedFile, FileEncoder, FileProfile, LiveFile, PartitionValues, Table, file_schema};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::SchemaRef;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use std::sync::{Arc, Mutex, PoisonError};

/// Files opened ahead of the one that is read.
const OPENED_AHEAD: usize = 4;
/// Columns that hardly repeat, and columns that grow steadily, in tables of ours.
const UNIQUE: [&str; 3] = ["payload", "key", "_extra"];
const STEADY: [&str; 5] = ["_partition", "_offset", "_behind_ms", "version", "sequence"];

/// Small files of one partition, and how large the new ones become.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub values: PartitionValues,
    pub files: Vec<LiveFile>,
    pub files_after: u64,
    pub rows_per_file: u64,
}

/// How rows are written anew.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    /// Columns to sort by; none leaves the order of the files.
    pub sort_by: Vec<String>,
    /// What a sort may hold.
    pub sort_bytes: usize,
    /// A file in the making that holds more is ended, however few rows it has.
    pub file_bytes_max: usize,
}

/// Files that no commit names yet, and what is in them.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub files: Vec<AddedFile>,
    pub rows: RowSum,
}

/// Says of each row of a batch whether it is to be left out; no nulls.
pub(super) type Sieve = Arc<dyn Fn(&RecordBatch) -> Result<BooleanArray> + Send + Sync>;

/// Files without some rows, that no commit names yet.
#[derive(Debug, Default)]
pub(super) struct Thinned {
    pub files: Vec<AddedFile>,
    /// Rows that were left out; their checksum covers all columns, as that of the ledger.
    pub gone: RowSum,
    /// Where they came from.
    pub counts: Counts,
}

/// What has passed a sieve.
#[derive(Debug, Default)]
struct Passed {
    read: RowSum,
    kept: RowSum,
    gone: RowSum,
    counts: Counts,
}

/// Writes one set anew.
///
/// # Errors
/// A file cannot be read or written; [`Class::Internal`] if the new files do not hold the same rows.
pub(super) async fn rewrite(table: &Table, set: &Set, manner: &Manner) -> Result<Written> {
    let schema = file_schema(table.schema(), table.partition_columns());
    let read = Arc::new(Mutex::new(RowSum::default()));
    let mut rows = summed(rows_of(table, &set.values, set.files.clone(), &schema), read.clone());
    if !manner.sort_by.is_empty() {
        rows = sort::sorted(rows, schema.clone(), &manner.sort_by, manner.sort_bytes).await?;
    }
    let files = written(Writer::new(table, set, manner, &schema), rows).await?;
    let read = *read.lock().unwrap_or_else(PoisonError::into_inner);
    prove(table, set, &schema, &files, read).await?;
    Ok(Written { files, rows: read })
}

/// Writes one set anew, but for the rows that `goes` says.
///
/// # Errors
/// As [`rewrite`].
pub(super) async fn rewrite_without(table: &Table, set: &Set, manner: &Manner, goes: Sieve) -> Result<Thinned> {
    let whole = table.schema().clone();
    let schema = file_schema(&whole, table.partition_columns());
    let passed = Arc::new(Mutex::new(Passed::default()));
    let rows = rows_of(table, &set.values, set.files.clone(), &whole);
    let (into, of_file) = (passed.clone(), schema.clone());
    let rows = rows.map(move |batch| {
        let kept = into.lock().unwrap_or_else(PoisonError::into_inner).sieve(&batch?, &goes)?;
        conform(&kept, &PartitionValues::new(), &of_file)
    });
    let files = written(Writer::new(table, set, manner, &schema), rows.boxed()).await?;
    let Passed { read, kept, gone, counts } =
        std::mem::take(&mut *passed.lock().unwrap_or_else(PoisonError::into_inner));
    let found = sum_of(table, set, &whole, &files).await?;
    let mut both = found;
    both.merge(gone);
    let logged: u64 = set.files.iter().filter_map(|file| file.rows).sum();
    if found == kept && both == read && read.rows == logged && counts.rows() == gone.rows {
        return Ok(Thinned { files, gone, counts });
    }
    let message = format!(
        "table `{}`: the log says {logged} rows of {:?}, {} were read, {} left out, and {} written",
        table.name(),
        set.values,
        read.rows,
        gone.rows,
        found.rows
    );
    Err(Error::new(Stage::Upkeep, Class::Internal, message).hint("nothing was changed; look at the store's files"))
}

impl Passed {
    /// The rows of a batch that stay.
    fn sieve(&mut self, batch: &RecordBatch, goes: &Sieve) -> Result<RecordBatch> {
        let internal = |e| Error::new(Stage::Upkeep, Class::Internal, "rows cannot be told apart").because(e);
        let goes = goes(batch)?;
        let left_out = filter_record_batch(batch, &goes).map_err(internal)?;
        let kept = filter_record_batch(batch, &not(&goes).map_err(internal)?).map_err(internal)?;
        self.read.merge(checksum::total(batch, &[])?);
        self.kept.merge(checksum::total(&kept, &[])?);
        self.gone.merge(checksum::total(&left_out, &[])?);
        self.counts.add(&left_out)?;
        Ok(kept)
    }
}

/// Writes rows as they come, while the next are read.
async fn written(mut writer: Writer<'_>, mut rows: BoxStream<'static, Result<RecordBatch>>) -> Result<Vec<AddedFile>> {
    let mut batch = rows.next().await.transpose()?;
    while let Some(rows_now) = batch {
        let (next, pushed) = tokio::join!(rows.next(), writer.push(rows_now));
        pushed?;
        batch = next.transpose()?;
    }
    writer.end().await
}

/// Reads the new files again, and holds them against what was read and what the log says.
async fn prove(table: &Table, set: &Set, schema: &SchemaRef, files: &[AddedFile], read: RowSum) -> Result<()> {
    let found = sum_of(table, set, schema, files).await?;
    let logged: u64 = set.files.iter().filter_map(|file| file.rows).sum();
    if found == read && read.rows == logged {
        return Ok(());
    }
    let message = format!(
        "table `{}`: the log says {logged} rows of {:?}, {} were read with checksum {}, and {} were written with {}",
        table.name(),
        set.values,
        read.rows,
        read.hex(),
        found.rows,
        found.hex()
    );
    Err(Error::new(Stage::Upkeep, Class::Internal, message).hint("nothing was changed; look at the store's files"))
}

/// Reads files that were just written.
async fn sum_of(table: &Table, set: &Set, schema: &SchemaRef, files: &[AddedFile]) -> Result<RowSum> {
    let found = Arc::new(Mutex::new(RowSum::default()));
    let written = files.iter().map(LiveFile::from).collect();
    let mut rows = summed(rows_of(table, &set.values, written, schema), found.clone());
    while rows.next().await.transpose()?.is_some() {}
    let found = *found.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(found)
}

/// The rows of files, file by file, with the columns of `schema`.
fn rows_of(
    table: &Table,
    values: &PartitionValues,
    files: Vec<LiveFile>,
    schema: &SchemaRef,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (table, values, schema) = (table.clone(), values.clone(), schema.clone());
    let names: Arc<[String]> = schema.fields().iter().map(|f| f.name().clone()).collect();
    let opened = futures::stream::iter(files).map(move |file| {
        let (table, names) = (table.clone(), names.clone());
        async move {
            let columns: Vec<&str> = names.iter().map(String::as_str).collect();
            table.read_file(&file, &columns).await
        }
    });
    let batches = opened.buffered(OPENED_AHEAD).try_flatten();
    batches.map(move |batch| conform(&batch?, &values, &schema)).boxed()
}

/// The same rows; what has passed is added up.
fn summed(
    rows: BoxStream<'static, Result<RecordBatch>>,
    sum: Arc<Mutex<RowSum>>,
) -> BoxStream<'static, Result<RecordBatch>> {
    rows.map(move |batch| {
        let batch = batch?;
        sum.lock().unwrap_or_else(PoisonError::into_inner).merge(checksum::total(&batch, &[])?);
        Ok(batch)
    })
    .boxed()
}

/// Rows into files of a number of rows.
struct Writer<'t> {
    table: &'t Table,
    set: &'t Set,
    profile: FileProfile,
    file_bytes_max: usize,
    encoder: Option<FileEncoder>,
    rows: u64,
    files: Vec<AddedFile>,
}

impl<'t> Writer<'t> {
    fn new(table: &'t Table, set: &'t Set, manner: &Manner, schema: &SchemaRef) -> Self {
        let profile = FileProfile::new(schema.clone()).unique(UNIQUE).steady(STEADY);
        let file_bytes_max = manner.file_bytes_max;
        Self { table, set, profile, file_bytes_max, encoder: None, rows: 0, files: Vec::new() }
    }

    async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let room = usize::try_from(self.set.rows_per_file - self.rows).unwrap_or(usize::MAX);
            let some = batch.slice(from, room.min(batch.num_rows() - from));
            from += some.num_rows();
            self.rows += some.num_rows() as u64;
            let mut encoder = self.encoder.take().map_or_else(|| FileEncoder::new(&self.profile), Ok)?;
            let encoder = blocking(move || encoder.push(&some).map(|()| encoder)).await?;
            let full = self.rows >= self.set.rows_per_file || encoder.memory_bytes() >= self.file_bytes_max;
            self.encoder = Some(encoder);
            if full {
                self.end_file().await?;
            }
        }
        Ok(())
    }

    async fn end(mut self) -> Result<Vec<AddedFile>> {
        self.end_file().await?;
        Ok(self.files)
    }

    async fn end_file(&mut self) -> Result<()> {
        self.rows = 0;
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        let file: EncodedFile = blocking(move || encoder.finish()).await?;
        self.files.push(self.table.sink().put(self.set.values.clone(), file).await?);
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let broken = |e| Error::new(Stage::Upkeep, Class::Internal, "encoding a file broke down").because(e);
    tokio::task::spawn_blocking(work).await.map_err(broken)?
}

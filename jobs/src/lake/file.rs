//! Parquet files: rows into bytes on the caller's thread, bytes into the store in the background.
//!
//! [`FileEncoder`] blocks and belongs in a worker thread; [`FileSink`] is async. Between them an
//! [`EncodedFile`] is plain data. File names are unique, so an upload may be retried blindly.
//!
//! The profile was measured: zstd level 1; texts and bytes that hardly repeat are stored by length
//! without dictionary, instants and offsets as differences; a dictionary for the rest; statistics per
//! column chunk; row groups bounded by rows and by bytes, since the writer holds a whole one. Which
//! texts hardly repeat is seen in a file's first rows, where the profile does not say so.

use super::actions::PartitionValues;
use super::stats::{self, NanWatch};
use super::{schema, store};
use crate::{Class, Error, Result, Stage};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use deltalake::logstore::object_store::{self, ObjectStore, ObjectStoreExt, WriteMultipart, path::Path};
use hashbrown::HashSet;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const ROW_GROUP_ROWS_MAX: usize = 128 * 1024;
const ROW_GROUP_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Rows that must have been seen before texts are said to be unique.
const UNIQUE_ROWS_MIN: usize = 1_024;
/// Rows that are looked at.
const UNIQUE_ROWS_MAX: usize = 65_536;
/// Texts in statistics are cut to this many bytes, as Delta's other writers do.
const STATISTICS_BYTES_MAX: usize = 32;
/// Larger files are uploaded in parts of this size.
const PART_BYTES: usize = 8 * 1024 * 1024;
const PARTS_IN_FLIGHT: usize = 4;
const UPLOAD_ATTEMPTS: u32 = 4;
const UPLOAD_PAUSE: Duration = Duration::from_millis(200);
/// Longer partition values are cut in folders' names, which file systems limit to 255 bytes.
const FOLDER_BYTES_MAX: usize = 180;

/// How pages of files are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Codec {
    /// zstd, level 1.
    #[default]
    Zstd,
    /// Snappy, which every reader of Parquet knows.
    Snappy,
}

/// How the files of one table are written.
#[derive(Debug, Clone)]
pub struct FileProfile {
    schema: SchemaRef,
    unique: Vec<String>,
    steady: Vec<String>,
    room: usize,
    codec: Codec,
}

impl FileProfile {
    /// Files of `schema`: the table's columns without the partition columns.
    #[must_use]
    pub const fn new(schema: SchemaRef) -> Self {
        Self { schema, unique: Vec::new(), steady: Vec::new(), room: 0, codec: Codec::Zstd }
    }

    /// Text and binary columns (dotted) whose values hardly repeat: ids, payloads.
    #[must_use]
    pub fn unique<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.unique.extend(columns.into_iter().map(Into::into));
        self
    }

    /// Integer columns (dotted) that grow steadily: offsets. Timestamps always count as such.
    #[must_use]
    pub fn steady<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.steady.extend(columns.into_iter().map(Into::into));
        self
    }

    /// Makes room for a file of so many bytes at once: one that outgrows its memory is copied again and again.
    #[must_use]
    pub const fn room(mut self, bytes: usize) -> Self {
        self.room = bytes;
        self
    }

    /// Compresses pages so.
    #[must_use]
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// The file's columns.
    #[must_use]
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The same with those top-level texts as unique that hardly repeat in `first`: a dictionary of
    /// them costs much and is given up half way.
    fn seen_in(&self, first: &RecordBatch) -> Self {
        let texts = first.schema_ref().fields().iter().zip(first.columns()).filter(|(field, _)| {
            matches!(field.data_type(), DataType::Utf8 | DataType::Binary) && !self.unique.contains(field.name())
        });
        let unique = texts.filter(|(_, column)| hardly_repeats(column)).map(|(field, _)| field.name().clone());
        self.clone().unique(unique.collect::<Vec<_>>())
    }

    fn properties(&self) -> WriterProperties {
        let compression = match self.codec {
            Codec::Zstd => Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()),
            Codec::Snappy => Compression::SNAPPY,
        };
        let mut builder = WriterProperties::builder()
            .set_compression(compression)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_statistics_truncate_length(Some(STATISTICS_BYTES_MAX))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX));
        for field in self.schema.fields() {
            builder = self.encoding(builder, vec![field.name().clone()], field);
        }
        builder.build()
    }

    fn encoding(&self, builder: WriterPropertiesBuilder, path: Vec<String>, field: &Field) -> WriterPropertiesBuilder {
        let name = path.join(".");
        let encoding = match field.data_type() {
            DataType::Struct(fields) => {
                return fields.iter().fold(builder, |builder, child| {
                    let path = path.iter().chain([child.name()]).cloned().collect();
                    self.encoding(builder, path, child)
                });
            }
            DataType::Timestamp(..) => Encoding::DELTA_BINARY_PACKED,
            DataType::Int64 | DataType::Int32 if self.steady.contains(&name) => Encoding::DELTA_BINARY_PACKED,
            DataType::Utf8 | DataType::Binary if self.unique.contains(&name) => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            _ => return builder,
        };
        let path = ColumnPath::new(path);
        builder.set_column_dictionary_enabled(path.clone(), false).set_column_encoding(path, encoding)
    }
}

/// A whole Parquet file, not yet in the store.
#[derive(Debug, Clone)]
pub struct EncodedFile {
    /// The file.
    pub bytes: Bytes,
    /// Rows in it.
    pub rows: u64,
    /// Delta's statistics as JSON.
    pub stats: String,
}

/// Whether most values are there once, by those that come first. Too few rows say nothing.
fn hardly_repeats(column: &ArrayRef) -> bool {
    let column = column.slice(0, column.len().min(UNIQUE_ROWS_MAX));
    let rows = column.len() - column.null_count();
    let distinct: HashSet<&[u8]> = match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().iter().flatten().map(str::as_bytes).collect(),
        _ => column.as_binary::<i32>().iter().flatten().collect(),
    };
    rows >= UNIQUE_ROWS_MIN && distinct.len() * 4 > rows * 3
}

/// Encodes batches into one file; blocks.
#[derive(Debug)]
pub struct FileEncoder {
    profile: FileProfile,
    /// Begun with the first rows.
    writer: Option<ArrowWriter<Vec<u8>>>,
    nans: NanWatch,
}

impl FileEncoder {
    /// Begins a file.
    ///
    /// # Errors
    /// The schema holds a type that Delta does not.
    pub fn new(profile: &FileProfile) -> Result<Self> {
        schema::supported(&profile.schema)?;
        Ok(Self { profile: profile.clone(), writer: None, nans: NanWatch::default() })
    }

    /// Appends rows; their columns are the profile's.
    ///
    /// # Errors
    /// A column has another type, or a null where none may be.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = RecordBatch::try_new(self.profile.schema.clone(), batch.columns().to_vec()).map_err(|e| {
            Error::new(Stage::Lake, Class::Internal, "rows do not fit the schema of their file").because(e)
        })?;
        self.nans.observe(&batch);
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(begin(&self.profile.seen_in(&batch))?),
        };
        writer.write(&batch).map_err(parquet)
    }

    /// Bytes held: finished row groups and the one in progress.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.writer.as_ref().map_or(0, |writer| writer.inner().capacity() + writer.memory_size())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The encoder failed.
    pub fn finish(self) -> Result<EncodedFile> {
        let mut writer = self.writer.map_or_else(|| begin(&self.profile), Ok)?;
        let metadata = writer.finish().map_err(parquet)?;
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
        let stats = stats::of_file(&metadata, &self.profile.schema, &self.nans);
        let bytes = std::mem::take(writer.inner_mut()).into();
        Ok(EncodedFile { bytes, rows, stats })
    }
}

fn begin(profile: &FileProfile) -> Result<ArrowWriter<Vec<u8>>> {
    let room = Vec::with_capacity(profile.room);
    ArrowWriter::try_new(room, profile.schema.clone(), Some(profile.properties())).map_err(parquet)
}

/// Encodes all `batches` into one file; blocks.
///
/// # Errors
/// As [`FileEncoder`], and what the batches bring.
pub fn encode(profile: &FileProfile, batches: impl IntoIterator<Item = Result<RecordBatch>>) -> Result<EncodedFile> {
    let mut encoder = FileEncoder::new(profile)?;
    for batch in batches {
        encoder.push(&batch?)?;
    }
    encoder.finish()
}

/// A file in the store that no commit names yet.
#[derive(Debug, Clone)]
pub struct AddedFile {
    /// Path below the table, as the log spells it: a relative URL.
    pub path: String,
    /// Values of the partition columns.
    pub partition_values: PartitionValues,
    /// Bytes.
    pub size: u64,
    /// Rows.
    pub rows: u64,
    /// Delta's statistics as JSON.
    pub stats: String,
}

/// Puts files of one table into the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FileSink {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) table: String,
    pub(super) partition_columns: Arc<[String]>,
}

impl FileSink {
    /// Puts `file` into the store, with retries.
    ///
    /// # Errors
    /// The partition values are not those of the table's partition columns, or the store fails.
    pub async fn put(&self, mut partition_values: PartitionValues, file: EncodedFile) -> Result<AddedFile> {
        if !partition_values.keys().eq(self.partition_columns.iter().collect::<std::collections::BTreeSet<_>>()) {
            let message = format!("table `{}`: a file needs values of {:?}", self.table, self.partition_columns);
            return Err(Error::new(Stage::Lake, Class::Internal, message));
        }
        // Delta reads an empty partition value as null, so the log must not say anything else
        partition_values.values_mut().for_each(|value| *value = value.take().filter(|v| !v.is_empty()));
        let path = file_path(&self.partition_columns, &partition_values);
        let location = Path::parse(format!("{}/{path}", self.path)).map_err(|e| {
            let message = format!("table `{}`: `{path}` is no path", self.table);
            Error::new(Stage::Lake, Class::Internal, message).because(e)
        })?;
        self.upload(&location, &file.bytes).await.map_err(|e| {
            store::error(format!("table `{}`: cannot write `{path}` ({} bytes)", self.table, file.bytes.len()), e)
        })?;
        Ok(AddedFile {
            path: log_path(&path),
            partition_values,
            size: file.bytes.len() as u64,
            rows: file.rows,
            stats: file.stats,
        })
    }

    async fn upload(&self, location: &Path, bytes: &Bytes) -> object_store::Result<()> {
        let mut attempt = 1;
        loop {
            match self.upload_once(location, bytes).await {
                Err(e) if attempt < UPLOAD_ATTEMPTS && matches!(e, object_store::Error::Generic { .. }) => {
                    tracing::debug!(table = self.table, path = %location, attempt, error = %e, "upload again");
                    tokio::time::sleep(UPLOAD_PAUSE * 2u32.pow(attempt)).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn upload_once(&self, location: &Path, bytes: &Bytes) -> object_store::Result<()> {
        if bytes.len() <= PART_BYTES {
            return self.store.put(location, bytes.clone().into()).await.map(|_| ());
        }
        let mut upload = WriteMultipart::new_with_chunk_size(self.store.put_multipart(location).await?, PART_BYTES);
        for start in (0..bytes.len()).step_by(PART_BYTES) {
            upload.wait_for_capacity(PARTS_IN_FLIGHT).await?;
            upload.put(bytes.slice(start..bytes.len().min(start + PART_BYTES)));
        }
        upload.finish().await.map(|_| ())
    }
}

/// `event_date=2026-01-05/part-<uuid>.zstd.parquet`, as the store spells it. Values are in the log, but
/// Polars reads them from the folders' names, escaped as Hive does, so they are spelled there too.
fn file_path(columns: &[String], values: &PartitionValues) -> String {
    let folders = columns.iter().map(|column| match values.get(column) {
        Some(Some(value)) => format!("{}={}/", escape(column), escape(value)),
        _ => format!("{}=__HIVE_DEFAULT_PARTITION__/", escape(column)),
    });
    folders.chain([format!("part-{}.zstd.parquet", Uuid::now_v7())]).collect()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        if out.len() >= FOLDER_BYTES_MAX {
            break;
        }
    }
    out
}

/// The log holds URLs, so what is escaped in the store is escaped twice in the log.
fn log_path(path: &str) -> String {
    path.replace('%', "%25")
}

fn parquet(source: ParquetError) -> Error {
    Error::new(Stage::Lake, Class::Internal, "cannot encode a Parquet file").because(source)
}

/// The columns that files of a table carry: all but the partition columns.
#[must_use]
pub fn file_schema(table: &Schema, partition_columns: &[String]) -> SchemaRef {
    let fields: Vec<_> = table.fields().iter().filter(|f| !partition_columns.contains(f.name())).cloned().collect();
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
    use parquet::file::reader::{FileReader, SerializedFileReader};

    fn batch(rows: i64) -> RecordBatch {
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("id-{i:08}"))));
        let camera: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("cam{}", i % 3))));
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(0..rows).with_timezone("UTC"));
        let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("id", ids), ("camera", camera), ("t", times), ("_offset", offsets)]).unwrap()
    }

    #[test]
    fn the_profile_reaches_the_file() {
        let batch = batch(200_000);
        let profile = FileProfile::new(batch.schema()).unique(["id"]).steady(["_offset"]);
        let file = encode(&profile, [Ok(batch)]).unwrap();
        assert_eq!(file.rows, 200_000);
        let reader = SerializedFileReader::new(file.bytes).unwrap();
        assert_eq!(reader.metadata().row_group(0).num_rows(), ROW_GROUP_ROWS_MAX as i64);
        assert_eq!(reader.num_row_groups(), 2);
        let encodings = |i: usize| reader.metadata().row_group(0).column(i).encodings().collect::<Vec<_>>();
        assert!(encodings(0).contains(&Encoding::DELTA_LENGTH_BYTE_ARRAY));
        assert!(encodings(1).contains(&Encoding::RLE_DICTIONARY));
        assert!(encodings(2).contains(&Encoding::DELTA_BINARY_PACKED));
        assert!(encodings(3).contains(&Encoding::DELTA_BINARY_PACKED));
        for column in [0, 2, 3] {
            assert!(reader.metadata().row_group(0).column(column).dictionary_page_offset().is_none());
        }
    }

    #[test]
    fn rows_of_another_type_are_refused() {
        let mut encoder = FileEncoder::new(&FileProfile::new(batch(1).schema())).unwrap();
        let other = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
        assert!(encoder.push(&other).is_err());
    }

    #[test]
    fn folders_are_escaped_once_in_the_store_and_twice_in_the_log() {
        let columns = ["d".to_owned(), "city".to_owned()];
        for (value, folder) in [
            (Some("a b/c%20ü"), "d=2026-01-05/city=a%20b%2Fc%2520%C3%BC/part-"),
            (None, "d=2026-01-05/city=__HIVE_DEFAULT_PARTITION__/part-"),
            (Some(".."), "d=2026-01-05/city=../part-"),
        ] {
            let values = PartitionValues::from([
                ("d".into(), Some("2026-01-05".into())),
                ("city".into(), value.map(Into::into)),
            ]);
            let path = file_path(&columns, &values);
            assert!(path.starts_with(folder), "{path}");
            assert_eq!(Path::from_url_path(log_path(&path)).unwrap().as_ref(), path, "the log's URL leads to the file");
        }
    }

    #[test]
    fn a_folder_name_stays_within_what_file_systems_take() {
        let path = file_path(&["c".to_owned()], &PartitionValues::from([("c".into(), Some("ї".repeat(500)))]));
        assert!(path.split('/').all(|part| part.len() < 200), "{path}");
    }
}

//! Parquet and Avro: each row is the JSON object of its columns, in the spelling of [`super::json_values`].
//!
//! Only columns of the contract are read, unless the pipeline wants to know of others. A null is an absent field.
//! Where the contract wants any JSON value and the file has a text, the text is the JSON, as raw keeps it.
//!
//! The Avro library takes a file that ends anywhere for a whole one, so [`count_avro`] walks over the blocks first.

use super::bytes::Source;
use super::json_values;
use super::source::{BATCH_BYTES, RowBatch, Rows};
use crate::error::Result;
use crate::project::contract::{Kind, Source as From};
use crate::project::settings::{ExtraFields, Pipeline};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::EncoderOptions;
use arrow::json::writer::{NullableEncoder, make_encoder};
use arrow_avro::reader::ReaderBuilder;
use deltaworks_core::reason::{Reason, Refusal};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::io::{self, BufReader, Read};

/// Rows of an Arrow batch, where they are small.
const ROWS_MAX: usize = 2_048;
/// Bytes that all columns together are read ahead.
const AHEAD_BYTES: u64 = 32 << 20;
/// Least and greatest bytes that one column is read ahead.
const COLUMN_BYTES: (u64, u64) = (64 << 10, 1 << 20);

/// A file with types of its own.
pub(super) struct TypedFile {
    pub(super) schema: SchemaRef,
    /// How many rows there must be.
    rows: Option<u64>,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
}

/// Opens a Parquet file.
///
/// # Errors
/// It cannot be read, or is none.
pub(super) fn parquet(source: &Source, pipeline: &Pipeline) -> Result<TypedFile> {
    let broken = |e: parquet::errors::ParquetError| source.broken(e);
    // types as the file itself says, not as some Arrow program had them
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = ArrowReaderMetadata::load(&source.random(4, COLUMN_BYTES.0), options).map_err(broken)?;
    let file = metadata.metadata().file_metadata();
    let wanted: Vec<usize> = wanted(metadata.schema(), pipeline);
    let mask = ProjectionMask::roots(file.schema_descr(), wanted);
    let leaves = (0..file.schema_descr().num_columns()).filter(|leaf| mask.leaf_included(*leaf)).count().max(1);
    let block = (AHEAD_BYTES / leaves as u64).clamp(COLUMN_BYTES.0, COLUMN_BYTES.1);
    let rows = u64::try_from(file.num_rows()).unwrap_or(0);
    let bytes: i64 = metadata.metadata().row_groups().iter().map(|group| group.total_byte_size()).sum();
    let row_bytes = (u64::try_from(bytes).unwrap_or(0) / rows.max(1)).max(1);
    let batch_rows = (BATCH_BYTES as u64 / row_bytes).clamp(16, ROWS_MAX as u64) as usize;
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(source.random(leaves + 2, block), metadata)
        .with_projection(mask)
        .with_batch_size(batch_rows)
        .build()
        .map_err(broken)?;
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    Ok(TypedFile { schema, rows: Some(rows), batches: Box::new(reader) })
}

/// Opens an Avro container file.
///
/// # Errors
/// It cannot be read, or is none.
pub(super) fn avro(source: &Source, pipeline: &Pipeline) -> Result<TypedFile> {
    let broken = |e: ArrowError| source.broken(e);
    let reader = BufReader::with_capacity(256 << 10, source.stream());
    let reader = ReaderBuilder::new().with_batch_size(ROWS_MAX).build(reader).map_err(broken)?;
    let wanted = wanted(&reader.schema(), pipeline);
    let schema = reader.schema().project(&wanted).map_err(broken)?;
    let batches = reader.map(move |batch| batch?.project(&wanted));
    Ok(TypedFile { schema: schema.into(), rows: None, batches: Box::new(batches) })
}

/// Numbers of the columns that are read.
fn wanted(schema: &SchemaRef, pipeline: &Pipeline) -> Vec<usize> {
    let placed = |from: &From| matches!(from, From::Topic | From::Partition | From::Offset);
    let known = |name: &str| pipeline.contract.columns.iter().any(|c| c.name == name && !placed(&c.source));
    let all = pipeline.extra_fields != ExtraFields::Ignore;
    schema.fields().iter().enumerate().filter(|(_, f)| all || known(f.name())).map(|(index, _)| index).collect()
}

/// The rows of a typed file.
pub(super) struct TypedRows {
    source: Source,
    file: TypedFile,
    /// Per column, whether its texts are JSON.
    texts_are_json: Vec<bool>,
    options: EncoderOptions,
    number: i64,
    /// Rows of the last batch that found no room: each with its refusal, if it has one.
    waiting: VecDeque<(Vec<u8>, Option<Refusal>)>,
}

impl TypedRows {
    /// The rows for the contract of `pipeline`.
    pub(super) fn new(source: Source, file: TypedFile, pipeline: &Pipeline) -> Self {
        let is_json = |field: &FieldRef| {
            let column = pipeline.contract.columns.iter().find(|c| c.name == *field.name());
            let text = matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            text && column.is_some_and(|c| matches!(c.kind, Kind::Json))
        };
        let texts_are_json = file.schema.fields().iter().map(is_json).collect();
        Self { source, file, texts_are_json, options: json_values::options(), number: 0, waiting: VecDeque::new() }
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let schema = batch.schema();
        let mut columns = Vec::with_capacity(batch.num_columns());
        for ((field, array), is_json) in schema.fields().iter().zip(batch.columns()).zip(&self.texts_are_json) {
            let mut key = serde_json::Value::from(field.name().as_str()).to_string().into_bytes();
            key.push(b':');
            let value = if *is_json {
                Value::Json(field.name(), array)
            } else {
                Value::Typed(make_encoder(field, array.as_ref(), &self.options)?)
            };
            columns.push((key, value));
        }
        for row in 0..batch.num_rows() {
            let mut json = vec![b'{'];
            let mut refusal = None;
            for (key, value) in &mut columns {
                if value.is_null(row) {
                    continue;
                }
                if json.len() > 1 {
                    json.push(b',');
                }
                json.extend_from_slice(key);
                if let Err(refused) = value.write(row, &mut json) {
                    refusal.get_or_insert(refused);
                }
            }
            json.push(b'}');
            self.waiting.push_back((json, refusal));
        }
        Ok(())
    }
}

enum Value<'a> {
    Typed(NullableEncoder<'a>),
    Json(&'a str, &'a ArrayRef),
}

impl Value<'_> {
    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Typed(encoder) => encoder.is_null(row),
            Self::Json(_, array) => array.is_null(row),
        }
    }

    fn write(&mut self, row: usize, json: &mut Vec<u8>) -> Result<(), Refusal> {
        let (name, array) = match self {
            Self::Typed(encoder) => {
                encoder.encode(row, json);
                return Ok(());
            }
            Self::Json(name, array) => (*name, *array),
        };
        let text = match array.data_type() {
            DataType::LargeUtf8 => array.as_string::<i64>().value(row),
            DataType::Utf8View => array.as_string_view().value(row),
            _ => array.as_string::<i32>().value(row),
        };
        match serde_json::from_str::<&RawValue>(text) {
            Ok(token) => json.extend_from_slice(token.get().as_bytes()),
            Err(_) => {
                // writing to memory cannot fail
                let _ = serde_json::to_writer(json, text);
                return Err(Refusal::at(Reason::WrongType, name, "expected a JSON value, found other text"));
            }
        }
        Ok(())
    }
}

impl Rows for TypedRows {
    fn fill(&mut self, batch: &mut RowBatch) -> Result<bool> {
        while !batch.is_full() {
            if let Some((json, refusal)) = self.waiting.pop_front() {
                match refusal {
                    Some(refusal) => batch.refuse(self.number, &json, refusal),
                    None => batch.push(self.number, &json),
                }
                self.number += 1;
                continue;
            }
            match self.file.batches.next() {
                Some(rows) => {
                    let rows = rows.map_err(|e| self.source.broken(e))?;
                    self.take(&rows)
                        .map_err(|e| self.source.refused("has values of a type that JSON cannot say").because(e))?;
                }
                None if self.file.rows.is_some_and(|rows| i64::try_from(rows) != Ok(self.number)) => {
                    return Err(self.source.broken("it has another number of rows than it says"));
                }
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Walks over the blocks of an Avro container file and counts their rows.
///
/// # Errors
/// It is no such file, or does not end with a whole block.
pub(super) fn count_avro(reader: &mut impl Read) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    if bytes::<4>(&mut reader)? != *b"Obj\x01" {
        return Err(invalid("it does not begin as an Avro container file does"));
    }
    loop {
        let pairs = match long(&mut reader)? {
            0 => break,
            // then the size of the block in bytes comes next
            negative if negative < 0 => {
                long(&mut reader)?;
                negative.unsigned_abs()
            }
            pairs => pairs.unsigned_abs(),
        };
        for _ in 0..pairs.saturating_mul(2) {
            let length = length(&mut reader)?;
            pass(&mut reader, length)?;
        }
    }
    let mark = bytes::<16>(&mut reader)?;
    let mut rows = 0u64;
    loop {
        if io::BufRead::fill_buf(&mut reader)?.is_empty() {
            return Ok(rows);
        }
        rows = rows.saturating_add(length(&mut reader)?);
        let length = length(&mut reader)?;
        pass(&mut reader, length)?;
        if bytes::<16>(&mut reader)? != mark {
            return Err(invalid("a block does not end with the file's mark"));
        }
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn bytes<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut found = [0; N];
    reader.read_exact(&mut found)?;
    Ok(found)
}

fn pass(reader: &mut impl Read, length: u64) -> io::Result<()> {
    let passed = io::copy(&mut reader.take(length), &mut io::sink())?;
    if passed == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn length(reader: &mut impl Read) -> io::Result<u64> {
    u64::try_from(long(reader)?).map_err(|_| invalid("a length is negative"))
}

/// A variable-length zig-zag number.
fn long(reader: &mut impl Read) -> io::Result<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = bytes::<1>(reader)?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err(invalid("a number has too many bytes"))
}

//! Rows in the formats that people and programs read.
//!
//! Every format is written as the rows come, so a result of any size needs the memory of a few
//! batches. A reader that closes its end (`| head`) ends the writing without an error.

use super::query::Rows;
use crate::error::{Class, Error, Result, Stage};
use arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{EncoderOptions, LineDelimited, make_encoder};
use arrow::util::pretty::pretty_format_batches;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows that one printed table holds; longer results are several tables, one below the other, since
/// the width of a column is known only when all its rows are.
const TABLE_ROWS_MAX: usize = 1_000;

/// Rows of one Parquet row group.
const ROW_GROUP_ROWS_MAX: usize = 128 * 1_024;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Table,
    /// One JSON object a line; nulls are written, bytes as hexadecimal text.
    Json,
    /// CSV with a header; nulls are empty, nested values JSON text, bytes hexadecimal text.
    Csv,
    /// A Parquet file, zstd.
    Parquet,
    /// An Arrow IPC stream.
    Arrow,
}

/// Writes all rows; returns how many.
///
/// # Errors
/// What the query reports, or [`Class::Outside`] if `out` cannot be written to.
pub async fn write(mut rows: Rows, format: Format, out: impl Write + Send) -> Result<u64> {
    let closed = AtomicBool::new(false);
    let out = Pipe { out, closed: &closed };
    let schema = rows.schema();
    let mut sink = match Sink::new(format, &schema, out) {
        Ok(sink) => sink,
        Err(e) => return ended(&closed, 0, e),
    };
    let mut count = 0;
    while let Some(batch) = rows.next().await? {
        if let Err(e) = sink.write(&batch) {
            return ended(&closed, count, e);
        }
        count += batch.num_rows() as u64;
    }
    match sink.finish() {
        Ok(()) => Ok(count),
        Err(e) => ended(&closed, count, e),
    }
}

fn ended(closed: &AtomicBool, count: u64, error: ArrowError) -> Result<u64> {
    if closed.load(Ordering::Relaxed) {
        return Ok(count);
    }
    Err(Error::new(Stage::Query, Class::Outside, "the rows cannot be written").because(error))
}

/// An output that remembers whether its reader has gone.
struct Pipe<'c, W> {
    out: W,
    closed: &'c AtomicBool,
}

impl<W> Pipe<'_, W> {
    fn note<T>(&self, result: std::io::Result<T>) -> std::io::Result<T> {
        if matches!(&result, Err(e) if e.kind() == ErrorKind::BrokenPipe) {
            self.closed.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl<W: Write> Write for Pipe<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes);
        self.note(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        let flushed = self.out.flush();
        self.note(flushed)
    }
}

enum Sink<W: Write + Send> {
    Table { out: W, schema: SchemaRef, held: Vec<RecordBatch>, rows: usize, any: bool },
    Json(arrow::json::Writer<W, LineDelimited>),
    Csv(arrow::csv::Writer<W>, SchemaRef),
    Parquet(ArrowWriter<W>),
    Arrow(StreamWriter<W>),
}

impl<W: Write + Send> Sink<W> {
    fn new(format: Format, schema: &SchemaRef, out: W) -> Result<Self, ArrowError> {
        Ok(match format {
            Format::Table => Self::Table { out, schema: Arc::clone(schema), held: Vec::new(), rows: 0, any: false },
            Format::Json => Self::Json(arrow::json::WriterBuilder::new().with_explicit_nulls(true).build(out)),
            Format::Csv => {
                let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(out);
                let flat = flat_schema(schema);
                // a result without rows has its header too
                writer.write(&RecordBatch::new_empty(Arc::clone(&flat)))?;
                Self::Csv(writer, flat)
            }
            Format::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
                    .build();
                Self::Parquet(ArrowWriter::try_new(out, Arc::clone(schema), Some(properties))?)
            }
            Format::Arrow => Self::Arrow(StreamWriter::try_new(out, schema)?),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        match self {
            Self::Table { out, schema, held, rows, any } => {
                let mut rest = batch.clone();
                while *rows + rest.num_rows() > TABLE_ROWS_MAX {
                    let fits = TABLE_ROWS_MAX - *rows;
                    held.push(rest.slice(0, fits));
                    rest = rest.slice(fits, rest.num_rows() - fits);
                    print(out, schema, held)?;
                    (*rows, *any) = (0, true);
                }
                *rows += rest.num_rows();
                held.push(rest);
                Ok(())
            }
            Self::Json(writer) => writer.write(batch),
            Self::Csv(writer, flat) => writer.write(&flatten(batch, flat)?),
            Self::Parquet(writer) => Ok(writer.write(batch)?),
            Self::Arrow(writer) => writer.write(batch),
        }
    }

    fn finish(self) -> Result<(), ArrowError> {
        match self {
            Self::Table { mut out, schema, mut held, rows, any } => {
                if rows > 0 || !any {
                    print(&mut out, &schema, &mut held)?;
                }
                Ok(out.flush()?)
            }
            Self::Json(mut writer) => {
                writer.finish()?;
                Ok(writer.into_inner().flush()?)
            }
            Self::Csv(writer, _) => Ok(writer.into_inner().flush()?),
            Self::Parquet(writer) => Ok(writer.into_inner()?.flush()?),
            Self::Arrow(writer) => Ok(writer.into_inner()?.flush()?),
        }
    }
}

fn print(out: &mut impl Write, schema: &SchemaRef, held: &mut Vec<RecordBatch>) -> Result<(), ArrowError> {
    if held.is_empty() {
        held.push(RecordBatch::new_empty(Arc::clone(schema)));
    }
    writeln!(out, "{}", pretty_format_batches(held)?)?;
    held.clear();
    Ok(())
}

/// The schema with nested columns as text.
fn flat_schema(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let kind = if field.data_type().is_nested() { DataType::Utf8 } else { field.data_type().clone() };
        Field::new(field.name(), kind, true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn flatten(batch: &RecordBatch, flat: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if !field.data_type().is_nested() {
            return Ok(Arc::clone(column));
        }
        let options = EncoderOptions::default().with_explicit_nulls(true);
        let mut encoder = make_encoder(field, column, &options)?;
        let mut texts = StringBuilder::new();
        let mut text = Vec::new();
        for row in 0..column.len() {
            if column.is_null(row) {
                texts.append_null();
                continue;
            }
            text.clear();
            encoder.encode(row, &mut text);
            texts.append_value(String::from_utf8_lossy(&text));
        }
        Ok(Arc::new(texts.finish()) as ArrayRef)
    });
    RecordBatch::try_new(Arc::clone(flat), columns.collect::<Result<_, ArrowError>>()?)
}

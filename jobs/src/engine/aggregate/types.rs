//! From the types that DataFusion computes in to those that every Delta reader knows, and back.
//!
//! Invariant D1: a cast either keeps every value or is an error; nothing becomes null or wraps.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use std::sync::Arc;

/// The type in which a Delta table holds these values; `None` if it cannot.
pub(super) fn delta_type(of: &DataType) -> Option<DataType> {
    Some(match of {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32 => of.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        // counts: those above 2^63 are an error when they come
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            DataType::List(Arc::new(Field::new("element", delta_type(item.data_type())?, true)))
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|f| Some(Field::new(f.name(), delta_type(f.data_type())?, f.is_nullable())));
            DataType::Struct(fields.collect::<Option<Vec<_>>>()?.into())
        }
        DataType::Dictionary(_, values) => delta_type(values)?,
        _ => return None,
    })
}

/// The columns in the types of `schema`, under its names.
pub(super) fn cast(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns =
        batch.columns().iter().zip(schema.fields()).map(|(column, field)| cast_column(column, field.data_type()));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<_, _>>()?, &options)
}

fn cast_column(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() })
}

/// What states are kept in: `g00`, … for the window and the keys, `s000`, … for the states. DataFusion's
/// own names hold the user's text and may occur twice. `None` if a state cannot be held.
pub(super) fn stored_schema(states: &Schema, groups: usize) -> Option<SchemaRef> {
    let fields = states.fields().iter().enumerate().map(|(i, field)| {
        let name = if i < groups { format!("g{i:02}") } else { format!("s{:03}", i - groups) };
        Some(Field::new(name, delta_type(field.data_type())?, i > 0))
    });
    Some(Arc::new(Schema::new(fields.collect::<Option<Vec<_>>>()?)))
}

//! The Arrow schemas of landing: a contract's columns, the raw table, the rejects table.
//!
//! Decides types and nullability, nothing else. The order here is the order in which a table is
//! created; a table that grew later may hold its columns in another one, so go by name.
//!
//! Invariants: S1 a column is nullable unless the contract requires it; S2 only types that every
//! Delta reader knows: signed integers, UTC microseconds, list items named `element`.

use crate::project::contract::{Column, Contract, Kind};
use crate::project::settings::{ExtraFields, Pipeline};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;

/// Name of the column that keeps the fields that the contract does not know, as one JSON object.
pub const EXTRA: &str = "_extra";

/// The type of every instant: microseconds, UTC.
#[must_use]
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The contract's columns in its order, then [`EXTRA`] if it is kept: what a decoder returns.
#[must_use]
pub fn contract_fields(contract: &Contract, keep_extra: bool) -> Vec<Field> {
    let mut fields: Vec<Field> = contract.columns.iter().map(column_field).collect();
    if keep_extra {
        fields.push(Field::new(EXTRA, DataType::Utf8, true));
    }
    fields
}

/// The raw table of a pipeline: the contract's columns, the place and what landing decided about
/// the row, `_extra` if it is kept, and `event_date` last.
#[must_use]
pub fn raw_schema(pipeline: &Pipeline) -> SchemaRef {
    let mut fields = contract_fields(&pipeline.contract, false);
    fields.extend([
        Field::new("_topic", DataType::Utf8, false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_kafka_time", timestamp_type(), true),
        Field::new("_behind_ms", DataType::Int64, true),
        Field::new("_repeat", DataType::Boolean, true),
        Field::new("_fill", DataType::Int64, true),
    ]);
    if pipeline.extra_fields == ExtraFields::Keep {
        fields.push(Field::new(EXTRA, DataType::Utf8, true));
    }
    fields.push(Field::new("event_date", DataType::Date32, false));
    Arc::new(Schema::new(fields))
}

/// The rejects table, the same for every pipeline. `headers` is a JSON array of `[name, value]`
/// pairs; `_fill` is null where the stream judged the message, else the fill that did; `resolution` is null
/// in the table: what becomes of a reject is told elsewhere, rows are never changed.
#[must_use]
pub fn rejects_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("_topic", DataType::Utf8, false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_kafka_time", timestamp_type(), true),
        Field::new("key", DataType::Binary, true),
        Field::new("payload", DataType::Binary, true),
        Field::new("headers", DataType::Utf8, true),
        Field::new("reason", DataType::Utf8, false),
        Field::new("field", DataType::Utf8, true),
        Field::new("detail", DataType::Utf8, false),
        Field::new("contract_version", DataType::Utf8, false),
        Field::new("rejected_at", timestamp_type(), false),
        Field::new("resolution", DataType::Utf8, true),
        Field::new("_fill", DataType::Int64, true),
        Field::new("reject_date", DataType::Date32, false),
    ]))
}

/// One column of a contract as an Arrow field, nested ones included.
#[must_use]
pub fn column_field(column: &Column) -> Field {
    Field::new(&column.name, kind_type(&column.kind), !column.required)
}

/// The item of an array: always named `element`, nullable unless the contract requires it.
#[must_use]
pub fn element_field(item: &Column) -> Field {
    Field::new("element", kind_type(&item.kind), !item.required)
}

fn kind_type(kind: &Kind) -> DataType {
    match kind {
        Kind::String | Kind::Json => DataType::Utf8,
        Kind::Integer => DataType::Int64,
        Kind::Double => DataType::Float64,
        Kind::Float => DataType::Float32,
        Kind::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
        Kind::Boolean => DataType::Boolean,
        Kind::Date => DataType::Date32,
        Kind::Timestamp(_) => timestamp_type(),
        Kind::Object(columns) => DataType::Struct(columns.iter().map(column_field).collect::<Fields>()),
        Kind::Array(item) => DataType::List(Arc::new(element_field(item))),
    }
}

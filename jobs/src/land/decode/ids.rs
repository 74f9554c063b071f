//! Hashes of event ids that were landed before: the same as the decoder gives.

use crate::error::{Class, Error, Result, Stage};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use xxhash_rust::xxh3::xxh3_128;

/// Hashes of one id column, row by row; `None` where it is null.
///
/// # Errors
/// Only if the column is missing or of a type that no contract makes, which is a bug.
pub fn id_hashes(batch: &RecordBatch, column: &str) -> Result<Vec<Option<u128>>> {
    let wrong = || Error::new(Stage::Land, Class::Internal, format!("column `{column}` cannot be an event id"));
    let array = batch.column_by_name(column).ok_or_else(wrong)?;
    let hash: Box<dyn Fn(usize) -> u128> = match array.data_type() {
        DataType::Utf8 => {
            let a = array.as_string::<i32>();
            Box::new(move |row| xxh3_128(a.value(row).as_bytes()))
        }
        DataType::Int64 => {
            let a = array.as_primitive::<Int64Type>();
            Box::new(move |row| xxh3_128(&a.value(row).to_le_bytes()))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let a = array.as_primitive::<TimestampMicrosecondType>();
            Box::new(move |row| xxh3_128(&a.value(row).to_le_bytes()))
        }
        DataType::Decimal128(..) => {
            let a = array.as_primitive::<Decimal128Type>();
            Box::new(move |row| xxh3_128(&a.value(row).to_le_bytes()))
        }
        DataType::Date32 => {
            let a = array.as_primitive::<Date32Type>();
            Box::new(move |row| xxh3_128(&a.value(row).to_le_bytes()))
        }
        DataType::Float64 => {
            let a = array.as_primitive::<Float64Type>();
            Box::new(move |row| xxh3_128(&(a.value(row) + 0.0).to_le_bytes()))
        }
        DataType::Float32 => {
            let a = array.as_primitive::<Float32Type>();
            Box::new(move |row| xxh3_128(&(a.value(row) + 0.0).to_le_bytes()))
        }
        DataType::Boolean => {
            let a = array.as_boolean();
            Box::new(move |row| xxh3_128(&[u8::from(a.value(row))]))
        }
        _ => return Err(wrong()),
    };
    Ok((0..array.len()).map(|row| array.is_valid(row).then(|| hash(row))).collect())
}

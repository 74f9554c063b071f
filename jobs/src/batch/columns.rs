//! A file's columns as they are wanted: by name, whatever the file's age or its writer.
//!
//! Partition columns are in no file, a file older than a column lacks it, and other writers store texts
//! and lists in other Arrow types. Invariant K1: values are never changed; what does not fit is an error.

use crate::error::{Class, Error, Result, Stage};
use crate::lake::PartitionValues;
use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray, StructArray,
    TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use std::sync::Arc;

/// The columns of `wanted`, of a batch of a file with these partition values.
///
/// # Errors
/// A column cannot be given the wanted type, or has nulls where none may be.
pub fn conform(batch: &RecordBatch, partition: &PartitionValues, wanted: &SchemaRef) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let columns = wanted.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => conform_array(column, field.data_type()),
        None => constant(partition.get(field.name()).and_then(Option::as_deref), field.data_type(), rows),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let columns = columns.collect::<Result<Vec<_>, _>>();
    columns
        .and_then(|columns| RecordBatch::try_new_with_options(wanted.clone(), columns, &options))
        .map_err(|e| Error::new(Stage::Batch, Class::Internal, "the columns of a file do not fit its table").because(e))
}

/// The event times of a batch, microseconds; `path` leads to their column through structs.
///
/// # Errors
/// There is no such column, which is a bug.
pub fn event_times(batch: &RecordBatch, path: &[String]) -> Result<TimestampMicrosecondArray> {
    let (first, below) = path.split_first().map_or(("", path), |(first, below)| (first.as_str(), below));
    let column = batch.column_by_name(first);
    let column = below.iter().fold(column, |column, name| column?.as_struct_opt()?.column_by_name(name));
    column.and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>()).cloned().ok_or_else(|| missing(first))
}

/// A column of a primitive type.
///
/// # Errors
/// There is no such column, which is a bug.
pub fn primitive<'b, T: ArrowPrimitiveType>(batch: &'b RecordBatch, name: &str) -> Result<&'b PrimitiveArray<T>> {
    batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<T>()).ok_or_else(|| missing(name))
}

/// A column of texts.
///
/// # Errors
/// There is no such column, which is a bug.
pub fn texts<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b StringArray> {
    batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>()).ok_or_else(|| missing(name))
}

/// The columns of `schema` that are named.
#[must_use]
pub fn named<'n>(schema: &SchemaRef, names: impl IntoIterator<Item = &'n str>) -> SchemaRef {
    let names: Vec<&str> = names.into_iter().collect();
    let fields = schema.fields().iter().filter(|f| names.contains(&f.name().as_str())).cloned();
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn missing(name: &str) -> Error {
    Error::new(Stage::Batch, Class::Internal, format!("rows lack the column `{name}`, or it has another type"))
}

fn conform_array(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == wanted {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), wanted) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let have = array.as_struct();
            let children = fields.iter().map(|field| match have.column_by_name(field.name()) {
                Some(child) => conform_array(child, field.data_type()),
                None => Ok(new_null_array(field.data_type(), have.len())),
            });
            let children = children.collect::<Result<Vec<_>, _>>()?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), children, have.nulls().cloned())?))
        }
        (DataType::List(_), DataType::List(item)) => {
            let have = array.as_list::<i32>();
            let values = conform_array(have.values(), item.data_type())?;
            Ok(Arc::new(ListArray::try_new(item.clone(), have.offsets().clone(), values, have.nulls().cloned())?))
        }
        _ => cast_with_options(array, wanted, &CastOptions { safe: false, ..CastOptions::default() }),
    }
}

/// A column of one value, spelled as Delta spells partition values.
fn constant(value: Option<&str>, wanted: &DataType, rows: usize) -> Result<ArrayRef, ArrowError> {
    let Some(value) = value else { return Ok(new_null_array(wanted, rows)) };
    let one: ArrayRef = Arc::new(StringArray::from(vec![value]));
    let one = cast_with_options(&one, wanted, &CastOptions { safe: false, ..CastOptions::default() })?;
    take(&one, &UInt32Array::from(vec![0; rows]), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Int64Array, LargeStringArray};
    use arrow::datatypes::Field;

    #[test]
    fn missing_partition_and_foreign_columns_are_made_to_fit() {
        let deep = |fields: Vec<Field>| DataType::Struct(fields.into());
        let x: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let old = StructArray::try_new(vec![Field::new("x", DataType::Int64, true)].into(), vec![x], None).unwrap();
        let text: ArrayRef = Arc::new(LargeStringArray::from(vec![Some("a"), None]));
        let batch = RecordBatch::try_from_iter([("text", text), ("s", Arc::new(old) as ArrayRef)]).unwrap();
        let new = deep(vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)]);
        let wanted = Arc::new(Schema::new(vec![
            Field::new("event_date", DataType::Date32, false),
            Field::new("text", DataType::Utf8, true),
            Field::new("s", new, true),
            Field::new("later", DataType::Int64, true),
        ]));
        let partition = PartitionValues::from([("event_date".into(), Some("1970-01-03".into()))]);
        let got = conform(&batch, &partition, &wanted).unwrap();
        assert_eq!(got.column(0).as_ref(), &Date32Array::from(vec![2, 2]));
        assert_eq!(got.column(1).as_ref(), &StringArray::from(vec![Some("a"), None]));
        let s = got.column(2).as_struct();
        assert_eq!(s.column(0).as_ref(), &Int64Array::from(vec![1, 2]));
        assert_eq!((s.column(1).null_count(), got.column(3).null_count()), (2, 2));
    }

    #[test]
    fn a_null_where_none_may_be_and_a_text_for_a_number_are_errors() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["1", "x"]));
        let batch = RecordBatch::try_from_iter([("n", text)]).unwrap();
        for (name, nullable) in [("n", true), ("missing", false)] {
            let wanted = Arc::new(Schema::new(vec![Field::new(name, DataType::Int64, nullable)]));
            assert_eq!(conform(&batch, &PartitionValues::new(), &wanted).unwrap_err().class, Class::Internal, "{name}");
        }
    }
}

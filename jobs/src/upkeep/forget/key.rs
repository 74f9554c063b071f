//! A person's key: a column of the contract and one value of it, which is never shown.
//!
//! Invariant P1: the value is in no error, no log and no `Debug`; what a library says of it is left out.

use crate::batch::named;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::LiveFile;
use crate::land::schema::raw_schema;
use crate::project::contract::{Column, Kind, Source};
use crate::project::settings::Pipeline;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, Scalar, StringArray};
use arrow::buffer::NullBuffer;
use arrow::compute::kernels::cmp;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef};
use std::fmt;

/// A column and a value of it.
#[derive(Clone)]
pub(super) struct Key {
    /// From the top-level column down.
    pub path: Vec<String>,
    /// Where its value comes from in a message.
    pub source: Source,
    /// The value as the column spells it.
    pub text: String,
    /// The value, typed.
    value: ArrayRef,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Key {
    /// Reads `column=value`; the column is one of the contract, dotted where it is nested.
    ///
    /// # Errors
    /// [`Class::User`] if there is no such column, it can be no key, or the value is none of its type.
    pub fn new(pipeline: &Pipeline, spelled: &str) -> Result<Self> {
        let user = |message: String| Error::new(Stage::Upkeep, Class::User, message);
        let (name, text) = spelled
            .split_once('=')
            .filter(|(name, text)| !name.is_empty() && !text.is_empty())
            .ok_or_else(|| user("`--where` has to be a column, `=` and a value".to_owned()))?;
        let path: Vec<String> = name.split('.').map(str::to_owned).collect();
        let column = column_at(&pipeline.contract.columns, &path)
            .ok_or_else(|| user(format!("the contract of pipeline `{}` has no column `{name}`", pipeline.name)))?;
        let is_key = matches!(column.kind, Kind::String | Kind::Integer | Kind::Decimal { .. } | Kind::Date);
        let of_message = |source: &Source| matches!(source, Source::Field | Source::Key | Source::Header(_));
        let top = column_at(&pipeline.contract.columns, &path[..1]).unwrap_or(column);
        if !is_key || !of_message(&top.source) {
            return Err(user(format!("column `{name}` can be no key of a person"))
                .hint("a key is a text, an integer, a decimal or a date of the message"));
        }
        let no_value = || user(format!("the value of `{name}` is none of its type"));
        let value = typed(text, &type_at(&raw_schema(pipeline), &path).ok_or_else(no_value)?).ok_or_else(no_value)?;
        let text = spelled_as(&value).ok_or_else(no_value)?;
        Ok(Self { path, source: top.source.clone(), text, value })
    }

    /// The column, dotted.
    pub fn name(&self) -> String {
        self.path.join(".")
    }

    /// Whether a file may hold the value, as far as its statistics and its partition know.
    pub fn may_be_in(&self, file: &LiveFile) -> bool {
        let name = self.name();
        if let Some(partition) = file.partition_values.get(&name) {
            let of_partition = partition.as_deref().and_then(|text| typed(text, self.value.data_type()));
            return of_partition.is_some_and(|value| value.as_ref() == self.value.as_ref());
        }
        if file.is_all_null(&name) {
            return false;
        }
        match self.value.data_type() {
            DataType::Utf8 => {
                let (least, greatest) = file.text_bounds_of(&name);
                least.is_none_or(|least| least <= self.text) && greatest.is_none_or(|greatest| self.text <= greatest)
            }
            DataType::Int64 => {
                let value = self.text.parse::<i64>();
                let within = |(least, greatest)| value.as_ref().is_ok_and(|value| (least..=greatest).contains(value));
                file.bounds_of(&name).is_none_or(within)
            }
            _ => true,
        }
    }

    /// The column of a table that has to be read.
    pub fn columns(&self, table: &SchemaRef) -> SchemaRef {
        named(table, self.path.first().map(String::as_str))
    }

    /// Which rows have the value; no nulls.
    ///
    /// # Errors
    /// The rows have no such column.
    pub fn is_in(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let lacks = || {
            let message = format!("rows have no column `{}`, or it has another type", self.name());
            Error::new(Stage::Upkeep, Class::Internal, message)
        };
        let (first, below) = self.path.split_first().ok_or_else(lacks)?;
        let mut column = batch.column_by_name(first).cloned().ok_or_else(lacks)?;
        // what is below a null is no value
        let mut nulls: Option<NullBuffer> = None;
        for name in below {
            nulls = NullBuffer::union(nulls.as_ref(), column.nulls());
            column = column.as_struct_opt().and_then(|s| s.column_by_name(name)).cloned().ok_or_else(lacks)?;
        }
        nulls = NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref());
        // the library's error may hold the value
        let equal = cmp::eq(&column, &Scalar::new(self.value.clone())).map_err(|_| lacks())?;
        let is = (0..equal.len()).map(|row| Some(equal.value(row) && nulls.as_ref().is_none_or(|n| n.is_valid(row))));
        Ok(is.collect())
    }
}

fn column_at<'c>(columns: &'c [Column], path: &[String]) -> Option<&'c Column> {
    let (first, below) = path.split_first()?;
    let column = columns.iter().find(|column| column.name == *first)?;
    match &column.kind {
        _ if below.is_empty() => Some(column),
        Kind::Object(columns) => column_at(columns, below),
        _ => None,
    }
}

fn type_at(schema: &SchemaRef, path: &[String]) -> Option<DataType> {
    let (first, below) = path.split_first()?;
    let mut found = schema.field_with_name(first).ok()?.data_type().clone();
    for name in below {
        let DataType::Struct(fields) = &found else { return None };
        found = fields.iter().find(|field| field.name() == name)?.data_type().clone();
    }
    Some(found)
}

/// One value of a type.
fn typed(text: &str, wanted: &DataType) -> Option<ArrayRef> {
    let one = StringArray::from(vec![text]);
    cast_with_options(&one, wanted, &CastOptions { safe: true, ..CastOptions::default() })
        .ok()
        .filter(|value| value.is_valid(0))
}

fn spelled_as(value: &ArrayRef) -> Option<String> {
    arrow::util::display::array_value_to_string(value, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::tests::kit::Kit;
    use arrow::array::{Int64Array, StructArray};
    use arrow::datatypes::Field;
    use rstest::rstest;
    use std::sync::Arc;

    #[rstest]
    #[case::text("key=secret", "key")]
    #[case::with_equal_sign("key=a=b", "key")]
    #[case::number("value=42", "value")]
    fn keys(#[case] spelled: &str, #[case] name: &str) {
        let key = Key::new(Kit::new(&[]).pipeline(), spelled).unwrap();
        assert_eq!(key.name(), name);
        assert_eq!(format!("{name}={}", key.text), spelled);
        assert!(!format!("{key:?}").contains(&key.text), "{key:?}");
    }

    #[rstest]
    #[case::no_value("secret")]
    #[case::empty("key=")]
    #[case::no_name("=secret")]
    #[case::no_column("secrets=secret")]
    #[case::below_no_object("key.id=secret")]
    #[case::no_number("value=secret")]
    #[case::a_timestamp("at=secret")]
    fn what_is_no_key_is_refused_without_a_word_of_its_value(#[case] spelled: &str) {
        let error = Key::new(Kit::new(&[]).pipeline(), spelled).unwrap_err();
        assert_eq!(error.class, Class::User);
        let said = format!("{error} {:?} {:?}", error.hint, error.source).replace("`secrets`", "");
        assert!(!said.contains("secret"), "{said}");
    }

    fn key(path: &[&str], value: ArrayRef) -> Key {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        Key { path, source: Source::Field, text: spelled_as(&value).unwrap(), value }
    }

    #[test]
    fn nulls_and_what_lies_below_nulls_are_nobody() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None, Some(7), Some(8)]));
        let field = Field::new("id", DataType::Int64, true);
        let nulls = NullBuffer::from(vec![true, true, false, true]);
        let person = StructArray::try_new(vec![field].into(), vec![ids.clone()], Some(nulls)).unwrap();
        let batch = RecordBatch::try_from_iter([("id", ids), ("person", Arc::new(person) as ArrayRef)]).unwrap();
        let seven: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let found = |path: &[&str]| key(path, seven.clone()).is_in(&batch).unwrap();
        assert_eq!(found(&["id"]), BooleanArray::from(vec![true, false, true, false]));
        assert_eq!(found(&["person", "id"]), BooleanArray::from(vec![true, false, false, false]));
        assert!(key(&["nobody"], seven).is_in(&batch).is_err());
    }

    #[rstest]
    #[case::inside(r#"{"numRecords":2,"minValues":{"id":"a"},"maxValues":{"id":"c"}}"#, true)]
    #[case::below(r#"{"numRecords":2,"minValues":{"id":"c"},"maxValues":{"id":"d"}}"#, false)]
    #[case::above(r#"{"numRecords":2,"minValues":{"id":"Z"},"maxValues":{"id":"az"}}"#, false)]
    #[case::unknown(r#"{"numRecords":2}"#, true)]
    #[case::all_null(r#"{"numRecords":2,"nullCount":{"id":2}}"#, false)]
    fn files_that_cannot_hold_it_are_not_read(#[case] stats: &str, #[case] expected: bool) {
        let file = LiveFile {
            path: String::new(),
            partition_values: std::collections::BTreeMap::from([("d".to_owned(), Some("b".to_owned()))]),
            size: 1,
            rows: Some(2),
            modified_ms: 0,
            stats: Some(stats.to_owned()),
        };
        let b: ArrayRef = Arc::new(StringArray::from(vec!["b"]));
        assert_eq!(key(&["id"], b.clone()).may_be_in(&file), expected);
        assert!(key(&["d"], b).may_be_in(&file));
        let c: ArrayRef = Arc::new(StringArray::from(vec!["c"]));
        assert!(!key(&["d"], c).may_be_in(&file));
    }
}

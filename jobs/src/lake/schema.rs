//! Does the table fit what is to be written? A pure judgement over two schemas, and the way between
//! Arrow's schema and Delta's.
//!
//! A table may gain nullable columns, at the top or inside structs (also structs in lists and maps).
//! Nothing else changes: a type, a column that becomes required, and a column that is missing from
//! the wanted schema but required by the table are refused by name. A column that the table has and
//! the wanted schema lacks, and that may be null, stays: files without it read as null.

use crate::{Class, Error, Result, Stage};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow as _, TryIntoKernel as _};
use std::sync::Arc;

/// What to do with the table's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Fit {
    /// The table can hold the rows as it is.
    Same,
    /// The table can hold the rows once it has this schema: the old one plus these columns (dotted).
    AddColumns {
        /// The table's columns, then the new ones, at every level.
        schema: SchemaRef,
        /// Dotted names of the new columns.
        added: Vec<String>,
    },
    /// The table cannot hold the rows.
    Refuse(Refusal),
}

/// Which column does not fit, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Dotted name.
    pub column: String,
    /// What the table says.
    pub table: String,
    /// What is wanted.
    pub wanted: String,
}

/// Judges whether a table of schema `table` can hold rows of schema `wanted`.
pub fn judge(table: &Schema, wanted: &Schema) -> Fit {
    let mut added = Vec::new();
    match merge(table.fields(), wanted.fields(), "", &mut added) {
        Err(refusal) => Fit::Refuse(refusal),
        Ok(_) if added.is_empty() => Fit::Same,
        Ok(fields) => {
            let schema = Arc::new(Schema::new_with_metadata(fields, table.metadata().clone()));
            Fit::AddColumns { schema, added }
        }
    }
}

fn merge(table: &Fields, wanted: &Fields, prefix: &str, added: &mut Vec<String>) -> Result<Fields, Refusal> {
    let mut out: Vec<FieldRef> = Vec::with_capacity(table.len());
    for have in table {
        let name = format!("{prefix}{}", have.name());
        match wanted.iter().find(|w| w.name() == have.name()) {
            Some(want) => out.push(Arc::new(merge_field(have, want, &name, added)?)),
            None if have.is_nullable() => out.push(have.clone()),
            None => return Err(Refusal { column: name, table: describe(have), wanted: "no such column".into() }),
        }
    }
    for want in wanted.iter().filter(|w| !table.iter().any(|have| have.name() == w.name())) {
        let name = format!("{prefix}{}", want.name());
        // Delta and most engines compare names without case
        if let Some(twin) = table.iter().find(|have| have.name().eq_ignore_ascii_case(want.name())) {
            return Err(Refusal { column: name, table: format!("`{}`", twin.name()), wanted: describe(want) });
        }
        if !want.is_nullable() {
            return Err(Refusal { column: name, table: "no such column".into(), wanted: describe(want) });
        }
        added.push(name);
        out.push(want.clone());
    }
    Ok(out.into())
}

fn merge_field(have: &Field, want: &Field, name: &str, added: &mut Vec<String>) -> Result<Field, Refusal> {
    let refuse = || Refusal { column: name.to_owned(), table: describe(have), wanted: describe(want) };
    // rows with nulls do not fit a column that must have a value; the other way round they do
    if want.is_nullable() && !have.is_nullable() {
        return Err(refuse());
    }
    let data_type = match (have.data_type(), want.data_type()) {
        (DataType::Struct(h), DataType::Struct(w)) => DataType::Struct(merge(h, w, &format!("{name}."), added)?),
        (DataType::List(h), DataType::List(w)) => {
            DataType::List(Arc::new(merge_field(h, w, &format!("{name}.element"), added)?))
        }
        (DataType::Map(h, sorted), DataType::Map(w, _)) => {
            DataType::Map(Arc::new(merge_field(h, w, &format!("{name}.entries"), added)?), *sorted)
        }
        (h, w) if h == w => h.clone(),
        _ => return Err(refuse()),
    };
    Ok(have.clone().with_data_type(data_type))
}

fn describe(field: &Field) -> String {
    format!("`{}`{}", field.data_type(), if field.is_nullable() { "" } else { ", never null" })
}

/// Refuses what Delta cannot hold without table features, or would read back as another type.
///
/// # Errors
/// [`Class::Internal`], naming the column: the stages only make schemas of these types.
pub fn supported(schema: &Schema) -> Result<()> {
    schema.fields().iter().try_for_each(|field| supported_field(field, field.name()))
}

fn supported_field(field: &Field, name: &str) -> Result<()> {
    match field.data_type() {
        DataType::Boolean | DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Ok(()),
        DataType::Float32 | DataType::Float64 | DataType::Utf8 | DataType::Binary | DataType::Date32 => Ok(()),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => Ok(()),
        DataType::Decimal128(_, scale) if *scale >= 0 => Ok(()),
        DataType::Struct(fields) => fields.iter().try_for_each(|f| supported_field(f, &format!("{name}.{}", f.name()))),
        DataType::List(item) | DataType::Map(item, _) => supported_field(item, &format!("{name}.{}", item.name())),
        other => Err(Error::new(
            Stage::Lake,
            Class::Internal,
            format!("column `{name}` has the type `{other}`, which deltaworks tables do not hold"),
        )),
    }
}

/// Delta's spelling of the schema.
pub(crate) fn to_delta(schema: &Schema) -> Result<String> {
    supported(schema)?;
    let failed = || Error::new(Stage::Lake, Class::Internal, "cannot spell the schema for Delta");
    let delta: StructType = schema.try_into_kernel().map_err(|e| failed().because(e))?;
    serde_json::to_string(&delta).map_err(|e| failed().because(e))
}

/// Arrow's view of Delta's schema.
pub(super) fn from_delta(text: &str, table: &str) -> Result<SchemaRef> {
    let failed = || Error::new(Stage::Lake, Class::Internal, format!("table `{table}`: cannot read its schema"));
    let delta: StructType = serde_json::from_str(text).map_err(|e| failed().because(e))?;
    let schema: Schema = (&delta).try_into_arrow().map_err(|e| failed().because(e))?;
    Ok(Arc::new(schema))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn schema(fields: Vec<Field>) -> Schema {
        Schema::new(fields)
    }
    fn text(name: &str) -> Field {
        Field::new(name, DataType::Utf8, true)
    }
    fn required(name: &str) -> Field {
        Field::new(name, DataType::Utf8, false)
    }
    fn nested(name: &str, fields: Vec<Field>) -> Field {
        Field::new(name, DataType::Struct(fields.into()), true)
    }
    fn list(name: &str, item: Field) -> Field {
        Field::new(name, DataType::List(Arc::new(item.with_name("element"))), true)
    }

    #[rstest]
    #[case::equal(vec![text("a")], vec![text("a")])]
    #[case::other_order(vec![text("a"), text("b")], vec![text("b"), text("a")])]
    #[case::stricter_rows_fit(vec![text("a")], vec![required("a")])]
    #[case::an_optional_column_may_be_left_out(vec![text("a"), text("b")], vec![text("a")])]
    fn same(#[case] table: Vec<Field>, #[case] wanted: Vec<Field>) {
        assert_eq!(judge(&schema(table), &schema(wanted)), Fit::Same);
    }

    #[test]
    fn new_nullable_columns_are_appended_at_every_level() {
        let table =
            schema(vec![text("a"), nested("s", vec![text("x")]), list("l", nested("element", vec![text("p")]))]);
        let wanted = schema(vec![
            text("new"),
            nested("s", vec![text("y"), text("x")]),
            list("l", nested("element", vec![text("p"), text("q")])),
            text("a"),
        ]);
        let Fit::AddColumns { schema, added } = judge(&table, &wanted) else { panic!("columns are added") };
        assert_eq!(added, ["s.y", "l.element.q", "new"]);
        let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        assert_eq!(names, ["a", "s", "l", "new"]);
        assert_eq!(judge(&schema, &wanted), Fit::Same, "judging the outcome again changes nothing");
    }

    #[rstest]
    #[case::type_change(vec![text("a")], vec![Field::new("a", DataType::Int64, true)], "a")]
    #[case::nulls_into_required(vec![required("a")], vec![text("a")], "a")]
    #[case::required_column_missing(vec![required("a")], vec![text("b")], "a")]
    #[case::new_required(vec![text("a")], vec![text("a"), required("b")], "b")]
    #[case::nested_type(vec![nested("s", vec![text("x")])], vec![nested("s", vec![Field::new("x", DataType::Boolean, true)])], "s.x")]
    #[case::only_the_case_differs(vec![text("Name")], vec![text("Name"), text("name")], "name")]
    #[case::decimal_widened(vec![Field::new("d", DataType::Decimal128(6, 2), true)], vec![Field::new("d", DataType::Decimal128(8, 2), true)], "d")]
    fn refused(#[case] table: Vec<Field>, #[case] wanted: Vec<Field>, #[case] column: &str) {
        match judge(&schema(table), &schema(wanted)) {
            Fit::Refuse(refusal) => assert_eq!(refusal.column, column),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_way_through_delta_changes_nothing() {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let fields = vec![
            required("id"),
            Field::new("t", utc, false),
            Field::new("d", DataType::Date32, true),
            Field::new("m", DataType::Decimal128(6, 2), true),
            Field::new("i", DataType::Int64, true),
            Field::new("b", DataType::Binary, true),
            nested("s", vec![text("x"), list("l", text("element"))]),
        ];
        let before = schema(fields);
        assert_eq!(from_delta(&to_delta(&before).unwrap(), "t").unwrap().as_ref(), &before);
    }

    #[rstest]
    #[case(DataType::UInt64)]
    #[case(DataType::Utf8View)]
    #[case(DataType::Timestamp(TimeUnit::Microsecond, None))]
    #[case(DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())))]
    fn what_delta_would_change_is_refused(#[case] data_type: DataType) {
        let err = supported(&schema(vec![nested("s", vec![Field::new("x", data_type, true)])])).unwrap_err();
        assert!(err.message.contains("`s.x`"), "{err}");
    }
}

//! Delta's file statistics, taken from the Parquet file's own chunk statistics.
//!
//! Every bound is valid: no value of the column lies below the least or above the greatest. Where no
//! valid bound can be said in JSON, none is said: columns with NaN (readers disagree on its order),
//! binary and boolean columns, lists and maps, instants outside the years 0 to 9999. Long texts are
//! cut by the Parquet writer, which rounds the greatest one up. Decimals and microseconds are exact.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Schema};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Leaf columns that get bounds, as Delta's `dataSkippingNumIndexedCols` has it by default.
const INDEXED_LEAVES_MAX: usize = 32;

/// Remembers which float columns hold NaN, which Parquet's statistics do not tell.
#[derive(Debug, Default)]
pub(super) struct NanWatch {
    seen: BTreeSet<Vec<String>>,
}

impl NanWatch {
    pub fn observe(&mut self, batch: &RecordBatch) {
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            self.observe_column(&mut vec![field.name().clone()], column);
        }
    }

    fn observe_column(&mut self, path: &mut Vec<String>, column: &ArrayRef) {
        let nan = match column.data_type() {
            DataType::Float64 => column.as_primitive::<Float64Type>().iter().flatten().any(f64::is_nan),
            DataType::Float32 => column.as_primitive::<Float32Type>().iter().flatten().any(f32::is_nan),
            DataType::Struct(fields) => {
                for (field, child) in fields.iter().zip(column.as_struct().columns()) {
                    path.push(field.name().clone());
                    self.observe_column(path, child);
                    path.pop();
                }
                false
            }
            _ => false,
        };
        if nan {
            self.seen.insert(path.clone());
        }
    }
}

/// The JSON text of Delta's `stats`.
pub(super) fn of_file(metadata: &ParquetMetaData, schema: &Schema, nans: &NanWatch) -> String {
    let (mut least, mut greatest, mut nulls) = (Tree::default(), Tree::default(), Tree::default());
    let leaves = metadata.file_metadata().schema_descr().columns().iter().enumerate();
    let flat = leaves.filter(|(_, leaf)| leaf.max_rep_level() == 0);
    for (index, leaf) in flat.take(INDEXED_LEAVES_MAX) {
        let path = leaf.path().parts();
        let Some(data_type) = type_at(schema, path) else { continue };
        let chunks = metadata.row_groups().iter().map(|group| group.column(index).statistics());
        let Some(column) = ColumnStats::of(chunks, data_type) else { continue };
        nulls.insert(path, column.nulls.to_string());
        if nans.seen.contains(path) {
            continue;
        }
        if let Some(json) = column.least.and_then(|value| value.to_json(data_type)) {
            least.insert(path, json);
        }
        if let Some(json) = column.greatest.and_then(|value| value.to_json(data_type)) {
            greatest.insert(path, json);
        }
    }
    let rows = metadata.file_metadata().num_rows();
    format!(r#"{{"numRecords":{rows},"minValues":{least},"maxValues":{greatest},"nullCount":{nulls}}}"#)
}

/// The Arrow type of a leaf below structs.
fn type_at<'a>(schema: &'a Schema, path: &[String]) -> Option<&'a DataType> {
    let (first, rest) = path.split_first()?;
    let mut data_type = schema.field_with_name(first).ok()?.data_type();
    for name in rest {
        let DataType::Struct(fields) = data_type else { return None };
        data_type = fields.iter().find(|f| f.name() == name)?.data_type();
    }
    Some(data_type)
}

/// A bound, comparable within one column.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Bound {
    Integer(i128),
    Float(f64),
    Text(String),
}

impl Bound {
    fn to_json(&self, data_type: &DataType) -> Option<String> {
        match (self, data_type) {
            (Self::Integer(v), DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64) => {
                Some(v.to_string())
            }
            (Self::Integer(v), DataType::Date32) => {
                let days = jiff::Span::new().try_days(i64::try_from(*v).ok()?).ok()?;
                let date = jiff::civil::date(1970, 1, 1).checked_add(days).ok()?;
                (date.year() >= 0).then(|| format!("\"{date}\""))
            }
            (Self::Integer(v), DataType::Timestamp(..)) => {
                let instant = jiff::Timestamp::from_microsecond(i64::try_from(*v).ok()?).ok()?;
                let text = format!("\"{instant:.6}\"");
                (!text.starts_with("\"-")).then_some(text)
            }
            (Self::Integer(v), DataType::Decimal128(_, scale)) => Some(decimal(*v, *scale)),
            (Self::Float(v), DataType::Float32 | DataType::Float64) if v.is_finite() => serde_json::to_string(v).ok(),
            (Self::Text(v), DataType::Utf8) => serde_json::to_string(v).ok(),
            _ => None,
        }
    }
}

/// Spells an unscaled decimal without loss.
fn decimal(unscaled: i128, scale: i8) -> String {
    let scale = usize::try_from(scale).unwrap_or(0);
    if scale == 0 {
        return unscaled.to_string();
    }
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    format!("{}{whole}.{fraction}", if unscaled < 0 { "-" } else { "" })
}

/// One leaf over all row groups.
struct ColumnStats {
    nulls: u64,
    least: Option<Bound>,
    greatest: Option<Bound>,
}

impl ColumnStats {
    /// `None` if a row group has no statistics.
    fn of<'a>(chunks: impl Iterator<Item = Option<&'a Statistics>>, data_type: &DataType) -> Option<Self> {
        let mut all = Self { nulls: 0, least: None, greatest: None };
        let mut bounded = true;
        for chunk in chunks {
            let chunk = chunk?;
            all.nulls += chunk.null_count_opt()?;
            match bounds(chunk, data_type) {
                Some((least, greatest)) => {
                    all.least = Some(all.least.take().filter(|have| *have <= least).unwrap_or(least));
                    all.greatest = Some(all.greatest.take().filter(|have| *have >= greatest).unwrap_or(greatest));
                }
                // a chunk of nulls has no bounds; one that has values but no bounds spoils the whole
                None => bounded &= only_nulls(chunk),
            }
        }
        if !bounded {
            (all.least, all.greatest) = (None, None);
        }
        Some(all)
    }
}

/// A chunk without bounds is taken for one of nulls only where the type always has bounds.
fn only_nulls(chunk: &Statistics) -> bool {
    chunk.min_bytes_opt().is_none() && chunk.max_bytes_opt().is_none()
}

fn bounds(chunk: &Statistics, data_type: &DataType) -> Option<(Bound, Bound)> {
    let integer = |v: i128| Bound::Integer(v);
    match chunk {
        Statistics::Int32(s) => Some((integer((*s.min_opt()?).into()), integer((*s.max_opt()?).into()))),
        Statistics::Int64(s) => Some((integer((*s.min_opt()?).into()), integer((*s.max_opt()?).into()))),
        Statistics::Float(s) => Some((Bound::Float((*s.min_opt()?).into()), Bound::Float((*s.max_opt()?).into()))),
        Statistics::Double(s) => Some((Bound::Float(*s.min_opt()?), Bound::Float(*s.max_opt()?))),
        Statistics::ByteArray(s) if *data_type == DataType::Utf8 => {
            let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(|t| Bound::Text(t.to_owned()));
            Some((text(s.min_opt()?.data())?, text(s.max_opt()?.data())?))
        }
        Statistics::FixedLenByteArray(s) if matches!(data_type, DataType::Decimal128(..)) => {
            Some((integer(big_endian(s.min_opt()?.data())?), integer(big_endian(s.max_opt()?.data())?)))
        }
        _ => None,
    }
}

fn big_endian(bytes: &[u8]) -> Option<i128> {
    let first = *bytes.first()?;
    let mut wide = [if first & 0x80 == 0 { 0 } else { 0xff }; 16];
    let at = wide.len().checked_sub(bytes.len())?;
    wide[at..].copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}

/// Nested JSON whose leaves are JSON texts already: serde_json's own numbers would round decimals.
#[derive(Default)]
struct Tree(BTreeMap<String, Node>);

enum Node {
    Leaf(String),
    Inner(Tree),
}

impl Tree {
    fn insert(&mut self, path: &[String], json: String) {
        match path {
            [] => {}
            [name] => {
                self.0.insert(name.clone(), Node::Leaf(json));
            }
            [name, rest @ ..] => {
                let node = self.0.entry(name.clone()).or_insert_with(|| Node::Inner(Self::default()));
                if let Node::Inner(tree) = node {
                    tree.insert(rest, json);
                }
            }
        }
    }
}

impl std::fmt::Display for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_char('{')?;
        for (i, (name, node)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}:", serde_json::Value::from(name.as_str()))?;
            match node {
                Node::Leaf(json) => f.write_str(json)?,
                Node::Inner(tree) => tree.fmt(f)?,
            }
        }
        f.write_char('}')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::file::{FileProfile, encode};
    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray, StructArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Fields};
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn stats_of(columns: Vec<(&str, ArrayRef)>) -> String {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
        encode(&FileProfile::new(batch.schema()), [Ok(batch)]).unwrap().stats
    }

    fn parsed(columns: Vec<(&str, ArrayRef)>) -> Value {
        serde_json::from_str(&stats_of(columns)).unwrap()
    }

    #[test]
    fn every_type_says_what_it_can() {
        let inner: Fields = vec![Field::new("x", DataType::Int64, true)].into();
        let nested = StructArray::new(
            inner,
            vec![Arc::new(Int64Array::from(vec![Some(4), None, Some(9)]))],
            Some(vec![true, true, false].into()),
        );
        let found = parsed(vec![
            ("i", Arc::new(Int64Array::from(vec![Some(-3), None, Some(i64::MAX)]))),
            ("s", Arc::new(StringArray::from(vec!["b\"", "a", "ü"]))),
            ("d", Arc::new(Date32Array::from(vec![-1, 0, 20_458]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![-1, 0, 1_500_001]).with_timezone("UTC"))),
            ("f", Arc::new(Float64Array::from(vec![Some(0.1), Some(-0.0), None]))),
            ("bin", Arc::new(BinaryArray::from(vec![b"x".as_slice(), b"y", b"z"]))),
            ("bool", Arc::new(BooleanArray::from(vec![Some(true), None, None]))),
            ("n", Arc::new(Int64Array::from(vec![None::<i64>; 3]))),
            ("o", Arc::new(nested)),
        ]);
        assert_eq!(found["numRecords"], 3);
        let instants = ("1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:01.500001Z");
        let least = json!({"i": -3, "s": "a", "d": "1969-12-31", "t": instants.0, "f": -0.0, "o": {"x": 4}});
        let greatest = json!({"i": i64::MAX, "s": "ü", "d": "2026-01-05", "t": instants.1, "f": 0.1, "o": {"x": 4}});
        assert_eq!(found["minValues"], least);
        assert_eq!(found["maxValues"], greatest);
        let nulls = json!({"i": 1, "s": 0, "d": 0, "t": 0, "f": 1, "bin": 0, "bool": 2, "n": 3, "o": {"x": 2}});
        assert_eq!(found["nullCount"], nulls);
    }

    #[rstest]
    #[case(12, 2, "0.12")]
    #[case(-1, 2, "-0.01")]
    #[case(-12_345, 2, "-123.45")]
    #[case(7, 0, "7")]
    #[case(i128::MAX, 38, "1.70141183460469231731687303715884105727")]
    fn decimals_are_spelled_exactly(#[case] unscaled: i128, #[case] scale: i8, #[case] want: &str) {
        assert_eq!(decimal(unscaled, scale), want);
    }

    #[rstest]
    #[case(6)]
    #[case(15)]
    #[case(38)]
    fn decimals_of_every_physical_type(#[case] precision: u8) {
        let values = Decimal128Array::from(vec![-99_999, 5, 99_999]).with_precision_and_scale(precision, 2).unwrap();
        let text = stats_of(vec![("m", Arc::new(values))]);
        assert!(text.contains(r#""minValues":{"m":-999.99},"maxValues":{"m":999.99}"#), "{text}");
    }

    #[test]
    fn nan_takes_the_bounds_away_and_infinity_its_own() {
        let found = parsed(vec![("f", Arc::new(Float64Array::from(vec![1.0, f64::NAN])))]);
        assert_eq!((&found["minValues"], &found["maxValues"]), (&json!({}), &json!({})));
        let found = parsed(vec![("f", Arc::new(Float64Array::from(vec![1.0, f64::INFINITY])))]);
        assert_eq!((&found["minValues"], &found["maxValues"]), (&json!({"f": 1.0}), &json!({})));
    }

    proptest! {
        /// Whatever is cut away from a long text, the bounds stay bounds.
        #[test]
        fn texts_lie_within_their_bounds(texts in prop::collection::vec("\\PC{0,60}", 1..8)) {
            let found = parsed(vec![("s", Arc::new(StringArray::from(texts.clone())))]);
            for text in &texts {
                prop_assert!(found["minValues"]["s"].as_str().is_none_or(|least| least <= text.as_str()));
                prop_assert!(found["maxValues"]["s"].as_str().is_none_or(|greatest| greatest >= text.as_str()));
            }
        }
    }
}

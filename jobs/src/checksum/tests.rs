//! The checksum against what it promises, and against itself as of the first release.

use super::*;
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array,
    Int64Array, ListArray, StringArray, StringViewArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Fields};
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq)]
struct Row {
    id: String,
    count: Option<i64>,
    price: Option<i128>,
    speed: Option<f64>,
    tags: Option<Vec<Option<i64>>>,
    place: Option<(Option<String>, Option<bool>)>,
    day: i32,
}

fn row() -> impl Strategy<Value = Row> {
    let small = prop::option::of(-3i64..3);
    (
        "[a-c]{0,3}",
        small.clone(),
        prop::option::of(prop_oneof![-5i128..5, any::<i64>().prop_map(|v| i128::from(v) << 50)]),
        prop::option::of(prop_oneof![Just(0.0), Just(-1.5), any::<f64>()]),
        prop::option::of(prop::collection::vec(small, 0..4)),
        prop::option::of((prop::option::of("[xy]{0,2}"), prop::option::of(any::<bool>()))),
        0i32..3,
    )
        .prop_map(|(id, count, price, speed, tags, place, day)| Row { id, count, price, speed, tags, place, day })
}

fn batch(rows: &[Row]) -> RecordBatch {
    let names: StringArray = rows.iter().map(|r| r.place.as_ref().and_then(|p| p.0.clone())).collect();
    let flags: BooleanArray = rows.iter().map(|r| r.place.as_ref().and_then(|p| p.1)).collect();
    let fields: Fields =
        vec![Field::new("name", DataType::Utf8, true), Field::new("flag", DataType::Boolean, true)].into();
    let valid: NullBuffer = rows.iter().map(|r| r.place.is_some()).collect::<Vec<_>>().into();
    let place = StructArray::new(fields, vec![Arc::new(names), Arc::new(flags)], Some(valid));
    let prices: Decimal128Array = rows.iter().map(|r| r.price).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.id))) as ArrayRef, true),
        ("count", Arc::new(rows.iter().map(|r| r.count).collect::<Int64Array>()), true),
        ("price", Arc::new(prices.with_precision_and_scale(38, 2).unwrap()), true),
        ("speed", Arc::new(rows.iter().map(|r| r.speed).collect::<Float64Array>()), true),
        (
            "tags",
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows.iter().map(|r| r.tags.clone()))),
            true,
        ),
        ("place", Arc::new(place), true),
        ("day", Arc::new(Date32Array::from_iter_values(rows.iter().map(|r| r.day))), true),
    ])
    .unwrap()
}

fn one(name: &str, array: impl Array + 'static) -> Vec<u128> {
    row_sums(&RecordBatch::try_from_iter_with_nullable([(name, Arc::new(array) as ArrayRef, true)]).unwrap(), &[])
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_and_batches_do_not_matter(rows in prop::collection::vec(row(), 1..30), cut in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let whole = batch(&rows);
        let expected = total(&whole, &[]).unwrap();
        let cut = cut.index(rows.len());
        // slices, so that offsets inside of arrays count too
        let mut parts = total(&whole.slice(0, cut), &[]).unwrap();
        parts.merge(total(&whole.slice(cut, rows.len() - cut), &[]).unwrap());
        prop_assert_eq!(parts, expected);
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        order.sort_by_key(|i| mix(seed ^ u64::from(*i)));
        let mixed = take_record_batch(&whole, &UInt32Array::from(order)).unwrap();
        prop_assert_eq!(total(&mixed, &[]).unwrap(), expected);
        let twice = concat_batches(&whole.schema(), [&whole, &whole]).unwrap();
        prop_assert_ne!(total(&twice, &[]).unwrap(), expected);
    }

    #[test]
    fn equal_rows_and_only_these_are_equal(a in row(), b in row()) {
        let sums = row_sums(&batch(&[a.clone(), b.clone()]), &[]).unwrap();
        prop_assert_eq!(sums[0] == sums[1], a == b, "{:?} {:?}", a, b);
    }

    #[test]
    fn swapped_cells_are_seen(a in row(), b in row()) {
        let (mut c, mut d) = (a.clone(), b.clone());
        std::mem::swap(&mut c.tags, &mut d.tags);
        let same = (c == a && d == b) || (c == b && d == a);
        let before = total(&batch(&[a, b]), &[]).unwrap();
        prop_assert_eq!(total(&batch(&[c, d]), &[]).unwrap() == before, same);
    }

    #[test]
    fn a_later_null_column_changes_nothing(rows in prop::collection::vec(row(), 1..10)) {
        let old = batch(&rows);
        let mut columns: Vec<(String, ArrayRef, bool)> =
            old.schema().fields().iter().zip(old.columns()).map(|(f, c)| (f.name().clone(), c.clone(), true)).collect();
        columns.insert(2, ("new".into(), Arc::new(StringArray::new_null(rows.len())), true));
        columns.push(("newer".into(), arrow::array::new_null_array(&DataType::Null, rows.len()), true));
        let new = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        prop_assert_eq!(row_sums(&new, &[]).unwrap(), row_sums(&old, &[]).unwrap());
    }

    #[test]
    fn encodings_do_not_matter(texts in prop::collection::vec(prop::option::of("[a-b]{0,14}"), 1..20)) {
        let plain = one("t", texts.iter().map(Option::as_deref).collect::<StringArray>());
        prop_assert_eq!(&plain, &one("t", texts.iter().map(Option::as_deref).collect::<StringViewArray>()));
        let dictionary: DictionaryArray<Int32Type> = texts.iter().map(Option::as_deref).collect();
        prop_assert_eq!(&plain, &one("t", dictionary));
    }

    #[test]
    fn dates_add_up(rows in prop::collection::vec(row(), 1..40)) {
        let whole = batch(&rows);
        let groups = by_date(&whole, "day").unwrap();
        let mut sum = RowSum::default();
        groups.values().for_each(|g| sum.merge(*g));
        prop_assert_eq!(sum, total(&whole, &[]).unwrap());
        for (day, group) in groups {
            let of_day: Vec<Row> = rows.iter().filter(|r| r.day == day).cloned().collect();
            prop_assert_eq!(total(&batch(&of_day), &[]).unwrap(), group);
        }
    }
}

#[test]
fn zeros_and_nans_are_one_value_each() {
    let sums =
        one("f", Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN, f64::from_bits(0x7FF0_0000_0000_0001)]));
    assert_eq!(sums[0], sums[1]);
    assert_eq!(sums[2], sums[3]);
    assert_eq!(sums[2], sums[4]);
    assert_ne!(sums[0], sums[2]);
    assert_eq!(one("f", Float32Array::from(vec![1.5])), one("f", Float64Array::from(vec![1.5])));
}

#[test]
fn null_empty_and_absent_differ() {
    let sums = one("l", ListArray::from_iter_primitive::<Int64Type, _, _>([None, Some(vec![]), Some(vec![None])]));
    assert_ne!(sums[0], sums[1]);
    assert_ne!(sums[1], sums[2]);
    let sums = one("t", StringArray::from(vec![None, Some("")]));
    assert_ne!(sums[0], sums[1]);
}

#[test]
fn text_is_not_binary_and_names_count() {
    assert_ne!(one("t", StringArray::from(vec!["a"])), one("t", BinaryArray::from(vec![b"a".as_slice()])));
    assert_ne!(one("t", StringArray::from(vec!["a"])), one("u", StringArray::from(vec!["a"])));
    let skipped = batch(&[]);
    assert_eq!(total(&skipped, &["id"]).unwrap(), RowSum::default());
}

#[test]
fn uncovered_types_and_columns_are_named() {
    let array = arrow::array::DurationSecondArray::from(vec![1]);
    let whole = RecordBatch::try_from_iter([("d", Arc::new(array) as ArrayRef)]).unwrap();
    let error = row_sums(&whole, &[]).unwrap_err();
    assert!(error.message.contains("Duration"), "{error}");
    assert!(error.hint.unwrap().contains("`d`"));
    assert!(by_date(&batch(&[]), "id").is_err());
    assert!(row_sums(&whole, &["d"]).is_ok());
}

/// The format: these numbers may never change. They were made by a second implementation, written
/// from the module's text.
#[test]
fn known_sums() {
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None])]);
    let sums: Vec<String> = [
        one("a", Int64Array::from(vec![1])),
        one("a", Float64Array::from(vec![1.0])),
        one("a", Decimal128Array::from(vec![1])),
        one("a", StringArray::from(vec!["x"])),
        one("a", TimestampMicrosecondArray::from(vec![-1]).with_timezone("UTC")),
        one("a", lists),
        one("a", Int64Array::from(vec![None])),
    ]
    .iter()
    .map(|s| format!("{:032x}", s[0]))
    .collect();
    let known = [
        "22c9e84c418de96184def6fabd4264f2",
        "6d5030c065020fd3fb1a2cab83f3ecf8",
        "2f71a707a58df622ef5fb6be9e668eaf",
        "c3e0d944dac036bb2b8fe353ccd614eb",
        "a23c0c1192fb77a8016fae5e7cfe50ee",
        "4feaed2eb5bf6b5916950955fae2e9b1",
        "e514fd3ba51117ad05f80708adb6c5a9",
    ];
    assert_eq!(sums, known);
}

//! Every type a column may have, under every name a function goes by.

use super::*;
use crate::engine::functions::sum::half_even;
use arrow::datatypes::i256;

fn float(value: f64) -> ScalarValue {
    ScalarValue::Float64(Some(value))
}

fn int(value: i64) -> ScalarValue {
    ScalarValue::Int64(Some(value))
}

/// Over the values 1, 2, 2, 5 and null, cast to the type.
#[rstest]
#[case("sum(x)", "Int8", int(10))]
#[case("sum(x)", "UInt32", int(10))]
#[case("sum(x)", "UInt64", int(10))]
#[case("sum(x)", "Float32", float(10.0))]
#[case("sum(x)", "Decimal64(5, 1)", ScalarValue::Decimal128(Some(100), 38, 1))]
#[case("sum(x)", "Dictionary(Int32, Int64)", int(10))]
#[case("avg(x)", "UInt8", float(2.5))]
#[case("mean(x)", "Float16", float(2.5))]
#[case("avg(x)", "Decimal128(38, 0)", ScalarValue::Decimal128(Some(25_000), 38, 4))]
#[case("avg(x)", "Decimal128(37, 30)", ScalarValue::Decimal128(Some(25 * 10_i128.pow(33)), 38, 34))]
#[case("var(x)", "UInt64", float(3.0))]
#[case("var_samp(x)", "Float32", float(3.0))]
#[case("var_sample(x)", "Decimal128(4, 2)", float(3.0))]
#[case("var_pop(x)", "Int16", float(2.25))]
#[case("var_population(x)", "Float64", float(2.25))]
#[case("stddev(x)", "Int64", float(3.0_f64.sqrt()))]
#[case("stddev_samp(x)", "Decimal128(38, 20)", float(3.0_f64.sqrt()))]
#[case("stddev_pop(x)", "Float64", float(1.5))]
#[case("median(x)", "Int32", float(2.0))]
#[case("median(x)", "UInt64", ScalarValue::Decimal128(Some(20), 21, 1))]
#[case("median(x)", "Float32", float(2.0))]
#[case("median(x)", "Decimal128(38, 1)", ScalarValue::Decimal128(Some(20), 38, 1))]
#[case("median(DISTINCT x)", "Decimal128(3, 1)", ScalarValue::Decimal128(Some(200), 4, 2))]
#[case("percentile_cont(0.75) WITHIN GROUP (ORDER BY x)", "Int64", float(2.75))]
#[case("quantile_cont(x, 0.75)", "Decimal128(9, 3)", float(2.75))]
#[case("percentile_cont(1) WITHIN GROUP (ORDER BY x DESC)", "Float32", float(1.0))]
#[case("min(x)", "Float32", ScalarValue::Float32(Some(1.0)))]
#[case("max(DISTINCT x)", "Float64", float(5.0))]
#[case("max(x)", "Int16", ScalarValue::Int16(Some(5)))]
#[case("min(x)", "Timestamp(Microsecond, Some(\"UTC\"))", ScalarValue::TimestampMicrosecond(Some(1), Some("UTC".into())))]
#[case("first_value(x ORDER BY x DESC)", "Date32", ScalarValue::Date32(Some(5)))]
#[case("last_value(x ORDER BY x DESC)", "Boolean", ScalarValue::Boolean(Some(true)))]
#[case("sum(x) FILTER (WHERE x > 2)", "Int64", int(5))]
#[case("count(x)", "Utf8", int(4))]
fn of_every_type(#[case] call: &str, #[case] data_type: &str, #[case] expected: ScalarValue) {
    assert_eq!(of(call, data_type), expected);
}

#[test]
fn a_list_may_be_first() {
    assert_eq!(of("first_value(make_array(x, 7) ORDER BY x DESC NULLS LAST)", "Int64").to_string(), "[5, 7]");
}

#[rstest]
fn distinct_values_of_every_type(
    #[values(
        "Int8",
        "UInt16",
        "Int64",
        "UInt64",
        "Float16",
        "Float32",
        "Float64",
        "Decimal128(38, 3)",
        "Decimal256(40, 3)",
        "Date32",
        "Time64(Microsecond)",
        "Timestamp(Microsecond, None)",
        "Duration(Second)",
        "Utf8",
        "LargeUtf8",
        "Utf8View",
        "Dictionary(Int32, Utf8)",
        "Dictionary(Int32, Int64)"
    )]
    data_type: &str,
) {
    assert_eq!(of("count(DISTINCT x)", data_type), int(3));
    assert_eq!(of("count(DISTINCT make_array(x))", data_type), int(4), "a list of a null is a value");
}

#[rstest]
fn distinct_bytes(#[values("Binary", "LargeBinary", "BinaryView")] data_type: &str) {
    let call = format!("count(DISTINCT arrow_cast(x, '{data_type}'))");
    assert_eq!(of(&call, "Utf8"), int(3));
}

#[test]
fn halves_go_to_the_even_neighbour() {
    for dividend in -40_i32..=40 {
        for divisor in 1_i32..=9 {
            let expected = (f64::from(dividend) / f64::from(divisor)).round_ties_even() as i128;
            let [dividend, divisor] = [dividend, divisor].map(|value| i256::from_i128(i128::from(value)));
            assert_eq!(half_even(dividend, divisor).to_i128(), Some(expected), "{dividend} / {divisor}");
        }
    }
}

fn of(call: &str, data_type: &str) -> ScalarValue {
    let rows: Vec<Row> =
        [Some(1), Some(2), None, Some(2), Some(5)].map(|value| one(|row| row.int = value)).into_iter().collect();
    let sql = format!("SELECT {call} FROM (SELECT arrow_cast(i, '{data_type}') AS x, k FROM t) GROUP BY k");
    ask_one(&rows, &sql).unwrap()
}

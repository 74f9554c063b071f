//! Plays the functions, through SQL, against a naive model: random rows, cut into random batches
//! and partitions, at one and four threads, with and without grouping, skipping or spilling.

mod memory;
mod model;
mod states;
mod types;

use super::register;
use arrow::array::{ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use deltalake::datafusion::common::{Result, ScalarValue};
use deltalake::datafusion::datasource::MemTable;
use deltalake::datafusion::prelude::{SessionConfig, SessionContext};
use model::{Group, questions};
use proptest::prelude::*;
use rstest::rstest;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One event: a key, a value of each type, a filter, and a place that no other row has.
#[derive(Debug, Clone)]
struct Row {
    key: Option<u8>,
    float: Option<f64>,
    int: Option<i64>,
    decimal: Option<i128>,
    wide: Option<i128>,
    text: Option<String>,
    flag: Option<bool>,
    keep: Option<bool>,
    place: i64,
}

/// How a table is cut and read.
#[derive(Debug, Clone)]
struct Cut {
    /// Where a new batch begins, as shares of the rows.
    ends: Vec<prop::sample::Index>,
    partitions: usize,
    threads: usize,
    batch_size: usize,
    is_skipping: bool,
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-4000_i32..4000).prop_map(|quarters| f64::from(quarters) / 4.0),
        2 => any::<u64>().prop_map(f64::from_bits),
        1 => prop::sample::select(vec![0.0, -0.0, 1e300, -1e300, 0.1, f64::INFINITY, -f64::NAN, 5e-324]),
    ]
}

fn row() -> impl Strategy<Value = Row> {
    fn some<T: std::fmt::Debug>(values: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
        prop::option::weighted(0.9, values)
    }
    let numbers = (
        some(float()),
        some(prop_oneof![-100_i64..100, any::<i64>()]),
        some(prop_oneof![-9999_i128..9999, -99_999_999_999_i128..99_999_999_999]),
        some(prop_oneof![-9999_i128..9999, -(10_i128.pow(36))..10_i128.pow(36)]),
    );
    let others = (some("[a-c]{0,2}"), some(any::<bool>()), some(any::<bool>()));
    (some(0_u8..4), numbers, others).prop_map(|(key, (float, int, decimal, wide), (text, flag, keep))| Row {
        key,
        float,
        int,
        decimal,
        wide,
        text,
        flag,
        keep,
        place: 0,
    })
}

fn rows(count: usize) -> impl Strategy<Value = Vec<Row>> {
    let places = |mut rows: Vec<Row>| {
        rows.iter_mut().enumerate().for_each(|(i, row)| row.place = i as i64 * 7 % 1009);
        rows
    };
    prop::collection::vec(row(), 0..count).prop_map(places).prop_shuffle()
}

fn cut() -> impl Strategy<Value = Cut> {
    let ends = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    (ends, 1_usize..4, prop::sample::select(vec![1, 4]), prop::sample::select(vec![2, 8192]), any::<bool>()).prop_map(
        |(ends, partitions, threads, batch_size, is_skipping)| Cut {
            ends,
            partitions,
            threads,
            batch_size,
            is_skipping,
        },
    )
}

fn batch(rows: &[Row]) -> RecordBatch {
    let decimals = |values: Vec<Option<i128>>, precision, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
    };
    let each = |value: fn(&Row) -> Option<i128>| rows.iter().map(value).collect::<Vec<_>>();
    RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(rows.iter().map(|r| r.key.map(i64::from)).collect::<Int64Array>()) as ArrayRef, true),
        ("f", Arc::new(rows.iter().map(|r| r.float).collect::<Float64Array>()), true),
        ("i", Arc::new(rows.iter().map(|r| r.int).collect::<Int64Array>()), true),
        ("d", decimals(each(|r| r.decimal), 12, 2), true),
        ("w", decimals(each(|r| r.wide), 37, 4), true),
        ("s", Arc::new(rows.iter().map(|r| r.text.clone()).collect::<StringArray>()), true),
        ("b", Arc::new(rows.iter().map(|r| r.flag).collect::<BooleanArray>()), true),
        ("keep", Arc::new(rows.iter().map(|r| r.keep).collect::<BooleanArray>()), true),
        ("place", Arc::new(rows.iter().map(|r| Some(r.place)).collect::<Int64Array>()), true),
    ])
    .unwrap()
}

/// A session with the functions and a table `t` of the rows, cut as said.
fn session(rows: &[Row], cut: &Cut) -> SessionContext {
    let mut config = SessionConfig::new()
        .with_target_partitions(cut.threads)
        .with_batch_size(cut.batch_size)
        .with_collect_statistics(true);
    let execution = &mut config.options_mut().execution;
    if cut.is_skipping {
        execution.skip_partial_aggregation_probe_rows_threshold = 1;
        execution.skip_partial_aggregation_probe_ratio_threshold = 0.0;
    }
    let context = SessionContext::new_with_config(config);
    register(&context);
    // It would count distinct values by grouping, without the function.
    assert!(context.remove_optimizer_rule("single_distinct_aggregation_to_group_by"));
    let whole = batch(rows);
    let mut ends: Vec<usize> = cut.ends.iter().map(|end| end.index(rows.len() + 1)).collect();
    ends.extend([0, rows.len()]);
    ends.sort_unstable();
    let mut partitions = vec![Vec::new(); cut.partitions];
    for (i, ends) in ends.windows(2).enumerate() {
        partitions[i % cut.partitions].push(whole.slice(ends[0], ends[1] - ends[0]));
    }
    context.register_table("t", Arc::new(MemTable::try_new(whole.schema(), partitions).unwrap())).unwrap();
    context
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The result of a query, row by row.
fn ask(context: &SessionContext, sql: &str) -> Result<Vec<Vec<ScalarValue>>> {
    wait(async {
        let batches = context.sql(sql).await?.collect().await?;
        let Some(first) = batches.first() else { return Ok(Vec::new()) };
        let whole = concat_batches(&first.schema(), &batches)?;
        (0..whole.num_rows())
            .map(|row| whole.columns().iter().map(|column| ScalarValue::try_from_array(column, row)).collect())
            .collect()
    })
}

fn ask_one(rows: &[Row], sql: &str) -> Result<ScalarValue> {
    let cut = Cut { ends: Vec::new(), partitions: 1, threads: 1, batch_size: 8192, is_skipping: false };
    Ok(ask(&session(rows, &cut), sql)?.remove(0).remove(0))
}

/// Rows by key; null is a key like any other and comes last.
fn by_key(rows: &[Row]) -> BTreeMap<(bool, Option<u8>), Group<'_>> {
    let mut groups: BTreeMap<_, Group<'_>> = BTreeMap::new();
    rows.iter().for_each(|row| groups.entry((row.key.is_none(), row.key)).or_default().push(row));
    groups
}

fn expected(rows: &[Row]) -> Vec<Vec<ScalarValue>> {
    let answer = |group: &Group<'_>| questions().iter().map(|(_, model)| model(group)).collect::<Vec<_>>();
    by_key(rows)
        .into_iter()
        .map(|((_, key), group)| {
            let kept: Group<'_> = group.iter().copied().filter(|row| row.keep == Some(true)).collect();
            [vec![ScalarValue::Int64(key.map(i64::from))], answer(&group), answer(&kept)].concat()
        })
        .collect()
}

/// All questions, each once over all rows and once over those that the filter keeps.
fn grouped() -> String {
    let all = questions().into_iter().enumerate();
    let both = all.map(|(i, (sql, _))| (format!("{sql} AS all_{i}"), format!("{sql} FILTER (WHERE keep) AS kept_{i}")));
    let (all, kept): (Vec<_>, Vec<_>) = both.unzip();
    format!("SELECT k, {}, {} FROM t GROUP BY k ORDER BY k", all.join(", "), kept.join(", "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn every_function_agrees_with_the_model(rows in rows(60), cut in cut()) {
        let rows: Vec<Row> = rows.into_iter().map(tame).collect();
        let answers = ask(&session(&rows, &cut), &grouped()).unwrap();
        let expected = expected(&rows);
        prop_assert_eq!(answers.len(), expected.len());
        for (answers, expected) in answers.iter().zip(&expected) {
            for (at, (answer, expected)) in answers.iter().zip(expected).enumerate() {
                let what = at.checked_sub(1).map(|at| questions()[at % questions().len()].0);
                prop_assert_eq!(answer, expected, "{:?}, key {}", what, &answers[0]);
            }
        }
    }

    #[test]
    fn without_groups_too(rows in rows(40), cut in cut()) {
        let rows: Vec<Row> = rows.into_iter().map(tame).collect();
        let context = session(&rows, &cut);
        let all: Group<'_> = rows.iter().collect();
        let sql: Vec<_> = questions().iter().map(|(sql, _)| *sql).collect();
        let answers = ask(&context, &format!("SELECT {} FROM t", sql.join(", "))).unwrap().remove(0);
        for (answer, (sql, model)) in answers.iter().zip(questions()) {
            prop_assert_eq!(answer, &model(&all), "{}", sql);
        }
    }

    #[test]
    fn two_cuts_give_the_same_bits(rows in rows(60), one in cut(), other in cut()) {
        let mut turned = rows.clone();
        turned.reverse();
        let sql = "SELECT k, sum(f), avg(f), var(f), stddev_pop(f), min(f), max(f), median(f), \
                   percentile_cont(0.3) WITHIN GROUP (ORDER BY f), count(DISTINCT f) FROM t GROUP BY k ORDER BY k";
        prop_assert_eq!(ask(&session(&rows, &one), sql).unwrap(), ask(&session(&turned, &other), sql).unwrap());
    }
}

/// Values for which the model can be plain: sums of integers fit, floats are few quarters or special.
fn tame(row: Row) -> Row {
    let float = row.float.map(|float| if float.is_finite() && float.abs() > 1e4 { float.signum() } else { float });
    let float = float.map(|float| if float.is_finite() { (float * 4.0).round() / 4.0 } else { float });
    Row { float, int: row.int.map(|int| int >> 8), ..row }
}

fn one(row: impl FnOnce(&mut Row)) -> Row {
    let mut blank = Row {
        key: None,
        float: None,
        int: None,
        decimal: None,
        wide: None,
        text: None,
        flag: None,
        keep: None,
        place: 0,
    };
    row(&mut blank);
    blank
}

#[test]
fn a_sum_is_refused_only_if_the_total_does_not_fit() {
    let ints = |values: &[i64]| values.iter().map(|value| one(|row| row.int = Some(*value))).collect::<Vec<_>>();
    let fits = ints(&[i64::MAX, i64::MAX, i64::MIN, i64::MIN, 1]);
    assert_eq!(ask_one(&fits, "SELECT sum(i) FROM t").unwrap(), ScalarValue::Int64(Some(-1)));
    let beyond = ask_one(&ints(&[i64::MAX, 1]), "SELECT sum(i) FROM t GROUP BY k").unwrap_err().to_string();
    assert!(beyond.contains("`sum` leaves the range of `BIGINT`"), "{beyond}");
    let mean = ask_one(&ints(&[i64::MAX, i64::MAX]), "SELECT avg(i) FROM t").unwrap();
    assert_eq!(mean, ScalarValue::Float64(Some(9_223_372_036_854_775_807.0)));
}

#[rstest]
#[case("sum(CAST(9e37 AS DECIMAL(38, 0)))", "`sum` leaves the range of `DECIMAL(38, 0)`")]
#[case(
    "avg(CAST(w AS DECIMAL(38, 4)) * 0 + CAST(999999999999999999999999999999999 AS DECIMAL(38, 4)))",
    "`avg` leaves"
)]
#[case("sum(DISTINCT i)", "`sum(DISTINCT ..)` is not supported")]
#[case("sum(s)", "`sum` of a Utf8")]
#[case("percentile_cont(f, place / 10)", "must be a literal from 0 to 1")]
#[case("percentile_cont(1.5) WITHIN GROUP (ORDER BY f)", "must be a literal from 0 to 1")]
#[case("count(DISTINCT f, i)", "takes one argument")]
#[case("first_value(i)", "`first_value` needs an ORDER BY")]
fn what_cannot_be_right_is_refused_by_name(#[case] call: &str, #[case] message: &str) {
    let row = one(|row| (row.wide, row.int) = (Some(1), Some(1)));
    let error = ask_one(&[row.clone(), row], &format!("SELECT {call} FROM t GROUP BY k")).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

#[rstest]
#[case("sum(f)", ScalarValue::Float64(None))]
#[case("sum(i)", ScalarValue::Int64(None))]
#[case("avg(d)", ScalarValue::Decimal128(None, 16, 6))]
#[case("stddev(i)", ScalarValue::Float64(None))]
#[case("median(d)", ScalarValue::Decimal128(None, 13, 3))]
#[case("max(f)", ScalarValue::Float64(None))]
#[case("max(s)", ScalarValue::Utf8(None))]
#[case("count(DISTINCT s)", ScalarValue::Int64(Some(0)))]
#[case("count(f)", ScalarValue::Int64(Some(0)))]
#[case("first_value(s ORDER BY place)", ScalarValue::Utf8(None))]
#[case("bool_and(b)", ScalarValue::Boolean(None))]
fn of_nothing(#[case] call: &str, #[case] expected: ScalarValue) {
    assert_eq!(ask_one(&[], &format!("SELECT {call} FROM t")).unwrap(), expected);
    let null = one(|_| {});
    assert_eq!(ask_one(&[null], &format!("SELECT {call} FROM t GROUP BY k")).unwrap(), expected);
}

#[test]
fn running_sums_over_a_window_are_exact() {
    let rows: Vec<Row> = [1e16, 1.0, -1e16, 0.5]
        .into_iter()
        .enumerate()
        .map(|(i, value)| one(|row| (row.float, row.place) = (Some(value), i as i64)))
        .collect();
    let cut = Cut { ends: Vec::new(), partitions: 1, threads: 1, batch_size: 8192, is_skipping: false };
    let sql = "SELECT sum(f) OVER (ORDER BY place), median(f) OVER (ORDER BY place) FROM t ORDER BY place";
    let answers = ask(&session(&rows, &cut), sql).unwrap();
    let sums: Vec<_> = [1e16, 1e16, 1.0, 1.5].map(|sum| ScalarValue::Float64(Some(sum))).into();
    let medians: Vec<_> = [1e16, 5e15, 1.0, 0.75].map(|median| ScalarValue::Float64(Some(median))).into();
    assert_eq!(answers.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), sums);
    assert_eq!(answers.iter().map(|row| row[1].clone()).collect::<Vec<_>>(), medians);
}

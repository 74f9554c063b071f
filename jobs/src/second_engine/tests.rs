//! The second engine against what can be worked out by hand: each function over few values, with nulls, NaN and both
//! zeros; copies around midnight; and windows of each kind.

use super::input::NEEDED;
use super::{Cell, Counts, Frame, Place, Recipe, Recomputed, Rules};
use deltaworks_core::select::{Call, Kind, Order, Select, Term, Value};
use polars::prelude::{DataFrame, DataType, IntoColumn, NamedFrom, Series, TimeUnit, TimeZone};
use rstest::rstest;
use std::sync::Arc;

const DAY_US: i64 = 86_400_000_000;
const INT: Kind = Kind::Integer { bits: 64, signed: true };
const DOUBLE: Kind = Kind::Float { bits: 64 };
const MONEY: Kind = Kind::Decimal { precision: 8, scale: 2 };

/// A landed row: id, event time, Kafka time, fill.
type Landed<'r> = (&'r str, i64, Option<i64>, Option<i64>);

fn instants(name: &str, values: Vec<Option<i64>>) -> Series {
    let kind = DataType::Datetime(TimeUnit::Microseconds, Some(TimeZone::UTC));
    Series::new(name.into(), values).cast(&kind).unwrap()
}

/// Rows of partition 0, in the order of their offsets, with a column of values.
fn frame(rows: &[Landed<'_>], values: Series) -> Frame {
    let n = rows.len();
    let days: Vec<i32> = rows.iter().map(|(_, at, ..)| at.div_euclid(DAY_US) as i32).collect();
    let columns = NEEDED.map(|name| {
        let named = format!("0.{name}");
        match name {
            "event_date" => Series::new(named.into(), &days).cast(&DataType::Date).unwrap(),
            "_kafka_time" => instants(&named, rows.iter().map(|(_, _, kafka, _)| *kafka).collect()),
            "_topic" => Series::new(named.into(), vec!["t"; n]),
            "_partition" => Series::new(named.into(), vec![0_i32; n]),
            "_offset" => Series::new(named.into(), (0..n as i64).collect::<Vec<_>>()),
            "_behind_ms" => Series::new(named.into(), (0..n as i64).map(|n| n * 1_000).collect::<Vec<_>>()),
            _ => Series::new(named.into(), rows.iter().map(|(.., fill)| *fill).collect::<Vec<_>>()),
        }
    });
    let ids: Vec<&str> = rows.iter().map(|(id, ..)| *id).collect();
    let own = [Series::new("0.id".into(), ids), instants("0.at", rows.iter().map(|(_, at, ..)| Some(*at)).collect())];
    let columns = columns.into_iter().chain(own).chain([values.with_name("0.v".into())]);
    Frame(DataFrame::new(n, columns.map(IntoColumn::into_column).collect()).unwrap())
}

fn rules(days: (i32, i32), windows: &[(i64, i64)], size_us: Option<i64>) -> Rules {
    Rules {
        event_time: vec!["at".into()],
        id: Some("id".into()),
        lateness_ms: 2_000,
        next: vec![Place { topic: "t".into(), partition: 0, next: 100 }],
        fill: 1,
        days,
        windows: windows.to_vec(),
        size_us,
    }
}

fn column(name: &str, kind: Kind) -> Term {
    Term::Column { table: 0, name: name.into(), kind }
}

/// One call over the column `v`, without keys.
fn recipe(function: &str, of: Kind, kind: Kind, change: impl FnOnce(&mut Call)) -> Recipe {
    let mut call = Call {
        function: function.into(),
        arguments: vec![column("v", of)],
        distinct: false,
        filter: None,
        order: Vec::new(),
        kind: kind.clone(),
    };
    change(&mut call);
    let select = Select {
        joins: Vec::new(),
        filters: Vec::new(),
        keys: Vec::new(),
        calls: vec![call],
        having: None,
        list: vec![("x".into(), Term::Result(0, kind))],
    };
    Recipe { select: Arc::new(select), lookups: Vec::new() }
}

fn value(recipe: &Recipe, values: Series) -> Cell {
    let ids: Vec<String> = (0..values.len()).map(|n| n.to_string()).collect();
    let rows: Vec<Landed<'_>> = ids.iter().zip(0..).map(|(id, at)| (id.as_str(), at, None, None)).collect();
    let recomputed = recipe.recompute(frame(&rows, values), &rules((0, 1), &[(0, DAY_US)], None)).unwrap();
    assert_eq!(recomputed.rows.len(), 1);
    recomputed.rows[0].values[0].clone()
}

fn doubles(values: &[f64]) -> Series {
    Series::new("v".into(), values.iter().map(|x| (*x != 99.0).then_some(*x)).collect::<Vec<_>>())
}

fn double(x: f64) -> Cell {
    Cell::Float(x.into())
}

const NAN: f64 = f64::NAN;
/// Stands for null.
const NO: f64 = 99.0;

#[rstest]
#[case::count("count", INT, &[1.0, NO, NAN], Cell::Integer(2))]
#[case::count_of_nulls("count", INT, &[NO, NO], Cell::Integer(0))]
#[case::sum("sum", DOUBLE, &[1e16, 1.0, -1e16, NO], double(1.0))]
#[case::sum_of_nulls("sum", DOUBLE, &[NO, NO], Cell::Null)]
#[case::sum_with_nan("sum", DOUBLE, &[1.0, NAN], double(NAN))]
#[case::avg("avg", DOUBLE, &[0.1, 0.1, 0.1, NO], double(0.1))]
#[case::avg_of_nulls("avg", DOUBLE, &[NO], Cell::Null)]
#[case::min("min", DOUBLE, &[2.0, NO, NAN, -1.0], double(-1.0))]
#[case::min_of_zeros("min", DOUBLE, &[0.0, -0.0], double(0.0))]
#[case::min_of_nan("min", DOUBLE, &[NAN, NAN], double(NAN))]
#[case::max("max", DOUBLE, &[2.0, NO, -1.0], double(2.0))]
#[case::nan_is_greatest("max", DOUBLE, &[2.0, NAN, f64::INFINITY], double(NAN))]
#[case::stddev("stddev", DOUBLE, &[1.0, 3.0, NO], double(2.0_f64.sqrt()))]
#[case::stddev_of_one("stddev", DOUBLE, &[1.0], Cell::Null)]
#[case::stddev_pop("stddev_pop", DOUBLE, &[1.0, 3.0], double(1.0))]
#[case::var("var", DOUBLE, &[1.0, 3.0, NO], double(2.0))]
#[case::var_pop_of_one("var_pop", DOUBLE, &[7.0], double(0.0))]
#[case::median("median", DOUBLE, &[5.0, 1.0, NO, 2.0, 3.0], double(2.5))]
#[case::median_with_nan("median", DOUBLE, &[NAN, 1.0, 2.0], double(2.0))]
#[case::median_of_nulls("median", DOUBLE, &[NO], Cell::Null)]
fn functions_of_doubles(#[case] function: &str, #[case] kind: Kind, #[case] values: &[f64], #[case] expected: Cell) {
    assert_eq!(value(&recipe(function, DOUBLE, kind, |_| ()), doubles(values)), expected);
}

#[rstest]
#[case::least(0.0, false, 1.0)]
#[case::between(0.25, false, 1.75)]
#[case::greatest(1.0, false, 4.0)]
#[case::from_the_greatest(0.25, true, 3.25)]
fn percentiles(#[case] at: f64, #[case] descending: bool, #[case] expected: f64) {
    let recipe = recipe("percentile_cont", DOUBLE, DOUBLE, |call| {
        call.arguments.push(Term::Literal(Value::Float(at), DOUBLE));
        call.order = vec![Order { by: column("v", DOUBLE), descending, nulls_first: false }];
    });
    assert_eq!(value(&recipe, doubles(&[3.0, 1.0, NO, 4.0, 2.0])), double(expected));
}

#[rstest]
#[case::sum("sum", INT, Cell::Integer(9))]
#[case::avg("avg", DOUBLE, double(2.25))]
#[case::min("min", INT, Cell::Integer(-1))]
#[case::median("median", DOUBLE, double(2.5))]
#[case::bit_and("bit_and", INT, Cell::Integer(0))]
#[case::bit_or("bit_or", INT, Cell::Integer(-1))]
#[case::bit_xor("bit_xor", INT, Cell::Integer(-5))]
fn functions_of_whole_numbers(#[case] function: &str, #[case] kind: Kind, #[case] expected: Cell) {
    let values = Series::new("v".into(), vec![Some(5_i64), None, Some(-1), Some(3), Some(2)]);
    assert_eq!(value(&recipe(function, INT, kind, |_| ()), values), expected);
}

#[rstest]
#[case::sum("sum", Kind::Decimal { precision: 38, scale: 2 }, Cell::Decimal(4, 2))]
#[case::avg("avg", Kind::Decimal { precision: 12, scale: 6 }, Cell::Decimal(13_333, 6))]
#[case::min("min", MONEY, Cell::Decimal(-1, 2))]
#[case::max("max", MONEY, Cell::Decimal(3, 2))]
#[case::median("median", Kind::Decimal { precision: 9, scale: 3 }, Cell::Decimal(20, 3))]
#[case::var_pop("var_pop", DOUBLE, double(0.000_288_888_888_888_888_9))]
fn functions_of_decimals(#[case] function: &str, #[case] kind: Kind, #[case] expected: Cell) {
    let values = super::numbers::decimals("v".into(), vec![Some(3), None, Some(-1), Some(2)], 8, 2).unwrap();
    let got = value(&recipe(function, MONEY, kind, |_| ()), values.take_materialized_series());
    match (&got, &expected) {
        (Cell::Float(a), Cell::Float(b)) => assert!((f64::from(*a) / f64::from(*b) - 1.0).abs() < 1e-14, "{got}"),
        _ => assert_eq!(got, expected),
    }
}

#[rstest]
#[case::all("bool_and", &[Some(true), None, Some(false)], Cell::Boolean(false))]
#[case::all_of_nulls("bool_and", &[None], Cell::Null)]
#[case::any("bool_or", &[Some(false), None, Some(true)], Cell::Boolean(true))]
#[case::any_of_nulls("bool_or", &[None, None], Cell::Null)]
fn functions_of_truths(#[case] function: &str, #[case] values: &[Option<bool>], #[case] expected: Cell) {
    let values = Series::new("v".into(), values.to_vec());
    assert_eq!(value(&recipe(function, Kind::Boolean, Kind::Boolean, |_| ()), values), expected);
}

#[rstest]
#[case::first("first_value", false, false, "b")]
#[case::last("last_value", false, false, "e")]
#[case::first_of_descending("first_value", true, false, "d")]
#[case::nulls_first("first_value", false, true, "e")]
fn first_and_last(#[case] function: &str, #[case] descending: bool, #[case] nulls_first: bool, #[case] is: &str) {
    // ordered by the length, which is null for `e`; `c` and `b` are equal but for their place, and a null is passed over
    let length = Term::Case {
        branches: vec![(
            Term::Apply {
                function: "IN".into(),
                arguments: vec![column("v", Kind::Text), text("c"), text("b")],
                kind: Kind::Boolean,
            },
            Term::Literal(Value::Integer(1), INT),
        )],
        otherwise: Some(Box::new(Term::Case {
            branches: vec![(
                Term::Apply {
                    function: "=".into(),
                    arguments: vec![column("v", Kind::Text), text("d")],
                    kind: Kind::Boolean,
                },
                Term::Literal(Value::Integer(2), INT),
            )],
            otherwise: None,
            kind: INT,
        })),
        kind: INT,
    };
    let recipe = recipe(function, Kind::Text, Kind::Text, |call| {
        call.order = vec![Order { by: length, descending, nulls_first }];
    });
    let values = Series::new("v".into(), vec![None, Some("b"), Some("c"), Some("d"), Some("e")]);
    assert_eq!(value(&recipe, values), Cell::Text(is.into()));
}

fn text(text: &str) -> Term {
    Term::Literal(Value::Text(text.into()), Kind::Text)
}

#[test]
fn filter_and_distinct_leave_out_what_they_should() {
    let above = |call: &mut Call| {
        call.filter = Some(Term::Apply {
            function: ">".into(),
            arguments: vec![column("v", DOUBLE), Term::Literal(Value::Float(1.0), DOUBLE)],
            kind: Kind::Boolean,
        });
    };
    let values = || doubles(&[1.0, 2.0, NO, 2.0, 3.0, 0.0, -0.0, NAN, -NAN]);
    assert_eq!(value(&recipe("sum", DOUBLE, DOUBLE, above), doubles(&[1.0, 2.0, NO, 3.0])), double(5.0));
    let different = recipe("count", DOUBLE, INT, |call| call.distinct = true);
    assert_eq!(value(&different, values()), Cell::Integer(5));
}

fn counted(rows: &[Landed<'_>], rules: &Rules) -> Recomputed {
    let values = Series::new("v".into(), (0..rows.len() as i64).collect::<Vec<_>>());
    recipe("sum", INT, INT, |_| ()).recompute(frame(rows, values), rules).unwrap()
}

#[test]
fn a_copy_lies_on_the_date_of_an_equal_id_or_the_day_after() {
    let hour = DAY_US / 24;
    let rows = [
        ("a", DAY_US + hour, Some(2), None),
        ("a", DAY_US + hour, Some(1), None),
        ("a", DAY_US + hour, None, None),
        // the day after, and the day after that: only the id right before counts
        ("a", 2 * DAY_US + hour, Some(0), None),
        ("a", 4 * DAY_US + hour, Some(0), None),
        ("b", DAY_US - 1, Some(0), None),
        ("b", DAY_US, Some(0), None),
        // of a fill that the pin does not know
        ("c", DAY_US + hour, Some(0), Some(2)),
        ("d", DAY_US + hour, Some(0), Some(1)),
    ];
    let days: Vec<(i64, i64)> = (0..5).map(|day| (day * DAY_US, (day + 1) * DAY_US)).collect();
    let recomputed = counted(&rows, &rules((1, 5), &days, Some(DAY_US)));
    let mut rows: Vec<_> =
        recomputed.rows.iter().map(|row| (row.start / DAY_US, row.values[0].clone(), row.counts)).collect();
    rows.sort();
    // events, late, duplicates, fills
    let expected = vec![(1, Cell::Integer(1 + 8), [2, 1, 3, 1]), (4, Cell::Integer(4), [1, 1, 0, 0])];
    assert_eq!(rows, expected);
    let inside = [(0, 1), (1, 5), (2, 1), (4, 1)].into_iter().collect();
    let counts = Counts { inside, landed: 7, filtered: 0, events: 3, duplicates: 4, groups: 2 };
    assert_eq!(recomputed.counts, counts);
}

#[test]
fn rows_of_windows_that_are_not_asked_for_are_left_out() {
    let rows: Vec<Landed<'_>> =
        [("a", -1_i64), ("b", 0), ("c", 299_999_999), ("d", 300_000_000), ("e", 899_999_999), ("f", 900_000_000)]
            .map(|(id, at)| (id, at, None, None))
            .to_vec();
    let five = 300_000_000;
    let asked = counted(&rows, &rules((-1, 1), &[(-five, 0), (0, five), (2 * five, 3 * five)], Some(five)));
    let mut found: Vec<(i64, i64)> = asked.rows.iter().map(|row| (row.start / five, row.counts[0])).collect();
    found.sort_unstable();
    assert_eq!((found, asked.counts.landed), (vec![(-1, 1), (0, 2), (2, 1)], 4));
    // a calendar window of whatever length
    let whole = counted(&rows, &rules((-1, 1), &[(0, 3 * five)], None));
    assert_eq!((whole.rows.len(), whole.rows[0].end, whole.rows[0].counts[0]), (1, 3 * five, 4));
}

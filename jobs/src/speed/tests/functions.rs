//! After every commit, each function over stored states equals the naive one over the rows that count.

use super::kit::{FIRST_US, HOUR_US, Kit, Row, ended, finished, hand_over, some_rows};
use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use rstest::rstest;
use std::collections::BTreeMap;

type Naive = for<'a, 'b> fn(&'a [&'b Row]) -> Option<f64>;

fn ns(rows: &[&Row]) -> Vec<i64> {
    rows.iter().filter_map(|r| r.n).collect()
}
fn xs(rows: &[&Row]) -> Vec<f64> {
    let mut xs: Vec<f64> = rows.iter().filter_map(|r| r.x).collect();
    xs.sort_by(f64::total_cmp);
    xs
}
fn flags(rows: &[&Row]) -> Vec<bool> {
    rows.iter().filter_map(|r| r.flag).collect()
}
fn some(xs: &[f64], of: impl Fn(&[f64]) -> f64) -> Option<f64> {
    (!xs.is_empty()).then(|| of(xs))
}
fn variance(xs: &[f64]) -> Option<f64> {
    let mean = xs.iter().sum::<f64>() / xs.len() as f64;
    (xs.len() > 1).then(|| xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (xs.len() - 1) as f64)
}
fn percentile(xs: &[f64], at: f64) -> f64 {
    let place = at * (xs.len() - 1) as f64;
    let (low, high) = (xs[place.floor() as usize], xs[place.ceil() as usize]);
    low + (high - low) * place.fract()
}
fn by_time<'r>(rows: &[&'r Row]) -> Vec<&'r Row> {
    let mut rows = rows.to_vec();
    rows.retain(|r| r.n.is_some());
    rows.sort_by_key(|r| (r.at_us, r.partition, r.offset));
    rows
}
fn number(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

/// What the table must say: granularity, window start, key.
fn naive(rows: &[Row], value: Naive) -> BTreeMap<(String, i64, Option<String>), Option<f64>> {
    let mut groups: BTreeMap<(String, i64, Option<String>), Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|r| r.counts()) {
        for (name, size_us) in [("15m", HOUR_US / 4), ("1d", 24 * HOUR_US)] {
            let start = row.at_us.div_euclid(size_us) * size_us;
            groups.entry((name.into(), start, row.key.clone())).or_default().push(row);
        }
    }
    groups.into_iter().map(|(group, rows)| (group, value(&rows))).collect()
}

#[rstest]
#[case::count("count(*)", |r: &[&Row]| Some(r.len() as f64))]
#[case::count_of("count(n)", |r: &[&Row]| Some(ns(r).len() as f64))]
#[case::count_distinct("count(DISTINCT n)", |r: &[&Row]| Some(ns(r).iter().collect::<std::collections::BTreeSet<_>>().len() as f64))]
#[case::sum_of_integers("sum(n)", |r: &[&Row]| (!ns(r).is_empty()).then(|| ns(r).iter().sum::<i64>() as f64))]
#[case::sum_of_floats("sum(x)", |r: &[&Row]| some(&xs(r), |xs| xs.iter().sum()))]
#[case::sum_of_decimals("sum(price)", |r: &[&Row]| {
    let prices: Vec<i128> = r.iter().filter_map(|r| r.price).collect();
    (!prices.is_empty()).then(|| prices.iter().sum::<i128>() as f64 / 100.0)
})]
#[case::avg("avg(x)", |r: &[&Row]| some(&xs(r), |xs| xs.iter().sum::<f64>() / xs.len() as f64))]
#[case::min("min(x)", |r: &[&Row]| some(&xs(r), |xs| xs[0]))]
#[case::max("max(x)", |r: &[&Row]| some(&xs(r), |xs| xs[xs.len() - 1]))]
#[case::var("var(x)", |r: &[&Row]| variance(&xs(r)))]
#[case::stddev("stddev(x)", |r: &[&Row]| variance(&xs(r)).map(f64::sqrt))]
#[case::median("median(x)", |r: &[&Row]| some(&xs(r), |xs| percentile(xs, 0.5)))]
#[case::percentile("percentile_cont(0.9) WITHIN GROUP (ORDER BY x)", |r: &[&Row]| some(&xs(r), |xs| percentile(xs, 0.9)))]
#[case::bool_and("bool_and(flag)", |r: &[&Row]| (!flags(r).is_empty()).then(|| number(flags(r).iter().all(|f| *f))))]
#[case::bool_or("bool_or(flag)", |r: &[&Row]| (!flags(r).is_empty()).then(|| number(flags(r).iter().any(|f| *f))))]
#[case::first("first_value(n ORDER BY at)", |r: &[&Row]| by_time(r).first().and_then(|r| r.n).map(|n| n as f64))]
#[case::last("last_value(n ORDER BY at)", |r: &[&Row]| by_time(r).last().and_then(|r| r.n).map(|n| n as f64))]
#[case::filter("sum(n) FILTER (WHERE flag)", |r: &[&Row]| {
    let flagged: Vec<i64> = r.iter().filter(|r| r.flag == Some(true)).filter_map(|r| r.n).collect();
    (!flagged.is_empty()).then(|| flagged.iter().sum::<i64>() as f64)
})]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equals_the_naive_function_after_every_commit(#[case] function: &str, #[case] value: Naive) {
    let kit = Kit::new(&format!("SELECT key, {function} AS value FROM events GROUP BY key"));
    let rows = some_rows(160);
    assert!(rows.iter().any(|r| r.at_us >= FIRST_US + 24 * HOUR_US), "two days");
    let mut landed = Vec::new();
    for part in rows.chunks(70) {
        let live = kit.live().await;
        landed.extend_from_slice(part);
        hand_over(&live, kit.land(part).await);
        let report = ended(live).await;
        assert_eq!(report.failures, 0, "{report:?}");
        assert_says(&kit, &naive(&landed, value)).await;
    }
}

async fn assert_says(kit: &Kit, expected: &BTreeMap<(String, i64, Option<String>), Option<f64>>) {
    let definition = kit.definition().await;
    let windows = finished(&definition, kit.table().await.all_states().await.unwrap()).await;
    let mut said = BTreeMap::new();
    for (granularity, batch) in windows.iter().flat_map(|(g, batches)| batches.iter().map(move |b| (g, b))) {
        let starts = batch["window_start"].as_primitive::<TimestampMicrosecondType>();
        let keys = batch["key"].as_string::<i32>();
        let whole = match batch["value"].data_type() {
            DataType::Boolean => cast(&batch["value"], &DataType::Int8).unwrap(),
            _ => batch["value"].clone(),
        };
        let values = cast(&whole, &DataType::Float64).unwrap();
        let values = values.as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let key = keys.is_valid(row).then(|| keys.value(row).to_owned());
            let value = values.is_valid(row).then(|| values.value(row));
            assert!(said.insert((granularity.clone(), starts.value(row), key), value).is_none(), "once");
        }
    }
    assert_eq!(said.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (group, expected) in expected {
        let close = match (said[group], expected) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * b.abs().max(1.0),
            (a, b) => a == *b,
        };
        assert!(close, "{group:?}: {:?}, expected {expected:?}", said[group]);
    }
}

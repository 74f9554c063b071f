//! What each function should answer, computed as plainly as it can be said.
//!
//! Floats are quarters below 10^4 or special, so that sums of them and of their squares fit in
//! integers, and the one division at the end is right as doubles do it.

use super::Row;
use deltalake::datafusion::common::ScalarValue;
use std::collections::BTreeSet;

/// Rows of one group.
pub(super) type Group<'a> = Vec<&'a Row>;

/// The model's answer for a group.
pub(super) type Cell = fn(&Group<'_>) -> ScalarValue;

/// SQL and answer.
pub(super) fn questions() -> Vec<(&'static str, Cell)> {
    vec![
        ("count(*)", |group| ScalarValue::Int64(Some(group.len() as i64))),
        ("count(i)", |group| ScalarValue::Int64(Some(ints(group).len() as i64))),
        ("sum(f)", |group| double(fold(group, |quarters, _| quarters as f64 / 4.0))),
        ("avg(f)", |group| double(fold(group, |quarters, n| quarters as f64 / (4 * n) as f64))),
        ("sum(i)", |group| ScalarValue::Int64((!ints(group).is_empty()).then(|| ints(group).iter().sum()))),
        ("avg(i)", |group| double(mean(&ints(group)))),
        ("sum(d)", |group| decimal(total(&decimals(group)), 38, 2)),
        ("sum(w)", |group| decimal(total(&wides(group)), 38, 4)),
        ("avg(d)", |group| decimal(half_even(total(&decimals(group)), 10_000, decimals(group).len()), 16, 6)),
        ("var(f)", |group| double(spread(group, 1, false))),
        ("var_pop(f)", |group| double(spread(group, 0, false))),
        ("stddev_samp(f)", |group| double(spread(group, 1, true))),
        ("stddev_pop(f)", |group| double(spread(group, 0, true))),
        ("min(f)", |group| double(floats(group).first().copied())),
        ("max(f)", |group| double(floats(group).last().copied())),
        ("min(s)", |group| ScalarValue::Utf8(texts(group).iter().min().cloned())),
        ("max(d)", |group| decimal(decimals(group).into_iter().max(), 12, 2)),
        ("median(f)", |group| double(between(&floats(group), 0.5))),
        ("median(DISTINCT f)", |group| {
            let mut different = floats(group);
            different.dedup_by_key(|float| float.to_bits());
            double(between(&different, 0.5))
        }),
        ("median(i)", |group| double(middle(ints(group)).map(|(a, b)| (i128::from(a) + i128::from(b)) as f64 / 2.0))),
        ("median(d)", |group| decimal(middle(decimals(group)).map(|(a, b)| (a + b) * 5), 13, 3)),
        ("median(w)", |group| decimal(middle(wides(group)).map(|(a, b)| (a + b) * 5), 38, 5)),
        ("percentile_cont(0.25) WITHIN GROUP (ORDER BY f)", |group| double(between(&floats(group), 0.25))),
        ("percentile_cont(0.0) WITHIN GROUP (ORDER BY f)", |group| double(floats(group).first().copied())),
        ("percentile_cont(0.25) WITHIN GROUP (ORDER BY f DESC)", |group| {
            let mut falling = floats(group);
            falling.reverse();
            double(between(&falling, 0.25))
        }),
        ("count(DISTINCT f)", |group| count(floats(group).iter().map(|float| float.to_bits()))),
        ("count(DISTINCT i)", |group| count(ints(group))),
        ("count(DISTINCT d)", |group| count(decimals(group))),
        ("count(DISTINCT s)", |group| count(texts(group))),
        ("count(DISTINCT b)", |group| count(group.iter().filter_map(|row| row.flag))),
        ("count(DISTINCT struct(s, b))", |group| count(group.iter().map(|row| (&row.text, row.flag)))),
        ("bool_and(b)", |group| flags(group).into_iter().reduce(|a, b| a && b).into()),
        ("bool_or(b)", |group| flags(group).into_iter().reduce(|a, b| a || b).into()),
        ("first_value(s ORDER BY d, place)", |group| ScalarValue::Utf8(first(group))),
        ("last_value(f ORDER BY s DESC, f)", |group| {
            // Falling with nulls first: nulls, then z to a; the last is of the least text.
            let with_float = group.iter().filter(|row| row.float.is_some());
            let key = |row: &&&Row| (row.text.is_some(), row.text.clone().map(std::cmp::Reverse));
            let last = with_float.clone().map(|row| key(&row)).max();
            let ties: Group<'_> = with_float.filter(|row| Some(key(row)) == last).copied().collect();
            double(floats(&ties).last().copied())
        }),
        ("last_value(i ORDER BY place)", |group| {
            let last = group.iter().filter(|row| row.int.is_some()).max_by_key(|row| row.place);
            ScalarValue::Int64(last.and_then(|row| row.int))
        }),
    ]
}

fn double(value: Option<f64>) -> ScalarValue {
    ScalarValue::Float64(value)
}

fn decimal(value: Option<i128>, precision: u8, scale: i8) -> ScalarValue {
    ScalarValue::Decimal128(value, precision, scale)
}

fn count<T: Ord>(values: impl IntoIterator<Item = T>) -> ScalarValue {
    ScalarValue::Int64(Some(values.into_iter().collect::<BTreeSet<_>>().len() as i64))
}

/// In order: −0.0 as 0.0, one NaN, last.
fn floats(group: &Group<'_>) -> Vec<f64> {
    let plain = |float: f64| if float.is_nan() { f64::NAN } else { float + 0.0 };
    let mut floats: Vec<f64> = group.iter().filter_map(|row| row.float.map(plain)).collect();
    floats.sort_by(f64::total_cmp);
    floats
}

fn ints(group: &Group<'_>) -> Vec<i64> {
    group.iter().filter_map(|row| row.int).collect()
}

fn decimals(group: &Group<'_>) -> Vec<i128> {
    group.iter().filter_map(|row| row.decimal).collect()
}

fn wides(group: &Group<'_>) -> Vec<i128> {
    group.iter().filter_map(|row| row.wide).collect()
}

fn texts(group: &Group<'_>) -> Vec<String> {
    group.iter().filter_map(|row| row.text.clone()).collect()
}

fn flags(group: &Group<'_>) -> Vec<bool> {
    group.iter().filter_map(|row| row.flag).collect()
}

/// Nulls of the ordering column come last.
fn first(group: &Group<'_>) -> Option<String> {
    let with_text = group.iter().filter(|row| row.text.is_some());
    with_text.min_by_key(|row| (row.decimal.is_none(), row.decimal, row.place))?.text.clone()
}

fn total(values: &[i128]) -> Option<i128> {
    values.iter().copied().reduce(|a, b| a + b)
}

fn half_even(value: Option<i128>, times: i128, count: usize) -> Option<i128> {
    let (value, count) = (value? * times, count as i128);
    let below = value.div_euclid(count);
    let twice = 2 * value.rem_euclid(count);
    Some(below + i128::from(twice > count || twice == count && below % 2 != 0))
}

/// The quotient, 2^64 times, and whether more follows as its last bit: that rounds as the whole does.
fn mean(values: &[i64]) -> Option<f64> {
    let count = values.len() as i128;
    let sum: i128 = values.iter().map(|value| i128::from(*value)).sum::<i128>() << 63;
    let floor = (count > 0).then(|| sum.div_euclid(count))?;
    let scaled = 2 * floor + i128::from(floor * count != sum);
    Some(scaled as f64 / 2_f64.powi(64))
}

/// What the sum of quarters and the count become, if no value is special.
fn fold(group: &Group<'_>, finish: fn(i128, i128) -> f64) -> Option<f64> {
    let floats = floats(group);
    let has = |special: f64| floats.contains(&special);
    let is_nan = floats.iter().any(|float| float.is_nan()) || has(f64::INFINITY) && has(f64::NEG_INFINITY);
    let special = [is_nan, has(f64::INFINITY), has(f64::NEG_INFINITY)];
    let value = match special {
        _ if floats.is_empty() => return None,
        [true, ..] => f64::NAN,
        [_, true, _] => f64::INFINITY,
        [.., true] => f64::NEG_INFINITY,
        _ => finish(quarters(&floats).iter().sum(), floats.len() as i128),
    };
    Some(value)
}

fn quarters(floats: &[f64]) -> Vec<i128> {
    floats.iter().map(|float| (float * 4.0) as i128).collect()
}

/// Numerator and denominator are below 2^53.
fn spread(group: &Group<'_>, less: i128, is_root: bool) -> Option<f64> {
    let floats = floats(group);
    let n = floats.len() as i128;
    if n <= less {
        return None;
    }
    if floats.iter().any(|float| !float.is_finite()) {
        return Some(f64::NAN);
    }
    let quarters = quarters(&floats);
    let sum: i128 = quarters.iter().sum();
    let squares: i128 = quarters.iter().map(|quarter| quarter * quarter).sum();
    let (numerator, denominator) = (n * squares - sum * sum, 16 * n * (n - less));
    Some(if is_root { root(numerator, denominator) } else { numerator as f64 / denominator as f64 })
}

/// As [`mean`] does it: 54 bits or more of the root, and one that says whether more follows.
fn root(numerator: i128, denominator: i128) -> f64 {
    if numerator == 0 {
        return 0.0;
    }
    let shift = (numerator.leading_zeros() - 2) / 2 * 2;
    let floor = ((numerator << shift) / denominator).isqrt();
    let scaled = 2 * floor + i128::from(floor * floor * denominator != numerator << shift);
    scaled as f64 / 2_f64.powi(shift as i32 / 2 + 1)
}

/// The two values in the middle.
fn middle<V: Ord + Copy>(mut values: Vec<V>) -> Option<(V, V)> {
    values.sort_unstable();
    let n = values.len();
    (n > 0).then(|| (values[(n - 1) / 2], values[n / 2]))
}

/// The weight is a quarter or a half, the values quarters: nothing rounds.
fn between(values: &[f64], percentile: f64) -> Option<f64> {
    let rank = percentile * values.len().checked_sub(1)? as f64;
    let (low, high) = (values[rank.floor() as usize], values[rank.ceil() as usize]);
    let weight = rank - rank.floor();
    let value = if weight == 0.0 || low == high { low } else { low * (1.0 - weight) + high * weight };
    Some(if value.is_nan() { f64::NAN } else { value + 0.0 })
}

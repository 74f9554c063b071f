//! Arithmetic of decimals, which Polars rounds elsewhere than SQL does: row by row, in 128 bits.

use super::terms::data_type;
use super::{Told, unknown};
use deltaworks_core::select::Kind;
use polars::prelude::{
    AnyValue, Column, DataType, Expr, Field, Float64Chunked, Int64Chunked, Int128Chunked, IntoColumn, NewChunkedArray,
    PlSmallStr, PolarsError, PolarsResult, map_multiple,
};

/// What is done with two decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// The sum.
    Plus,
    /// The difference.
    Minus,
    /// The product.
    Times,
    /// The quotient, cut towards zero.
    Over,
}

/// Two decimals of these scales, or whole numbers of scale 0, into one of `kind`.
pub(super) fn arithmetic(how: Arithmetic, of: [Expr; 2], scales: [u8; 2], kind: &Kind) -> Told<Expr> {
    let Kind::Decimal { precision, scale } = *kind else { return unknown(format!("decimals into `{kind}`")) };
    let [left, right] = scales.map(u32::from);
    let to = u32::from(scale);
    let compute = move |a: i128, b: i128| -> Option<i128> {
        match how {
            Arithmetic::Plus => rescaled(a, left, to)?.checked_add(rescaled(b, right, to)?),
            Arithmetic::Minus => rescaled(a, left, to)?.checked_sub(rescaled(b, right, to)?),
            Arithmetic::Times => rescaled(a.checked_mul(b)?, left + right, to),
            Arithmetic::Over => a.checked_mul(10_i128.checked_pow((to + right).checked_sub(left)?)?)?.checked_div(b),
        }
    };
    let apply = move |columns: &mut [Column]| {
        let [a, b] = columns else { return Err(failed("two decimals are wanted")) };
        let (a, b) = (wholes(a)?, wholes(b)?);
        let rows = if a.len() == 1 { b.len() } else { a.len() };
        let at = |of: &[Option<i128>], row: usize| of.get(if of.len() == 1 { 0 } else { row }).copied().flatten();
        let values = (0..rows).map(|row| match (at(&a, row), at(&b, row)) {
            (Some(a), Some(b)) => compute(a, b).map(Some).ok_or_else(|| failed("a decimal leaves its range")),
            _ => Ok(None),
        });
        decimals(PlSmallStr::EMPTY, values.collect::<PolarsResult<_>>()?, precision, scale)
    };
    Ok(mapped(apply, of.to_vec(), data_type(kind)?))
}

/// The quotient of two doubles. Polars multiplies by the reciprocal of a constant, which is a bit off.
pub(super) fn quotient_of_doubles(of: [Expr; 2], kind: &Kind) -> Told<Expr> {
    let apply = move |columns: &mut [Column]| {
        let [a, b] = columns else { return Err(failed("two numbers are wanted")) };
        let doubles = |column: &Column| -> PolarsResult<Vec<Option<f64>>> {
            Ok(column.cast(&DataType::Float64)?.f64()?.iter().collect())
        };
        let (a, b) = (doubles(a)?, doubles(b)?);
        let rows = if a.len() == 1 { b.len() } else { a.len() };
        let at = |of: &[Option<f64>], row: usize| of.get(if of.len() == 1 { 0 } else { row }).copied().flatten();
        let quotients = (0..rows).map(|row| at(&a, row).zip(at(&b, row)).map(|(a, b)| a / b));
        let quotients: Vec<Option<f64>> = quotients.collect();
        Ok(Float64Chunked::from_slice_options(PlSmallStr::EMPTY, &quotients).into_column())
    };
    // of two floats of 32 bits, the nearest double rounds to the nearest float
    Ok(mapped(apply, of.to_vec(), DataType::Float64).cast(data_type(kind)?))
}

/// A decimal or whole number as another number, rounded as SQL casts are: halves away from zero.
pub(super) fn cast_number(of: Expr, from: &Kind, to: &Kind) -> Told<Expr> {
    let scale = match from {
        Kind::Decimal { scale, .. } => *scale,
        _ => 0,
    };
    let to_type = data_type(to)?;
    match *to {
        Kind::Decimal { precision, scale: wanted } => {
            let apply = move |columns: &mut [Column]| {
                let values = one(columns)?.into_iter().map(|value| {
                    let value = value.map(|value| rounded(value, scale.into(), wanted.into()));
                    value.map_or(Ok(None), |v| v.map(Some).ok_or_else(|| failed("a decimal leaves its range")))
                });
                decimals(PlSmallStr::EMPTY, values.collect::<PolarsResult<_>>()?, precision, wanted)
            };
            Ok(mapped(apply, vec![of], to_type))
        }
        Kind::Float { bits: 64 } => {
            let apply = move |columns: &mut [Column]| {
                let power = 10_f64.powi(scale.into());
                let doubles = one(columns)?.into_iter().map(|value| value.map(|v| v as f64 / power));
                let doubles: Vec<Option<f64>> = doubles.collect();
                Ok(Float64Chunked::from_slice_options(PlSmallStr::EMPTY, &doubles).into_column())
            };
            Ok(mapped(apply, vec![of], to_type))
        }
        _ => unknown(format!("a cast of `{from}` to `{to}`")),
    }
}

/// A number rounded to so many digits behind the point, halves away from zero.
pub(super) fn round(of: Expr, from: &Kind, digits: i32, to: &Kind) -> Told<Expr> {
    let to_type = data_type(to)?;
    match (from, to) {
        (Kind::Float { bits: 64 }, Kind::Float { bits: 64 }) => {
            let power = 10_f64.powi(digits);
            let apply = move |columns: &mut [Column]| {
                let doubles = columns.first().ok_or_else(|| failed("a number is wanted"))?.f64()?.iter();
                let rounded: Vec<Option<f64>> = doubles.map(|x| x.map(|x| (x * power).round() / power)).collect();
                Ok(Float64Chunked::from_slice_options(PlSmallStr::EMPTY, &rounded).into_column())
            };
            Ok(mapped(apply, vec![of], to_type))
        }
        (&Kind::Decimal { scale: from, .. }, &Kind::Decimal { precision, scale }) => {
            let (from, to) = (u32::from(from), u32::from(scale));
            let Ok(digits) = u32::try_from(digits) else { return unknown("`round` to tens") };
            let digits = digits.min(from);
            let apply = move |columns: &mut [Column]| {
                let values = one(columns)?.into_iter().map(|value| {
                    let value = value.map(|value| rescaled(rounded(value, from, digits)?, digits, to));
                    value.map_or(Ok(None), |v| v.map(Some).ok_or_else(|| failed("a decimal leaves its range")))
                });
                decimals(PlSmallStr::EMPTY, values.collect::<PolarsResult<_>>()?, precision, scale)
            };
            Ok(mapped(apply, vec![of], to_type))
        }
        _ => unknown(format!("`round` of `{from}`")),
    }
}

/// The whole numbers that a column of integers or decimals is made of.
pub(super) fn wholes(column: &Column) -> PolarsResult<Vec<Option<i128>>> {
    let series = column.as_materialized_series();
    match series.dtype() {
        DataType::Decimal(..) => Ok(series.decimal()?.physical().iter().collect()),
        // lists of decimals give out what decimals are made of
        DataType::Int128 => {
            let value = |row| match series.get(row)? {
                AnyValue::Int128(n) => Ok(Some(n)),
                _ => Ok(None),
            };
            (0..series.len()).map(value).collect()
        }
        _ => {
            let longs = series.strict_cast(&DataType::Int64)?;
            let longs: &Int64Chunked = longs.i64()?;
            Ok(longs.iter().map(|n| n.map(Into::into)).collect())
        }
    }
}

/// A column of decimals.
pub(super) fn decimals(name: PlSmallStr, values: Vec<Option<i128>>, precision: u8, scale: u8) -> PolarsResult<Column> {
    let values = Int128Chunked::from_slice_options(name, &values);
    Ok(values.into_decimal(precision.into(), scale.into())?.into_column())
}

fn one(columns: &mut [Column]) -> PolarsResult<Vec<Option<i128>>> {
    columns.first().map_or_else(|| Err(failed("a number is wanted")), wholes)
}

fn mapped(
    apply: impl Fn(&mut [Column]) -> PolarsResult<Column> + Send + Sync + 'static,
    of: Vec<Expr>,
    data_type: DataType,
) -> Expr {
    map_multiple(apply, of, move |_, fields| {
        let name = fields.first().map_or(PlSmallStr::EMPTY, |field| field.name().clone());
        Ok(Field::new(name, data_type.clone()))
    })
}

fn failed(message: &'static str) -> PolarsError {
    PolarsError::ComputeError(message.into())
}

/// With more digits behind the point; never with fewer.
fn rescaled(value: i128, from: u32, to: u32) -> Option<i128> {
    value.checked_mul(10_i128.checked_pow(to.checked_sub(from)?)?)
}

fn rounded(value: i128, from: u32, to: u32) -> Option<i128> {
    let Some(fewer) = from.checked_sub(to).filter(|fewer| *fewer > 0) else { return rescaled(value, from, to) };
    let power = 10_i128.checked_pow(fewer)?;
    let (whole, rest) = (value / power, value % power);
    Some(if 2 * rest.abs() >= power { whole + value.signum() } else { whole })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::up(15, 1, 3, Some(1_500))]
    #[case::half(25, 1, 0, Some(3))]
    #[case::half_below_zero(-25, 1, 0, Some(-3))]
    #[case::less(24, 1, 0, Some(2))]
    #[case::too_far(i128::MAX, 0, 1, None)]
    fn casts_round_halves_away_from_zero(
        #[case] value: i128,
        #[case] from: u32,
        #[case] to: u32,
        #[case] is: Option<i128>,
    ) {
        assert_eq!(rounded(value, from, to), is);
    }
}

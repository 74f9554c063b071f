//! `median` and `percentile_cont`, exact: all values are kept and ranked, none is estimated.
//!
//! The rank of percentile p among n values is p · (n − 1), as a double. Between two ranks lies the
//! double nearest to the point between their exact values; DataFusion cuts the weight to six
//! digits there. NaN ranks last and −0.0 as 0.0. `ORDER BY x DESC` counts ranks from the greatest.
//!
//! | argument | `median` | `percentile_cont` | kept as |
//! |---|---|---|---|
//! | float | double | double | 8 bytes |
//! | integer | double nearest to the mean of the middle two | as of doubles | 8 bytes |
//! | `decimal(p, s)` | `decimal(p + 1, s + 1)`, exact; with p = 38 its own type, half to even | as of doubles | 8 bytes; 16 with p > 18 |

use super::definition::{Call, Definition};
use super::groups::Peek;
use super::numbers::{coerce, from_order_key, order_key};
use super::sum::{decimals, half_even};
use super::values::{AllValues, OfValues, list_of};
use super::whole::Output;
use arrow::array::{ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Float64Type, Int64Type, i256};
use deltalake::datafusion::common::{Result, internal_err, plan_err};
use deltalake::datafusion::physical_expr::expressions::Literal;
use deltalake::datafusion::scalar::ScalarValue;
use deltaworks_core::exact_sum::{interpolate, mean_of_integers};
use std::sync::Arc;

/// `median`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Median;

/// `percentile_cont`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PercentileCont;

impl Definition for Median {
    fn coerce(&self, name: &str, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(vec![match coerce(name, arguments)? {
            DataType::UInt64 => DataType::Decimal128(20, 0),
            other => other,
        }])
    }

    fn returns(&self, arguments: &[DataType]) -> DataType {
        match arguments[0] {
            DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale) => {
                DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale)
            }
            DataType::Decimal128(precision, scale) => DataType::Decimal128(precision + 1, scale + 1),
            _ => DataType::Float64,
        }
    }

    fn state(&self, arguments: &[DataType]) -> DataType {
        list_of(item(&arguments[0]))
    }

    fn groups(&self, call: &Call<'_>) -> Result<Box<dyn Peek>> {
        let rank = Rank { percentile: 0.5, is_descending: false, is_distinct: call.args.is_distinct };
        Ok(match &call.arguments[0] {
            DataType::Float64 => Box::new(AllValues::new(OfDoubles(rank))),
            DataType::Int64 => Box::new(AllValues::new(OfIntegers(rank))),
            DataType::Decimal128(precision, scale) => {
                let output = Output { name: call.name, scale: *scale, returns: call.returns.clone() };
                match precision {
                    ..=18 => Box::new(AllValues::new(OfShortDecimals(rank, output))),
                    _ => Box::new(AllValues::new(OfDecimals(rank, output))),
                }
            }
            other => return internal_err!("{other} was not cast to a number"),
        })
    }

    fn takes_distinct(&self) -> bool {
        true
    }
}

impl Definition for PercentileCont {
    fn coerce(&self, name: &str, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [value, percentile] = arguments else {
            return plan_err!("`{name}` takes a value and a percentile, as in `{name}(0.9) WITHIN GROUP (ORDER BY x)`");
        };
        coerce(name, std::slice::from_ref(value))?;
        coerce(name, std::slice::from_ref(percentile))?;
        Ok(vec![DataType::Float64, DataType::Float64])
    }

    fn returns(&self, _arguments: &[DataType]) -> DataType {
        DataType::Float64
    }

    fn state(&self, _arguments: &[DataType]) -> DataType {
        list_of(DataType::Float64)
    }

    fn groups(&self, call: &Call<'_>) -> Result<Box<dyn Peek>> {
        let percentile = call.args.exprs.get(1).and_then(|percentile| percentile.downcast_ref::<Literal>());
        let percentile = match percentile.map(Literal::value) {
            Some(ScalarValue::Float64(Some(percentile))) if (0.0..=1.0).contains(percentile) => *percentile,
            _ => return plan_err!("the percentile of `{}` must be a literal from 0 to 1", call.name),
        };
        let is_descending = call.args.order_bys.first().is_some_and(|order| order.options.descending);
        let rank = Rank { percentile, is_descending, is_distinct: call.args.is_distinct };
        Ok(Box::new(AllValues::new(OfDoubles(rank))))
    }

    fn takes_distinct(&self) -> bool {
        true
    }
}

/// Which value of a group is asked for.
#[derive(Debug, Clone)]
struct Rank {
    percentile: f64,
    is_descending: bool,
    is_distinct: bool,
}

impl Rank {
    /// The values before and after the rank, and how far between them it lies; `None` without values.
    fn find<V: Copy + Ord>(&self, values: &mut [V]) -> Option<(V, V, f64)> {
        let values = if self.is_distinct { distinct(values) } else { values };
        let last = values.len().checked_sub(1)?;
        let rank = self.percentile * last as f64;
        let weight = rank - rank.floor();
        let at = |rank: f64| {
            let rank = (rank as usize).min(last);
            if self.is_descending { last - rank } else { rank }
        };
        let (before, after) = (at(rank.floor()), at(rank.ceil()));
        let (_, first, above) = values.select_nth_unstable(before.min(after));
        let first = *first;
        // The second rank is the next one above, if it is not the same.
        let second = if before == after { first } else { above.iter().min().copied().unwrap_or(first) };
        Some(if before <= after { (first, second, weight) } else { (second, first, weight) })
    }
}

/// The different ones, in order, at the front.
fn distinct<V: Copy + Ord>(values: &mut [V]) -> &mut [V] {
    values.sort_unstable();
    let mut kept = 0;
    for i in 0..values.len() {
        if i == 0 || values[i] != values[kept - 1] {
            values[kept] = values[i];
            kept += 1;
        }
    }
    &mut values[..kept]
}

/// What a value of the argument is kept as in a state.
fn item(argument: &DataType) -> DataType {
    match argument {
        DataType::Decimal128(..=18, _) => DataType::Int64,
        DataType::Decimal128(..) => DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0),
        other => other.clone(),
    }
}

#[derive(Debug, Clone)]
struct OfDoubles(Rank);

impl OfValues for OfDoubles {
    type Value = i64;

    fn read(&self, column: &ArrayRef) -> Result<Vec<i64>> {
        Ok(column.as_primitive::<Float64Type>().values().iter().map(|value| order_key(*value)).collect())
    }

    fn write(&self, values: Vec<i64>) -> Result<ArrayRef> {
        Ok(Arc::new(Float64Array::from(values.into_iter().map(from_order_key).collect::<Vec<_>>())))
    }

    fn finish(&self, groups: &mut dyn Iterator<Item = &mut [i64]>) -> Result<ArrayRef> {
        let value = |values: &mut [i64]| {
            let (before, after, weight) = self.0.find(values)?;
            Some(interpolate(from_order_key(before), from_order_key(after), weight))
        };
        Ok(Arc::new(groups.map(value).collect::<Float64Array>()))
    }
}

#[derive(Debug, Clone)]
struct OfIntegers(Rank);

impl OfValues for OfIntegers {
    type Value = i64;

    fn read(&self, column: &ArrayRef) -> Result<Vec<i64>> {
        Ok(column.as_primitive::<Int64Type>().values().to_vec())
    }

    fn write(&self, values: Vec<i64>) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from(values)))
    }

    fn finish(&self, groups: &mut dyn Iterator<Item = &mut [i64]>) -> Result<ArrayRef> {
        let value = |values: &mut [i64]| {
            let (before, after, _) = self.0.find(values)?;
            mean_of_integers(i128::from(before) + i128::from(after), 2)
        };
        Ok(Arc::new(groups.map(value).collect::<Float64Array>()))
    }
}

#[derive(Debug, Clone)]
struct OfShortDecimals(Rank, Output);

impl OfValues for OfShortDecimals {
    type Value = i64;

    fn read(&self, column: &ArrayRef) -> Result<Vec<i64>> {
        Ok(match column.as_primitive_opt::<Decimal128Type>() {
            // 18 digits fit.
            Some(decimals) => decimals.values().iter().map(|value| *value as i64).collect(),
            None => column.as_primitive::<Int64Type>().values().to_vec(),
        })
    }

    fn write(&self, values: Vec<i64>) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from(values)))
    }

    fn finish(&self, groups: &mut dyn Iterator<Item = &mut [i64]>) -> Result<ArrayRef> {
        let middle = |values: &mut [i64]| {
            let (before, after, _) = self.0.find(values)?;
            Some((i128::from(before), i128::from(after)))
        };
        means(&self.1, &mut groups.map(middle))
    }
}

#[derive(Debug, Clone)]
struct OfDecimals(Rank, Output);

impl OfValues for OfDecimals {
    type Value = i128;

    fn read(&self, column: &ArrayRef) -> Result<Vec<i128>> {
        Ok(column.as_primitive::<Decimal128Type>().values().to_vec())
    }

    fn write(&self, values: Vec<i128>) -> Result<ArrayRef> {
        Ok(Arc::new(Decimal128Array::from(values).with_precision_and_scale(DECIMAL128_MAX_PRECISION, 0)?))
    }

    fn finish(&self, groups: &mut dyn Iterator<Item = &mut [i128]>) -> Result<ArrayRef> {
        let middle = |values: &mut [i128]| self.0.find(values).map(|(before, after, _)| (before, after));
        means(&self.1, &mut groups.map(middle))
    }
}

/// The means of two decimals each, in the scale of the output.
fn means(output: &Output, pairs: &mut dyn Iterator<Item = Option<(i128, i128)>>) -> Result<ArrayRef> {
    let DataType::Decimal128(_, scale) = output.returns else {
        return internal_err!("{} is not a decimal", output.returns);
    };
    let power = i256::from_i128(if scale > output.scale { 10 } else { 1 });
    let mean = |(a, b)| {
        let sum = i256::from_i128(a).wrapping_add(i256::from_i128(b));
        half_even(sum.wrapping_mul(power), i256::from_i128(2))
    };
    decimals(output, &mut pairs.map(|pair| pair.map(mean)))
}

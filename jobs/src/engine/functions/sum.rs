//! `sum` and `avg`: exact, whatever the order of the rows.
//!
//! | argument | `sum` | `avg` |
//! |---|---|---|
//! | float | double nearest to the exact sum | double nearest to the exact mean |
//! | integer | `Int64`, or an error if it does not fit | double nearest to the exact mean |
//! | `decimal(p, s)` | `decimal(38, s)`, or an error if it does not fit | `decimal(p + 4, s + 4)`, half to even, or an error |

use super::definition::{Call, Definition};
use super::groups::{Function, Groups, Peek, PerGroup, Rows, STATE, Summary};
use super::numbers::coerce;
use super::whole::{OfWhole, Output};
use arrow::array::{ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Float64Type, i256};
use deltalake::datafusion::common::{Result, exec_datafusion_err, exec_err, internal_err};
use deltaworks_core::exact_sum::{ExactSum, mean_of_integers};
use std::sync::Arc;

/// Sum or mean.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Sum {
    /// `sum`.
    Total,
    /// `avg`.
    Mean,
}

impl Definition for Sum {
    fn coerce(&self, name: &str, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(vec![coerce(name, arguments)?])
    }

    fn returns(&self, arguments: &[DataType]) -> DataType {
        match (self, &arguments[0]) {
            (Self::Total, DataType::Int64 | DataType::UInt64) => DataType::Int64,
            (Self::Total, DataType::Decimal128(_, scale)) => DataType::Decimal128(DECIMAL128_MAX_PRECISION, *scale),
            (Self::Mean, DataType::Decimal128(precision, scale)) => {
                let more = |digits: u8| (digits + 4).min(DECIMAL128_MAX_PRECISION);
                DataType::Decimal128(more(*precision), more(scale.unsigned_abs()) as i8)
            }
            _ => DataType::Float64,
        }
    }

    fn state(&self, _arguments: &[DataType]) -> DataType {
        STATE
    }

    fn groups(&self, call: &Call<'_>) -> Result<Box<dyn Peek>> {
        let whole = |scale| {
            let output = Output { name: call.name, scale, returns: call.returns.clone() };
            (output, if *self == Self::Total { total } else { mean })
        };
        Ok(match &call.arguments[0] {
            DataType::Float64 => Box::new(PerGroup::new(OfDoubles(self.clone()))),
            DataType::Int64 | DataType::UInt64 => {
                let (output, finish) = whole(0);
                Box::new(PerGroup::new(OfWhole::<i128>::new(output, finish)))
            }
            DataType::Decimal128(precision, scale) => {
                let (output, finish) = whole(*scale);
                // 2^63 numbers of 18 digits stay below 2^127.
                match precision {
                    ..=18 => Box::new(PerGroup::new(OfWhole::<i128>::new(output, finish))),
                    _ => Box::new(PerGroup::new(OfWhole::<i256>::new(output, finish))),
                }
            }
            other => return internal_err!("{other} was not cast to a number"),
        })
    }
}

/// Sum or mean of doubles.
#[derive(Debug, Clone)]
struct OfDoubles(Sum);

impl Summary for ExactSum {
    fn is_empty(&self) -> bool {
        self.count() == 0
    }

    fn merge_state(&mut self, state: &[u8]) -> Result<()> {
        self.merge_encoded(state).map_err(|error| exec_datafusion_err!("{error}"))
    }

    fn write_state(self, out: &mut Vec<u8>) {
        self.encode(out);
    }

    fn heap_bytes(&self) -> usize {
        Self::heap_bytes(self)
    }
}

impl Function for OfDoubles {
    type Summary = ExactSum;

    fn update(&self, arguments: &[ArrayRef], rows: &Rows<'_>, groups: &mut Groups<ExactSum>) -> Result<()> {
        let values = arguments[0].as_primitive::<Float64Type>().values();
        rows.for_each(|row, group| groups.change(group, |sum| sum.add(values[row])));
        Ok(())
    }

    fn finish(&self, groups: &[ExactSum]) -> Result<ArrayRef> {
        let value = |sum: &ExactSum| match self.0 {
            Sum::Total => (!sum.is_empty()).then(|| sum.value()),
            Sum::Mean => sum.mean(),
        };
        Ok(Arc::new(groups.iter().map(value).collect::<Float64Array>()))
    }
}

fn total(output: &Output, sums: &mut dyn Iterator<Item = Option<(i256, u64)>>) -> Result<ArrayRef> {
    if let DataType::Decimal128(..) = output.returns {
        return decimals(output, &mut sums.map(|sum| sum.map(|(sum, _)| sum)));
    }
    let name = output.name;
    let fit = |(sum, _): (i256, u64)| match sum.to_i128().map(i64::try_from) {
        Some(Ok(sum)) => Ok(sum),
        _ => {
            exec_err!("`{name}` leaves the range of `BIGINT`: sum decimals, as in `{name}(CAST(x AS DECIMAL(38, 0)))`")
        }
    };
    let sums: Vec<Option<i64>> = sums.map(|sum| sum.map(fit).transpose()).collect::<Result<_>>()?;
    Ok(Arc::new(Int64Array::from(sums)))
}

fn mean(output: &Output, sums: &mut dyn Iterator<Item = Option<(i256, u64)>>) -> Result<ArrayRef> {
    let DataType::Decimal128(_, scale) = output.returns else {
        let mean = |(sum, count): (i256, u64)| sum.to_i128().and_then(|sum| mean_of_integers(sum, count));
        return Ok(Arc::new(sums.map(|sum| sum.and_then(mean)).collect::<Float64Array>()));
    };
    // At most 10^4 times a sum of 2^63 values below 10^38: far from what 256 bits hold.
    let power = i256::from_i128(10_i128.pow(u32::from(scale.abs_diff(output.scale))));
    let mean = |(sum, count): (i256, u64)| half_even(sum.wrapping_mul(power), i256::from_i128(i128::from(count)));
    decimals(output, &mut sums.map(|sum| sum.map(mean)))
}

/// The quotient, rounded to the nearest whole number, ties to even; the divisor is above 0.
pub(super) fn half_even(dividend: i256, divisor: i256) -> i256 {
    let quotient = dividend.wrapping_div(divisor);
    let rest = dividend.wrapping_sub(quotient.wrapping_mul(divisor));
    let twice = rest.wrapping_abs().wrapping_add(rest.wrapping_abs());
    let is_odd = quotient.to_parts().0 & 1 == 1;
    if twice > divisor || twice == divisor && is_odd {
        quotient.wrapping_add(if dividend.is_negative() { i256::MINUS_ONE } else { i256::ONE })
    } else {
        quotient
    }
}

/// A column of decimals, if they all have no more digits than its type.
pub(super) fn decimals(output: &Output, values: &mut dyn Iterator<Item = Option<i256>>) -> Result<ArrayRef> {
    let DataType::Decimal128(precision, scale) = output.returns else {
        return internal_err!("{} is not a decimal", output.returns);
    };
    let limit = 10_i128.pow(u32::from(precision));
    let fit = |value: i256| match value.to_i128().filter(|value| -limit < *value && *value < limit) {
        Some(value) => Ok(value),
        None => exec_err!("`{}` leaves the range of `DECIMAL({precision}, {scale})`", output.name),
    };
    let values: Vec<Option<i128>> = values.map(|value| value.map(fit).transpose()).collect::<Result<_>>()?;
    Ok(Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale)?))
}

//! The few types that exact arithmetic is done in, and how columns become them.
//!
//! | column | becomes |
//! |---|---|
//! | any signed integer, `UInt8` to `UInt32` | `Int64` |
//! | `UInt64` | `UInt64` |
//! | `Decimal32`, `Decimal64`, `Decimal128` | `Decimal128`, same precision and scale |
//! | any float, null | `Float64` |

use super::groups::Rows;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, UInt64Type};
use deltalake::datafusion::common::{Result, internal_err, plan_err};
use deltaworks_core::exact_sum::canonical;

/// The type that a column of numbers is cast to.
pub(super) fn coerce(name: &str, arguments: &[DataType]) -> Result<DataType> {
    let [argument] = arguments else {
        return plan_err!("`{name}` takes one argument, not {}", arguments.len());
    };
    Ok(match argument {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::UInt64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Null => DataType::Float64,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) if *s >= 0 => {
            DataType::Decimal128(*p, *s)
        }
        DataType::Dictionary(_, values) => coerce(name, std::slice::from_ref(values))?,
        other => return plan_err!("`{name}` of a {other} is not supported"),
    })
}

/// Calls with each whole number, a decimal in units of its last digit, and its group.
pub(super) fn for_each_whole(values: &ArrayRef, rows: &Rows<'_>, mut call: impl FnMut(i128, usize)) -> Result<()> {
    match values.data_type() {
        DataType::Int64 => {
            let values = values.as_primitive::<Int64Type>().values();
            rows.for_each(|row, group| call(i128::from(values[row]), group));
        }
        DataType::UInt64 => {
            let values = values.as_primitive::<UInt64Type>().values();
            rows.for_each(|row, group| call(i128::from(values[row]), group));
        }
        DataType::Decimal128(..) => {
            let values = values.as_primitive::<Decimal128Type>().values();
            rows.for_each(|row, group| call(values[row], group));
        }
        other => return internal_err!("{other} was not cast to a whole number"),
    }
    Ok(())
}

/// A whole number that sorts as the double does: −0.0 as 0.0, NaN last.
#[inline]
pub(super) fn order_key(value: f64) -> i64 {
    flip(canonical(value).to_bits().cast_signed())
}

/// The double of an [`order_key`].
#[inline]
pub(super) fn from_order_key(key: i64) -> f64 {
    f64::from_bits(flip(key).cast_unsigned())
}

/// Turns the order of negative doubles round; turns itself back.
fn flip(bits: i64) -> i64 {
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

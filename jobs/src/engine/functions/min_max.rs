//! `min` and `max` of floats: NaN is the greatest, −0.0 is 0.0.
//!
//! DataFusion compares floats as IEEE does, so that a NaN wins or loses by where it stands, and
//! keeps whichever zero came first. Its functions are exact for every other type and stay in use.

use super::definition::{Call, Definition};
use super::groups::{Function, Groups, Peek, PerGroup, Rows, STATE, Summary};
use super::numbers::{from_order_key, order_key};
use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use deltalake::datafusion::common::{Result, exec_err, plan_err};
use deltalake::datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use std::sync::Arc;

/// The least or the greatest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct MinMax {
    /// `max` instead of `min`.
    pub(super) is_max: bool,
}

impl Definition for MinMax {
    fn coerce(&self, name: &str, arguments: &[DataType]) -> Result<Vec<DataType>> {
        if arguments.len() != 1 {
            return plan_err!("`{name}` takes one argument, not {}", arguments.len());
        }
        let built_in = if self.is_max { max_udaf() } else { min_udaf() };
        built_in.coerce_types(arguments)
    }

    fn returns(&self, arguments: &[DataType]) -> DataType {
        arguments[0].clone()
    }

    fn state(&self, _arguments: &[DataType]) -> DataType {
        STATE
    }

    fn groups(&self, call: &Call<'_>) -> Result<Box<dyn Peek>> {
        let returns = call.returns.clone();
        Ok(match self.is_max {
            true => Box::new(PerGroup::new(OfFloats::<true> { returns })),
            false => Box::new(PerGroup::new(OfFloats::<false> { returns })),
        })
    }

    fn covers(&self, arguments: &[DataType], _distinct: bool) -> bool {
        arguments[0].is_floating()
    }

    fn takes_distinct(&self) -> bool {
        true
    }
}

#[derive(Debug, Clone)]
struct OfFloats<const MAX: bool> {
    returns: DataType,
}

/// The order key of the value so far.
#[derive(Debug, Clone, Copy, Default)]
struct Extreme<const MAX: bool>(Option<i64>);

impl<const MAX: bool> Extreme<MAX> {
    #[inline]
    fn add(&mut self, key: i64) {
        let better = |held: i64| if MAX { held.max(key) } else { held.min(key) };
        self.0 = Some(self.0.map_or(key, better));
    }
}

impl<const MAX: bool> Summary for Extreme<MAX> {
    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn merge_state(&mut self, state: &[u8]) -> Result<()> {
        let Ok(bytes) = state.try_into() else {
            return exec_err!("the bytes are not the state of a `min` or `max`");
        };
        self.add(i64::from_le_bytes(bytes));
        Ok(())
    }

    fn write_state(self, out: &mut Vec<u8>) {
        out.extend(self.0.iter().flat_map(|key| key.to_le_bytes()));
    }

    fn heap_bytes(&self) -> usize {
        0
    }
}

impl<const MAX: bool> Function for OfFloats<MAX> {
    type Summary = Extreme<MAX>;

    fn update(&self, arguments: &[ArrayRef], rows: &Rows<'_>, groups: &mut Groups<Extreme<MAX>>) -> Result<()> {
        let values = cast(&arguments[0], &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>().values();
        rows.for_each(|row, group| groups.change(group, |extreme| extreme.add(order_key(values[row]))));
        Ok(())
    }

    fn finish(&self, groups: &[Extreme<MAX>]) -> Result<ArrayRef> {
        let values: Float64Array = groups.iter().map(|extreme| extreme.0.map(from_order_key)).collect();
        let values: ArrayRef = Arc::new(values);
        Ok(cast(&values, &self.returns)?)
    }
}

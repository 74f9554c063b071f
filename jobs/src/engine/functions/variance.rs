//! `var`, `var_pop`, `stddev`, `stddev_pop`: the double nearest to the exact value.
//!
//! Integers and decimals are not turned into doubles first: 0.1 counts as 1/10.

use super::definition::{Call, Definition};
use super::groups::{Function, Groups, Peek, PerGroup, Rows, STATE, Summary};
use super::numbers::{coerce, for_each_whole};
use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use deltalake::datafusion::common::{Result, exec_datafusion_err};
use deltaworks_core::exact_sum::{Divisor, ExactMoments};
use std::sync::Arc;

/// Variance, or its square root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Variance {
    /// What the squared deviations are divided by.
    pub(super) divisor: Divisor,
    /// Standard deviation instead.
    pub(super) is_root: bool,
}

impl Definition for Variance {
    fn coerce(&self, name: &str, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(vec![coerce(name, arguments)?])
    }

    fn returns(&self, _arguments: &[DataType]) -> DataType {
        DataType::Float64
    }

    fn state(&self, _arguments: &[DataType]) -> DataType {
        STATE
    }

    fn groups(&self, call: &Call<'_>) -> Result<Box<dyn Peek>> {
        let scale = match call.arguments[0] {
            DataType::Decimal128(_, scale) => u32::from(scale.unsigned_abs()),
            _ => 0,
        };
        Ok(Box::new(PerGroup::new(OfMoments { variance: self.clone(), scale })))
    }
}

#[derive(Debug, Clone)]
struct OfMoments {
    variance: Variance,
    scale: u32,
}

impl Summary for ExactMoments {
    fn is_empty(&self) -> bool {
        self.count() == 0
    }

    fn merge_state(&mut self, state: &[u8]) -> Result<()> {
        self.merge(&Self::decode(state).map_err(|error| exec_datafusion_err!("{error}"))?);
        Ok(())
    }

    fn write_state(self, out: &mut Vec<u8>) {
        self.encode(out);
    }

    fn heap_bytes(&self) -> usize {
        Self::heap_bytes(self)
    }
}

impl Function for OfMoments {
    type Summary = ExactMoments;

    fn update(&self, arguments: &[ArrayRef], rows: &Rows<'_>, groups: &mut Groups<ExactMoments>) -> Result<()> {
        if let Some(values) = arguments[0].as_primitive_opt::<Float64Type>() {
            rows.for_each(|row, group| groups.change(group, |moments| moments.add(values.value(row))));
            return Ok(());
        }
        for_each_whole(&arguments[0], rows, |value, group| groups.change(group, |moments| moments.add_integer(value)))
    }

    fn finish(&self, groups: &[ExactMoments]) -> Result<ArrayRef> {
        let Variance { divisor, is_root } = self.variance;
        let value = |moments: &ExactMoments| match is_root {
            false => moments.variance(divisor, self.scale),
            true => moments.deviation(divisor, self.scale),
        };
        Ok(Arc::new(groups.iter().map(value).collect::<Float64Array>()))
    }
}

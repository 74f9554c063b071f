//! `first_value` and `last_value`: DataFusion's own, except that they always ignore nulls.
//!
//! With an ORDER BY that tells all rows apart, its states (the value, the ordering columns, a flag)
//! merge in any order to the same value, so there is nothing to put in its place. Whoever plans an
//! aggregate completes the ORDER BY by the place; without it the result is arbitrary.

use arrow::datatypes::{DataType, FieldRef};
use deltalake::datafusion::common::Result;
use deltalake::datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use deltalake::datafusion::logical_expr::utils::AggregateOrderSensitivity;
use deltalake::datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature,
};
use std::sync::Arc;

/// The built-in function, told to ignore nulls.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct WithoutNulls {
    built_in: Arc<AggregateUDF>,
}

impl WithoutNulls {
    /// Takes over the name of `built_in`.
    pub(super) fn of(built_in: Arc<AggregateUDF>) -> AggregateUDF {
        AggregateUDF::from(Self { built_in })
    }
}

fn ignoring(args: AccumulatorArgs<'_>) -> AccumulatorArgs<'_> {
    AccumulatorArgs { ignore_nulls: true, ..args }
}

impl AggregateUDFImpl for WithoutNulls {
    fn name(&self) -> &str {
        self.built_in.name()
    }

    fn aliases(&self) -> &[String] {
        self.built_in.aliases()
    }

    fn signature(&self) -> &Signature {
        self.built_in.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.built_in.return_type(arg_types)
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        self.built_in.return_field(arg_fields)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.built_in.state_fields(args)
    }

    fn accumulator(&self, acc_args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.built_in.accumulator(ignoring(acc_args))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.built_in.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.built_in.create_groups_accumulator(ignoring(args))
    }

    /// The ordering columns are arguments only of functions that are not insensitive to order.
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Beneficial
    }

    /// Rows that happen to be in order are compared all the same.
    fn with_beneficial_ordering(self: Arc<Self>, _: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(self))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::NotSupported
    }

    fn supports_null_handling_clause(&self) -> bool {
        true
    }
}

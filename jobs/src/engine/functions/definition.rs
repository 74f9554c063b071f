//! What makes one function differ from another, and the rest that DataFusion wants to hear.
//!
//! A [`Definition`] takes the place of DataFusion's function of the same name, for the arguments
//! that it covers; the others are left to DataFusion's own, where that is exact already.

use super::groups::{OneGroup, Peek};
use arrow::datatypes::{DataType, Field, FieldRef};
use deltalake::datafusion::common::{Result, plan_err};
use deltalake::datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use deltalake::datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use deltalake::datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};
use deltalake::datafusion::scalar::ScalarValue;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

/// Decides what a function takes, gives and keeps.
pub(super) trait Definition: Debug + Clone + PartialEq + Eq + Hash + Send + Sync + 'static {
    /// The types that arguments are cast to, and which ones are refused.
    fn coerce(&self, name: &str, arguments: &[DataType]) -> Result<Vec<DataType>>;
    /// The type of the result, for coerced arguments.
    fn returns(&self, arguments: &[DataType]) -> DataType;
    /// The type of the state, for coerced arguments.
    fn state(&self, arguments: &[DataType]) -> DataType;
    /// Keeps the groups of one call.
    fn groups(&self, call: &Call<'_>) -> Result<Box<dyn Peek>>;
    /// Whether this definition takes the call; DataFusion's own function does if not.
    fn covers(&self, _arguments: &[DataType], _distinct: bool) -> bool {
        true
    }
    /// Whether `DISTINCT` is understood.
    fn takes_distinct(&self) -> bool {
        false
    }
    /// Whether the columns of ORDER BY follow the arguments.
    fn sees_order(&self) -> bool {
        false
    }
    /// The result over no rows at all.
    fn of_nothing(&self, returns: &DataType) -> Result<ScalarValue> {
        ScalarValue::try_from(returns)
    }
}

/// One call of a function in a query.
pub(super) struct Call<'a> {
    /// The function's name.
    pub(super) name: &'static str,
    /// Types of the arguments, coerced.
    pub(super) arguments: Vec<DataType>,
    /// Type of the result.
    pub(super) returns: &'a DataType,
    /// All that DataFusion says.
    pub(super) args: &'a AccumulatorArgs<'a>,
}

/// A function under the name of one of DataFusion's.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Replacement<D> {
    name: &'static str,
    definition: D,
    signature: Signature,
    built_in: Arc<AggregateUDF>,
}

impl<D: Definition> Replacement<D> {
    /// Takes over name and aliases of `built_in`.
    pub(super) fn of(name: &'static str, built_in: Arc<AggregateUDF>, definition: D) -> AggregateUDF {
        let signature = Signature::user_defined(Volatility::Immutable);
        AggregateUDF::from(Self { name, definition, signature, built_in })
    }

    /// Takes over only the calls that the definition covers; which arguments are fine is DataFusion's say.
    pub(super) fn of_some(name: &'static str, built_in: Arc<AggregateUDF>, definition: D) -> AggregateUDF {
        let signature = built_in.signature().clone();
        AggregateUDF::from(Self { name, definition, signature, built_in })
    }

    fn peek(&self, args: &AccumulatorArgs<'_>) -> Result<Box<dyn Peek>> {
        self.refuse_distinct(args.is_distinct)?;
        let arguments = types(args.expr_fields);
        self.definition.groups(&Call { name: self.name, arguments, returns: args.return_type(), args })
    }

    fn refuse_distinct(&self, is_distinct: bool) -> Result<()> {
        match is_distinct && !self.definition.takes_distinct() {
            true => plan_err!("`{}(DISTINCT ..)` is not supported", self.name),
            false => Ok(()),
        }
    }

    fn covers(&self, fields: &[FieldRef], distinct: bool) -> bool {
        self.definition.covers(&types(fields), distinct)
    }
}

impl<D: Definition> AggregateUDFImpl for Replacement<D> {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        self.built_in.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.definition.coerce(self.name, arg_types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.definition.returns(arg_types))
    }

    fn is_nullable(&self) -> bool {
        self.built_in.is_nullable()
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if !self.covers(args.input_fields, args.is_distinct) {
            return self.built_in.state_fields(args);
        }
        self.refuse_distinct(args.is_distinct)?;
        let state = self.definition.state(&types(args.input_fields));
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, self.name), state, true))])
    }

    fn accumulator(&self, acc_args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if !self.covers(acc_args.expr_fields, acc_args.is_distinct) {
            return self.built_in.accumulator(acc_args);
        }
        Ok(Box::new(OneGroup::new(self.peek(&acc_args)?)))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.covers(args.expr_fields, args.is_distinct) || self.built_in.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        if !self.covers(args.expr_fields, args.is_distinct) {
            return self.built_in.create_groups_accumulator(args);
        }
        Ok(self.peek(&args)?)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if !self.covers(args.expr_fields, args.is_distinct) {
            return self.built_in.create_sliding_accumulator(args);
        }
        self.accumulator(args)
    }

    /// Only who is said to profit from an order is given the columns of ORDER BY.
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        match self.definition.sees_order() {
            true => AggregateOrderSensitivity::Beneficial,
            false => AggregateOrderSensitivity::Insensitive,
        }
    }

    /// Rows that happen to come in order are compared all the same.
    fn with_beneficial_ordering(self: Arc<Self>, _: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(self))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.definition.sees_order() {
            true => ReversedUDAF::NotSupported,
            false => ReversedUDAF::Identical,
        }
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.definition.of_nothing(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.built_in.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.built_in.supports_within_group_clause()
    }
}

fn types(fields: &[FieldRef]) -> Vec<DataType> {
    fields.iter().map(|field| field.data_type().clone()).collect()
}

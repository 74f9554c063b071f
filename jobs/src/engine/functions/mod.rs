//! Aggregate functions whose results do not depend on the order, the split or the merging of rows.
//!
//! ```text
//! definition (what DataFusion is told) ─> groups (a summary per group, states as bytes)
//!     sum, variance ......... exact sums (deltaworks_core::exact_sum, whole)
//! ```
//!
//! They take the place of DataFusion's functions of the same names, because those of floats depend
//! on order, those of integers and decimals wrap, and some of their states cannot be stored. All
//! ignore nulls; over no values they are null, `count` is 0; −0.0 is 0.0; NaN is the greatest
//! number and equals itself. All states merge in any order to the same bytes.

mod definition;
mod groups;
mod numbers;
mod sum;
mod variance;
mod whole;

use definition::Replacement;
use deltalake::datafusion::functions_aggregate::{average, stddev, sum as built_in_sum, variance as built_in_variance};
use deltalake::datafusion::logical_expr::AggregateUDF;
use deltalake::datafusion::prelude::SessionContext;
use deltaworks_core::exact_sum::Divisor;
use sum::Sum;
use variance::Variance;

/// Registers all functions over the built-in ones of the same names and aliases.
pub fn register(context: &SessionContext) {
    for function in all() {
        context.register_udaf(function);
    }
}

/// The functions, each under the name of the built-in one that it replaces.
#[must_use]
pub fn all() -> Vec<AggregateUDF> {
    let spread = |divisor, is_root| Variance { divisor, is_root };
    vec![
        Replacement::of("sum", built_in_sum::sum_udaf(), Sum::Total),
        Replacement::of("avg", average::avg_udaf(), Sum::Mean),
        Replacement::of("var", built_in_variance::var_samp_udaf(), spread(Divisor::Sample, false)),
        Replacement::of("var_pop", built_in_variance::var_pop_udaf(), spread(Divisor::Population, false)),
        Replacement::of("stddev", stddev::stddev_udaf(), spread(Divisor::Sample, true)),
        Replacement::of("stddev_pop", stddev::stddev_pop_udaf(), spread(Divisor::Population, true)),
    ]
}

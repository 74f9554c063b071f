//! Aggregate functions whose results do not depend on the order, the split or the merging of rows.
//!
//! ```text
//! definition (what DataFusion is told) ─> groups (a summary per group, states as bytes)
//!     sum, variance ......... exact sums (deltaworks_core::exact_sum, whole)
//!     min_max ............... of floats
//!     distinct .............. sets of keys (key_set)
//!     percentile ............ all values (values)
//!     first_last ............ the least or greatest row
//! ```
//!
//! They take the place of DataFusion's functions of the same names, because those of floats depend
//! on order, those of integers and decimals wrap, and some of their states cannot be stored. All
//! ignore nulls; over no values they are null, `count` is 0; −0.0 is 0.0; NaN is the greatest
//! number and equals itself. All states merge in any order to the same bytes.

mod definition;
mod distinct;
mod first_last;
mod groups;
mod key_set;
mod min_max;
mod numbers;
mod percentile;
mod sum;
mod values;
mod variance;
mod whole;

use definition::Replacement;
use deltalake::datafusion::functions_aggregate as built_in;
use deltalake::datafusion::logical_expr::AggregateUDF;
use deltalake::datafusion::prelude::SessionContext;
use deltaworks_core::exact_sum::Divisor;
use distinct::CountDistinct;
use first_last::FirstLast;
use min_max::MinMax;
use percentile::{Median, PercentileCont};
use sum::Sum;
use variance::Variance;

/// Registers all functions over the built-in ones of the same names and aliases.
///
/// Calls that the planner makes by itself still get the built-in ones, and so do plans whose rules
/// look at a function's name: remove the optimizer rule `single_distinct_aggregation_to_group_by`
/// (it counts distinct values by grouping them), and plan calls through this registry only.
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
        Replacement::of("sum", built_in::sum::sum_udaf(), Sum::Total),
        Replacement::of("avg", built_in::average::avg_udaf(), Sum::Mean),
        Replacement::of("var", built_in::variance::var_samp_udaf(), spread(Divisor::Sample, false)),
        Replacement::of("var_pop", built_in::variance::var_pop_udaf(), spread(Divisor::Population, false)),
        Replacement::of("stddev", built_in::stddev::stddev_udaf(), spread(Divisor::Sample, true)),
        Replacement::of("stddev_pop", built_in::stddev::stddev_pop_udaf(), spread(Divisor::Population, true)),
        Replacement::of("min", built_in::min_max::min_udaf(), MinMax { is_max: false }),
        Replacement::of("max", built_in::min_max::max_udaf(), MinMax { is_max: true }),
        Replacement::of_some("count", built_in::count::count_udaf(), CountDistinct),
        Replacement::of("median", built_in::median::median_udaf(), Median),
        Replacement::of("percentile_cont", built_in::percentile_cont::percentile_cont_udaf(), PercentileCont),
        Replacement::of_some("first_value", built_in::first_last::first_value_udaf(), FirstLast { is_last: false }),
        Replacement::of_some("last_value", built_in::first_last::last_value_udaf(), FirstLast { is_last: true }),
    ]
}

#[cfg(test)]
mod tests;

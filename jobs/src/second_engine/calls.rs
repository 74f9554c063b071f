//! Aggregate functions: what is computed of a row, what Polars gathers of a window and key, and what is made of it.
//!
//! | function | Polars gives | and then |
//! |---|---|---|
//! | `count`, `bool_and`, `bool_or`, `min`, `max`, `sum` of whole numbers, `first_value`, `last_value` | the value | |
//! | `count(DISTINCT x)` | the number of different values | |
//! | `sum`, `avg`, `stddev`, `var` of doubles and decimals, `avg` of whole numbers | all values | folded |
//! | `median`, `percentile_cont` | all values in order | the one at the rank |
//!
//! Copies, rows that FILTER leaves out and nulls are in none of them.

use super::fold::{self, Divisor};
use super::input::{AT, COPY, PLACE, raw};
use super::numbers::{decimals, wholes};
use super::terms::{data_type, expression, result_name};
use super::{Told, unknown};
use deltaworks_core::select::{Call, Kind, Order, Term, Value};
use polars::prelude::{
    Column, DataFrame, DataType, Expr, Float64Chunked, Int64Chunked, IntoColumn, NewChunkedArray, PlSmallStr, Series,
    SortMultipleOptions, SortOptions, col, lit, when,
};

/// A call, and how it is computed.
pub(super) struct Planned<'c> {
    n: usize,
    call: &'c Call,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Count,
    Different,
    Total,
    Least,
    Greatest,
    All,
    Any,
    First,
    Last,
    Folded(Fold),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fold {
    Sum,
    Mean,
    Spread(Divisor, Root),
    Rank,
    Bits(Bits),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Variance,
    Deviation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bits {
    And,
    Or,
    Xor,
}

/// What was gathered of one window and key.
enum Values {
    Doubles(Vec<f64>),
    Wholes(Vec<i128>),
}

impl<'c> Planned<'c> {
    /// The n-th call.
    pub(super) fn new(n: usize, call: &'c Call) -> Told<Self> {
        let kind = call.arguments.first().map(Term::kind);
        let number = matches!(kind, Some(Kind::Integer { .. } | Kind::Float { .. } | Kind::Decimal { .. }));
        let plain = !matches!(kind, None | Some(Kind::Struct(_) | Kind::List(_)));
        let spread = |divisor, root| How::Folded(Fold::Spread(divisor, root));
        let how = match call.function.as_str() {
            "count" if call.distinct && plain => How::Different,
            "count" if !call.distinct => How::Count,
            _ if call.distinct => return unknown(format!("`{}(DISTINCT …)`", call.function)),
            "sum" if matches!(kind, Some(Kind::Integer { .. })) => How::Total,
            "sum" if number => How::Folded(Fold::Sum),
            "avg" if number => How::Folded(Fold::Mean),
            "stddev" if number => spread(Divisor::Sample, Root::Deviation),
            "stddev_pop" if number => spread(Divisor::Population, Root::Deviation),
            "var" if number => spread(Divisor::Sample, Root::Variance),
            "var_pop" if number => spread(Divisor::Population, Root::Variance),
            "median" | "percentile_cont" if number => How::Folded(Fold::Rank),
            "min" if plain => How::Least,
            "max" if plain => How::Greatest,
            "bool_and" => How::All,
            "bool_or" => How::Any,
            "first_value" if plain => How::First,
            "last_value" if plain => How::Last,
            "bit_and" => How::Folded(Fold::Bits(Bits::And)),
            "bit_or" => How::Folded(Fold::Bits(Bits::Or)),
            "bit_xor" => How::Folded(Fold::Bits(Bits::Xor)),
            other => return unknown(format!("`{other}` of `{}`", kind.unwrap_or(&Kind::Null))),
        };
        Ok(Self { n, call, how })
    }

    /// Columns to be computed of every row: the argument, whether the row is in, and what it is ordered by.
    pub(super) fn columns(&self) -> Told<Vec<Expr>> {
        let argument = self.call.arguments.first().map_or_else(|| Ok(lit(1_i64)), expression)?;
        let mut is_in = col(COPY).not().and(argument.clone().is_not_null());
        if let Some(filter) = &self.call.filter {
            is_in = is_in.and(expression(filter)?.fill_null(lit(false)));
        }
        let mut columns = vec![argument.alias(self.name("value")), is_in.alias(self.name("in"))];
        if matches!(self.how, How::First | How::Last) {
            for (i, order) in self.call.order.iter().enumerate() {
                columns.push(expression(&order.by)?.alias(self.name(&format!("order{i}"))));
            }
        }
        Ok(columns)
    }

    /// What Polars computes of the rows of a window and key.
    pub(super) fn gathered(&self) -> Vec<Expr> {
        let values = || col(self.name("value")).filter(col(self.name("in")));
        let is_float = matches!(self.call.arguments.first().map(Term::kind), Some(Kind::Float { .. }));
        let ascending = || SortOptions::default().with_nulls_last(true);
        let gathered = match self.how {
            How::Count => col(self.name("in")).sum().cast(DataType::Int64),
            How::Different => values().n_unique().cast(DataType::Int64),
            How::Total => values().cast(DataType::Int64).sum(),
            // Polars' own pass over NaN
            How::Least if is_float => values().sort(ascending()).first(),
            How::Greatest if is_float => values().sort(ascending()).last(),
            How::Least => values().min(),
            How::Greatest => values().max(),
            How::All => values().all(true),
            How::Any => values().any(true),
            How::First | How::Last => {
                let (by, options) = self.order();
                let sorted = |name: &str| col(self.name(name)).sort_by(&by, options.clone());
                let values = sorted("value").filter(sorted("in"));
                if self.how == How::First { values.first() } else { values.last() }
            }
            How::Folded(Fold::Rank) => values().sort(ascending()).implode(true),
            How::Folded(_) => values().implode(true),
        };
        vec![
            gathered.alias(self.name("gathered")),
            col(self.name("in")).sum().cast(DataType::Int64).alias(self.name("n")),
        ]
    }

    /// Adds the column of its values to what was gathered.
    pub(super) fn finish(&self, groups: &mut DataFrame) -> Told<()> {
        let gathered = groups.column(&self.name("gathered"))?.clone();
        let column = match self.how {
            How::Folded(how) => self.folded(how, &gathered)?,
            _ => gathered,
        };
        groups.with_column(column.with_name(PlSmallStr::from_string(result_name(self.n))))?;
        Ok(())
    }

    /// Its value: null where nothing was gathered, except for counts.
    pub(super) fn value(&self) -> Told<Expr> {
        let value = col(result_name(self.n)).cast(data_type(&self.call.kind)?);
        Ok(match self.how {
            How::Count | How::Different => value,
            _ => when(col(self.name("n")).gt(lit(0_i64))).then(value).otherwise(lit(polars::prelude::Null {})),
        }
        .alias(result_name(self.n)))
    }

    fn name(&self, what: &str) -> String {
        format!("c{}.{what}", self.n)
    }

    /// The order of the call, completed by the place.
    fn order(&self) -> (Vec<Expr>, SortMultipleOptions) {
        let named = (0..self.call.order.len()).map(|i| col(self.name(&format!("order{i}"))));
        let by: Vec<Expr> = named.chain([col(AT)]).chain(PLACE.map(raw)).collect();
        let flags = |get: fn(&Order) -> bool, rest: bool| {
            self.call.order.iter().map(get).chain([rest; PLACE.len() + 1]).collect::<Vec<_>>()
        };
        let options = SortMultipleOptions {
            descending: flags(|order| order.descending, false),
            nulls_last: flags(|order| !order.nulls_first, true),
            maintain_order: true,
            ..SortMultipleOptions::default()
        };
        (by, options)
    }

    fn folded(&self, how: Fold, gathered: &Column) -> Told<Column> {
        let series = gathered.as_materialized_series();
        let lists = series.list()?;
        let all = (0..lists.len()).map(|row| match lists.get_as_series(row) {
            Some(list) => values(&list),
            None => Ok(Values::Doubles(Vec::new())),
        });
        let all = all.collect::<Told<Vec<_>>>()?;
        let name = PlSmallStr::EMPTY;
        Ok(match self.call.kind {
            Kind::Decimal { precision, scale } => {
                let folded = all.iter().map(|values| self.decimal(how, values, scale)).collect::<Told<_>>()?;
                decimals(name, folded, precision, scale)?
            }
            Kind::Integer { .. } => {
                let folded = all.iter().map(|values| whole(how, values)).collect::<Vec<_>>();
                Int64Chunked::from_slice_options(name, &folded).into_column()
            }
            _ => {
                let folded = all.iter().map(|values| self.double(how, values)).collect::<Told<Vec<_>>>()?;
                Float64Chunked::from_slice_options(name, &folded).into_column()
            }
        })
    }

    fn scale(&self) -> u8 {
        match self.call.arguments.first().map(Term::kind) {
            Some(Kind::Decimal { scale, .. }) => *scale,
            _ => 0,
        }
    }

    fn decimal(&self, how: Fold, values: &Values, scale: u8) -> Told<Option<i128>> {
        let Values::Wholes(values) = values else { return Ok(None) };
        let more = u32::from(scale.saturating_sub(self.scale()));
        match how {
            _ if values.is_empty() => Ok(None),
            Fold::Sum => Ok(fold::sum_of_wholes(values)),
            Fold::Mean => Ok(fold::mean_of_decimals(values, more)),
            Fold::Rank => Ok(fold::median_of_decimals(values, more)),
            _ => unknown(format!("`{}` into a decimal", self.call.function)),
        }
    }

    fn double(&self, how: Fold, values: &Values) -> Told<Option<f64>> {
        let power = 10_f64.powi(self.scale().into());
        Ok(match (how, values) {
            (Fold::Sum, Values::Doubles(values)) => (!values.is_empty()).then(|| fold::sum_of_doubles(values)),
            (Fold::Mean, Values::Doubles(values)) => fold::mean_of_doubles(values),
            (Fold::Mean, Values::Wholes(values)) => fold::mean_of_wholes(values),
            (Fold::Spread(divisor, root), values) => {
                let spread = match values {
                    Values::Doubles(values) => fold::spread_of_doubles(values, divisor),
                    Values::Wholes(values) => fold::spread_of_wholes(values, self.scale(), divisor),
                };
                spread.map(|spread| if root == Root::Deviation { spread.deviation() } else { spread.variance() })
            }
            (Fold::Rank, Values::Wholes(values)) if self.call.function == "median" => fold::median_of_wholes(values),
            (Fold::Rank, Values::Wholes(values)) => {
                let values: Vec<f64> = values.iter().map(|value| *value as f64 / power).collect();
                self.rank(values)?
            }
            (Fold::Rank, Values::Doubles(values)) => self.rank(values.clone())?,
            _ => return unknown(format!("`{}` into a double", self.call.function)),
        })
    }

    /// The value at the rank of a median or percentile.
    fn rank(&self, mut ordered: Vec<f64>) -> Told<Option<f64>> {
        if self.call.function == "median" {
            return Ok(fold::percentile(&ordered, 0.5));
        }
        let Some(Term::Literal(Value::Float(percentile), _)) = self.call.arguments.get(1) else {
            return unknown("a percentile that is no constant");
        };
        if self.call.order.first().is_some_and(|order| order.descending) {
            ordered.reverse();
        }
        Ok(fold::percentile(&ordered, *percentile))
    }
}

fn values(list: &Series) -> Told<Values> {
    if list.dtype().is_float() {
        let doubles = list.cast(&DataType::Float64)?;
        return Ok(Values::Doubles(doubles.f64()?.iter().flatten().collect()));
    }
    Ok(Values::Wholes(wholes(&list.clone().into_column())?.into_iter().flatten().collect()))
}

fn whole(how: Fold, values: &Values) -> Option<i64> {
    let Values::Wholes(values) = values else { return None };
    let values = values.iter().filter_map(|value| i64::try_from(*value).ok());
    match how {
        Fold::Bits(Bits::And) => values.reduce(|a, b| a & b),
        Fold::Bits(Bits::Or) => values.reduce(|a, b| a | b),
        Fold::Bits(Bits::Xor) => values.reduce(|a, b| a ^ b),
        _ => None,
    }
}

//! The two halves of an aggregation, built by hand.
//!
//! A projection computes what the aggregate functions eat: the base window, the keys, arguments, filters
//! and orders, one column each. It is planned and optimized by DataFusion. The aggregation over it is
//! not: optimizer rules would split it, skip it or answer it from statistics, and states would no longer
//! merge. Both halves come from the same calls, so a state of one is a state for the other;
//! [`super::grouping`] runs them.
//!
//! Invariants: A1 the first group column is the window; A2 the last calls are the engine's own counts,
//! in the order of [`COUNTS`]; A3 orders are complete, so two rows never compare equal.

use super::compute::Bucket;
use super::rows::Rows;
use super::scalars::Bins;
use super::session::{Session, in_bucket, plain_float, window_start};
use super::shape::{Parts, table};
use super::source::Source;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use deltalake::datafusion::catalog::TableProvider;
use deltalake::datafusion::common::tree_node::{Transformed, TreeNode};
use deltalake::datafusion::common::{Column, DFSchema, Result, TableReference, internal_err};
use deltalake::datafusion::datasource::provider_as_source;
use deltalake::datafusion::functions::core::expr_fn::get_field;
use deltalake::datafusion::logical_expr::execution_props::ExecutionProps;
use deltalake::datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Sort};
use deltalake::datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use deltalake::datafusion::logical_expr::{
    Expr, ExprSchemable, Filter, Join, LogicalPlan, LogicalPlanBuilder, col, lit,
};
use deltalake::datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use deltalake::datafusion::physical_expr::expressions::Column as PhysicalColumn;
use deltalake::datafusion::physical_expr::{Partitioning, PhysicalExpr};
use deltalake::datafusion::physical_plan::aggregates::{AggregateMode, aggregate_expressions};
use deltalake::datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use deltalake::datafusion::physical_plan::repartition::RepartitionExec;
use deltalake::datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use std::sync::Arc;

/// The engine's own counts of every window and key.
pub(super) const COUNTS: [&str; 4] = ["events", "late", "duplicates", "filled"];

/// Which of them counts duplicates.
const DUPLICATES: usize = 2;

/// What rows are to an aggregation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// They are aggregated.
    Counted,
    /// They are only counted as duplicates.
    Duplicates,
    /// What each of them is was said by [`Eaten::landed`].
    Landed,
}

/// The column of the partition that a landed row came from, which is a key of its states.
const PARTITION: &str = "p";

/// What is appended to every order, so that it is complete.
const PLACE: [&str; 4] = ["_kafka_time", "_topic", "_partition", "_offset"];

/// The column of the window.
pub(super) const WINDOW: &str = "w";

/// The column of a key.
pub(super) fn key_column(n: usize) -> String {
    format!("k{n}")
}

/// The column of a result.
pub(super) fn result_column(n: usize) -> String {
    format!("a{n}")
}

/// The logical side of the partial half.
#[derive(Debug, Clone)]
pub(super) struct Eaten {
    /// The projection.
    plan: LogicalPlan,
    /// Aggregate calls over its columns.
    calls: Vec<Expr>,
    /// How many group columns there are, the window among them.
    groups: usize,
    /// Name of the pipeline, whose scan is replaced by rows.
    pipeline: String,
}

/// What both halves are made of.
#[derive(Debug, Clone)]
pub(super) struct Halves {
    /// How many columns make a group, the window among them.
    pub(super) groups: usize,
    pub(super) calls: Vec<Arc<AggregateFunctionExpr>>,
    /// What each call eats of a row.
    pub(super) arguments: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    /// Which rows it eats.
    pub(super) filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// How many columns its state takes.
    widths: Vec<usize>,
    /// Of the projection.
    pub(super) input_schema: SchemaRef,
    /// Of states: the group, then what each call keeps.
    pub(super) states_schema: SchemaRef,
    /// Of values: the group, then the value of each call.
    pub(super) values_schema: SchemaRef,
}

impl Eaten {
    /// What the calls of `parts` eat, by base window.
    pub(super) fn new(parts: &Parts, source: &Source, bins: &Bins, session: &Session) -> Result<Self> {
        Self::of(parts, source, bins, session, false)
    }

    /// What they eat of rows that are just landed, none of them a fill: the last key is the partition, and
    /// late rows and repeats are counted as such and go into nothing else.
    pub(super) fn landed(parts: &Parts, source: &Source, bins: &Bins, session: &Session) -> Result<Self> {
        Self::of(parts, source, bins, session, true)
    }

    fn of(parts: &Parts, source: &Source, bins: &Bins, session: &Session, landed: bool) -> Result<Self> {
        let input = lookups_kept(parts.aggregation.input.as_ref())?;
        let Some(qualifier) = pipeline_qualifier(&input, &source.name) else {
            return internal_err!("the pipeline is not under the aggregation");
        };
        let mut columns = Columns { schema: input.schema().as_ref().clone(), exprs: Vec::new() };
        let raw = |name: &str| Expr::Column(Column::new(Some(qualifier.clone()), name));
        let event_time = source
            .event_time
            .iter()
            .skip(1)
            .fold(raw(source.event_time.first().map_or("", String::as_str)), |outer, field| {
                get_field(outer, field.as_str())
            });
        columns.exprs.push(window_start(bins, event_time.clone()).alias(WINDOW));
        for (n, key) in parts.aggregation.group_expr.iter().enumerate() {
            let key = columns.plain(key.clone().unalias_nested().data)?;
            columns.exprs.push(key.alias(key_column(n)));
        }
        if landed {
            columns.exprs.push(raw("_partition").alias(PARTITION));
        }
        let groups = columns.exprs.len();
        let place: Vec<Sort> = std::iter::once(event_time).chain(PLACE.map(raw)).map(|e| e.sort(true, false)).collect();
        let late = source.is_late(raw("_behind_ms"));
        let on_time = late.clone().is_not_true();
        let counts = landed.then(|| on_time.clone().and(raw("_repeat").is_not_true()));
        let mut calls = Vec::new();
        for call in &parts.aggregation.aggr_expr {
            calls.push(columns.call(&only(call, counts.as_ref()), &place)?);
        }
        // in the order of `COUNTS`; of the duplicates among rows that are not just landed, `partial` decides
        let counted = if landed {
            [counts, Some(late), Some(on_time.and(raw("_repeat").is_true())), Some(lit(false))]
        } else {
            [None, Some(late), None, Some(raw("_fill").is_not_null())]
        };
        for counted in counted {
            calls.push(columns.call(&count(session, counted)?, &place)?);
        }
        let named = calls.into_iter().enumerate().map(|(n, call)| call.alias(result_column(n))).collect();
        let plan = LogicalPlanBuilder::from(input).project(columns.exprs)?.build()?;
        Ok(Self { plan, calls: named, groups, pipeline: source.name.clone() })
    }

    /// A plan like that of [`Self::new`], of which no aggregation is made: rows that pass WHERE and joins, with their
    /// keys and their places.
    pub(super) fn keyed(parts: &Parts, source: &Source) -> Result<Self> {
        let input = lookups_kept(parts.aggregation.input.as_ref())?;
        let Some(qualifier) = pipeline_qualifier(&input, &source.name) else {
            return internal_err!("the pipeline is not under the aggregation");
        };
        let mut columns = Columns { schema: input.schema().as_ref().clone(), exprs: Vec::new() };
        for (n, key) in parts.aggregation.group_expr.iter().enumerate() {
            let key = columns.plain(key.clone().unalias_nested().data)?;
            columns.exprs.push(key.alias(key_column(n)));
        }
        let raw = |name: &str| Expr::Column(Column::new(Some(qualifier.clone()), name)).alias(name);
        columns.exprs.extend(PLACE.map(raw));
        let groups = parts.aggregation.group_expr.len();
        let plan = LogicalPlanBuilder::from(input).project(columns.exprs)?.build()?;
        Ok(Self { plan, calls: Vec::new(), groups: groups + 1, pipeline: source.name.clone() })
    }

    /// Names of the pipeline's columns that are read.
    pub(super) fn needed(&self, session: &Session) -> Result<Vec<String>> {
        let optimized = session.state.optimize(&self.plan)?;
        let mut needed = Vec::new();
        optimized.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && scan.table_name.table() == self.pipeline
            {
                needed.extend(scan.projected_schema.fields().iter().map(|f| f.name().clone()));
            }
            Ok(deltalake::datafusion::common::tree_node::TreeNodeRecursion::Continue)
        })?;
        Ok(needed)
    }

    /// Plans the projection over those of `rows` whose keys are in `bucket`, and the halves over it.
    pub(super) async fn plan(
        &self,
        session: &Session,
        rows: Arc<Rows>,
        bucket: Bucket,
    ) -> Result<(Arc<dyn ExecutionPlan>, Halves)> {
        let provider: Arc<dyn TableProvider> = rows;
        let source = provider_as_source(provider);
        let mut plan = self.plan.clone();
        if bucket != Bucket::ALL {
            let keys = (0..self.groups - 1).map(|n| col(key_column(n))).collect();
            plan = LogicalPlanBuilder::from(plan).filter(in_bucket(bucket, keys))?.build()?;
        }
        let plan = plan.transform_down(|node| match node {
            LogicalPlan::TableScan(mut scan) if scan.table_name.table() == self.pipeline => {
                scan.source = Arc::clone(&source);
                Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        let input = session.state.create_physical_plan(&plan.data).await?;
        let input_schema = input.schema();
        let logical = DFSchema::try_from(input_schema.as_ref().clone())?;
        let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        let (mut calls, mut filters) = (Vec::new(), Vec::new());
        for call in &self.calls {
            let lowered = LoweredAggregateBuilder::new(call, &logical, &input_schema, &props, &context).build()?;
            calls.push(lowered.aggregate);
            filters.push(lowered.filter);
        }
        Ok((input, Halves::new(self.groups, calls, filters, input_schema)?))
    }
}

impl Halves {
    fn new(
        groups: usize,
        calls: Vec<Arc<AggregateFunctionExpr>>,
        filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
        input_schema: SchemaRef,
    ) -> Result<Self> {
        let arguments = aggregate_expressions(&calls, &AggregateMode::Partial, groups)?;
        let group = || input_schema.fields().iter().take(groups).cloned();
        let states = calls.iter().map(|call| call.state_fields()).collect::<Result<Vec<_>>>()?;
        let widths = states.iter().map(Vec::len).collect();
        let states_schema = Arc::new(Schema::new(group().chain(states.into_iter().flatten()).collect::<Vec<_>>()));
        let values = calls.iter().map(|call| call.field());
        let values_schema = Arc::new(Schema::new(group().chain(values).collect::<Vec<_>>()));
        Ok(Self { groups, calls, arguments, filters, widths, input_schema, states_schema, values_schema })
    }

    /// The input, each key in one of `parts` partitions.
    pub(super) fn by_key(&self, input: Arc<dyn ExecutionPlan>, parts: usize) -> Result<Arc<dyn ExecutionPlan>> {
        if self.keys() == 0 || parts < 2 {
            return Ok(match input.output_partitioning().partition_count() {
                1 => input,
                _ => Arc::new(CoalescePartitionsExec::new(input)),
            });
        }
        let keys = self.input_schema.fields().iter().enumerate().take(self.groups).skip(1).map(|(i, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(field.name(), i));
            column
        });
        Ok(Arc::new(RepartitionExec::try_new(input, Partitioning::Hash(keys.collect(), parts))?))
    }

    /// How many keys there are beside the window.
    pub(super) const fn keys(&self) -> usize {
        self.groups - 1
    }

    /// Which call counts duplicates.
    pub(super) fn duplicates(&self) -> usize {
        self.calls.len() - COUNTS.len() + DUPLICATES
    }

    /// What each call has kept.
    pub(super) fn columns_of_states<'b>(&self, states: &'b RecordBatch) -> Vec<&'b [ArrayRef]> {
        let mut rest = &states.columns()[self.groups..];
        let widths = self.widths.iter().map(|width| {
            let (columns, after) = rest.split_at(*width);
            rest = after;
            columns
        });
        widths.collect()
    }
}

/// The plan with each join turned round. A hash join keeps its left side in memory, and DataFusion knows
/// the size of neither: left as they are written, joins would keep all rows of the pipeline.
fn lookups_kept(plan: &LogicalPlan) -> Result<LogicalPlan> {
    Ok(match plan {
        LogicalPlan::Filter(filter) => {
            LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(lookups_kept(&filter.input)?))?)
        }
        LogicalPlan::Join(join) => {
            let on = join.on.iter().map(|(left, right)| (right.clone(), left.clone())).collect();
            LogicalPlan::Join(Join::try_new(
                Arc::clone(&join.right),
                Arc::new(lookups_kept(&join.left)?),
                on,
                join.filter.clone(),
                join.join_type.swap(),
                join.join_constraint,
                join.null_equality,
                join.null_aware,
            )?)
        }
        other => other.clone(),
    })
}

/// The qualifier of the pipeline's columns under FROM, JOIN and WHERE.
fn pipeline_qualifier(plan: &LogicalPlan, pipeline: &str) -> Option<TableReference> {
    if let Some((name, qualifier)) = table(plan) {
        return (name == pipeline).then_some(qualifier);
    }
    plan.inputs().into_iter().find_map(|input| pipeline_qualifier(input, pipeline))
}

/// `count(*)`, of rows that pass `filter`.
fn count(session: &Session, filter: Option<Expr>) -> Result<Expr> {
    use deltalake::datafusion::execution::FunctionRegistry as _;
    let function = session.state.udaf("count")?;
    let filter = filter.map(Box::new);
    Ok(Expr::AggregateFunction(AggregateFunction::new_udf(function, vec![lit(1_i64)], false, filter, Vec::new(), None)))
}

/// The call over those rows only that pass `filter` too.
fn only(call: &Expr, filter: Option<&Expr>) -> Expr {
    let (Some(filter), Expr::AggregateFunction(mut function)) = (filter, call.clone().unalias_nested().data) else {
        return call.clone();
    };
    let filter = match function.params.filter.take() {
        Some(own) => filter.clone().and(*own),
        None => filter.clone(),
    };
    function.params.filter = Some(Box::new(filter));
    Expr::AggregateFunction(function)
}

/// The columns of the projection, each expression once.
struct Columns {
    /// Of what is projected.
    schema: DFSchema,
    exprs: Vec<Expr>,
}

impl Columns {
    /// The call over columns of the projection.
    fn call(&mut self, call: &Expr, place: &[Sort]) -> Result<Expr> {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = call.clone().unalias_nested().data else {
            return internal_err!("`{call}` is no aggregate function");
        };
        let AggregateFunctionParams { args, distinct, filter, order_by, null_treatment } = params;
        let args = args.into_iter().map(|arg| self.column(arg)).collect::<Result<_>>()?;
        let filter = filter.map(|f| self.column(*f).map(Box::new)).transpose()?;
        // within a group the order is an argument; everywhere else it must be complete
        let complete = !order_by.is_empty() && !func.supports_within_group_clause();
        let place = if complete { place } else { &[] };
        let mut order: Vec<Sort> = Vec::new();
        for Sort { expr, asc, nulls_first } in order_by.into_iter().chain(place.iter().cloned()) {
            let expr = self.column(expr)?;
            // a column that occurs again orders nothing, and DataFusion miscounts it
            if order.iter().all(|before| before.expr != expr) {
                order.push(Sort { expr, asc, nulls_first });
            }
        }
        let order_by = order;
        let params = AggregateFunctionParams { args, distinct, filter, order_by, null_treatment };
        Ok(Expr::AggregateFunction(AggregateFunction { func, params }))
    }

    /// The column that holds an expression; what has no columns stays as it is, for functions that want
    /// a literal.
    fn column(&mut self, expression: Expr) -> Result<Expr> {
        let expression = expression.unalias_nested().data;
        if expression.column_refs().is_empty() {
            return Ok(expression);
        }
        let expression = self.plain(expression)?;
        let known = self.exprs.iter().find_map(|e| match e {
            Expr::Alias(alias) if *alias.expr == expression => Some(alias.name.clone()),
            _ => None,
        });
        let name = known.unwrap_or_else(|| {
            let name = format!("x{}", self.exprs.len());
            self.exprs.push(expression.alias(&name));
            name
        });
        Ok(col(name))
    }

    fn plain(&self, expression: Expr) -> Result<Expr> {
        let is_float = matches!(expression.get_type(&self.schema)?, DataType::Float32 | DataType::Float64);
        Ok(if is_float { plain_float(expression) } else { expression })
    }
}

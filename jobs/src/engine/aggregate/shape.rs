//! Whether a SELECT can be windowed and split into two halves, and its parts if it can.
//!
//! Judged on the plan as it was written, before anything is optimized: what is not on the list of known
//! nodes is refused by name. Every refusal is collected, so that a file is mended in one go.
//!
//! Invariants: H1 one pipeline, joined to each lookup on that lookup's key, so that a row stays one row;
//! H2 one aggregation, and above it only HAVING and the SELECT list; H3 no function that could give
//! another result tomorrow.

use super::known::{self, Care};
use super::lookups::Lookups;
use super::places::{Places, place_of_span};
use crate::project::Place;
use crate::project::diagnostics::Sink;
use deltalake::datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use deltalake::datafusion::common::{Column, JoinType, Result as EngineResult};
use deltalake::datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use deltalake::datafusion::logical_expr::{
    Aggregate, Expr, Filter, Join, LogicalPlan, Operator, Projection, Volatility,
};
use std::collections::BTreeSet;

/// The parts of a good SELECT.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    /// The SELECT list.
    pub(super) list: Projection,
    /// HAVING.
    pub(super) having: Option<Expr>,
    /// The aggregation; its input is FROM, JOIN and WHERE.
    pub(super) aggregation: Aggregate,
}

/// What the judge knows.
pub(super) struct Judge<'a> {
    pub(super) places: &'a Places,
    pub(super) pipeline: &'a str,
    pub(super) lookups: &'a Lookups,
    pub(super) sink: &'a mut Sink,
    /// What is right but costs: place, message, hint.
    pub(super) costs: Vec<(Place, String, String)>,
}

/// The parts of a plan that has no other nodes than these.
pub(super) fn parts(plan: &LogicalPlan) -> Option<Parts> {
    let LogicalPlan::Projection(list) = plan else { return None };
    let (having, below) = match list.input.as_ref() {
        LogicalPlan::Filter(Filter { predicate, input, .. }) => (Some(predicate.clone()), input.as_ref()),
        below => (None, below),
    };
    let LogicalPlan::Aggregate(aggregation) = below else { return None };
    Some(Parts { list: list.clone(), having, aggregation: aggregation.clone() })
}

impl Judge<'_> {
    /// Judges a plan as it was written.
    pub(super) fn written(&mut self, plan: &LogicalPlan) -> EngineResult<Option<Parts>> {
        plan.apply_with_subqueries(|node| {
            self.node(node);
            self.expressions(node)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        if !self.sink.is_empty() {
            return Ok(None);
        }
        let Some(parts) = parts(plan) else {
            self.sink.error_with(
                self.places.start(),
                "the SELECT aggregates nothing",
                "use aggregate functions such as `count(*)`, and GROUP BY for the columns beside them",
            );
            return Ok(None);
        };
        self.aggregation(&parts.aggregation);
        Ok(Some(parts))
    }

    fn node(&mut self, node: &LogicalPlan) {
        let at = |words: &[&str]| self.places.outer(words);
        let (place, what, hint) = match node {
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Aggregate(_)
            | LogicalPlan::Join(_)
            | LogicalPlan::TableScan(_)
            | LogicalPlan::SubqueryAlias(_) => return,
            LogicalPlan::Window(_) => (
                self.places.any(&["OVER"]),
                "a window function (`OVER`)",
                "rows of an aggregate are windows of time already; query its table with `OVER`",
            ),
            LogicalPlan::Sort(_) => (at(&["ORDER", "BY"]), "ORDER BY", "a table has no order; sort where it is read"),
            LogicalPlan::Limit(_) => (at(&["LIMIT"]), "LIMIT", "a table keeps every window; limit where it is read"),
            LogicalPlan::Distinct(_) => (at(&["DISTINCT"]), "SELECT DISTINCT", "GROUP BY makes rows distinct"),
            LogicalPlan::Union(_) => (at(&["UNION"]), "UNION", "write one aggregate file per SELECT"),
            LogicalPlan::Subquery(_) => {
                (self.subquery_place(), "a subquery", "join a lookup, or aggregate in another file")
            }
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
                (self.places.start(), "a SELECT without a pipeline", "name the pipeline in FROM")
            }
            LogicalPlan::Unnest(_) => (
                self.places.any(&["UNNEST"]),
                "UNNEST",
                "one event is one row; land a topic with one message per element",
            ),
            LogicalPlan::RecursiveQuery(_) => (at(&["WITH"]), "WITH RECURSIVE", "write one SELECT"),
            other => {
                let name = other.display().to_string();
                let name = name.split([':', ' ']).next().unwrap_or_default().to_owned();
                let message = format!("`{name}` is not possible in an aggregate");
                self.sink.error_with(self.places.start(), message, HOW);
                return;
            }
        };
        self.sink.error_with(place, format!("{what} is not possible in an aggregate"), hint);
    }

    fn subquery_place(&self) -> Place {
        let inner = self.places.any(&["(", "SELECT"]);
        if inner == self.places.start() { self.places.any(&["WITH"]) } else { inner }
    }

    /// Refuses what has another value at another time.
    fn expressions(&mut self, node: &LogicalPlan) -> EngineResult<()> {
        node.apply_expressions(|expression| {
            expression.apply(|e| {
                self.expression(e);
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(())
    }

    fn expression(&mut self, expression: &Expr) {
        match expression {
            Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => {
                let names = std::iter::once(f.func.name()).chain(f.func.aliases().iter().map(String::as_str));
                let place = self.places.call(names.chain(stands_for(f.func.name()).iter().copied()));
                let hint = "a window must come out the same whenever it is computed; use columns of the event";
                self.sink.error_with(place, format!("`{}()` has another value each time", f.func.name()), hint);
            }
            Expr::Placeholder(p) => {
                let place = self.places.any(&[&p.id]);
                self.sink.error_with(place, format!("`{}` stands for no value", p.id), "write the value");
            }
            Expr::ScalarVariable(_, names) => {
                let message = format!("`{}` is not possible in an aggregate", names.join("."));
                self.sink.error_with(self.places.any(&["@"]), message, "write the value");
            }
            _ => {}
        }
    }

    fn aggregation(&mut self, aggregation: &Aggregate) {
        for key in &aggregation.group_expr {
            if matches!(key, Expr::GroupingSet(_)) {
                let words: [&[&str]; 3] = [&["GROUPING", "SETS"], &["CUBE"], &["ROLLUP"]];
                let place = words.map(|w| self.places.outer(w)).into_iter().max().unwrap_or(Place::START);
                let message = "GROUPING SETS, CUBE and ROLLUP are not possible in an aggregate";
                self.sink.error_with(place, message, "write one aggregate file per grouping");
            }
        }
        for call in &aggregation.aggr_expr {
            if let Expr::AggregateFunction(f) = call.clone().unalias() {
                self.call(&f);
            }
        }
    }

    fn call(&mut self, call: &AggregateFunction) {
        let name = call.func.name();
        let AggregateFunctionParams { distinct, order_by, .. } = &call.params;
        let place = self.places.call(std::iter::once(name).chain(call.func.aliases().iter().map(String::as_str)));
        let care = match known::care_of(name) {
            Ok(care) => care,
            Err((why, hint)) => {
                self.sink.error_with(place, format!("`{name}` is not possible in an aggregate: {why}"), hint);
                return;
            }
        };
        let ordered = matches!(care, Care::Order | Care::OrderedValues);
        if ordered && order_by.is_empty() {
            let message = format!("`{name}` without ORDER BY depends on the order in which rows are read");
            self.sink.error_with(
                place,
                message,
                format!("write `{name}(x ORDER BY …)`; equal ones follow the event time"),
            );
        }
        if !ordered && !order_by.is_empty() && !call.func.supports_within_group_clause() {
            let message = format!("ORDER BY means nothing in `{name}`");
            self.sink.error_with(place, message, "take the ORDER BY away");
        }
        if *distinct && name == "count" && call.params.args.len() > 1 {
            let hint = "count texts of them: `count(DISTINCT concat_ws('/', a, b))`";
            self.sink.error_with(place, "DISTINCT takes one column", hint);
        }
        if *distinct && name != "count" {
            let hint = "only `count(DISTINCT x)` is; for `min` and `max` DISTINCT changes nothing";
            self.sink.error_with(place, format!("DISTINCT is not possible in `{name}`"), hint);
        }
        let values = matches!(care, Care::Values | Care::OrderedValues);
        if values || *distinct {
            let called = if *distinct { format!("{name}(DISTINCT …)") } else { name.to_owned() };
            let cost = (
                place,
                format!("`{called}` keeps every value of a window and key until the window is done"),
                "about 16 bytes a value, text more: fine for thousands of values, slow for millions".to_owned(),
            );
            if !self.costs.contains(&cost) {
                self.costs.push(cost);
            }
        }
    }

    /// FROM, JOIN and WHERE.
    pub(super) fn below(&mut self, plan: &LogicalPlan) {
        match plan {
            LogicalPlan::Filter(filter) => self.below(&filter.input),
            LogicalPlan::Join(join) => {
                self.join(join);
                self.below(&join.left);
            }
            other => match table(other) {
                Some((name, _)) if name == self.pipeline => {}
                Some((name, _)) => {
                    let message = format!("the SELECT is not from `{}`, as the header says", self.pipeline);
                    let hint = format!("begin with `FROM {}`, and join `{name}` to it", self.pipeline);
                    self.sink.error_with(self.places.any(&[&name]), message, hint);
                }
                None => {
                    let message = "a subquery is not possible in an aggregate";
                    self.sink.error_with(self.subquery_place(), message, "write one SELECT from the pipeline");
                }
            },
        }
    }

    /// A join keeps each row of the pipeline once at most: INNER or LEFT, on the lookup's unique key.
    fn join(&mut self, join: &Join) {
        let Some((name, qualifier)) = table(&join.right) else {
            let message = "only lookups can be joined, one after the other";
            self.sink.error_with(self.places.any(&["JOIN"]), message, HOW);
            return;
        };
        let place = self.places.any(&["JOIN", &name]);
        let place = if place == self.places.start() { self.places.any(&[&name]) } else { place };
        let Some(lookup) = self.lookups.get(&name) else {
            let message = format!("`{name}` is no lookup, so it cannot be joined");
            self.sink.error_with(place, message, "a pipeline is aggregated alone; reference tables go under `lookups`");
            return;
        };
        if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
            let message = format!("a {} join could make rows of no event", join.join_type.to_string().to_uppercase());
            self.sink.error_with(place, message, "use JOIN or LEFT JOIN");
        }
        let key = Column::new(Some(qualifier), lookup.key.clone());
        let is_key = |e: &Expr| matches!(injective(e), Expr::Column(c) if *c == key);
        let on = join.on.iter().any(|(_, right)| is_key(right));
        let mut equalities = BTreeSet::new();
        if let Some(filter) = &join.filter {
            conjuncts(filter, &mut |e| {
                if let Expr::BinaryExpr(b) = e
                    && b.op == Operator::Eq
                    && [(&b.left, &b.right), (&b.right, &b.left)]
                        .iter()
                        .any(|(a, other)| is_key(a) && !mentions(other, &key))
                {
                    equalities.insert(e.to_string());
                }
            });
        }
        if !on && equalities.is_empty() {
            let message = format!("`{name}` is not joined on its key `{}`, so a row could become many", lookup.key);
            self.sink.error_with(place, message, format!("write `JOIN {name} ON {name}.{} = …`", lookup.key));
        }
    }
}

pub(super) const HOW: &str =
    "an aggregate is SELECT … FROM pipeline [JOIN lookup ON its key] [WHERE …] [GROUP BY …] [HAVING …]";

/// The typed words that mean a function of another name.
fn stands_for(name: &str) -> &'static [&'static str] {
    match name {
        "now" => &["CURRENT_TIMESTAMP"],
        _ => &[],
    }
}

/// Name and qualifier of a table, with or without alias.
pub(super) fn table(plan: &LogicalPlan) -> Option<(String, deltalake::datafusion::common::TableReference)> {
    match plan {
        LogicalPlan::TableScan(scan) => Some((scan.table_name.table().to_owned(), scan.table_name.clone())),
        LogicalPlan::SubqueryAlias(alias) => match alias.input.as_ref() {
            LogicalPlan::TableScan(scan) => Some((scan.table_name.table().to_owned(), alias.alias.clone())),
            _ => None,
        },
        _ => None,
    }
}

/// What is below casts that keep unequal values unequal.
fn injective(expression: &Expr) -> &Expr {
    match expression {
        Expr::Cast(cast) if cast.field.data_type().is_integer() || cast.field.data_type().is_string() => {
            match cast.expr.as_ref() {
                Expr::Column(_) => &cast.expr,
                _ => expression,
            }
        }
        other => other,
    }
}

fn mentions(expression: &Expr, key: &Column) -> bool {
    expression.column_refs().iter().any(|c| c.relation == key.relation)
}

fn conjuncts(expression: &Expr, visit: &mut impl FnMut(&Expr)) {
    match expression {
        Expr::BinaryExpr(b) if b.op == Operator::And => {
            conjuncts(&b.left, visit);
            conjuncts(&b.right, visit);
        }
        other => visit(other),
    }
}

/// Where the first column of an expression is written.
pub(super) fn place_of_expression(expression: &Expr) -> Option<Place> {
    expression.column_refs().iter().filter_map(|c| c.spans.first()).map(place_of_span).min()
}

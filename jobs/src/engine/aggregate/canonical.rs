//! What an aggregate is, in a text that only a change of meaning changes.
//!
//! Whitespace, comments, the case of keywords, aliases of tables and names that DataFusion makes up are
//! not in it. It is what a definition's fingerprint is taken of, and what `ops.pins` shows.

use super::halves::{key_column, result_column};
use super::shape::{Parts, table};
use deltalake::datafusion::common::tree_node::{Transformed, TreeNode};
use deltalake::datafusion::common::{Column, Result, TableReference};
use deltalake::datafusion::logical_expr::{Expr, LogicalPlan};

/// The text of the parts of a plan as it was written, one line each.
pub(super) fn text(parts: &Parts) -> Result<String> {
    let mut lines = Lines { tables: Vec::new(), lines: Vec::new() };
    lines.below(&parts.aggregation.input)?;
    for (n, key) in parts.aggregation.group_expr.iter().enumerate() {
        lines.push(&format!("{} =", key_column(n)), key)?;
    }
    for (n, call) in parts.aggregation.aggr_expr.iter().enumerate() {
        lines.push(&format!("{} =", result_column(n)), call)?;
    }
    if let Some(having) = &parts.having {
        lines.push_above("having", having, parts)?;
    }
    for (output, field) in parts.list.expr.iter().zip(parts.list.schema.fields()) {
        lines.push_above(&format!("select {} =", field.name()), output, parts)?;
    }
    Ok(lines.lines.join("\n"))
}

/// The expression over the columns of the aggregation's result, in place of their names.
pub(super) fn over_results(expression: &Expr, parts: &Parts) -> Result<Expr> {
    let keys = parts.aggregation.group_expr.len();
    let over = expression.clone().transform(|e| match &e {
        Expr::Column(column) => {
            let n = parts.aggregation.schema.index_of_column(column)?;
            let name = if n < keys { key_column(n) } else { result_column(n - keys) };
            Ok(Transformed::yes(Expr::Column(Column::from_name(name))))
        }
        _ => Ok(Transformed::no(e)),
    })?;
    Ok(over.data)
}

struct Lines {
    /// The typed qualifier of each table, and what it is called here.
    tables: Vec<(TableReference, String)>,
    lines: Vec<String>,
}

impl Lines {
    fn below(&mut self, plan: &LogicalPlan) -> Result<()> {
        match plan {
            LogicalPlan::Filter(filter) => {
                self.below(&filter.input)?;
                let predicate = self.plain(&filter.predicate)?;
                self.lines.push(format!("where {predicate}"));
            }
            LogicalPlan::Join(join) => {
                self.below(&join.left)?;
                self.below(&join.right)?;
                let pairs =
                    join.on.iter().map(|(left, right)| Ok(format!("{} = {}", self.plain(left)?, self.plain(right)?)));
                let mut on = pairs.collect::<Result<Vec<_>>>()?;
                if let Some(filter) = &join.filter {
                    on.push(self.plain(filter)?.to_string());
                }
                self.lines.push(format!("{} join on {}", join.join_type.to_string().to_lowercase(), on.join(" AND ")));
            }
            other => {
                if let Some((name, qualifier)) = table(other) {
                    // the same lookup may be joined twice
                    let name = format!("{name}#{}", self.tables.len());
                    self.lines.push(format!("from {name}"));
                    self.tables.push((qualifier, name));
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, what: &str, expression: &Expr) -> Result<()> {
        let plain = self.plain(expression)?;
        self.lines.push(format!("{what} {plain}"));
        Ok(())
    }

    fn push_above(&mut self, what: &str, expression: &Expr, parts: &Parts) -> Result<()> {
        let over = over_results(expression, parts)?.unalias_nested().data;
        self.lines.push(format!("{what} {over}"));
        Ok(())
    }

    /// The expression with tables called as they are here.
    fn plain(&self, expression: &Expr) -> Result<Expr> {
        let plain = expression.clone().unalias_nested().data.transform(|e| match &e {
            Expr::Column(column) => {
                let named = self.tables.iter().find(|(typed, _)| column.relation.as_ref() == Some(typed));
                match named {
                    Some((_, name)) => Ok(Transformed::yes(Expr::Column(Column::new(
                        Some(TableReference::bare(name.as_str())),
                        &column.name,
                    )))),
                    None => Ok(Transformed::no(e)),
                }
            }
            _ => Ok(Transformed::no(e)),
        })?;
        Ok(plain.data)
    }
}

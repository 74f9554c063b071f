//! The columns that the user wrote, judged.
//!
//! Invariants: K1 every key of the grouping is a column of the result, so that a row can be found again;
//! K2 no column is called as one of the engine's, nor as another one but for case; K3 every column is of
//! a type that a Delta table can hold.

use super::places::Places;
use super::shape::{Parts, place_of_expression};
use super::types::delta_type;
use crate::project::Place;
use crate::project::diagnostics::{Sink, list};
use arrow::datatypes::DataType;
use deltalake::datafusion::logical_expr::Expr;

/// Columns that the engine adds to results and tables, and those that it may add.
pub const RESERVED: [&str; 15] = [
    "granularity",
    "window_start",
    "window_end",
    "window_date",
    "window_hour",
    "events",
    "late",
    "duplicates",
    "filled",
    "generation",
    "state",
    "pin",
    "pin_id",
    "definition",
    "unexplained",
];

/// A column of the result that the user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputColumn {
    /// Name.
    pub name: String,
    /// A type that a Delta table can hold.
    pub data_type: DataType,
    /// Whether a value may be null. The column may be in any case: the contract can change its mind.
    pub nullable: bool,
    /// Which key of the grouping it is, or a value.
    pub key: Option<usize>,
}

/// The user's columns, judged.
pub(super) fn columns(parts: &Parts, places: &Places, sink: &mut Sink) -> Vec<OutputColumn> {
    let keys = parts.aggregation.group_expr.len();
    let mut columns: Vec<OutputColumn> = Vec::new();
    for (expression, field) in parts.list.expr.iter().zip(parts.list.schema.fields()) {
        let name = field.name();
        let alias = places.alias(name);
        let place = alias.or_else(|| place_of_expression(expression)).unwrap_or_else(|| places.start());
        judge_name(name, &columns, alias.is_some(), place, sink);
        let Some(data_type) = delta_type(field.data_type()) else {
            let message =
                format!("`{name}` would be of the type `{}`, which a Delta table cannot hold", field.data_type());
            sink.error_with(place, message, "cast it: `CAST(… AS BIGINT)`, `CAST(… AS VARCHAR)` or another plain type");
            continue;
        };
        let key = match expression.clone().unalias_nested().data {
            Expr::Column(column) => parts.aggregation.schema.index_of_column(&column).ok().filter(|n| *n < keys),
            _ => None,
        };
        let key = key.filter(|k| columns.iter().all(|c| c.key != Some(*k)));
        if key.is_some() && data_type.is_nested() {
            let message = format!("`{name}` cannot be a key: its type is `{data_type}`");
            sink.error_with(place, message, "group by its parts");
        }
        columns.push(OutputColumn { name: name.clone(), data_type, nullable: field.is_nullable(), key });
    }
    for (n, key) in parts.aggregation.group_expr.iter().enumerate() {
        if columns.iter().all(|c| c.key != Some(n)) && !matches!(key, Expr::GroupingSet(_)) {
            let key = key.clone().unalias_nested().data;
            let place = place_of_expression(&key).unwrap_or_else(|| places.start());
            let message = format!("the key `{}` is grouped by but not selected", plain_name(&key));
            sink.error_with(
                place,
                message,
                "add it to the SELECT list; without it rows of a window could not be told apart",
            );
        }
    }
    columns
}

fn plain_name(key: &Expr) -> String {
    match key {
        Expr::Column(column) => column.name.clone(),
        other => other.to_string(),
    }
}

fn judge_name(name: &str, before: &[OutputColumn], alias: bool, place: Place, sink: &mut Sink) {
    let clean = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.len() <= 100;
    if RESERVED.iter().any(|r| r.eq_ignore_ascii_case(name)) {
        let hint = format!("write `AS another_name`; the engine's columns are {}", list(&RESERVED));
        sink.error_with(place, format!("the engine has a column `{name}` of its own"), hint);
    } else if name.starts_with('_') {
        let message = format!("`{name}` cannot be the name of a result");
        sink.error_with(place, message, "names that begin with `_` belong to the engine: write `AS another_name`");
    } else if !clean && !alias {
        sink.error_with(place, format!("`{name}` has no name"), "write `AS name` behind it");
    } else if !clean {
        let message = format!("`{}` cannot be the name of a column", name.escape_debug());
        sink.error_with(place, message, "a letter, then letters, digits and `_`, at most 100");
    } else if before.iter().any(|c| c.name.eq_ignore_ascii_case(name)) {
        let hint = "names of columns differ by more than case; write `AS another_name`";
        sink.error_with(place, format!("two columns are called `{name}`"), hint);
    }
}

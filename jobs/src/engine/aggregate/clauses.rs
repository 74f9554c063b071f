//! Clauses that a SELECT of an aggregate may not have, judged before it is planned.
//!
//! The planner drops some of them without a word (`TABLESAMPLE`, `TOP`, `FOR UPDATE`), and turns others
//! into nodes of other names; so they are looked for where they are written.

use super::places::Places;
use super::shape::HOW;
use crate::project::diagnostics::Sink;
use deltalake::datafusion::sql::sqlparser::ast::{GroupByExpr, Query, Select, SetExpr, TableFactor, Visit, Visitor};
use std::ops::ControlFlow;

/// Refuses each of them by name.
pub(super) fn judge(query: &Query, places: &Places, sink: &mut Sink) {
    let mut found: Vec<&str> = Vec::new();
    match query.body.as_ref() {
        SetExpr::SetOperation { op, .. } => {
            let op = op.to_string();
            let message = format!("{op} is not possible in an aggregate");
            sink.error_with(places.outer(&[&op]), message, "write one aggregate file per SELECT");
        }
        SetExpr::Select(select) => found.extend(of_select(select)),
        _ => {}
    }
    found.extend(of_query(query, places));
    let mut tables = Tables { found: Vec::new() };
    let _: ControlFlow<()> = query.visit(&mut tables);
    found.extend(tables.found);
    for clause in found {
        let words: Vec<&str> = clause.split(' ').collect();
        sink.error_with(places.any(&words), format!("{clause} is not possible in an aggregate"), HOW);
    }
}

fn of_query<'c>(query: &Query, places: &Places) -> impl Iterator<Item = &'c str> {
    // `OFFSET` alone is a limit too, which the plan calls by that name
    let offset = query.limit_clause.is_some() && places.outer(&["LIMIT"]) == places.start();
    let clauses = [
        (query.with.is_some(), "WITH"),
        (query.fetch.is_some(), "FETCH"),
        (!query.locks.is_empty() || query.for_clause.is_some(), "FOR"),
        (query.settings.is_some(), "SETTINGS"),
        (query.format_clause.is_some(), "FORMAT"),
        (!query.pipe_operators.is_empty(), "|>"),
        (offset, "OFFSET"),
    ];
    clauses.into_iter().filter_map(|(is_there, clause)| is_there.then_some(clause))
}

fn of_select<'c>(select: &Select) -> impl Iterator<Item = &'c str> {
    let modifiers = match &select.group_by {
        GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers) => !modifiers.is_empty(),
    };
    let clauses = [
        (select.top.is_some(), "TOP"),
        (select.into.is_some(), "INTO"),
        (select.exclude.is_some(), "EXCLUDE"),
        (select.select_modifiers.is_some(), "SELECT"),
        (!select.lateral_views.is_empty(), "LATERAL VIEW"),
        (select.prewhere.is_some(), "PREWHERE"),
        (!select.connect_by.is_empty(), "CONNECT BY"),
        (!select.cluster_by.is_empty(), "CLUSTER BY"),
        (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
        (!select.sort_by.is_empty(), "SORT BY"),
        (select.value_table_mode.is_some(), "SELECT AS"),
        (modifiers, "WITH"),
    ];
    clauses.into_iter().filter_map(|(is_there, clause)| is_there.then_some(clause))
}

/// What stands behind the names of tables.
struct Tables {
    found: Vec<&'static str>,
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { sample, version, with_hints, partitions, json_path, index_hints, .. } = factor {
            let clauses = [
                (sample.is_some(), "TABLESAMPLE"),
                (version.is_some(), "AS OF"),
                (!with_hints.is_empty(), "WITH"),
                (!partitions.is_empty(), "PARTITION"),
                (json_path.is_some(), "FROM"),
                (!index_hints.is_empty(), "INDEX"),
            ];
            self.found.extend(clauses.into_iter().filter_map(|(is_there, clause)| is_there.then_some(clause)));
        }
        ControlFlow::Continue(())
    }
}

//! From the text of an aggregate's file to one SELECT, planned as it is written.
//!
//! What is wrong is said with its place in the file, in the words of the project.

use super::clauses;
use super::lookups::Lookups;
use super::places::{Places, place_of, place_of_span};
use super::rows::Rows;
use super::session::Session;
use super::source::Source;
use crate::project::Place;
use crate::project::diagnostics::{Sink, list, nearest};
use deltalake::datafusion::catalog::TableProvider;
use deltalake::datafusion::common::{DataFusionError, SchemaError};
use deltalake::datafusion::logical_expr::LogicalPlan;
use deltalake::datafusion::prelude::SessionContext;
use deltalake::datafusion::sql::parser::Statement;
use deltalake::datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use deltalake::datafusion::sql::sqlparser::dialect::GenericDialect;
use deltalake::datafusion::sql::sqlparser::parser::{Parser, ParserError};
use deltalake::datafusion::sql::sqlparser::tokenizer::{Location, Tokenizer};
use std::sync::Arc;

/// Deepest nesting of a SELECT.
const DEPTH_MAX: usize = 64;

/// A SELECT, the places of its words, and its plan before and after types are made to fit.
pub(super) struct Planned {
    pub(super) places: Places,
    /// As written.
    pub(super) written: LogicalPlan,
    /// With casts where types differ.
    pub(super) typed: LogicalPlan,
}

/// Plans the SELECT of a file.
pub(super) async fn plan(
    sql: &str,
    source: &Source,
    lookups: &Lookups,
    session: &Session,
    sink: &mut Sink,
) -> Option<Planned> {
    let dialect = GenericDialect {};
    let tokens = match Tokenizer::new(&dialect, sql).tokenize_with_location() {
        Ok(tokens) => tokens,
        Err(e) => {
            sink.error(place_of(e.location), format!("not valid SQL: {}", lower(&e.message)));
            return None;
        }
    };
    let places = Places::new(&tokens);
    let parsed =
        Parser::new(&dialect).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens).parse_statements();
    let mut statements = match parsed {
        Ok(statements) => statements,
        Err(e) => {
            let (place, message) = syntax(&e, &places);
            sink.error(place, message);
            return None;
        }
    };
    let (Some(statement), true) = (statements.pop(), statements.is_empty()) else {
        sink.error_with(places.start(), "expected exactly one SELECT after the header", "one file is one aggregate");
        return None;
    };
    let SqlStatement::Query(query) = &statement else {
        sink.error_with(places.start(), "this is no SELECT", "an aggregate is SELECT … FROM pipeline GROUP BY …");
        return None;
    };
    clauses::judge(query, &places, sink);
    if !sink.is_empty() {
        return None;
    }
    let statement = Statement::Statement(Box::new(statement));
    let context = tables(&statement, source, lookups, session, &places, sink)?;
    let state = context.state();
    let written = match state.statement_to_plan(statement).await {
        Ok(plan) => plan,
        Err(e) => {
            refused_plan(&e, &places, sink);
            return None;
        }
    };
    let options = state.config_options();
    match state.analyzer().execute_and_check(written.clone(), options, |_, _| {}) {
        Ok(typed) => Some(Planned { places, written, typed }),
        Err(e) => {
            refused_plan(&e, &places, sink);
            None
        }
    }
}

/// A context that has the tables that the SELECT names.
fn tables(
    statement: &Statement,
    source: &Source,
    lookups: &Lookups,
    session: &Session,
    places: &Places,
    sink: &mut Sink,
) -> Option<SessionContext> {
    let context = session.without_tables();
    let references = match session.state.resolve_table_references(statement) {
        Ok(references) => references,
        Err(e) => {
            refused_plan(&e, places, sink);
            return None;
        }
    };
    let known: Vec<&str> = std::iter::once(source.name.as_str()).chain(lookups.names()).collect();
    for reference in references {
        let name = reference.table();
        let provider: Arc<dyn TableProvider> = if name == source.name && reference.schema().is_none() {
            Rows::new(Arc::clone(&source.schema), Vec::new())
        } else if let Some(lookup) = lookups.get(name).filter(|_| reference.schema().is_none()) {
            lookup.provider()
        } else {
            let last = name.rsplit('.').next().unwrap_or(name);
            if last == source.name {
                let message = format!("`{reference}` is not how an aggregate names its pipeline");
                sink.error_with(places.any(&[last]), message, format!("write `FROM {last}`"));
                continue;
            }
            sink.unknown(places.any(&[last]), "table", &reference.to_string(), known.iter().copied());
            continue;
        };
        if let Err(e) = context.register_table(reference, provider) {
            refused_plan(&e, places, sink);
        }
    }
    sink.is_empty().then_some(context)
}

/// Says what DataFusion's planner does not like.
pub(super) fn refused_plan(error: &DataFusionError, places: &Places, sink: &mut Sink) {
    let span = error.diagnostic().and_then(|d| d.span);
    let place = span.map_or_else(|| places.start(), place_of_span);
    match error.find_root() {
        DataFusionError::SchemaError(schema, _) => {
            let (at, message, hint) = schema_error(schema, places);
            let place = if span.is_some() { place } else { at };
            match hint {
                Some(hint) => sink.error_with(place, message, hint),
                None => sink.error(place, message),
            }
        }
        root => {
            let (message, hint) = planning_error(error, &root.message());
            // the first thing that is named is mostly the one to blame
            let named = message.split('`').nth(1).map_or_else(|| places.start(), |name| places.call([name]));
            let place = if span.is_some() { place } else { named };
            match hint {
                Some(hint) => sink.error_with(place, message, hint),
                None => sink.error(place, message),
            }
        }
    }
}

/// A message and a hint out of what DataFusion says in many layers and lines.
fn planning_error(error: &DataFusionError, root: &str) -> (String, Option<String>) {
    let diagnostic = error.diagnostic();
    let text = diagnostic.map_or(root, |d| d.message.as_str());
    if text.contains("require unique expression names") {
        return (
            "two columns have the same name".to_owned(),
            Some("give each an alias of its own: `AS name`".to_owned()),
        );
    }
    if let Some((column, _)) = text.split_once(" must appear in GROUP BY clause") {
        let hint = "group by it, or aggregate it: `min`, `max`, `first_value(… ORDER BY …)`";
        return (format!("{} is neither grouped by nor aggregated", ticks(&lower(column))), Some(hint.to_owned()));
    }
    if text.contains("cannot be nested") {
        return ("an aggregate of an aggregate is not possible".to_owned(), Some("aggregate the events".to_owned()));
    }
    let inner = text.rsplit_once("Error during planning: ").map_or(text, |(_, inner)| inner);
    let line = inner.lines().next().unwrap_or_default();
    let line = line.split_once(". No function matches").map_or(line, |(said, _)| said);
    let (said, advice) = line.split_once(". ").map_or((line, None), |(said, advice)| (said, Some(advice)));
    // `Invalid function 'x'.\nDid you mean 'y'?` has its hint in the second line
    let next = root.lines().nth(1).filter(|next| !next.trim_end().ends_with(':'));
    let help = diagnostic.and_then(|d| d.helps.first()).map(|h| h.message.as_str());
    let hint = help.or(advice).or(next).map(|h| ticks(&lower(h))).filter(|h| !h.is_empty());
    (ticks(&lower(said)), hint)
}

/// Names in backticks in place of quotes; apostrophes stay.
fn ticks(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let is_letter = |i: Option<usize>| i.and_then(|i| letters.get(i)).is_some_and(|c| c.is_alphanumeric());
    let tick = |(i, c): (usize, &char)| match c {
        '\'' if !(is_letter(i.checked_sub(1)) && is_letter(i.checked_add(1))) => '`',
        other => *other,
    };
    letters.iter().enumerate().map(tick).collect()
}

fn schema_error(error: &SchemaError, places: &Places) -> (Place, String, Option<String>) {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|f| f.name()).collect();
            let place = places.any(&[field.name()]);
            let capitals = names.iter().find(|n| **n != field.name() && n.eq_ignore_ascii_case(field.name()));
            let hint = capitals.map_or_else(
                || nearest(field.name(), names.iter().copied()),
                |name| format!("write `\"{name}\"`: SQL takes names without quotes as lower case"),
            );
            (place, format!("unknown column `{}`", field.flat_name()), Some(hint))
        }
        SchemaError::AmbiguousReference { field } => {
            let message = format!("`{}` is a column of more than one table", field.name());
            (places.any(&[field.name()]), message, Some(format!("write `table.{}`", field.name())))
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => (
            places.any(&[name]),
            format!("{} occurs twice", list(&[name])),
            Some("give each an alias of its own".to_owned()),
        ),
    }
}

/// sqlparser's `Expected: …, found: … at Line: 3, Column: 5`.
fn syntax(error: &ParserError, places: &Places) -> (Place, String) {
    let text = match error {
        ParserError::RecursionLimitExceeded => {
            return (places.start(), format!("the SELECT is nested deeper than {DEPTH_MAX} levels"));
        }
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
    };
    let place = text.rsplit_once(" at Line: ").and_then(|(message, at)| {
        let (line, column) = at.split_once(", Column: ")?;
        Some((message, Location { line: line.parse().ok()?, column: column.parse().ok()? }))
    });
    match place {
        Some((message, at)) => (place_of(at), format!("not valid SQL: {}", lower(message))),
        None => (places.start(), format!("not valid SQL: {}", lower(text))),
    }
}

/// Our messages begin in lower case and end without a full stop.
fn lower(text: &str) -> String {
    let text = text.trim().trim_end_matches('.').replace('\n', "\\n");
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        // a word in capitals, such as SELECT, stays
        (Some(first), Some(second)) if !second.is_uppercase() => first.to_lowercase().chain(letters).collect(),
        _ => text,
    }
}

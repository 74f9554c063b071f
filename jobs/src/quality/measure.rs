//! What a rule measures, as SQL over `object`: the rows of one date.
//!
//! All counts of a date are taken in one pass; rules that group or that bring their own query have one each.

use crate::engine::query_over;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Lake, TableName};
use crate::project::contract::{Column, Contract, Kind, Measure, QualityRule};
use jiff::civil::Date;
use std::collections::BTreeMap;

/// What rules call the rows of the date.
pub(super) const OBJECT: &str = "object";

/// One version of a raw table, by date.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) lake: &'a Lake,
    pub(super) table: &'a TableName,
    pub(super) version: i64,
    pub(super) contract: &'a Contract,
    pub(super) memory_bytes: usize,
}

/// What was measured of a date: its rows, and each rule's number as counted, by the rule's place in the contract; what
/// cannot be measured says why.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) rows: u64,
    pub(super) values: BTreeMap<usize, Result<f64>>,
}

impl Subject<'_> {
    /// Measures all rules that are run over one date.
    ///
    /// # Errors
    /// The table cannot be read. What is wrong with one rule is its own value.
    pub(super) async fn measure(&self, date: Date) -> Result<Measured> {
        let rules = || self.contract.quality.iter().enumerate();
        let counts: Vec<(usize, String)> =
            rules().filter_map(|(n, rule)| Some((n, condition(self.contract, rule)?))).collect();
        let columns: String =
            counts.iter().map(|(_, condition)| format!(", count(*) FILTER (WHERE {condition})")).collect();
        let counted = self.numbers(date, &format!("SELECT count(*){columns} FROM {OBJECT}")).await?;
        let mut counted = counted.into_iter().map(Option::unwrap_or_default);
        let rows = counted.next().unwrap_or_default();
        let mut values: BTreeMap<usize, Result<f64>> = counts.iter().map(|(n, _)| *n).zip(counted.map(Ok)).collect();
        for (n, rule) in rules() {
            let value = match &rule.measure {
                Measure::RowCount => Ok(rows),
                Measure::DuplicateValues(columns) => self.one(date, &duplicates(columns)).await,
                Measure::Sql(query) => self.one(date, &own(query, rule)).await,
                _ => continue,
            };
            // a store that is away is no matter of the rule
            if let Err(error) = &value
                && error.class == Class::Outside
            {
                return value.map(|_| Measured { rows: 0, values: BTreeMap::new() });
            }
            values.insert(n, value);
        }
        Ok(Measured { rows: rows as u64, values })
    }

    async fn one(&self, date: Date, sql: &str) -> Result<f64> {
        let numbers = self.numbers(date, sql).await?;
        let user = |message: String| Error::new(Stage::Quality, Class::User, message);
        match numbers[..] {
            [Some(number)] => Ok(number),
            [None] => {
                Err(user("the query answers null".to_owned()).hint("`coalesce(…, 0)` gives a number for no rows"))
            }
            _ => Err(user(format!("the query has {} columns, and a rule is one number", numbers.len()))),
        }
    }

    async fn numbers(&self, date: Date, sql: &str) -> Result<Vec<Option<f64>>> {
        let TableName { layer, name } = self.table;
        let view = format!(
            "SELECT * FROM {}.{} AS OF {} WHERE event_date = DATE '{date}'",
            quoted(layer),
            quoted(name),
            self.version
        );
        query_over(self.lake, (OBJECT, &view), sql, self.memory_bytes).await?.numbers().await
    }
}

/// The condition of the rows that a rule counts, if it is one that counts rows one by one.
fn condition(contract: &Contract, rule: &QualityRule) -> Option<String> {
    let path = rule.column.as_deref()?;
    let (kind, column) = (&column_at(&contract.columns, path)?.kind, reference(path));
    Some(match &rule.measure {
        Measure::NullValues => format!("{column} IS NULL"),
        Measure::MissingValues(values) => {
            let listed: Vec<String> = values.iter().flatten().map(|value| literal(value, kind)).collect();
            let null = values.contains(&None).then(|| format!("{column} IS NULL"));
            let among = (!listed.is_empty()).then(|| format!("{column} IN ({})", listed.join(", ")));
            [null, among].into_iter().flatten().collect::<Vec<_>>().join(" OR ")
        }
        Measure::InvalidValues { valid, pattern } => {
            let listed: Vec<String> = valid.iter().map(|value| literal(value, kind)).collect();
            let among = (!listed.is_empty()).then(|| format!("{column} NOT IN ({})", listed.join(", ")));
            let whole = |p: &String| format!("NOT regexp_like({column}, {})", text(&format!("^(?:{p})$")));
            let wrong = [among, pattern.as_ref().map(whole)].into_iter().flatten().collect::<Vec<_>>().join(" OR ");
            format!("{column} IS NOT NULL AND ({wrong})")
        }
        Measure::DuplicateValues(_) | Measure::RowCount | Measure::Sql(_) | Measure::NotRun(_) => return None,
    })
}

/// Grouping spills where a set of distinct values would have to fit into memory.
fn duplicates(columns: &[String]) -> String {
    let columns: Vec<String> = columns.iter().map(|path| reference(path)).collect();
    let present: Vec<String> = columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
    format!(
        "SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM {OBJECT} WHERE {} GROUP BY {})",
        present.join(" AND "),
        columns.join(", ")
    )
}

/// The query of a rule, with what its placeholders stand for.
pub(super) fn own(query: &str, rule: &QualityRule) -> String {
    let column = rule.column.as_deref().map(reference).unwrap_or_default();
    query.replace("{object}", OBJECT).replace("{property}", &column)
}

/// A column of the contract, nested ones dotted.
fn column_at<'c>(columns: &'c [Column], path: &str) -> Option<&'c Column> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let column = columns.iter().find(|c| c.name == name)?;
    match (&column.kind, rest) {
        (_, None) => Some(column),
        (Kind::Object(fields), Some(rest)) => column_at(fields, rest),
        _ => None,
    }
}

/// A column, nested ones dotted, as SQL reaches it.
fn reference(path: &str) -> String {
    let mut names = path.split('.');
    let first = names.next().map(quoted).unwrap_or_default();
    names.fold(first, |sql, name| format!("{sql}[{}]", text(name)))
}

fn literal(value: &str, kind: &Kind) -> String {
    match kind {
        Kind::Integer => format!("CAST({} AS BIGINT)", text(value)),
        Kind::Double => format!("CAST({} AS DOUBLE)", text(value)),
        Kind::Float => format!("CAST({} AS REAL)", text(value)),
        Kind::Decimal { precision, scale } => format!("CAST({} AS DECIMAL({precision}, {scale}))", text(value)),
        Kind::Boolean => format!("CAST({} AS BOOLEAN)", text(value)),
        Kind::Date => format!("CAST({} AS DATE)", text(value)),
        _ => text(value),
    }
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

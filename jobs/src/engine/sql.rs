//! From the text of a query to one statement that only reads.
//!
//! Adds one thing to DataFusion's SQL: `layer.table AS OF 12` (also `VERSION AS OF 12`) reads a table
//! as it was at version 12. It is recognised in the token stream, so text inside strings, quoted
//! names and comments is never touched: `word . word AS OF number` is an error in plain SQL, so no
//! valid query changes its meaning. Each occurrence has its own version, and a table may be joined with its past.
//!
//! Invariants: Q1 what leaves here is a single SELECT (or EXPLAIN of one, or DESCRIBE of a table); Q2 a versioned table
//! keeps the name that its columns are qualified by.

use crate::error::{Class, Error, Result, Stage};
use deltalake::datafusion::sql::parser::Statement;
use deltalake::datafusion::sql::sqlparser::ast::{
    Ident, Statement as SqlStatement, TableAlias, TableFactor, VisitMut, VisitorMut,
};
use deltalake::datafusion::sql::sqlparser::dialect::GenericDialect;
use deltalake::datafusion::sql::sqlparser::keywords::Keyword;
use deltalake::datafusion::sql::sqlparser::parser::{Parser, ParserError};
use deltalake::datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};
use std::ops::ControlFlow;

/// Between name and version in the inner name of a versioned table. No table of a lake has it.
const AS_OF: &str = " AS OF ";

/// Deepest nesting of a query.
const DEPTH_MAX: usize = 64;

/// Parses one reading statement.
///
/// # Errors
/// [`Class::User`] if the text is not SQL, not exactly one statement, or would write.
pub fn parse(sql: &str) -> Result<Statement> {
    let dialect = GenericDialect {};
    let tokens =
        Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|e| user(format!("not valid SQL: {e}")))?;
    refuse_writes(&tokens)?;
    let mut statements = Parser::new(&dialect)
        .with_recursion_limit(DEPTH_MAX)
        .with_tokens_with_locations(mark_versions(tokens)?)
        .parse_statements()
        .map_err(|e| {
            user(match e {
                ParserError::RecursionLimitExceeded => format!("the query is nested deeper than {DEPTH_MAX} levels"),
                ParserError::TokenizerError(text) | ParserError::ParserError(text) => format!("not valid SQL: {text}"),
            })
        })?;
    let (Some(mut statement), true) = (statements.pop(), statements.is_empty()) else {
        return Err(user("expected exactly one statement").hint("run one query at a time"));
    };
    if !matches!(statement, SqlStatement::Query(_) | SqlStatement::Explain { .. } | SqlStatement::ExplainTable { .. }) {
        return Err(read_only(&statement.to_string()));
    }
    let _: ControlFlow<()> = statement.visit(&mut NameVersioned);
    Ok(Statement::Statement(Box::new(statement)))
}

/// Splits the inner name of a table into its name and the version that the query asked for.
pub fn split_version(table: &str) -> (&str, Option<u64>) {
    match table.rsplit_once(AS_OF) {
        Some((name, version)) => (name, version.parse().ok()),
        None => (table, None),
    }
}

/// The error for anything that is not a query.
pub fn read_only(statement: &str) -> Error {
    let verb = statement.split_whitespace().next().unwrap_or_default().to_uppercase();
    user(format!("`{verb}` is refused: queries only read"))
        .hint("use SELECT; tables are written by the jobs, each by its own stage")
}

fn user(message: impl Into<String>) -> Error {
    Error::new(Stage::Query, Class::User, message)
}

/// Refuses by the first word, so that a person who tries to write is told so, and not that the rest
/// of the statement cannot be parsed.
fn refuse_writes(tokens: &[TokenWithSpan]) -> Result<()> {
    let first =
        tokens.iter().map(|t| &t.token).find(|t| !matches!(t, Token::Whitespace(_) | Token::SemiColon | Token::LParen));
    match first {
        None | Some(Token::EOF) => Err(user("the query is empty").hint("for example: SELECT count(*) FROM raw.events")),
        Some(Token::Word(word)) if !READS.contains(&word.keyword) => Err(read_only(&word.value)),
        Some(_) => Ok(()),
    }
}

const READS: [Keyword; 7] = [
    Keyword::SELECT,
    Keyword::WITH,
    Keyword::VALUES,
    Keyword::FROM,
    Keyword::EXPLAIN,
    Keyword::DESCRIBE,
    Keyword::DESC,
];

/// Turns `layer . table [VERSION] AS OF number` into `layer . "table AS OF number"`.
fn mark_versions(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let significant: Vec<usize> =
        (0..tokens.len()).filter(|&i| !matches!(tokens[i].token, Token::Whitespace(_))).collect();
    let mut at = 0;
    while at < significant.len() {
        let ahead = |n: usize| significant.get(at + n).map(|&i| &tokens[i].token);
        if let Some(used) = version_clause(ahead) {
            let name = &tokens[significant[at + 2]];
            let version = &tokens[significant[at + used - 1]];
            out.push(tokens[significant[at]].clone());
            out.push(tokens[significant[at + 1]].clone());
            out.push(versioned(name, version)?);
            at += used;
        } else {
            out.push(tokens[significant[at]].clone());
            at += 1;
        }
    }
    Ok(out)
}

/// How many tokens a versioned table takes, if one begins here.
fn version_clause<'t>(ahead: impl Fn(usize) -> Option<&'t Token>) -> Option<usize> {
    let word = |n: usize| matches!(ahead(n), Some(Token::Word(_)));
    let says = |n: usize, text: &str| matches!(ahead(n), Some(Token::Word(w)) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(text));
    if !(word(0) && ahead(1) == Some(&Token::Period) && word(2)) {
        return None;
    }
    let clause = if says(3, "VERSION") { 4 } else { 3 };
    let number = matches!(ahead(clause + 2), Some(Token::Number(..)));
    (says(clause, "AS") && says(clause + 1, "OF") && number).then_some(clause + 3)
}

fn versioned(name: &TokenWithSpan, version: &TokenWithSpan) -> Result<TokenWithSpan> {
    let (Token::Word(word), Token::Number(digits, _)) = (&name.token, &version.token) else {
        return Ok(name.clone());
    };
    if digits.parse::<u64>().is_err() {
        return Err(user(format!("`AS OF {digits}` names no table version"))
            .hint("a version is a whole number, such as `AS OF 12`"));
    }
    let plain = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
    let marked = Word { value: format!("{plain}{AS_OF}{digits}"), quote_style: Some('"'), keyword: Keyword::NoKeyword };
    Ok(TokenWithSpan { token: Token::Word(marked), span: name.span })
}

/// Gives a versioned table its own name back, as alias.
struct NameVersioned;

impl VisitorMut for NameVersioned {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias: alias @ None, .. } = factor
            && let Some(last) = name.0.last().and_then(|part| part.as_ident())
            && let (plain, Some(_)) = split_version(&last.value)
        {
            let name = Ident::with_quote('"', plain);
            *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("select * from raw.a as of 12", r#"SELECT * FROM raw."a AS OF 12" AS "a""#)]
    #[case("SELECT * FROM raw.A VERSION AS OF 3 x", r#"SELECT * FROM raw."a AS OF 3" x"#)]
    #[case("SELECT * FROM raw.a AS OF 1 AS old, raw.a new", r#"SELECT * FROM raw."a AS OF 1" AS old, raw.a new"#)]
    #[case("SELECT 'raw.a AS OF 1' -- raw.a AS OF 2\nFROM raw.a of", "SELECT 'raw.a AS OF 1' FROM raw.a of")]
    #[case("SELECT a.x AS of FROM raw.a LIMIT 1", "SELECT a.x AS of FROM raw.a LIMIT 1")]
    #[case("SELECT (SELECT max(v) FROM raw.a AS OF 7)", r#"SELECT (SELECT max(v) FROM raw."a AS OF 7" AS "a")"#)]
    fn versions_are_marked(#[case] sql: &str, #[case] want: &str) {
        assert_eq!(parse(sql).unwrap().to_string(), want);
    }

    #[rstest]
    #[case("raw", ("raw", None))]
    #[case("a AS OF 12", ("a", Some(12)))]
    fn versions_are_split(#[case] name: &str, #[case] want: (&str, Option<u64>)) {
        assert_eq!(split_version(name), want);
    }

    #[rstest]
    #[case("INSERT INTO raw.a VALUES (1)", "`INSERT` is refused")]
    #[case("copy raw.a to 'x.parquet'", "`COPY` is refused")]
    #[case("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "`CREATE` is refused")]
    #[case("  ; DROP TABLE raw.a", "`DROP` is refused")]
    #[case("/* hi */ DELETE FROM raw.a", "`DELETE` is refused")]
    #[case("SET x = 1", "`SET` is refused")]
    #[case("SELECT 1; SELECT 2", "exactly one statement")]
    #[case("", "the query is empty")]
    #[case("SELECT 1 + FROM raw.a", "not valid SQL")]
    #[case("SELECT 'open", "not valid SQL")]
    #[case("SELECT * FROM raw.a AS OF 1.5", "names no table version")]
    #[case("WITH a AS (SELECT 1) INSERT INTO raw.a SELECT * FROM a", "INSERT")]
    fn everything_else_is_refused(#[case] sql: &str, #[case] message: &str) {
        match parse(sql) {
            Err(error) => {
                assert_eq!(error.class, Class::User, "{sql}");
                assert!(error.message.contains(message), "{sql}: {}", error.message);
            }
            // hidden in a WITH: the gate over the plan refuses it
            Ok(statement) => assert!(statement.to_string().contains(message), "{sql}"),
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_stack_overflow() {
        let sql = format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(parse(&sql).unwrap_err().message.contains("nested deeper"));
    }
}

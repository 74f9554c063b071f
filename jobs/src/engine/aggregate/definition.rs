//! An aggregate's file, judged whole: what it computes, under which names and types, and its fingerprint.
//!
//! Invariants: F1 every key of the grouping is a column of the result, so that a row can be found again;
//! F2 no column is called as one of the engine's; F3 equal fingerprints compute equal results.

use super::canonical;
use super::compute::Life;
use super::finish::Above;
use super::functions::Bins;
use super::halves::{Eaten, Halves, Role};
use super::lookups::Lookups;
use super::parse::{self, Planned, refused_plan};
use super::places::Places;
use super::rows::Rows;
use super::session::Session;
use super::shape::{Judge, Parts, parts, place_of_expression};
use super::source::Source;
use super::types::{delta_type, stored_schema};
use crate::project::diagnostics::{Sink, list};
use crate::project::settings::AggregateFile;
use crate::project::{Diagnostic, Place};
use arrow::datatypes::{DataType, SchemaRef};
use deltalake::datafusion::DATAFUSION_VERSION;
use deltalake::datafusion::logical_expr::Expr;
use deltaworks_core::windows::{Base, Granularity, Zone};
use std::path::PathBuf;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

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

/// Grows when our own functions keep other states than before.
const STATES_FORMAT: u32 = 1;

/// A checked aggregate.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Name of the aggregate.
    pub name: String,
    /// Its file, relative to the project.
    pub path: PathBuf,
    /// Sizes of the windows, from fine to coarse.
    pub granularities: Vec<Granularity>,
    /// Zone of days, weeks, months and window dates.
    pub zone: Zone,
    /// The user's columns, in the order of the SELECT list.
    pub columns: Vec<OutputColumn>,
    /// Columns of the raw table that are read.
    pub needed: Vec<String>,
    /// What it computes, in a text that only a change of meaning changes.
    pub canonical: String,
    /// Hash of that text, of lateness, zone, types and the content of lookups.
    pub fingerprint: String,
    /// Hash of all that decides whether stored states can be read.
    pub states_fingerprint: String,
    /// What is right but costs.
    pub costs: Vec<Diagnostic>,
    pub(super) session: Session,
    pub(super) source_schema: SchemaRef,
    /// What the partial half eats, for states of one pass and for states that are stored.
    pub(super) eaten: (Eaten, Eaten),
    pub(super) halves: Halves,
    pub(super) above: Above,
    /// States as DataFusion knows them, and as they are kept.
    pub(super) states: (SchemaRef, SchemaRef),
}

/// A column of the result that the user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputColumn {
    /// Name.
    pub name: String,
    /// A type that a Delta table can hold.
    pub data_type: DataType,
    /// Whether it may be null.
    pub nullable: bool,
    /// Which key of the grouping it is, or a value.
    pub key: Option<usize>,
}

impl Definition {
    /// Judges a file.
    ///
    /// # Errors
    /// Everything that is wrong with its SELECT.
    pub async fn new(
        file: &AggregateFile,
        source: &Source,
        lookups: &Lookups,
        session: &Session,
    ) -> Result<Self, Vec<Diagnostic>> {
        let mut sink = Sink::new(&file.path);
        let definition = define(file, source, lookups, session, &mut sink).await;
        match definition {
            Some(definition) if sink.is_empty() => Ok(definition),
            _ => Err(sink.into_found()),
        }
    }

    /// The columns that make a row of a window: the grouping.
    pub fn keys(&self) -> impl Iterator<Item = &OutputColumn> {
        self.columns.iter().filter(|c| c.key.is_some())
    }

    /// Whether states hold every value of a window and key, as those of medians do, so that their memory
    /// grows with the rows.
    #[must_use]
    pub const fn holds_values(&self) -> bool {
        !self.costs.is_empty()
    }

    /// Whether WHERE or an inner join may leave rows out.
    #[must_use]
    pub fn filters(&self) -> bool {
        self.canonical.lines().any(|line| line.starts_with("where ") || line.starts_with("inner join "))
    }

    /// Whether HAVING may take groups away.
    #[must_use]
    pub const fn has_having(&self) -> bool {
        self.above.having.is_some()
    }

    /// Schema of stored states.
    #[must_use]
    pub fn states_schema(&self) -> SchemaRef {
        Arc::clone(&self.states.1)
    }
}

async fn define(
    file: &AggregateFile,
    source: &Source,
    lookups: &Lookups,
    session: &Session,
    sink: &mut Sink,
) -> Option<Definition> {
    let Planned { places, written, typed } = parse::plan(&file.sql, source, lookups, session, sink).await?;
    let mut judge = Judge { places: &places, pipeline: &source.name, lookups, sink, costs: Vec::new() };
    let judged = judge.written(&written).map(|written| (written, parts(&typed)));
    let (written, typed) = match judged {
        Ok((written, typed)) => (written?, typed?),
        Err(e) => {
            refused_plan(&e, &places, sink);
            return None;
        }
    };
    judge.below(&typed.aggregation.input);
    let costs = judge.costs;
    let columns = columns(&typed, &places, sink);
    if !sink.is_empty() {
        return None;
    }
    let (pass, stored) = (Base::coarsest(&file.windows)?, Base::of_states(&file.windows)?);
    let built =
        build(&written, &typed, source, [pass, stored].map(|b| Bins::Base(b, file.zone.clone())), session).await;
    let Built { eaten, halves, above, needed, canonical, states } = match built {
        Ok(built) => built,
        Err(e) => {
            refused_plan(&e, &places, sink);
            return None;
        }
    };
    let Some(kept) = stored_schema(&states, 1 + typed.aggregation.group_expr.len()) else {
        sink.error(places.start(), "the states of this SELECT cannot be kept in a Delta table");
        return None;
    };
    let fingerprint = fingerprint(&canonical, &columns, file, source, lookups);
    let keeps =
        format!("{STATES_FORMAT} {DATAFUSION_VERSION}\n{canonical}\n{stored:?} {:?}\n{states}", file.zone.name());
    let costs = costs.into_iter().map(|(place, message, hint)| Diagnostic {
        file: file.path.clone(),
        place,
        message,
        hint: Some(hint),
    });
    let definition = Definition {
        name: file.name.clone(),
        path: file.path.clone(),
        granularities: file.windows.clone(),
        zone: file.zone.clone(),
        columns,
        needed,
        fingerprint,
        states_fingerprint: format!("{:032x}", xxh3_128(keeps.as_bytes())),
        canonical,
        costs: costs.collect(),
        session: session.clone(),
        source_schema: Arc::clone(&source.schema),
        eaten,
        halves,
        above,
        states: (states, kept),
    };
    // what functions refuse only when they begin, such as a percentile of 1.5
    if let Err(e) = trial(&definition).await {
        let named = e.message.split('`').nth(3).unwrap_or_default().to_owned();
        let message = e.message.trim_start_matches(&format!("aggregate `{}`: ", file.name)).to_owned();
        sink.error(places.call([named.as_str()]), message);
    }
    Some(definition)
}

/// Computes no rows to the end.
async fn trial(definition: &Definition) -> crate::error::Result<()> {
    let states = definition.partial(Vec::new(), Life::Pass).await?;
    definition.finish(&states).await?;
    Ok(())
}

struct Built {
    eaten: (Eaten, Eaten),
    halves: Halves,
    above: Above,
    needed: Vec<String>,
    canonical: String,
    states: SchemaRef,
}

async fn build(
    written: &Parts,
    typed: &Parts,
    source: &Source,
    [pass, stored]: [Bins; 2],
    session: &Session,
) -> deltalake::datafusion::common::Result<Built> {
    let eaten = (Eaten::new(typed, source, &pass, session)?, Eaten::new(typed, source, &stored, session)?);
    let needed = eaten.0.needed(session)?;
    let none = Rows::new(Arc::clone(&source.schema), Vec::new());
    let (input, halves) = eaten.0.plan(session, none).await?;
    let states = halves.partial(input, Role::Counted)?.schema();
    let (above, canonical) = (Above::new(typed)?, canonical::text(written)?);
    Ok(Built { eaten, halves, above, needed, canonical, states })
}

/// What makes the results of two definitions differ.
fn fingerprint(
    canonical: &str,
    columns: &[OutputColumn],
    file: &AggregateFile,
    source: &Source,
    lookups: &Lookups,
) -> String {
    let mut all =
        format!("{canonical}\nlateness {} ms\nzone {}\n", source.lateness_ms, file.zone.name().unwrap_or_default());
    for column in columns {
        all.push_str(&format!("{} {} {}\n", column.name, column.data_type, column.nullable));
    }
    for (n, line) in canonical.lines().filter_map(|l| l.strip_prefix("from ")).enumerate() {
        let name = line.strip_suffix(&format!("#{n}")).unwrap_or(line);
        if let Some(lookup) = lookups.get(name) {
            all.push_str(&format!("{name} {}\n", lookup.fingerprint));
        }
    }
    format!("{:032x}", xxh3_128(all.as_bytes()))
}

/// The user's columns, judged.
fn columns(parts: &Parts, places: &Places, sink: &mut Sink) -> Vec<OutputColumn> {
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

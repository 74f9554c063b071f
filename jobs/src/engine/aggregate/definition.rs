//! An aggregate's file, judged whole: what it computes, under which names and types, and its fingerprint.
//!
//! Invariant: F1 equal fingerprints compute equal results.

use super::canonical;
use super::columns::{OutputColumn, columns};
use super::compute::{Bucket, Life};
use super::finish::Above;
use super::halves::{Eaten, Halves};
use super::lookups::Lookups;
use super::neutral;
use super::parse::{self, Planned, refused_plan};
use super::rows::Rows;
use super::scalars::Bins;
use super::session::Session;
use super::shape::{HOW, Judge, Parts, parts};
use super::source::Source;
use super::types::stored_schema;
use crate::project::diagnostics::Sink;
use crate::project::settings::AggregateFile;
use crate::project::{Diagnostic, Place};
use arrow::datatypes::SchemaRef;
use deltalake::datafusion::DATAFUSION_VERSION;
use deltaworks_core::select::Select;
use deltaworks_core::windows::{Base, Granularity, Zone};
use std::path::PathBuf;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

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
    /// Columns of it that [`Self::landed`] reads.
    pub needed_landed: Vec<String>,
    /// Columns of it that [`Self::places_of`] reads.
    pub needed_keyed: Vec<String>,
    /// What it computes, in a text that only a change of meaning changes.
    pub canonical: String,
    /// Hash of that text, of lateness, zone, types and the content of lookups.
    pub fingerprint: String,
    /// Hash of all that decides whether stored states can be read.
    pub states_fingerprint: String,
    /// The same in no engine's words, or the part that has no such words.
    pub select: Result<Arc<Select>, String>,
    /// What is right but costs.
    pub costs: Vec<Diagnostic>,
    pub(super) session: Session,
    pub(super) source_schema: SchemaRef,
    /// What the partial half eats, for states of one pass and for states that are stored.
    pub(super) eaten: (Eaten, Eaten),
    /// What it eats of rows that are just landed.
    pub(super) landed: Eaten,
    /// Rows with their keys and places.
    pub(super) keyed: Eaten,
    pub(super) halves: Halves,
    pub(super) above: Above,
    /// States as DataFusion knows them, and as they are kept.
    pub(super) states: (SchemaRef, SchemaRef),
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
            _ => {
                if sink.is_empty() {
                    sink.error_with(Place::START, "the SELECT cannot be split into two halves", HOW);
                }
                Err(sink.into_found())
            }
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

    /// Whether there are keys beside the window.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.halves.keys() > 0
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
    let planned = parse::plan(&file.sql, source, lookups, session, sink).await?;
    let judged = judge(&planned, source, lookups, sink)?;
    let places = &planned.places;
    let (pass, stored) = (Base::coarsest(&file.windows)?, Base::of_states(&file.windows)?);
    let bins = [pass, stored].map(|base| Bins::Base(base, file.zone.clone()));
    let built = match build(&judged.written, &judged.typed, source, bins, session).await {
        Ok(built) => built,
        Err(e) => {
            refused_plan(&e, places, sink);
            return None;
        }
    };
    let Some(kept) = stored_schema(&built.states, 1 + judged.typed.aggregation.group_expr.len()) else {
        sink.error(places.start(), "the states of this SELECT cannot be kept in a Delta table");
        return None;
    };
    let Built { eaten, landed, keyed, halves, above, needed, canonical, states } = built;
    let [needed, needed_landed, needed_keyed] = needed;
    let keeps =
        format!("{STATES_FORMAT} {DATAFUSION_VERSION}\n{canonical}\n{stored:?} {:?}\n{states}", file.zone.name());
    let cost = |(place, message, hint)| Diagnostic { file: file.path.clone(), place, message, hint: Some(hint) };
    let definition = Definition {
        name: file.name.clone(),
        path: file.path.clone(),
        granularities: file.windows.clone(),
        zone: file.zone.clone(),
        needed,
        needed_landed,
        needed_keyed,
        fingerprint: fingerprint(&canonical, &judged.columns, file, source, lookups),
        states_fingerprint: format!("{:032x}", xxh3_128(keeps.as_bytes())),
        select: neutral::select(&judged.typed).map(Arc::new),
        columns: judged.columns,
        canonical,
        costs: judged.costs.into_iter().map(cost).collect(),
        session: session.clone(),
        source_schema: Arc::clone(&source.schema),
        eaten,
        landed,
        keyed,
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

/// A SELECT that passed.
struct Judged {
    written: Parts,
    typed: Parts,
    columns: Vec<OutputColumn>,
    costs: Vec<(Place, String, String)>,
}

fn judge(planned: &Planned, source: &Source, lookups: &Lookups, sink: &mut Sink) -> Option<Judged> {
    let places = &planned.places;
    let mut judge = Judge { places, pipeline: &source.name, lookups, sink, costs: Vec::new() };
    let written = match judge.written(&planned.written) {
        Ok(written) => written?,
        Err(e) => {
            refused_plan(&e, places, sink);
            return None;
        }
    };
    let typed = parts(&planned.typed)?;
    judge.below(&typed.aggregation.input);
    let costs = judge.costs;
    let columns = columns(&typed, places, sink);
    sink.is_empty().then_some(Judged { written, typed, columns, costs })
}

/// Computes no rows to the end.
async fn trial(definition: &Definition) -> crate::error::Result<()> {
    let states = definition.partial(Vec::new(), Life::Pass).await?;
    definition.finish(&states).await?;
    definition.landed(Vec::new()).await?;
    Ok(())
}

struct Built {
    eaten: (Eaten, Eaten),
    landed: Eaten,
    keyed: Eaten,
    halves: Halves,
    above: Above,
    needed: [Vec<String>; 3],
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
    let landed = Eaten::landed(typed, source, &stored, session)?;
    let keyed = Eaten::keyed(typed, source)?;
    let needed = [eaten.0.needed(session)?, landed.needed(session)?, keyed.needed(session)?];
    let none = Rows::new(Arc::clone(&source.schema), Vec::new());
    let (_, halves) = eaten.0.plan(session, none, Bucket::ALL).await?;
    let states = Arc::clone(&halves.states_schema);
    let (above, canonical) = (Above::new(typed)?, canonical::text(written)?);
    Ok(Built { eaten, landed, keyed, halves, above, needed, canonical, states })
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
        all.push_str(&format!("{} {}\n", column.name, column.data_type));
    }
    for (n, line) in canonical.lines().filter_map(|l| l.strip_prefix("from ")).enumerate() {
        let name = line.strip_suffix(&format!("#{n}")).unwrap_or(line);
        if let Some(lookup) = lookups.get(name) {
            all.push_str(&format!("{name} {}\n", lookup.fingerprint));
        }
    }
    format!("{:032x}", xxh3_128(all.as_bytes()))
}

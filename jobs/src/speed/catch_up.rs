//! Brings a speed table up to raw, from raw: what is missing behind its progress, or all of it anew where its
//! states are of another raw table or of another meaning, or where somebody asks.
//!
//! States go into files as they are made, and into the table by one commit at the end. Whoever was faster
//! meanwhile is found by that commit: then a catch-up begins again behind the new progress, while a rebuild,
//! which replaces everything, adds what came since and tries again.
//!
//! Invariants: U1 readers see the table as it was or as it is, never half of it; U2 a rebuild never takes
//! progress back; U3 memory is that of a portion of rows, and of states up to a budget.

use super::append::{PartitionEntry, SpeedCommit, entry, open_or_make, wanted_file_schema};
use super::floor::open_from;
use super::raw_rows::{Portions, Span};
use super::rows::{self, ByDate, Counts, Place};
use super::table::{SpeedTable, origin, speed_table};
use crate::batch::{Input, Run};
use crate::engine::aggregate::{Definition, States, is_out_of_memory};
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{AddedFile, Commit, CommitOutcome, Lake};
use crate::project::settings::Pipeline;
use deltaworks_core::commit_info::Identity;
use deltaworks_core::commit_plan::Claim;
use deltaworks_core::place::Offset;
use deltaworks_core::speed::{Nexts, SpeedIds, Standing, Stored, Verdict, judge};
use jiff::ToSpan as _;
use jiff::civil::Date;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Times that a catch-up begins again because others were faster.
const ROUNDS_MAX: u32 = 10;
/// An event date (UTC) this many days before a local date has no windows on it.
const DATES_APART: i64 = 2;

/// Where a catch-up works, and with how much.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub lake: Lake,
    pub pipeline: Arc<Pipeline>,
    pub definition: Arc<Definition>,
    pub run: Run,
    /// Bytes of states that are held before they go into files.
    pub held_bytes_max: usize,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// What is missing; everything, where the states are of other rows or of another meaning.
    CatchUp,
    /// The same, but another meaning is left alone: a process that runs yields to one that began later.
    KeepMeaning,
    /// Everything.
    Rebuild,
}

/// Why a table is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Anew {
    /// There was none.
    Missing,
    /// Its states were of another raw table.
    OtherTable,
    /// Its states were of another meaning.
    OtherDefinition,
    /// Somebody asked.
    Asked,
}

/// What a catch-up did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CaughtUp {
    /// Offsets that raw had and the table had not.
    pub offsets: u64,
    /// Whether and why the table was made anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anew: Option<Anew>,
    /// Rows that were taken.
    #[serde(flatten)]
    pub counts: Counts,
    /// Version of the table; `None` where there is nothing to be in it.
    pub version: Option<i64>,
}

/// What there is to do.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// Offsets that raw has and the table has not.
    pub offsets: u64,
    /// Whether and why the table is made anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anew: Option<Anew>,
    /// States of windows on earlier local dates are not needed.
    pub floor: Option<Date>,
    /// Files of raw to read, and their bytes.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// From where a catch-up begins.
struct Begin {
    from: Nexts,
    anew: Option<Anew>,
    floor: Option<Date>,
}

/// Files of states that wait for their commit.
struct Prepared {
    from: Nexts,
    reached: Nexts,
    floor: Option<Date>,
    files: Vec<AddedFile>,
    counts: BTreeMap<Place, Counts>,
}

enum Committed {
    At(i64),
    /// Others have moved the table on; for a rebuild, to here.
    Elsewhere,
}

/// Brings the table up to raw, or makes it anew; the table, and what was done. `None` if there is no raw table.
///
/// # Errors
/// The store fails, a value cannot be computed, or others keep being faster; [`Class::User`] if another meaning
/// is to be left alone.
pub(super) async fn bring_up(work: &Work, ask: Ask) -> Result<Option<(SpeedTable, CaughtUp)>> {
    for _ in 0..ROUNDS_MAX {
        let Some(mut input) = Input::gather(&work.lake, &work.pipeline, None).await? else { return Ok(None) };
        let mut table = open_or_make(&work.lake, &work.definition).await?;
        let begin = begin(work, &input, Some(&table), ask).await?;
        if begin.anew == Some(Anew::OtherDefinition) && ask == Ask::KeepMeaning {
            return Err(redefined(work));
        }
        let stored = table.stored();
        if begin.anew.is_none() && !stored.is_behind(&input.pin.next) {
            let version = Some(table.version());
            return Ok(Some((table, CaughtUp { version, ..CaughtUp::default() })));
        }
        let Begin { from, anew, floor } = begin;
        let offsets = Stored { next: from.clone(), ..Stored::default() }.offsets_behind(&input.pin.next);
        let mut prepared = Prepared { reached: from.clone(), from, floor, files: Vec::new(), counts: BTreeMap::new() };
        loop {
            prepared.extend(work, &input, &table).await?;
            faults::point("before_speed_catch_up");
            match prepared.commit(work, &input.rows_id(), &mut table, anew.is_some()).await? {
                Committed::At(version) => {
                    faults::point("after_speed_catch_up");
                    let counts = prepared.counted();
                    return Ok(Some((table, CaughtUp { offsets, anew, counts, version: Some(version) })));
                }
                Committed::Elsewhere if anew.is_some() => {
                    let newer = Input::gather(&work.lake, &work.pipeline, None).await?;
                    match newer.filter(|newer| newer.rows_id() == input.rows_id()) {
                        Some(newer) => input = newer,
                        None => break,
                    }
                }
                Committed::Elsewhere => break,
            }
        }
    }
    let message = format!("aggregate `{}`: others keep moving its speed table on", work.definition.name);
    Err(Error::new(Stage::Speed, Class::Overlap, message))
}

/// Looks at what [`bring_up`] would do; `None` if raw is not there.
///
/// # Errors
/// The store fails.
pub(super) async fn look(work: &Work, ask: Ask) -> Result<Option<Planned>> {
    let Some(input) = Input::gather(&work.lake, &work.pipeline, None).await? else { return Ok(None) };
    let table = SpeedTable::open(&work.lake, &work.definition).await?;
    let Begin { from, anew, floor } = begin(work, &input, table.as_ref(), ask).await?;
    let offsets = Stored { next: from.clone(), ..Stored::default() }.offsets_behind(&input.pin.next);
    let span = Span { from, to: input.pin.next.clone() };
    let (files, bytes) = Portions::new(&input, &work.definition, span, needed_from(floor)).left();
    Ok(Some(Planned { offsets, anew, floor, files, bytes }))
}

async fn begin(work: &Work, input: &Input, table: Option<&SpeedTable>, ask: Ask) -> Result<Begin> {
    let stored = table.map(SpeedTable::stored).unwrap_or_default();
    let standing = table.map_or(Standing::New, |table| table.standing(&input.rows_id()));
    let anew = match standing {
        Standing::New => Some(Anew::Missing),
        Standing::OtherTable => Some(Anew::OtherTable),
        Standing::OtherDefinition => Some(Anew::OtherDefinition),
        Standing::Usable if ask == Ask::Rebuild => Some(Anew::Asked),
        Standing::Usable => None,
    };
    if anew.is_none() {
        return Ok(Begin { from: stored.next, anew, floor: stored.floor });
    }
    let open = open_from(&work.lake, input, &work.definition).await?;
    // the same windows that were final before are final still
    let floor = if anew == Some(Anew::Asked) { open.max(stored.floor) } else { open };
    Ok(Begin { from: Nexts::new(), anew, floor })
}

fn redefined(work: &Work) -> Error {
    let message = format!("aggregate `{}`: another process has given it another definition", work.definition.name);
    Error::new(Stage::Speed, Class::User, message).hint("start the stream again, so that it follows")
}

fn needed_from(floor: Option<Date>) -> impl Fn(Date) -> bool {
    let first = floor.and_then(|floor| floor.checked_sub(DATES_APART.days()).ok());
    move |date| first.is_none_or(|first| first <= date)
}

impl Prepared {
    /// Makes the states of all rows that raw has beyond what is reached.
    async fn extend(&mut self, work: &Work, input: &Input, table: &SpeedTable) -> Result<()> {
        let span = Span { from: self.reached.clone(), to: input.pin.next.clone() };
        let mut portions = Portions::new(input, &work.definition, span.clone(), needed_from(self.floor));
        let mut held: BTreeMap<Place, Vec<States>> = BTreeMap::new();
        let (mut held_bytes, mut of_date) = (0, None);
        while let Some(portion) = portions.next().await? {
            let turned = of_date.replace(portion.date).is_some_and(|date| date != portion.date);
            if turned || held_bytes > work.held_bytes_max {
                self.file(work, table, &span, std::mem::take(&mut held)).await?;
                held_bytes = 0;
            }
            for (place, states) in portion.states {
                held_bytes += states.memory_bytes();
                held.entry(place).or_default().push(states);
            }
        }
        self.file(work, table, &span, held).await?;
        for (Place { topic, partition }, range) in span.places() {
            self.reached.entry(topic).or_default().insert(partition, range.to);
        }
        Ok(())
    }

    /// Puts states into files.
    async fn file(
        &mut self,
        work: &Work,
        table: &SpeedTable,
        span: &Span,
        held: BTreeMap<Place, Vec<States>>,
    ) -> Result<()> {
        let schema = wanted_file_schema(&work.definition);
        let mut by_date = ByDate::new();
        for (place, states) in held {
            let Some(range) = span.of(&place.topic, place.partition) else { continue };
            for states in merged(&work.definition, states).await? {
                let counts =
                    rows::to_rows(&work.definition, &schema, &place, range, &states, self.floor, &mut by_date)?;
                self.counts.entry(place.clone()).or_default().add(counts);
            }
        }
        self.files.extend(rows::put(&table.table, &schema, by_date).await?);
        Ok(())
    }

    fn counted(&self) -> Counts {
        let mut all = Counts::default();
        self.counts.values().for_each(|counts| all.add(*counts));
        all
    }

    fn span(&self) -> Span {
        Span { from: self.from.clone(), to: self.reached.clone() }
    }

    async fn commit(&self, work: &Work, raw_table: &str, table: &mut SpeedTable, anew: bool) -> Result<Committed> {
        let identity = work.run.identity();
        let mut attempts = table.attempts();
        loop {
            let stored = table.stored();
            let usable = table.standing(raw_table) == Standing::Usable;
            let fits = if anew {
                // U2: what others have put in meanwhile is taken from raw too
                !usable || !Stored { next: self.reached.clone(), ..Stored::default() }.is_behind(&stored.next)
            } else {
                usable && self.follows(&stored)
            };
            if !fits {
                return Ok(Committed::Elsewhere);
            }
            let commit = if anew {
                self.replacing(table, raw_table, &stored, &identity).await?
            } else {
                self.appending(&work.definition, &identity)?
            };
            match table.commit(commit).await {
                CommitOutcome::Committed(version) => return Ok(Committed::At(version)),
                outcome => attempts.after(outcome).await?,
            }
            table.refresh().await?;
            if let Some(version) = table.table.find_commit(&identity) {
                return Ok(Committed::At(version));
            }
        }
    }

    /// Whether the table still ends where this begins, in every partition.
    fn follows(&self, stored: &Stored) -> bool {
        let mut by_topic: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        for (place, range) in self.span().places() {
            by_topic.entry(place.topic).or_default().push(Claim { partition: place.partition, range });
        }
        by_topic.iter().all(|(topic, claims)| {
            let next = stored.next.get(topic).cloned().unwrap_or_default();
            matches!(judge(claims, &next), Verdict::Append(all) if all.len() == claims.len())
        })
    }

    fn appending(&self, definition: &Definition, identity: &Identity) -> Result<Commit> {
        let ids = SpeedIds::new(&definition.name);
        let info = SpeedCommit { identity: identity.clone(), aggregate: &definition.name, partitions: self.entries() };
        let mut commit = Commit::new("WRITE", &info)?;
        commit.adds = self.files.clone();
        commit.txns = self.ends(&ids);
        Ok(commit)
    }

    /// Everything that the table holds goes, its schema and its progress with it.
    async fn replacing(
        &self,
        table: &SpeedTable,
        raw_table: &str,
        stored: &Stored,
        identity: &Identity,
    ) -> Result<Commit> {
        let definition = &table.definition;
        let ids = SpeedIds::new(&definition.name);
        let mut commit = self.appending(definition, identity)?;
        commit.removes = table.live().await?.to_vec();
        let wanted = speed_table(definition).schema;
        if table.table.schema() != &wanted {
            commit.schema = Some(wanted);
        }
        let (raw, meaning) = origin(raw_table, definition);
        commit.txns.extend(ids.write_origin(raw, meaning));
        // entries cannot be taken away: 0 says that nothing is in
        let here: BTreeSet<Place> = self.span().places().into_iter().map(|(place, _)| place).collect();
        for (topic, partition) in stored.next.iter().flat_map(|(t, partitions)| partitions.keys().map(move |p| (t, *p)))
        {
            if !here.contains(&Place { topic: topic.clone(), partition }) {
                commit.txns.push(ids.write_next(topic, partition, Offset(0)));
            }
        }
        match (self.floor, stored.floor) {
            (Some(floor), _) => commit.txns.push(ids.write_floor(floor)),
            (None, Some(_)) => commit.txns.push(ids.write_floor(Date::MIN)),
            (None, None) => {}
        }
        Ok(commit)
    }

    fn entries(&self) -> Vec<PartitionEntry> {
        let counted = |place: &Place| self.counts.get(place).copied().unwrap_or_default();
        self.span().places().iter().map(|(place, range)| entry(place, *range, counted(place))).collect()
    }

    fn ends(&self, ids: &SpeedIds<'_>) -> Vec<(String, i64)> {
        let all = self.span().places();
        all.iter().map(|(place, range)| ids.write_next(&place.topic, place.partition, range.to)).collect()
    }
}

/// One state per window and key, where memory allows it: several add up as well.
pub(super) async fn merged(definition: &Definition, states: Vec<States>) -> Result<Vec<States>> {
    if states.len() < 2 {
        return Ok(states);
    }
    match definition.merge(states.iter().cloned()).await {
        Ok(one) => Ok(vec![one]),
        Err(error) if is_out_of_memory(&error) => Ok(states),
        Err(error) => Err(error),
    }
}

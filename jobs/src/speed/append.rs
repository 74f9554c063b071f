//! Puts states into a speed table: those of rows that were just landed, each by one commit.
//!
//! Read, decide, act: the table's progress, one question to [`deltaworks_core::speed::judge`], one
//! compare-and-set on the very snapshot that the progress was read from. A conflict or an unknown outcome is
//! answered by loading the log anew and asking again.
//!
//! Invariants: A1 states and the progress that they make are in one commit; A2 what follows a gap is not
//! appended, and what overlaps is an error; A3 nothing is retried blind.

use super::rows::{self, ByDate, Counts, Place};
use super::table::{SpeedTable, origin, speed_table};
use crate::batch::Run;
use crate::engine::aggregate::{Definition, States};
use crate::error::{Error, Result};
use crate::faults;
use crate::lake::{AddedFile, Commit, CommitOutcome, Lake, file_schema};
use arrow::datatypes::SchemaRef;
use deltaworks_core::commit_info::Identity;
use deltaworks_core::commit_plan::Claim;
use deltaworks_core::place::OffsetRange;
use deltaworks_core::speed::{Collision, SpeedIds, Standing, Verdict, judge};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// States of the rows of one raw commit.
#[derive(Debug)]
pub(super) struct Addition {
    /// Id of the raw table.
    pub raw_table: String,
    /// Topic with its epoch.
    pub topic: String,
    /// The offsets that the raw commit covers.
    pub claims: Vec<Claim>,
    /// States of the partitions that have rows.
    pub states: BTreeMap<i32, Vec<States>>,
}

/// What became of an addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Appended {
    /// It is in the table, at this version.
    At(i64, Counts),
    /// All of it was there.
    AlreadyThere,
    /// Rows before it are missing: they come from raw first.
    Behind,
    /// The table holds states of other rows or of another meaning.
    Unusable(Standing),
}

/// What a commit says about itself.
#[derive(Debug, Serialize)]
pub(super) struct SpeedCommit<'a> {
    #[serde(flatten)]
    pub identity: Identity,
    pub aggregate: &'a str,
    pub partitions: Vec<PartitionEntry>,
}

/// What a commit did to one partition.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PartitionEntry {
    pub topic: String,
    pub partition: i32,
    pub from: i64,
    pub to: i64,
    #[serde(flatten)]
    pub counts: Counts,
}

/// Opens the table of a definition; makes it if it is missing.
///
/// # Errors
/// The store fails, or the table cannot be read.
pub(super) async fn open_or_make(lake: &Lake, definition: &Arc<Definition>) -> Result<SpeedTable> {
    if let Some(table) = SpeedTable::open(lake, definition).await? {
        return Ok(table);
    }
    let table = lake.ensure_table(&speed_table(definition)).await?;
    Ok(SpeedTable::of(table, definition))
}

/// The columns of the files of a definition's table, whatever schema the table has now.
pub(super) fn wanted_file_schema(definition: &Definition) -> SchemaRef {
    let spec = speed_table(definition);
    file_schema(&spec.schema, &spec.partition_columns)
}

/// Appends an addition, once.
///
/// # Errors
/// The store fails; [`Class::Internal`] if its offsets lie across the table's progress.
pub(super) async fn append(table: &mut SpeedTable, addition: &Addition, run: &Run) -> Result<Appended> {
    let identity = run.identity();
    let mut attempts = table.attempts();
    let mut built: Option<(Vec<i32>, Built)> = None;
    loop {
        let standing = table.standing(&addition.raw_table);
        if !matches!(standing, Standing::New | Standing::Usable) {
            return Ok(Appended::Unusable(standing));
        }
        let stored = table.stored();
        let next = stored.next.get(&addition.topic).cloned().unwrap_or_default();
        let partitions = match judge(&addition.claims, &next) {
            Verdict::Append(partitions) => partitions,
            Verdict::AlreadyThere => return Ok(Appended::AlreadyThere),
            Verdict::CatchUp(gaps) => {
                tracing::debug!(table = %table.table.name(), ?gaps, "rows before these come from raw first");
                return Ok(Appended::Behind);
            }
            Verdict::Refused(collisions) => return Err(refused(table, &addition.topic, &collisions)),
        };
        let ready = match built.take() {
            Some((of, ready)) if of == partitions => ready,
            _ => build(table, addition, &partitions).await?,
        };
        faults::point("before_speed_commit");
        match table.commit(commit(table, addition, standing, &ready, &identity)?).await {
            CommitOutcome::Committed(version) => {
                faults::point("after_speed_commit");
                return Ok(Appended::At(version, ready.counts()));
            }
            outcome => attempts.after(outcome).await?,
        }
        table.refresh().await?;
        if let Some(version) = table.table.find_commit(&identity) {
            return Ok(Appended::At(version, ready.counts()));
        }
        built = Some((partitions, ready));
    }
}

/// Files in the store that wait for their commit.
struct Built {
    files: Vec<AddedFile>,
    entries: Vec<PartitionEntry>,
}

impl Built {
    fn counts(&self) -> Counts {
        let mut all = Counts::default();
        self.entries.iter().for_each(|entry| all.add(entry.counts));
        all
    }
}

async fn build(table: &SpeedTable, addition: &Addition, partitions: &[i32]) -> Result<Built> {
    let (definition, floor) = (&table.definition, table.floor());
    let schema = wanted_file_schema(definition);
    let (mut by_date, mut entries) = (ByDate::new(), Vec::new());
    for Claim { partition, range } in addition.claims.iter().filter(|claim| partitions.contains(&claim.partition)) {
        let place = Place { topic: addition.topic.clone(), partition: *partition };
        let mut counts = Counts::default();
        for states in addition.states.get(partition).into_iter().flatten() {
            counts.add(rows::to_rows(definition, &schema, &place, *range, states, floor, &mut by_date)?);
        }
        entries.push(entry(&place, *range, counts));
    }
    let files = rows::put(&table.table, &schema, by_date).await?;
    Ok(Built { files, entries })
}

fn commit(
    table: &SpeedTable,
    addition: &Addition,
    standing: Standing,
    built: &Built,
    identity: &Identity,
) -> Result<Commit> {
    let name = &table.definition.name;
    let ids = SpeedIds::new(name);
    let info = SpeedCommit { identity: identity.clone(), aggregate: name, partitions: built.entries.clone() };
    let mut commit = Commit::new("WRITE", &info)?;
    commit.adds = built.files.clone();
    let ends = addition.claims.iter().filter(|c| built.entries.iter().any(|e| e.partition == c.partition));
    commit.txns = ends.map(|c| ids.write_next(&addition.topic, c.partition, c.range.to)).collect();
    if standing == Standing::New {
        let (raw, definition) = origin(&addition.raw_table, &table.definition);
        commit.txns.extend(ids.write_origin(raw, definition));
    }
    Ok(commit)
}

/// What a commit did to one partition.
pub(super) fn entry(place: &Place, range: OffsetRange, counts: Counts) -> PartitionEntry {
    let Place { topic, partition } = place.clone();
    PartitionEntry { topic, partition, from: range.from.0, to: range.to.0, counts }
}

fn refused(table: &SpeedTable, topic: &str, collisions: &[Collision]) -> Error {
    let tell =
        |c: &Collision| format!("offsets {} of `{topic}/{}` lie across its progress {}", c.range, c.partition, c.next);
    table.broken(&collisions.iter().map(tell).collect::<Vec<_>>().join("; "))
}

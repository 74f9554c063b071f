//! Served windows against those of batch: each once, final where batch has covered it and with its very values,
//! provisional elsewhere.

use super::report::{Check, Checking};
use crate::batch::{batch_name, ledger_of, rows_of};
use crate::checksum::row_sums;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Lake, LiveFile, Table};
use crate::project::settings::AggregateFile;
use crate::reconcile::served_name;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::array_value_to_string;
use deltaworks_core::served::{Taken, read_ledger};
use deltaworks_core::units::{Interval, Unit};
use deltaworks_core::windows::{Extent, Instant};
use std::collections::{BTreeMap, BTreeSet};

/// Columns that say where a row comes from or how sure it is, and not what it is.
const ORIGIN: [&str; 5] = ["generation", "pin", "definition", "state", "window_hour"];
/// The state of what may still change.
const PROVISIONAL: &str = "provisional";

/// The states of what may change only by more rows.
const SETTLED: [&str; 2] = ["final", "restated"];

/// One window and key.
struct Row {
    sum: u128,
    end: Instant,
    state: Option<String>,
}

/// Checks one aggregate.
pub(super) async fn served(lake: &Lake, file: &AggregateFile, interval: Interval) -> Result<Check> {
    let aggregate = file.name.as_str();
    let mut check = Checking::new("served", served_name(aggregate));
    // served first: batch can then not be older than what was taken over from it
    let Some(served) = lake.open_table(&served_name(aggregate)).await? else {
        return Ok(check.not_proved("nothing is served yet: see `deltaworks reconcile`"));
    };
    let Some(batch) = lake.open_table(&batch_name(aggregate)).await? else {
        return Ok(check.not_proved("batch has published nothing yet"));
    };
    let entries = read_ledger(aggregate, served.txns())
        .map_err(|e| Error::new(Stage::Prove, Class::Internal, "the entries of a served table").because(e))?;
    let published = ledger_of(aggregate, &batch)?;
    let (of_served, of_batch) = (by_unit(&served).await?, by_unit(&batch).await?);
    let names: BTreeMap<String, &Unit> =
        published.keys().chain(entries.keys()).map(|unit| (name(&unit.granularity, &unit.window_date), unit)).collect();
    let all: BTreeSet<&String> = names.keys().chain(of_served.keys()).chain(of_batch.keys()).collect();
    let keys = keys(&batch);
    for unit in all {
        let known = names.get(unit);
        if known.is_some_and(|unit| !is_selected(unit, file, interval)) {
            continue;
        }
        let taken = known.and_then(|unit| entries.get(*unit)).and_then(|entry| entry.taken);
        let generation = known.and_then(|unit| published.get(*unit)).map(|entry| entry.generation);
        if generation != taken.map(|taken| taken.generation) {
            check.compared("units behind batch", 1);
            continue;
        }
        let files = |of: &BTreeMap<String, Vec<LiveFile>>| of.get(unit).cloned().unwrap_or_default();
        let have = rows(&mut check, unit, &served, &files(&of_served), &keys).await?;
        let told = rows(&mut check, unit, &batch, &files(&of_batch), &keys).await?;
        compare(&mut check, unit, &have, &told, taken);
    }
    Ok(check.end())
}

/// Whether a unit has windows that the interval selects.
fn is_selected(unit: &Unit, file: &AggregateFile, interval: Interval) -> bool {
    let extent = Extent::of(unit.granularity, &file.zone, unit.window_date).ok().flatten();
    interval == Interval::default() || extent.is_none_or(|extent| !interval.select(&extent.windows).is_empty())
}

fn compare(
    check: &mut Checking,
    unit: &str,
    have: &BTreeMap<String, Row>,
    told: &BTreeMap<String, Row>,
    taken: Option<Taken>,
) {
    check.compared("windows", have.len() as u64);
    for (window, row) in have {
        let state = row.state.as_deref().unwrap_or_default();
        let is_covered = taken.is_some_and(|taken| row.end <= taken.covered);
        match told.get(window) {
            _ if !(if is_covered { &SETTLED[..] } else { &[PROVISIONAL][..] }).contains(&state) => {
                let should = if is_covered { "final or restated" } else { PROVISIONAL };
                check.refute(format!("{unit} {window} is {state}, and should be {should}"));
            }
            None if is_covered => check.refute(format!("{unit} {window} is served, and batch does not have it")),
            Some(told) if told.sum != row.sum => {
                check.refute(format!("{unit} {window} is served with other values than batch has"));
            }
            _ => {}
        }
    }
    for window in told.keys().filter(|window| !have.contains_key(*window)) {
        check.refute(format!("{unit} {window} is in batch, and not served"));
    }
}

/// The rows of one unit by window and keys; one that is there twice refutes.
async fn rows(
    check: &mut Checking,
    unit: &str,
    table: &Table,
    files: &[LiveFile],
    keys: &[String],
) -> Result<BTreeMap<String, Row>> {
    let mut found = BTreeMap::new();
    let batches = match rows_of(table, files, table.schema()).await {
        Err(error) if error.class == Class::InputLost => {
            check.refute(error.message);
            return Ok(found);
        }
        batches => batches?,
    };
    for batch in batches {
        for (window, row) in rows_in(&batch, keys)? {
            if found.insert(window.clone(), row).is_some() {
                check.refute(format!("{} has {unit} {window} twice", table.name()));
            }
        }
    }
    Ok(found)
}

fn rows_in(batch: &RecordBatch, keys: &[String]) -> Result<Vec<(String, Row)>> {
    let lacks = |what: &str| Error::new(Stage::Prove, Class::Internal, format!("a table of windows has no `{what}`"));
    let unprintable = |e| Error::new(Stage::Prove, Class::Internal, "a key cannot be printed").because(e);
    let ends = batch.column_by_name("window_end").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    let ends = ends.ok_or_else(|| lacks("window_end"))?;
    let states = batch.column_by_name("state").and_then(|c| c.as_string_opt::<i32>());
    let columns = std::iter::once("window_start").chain(keys.iter().map(String::as_str));
    let columns =
        columns.map(|name| batch.column_by_name(name).ok_or_else(|| lacks(name))).collect::<Result<Vec<_>>>()?;
    let sums = row_sums(batch, &ORIGIN)?;
    let mut found = Vec::with_capacity(sums.len());
    for (row, sum) in sums.into_iter().enumerate() {
        let parts = columns.iter().map(|column| match column.is_null(row) {
            true => Ok("null".to_owned()),
            false => array_value_to_string(column, row).map(|text| format!("{text:?}")),
        });
        let window = parts.collect::<Result<Vec<_>, _>>().map_err(unprintable)?.join(" ");
        let state = states.map(|states| states.value(row).to_owned());
        found.push((window, Row { sum, end: Instant(ends.value(row)), state }));
    }
    Ok(found)
}

/// The live files of each unit.
async fn by_unit(table: &Table) -> Result<BTreeMap<String, Vec<LiveFile>>> {
    let mut units: BTreeMap<String, Vec<LiveFile>> = BTreeMap::new();
    for file in table.live_files().await? {
        let of = |column: &str| file.partition_values.get(column).cloned().flatten().unwrap_or_default();
        units.entry(name(&of("granularity"), &of("window_date"))).or_default().push(file);
    }
    Ok(units)
}

fn name(granularity: &impl ToString, date: &impl ToString) -> String {
    format!("{}/{}", granularity.to_string(), date.to_string())
}

/// The columns that tell rows of one window apart.
fn keys(batch: &Table) -> Vec<String> {
    let keys = batch.properties().get("deltaworks.keys").cloned().flatten().unwrap_or_default();
    keys.split(',').filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

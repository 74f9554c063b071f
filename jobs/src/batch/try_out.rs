//! Tries an aggregate that is not in the project: computes its windows that end within an interval, as a
//! run would, and hands them back.
//!
//! What is published plays no part, also not of an aggregate of that name. Which units there are and
//! whether they are complete is decided where a run decides it. Invariant T1: nothing is written, neither
//! tables nor pins nor what was run.

use super::check::check;
use super::columns::primitive;
use super::compute::{Compute, Task};
use super::input::Input;
use super::meter::Meter;
use super::plan::{refused, units_of};
use super::publish::definition_id;
use super::round::announce;
use super::run::DEDUP_SHARE;
use super::select::{Engine, judge_granularities};
use crate::engine::Rows;
use crate::engine::aggregate::{Definition, Source};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use crate::project::settings::Settings;
use crate::project::{Report, aggregate_file};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use deltaworks_core::units::{Facts, Ids, Interval, Plan, Unit, plan};
use deltaworks_core::windows::{Granularity, Instant};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What a trial is asked for.
#[derive(Debug, Clone)]
pub struct TryOptions {
    /// The aggregate's file, absolute or relative to the current folder.
    pub file: PathBuf,
    /// Windows that end later than this are computed.
    pub from: Instant,
    /// Windows that end later than this are not.
    pub to: Instant,
    /// Granularities; empty for all.
    pub granularities: Vec<Granularity>,
    /// Files read, and threads' worth of work, at a time.
    pub parallel: usize,
    /// The version of the raw table to read; `None` for the newest.
    pub input_version: Option<i64>,
}

/// What a trial gives.
#[derive(Debug)]
pub struct Tried {
    /// `granularity`, `window_start`, `window_end`, `window_date`, the user's columns, `events`, `late`,
    /// `duplicates`, `filled`; by granularity, from fine to coarse, window and keys.
    pub rows: Rows,
    /// Windows of the interval, of dates that hold rows, that are left out as they are not complete.
    pub open: u64,
    /// The instant up to which raw is complete, if there is one.
    pub valid_through: Option<Instant>,
}

/// Units to compute, each with its task, and the windows that are left out.
#[derive(Default)]
struct Work {
    units: Vec<Unit>,
    tasks: Vec<Task>,
    open: u64,
}

/// Computes the windows of an aggregate that end within an interval. The result is held in memory.
///
/// # Errors
/// [`Class::User`] if the file or an option is wrong; [`Class::InputLost`] if raw no longer keeps what a
/// window is made of; what else keeps a run from publishing.
pub async fn try_out(settings: &Settings, options: &TryOptions, meter: &Arc<Meter>) -> Result<Tried> {
    let file = aggregate_file(settings, &options.file)?;
    let pipeline = settings.pipelines.iter().find(|pipeline| pipeline.name == file.from).ok_or_else(|| {
        Error::new(Stage::Batch, Class::Internal, format!("pipeline `{}` was found and is gone", file.from))
    })?;
    let engine = Engine::start(settings, options.parallel).await?;
    let definition = Definition::new(&file, &Source::of(pipeline), &engine.lookups, &engine.session).await;
    let definition = definition.map_err(|found| Error::from(Report::new(found)))?;
    judge_granularities(&options.granularities, [&definition].into_iter())?;
    let lake = Lake::open(&settings.lake)?;
    let Some(input) = Input::gather(&lake, pipeline, options.input_version).await? else {
        let rows = Rows::of(definition.result_schema(), Vec::new())?;
        return Ok(Tried { rows, open: 0, valid_through: None });
    };
    let work = work(&input, &definition, options)?;
    let memory_bytes = settings.memory_bytes / DEDUP_SHARE;
    let rows = compute(&input, &definition, &work, options, memory_bytes, meter).await?;
    let rows = Rows::of(definition.result_schema(), rows)?;
    Ok(Tried { rows, open: work.open, valid_through: input.pin.valid_through })
}

/// The units that have windows in the interval, as if none were published.
fn work(input: &Input, definition: &Definition, options: &TryOptions) -> Result<Work> {
    let interval = Interval { from: Some(options.from), to: Some(options.to) };
    let facts = Facts {
        now: &input.pin,
        definition: definition_id(definition),
        removed: &input.removed,
        dedup: input.has_ids(),
        interval,
        forced: true,
        redefine_days: 0,
    };
    let mut work = Work::default();
    for (unit, extent) in units_of(definition, &input.pin, &BTreeMap::new(), &options.granularities)? {
        let bound = input.pin.valid_through.map(|through| through.min(options.to));
        let complete = bound.map(|bound| extent.windows.ending_in(Some(options.from), bound)).unwrap_or_default();
        work.open += interval.select(&extent.windows).len() - complete.len();
        let (Some(covered), false) = (bound, complete.is_empty()) else { continue };
        match plan(&facts, &extent, None, Ids::Unknown) {
            Plan::Refused { why } => return Err(refused(&unit, &why, Class::InputLost)),
            Plan::Recompute { .. } => {
                let Unit { granularity, window_date, .. } = unit;
                work.tasks.push(Task { aggregate: 0, granularity, window_date, extent, covered });
                work.units.push(unit);
            }
            Plan::CompareIds { .. } | Plan::Repin | Plan::Nothing { .. } => {}
        }
    }
    Ok(work)
}

/// The rows of all units, in their order, without those of windows before the interval.
async fn compute(
    input: &Input,
    definition: &Definition,
    work: &Work,
    options: &TryOptions,
    memory_bytes: usize,
    meter: &Arc<Meter>,
) -> Result<Vec<RecordBatch>> {
    let Work { units, tasks, .. } = work;
    announce(tasks, input, meter);
    let mut computing = Compute::new(input, &[definition], tasks, options.parallel, memory_bytes, meter.clone())?;
    let mut rows: BTreeMap<&Unit, Vec<RecordBatch>> = BTreeMap::new();
    while let Some(finished) = computing.next().await? {
        for computed in finished {
            let unit = &units[computed.task];
            check(unit, &computed, definition)?;
            let within = computed.rows.iter().map(|batch| ending_after(batch, options.from));
            rows.insert(unit, within.collect::<Result<_>>()?);
            Meter::add(&meter.units_done, 1);
        }
    }
    Ok(rows.into_values().flatten().collect())
}

fn ending_after(batch: &RecordBatch, from: Instant) -> Result<RecordBatch> {
    let ends = primitive::<TimestampMicrosecondType>(batch, "window_end")?;
    let mask: BooleanArray = ends.values().iter().map(|end| Some(*end > from.0)).collect();
    filter_record_batch(batch, &mask)
        .map_err(|e| Error::new(Stage::Batch, Class::Internal, "windows cannot be chosen").because(e))
}

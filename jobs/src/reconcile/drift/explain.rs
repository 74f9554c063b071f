//! The very events that moved one window of one key, each with its place, its time and the reason.
//!
//! Reads raw once more, under the pins that the drift row names, and judges rows by the same rule that made the steps.

use super::super::gather::{Wanted, out};
use super::super::run::{ReconcileOptions, wanted};
use super::rows::STEPS;
use super::steps::{COLUMNS, Judge, Judged, Pins, dates_of};
use super::table::drift_name;
use crate::batch::{
    IdScan, Input, Numbered, event_times, live_by_partition, meter::Meter, named, partition_of, pins_there, primitive,
    rows_of, texts,
};
use crate::error::{Class as ErrorClass, Error, Result, Stage};
use crate::lake::{Lake, Table};
use crate::project::settings::Settings;
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use deltaworks_core::drift::Class;
use deltaworks_core::units::{Fingerprint, Unit};
use deltaworks_core::windows::{Granularity, Instant, Window, window_date, window_of};
use futures::StreamExt;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct ExplainOptions {
    /// Aggregate.
    pub aggregate: String,
    /// Size of the window.
    pub granularity: Granularity,
    /// An instant in it.
    pub at: Instant,
    /// Values of the keys, as texts, by name; `None` for null.
    pub keys: BTreeMap<String, Option<String>>,
    /// Which change; `None` for the last.
    pub generation: Option<i64>,
    /// Events at most.
    pub limit: usize,
    /// Files read at a time.
    pub parallel: usize,
}

/// How a window came to its value.
#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    /// Size of the window.
    pub granularity: String,
    /// Its first instant.
    pub window_start: Instant,
    /// The first instant after it.
    pub window_end: Instant,
    /// The change that is explained.
    pub generation: i64,
    /// Values that nothing explains.
    pub unexplained: i64,
    /// What there was after each step, in their order.
    pub steps: Vec<StepValues>,
    /// The events, in the order of the steps.
    pub events: Vec<Event>,
    /// Whether there are more than were asked for.
    pub more: bool,
}

/// The values after one step.
#[derive(Debug, Clone, Serialize)]
pub struct StepValues {
    /// Which.
    pub step: &'static str,
    /// Value by column, as a text; `None` for null. None at all where the window had no row.
    pub values: Option<BTreeMap<String, Option<String>>>,
}

/// An event that moved the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// In which step.
    pub step: &'static str,
    /// Why it is there.
    pub reason: String,
    /// Topic, with its epoch, or the URL of a file.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset, or row of the file.
    pub offset: i64,
    /// When it happened.
    pub event_time: Instant,
    /// When the broker had it.
    pub kafka_time: Option<Instant>,
}

/// One row of the drift table.
struct Found {
    generation: i64,
    unexplained: i64,
    pin: Fingerprint,
    first_pin: Fingerprint,
    served_pin: Option<Fingerprint>,
    steps: Vec<StepValues>,
}

/// Explains one window of one key.
///
/// # Errors
/// [`ErrorClass::User`] if there is no such aggregate or key, or the window did not move; raw no longer has its rows.
pub async fn explain(settings: &Settings, options: &ExplainOptions) -> Result<Explained> {
    let lake = Lake::open(&settings.lake)?;
    let of_aggregate = ReconcileOptions {
        run_id: String::new(),
        aggregates: vec![options.aggregate.clone()],
        parallel: options.parallel,
        accept_drift: false,
    };
    let all = wanted(settings, &of_aggregate).await?;
    let wanted = all.first().ok_or_else(|| user("there is no such aggregate"))?;
    check_keys(wanted, options)?;
    let zone = &wanted.definition.zone;
    let window = window_of(options.granularity, zone, options.at).map_err(out)?;
    let date = window_date(zone, window).map_err(out)?;
    let unit = Unit { aggregate: options.aggregate.clone(), granularity: options.granularity, window_date: date };
    let found = match lake.open_table(&drift_name(&options.aggregate)).await? {
        Some(table) => find(&table, &unit, window, options).await?,
        None => None,
    };
    let found = found.ok_or_else(|| {
        let message = format!("the window {}/{} of that key has no drift", options.granularity, window.start);
        user(message).hint("it is as it was first shown, or not final yet; `drift show` lists those that moved")
    })?;
    let (mut events, mut more) = events(&lake, wanted, window, &found, options).await?;
    events.sort_by_key(|event| (place_of(event.step), event.event_time, event.partition, event.offset));
    more |= events.len() > options.limit;
    events.truncate(options.limit);
    let Found { generation, unexplained, steps, .. } = found;
    let (window_start, window_end) = (window.start, window.end);
    let granularity = options.granularity.to_string();
    Ok(Explained { granularity, window_start, window_end, generation, unexplained, steps, events, more })
}

fn place_of(step: &str) -> usize {
    STEPS.iter().position(|known| *known == step).unwrap_or(STEPS.len())
}

fn check_keys(wanted: &Wanted, options: &ExplainOptions) -> Result<()> {
    let have: BTreeSet<&str> = wanted.definition.keys().map(|c| c.name.as_str()).collect();
    let given: BTreeSet<&str> = options.keys.keys().map(String::as_str).collect();
    if !wanted.definition.granularities.contains(&options.granularity) {
        let sizes: Vec<String> = wanted.definition.granularities.iter().map(ToString::to_string).collect();
        let message = format!("`{}` has no windows of `{}`", options.aggregate, options.granularity);
        return Err(user(message).hint(format!("it has {}", sizes.join(", "))));
    }
    if have == given {
        return Ok(());
    }
    let names: Vec<String> = have.iter().map(|name| format!("{name}=…")).collect();
    let hint = match names.is_empty() {
        true => "it has no keys".to_owned(),
        false => format!("write {}; `NULL` for null", names.join(" ")),
    };
    Err(user(format!("`{}` is grouped by other keys than those given", options.aggregate)).hint(hint))
}

/// The row of the window and key: of the generation asked for, or of the last.
async fn find(table: &Table, unit: &Unit, window: Window, options: &ExplainOptions) -> Result<Option<Found>> {
    let live = live_by_partition(table).await?;
    let files = live.get(&partition_of(unit)).map_or(&[][..], Vec::as_slice);
    let mut found: Option<Found> = None;
    for batch in rows_of(table, files, table.schema()).await? {
        let starts = primitive::<TimestampMicrosecondType>(&batch, "window_start")?;
        let generations = primitive::<Int64Type>(&batch, "generation")?;
        let mut keys = Vec::new();
        for (name, value) in &options.keys {
            let column = batch.column_by_name(name).ok_or_else(|| user(format!("the table has no key `{name}`")))?;
            keys.push((
                cast(column, &DataType::Utf8).map_err(|e| user("a key is no text").because(e))?,
                value.as_deref(),
            ));
        }
        for row in 0..batch.num_rows() {
            let is_key = keys.iter().all(|(column, value)| {
                let texts = column.as_string::<i32>();
                texts.is_valid(row).then(|| texts.value(row)) == *value
            });
            let generation = generations.value(row);
            let is_asked = options.generation.is_none_or(|asked| asked == generation);
            let is_newer = found.as_ref().is_none_or(|found| found.generation < generation);
            if starts.value(row) == window.start.0 && is_key && is_asked && is_newer {
                found = Some(read(&batch, row)?);
            }
        }
    }
    Ok(found)
}

fn read(batch: &RecordBatch, row: usize) -> Result<Found> {
    let pin = |name: &str| -> Result<Option<Fingerprint>> {
        let column = texts(batch, name)?;
        let text = column.is_valid(row).then(|| column.value(row));
        text.map(|text| text.parse().map_err(|e| internal("a drift row names no pin").because(e))).transpose()
    };
    let lacking = || internal("a drift row names no pin");
    let mut steps = Vec::new();
    for step in STEPS {
        let column = batch.column_by_name(step).and_then(|c| c.as_struct_opt()).ok_or_else(|| internal("no steps"))?;
        if column.is_null(row) {
            steps.push(StepValues { step, values: None });
            continue;
        }
        let mut values = BTreeMap::new();
        for (field, values_of) in column.fields().iter().zip(column.columns()) {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(values_of.as_ref(), &options);
            let formatter = formatter.map_err(|e| internal("a value cannot be shown").because(e))?;
            let text = values_of.is_valid(row).then(|| formatter.value(row).to_string());
            values.insert(field.name().clone(), text);
        }
        steps.push(StepValues { step, values: Some(values) });
    }
    Ok(Found {
        generation: primitive::<Int64Type>(batch, "generation")?.value(row),
        unexplained: primitive::<Int64Type>(batch, "unexplained")?.value(row),
        pin: pin("pin")?.ok_or_else(lacking)?,
        first_pin: pin("first_pin")?.ok_or_else(lacking)?,
        served_pin: pin("served_pin")?,
        steps,
    })
}

/// The events that moved the value, and whether there are more.
async fn events(
    lake: &Lake,
    wanted: &Wanted,
    window: Window,
    found: &Found,
    options: &ExplainOptions,
) -> Result<(Vec<Event>, bool)> {
    let input = Input::gather(lake, &wanted.pipeline, None).await?.ok_or_else(|| user("the raw table is gone"))?;
    let ids: BTreeSet<Fingerprint> = [found.pin, found.first_pin].into_iter().chain(found.served_pin).collect();
    let pins = pins_there(lake, &ids).await?;
    let pin = |id: Fingerprint| {
        let missing =
            || internal(format!("pin `{id}` is not in `ops.pins`")).hint("the table was changed by another tool");
        pins.get(&id).cloned().map(Arc::new).ok_or_else(missing)
    };
    let taken = pin(found.pin)?;
    let served = found.served_pin.map_or_else(|| Ok(Arc::clone(&taken)), pin)?;
    let pins = Pins { first: pin(found.first_pin)?, served, taken };
    let input = Input { pin: pins.taken.as_ref().clone(), ..input };
    let (event_time, lateness_ms) = (input.source.event_time.clone(), input.source.lateness_ms);
    let judge = Judge { pins, windows: vec![window], event_time, lateness_ms };
    let definition = &wanted.definition;
    let names = definition.needed_keyed.iter().map(String::as_str).chain(COLUMNS).chain(["_kafka_time"]);
    let columns = named(&input.source.schema, names.chain(input.source.event_time.first().map(String::as_str)));
    let dates = dates_of(&judge.windows)?;
    let days_before = dates.iter().filter_map(|d| d.yesterday().ok()).filter(|_| input.has_ids());
    let all: BTreeSet<_> = dates.iter().copied().chain(days_before).collect();
    let rows_of_date = |date| input.dates.get(date).map_or(0, |files: &crate::batch::DateFiles| files.rows);
    let rows_max = all.iter().map(rows_of_date).sum();
    let mut scan = IdScan::new(&input, rows_max, wanted.memory_bytes)?;
    let (meter, mut events, mut more) = (Meter::default(), Vec::new(), false);
    for date in all {
        let files = input.dates.get(&date);
        let ids = scan.date(&input, date, files, wanted.parallel, &meter).await?;
        let Some(files) = files.filter(|_| dates.contains(&date)) else { continue };
        for mut part in files.read(&input.raw, &columns, 1) {
            while let Some(Numbered { first, batch }) = part.next().await.transpose()? {
                let judged = judge.rows(first, &batch, &ids)?;
                let mask: BooleanArray = judged.iter().map(|judged| Some(judged.is_some_and(moves))).collect();
                if mask.true_count() == 0 {
                    continue;
                }
                let moving =
                    filter_record_batch(&batch, &mask).map_err(|e| internal("rows cannot be split").because(e))?;
                let judged: Vec<Judged> = judged.into_iter().flatten().filter(|judged| moves(*judged)).collect();
                let rows = futures::stream::iter([Ok(moving.clone())]).boxed();
                let places = definition.places_of(vec![rows], &options.keys).await?;
                for (row, judged) in judged.into_iter().enumerate() {
                    events.extend(
                        told(&moving, row, judged, &judge)?
                            .into_iter()
                            .filter(|event| places.contains(&(event.topic.clone(), event.partition, event.offset))),
                    );
                }
                // one more than is shown says that there are more
                if events.len() > options.limit.saturating_mul(4) {
                    more = true;
                    break;
                }
            }
        }
    }
    Ok((events, more))
}

/// Whether a row is in a step after the base, or batch's verdict on it is another than landing's.
fn moves(judged: Judged) -> bool {
    judged.class != Some(Class::Base) && !(judged.class.is_none() && judged.is_copy)
        || judged.class.is_some() && judged.is_copy
}

/// What one row did: in the step that it belongs to, and in the last, where batch's verdict is another.
fn told(rows: &RecordBatch, row: usize, judged: Judged, judge: &Judge) -> Result<Vec<Event>> {
    let (fills, behind) = (primitive::<Int64Type>(rows, "_fill")?, primitive::<Int64Type>(rows, "_behind_ms")?);
    let kafka = primitive::<TimestampMicrosecondType>(rows, "_kafka_time")?;
    let is_late = behind.is_valid(row) && behind.value(row) > judge.lateness_ms;
    let late = || format!("{} behind, and late after {}", seconds(behind.value(row)), seconds(judge.lateness_ms));
    let mut reasons: Vec<(&'static str, String)> = Vec::new();
    match judged.class {
        None | Some(Class::Base) => {}
        Some(Class::Arrived) if is_late => reasons.push(("arrived", format!("landed after it was served; {}", late()))),
        Some(Class::Arrived) => reasons.push(("arrived", "landed after it was served".to_owned())),
        Some(Class::Fill) => reasons.push(("fills", format!("written by fill {}", fills.value(row)))),
        Some(Class::Late) => reasons.push(("late", late())),
    }
    match (judged.class, judged.is_copy) {
        (Some(_), true) => reasons.push(("dedup", "a copy of an event that counts: left out".to_owned())),
        (None, false) => reasons.push(("dedup", "landing took it for a repeat, and it is none: counted".to_owned())),
        _ => {}
    }
    let (topic, partition) =
        (texts(rows, "_topic")?.value(row), primitive::<Int32Type>(rows, "_partition")?.value(row));
    let event = |(step, reason): (&'static str, String)| -> Result<Event> {
        Ok(Event {
            step,
            reason,
            topic: topic.to_owned(),
            partition,
            offset: primitive::<Int64Type>(rows, "_offset")?.value(row),
            event_time: Instant(event_times(rows, &judge.event_time)?.value(row)),
            kafka_time: kafka.is_valid(row).then(|| Instant(kafka.value(row))),
        })
    };
    reasons.into_iter().map(event).collect()
}

/// A duration for people, in whole seconds.
fn seconds(ms: i64) -> String {
    format!("{:#}", jiff::SignedDuration::from_secs(ms.div_euclid(1_000)))
}

fn user(message: impl Into<String>) -> Error {
    Error::new(Stage::Reconcile, ErrorClass::User, message)
}

fn internal(message: impl Into<String>) -> Error {
    Error::new(Stage::Reconcile, ErrorClass::Internal, message)
}

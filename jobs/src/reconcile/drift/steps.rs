//! The values of some windows after each step, computed from the rows of raw.
//!
//! Every row of the pin is read once and dealt to the step that it belongs to ([`deltaworks_core::drift`]); the
//! states of a step are those of all steps up to it, merged. The last step takes batch's verdict on copies, judged
//! here anew, and so all rows again.
//!
//! Invariants: S1 a date has as many rows in the pin as the pin says, and none of them was rewritten since, or nothing
//! is said of its windows; S2 rows outside the windows that are asked about go nowhere.

use super::super::gather::out;
use super::super::portions::{Results, together};
use crate::batch::{
    DateFiles, DateIds, IdScan, Input, Numbered, broke_down, contained, event_times, in_background, meter::Meter,
    named, primitive, send, stream,
};
use crate::engine::aggregate::{Batches, Bucket, Definition, Life, States, Take, is_out_of_memory};
use crate::error::{Class as ErrorClass, Error, Result, Stage};
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use deltaworks_core::drift::{Class, Row};
use deltaworks_core::units::Pin;
use deltaworks_core::windows::{Granularity, Instant, Window};
use futures::StreamExt;
use futures::stream::select_all;
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;

/// In how many buckets of keys a pass is tried, one after the other, while memory is too small.
const BUCKETS: [NonZeroU32; 4] = [
    NonZeroU32::MIN,
    NonZeroU32::MIN.saturating_add(3),
    NonZeroU32::MIN.saturating_add(15),
    NonZeroU32::MIN.saturating_add(63),
];

/// The columns of a place, and what else decides the step of a row.
pub(super) const COLUMNS: [&str; 6] = ["_topic", "_partition", "_offset", "_fill", "_behind_ms", "_repeat"];

/// What is asked of raw.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub input: &'a Input,
    pub definition: &'a Arc<Definition>,
    /// The definition before, where it was another.
    pub before: Option<&'a Arc<Definition>>,
    pub pins: &'a Pins,
    /// Only events in these windows count; ascending, and apart.
    pub windows: Vec<Window>,
    pub granularities: BTreeSet<Granularity>,
    pub parallel: usize,
    /// What dedup may take.
    pub memory_bytes: usize,
    pub meter: &'a Meter,
}

/// The pins that decide about rows.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    /// Under which the windows were first covered.
    pub first: Arc<Pin>,
    /// That was served before; the same as `taken` where none was.
    pub served: Arc<Pin>,
    /// That is about to be served.
    pub taken: Arc<Pin>,
}

/// The results after each step.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// The base under the definition before; empty where there was none.
    pub definition: Results,
    pub base: Results,
    pub arrived: Results,
    pub fills: Results,
    pub late: Results,
    pub dedup: Results,
}

/// What a pass over raw came to.
#[derive(Debug)]
pub(super) enum Answer {
    Steps(Steps),
    /// A date has other rows in the pin than the pin says: they were removed or rewritten since.
    RowsGone(Date),
}

impl Pins {
    /// Whether both tell the same rows apart.
    pub fn are_like(&self, other: &Self) -> bool {
        let same = |a: &Pin, b: &Pin| (&a.table, &a.next, a.fill) == (&b.table, &b.next, b.fill);
        // dates may be rewritten or removed between two versions that were read equally far
        let taken = self.taken.version == other.taken.version && same(&self.taken, &other.taken);
        taken && same(&self.first, &other.first) && same(&self.served, &other.served)
    }

    /// Takes over the row counts of dates that only the other pin names.
    pub fn add_rows(&mut self, other: &Self) {
        let rows = other.taken.rows.iter().map(|(date, rows)| (*date, *rows));
        Arc::make_mut(&mut self.taken).rows.extend(rows);
    }
}

/// Answers a question.
///
/// # Errors
/// A file cannot be read, a value cannot be computed, or memory is too small for the keys of any bucket.
pub(super) async fn steps(question: &Question<'_>) -> Result<Answer> {
    let mut too_small = None;
    for of in BUCKETS {
        if of > NonZeroU32::MIN && !question.definition.has_keys() {
            break;
        }
        match in_buckets(question, of).await {
            Err(error) if is_out_of_memory(&error) => {
                Meter::add(&question.meter.begun_again, 1);
                too_small = Some(error);
            }
            ended => return ended,
        }
    }
    let error = too_small.unwrap_or_else(|| Error::new(Stage::Reconcile, ErrorClass::Internal, "no pass was made"));
    Err(error.hint("set `memory` in deltaworks.yaml to more"))
}

async fn in_buckets(question: &Question<'_>, of: NonZeroU32) -> Result<Answer> {
    let mut all = Steps::default();
    for index in 0..of.get() {
        match one_bucket(question, Bucket { index, of }).await? {
            Answer::Steps(steps) => all.add(steps),
            gone @ Answer::RowsGone(_) => return Ok(gone),
        }
    }
    Ok(Answer::Steps(all))
}

async fn one_bucket(question: &Question<'_>, bucket: Bucket) -> Result<Answer> {
    let whole = Arc::new(AtomicBool::new(false));
    let outlet = || stream(&whole);
    let (base, arrived, fills, late) = (outlet(), outlet(), outlet(), outlet());
    let (counted, duplicates, before) = (outlet(), outlet(), outlet());
    let mut base_to = vec![base.0];
    base_to.extend(question.before.map(|_| before.0));
    let outlets = Outlets {
        classes: BTreeMap::from([
            (Class::Base, base_to),
            (Class::Arrived, vec![arrived.0]),
            (Class::Fill, vec![fills.0]),
            (Class::Late, vec![late.0]),
        ]),
        counted: [counted.0],
        duplicates: [duplicates.0],
    };
    let mut reading = JoinSet::new();
    reading.spawn(Reader::new(question).read(outlets, whole));
    let take = Take { life: Life::Pass, bucket };
    let definition = question.definition;
    let partial = |rows: Batches| definition.partial(vec![rows], take);
    let of_before = async {
        match question.before {
            Some(before_definition) => before_definition.partial(vec![before.1], take).await.map(Some),
            None => Ok(None),
        }
    };
    let states = futures::future::try_join(
        futures::future::try_join4(partial(base.1), partial(arrived.1), partial(fills.1), partial(late.1)),
        futures::future::try_join(
            definition.partial_with_duplicates(vec![counted.1], vec![duplicates.1], take),
            of_before,
        ),
    );
    let states = states.await;
    let read = match reading.join_next().await {
        Some(read) => read.map_err(broke_down)?,
        None => Err(Error::new(Stage::Reconcile, ErrorClass::Internal, "no rows were read")),
    };
    // where reading failed, its error is the cause of the others
    let read = read?;
    let ((base, arrived, fills, late), (dedup, before)) = states?;
    let rows = match read {
        Read::Rows(rows) => rows,
        Read::Gone(date) => return Ok(Answer::RowsGone(date)),
    };
    let finish = |states| question.finish(definition, states);
    let mut steps = Steps { base: finish(base.clone()).await?, ..Steps::default() };
    if let (Some(before), Some(states)) = (question.before, before) {
        steps.definition = question.finish(before, states).await?;
    }
    let (mut so_far, mut results) = (base, steps.base.clone());
    for (class, states) in [(Class::Arrived, arrived), (Class::Fill, fills), (Class::Late, late)] {
        if rows.contains(&class) {
            so_far = definition.merge([so_far, states]).await?;
            results = finish(so_far.clone()).await?;
        }
        *steps.of(class) = results.clone();
    }
    steps.dedup = finish(dedup).await?;
    Ok(Answer::Steps(steps))
}

impl Question<'_> {
    async fn finish(&self, definition: &Definition, states: States) -> Result<Results> {
        let granularities: Vec<Granularity> = self.granularities.iter().copied().collect();
        together(definition, &states, &granularities).await
    }
}

impl Steps {
    fn of(&mut self, class: Class) -> &mut Results {
        match class {
            Class::Base => &mut self.base,
            Class::Arrived => &mut self.arrived,
            Class::Fill => &mut self.fills,
            Class::Late => &mut self.late,
        }
    }

    /// Takes in those of other keys.
    fn add(&mut self, other: Self) {
        let add = |to: &mut Results, from: Results| {
            from.into_iter().for_each(|(granularity, rows)| to.entry(granularity).or_default().extend(rows));
        };
        add(&mut self.definition, other.definition);
        add(&mut self.base, other.base);
        add(&mut self.arrived, other.arrived);
        add(&mut self.fills, other.fills);
        add(&mut self.late, other.late);
        add(&mut self.dedup, other.dedup);
    }
}

/// Who takes which rows.
struct Outlets {
    classes: BTreeMap<Class, Vec<Sender<RecordBatch>>>,
    counted: [Sender<RecordBatch>; 1],
    duplicates: [Sender<RecordBatch>; 1],
}

/// How reading ended.
enum Read {
    /// The classes that have rows.
    Rows(BTreeSet<Class>),
    /// A date has other rows than the pin says.
    Gone(Date),
}

/// Reads the dates of the windows.
struct Reader {
    input: Input,
    judge: Judge,
    /// How often dates have been rewritten up to now.
    rewritten: BTreeMap<Date, i64>,
    wanted: SchemaRef,
    parallel: usize,
    memory_bytes: usize,
}

impl Reader {
    fn new(question: &Question<'_>) -> Self {
        let Question { definition, before, pins, windows, .. } = question;
        // ids are judged against the pin that is about to be served
        let input = Input { pin: pins.taken.as_ref().clone(), ..question.input.clone() };
        let needed = definition.needed.iter().chain(before.iter().flat_map(|b| &b.needed)).map(String::as_str);
        let event_time = input.source.event_time.first().map(String::as_str);
        let wanted = named(&input.source.schema, needed.chain(event_time).chain(COLUMNS));
        let judge = Judge {
            pins: (*pins).clone(),
            windows: windows.clone(),
            event_time: input.source.event_time.clone(),
            lateness_ms: input.source.lateness_ms,
        };
        let rewritten = question.input.pin.rewritten.clone();
        Self { input, judge, rewritten, wanted, parallel: question.parallel, memory_bytes: question.memory_bytes }
    }

    async fn read(self, outlets: Outlets, whole: Arc<AtomicBool>) -> Result<Read> {
        let dates = dates_of(&self.judge.windows)?;
        let rows_of = |date: &Date| self.input.dates.get(date).map_or(0, |files| files.rows);
        let days_before: BTreeSet<Date> =
            dates.iter().filter_map(|d| d.yesterday().ok()).filter(|_| self.input.has_ids()).collect();
        let all: BTreeSet<Date> = dates.union(&days_before).copied().collect();
        let rows_max = all.iter().map(|d| rows_of(d) + d.tomorrow().map_or(0, |next| rows_of(&next))).max();
        let mut scan = IdScan::new(&self.input, rows_max.unwrap_or(0), self.memory_bytes)?;
        let meter = Meter::default();
        let mut classes = BTreeSet::new();
        for date in all {
            let files = self.input.dates.get(&date);
            let ids = scan.date(&self.input, date, files, self.parallel, &meter).await?;
            let inside = files.map_or(0, |files| files.rows) - ids.outside.count();
            let rewritten = self.rewritten.get(&date).copied().unwrap_or(0);
            let taken = &self.judge.pins.taken;
            if inside != taken.rows_of(date) || rewritten != taken.rewritten_of(date) {
                // streams end as if all were well: what they hold is not used
                whole.store(true, Relaxed);
                return Ok(Read::Gone(date));
            }
            if let Some(files) = files.filter(|_| dates.contains(&date)) {
                self.date(files, &ids, &outlets, &mut classes).await?;
            }
        }
        whole.store(true, Relaxed);
        Ok(Read::Rows(classes))
    }

    async fn date(
        &self,
        files: &DateFiles,
        ids: &DateIds,
        outlets: &Outlets,
        classes: &mut BTreeSet<Class>,
    ) -> Result<()> {
        let parts = files.read(&self.input.raw, &self.wanted, self.parallel);
        let mut batches = select_all(parts.into_iter().map(in_background));
        while let Some(numbered) = batches.next().await.transpose()? {
            let sorted = self.sort(&numbered, ids)?;
            for (class, rows) in sorted.classes {
                classes.insert(class);
                send(outlets.classes.get(&class).map_or(&[], Vec::as_slice), rows).await;
            }
            send(&outlets.counted, sorted.counted).await;
            send(&outlets.duplicates, sorted.duplicates).await;
        }
        Ok(())
    }

    fn sort(&self, Numbered { first, batch }: &Numbered, ids: &DateIds) -> Result<Sorted> {
        let none = || vec![false; batch.num_rows()];
        let mut classes: BTreeMap<Class, Vec<bool>> = BTreeMap::new();
        let (mut counted, mut duplicates) = (none(), none());
        for (row, judged) in self.judge.rows(*first, batch, ids)?.into_iter().enumerate() {
            let Some(Judged { class, is_copy }) = judged else { continue };
            mark(if is_copy { &mut duplicates } else { &mut counted }, row);
            if let Some(class) = class {
                mark(classes.entry(class).or_insert_with(none), row);
            }
        }
        let take = |mask: Vec<bool>| {
            filter_record_batch(batch, &BooleanArray::from(mask))
                .map_err(|e| Error::new(Stage::Reconcile, ErrorClass::Internal, "rows cannot be split").because(e))
        };
        let classes = classes.into_iter().map(|(class, mask)| Ok((class, take(mask)?))).collect::<Result<_>>()?;
        Ok(Sorted { classes, counted: take(counted)?, duplicates: take(duplicates)? })
    }
}

/// The rows of a batch, by who takes them.
struct Sorted {
    classes: BTreeMap<Class, RecordBatch>,
    counted: RecordBatch,
    duplicates: RecordBatch,
}

fn mark(mask: &mut [bool], row: usize) {
    if let Some(flag) = mask.get_mut(row) {
        *flag = true;
    }
}

/// The event dates that hold the events of windows.
pub(super) fn dates_of(windows: &[Window]) -> Result<BTreeSet<Date>> {
    let mut dates = BTreeSet::new();
    for window in windows {
        let first = window.start.utc_date().map_err(out)?;
        let last = Instant(window.end.0 - 1).utc_date().map_err(out)?;
        dates.extend(std::iter::successors(Some(first), |date| date.tomorrow().ok()).take_while(|date| *date <= last));
    }
    Ok(dates)
}

/// What decides about rows.
#[derive(Debug)]
pub(super) struct Judge {
    pub pins: Pins,
    /// Ascending, and apart.
    pub windows: Vec<Window>,
    pub event_time: Vec<String>,
    pub lateness_ms: i64,
}

/// What a row in the pin and in the windows is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged {
    /// The step that it belongs to; `None` if landing took it for a repeat.
    pub class: Option<Class>,
    /// Whether batch leaves it out as a copy.
    pub is_copy: bool,
}

impl Judge {
    /// Judges the rows of a batch; `first` is the number of the first. `None`: outside of pin or windows.
    ///
    /// # Errors
    /// A column is not there, which is a bug.
    pub fn rows(&self, first: u32, batch: &RecordBatch, ids: &DateIds) -> Result<Vec<Option<Judged>>> {
        let at = event_times(batch, &self.event_time)?;
        let (fills, behind) = (primitive::<Int64Type>(batch, "_fill")?, primitive::<Int64Type>(batch, "_behind_ms")?);
        let repeats = batch.column_by_name("_repeat").and_then(|c| c.as_boolean_opt());
        let (in_first, in_served) = (contained(&self.pins.first, batch)?, contained(&self.pins.served, batch)?);
        let flag = |flags: &[bool], row: usize| flags.get(row).copied().unwrap_or(false);
        let judge = |(row, number): (usize, u32)| {
            if ids.outside.contains(number) || !is_in(&self.windows, Instant(at.value(row))) {
                return None;
            }
            let facts = Row {
                in_first: flag(&in_first, row),
                in_served: flag(&in_served, row),
                is_fill: fills.is_valid(row),
                is_late: behind.is_valid(row) && behind.value(row) > self.lateness_ms,
            };
            let is_repeat = repeats.is_some_and(|repeats| repeats.is_valid(row) && repeats.value(row));
            let is_copy = ids.duplicates.contains(number);
            Some(Judged { class: (!is_repeat).then(|| facts.class()), is_copy })
        };
        Ok((0..batch.num_rows()).zip(first..).map(judge).collect())
    }
}

/// Whether one of these windows, which are ascending and apart, holds an instant.
fn is_in(windows: &[Window], at: Instant) -> bool {
    let after = windows.partition_point(|window| window.start <= at);
    after.checked_sub(1).and_then(|last| windows.get(last)).is_some_and(|window| window.contains(at))
}

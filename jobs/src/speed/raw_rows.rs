//! Landed rows out of raw: those between two offsets of each partition, as states.
//!
//! Only files that may hold such rows are read, by their date and by the least and greatest offset in their
//! statistics; a portion of rows at a time is in memory. Invariant W1: a row is taken iff landing wrote it (it
//! is no fill) and its offset lies in the span of its partition.

use super::portions;
use super::rows::Place;
use crate::batch::{DateFiles, Input, NumberedBatches, named, primitive, texts};
use crate::engine::aggregate::{Definition, States};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::LiveFile;
use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use deltaworks_core::place::{Offset, OffsetRange};
use deltaworks_core::speed::Nexts;
use deltaworks_core::windows::{Instant, Window};
use futures::StreamExt;
use jiff::civil::Date;
use std::collections::{BTreeMap, VecDeque};

/// Rows of a portion.
const PORTION_ROWS: usize = 128 * 1024;
/// Columns that say whether a row is taken.
const SPAN_COLUMNS: [&str; 4] = ["_topic", "_partition", "_offset", "_fill"];

/// Which offsets of each partition.
#[derive(Debug, Clone)]
pub(super) struct Span {
    /// First ones; 0 where there is no entry.
    pub from: Nexts,
    /// The first ones after; partitions without entry are not in the span.
    pub to: Nexts,
}

/// States of some rows of one date.
#[derive(Debug)]
pub(super) struct Portion {
    pub date: Date,
    pub states: Vec<(Place, States)>,
}

/// The rows of a span, portion by portion, date by date.
pub(super) struct Portions<'a> {
    input: &'a Input,
    definition: &'a Definition,
    span: Span,
    wanted: SchemaRef,
    left: VecDeque<(Date, DateFiles)>,
    open: Option<(Date, NumberedBatches)>,
}

impl Span {
    /// The offsets of one partition; `None` where there are none.
    pub fn of(&self, topic: &str, partition: i32) -> Option<OffsetRange> {
        let get = |nexts: &Nexts| nexts.get(topic).and_then(|p| p.get(&partition)).copied();
        let range = OffsetRange { from: get(&self.from).unwrap_or(Offset(0)), to: get(&self.to)? };
        (!range.is_empty()).then_some(range)
    }

    /// Whether a file may hold rows of the span, as far as its statistics know.
    fn may_meet(&self, file: &LiveFile) -> bool {
        let (Some(partitions), Some(offsets)) = (file.bounds_of("_partition"), file.bounds_of("_offset")) else {
            return true;
        };
        self.places().iter().any(|(place, range)| {
            (partitions.0..=partitions.1).contains(&i64::from(place.partition))
                && offsets.0 < range.to.0
                && range.from.0 <= offsets.1
        })
    }

    /// All partitions that have offsets in the span.
    pub fn places(&self) -> Vec<(Place, OffsetRange)> {
        let all = self.to.iter().flat_map(|(topic, partitions)| partitions.keys().map(move |p| (topic, *p)));
        all.filter_map(|(topic, partition)| {
            Some((Place { topic: topic.clone(), partition }, self.of(topic, partition)?))
        })
        .collect()
    }
}

impl<'a> Portions<'a> {
    /// Prepares to read the rows of `span` whose event date passes `dates`.
    pub fn new(input: &'a Input, definition: &'a Definition, span: Span, dates: impl Fn(Date) -> bool) -> Self {
        let some = input.dates.iter().filter(|(date, _)| dates(**date));
        let left = some.map(|(date, files)| (*date, files.only(|file| span.may_meet(file))));
        let left = left.filter(|(_, files)| files.len() > 0).collect();
        let names = definition.needed_landed.iter().map(String::as_str).chain(SPAN_COLUMNS);
        let wanted = named(&input.source.schema, names);
        Self { input, definition, span, wanted, left, open: None }
    }

    /// Files that are left to read, and their bytes.
    pub fn left(&self) -> (usize, u64) {
        self.left.iter().fold((0, 0), |(files, bytes), (_, date)| (files + date.len(), bytes + date.bytes_of_files()))
    }

    /// The states of the next rows; `None` after the last.
    ///
    /// # Errors
    /// A file cannot be read, a value cannot be computed, or memory is too small for a portion.
    pub async fn next(&mut self) -> Result<Option<Portion>> {
        loop {
            let (date, mut batches) = match self.open.take() {
                Some(open) => open,
                None => match self.left.pop_front() {
                    None => return Ok(None),
                    Some((date, files)) => match files.read(&self.input.raw, &self.wanted, 1).into_iter().next() {
                        Some(batches) => (date, batches),
                        None => continue,
                    },
                },
            };
            let mut rows: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
            let mut held = 0;
            while held < PORTION_ROWS {
                let Some(numbered) = batches.next().await.transpose()? else { break };
                for (topic, batch) in in_span(&numbered.batch, &self.span)? {
                    held += batch.num_rows();
                    rows.entry(topic).or_default().push(batch);
                }
            }
            if held >= PORTION_ROWS {
                self.open = Some((date, batches));
            }
            if held > 0 {
                return Ok(Some(Portion { date, states: states(self.definition, rows).await? }));
            }
        }
    }
}

/// The states that the speed table has once all rows below `upto` are in: computed from raw, of the base
/// windows that start within `within`, one per window and key.
///
/// # Errors
/// A file cannot be read, a value cannot be computed, or memory is too small.
pub async fn from_raw(input: &Input, definition: &Definition, upto: &Nexts, within: Window) -> Result<States> {
    let utc_date = |instant: Instant| instant.utc_date().ok();
    let (first, last) = (utc_date(within.start), utc_date(Instant(within.end.0.saturating_sub(1))));
    let is_in = |date: Date| first.is_none_or(|first| first <= date) && last.is_none_or(|last| date <= last);
    let span = Span { from: Nexts::new(), to: upto.clone() };
    let mut portions = Portions::new(input, definition, span, is_in);
    let mut all = Vec::new();
    while let Some(portion) = portions.next().await? {
        for (_, states) in portion.states {
            let (_, states) = states.split(within.start)?;
            let (states, _) = states.split(within.end)?;
            all.push(states);
        }
    }
    definition.merge(all).await
}

async fn states(definition: &Definition, rows: BTreeMap<String, Vec<RecordBatch>>) -> Result<Vec<(Place, States)>> {
    let mut all = Vec::new();
    for (topic, batches) in rows {
        for (partition, states) in portions::landed(definition, batches).await? {
            let place = Place { topic: topic.clone(), partition };
            all.extend(states.into_iter().map(|states| (place.clone(), states)));
        }
    }
    Ok(all)
}

/// The rows of a batch that lie in the span, by topic.
fn in_span(batch: &RecordBatch, span: &Span) -> Result<Vec<(String, RecordBatch)>> {
    let (topics, partitions) = (texts(batch, "_topic")?, primitive::<Int32Type>(batch, "_partition")?);
    let (offsets, fills) = (primitive::<Int64Type>(batch, "_offset")?, primitive::<Int64Type>(batch, "_fill")?);
    let mut masks: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
    let mut known: BTreeMap<(&str, i32), Option<OffsetRange>> = BTreeMap::new();
    for row in 0..batch.num_rows() {
        let (topic, partition, offset) = (topics.value(row), partitions.value(row), Offset(offsets.value(row)));
        let range = *known.entry((topic, partition)).or_insert_with(|| span.of(topic, partition));
        let is_in = fills.is_null(row) && range.is_some_and(|range| range.from <= offset && offset < range.to);
        if is_in && let Some(taken) = masks.entry(topic).or_insert_with(|| vec![false; batch.num_rows()]).get_mut(row) {
            *taken = true;
        }
    }
    let failed = |e| Error::new(Stage::Speed, Class::Internal, "rows cannot be split").because(e);
    let share = |(topic, mask): (&str, Vec<bool>)| {
        let taken = if mask.iter().all(|taken| *taken) {
            batch.clone()
        } else {
            filter_record_batch(batch, &BooleanArray::from(mask)).map_err(failed)?
        };
        Ok((topic.to_owned(), taken))
    };
    masks.into_iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::PartitionValues;
    use rstest::rstest;

    #[rstest]
    #[case::in_it(0, (0, 0), (5, 5), true)]
    #[case::before_it(0, (0, 0), (0, 4), false)]
    #[case::its_end(0, (0, 0), (9, 12), false)]
    #[case::around_it(0, (0, 0), (0, 100), true)]
    #[case::a_partition_that_has_nothing_new(0, (1, 1), (5, 5), false)]
    // a slow partition gains a row: files of the fast ones are left alone
    #[case::slow_partition(1, (0, 3), (1_000_000, 1_000_100), false)]
    #[case::with_the_slow_one(1, (0, 3), (3, 1_000_100), true)]
    fn files_without_rows_of_the_span_are_left_out(
        #[case] partition: i32,
        #[case] partitions: (i64, i64),
        #[case] offsets: (i64, i64),
        #[case] read: bool,
    ) {
        let at = |next| Nexts::from([("t".to_owned(), BTreeMap::from([(partition, Offset(next))]))]);
        let span = if partition == 0 { Span { from: at(5), to: at(9) } } else { Span { from: at(3), to: at(4) } };
        let stats = format!(
            r#"{{"numRecords":1,"minValues":{{"_partition":{},"_offset":{}}},"maxValues":{{"_partition":{},"_offset":{}}}}}"#,
            partitions.0, offsets.0, partitions.1, offsets.1
        );
        let partition_values = PartitionValues::new();
        let file = LiveFile {
            path: String::new(),
            partition_values,
            size: 1,
            rows: Some(1),
            modified_ms: 0,
            stats: Some(stats),
        };
        assert_eq!(span.may_meet(&file), read);
        assert!(span.may_meet(&LiveFile { stats: None, ..file }), "nobody knows");
    }
}

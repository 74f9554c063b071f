//! Partial states, as they are held between the steps of a computation.

use crate::engine::query::engine_error;
use crate::error::Result;
use arrow::array::{Array, ArrayData, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, max, min, not};
use arrow::datatypes::TimestampMicrosecondType;
use deltaworks_core::windows::{Instant, Window};
use std::collections::HashSet;

/// Partial states: one row per window and key.
#[derive(Debug, Clone)]
pub struct States {
    /// A key lies in one part.
    pub(super) parts: Vec<Vec<RecordBatch>>,
    /// Whether no two are of one window and key.
    pub(super) one_of_each: bool,
}

/// Memory that batches hold together. What they share, as slices of one batch do, counts once.
#[derive(Debug, Default)]
pub(super) struct Held {
    buffers: HashSet<usize>,
    bytes: usize,
}

impl Held {
    /// Takes a batch in; bytes that all batches hold.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> usize {
        batch.columns().iter().for_each(|column| self.add_array(&column.to_data()));
        self.bytes
    }

    fn add_array(&mut self, array: &ArrayData) {
        let validity = array.nulls().map(|nulls| nulls.buffer());
        for buffer in array.buffers().iter().chain(validity) {
            if self.buffers.insert(buffer.data_ptr().as_ptr().addr()) {
                self.bytes += buffer.capacity();
            }
        }
        array.child_data().iter().for_each(|child| self.add_array(child));
    }
}

impl States {
    /// States of which a key lies in one of `parts`, as [`Self::parts`] gave them.
    #[must_use]
    pub const fn of_parts(parts: Vec<Vec<RecordBatch>>) -> Self {
        Self { parts, one_of_each: false }
    }

    /// The parts, each with all states of its keys.
    #[must_use]
    pub fn parts(&self) -> &[Vec<RecordBatch>] {
        &self.parts
    }

    /// Where the first of their windows starts.
    #[must_use]
    pub fn first_start(&self) -> Option<Instant> {
        self.span().map(|span| span.start)
    }

    /// All of them, in the schema that they are stored in.
    pub fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.parts.iter().flatten()
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batches().map(RecordBatch::num_rows).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let mut held = Held::default();
        self.batches().fold(0, |_, batch| held.add(batch))
    }

    /// Those of windows that start before `at`, and the others.
    ///
    /// # Errors
    /// None that data can cause.
    pub fn split(self, at: Instant) -> Result<(Self, Self)> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for part in self.parts {
            let (mut early, mut late) = (Vec::new(), Vec::new());
            for batch in part {
                let starts = batch.column(0).as_primitive::<TimestampMicrosecondType>();
                let is_early: BooleanArray = starts.values().iter().map(|start| Some(*start < at.0)).collect();
                let filter =
                    |mask: &BooleanArray| filter_record_batch(&batch, mask).map_err(|e| engine_error(e.into()));
                match is_early.true_count() {
                    0 => late.push(batch),
                    n if n == batch.num_rows() => early.push(batch),
                    _ => {
                        early.push(filter(&is_early)?);
                        late.push(filter(&not(&is_early).map_err(|e| engine_error(e.into()))?)?);
                    }
                }
            }
            before.push(early);
            after.push(late);
        }
        let one_of_each = self.one_of_each;
        Ok((Self { parts: before, one_of_each }, Self { parts: after, one_of_each }))
    }

    /// From the first window start to just after the last; `None` if there are none.
    #[must_use]
    pub fn span(&self) -> Option<Window> {
        let bounds = self.batches().filter_map(|b| {
            let starts = b.column(0).as_primitive_opt::<TimestampMicrosecondType>()?;
            Some((min(starts)?, max(starts)?))
        });
        let (from, to) = bounds.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
        Some(Window { start: Instant(from), end: Instant(to.saturating_add(1)) })
    }
}

//! Keeps one summary per group and speaks DataFusion's two accumulator interfaces for it.
//!
//! A function says how a row enters a [`Summary`] and what becomes of it; everything else is the
//! same for all and lives here: nulls and FILTER, states as bytes, memory, emitting. States are
//! one `Binary` per group, null for a group that has seen nothing.
//!
//! Invariant G1: equal summaries write equal states, so a state does not show how it was merged.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use deltalake::datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err};
use deltalake::datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use std::fmt;
use std::sync::Arc;

/// The type of every state in this module.
pub(super) const STATE: DataType = DataType::Binary;

/// What one group has seen. Adding and merging must not depend on order.
pub(super) trait Summary: Default + Send + Sync + 'static {
    /// Whether nothing was added.
    fn is_empty(&self) -> bool;
    /// Adds what another summary wrote.
    fn merge_state(&mut self, state: &[u8]) -> Result<()>;
    /// Appends the canonical bytes, letting go of memory on the way.
    fn write_state(self, out: &mut Vec<u8>);
    /// Bytes held outside the value itself.
    fn heap_bytes(&self) -> usize;
}

/// How rows enter summaries, and what becomes of them.
pub(super) trait Function: Send + Sync + 'static {
    /// What a group is kept as.
    type Summary: Summary;
    /// Adds rows of the arguments.
    fn update(&self, arguments: &[ArrayRef], rows: &Rows<'_>, groups: &mut Groups<Self::Summary>) -> Result<()>;
    /// The results of groups, in order; null for what is empty, where SQL says so.
    fn finish(&self, groups: &[Self::Summary]) -> Result<ArrayRef>;
}

/// An accumulator whose results can be looked at without taking them away.
pub(super) trait Peek: GroupsAccumulator + Sync {
    /// Makes sure that there are so many groups.
    fn grow(&mut self, groups: usize);
    /// The results of all groups.
    fn peek(&mut self) -> Result<ArrayRef>;
}

/// The rows that count, each with its group.
pub(super) struct Rows<'a> {
    counted: Option<NullBuffer>,
    indices: &'a [usize],
}

impl<'a> Rows<'a> {
    /// Rows with a value that pass the filter; a filter that is null does not pass.
    pub(super) fn new(values: &ArrayRef, filter: Option<&BooleanArray>, indices: &'a [usize]) -> Self {
        let passed = filter.map(|filter| {
            let passed = filter.values() & filter.nulls().map_or(filter.values(), NullBuffer::inner);
            NullBuffer::new(passed)
        });
        Self { counted: NullBuffer::union(values.logical_nulls().as_ref(), passed.as_ref()), indices }
    }

    /// Calls with row and group.
    #[inline]
    pub(super) fn for_each(&self, mut call: impl FnMut(usize, usize)) {
        match self.counted.as_ref().filter(|counted| counted.null_count() > 0) {
            None => self.indices.iter().enumerate().for_each(|(row, group)| call(row, *group)),
            Some(counted) => counted.valid_indices().for_each(|row| call(row, self.indices[row])),
        }
    }
}

/// Summaries by group, with the bytes they hold.
pub(super) struct Groups<S> {
    list: Vec<S>,
    heap_bytes: usize,
}

impl<S: Summary> Groups<S> {
    /// Changes one group's summary.
    #[inline]
    pub(super) fn change<T>(&mut self, group: usize, change: impl FnOnce(&mut S) -> T) -> T {
        let summary = &mut self.list[group];
        let before = summary.heap_bytes();
        let result = change(summary);
        self.heap_bytes = self.heap_bytes + summary.heap_bytes() - before;
        result
    }

    /// One group's summary.
    #[inline]
    pub(super) fn get(&self, group: usize) -> &S {
        &self.list[group]
    }

    fn grow(&mut self, length: usize) {
        if length > self.list.len() {
            self.list.resize_with(length, S::default);
        }
    }

    fn take(&mut self, emit: EmitTo) -> Vec<S> {
        let taken = emit.take_needed(&mut self.list);
        self.heap_bytes -= taken.iter().map(S::heap_bytes).sum::<usize>();
        taken
    }
}

/// The accumulator of a function that keeps a summary per group.
pub(super) struct PerGroup<F: Function> {
    function: F,
    groups: Groups<F::Summary>,
}

impl<F: Function + Clone> PerGroup<F> {
    /// An accumulator without groups.
    pub(super) fn new(function: F) -> Self {
        Self { function, groups: Groups { list: Vec::new(), heap_bytes: 0 } }
    }
}

impl<F: Function + Clone> Peek for PerGroup<F> {
    fn grow(&mut self, groups: usize) {
        self.groups.grow(groups);
    }

    fn peek(&mut self) -> Result<ArrayRef> {
        self.function.finish(&self.groups.list)
    }
}

impl<F: Function + Clone> GroupsAccumulator for PerGroup<F> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.grow(total_num_groups);
        let rows = Rows::new(&values[0], opt_filter, group_indices);
        self.function.update(values, &rows, &mut self.groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.function.finish(&self.groups.take(emit_to))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(states(self.groups.take(emit_to))?)])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.groups.grow(total_num_groups);
        let states = values[0].as_binary::<i32>();
        let mut result = Ok(());
        Rows::new(&values[0], None, group_indices).for_each(|row, group| {
            if result.is_ok() {
                result = self.groups.change(group, |summary| summary.merge_state(states.value(row)));
            }
        });
        result
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        state_of_each(Self::new(self.function.clone()), values, opt_filter)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.groups.list.capacity() * size_of::<F::Summary>() + self.groups.heap_bytes
    }
}

/// The state of every row as if it were a group of its own; `groups` has none yet.
pub(super) fn state_of_each(
    mut groups: impl GroupsAccumulator,
    values: &[ArrayRef],
    filter: Option<&BooleanArray>,
) -> Result<Vec<ArrayRef>> {
    let rows = values[0].len();
    groups.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
    groups.state(EmitTo::All)
}

/// One group, for a query without GROUP BY or over a window.
pub(super) struct OneGroup(Box<dyn Peek>);

impl OneGroup {
    /// An accumulator of one group, which is there from the start.
    pub(super) fn new(mut groups: Box<dyn Peek>) -> Self {
        groups.grow(1);
        Self(groups)
    }
}

impl fmt::Debug for OneGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneGroup")
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |values| values.len());
        self.0.update_batch(values, &vec![0; rows], None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.0.peek()?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let states = self.0.state(EmitTo::All)?;
        self.0.grow(1);
        states.iter().map(|state| ScalarValue::try_from_array(state, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states.first().map_or(0, |states| states.len());
        self.0.merge_batch(states, &vec![0; rows], 1)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.0.size()
    }
}

/// The states of summaries, each dropped as soon as it is written.
fn states<S: Summary>(summaries: Vec<S>) -> Result<BinaryArray> {
    let mut ends = Vec::with_capacity(summaries.len() + 1);
    let mut valid = Vec::with_capacity(summaries.len());
    let mut bytes = Vec::new();
    ends.push(0);
    for summary in summaries {
        valid.push(!summary.is_empty());
        if !summary.is_empty() {
            summary.write_state(&mut bytes);
        }
        let Ok(end) = i32::try_from(bytes.len()) else {
            return exec_err!("the states of {} groups take more than 2 GiB: group less at a time", valid.len());
        };
        ends.push(end);
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
    BinaryArray::try_new(offsets, bytes.into(), Some(NullBuffer::from(valid)))
        .map_err(|error| exec_datafusion_err!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::buffer::BooleanBuffer;

    #[test]
    fn a_row_counts_if_it_has_a_value_and_its_filter_is_true() {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]));
        // The bits under a null may be anything.
        let bits = BooleanBuffer::from(vec![true, true, true, false]);
        let filter = BooleanArray::new(bits, Some(NullBuffer::from(vec![true, true, false, true])));
        let counted = |filter: Option<&BooleanArray>| {
            let mut counted = Vec::new();
            Rows::new(&values, filter, &[5, 6, 7, 8]).for_each(|row, group| counted.push((row, group)));
            counted
        };
        assert_eq!(counted(None), [(0, 5), (2, 7), (3, 8)]);
        assert_eq!(counted(Some(&filter)), [(0, 5)]);
    }
}

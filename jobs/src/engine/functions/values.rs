//! Keeps all values of all groups, for functions of the values in order.
//!
//! Values are appended to one log with the number of their group, 12 bytes for a double, and are
//! sorted into groups only when they are asked for. So a group costs nothing beside its values,
//! however few or many they are, and a new value never moves an old one.
//!
//! States are lists of values in ascending order.

use super::groups::{Peek, Rows, state_of_each};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field};
use deltalake::datafusion::common::{Result, exec_err};
use deltalake::datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// What a value is kept as: a whole number that sorts as the value does.
pub(super) trait Sortable: Copy + Ord + Default + Debug + Send + Sync + 'static {}
impl Sortable for i64 {}
impl Sortable for i128 {}

/// A function of the values of a group.
pub(super) trait OfValues: Clone + Send + Sync + 'static {
    /// What a value is kept as.
    type Value: Sortable;
    /// The values of a column, of the argument's type or the state's item type.
    fn read(&self, column: &ArrayRef) -> Result<Vec<Self::Value>>;
    /// The items of a state.
    fn write(&self, values: Vec<Self::Value>) -> Result<ArrayRef>;
    /// The results of groups of values in any order; a group may be empty.
    fn finish(&self, groups: &mut dyn Iterator<Item = &mut [Self::Value]>) -> Result<ArrayRef>;
}

/// Values in the order they came, in pieces so that none is ever moved.
#[derive(Debug)]
struct Log<V> {
    pieces: Vec<Piece<V>>,
    length: usize,
    /// Bytes of all pieces.
    bytes: usize,
}

#[derive(Debug)]
struct Piece<V> {
    groups: Vec<u32>,
    values: Vec<V>,
}

/// Values by group: group `i` has those from `ends[i]` to `ends[i + 1]`.
struct Sorted<V> {
    ends: Vec<usize>,
    values: Vec<V>,
}

/// The first piece is small, for queries of few rows.
const FIRST: usize = 1 << 10;
const PIECE: usize = 1 << 16;
/// So many values are copied at once without a thought; more than that in about so many passes.
const PASS: usize = 1 << 16;
const PASSES: usize = 16;

impl<V> Default for Log<V> {
    fn default() -> Self {
        Self { pieces: Vec::new(), length: 0, bytes: 0 }
    }
}

impl<V: Sortable> Log<V> {
    #[inline]
    fn push(&mut self, group: usize, value: V) {
        if self.pieces.last().is_none_or(|piece| piece.groups.len() == piece.groups.capacity()) {
            self.add_piece();
        }
        if let Some(piece) = self.pieces.last_mut() {
            // Group numbers of one accumulator stay below 2^32: it would hold 2^32 keys beside them.
            piece.groups.push(group as u32);
            piece.values.push(value);
            self.length += 1;
        }
    }

    #[cold]
    fn add_piece(&mut self) {
        let capacity = self.length.clamp(FIRST, PIECE);
        let piece = Piece { groups: Vec::with_capacity(capacity), values: Vec::with_capacity(capacity) };
        self.bytes += piece.groups.capacity() * size_of::<u32>() + piece.values.capacity() * size_of::<V>();
        self.pieces.push(piece);
    }

    /// Where the values of each group below `count` will end, and before them a 0.
    fn ends(&self, count: usize) -> Vec<usize> {
        let mut ends = vec![0; count + 1];
        for group in self.pieces.iter().flat_map(|piece| &piece.groups) {
            if let Some(end) = ends.get_mut(*group as usize + 1) {
                *end += 1;
            }
        }
        for i in 1..ends.len() {
            ends[i] += ends[i - 1];
        }
        ends
    }

    /// A copy of the values of some groups; `ends` is as of [`Self::ends`].
    fn gather(&self, groups: Range<usize>, ends: &[usize]) -> Sorted<V> {
        let mut ends: Vec<usize> = ends[groups.start..=groups.end].iter().map(|end| end - ends[groups.start]).collect();
        let mut values = vec![V::default(); ends[groups.len()]];
        for piece in &self.pieces {
            for (group, value) in piece.groups.iter().zip(&piece.values) {
                let group = (*group as usize).wrapping_sub(groups.start);
                if group < groups.len() {
                    values[ends[group]] = *value;
                    ends[group] += 1;
                }
            }
        }
        Sorted::filled(ends, values)
    }

    /// The values of groups below `count`; with their `rest`, if it is asked for, numbered from 0.
    fn sort(self, count: usize, mut rest: Option<&mut Self>) -> Sorted<V> {
        let mut ends = self.ends(count);
        let mut values = vec![V::default(); ends[count]];
        for piece in self.pieces {
            for (group, value) in piece.groups.into_iter().zip(piece.values) {
                let group = group as usize;
                if group < count {
                    values[ends[group]] = value;
                    ends[group] += 1;
                } else if let Some(rest) = &mut rest {
                    rest.push(group - count, value);
                }
            }
        }
        Sorted::filled(ends, values)
    }
}

impl<V> Sorted<V> {
    /// Filling has moved each end to where the next one was.
    fn filled(mut ends: Vec<usize>, values: Vec<V>) -> Self {
        ends.rotate_right(1);
        ends[0] = 0;
        Self { ends, values }
    }

    fn groups(&mut self) -> impl Iterator<Item = &mut [V]> {
        let mut rest = &mut self.values[..];
        self.ends.windows(2).map(move |ends| {
            let (group, other) = std::mem::take(&mut rest).split_at_mut(ends[1] - ends[0]);
            rest = other;
            group
        })
    }
}

/// The accumulator of a function of all values.
pub(super) struct AllValues<F: OfValues> {
    function: F,
    log: Log<F::Value>,
    groups: usize,
}

impl<F: OfValues> AllValues<F> {
    /// An accumulator without groups.
    pub(super) fn new(function: F) -> Self {
        Self { function, log: Log::default(), groups: 0 }
    }

    fn take(&mut self, emit: EmitTo) -> Sorted<F::Value> {
        let mut rest = Log::default();
        let log = std::mem::take(&mut self.log);
        match emit {
            EmitTo::All => log.sort(std::mem::take(&mut self.groups), None),
            EmitTo::First(count) => {
                let sorted = log.sort(count, Some(&mut rest));
                self.groups -= count;
                self.log = rest;
                sorted
            }
        }
    }
}

impl<F: OfValues> Peek for AllValues<F> {
    fn grow(&mut self, groups: usize) {
        self.groups = self.groups.max(groups);
    }

    fn peek(&mut self) -> Result<ArrayRef> {
        let mut sorted = self.take(EmitTo::All);
        let result = self.function.finish(&mut sorted.groups());
        for (group, values) in sorted.groups().enumerate() {
            values.iter().for_each(|value| self.log.push(group, *value));
        }
        self.groups = sorted.ends.len() - 1;
        result
    }
}

impl<F: OfValues> GroupsAccumulator for AllValues<F> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let column = self.function.read(&values[0])?;
        Rows::new(&values[0], opt_filter, group_indices).for_each(|row, group| self.log.push(group, column[row]));
        Ok(())
    }

    /// All groups at once would need the values twice: many values are finished in several passes.
    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        if emit_to != EmitTo::All || self.log.length <= PASS {
            let mut sorted = self.take(emit_to);
            return self.function.finish(&mut sorted.groups());
        }
        let (log, count) = (std::mem::take(&mut self.log), std::mem::take(&mut self.groups));
        let ends = log.ends(count);
        let share = PASS.max(log.length / PASSES);
        let mut results = Vec::new();
        let mut from = 0;
        while from < count {
            let fits = ends.partition_point(|end| *end <= ends[from] + share) - 1;
            let to = fits.max(from + 1);
            results.push(self.function.finish(&mut log.gather(from..to, &ends).groups())?);
            from = to;
        }
        Ok(concat(&results.iter().map(AsRef::as_ref).collect::<Vec<_>>())?)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let mut sorted = self.take(emit_to);
        let is_valid: Vec<bool> = sorted.ends.windows(2).map(|ends| ends[0] < ends[1]).collect();
        sorted.groups().for_each(<[F::Value]>::sort_unstable);
        let Ok(ends) = sorted.ends.iter().map(|end| i32::try_from(*end)).collect::<Result<Vec<_>, _>>() else {
            return exec_err!("{} values are too many for one state: group less at a time", sorted.values.len());
        };
        let items = self.function.write(sorted.values)?;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
        let item = Arc::new(Field::new_list_field(items.data_type().clone(), true));
        Ok(vec![Arc::new(ListArray::try_new(item, offsets, items, Some(NullBuffer::from(is_valid)))?)])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.grow(total_num_groups);
        let states = values[0].as_list::<i32>();
        let ends = states.value_offsets();
        // A slice of a batch still has all of the batch's items.
        let first = ends[0] as usize;
        let items = states.values().slice(first, ends[states.len()] as usize - first);
        if items.null_count() > 0 {
            return exec_err!("the list is not the state of a `median` or `percentile_cont`");
        }
        let items = self.function.read(&items)?;
        Rows::new(&values[0], None, group_indices).for_each(|row, group| {
            let (from, to) = (ends[row] as usize - first, ends[row + 1] as usize - first);
            items[from..to].iter().for_each(|value| self.log.push(group, *value));
        });
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        state_of_each(Self::new(self.function.clone()), values, opt_filter)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.log.bytes + self.log.pieces.capacity() * size_of::<Piece<F::Value>>()
    }
}

/// The type of states with items of this type.
pub(super) fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

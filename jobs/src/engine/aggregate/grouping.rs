//! Rows and states, brought together by window and key.
//!
//! Keys are few and come again with every window, so they are hashed as what they are only once, into
//! numbers; a group is a window and the number of a key. The functions are DataFusion's accumulators, or
//! ours behind the same interface. What comes out has one row for each group, so values are finished
//! without another search for groups.
//!
//! Invariant H1: memory is accounted for after each batch, in the session's pool.

use super::halves::{Halves, Role};
use super::session::Session;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{Schema, SchemaRef, TimestampMicrosecondType};
use deltalake::datafusion::common::{Result, internal_err, resources_datafusion_err};
use deltalake::datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use deltalake::datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use deltalake::datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use deltalake::datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use deltalake::datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use deltalake::datafusion::physical_plan::aggregates::order::GroupOrdering;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Groups under way.
pub(super) struct Grouping<'h> {
    halves: &'h Halves,
    groups: Groups,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    memory: MemoryReservation,
}

/// Windows and keys, numbered as they come.
struct Groups {
    /// Numbers of keys; none where there are no keys.
    keys: Option<Box<dyn GroupValues>>,
    /// How many columns make a group, the window among them.
    columns: usize,
    numbers: HashTable<Group>,
    hasher: FixedState,
    /// Start of the window of each group.
    starts: Vec<i64>,
    /// Number of the key of each group.
    key_of: Vec<u32>,
    /// The key of each row of a batch, then its group.
    of_rows: (Vec<usize>, Vec<usize>),
}

/// A group and its number.
#[derive(Debug)]
struct Group {
    start: i64,
    key: u32,
    number: u32,
}

impl<'h> Grouping<'h> {
    /// No groups yet.
    pub(super) fn new(halves: &'h Halves, session: &Session) -> Result<Self> {
        let memory = reservation("windows", session);
        let accumulators = halves.calls.iter().map(accumulator).collect::<Result<_>>()?;
        Ok(Self { halves, groups: Groups::new(halves)?, accumulators, memory })
    }

    /// Takes rows of the projection in. Duplicates are counted, and nothing else.
    pub(super) fn add(&mut self, rows: &RecordBatch, role: Role) -> Result<()> {
        self.groups.find(rows)?;
        let (numbers, total) = (&self.groups.of_rows.1, self.groups.starts.len());
        let duplicates = self.halves.duplicates();
        for (n, accumulator) in self.accumulators.iter_mut().enumerate() {
            let filter = match (role, n == duplicates) {
                // no row pays for the question whether it is one
                (Role::Counted, true) => continue,
                (Role::Counted, false) | (Role::Landed, _) => {
                    self.halves.filters[n].as_ref().map(|f| evaluate(f, rows)).transpose()?
                }
                (Role::Duplicates, true) => None,
                (Role::Duplicates, false) => Some(Arc::new(BooleanArray::from(vec![false; rows.num_rows()])) as _),
            };
            let arguments = self.halves.arguments[n].iter().map(|e| evaluate(e, rows)).collect::<Result<Vec<_>>>()?;
            accumulator.update_batch(&arguments, numbers, filter.as_ref().map(|f| f.as_boolean()), total)?;
        }
        self.account()
    }

    /// Takes states in.
    pub(super) fn merge(&mut self, states: &RecordBatch) -> Result<()> {
        self.groups.find(states)?;
        let (numbers, total) = (&self.groups.of_rows.1, self.groups.starts.len());
        let columns = self.halves.columns_of_states(states);
        for (accumulator, states) in self.accumulators.iter_mut().zip(columns) {
            accumulator.merge_batch(states, numbers, total)?;
        }
        self.account()
    }

    /// The state of every group, each once; none if there are no groups.
    pub(super) fn states(mut self) -> Result<Option<RecordBatch>> {
        let total = self.groups.starts.len();
        if total == 0 {
            return Ok(None);
        }
        self.grow(total)?;
        let mut columns = self.groups.into_columns(&self.halves.states_schema)?;
        for mut accumulator in self.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.halves.states_schema), columns)?))
    }

    /// Gives groups to the accumulator that counts duplicates, if none came lately.
    fn grow(&mut self, total: usize) -> Result<()> {
        let (n, none) = (self.halves.duplicates(), RecordBatch::new_empty(Arc::clone(&self.halves.input_schema)));
        let arguments = self.halves.arguments[n].iter().map(|e| evaluate(e, &none)).collect::<Result<Vec<_>>>()?;
        self.accumulators[n].update_batch(&arguments, &[], None, total)
    }

    fn account(&mut self) -> Result<()> {
        let accumulators = self.accumulators.iter().map(|a| a.size()).sum::<usize>();
        self.memory.try_resize(self.groups.memory_bytes() + accumulators)
    }
}

/// Values out of states.
pub(super) struct Finishing {
    halves: Halves,
    memory: MemoryReservation,
}

impl Finishing {
    /// Of the states that these halves make.
    pub(super) fn new(halves: &Halves, session: &Session) -> Self {
        Self { halves: halves.clone(), memory: reservation("values", session) }
    }

    /// The values of states, one row for each; no two of them are of one group.
    pub(super) fn values(&self, states: &RecordBatch) -> Result<RecordBatch> {
        let rows = states.num_rows();
        let each: Vec<usize> = (0..rows).collect();
        let mut columns = states.columns()[..self.halves.groups].to_vec();
        for (call, states) in self.halves.calls.iter().zip(self.halves.columns_of_states(states)) {
            let mut accumulator = accumulator(call)?;
            accumulator.merge_batch(states, &each, rows)?;
            self.memory.try_resize(accumulator.size())?;
            columns.push(accumulator.evaluate(EmitTo::All)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.halves.values_schema), columns, &options)?)
    }
}

fn reservation(name: &str, session: &Session) -> MemoryReservation {
    MemoryConsumer::new(name).register(&session.state.runtime_env().memory_pool)
}

fn accumulator(call: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>> {
    if call.groups_accumulator_supported() {
        return call.create_groups_accumulator();
    }
    let call = Arc::clone(call);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || call.create_accumulator())))
}

fn evaluate(expression: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef> {
    expression.evaluate(rows)?.into_array(rows.num_rows())
}

impl Groups {
    fn new(halves: &Halves) -> Result<Self> {
        let fields = halves.input_schema.fields()[1..halves.groups].to_vec();
        let keys = match fields.is_empty() {
            true => None,
            false => Some(new_group_values(Arc::new(Schema::new(fields)), &GroupOrdering::None)?),
        };
        Ok(Self {
            keys,
            columns: halves.groups,
            numbers: HashTable::new(),
            hasher: FixedState::default(),
            starts: Vec::new(),
            key_of: Vec::new(),
            of_rows: (Vec::new(), Vec::new()),
        })
    }

    /// Finds the group of each row.
    fn find(&mut self, rows: &RecordBatch) -> Result<()> {
        let starts = rows.column(0).as_primitive_opt::<TimestampMicrosecondType>();
        let Some(starts) = starts.filter(|starts| starts.null_count() == 0) else {
            return internal_err!("a row has no window");
        };
        let (keys, groups) = &mut self.of_rows;
        keys.clear();
        match &mut self.keys {
            None => keys.resize(rows.num_rows(), 0),
            Some(values) => values.intern(&rows.columns()[1..self.columns], keys)?,
        }
        let hash = |start: i64, key: u32| self.hasher.hash_one((start, key));
        groups.clear();
        for (start, key) in starts.values().iter().zip(keys) {
            let (start, key) = (*start, number(*key)?);
            let entry = self.numbers.entry(
                hash(start, key),
                |group| group.start == start && group.key == key,
                |group| hash(group.start, group.key),
            );
            groups.push(match entry {
                Entry::Occupied(group) => group.get().number as usize,
                Entry::Vacant(free) => {
                    let next = self.starts.len();
                    free.insert(Group { start, key, number: number(next)? });
                    self.starts.push(start);
                    self.key_of.push(key);
                    next
                }
            });
        }
        Ok(())
    }

    /// The columns of windows and keys, one row for each group.
    fn into_columns(self, schema: &SchemaRef) -> Result<Vec<ArrayRef>> {
        let starts = TimestampMicrosecondArray::from(self.starts).with_data_type(schema.field(0).data_type().clone());
        let mut columns: Vec<ArrayRef> = vec![Arc::new(starts)];
        if let Some(mut keys) = self.keys {
            let of_groups = UInt32Array::from(self.key_of);
            for values in keys.emit(EmitTo::All)? {
                columns.push(take(&values, &of_groups, None)?);
            }
        }
        Ok(columns)
    }

    fn memory_bytes(&self) -> usize {
        let keys = self.keys.as_ref().map_or(0, |keys| keys.size());
        let (of_rows, groups) = &self.of_rows;
        keys + self.numbers.allocation_size()
            + self.starts.capacity() * size_of::<i64>()
            + self.key_of.capacity() * size_of::<u32>()
            + (of_rows.capacity() + groups.capacity()) * size_of::<usize>()
    }
}

fn number(of: usize) -> Result<u32> {
    u32::try_from(of).map_err(|_| resources_datafusion_err!("{of} groups are too many at a time"))
}

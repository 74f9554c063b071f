//! Rows to states, states to coarser states, states to results.
//!
//! States are kept in as many parts as there are threads, mostly one row per window and key. A key lies in
//! one part, so every step after the first runs part by part. Coarser windows are rolled up from the coarsest
//! ones that nest in them. Every run plans anew: a physical plan gives nothing when it is run a second
//! time, and says nothing of it.

use super::definition::Definition;
use super::grouping::{Finishing, Grouping};
use super::halves::{COUNTS, Halves, Role};
use super::rows::{Batches, Rows};
use super::scalars::{Bins, window_starts};
use super::session::Session;
use super::states::{Held, States};
use super::types::cast;
use crate::engine::query::engine_error;
use crate::error::{Class, Error, Result, Stage};
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use deltalake::datafusion::common::runtime::SpawnedTask;
use deltalake::datafusion::common::{DataFusionError, Result as EngineResult, resources_err};
use deltalake::datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream_partitioned};
use deltaworks_core::windows::{Granularity, nests};
use futures::StreamExt;
use futures::future::try_join_all;
use futures::stream::{BoxStream, SelectAll, select_all};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

/// Values that are finished at a time, unless their states are large.
const VALUES_ROWS: usize = 8_192;
/// Bytes of states that are finished at a time, if that is more than one.
const VALUES_BYTES: usize = 4 << 20;

/// How long states live, which decides how fine their windows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Until the results of this pass: as coarse as the granularities are.
    Pass,
    /// In a table: fine enough to show a day that is still open.
    Stored,
}

/// One of several buckets of keys. A pass that has too little memory for all keys takes its rows several
/// times, a bucket at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Which, from 0.
    pub index: u32,
    /// Of how many.
    pub of: NonZeroU32,
}

impl Bucket {
    /// All keys.
    pub const ALL: Self = Self { index: 0, of: NonZeroU32::MIN };
}

/// What is taken of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Take {
    /// How long the states live.
    pub life: Life,
    /// Which keys.
    pub bucket: Bucket,
}

impl From<Life> for Take {
    fn from(life: Life) -> Self {
        Self { life, bucket: Bucket::ALL }
    }
}

/// The result of one granularity.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Which.
    pub granularity: Granularity,
    /// Rows of the definition's result schema, by window and keys.
    pub rows: Vec<RecordBatch>,
    /// What was counted in each window by its start (microseconds), before HAVING: a window whose rows
    /// HAVING all took away is still here.
    pub counted: BTreeMap<i64, Counted>,
}

/// What was counted in one window, all keys together, before HAVING; only what WHERE and joins let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Keys that have events.
    pub keys: u64,
    /// Events.
    pub events: i64,
    /// Late ones among them.
    pub late: i64,
    /// Duplicates, which are no events.
    pub duplicates: i64,
    /// Fills among the events.
    pub filled: i64,
}

/// What a batch is to a grouping.
#[derive(Debug, Clone, Copy)]
pub(super) enum Eats {
    Rows(Role),
    States,
}

pub(super) type Portions = BoxStream<'static, EngineResult<(Eats, RecordBatch)>>;

impl Counted {
    pub(super) const fn add(&mut self, other: Self) {
        self.keys += other.keys;
        self.events += other.events;
        self.late += other.late;
        self.duplicates += other.duplicates;
        self.filled += other.filled;
    }
}

impl Definition {
    /// States of `rows` by base window, one per key. Streams hold at least the needed columns of the raw
    /// table, under their names; each is read by a thread of its own.
    ///
    /// # Errors
    /// A stream's own error, a value that cannot be computed, or too little memory.
    pub async fn partial(&self, rows: Vec<Batches>, take: impl Into<Take>) -> Result<States> {
        self.partial_with_duplicates(rows, Vec::new(), take).await
    }

    /// The same, with rows that do not count but for the column `duplicates`. A window and key that has
    /// nothing else makes no row of the result.
    ///
    /// # Errors
    /// As [`Self::partial`].
    pub async fn partial_with_duplicates(
        &self,
        counted: Vec<Batches>,
        duplicates: Vec<Batches>,
        take: impl Into<Take>,
    ) -> Result<States> {
        let take = take.into();
        let eaten = match take.life {
            Life::Pass => &self.eaten.0,
            Life::Stored => &self.eaten.1,
        };
        let streams = async {
            let mut parts: Vec<Vec<Portions>> = Vec::new();
            for (role, rows) in [(Role::Counted, counted), (Role::Duplicates, duplicates)] {
                if role == Role::Duplicates && rows.is_empty() {
                    continue;
                }
                let rows = Rows::new(Arc::clone(&self.source_schema), rows);
                let (input, halves) = eaten.plan(&self.session, rows, take.bucket).await?;
                // rows are dealt out by key instead of states: few rows make a state, and every later step merges
                let streams = self.run(halves.by_key(input, self.session.parallel)?)?;
                parts.resize_with(streams.len().max(parts.len()), Vec::new);
                for (part, stream) in parts.iter_mut().zip(streams) {
                    part.push(stream.map(move |rows| Ok((Eats::Rows(role), rows?))).boxed());
                }
            }
            EngineResult::Ok(parts)
        };
        let parts = streams.await.map_err(|e| self.failed(e))?;
        self.states(parts).await
    }

    /// States that were stored under this definition's states fingerprint. There may be several per window
    /// and key: [`Self::merge`] makes them one.
    ///
    /// # Errors
    /// [`Class::Internal`] if their columns are not those of the definition's states.
    pub fn stored(&self, batches: &[RecordBatch]) -> Result<States> {
        let schema = &self.states.1;
        let stored = batches.iter().map(|batch| {
            let have = batch.schema();
            let have = have.fields().iter().map(|f| (f.name(), f.data_type()));
            if !have.eq(schema.fields().iter().map(|f| (f.name(), f.data_type()))) {
                let message =
                    format!("aggregate `{}`: stored states have other columns than its definition", self.name);
                return Err(Error::new(Stage::Query, Class::Internal, message));
            }
            cast(batch, schema).map_err(|e| self.failed(e.into()))
        });
        Ok(States { parts: vec![stored.collect::<Result<_>>()?], one_of_each: false })
    }

    /// One state per window and key out of several: of several runs, or as they were stored.
    ///
    /// # Errors
    /// As [`Self::partial`].
    pub async fn merge(&self, states: impl IntoIterator<Item = States>) -> Result<States> {
        let all: Vec<Vec<RecordBatch>> = states.into_iter().flat_map(|s| s.parts).collect();
        let by_key = self.node(&all).and_then(|node| self.halves.by_key(node, self.session.parallel));
        let streams = by_key.and_then(|plan| self.run(plan)).map_err(|e| self.failed(e))?;
        let parts = streams.into_iter().map(|stream| vec![stream.map(|states| Ok((Eats::States, states?))).boxed()]);
        self.states(parts.collect()).await
    }

    /// The results of all granularities, from fine to coarse, from states by base window.
    ///
    /// # Errors
    /// As [`Self::partial`]; a window beyond the years that windows are made for.
    pub async fn finish(&self, base: &States) -> Result<Vec<Finished>> {
        let mut finished = Vec::new();
        for (granularity, states) in self.rollups(base, &self.granularities).await? {
            finished.push(self.finish_rolled_up(&states, granularity).await?);
        }
        Ok(finished)
    }

    /// States of the windows of each of `granularities` (from fine to coarse), from states by base window.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn rollups(&self, base: &States, granularities: &[Granularity]) -> Result<Vec<(Granularity, States)>> {
        let mut finer: Vec<(Granularity, States)> = Vec::new();
        for granularity in granularities {
            let states = self.rollup(self.coarsest_in(*granularity, base, &finer)?, *granularity).await?;
            finer.push((*granularity, states));
        }
        Ok(finer)
    }

    /// The states with the coarsest windows that nest in those of `granularity`.
    fn coarsest_in<'s>(
        &self,
        granularity: Granularity,
        base: &'s States,
        finer: &'s [(Granularity, States)],
    ) -> Result<&'s States> {
        let Some(span) = base.span() else { return Ok(base) };
        for (inner, states) in finer.iter().rev() {
            let nested = nests(*inner, granularity, &self.zone, span);
            if nested.map_err(|e| self.failed(DataFusionError::External(Box::new(e))))? {
                return Ok(states);
            }
        }
        Ok(base)
    }

    /// The result of one granularity, from states of windows that nest in its own: base windows, or what
    /// [`Self::rollup`] made of them.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn finish_one(&self, states: &States, granularity: Granularity) -> Result<Finished> {
        let states = self.rollup(states, granularity).await?;
        self.finish_rolled_up(&states, granularity).await
    }

    /// States of the windows of `granularity`, from states of windows that nest in them. A pass over a
    /// month can so keep its days and let go of their minutes.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn rollup(&self, states: &States, granularity: Granularity) -> Result<States> {
        let (parts, changed) = self.rebin(states, granularity).map_err(|e| self.failed(e))?;
        if !changed && states.one_of_each {
            return Ok(States { parts, one_of_each: true });
        }
        let parts = parts.into_iter().map(|part| {
            let native = Arc::clone(&self.states.0);
            let states = part.into_iter().map(move |b| Ok((Eats::States, cast(&b, &native)?)));
            vec![futures::stream::iter(states).boxed()]
        });
        self.states(parts.collect()).await
    }

    /// The states with the window starts of `granularity`, and whether that moved any.
    fn rebin(&self, states: &States, granularity: Granularity) -> EngineResult<(Vec<Vec<RecordBatch>>, bool)> {
        let mut binner = Bins::Of(granularity, self.zone.clone()).binner();
        let mut changed = false;
        let mut rebin = |batch: &RecordBatch| -> EngineResult<RecordBatch> {
            let starts = window_starts(&mut binner, batch.column(0))?;
            changed |= starts.as_ref() != batch.column(0).as_ref();
            let columns: Vec<ArrayRef> =
                std::iter::once(starts).chain(batch.columns().iter().skip(1).cloned()).collect();
            Ok(RecordBatch::try_new(batch.schema(), columns)?)
        };
        let parts = states.parts.iter().map(|part| part.iter().map(&mut rebin).collect());
        let parts = parts.collect::<EngineResult<Vec<_>>>()?;
        Ok((parts, changed))
    }

    /// The result of one granularity from states of its windows.
    async fn finish_rolled_up(&self, states: &States, granularity: Granularity) -> Result<Finished> {
        let counted = Arc::new(Mutex::new(BTreeMap::new()));
        let rows = async {
            let schema = Arc::clone(&self.halves.values_schema);
            let parts = states.parts.iter().map(|part| self.values(part, &counted)).collect();
            self.above.run(Rows::new(schema, parts), &self.session).await
        };
        let rows = rows.await.map_err(|e| self.failed(e))?;
        let rows: Vec<RecordBatch> =
            rows.iter().map(|batch| self.with_windows(batch, granularity)).collect::<Result<_>>()?;
        let rows = vec![self.sorted(&rows).map_err(|e| self.failed(e))?];
        let counted = std::mem::take(&mut *counted.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Finished { granularity, rows, counted })
    }

    /// The values of states of one part, of which no two are of one group.
    fn values(&self, part: &[RecordBatch], counted: &Arc<Mutex<BTreeMap<i64, Counted>>>) -> Batches {
        let (native, finishing) = (Arc::clone(&self.states.0), Finishing::new(&self.halves, &self.session));
        let slices = part.iter().flat_map(|states| {
            let (rows, bytes) = (states.num_rows(), states.get_array_memory_size());
            let at_a_time = VALUES_ROWS.min(rows.saturating_mul(VALUES_BYTES) / bytes.max(1)).max(1);
            (0..rows).step_by(at_a_time).map(move |first| states.slice(first, at_a_time.min(rows - first)))
        });
        let slices: Vec<RecordBatch> = slices.collect();
        let counted = Arc::clone(counted);
        let values = move |states: RecordBatch| {
            let values = cast(&states, &native).map_err(DataFusionError::from).and_then(|s| finishing.values(&s));
            let values = values.map_err(marked)?;
            let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
            count(&values, &mut counted)
                .ok_or_else(|| Error::new(Stage::Query, Class::Internal, "an aggregation came without its counts"))?;
            Ok(values)
        };
        futures::stream::iter(slices).map(values).boxed()
    }

    async fn states(&self, parts: Vec<Vec<Portions>>) -> Result<States> {
        Ok(States { parts: self.grouped(&self.halves, parts, &self.states.1).await?, one_of_each: true })
    }

    /// Brings each part together, by a thread of its own. States come in the types of `schema`, and may take
    /// as much memory again as the session has for making them.
    pub(super) async fn grouped(
        &self,
        halves: &Halves,
        parts: Vec<Vec<Portions>>,
        schema: &SchemaRef,
    ) -> Result<Vec<Vec<RecordBatch>>> {
        let held = Arc::new(Mutex::new(Held::default()));
        let parts = parts.into_iter().map(|streams| {
            let (halves, session, schema) = (halves.clone(), self.session.clone(), Arc::clone(schema));
            let (streams, held) = (select_all(streams), Arc::clone(&held));
            let part = SpawnedTask::spawn(async move {
                let Some(states) = group(&halves, &session, streams).await? else { return Ok(Vec::new()) };
                let states = cast(&states, &schema)?;
                let bytes = held.lock().unwrap_or_else(PoisonError::into_inner).add(&states);
                if bytes > session.memory_bytes {
                    return resources_err!("states of {bytes} bytes are more than may be held");
                }
                EngineResult::Ok(vec![states])
            });
            async { part.join_unwind().await.map_err(|e| DataFusionError::External(Box::new(e)))? }
        });
        try_join_all(parts).await.map_err(|e| self.failed(e))
    }

    pub(super) fn run(&self, plan: Arc<dyn ExecutionPlan>) -> EngineResult<Vec<SendableRecordBatchStream>> {
        execute_stream_partitioned(plan, self.session.state.task_ctx())
    }

    /// Stored states as a node of a plan, in the types that DataFusion knows them in.
    fn node(&self, parts: &[Vec<RecordBatch>]) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let native = &self.states.0;
        let parts = parts.iter().map(|part| -> Batches {
            let native = Arc::clone(native);
            let batches = part.clone().into_iter();
            futures::stream::iter(batches.map(move |b| cast(&b, &native).map_err(|e| engine_error(e.into())))).boxed()
        });
        Rows::new(Arc::clone(native), parts.collect()).node(native)
    }

    pub(super) fn failed(&self, error: DataFusionError) -> Error {
        let error = marked(error);
        Error { message: format!("aggregate `{}`: {}", self.name, error.message), ..error }
    }
}

async fn group(
    halves: &Halves,
    session: &Session,
    mut batches: SelectAll<Portions>,
) -> EngineResult<Option<RecordBatch>> {
    let mut grouping = Grouping::new(halves, session)?;
    while let Some((eats, batch)) = batches.next().await.transpose()? {
        match eats {
            Eats::Rows(role) => grouping.add(&batch, role)?,
            Eats::States => grouping.merge(&batch)?,
        }
    }
    grouping.states()
}

/// Marks an error that fewer rows at a time would avoid.
#[derive(Debug, thiserror::Error)]
#[error("fewer rows at a time would need less")]
struct OutOfMemory;

/// Whether a computation ended because its memory was too small for its rows: the same rows in smaller
/// portions may pass.
#[must_use]
pub fn is_out_of_memory(error: &Error) -> bool {
    error.source.as_ref().is_some_and(|source| source.is::<OutOfMemory>())
}

/// An engine's error; one of memory stays one, also if it has come through the streams of another plan.
fn marked(error: DataFusionError) -> Error {
    let too_little = match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => true,
        DataFusionError::External(inner) => inner.downcast_ref::<Error>().is_some_and(is_out_of_memory),
        _ => false,
    };
    let error = engine_error(error);
    if too_little { error.because(OutOfMemory) } else { error }
}

fn count(batch: &RecordBatch, counted: &mut BTreeMap<i64, Counted>) -> Option<()> {
    let starts = batch.column(0).as_primitive_opt::<TimestampMicrosecondType>()?;
    let first = batch.num_columns().checked_sub(COUNTS.len())?;
    let column = |n: usize| batch.column(first + n).as_primitive_opt::<Int64Type>();
    let (events, late, duplicates, filled) = (column(0)?, column(1)?, column(2)?, column(3)?);
    for (row, start) in starts.values().iter().enumerate() {
        counted.entry(*start).or_default().add(Counted {
            keys: u64::from(events.value(row) > 0),
            events: events.value(row),
            late: late.value(row),
            duplicates: duplicates.value(row),
            filled: filled.value(row),
        });
    }
    Some(())
}

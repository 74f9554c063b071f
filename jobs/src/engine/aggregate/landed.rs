//! States of rows as they are landed, by the partition that they came from.
//!
//! One plan for all partitions and for what counts, is late or is a repeat: a stream makes states every
//! second, and planning costs more than its rows do. The partition is a key among the others until the
//! states are there; then they are dealt out by it and are states like any others.
//!
//! Invariant L1: a row counts as an event, as late (whether a repeat or not) or as a repeat; only an event
//! changes any value.

use super::compute::{Bucket, Eats, Portions};
use super::definition::Definition;
use super::halves::Role;
use super::rows::{Batches, Rows};
use super::states::States;
use crate::error::{Class, Error, Result, Stage};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use deltalake::datafusion::common::{DataFusionError, Result as EngineResult};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Name of the partition's column among the states.
const PARTITION: &str = "p";

impl Definition {
    /// States of landed rows by base window, one per key and partition, fit to be stored. Of rows that are
    /// late or repeats there is only their number, in the columns `late` and `duplicates`. Streams hold at
    /// least the columns `needed_landed` and no fills.
    ///
    /// # Errors
    /// As [`Self::partial`].
    pub async fn landed(&self, rows: Vec<Batches>) -> Result<BTreeMap<i32, States>> {
        let rows = Rows::new(Arc::clone(&self.source_schema), rows);
        let streams = async {
            let (input, halves) = self.landed.plan(&self.session, rows, Bucket::ALL).await?;
            let streams = self.run(halves.by_key(input, self.session.parallel)?)?;
            EngineResult::Ok((halves, streams))
        };
        let (halves, streams) = streams.await.map_err(|e| self.failed(e))?;
        let parts = streams.into_iter().map(|rows| {
            let rows: Portions = rows.map(|rows| Ok((Eats::Rows(Role::Landed), rows?))).boxed();
            vec![rows]
        });
        let groups = self.halves.keys() + 1;
        let parts = self.grouped(&halves, parts.collect(), &with_partition(&self.states.1, groups)).await?;
        let mut by_partition: BTreeMap<i32, Vec<Vec<RecordBatch>>> = BTreeMap::new();
        for part in parts {
            let mut dealt: BTreeMap<i32, Vec<RecordBatch>> = BTreeMap::new();
            for batch in part {
                deal(batch, groups, &mut dealt)
                    .map_err(|e| self.failed(e))?
                    .ok_or_else(|| Error::new(Stage::Query, Class::Internal, "states came without their partition"))?;
            }
            for (partition, batches) in dealt {
                by_partition.entry(partition).or_default().push(batches);
            }
        }
        Ok(by_partition
            .into_iter()
            .map(|(partition, parts)| (partition, States { parts, one_of_each: true }))
            .collect())
    }
}

/// The schema of states with their partition, which follows the keys.
fn with_partition(states: &SchemaRef, groups: usize) -> SchemaRef {
    let mut fields: Vec<_> = states.fields().iter().cloned().collect();
    fields.insert(groups.min(fields.len()), Arc::new(Field::new(PARTITION, DataType::Int32, true)));
    Arc::new(Schema::new(fields))
}

/// Deals states out by partition, without its column; `None` if they lack it.
fn deal(
    mut batch: RecordBatch,
    column: usize,
    dealt: &mut BTreeMap<i32, Vec<RecordBatch>>,
) -> Result<Option<()>, DataFusionError> {
    let Some(partitions) = batch.column(column).as_primitive_opt::<Int32Type>().cloned() else { return Ok(None) };
    batch.remove_column(column);
    let distinct: BTreeSet<i32> = partitions.values().iter().copied().collect();
    for partition in &distinct {
        let share = if distinct.len() == 1 {
            batch.clone()
        } else {
            let mask: BooleanArray = partitions.values().iter().map(|p| Some(p == partition)).collect();
            filter_record_batch(&batch, &mask)?
        };
        dealt.entry(*partition).or_default().push(share);
    }
    Ok(Some(()))
}

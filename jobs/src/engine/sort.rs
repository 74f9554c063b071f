//! Sorts rows of any number: what does not fit into memory waits in temporary files.

use super::query::engine_error;
use crate::error::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use deltalake::datafusion::catalog::streaming::StreamingTable;
use deltalake::datafusion::common::{Column, DataFusionError};
use deltalake::datafusion::execution::memory_pool::FairSpillPool;
use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use deltalake::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::datafusion::logical_expr::Expr;
use deltalake::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::datafusion::physical_plan::streaming::PartitionStream;
use deltalake::datafusion::prelude::{SessionConfig, SessionContext};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows as they come; an error ends them.
type Batches = BoxStream<'static, Result<RecordBatch>>;

/// Rows that can be read once.
struct Once {
    schema: SchemaRef,
    batches: Mutex<Option<Batches>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner).take();
        let again = || futures::stream::iter([Err(DataFusionError::Internal("rows were read twice".into()))]).boxed();
        let batches = batches.map_or_else(again, |b| b.map_err(|e| DataFusionError::External(Box::new(e))).boxed());
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

/// The rows in the order of these columns, nulls last; `memory_bytes` bounds what is held at a time.
///
/// # Errors
/// There is no such column; a type has no order; what the rows bring.
pub async fn sorted(batches: Batches, schema: SchemaRef, by: &[String], memory_bytes: usize) -> Result<Batches> {
    let config = SessionConfig::new()
        .with_target_partitions(1)
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false);
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)));
    let context = SessionContext::new_with_config_rt(config, runtime.build_arc().map_err(engine_error)?);
    let once: Arc<dyn PartitionStream> = Arc::new(Once { schema: schema.clone(), batches: Mutex::new(Some(batches)) });
    let table = StreamingTable::try_new(schema, vec![once]).map_err(engine_error)?;
    let order = by.iter().map(|name| Expr::Column(Column::from_name(name)).sort(true, false)).collect();
    let frame = context.read_table(Arc::new(table)).and_then(|frame| frame.sort(order)).map_err(engine_error)?;
    let rows = frame.execute_stream().await.map_err(engine_error)?;
    Ok(rows.map_err(engine_error).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, Error, Stage};
    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;

    fn batches() -> (SchemaRef, Vec<RecordBatch>) {
        let some = |seed: i64| {
            let numbers = (0..8_192).map(|i| if i == 7 { None } else { Some((i * 7_919 + seed) % 8_191) });
            let numbers: ArrayRef = Arc::new(numbers.collect::<Int64Array>());
            let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..8_192).map(|i| format!("text {i:060}"))));
            RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", texts, true)]).unwrap()
        };
        let batches: Vec<RecordBatch> = (0..80).map(some).collect();
        (batches[0].schema(), batches)
    }

    /// The pool holds a part of the rows only, so the rest was in files.
    #[tokio::test]
    async fn rows_are_sorted_in_little_memory() {
        let (schema, all) = batches();
        let bytes: usize = all.iter().map(RecordBatch::get_array_memory_size).sum();
        let (memory, rows) = (20 << 20, 80 * 8_192);
        assert!(bytes > 2 * memory, "{bytes}");
        let stream = futures::stream::iter(all.into_iter().map(Ok)).boxed();
        let sorted = sorted(stream, schema, &["n".to_owned()], memory).await.unwrap();
        let sorted: Vec<RecordBatch> = sorted.try_collect().await.unwrap();
        let numbers: Vec<Option<i64>> =
            sorted.iter().flat_map(|b| b["n"].as_primitive::<Int64Type>().iter().collect::<Vec<_>>()).collect();
        assert_eq!(numbers.len(), rows);
        assert!(numbers.is_sorted_by_key(|n| (n.is_none(), *n)), "in order, nulls last");
    }

    #[tokio::test]
    async fn an_error_of_the_rows_stays_what_it_was() {
        let (schema, _) = batches();
        let lost = Error::new(Stage::Lake, Class::InputLost, "a file is gone");
        let stream = futures::stream::iter([Err(lost)]).boxed();
        let ended = match sorted(stream, schema, &["n".to_owned()], 1 << 24).await {
            Ok(rows) => rows.try_collect::<Vec<_>>().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!((ended.class, ended.message.as_str()), (Class::InputLost, "a file is gone"));
    }
}

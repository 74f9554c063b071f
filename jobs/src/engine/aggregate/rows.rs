//! Streams of rows as a table that DataFusion can read once.
//!
//! Columns are taken by name, so a stream may hold more than is asked for and in any order. A second
//! reading is an error: without it, it would find no rows and say nothing.

use crate::error::{Class, Error, Result, Stage};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use deltalake::datafusion::catalog::{Session, TableProvider};
use deltalake::datafusion::common::{DataFusionError, Result as EngineResult};
use deltalake::datafusion::execution::TaskContext;
use deltalake::datafusion::logical_expr::{Expr, TableType};
use deltalake::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use deltalake::datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use futures::stream::{BoxStream, StreamExt};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows as they come; an error ends them.
pub type Batches = BoxStream<'static, Result<RecordBatch>>;

/// Streams of one schema, each read by one thread.
pub(super) struct Rows {
    schema: SchemaRef,
    parts: Vec<Arc<Mutex<Option<Batches>>>>,
}

impl Rows {
    /// Rows of `schema`; without any stream there are none.
    pub(super) fn new(schema: SchemaRef, parts: Vec<Batches>) -> Arc<Self> {
        let parts = if parts.is_empty() { vec![futures::stream::empty().boxed()] } else { parts };
        Arc::new(Self { schema, parts: parts.into_iter().map(|p| Arc::new(Mutex::new(Some(p)))).collect() })
    }

    /// The rows as a node of a physical plan, with the columns of `schema`.
    pub(super) fn node(&self, schema: &SchemaRef) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let part = |rows: &Arc<Mutex<Option<Batches>>>| -> Arc<dyn PartitionStream> {
            Arc::new(Part { schema: Arc::clone(schema), rows: Arc::clone(rows) })
        };
        let parts = self.parts.iter().map(part).collect();
        Ok(Arc::new(StreamingTableExec::try_new(Arc::clone(schema), parts, None, None, false, None)?))
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for Rows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        self.node(&schema)
    }
}

/// One stream, with the columns that are asked for.
struct Part {
    schema: SchemaRef,
    rows: Arc<Mutex<Option<Batches>>>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").finish_non_exhaustive()
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        let rows = rows.unwrap_or_else(|| {
            let twice = Error::new(Stage::Query, Class::Internal, "rows of an aggregate are read a second time");
            futures::stream::iter([Err(twice)]).boxed()
        });
        let schema = Arc::clone(&self.schema);
        let batches = rows.map(move |batch| {
            let batch = batch.map_err(|e| DataFusionError::External(Box::new(e)))?;
            select(&batch, &schema)
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

/// The columns of `schema`, by name.
fn select(batch: &RecordBatch, schema: &SchemaRef) -> EngineResult<RecordBatch> {
    let columns = schema.fields().iter().map(|field| {
        batch.column_by_name(field.name()).cloned().ok_or_else(|| {
            let message = format!("the rows of an aggregate lack the column `{}`", field.name());
            DataFusionError::External(Box::new(Error::new(Stage::Query, Class::Internal, message)))
        })
    });
    let columns = columns.collect::<EngineResult<Vec<_>>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

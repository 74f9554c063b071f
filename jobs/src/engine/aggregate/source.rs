//! What an aggregate knows of its pipeline.

use crate::land::schema::raw_schema;
use crate::project::settings::{EventTime, Pipeline};
use arrow::datatypes::SchemaRef;
use deltalake::datafusion::logical_expr::{Expr, lit};

/// A pipeline as the source of an aggregate.
#[derive(Debug, Clone)]
pub struct Source {
    /// Name of the pipeline, in SQL too.
    pub name: String,
    /// All columns of its raw table.
    pub schema: SchemaRef,
    /// Path of the event time in them.
    pub event_time: Vec<String>,
    /// Rows further behind than this are late, ms.
    pub lateness_ms: i64,
}

impl Source {
    /// The raw table of a pipeline.
    #[must_use]
    pub fn of(pipeline: &Pipeline) -> Self {
        let event_time = match &pipeline.event_time {
            EventTime::Field(path) => path.clone(),
            EventTime::KafkaTime => vec!["_kafka_time".to_owned()],
        };
        let lateness_ms = i64::try_from(pipeline.lateness.as_millis()).unwrap_or(i64::MAX);
        Self { name: pipeline.name.clone(), schema: raw_schema(pipeline), event_time, lateness_ms }
    }

    /// Whether a row is late; null, as fills have it, is not.
    pub(super) fn is_late(&self, behind_ms: Expr) -> Expr {
        behind_ms.gt(lit(self.lateness_ms))
    }
}

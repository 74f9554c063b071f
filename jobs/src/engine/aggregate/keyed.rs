//! Which rows of raw go into the window of a key: their places, after WHERE and joins.

use super::compute::Bucket;
use super::definition::Definition;
use super::rows::{Batches, Rows};
use crate::error::{Class, Error, Result, Stage};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use deltalake::datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A topic, a partition, an offset.
pub type PlaceOfRow = (String, i32, i64);

impl Definition {
    /// The places of those of `rows` whose keys have these values, as texts, by the keys' names; `None` for null.
    /// Streams hold at least the columns `needed_keyed`.
    ///
    /// # Errors
    /// A stream's own error, or a key cannot be computed.
    pub async fn places_of(
        &self,
        rows: Vec<Batches>,
        keys: &BTreeMap<String, Option<String>>,
    ) -> Result<BTreeSet<PlaceOfRow>> {
        let rows = Rows::new(Arc::clone(&self.source_schema), rows);
        let (input, _) = self.keyed.plan(&self.session, rows, Bucket::ALL).await.map_err(|e| self.failed(e))?;
        let mut batches = execute_stream(input, self.session.state.task_ctx()).map_err(|e| self.failed(e))?;
        let wanted: BTreeMap<usize, &Option<String>> =
            self.keys().filter_map(|column| Some((column.key?, keys.get(&column.name)?))).collect();
        let mut places = BTreeSet::new();
        while let Some(batch) = batches.next().await.transpose().map_err(|e| self.failed(e))? {
            places.extend(matching(&batch, &wanted)?);
        }
        Ok(places)
    }
}

fn matching(batch: &RecordBatch, wanted: &BTreeMap<usize, &Option<String>>) -> Result<Vec<PlaceOfRow>> {
    let broken = || Error::new(Stage::Query, Class::Internal, "rows with their keys have other columns");
    let texts = |column: &ArrayRef| {
        cast(column, &DataType::Utf8)
            .map_err(|e| Error::new(Stage::Query, Class::User, "a key cannot be spelled as a text").because(e))
    };
    let keys = wanted.iter().map(|(n, value)| {
        let column = batch.columns().get(*n).ok_or_else(broken)?;
        Ok((texts(column)?, value.as_deref()))
    });
    let keys = keys.collect::<Result<Vec<_>>>()?;
    let column = |name: &str| batch.column_by_name(name).ok_or_else(broken);
    let topics = texts(column("_topic")?)?;
    let partitions = column("_partition")?.as_primitive_opt::<Int32Type>().ok_or_else(broken)?;
    let offsets = column("_offset")?.as_primitive_opt::<Int64Type>().ok_or_else(broken)?;
    let is_it = |row: &usize| {
        keys.iter().all(|(column, wanted)| {
            let texts = column.as_string::<i32>();
            texts.is_valid(*row).then(|| texts.value(*row)) == *wanted
        })
    };
    let rows = (0..batch.num_rows()).filter(is_it);
    let topics = topics.as_string::<i32>();
    Ok(rows.map(|row| (topics.value(row).to_owned(), partitions.value(row), offsets.value(row))).collect())
}

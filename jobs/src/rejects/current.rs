//! The current state of rejects: what their table, `ops.resolutions` and raw say together.
//!
//! Read in this order, so that whoever redrives meanwhile is seen at the latest in raw: resolutions, rejects, raw.
//! Of raw only the places are read, and only of files that may hold a reject's.

use super::resolutions::{Resolutions, Settled};
use crate::batch::texts;
use crate::error::{Class, Error, Result, Stage};
use crate::fill::{PLACE, Places, each_place, scan};
use crate::lake::{Lake, Table, TableName};
use crate::land::schema::timestamp_type;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use deltaworks_core::place::Offset;
use deltaworks_core::resolution::{Facts, Resolution, Standing, standing};
use deltaworks_core::units::Pin;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How the view of the current state is called: `rejects.<pipeline>_current`.
pub const CURRENT: &str = "_current";

/// The current state of one rejects table.
#[derive(Debug)]
pub struct Current {
    /// The rejects.
    pub rejects: Table,
    /// What was said of them.
    pub resolutions: Resolutions,
    /// Rejects whose row is in raw, and of which nobody has said so yet.
    pub unsaid: Vec<Settled>,
    in_raw: Places,
    next: BTreeMap<String, BTreeMap<i32, Offset>>,
}

impl Current {
    /// Reads the state of the rejects of a pipeline; `None` if it has no such table.
    ///
    /// # Errors
    /// A table cannot be read.
    pub async fn load(lake: &Lake, pipeline: &str) -> Result<Option<Self>> {
        let name = TableName::new("rejects", pipeline);
        let Some(mut rejects) = lake.open_table(&name).await? else { return Ok(None) };
        let resolutions = Resolutions::load(lake, pipeline, rejects.id()).await?;
        rejects.refresh().await?;
        let mut unsettled = Places::default();
        let redriven = resolutions.redriven();
        let add = |batch: &RecordBatch| {
            each_place(batch, |_, topic, partition, offset| {
                if !redriven.contains(topic, partition, offset) {
                    unsettled.insert(topic, partition, offset);
                }
            })
        };
        scan(&rejects, rejects.live_files().await?, &PLACE, add).await?;
        let mut current =
            Self { rejects, resolutions, unsaid: Vec::new(), in_raw: Places::default(), next: BTreeMap::new() };
        if let Some(raw) = lake.open_table(&TableName::new("raw", pipeline)).await? {
            current.look_into_raw(&raw, pipeline, &unsettled).await?;
        }
        Ok(Some(current))
    }

    async fn look_into_raw(&mut self, raw: &Table, pipeline: &str, unsettled: &Places) -> Result<()> {
        let txns = raw.txns();
        self.next = Pin::of_snapshot(pipeline, raw.id().to_owned(), raw.version(), txns, None, BTreeMap::new()).next;
        let (in_raw, unsaid) = (&mut self.in_raw, &mut self.unsaid);
        let columns = [&PLACE[..], &["_fill"]].concat();
        let found = |batch: &RecordBatch| {
            // a file older than the column has no fills
            let fills = batch.column_by_name("_fill").and_then(|column| column.as_primitive_opt::<Int64Type>());
            each_place(batch, |row, topic, partition, offset| {
                if unsettled.contains(topic, partition, offset) && in_raw.insert(topic, partition, offset) {
                    let fill = fills.filter(|fills| fills.is_valid(row)).map(|fills| fills.value(row));
                    unsaid.push(Settled { topic: topic.to_owned(), partition, offset, fill });
                }
            })
        };
        let mut files = raw.live_files().await?;
        files.retain(|file| unsettled.may_lie_in(file));
        scan(raw, files, &columns, found).await
    }

    /// How one reject stands.
    #[must_use]
    pub fn standing(&self, topic: &str, partition: i32, offset: i64) -> Standing {
        let next = self.next.get(topic).and_then(|of| of.get(&partition));
        standing(Facts {
            in_raw: self.in_raw.contains(topic, partition, offset),
            redriven: self.resolutions.redriven().contains(topic, partition, offset),
            discarded: self.resolutions.discarded().contains(topic, partition, offset),
            // rows of files have no next
            below_next: partition < 0 || next.is_some_and(|next| offset < next.0),
        })
    }

    /// The rejects that are settled, each once: `settled_topic`, `settled_partition`, `settled_offset`,
    /// `resolution`, `because`, `fill`, `resolved_run`, `resolved_at`. Null is what nobody said.
    ///
    /// # Errors
    /// `ops.resolutions` cannot be read.
    pub async fn settled(&self) -> Result<Vec<RecordBatch>> {
        let rows = self.resolutions.rows().await?;
        let mut taken = Places::default();
        let mut settled = vec![self.unsaid_rows()?];
        for what in [Resolution::Redriven, Resolution::Discarded] {
            for batch in &rows {
                let mut keep = Vec::with_capacity(batch.num_rows());
                let resolutions = texts(batch, "resolution")?;
                each_place(batch, |row, topic, partition, offset| {
                    let counts = self.standing(topic, partition, offset) == Standing::Settled(what);
                    let said = resolutions.value(row) == what.as_str();
                    keep.push(counts && said && taken.insert(topic, partition, offset));
                })?;
                let kept = filter_record_batch(batch, &BooleanArray::from(keep)).map_err(broken)?;
                settled.push(renamed(&kept)?);
            }
        }
        Ok(settled)
    }

    fn unsaid_rows(&self) -> Result<RecordBatch> {
        let (schema, rows) = (settled_schema(), &self.unsaid);
        let columns = schema.fields().iter().map(|field| -> ArrayRef {
            match field.name().as_str() {
                "settled_topic" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.topic))),
                "settled_partition" => Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.partition))),
                "settled_offset" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.offset))),
                "resolution" => Arc::new(StringArray::new_repeated(Resolution::Redriven.as_str(), rows.len())),
                "fill" => Arc::new(rows.iter().map(|row| row.fill).collect::<Int64Array>()),
                _ => new_null_array(field.data_type(), rows.len()),
            }
        });
        RecordBatch::try_new(schema.clone(), columns.collect()).map_err(broken)
    }
}

/// The columns of [`Current::settled`].
#[must_use]
pub fn settled_schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        field("settled_topic", DataType::Utf8),
        field("settled_partition", DataType::Int32),
        field("settled_offset", DataType::Int64),
        field("resolution", DataType::Utf8),
        field("because", DataType::Utf8),
        field("fill", DataType::Int64),
        field("resolved_run", DataType::Utf8),
        field("resolved_at", timestamp_type()),
    ]))
}

/// Rows of `ops.resolutions` under the names of [`settled_schema`].
fn renamed(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = settled_schema();
    let columns = schema.fields().iter().map(|field| {
        let name = match field.name().as_str() {
            "settled_topic" => "_topic",
            "settled_partition" => "_partition",
            "settled_offset" => "_offset",
            "resolved_run" => "run_id",
            "resolved_at" => "at",
            other => other,
        };
        batch.column_by_name(name).cloned().unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).map_err(broken)
}

fn broken(source: arrow::error::ArrowError) -> Error {
    Error::new(Stage::Fill, Class::Internal, "the current state of rejects cannot be put together").because(source)
}

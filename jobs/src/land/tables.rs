//! The tables of a pipeline: what they are called, how they are partitioned, how their files are
//! encoded.

use super::schema::{raw_schema, rejects_schema};
use crate::lake::{FileProfile, TableName, TableSpec};
use crate::project::contract::{Column, Kind, Source};
use crate::project::settings::Pipeline;
use arrow::datatypes::{Schema, SchemaRef};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Partition column of rejects tables.
pub const REJECT_DATE: &str = "reject_date";

/// `raw.<pipeline>`.
#[must_use]
pub fn raw_name(pipeline: &Pipeline) -> TableName {
    TableName::new("raw", &pipeline.name)
}

/// `rejects.<pipeline>`.
#[must_use]
pub fn rejects_name(pipeline: &Pipeline) -> TableName {
    TableName::new("rejects", &pipeline.name)
}

/// The raw table as the contract wants it.
#[must_use]
pub fn raw_table(pipeline: &Pipeline) -> TableSpec {
    TableSpec {
        name: raw_name(pipeline),
        schema: raw_schema(pipeline),
        partition_columns: raw_partition_columns(pipeline),
        properties: BTreeMap::new(),
        description: Some(format!("every valid event of topic {}, as it was landed", pipeline.topic)),
    }
}

/// The rejects table. It is marked personal if the contract has personal fields: payloads hold them.
#[must_use]
pub fn rejects_table(pipeline: &Pipeline) -> TableSpec {
    let mut properties = BTreeMap::new();
    if pipeline.contract.personal {
        properties.insert("deltaworks.personal".to_owned(), "true".to_owned());
    }
    properties.insert("deltaworks.retention_days".to_owned(), pipeline.rejects.retention_days.to_string());
    TableSpec {
        name: rejects_name(pipeline),
        schema: rejects_schema(),
        partition_columns: vec![REJECT_DATE.to_owned()],
        properties,
        description: Some(format!("every message of topic {} that broke the contract", pipeline.topic)),
    }
}

/// `event_date`, then what the pipeline adds.
#[must_use]
pub fn raw_partition_columns(pipeline: &Pipeline) -> Vec<String> {
    std::iter::once("event_date".to_owned()).chain(pipeline.partition_by.iter().cloned()).collect()
}

/// How raw files are encoded: the event id and kept JSON hardly repeat, offsets grow steadily.
#[must_use]
pub fn raw_profile(pipeline: &Pipeline) -> FileProfile {
    let unique = |c: &&Column| c.is_id || matches!(c.kind, Kind::Json);
    let columns = pipeline.contract.columns.iter().filter(unique).map(|c| c.name.clone());
    FileProfile::new(without(&raw_schema(pipeline), &raw_partition_columns(pipeline)))
        .unique(columns.chain(["_extra".to_owned()]))
        .steady(["_partition", "_offset", "_behind_ms"])
}

/// How rejects files are encoded.
#[must_use]
pub fn rejects_profile() -> FileProfile {
    FileProfile::new(without(&rejects_schema(), &[REJECT_DATE.to_owned()]))
        .unique(["key", "payload"])
        .steady(["_offset"])
}

/// Whether any column comes from a header: only then are headers read at all.
#[must_use]
pub fn wants_headers(pipeline: &Pipeline) -> bool {
    pipeline.contract.columns.iter().any(|c| matches!(c.source, Source::Header(_)))
}

fn without(schema: &SchemaRef, dropped: &[String]) -> SchemaRef {
    let kept: Vec<_> = schema.fields().iter().filter(|f| !dropped.contains(f.name())).cloned().collect();
    Arc::new(Schema::new(kept))
}

//! The facets that are told, each by the version of its schema that is followed here.
//!
//! `deltaworks_offsets` is our own, hence the prefix: OpenLineage has none for the positions of a topic.

use super::event::PRODUCER;
use super::job::{Parent, RunOf};
use crate::lake::Offsets;
use crate::quality::{Ruling, Rulings};
use arrow::datatypes::{DataType, Fields, Schema};
use deltaworks_core::quality::Severity;
use deltaworks_core::units::Interval;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Columns that the facet of a schema lists, those of all levels together.
const FIELDS_MAX: usize = 2_000;

/// A facet whose schema is OpenLineage's, such as `1-0-1/ErrorMessageRunFacet`.
fn facet(schema: &str, body: Value) -> Value {
    let name = schema.split_once('/').map_or(schema, |(_, name)| name);
    of(format!("https://openlineage.io/spec/facets/{schema}.json#/$defs/{name}"), body)
}

fn of(schema: String, body: Value) -> Value {
    let mut facet = Map::new();
    facet.insert("_producer".to_owned(), json!(PRODUCER));
    facet.insert("_schemaURL".to_owned(), json!(schema));
    if let Value::Object(body) = body {
        facet.extend(body);
    }
    Value::Object(facet)
}

pub(super) fn processing_engine() -> Value {
    let version = env!("CARGO_PKG_VERSION");
    facet("1-1-1/ProcessingEngineRunFacet", json!({ "name": "deltaworks", "version": version }))
}

pub(super) fn error_message(message: &str) -> Value {
    facet("1-0-1/ErrorMessageRunFacet", json!({ "message": message, "programmingLanguage": "RUST" }))
}

pub(super) fn parent(parent: &Parent) -> Value {
    let mut body = named(&parent.run);
    body["root"] = named(&parent.root);
    facet("1-2-0/ParentRunFacet", body)
}

fn named(RunOf { namespace, name, run_id }: &RunOf) -> Value {
    json!({ "run": { "runId": run_id }, "job": { "namespace": namespace, "name": name } })
}

/// The interval that a run was asked for; none without a start, which the facet needs.
pub(super) fn nominal_time(interval: Interval) -> Option<Value> {
    let mut body = json!({ "nominalStartTime": interval.from?.to_string() });
    if let Some(to) = interval.to {
        body["nominalEndTime"] = json!(to.to_string());
    }
    Some(facet("1-0-1/NominalTimeRunFacet", body))
}

pub(super) fn job_type(endless: bool) -> Value {
    let processing = if endless { "STREAMING" } else { "BATCH" };
    let body = json!({ "processingType": processing, "integration": "DELTAWORKS", "jobType": "JOB" });
    facet("2-0-4/JobTypeJobFacet", body)
}

pub(super) fn data_source(name: &str, uri: &str) -> Value {
    facet("1-0-1/DatasourceDatasetFacet", json!({ "name": name, "uri": uri }))
}

pub(super) fn version(version: i64) -> Value {
    facet("1-0-1/DatasetVersionDatasetFacet", json!({ "datasetVersion": version.to_string() }))
}

pub(super) fn schema(schema: &Schema) -> Value {
    let mut left = FIELDS_MAX;
    facet("1-2-0/SchemaDatasetFacet", json!({ "fields": fields(schema.fields(), &mut left) }))
}

fn fields(all: &Fields, left: &mut usize) -> Vec<Value> {
    let mut told = Vec::new();
    for field in all {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let mut one = json!({ "name": field.name(), "type": type_name(field.data_type()) });
        if let DataType::Struct(inner) = field.data_type() {
            one["fields"] = json!(fields(inner, left));
        }
        told.push(one);
    }
    told
}

/// As Delta calls it.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".to_owned(),
        DataType::Int8 => "byte".to_owned(),
        DataType::Int16 => "short".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "long".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamp".to_owned(),
        DataType::Timestamp(_, None) => "timestamp_ntz".to_owned(),
        DataType::Decimal128(digits, scale) => format!("decimal({digits},{scale})"),
        DataType::Struct(_) => "struct".to_owned(),
        DataType::List(item) | DataType::LargeList(item) => format!("array<{}>", type_name(item.data_type())),
        DataType::Map(..) => "map".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn input_statistics(rows: u64) -> Value {
    facet("1-0-0/InputStatisticsInputDatasetFacet", json!({ "rowCount": rows }))
}

pub(super) fn output_statistics(rows: u64, bytes: u64, files: u64) -> Value {
    let body = json!({ "rowCount": rows, "size": bytes, "fileCount": files });
    facet("1-0-2/OutputStatisticsOutputDatasetFacet", body)
}

/// From which offset to which each partition was read that moved.
pub(super) fn offsets(partitions: &BTreeMap<i32, Offsets>) -> Value {
    let one = |(partition, offsets): (&i32, &Offsets)| {
        (partition.to_string(), json!({ "from": offsets.from, "next": offsets.next }))
    };
    let partitions: BTreeMap<String, Value> = partitions.iter().map(one).collect();
    of("urn:deltaworks:facet:offsets:1-0-0".to_owned(), json!({ "partitions": partitions }))
}

/// The rules of one table; none if none was judged.
pub(super) fn assertions(rulings: &Rulings, table: &str) -> Option<Value> {
    let of_table = rulings.0.iter().filter(|((of, _), _)| of == table);
    let assertions: Vec<Value> = of_table.map(|((_, rule), ruling)| assertion(rule, ruling)).collect();
    (!assertions.is_empty())
        .then(|| facet("1-1-0/DataQualityAssertionsDatasetFacet", json!({ "assertions": assertions })))
}

fn assertion(rule: &str, ruling: &Ruling) -> Value {
    let (date, value) = ruling.example;
    let mut told = json!({
        "assertion": classification(ruling.measure),
        "name": rule,
        "success": ruling.breached == 0,
        "severity": match ruling.severity {
            Severity::Error => "error",
            Severity::Warning => "warn",
            Severity::Info => "info",
        },
        "expected": format!("{} {}", ruling.measure, ruling.must),
        "description": format!("{} of {} dates breach it; `actual` is of {date}", ruling.breached, ruling.dates),
    });
    if let Some(value) = value {
        told["actual"] = json!(value.to_string());
    }
    if let Some(column) = &ruling.column {
        told["column"] = json!(column);
    }
    told
}

/// OpenLineage's word for what a rule measures.
fn classification(measure: &str) -> &'static str {
    match measure {
        "null values" => "not_null",
        "missing values" => "not_missing",
        "invalid values" => "valid",
        "duplicate values" => "unique",
        "row count" => "row_count",
        _ => "custom_sql",
    }
}

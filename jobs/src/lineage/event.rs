//! One OpenLineage event, as spec 2-0-2 has it.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The version of the spec, and where in it an event is described.
pub(super) const SPEC: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
/// Who tells.
pub(super) const PRODUCER: &str = concat!("urn:deltaworks:", env!("CARGO_PKG_VERSION"));

/// Facets by key; each has `_producer` and `_schemaURL`.
pub type Facets = BTreeMap<&'static str, Value>;

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventType {
    /// It begins.
    Start,
    /// It goes on.
    Running,
    /// It is done, or had nothing to do.
    Complete,
    /// It was stopped.
    Abort,
    /// It failed.
    Fail,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunEvent {
    /// What became of the run.
    pub event_type: EventType,
    /// When, RFC 3339.
    pub event_time: String,
    /// The run.
    pub run: Run,
    /// The job.
    pub job: JobId,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// What it writes.
    pub outputs: Vec<Output>,
    /// Who tells.
    pub producer: &'static str,
    /// Where the form of this is described.
    #[serde(rename = "schemaURL")]
    pub schema_url: &'static str,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// A UUID.
    pub run_id: String,
    /// What is told of it.
    pub facets: Facets,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobId {
    /// Namespace.
    pub namespace: String,
    /// Name in it.
    pub name: String,
    /// What is told of it.
    pub facets: Facets,
}

/// A dataset that is read.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// Namespace.
    pub namespace: String,
    /// Name in it.
    pub name: String,
    /// What it is.
    pub facets: Facets,
    /// What was read of it.
    pub input_facets: Facets,
}

/// A dataset that is written.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// Namespace.
    pub namespace: String,
    /// Name in it.
    pub name: String,
    /// What it is.
    pub facets: Facets,
    /// What was written of it.
    pub output_facets: Facets,
}

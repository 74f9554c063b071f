//! What was typed in `deltaworks.yaml`: the shape of the file and its JSON Schema.
//!
//! These types are the only list of known keys: [`super::shape`] checks a file against the schema
//! that they give, and editors complete the file from a copy of it. Defaults and meaning are decided
//! in [`super::validate`]; durations, sizes and instants are still text here.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// Project file of deltaworks. `${VAR}` and `${VAR:-default}` in any value come from the environment.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "deltaworks.yaml")]
#[expect(dead_code, reason = "gives the schema; its parts are read one by one, so that one error hides no other")]
pub(super) struct Project {
    /// Version of this file's format: 1.
    #[schemars(range(min = 1, max = 1))]
    pub(super) version: u32,
    /// Where the tables are: a path relative to this file, or a `file:`, `s3://` or `memory:` URL.
    pub(super) lake: String,
    /// Options of the object store, under the names of the Rust crate `object_store` (such as
    /// `aws_endpoint`). An option whose value is empty counts as not given.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, OptionText>>")]
    pub(super) storage: BTreeMap<String, OptionText>,
    /// Options of librdkafka, under its own names (such as `bootstrap.servers`). An option whose
    /// value is empty counts as not given.
    pub(super) kafka: BTreeMap<String, OptionText>,
    /// Byte budget of one process, such as `256MiB`; at least 64MiB. Default 256MiB.
    pub(super) memory: Option<String>,
    /// When `stream` reconciles by itself.
    pub(super) served: Option<Served>,
    /// Where OpenLineage events of the jobs go. Without it, the variables `OPENLINEAGE_URL` and so on are followed.
    pub(super) lineage: Option<Lineage>,
    /// Pipelines by name: one topic landed in one raw table each.
    pub(super) pipelines: BTreeMap<String, Pipeline>,
    /// Paths of aggregate SQL files, relative to this file.
    #[serde(default)]
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) aggregates: Vec<String>,
    /// Small reference tables by name.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, Lookup>>")]
    pub(super) lookups: BTreeMap<String, Lookup>,
}

/// When `stream` reconciles by itself.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Served {
    /// Pause between the end of one pass over its aggregates and the next, such as `10s`. Off by default:
    /// `reconcile` is called by a scheduler.
    pub(super) every: Option<String>,
}

/// Where OpenLineage events of the jobs go: to a `url` or into a `file`. A key whose value is empty counts as not given.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lineage {
    /// `http://` or `https://` URL of the service, such as `http://marquez:5000`.
    pub(super) url: Option<String>,
    /// Path below `url` that takes events. Default `api/v1/lineage`.
    pub(super) endpoint: Option<String>,
    /// Sent as `Authorization: Bearer …`; write `${VAR}`.
    pub(super) api_key: Option<OptionText>,
    /// Further headers.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, OptionText>>")]
    pub(super) headers: BTreeMap<String, OptionText>,
    /// Path of a file, relative to this one, that gets one event a line.
    pub(super) file: Option<String>,
    /// Namespace of the jobs. Default `deltaworks`.
    pub(super) namespace: Option<String>,
    /// Pause between two events of a job that goes on. Default `5m`.
    pub(super) every: Option<String>,
}

/// One topic landed in one raw table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pipeline {
    /// Kafka topic.
    pub(super) topic: String,
    /// Consumer group. Default `deltaworks.<pipeline>`.
    pub(super) group: Option<String>,
    /// Path of the data contract (ODCS v3.1), relative to this file.
    #[expect(dead_code, reason = "read from the tree, where its place is known")]
    pub(super) contract: String,
    /// Where the event time comes from: a required timestamp field (dotted if nested), or `kafka_time`.
    pub(super) event_time: String,
    /// Events further behind the newest one of their partition than this are late, such as `1h`.
    pub(super) lateness: Option<String>,
    /// A partition with nothing to read for this long no longer holds its table open, such as `5m`.
    pub(super) idle_after: Option<String>,
    /// Events further ahead of the clock than this are rejects, such as `5m`.
    pub(super) max_ahead: Option<String>,
    /// Events before this instant (RFC 3339) are rejects. Off by default.
    pub(super) min_event_time: Option<String>,
    /// What happens to fields that the contract does not know. Default `ignore`.
    pub(super) extra_fields: Option<ExtraFields>,
    /// What happens to messages without payload. Default `reject`.
    pub(super) tombstones: Option<Tombstones>,
    /// Partition columns after `event_date`: required columns of type string, integer or date.
    #[serde(default)]
    #[schemars(with = "Option<Vec<String>>")]
    pub(super) partition_by: Vec<String>,
    /// Columns that do not come from the field of their name.
    #[serde(default)]
    #[schemars(with = "Option<BTreeMap<String, ColumnSource>>")]
    pub(super) columns: BTreeMap<String, ColumnSource>,
    /// Event ids remembered per partition, to mark repeats; 0 switches it off. Default 100000.
    pub(super) repeat_rows: Option<u64>,
    /// Larger messages are rejects, such as `8MiB`.
    pub(super) max_message_bytes: Option<String>,
    /// Deeper nesting is a reject. Default 64.
    #[schemars(range(min = 1, max = 128))]
    pub(super) max_depth: Option<u64>,
    /// When to commit: whichever is first.
    pub(super) commit: Option<Commit>,
    /// When rejects stop the job, and how long they are kept.
    pub(super) rejects: Option<Rejects>,
}

/// What happens to fields that the contract does not know.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum ExtraFields {
    /// They are left out.
    Ignore,
    /// Top-level ones are kept as one JSON object in the column `_extra`.
    Keep,
    /// The message is a reject.
    Reject,
}

/// What happens to messages without payload.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Tombstones {
    /// They are rejects.
    Reject,
    /// They are skipped and counted.
    Skip,
}

/// Where a column comes from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ColumnSource {
    /// What of the message.
    pub(super) from: Origin,
    /// Name of the header, with `from: header`.
    pub(super) name: Option<String>,
}

/// What of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Origin {
    /// Its key, as text.
    Key,
    /// The last header of a name, as text.
    Header,
    /// Its topic, a text.
    Topic,
    /// Its partition, an integer.
    Partition,
    /// Its offset, an integer.
    Offset,
    /// Kafka's time of it, a timestamp.
    KafkaTime,
}

/// When to commit: whichever is first.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Commit {
    /// Age of the oldest uncommitted message. Default `60s`.
    pub(super) every: Option<String>,
    /// Payload bytes. Default `128MiB`.
    pub(super) bytes: Option<String>,
    /// Rows. Default 1000000.
    pub(super) rows: Option<u64>,
}

/// When rejects stop the job, and how long they are kept.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rejects {
    /// More rejects than this in one run stop it: a share such as `1%` or a count such as `500`.
    /// Off by default.
    pub(super) limit: Option<OptionText>,
    /// How long rejects are kept, in whole days. Default `30d`.
    pub(super) retention: Option<String>,
}

/// A small reference table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "gives the schema; its parts are read from the tree, where their places are known")]
pub(super) struct Lookup {
    /// Path of a `.csv` or `.parquet` file or of the folder of a Delta table, relative to this file.
    pub(super) path: String,
    /// Its key column, unique.
    pub(super) key: String,
}

/// A text that may be typed as a number or a boolean too.
#[derive(Clone, Deserialize)]
pub(super) struct OptionText(pub(super) String);

/// Hides the value: it may be a secret.
impl fmt::Debug for OptionText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl JsonSchema for OptionText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "OptionText".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// The JSON Schema of `deltaworks.yaml`.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Project).to_value()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_schema_is_current() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/deltaworks.schema.json");
        let current = format!("{:#}\n", super::json_schema());
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            std::fs::write(file, &current).unwrap();
        }
        let committed = std::fs::read_to_string(file).unwrap();
        assert!(
            committed == current,
            "run the tests with UPDATE_FIXTURES=1 to write schemas/deltaworks.schema.json anew"
        );
    }
}

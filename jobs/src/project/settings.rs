//! What is used: the project after defaults, variables and validation. What was typed is in
//! [`super::config`].

use super::contract::Contract;
use super::diagnostics::Place;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Witness;
use deltaworks_core::drift::Limit;
use deltaworks_core::windows::{Granularity, Zone};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A valid project.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of `deltaworks.yaml`.
    pub dir: PathBuf,
    /// Where the tables are.
    pub lake: LakeSettings,
    /// Options of librdkafka, under its own names.
    pub kafka: Options,
    /// Byte budget of one process over librdkafka's queues, decoded rows and open files.
    pub memory_bytes: usize,
    /// Pause between two reconciles of a stream; `None` leaves them to others.
    pub served_every: Option<Duration>,
    /// Where lineage is told; `None` leaves it to the environment.
    pub lineage: Option<LineageSettings>,
    /// Pipelines in file order.
    pub pipelines: Vec<Arc<Pipeline>>,
    /// Aggregates in file order, each of one of the pipelines.
    pub aggregates: Vec<Arc<AggregateFile>>,
    /// Lookups in file order.
    pub lookups: Vec<LookupFile>,
}

impl Settings {
    /// The pipeline of this name.
    ///
    /// # Errors
    /// [`Class::User`] if there is none.
    pub fn pipeline(&self, name: &str) -> Result<&Arc<Pipeline>> {
        self.pipelines.iter().find(|pipeline| pipeline.name == name).ok_or_else(|| {
            let known: Vec<String> = self.pipelines.iter().map(|pipeline| format!("`{}`", pipeline.name)).collect();
            Error::new(Stage::Project, Class::User, format!("there is no pipeline `{name}`"))
                .hint(format!("deltaworks.yaml has {}", known.join(", ")))
        })
    }
}

/// One aggregate's SQL file: its header, read and valid, and its SELECT, not yet looked at.
#[derive(Debug, Clone)]
pub struct AggregateFile {
    /// Name of the aggregate and of its tables.
    pub name: String,
    /// The file, relative to the project.
    pub path: PathBuf,
    /// What one row is, in words.
    pub grain: String,
    /// The pipeline whose events are aggregated.
    pub from: String,
    /// Sizes of the windows, each once, from fine to coarse; at least one.
    pub windows: Vec<Granularity>,
    /// Time zone of days, weeks and months, and of every window date.
    pub zone: Zone,
    /// Days that are recomputed at once after a change of definition.
    pub redefine_days: u32,
    /// Whether partial states are kept, to show windows before they are complete.
    pub speed: bool,
    /// How much of a unit may drift before it is held back.
    pub drift_limit: Limit,
    /// The whole file: to SQL the header is a comment.
    pub sql: String,
}

/// A small reference table that aggregates may join.
#[derive(Debug, Clone)]
pub struct LookupFile {
    /// Name in SQL.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What is there.
    pub format: LookupFormat,
    /// Its key column, unique.
    pub key: String,
    /// Where `deltaworks.yaml` names the file, and where it names the key.
    pub places: (Place, Place),
}

/// What a lookup is kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupFormat {
    /// CSV with a header.
    Csv,
    /// One Parquet file.
    Parquet,
    /// The folder of a Delta table.
    Delta,
}

/// Where the tables are.
#[derive(Debug, Clone)]
pub struct LakeSettings {
    /// `file:`, `s3://` or `memory:` URL without trailing slash.
    pub url: url::Url,
    /// Options of object_store, under its own names.
    pub storage: Options,
    /// What is opened and committed there by way of these settings.
    pub witness: Witness,
}

/// Where lineage is told, and as whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineageSettings {
    /// Where to; `None` tells nobody.
    pub to: Option<Destination>,
    /// Namespace of the jobs.
    pub namespace: String,
    /// Pause between two events of a job that goes on.
    pub every: Duration,
}

/// Who hears of lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Each event is a POST.
    Http {
        /// `http:` or `https:`, without user and password.
        url: url::Url,
        /// Further headers, such as `authorization`, by name in lower case.
        headers: Options,
    },
    /// Each event is a line of this file.
    File(PathBuf),
}

/// Options passed through to a library. Their values never reach `Debug`, since any may be a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options(pub BTreeMap<String, String>);

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|k| (k, "…"))).finish()
    }
}

/// One topic landed in one raw table.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Name of the pipeline and of its tables.
    pub name: String,
    /// Kafka topic.
    pub topic: String,
    /// Consumer group; default `deltaworks.<pipeline>`.
    pub group: String,
    /// What an event is.
    pub contract: Arc<Contract>,
    /// Where the event time comes from.
    pub event_time: EventTime,
    /// Events further behind than this are late.
    pub lateness: Duration,
    /// A partition with nothing to read for this long no longer holds valid-through.
    pub idle_after: Duration,
    /// Events further ahead than this are rejects.
    pub max_ahead: Duration,
    /// Events before this are rejects, microseconds; off by default.
    pub event_time_min_us: Option<i64>,
    /// Fields that the contract does not know.
    pub extra_fields: ExtraFields,
    /// Messages without payload.
    pub tombstones: Tombstones,
    /// Partition columns after `event_date`.
    pub partition_by: Vec<String>,
    /// Remembered ids per partition, for the `_repeat` hint; 0 switches it off.
    pub repeat_rows: usize,
    /// Larger messages are rejects.
    pub message_bytes_max: usize,
    /// Deeper nesting is a reject.
    pub depth_max: usize,
    /// When to commit.
    pub commit: CommitPolicy,
    /// When rejects stop the job, and how long they are kept.
    pub rejects: RejectsPolicy,
}

/// Where the event time comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventTime {
    /// A required timestamp field, by its path in the contract's columns (one step per nesting).
    Field(Vec<String>),
    /// Kafka's timestamp.
    KafkaTime,
}

/// What happens to fields that the contract does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtraFields {
    /// They are left out.
    Ignore,
    /// Top-level ones are kept as one JSON object in `_extra`; nested ones are left out.
    Keep,
    /// The message is a reject.
    Reject,
}

/// What happens to messages without payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tombstones {
    /// They are rejects.
    Reject,
    /// They are skipped and counted.
    Skip,
}

/// When to commit: whichever is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitPolicy {
    /// Age of the oldest uncommitted message.
    pub every: Duration,
    /// Payload bytes.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
}

/// When rejects stop the job, and how long they are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RejectsPolicy {
    /// Limit over one run; `None` never stops.
    pub limit: Option<RejectsLimit>,
    /// Retention in days.
    pub retention_days: u32,
}

/// A limit on rejects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RejectsLimit {
    /// More than this many in one run.
    Count(u64),
    /// More than this share (0 to 1) of the messages of one run, once 1,000 have been read.
    Share(f64),
}

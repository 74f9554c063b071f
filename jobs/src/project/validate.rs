//! From what was typed to what is used: defaults, units, and the rules that join the config with its
//! contracts. No file is opened here; whether paths exist is for [`super::load`].
//!
//! A pipeline is judged as far as it can be read, so one error hides no other.

use super::config::{self, ColumnSource, Origin};
use super::contract::{Column, Contract, Kind, Source};
use super::diagnostics::{Place, Sink, list};
use super::lake_url::lake_url;
use super::settings::{
    CommitPolicy, EventTime, ExtraFields, LakeSettings, Options, Pipeline, RejectsLimit, RejectsPolicy, Tombstones,
};
use super::units::{self, DURATION_HINT, SIZE_HINT};
use super::yaml::{Node, Value};
use crate::lake::Witness;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const MEMORY_DEFAULT: u64 = 256 * MIB;
const MEMORY_MIN: u64 = 64 * MIB;
const HOUR: Duration = Duration::from_secs(3_600);
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const MINUTE: Duration = Duration::from_secs(60);
const REPEAT_ROWS_MAX: u64 = 100_000_000;

/// librdkafka's options that deltaworks sets itself, and why.
pub const KAFKA_OWNED: [(&str, &str); 15] = [
    ("group.id", "use `group` of a pipeline"),
    ("enable.auto.commit", "progress lives in the Delta log; the group's offsets are only told afterwards"),
    ("enable.auto.offset.store", "progress lives in the Delta log; the group's offsets are only told afterwards"),
    ("auto.commit.interval.ms", "progress lives in the Delta log; the group's offsets are only told afterwards"),
    ("auto.offset.reset", "a lost offset must stop the job; where a first run starts is `stream --start`"),
    ("isolation.level", "always `read_committed`; else aborted transactions would be landed"),
    ("enable.partition.eof", "needed to know that a partition has been read to its end"),
    ("partition.assignment.strategy", "chosen so that rebalances drop no more than they must"),
    ("queued.max.messages.kbytes", "set from `memory`"),
    ("queued.min.messages", "set from `memory`"),
    ("fetch.queue.backoff.ms", "set so that a slow consumer does not stall"),
    ("check.crcs", "always on"),
    ("allow.auto.create.topics", "a missing topic is an error; `topics create` makes it"),
    ("statistics.interval.ms", "`stream --listen` tells what there is to tell"),
    ("group.protocol", "always `classic`"),
];

/// What names of pipelines, aggregates and lookups look like.
pub(super) const TABLE_NAME_HINT: &str =
    "it names tables: a lower case letter, then lower case letters, digits and `_`, at most 100";

/// Whether a pipeline, an aggregate or a lookup may have this name.
pub(super) fn is_table_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && name.len() <= 100
}

/// One file's tree and where its complaints go.
pub(super) struct Validator<'a> {
    pub(super) sink: &'a mut Sink,
    pub(super) root: &'a Node,
}

impl Validator<'_> {
    /// Byte budget of the process.
    pub(super) fn memory(&mut self, typed: Option<&str>) -> u64 {
        let bytes = self.size(&["memory"], typed, MEMORY_DEFAULT);
        if bytes < MEMORY_MIN {
            self.wrong(
                &["memory"],
                "`memory` is below 64MiB",
                "less is not enough for librdkafka, one batch and one open file",
            );
        }
        bytes
    }

    /// Pause between two reconciles of a stream.
    pub(super) fn served_every(&mut self, typed: Option<&str>) -> Option<Duration> {
        typed.map(|typed| self.positive(&["served", "every"], Some(typed), Duration::MAX))
    }

    /// Where the tables are; `dir` is absolute.
    pub(super) fn lake(&mut self, dir: &Path, typed: &str, storage: Options) -> Option<LakeSettings> {
        let url = match lake_url(dir, typed) {
            Ok(url) => Some(url),
            Err(message) => {
                self.wrong(
                    &["lake"],
                    message,
                    "write a path, or a URL such as `s3://bucket/prefix`, `file:///data/lake` or `memory:`",
                );
                None
            }
        };
        Some(LakeSettings { url: url?, storage, witness: Witness::default() })
    }

    /// Options of librdkafka, without those that deltaworks owns.
    pub(super) fn kafka(&mut self, options: Options) -> Options {
        for (name, why) in KAFKA_OWNED {
            if let Some(place) = self.key_place(&["kafka"], name) {
                self.sink.error_with(place, format!("`{name}` belongs to deltaworks"), why);
            }
        }
        let brokers = ["bootstrap.servers", "metadata.broker.list"];
        let is_map = self.root.get("kafka").is_some_and(|k| matches!(k.value, Value::Map(_)));
        if is_map && !brokers.iter().any(|b| options.0.contains_key(*b)) {
            self.wrong(
                &["kafka"],
                "`bootstrap.servers` is missing or empty",
                "name the brokers: `bootstrap.servers: host:9092`",
            );
        }
        options
    }

    /// One pipeline.
    pub(super) fn pipeline(
        &mut self,
        name: &str,
        typed: &config::Pipeline,
        contract: Option<&Arc<Contract>>,
    ) -> Option<Pipeline> {
        let at = |key: &'static str| ["pipelines", name, key];
        self.pipeline_name(name);
        self.topic(name, &typed.topic);
        let lateness = self.duration(&at("lateness"), typed.lateness.as_deref(), HOUR);
        let idle_after = self.positive(&at("idle_after"), typed.idle_after.as_deref(), FIVE_MINUTES);
        let max_ahead = self.duration(&at("max_ahead"), typed.max_ahead.as_deref(), FIVE_MINUTES);
        let event_time_min_us = self.instant(&at("min_event_time"), typed.min_event_time.as_deref());
        let message_bytes_max = self.size(&at("max_message_bytes"), typed.max_message_bytes.as_deref(), 8 * MIB);
        if message_bytes_max == 0 || message_bytes_max > 512 * MIB {
            self.wrong(
                &at("max_message_bytes"),
                "`max_message_bytes` must be from 1B to 512MiB",
                "8MiB is the default",
            );
        }
        let repeat_rows = typed.repeat_rows.unwrap_or(100_000);
        if repeat_rows > REPEAT_ROWS_MAX {
            self.wrong(
                &at("repeat_rows"),
                "`repeat_rows` must be at most 100000000",
                "one id takes about 20 bytes of memory per partition",
            );
        }
        let commit = self.commit(name, typed.commit.as_ref());
        let rejects = self.rejects(name, typed.rejects.as_ref());
        let contract = self.sourced(name, contract?, &typed.columns);
        let event_time = self.event_time(name, &typed.event_time, &contract);
        self.partition_by(name, &typed.partition_by, &contract);
        Some(Pipeline {
            name: name.to_owned(),
            topic: typed.topic.clone(),
            group: typed.group.clone().unwrap_or_else(|| format!("deltaworks.{name}")),
            contract: Arc::new(contract),
            event_time: event_time?,
            lateness,
            idle_after,
            max_ahead,
            event_time_min_us,
            extra_fields: match typed.extra_fields {
                None | Some(config::ExtraFields::Ignore) => ExtraFields::Ignore,
                Some(config::ExtraFields::Keep) => ExtraFields::Keep,
                Some(config::ExtraFields::Reject) => ExtraFields::Reject,
            },
            tombstones: match typed.tombstones {
                None | Some(config::Tombstones::Reject) => Tombstones::Reject,
                Some(config::Tombstones::Skip) => Tombstones::Skip,
            },
            partition_by: typed.partition_by.clone(),
            repeat_rows: usize::try_from(repeat_rows).unwrap_or(usize::MAX),
            message_bytes_max: usize::try_from(message_bytes_max).unwrap_or(usize::MAX),
            depth_max: typed.max_depth.and_then(|d| usize::try_from(d).ok()).unwrap_or(64),
            commit,
            rejects,
        })
    }

    fn pipeline_name(&mut self, name: &str) {
        if !is_table_name(name)
            && let Some(place) = self.key_place(&["pipelines"], name)
        {
            let message = format!("`{}` cannot be the name of a pipeline", name.escape_debug());
            self.sink.error_with(place, message, TABLE_NAME_HINT);
        }
    }

    fn topic(&mut self, name: &str, topic: &str) {
        let good = !topic.is_empty()
            && topic.len() <= 249
            && topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && topic != "."
            && topic != "..";
        if !good {
            self.wrong(
                &["pipelines", name, "topic"],
                "this cannot be the name of a topic",
                "Kafka allows letters, digits, `.`, `_` and `-`, at most 249",
            );
        }
    }

    fn commit(&mut self, name: &str, typed: Option<&config::Commit>) -> CommitPolicy {
        let at = |key: &'static str| ["pipelines", name, "commit", key];
        let every = self.positive(&at("every"), typed.and_then(|c| c.every.as_deref()), MINUTE);
        let bytes = self.size(&at("bytes"), typed.and_then(|c| c.bytes.as_deref()), 128 * MIB);
        let rows = typed.and_then(|c| c.rows).unwrap_or(1_000_000);
        if bytes == 0 {
            self.wrong(&at("bytes"), "`bytes` must be above 0", "128MiB is the default");
        }
        if rows == 0 {
            self.wrong(&at("rows"), "`rows` must be above 0", "1000000 is the default");
        }
        CommitPolicy { every, bytes, rows }
    }

    fn rejects(&mut self, name: &str, typed: Option<&config::Rejects>) -> RejectsPolicy {
        let at = |key: &'static str| ["pipelines", name, "rejects", key];
        let limit = typed.and_then(|r| r.limit.as_ref()).map(|l| l.0.trim());
        let parsed =
            limit.and_then(|l| l.parse().map(RejectsLimit::Count).ok().or(units::share(l).map(RejectsLimit::Share)));
        if limit.is_some() && parsed.is_none() {
            self.wrong(
                &at("limit"),
                "`limit` is neither a count nor a share",
                "write `500` or `1%`; without it rejects never stop a job",
            );
        }
        let retention = typed.and_then(|r| r.retention.as_deref());
        let retention_days = match retention.map(units::days) {
            None => 30,
            Some(Some(days)) if days > 0 => days,
            Some(_) => {
                self.wrong(&at("retention"), "`retention` must be whole days, at least 1", "write `30d`");
                30
            }
        };
        RejectsPolicy { limit: parsed, retention_days }
    }

    /// The contract, with the columns that do not come from the field of their name.
    fn sourced(&mut self, name: &str, contract: &Contract, overrides: &BTreeMap<String, ColumnSource>) -> Contract {
        let mut contract = contract.clone();
        for (column_name, typed) in overrides {
            let at = ["pipelines", name, "columns", column_name];
            let names: Vec<String> = contract.columns.iter().map(|c| c.name.clone()).collect();
            let Some(column) = contract.columns.iter_mut().find(|c| c.name == *column_name) else {
                if let Some(place) = self.key_place(&at[..3], column_name) {
                    self.sink.unknown(place, "column", column_name, names.iter().map(String::as_str));
                }
                continue;
            };
            let (source, wanted, fits) = match typed.from {
                Origin::Key => (Source::Key, "string", matches!(column.kind, Kind::String)),
                Origin::Header => {
                    let header = typed.name.clone().unwrap_or_default();
                    (Source::Header(header), "string", matches!(column.kind, Kind::String))
                }
                Origin::Topic => (Source::Topic, "string", matches!(column.kind, Kind::String)),
                Origin::Partition => (Source::Partition, "integer", matches!(column.kind, Kind::Integer)),
                Origin::Offset => (Source::Offset, "integer", matches!(column.kind, Kind::Integer)),
                Origin::KafkaTime => (Source::KafkaTime, "timestamp", matches!(column.kind, Kind::Timestamp(_))),
            };
            if !fits {
                self.wrong(
                    &at,
                    format!("`{column_name}` comes from where its type does not fit: only a `{wanted}` does"),
                    "change its `logicalType`, or take it from elsewhere",
                );
            }
            if (typed.from == Origin::Header) != typed.name.as_deref().is_some_and(|n| !n.is_empty()) {
                self.wrong(
                    &at,
                    "`name` goes with `from: header`, and only with it",
                    "write `{ from: header, name: trace-id }`",
                );
            }
            column.source = source;
        }
        contract
    }

    fn event_time(&mut self, name: &str, typed: &str, contract: &Contract) -> Option<EventTime> {
        if typed == "kafka_time" {
            return Some(EventTime::KafkaTime);
        }
        let at = ["pipelines", name, "event_time"];
        let path: Vec<String> = typed.split('.').map(str::to_owned).collect();
        let mut columns = contract.columns.as_slice();
        let mut found: Option<&Column> = None;
        for step in &path {
            let Some(column) = columns.iter().find(|c| c.name == *step) else {
                let place = self.place(&at);
                let known: Vec<&str> =
                    columns.iter().map(|c| c.name.as_str()).chain(found.is_none().then_some("kafka_time")).collect();
                let step = self.shown(&at, typed, step).to_owned();
                self.sink.unknown(place, "field", &step, known);
                return None;
            };
            if !column.required {
                let step = self.shown(&at, typed, step).to_owned();
                self.wrong(
                    &at,
                    format!("`{step}` is not required"),
                    "an event without time has no date: write `required: true` in the contract",
                );
                return None;
            }
            columns = match &column.kind {
                Kind::Object(inner) => inner,
                _ => &[],
            };
            found = Some(column);
        }
        if !found.is_some_and(|c| matches!(c.kind, Kind::Timestamp(_))) {
            let stamps: Vec<&str> = contract
                .columns
                .iter()
                .filter(|c| matches!(c.kind, Kind::Timestamp(_)))
                .map(|c| c.name.as_str())
                .collect();
            let hint = if stamps.is_empty() {
                "use `kafka_time`".to_owned()
            } else {
                format!("timestamps here: {}", list(&stamps))
            };
            self.wrong(&at, "the event time must be a timestamp", hint);
            return None;
        }
        Some(EventTime::Field(path))
    }

    fn partition_by(&mut self, name: &str, typed: &[String], contract: &Contract) {
        let at = ["pipelines", name, "partition_by"];
        let nodes = self.root.at(&at).map_or(&[][..], Node::items);
        for (i, column_name) in typed.iter().enumerate() {
            let place = nodes.get(i).map_or(Place::START, |n| n.place);
            let shown = nodes.get(i).and_then(Node::scalar).map_or("", |s| s.typed.as_str());
            match contract.columns.iter().find(|c| c.name == *column_name) {
                None => self.sink.unknown(place, "column", shown, contract.columns.iter().map(|c| c.name.as_str())),
                Some(column)
                    if !column.required || !matches!(column.kind, Kind::String | Kind::Integer | Kind::Date) =>
                {
                    self.sink.error_with(
                        place,
                        format!("`{shown}` cannot be a partition column"),
                        "it must be a required string, integer or date",
                    );
                }
                Some(_) if typed[..i].contains(column_name) => {
                    self.sink.error(place, format!("`{shown}` occurs twice"));
                }
                Some(_) => {}
            }
        }
        if !contract.columns.is_empty() && contract.columns.iter().all(|c| typed.contains(&c.name)) {
            self.wrong(&at, "every column is a partition column", "leave at least one to be stored in the files");
        }
    }

    fn duration(&mut self, at: &[&str], typed: Option<&str>, default: Duration) -> Duration {
        match typed.map(units::duration) {
            None => default,
            Some(Some(duration)) => duration,
            Some(None) => {
                self.wrong(at, format!("`{}` is no duration", last(at)), DURATION_HINT);
                default
            }
        }
    }

    pub(super) fn positive(&mut self, at: &[&str], typed: Option<&str>, default: Duration) -> Duration {
        let duration = self.duration(at, typed, default);
        if duration.is_zero() {
            self.wrong(at, format!("`{}` must be above 0", last(at)), DURATION_HINT);
        }
        duration
    }

    fn size(&mut self, at: &[&str], typed: Option<&str>, default: u64) -> u64 {
        match typed.map(units::size) {
            None => default,
            Some(Some(size)) => size,
            Some(None) => {
                self.wrong(at, format!("`{}` is no size", last(at)), SIZE_HINT);
                default
            }
        }
    }

    fn instant(&mut self, at: &[&str], typed: Option<&str>) -> Option<i64> {
        let instant = typed?.parse::<jiff::Timestamp>();
        if instant.is_err() {
            self.wrong(
                at,
                format!("`{}` is no instant", last(at)),
                "write RFC 3339 with an offset, such as `2015-01-01T00:00:00Z`",
            );
        }
        instant.ok().map(jiff::Timestamp::as_microsecond)
    }

    pub(super) fn wrong(&mut self, at: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let place = self.place(at);
        self.sink.error_with(place, message, hint);
    }

    /// A part of a value for a message: as a whole and as typed, if a variable is in it.
    fn shown<'s>(&'s self, at: &[&str], text: &'s str, part: &'s str) -> &'s str {
        match self.root.at(at).and_then(Node::scalar) {
            Some(scalar) if scalar.typed != text => &scalar.typed,
            _ => part,
        }
    }

    fn place(&self, at: &[&str]) -> Place {
        self.root.at(at).map_or(Place::START, |n| n.place)
    }

    pub(super) fn key_place(&self, at: &[&str], key: &str) -> Option<Place> {
        self.root.at(at)?.entries().iter().find(|(k, _)| k.name == key).map(|(k, _)| k.place)
    }
}

fn last<'s>(at: &[&'s str]) -> &'s str {
    at.last().copied().unwrap_or_default()
}

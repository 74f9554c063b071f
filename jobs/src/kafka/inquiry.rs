//! [`super::watermarks::Watermarks`] of a Kafka broker, by librdkafka.
//!
//! A client of its own, without a group and reading uncommitted: the watermarks of a reading,
//! committed consumer end at the last stable offset, and an open transaction would then close
//! windows.

use super::ask::{hidden_by_transaction, topic_partitions};
use super::batch::c_name;
use super::config;
use super::context::Context;
use crate::error::{Class, Error, Result, Stage};
use crate::project::settings::Options;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Group of the client that looks at single messages; it never joins and never commits.
const LOOKER: &str = "deltaworks.look";

/// Answers questions about topics; the methods are those of [`super::watermarks::Watermarks`].
pub struct Inquiry {
    options: Options,
    client: BaseConsumer<Context>,
    /// Made when the first message is looked at.
    looker: Mutex<Option<BaseConsumer<Context>>>,
}

impl Inquiry {
    /// Opens the client; asks nothing yet.
    ///
    /// # Errors
    /// [`Class::User`] for a refused option.
    pub fn open(options: &Options) -> Result<Self> {
        let client = config::inquirer(options)
            .create_with_context(Context::new(options))
            .map_err(|e| config::refused(&e, options))?;
        Ok(Self { options: options.clone(), client, looker: Mutex::new(None) })
    }

    /// How many partitions the topic has.
    ///
    /// # Errors
    /// [`Class::User`] if there is no such topic or access is refused, [`Class::Outside`] if no broker answers.
    pub fn partition_count(&self, topic: &str) -> Result<i32> {
        topic_partitions(&self.client, topic, TIMEOUT)
    }

    /// The earliest offset that the broker holds, and the offset after the last one written.
    ///
    /// # Errors
    /// [`Class::Outside`] if the broker does not answer.
    pub fn low_high(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        self.client
            .fetch_watermarks(topic, partition, TIMEOUT)
            .map_err(|e| self.failed(&format!("watermarks of `{topic}` partition {partition}"), &e))
    }

    /// Kafka's time, ms, of the readable message exactly at `offset`; `None` if nothing readable
    /// lies there (a marker, an aborted or compacted message, below low, at or above high) or the
    /// message has no time.
    ///
    /// # Errors
    /// [`Class::InputNotYet`] if an open transaction hides it; [`Class::Outside`] if the broker does not answer within 15 s.
    pub fn message_time_at(&self, topic: &str, partition: i32, offset: i64) -> Result<Option<i64>> {
        let (low, high) = self.low_high(topic, partition)?;
        if !(low..high).contains(&offset) {
            return Ok(None);
        }
        let mut looker = self.looker.lock().unwrap_or_else(PoisonError::into_inner);
        if looker.is_none() {
            let mut config = config::consumer(&self.options, LOOKER, 3 << 20);
            config.remove("group.instance.id");
            let made = config
                .create_with_context(Context::new(&self.options))
                .map_err(|e| config::refused(&e, &self.options))?;
            *looker = Some(made);
        }
        let Some(client) = looker.as_ref() else { return Ok(None) };
        let what = format!("the message at `{topic}` partition {partition} offset {offset}");
        // a reader of what is committed sees the log end before the first open transaction
        let (_, stable) = client.fetch_watermarks(topic, partition, TIMEOUT).map_err(|e| self.failed(&what, &e))?;
        if offset >= stable {
            return Err(hidden_by_transaction(topic, partition, stable, offset + 1));
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(|e| self.failed(&what, &e))?;
        client.assign(&list).map_err(|e| self.failed(&what, &e))?;
        let found = look(client, offset);
        client.unassign().map_err(|e| self.failed(&what, &e))?;
        found.map_err(|text| Error::new(Stage::Kafka, Class::Outside, format!("{what} could not be read: {text}")))
    }

    /// Per partition the first offset whose message is not older than `time_ms`; the high watermark
    /// where there is none.
    ///
    /// # Errors
    /// [`Class::Outside`] if the broker does not answer.
    pub fn offsets_for_time(&self, topic: &str, partitions: &[i32], time_ms: i64) -> Result<BTreeMap<i32, i64>> {
        let found = self.offsets_at(topic, partitions, Offset::Offset(time_ms.max(0)))?;
        let mut offsets = BTreeMap::new();
        for (partition, offset) in found {
            let offset = match offset {
                Some(offset) => offset,
                None => self.low_high(topic, partition)?.1,
            };
            offsets.insert(partition, offset);
        }
        Ok(offsets)
    }

    /// The high watermarks of several partitions, asked for at once.
    ///
    /// # Errors
    /// [`Class::Outside`] if the broker does not answer; no partition is left out in silence.
    pub fn highs(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        let found = self.offsets_at(topic, partitions, Offset::End)?;
        found
            .into_iter()
            .map(|(partition, high)| match high {
                Some(high) => Ok((partition, high)),
                None => self.low_high(topic, partition).map(|(_, high)| (partition, high)),
            })
            .collect()
    }

    /// The committed offsets of a group, where it has any.
    ///
    /// # Errors
    /// [`Class::Outside`] if the broker does not answer.
    pub fn group_offsets(&self, group: &str, topic: &str) -> Result<BTreeMap<i32, i64>> {
        let count = self.partition_count(topic)?;
        let mut config = config::inquirer(&self.options);
        config.set("group.id", group);
        let client: BaseConsumer<Context> =
            config.create_with_context(Context::new(&self.options)).map_err(|e| config::refused(&e, &self.options))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, count - 1);
        let what = format!("offsets of group `{group}` in `{topic}`");
        let list = client.committed_offsets(list, TIMEOUT).map_err(|e| self.failed(&what, &e))?;
        Ok(list.elements().iter().filter_map(|e| Some((e.partition(), absolute(e.offset())?))).collect())
    }

    fn offsets_at(&self, topic: &str, partitions: &[i32], at: Offset) -> Result<BTreeMap<i32, Option<i64>>> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        c_name(topic)
            .ok_or_else(|| Error::new(Stage::Kafka, Class::User, format!("topic name {topic:?} is not valid")))?;
        let what = format!("offsets of `{topic}`");
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(topic, *partition, at).map_err(|e| self.failed(&what, &e))?;
        }
        let found = self.client.offsets_for_times(list, TIMEOUT).map_err(|e| self.failed(&what, &e))?;
        found
            .elements()
            .iter()
            .map(|e| {
                e.error().map_err(|err| self.failed(&format!("{what} partition {}", e.partition()), &err))?;
                Ok((e.partition(), absolute(e.offset())))
            })
            .collect()
    }

    fn failed(&self, what: &str, error: &KafkaError) -> Error {
        let text = config::redact(&error.to_string(), &self.options);
        let class = match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => Class::User,
            Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::SaslAuthenticationFailed) => {
                Class::User
            }
            _ => Class::Outside,
        };
        Error::new(Stage::Kafka, class, format!("{what}: {text}"))
    }
}

fn absolute(offset: Offset) -> Option<i64> {
    match offset {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

/// Reads the assigned partition's first message or its end.
fn look(client: &BaseConsumer<Context>, offset: i64) -> Result<Option<i64>, String> {
    let deadline = Instant::now() + TIMEOUT;
    let mut last = String::from("no answer");
    while Instant::now() < deadline {
        match client.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                return Ok((message.offset() == offset).then(|| message.timestamp().to_millis()).flatten());
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => return Ok(None),
                _ => last = client.context().redact(&error.to_string()),
            },
            None => {}
        }
    }
    Err(last)
}

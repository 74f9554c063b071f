//! Topics: made, widened, described, deleted.

use super::config;
use super::context::Context;
use crate::error::{Class, Error, Result, Stage};
use crate::project::settings::Options;
use futures::executor::block_on;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode as Code;
use std::collections::BTreeMap;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Manages topics.
pub struct Admin {
    client: AdminClient<Context>,
    options: Options,
}

/// A topic as it should be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopicSpec {
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Copies of each partition; −1 leaves it to the broker.
    pub replication: i32,
    /// Topic configuration under Kafka's names.
    pub configs: BTreeMap<String, String>,
}

/// What became of a topic that should exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Made {
    /// It was made.
    Created,
    /// It was there already, whatever its configuration.
    Existed,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Number of partitions.
    pub partitions: i32,
    /// Copies of the first partition.
    pub replication: i32,
    /// Topic configuration under Kafka's names, defaults included.
    pub configs: BTreeMap<String, String>,
}

/// What librdkafka says of one request: the broker's word for each topic.
type Answer = KafkaResult<Vec<TopicResult>>;

impl Admin {
    /// Opens the client.
    ///
    /// # Errors
    /// [`Class::User`] for a refused option.
    pub fn open(options: &Options) -> Result<Self> {
        let client = config::inquirer(options)
            .create_with_context(Context::new(options))
            .map_err(|e| config::refused(&e, options))?;
        Ok(Self { client, options: options.clone() })
    }

    /// Makes a topic unless it exists.
    ///
    /// # Errors
    /// [`Class::User`] for what the broker refuses, [`Class::Outside`] if it does not answer.
    pub fn create(&self, spec: &NewTopicSpec) -> Result<Made> {
        let mut topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication));
        for (key, value) in &spec.configs {
            topic = topic.set(key, value);
        }
        match self.one(block_on(self.client.create_topics([&topic], &limits())), "creating", &spec.name) {
            Ok(()) => Ok(Made::Created),
            Err((Some(Code::TopicAlreadyExists), _)) => Ok(Made::Existed),
            Err((_, error)) => Err(error),
        }
    }

    /// Widens a topic to `count` partitions.
    ///
    /// # Errors
    /// As [`Admin::create`].
    pub fn add_partitions(&self, topic: &str, count: usize) -> Result<()> {
        let wider = NewPartitions::new(topic, count);
        self.one(block_on(self.client.create_partitions([&wider], &limits())), "widening", topic).map_err(|(_, e)| e)
    }

    /// Deletes a topic and its messages.
    ///
    /// # Errors
    /// As [`Admin::create`].
    pub fn delete(&self, topic: &str) -> Result<()> {
        self.one(block_on(self.client.delete_topics(&[topic], &limits())), "deleting", topic).map_err(|(_, e)| e)
    }

    /// Describes a topic; `None` if it does not exist.
    ///
    /// # Errors
    /// [`Class::Outside`] if the broker does not answer.
    pub fn describe(&self, topic: &str) -> Result<Option<Description>> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(Some(topic), TIMEOUT)
            .map_err(|e| self.failed("describing", topic, &e))?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none()) else {
            return Ok(None);
        };
        let partitions = i32::try_from(found.partitions().len()).unwrap_or(i32::MAX);
        let replication = found.partitions().first().map_or(0, |p| i32::try_from(p.replicas().len()).unwrap_or(0));
        let resource = ResourceSpecifier::Topic(topic);
        let answers = block_on(self.client.describe_configs([&resource], &limits()))
            .map_err(|e| self.failed("describing", topic, &e))?;
        let mut configs = BTreeMap::new();
        for answer in answers {
            let resource = answer.map_err(|code| self.failed("describing", topic, &KafkaError::AdminOp(code)))?;
            let known = resource.entries.into_iter().filter(|e| !e.is_sensitive);
            configs.extend(known.filter_map(|e| Some((e.name, e.value?))));
        }
        Ok(Some(Description { partitions, replication, configs }))
    }

    /// The answer for the one topic asked about.
    fn one(&self, answer: Answer, doing: &str, topic: &str) -> Result<(), (Option<Code>, Error)> {
        match answer {
            Ok(answers) => match answers.into_iter().find_map(Result::err) {
                None => Ok(()),
                Some((_, code)) => Err((Some(code), self.failed(doing, topic, &KafkaError::AdminOp(code)))),
            },
            Err(error) => Err((None, self.failed(doing, topic, &error))),
        }
    }

    fn failed(&self, doing: &str, topic: &str, error: &KafkaError) -> Error {
        let text = config::redact(&error.to_string(), &self.options);
        let class = match error {
            KafkaError::AdminOp(
                Code::OperationTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown | Code::RequestTimedOut,
            ) => Class::Outside,
            KafkaError::AdminOp(_) => Class::User,
            _ => Class::Outside,
        };
        Error::new(Stage::Kafka, class, format!("{doing} topic `{topic}`: {text}"))
    }
}

fn limits() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
}

//! A Kafka broker inside this process, made by librdkafka for tests: the demo and the tests need no
//! services. It keeps messages in memory and forgets them when it is dropped.

use crate::error::{Class, Error, Result, Stage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// A mock cluster of one broker.
pub struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Mock {
    /// Starts the broker on a loopback port of its own choice.
    ///
    /// # Errors
    /// [`Class::Outside`] if it cannot be started.
    pub fn start() -> Result<Self> {
        let cluster = MockCluster::new(1).map_err(|e| failed("starting", e))?;
        Ok(Self { cluster })
    }

    /// `bootstrap.servers` of the broker.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// [`Class::Outside`] if the mock refuses.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.cluster.create_topic(topic, partitions, 1).map_err(|e| failed("creating a topic in", e))
    }

    /// Takes the broker down, or up again.
    ///
    /// # Errors
    /// [`Class::Outside`] if the mock refuses.
    pub fn set_up(&self, up: bool) -> Result<()> {
        let outcome = if up { self.cluster.broker_up(1) } else { self.cluster.broker_down(1) };
        outcome.map_err(|e| failed("switching", e))
    }
}

fn failed(doing: &str, error: rdkafka::error::KafkaError) -> Error {
    Error::new(Stage::Kafka, Class::Outside, format!("{doing} the mock broker failed")).because(error)
}

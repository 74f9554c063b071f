//! A producer of the bench's own, where events have to come at a rate.

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::thread::sleep;
use std::time::Duration;

/// How long the broker may take with what is left.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends to one topic.
pub struct Sending<'a> {
    topic: &'a str,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl<'a> Sending<'a> {
    /// Opens a producer that waits for others of a batch for so many ms.
    pub fn open(brokers: &str, topic: &'a str, linger_ms: u32) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("linger.ms", linger_ms.to_string());
        config.set("compression.type", "lz4").set("queue.buffering.max.messages", "500000");
        Self { topic, producer: config.create().unwrap() }
    }

    /// Hands one event over, with a Kafka time (ms since the epoch) or that of now; waits while the queue is full.
    pub fn put(&self, event: &[u8], partition: i32, at_ms: Option<i64>) {
        let mut record = BaseRecord::<(), _>::to(self.topic).partition(partition).payload(event);
        record.timestamp = at_ms;
        while let Err((error, unsent)) = self.producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            sleep(Duration::from_millis(1));
            record = unsent;
        }
    }

    /// Waits until the broker has everything.
    pub fn flush(&self) {
        self.producer.flush(PATIENCE).unwrap();
    }
}

//! The Kafka edge: the only user of rdkafka.
//!
//! ```text
//! config ─> source (batch) ─> message::Chunk ─> (decode)
//!        ─> watermarks ─> start          admin, producer, mock: what a topic needs to exist
//! ```

pub mod admin;
pub mod message;
pub mod mock;
pub mod monitor;
pub mod producer;
pub mod source;
pub mod start;
pub mod watermarks;

mod batch;
mod config;
mod context;

use crate::error::{Class, Error, Result, Stage};
use context::Context;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode as Code;
use std::time::{Duration, Instant};

/// How many partitions the topic has.
///
/// Asks again while the broker does not answer, and serves the client's errors in between, so that
/// refused credentials are told from a broker that is away.
fn topic_partitions(consumer: &BaseConsumer<Context>, topic: &str, timeout: Duration) -> Result<i32> {
    let deadline = Instant::now() + timeout;
    let mut last = String::from("no answer");
    loop {
        match consumer.fetch_metadata(Some(topic), Duration::from_secs(3)) {
            Ok(metadata) => {
                let topics = metadata.topics();
                let Some(found) = topics.iter().find(|t| t.name() == topic) else {
                    return Err(source::missing_topic(topic));
                };
                match found.error().map(Code::from) {
                    None => return Ok(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)),
                    Some(code) => {
                        if let source::Event::Trouble { text } = source::judge(topic, code, None, code.to_string())? {
                            last = text;
                        }
                    }
                }
            }
            Err(error) => last = consumer.context().redact(&error.to_string()),
        }
        // Nothing is subscribed yet: these polls only serve the client's own errors.
        for _ in 0..8 {
            let _ = consumer.poll(Duration::from_millis(10));
        }
        for (code, text) in consumer.context().take_errors() {
            source::judge(topic, code, None, text.clone())?;
            last = text;
        }
        if Instant::now() >= deadline {
            return Err(Error::new(
                Stage::Kafka,
                Class::Outside,
                format!("no broker answers for topic `{topic}`: {last}"),
            )
            .hint("see `bootstrap.servers` of `kafka` in deltaworks.yaml"));
        }
    }
}

#[cfg(test)]
mod tests;

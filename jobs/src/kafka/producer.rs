//! Writes messages: idempotent, bounded, with delivery reports; and in transactions, for tests.
//!
//! A [`Producer`] is used from one thread. Its queue is bounded by librdkafka; a full one makes
//! [`Producer::send`] wait, so nothing is dropped.

use super::config;
use super::context::Context;
use crate::error::{Class, Error, Result, Stage};
use crate::project::settings::Options;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long one wait for room lasts.
const ROOM: Duration = Duration::from_millis(100);

/// How long deliveries and the steps of a transaction may take.
const DELIVERY: Duration = Duration::from_secs(30);

/// A message to send.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outgoing<'a> {
    /// Partition; `None` leaves it to the hash of the key.
    pub partition: Option<i32>,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Payload; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Kafka's timestamp, ms; `None` is now.
    pub timestamp_ms: Option<i64>,
    /// Headers: name and value.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Comes back in the delivery report.
    pub ticket: usize,
}

/// The broker has a message, or has refused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The ticket that was sent with it.
    pub ticket: usize,
    /// Partition and offset, or why not.
    pub outcome: Result<(i32, i64), String>,
}

/// Writes to topics.
pub struct Producer {
    client: BaseProducer<Reports>,
}

struct Reports {
    base: Context,
    keep: bool,
    state: Mutex<Delivered>,
}

#[derive(Default)]
struct Delivered {
    reports: Vec<Report>,
    failed: Option<String>,
}

impl Producer {
    /// Opens a writer. With `keep_reports` every delivery is kept until [`Producer::take_reports`].
    ///
    /// # Errors
    /// [`Class::User`] for a refused option.
    pub fn open(options: &Options, keep_reports: bool) -> Result<Self> {
        let mut config = config::producer(options);
        for (key, value) in [("linger.ms", "20"), ("compression.type", "lz4"), ("queue.buffering.max.kbytes", "65536")]
        {
            if config.get(key).is_none() {
                config.set(key, value);
            }
        }
        Self::create(&config, options, keep_reports)
    }

    /// Opens a writer of transactions.
    ///
    /// # Errors
    /// [`Class::User`] for a refused option, [`Class::Outside`] if the broker does not answer.
    pub fn open_transactional(options: &Options, id: &str) -> Result<Self> {
        let mut config = config::producer(options);
        config.set("transactional.id", id);
        let producer = Self::create(&config, options, true)?;
        producer.client.init_transactions(DELIVERY).map_err(|e| failed("opening transactions", &e))?;
        Ok(producer)
    }

    fn create(config: &rdkafka::ClientConfig, options: &Options, keep: bool) -> Result<Self> {
        let context = Reports { base: Context::new(options), keep, state: Mutex::default() };
        let client = config.create_with_context(context).map_err(|e| config::refused(&e, options))?;
        Ok(Self { client })
    }

    /// Sends one message; waits while the queue is full.
    ///
    /// # Errors
    /// [`Class::Outside`] if librdkafka refuses it, or if an earlier message was not delivered.
    pub fn send(&self, topic: &str, message: Outgoing<'_>) -> Result<()> {
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, message.ticket);
        record.key = message.key;
        record.payload = message.payload;
        record.partition = message.partition;
        record.timestamp = message.timestamp_ms;
        if !message.headers.is_empty() {
            let headers = message
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: *value }));
            record.headers = Some(headers);
        }
        loop {
            match self.client.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                    record = back;
                    self.client.poll(ROOM);
                }
                Err((error, _)) => return Err(failed(&format!("sending to topic `{topic}`"), &error)),
            }
        }
        self.check()
    }

    /// Serves deliveries for up to `timeout`.
    ///
    /// # Errors
    /// [`Class::Outside`] if a message was not delivered.
    pub fn poll(&self, timeout: Duration) -> Result<()> {
        self.client.poll(timeout);
        self.check()
    }

    /// Waits until everything sent is delivered.
    ///
    /// # Errors
    /// [`Class::Outside`] if that takes longer than `timeout`, or a message was not delivered.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.client.flush(timeout).map_err(|e| failed("waiting for deliveries", &e))?;
        self.check()
    }

    /// Deliveries since the last call, in the order of their arrival.
    pub fn take_reports(&self) -> Vec<Report> {
        std::mem::take(&mut self.client.context().state().reports)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`Class::Outside`] if the broker refuses.
    pub fn begin(&self) -> Result<()> {
        self.client.begin_transaction().map_err(|e| failed("beginning a transaction", &e))
    }

    /// Commits the transaction, once everything in it is delivered.
    ///
    /// # Errors
    /// [`Class::Outside`] if the broker refuses.
    pub fn commit(&self) -> Result<()> {
        self.flush(DELIVERY)?;
        self.client.commit_transaction(DELIVERY).map_err(|e| failed("committing a transaction", &e))
    }

    /// Aborts the transaction: its messages stay in the log and are never readable.
    ///
    /// # Errors
    /// [`Class::Outside`] if the broker refuses.
    pub fn abort(&self) -> Result<()> {
        self.flush(DELIVERY)?;
        self.client.abort_transaction(DELIVERY).map_err(|e| failed("aborting a transaction", &e))
    }

    fn check(&self) -> Result<()> {
        match &self.client.context().state().failed {
            None => Ok(()),
            Some(text) => Err(Error::new(Stage::Kafka, Class::Outside, format!("a message was not delivered: {text}"))),
        }
    }
}

impl Reports {
    fn state(&self) -> MutexGuard<'_, Delivered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.base.log(level, facility, line);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "librdkafka", %error, "{}", self.base.redact(reason));
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let outcome = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(self.base.redact(&error.to_string())),
        };
        let mut state = self.state();
        if let Err(text) = &outcome {
            state.failed.get_or_insert_with(|| text.clone());
        }
        if self.keep {
            state.reports.push(Report { ticket, outcome });
        }
    }
}

fn failed(doing: &str, error: &KafkaError) -> Error {
    Error::new(Stage::Kafka, Class::Outside, format!("{doing} failed: {error}"))
}

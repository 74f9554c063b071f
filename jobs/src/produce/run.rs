//! Sends events at a chosen rate and writes down the truth about each as its delivery is confirmed.

use super::file::Lines;
use super::generate::{Event, EventKind, Generator, Plan};
use super::shapes::{Shape, Shapes};
use crate::error::{Class, Error, Result, Stage};
use crate::kafka::producer::{Outgoing, Producer};
use crate::kafka::watermarks::Watermarks;
use crate::project::contract::Contract;
use crate::project::settings::{EventTime, Options};
use deltaworks_core::reason::Reason;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// How long the last deliveries may take.
const FLUSH: Duration = Duration::from_secs(60);
/// How often progress is reported, events.
const REPORT_EVERY: u64 = 1_024;
/// Bytes that a message may have beside its payload.
const ENVELOPE: usize = 64 << 10;

/// Where the events come from.
#[derive(Debug, Clone)]
pub enum Input {
    /// A JSONL or JSONL.gz file.
    File {
        /// The file.
        path: PathBuf,
        /// Dotted path of the field that becomes the message key.
        key: Option<String>,
    },
    /// Generated from a contract.
    Generated {
        /// The contract.
        contract: Arc<Contract>,
        /// Where the pipeline takes the event time from.
        event_time: EventTime,
        /// What the stream should be like.
        plan: Plan,
    },
    /// A built-in stream.
    Shape {
        /// Which.
        shape: Shape,
        /// Seed of everything that is left to chance.
        seed: u64,
        /// Event time of the first event, ms.
        start_ms: i64,
    },
}

/// What to send, where and how fast. A generated stream needs a count or a duration.
#[derive(Debug, Clone)]
pub struct ProduceOptions {
    /// Options of librdkafka.
    pub kafka: Options,
    /// Topic; it must exist.
    pub topic: String,
    /// Where the events come from.
    pub input: Input,
    /// Stop after this many events.
    pub count: Option<u64>,
    /// Stop after this long.
    pub duration: Option<Duration>,
    /// Events per second; `None` is as fast as possible.
    pub rate: Option<f64>,
    /// Deal events out to the partitions in turn, also those with a key. Events without a key are
    /// always dealt out; those with one otherwise follow Kafka's own hash of the key (murmur2).
    pub round_robin: bool,
    /// JSONL file for the truth.
    pub truth: Option<PathBuf>,
    /// Stops early when it turns true; what was sent is still confirmed.
    pub stop: Option<Arc<AtomicBool>>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Events sent.
    pub sent: u64,
    /// Payload bytes sent.
    pub bytes: u64,
    /// Events in all, where that is known.
    pub total: Option<u64>,
}

/// What was sent and confirmed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Events sent.
    pub sent: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Events per kind.
    pub kinds: BTreeMap<EventKind, u64>,
    /// Corrupt events per reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// How long it took, seconds.
    pub seconds: f64,
}

/// One line of the truth file.
#[derive(Debug, Serialize)]
struct TruthLine<'a> {
    partition: i32,
    offset: i64,
    kind: EventKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_us: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    /// xxh3-64 of the payload, 16 hex digits; absent for a tombstone.
    #[serde(skip_serializing_if = "Option::is_none")]
    xxh3: Option<String>,
}

/// Sends the events.
///
/// # Errors
/// [`Class::User`] for an input that cannot be read or made, or a missing topic; [`Class::Outside`]
/// if the broker does not take the events. The truth file then holds what was confirmed.
pub fn run(options: ProduceOptions, progress: &dyn Fn(Progress)) -> Result<Summary> {
    let mut events = Events::open(&options)?;
    let partitions = Watermarks::open(&options.kafka)?.partition_count(&options.topic)?;
    let producer = Producer::open(&sending(&options), options.truth.is_some())?;
    let mut truth = options.truth.as_ref().map(Truth::create).transpose()?;
    let mut summary = Summary { sent: 0, bytes: 0, kinds: BTreeMap::new(), reasons: BTreeMap::new(), seconds: 0.0 };
    let started = Instant::now();
    let outcome =
        send_all(&options, &mut events, partitions, &producer, truth.as_mut(), &mut summary, started, progress);
    // Also after a failure: what was confirmed is true.
    let flushed = producer.flush(FLUSH);
    if let Some(truth) = &mut truth {
        truth.confirm(&producer)?;
        truth.file.flush().map_err(|e| unwritable(&truth.path, e))?;
    }
    outcome.and(flushed)?;
    summary.seconds = started.elapsed().as_secs_f64();
    progress(Progress { sent: summary.sent, bytes: summary.bytes, total: Some(summary.sent) });
    Ok(summary)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one loop, each with its own owner")]
fn send_all(
    options: &ProduceOptions,
    events: &mut Events,
    partitions: i32,
    producer: &Producer,
    mut truth: Option<&mut Truth>,
    summary: &mut Summary,
    started: Instant,
    progress: &dyn Fn(Progress),
) -> Result<()> {
    loop {
        let stopped = options.stop.as_ref().is_some_and(|s| s.load(Ordering::Relaxed));
        let late = options.duration.is_some_and(|d| started.elapsed() >= d);
        if stopped || late || options.count.is_some_and(|c| summary.sent >= c) {
            return Ok(());
        }
        let Some(event) = events.next()? else { return Ok(()) };
        wait_for_turn(options, producer, summary.sent, started)?;
        let turn = i32::try_from(summary.sent % u64::from(partitions.unsigned_abs()).max(1)).unwrap_or(0);
        let ticket = usize::try_from(summary.sent).unwrap_or(usize::MAX);
        let headers: Vec<(&str, Option<&[u8]>)> =
            event.headers.iter().map(|(n, v)| (n.as_str(), Some(v.as_slice()))).collect();
        producer.send(
            &options.topic,
            Outgoing {
                partition: (options.round_robin || event.key.is_none()).then_some(turn),
                key: event.key.as_deref(),
                payload: event.payload.as_deref(),
                timestamp_ms: event.kafka_time_ms,
                headers: &headers,
                ticket,
            },
        )?;
        summary.sent += 1;
        summary.bytes += event.payload.as_ref().map_or(0, |p| p.len() as u64);
        *summary.kinds.entry(event.kind).or_default() += 1;
        if let Some(reason) = event.reason {
            *summary.reasons.entry(reason).or_default() += 1;
        }
        if let Some(truth) = truth.as_deref_mut() {
            truth.expect(ticket, event);
        }
        if summary.sent.is_multiple_of(REPORT_EVERY) {
            producer.poll(Duration::ZERO)?;
            if let Some(truth) = truth.as_deref_mut() {
                truth.confirm(producer)?;
            }
            progress(Progress { sent: summary.sent, bytes: summary.bytes, total: options.count });
        }
    }
}

fn wait_for_turn(options: &ProduceOptions, producer: &Producer, sent: u64, started: Instant) -> Result<()> {
    let Some(rate) = options.rate.filter(|r| *r > 0.0) else { return Ok(()) };
    loop {
        let due = started + Duration::from_secs_f64(sent as f64 / rate);
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() || options.stop.as_ref().is_some_and(|s| s.load(Ordering::Relaxed)) {
            return Ok(());
        }
        producer.poll(left.min(Duration::from_millis(100)))?;
    }
}

/// Options of the sending client.
fn sending(options: &ProduceOptions) -> Options {
    let mut kafka = options.kafka.clone();
    kafka.0.entry("partitioner".into()).or_insert_with(|| "murmur2_random".into());
    if let Input::Generated { plan, .. } = &options.input
        && plan.reasons.contains(&Reason::TooLarge)
    {
        kafka.0.insert("message.max.bytes".into(), (plan.message_bytes_max + ENVELOPE).max(1_000_000).to_string());
    }
    kafka
}

enum Events {
    File(Lines),
    Generated(Box<Generator>),
    Shape(Box<Shapes>),
}

impl Events {
    fn open(options: &ProduceOptions) -> Result<Self> {
        let endless = options.count.is_none() && options.duration.is_none() && options.stop.is_none();
        if endless && !matches!(options.input, Input::File { .. }) {
            return Err(Error::new(Stage::Produce, Class::User, "a generated stream never ends by itself")
                .hint("give a count or a duration"));
        }
        Ok(match &options.input {
            Input::File { path, key } => Self::File(Lines::open(path, key.as_deref())?),
            Input::Generated { contract, event_time, plan } => {
                Self::Generated(Box::new(Generator::new(contract, event_time, plan.clone())?))
            }
            Input::Shape { shape, seed, start_ms } => Self::Shape(Box::new(Shapes::new(*shape, *seed, *start_ms))),
        })
    }

    fn next(&mut self) -> Result<Option<Event>> {
        match self {
            Self::File(lines) => lines.event(),
            Self::Generated(generator) => generator.event().map(Some),
            Self::Shape(shapes) => {
                let mut payload = Vec::with_capacity(1_100);
                shapes.write(&mut payload);
                Ok(Some(Event {
                    key: None,
                    payload: Some(payload),
                    headers: Vec::new(),
                    kafka_time_ms: None,
                    kind: EventKind::Good,
                    reason: None,
                    event_us: None,
                    id: None,
                }))
            }
        }
    }
}

/// The truth file, and what waits for its delivery.
struct Truth {
    path: PathBuf,
    file: BufWriter<File>,
    waiting: HashMap<usize, (Event, Option<String>)>,
}

impl Truth {
    fn create(path: &PathBuf) -> Result<Self> {
        let file = File::create(path).map_err(|e| unwritable(path, e))?;
        Ok(Self { path: path.clone(), file: BufWriter::new(file), waiting: HashMap::new() })
    }

    fn expect(&mut self, ticket: usize, mut event: Event) {
        let hash = event.payload.take().map(|p| format!("{:016x}", xxh3_64(&p)));
        self.waiting.insert(ticket, (event, hash));
    }

    fn confirm(&mut self, producer: &Producer) -> Result<()> {
        for report in producer.take_reports() {
            let (Some((event, xxh3)), Ok((partition, offset))) = (self.waiting.remove(&report.ticket), report.outcome)
            else {
                continue;
            };
            let line = TruthLine {
                partition,
                offset,
                kind: event.kind,
                reason: event.reason,
                event_us: event.event_us,
                id: event.id.as_deref(),
                xxh3,
            };
            serde_json::to_writer(&mut self.file, &line).map_err(|e| unwritable(&self.path, e.into()))?;
            self.file.write_all(b"\n").map_err(|e| unwritable(&self.path, e))?;
        }
        Ok(())
    }
}

fn unwritable(path: &std::path::Path, error: std::io::Error) -> Error {
    Error::new(Stage::Produce, Class::User, format!("file `{}` cannot be written", path.display())).because(error)
}

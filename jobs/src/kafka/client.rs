//! [`super::source::Source`] of a Kafka broker, by librdkafka.
//!
//! To hold S1 over a rebalance, every partition that is kept is sent back to its position before the
//! group is answered: librdkafka pauses all of them meanwhile and would go on where it believes we
//! are, which after an end-of-partition in a batch is one message too far.

use super::ask;
use super::batch::{Notice, OwnQueue, c_name};
use super::close::Closer;
use super::config;
use super::context::{Context, Request, RequestKind};
use super::message::Chunk;
use super::source::{Event, Mode};
use crate::error::{Class, Error, Result, Stage};
use crate::project::settings::Options;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one wait lasts before rebalances and errors are served again.
const SLICE: Duration = Duration::from_millis(50);
/// How long a seek may take before it is tried again at the next poll.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
/// A partition that cannot be sent to its position for this long stops the source.
const STUCK: Duration = Duration::from_secs(30);
/// How long the broker may take to answer when a source is opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes at which a chunk is full, whatever `max` says; one step may overshoot.
const CHUNK_BYTES: usize = 2 << 20;
/// Messages of one call into librdkafka.
const STEP: usize = 1_024;

/// A reader of one topic; the methods are those of [`super::source::Source`].
pub struct Client {
    // Before `consumer`: a queue must be destroyed before its client.
    queue: Option<OwnQueue>,
    consumer: Arc<BaseConsumer<Context>>,
    // After all other shares of the client: it closes the last one.
    closer: Closer,
    topic: String,
    topic_c: CString,
    want_headers: bool,
    group: bool,
    /// Assigned partitions and the offset that each delivers next, or a later one.
    next: BTreeMap<i32, i64>,
    /// Assigned partitions that must be sent to their `next` before they deliver again.
    /// With the instant since when.
    astray: BTreeMap<i32, Instant>,
    paused: BTreeSet<i32>,
    unanswered: Option<Request>,
    /// The assignment by hand, until it has been reported.
    manual: Option<Vec<i32>>,
    notices: Vec<Notice>,
}

impl Client {
    /// Opens a reader of `topic`; `queue_bytes` is the memory that prefetched messages may take.
    ///
    /// # Errors
    /// [`Class::User`] for a refused option, failed authentication, a missing topic or partition;
    /// [`Class::Outside`] if no broker answers.
    pub fn open(options: &Options, topic: &str, mode: Mode, queue_bytes: usize, want_headers: bool) -> Result<Self> {
        let (group, manual) = match mode {
            Mode::Group { group } => (group, None),
            Mode::Manual { group, partitions } => (group, Some(partitions)),
        };
        let topic_c = c_name(topic).ok_or_else(|| user(format!("topic name {topic:?} is not valid")))?;
        let client: BaseConsumer<Context> = config::consumer(options, &group, queue_bytes)
            .create_with_context(Context::new(options))
            .map_err(|e| config::refused(&e, options))?;
        let consumer = Arc::new(client);
        let closer = Closer::of(&consumer, topic)?;
        let source = Self {
            queue: None,
            consumer,
            closer,
            topic: topic.to_owned(),
            topic_c,
            want_headers,
            group: manual.is_none(),
            next: BTreeMap::new(),
            astray: BTreeMap::new(),
            paused: BTreeSet::new(),
            unanswered: None,
            manual,
            notices: Vec::new(),
        };
        let count = ask::topic_partitions(&source.consumer, topic, OPEN_TIMEOUT)?;
        if let Some(&missing) = source.manual.iter().flatten().find(|&&p| !(0..count).contains(&p)) {
            return Err(user(format!("topic `{topic}` has no partition {missing}: it has {count}")));
        }
        if source.group {
            source.consumer.subscribe(&[topic]).map_err(|e| source.failed("subscribing", &e))?;
        }
        Ok(source)
    }

    /// Serves the group, then takes up to `max` messages into `chunk` (emptied first), waiting up to
    /// `timeout` for the first. With `max` 0 it only keeps the membership alive. Returns at once
    /// with whatever there is when the group wants something.
    ///
    /// # Errors
    /// [`Class::InputLost`] if an offset is not in the log any more; [`Class::User`] for refused
    /// credentials, missing rights or a deleted topic; [`Class::Outside`] for a message that the
    /// broker holds but librdkafka cannot read.
    pub fn poll(&mut self, chunk: &mut Chunk, max: usize, timeout: Duration, clock_ms: i64) -> Result<Vec<Event>> {
        chunk.clear();
        chunk.clock_ms = clock_ms;
        let deadline = Instant::now() + timeout;
        let mut events = Vec::new();
        self.realign();
        if let Some((partition, _)) = self.astray.iter().find(|(_, since)| since.elapsed() > STUCK) {
            return Err(outside(format!(
                "topic `{}` partition {partition} cannot be sent to its position",
                self.topic
            )));
        }
        self.serve(chunk, Duration::ZERO, &mut events)?;
        loop {
            self.fill(chunk, max, Duration::ZERO, &mut events)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !chunk.messages.is_empty() || !events.is_empty() || left.is_zero() {
                return Ok(events);
            }
            let slice = left.min(SLICE);
            if max == 0 || self.queue.is_none() {
                self.serve(chunk, slice, &mut events)?;
            } else {
                self.fill(chunk, max, slice, &mut events)?;
                self.serve(chunk, Duration::ZERO, &mut events)?;
            }
        }
    }

    /// Carries out [`Event::Assigning`]: reads each partition from its offset on.
    ///
    /// # Errors
    /// [`Class::Outside`] if librdkafka refuses.
    pub fn assign(&mut self, starts: &[(i32, i64)]) -> Result<()> {
        let cooperative = self.answered().is_none_or(|r| r.cooperative);
        if self.queue.is_none() || self.next.is_empty() {
            self.queue = Some(OwnQueue::new(&self.consumer));
        }
        if cooperative {
            self.stray(self.next.keys().copied().collect::<Vec<_>>());
            self.realign();
        }
        self.next.extend(starts.iter().copied());
        for (partition, _) in starts {
            self.astray.remove(partition);
            self.paused.remove(partition);
            let forwarded = self.queue.as_ref().is_some_and(|q| q.forward(&self.topic_c, *partition));
            if !forwarded {
                return Err(outside(format!("no queue for `{}` partition {partition}", self.topic)));
            }
        }
        if cooperative {
            let list = self.list(starts.iter().copied())?;
            self.consumer.incremental_assign(&list).map_err(|e| self.failed("assigning", &e))?;
        } else {
            let list = self.list(self.next.iter().map(|(p, o)| (*p, *o)))?;
            self.consumer.assign(&list).map_err(|e| self.failed("assigning", &e))?;
        }
        Ok(())
    }

    /// Carries out [`Event::Revoking`] or [`Event::Lost`], or gives partitions up by hand.
    ///
    /// # Errors
    /// [`Class::Outside`] if librdkafka refuses.
    pub fn unassign(&mut self, partitions: &[i32]) -> Result<()> {
        let cooperative = self.answered().is_none_or(|r| r.cooperative);
        let ours: Vec<(i32, i64)> = partitions.iter().filter_map(|p| self.next.remove(p).map(|o| (*p, o))).collect();
        for (partition, _) in &ours {
            self.astray.remove(partition);
            self.paused.remove(partition);
        }
        if cooperative {
            self.stray(self.next.keys().copied().collect::<Vec<_>>());
            self.realign();
            let list = self.list(ours)?;
            self.consumer.incremental_unassign(&list).map_err(|e| self.failed("giving up partitions", &e))?;
        } else {
            self.next.clear();
            self.consumer.unassign().map_err(|e| self.failed("giving up partitions", &e))?;
        }
        if self.next.is_empty() {
            self.queue = None;
        }
        Ok(())
    }

    /// Reads these partitions from these offsets on; those not assigned are left out. A seek that
    /// cannot be carried out now is carried out by a later poll; until then the partition is silent.
    pub fn seek(&mut self, targets: &[(i32, i64)]) {
        for (partition, offset) in targets {
            if let Some(next) = self.next.get_mut(partition) {
                *next = *offset;
            }
        }
        self.stray(targets.iter().map(|(p, _)| *p));
        self.realign();
    }

    /// Commits the group's offsets, for lag tools; they are never read back. The broker's answer is
    /// not awaited.
    ///
    /// # Errors
    /// For the log only.
    pub fn commit_group(&self, nexts: &[(i32, i64)]) -> Result<()> {
        let list = self.list(nexts.iter().copied())?;
        self.consumer.commit(&list, CommitMode::Async).map_err(|e| self.failed("committing the group's offsets", &e))
    }

    /// Stops fetching these partitions; what was prefetched is dropped and fetched again later.
    ///
    /// # Errors
    /// [`Class::Outside`] if librdkafka refuses.
    pub fn pause(&mut self, partitions: &[i32]) -> Result<()> {
        let ours: Vec<_> = self.assigned_of(partitions);
        self.consumer.pause(&self.list(ours.iter().copied())?).map_err(|e| self.failed("pausing", &e))?;
        self.paused.extend(ours.iter().map(|(p, _)| *p));
        Ok(())
    }

    /// Fetches these partitions again, from where they were left.
    ///
    /// # Errors
    /// [`Class::Outside`] if librdkafka refuses.
    pub fn resume(&mut self, partitions: &[i32]) -> Result<()> {
        let ours: Vec<_> = self.assigned_of(partitions);
        self.stray(ours.iter().map(|(p, _)| *p));
        self.realign();
        self.consumer.resume(&self.list(ours.iter().copied())?).map_err(|e| self.failed("resuming", &e))?;
        for (partition, _) in ours {
            self.paused.remove(&partition);
        }
        Ok(())
    }

    /// The assigned partitions and the offset that each delivers next, or a later one.
    #[must_use]
    pub const fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.next
    }

    fn assigned_of(&self, partitions: &[i32]) -> Vec<(i32, i64)> {
        partitions.iter().filter_map(|p| self.next.get(p).map(|o| (*p, *o))).collect()
    }

    /// Takes the request that the caller is answering. `None`: nobody asked, or the manual
    /// assignment; both are incremental.
    fn answered(&mut self) -> Option<Request> {
        self.unanswered.take().or_else(|| {
            // The group's protocol holds for partitions given up unasked, too.
            let eager =
                self.group && matches!(self.consumer.rebalance_protocol(), rdkafka::consumer::RebalanceProtocol::Eager);
            eager.then(|| Request { kind: RequestKind::Revoke, partitions: Vec::new(), cooperative: false })
        })
    }

    /// Marks assigned partitions that may be elsewhere than at their positions.
    fn stray(&mut self, partitions: impl IntoIterator<Item = i32>) {
        for partition in partitions {
            if self.next.contains_key(&partition) {
                self.astray.entry(partition).or_insert_with(Instant::now);
            }
        }
    }

    /// Sends partitions that may be astray to their positions.
    fn realign(&mut self) {
        let astray: Vec<(i32, i64)> = self.astray.keys().filter_map(|p| self.next.get(p).map(|o| (*p, *o))).collect();
        if astray.is_empty() {
            return;
        }
        let outcome = self
            .list(astray)
            .map_err(|e| e.to_string())
            .and_then(|l| self.consumer.seek_partitions(l, SEEK_TIMEOUT).map_err(|e| e.to_string()));
        match outcome {
            Ok(list) => {
                for element in list.elements() {
                    match element.error() {
                        Ok(()) => drop(self.astray.remove(&element.partition())),
                        Err(error) => {
                            let partition = element.partition();
                            tracing::debug!(topic = self.topic, partition, %error, "seek put off");
                        }
                    }
                }
            }
            Err(error) => tracing::debug!(topic = self.topic, error, "seeks put off"),
        }
    }

    /// Serves rebalances and errors.
    fn serve(&mut self, chunk: &mut Chunk, timeout: Duration, events: &mut Vec<Event>) -> Result<()> {
        if let Some(partitions) = self.manual.take() {
            events.push(Event::Assigning(partitions));
        }
        let polled = self.consumer.poll(timeout);
        let failure = match polled {
            Some(Ok(message)) => {
                // Cannot happen, since queues are forwarded before they are assigned; were it to
                // happen, the message lies before everything in the own queue.
                let (partition, offset) = (message.partition(), message.offset());
                if wanted(&mut self.next, &self.astray, partition, offset) {
                    let time = message.timestamp().to_millis();
                    chunk.push(partition, offset, time, message.key(), message.payload(), []);
                }
                None
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        let mut said = self.consumer.context().take_errors();
        if let Some(code) = failure.as_ref().and_then(KafkaError::rdkafka_error_code)
            && !said.iter().any(|(c, _)| *c == code)
            && code != Code::PartitionEOF
        {
            said.push((code, code.to_string()));
        }
        for (code, text) in said {
            events.push(ask::judge(&self.topic, code, None, text)?);
        }
        while let Some(request) = self.consumer.context().take_request() {
            events.push(match request.kind {
                RequestKind::Assign => Event::Assigning(request.partitions.clone()),
                RequestKind::Revoke => Event::Revoking(request.partitions.clone()),
                RequestKind::Lost => Event::Lost(request.partitions.clone()),
            });
            self.unanswered = Some(request);
        }
        Ok(())
    }

    /// Takes messages until the chunk is full or the queue is empty.
    fn fill(&mut self, chunk: &mut Chunk, max: usize, wait: Duration, events: &mut Vec<Event>) -> Result<()> {
        let Some(queue) = self.queue.as_mut() else { return Ok(()) };
        let mut wait = wait;
        while chunk.messages.len() < max && chunk.arena.len() < CHUNK_BYTES {
            let step = step(chunk, max);
            let (next, astray) = (&mut self.next, &self.astray);
            let n = queue.take(chunk, step, wait, self.want_headers, &mut self.notices, |partition, offset| {
                wanted(next, astray, partition, offset)
            });
            if n < step {
                break;
            }
            wait = Duration::ZERO;
        }
        for notice in std::mem::take(&mut self.notices) {
            let Some(&next) = self.next.get(&notice.partition) else { continue };
            if self.astray.contains_key(&notice.partition) {
                continue;
            }
            if notice.code == Code::PartitionEOF {
                let position = notice.offset;
                // Behind us if more came since: then it is not the end any more, and another notice comes.
                if position >= next {
                    self.next.insert(notice.partition, position);
                    events.push(Event::EndOfPartition { partition: notice.partition, position });
                }
                continue;
            }
            // Not about where we read, but about where librdkafka believed we do.
            if matches!(notice.code, Code::AutoOffsetReset | Code::OffsetOutOfRange) && notice.offset != next {
                self.stray([notice.partition]);
                continue;
            }
            let text = self.consumer.context().redact(&notice.text);
            events.push(ask::judge(&self.topic, notice.code, Some((notice.partition, notice.offset)), text)?);
        }
        Ok(())
    }

    fn list(&self, offsets: impl IntoIterator<Item = (i32, i64)>) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))
                .map_err(|_| user(format!("offset {offset} of `{}` partition {partition} is not valid", self.topic)))?;
        }
        Ok(list)
    }

    fn failed(&self, doing: &str, error: &KafkaError) -> Error {
        let text = self.consumer.context().redact(&error.to_string());
        outside(format!("{doing} failed for topic `{}`: {text}", self.topic))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.closer.unanswered = self.unanswered.take();
    }
}

/// Whether a message belongs to the stream as it is now; then the partition has moved past it.
fn wanted(next: &mut BTreeMap<i32, i64>, astray: &BTreeMap<i32, Instant>, partition: i32, offset: i64) -> bool {
    match next.get_mut(&partition) {
        Some(next) if offset >= *next && (astray.is_empty() || !astray.contains_key(&partition)) => {
            *next = offset + 1;
            true
        }
        _ => false,
    }
}

/// How many messages to take next, so that a chunk of large ones does not outgrow its bytes.
fn step(chunk: &Chunk, max: usize) -> usize {
    let taken = chunk.messages.len();
    let by_bytes = match taken {
        0 => 64,
        n => CHUNK_BYTES.saturating_sub(chunk.arena.len()) / (chunk.arena.len() / n).max(1) + 1,
    };
    by_bytes.min(STEP).min(max - taken)
}

fn user(message: String) -> Error {
    Error::new(Stage::Kafka, Class::User, message)
}

fn outside(message: String) -> Error {
    Error::new(Stage::Kafka, Class::Outside, message)
}

//! Reads ranges of offsets from Kafka once more: what the stream has passed, for fills.
//!
//! Partitions are assigned by hand, nothing is committed, and `isolation.level=read_committed` holds as for the
//! stream, so the same messages are readable. What is read is decided by the caller; what becomes of it, too.
//! A thread reads; at most [`WAITING_MAX`] chunks wait for whoever takes them.
//!
//! Invariants: K1 of each range every readable message is handed over once, in the order of offsets, and none from
//! outside; K2 reading ends only when every range was passed: a broker that goes silent is an error, and so is a
//! transaction that is still open in a range.

use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::kafka::ask::hidden_by_transaction;
use crate::kafka::message::Chunk;
use crate::kafka::source::{Event, Mode, Source};
use crate::kafka::watermarks::Watermarks;
use crate::project::settings::{Options, Pipeline};
use deltaworks_core::history::{self, Facts, History};
use deltaworks_core::place::{Offset, OffsetRange};
use deltaworks_core::progress::{Progress, TopicProgress};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Group of the reader; it assigns by hand and never commits.
const GROUP: &str = "deltaworks.fill";
/// Memory for prefetched messages.
const QUEUE_BYTES: usize = 32 << 20;
/// Messages of one poll.
const AT_A_TIME: usize = 4_096;
/// One wait for messages.
const WAIT: Duration = Duration::from_millis(100);
/// A broker that sends nothing for so long is away.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a transaction that hides offsets of a range is waited for.
const TRANSACTION_PATIENCE: Duration = Duration::from_secs(5);
/// Chunks that wait to be taken; each has about 2 MiB, or one message.
const WAITING_MAX: usize = 2;

/// Ranges of offsets of one topic, by partition.
pub type Ranges = BTreeMap<i32, OffsetRange>;

/// Which offsets a person means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// This one.
    Offset(i64),
    /// That of the first message whose Kafka time is at or after this instant, ms.
    Time(i64),
}

/// Where a target lies in each of some partitions: the high watermark where no message is so young.
///
/// # Errors
/// [`Class::Outside`] if the broker does not answer.
pub fn resolve(broker: &Watermarks, topic: &str, partitions: &[i32], target: Target) -> Result<BTreeMap<i32, i64>> {
    match target {
        Target::Offset(offset) => Ok(partitions.iter().map(|partition| (*partition, offset)).collect()),
        Target::Time(ms) => broker.offsets_for_time(topic, partitions, ms),
    }
}

/// What the broker holds of a partition: its low and high watermark. Refuses a topic that is not the one that was
/// landed; offsets that retention has removed since are no reason to.
///
/// # Errors
/// [`Class::InputLost`] if the topic was recreated; [`Class::Outside`] if the broker does not answer.
pub fn held(broker: &Watermarks, pipeline: &Pipeline, partition: i32, at: &Progress) -> Result<(i64, i64)> {
    let topic = &pipeline.topic;
    let (low, high) = broker.low_high(topic, partition)?;
    let there_ms = match at.seen_ms {
        Some(_) => broker.message_time_at(topic, partition, at.next.0 - 1)?,
        None => None,
    };
    let facts = Facts { next: at.next, seen_ms: at.seen_ms, low: Offset(low), high: Offset(high), there_ms };
    match history::judge(facts) {
        History::Intact | History::Lost(_) => Ok((low, high)),
        History::RecreatedShorter | History::RecreatedLonger => {
            let message = format!(
                "{topic}/{partition} is not the log that was landed up to offset {}: it was recreated",
                at.next
            );
            Err(Error::new(Stage::Fill, Class::InputLost, message)
                .hint("`stream --on-data-loss accept` lands the new topic under a new epoch"))
        }
    }
}

/// The part of `[from, next)` that the broker still holds, of each partition that `from` names.
///
/// # Errors
/// [`Class::User`] for a partition that was never landed; as [`held`].
pub fn below_next(
    broker: &Watermarks,
    pipeline: &Pipeline,
    progress: &TopicProgress,
    from: &BTreeMap<i32, i64>,
) -> Result<Ranges> {
    let mut ranges = Ranges::new();
    for (partition, from) in from {
        let at = landed(pipeline, progress, *partition)?;
        let (low, high) = held(broker, pipeline, *partition, at)?;
        ranges.insert(*partition, OffsetRange::new((*from).max(low), at.next.0.min(high)));
    }
    Ok(ranges)
}

/// The progress of a partition that has any.
///
/// # Errors
/// [`Class::User`] if it has none.
pub fn landed<'p>(pipeline: &Pipeline, progress: &'p TopicProgress, partition: i32) -> Result<&'p Progress> {
    progress.partitions.get(&partition).ok_or_else(|| {
        let message = format!("pipeline `{}` has landed nothing of partition {partition}", pipeline.name);
        let known: Vec<String> = progress.partitions.keys().map(ToString::to_string).collect();
        Error::new(Stage::Fill, Class::User, message)
            .hint(format!("it knows the partitions {}; `stream --start` says where one begins", known.join(", ")))
    })
}

/// How much of one range was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PassedRange {
    /// Readable messages.
    pub messages: u64,
    /// Offsets that hold none: transaction markers, aborted or compacted messages.
    pub gaps: u64,
}

/// Messages of some ranges, as they arrive.
#[derive(Debug)]
pub struct Reading {
    chunks: mpsc::Receiver<Result<Chunk>>,
    ranges: Ranges,
    messages: BTreeMap<i32, u64>,
}

impl Reading {
    /// Begins to read; `clock` stamps each chunk as a poll of the stream would.
    #[must_use]
    pub fn begin(options: &Options, topic: &str, ranges: Ranges, want_headers: bool, clock: &Clock) -> Self {
        let (send, chunks) = mpsc::channel(WAITING_MAX);
        let (options, topic, clock) = (options.clone(), topic.to_owned(), clock.clone());
        let left = ranges.clone();
        // it ends by itself, at the latest one wait after this value is gone
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read(&options, &topic, left, want_headers, &clock, &send) {
                // nobody listens any more: then nobody needs to know
                let _ = send.blocking_send(Err(error));
            }
        });
        Self { chunks, ranges, messages: BTreeMap::new() }
    }

    /// The next messages, at least one; `None` when every range was passed.
    ///
    /// # Errors
    /// What librdkafka said; [`Class::Outside`] if the broker goes silent.
    pub async fn next(&mut self) -> Result<Option<Chunk>> {
        let Some(chunk) = self.chunks.recv().await.transpose()? else { return Ok(None) };
        for message in &chunk.messages {
            *self.messages.entry(message.partition).or_default() += 1;
        }
        Ok(Some(chunk))
    }

    /// What was read of each range, once [`Self::next`] has ended.
    #[must_use]
    pub fn passed(&self) -> BTreeMap<i32, PassedRange> {
        let passed = |(partition, range): (&i32, &OffsetRange)| {
            let messages = self.messages.get(partition).copied().unwrap_or(0);
            (*partition, PassedRange { messages, gaps: range.len().saturating_sub(messages) })
        };
        self.ranges.iter().map(passed).collect()
    }
}

fn read(
    options: &Options,
    topic: &str,
    mut left: Ranges,
    want_headers: bool,
    clock: &Clock,
    out: &mpsc::Sender<Result<Chunk>>,
) -> Result<()> {
    left.retain(|_, range| !range.is_empty());
    if left.is_empty() {
        return Ok(());
    }
    let mode = Mode::Manual { group: GROUP.to_owned(), partitions: left.keys().copied().collect() };
    let mut source = Source::open(options, topic, mode, QUEUE_BYTES, want_headers)?;
    let mut heard = Instant::now();
    // where the readable messages of a partition end before its range does
    let mut hidden: BTreeMap<i32, i64> = BTreeMap::new();
    while !left.is_empty() {
        let mut chunk = Chunk::default();
        let events = source.poll(&mut chunk, AT_A_TIME, WAIT, clock.now_ms())?;
        if out.is_closed() {
            return Ok(());
        }
        let mut passed = Vec::new();
        chunk.messages.retain(|message| {
            let Some(range) = left.get_mut(&message.partition) else { return false };
            hidden.remove(&message.partition);
            let inside = message.offset >= range.from.0 && message.offset < range.to.0;
            // what was handed over, or lies beyond the range, is behind us
            range.from = Offset(message.offset).next_to_read().max(range.from);
            if range.is_empty() {
                passed.push(message.partition);
            }
            inside
        });
        let came = !chunk.messages.is_empty();
        if came && out.blocking_send(Ok(chunk)).is_err() {
            return Ok(());
        }
        if came || !passed.is_empty() {
            // after the chunk was taken: a slow taker is no silent broker
            heard = Instant::now();
        }
        for event in events {
            match event {
                Event::Assigning(partitions) => {
                    let starts: Vec<(i32, i64)> =
                        partitions.iter().filter_map(|p| left.get(p).map(|range| (*p, range.from.0))).collect();
                    source.assign(&starts)?;
                }
                Event::EndOfPartition { partition, position } => match left.get(&partition) {
                    Some(range) if position >= range.to.0 => passed.push(partition),
                    _ => drop(hidden.insert(partition, position)),
                },
                Event::Revoking(partitions) | Event::Lost(partitions) => source.unassign(&partitions)?,
                Event::Trouble { text } => tracing::debug!(%text, "the broker is read again"),
            }
        }
        left.retain(|partition, _| !passed.contains(partition));
        if !passed.is_empty() {
            source.unassign(&passed)?;
        }
        if heard.elapsed() > TRANSACTION_PATIENCE
            && let Some(error) = not_readable(topic, &left, &hidden)
        {
            return Err(error);
        }
        if heard.elapsed() > PATIENCE {
            let message = format!("topic `{topic}` sends nothing more: {} ranges are left", left.len());
            return Err(Error::new(Stage::Kafka, Class::Outside, message));
        }
    }
    Ok(())
}

/// Why nothing more comes, where that is so for all of the ranges that are left.
fn not_readable(topic: &str, left: &Ranges, hidden: &BTreeMap<i32, i64>) -> Option<Error> {
    let of = |(partition, range): (&i32, &OffsetRange)| Some((*partition, *hidden.get(partition)?, range.to));
    let all: Vec<(i32, i64, Offset)> = left.iter().map(of).collect::<Option<_>>()?;
    let (partition, from, to) = *all.first()?;
    Some(hidden_by_transaction(topic, partition, from, to.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::memory::{Broker, Sent};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_open_transaction_in_a_range_is_told() {
        let broker = Broker::start();
        broker.create_topic("events", 1);
        let options = Options(BTreeMap::from([("bootstrap.servers".to_owned(), broker.bootstrap().to_owned())]));
        for n in 0..6 {
            if n == 3 {
                broker.begin("events", 0);
            }
            broker.send("events", 0, Sent { payload: Some(b"x".to_vec()), ..Sent::default() });
        }
        let ranges = Ranges::from([(0, OffsetRange::new(1, 5))]);
        let begin = || Reading::begin(&options, "events", ranges.clone(), false, &Clock::of(|| 0));
        let mut reading = begin();
        assert_eq!(reading.next().await.unwrap().map(|chunk| chunk.messages.len()), Some(2));
        let error = reading.next().await.unwrap_err();
        assert_eq!(error.class, Class::InputNotYet);
        assert!(error.message.ends_with("hides the offsets 3 to 5 of events/0"), "{error:?}");
        broker.end("events", 0, false);
        let mut reading = begin();
        while reading.next().await.unwrap().is_some() {}
        assert_eq!(reading.passed(), BTreeMap::from([(0, PassedRange { messages: 2, gaps: 2 })]));
    }
}

//! A broker in memory, for tests that must replay: what it answers follows from what was sent to it, never from time.
//!
//! It is reached as any broker is, by `bootstrap.servers`, so whatever asks or reads Kafka runs on it as it is. A log
//! has what Kafka's have: offsets without a readable message (markers, aborted and compacted ones), a low watermark
//! that retention raises, and an open transaction that hides what lies behind it from readers but not from the high
//! watermark. Partitions are assigned at once, and nobody else is ever in the group: rebalances are tested on librdkafka.
//!
//! Invariants: S1 to S3 of [`super::source`]; M1 polls of the same log deliver the same chunks, however fast.

use super::ask::hidden_by_transaction;
use super::message::Chunk;
use super::source::{Event, Mode};
use crate::error::{Class, Error, Result, Stage};
use crate::project::settings::Options;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How `bootstrap.servers` of these brokers begins.
const SCHEME: &str = "memory:";
/// How long a poll waits that has nothing to deliver: nothing comes while it waits but what a test sends.
const WAIT: Duration = Duration::from_micros(200);

/// The brokers that are up, by name.
static BROKERS: Mutex<BTreeMap<String, Weak<Broker>>> = Mutex::new(BTreeMap::new());

/// A broker; it is up as long as somebody holds it.
#[derive(Debug)]
pub struct Broker {
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<String, Vec<Log>>,
    /// By group and topic.
    groups: BTreeMap<(String, String), BTreeMap<i32, i64>>,
}

/// One partition.
#[derive(Debug, Clone, Default)]
struct Log {
    /// By offset; `None` where nothing can be read.
    messages: Vec<Option<Sent>>,
    low: i64,
    /// Where an open transaction begins.
    open_from: Option<i64>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sent {
    /// Kafka's time, ms.
    pub time_ms: Option<i64>,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
}

impl Broker {
    /// Starts a broker.
    #[must_use]
    pub fn start() -> Arc<Self> {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let name = format!("{SCHEME}{}", STARTED.fetch_add(1, Relaxed));
        let broker = Arc::new(Self { name: name.clone(), state: Mutex::default() });
        lock(&BROKERS).insert(name, Arc::downgrade(&broker));
        broker
    }

    /// The broker that the options name, if they name one in memory.
    pub fn of(options: &Options) -> Option<Result<Arc<Self>>> {
        let name = options.0.get("bootstrap.servers").filter(|name| name.starts_with(SCHEME))?;
        let found = lock(&BROKERS).get(name).and_then(Weak::upgrade);
        Some(found.ok_or_else(|| Error::new(Stage::Kafka, Class::Outside, format!("broker `{name}` is not up"))))
    }

    /// `bootstrap.servers` of the broker.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.name
    }

    /// Makes a topic.
    pub fn create_topic(&self, topic: &str, partitions: usize) {
        self.state().topics.insert(topic.to_owned(), vec![Log::default(); partitions]);
    }

    /// Appends a message and returns its offset.
    pub fn send(&self, topic: &str, partition: i32, sent: Sent) -> i64 {
        self.append(topic, partition, Some(sent))
    }

    /// Appends an offset at which nothing can be read.
    pub fn leave_out(&self, topic: &str, partition: i32) -> i64 {
        self.append(topic, partition, None)
    }

    /// Opens a transaction: what is sent from now on cannot be read yet.
    pub fn begin(&self, topic: &str, partition: i32) {
        self.change(topic, partition, |log| log.open_from = log.open_from.or(Some(log.high())));
    }

    /// Ends it, and leaves a marker; what was sent since is there, or never.
    pub fn end(&self, topic: &str, partition: i32, committed: bool) {
        self.change(topic, partition, |log| {
            let Some(from) = log.open_from.take() else { return };
            if !committed {
                log.messages[from as usize..].fill(None);
            }
            log.messages.push(None);
        });
    }

    /// Removes what lies below an offset, as retention does.
    pub fn raise_low(&self, topic: &str, partition: i32, low: i64) {
        self.change(topic, partition, |log| log.low = low.clamp(log.low, log.stable()));
    }

    /// How many partitions the topic has.
    pub fn partition_count(&self, topic: &str) -> Result<i32> {
        let state = self.state();
        let logs = state.topics.get(topic).ok_or_else(|| missing(topic))?;
        Ok(i32::try_from(logs.len()).unwrap_or(i32::MAX))
    }

    /// Low and high watermark.
    pub fn low_high(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        self.look(topic, partition, |log| (log.low, log.high()))
    }

    /// The time of the readable message at an offset.
    pub fn message_time_at(&self, topic: &str, partition: i32, offset: i64) -> Result<Option<i64>> {
        self.look(topic, partition, |log| {
            if (log.stable()..log.high()).contains(&offset) {
                return Err(hidden_by_transaction(topic, partition, log.stable(), offset + 1));
            }
            Ok(log.at(offset).and_then(|sent| sent.time_ms))
        })?
    }

    /// The first offset whose message is not older than an instant, or the high watermark.
    pub fn offsets_for_time(&self, topic: &str, partitions: &[i32], time_ms: i64) -> Result<BTreeMap<i32, i64>> {
        let first = |log: &Log| {
            let is_young = |offset: &i64| log.at(*offset).is_some_and(|s| s.time_ms.is_some_and(|ms| ms >= time_ms));
            (log.low..log.stable()).find(is_young).unwrap_or_else(|| log.high())
        };
        partitions.iter().map(|partition| Ok((*partition, self.look(topic, *partition, first)?))).collect()
    }

    /// The high watermarks.
    pub fn highs(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        partitions.iter().map(|partition| Ok((*partition, self.look(topic, *partition, Log::high)?))).collect()
    }

    /// What a group has committed.
    pub fn group_offsets(&self, group: &str, topic: &str) -> Result<BTreeMap<i32, i64>> {
        let key = (group.to_owned(), topic.to_owned());
        Ok(self.state().groups.get(&key).cloned().unwrap_or_default())
    }

    /// Every readable message, by partition and offset, also those below the low watermark.
    #[must_use]
    pub fn all(&self, topic: &str) -> BTreeMap<(i32, i64), Sent> {
        let state = self.state();
        let logs = (0..).zip(state.topics.get(topic).into_iter().flatten());
        let of = |(partition, log): (i32, &Log)| {
            let readable = (0..log.stable()).zip(log.messages.clone());
            readable.filter_map(move |(offset, sent)| Some(((partition, offset), sent?))).collect::<Vec<_>>()
        };
        logs.flat_map(of).collect()
    }

    fn append(&self, topic: &str, partition: i32, entry: Option<Sent>) -> i64 {
        self.change(topic, partition, |log| {
            log.messages.push(entry);
            log.high() - 1
        })
    }

    fn change<T>(&self, topic: &str, partition: i32, change: impl FnOnce(&mut Log) -> T) -> T {
        let mut state = self.state();
        let logs = state.topics.get_mut(topic).expect("the topic was made");
        change(&mut logs[partition as usize])
    }

    fn look<T>(&self, topic: &str, partition: i32, look: impl FnOnce(&Log) -> T) -> Result<T> {
        let state = self.state();
        let log = state.topics.get(topic).and_then(|logs| logs.get(usize::try_from(partition).ok()?));
        log.map(look).ok_or_else(|| missing(topic))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        lock(&BROKERS).remove(&self.name);
    }
}

impl Log {
    fn high(&self) -> i64 {
        self.messages.len() as i64
    }

    /// Where reading ends: the last stable offset.
    fn stable(&self) -> i64 {
        self.open_from.unwrap_or_else(|| self.high())
    }

    fn at(&self, offset: i64) -> Option<&Sent> {
        (self.low..self.stable()).contains(&offset).then(|| self.messages[offset as usize].as_ref()).flatten()
    }
}

/// A reader of one topic; the methods are those of [`super::source::Source`].
pub struct Reader {
    broker: Arc<Broker>,
    topic: String,
    group: String,
    /// The assignment, until it has been reported.
    assigning: Option<Vec<i32>>,
    next: BTreeMap<i32, i64>,
    /// Where each partition was last said to end.
    ended: BTreeMap<i32, i64>,
    paused: BTreeSet<i32>,
}

impl Reader {
    /// Opens a reader; messages here have no headers.
    pub fn open(broker: Arc<Broker>, topic: &str, mode: Mode, _want_headers: bool) -> Result<Self> {
        let count = broker.partition_count(topic)?;
        let (group, partitions) = match mode {
            Mode::Group { group } => (group, (0..count).collect()),
            Mode::Manual { group, partitions } => (group, partitions),
        };
        if partitions.iter().any(|partition| !(0..count).contains(partition)) {
            return Err(missing(topic));
        }
        let (next, ended, paused) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Ok(Self { broker, topic: topic.to_owned(), group, assigning: Some(partitions), next, ended, paused })
    }

    pub fn poll(&mut self, chunk: &mut Chunk, max: usize, timeout: Duration, clock_ms: i64) -> Result<Vec<Event>> {
        chunk.clear();
        chunk.clock_ms = clock_ms;
        if let Some(partitions) = self.assigning.take() {
            return Ok(vec![Event::Assigning(partitions)]);
        }
        let mut events = Vec::new();
        let readable: Vec<i32> = self.next.keys().copied().filter(|p| max > 0 && !self.paused.contains(p)).collect();
        for partition in readable {
            events.extend(self.take(partition, chunk, max)?);
        }
        if chunk.messages.is_empty() && events.is_empty() {
            std::thread::sleep(timeout.min(WAIT));
        }
        Ok(events)
    }

    pub fn assign(&mut self, starts: &[(i32, i64)]) -> Result<()> {
        self.next.extend(starts.iter().copied());
        self.ended.retain(|partition, _| starts.iter().all(|(start, _)| start != partition));
        Ok(())
    }

    pub fn unassign(&mut self, partitions: &[i32]) -> Result<()> {
        for partition in partitions {
            self.next.remove(partition);
            self.paused.remove(partition);
        }
        Ok(())
    }

    pub fn seek(&mut self, targets: &[(i32, i64)]) {
        for (partition, offset) in targets {
            if let Some(next) = self.next.get_mut(partition) {
                *next = *offset;
                self.ended.remove(partition);
            }
        }
    }

    pub fn commit_group(&self, nexts: &[(i32, i64)]) -> Result<()> {
        let key = (self.group.clone(), self.topic.clone());
        self.broker.state().groups.entry(key).or_default().extend(nexts.iter().copied());
        Ok(())
    }

    pub fn pause(&mut self, partitions: &[i32]) -> Result<()> {
        self.paused.extend(partitions.iter().filter(|partition| self.next.contains_key(partition)));
        Ok(())
    }

    pub fn resume(&mut self, partitions: &[i32]) -> Result<()> {
        self.paused.retain(|partition| !partitions.contains(partition));
        Ok(())
    }

    pub const fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.next
    }

    /// Takes messages of one partition until the chunk is full or they end.
    fn take(&mut self, partition: i32, chunk: &mut Chunk, max: usize) -> Result<Option<Event>> {
        let Some(next) = self.next.get_mut(&partition) else { return Ok(None) };
        let (low, log) = self.broker.look(&self.topic, partition, |log| (log.low, log.clone()))?;
        if *next < low || *next > log.high() {
            let message = format!("topic `{}` partition {partition} offset {next}: it is not in the log", self.topic);
            return Err(Error::new(Stage::Kafka, Class::InputLost, message));
        }
        while *next < log.stable() && chunk.messages.len() < max {
            if let Some(sent) = log.at(*next) {
                chunk.push(partition, *next, sent.time_ms, sent.key.as_deref(), sent.payload.as_deref(), []);
            }
            *next += 1;
        }
        let is_new = *next >= log.stable() && self.ended.insert(partition, *next) != Some(*next);
        Ok(is_new.then_some(Event::EndOfPartition { partition, position: *next }))
    }
}

fn missing(topic: &str) -> Error {
    Error::new(Stage::Kafka, Class::User, format!("there is no such partition of topic `{topic}`"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::source::Source;
    use super::super::watermarks::Watermarks;
    use super::*;

    fn sent(n: u8) -> Sent {
        Sent { time_ms: Some(i64::from(n)), key: None, payload: Some(vec![n]) }
    }

    fn options(broker: &Broker) -> Options {
        Options([("bootstrap.servers".to_owned(), broker.bootstrap().to_owned())].into())
    }

    /// Offsets and ends of one poll.
    fn poll(source: &mut Source, max: usize) -> (Vec<i64>, Vec<i64>) {
        let mut chunk = Chunk::default();
        let events = source.poll(&mut chunk, max, Duration::ZERO, 0).unwrap();
        let ends = events.iter().map(|event| match event {
            Event::EndOfPartition { position, .. } => *position,
            other => panic!("{other:?}"),
        });
        (chunk.messages.iter().map(|message| message.offset).collect(), ends.collect())
    }

    #[test]
    fn a_log_reads_as_kafkas_does() {
        let broker = Broker::start();
        broker.create_topic("t", 1);
        for n in 0..3 {
            broker.send("t", 0, sent(n));
        }
        broker.leave_out("t", 0);
        broker.begin("t", 0);
        broker.send("t", 0, sent(9));
        let asked = Watermarks::open(&options(&broker)).unwrap();
        assert_eq!(asked.low_high("t", 0).unwrap(), (0, 5), "an open transaction hides no offset");
        let mode = Mode::Manual { group: "g".into(), partitions: vec![0] };
        let mut source = Source::open(&options(&broker), "t", mode, 0, false).unwrap();
        let assigning = source.poll(&mut Chunk::default(), 9, Duration::ZERO, 0).unwrap();
        assert_eq!(assigning, [Event::Assigning(vec![0])]);
        assert_eq!(poll(&mut source, 9), (vec![], vec![]), "nothing is assigned yet");
        source.assign(&[(0, 1)]).unwrap();
        assert_eq!(poll(&mut source, 1), (vec![1], vec![]));
        assert_eq!(poll(&mut source, 9), (vec![2], vec![4]), "and not what is still open");
        assert_eq!(poll(&mut source, 9), (vec![], vec![]));
        broker.end("t", 0, false);
        assert_eq!(poll(&mut source, 9), (vec![], vec![6]), "it was given up, and left a marker");
        assert_eq!(asked.message_time_at("t", 0, 2).unwrap(), Some(2));
        assert_eq!(asked.message_time_at("t", 0, 4).unwrap(), None);
        assert_eq!(asked.offsets_for_time("t", &[0], 1).unwrap(), BTreeMap::from([(0, 1)]));
        source.commit_group(&[(0, 6)]).unwrap();
        assert_eq!(asked.group_offsets("g", "t").unwrap(), BTreeMap::from([(0, 6)]));
        broker.raise_low("t", 0, 2);
        source.seek(&[(0, 1)]);
        let error = source.poll(&mut Chunk::default(), 9, Duration::ZERO, 0).unwrap_err();
        assert_eq!(error.class, Class::InputLost);
        drop(broker);
        assert!(source.positions().contains_key(&0), "a reader keeps its broker up");
    }

    #[test]
    fn a_broker_that_is_down_is_no_broker() {
        let broker = Broker::start();
        let options = options(&broker);
        drop(broker);
        assert_eq!(Watermarks::open(&options).err().unwrap().class, Class::Outside);
    }
}

//! What was sent, as the broker's delivery reports say, and whether the tables hold exactly that.
//!
//! The product's own counters are no part of the truth: its ledger is held against the truth too.

use super::support::{PATIENCE, World, now_ms};
use crate::harness::Rng;
use deltaworks_jobs::kafka::producer::{Outgoing, Producer};
use deltaworks_jobs::produce::generate::Event;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// Topic with its epoch (`""`, `"#1"`), partition, offset.
type Place = (String, i32, i64);

/// What must become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Landed,
    Rejected(&'static str),
    Skipped,
}

/// A message that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub payload: Vec<u8>,
    pub fate: Fate,
    /// Kafka's time of it, where the sender chose it.
    pub kafka_ms: Option<i64>,
}

/// Every readable message of a topic.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// Epoch of what is recorded from now on.
    pub epoch: String,
    /// Where landing must begin in a partition, if not at 0.
    pub starts: BTreeMap<(String, i32), i64>,
    sent: BTreeMap<Place, Sent>,
}

/// Sends events, and some that break the contract, and keeps the truth.
pub struct Sender {
    pub truth: Truth,
    partitions: i32,
    pub producer: Producer,
    topic: String,
    random: Rng,
    number: u64,
    waiting: Vec<Sent>,
}

impl Sender {
    pub fn new(world: &World, partitions: i32, seed: u64) -> Self {
        Self::over(Producer::open(&world.options, true).unwrap(), world, partitions, seed)
    }

    /// One that sends with this producer.
    pub fn over(producer: Producer, world: &World, partitions: i32, seed: u64) -> Self {
        let (truth, topic) = (Truth::default(), world.topic.clone());
        Self { truth, partitions, producer, topic, random: Rng(seed), number: 0, waiting: Vec::new() }
    }

    /// Sends `count` messages over all partitions, one in 32 of them broken, at random event times of the last two days.
    pub fn send(&mut self, count: usize) {
        for _ in 0..count {
            let partition = i32::try_from(self.random.below(self.partitions.unsigned_abs().into())).unwrap();
            if self.random.below(32) == 0 {
                self.broken(partition);
            } else {
                let at_ms = now_ms() - i64::try_from(self.random.below(172_800_000)).unwrap();
                self.event(partition, at_ms, None);
            }
        }
    }

    /// Sends one good event of an event time, optionally with a Kafka time and a key.
    pub fn event(&mut self, partition: i32, at_ms: i64, kafka_ms: Option<i64>) {
        let payload = self.payload(at_ms);
        self.put(partition, Some(payload.into_bytes()), None, kafka_ms, Fate::Landed);
    }

    /// Sends a copy of an event that was sent before, the n-th of all messages, as it was or at another event time.
    /// Does nothing where that message was broken.
    pub fn copy(&mut self, number: usize, partition: i32, at_ms: Option<i64>) {
        let Sent { payload, fate: Fate::Landed, .. } = self.waiting[number].clone() else { return };
        let mut event: Value = serde_json::from_slice(&payload).unwrap();
        let payload = match at_ms {
            None => payload,
            Some(at_ms) => {
                event["observed_at"] = json!(text_of(at_ms));
                serde_json::to_vec(&event).unwrap()
            }
        };
        self.put(partition, Some(payload), None, None, Fate::Landed);
    }

    /// How many messages were sent.
    pub fn sent(&self) -> usize {
        self.waiting.len()
    }

    /// The same with a key, for topics that are compacted.
    pub fn keyed(&mut self, partition: i32, key: &str, at_ms: i64) {
        let payload = self.payload(at_ms);
        self.put(partition, Some(payload.into_bytes()), Some(key), None, Fate::Landed);
    }

    /// Sends an event as the product's generator made it, at a Kafka time.
    pub fn made(&mut self, partition: i32, event: Event, kafka_ms: i64) {
        let fate = event.reason.map_or(Fate::Landed, |reason| Fate::Rejected(reason.as_str()));
        self.put(partition, event.payload, None, Some(kafka_ms), fate);
    }

    /// Sends this very text.
    pub fn text(&mut self, partition: i32, text: &str, fate: Fate) {
        self.put(partition, Some(text.as_bytes().to_vec()), None, None, fate);
    }

    /// Sends a message that breaks the contract.
    pub fn broken(&mut self, partition: i32) {
        let good = self.payload(now_ms());
        let (payload, reason) = match self.random.below(7) {
            0 => (good[..good.len() / 2].to_owned(), "not_json"),
            1 => ("[]".to_owned(), "not_one_object"),
            2 => (good.replacen("\"camera_id\"", "\"camera\"", 1), "missing_field"),
            3 => (good.replacen("\"lane\":", "\"lane\":\"x\",\"old_lane\":", 1), "wrong_type"),
            4 => (good.replacen("\"vehicle_speed\":", "\"vehicle_speed\":999,\"was\":", 1), "out_of_range"),
            5 => (good.replacen("cam-", "bus-", 1), "pattern"),
            _ => (String::new(), "not_utf8"),
        };
        let bytes = if reason == "not_utf8" { vec![b'{', 0xff, 0xfe, b'}'] } else { payload.into_bytes() };
        self.put(partition, Some(bytes), None, None, Fate::Rejected(reason));
    }

    /// Goes on sending bursts while `body` runs; then waits for all deliveries.
    pub fn while_sending<R>(&mut self, burst: usize, pause: Duration, body: impl FnOnce() -> R) -> R {
        let send = |sender: &mut Self| {
            let count = 1 + sender.random.below(2 * burst as u64);
            sender.send(usize::try_from(count).unwrap());
        };
        self.while_doing(pause, send, body)
    }

    /// Goes on with `send` while `body` runs; then waits for all deliveries.
    pub fn while_doing<R>(
        &mut self,
        pause: Duration,
        mut send: impl FnMut(&mut Self) + Send,
        body: impl FnOnce() -> R,
    ) -> R {
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        let stop = AtomicBool::new(false);
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    send(self);
                    self.producer.poll(Duration::ZERO).unwrap();
                    thread::sleep(pause);
                }
            });
            // also when `body` panics
            let _stop = Stop(&stop);
            body()
        });
        self.settle();
        outcome
    }

    /// Waits for all deliveries and notes them.
    pub fn settle(&mut self) {
        self.producer.flush(PATIENCE).unwrap();
        for report in self.producer.take_reports() {
            let (partition, offset) = report.outcome.unwrap();
            let sent = self.waiting[report.ticket].clone();
            let before = self.truth.sent.insert((self.truth.epoch.clone(), partition, offset), sent);
            assert_eq!(before, None, "{partition}/{offset} was given to two messages");
        }
    }

    /// Waits for all deliveries and forgets them: they were sent in a transaction that is aborted.
    pub fn settle_as_never_readable(&mut self) -> usize {
        self.producer.flush(PATIENCE).unwrap();
        self.producer.take_reports().len()
    }

    fn put(&mut self, partition: i32, payload: Option<Vec<u8>>, key: Option<&str>, at: Option<i64>, fate: Fate) {
        let ticket = self.waiting.len();
        self.waiting.push(Sent { payload: payload.clone().unwrap_or_default(), fate, kafka_ms: at });
        let message = Outgoing {
            partition: Some(partition),
            key: key.map(str::as_bytes),
            payload: payload.as_deref(),
            timestamp_ms: at,
            headers: &[],
            ticket,
        };
        self.producer.send(&self.topic, message).unwrap();
    }

    /// A good event of an event time, not sent.
    pub fn payload(&mut self, at_ms: i64) -> String {
        self.number += 1;
        let (a, b) = (self.random.next(), self.random.next());
        let mut text = format!(
            "{{\"event_id\":\"{a:016x}{:08x}{:08x}\",\"camera_id\":\"cam-{:03}\",\"observed_at\":\"{}\",\"vehicle_speed\":{}.{:02},\"lane\":{}",
            b >> 32,
            self.number,
            b % 20,
            text_of(at_ms),
            b % 200,
            (b >> 8) % 100,
            1 + (b >> 16) % 8,
        );
        if b.is_multiple_of(3) {
            let _ = write!(text, ",\"plate_number\":\"Ж{}\",\"location\":{{\"lat\":50.5,\"lon\":-0.25}}", b % 1_000);
        }
        if b.is_multiple_of(5) {
            text.push_str(",\"tags\":[\"rain\",null]");
        }
        text + "}"
    }
}

impl Truth {
    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// Every message with its partition and offset, in the order of each partition.
    pub fn messages(&self) -> impl Iterator<Item = (i32, i64, &Sent)> {
        self.sent.iter().map(|((_, partition, offset), sent)| (*partition, *offset, sent))
    }

    /// How many rows there must be in raw.
    pub fn good(&self) -> u64 {
        self.sent.values().filter(|sent| sent.fate == Fate::Landed).count() as u64
    }

    /// Takes in what another sender sent.
    pub fn merge(&mut self, other: Self) {
        for (place, sent) in other.sent {
            assert_eq!(self.sent.insert(place.clone(), sent), None, "{place:?} was given to two messages");
        }
    }

    /// Forgets messages that the broker no longer holds, or that landing must pass over.
    pub fn forget(&mut self, gone: impl Fn(i32, i64) -> bool) -> usize {
        let before = self.sent.len();
        let epoch = self.epoch.clone();
        self.sent.retain(|(e, partition, offset), _| *e != epoch || !gone(*partition, *offset));
        before - self.sent.len()
    }

    /// Panics unless every message is in the tables exactly once and nothing else is, values are equal, and the
    /// ledger's ranges are whole, balanced and say the same.
    pub fn holds(&self, world: &World) {
        let epochs: BTreeSet<&String> = self.sent.keys().map(|(epoch, ..)| epoch).collect();
        assert!(!epochs.is_empty(), "{}: nothing was sent", world.name);
        let raw = self.raw_holds(world);
        let rejects = self.rejects_hold(world, &raw);
        for (place, Sent { fate, .. }) in &self.sent {
            let there = raw.contains(place) || rejects.contains(place);
            assert_eq!(there, *fate != Fate::Skipped, "{}: {place:?} is {fate:?}, in the tables: {there}", world.name);
        }
        self.ledger_holds(world, &raw, &rejects);
    }

    fn raw_holds(&self, world: &World) -> BTreeSet<Place> {
        let rows = world.query(
            "SELECT _topic, _partition, _offset, event_id, camera_id, CAST(vehicle_speed AS VARCHAR) AS vehicle_speed, lane, \
             plate_number, CAST(observed_at AS BIGINT) AS at_us, CAST(event_date AS VARCHAR) AS event_date, \
             cardinality(tags) AS tags FROM raw.camera_events",
        );
        let mut places = BTreeSet::new();
        for row in rows {
            let place = place(world, &row);
            assert!(places.insert(place.clone()), "{}: {place:?} is in raw twice", world.name);
            let Some(Sent { payload, fate: Fate::Landed, .. }) = self.sent.get(&place) else {
                panic!("{}: {place:?} must not be in raw: {:?}", world.name, self.sent.get(&place));
            };
            let sent: Value = serde_json::from_slice(payload).unwrap();
            let text = String::from_utf8_lossy(payload);
            let same = row["event_id"] == sent["event_id"]
                && row["camera_id"] == sent["camera_id"]
                && row["lane"] == sent["lane"]
                && row["plate_number"] == sent["plate_number"]
                && row["tags"].as_u64() == sent["tags"].as_array().map(|tags| tags.len() as u64)
                && row["vehicle_speed"].as_str() == Some(&format!("{:.2}", sent["vehicle_speed"].as_f64().unwrap()))
                && row["at_us"].as_i64() == sent["observed_at"].as_str().map(micros)
                && sent["observed_at"].as_str().map(|at| &at[..10]) == row["event_date"].as_str();
            assert!(same, "{}: {place:?} holds other values: {row} instead of {text}", world.name);
        }
        places
    }

    fn rejects_hold(&self, world: &World, raw: &BTreeSet<Place>) -> BTreeSet<Place> {
        let rows = world.query("SELECT _topic, _partition, _offset, reason, payload FROM rejects.camera_events");
        let mut places = BTreeSet::new();
        for row in rows {
            let place = place(world, &row);
            assert!(places.insert(place.clone()), "{}: {place:?} is in rejects twice", world.name);
            let Some(Sent { payload, fate, .. }) = self.sent.get(&place) else {
                panic!("{}: {place:?} must not be in rejects: {row}", world.name);
            };
            // a place in both tables has landed
            if !raw.contains(&place) {
                let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(row["payload"].as_str(), Some(hex.as_str()), "{}: {place:?} holds other bytes", world.name);
                let Fate::Rejected(reason) = fate else { panic!("{}: {place:?} was good: {row}", world.name) };
                assert_eq!(row["reason"], *reason, "{}: {place:?}", world.name);
            }
        }
        places
    }

    fn ledger_holds(&self, world: &World, raw: &BTreeSet<Place>, rejects: &BTreeSet<Place>) {
        let rows = world.query(
            "SELECT topic, partition, from_offset, to_offset, landed, rejected, skipped, gaps, gap_ranges \
             FROM ops.offsets WHERE partition IS NOT NULL ORDER BY topic, partition, version",
        );
        let mut next: BTreeMap<(String, i32), i64> = BTreeMap::new();
        for row in &rows {
            let number = |name: &str| row[name].as_i64().unwrap_or_else(|| panic!("{name}: {row}"));
            let (epoch, partition) = (epoch_of(world, &row["topic"]), i32::try_from(number("partition")).unwrap());
            let (from, to) = (number("from_offset"), number("to_offset"));
            let at = next
                .entry((epoch.clone(), partition))
                .or_insert_with(|| self.starts.get(&(epoch.clone(), partition)).copied().unwrap_or(0));
            assert_eq!(from, *at, "{}: the ledger has a hole or an overlap: {row}", world.name);
            *at = to;
            let within = |places: &BTreeSet<Place>| {
                let bounds = (epoch.clone(), partition, from)..(epoch.clone(), partition, to);
                places.range(bounds).cloned().collect::<BTreeSet<_>>()
            };
            let (landed, rejected) = (within(raw), within(rejects));
            let only_rejected = rejected.difference(&landed).count() as i64;
            assert_eq!(number("landed"), landed.len() as i64, "{}: {row}", world.name);
            assert_eq!(number("rejected"), only_rejected, "{}: {row}", world.name);
            let whole = number("landed") + number("rejected") + number("skipped") + number("gaps");
            assert_eq!(whole, to - from, "{}: the ledger does not balance: {row}", world.name);
            let readable = self.sent.range((epoch.clone(), partition, from)..(epoch.clone(), partition, to)).count();
            assert_eq!(number("gaps"), to - from - readable as i64, "{}: gaps: {row}", world.name);
        }
        for (epoch, partition, offset) in self.sent.keys() {
            let at = next.get(&(epoch.clone(), *partition)).copied().unwrap_or(0);
            assert!(
                *offset < at,
                "{}: {partition}/{offset}{epoch} is not in the ledger, which ends at {at}",
                world.name
            );
        }
    }

    /// Leaves the truth for the other readers, if anybody asked. Two epochs of one topic have the same places, which
    /// those readers cannot tell apart: such a truth is not handed over.
    pub fn hand_over(&self, world: &World) {
        let Some(folder) = std::env::var_os("E2E_TRUTH") else { return };
        if self.sent.keys().any(|(epoch, ..)| !epoch.is_empty()) {
            return;
        }
        let mut lines = String::new();
        for ((_, partition, offset), Sent { payload, fate, .. }) in &self.sent {
            let mut line = json!({ "partition": partition, "offset": offset });
            match std::str::from_utf8(payload) {
                Ok(text) => line["payload"] = json!(text),
                Err(_) => line["payload_base64"] = json!(""),
            }
            match fate {
                Fate::Landed => line["kind"] = json!("event"),
                Fate::Skipped => line["kind"] = json!("skipped"),
                Fate::Rejected(reason) => line["reason"] = json!(reason),
            }
            let _ = writeln!(lines, "{line}");
        }
        let file = Path::new(&folder).join(&world.name);
        fs::write(file.with_extension("raw"), format!("{}/raw/camera_events", world.lake)).unwrap();
        fs::write(file.with_extension("rejects"), format!("{}/rejects/camera_events", world.lake)).unwrap();
        fs::write(file.with_extension("jsonl"), lines).unwrap();
    }
}

fn place(world: &World, row: &Value) -> Place {
    let partition = i32::try_from(row["_partition"].as_i64().unwrap()).unwrap();
    (epoch_of(world, &row["_topic"]), partition, row["_offset"].as_i64().unwrap())
}

fn epoch_of(world: &World, topic: &Value) -> String {
    let topic = topic.as_str().unwrap();
    topic.strip_prefix(&world.topic).unwrap_or_else(|| panic!("not our topic: {topic}")).to_owned()
}

/// An instant as events say it.
pub fn micros(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

fn text_of(ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap();
    format!("{at:.3}")
}

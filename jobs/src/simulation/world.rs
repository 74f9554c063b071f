//! What a simulation plays in: a project, a broker and a lake in memory, a clock that it moves, and what it has sent.
//!
//! Nothing of a job outlives its step: each one opens the lake anew, behind an edge of its own.

use super::steps::Message;
use super::store::{Dated, Death, Edge, Now, Pause, Seen};
use crate::clock::Clock;
use crate::kafka::memory::{Broker, Sent};
use crate::lake::Lake;
use crate::lake::faults::Script;
use crate::project;
use crate::project::settings::{Pipeline, Settings};
use deltalake::logstore::object_store::{ObjectStoreExt as _, path::Path};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

pub const TOPIC: &str = "events";
pub const PARTITIONS: i32 = 2;
pub const ZONE: &str = "Europe/Kyiv";
pub const LATENESS_MS: i64 = 3_600_000;
pub const DAY_MS: i64 = 86_400_000;
/// 2026-03-26T00:00:00Z: in Kyiv the clocks go forward three days later.
pub const BEGIN_MS: i64 = 1_774_483_200_000;
/// Values above are bad under the first version of the contract, and good under the second.
pub const GOOD_MAX: i64 = 100;

/// Every date of fewer rows keeps the contract's rule.
pub const ROWS_LESS_THAN: usize = 40;

/// An aggregate.
#[derive(Debug, Clone, Copy)]
pub struct Aggregate {
    pub name: &'static str,
    pub windows: &'static [&'static str],
    /// Groups whose greatest value is not less than it are left out.
    pub having_less_than: Option<i64>,
}

/// Between them they have every kind of window: of the base, of several dates of a zone, of a day of the zone.
pub const AGGREGATES: [Aggregate; 2] = [
    Aggregate { name: "plain", windows: &["15m", "1d"], having_less_than: None },
    Aggregate { name: "picky", windows: &["6h"], having_less_than: Some(90) },
];

/// An event, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub at_us: i64,
    pub value: i64,
    pub key: Option<String>,
}

/// A file of events, one in each row.
#[derive(Debug)]
pub struct File {
    pub url: String,
    pub events: Vec<Event>,
}

pub struct World {
    pub lake: Lake,
    pub broker: Arc<Broker>,
    pub settings: Settings,
    /// Files beside the tables.
    pub files: Vec<File>,
    /// Every event that was ever made, in order.
    pub events: Vec<Event>,
    /// Offsets that a skip was to leave out, by partition.
    skipped: Mutex<Vec<(i32, Range<i64>)>>,
    /// URLs of files of which every row was judged.
    filled: Mutex<BTreeSet<String>>,
    /// Keys that were to be forgotten, with how many events there were by then.
    forgotten: Mutex<BTreeMap<String, usize>>,
    now: Now,
    runs: AtomicU64,
    folder: tempfile::TempDir,
}

impl Event {
    /// The payload of its message, or the line of a file.
    pub fn json(&self) -> String {
        let at = Timestamp::from_microsecond(self.at_us).unwrap();
        let key = self.key.as_ref().map_or("null".to_owned(), |key| format!("\"{key}\""));
        format!("{{\"id\":\"{}\",\"at\":\"{at}\",\"value\":{},\"key\":{key}}}", self.id, self.value)
    }

    /// The event of a payload that is one.
    pub fn of(payload: &[u8]) -> Option<Self> {
        let tree: serde_json::Value = serde_json::from_slice(payload).ok()?;
        let at: Timestamp = tree.get("at")?.as_str()?.parse().ok()?;
        Some(Self {
            id: tree.get("id")?.as_str()?.to_owned(),
            at_us: at.as_microsecond(),
            value: tree.get("value")?.as_i64()?,
            key: tree.get("key")?.as_str().map(str::to_owned),
        })
    }
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start();
        broker.create_topic(TOPIC, PARTITIONS as usize);
        let now: Now = Arc::new(AtomicI64::new(BEGIN_MS));
        let settings = write(folder.path(), broker.bootstrap(), 1);
        let dates = Arc::clone(&now);
        let lake = Lake::open(&settings.lake)
            .unwrap()
            .with_clock(move || dates.load(SeqCst))
            .with_store_decorator(|store| Dated::wrap(store, &now));
        Self {
            lake,
            broker,
            settings,
            files: Vec::new(),
            events: Vec::new(),
            skipped: Mutex::default(),
            filled: Mutex::default(),
            forgotten: Mutex::default(),
            now,
            runs: AtomicU64::new(0),
            folder,
        }
    }

    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.settings.pipelines[0]
    }

    pub fn now_ms(&self) -> i64 {
        self.now.load(SeqCst)
    }

    pub fn clock(&self) -> Clock {
        let now = Arc::clone(&self.now);
        Clock::of(move || now.load(SeqCst))
    }

    pub fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, SeqCst);
    }

    /// Puts another version of the contract in place.
    pub fn deploy(&mut self, contract: u8) {
        self.settings = write(self.folder.path(), self.broker.bootstrap(), contract);
    }

    pub fn run_id(&self) -> String {
        format!("run-{}", self.runs.fetch_add(1, Relaxed))
    }

    /// URL of the archive; it lies outside the lake.
    pub fn archive(&self) -> String {
        format!("file://{}/archive", self.folder.path().display())
    }

    /// The lake as one step sees it.
    pub fn lake_with(&self, script: Script, seen: &Arc<Seen>, death: Option<Death>, pause: Option<Pause>) -> Lake {
        let lake = self.lake.clone().with_store_decorator(|store| script.wrap(store));
        lake.with_store_decorator(|store| Edge::wrap(store, seen, death, pause))
    }

    /// A new event.
    pub fn make(&mut self, minutes_ago: i64, value: i64, key: Option<u8>) -> Event {
        let event = Event {
            id: format!("id-{}", self.events.len()),
            at_us: (self.now_ms() - minutes_ago * 60_000) * 1_000 + self.events.len() as i64 % 1_000,
            value,
            key: key.map(|key| format!("k{key}")),
        };
        self.events.push(event.clone());
        event
    }

    /// Sends one message, or does what stands for one.
    pub fn send(&mut self, partition: i32, message: &Message) {
        let tomorrow_us = (self.now_ms() + DAY_MS) * 1_000;
        let payload = match message {
            Message::Event { minutes, value, key } => Some(self.make(*minutes, *value, *key).json()),
            Message::Copy { back, hours } => {
                let Some(of) = self.events.iter().rev().nth(*back).cloned() else { return };
                let at_us = (of.at_us + hours * 3_600_000_000).min(self.now_ms() * 1_000);
                Some(Event { at_us, ..of }.json())
            }
            Message::Broken => Some("{\"id\":".to_owned()),
            Message::Ahead => Some(Event { at_us: tomorrow_us, ..self.make(0, 1, None) }.json()),
            Message::Tombstone => None,
            Message::Marker => {
                self.broker.leave_out(TOPIC, partition);
                return;
            }
            Message::Begin => return self.broker.begin(TOPIC, partition),
            Message::End { committed } => return self.broker.end(TOPIC, partition, *committed),
        };
        let sent = Sent { time_ms: Some(self.now_ms()), key: None, payload: payload.map(String::into_bytes) };
        self.broker.send(TOPIC, partition, sent);
    }

    /// Notes what a skip is about to leave out, whether it comes to that or not.
    pub fn skips(&self, partition: i32, offsets: Range<i64>) {
        self.skipped.lock().unwrap().push((partition, offsets));
    }

    /// Whether a message may be nowhere because of a skip.
    pub fn was_skipped(&self, partition: i32, offset: i64) -> bool {
        self.skipped.lock().unwrap().iter().any(|(of, offsets)| *of == partition && offsets.contains(&offset))
    }

    /// Notes that a file was filled from, to its end.
    pub fn fills(&self, url: &str) {
        self.filled.lock().unwrap().insert(url.to_owned());
    }

    /// The files of which every row must be somewhere.
    pub fn filled(&self) -> Vec<&File> {
        let filled = self.filled.lock().unwrap();
        self.files.iter().filter(|file| filled.contains(&file.url)).collect()
    }

    /// Notes that a key is about to be forgotten, whether it comes to that or not.
    pub fn forgets(&self, key: &str) {
        self.forgotten.lock().unwrap().insert(key.to_owned(), self.events.len());
    }

    /// Whether an event may be nowhere because its key was forgotten.
    pub fn was_forgotten(&self, event: &Event) -> bool {
        let number = event.id.strip_prefix("id-").and_then(|number| number.parse::<usize>().ok());
        let forgotten = self.forgotten.lock().unwrap();
        let events = event.key.as_ref().and_then(|key| forgotten.get(key));
        events.zip(number).is_some_and(|(events, number)| number < *events)
    }

    /// Kafka removes half of what lies below these offsets.
    pub fn expire(&self, nexts: &BTreeMap<i32, i64>) {
        for (partition, next) in nexts {
            let (low, _) = self.broker.low_high(TOPIC, *partition).unwrap();
            self.broker.raise_low(TOPIC, *partition, low + (next - low) / 2);
        }
    }

    /// Ends what transactions are open, so that all that was sent can be read, or never.
    pub fn end_transactions(&self) {
        (0..PARTITIONS).for_each(|partition| self.broker.end(TOPIC, partition, true));
    }

    /// Every message that was ever sent and can be read, by partition and offset.
    pub fn sent(&self) -> BTreeMap<(i32, i64), Sent> {
        self.broker.all(TOPIC)
    }

    /// Writes a file of new events beside the lake's tables.
    pub async fn write_file(&mut self, events: usize) {
        let of = |world: &mut Self, n: i64| {
            // some of the last days, and one in seven that the first contract refuses
            let value = if n % 7 == 6 { GOOD_MAX + n } else { n };
            world.make(n * 307 % 4_000, value, Some((n % 3) as u8))
        };
        let events: Vec<Event> = (0..events as i64).map(|n| of(self, n)).collect();
        let name = format!("files/events-{}.jsonl", self.files.len());
        let text: String = events.iter().map(|event| event.json() + "\n").collect();
        self.lake.store().put(&Path::from(name.as_str()), text.into_bytes().into()).await.unwrap();
        self.files.push(File { url: format!("memory:///{name}"), events });
    }
}

fn write(folder: &std::path::Path, bootstrap: &str, contract: u8) -> Settings {
    let maximum = if contract == 1 { GOOD_MAX } else { 1_000_000 };
    let text = format!(
        "apiVersion: v3.1.0\nkind: DataContract\nid: event\nversion: {contract}.0.0\nstatus: active\nschema:\n  - name: event\n    \
         quality: [{{id: few, metric: rowCount, mustBeLessThan: {ROWS_LESS_THAN}}}]\n    properties:\n      - {{name: id, logicalType: string, primaryKey: true, required: true}}\n      \
         - {{name: at, logicalType: timestamp, required: true}}\n      \
         - {{name: value, logicalType: integer, required: true, logicalTypeOptions: {{maximum: {maximum}}}}}\n      \
         - {{name: key, logicalType: string}}\n"
    );
    std::fs::write(folder.join("event.odcs.yaml"), text).unwrap();
    let mut names = Vec::new();
    for Aggregate { name, windows, having_less_than } in AGGREGATES {
        let having = having_less_than.map_or_else(String::new, |less| format!(" HAVING max(value) < {less}"));
        let text = format!(
            "-- aggregate: {name}\n-- grain: one row per key and window\n-- from: events\n-- windows: [{}]\n\
             -- timezone: {ZONE}\nSELECT key, sum(value) AS total, max(value) AS greatest FROM events GROUP BY key{having}\n",
            windows.join(", ")
        );
        std::fs::write(folder.join(format!("{name}.sql")), text).unwrap();
        names.push(format!("{name}.sql"));
    }
    let text = format!(
        "version: 1\nlake: memory:///lake\nkafka:\n  bootstrap.servers: {bootstrap}\npipelines:\n  events:\n    topic: {TOPIC}\n    \
         contract: event.odcs.yaml\n    event_time: at\n    lateness: 1h\n    tombstones: skip\n    \
         commit: {{every: 1h, rows: 9}}\naggregates: [{}]\n",
        names.join(", ")
    );
    std::fs::write(folder.join("deltaworks.yaml"), text).unwrap();
    project::load(folder, &|_| None).unwrap_or_else(|report| panic!("{report}"))
}

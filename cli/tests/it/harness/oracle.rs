//! The truth and the verdict. The truth is what the test sent and where the broker put it; what the
//! product counted is never asked.

use super::broker::Broker;
use super::events::{Event, Values};
use super::project::{Project, TOPIC};
use deltaworks_jobs::kafka::producer::Outgoing;
use serde_json::Value;
use std::collections::BTreeMap;

/// Partition and offset.
pub type Place = (i32, i64);

/// Everything sent in a story, by its place.
#[derive(Debug, Default)]
pub struct Feed {
    sent: BTreeMap<Place, Event>,
    turn: i32,
}

impl Feed {
    /// Nothing sent yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends events over `partitions`, in turn.
    pub fn send(&mut self, broker: &Broker, partitions: i32, events: &[Event]) -> Vec<Place> {
        let first = self.turn;
        let messages: Vec<_> = events
            .iter()
            .zip(first..)
            .map(|(event, turn)| Outgoing {
                partition: Some(turn % partitions),
                key: event.key.as_deref(),
                payload: event.payload.as_deref(),
                ..Outgoing::default()
            })
            .collect();
        let places = broker.send(TOPIC, &messages);
        self.turn += events.len() as i32;
        for (place, event) in places.iter().zip(events) {
            assert!(self.sent.insert(*place, event.clone()).is_none(), "{place:?} was given out twice");
        }
        places
    }

    /// How many messages were sent.
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// Forgets what the product was told not to read.
    pub fn retain(&mut self, keep: impl Fn(Place) -> bool) {
        self.sent.retain(|place, _| keep(*place));
    }

    /// Takes over what another feed sent, where `take` says so.
    pub fn copy(&mut self, other: &Self, take: impl Fn(Place) -> bool) {
        self.sent.extend(other.sent.iter().filter(|(place, _)| take(**place)).map(|(p, e)| (*p, e.clone())));
    }

    /// Fails unless every message is where it belongs: once in raw with its values, or once in rejects
    /// with its bytes and reason; a place in both has to be right in both. Nothing else may be there.
    #[track_caller]
    pub fn verify(&self, project: &Project) -> Landed {
        let raw = once(project.rows(RAW), "raw");
        let rejects = once(project.rows(REJECTS), "rejects");
        for (place, row) in &raw {
            let event = self.sent.get(place).unwrap_or_else(|| panic!("raw has {place:?}, which was never sent"));
            let wanted = event.row.as_ref().unwrap_or_else(|| panic!("{place:?} is bad and in raw: {event:?}"));
            assert_eq!(*wanted, values(row), "{place:?}");
            assert_eq!(row["on_its_date"], Value::Bool(true), "{place:?} lies under a wrong date: {row}");
        }
        for (place, row) in &rejects {
            let event = self.sent.get(place).unwrap_or_else(|| panic!("rejects has {place:?}, which was never sent"));
            let wanted = event.reason.unwrap_or_else(|| panic!("{place:?} is good and in rejects: {row}"));
            // any reason will do where bytes are random
            if wanted != "any" {
                assert_eq!(row["reason"], wanted, "{place:?}: {}", row["detail"]);
            }
            assert!(row["payload"].as_str() == event.payload.as_deref().map(hex).as_deref(), "payload of {place:?}");
            assert_eq!(row["key"].as_str(), event.key.as_deref().map(hex).as_deref(), "key of {place:?}");
        }
        let lost: Vec<_> = self.sent.keys().filter(|p| !raw.contains_key(p) && !rejects.contains_key(p)).collect();
        assert!(lost.is_empty(), "{} of {} messages are lost: {lost:?}", lost.len(), self.sent.len());
        let both = raw.keys().filter(|place| rejects.contains_key(place)).count();
        Landed { raw: raw.len(), rejects: rejects.len(), both }
    }
}

/// How many places are in each table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landed {
    /// Places in raw.
    pub raw: usize,
    /// Places in rejects.
    pub rejects: usize,
    /// Places in both: the contract changed between the two commits of their flush.
    pub both: usize,
}

const RAW: &str = "SELECT _partition, _offset, id, arrow_cast(at, 'Int64') AS at_us, value, note, \
                   event_date = CAST(at AS DATE) AS on_its_date FROM raw.events";
const REJECTS: &str = "SELECT _partition, _offset, key, payload, reason, detail FROM rejects.events";

#[track_caller]
fn once(rows: Vec<Value>, table: &str) -> BTreeMap<Place, Value> {
    let mut places = BTreeMap::new();
    for row in rows {
        let place = (row["_partition"].as_i64().unwrap() as i32, row["_offset"].as_i64().unwrap());
        assert!(places.insert(place, row).is_none(), "{place:?} is twice in {table}");
    }
    places
}

fn values(row: &Value) -> Values {
    Values {
        id: row["id"].as_str().unwrap().to_owned(),
        at_us: row["at_us"].as_i64().unwrap(),
        value: row["value"].as_i64().unwrap(),
        note: row["note"].as_str().map(str::to_owned),
    }
}

/// Bytes as the engine spells them in JSON.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

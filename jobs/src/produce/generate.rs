//! A seeded stream of events of one contract: the same seed gives the same stream, byte for byte.
//!
//! Event times advance from a start at a chosen spacing. Chosen shares of the events are late,
//! repeat an earlier event, or break the contract for a chosen reason. Nothing here knows Kafka.

use super::corrupt;
use super::values::{Values, quote};
use crate::error::{Class, Error, Result, Stage};
use crate::project::contract::{Contract, Source};
use crate::project::settings::EventTime;
use deltaworks_core::reason::Reason;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// Earlier events that a duplicate may repeat.
const REMEMBERED: usize = 512;
/// One duplicate in this many carries an event time before the midnight before the original's.
const ACROSS_MIDNIGHT: u32 = 4;
const DAY_US: i64 = 86_400_000_000;

/// What an event is, to compare with what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Valid and on time.
    Good,
    /// Valid, with an event time far behind the stream.
    Late,
    /// Valid, with the id of an earlier event.
    Duplicate,
    /// Breaks the contract.
    Corrupt,
    /// From a file: not judged.
    Unknown,
}

/// One event to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Message key.
    pub key: Option<Vec<u8>>,
    /// Payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Kafka's timestamp, ms, where the event time is taken from it; else the time of sending.
    pub kafka_time_ms: Option<i64>,
    /// What it is.
    pub kind: EventKind,
    /// The reason code that a corrupt event must be refused with.
    pub reason: Option<Reason>,
    /// Event time, microseconds; `None` where none can be read.
    pub event_us: Option<i64>,
    /// Event id as text, if the contract has one.
    pub id: Option<String>,
}

/// What the stream should be like. Shares are between 0 and 1, of all events; the rest is good.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Seed of everything that is left to chance.
    pub seed: u64,
    /// Event time of the first event, microseconds.
    pub start_us: i64,
    /// From one event time to the next.
    pub spacing: Duration,
    /// Event times are earlier than their turn by up to this.
    pub jitter: Duration,
    /// Share of late events.
    pub late: f64,
    /// Late events are behind by more than the first and at most the second.
    pub late_by: (Duration, Duration),
    /// Share of duplicates.
    pub duplicates: f64,
    /// Share of corrupt events.
    pub corrupt: f64,
    /// Reasons of the corrupt events, in turn.
    pub reasons: Vec<Reason>,
    /// `message_bytes_max` of the pipeline, for `too_large`.
    pub message_bytes_max: usize,
    /// `depth_max` of the pipeline, for `too_deep`.
    pub depth_max: usize,
    /// Top-level field that becomes the message key, unless the contract has a column from the key.
    pub key: Option<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 1,
            start_us: 0,
            spacing: Duration::from_millis(100),
            jitter: Duration::ZERO,
            late: 0.0,
            late_by: (Duration::from_secs(3_600), Duration::from_secs(6 * 3_600)),
            duplicates: 0.0,
            corrupt: 0.0,
            reasons: Vec::new(),
            message_bytes_max: 1 << 20,
            depth_max: 64,
            key: None,
        }
    }
}

/// Makes the events; it never ends by itself.
pub struct Generator {
    pub(super) columns: Vec<Values>,
    pub(super) event_time: EventTime,
    pub(super) plan: Plan,
    pub(super) rng: ChaCha8Rng,
    serial: u64,
    corrupted: usize,
    sent: VecDeque<Original>,
}

/// What a duplicate needs of the event it repeats.
#[derive(Clone)]
struct Original {
    event: Event,
    serial: u64,
    rng: ChaCha8Rng,
}

/// How a payload differs from a good one.
#[derive(Debug, Clone, Default)]
pub(super) struct Tweak {
    /// Top-level field to leave out.
    pub omit: Option<String>,
    /// Top-level field to write with this JSON text.
    pub replace: Option<(String, Vec<u8>)>,
    /// Write the first field twice.
    pub twice: bool,
    /// JSON text of one more field.
    pub extra: Option<Vec<u8>>,
}

impl Generator {
    /// A stream of events of `contract`.
    ///
    /// # Errors
    /// [`Class::User`] if the contract or the plan leaves no way to make an event that was asked for.
    pub fn new(contract: &Contract, event_time: &EventTime, plan: Plan) -> Result<Self> {
        let shares = [plan.late, plan.duplicates, plan.corrupt];
        if shares.iter().any(|s| !(0.0..=1.0).contains(s)) || shares.iter().sum::<f64>() > 1.0 {
            return Err(cannot("shares must lie between 0 and 1 and be at most 1 together"));
        }
        if plan.corrupt > 0.0 && plan.reasons.is_empty() {
            return Err(cannot("corrupt events need at least one reason"));
        }
        if plan.late_by.0 >= plan.late_by.1 {
            return Err(cannot("late events need a least lateness below the greatest"));
        }
        let columns = contract.columns.iter().map(Values::of).collect::<Result<_>>()?;
        let rng = ChaCha8Rng::seed_from_u64(plan.seed);
        let mut generator = Self {
            columns,
            event_time: event_time.clone(),
            plan,
            rng,
            serial: 0,
            corrupted: 0,
            sent: VecDeque::with_capacity(REMEMBERED),
        };
        generator.try_out()?;
        Ok(generator)
    }

    /// The next event.
    ///
    /// # Errors
    /// [`Class::User`] if a value cannot be made; most of these are found by [`Generator::new`].
    pub fn event(&mut self) -> Result<Event> {
        let serial = self.serial;
        self.serial += 1;
        let turn_us = self.turn_us(serial);
        let chance: f64 = self.rng.random();
        let plan = &self.plan;
        let (corrupt, late) = (plan.corrupt, plan.corrupt + plan.late);
        let duplicate = late + plan.duplicates;
        if chance < corrupt {
            let reason = plan.reasons[self.corrupted % plan.reasons.len()];
            self.corrupted += 1;
            return corrupt::event(self, reason, turn_us, serial);
        }
        if chance < late {
            let (least, most) = (micros(plan.late_by.0), micros(plan.late_by.1));
            let at_us = turn_us - self.rng.random_range(least + 1..=most);
            let event = Event { kind: EventKind::Late, ..self.good(at_us, serial)? };
            return Ok(event);
        }
        if chance < duplicate && !self.sent.is_empty() {
            return self.duplicate();
        }
        let rng = self.rng.clone();
        let event = self.good(turn_us, serial)?;
        if self.plan.duplicates > 0.0 {
            if self.sent.len() == REMEMBERED {
                self.sent.pop_front();
            }
            self.sent.push_back(Original { event: event.clone(), serial, rng });
        }
        Ok(event)
    }

    fn turn_us(&mut self, serial: u64) -> i64 {
        let steps = i64::try_from(serial).unwrap_or(i64::MAX);
        let turn = self.plan.start_us.saturating_add(steps.saturating_mul(micros(self.plan.spacing)));
        match micros(self.plan.jitter) {
            0 => turn,
            jitter => turn - self.rng.random_range(0..=jitter),
        }
    }

    /// The same id again: mostly the same bytes, sometimes with an event time before midnight.
    fn duplicate(&mut self) -> Result<Event> {
        let at = self.rng.random_range(0..self.sent.len());
        let original = self.sent[at].clone();
        let across = self.rng.random_range(0..ACROSS_MIDNIGHT) == 0;
        let event = match original.event.event_us {
            Some(us) if across => {
                let before_midnight = us.div_euclid(DAY_US) * DAY_US - 1_000_000;
                // The original's own chance gives the original's own values.
                let rng = std::mem::replace(&mut self.rng, original.rng);
                let event = self.good(before_midnight, original.serial);
                self.rng = rng;
                event?
            }
            _ => original.event,
        };
        Ok(Event { kind: EventKind::Duplicate, ..event })
    }

    pub(super) fn good(&mut self, at_us: i64, serial: u64) -> Result<Event> {
        self.render(at_us, serial, &Tweak::default())
    }

    /// One event with its fields as the columns want them, but for the tweak.
    pub(super) fn render(&mut self, at_us: i64, serial: u64, tweak: &Tweak) -> Result<Event> {
        let kafka_time = self.event_time == EventTime::KafkaTime;
        let mut event = Event {
            key: None,
            payload: None,
            headers: Vec::new(),
            kafka_time_ms: kafka_time.then(|| at_us.div_euclid(1_000)),
            kind: EventKind::Good,
            reason: None,
            event_us: Some(if kafka_time { at_us.div_euclid(1_000) * 1_000 } else { at_us }),
            id: None,
        };
        let mut body = Vec::with_capacity(256);
        let mut value = Vec::new();
        body.push(b'{');
        let columns = std::mem::take(&mut self.columns);
        let outcome = columns.iter().try_for_each(|column| {
            value.clear();
            self.value(column, at_us, serial, &mut value)?;
            self.place(column, &value, tweak, &mut event, &mut body);
            Ok::<_, crate::Error>(())
        });
        self.columns = columns;
        outcome?;
        if let Some(extra) = &tweak.extra {
            field("zz_unexpected", extra, &mut body);
        }
        body.push(b'}');
        event.payload = Some(body);
        Ok(event)
    }

    fn value(&mut self, column: &Values, at_us: i64, serial: u64, out: &mut Vec<u8>) -> Result<()> {
        let path = match &self.event_time {
            EventTime::Field(path) if path.first() == Some(&column.column.name) => &path[1..],
            _ => return column.write(&mut self.rng, at_us, serial, out),
        };
        column.write_with_time(&mut self.rng, at_us, serial, path, out)
    }

    fn place(&mut self, column: &Values, value: &[u8], tweak: &Tweak, event: &mut Event, body: &mut Vec<u8>) {
        let name = column.column.name.as_str();
        let text = || unquoted(value);
        if column.column.is_id {
            event.id = Some(text());
        }
        match &column.column.source {
            Source::Field => {
                let timed = matches!(&self.event_time, EventTime::Field(path) if path[0] == name);
                let absent = !timed && column.absent(&mut self.rng);
                if self.plan.key.as_deref() == Some(name) && event.key.is_none() {
                    event.key = Some(text().into_bytes());
                }
                if tweak.omit.as_deref() == Some(name) {
                    return;
                }
                match &tweak.replace {
                    Some((replaced, with)) if replaced == name => field(name, with, body),
                    _ if absent => {}
                    _ => {
                        let first = body.len() == 1;
                        field(name, value, body);
                        if tweak.twice && first {
                            field(name, value, body);
                        }
                    }
                }
            }
            Source::Key => event.key = Some(text().into_bytes()),
            Source::Header(header) => event.headers.push((header.clone(), text().into_bytes())),
            Source::Topic | Source::Partition | Source::Offset | Source::KafkaTime => {}
        }
    }

    /// Finds out before the first event what cannot be made.
    fn try_out(&mut self) -> Result<()> {
        let (rng, start_us) = (self.rng.clone(), self.plan.start_us);
        self.good(start_us, 0)?;
        for reason in self.plan.reasons.clone() {
            corrupt::event(self, reason, start_us, 0)?;
        }
        self.rng = rng;
        Ok(())
    }
}

fn field(name: &str, value: &[u8], body: &mut Vec<u8>) {
    if body.len() > 1 {
        body.push(b',');
    }
    quote(name, body);
    body.push(b':');
    body.extend_from_slice(value);
}

/// A JSON value as text: a string without its quotes, anything else as it is written.
pub(super) fn unquoted(value: &[u8]) -> String {
    serde_json::from_slice::<String>(value).unwrap_or_else(|_| String::from_utf8_lossy(value).into_owned())
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

pub(super) fn cannot(why: impl Into<String>) -> Error {
    Error::new(Stage::Produce, Class::User, why)
}

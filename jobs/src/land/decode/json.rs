//! JSON messages, judged by the contract.
//!
//! What is wrong with a message is said in this order: size, UTF-8, depth, the grammar of the whole
//! payload, exactly one object, repeated keys, the fields, the event time. (Depth is only counted
//! where the grammar shows something nested or is broken: nothing before [`JsonDecoder::fill`] recurses.) Of several bad
//! fields the one to blame is the first by reason (in the order of [`Reason::ALL`]), then by the
//! contract's order.
//!
//! Strict: one object a message, no repeated key in any object that the contract describes, no
//! value that would have to be cut, rounded or guessed (see [`super::number`] and
//! [`super::timestamp`]). Ignored fields must be good JSON and are not judged further.
//!
//! Invariants: J1 a refused message leaves the columns as they were; J2 no input panics or recurses
//! deeper than the contract; J3 a refusal's detail holds nothing of the payload, and its field only
//! names of keys.

use super::columns::{Texts, Validity};
use super::node::{Cell, Node, Scratch, judge_found};
use super::object::{self, Found, Keys};
use super::refusal::{Judged, keep_first, refuse, type_of, within, wrong_type};
use super::{Decoded, Decoder, depth};
use crate::kafka::message::Message;
use crate::land::schema;
use crate::project::contract::{Column, Contract, Kind, Source};
use crate::project::settings::{EventTime, ExtraFields, Pipeline};
use crate::{Class, Error, Result, Stage};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use deltaworks_core::event_time::{self, EventTimeLimits};
use deltaworks_core::reason::{Reason, Refusal};
use serde::de::IgnoredAny;
use std::sync::Arc;

/// More input than this in one batch would overflow Arrow's 32-bit text offsets.
const INPUT_BYTES_MAX: usize = i32::MAX as usize;

/// Decodes JSON objects into the columns of one pipeline's contract.
#[derive(Debug)]
pub struct JsonDecoder {
    schema: SchemaRef,
    keys: Keys,
    columns: Vec<(From, Node)>,
    extra: Option<Extra>,
    event: Event,
    event_field: String,
    limits: EventTimeLimits,
    id: Option<usize>,
    topic: String,
    payload_bytes_max: usize,
    depth_max: usize,
    rows: usize,
    input_bytes: usize,
    scratch: Scratch,
}

/// Where a column's value comes from.
#[derive(Debug)]
enum From {
    Slot(usize),
    Key,
    Header(String),
    Topic,
    Partition,
    Offset,
    KafkaTime,
}

/// Where the event time comes from.
#[derive(Debug)]
enum Event {
    /// A column and the steps below it.
    Column(usize, Vec<usize>),
    KafkaTime,
}

/// The kept fields that the contract does not know.
#[derive(Debug, Default)]
struct Extra {
    texts: Texts,
    validity: Validity,
    scratch: Vec<u8>,
}

impl JsonDecoder {
    /// A decoder for the pipeline's messages.
    ///
    /// # Errors
    /// The contract and the pipeline do not fit together: an event time that is no timestamp, an id
    /// that is an object or array, a bound of another type, a source that cannot fill its column.
    pub fn new(pipeline: &Pipeline) -> Result<Self> {
        let contract = &pipeline.contract;
        let keep = pipeline.extra_fields == ExtraFields::Keep;
        let fields = || contract.columns.iter().filter(|c| c.source == Source::Field);
        let mut slots = 0..fields().count();
        let columns = contract.columns.iter().map(|column| Ok((origin(column, &mut slots)?, Node::new(column)?)));
        let event_field = match &pipeline.event_time {
            EventTime::Field(path) => path.join("."),
            EventTime::KafkaTime => "kafka_time".to_owned(),
        };
        Ok(Self {
            schema: Arc::new(Schema::new(schema::contract_fields(contract, keep))),
            keys: Keys::new(fields().map(|c| c.name.as_str())),
            columns: columns.collect::<Result<_>>()?,
            extra: keep.then(Extra::default),
            event: event(contract, &pipeline.event_time)?,
            event_field,
            limits: EventTimeLimits {
                ahead_ms_max: i64::try_from(pipeline.max_ahead.as_millis()).unwrap_or(i64::MAX),
                earliest_us: pipeline.event_time_min_us,
            },
            id: id(contract)?,
            topic: pipeline.topic.clone(),
            payload_bytes_max: pipeline.message_bytes_max,
            depth_max: pipeline.depth_max,
            rows: 0,
            input_bytes: 0,
            scratch: Scratch { refuse_extra: pipeline.extra_fields == ExtraFields::Reject, ..Scratch::default() },
        })
    }

    fn append(&mut self, message: &Message<'_>) -> Judged<Decoded> {
        let Some(payload) = message.payload() else {
            return Err(refuse(Reason::Tombstone, "the message has no payload"));
        };
        let text = self.readable(payload, message)?;
        let input = self.input_bytes + input_bytes(message) + self.topic.len();
        if input > INPUT_BYTES_MAX {
            return Err(refuse(Reason::TooLarge, "the batch would hold more than 2 GiB"));
        }
        let found = self.read(text)?;
        self.fill(message, text, found)?;
        let decoded = self.decoded(message)?;
        self.input_bytes = input;
        self.rows += 1;
        Ok(decoded)
    }

    /// The payload as text that is safe to parse.
    fn readable<'p>(&self, payload: &'p [u8], message: &Message<'p>) -> Judged<&'p str> {
        if payload.len() > self.payload_bytes_max {
            let (is, max) = (payload.len(), self.payload_bytes_max);
            return Err(refuse(Reason::TooLarge, format!("the payload has {is} bytes, at most {max} are allowed")));
        }
        message.payload_text().and_then(Result::ok).ok_or_else(|| not_utf8(payload))
    }

    /// Cuts the payload into the texts of its fields, and judges its depth before anything else.
    fn read(&mut self, text: &str) -> Judged<Found> {
        let found = self.cut(text);
        // an object of plain values is as deep as any object
        let shallow = self.depth_max > 0 && found.as_ref().is_ok_and(|found| !found.nested);
        if !shallow && depth::too_deep(text.as_bytes(), self.depth_max) {
            let max = self.depth_max;
            return Err(refuse(Reason::TooDeep, format!("nested deeper than the {max} levels that are allowed")));
        }
        found
    }

    fn cut(&mut self, text: &str) -> Judged<Found> {
        if !text.trim_ascii_start().starts_with('{') {
            return Err(no_object(text));
        }
        self.scratch.slots.clear();
        object::room(&mut self.scratch.slots, &self.keys);
        let kept = self.extra.as_mut().map(|extra| {
            extra.scratch.clear();
            &mut extra.scratch
        });
        let Scratch { slots, unknown, .. } = &mut self.scratch;
        let found = object::read(text, &mut self.keys, slots, unknown, kept).map_err(not_json)?;
        found.ok_or_else(|| no_object(text))
    }

    /// Judges all columns in the contract's order and appends their values.
    fn fill(&mut self, message: &Message<'_>, text: &str, found: Found) -> Judged<()> {
        let mut worst = judge_found(found, self.scratch.refuse_extra)?;
        for (from, node) in &mut self.columns {
            let pushed = match from {
                From::Slot(slot) => {
                    let cell = self.scratch.slots[*slot].of(text).map_or(Cell::Absent, Cell::Json);
                    node.push(cell, &mut self.scratch)
                }
                other => push_metadata(other, node, message, &self.topic, &mut self.scratch),
            };
            if let Err(refusal) = pushed {
                keep_first(&mut worst, within(node.field.name(), refusal));
            }
        }
        if let Some(Extra { texts, validity, scratch }) = &mut self.extra {
            if scratch.is_empty() {
                validity.null(self.rows);
            } else {
                scratch.push(b'}');
                validity.valid();
            }
            texts.push(scratch);
        }
        worst.map_or(Ok(()), Err)
    }

    /// What landing must know of the row just appended.
    fn decoded(&self, message: &Message<'_>) -> Judged<Decoded> {
        let field = &self.event_field;
        let kafka_time_ms = message.kafka_time_ms();
        let event_us = match &self.event {
            Event::KafkaTime => kafka_time_ms.and_then(|ms| ms.checked_mul(1_000)),
            Event::Column(column, steps) => self.columns[*column].1.last_instant(steps),
        };
        let Some(event_us) = event_us else {
            return Err(within(field, refuse(Reason::MissingField, "the event time is absent")));
        };
        event_time::judge(event_us, kafka_time_ms, message.clock_ms(), self.limits, field).map_err(Box::new)?;
        Ok(Decoded { event_us, id_hash: self.id.and_then(|id| self.columns[id].1.last_hash()) })
    }

    fn truncate(&mut self) {
        for (_, node) in &mut self.columns {
            node.truncate(self.rows);
        }
        if let Some(extra) = &mut self.extra {
            extra.texts.truncate(self.rows);
            extra.validity.truncate(self.rows);
        }
    }
}

impl Decoder for JsonDecoder {
    fn push(&mut self, message: &Message<'_>) -> Result<Decoded, Refusal> {
        self.append(message).map_err(|refusal| {
            self.truncate();
            *refusal
        })
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(|(_, node)| node.bytes()).sum();
        columns + self.extra.as_ref().map_or(0, |extra| extra.texts.size() + extra.validity.size())
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let rows = std::mem::take(&mut self.rows);
        self.input_bytes = 0;
        let mut arrays = Vec::with_capacity(self.schema.fields().len());
        let take_all = || {
            for (_, node) in &mut self.columns {
                arrays.push(node.take()?);
            }
            if let Some(extra) = &mut self.extra {
                arrays.push(extra.texts.take(extra.validity.take())?);
            }
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
        };
        take_all().map_err(|error| {
            Error::new(Stage::Land, Class::Internal, "the decoded columns do not make a record batch").because(error)
        })
    }
}

/// Appends a value that does not come from the payload.
fn push_metadata(
    from: &From,
    node: &mut Node,
    message: &Message<'_>,
    topic: &str,
    scratch: &mut Scratch,
) -> Judged<()> {
    let number = |n: i64, scratch: &mut Scratch, node: &mut Node| node.push(Cell::Plain(&n.to_string()), scratch);
    let bytes = match from {
        From::Topic => Some(topic.as_bytes()),
        From::Partition => return number(message.partition().into(), scratch, node),
        From::Offset => return number(message.offset(), scratch, node),
        From::KafkaTime => {
            let us = message.kafka_time_ms().and_then(|ms| ms.checked_mul(1_000));
            return node.push(us.map_or(Cell::Absent, Cell::Instant), scratch);
        }
        From::Key => message.key(),
        From::Header(name) => message.headers().rev().find(|(n, _)| *n == name.as_bytes()).and_then(|(_, value)| value),
        From::Slot(_) => None,
    };
    match bytes.map(simdutf8::basic::from_utf8) {
        None => node.push(Cell::Absent, scratch),
        Some(Ok(text)) => node.push(Cell::Plain(text), scratch),
        Some(Err(_)) => Err(wrong_type("expected UTF-8 text, found other bytes")),
    }
}

fn input_bytes(message: &Message<'_>) -> usize {
    let headers: usize = message.headers().map(|(_, value)| value.map_or(0, <[u8]>::len)).sum();
    message.payload().map_or(0, <[u8]>::len) + message.key().map_or(0, <[u8]>::len) + headers
}

#[cold]
fn not_utf8(payload: &[u8]) -> Box<Refusal> {
    let at = std::str::from_utf8(payload).err().map_or(0, |error| error.valid_up_to());
    refuse(Reason::NotUtf8, format!("the payload is not UTF-8 at byte {at}"))
}

#[cold]
fn not_json(error: serde_json::Error) -> Box<Refusal> {
    // the parser's syntax errors name what it expected and the place, never what it read
    refuse(Reason::NotJson, error.to_string())
}

/// A payload that is something else than one object.
#[cold]
fn no_object(text: &str) -> Box<Refusal> {
    if text.trim_ascii().is_empty() {
        return refuse(Reason::NotJson, "the payload is empty");
    }
    if text.starts_with('\u{feff}') {
        return refuse(Reason::NotJson, "the payload begins with a byte order mark");
    }
    let mut values = 0usize;
    for value in serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>() {
        if let Err(error) = value {
            return not_json(error);
        }
        values += 1;
    }
    let found = if values == 1 { type_of(text.trim_ascii()).to_owned() } else { format!("{values} values") };
    refuse(Reason::NotOneObject, format!("expected one JSON object, found {found}"))
}

/// Where a column's value comes from, if that can fill it.
fn origin(column: &Column, slots: &mut impl Iterator<Item = usize>) -> Result<From> {
    let (from, fits) = match (&column.source, &column.kind) {
        (Source::Field, _) => (From::Slot(slots.next().unwrap_or(usize::MAX)), true),
        (Source::Key, _) => (From::Key, true),
        (Source::Header(name), _) => (From::Header(name.clone()), true),
        (Source::Topic, kind) => (From::Topic, matches!(kind, Kind::String)),
        (Source::Partition, kind) => (From::Partition, matches!(kind, Kind::String | Kind::Integer)),
        (Source::Offset, kind) => (From::Offset, matches!(kind, Kind::String | Kind::Integer)),
        (Source::KafkaTime, kind) => (From::KafkaTime, matches!(kind, Kind::Timestamp(_))),
    };
    if fits {
        return Ok(from);
    }
    Err(misfit(format!("column `{}` has a type that its source cannot fill", column.name))
        .hint("topic is a string, partition and offset are integers, Kafka's time is a timestamp"))
}

fn event(contract: &Contract, event_time: &EventTime) -> Result<Event> {
    let EventTime::Field(path) = event_time else { return Ok(Event::KafkaTime) };
    let unknown = || misfit(format!("event time `{}` is not a timestamp of the contract", path.join(".")));
    let mut columns = &contract.columns;
    let mut steps = Vec::new();
    for (depth, name) in path.iter().enumerate() {
        let at = columns.iter().position(|c| c.name == *name).ok_or_else(unknown)?;
        steps.push(at);
        match &columns[at].kind {
            Kind::Timestamp(_) if depth + 1 == path.len() => break,
            Kind::Object(inner) if depth + 1 < path.len() => columns = inner,
            _ => return Err(unknown()),
        }
    }
    let (first, below) = steps.split_first().ok_or_else(unknown)?;
    Ok(Event::Column(*first, below.to_vec()))
}

fn id(contract: &Contract) -> Result<Option<usize>> {
    let Some(at) = contract.columns.iter().position(|c| c.is_id) else { return Ok(None) };
    if matches!(contract.columns[at].kind, Kind::Object(_) | Kind::Array(_)) {
        return Err(misfit(format!("the event id `{}` must be a single value", contract.columns[at].name)));
    }
    Ok(Some(at))
}

fn misfit(message: String) -> Error {
    Error::new(Stage::Land, Class::User, message)
}

//! One column of a contract with everything below it: judges a value and appends it.
//!
//! Every field of an object is judged, in the contract's order, before the object is refused, so
//! that the refusal does not depend on the order of keys in the message.
//!
//! Invariant: N1 after a refusal the columns may be ragged; [`Node::truncate`] to the row's start
//! heals all of them. Only the root knows where the row began, so only the root does it.

use super::columns::{Validity, offsets};
use super::leaf::{Leaf, bare, half_surrogate};
use super::object::{self, Found, Keys, Slot, Unknown};
use super::refusal::{Judged, expected, keep_first, refuse, within};
use super::rules::Length;
use crate::Result;
use crate::land::schema;
use crate::project::contract::{Column, Kind};
use arrow::array::{ArrayRef, ListArray, StructArray};
use arrow::datatypes::{Field, FieldRef, Fields};
use arrow::error::ArrowError;
use deltaworks_core::reason::{Reason, Refusal};
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;

/// A value on its way into a column.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    /// There is none.
    Absent,
    /// A JSON token of good grammar.
    Json(&'a str),
    /// A plain text.
    Plain(&'a str),
    /// An instant, microseconds.
    Instant(i64),
}

/// Memory that is used again for every message, and what is the same for every object.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) slots: Vec<Slot>,
    pub(super) unknown: Unknown,
    pub(super) refuse_extra: bool,
}

/// One column with everything below it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) field: FieldRef,
    required: bool,
    len: usize,
    validity: Validity,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Leaf(Leaf),
    Object { keys: Keys, fields: Vec<Node> },
    Array { ends: Vec<i32>, item: Box<Node>, length: Length },
}

impl Node {
    /// The column, empty.
    pub(super) fn new(column: &Column) -> Result<Self> {
        Self::build(column, schema::column_field(column))
    }

    fn build(column: &Column, field: Field) -> Result<Self> {
        let data = match &column.kind {
            Kind::Object(columns) => Data::Object {
                keys: Keys::new(columns.iter().map(|c| c.name.as_str())),
                fields: columns.iter().map(Self::new).collect::<Result<_>>()?,
            },
            Kind::Array(item) => Data::Array {
                ends: Vec::new(),
                item: Box::new(Self::build(item, schema::element_field(item))?),
                length: Length::new(&column.rules, &column.kind),
            },
            _ => Data::Leaf(Leaf::new(column)?),
        };
        Ok(Self { field: Arc::new(field), required: column.required, len: 0, validity: Validity::default(), data })
    }

    /// Judges a value and appends it. The refusal's path begins below this column.
    pub(super) fn push(&mut self, cell: Cell<'_>, scratch: &mut Scratch) -> Judged<()> {
        match (cell, &mut self.data) {
            (Cell::Absent, _) => return self.push_missing("absent"),
            (Cell::Json("null"), _) => return self.push_missing("null"),
            (Cell::Json(token), Data::Leaf(leaf)) => leaf.push(token)?,
            (Cell::Plain(text), Data::Leaf(leaf)) => leaf.push_plain(text)?,
            (Cell::Instant(us), Data::Leaf(leaf)) => leaf.push_instant(us)?,
            (Cell::Json(token), Data::Object { keys, fields }) => push_object(token, keys, fields, scratch)?,
            (Cell::Json(token), Data::Array { ends, item, length }) => {
                push_array(token, item, length, scratch)?;
                ends.push(item.len as i32);
            }
            (Cell::Plain(text), _) => {
                let token = bare(text, "JSON")?;
                return self.push(Cell::Json(token), scratch);
            }
            (Cell::Instant(_), _) => return Err(expected("another source", "0")),
        }
        self.validity.valid();
        self.len += 1;
        Ok(())
    }

    fn push_missing(&mut self, how: &str) -> Judged<()> {
        if self.required {
            return Err(refuse(Reason::MissingField, format!("the field is required and {how}")));
        }
        self.push_null();
        Ok(())
    }

    /// Appends a null here and in everything below.
    fn push_null(&mut self) {
        match &mut self.data {
            Data::Leaf(leaf) => leaf.push_null(),
            Data::Object { fields, .. } => fields.iter_mut().for_each(Self::push_null),
            Data::Array { ends, item, .. } => ends.push(item.len as i32),
        }
        self.validity.null(self.len);
        self.len += 1;
    }

    /// Cuts back to the first `len` values, whatever a refusal left behind.
    pub(super) fn truncate(&mut self, len: usize) {
        match &mut self.data {
            Data::Leaf(leaf) => leaf.truncate(len),
            Data::Object { fields, .. } => fields.iter_mut().for_each(|f| f.truncate(len)),
            Data::Array { ends, item, .. } => {
                ends.truncate(len);
                item.truncate(ends.last().map_or(0, |end| *end as usize));
            }
        }
        self.validity.truncate(len);
        self.len = len;
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let below = match &self.data {
            Data::Leaf(leaf) => leaf.bytes(),
            Data::Object { fields, .. } => fields.iter().map(Self::bytes).sum(),
            Data::Array { ends, item, .. } => ends.len() * 4 + item.bytes(),
        };
        below + self.validity.size()
    }

    /// The instant of the last row, `path` steps of objects below; `None` where it is null.
    pub(super) fn last_instant(&self, path: &[usize]) -> Option<i64> {
        if !self.last_is_valid() {
            return None;
        }
        match (&self.data, path.split_first()) {
            (Data::Leaf(leaf), None) => leaf.last_instant(),
            (Data::Object { fields, .. }, Some((step, rest))) => fields.get(*step)?.last_instant(rest),
            _ => None,
        }
    }

    /// See [`Leaf::last_hash`]; `None` where the value is null.
    pub(super) fn last_hash(&self) -> Option<u128> {
        match &self.data {
            Data::Leaf(leaf) if self.last_is_valid() => leaf.last_hash(),
            _ => None,
        }
    }

    fn last_is_valid(&self) -> bool {
        self.len.checked_sub(1).is_some_and(|last| self.validity.is_valid(last))
    }

    /// Takes the values as an Arrow array.
    pub(super) fn take(&mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.validity.take();
        let len = std::mem::take(&mut self.len);
        Ok(match &mut self.data {
            Data::Leaf(leaf) => leaf.take(nulls)?,
            Data::Object { fields, .. } => {
                let arrays = fields.iter_mut().map(Self::take).collect::<Result<Vec<_>, _>>()?;
                let fields: Fields = fields.iter().map(|f| Arc::clone(&f.field)).collect();
                Arc::new(StructArray::try_new_with_length(fields, arrays, nulls, len)?)
            }
            Data::Array { ends, item, .. } => {
                let items = item.take()?;
                Arc::new(ListArray::try_new(Arc::clone(&item.field), offsets(ends), items, nulls)?)
            }
        })
    }

    /// Whether a repeated key can be found somewhere below.
    fn has_keys(&self) -> bool {
        match &self.data {
            Data::Leaf(_) => false,
            Data::Object { .. } => true,
            Data::Array { item, .. } => item.has_keys(),
        }
    }
}

fn push_object(token: &str, keys: &mut Keys, fields: &mut [Node], scratch: &mut Scratch) -> Judged<()> {
    if !token.starts_with('{') {
        return Err(expected("an object", token));
    }
    let base = object::room(&mut scratch.slots, keys);
    let slots = &mut scratch.slots[base..];
    let found = object::read(token, keys, slots, &mut scratch.unknown, None)
        .map_err(|error| refuse(Reason::NotJson, format!("inside of the object: {error}")))?
        .ok_or_else(|| expected("one object", token))?;
    let mut worst = judge_found(found, scratch.refuse_extra)?;
    for (at, node) in fields.iter_mut().enumerate() {
        let cell = scratch.slots[base + at].of(token).map_or(Cell::Absent, Cell::Json);
        if let Err(refusal) = node.push(cell, scratch) {
            keep_first(&mut worst, within(node.field.name(), refusal));
        }
    }
    scratch.slots.truncate(base);
    worst.map_or(Ok(()), Err)
}

/// Refuses repeated keys, and gives back what else the keys are to blame for, if anything.
pub(super) fn judge_found(found: Found, refuse_extra: bool) -> Judged<Option<Box<Refusal>>> {
    if let Some(key) = found.duplicate {
        return Err(within(&key, refuse(Reason::DuplicateKey, "the key occurs twice in one object")));
    }
    match (found.extra, found.broken) {
        (Some(key), _) if refuse_extra => {
            Ok(Some(within(&key, refuse(Reason::ExtraField, "the contract does not know this field"))))
        }
        (_, Some(key)) => Ok(Some(within(&key, half_surrogate()))),
        _ => Ok(None),
    }
}

fn push_array(token: &str, item: &mut Node, length: &Length, scratch: &mut Scratch) -> Judged<()> {
    if !token.starts_with('[') {
        return Err(expected("an array", token));
    }
    let mut de = serde_json::Deserializer::from_str(token);
    let look_on = item.has_keys();
    let items = Items { item, scratch, look_on, worst: None };
    let (count, worst) = serde::Deserializer::deserialize_seq(&mut de, items)
        .map_err(|error| refuse(Reason::NotJson, format!("inside of the array: {error}")))?;
    match worst {
        Some(refusal) => Err(refusal),
        None => length.judge(count),
    }
}

/// Appends the items of an array; after a bad one it only looks on for repeated keys.
struct Items<'a> {
    item: &'a mut Node,
    scratch: &'a mut Scratch,
    look_on: bool,
    worst: Option<Box<Refusal>>,
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = (usize, Option<Box<Refusal>>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut count = 0;
        while let Some(token) = seq.next_element::<&'de RawValue>()? {
            if (self.worst.is_none() || self.look_on)
                && let Err(refusal) = self.item.push(Cell::Json(token.get()), self.scratch)
            {
                keep_first(&mut self.worst, within(&format!("[{count}]"), refusal));
            }
            count += 1;
        }
        Ok((count, self.worst))
    }
}

//! A YAML file as a tree in which every key and value knows its place.
//!
//! The tree is what a typed deserialization cannot give: it lets the rules go on after the first
//! error. It is built from the events of the parser below `serde-saphyr`. Scalars stay text; what
//! they mean is decided by who reads them. Aliases are copied, within a budget, so a small file
//! cannot become a large tree; tags, merge keys, duplicate keys and further documents are refused.

use super::diagnostics::{Place, Sink};
use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};
use std::borrow::Cow;
use std::collections::HashMap;

/// More nodes than any project file has.
const NODES_MAX: usize = 100_000;

/// One value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A text that may stand for a number, a boolean or null if it is `plain`.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    /// With variables replaced. Never shown: a variable may hold a secret.
    pub(super) text: String,
    /// As typed, for messages.
    pub(super) typed: String,
    /// Neither quoted nor a block.
    pub(super) plain: bool,
}

/// A key of a map.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) place: Place,
}

impl Node {
    /// The value under `key`, if this is a map that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(k, _)| k.name == key).map(|(_, v)| v)
    }

    /// The value at the end of these keys.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The entries of a map; none for anything else.
    pub(super) fn entries(&self) -> &[(Key, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none for anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The scalar, unless it is null.
    pub(super) fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) if !scalar.is_null() => Some(scalar),
            _ => None,
        }
    }

    /// The text of a scalar that is not null.
    pub(super) fn text(&self) -> Option<&str> {
        self.scalar().map(|s| s.text.as_str())
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.is_null())
    }

    /// What this is, for messages.
    pub(super) fn what(&self) -> &'static str {
        match &self.value {
            Value::Scalar(s) if s.is_null() => "nothing",
            Value::Scalar(s) if s.boolean().is_some() => "a boolean",
            Value::Scalar(s) if s.integer().is_some() => "an integer",
            Value::Scalar(s) if s.number().is_some() => "a number",
            Value::Scalar(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Calls `change` for every scalar value (not for keys).
    pub(super) fn for_each_scalar(&mut self, change: &mut impl FnMut(Place, &mut Scalar)) {
        match &mut self.value {
            Value::Scalar(scalar) => change(self.place, scalar),
            Value::List(items) => items.iter_mut().for_each(|i| i.for_each_scalar(change)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, v)| v.for_each_scalar(change)),
        }
    }
}

impl Scalar {
    /// Whether it stands for null: only plain scalars do.
    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// The boolean it stands for.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.text.as_str() {
            "true" | "True" | "TRUE" if self.plain => Some(true),
            "false" | "False" | "FALSE" if self.plain => Some(false),
            _ => None,
        }
    }

    /// The integer it stands for.
    pub(super) fn integer(&self) -> Option<i64> {
        self.text.parse().ok().filter(|_| self.plain)
    }

    /// The finite number it stands for.
    pub(super) fn number(&self) -> Option<f64> {
        let looks = self.plain && self.text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
        self.text.parse::<f64>().ok().filter(|n| looks && n.is_finite())
    }
}

/// Reads a file's text; what is no YAML is reported, and there is no tree then.
pub(super) fn parse(text: &str, sink: &mut Sink) -> Option<Node> {
    let mut builder = Builder { events: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0, sink };
    match builder.document() {
        Ok(node) => Some(node),
        Err(Stop::Syntax(e)) => {
            let place = place_of(e.marker());
            sink.error_with(
                place,
                format!("not YAML: {}", e.info()),
                "see the line and the one above it; tabs cannot indent",
            );
            None
        }
        Err(Stop::Refused(place, message, hint)) => {
            sink.error_with(place, message, hint);
            None
        }
    }
}

enum Stop {
    Syntax(ScanError),
    Refused(Place, String, &'static str),
}

struct Builder<'t, 's> {
    events: Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    sink: &'s mut Sink,
}

impl<'t> Builder<'t, '_> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Stop> {
        loop {
            match self.events.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                Some(Err(e)) => return Err(Stop::Syntax(e)),
                None => return Err(Stop::Refused(Place::START, "the file ends too early".to_owned(), "complete it")),
            }
        }
    }

    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if root.is_some() => {
                    let message = "a second YAML document begins here".to_owned();
                    return Err(Stop::Refused(place_of(&span.start), message, "keep one document per file"));
                }
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        root.ok_or_else(|| {
            Stop::Refused(Place::START, "the file is empty".to_owned(), "`deltaworks init` writes one to start from")
        })
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Stop> {
        let place = place_of(&span.start);
        if depth > 64 {
            return Err(Stop::Refused(place, "nested too deeply".to_owned(), "64 levels are the limit"));
        }
        self.count(1, place)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.no_tag(tag.is_some(), place);
                let typed = text.clone().into_owned();
                let scalar = Scalar { text: text.into_owned(), typed, plain: style == ScalarStyle::Plain };
                (Value::Scalar(scalar), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.no_tag(tag.is_some(), place);
                (Value::List(self.list(depth)?), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.no_tag(tag.is_some(), place);
                (Value::Map(self.map(depth)?), anchor)
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(Stop::Refused(
                        place,
                        "this alias stands inside its own anchor".to_owned(),
                        "write the value out",
                    ));
                };
                self.count(size(&node), place)?;
                return Ok(Node { place, ..node });
            }
            _ => return Err(Stop::Refused(place, "unexpected YAML".to_owned(), "write it plainly")),
        };
        let node = Node { place, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Stop> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Stop> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let place = place_of(&span.start);
            let name: Cow<'t, str> = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, ..) => text,
                _ => return Err(Stop::Refused(place, "a key must be a text".to_owned(), "write `key: value`")),
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            if name == "<<" {
                self.sink.error_with(place, "merge keys (`<<`) are not supported", "write the keys out");
            } else if let Some((first, _)) = entries.iter().find(|(k, _)| k.name == *name) {
                let hint = format!("it is already there in line {}", first.place.line);
                self.sink.error_with(place, format!("the key `{name}` occurs twice"), hint);
            } else {
                entries.push((Key { name: name.into_owned(), place }, value));
            }
        }
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Stop> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return Err(Stop::Refused(
                place,
                "the file is too large".to_owned(),
                "aliases count as what they stand for",
            ));
        }
        Ok(())
    }

    fn no_tag(&mut self, tagged: bool, place: Place) {
        if tagged {
            self.sink.error_with(place, "tags (`!…`) are not supported", "take the tag away");
        }
    }
}

fn size(node: &Node) -> usize {
    let below: usize = match &node.value {
        Value::Scalar(_) => 0,
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|(_, v)| size(v)).sum(),
    };
    below + 1
}

fn place_of(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

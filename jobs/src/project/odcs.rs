//! Reads an Open Data Contract Standard v3.1 file into a [`Contract`].
//!
//! Columns come from `schema[0].properties`. The standard's other keys are accepted and left alone;
//! keys that the standard does not have are errors, and so is a row rule that we cannot enforce:
//! a rule that is silently not kept is worse than none. A contract is returned only if nothing is
//! wrong with it. Types of columns are read in [`super::odcs_types`].

use super::contract::{Column, Contract, Kind, Source};
use super::diagnostics::{Place, Sink};
use super::yaml::{self, Node, Value};
use super::{odcs_quality, odcs_types};
use std::collections::HashMap;
use std::path::Path;

const API_VERSION: &str = "v3.1.0";
const TOP_KEYS: [&str; 22] = [
    "version",
    "kind",
    "apiVersion",
    "id",
    "name",
    "tenant",
    "tags",
    "status",
    "servers",
    "dataProduct",
    "description",
    "domain",
    "schema",
    "support",
    "price",
    "team",
    "roles",
    "slaDefaultElement",
    "slaProperties",
    "authoritativeDefinitions",
    "customProperties",
    "contractCreatedTs",
];
const SCHEMA_KEYS: [&str; 14] = [
    "id",
    "name",
    "physicalType",
    "description",
    "businessName",
    "authoritativeDefinitions",
    "tags",
    "customProperties",
    "logicalType",
    "physicalName",
    "dataGranularityDescription",
    "properties",
    "relationships",
    "quality",
];
const PROPERTY_KEYS: [&str; 28] = [
    "id",
    "name",
    "physicalType",
    "description",
    "businessName",
    "authoritativeDefinitions",
    "tags",
    "customProperties",
    "primaryKey",
    "primaryKeyPosition",
    "logicalType",
    "logicalTypeOptions",
    "physicalName",
    "required",
    "unique",
    "partitioned",
    "partitionKeyPosition",
    "classification",
    "encryptedName",
    "transformSourceObjects",
    "transformLogic",
    "transformDescription",
    "examples",
    "criticalDataElement",
    "relationships",
    "quality",
    "properties",
    "items",
];
const SLA_KEYS: [&str; 10] =
    ["id", "property", "value", "valueExt", "unit", "element", "driver", "description", "scheduler", "schedule"];

/// Reads a contract's text; `path` is the file, relative to the project.
pub(super) fn read(text: &str, path: &Path, sink: &mut Sink) -> Option<Contract> {
    let root = yaml::parse(text, sink)?;
    let mut reader = Reader { sink, personal: false };
    let contract = reader.contract(&root, path);
    contract.filter(|_| sink.is_empty())
}

pub(super) struct Reader<'s> {
    pub(super) sink: &'s mut Sink,
    personal: bool,
}

impl Reader<'_> {
    fn contract(&mut self, root: &Node, path: &Path) -> Option<Contract> {
        if !matches!(root.value, Value::Map(_)) {
            self.sink.error(root.place, "a contract is a map of `key: value` lines");
            return None;
        }
        self.known(root, "key", &TOP_KEYS);
        self.fixed(root, "apiVersion", API_VERSION);
        self.fixed(root, "kind", "DataContract");
        self.personal |= is_personal(root);
        let id = self.required_text(root, "id", Place::START);
        let version = self.required_text(root, "version", Place::START);
        self.required_text(root, "status", Place::START);
        let retention_days = self.retention(root);
        let columns = self.schema(root);
        let quality = match (root.get("schema").map(Node::items), &columns) {
            (Some([object]), Some(columns)) => odcs_quality::read(self, object, columns),
            _ => Vec::new(),
        };
        Some(Contract {
            id: id?,
            version: version?,
            path: path.to_path_buf(),
            personal: self.personal,
            retention_days,
            columns: columns?,
            quality,
        })
    }

    fn schema(&mut self, root: &Node) -> Option<Vec<Column>> {
        let Some(node) = root.get("schema") else {
            self.sink.error_with(Place::START, "`schema` is missing", "it lists one object, the event");
            return None;
        };
        let [object] = node.items() else {
            let message = format!("`schema` must list one object, the event, found {}", node.items().len());
            self.sink.error_with(node.place, message, "write one contract file per event");
            return None;
        };
        self.known(object, "key", &SCHEMA_KEYS);
        self.required_text(object, "name", object.place);
        if let Some(kind) = object.get("logicalType").filter(|k| k.text() != Some("object")) {
            self.sink.error(kind.place, "the `logicalType` of an event must be `object`");
        }
        self.personal |= is_personal(object);
        let columns = self.properties(object, object.place, true)?;
        let ids: Vec<_> = columns.iter().filter(|c| c.is_id).map(|c| c.name.as_str()).collect();
        if ids.len() > 1 {
            let message = format!("{} properties are `primaryKey`: {}", ids.len(), super::diagnostics::list(&ids));
            self.sink.error_with(object.place, message, "the event id is one column");
        }
        Some(columns)
    }

    /// The properties of an object; `top` ones become columns of the table.
    pub(super) fn properties(&mut self, object: &Node, owner: Place, top: bool) -> Option<Vec<Column>> {
        let Some(node) = object.get("properties").filter(|n| !n.items().is_empty()) else {
            let hint = if top {
                "list the event's fields"
            } else {
                "list its fields, or keep it as text with `physicalType: json`"
            };
            self.sink.error_with(owner, "`properties` is missing", hint);
            return None;
        };
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut columns = Vec::new();
        for property in node.items() {
            let Some(name) = self.required_text(property, "name", property.place) else { continue };
            let place = property.get("name").map_or(property.place, |n| n.place);
            self.name(&name, place, top);
            if let Some(line) = seen.insert(name.to_lowercase(), place.line) {
                let message = format!("the column `{name}` occurs twice");
                self.sink.error_with(
                    place,
                    message,
                    format!("it is already there in line {line}; upper and lower case count as equal"),
                );
            }
            columns.extend(self.column(name, property, top));
        }
        Some(columns)
    }

    /// One property, or the items of an array.
    pub(super) fn column(&mut self, name: String, property: &Node, top: bool) -> Option<Column> {
        self.known(property, "key", &PROPERTY_KEYS);
        self.personal |= is_personal(property);
        let required = self.boolean(property, "required");
        let is_id = self.boolean(property, "primaryKey");
        let (kind, rules) = odcs_types::read(self, property)?;
        if is_id && !(top && matches!(kind, Kind::String | Kind::Integer)) {
            let place = property.get("primaryKey").map_or(property.place, |n| n.place);
            self.sink.error_with(
                place,
                format!("`{name}` cannot be the event id"),
                "`primaryKey` is for one column of the event itself, a string or an integer",
            );
        }
        let description = property.get("description").and_then(Node::text).map(|d| d.trim().to_owned());
        Some(Column { name, source: Source::Field, kind, required, is_id, rules, description })
    }

    fn name(&mut self, name: &str, place: Place, top: bool) {
        const FORBIDDEN: &[char] = &[' ', ',', ';', '{', '}', '(', ')', '\n', '\r', '\t', '='];
        if let Some(bad) = name.chars().find(|c| FORBIDDEN.contains(c)) {
            self.sink.error_with(
                place,
                format!("the name `{}` holds {bad:?}", name.escape_debug()),
                "Delta tables allow none of ` ,;{}()=`, tabs and line ends in a column's name",
            );
        } else if top && (name.starts_with('_') || name.eq_ignore_ascii_case("event_date")) {
            self.sink.error_with(
                place,
                format!("the column name `{name}` is reserved"),
                "`event_date` and names with a leading `_` belong to deltaworks",
            );
        }
    }

    fn retention(&mut self, root: &Node) -> Option<u32> {
        let mut days = None;
        for sla in root.get("slaProperties").map_or(&[][..], Node::items) {
            self.known(sla, "key", &SLA_KEYS);
            if sla.get("property").and_then(Node::text) != Some("retention") {
                continue;
            }
            let value = sla.get("value").and_then(Node::scalar).and_then(yaml::Scalar::integer);
            let factor = match sla.get("unit").and_then(Node::text).unwrap_or_default() {
                "d" | "day" | "days" => Some(1),
                "w" | "week" | "weeks" => Some(7),
                "y" | "yr" | "year" | "years" => Some(365),
                _ => None,
            };
            let product = value.zip(factor).and_then(|(v, f)| v.checked_mul(f));
            days = product.and_then(|d| u32::try_from(d).ok()).filter(|d| *d > 0);
            if days.is_none() {
                self.sink.error_with(
                    sla.place,
                    "the retention is not a positive whole number of days, weeks or years",
                    "write `value: 30` and `unit: d`",
                );
            }
        }
        days
    }

    /// Reports the keys of `node` that are not known.
    pub(super) fn known(&mut self, node: &Node, what: &str, known: &[&str]) {
        for (key, _) in node.entries() {
            if !known.contains(&key.name.as_str()) {
                self.sink.unknown(key.place, what, &key.name, known.iter().copied());
            }
        }
    }

    fn fixed(&mut self, root: &Node, key: &str, value: &str) {
        match root.get(key) {
            Some(node) if node.text() == Some(value) => {}
            Some(node) => self.sink.error(node.place, format!("`{key}` must be `{value}`")),
            None => {
                self.sink.error_with(Place::START, format!("`{key}` is missing"), format!("write `{key}: {value}`"))
            }
        }
    }

    pub(super) fn required_text(&mut self, node: &Node, key: &str, owner: Place) -> Option<String> {
        match node.get(key) {
            Some(found) => {
                let text = found.text().filter(|t| !t.is_empty());
                if text.is_none() {
                    self.sink.error(found.place, format!("`{key}` must be a text, found {}", found.what()));
                }
                text.map(str::to_owned)
            }
            None => {
                self.sink.error(owner, format!("`{key}` is missing"));
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, node: &Node, key: &str) -> bool {
        let Some(found) = node.get(key) else { return false };
        let value = found.scalar().and_then(yaml::Scalar::boolean);
        if value.is_none() {
            self.sink.error(found.place, format!("`{key}` must be `true` or `false`, found {}", found.what()));
        }
        value.unwrap_or(false)
    }
}

/// Whether a `classification` or a tag says so; `non-personal` says the opposite.
fn is_personal(node: &Node) -> bool {
    let says = |text: &str| {
        let text = text.to_lowercase();
        let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
        words.iter().any(|w| matches!(*w, "personal" | "pii"))
            && !words.iter().any(|w| matches!(*w, "no" | "non" | "not"))
    };
    let tags = node.get("tags").map_or(&[][..], Node::items).iter();
    node.get("classification").into_iter().chain(tags).filter_map(Node::text).any(says)
}

//! Whether a YAML tree has the shape of a JSON Schema, and the same tree as JSON.
//!
//! Only what [`super::config`] makes `schemars` write is understood: `$ref`, `type`, `properties`,
//! `required`, `additionalProperties`, `items`, `enum`, `const`, `oneOf`, `anyOf`, `minimum` and
//! `maximum`. Every error is reported; what is wrong is left out of the JSON, so the rest can still
//! be judged. A key without a value counts as not given. Where the schema wants a text, any scalar
//! will do, as it was typed.

use super::diagnostics::{Place, Sink, list};
use super::yaml::{Key, Node, Value};
use serde_json::{Map, Value as Json};

/// Checks `node` against `schema`; `root` holds the definitions, `key` is what the node is under.
pub(super) fn read(node: &Node, schema: &Json, root: &Json, key: &Key, sink: &mut Sink) -> Option<Json> {
    let choices = choices(schema, root);
    let constants = constants(&choices);
    if !constants.is_empty() {
        return one_of(node, &constants, key, sink);
    }
    let types: Vec<&str> = choices.iter().flat_map(|c| types(c)).collect();
    let fits = |kind: &str| types.contains(&kind);
    let schema = choices.first().copied().unwrap_or(schema);
    match &node.value {
        Value::Map(entries) if fits("object") => Some(Json::Object(map(entries, schema, root, key, sink))),
        Value::List(items) if fits("array") => {
            let schema = schema.get("items").unwrap_or(&Json::Null);
            Some(Json::Array(items.iter().filter_map(|i| read(i, schema, root, key, sink)).collect()))
        }
        Value::Scalar(scalar) if !scalar.is_null() => {
            if fits("string") {
                return Some(Json::String(scalar.text.clone()));
            }
            match (scalar.integer(), scalar.boolean(), scalar.number()) {
                (Some(integer), ..) if fits("integer") => within(integer, schema, node.place, key, sink),
                (_, Some(boolean), _) if fits("boolean") => Some(Json::Bool(boolean)),
                (.., Some(number)) if fits("number") => Some(Json::from(number)),
                _ => wrong_type(node, &types, key, sink),
            }
        }
        _ => wrong_type(node, &types, key, sink),
    }
}

/// The definition behind a `$ref`.
pub(super) fn resolve<'s>(schema: &'s Json, root: &'s Json) -> &'s Json {
    let target = schema.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix('#'));
    target.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

fn map(entries: &[(Key, Node)], schema: &Json, root: &Json, owner: &Key, sink: &mut Sink) -> Map<String, Json> {
    let mut json = Map::new();
    let properties = schema.get("properties").and_then(Json::as_object);
    let further = schema.get("additionalProperties").filter(|a| a.is_object());
    for (key, node) in entries {
        let Some(schema) = properties.and_then(|p| p.get(&key.name)).or(further) else {
            let known = properties.into_iter().flat_map(|p| p.keys().map(String::as_str));
            sink.unknown(key.place, "key", &key.name, known);
            continue;
        };
        if node.is_null() {
            continue;
        }
        if let Some(value) = read(node, schema, root, key, sink) {
            json.insert(key.name.clone(), value);
        }
    }
    let required = schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    for name in required {
        match entries.iter().find(|(k, _)| k.name == name) {
            None => missing(name, owner.place, properties, sink),
            Some((key, node)) if node.is_null() => missing(name, key.place, properties, sink),
            Some(_) => {}
        }
    }
    json
}

fn missing(name: &str, place: Place, properties: Option<&Map<String, Json>>, sink: &mut Sink) {
    let message = format!("`{name}` is missing");
    let says = properties.and_then(|p| p.get(name)).and_then(|p| p.get("description")).and_then(Json::as_str);
    match says {
        Some(says) => sink.error_with(place, message, format!("`{name}`: {}", one_line(says))),
        None => sink.error(place, message),
    }
}

fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.trim_end_matches('.').to_owned()
}

/// The alternatives of a schema, `null` left out.
fn choices<'s>(schema: &'s Json, root: &'s Json) -> Vec<&'s Json> {
    let schema = resolve(schema, root);
    match schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Json::as_array) {
        Some(all) => all.iter().flat_map(|s| choices(s, root)).filter(|s| types(s) != ["null"]).collect(),
        None => vec![schema],
    }
}

fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(all)) => all.iter().filter_map(Json::as_str).filter(|t| *t != "null").collect(),
        _ => Vec::new(),
    }
}

fn constants<'s>(choices: &[&'s Json]) -> Vec<&'s str> {
    let of = |s: &&'s Json| -> Vec<&'s str> {
        let many = s.get("enum").and_then(Json::as_array).into_iter().flatten();
        s.get("const").into_iter().chain(many).filter_map(Json::as_str).collect()
    };
    choices.iter().flat_map(of).collect()
}

fn one_of(node: &Node, constants: &[&str], key: &Key, sink: &mut Sink) -> Option<Json> {
    match node.scalar() {
        Some(scalar) if constants.contains(&scalar.text.as_str()) => Some(Json::String(scalar.text.clone())),
        Some(scalar) => {
            sink.unknown(node.place, &format!("value of `{}`:", key.name), &scalar.typed, constants.iter().copied());
            None
        }
        None => {
            let message = format!("`{}` must be one of {}, found {}", key.name, list(constants), node.what());
            sink.error(node.place, message);
            None
        }
    }
}

fn within(integer: i64, schema: &Json, place: Place, key: &Key, sink: &mut Sink) -> Option<Json> {
    let bound = |name| schema.get(name).and_then(Json::as_f64).map(|b| b as i64);
    let message = match (bound("minimum"), bound("maximum")) {
        (Some(min), Some(max)) if min == max && integer != min => format!("`{}` must be {min}", key.name),
        (Some(min), Some(max)) if integer < min || integer > max => {
            format!("`{}` must be from {min} to {max}", key.name)
        }
        (Some(min), None) if integer < min => format!("`{}` must be at least {min}", key.name),
        _ => return Some(Json::from(integer)),
    };
    sink.error(place, message);
    None
}

fn wrong_type(node: &Node, types: &[&str], key: &Key, sink: &mut Sink) -> Option<Json> {
    let wanted = match types.first().copied() {
        Some("object") => "a map of `key: value` lines",
        Some("array") => "a list",
        Some("integer") => "an integer",
        Some("number") => "a number",
        Some("boolean") => "`true` or `false`",
        _ => "a text",
    };
    sink.error(node.place, format!("`{}` must be {wanted}, found {}", key.name, node.what()));
    None
}

//! The rules over a date of data: `quality` of the event and of its properties.
//!
//! Of the standard, `library` metrics and `sql` are run; `text` and `custom` are for people and other tools, and are
//! reported as not run. A rule that cannot be judged (without a bound, with a metric that does not fit its column) is
//! an error here, before anything is measured.

use super::contract::{Column, Kind, Measure, QualityRule};
use super::odcs::Reader;
use super::odcs_rules;
use super::yaml::{Node, Scalar, Value};
use deltaworks_core::quality::{Bound, Severity, Unit};
use regex::Regex;

const KEYS: [&str; 28] = [
    "id",
    "name",
    "description",
    "type",
    "metric",
    "rule",
    "arguments",
    "mustBe",
    "mustNotBe",
    "mustBeGreaterThan",
    "mustBeGreaterOrEqualTo",
    "mustBeLessThan",
    "mustBeLessOrEqualTo",
    "mustBeBetween",
    "mustNotBeBetween",
    "unit",
    "query",
    "engine",
    "implementation",
    "dimension",
    "method",
    "severity",
    "businessImpact",
    "customProperties",
    "tags",
    "authoritativeDefinitions",
    "scheduler",
    "schedule",
];
const TYPES: [&str; 4] = ["library", "text", "sql", "custom"];
const OF_A_COLUMN: [&str; 4] = ["nullValues", "missingValues", "invalidValues", "duplicateValues"];
const OF_ALL: [&str; 2] = ["duplicateValues", "rowCount"];
const ARGUMENTS: [&str; 4] = ["missingValues", "validValues", "pattern", "properties"];

/// A bound made of one number, and of two.
type OfOne = fn(f64) -> Bound;
type OfTwo = fn(f64, f64) -> Bound;

/// What a rule is about.
struct Subject<'c> {
    /// The dotted path of the column and the column; none for the event itself.
    column: Option<(String, &'c Column)>,
    /// Top-level columns of the event.
    columns: &'c [Column],
}

/// Reads the rules of the event and of all its columns.
pub(super) fn read(reader: &mut Reader<'_>, object: &Node, columns: &[Column]) -> Vec<QualityRule> {
    let mut rules = Vec::new();
    read_rules(reader, object, &Subject { column: None, columns }, &mut rules);
    of_columns(reader, object, "", columns, columns, &mut rules);
    rules
}

fn of_columns(
    reader: &mut Reader<'_>,
    owner: &Node,
    prefix: &str,
    columns: &[Column],
    all: &[Column],
    rules: &mut Vec<QualityRule>,
) {
    for property in owner.get("properties").map_or(&[][..], Node::items) {
        let name = property.get("name").and_then(Node::text);
        let Some(column) = columns.iter().find(|c| Some(c.name.as_str()) == name) else { continue };
        let path = format!("{prefix}{}", column.name);
        read_rules(reader, property, &Subject { column: Some((path.clone(), column)), columns: all }, rules);
        if let Kind::Object(fields) = &column.kind {
            of_columns(reader, property, &format!("{path}."), fields, all, rules);
        }
        if let Some(node) = property.get("items").and_then(|items| items.get("quality")) {
            let hint = "write a `sql` rule for the event";
            reader.sink.error_with(node.place, "`quality` of an array's items is not measured", hint);
        }
    }
}

fn read_rules(reader: &mut Reader<'_>, owner: &Node, subject: &Subject<'_>, rules: &mut Vec<QualityRule>) {
    let Some(node) = owner.get("quality") else { return };
    if !matches!(node.value, Value::List(_)) {
        reader.sink.error(node.place, format!("`quality` must be a list of rules, found {}", node.what()));
        return;
    }
    for rule in node.items() {
        reader.known(rule, "key", &KEYS);
        let Some(mut rule_read) = read_rule(reader, rule, subject) else { continue };
        if rules.iter().any(|other| other.name == rule_read.name) {
            if rule.get("id").or_else(|| rule.get("name")).is_some() {
                let message = format!("there are two rules `{}`", rule_read.name);
                reader.sink.error_with(rule.place, message, "give each its own `id`");
            }
            let taken = |name: &String| rules.iter().any(|other| other.name == *name);
            let free = (2..).map(|n| format!("{}.{n}", rule_read.name)).find(|name| !taken(name));
            rule_read.name = free.unwrap_or_default();
        }
        rules.push(rule_read);
    }
}

fn read_rule(reader: &mut Reader<'_>, rule: &Node, subject: &Subject<'_>) -> Option<QualityRule> {
    let text = |key: &str| rule.get(key).and_then(Node::text).map(|t| t.trim().to_owned());
    let kind = text("type").unwrap_or_else(|| "library".to_owned());
    let bounds = bounds(reader, rule)?;
    let unit = one_of(reader, rule, "unit", &[("rows", Unit::Rows), ("percent", Unit::Percent)])?;
    let severities = Severity::ALL.map(|severity| (severity.as_str(), severity));
    let severity = one_of(reader, rule, "severity", &severities)?;
    let (measure, called) = match kind.as_str() {
        "library" => library(reader, rule, subject)?,
        "sql" => (Measure::Sql(sql(reader, rule, subject)?), "sql"),
        "text" => (Measure::NotRun("it is a text for people"), "text"),
        "custom" => (Measure::NotRun("it is for another engine"), "custom"),
        other => {
            let place = rule.get("type").map_or(rule.place, |t| t.place);
            reader.sink.unknown(place, "`type`", other, TYPES);
            return None;
        }
    };
    let runs = !matches!(measure, Measure::NotRun(_));
    if runs && bounds.is_empty() && !matches!(measure, Measure::Sql(_)) {
        let hint = "such as `mustBe: 0`, or `mustBeLessThan: 1` with `unit: percent`";
        reader.sink.error_with(rule.place, "the rule says nothing of what must be", hint);
        return None;
    }
    if unit == Unit::Percent && matches!(measure, Measure::RowCount | Measure::Sql(_)) {
        let place = rule.get("unit").map_or(rule.place, |u| u.place);
        reader.sink.error(place, format!("`{called}` has no share of the rows: leave `unit` out"));
        return None;
    }
    let about = subject.column.as_ref().map(|(path, _)| path.clone());
    let unnamed = about.as_ref().map_or_else(|| called.to_owned(), |column| format!("{column}.{called}"));
    Some(QualityRule {
        name: text("id").or_else(|| text("name")).unwrap_or(unnamed),
        column: about,
        measure,
        // a query that answers yes or no
        bounds: if runs && bounds.is_empty() { vec![Bound::MustBe(1.0)] } else { bounds },
        unit,
        severity,
        description: text("description"),
    })
}

fn library<'r>(reader: &mut Reader<'_>, rule: &'r Node, subject: &Subject<'_>) -> Option<(Measure, &'r str)> {
    let known: &[&str] = if subject.column.is_some() { &OF_A_COLUMN } else { &OF_ALL };
    let Some(node) = rule.get("metric").or_else(|| rule.get("rule")) else {
        let hint = format!("one of {}", super::diagnostics::list(known));
        reader.sink.error_with(rule.place, "`metric` is missing", hint);
        return None;
    };
    let metric = node.text().unwrap_or_default();
    if !known.contains(&metric) {
        let what = if subject.column.is_some() { "`metric` of a property:" } else { "`metric` of an event:" };
        reader.sink.unknown(node.place, what, metric, known.iter().copied());
        return None;
    }
    if let Some(arguments) = rule.get("arguments") {
        reader.known(arguments, "argument", &ARGUMENTS);
    }
    let measure = match (metric, &subject.column) {
        ("nullValues", _) => Measure::NullValues,
        ("rowCount", _) => Measure::RowCount,
        ("missingValues", Some((path, column))) => {
            Measure::MissingValues(values(reader, rule, "missingValues", path, &column.kind)?)
        }
        ("invalidValues", Some((path, column))) => invalid(reader, rule, path, &column.kind)?,
        ("duplicateValues", Some((path, column))) => {
            countable(reader, node, path, &column.kind)?;
            Measure::DuplicateValues(vec![path.clone()])
        }
        _ => duplicates(reader, rule, subject.columns)?,
    };
    Some((measure, metric))
}

fn invalid(reader: &mut Reader<'_>, rule: &Node, path: &str, kind: &Kind) -> Option<Measure> {
    let listed = rule.at(&["arguments", "validValues"]).is_some();
    let pattern = rule.at(&["arguments", "pattern"]);
    if !listed && pattern.is_none() {
        let hint = "`arguments: { validValues: [a, b] }`, or `arguments: { pattern: \"[A-Z]{2}\" }`";
        reader.sink.error_with(rule.place, "nothing says which values are valid", hint);
        return None;
    }
    let valid = if listed { values(reader, rule, "validValues", path, kind)? } else { Vec::new() };
    let pattern = match pattern {
        None => None,
        Some(node) if !matches!(kind, Kind::String) => {
            reader.sink.error(node.place, format!("a `pattern` is for texts, and `{path}` is none"));
            return None;
        }
        Some(node) => {
            let typed = node.text().unwrap_or_default();
            if let Err(error) = Regex::new(typed) {
                let hint = error.to_string().lines().last().unwrap_or_default().to_owned();
                reader.sink.error_with(node.place, format!("`{typed}` is no pattern"), hint);
                return None;
            }
            Some(typed.to_owned())
        }
    };
    // null is not invalid: `nullValues` counts it
    Some(Measure::InvalidValues { valid: valid.into_iter().flatten().collect(), pattern })
}

fn duplicates(reader: &mut Reader<'_>, rule: &Node, columns: &[Column]) -> Option<Measure> {
    let listed = rule.at(&["arguments", "properties"]);
    let Some(node) = listed.filter(|node| !node.items().is_empty()) else {
        let hint = "`arguments: { properties: [a, b] }`";
        reader.sink.error_with(rule.place, "nothing says which properties must be unique together", hint);
        return None;
    };
    let mut names = Vec::new();
    for item in node.items() {
        let name = item.text().unwrap_or_default();
        let Some(column) = columns.iter().find(|c| c.name == name) else {
            reader.sink.unknown(item.place, "property", name, columns.iter().map(|c| c.name.as_str()));
            return None;
        };
        countable(reader, item, name, &column.kind)?;
        names.push(name.to_owned());
    }
    Some(Measure::DuplicateValues(names))
}

/// Whether values of this kind can be told apart.
fn countable(reader: &mut Reader<'_>, node: &Node, path: &str, kind: &Kind) -> Option<()> {
    let plain = !matches!(kind, Kind::Object(_) | Kind::Array(_));
    if !plain {
        reader.sink.error(node.place, format!("`{path}` is an object or an array: its values are not compared"));
    }
    plain.then_some(())
}

/// A list of values, each of which the column could hold.
fn values(reader: &mut Reader<'_>, rule: &Node, name: &str, path: &str, kind: &Kind) -> Option<Vec<Option<String>>> {
    let Some(node) = rule.at(&["arguments", name]).filter(|node| !node.items().is_empty()) else {
        reader.sink.error_with(rule.place, format!("`arguments.{name}` is missing"), "it is a list of values");
        return None;
    };
    let mut values = Vec::new();
    for item in node.items() {
        if item.is_null() {
            values.push(None);
        } else if let Some(scalar) = item.scalar().filter(|scalar| fits(item, scalar, kind)) {
            values.push(Some(scalar.text.clone()));
        } else {
            let message = format!("`{path}` cannot hold this value");
            reader.sink.error_with(
                item.place,
                message,
                "values are texts, numbers, booleans or dates, as the column is",
            );
            return None;
        }
    }
    Some(values)
}

fn fits(item: &Node, scalar: &Scalar, kind: &Kind) -> bool {
    match kind {
        Kind::String => true,
        Kind::Boolean => scalar.boolean().is_some(),
        Kind::Timestamp(_) | Kind::Object(_) | Kind::Array(_) | Kind::Json => false,
        _ => odcs_rules::bound(item, kind).is_some(),
    }
}

/// The query, over `{object}`; `{property}` stands for the column.
fn sql(reader: &mut Reader<'_>, rule: &Node, subject: &Subject<'_>) -> Option<String> {
    let Some(node) = rule.get("query") else {
        reader.sink.error_with(rule.place, "`query` is missing", "`query: SELECT count(*) FROM {object} WHERE …`");
        return None;
    };
    let query = node.text().unwrap_or_default();
    if query.contains("{property}") && subject.column.is_none() {
        reader.sink.error(node.place, "`{property}` stands for a property, and this rule is for the whole event");
        return None;
    }
    // older examples of the standard write it so
    Some(query.replace("${object}", "{object}").replace("${property}", "{property}"))
}

fn bounds(reader: &mut Reader<'_>, rule: &Node) -> Option<Vec<Bound>> {
    let mut bounds = Vec::new();
    let single: [(&str, OfOne); 6] = [
        ("mustBe", Bound::MustBe),
        ("mustNotBe", Bound::MustNotBe),
        ("mustBeGreaterThan", Bound::MustBeGreaterThan),
        ("mustBeGreaterOrEqualTo", Bound::MustBeGreaterOrEqualTo),
        ("mustBeLessThan", Bound::MustBeLessThan),
        ("mustBeLessOrEqualTo", Bound::MustBeLessOrEqualTo),
    ];
    for (name, bound) in single {
        let Some(node) = rule.get(name) else { continue };
        let boolean = node.scalar().and_then(Scalar::boolean).map(|yes| f64::from(u8::from(yes)));
        let Some(number) = node.scalar().and_then(Scalar::number).or(boolean) else {
            reader.sink.error(node.place, format!("`{name}` must be a number, found {}", node.what()));
            return None;
        };
        bounds.push(bound(number));
    }
    let range: [(&str, OfTwo); 2] =
        [("mustBeBetween", Bound::MustBeBetween), ("mustNotBeBetween", Bound::MustNotBeBetween)];
    for (name, bound) in range {
        let Some(node) = rule.get(name) else { continue };
        let ends: Vec<f64> = node.items().iter().filter_map(|i| i.scalar().and_then(Scalar::number)).collect();
        match ends[..] {
            [least, greatest] if least <= greatest && node.items().len() == 2 => bounds.push(bound(least, greatest)),
            _ => {
                reader.sink.error(node.place, format!("`{name}` must be a list of two numbers, the least first"));
                return None;
            }
        }
    }
    Some(bounds)
}

fn one_of<T: Copy + Default>(reader: &mut Reader<'_>, rule: &Node, key: &str, known: &[(&str, T)]) -> Option<T> {
    let Some(node) = rule.get(key) else { return Some(T::default()) };
    let text = node.text().unwrap_or_default();
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        reader.sink.unknown(node.place, &format!("`{key}`"), text, known.iter().map(|(name, _)| *name));
    }
    found
}

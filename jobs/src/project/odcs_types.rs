//! The type and the row rules of one ODCS property.
//!
//! | logicalType | physicalType | column |
//! |---|---|---|
//! | `string` | `json` | any JSON value, kept as text |
//! | `string` | anything else | text |
//! | `integer` | anything | 64-bit integer; `format` narrows it |
//! | `number` | `decimal(p,s)`, `numeric(p,s)` | exact decimal |
//! | `number` | `double` or none; `float`, `real` | 64-bit float; 32-bit float |
//! | `boolean`, `date` | anything | boolean; `YYYY-MM-DD` |
//! | `timestamp` | `epoch_s`, `epoch_ms`, `epoch_us` | a number since the Unix epoch, in this unit |
//! | `timestamp` | anything else | RFC 3339, or as `logicalTypeOptions.format` says |
//! | `object` | `json`, or anything else with `properties` | text; nested object |
//! | `array` | anything, with `items` | array |
//!
//! A timestamp without offset is read in `logicalTypeOptions.defaultTimezone`, or in UTC where
//! `timezone: false` says that none has one; without both it is a reject.

use super::contract::{Bound, BoundValue, Kind, Rules, TimestampForm};
use super::odcs::Reader;
use super::time_format;
use super::yaml::{Node, Scalar};
use jiff::tz::TimeZone;
use regex::Regex;

const LOGICAL_TYPES: [&str; 8] = ["string", "integer", "number", "boolean", "date", "timestamp", "object", "array"];
const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
/// Row rules of the standard that we do not enforce, and what to do instead.
const NOT_ENFORCED: [(&str, &str); 5] = [
    ("multipleOf", "use a decimal with the right scale, or a rule under `quality`"),
    ("uniqueItems", "use a rule under `quality`"),
    ("minProperties", "mark the properties as `required`"),
    ("maxProperties", "list the properties"),
    ("required", "write `required: true` at the properties themselves"),
];

/// Reads the type and the row rules of a property.
pub(super) fn read(reader: &mut Reader<'_>, property: &Node) -> Option<(Kind, Rules)> {
    let Some(logical) = property.get("logicalType") else {
        let hint = format!("one of {}", super::diagnostics::list(&LOGICAL_TYPES));
        reader.sink.error_with(property.place, "`logicalType` is missing", hint);
        return None;
    };
    let name = logical.text().unwrap_or_default();
    if !LOGICAL_TYPES.contains(&name) {
        if name == "time" {
            reader.sink.error_with(
                logical.place,
                "the `logicalType` `time` is not supported",
                "use `string` with a `pattern`",
            );
        } else {
            reader.sink.unknown(logical.place, "`logicalType`", name, LOGICAL_TYPES);
        }
        return None;
    }
    options_known(reader, property, name);
    let kind = kind(reader, property, name)?;
    let rules = rules(reader, property, &kind);
    Some((kind, rules))
}

fn kind(reader: &mut Reader<'_>, property: &Node, logical: &str) -> Option<Kind> {
    let physical = property.get("physicalType");
    let physical_text = physical.and_then(Node::text).map(|t| t.trim().to_ascii_lowercase()).unwrap_or_default();
    let json = physical_text == "json";
    Some(match logical {
        "string" if json => Kind::Json,
        "object" if json => {
            if let Some(properties) = property.get("properties") {
                reader.sink.error_with(properties.place, "a `json` column has no `properties`", "take either away");
            }
            Kind::Json
        }
        "string" => Kind::String,
        "integer" => Kind::Integer,
        "boolean" => Kind::Boolean,
        "date" => date(reader, property)?,
        "number" => number(reader, property, physical, &physical_text)?,
        "timestamp" => Kind::Timestamp(timestamp(reader, property, physical, &physical_text)?),
        "object" => Kind::Object(reader.properties(property, property.place, false)?),
        _ => {
            let Some(items) = property.get("items") else {
                reader.sink.error_with(
                    property.place,
                    "`items` is missing",
                    "say what the array holds: `items: { logicalType: string }`",
                );
                return None;
            };
            Kind::Array(Box::new(reader.column("element".to_owned(), items, false)?))
        }
    })
}

fn date(reader: &mut Reader<'_>, property: &Node) -> Option<Kind> {
    match property.at(&["logicalTypeOptions", "format"]) {
        Some(format) if format.text() != Some("yyyy-MM-dd") => {
            reader.sink.error_with(
                format.place,
                "a `date` is written `yyyy-MM-dd`",
                "for another form use `timestamp` with this `format`, or `string`",
            );
            None
        }
        _ => Some(Kind::Date),
    }
}

fn number(reader: &mut Reader<'_>, property: &Node, physical: Option<&Node>, text: &str) -> Option<Kind> {
    let narrow = property.at(&["logicalTypeOptions", "format"]).and_then(Node::text) == Some("f32");
    match text {
        "" if narrow => return Some(Kind::Float),
        "" | "double" | "double precision" | "float64" => return Some(Kind::Double),
        "float" | "real" | "float32" => return Some(Kind::Float),
        _ => {}
    }
    let place = physical.map_or(property.place, |p| p.place);
    let arguments = ["decimal", "numeric"].iter().find_map(|name| text.strip_prefix(name)).map(str::trim);
    let Some(arguments) = arguments.and_then(|a| a.strip_prefix('(')).and_then(|a| a.strip_suffix(')')) else {
        reader.sink.error_with(
            place,
            format!("`{text}` is no `physicalType` of a number"),
            "use `decimal(p,s)`, `double` or `float`",
        );
        return None;
    };
    let (precision, scale) = arguments.split_once(',').unwrap_or((arguments, "0"));
    match (precision.trim().parse::<u8>(), scale.trim().parse::<i8>()) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale >= 0 && scale as u8 <= precision => {
            Some(Kind::Decimal { precision, scale })
        }
        _ => {
            reader.sink.error_with(
                place,
                format!("`{text}` is no valid decimal"),
                "`decimal(p,s)` has p digits in all, 1 to 38, and s of them after the point",
            );
            None
        }
    }
}

fn timestamp(reader: &mut Reader<'_>, property: &Node, physical: Option<&Node>, text: &str) -> Option<TimestampForm> {
    let place = physical.map_or(property.place, |p| p.place);
    let option = |name| property.at(&["logicalTypeOptions", name]);
    let epoch = match text {
        "epoch_s" => Some(TimestampForm::EpochSeconds),
        "epoch_ms" => Some(TimestampForm::EpochMillis),
        "epoch_us" => Some(TimestampForm::EpochMicros),
        "int" | "integer" | "bigint" | "long" | "int64" => {
            reader.sink.error_with(
                place,
                format!("a timestamp of `physicalType: {text}` does not say its unit"),
                "use `epoch_s`, `epoch_ms` or `epoch_us`",
            );
            return None;
        }
        other if other.starts_with("epoch") => {
            reader.sink.unknown(place, "`physicalType`", other, ["epoch_s", "epoch_ms", "epoch_us"]);
            return None;
        }
        _ => None,
    };
    if let Some(form) = epoch {
        for name in ["format", "timezone", "defaultTimezone"] {
            if let Some(node) = option(name) {
                reader.sink.error_with(
                    node.place,
                    format!("`{name}` says nothing about a number since the epoch"),
                    "take it away",
                );
            }
        }
        return Some(form);
    }
    let zone = zone(reader, property)?;
    let Some(format) = option("format") else { return Some(TimestampForm::Rfc3339 { zone }) };
    let typed = format.text().unwrap_or_default();
    if time_format::is_rfc3339(typed) {
        return Some(TimestampForm::Rfc3339 { zone });
    }
    match time_format::translate(typed) {
        Ok(f) if !f.has_offset && zone.is_none() => {
            reader.sink.error_with(
                format.place,
                format!("`{typed}` has no offset, so its values are no instants"),
                "add `defaultTimezone: Europe/Kyiv` (or another zone)",
            );
            None
        }
        Ok(f) => Some(TimestampForm::Format { format: f.strptime, zone }),
        Err(why) => {
            reader.sink.error_with(
                format.place,
                format!("the format `{typed}` cannot be used: {why}"),
                "write it as in `yyyy-MM-dd HH:mm:ss` or `dd.MM.yyyy HH:mm:ss.SSS xxx`; RFC 3339 needs no format",
            );
            None
        }
    }
}

/// The zone of values without offset; `None` on an error.
#[expect(clippy::option_option, reason = "outer: readable, inner: given")]
fn zone(reader: &mut Reader<'_>, property: &Node) -> Option<Option<TimeZone>> {
    let options = property.get("logicalTypeOptions");
    let said = options.and_then(|o| o.get("timezone"));
    let says_none = match said.map(|n| n.scalar().and_then(Scalar::boolean)) {
        None => false,
        Some(Some(has)) => !has,
        Some(None) => {
            let place = said.map_or(property.place, |n| n.place);
            reader.sink.error_with(
                place,
                "`timezone` must be `true` or `false`",
                "the zone of values without offset is `defaultTimezone`",
            );
            return None;
        }
    };
    match options.and_then(|o| o.get("defaultTimezone")) {
        None => Some(says_none.then_some(TimeZone::UTC)),
        Some(node) => match TimeZone::get(node.text().unwrap_or_default()) {
            Ok(zone) => Some(Some(zone)),
            Err(_) => {
                let name = node.text().unwrap_or_default();
                reader.sink.error_with(
                    node.place,
                    format!("`{name}` is no time zone"),
                    "use an IANA name such as `Europe/Kyiv` or `UTC`",
                );
                None
            }
        },
    }
}

fn options_known(reader: &mut Reader<'_>, property: &Node, logical: &str) {
    let Some(options) = property.get("logicalTypeOptions") else { return };
    let mut known: Vec<&str> = match logical {
        "string" => vec!["minLength", "maxLength", "pattern", "format"],
        "integer" | "number" => [&BOUNDS[..], &["format", "multipleOf"]].concat(),
        "date" => [&BOUNDS[..], &["format"]].concat(),
        "timestamp" => [&BOUNDS[..], &["format", "timezone", "defaultTimezone"]].concat(),
        "object" => vec!["minProperties", "maxProperties", "required"],
        "array" => vec!["minItems", "maxItems", "uniqueItems"],
        _ => Vec::new(),
    };
    known.sort_unstable();
    for (key, _) in options.entries() {
        let refused = NOT_ENFORCED.iter().find(|(name, _)| *name == key.name);
        match refused.filter(|_| known.contains(&key.name.as_str())) {
            Some((name, instead)) => reader.sink.error_with(key.place, format!("`{name}` is not enforced"), *instead),
            None if known.contains(&key.name.as_str()) => {}
            None => {
                reader.sink.unknown(key.place, &format!("option of `{logical}`:"), &key.name, known.iter().copied())
            }
        }
    }
}

fn rules(reader: &mut Reader<'_>, property: &Node, kind: &Kind) -> Rules {
    let mut rules = Rules::default();
    let Some(options) = property.get("logicalTypeOptions") else { return rules };
    if matches!(kind, Kind::Json) {
        if let Some((key, _)) = options.entries().iter().find(|(k, _)| k.name != "format") {
            reader.sink.error_with(
                key.place,
                format!("`{}` is not enforced on a `json` column", key.name),
                "take it away, or list the fields",
            );
        }
        return rules;
    }
    for (name, exclusive, upper) in [
        ("minimum", false, false),
        ("exclusiveMinimum", true, false),
        ("maximum", false, true),
        ("exclusiveMaximum", true, true),
    ] {
        let Some(node) = options.get(name).filter(|_| has_bounds(kind)) else { continue };
        let Some(value) = bound(node, kind) else {
            let hint = bound_hint(kind);
            reader.sink.error_with(node.place, format!("`{name}` does not fit the column's type"), hint);
            continue;
        };
        tighten(if upper { &mut rules.maximum } else { &mut rules.minimum }, Bound { value, exclusive }, upper);
    }
    integer_format(reader, options, kind, &mut rules);
    rules.length_min = length(reader, options, ["minLength", "minItems"]);
    rules.length_max = length(reader, options, ["maxLength", "maxItems"]);
    let crossed = match (rules.minimum, rules.maximum) {
        (Some(min), Some(max)) => {
            above(min.value, max.value) || (min.value == max.value && (min.exclusive || max.exclusive))
        }
        _ => false,
    };
    if crossed || rules.length_min.zip(rules.length_max).is_some_and(|(min, max)| min > max) {
        reader.sink.error_with(
            options.place,
            "no value can satisfy these limits",
            "the least allowed value is above the greatest",
        );
    }
    rules.pattern = pattern(reader, options);
    rules
}

fn pattern(reader: &mut Reader<'_>, options: &Node) -> Option<Regex> {
    let node = options.get("pattern")?;
    let typed = node.text().unwrap_or_default();
    // alone first: `a)|(b` must not become valid by the group around it
    let regex = Regex::new(typed).and_then(|_| Regex::new(&format!("^(?:{typed})$")));
    if regex.is_err() {
        reader.sink.error_with(node.place, format!("`{typed}` is no pattern"), "patterns are those of the Rust crate `regex`: no look-around, no back-references; the whole text must match");
    }
    regex.ok()
}

fn length(reader: &mut Reader<'_>, options: &Node, names: [&str; 2]) -> Option<usize> {
    let (name, node) = names.iter().find_map(|n| options.get(n).map(|node| (n, node)))?;
    let length = node.scalar().and_then(Scalar::integer).and_then(|n| usize::try_from(n).ok());
    if length.is_none() {
        reader.sink.error(node.place, format!("`{name}` must be an integer, at least 0"));
    }
    length
}

/// The range of an integer's `format`.
fn integer_format(reader: &mut Reader<'_>, options: &Node, kind: &Kind, rules: &mut Rules) {
    const FORMATS: [&str; 10] = ["i8", "i16", "i32", "i64", "i128", "u8", "u16", "u32", "u64", "u128"];
    let Some(node) = options.get("format") else { return };
    let name = node.text().unwrap_or_default();
    let known: &[&str] = match kind {
        Kind::Integer => &FORMATS,
        Kind::Double | Kind::Float | Kind::Decimal { .. } => &["f32", "f64"],
        _ => return,
    };
    if !known.contains(&name) {
        reader.sink.unknown(node.place, "value of `format`:", name, known.iter().copied());
        return;
    }
    let (min, max) = match name {
        "i8" => (Some(i64::from(i8::MIN)), Some(i64::from(i8::MAX))),
        "i16" => (Some(i64::from(i16::MIN)), Some(i64::from(i16::MAX))),
        "i32" => (Some(i64::from(i32::MIN)), Some(i64::from(i32::MAX))),
        "u8" => (Some(0), Some(i64::from(u8::MAX))),
        "u16" => (Some(0), Some(i64::from(u16::MAX))),
        "u32" => (Some(0), Some(i64::from(u32::MAX))),
        "u64" | "u128" => (Some(0), None),
        _ => (None, None),
    };
    let bound = |v| Bound { value: BoundValue::Integer(v), exclusive: false };
    if let Some(min) = min {
        tighten(&mut rules.minimum, bound(min), false);
    }
    if let Some(max) = max {
        tighten(&mut rules.maximum, bound(max), true);
    }
}

/// Keeps the stricter of two bounds.
fn tighten(slot: &mut Option<Bound>, new: Bound, upper: bool) {
    let replace = slot.is_none_or(|old| {
        let stricter = if upper { above(old.value, new.value) } else { above(new.value, old.value) };
        stricter || (old.value == new.value && new.exclusive)
    });
    if replace {
        *slot = Some(new);
    }
}

fn above(a: BoundValue, b: BoundValue) -> bool {
    match (a, b) {
        (BoundValue::Integer(a), BoundValue::Integer(b)) => a > b,
        (BoundValue::Double(a), BoundValue::Double(b)) => a > b,
        (BoundValue::Unscaled(a), BoundValue::Unscaled(b)) => a > b,
        _ => false,
    }
}

fn bound(node: &Node, kind: &Kind) -> Option<BoundValue> {
    let scalar = node.scalar()?;
    match kind {
        Kind::Integer => scalar.integer().map(BoundValue::Integer),
        Kind::Double | Kind::Float => scalar.number().map(BoundValue::Double),
        Kind::Decimal { precision, scale } => unscaled(scalar, *precision, *scale).map(BoundValue::Unscaled),
        Kind::Date => {
            let date: jiff::civil::Date = scalar.text.parse().ok()?;
            let epoch = jiff::civil::date(1970, 1, 1);
            Some(BoundValue::Integer((date - epoch).get_days().into()))
        }
        Kind::Timestamp(_) => {
            let instant: jiff::Timestamp = scalar.text.parse().ok()?;
            Some(BoundValue::Integer(instant.as_microsecond()))
        }
        _ => None,
    }
}

const fn has_bounds(kind: &Kind) -> bool {
    use Kind::{Date, Decimal, Double, Float, Integer, Timestamp};
    matches!(kind, Integer | Double | Float | Decimal { .. } | Date | Timestamp(_))
}

fn bound_hint(kind: &Kind) -> &'static str {
    match kind {
        Kind::Integer => "write a whole number",
        Kind::Decimal { .. } => "write a number with no more digits than the decimal has",
        Kind::Date => "write a date such as `2015-01-01`",
        Kind::Timestamp(_) => "write an instant with offset such as `2015-01-01T00:00:00Z`",
        _ => "write a number",
    }
}

/// A number as unscaled digits at a scale; `None` if it does not fit exactly.
fn unscaled(scalar: &Scalar, precision: u8, scale: i8) -> Option<i128> {
    scalar.number()?;
    let (negative, digits) = match scalar.text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, scalar.text.strip_prefix('+').unwrap_or(&scalar.text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let scale = usize::try_from(scale).ok()?;
    if fraction.len() > scale {
        return None;
    }
    let value: i128 = format!("{whole}{fraction:0<scale$}").parse().ok()?;
    (value < 10_i128.pow(precision.into())).then_some(if negative { -value } else { value })
}

//! The type of one ODCS property; its row rules are read in [`super::odcs_rules`].
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

use super::contract::{Kind, Rules, TimestampForm};
use super::odcs::Reader;
use super::odcs_rules;
use super::time_format;
use super::yaml::{Node, Scalar};
use jiff::tz::TimeZone;

const LOGICAL_TYPES: [&str; 8] = ["string", "integer", "number", "boolean", "date", "timestamp", "object", "array"];

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
    odcs_rules::options_known(reader, property, name);
    let kind = kind(reader, property, name)?;
    let rules = odcs_rules::read(reader, property, &kind);
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

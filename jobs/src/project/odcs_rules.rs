//! The row rules of one ODCS property: bounds, lengths and patterns of `logicalTypeOptions`.
//!
//! Bounds are turned into the column's own unit here, exactly, so that the decoder compares like with
//! like. Of two bounds on one side the stricter counts. A rule that nothing would enforce is refused.

use super::contract::{Bound, BoundValue, Kind, Rules};
use super::odcs::Reader;
use super::yaml::{Node, Scalar};
use regex::Regex;

const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
/// Row rules of the standard that we do not enforce, and what to do instead.
const NOT_ENFORCED: [(&str, &str); 5] = [
    ("multipleOf", "use a decimal with the right scale, or a rule under `quality`"),
    ("uniqueItems", "use a rule under `quality`"),
    ("minProperties", "mark the properties as `required`"),
    ("maxProperties", "list the properties"),
    ("required", "write `required: true` at the properties themselves"),
];

/// Reports options that the type does not have, or that nothing would enforce.
pub(super) fn options_known(reader: &mut Reader<'_>, property: &Node, logical: &str) {
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

/// Reads the row rules of a property of this kind.
pub(super) fn read(reader: &mut Reader<'_>, property: &Node, kind: &Kind) -> Rules {
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

/// A value of the column's kind, in its own unit.
pub(super) fn bound(node: &Node, kind: &Kind) -> Option<BoundValue> {
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

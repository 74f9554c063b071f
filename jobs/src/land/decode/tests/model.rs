//! The decoder against a model over `serde_json::Value`: the same rules written a second time, and
//! against bytes that nobody meant to send.

use super::{CLOCK_MS, columns, decoder, push};
use crate::land::decode::Decoder;
use crate::project::contract::{Column, Kind, TimestampForm};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Date32Type, Decimal128Type, Float32Type, Float64Type, Int64Type, TimestampMicrosecondType};
use deltaworks_core::reason::Refusal;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn leaf_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-120i64..120).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2_000_000i64..2_000_000).prop_map(|v| Value::from(v as f64 / 100.0)),
        any::<f64>().prop_filter("finite", |v| v.is_finite()).prop_map(Value::from),
        "[ -~é\\n😀]{0,5}".prop_map(Value::from),
        "[A-Z]{2}([0-9]{4})?".prop_map(Value::from),
        (0i64..30_000).prop_map(|d| Value::from(format!("{}-{:02}-{:02}", 1980 + d % 40, d % 13, d % 32))),
        (0i64..CLOCK_MS).prop_map(Value::from),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    leaf_value().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("lat|place|x|q", inner, 0..3)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// A value that mostly fits the column.
fn fitting(name: &str) -> BoxedStrategy<Value> {
    let text = |s: &'static str| s.prop_map(Value::from).boxed();
    match name {
        "id" => text("[a-z\"\\\\é]{1,6}"),
        "at" => (0i64..CLOCK_MS * 1_000)
            .prop_map(|us| Value::from(jiff::Timestamp::from_microsecond(us).unwrap().to_string()))
            .boxed(),
        "n" => (-100i64..=100).prop_map(Value::from).boxed(),
        "speed" | "ratio" | "small" => (-999_999i64..=999_999).prop_map(|v| Value::from(v as f64 / 100.0)).boxed(),
        "ok" => any::<bool>().prop_map(Value::from).boxed(),
        "day" => text("20[0-9]{2}-0[1-9]-[01][1-9]"),
        "seen" => (40_000_000_000i64..CLOCK_MS).prop_map(Value::from).boxed(),
        "plate" => text("[A-Z]{2}([0-9]{4})?"),
        "code" => text("[é-ü]{2,3}"),
        "location" => (any::<i32>(), prop::option::of("[a-z]{0,3}"))
            .prop_map(|(lat, place)| json!({"lat": lat, "place": place}))
            .boxed(),
        "pair" => prop::collection::vec(prop::option::of(any::<i64>()), 2..4).prop_map(|v| json!(v)).boxed(),
        "tags" => prop::collection::vec("[a-z\\t]{0,3}", 0..3).prop_map(|v| json!(v)).boxed(),
        "stops" => prop::collection::vec(prop::option::of(any::<i64>().prop_map(|x| json!({"x": x}))), 0..3)
            .prop_map(|v| json!(v))
            .boxed(),
        _ => any_value().boxed(),
    }
}

fn message() -> impl Strategy<Value = Map<String, Value>> {
    let names: Vec<String> = columns().iter().map(|c| c.name.clone()).chain(["unknown".to_owned()]).collect();
    let fields: Vec<_> = names
        .into_iter()
        .map(|name| {
            let needed = matches!(name.as_str(), "id" | "at");
            let value = prop_oneof![
                40 => fitting(&name).prop_map(Some),
                if needed { 1 } else { 10 } => Just(None),
                2 => any_value().prop_map(Some),
            ];
            value.prop_map(move |v| (name.clone(), v))
        })
        .collect();
    fields.prop_shuffle().prop_map(|fields| fields.into_iter().filter_map(|(k, v)| Some((k, v?))).collect())
}

/// Whether the contract accepts the value, by rules written a second time over `Value`.
fn fits(column: &Column, value: Option<&Value>) -> bool {
    let Some(value) = value.filter(|v| !v.is_null()) else { return !column.required };
    let digits = |v: &Value| v.to_string();
    match (&column.kind, value) {
        (Kind::Json, _) => true,
        (Kind::String, Value::String(text)) => {
            let length = text.chars().count();
            column.rules.length_min.is_none_or(|m| length >= m)
                && column.rules.length_max.is_none_or(|m| length <= m)
                && column.rules.pattern.as_ref().is_none_or(|_| {
                    let (letters, rest) = text.split_at_checked(2).unwrap_or((text, ""));
                    letters.len() == 2
                        && letters.bytes().all(|b| b.is_ascii_uppercase())
                        && (rest.is_empty() || (rest.len() == 4 && rest.bytes().all(|b| b.is_ascii_digit())))
                })
        }
        (Kind::Integer, Value::Number(_)) => {
            value.as_i64().is_some_and(|v| column.name != "n" || (-100..=100).contains(&v))
        }
        (Kind::Double, Value::Number(_)) => true,
        (Kind::Float, Value::Number(n)) => {
            let wide = n.as_f64().unwrap();
            (wide as f32).is_finite() && ((wide as f32) != 0.0 || wide == 0.0)
        }
        (Kind::Decimal { .. }, Value::Number(n)) => {
            let hundredths = n.as_f64().unwrap() * 100.0;
            hundredths.abs() < 1e6 && (hundredths.round() / 100.0) == n.as_f64().unwrap()
        }
        (Kind::Boolean, Value::Bool(_)) => true,
        (Kind::Date, Value::String(text)) => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        (Kind::Timestamp(TimestampForm::EpochMillis), Value::Number(_)) => {
            value.as_i64().is_some_and(|ms| {
                let sane = -62_135_596_800_000..253_402_300_800_000;
                let near = |us: i128| (31_536_000_000_000..7_258_118_400_000_000).contains(&us);
                let ms = i128::from(ms);
                near(ms * 1_000) || (sane.contains(&ms) && !near(ms * 1_000_000) && !near(ms))
            }) && !digits(value).contains(['.', 'e'])
        }
        (Kind::Timestamp(_), Value::String(text)) => {
            text.len() >= 20 && text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
        }
        (Kind::Object(columns), Value::Object(map)) => columns.iter().all(|c| fits(c, map.get(&c.name))),
        (Kind::Array(item), Value::Array(items)) => {
            column.rules.length_min.is_none_or(|m| items.len() >= m)
                && column.rules.length_max.is_none_or(|m| items.len() <= m)
                && items.iter().all(|v| fits(item, Some(v)))
        }
        _ => false,
    }
}

/// One cell of an Arrow column as the JSON that a message would hold.
fn cell(column: &Column, array: &dyn Array, at: usize) -> Value {
    if array.is_null(at) {
        return Value::Null;
    }
    match &column.kind {
        Kind::Json => serde_json::from_str(array.as_string::<i32>().value(at)).unwrap(),
        Kind::String => array.as_string::<i32>().value(at).into(),
        Kind::Integer => array.as_primitive::<Int64Type>().value(at).into(),
        Kind::Double => array.as_primitive::<Float64Type>().value(at).into(),
        Kind::Float => array.as_primitive::<Float32Type>().value(at).into(),
        Kind::Decimal { .. } => (array.as_primitive::<Decimal128Type>().value(at) as f64 / 100.0).into(),
        Kind::Boolean => array.as_boolean().value(at).into(),
        Kind::Date => {
            let days = array.as_primitive::<Date32Type>().value(at);
            let day = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days)).unwrap();
            day.to_string().into()
        }
        Kind::Timestamp(form) => {
            let us = array.as_primitive::<TimestampMicrosecondType>().value(at);
            match form {
                TimestampForm::EpochMillis => (us / 1_000).into(),
                _ => jiff::Timestamp::from_microsecond(us).unwrap().to_string().into(),
            }
        }
        Kind::Object(columns) => {
            let inner = array.as_struct().columns();
            columns.iter().zip(inner).map(|(c, a)| (c.name.clone(), cell(c, a, at))).collect::<Map<_, _>>().into()
        }
        Kind::Array(item) => {
            let items = array.as_list::<i32>().value(at);
            (0..items.len()).map(|i| cell(item, &items, i)).collect::<Vec<_>>().into()
        }
    }
}

/// What a column should hold of a message's value: absent is null, unknown fields are gone.
fn wanted(column: &Column, value: Option<&Value>) -> Value {
    match (&column.kind, value.unwrap_or(&Value::Null)) {
        (_, Value::Null) => Value::Null,
        // `Value` reads floats with a last digit of its own, so it must read both sides
        (Kind::Json, value) => serde_json::from_str(&value.to_string()).unwrap(),
        (Kind::Double, Value::Number(n)) => n.as_f64().unwrap().into(),
        (Kind::Decimal { .. }, Value::Number(n)) => (n.as_f64().unwrap() + 0.0).into(),
        (Kind::Float, Value::Number(n)) => n.to_string().parse::<f32>().unwrap().into(),
        (Kind::Object(columns), Value::Object(map)) => {
            columns.iter().map(|c| (c.name.clone(), wanted(c, map.get(&c.name)))).collect::<Map<_, _>>().into()
        }
        (Kind::Array(item), Value::Array(items)) => {
            items.iter().map(|v| wanted(item, Some(v))).collect::<Vec<_>>().into()
        }
        (_, other) => other.clone(),
    }
}

fn decode_all(payloads: &[Vec<u8>]) -> (RecordBatch, Vec<Option<Refusal>>) {
    let mut decoder = decoder();
    let refusals = payloads.iter().map(|p| push(&mut decoder, p).err()).collect();
    (decoder.finish().unwrap(), refusals)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_model(messages in prop::collection::vec(message(), 1..12), pretty in any::<bool>()) {
        let columns = columns();
        let mut decoder = decoder();
        let mut good = Vec::new();
        for message in &messages {
            let text = if pretty { serde_json::to_string_pretty(message) } else { serde_json::to_string(message) }.unwrap();
            let expected = columns.iter().all(|c| fits(c, message.get(&c.name)));
            let got = push(&mut decoder, &text);
            prop_assert_eq!(got.is_ok(), expected, "{} {:?}", text, got);
            good.extend(expected.then_some(message));
        }
        let batch = decoder.finish().unwrap();
        prop_assert_eq!(batch.num_rows(), good.len());
        for (at, message) in good.into_iter().enumerate() {
            for (column, array) in columns.iter().zip(batch.columns()) {
                prop_assert_eq!(cell(column, array, at), wanted(column, message.get(&column.name)), "{}", column.name);
            }
        }
    }

    #[test]
    fn bad_neighbours_leave_no_trace(messages in prop::collection::vec(message(), 1..12), cuts in prop::collection::vec(any::<prop::sample::Index>(), 12)) {
        let mut payloads = Vec::new();
        for (message, cut) in messages.iter().zip(cuts) {
            let text = serde_json::to_vec(message).unwrap();
            payloads.push(text[..cut.index(text.len())].to_vec());
            payloads.push(text);
        }
        let (mixed, refusals) = decode_all(&payloads);
        let alone: Vec<Vec<u8>> =
            payloads.iter().zip(&refusals).filter(|(_, r)| r.is_none()).map(|(p, _)| p.clone()).collect();
        prop_assert_eq!(mixed.num_rows(), alone.len());
        prop_assert_eq!(mixed, decode_all(&alone).0);
    }

    #[test]
    fn mutations_are_taken_or_refused(message in message(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..4)) {
        let mut bytes = serde_json::to_vec(&message).unwrap();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let mut decoder = decoder();
        if push(&mut decoder, &bytes).is_ok() {
            // ignored fields may hold what `Value` cannot: numbers beyond f64, half surrogates
            let seen = serde_json::from_slice::<Value>(&bytes);
            let known = seen.as_ref().err().map(ToString::to_string).unwrap_or_default();
            prop_assert!(seen.is_ok() || known.contains("out of range") || known.contains("surrogate") || known.contains("hex escape"), "{}", known);
            prop_assert!(std::str::from_utf8(&bytes).is_ok());
        }
        prop_assert_eq!(decoder.finish().unwrap().num_rows() <= 1, true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..60), braces in any::<bool>()) {
        let mut bytes = bytes;
        if braces {
            bytes.insert(0, b'{');
            bytes.push(b'}');
        }
        prop_assert!(push(&mut decoder(), bytes).is_err());
    }
}

//! Whether a message that broke its contract is about a person, as far as it can be read.
//!
//! | the message | is about the person iff |
//! |---|---|
//! | its column comes from the message key or a header | that is the value, byte for byte |
//! | the payload is JSON and has the column's field | the field is the value, as a text or a number |
//! | anything else | the payload has the value as a whole word |
//!
//! So one too many may go where nothing can be decoded. What is not found: a value that is escaped, encoded or
//! compressed in a payload that is no JSON, and a person that is in the message under another key.

use super::key::Key;
use crate::batch::texts;
use crate::error::{Class, Error, Result, Stage};
use crate::project::contract::Source;
use arrow::array::{Array, AsArray, BinaryArray, BooleanArray, RecordBatch};
use memchr::memmem;
use serde_json::Value;

/// The columns that are looked at.
pub(super) const COLUMNS: [&str; 3] = ["key", "payload", "headers"];

/// Which rejects are about the person; no nulls.
///
/// # Errors
/// The rows are none of a rejects table.
pub(super) fn is_in(key: &Key, batch: &RecordBatch) -> Result<BooleanArray> {
    let (keys, payloads) = (binary(batch, "key")?, binary(batch, "payload")?);
    let headers = texts(batch, "headers")?;
    let find = memmem::Finder::new(key.text.as_bytes());
    let rows = (0..batch.num_rows()).map(|row| {
        let of = |column: &BinaryArray| column.is_valid(row).then(|| column.value(row).to_vec());
        let about = match &key.source {
            Source::Key => of(keys).is_some_and(|bytes| bytes == key.text.as_bytes()),
            Source::Header(name) => headers.is_valid(row) && has_header(headers.value(row), name, &key.text),
            _ => of(payloads).is_some_and(|payload| is_about(key, &find, &payload)),
        };
        Some(about)
    });
    Ok(rows.collect())
}

fn binary<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b BinaryArray> {
    let column = batch.column_by_name(name).and_then(|column| column.as_binary_opt::<i32>());
    column.ok_or_else(|| Error::new(Stage::Upkeep, Class::Internal, format!("rejects have no column `{name}`")))
}

fn is_about(key: &Key, find: &memmem::Finder<'_>, payload: &[u8]) -> bool {
    let json = serde_json::from_slice::<Value>(payload).ok();
    let field = json.as_ref().and_then(|json| key.path.iter().try_fold(json, |node, name| node.get(name)));
    match field {
        Some(Value::String(text)) => *text == key.text,
        Some(Value::Number(number)) => number.to_string() == key.text,
        _ => has_word(find, payload),
    }
}

/// `headers` is a JSON array of `[name, value]` pairs.
fn has_header(headers: &str, name: &str, value: &str) -> bool {
    let pairs = serde_json::from_str::<Vec<(String, Value)>>(headers).unwrap_or_default();
    pairs.iter().any(|(n, v)| n == name && v.as_str() == Some(value))
}

/// Whether the value is there, and no letter or digit before or after it.
fn has_word(find: &memmem::Finder<'_>, payload: &[u8]) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii());
    find.find_iter(payload).any(|at| {
        let before = at.checked_sub(1).and_then(|at| payload.get(at));
        !is_part(before) && !is_part(payload.get(at + find.needle().len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::tests::kit::Kit;
    use rstest::rstest;

    #[rstest]
    #[case::field(r#"{"key":"ann","at":"never"}"#, true)]
    #[case::other(r#"{"key":"bob","note":"ann"}"#, false)]
    #[case::field_is_missing(r#"{"note":"ann"}"#, true)]
    #[case::field_is_no_text(r#"{"key":["ann"]}"#, true)]
    #[case::broken_json(r#"{"key":"ann","#, true)]
    #[case::part_of_a_word(r#"{"key":"joann"#, false)]
    #[case::part_of_a_word_after(r#"{"key":"anna"#, false)]
    #[case::beside_other_letters("annü", false)]
    #[case::bare("ann", true)]
    #[case::empty("", false)]
    fn payloads(#[case] payload: &str, #[case] expected: bool) {
        let key = Key::new(Kit::new(&[]).pipeline(), "key=ann").unwrap();
        assert_eq!(is_about(&key, &memmem::Finder::new("ann"), payload.as_bytes()), expected);
    }

    #[test]
    fn a_number_may_be_spelled_as_a_text() {
        let key = Key::new(Kit::new(&[]).pipeline(), "value=42").unwrap();
        let find = memmem::Finder::new("42");
        for (payload, expected) in [(r#"{"value":42}"#, true), (r#"{"value":"42"}"#, true), (r#"{"value":421}"#, false)]
        {
            assert_eq!(is_about(&key, &find, payload.as_bytes()), expected, "{payload}");
        }
    }

    #[test]
    fn headers_are_found_by_name() {
        let headers = r#"[["who","ann"],["trace","x"],["none",null]]"#;
        assert!(has_header(headers, "who", "ann"));
        assert!(!has_header(headers, "trace", "ann") && !has_header("", "who", "ann"));
    }
}

//! The short way through an object: most messages of a topic are written by one program, with the
//! same keys in the same order, without escapes.
//!
//! It takes only what is surely right and gives everything else back, so that [`super::object`]'s way,
//! which is serde_json's, judges it from the start. Invariant: F1 what is taken here gets the same
//! slots there.

use super::object::{Keys, NONE, Slot};
use serde_json::value::RawValue;

/// Reads `text` into one slot per key; says whether a value is an object or an array. `None` where the
/// long way is needed: the slots are then filled in part.
pub(super) fn read(text: &str, keys: &mut Keys, slots: &mut [Slot]) -> Option<bool> {
    let bytes = text.as_bytes();
    if !is_plain(bytes) || !keys.unescaped() || u32::try_from(bytes.len()).is_err() {
        return None;
    }
    let mut nested = false;
    let mut before = 0;
    let mut at = after(bytes, 0, b'{')?;
    loop {
        let key_start = after(bytes, at, b'"')?;
        let (key, key_end) = key(text, key_start, keys, before)?;
        before = key as usize + 1;
        let start = skip_space(bytes, after(bytes, key_end, b':')?);
        let end = match bytes.get(start)? {
            b'"' => start + 2 + memchr::memchr(b'"', &bytes[start + 1..])?,
            b'-' | b'0'..=b'9' => number(bytes, start)?,
            b'{' | b'[' => {
                nested = true;
                start + token(&text[start..])?.len()
            }
            _ => start + literal(&bytes[start..])?.len(),
        };
        let slot = slots.get_mut(key as usize).filter(|slot| slot.is_absent())?;
        *slot = Slot::new(start as u32, end as u32);
        match bytes.get(end)? {
            b',' => at = skip_space(bytes, end + 1),
            b'}' if end + 1 == bytes.len() => return Some(nested),
            _ => return None,
        }
    }
}

/// Whether nothing has to be unescaped or refused within strings.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    // without a way out, so that it is done for many bytes at once
    !bytes.iter().fold(false, |found, byte| found | (*byte < 0x20) | (*byte == b'\\'))
}

#[inline]
fn after(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    (*bytes.get(at)? == byte).then_some(at + 1)
}

/// Python's `json.dumps` writes a space after each colon and comma.
#[inline]
fn skip_space(bytes: &[u8], at: usize) -> usize {
    at + usize::from(bytes.get(at) == Some(&b' '))
}

/// The number of the key that begins at `start`, and where its closing quote ends.
#[inline]
fn key(text: &str, start: usize, keys: &mut Keys, before: usize) -> Option<(u32, usize)> {
    let rest = &text.as_bytes()[start..];
    if let Some((guess, name)) = keys.guess(before)
        && rest.get(name.len()) == Some(&b'"')
        && rest.starts_with(name.as_bytes())
    {
        return Some((guess, start + name.len() + 1));
    }
    let len = memchr::memchr(b'"', rest)?;
    let found = keys.find(before, &text[start..start + len]);
    (found != NONE).then_some((found, start + len + 1))
}

/// Where the JSON number ends that begins at `at`.
#[inline]
fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = |at: usize| {
        let count = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        (count > 0).then_some(at + count)
    };
    let whole = at + usize::from(bytes[at] == b'-');
    let mut end = digits(whole)?;
    if bytes[whole] == b'0' && end > whole + 1 {
        return None;
    }
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1)?;
    }
    // an exponent is rare: the long way
    (!matches!(bytes.get(end), Some(b'e' | b'E'))).then_some(end)
}

fn literal(rest: &[u8]) -> Option<&'static [u8]> {
    [&b"null"[..], b"true", b"false"].into_iter().find(|word| rest.starts_with(word))
}

/// The first JSON value of `rest`.
#[inline(never)]
fn token(rest: &str) -> Option<&str> {
    let value: &RawValue = serde::Deserialize::deserialize(&mut serde_json::Deserializer::from_str(rest)).ok()?;
    Some(value.get())
}

#[cfg(test)]
mod tests {
    use super::super::object::{self, Unknown};
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    /// The fields' texts by the short and by the long way; `None` where the way is refused.
    fn both(text: &str) -> [Option<Vec<Option<String>>>; 2] {
        let texts = |slots: &[Slot]| slots.iter().map(|s| s.of(text).map(str::to_owned)).collect();
        let mut slots = Vec::new();
        let mut keys = Keys::new(["a", "b", "long name"]);
        object::room(&mut slots, &keys);
        let short = read(text, &mut keys, &mut slots).map(|_| texts(&slots));
        let found = object::read_long(text, &mut keys, &mut slots, &mut Unknown::default(), None);
        let clean = found.ok().flatten().filter(|found| found.duplicate.is_none() && found.extra.is_none());
        [short, clean.map(|_| texts(&slots))]
    }

    #[rstest]
    #[case(r#"{"a":1}"#)]
    #[case(r#"{"a": -0.5, "b": "x", "long name": null}"#)]
    #[case(r#"{"long name":[{"x":"y"}],"b":{},"a":false}"#)]
    #[case(r#"{"b":"ü","a":""}"#)]
    fn usual_messages_go_the_short_way(#[case] text: &str) {
        let [short, long] = both(text);
        assert!(short.is_some());
        assert_eq!(short, long);
    }

    #[rstest]
    #[case("{}")]
    #[case(r#"{"a":1} "#)]
    #[case(r#"{"a":1}{"a":2}"#)]
    #[case(r#"{"a":1,"a":2}"#)]
    #[case(r#"{"a":01}"#)]
    #[case(r#"{"a":1.}"#)]
    #[case(r#"{"a":-}"#)]
    #[case(r#"{"a":nul}"#)]
    #[case(r#"{"a":nulls}"#)]
    #[case(r#"{"a":1e5}"#)]
    #[case(r#"{"a":"x\n"}"#)]
    #[case("{\"a\":\"x\n\"}")]
    #[case(r#"{"a":"x"#)]
    #[case(r#"{"a":[1}"#)]
    #[case(r#"{"a":1,}"#)]
    #[case(r#"{"x":1}"#)]
    #[case(r#"{"a" :1}"#)]
    fn everything_else_goes_the_long_way(#[case] text: &str) {
        assert_eq!(both(text)[0], None);
    }

    #[test]
    fn names_that_json_escapes_go_the_long_way() {
        let mut keys = Keys::new(["a\"b"]);
        let mut slots = Vec::new();
        object::room(&mut slots, &keys);
        assert_eq!(read(r#"{"a"b":1}"#, &mut keys, &mut slots), None);
    }

    /// Pieces of JSON, in good order and in bad.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            " ",
            "\"",
            "\"a\":",
            "\"b\": ",
            "\"long name\":",
            "\"c\":",
            "1",
            "-",
            "0",
            ".5",
            "e1",
            "\"x\"",
            "\"\\u0061\":",
            "\"\\n\"",
            "null",
            "true",
            "false",
            "\n",
            "\u{1}",
            "ü",
            "{\"a\":1}",
            "[1,2]",
        ]);
        let field = (prop::sample::select(vec!["a", "b", "long name"]), piece.clone());
        let object = prop::collection::vec(field, 1..4).prop_map(|fields| {
            let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", fields.join(", "))
        });
        prop_oneof![object, prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("{{{}", pieces.concat()))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn what_the_short_way_takes_the_long_way_reads_the_same(text in text()) {
            let [short, long] = both(&text);
            if short.is_some() {
                prop_assert_eq!(short, long);
            }
        }
    }
}

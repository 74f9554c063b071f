//! One record of a CSV file, cut into its fields: RFC 4180 with any delimiter.
//!
//! Strict where a guess would move fields: after the quote that ends a field comes a delimiter or the end of the line.

use std::borrow::Cow;
use std::ops::Range;

/// One field of a record, in the record's bytes; without the quotes around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) range: Range<usize>,
    pub(super) quoted: bool,
}

/// What the bytes from the start of a record on are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// A record of so many bytes, and so many with its end.
    Record { length: usize, passed: usize },
    /// Not yet clear.
    More,
    /// No record.
    Broken(&'static str),
}

/// What stands between two quotes, or just stands there.
pub(super) fn unquoted(text: &str, quoted: bool) -> Cow<'_, str> {
    if quoted && text.contains('"') { Cow::Owned(text.replace("\"\"", "\"")) } else { Cow::Borrowed(text) }
}

/// Cuts the record at the start of `bytes` into `fields`; `ended` says that nothing follows them.
pub(super) fn scan(bytes: &[u8], delimiter: u8, ended: bool, fields: &mut Vec<Field>) -> Scan {
    fields.clear();
    let mut at = 0;
    loop {
        let quoted = bytes.get(at) == Some(&b'"');
        let (range, next) = if quoted {
            match closing_quote(&bytes[at + 1..]) {
                Some(length) => (at + 1..at + 1 + length, at + length + 2),
                None if ended => return Scan::Broken("a quote is opened and not closed"),
                None => return Scan::More,
            }
        } else {
            let length = memchr::memchr2(delimiter, b'\n', &bytes[at..]);
            match length {
                None if !ended => return Scan::More,
                length => {
                    let end = length.map_or(bytes.len(), |length| at + length);
                    (at..end, end)
                }
            }
        };
        let (mut range, next) = (range, next);
        let end = match &bytes[next..] {
            [b'\n', ..] => Some(1),
            [b'\r', b'\n', ..] => Some(2),
            [] if ended => Some(0),
            [b'\r'] if ended => Some(1),
            [] | [b'\r'] => return Scan::More,
            [byte, ..] if *byte == delimiter => None,
            _ => return Scan::Broken("something follows the quote at the end of a field"),
        };
        if end.is_some() && !quoted && bytes[range.clone()].ends_with(b"\r") {
            range.end -= 1;
        }
        let length = if quoted { next } else { range.end };
        fields.push(Field { range, quoted });
        match end {
            Some(end) => return Scan::Record { length, passed: next + end },
            None => at = next + 1,
        }
    }
}

/// How far it is to the quote that closes a field.
fn closing_quote(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr(b'"', bytes.get(at..)?)?;
        if bytes.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn cut(text: &str, ended: bool) -> Result<(Vec<String>, usize), Scan> {
        let mut fields = Vec::new();
        match scan(text.as_bytes(), b',', ended, &mut fields) {
            Scan::Record { passed, .. } => {
                let texts = fields.iter().map(|f| unquoted(&text[f.range.clone()], f.quoted).into_owned());
                Ok((texts.collect(), passed))
            }
            other => Err(other),
        }
    }

    #[rstest]
    #[case("a,b\nc", &["a", "b"], 4)]
    #[case("a,b\r\nc", &["a", "b"], 5)]
    #[case("a,\"b\nx\"\r\n", &["a", "b\nx"], 9)]
    #[case("\"a\"\"b\",\"\",\n", &["a\"b", "", ""], 11)]
    #[case("5\" pipe,x\n", &["5\" pipe", "x"], 10)]
    #[case("\n", &[""], 1)]
    #[case("a\rb,c\n", &["a\rb", "c"], 6)]
    fn records(#[case] text: &str, #[case] fields: &[&str], #[case] passed: usize) {
        let (found, end) = cut(text, false).unwrap();
        assert_eq!((found.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), end), (fields, passed));
    }

    #[rstest]
    #[case("a,\"b\"x\n")]
    #[case("\"a\"\"")]
    #[case("\"a\nb\n")]
    fn no_records(#[case] text: &str) {
        assert!(matches!(cut(text, true), Err(Scan::Broken(_))));
    }

    #[rstest]
    #[case("a,b")]
    #[case("a,\"b")]
    #[case("a,\"b\"")]
    #[case("a,\"b\"\r")]
    fn what_follows_decides(#[case] text: &str) {
        assert_eq!(cut(text, false), Err(Scan::More));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(rows in prop::collection::vec(prop::collection::vec("[a,\"\n\r ü]{0,6}", 2), 0..6)) {
            let quote = |text: &String| format!("\"{}\"", text.replace('"', "\"\""));
            let text: String = rows.iter().map(|row| row.iter().map(quote).collect::<Vec<_>>().join(",") + "\r\n").collect();
            let mut rest = text.as_str();
            for row in &rows {
                let (found, passed) = cut(rest, false).unwrap();
                prop_assert_eq!(&found, row);
                rest = &rest[passed..];
            }
            prop_assert_eq!(rest, "");
        }
    }
}

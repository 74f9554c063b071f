//! One JSON object, cut into the texts of the fields that the contract knows.
//!
//! Checks the grammar of the whole object, inner values included, without recursion, and finds
//! repeated and unknown keys. What a field's text means is [`super::node`]'s business.
//!
//! Keys are guessed: after a key comes the one that came after it in the last message. A wrong
//! guess costs a hash lookup. Most objects need not come this way at all: see [`super::flat`].

use super::flat;
use hashbrown::{HashMap, HashSet};
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use xxhash_rust::xxh3::xxh3_128;

/// The number of a key that the contract does not know.
pub(super) const NONE: u32 = u32::MAX;
/// Up to this many unknown keys are compared one by one; more go into a set, so that an object of
/// a million unknown keys does not take a million squared steps.
const LINEAR_MAX: usize = 32;

/// The keys that the contract knows in one object, in its order.
#[derive(Debug)]
pub(super) struct Keys {
    names: Vec<Box<str>>,
    index: HashMap<Box<str>, u32>,
    /// The key that last came after each one; the first entry is for the object's start.
    next: Vec<u32>,
    /// Whether every name stands in JSON as it is here.
    unescaped: bool,
}

/// Where a field's JSON text lies in the text of its object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    start: u32,
    end: u32,
}

impl Slot {
    const ABSENT: Self = Self { start: NONE, end: NONE };

    pub(super) const fn new(start: u32, end: u32) -> Self {
        Self { start, end }
    }

    pub(super) const fn is_absent(self) -> bool {
        self.start == NONE
    }

    /// The field's text, or `None` if the object does not have it.
    pub(super) fn of(self, text: &str) -> Option<&str> {
        text.get(self.start as usize..self.end as usize)
    }
}

/// Unknown keys of the object at hand, and their texts if they are kept. Reused between objects.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    hashes: Vec<u128>,
    many: HashSet<u128>,
    key: String,
}

/// What an object has beside its fields.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The first key that occurs twice.
    pub(super) duplicate: Option<String>,
    /// The first key that the contract does not know.
    pub(super) extra: Option<String>,
    /// The first kept field that holds half of a surrogate pair.
    pub(super) broken: Option<String>,
    /// Whether a value is an object or an array.
    pub(super) nested: bool,
}

impl Keys {
    pub(super) fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let names: Vec<Box<str>> = names.into_iter().map(Box::from).collect();
        let index = names.iter().zip(0..).map(|(name, i)| (name.clone(), i)).collect();
        let next = (0..names.len() as u32).chain([NONE]).collect();
        let unescaped = names.iter().all(|name| flat::is_plain(name.as_bytes()) && !name.contains('"'));
        Self { names, index, next, unescaped }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether every name stands in JSON as it is in the contract.
    pub(super) const fn unescaped(&self) -> bool {
        self.unescaped
    }

    /// The key that should come after another one; `before` is as in [`Self::find`].
    #[inline]
    pub(super) fn guess(&self, before: usize) -> Option<(u32, &str)> {
        let guess = self.next[before];
        self.names.get(guess as usize).map(|name| (guess, &**name))
    }

    /// The number of `key`, or `NONE`; `before` is the number of the known key before it, plus 1.
    #[inline]
    pub(super) fn find(&mut self, before: usize, key: &str) -> u32 {
        if let Some((guess, name)) = self.guess(before)
            && name == key
        {
            return guess;
        }
        let found = self.index.get(key).copied().unwrap_or(NONE);
        if found != NONE {
            self.next[before] = found;
        }
        found
    }
}

impl Unknown {
    /// Whether this key was already there.
    fn repeats(&mut self) -> bool {
        let hash = xxh3_128(self.key.as_bytes());
        if self.hashes.len() < LINEAR_MAX {
            let repeats = self.hashes.contains(&hash);
            self.hashes.push(hash);
            return repeats;
        }
        if self.many.is_empty() {
            self.many.extend(&self.hashes);
        }
        !self.many.insert(hash)
    }
}

/// Reads an object into one slot per key; `None` if something follows it.
///
/// `kept` collects unknown fields as the inside of a JSON object.
///
/// # Errors
/// The grammar is broken. The error's text holds nothing of the input.
pub(super) fn read(
    text: &str,
    keys: &mut Keys,
    slots: &mut [Slot],
    unknown: &mut Unknown,
    kept: Option<&mut Vec<u8>>,
) -> serde_json::Result<Option<Found>> {
    slots.fill(Slot::ABSENT);
    match flat::read(text, keys, slots) {
        Some(nested) => Ok(Some(Found { nested, ..Found::default() })),
        None => read_long(text, keys, slots, unknown, kept),
    }
}

/// As [`read`], whatever the object is like.
pub(super) fn read_long(
    text: &str,
    keys: &mut Keys,
    slots: &mut [Slot],
    unknown: &mut Unknown,
    kept: Option<&mut Vec<u8>>,
) -> serde_json::Result<Option<Found>> {
    slots.fill(Slot::ABSENT);
    unknown.hashes.clear();
    unknown.many.clear();
    let mut de = serde_json::Deserializer::from_str(text);
    let found = serde::Deserializer::deserialize_map(&mut de, ObjectVisitor { text, keys, slots, unknown, kept })?;
    Ok(de.end().is_ok().then_some(found))
}

/// Makes room for one slot per key at the end of `slots`.
pub(super) fn room(slots: &mut Vec<Slot>, keys: &Keys) -> usize {
    let base = slots.len();
    slots.resize(base + keys.len(), Slot::ABSENT);
    base
}

struct ObjectVisitor<'de, 'a> {
    text: &'de str,
    keys: &'a mut Keys,
    slots: &'a mut [Slot],
    unknown: &'a mut Unknown,
    kept: Option<&'a mut Vec<u8>>,
}

impl<'de> Visitor<'de> for ObjectVisitor<'de, '_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::default();
        let mut before = 0;
        while let Some(key) = map.next_key_seed(KeySeed { keys: self.keys, before, unknown: self.unknown })? {
            let value: &'de RawValue = map.next_value()?;
            let value = value.get();
            found.nested |= value.starts_with(['{', '[']);
            let Some(slot) = self.slots.get_mut(key as usize) else {
                self.unknown_field(value, &mut found);
                continue;
            };
            before = key as usize + 1;
            if !slot.is_absent() {
                found.duplicate.get_or_insert_with(|| self.keys.names[key as usize].to_string());
                continue;
            }
            let start = value.as_ptr() as usize - self.text.as_ptr() as usize;
            let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(start + value.len())) else {
                return Err(A::Error::custom("the text is larger than 4 GiB"));
            };
            *slot = Slot::new(start, end);
        }
        Ok(found)
    }
}

impl ObjectVisitor<'_, '_> {
    #[inline(never)]
    fn unknown_field(&mut self, value: &str, found: &mut Found) {
        let key = &self.unknown.key;
        if found.extra.is_none() {
            found.extra = Some(key.clone());
        }
        if let Some(kept) = self.kept.as_deref_mut() {
            if has_half_surrogate(value) && found.broken.is_none() {
                found.broken = Some(key.clone());
            }
            kept.push(if kept.is_empty() { b'{' } else { b',' });
            // writing to memory cannot fail
            let _ = serde_json::to_writer(&mut *kept, key);
            kept.push(b':');
            kept.extend_from_slice(value.as_bytes());
        }
        if self.unknown.repeats() && found.duplicate.is_none() {
            found.duplicate = Some(self.unknown.key.clone());
        }
    }
}

/// Finds a key's number; the text of an unknown one stays in `unknown.key`.
struct KeySeed<'a> {
    keys: &'a mut Keys,
    before: usize,
    unknown: &'a mut Unknown,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = u32;

    #[inline]
    fn deserialize<D: serde::Deserializer<'de>>(self, de: D) -> Result<u32, D::Error> {
        de.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    #[inline]
    fn visit_str<E>(self, key: &str) -> Result<u32, E> {
        let found = self.keys.find(self.before, key);
        if found == NONE {
            self.unknown.key.clear();
            self.unknown.key.push_str(key);
        }
        Ok(found)
    }
}

/// Whether a JSON text, of good grammar, holds an escape of half a surrogate pair: no Unicode text
/// can hold what it stands for.
pub(super) fn has_half_surrogate(text: &str) -> bool {
    let bytes = text.as_bytes();
    let unit = |at: usize| {
        let hex = bytes.get(at..at + 6).filter(|e| e.starts_with(b"\\u"))?;
        u32::from_str_radix(std::str::from_utf8(&hex[2..]).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(step) = memchr::memchr(b'\\', bytes.get(at..).unwrap_or_default()) {
        at += step;
        match unit(at) {
            Some(0xD800..0xDC00) if matches!(unit(at + 6), Some(0xDC00..0xE000)) => at += 12,
            Some(0xD800..0xE000) => return true,
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn cut(text: &str) -> serde_json::Result<(Vec<Option<String>>, Found, String)> {
        let mut keys = Keys::new(["a", "b", "c"]);
        let (mut slots, mut unknown, mut kept) = (Vec::new(), Unknown::default(), Vec::new());
        room(&mut slots, &keys);
        let found = read(text, &mut keys, &mut slots, &mut unknown, Some(&mut kept))?.unwrap();
        let texts = slots.iter().map(|s| s.of(text).map(str::to_owned)).collect();
        Ok((texts, found, String::from_utf8(kept).unwrap()))
    }

    #[test]
    fn fields_are_found_in_any_order_and_escaped_keys_too() {
        let (texts, found, kept) = cut(r#"{ "c" : [1, 2] ,"x":{"y": 1}, "\u0061":"q","\u00e9\n":null}"#).unwrap();
        assert_eq!(texts, [Some(r#""q""#.into()), None, Some("[1, 2]".into())]);
        assert_eq!(found.extra.as_deref(), Some("x"));
        assert_eq!(kept, r#"{"x":{"y": 1},"é\n":null"#);
        assert_eq!(found.duplicate, None);
    }

    #[rstest]
    #[case(r#"{"a":1,"a":1}"#, "a")]
    #[case(r#"{"a":1,"\u0061":1}"#, "a")]
    #[case(r#"{"x":1,"b":2,"x":1}"#, "x")]
    fn repeated_keys(#[case] text: &str, #[case] key: &str) {
        assert_eq!(cut(text).unwrap().1.duplicate.as_deref(), Some(key));
    }

    #[test]
    fn many_unknown_keys_take_linear_time() {
        let mut text: String = (0..200_000).map(|i| format!("\"k{i}\":0,")).collect();
        text.insert(0, '{');
        assert_eq!(cut(&format!("{text}\"z\":0}}")).unwrap().1.duplicate, None);
        assert_eq!(cut(&format!("{text}\"k7\":0}}")).unwrap().1.duplicate.as_deref(), Some("k7"));
    }

    #[rstest]
    #[case(r#""\ud83d\ude00""#, false)]
    #[case(r#""\ud83d""#, true)]
    #[case(r#""\ud83d\u0041""#, true)]
    #[case(r#""\ude00""#, true)]
    #[case(r#""\\ud83d""#, false)]
    #[case(r#"["\n\u00e9","\ud83dx"]"#, true)]
    fn half_surrogates(#[case] text: &str, #[case] half: bool) {
        assert_eq!(has_half_surrogate(text), half);
    }
}

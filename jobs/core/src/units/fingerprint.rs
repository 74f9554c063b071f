//! A short stable name for something long: a pin, a definition.
//!
//! 63 bits of xxh3, so that it also fits the version of a Delta `txn`, which may not be negative. Among
//! a million names, two are alike with a chance of 1 to 18 million. It is a format: stored in tables.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use xxhash_rust::xxh3::xxh3_64;

/// A hash of 63 bits, spelled as 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint(i64);

impl Fingerprint {
    /// The name of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self((xxh3_64(bytes) >> 1).cast_signed())
    }

    /// The name as the version of a `txn`, never negative.
    #[must_use]
    pub const fn txn(self) -> i64 {
        self.0
    }

    /// The name that a `txn` holds, if it can be one.
    #[must_use]
    pub const fn of_txn(version: i64) -> Option<Self> {
        if version < 0 { None } else { Some(Self(version)) }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text is not 16 lower-case hex digits of 63 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint: expected 16 lower-case hex digits, the first below 8")]
pub struct NotAFingerprint;

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        let is_hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| i64::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or(NotAFingerprint)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = NotAFingerprint;

    fn try_from(text: String) -> Result<Self, NotAFingerprint> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_format_is_as_it_was() {
        // half of the published xxh3_64 of nothing, 2d06800538d394c2
        assert_eq!(Fingerprint::of(b"").to_string(), "168340029c69ca61");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "16cd9ff42810a25", "16cd9ff42810a25cc", "16CD9FF42810A25C", "8000000000000000", "+6cd9ff42810a25c"]
        {
            assert_eq!(text.parse::<Fingerprint>(), Err(NotAFingerprint), "{text}");
        }
    }

    proptest! {
        #[test]
        fn survives_its_text_its_json_and_its_txn(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let name = Fingerprint::of(&bytes);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
            prop_assert_eq!(Fingerprint::of_txn(name.txn()), Some(name));
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), name);
        }
    }
}

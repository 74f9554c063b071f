//! What a commit says about itself, under the key `deltaworks` of Delta's `commitInfo`.
//!
//! Every commit carries its [`Identity`], so that a writer whose commit had an unknown outcome finds
//! out whether it landed. Commits of a raw table carry a [`RawCommit`] too: the ledger `ops.offsets`
//! is copied from it, and `prove` checks the live rows against it.
//!
//! Invariant I1: two attempts at the same flush carry the same identity, two flushes never do.

use crate::tally::Tally;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The key in `commitInfo`.
pub const KEY: &str = "deltaworks";

/// Who wrote a commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// One run of the process.
    pub run_id: String,
    /// Counts the flushes of that run, over all its tables.
    pub sequence: u64,
}

/// What a landing commit did to a raw table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawCommit {
    /// Who wrote it.
    #[serde(flatten)]
    pub identity: Identity,
    /// Pipeline.
    pub pipeline: String,
    /// Topic with its epoch.
    pub topic: String,
    /// One entry per partition of the flush.
    pub partitions: Vec<PartitionEntry>,
    /// Rows per event date (`2026-01-05`).
    pub dates: BTreeMap<String, DateEntry>,
}

/// What a landing commit did to one partition, and the progress it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionEntry {
    /// Partition number.
    pub partition: i32,
    /// Counts over the range of offsets.
    #[serde(flatten)]
    pub tally: Tally,
    /// Greatest believable event time seen, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontier_ms: Option<i64>,
    /// The instant up to which the partition was read, ms of event time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached_ms: Option<i64>,
    /// Kafka time of the message at `to` − 1, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_ms: Option<i64>,
}

/// What a commit to raw did, if it was no landing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Rows came below `next`, or out of files.
    Fill,
    /// Whole dates went, by the contract's retention.
    Retain,
    /// A person's rows went.
    Forget,
}

impl Operation {
    /// As commits and tables spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::Retain => "retain",
            Self::Forget => "forget",
        }
    }

    /// Whether rows went.
    #[must_use]
    pub const fn removes(self) -> bool {
        matches!(self, Self::Retain | Self::Forget)
    }
}

/// What a commit did to a raw table, if it was no landing: rows that came by a fill, or rows that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCommit {
    /// Who wrote it.
    #[serde(flatten)]
    pub identity: Identity,
    /// Pipeline.
    pub pipeline: String,
    /// What it did.
    pub operation: Operation,
    /// Number of the fill; in the `_fill` of each of its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<i64>,
    /// Why: `redrive`, `rewind`, `backfill <id>`, and what people say of a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How many rows came or went, by topic and partition.
    pub changed: Vec<ChangedPartition>,
    /// How many rows came or went, by event date (`2026-01-05`).
    pub dates: BTreeMap<String, DateEntry>,
}

/// Rows of one partition that came or went. Those of a file have its URL as topic, and partition −1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedPartition {
    /// Topic with its epoch.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Rows that the stream landed; a fill brings none of these.
    #[serde(default)]
    pub landed: u64,
    /// Rows of fills.
    #[serde(default)]
    pub filled: u64,
}

/// Rows of one event date in one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DateEntry {
    /// How many.
    pub rows: u64,
    /// Sum of the rows' checksums.
    pub checksum: Checksum,
}

/// An order-free 128-bit checksum: the wrapping sum of the rows' hashes. Spelled as 32 hex digits,
/// since JSON has no such numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Checksum(pub u128);

impl Checksum {
    /// The checksum of both sets of rows together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The checksum of what is left when the rows of `other` go.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Checksum {
    type Err = NotAChecksum;

    fn from_str(text: &str) -> Result<Self, NotAChecksum> {
        let hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or(NotAChecksum)
    }
}

/// A text is not 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a checksum has 32 lower-case hex digits")]
pub struct NotAChecksum;

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{Offset, OffsetRange};
    use crate::tally::Fate;
    use proptest::prelude::*;
    use serde_json::json;

    fn commit() -> RawCommit {
        let mut tally = Tally::at(Offset(5));
        tally.count(Offset(7), Fate::Landed).unwrap();
        tally.count(Offset(8), Fate::Rejected).unwrap();
        let entry = PartitionEntry { partition: 2, tally, frontier_ms: Some(-1), reached_ms: None, seen_ms: Some(9) };
        RawCommit {
            identity: Identity { run_id: "r1".into(), sequence: 3 },
            pipeline: "events".into(),
            topic: "events#1".into(),
            partitions: vec![entry],
            dates: BTreeMap::from([("2026-01-05".into(), DateEntry { rows: 1, checksum: Checksum(255) })]),
        }
    }

    #[test]
    fn the_written_form_is_fixed() {
        let want = json!({
            "run_id": "r1", "sequence": 3, "pipeline": "events", "topic": "events#1",
            "partitions": [{
                "partition": 2, "from": 5, "to": 9, "landed": 1, "rejected": 1, "skipped": 0,
                "gaps": [{"from": 5, "to": 7}], "frontier_ms": -1, "seen_ms": 9
            }],
            "dates": {"2026-01-05": {"rows": 1, "checksum": "000000000000000000000000000000ff"}}
        });
        assert_eq!(serde_json::to_value(commit()).unwrap(), want);
        let read: RawCommit = serde_json::from_value(want).unwrap();
        assert_eq!(read, commit());
        assert_eq!(read.partitions[0].tally.gaps, [OffsetRange::new(5, 7)]);
    }

    #[test]
    fn the_written_form_of_a_change_is_fixed() {
        let change = ChangeCommit {
            identity: Identity { run_id: "r1".into(), sequence: 3 },
            pipeline: "events".into(),
            operation: Operation::Fill,
            fill: Some(4),
            source: Some("redrive".into()),
            changed: vec![ChangedPartition { topic: "events#1".into(), partition: 2, landed: 0, filled: 7 }],
            dates: commit().dates,
        };
        let want = json!({
            "run_id": "r1", "sequence": 3, "pipeline": "events", "operation": "fill", "fill": 4, "source": "redrive",
            "changed": [{"topic": "events#1", "partition": 2, "landed": 0, "filled": 7}],
            "dates": {"2026-01-05": {"rows": 1, "checksum": "000000000000000000000000000000ff"}}
        });
        assert_eq!(serde_json::to_value(&change).unwrap(), want);
        assert_eq!(serde_json::from_value::<ChangeCommit>(want).unwrap(), change);
        for operation in [Operation::Fill, Operation::Retain, Operation::Forget] {
            assert_eq!(serde_json::to_value(operation).unwrap(), operation.as_str());
        }
    }

    #[test]
    fn an_identity_is_read_from_any_commit() {
        let identity: Identity = serde_json::from_value(serde_json::to_value(commit()).unwrap()).unwrap();
        assert_eq!(identity, commit().identity);
    }

    #[test]
    fn only_32_lower_case_digits_are_a_checksum() {
        for bad in ["", "ff", "0000000000000000000000000000000G", "+0000000000000000000000000000001"] {
            assert!(bad.parse::<Checksum>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_checksum_survives_its_spelling_and_knows_no_order(a: u128, b: u128, c: u128) {
            let (a, b, c) = (Checksum(a), Checksum(b), Checksum(c));
            prop_assert_eq!(a.to_string().parse::<Checksum>(), Ok(a));
            prop_assert_eq!(a.plus(b).plus(c), c.plus(a).plus(b));
            prop_assert_eq!(a.plus(b).minus(b), a);
        }
    }
}

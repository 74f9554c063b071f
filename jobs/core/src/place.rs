//! Where a message lies in Kafka: offsets, half-open ranges of them, and partitions.
//!
//! The one rule that everything else leans on lives in [`Offset::next_to_read`].

use serde::{Deserialize, Serialize};
use std::fmt;

/// A position in one partition's log, counted from 0 by the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Offset {
    /// The offset to read after the message at this one. Every other place asks here.
    #[must_use]
    pub const fn next_to_read(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Half-open range of offsets `[from, to)` of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset inside.
    pub from: Offset,
    /// First offset after.
    pub to: Offset,
}

impl OffsetRange {
    /// The range `[from, to)`.
    #[must_use]
    pub const fn new(from: i64, to: i64) -> Self {
        Self { from: Offset(from), to: Offset(to) }
    }

    /// How many offsets lie inside; 0 for an empty or inverted range.
    #[must_use]
    pub fn len(self) -> u64 {
        u64::try_from(self.to.0.saturating_sub(self.from.0)).unwrap_or(0)
    }

    /// Whether no offset lies inside.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.from, self.to)
    }
}

/// A place: the one message at (topic, partition, offset). The topic carries its epoch
/// (`orders`, `orders#1` after the topic was recreated).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Topic with its epoch.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: Offset,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

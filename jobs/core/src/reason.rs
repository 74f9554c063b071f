//! Why a message was refused: the reason codes that the `rejects` tables carry.
//!
//! A code is for grouping and alerting and never changes its meaning; field and detail are for the
//! person who mends the producer. A detail never holds the payload: it may be personal.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Reason code of a reject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The payload is not valid UTF-8.
    NotUtf8,
    /// The payload breaks the JSON grammar.
    NotJson,
    /// The payload is JSON, but not exactly one object.
    NotOneObject,
    /// A key occurs twice in one object.
    DuplicateKey,
    /// A required field is absent or null.
    MissingField,
    /// A value has another type than the contract says.
    WrongType,
    /// A value does not fit its type, or breaks minimum, maximum or a length rule.
    OutOfRange,
    /// A text does not match the contract's pattern.
    Pattern,
    /// The contract does not know the field, and extra fields are refused.
    ExtraField,
    /// The event time is ahead of the clock by more than `max_ahead`.
    EventTimeInFuture,
    /// The event time is before the configured minimum.
    EventTimeTooOld,
    /// Objects and arrays are nested deeper than the limit.
    TooDeep,
    /// The payload is larger than the limit.
    TooLarge,
    /// The message has a key and no payload.
    Tombstone,
}

impl Reason {
    /// Every reason, in the order of the judge's steps.
    pub const ALL: [Self; 14] = [
        Self::Tombstone,
        Self::TooLarge,
        Self::NotUtf8,
        Self::TooDeep,
        Self::NotJson,
        Self::NotOneObject,
        Self::DuplicateKey,
        Self::ExtraField,
        Self::MissingField,
        Self::WrongType,
        Self::OutOfRange,
        Self::Pattern,
        Self::EventTimeInFuture,
        Self::EventTimeTooOld,
    ];

    /// The code as tables and logs show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotOneObject => "not_one_object",
            Self::DuplicateKey => "duplicate_key",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::Pattern => "pattern",
            Self::ExtraField => "extra_field",
            Self::EventTimeInFuture => "event_time_in_future",
            Self::EventTimeTooOld => "event_time_too_old",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::Tombstone => "tombstone",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A message was refused: the code, where in the message, and what a person can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Dotted path of the field, if one is to blame.
    pub field: Option<String>,
    /// What was expected and what was found, without the value.
    pub detail: String,
}

impl Refusal {
    /// A refusal that blames no single field.
    pub fn of(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, field: None, detail: detail.into() }
    }

    /// A refusal that blames `field`.
    pub fn at(reason: Reason, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { reason, field: Some(field.into()), detail: detail.into() }
    }
}

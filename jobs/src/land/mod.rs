//! LAND: Kafka topics into raw and rejects tables, exactly once.
//!
//! ```text
//!            takeover: where does each partition go on?
//!               │
//!   broker ─> reader ─(chunks)─> worker ─(rows, rejects, tallies)─> committer ─> rejects, then raw
//!               ▲                  decode · stamp · encode               │
//!               └──────────────── committed / elsewhere ─────────────────┘
//! ```
//!
//! One pipeline is one reader thread, one worker per spare core, and one committer task. The reader
//! alone decides when a flush begins; the committer alone decides, by asking
//! [`deltaworks_core::commit_plan`], whether it may be committed. Nothing is ever retried blind.

// in flow order
pub mod options;

pub mod stream;

mod takeover;

mod reader;

mod worker;

pub mod decode;

pub(crate) mod judge;

mod repeat;

pub(crate) mod rows;

mod committer;
mod flush;

mod rejects;

pub mod tap;

// what the tables are like, and what is in them
mod last_ids;
pub mod schema;
pub(crate) mod tables;

// beside the flow: live figures, and verbs that only look or start over
pub mod inspect;
pub mod meter;
mod patience;
pub mod reset;

pub use options::{DataLoss, Start, StreamOptions};
pub use stream::{PipelineReport, StreamReport, stream, stream_on};

#[cfg(test)]
mod tests;

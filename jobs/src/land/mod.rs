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

pub mod decode;
pub mod schema;

pub mod inspect;
pub mod meter;
pub mod options;
pub mod reset;
pub mod stream;

mod committer;
mod last_ids;
mod reader;
mod rejects;
mod repeat;
mod rows;
mod tables;
mod takeover;
mod worker;

pub use options::{DataLoss, Start, StreamOptions};
pub use stream::{PipelineReport, StreamReport, stream, stream_on};

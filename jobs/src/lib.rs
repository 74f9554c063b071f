//! The stages of deltaworks, in flow order, and the edges they use.
//!
//! ```text
//!   project ─> produce ─> (topic) ─> land ─┬─> (raw, rejects) ─> batch ─> (batch) ─┬─> reconcile ─> (served)
//!                            │         │   └─> speed ─> (speed) ─────────────────────┘      │
//!   edges:                 kafka      lake                                            engine: query, second_engine: prove
//!   fill: rows below what land has reached, and rows of files, into the same tables
//!   quality: the contracts' rules over dates of raw
//!   prove: all of it, held against broker and ledger        upkeep: fewer files, no dead ones, short logs
//!   backfill: past units once more, by a plan that outlives the process
//!   lineage: what jobs read and wrote, told to others
//!   rejects: settled, by redrive (a fill) or by a person    offsets: moved by hand, back (a fill) or ahead
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop"))]

pub mod project;

pub mod produce;

pub mod land;

pub mod fill;

pub mod speed;

pub mod batch;

pub mod reconcile;

pub mod quality;

pub mod prove;

pub mod backfill;

pub mod upkeep;

pub mod rejects;

pub mod offsets;

pub mod online;

pub mod lineage;

pub mod engine;
pub mod kafka;
pub mod lake;
pub mod second_engine;

pub mod checksum;
pub mod clock;
pub mod error;
pub mod faults;

#[cfg(test)]
mod simulation;

pub use error::{Class, Error, Result, Stage};

/// The id of a new run: unique, and sorted by time.
#[must_use]
pub fn run_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

//! The decisions of deltaworks: facts in, verdicts out.
//!
//! This crate has no I/O, no async runtime, no query engine and no clock, so nothing in here can
//! wait, fail halfway or see a different time than its caller. `deltaworks-jobs` gathers the facts,
//! asks one function of this crate, and carries out the answer.
//!
//! ```text
//! place ─> event_time ─> tally ─> history ─> commit_plan ─> progress ─> (next run)
//!            reason ──────┘
//!
//! progress ─> windows ─> units ─> (compute) ─> balance ─> (publish)
//! progress ─> speed ─> (append)
//! backfill: what is left of a frozen plan
//! upkeep: what becomes of a table's files
//! units, speed ─> served ─> drift
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop"))]

pub mod backfill;
pub mod balance;
pub mod commit_info;
pub mod commit_plan;
pub mod drift;
pub mod event_time;
pub mod exact_sum;
pub mod exit;
pub mod history;
pub mod place;
pub mod progress;
pub mod proof;
pub mod reason;
pub mod select;
pub mod served;
pub mod speed;
pub mod tally;
pub mod units;
pub mod upkeep;
pub mod windows;

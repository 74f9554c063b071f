//! PROVE: what the tables say, held against what can be known of it without them.
//!
//! ```text
//!   ops.offsets, raw's log ─┐
//!   raw, rejects (all rows) ┼─> landed ─> offsets, rows, places ─┐
//!   broker (read again) ────┴─> broker ──────────────────────────┼─> report: proved, refuted, not proved
//!   batch, served ────────────> served ──────────────────────────┤
//!   raw ─> second engine ┬────> windows, balance ─────────────────┘
//!   batch, its pins ─────┘      (recount)
//! ```
//!
//! Nothing is written and nothing is mended. Every check says how much it compared; one that compared nothing
//! is red, and what is not checked is listed as not proved.

// in flow order
mod run;

mod landed;

mod broker;

mod served;

mod windows;

mod recount;

mod report;

#[cfg(test)]
mod tests;

pub use report::{Check, Verdict};
pub use run::{ProveOptions, ProveReport, prove, prove_on};

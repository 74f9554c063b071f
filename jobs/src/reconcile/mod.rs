//! RECONCILE: exact windows where batch has covered them, provisional ones elsewhere, in one table.
//!
//! ```text
//!   served ─┐
//!   speed  ─┼─> gather ─> plan each unit ─> drift ─> build its rows ─> compare-and-set ─> served.<aggregate>
//!   batch  ─┘                │ core::served  │ raw ─> drift.<aggregate>    │ provisional: states ─> windows
//! ```
//!
//! Snapshots are loaded in the order served, speed, batch. Served first, so that neither of the others can be older
//! than what it holds. Batch last: speed drops the states of windows that batch has covered, so windows whose
//! states were dropped are covered in a batch snapshot that was loaded later.
//!
//! Reconcilers need not know each other: a unit's rows and its entries change in one commit, made on the snapshot
//! that the entries were read from. In-stream and by cron it is the same code.

// in flow order
mod live;
mod run;

mod gather;

mod provisional;

mod portions;

mod unit;

mod drift;

mod rows;

mod table;

pub use drift::{Event, ExplainOptions, Explained, ShowOptions, StepValues, drift_name, explain, show};
pub use live::{Live, LiveReport, LiveStatus};
pub use provisional::SpeedUse;
pub use run::{DriftCounts, ReconcileOptions, ReconcileReport, UnitCounts, WindowCounts, plan_only, reconcile, run_on};
pub use table::served_name;

#[cfg(test)]
pub(crate) mod tests;

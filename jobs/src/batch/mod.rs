//! BATCH: pinned raw rows into exact windows, one unit replaced at a time.
//!
//! ```text
//!   raw ─> plan (which units, and why) ─> compute ──────────────────────> check ─> publish ─> batch.<aggregate>
//!          │ live rows per date             │ date by date: ids ─> dedup              │
//!          │ ledger, pins                   │ values ─> states ─> windows             │ again, where another
//!          └─<──────────────────────────────┴─────────────────────────────────────────┘ run was first
//!                         ledger: pins before the units that name them, the run at its end
//! ```
//!
//! A run reads the files of a date once for their ids and once for their values, whatever the number of
//! aggregates and granularities. Which units to compute is decided by [`deltaworks_core::units`], whether
//! they may be published by [`deltaworks_core::balance`]. A trial goes the same way and prints instead of publishing.

// in flow order
mod chosen;
mod round;
mod run;
mod try_out;

mod select;

mod input;
mod plan;
mod redefined;

mod compute;

mod scan;

mod ids;

mod dedup;

mod values;

mod seconds;

mod pending;

mod carried;

mod check;

mod publish;

mod ledger;

// beside the flow
mod columns;
pub mod meter;

pub use input::Input;
pub use plan::{PlannedUnit, Summary};
pub use run::{BatchOptions, BatchReport, UnitCounts, batch, batch_on, plan_only};
pub use try_out::{Tried, TryOptions, try_out};

// how others read raw, what batch has published, and how others publish
pub(crate) use chosen::Chosen;
pub(crate) use columns::{conform, event_times, named, primitive, texts};
pub(crate) use ids::{DateIds, IdScan, contained};
pub(crate) use input::removed_from;
pub(crate) use ledger::{JobRow, Kept, append, kept, ops_table, pins, pins_table, pins_there, record_job};
pub(crate) use plan::{Planned, guard, plan_units, shown, summary, units_of};
pub(crate) use publish::{
    Run, batch_name, batch_table, definition_id, judge_grain, ledger_of, live_by_partition, partition_of, rows_of,
    same_rows,
};
pub(crate) use round::{Context, Permit};
pub(crate) use run::DEDUP_SHARE;
pub(crate) use scan::{DateFiles, Numbered, NumberedBatches, broke_down, in_background};
pub(crate) use select::{Engine, Job, jobs_of, judge_granularities, select};
pub(crate) use values::{send, stream};

#[cfg(test)]
pub(crate) mod tests;

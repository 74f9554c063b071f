//! BACKFILL: past units, or past rows, once more, by a plan that outlives the process that made it.
//!
//! ```text
//!   create ─> plan (judged whole) ─> freeze ─> ops.backfills ─┐
//!                                              │  ▲           ├─> resume ─> what is left ─┬─> recompute ─> batch's rounds
//!                 status, list, cancel <───────┘  └ finished ─┘                           └─> files ─> fill
//! ```
//!
//! The plan is frozen with what the lake said when it was made. How far it is done is never written down: what is left is
//! what the lake has not moved past since, so a backfill that is killed repeats nothing, and any machine can go on. What is
//! left, and in which order, is decided by [`deltaworks_core::backfill`].

// in flow order
mod freeze;

mod state;

mod resume;

mod recompute;

mod fills;

pub mod files;

mod status;

// beside the flow
mod rows;

pub use fills::{FilesOptions, Listing, create_files, plan_files};
pub use freeze::{Plan, RecomputeOptions, Spec, create, create_on, plan, plan_on};
pub use resume::{Figures, Report, ResumeOptions, UnitFigures, find, resume, resume_on, what_is_left, what_is_left_on};
pub use state::Backfill;
pub use status::{Cancelled, Line, cancel, cancel_on, list, list_on, status, status_on};

#[cfg(test)]
mod tests;

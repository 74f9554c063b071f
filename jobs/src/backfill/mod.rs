//! BACKFILL: past units, or past rows, once more, by a plan that outlives the process that made it.
//!
//! ```text
//!   create ─> plan (judged whole) ─> freeze ─> ops.backfills ─┐
//!                                              │  ▲           ├─> resume ─> what is left ─┬─> recompute ─> batch's rounds
//!                 status, list, cancel <───────┘  └ finished ─┘                           └─> files, kafka, archive ─> fill
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

pub mod files;
mod from_files;

mod from_kafka;

mod from_archive;

mod watched;

mod status;

// beside the flow
mod rows;

pub use freeze::{Plan, RecomputeOptions, Spec, create, create_on, plan, plan_on};
pub use from_archive::{ArchiveBackfill, ArchivePlan, create_archive, create_archive_on, plan_archive};
pub use from_files::{FilesOptions, Listing, create_files, create_files_on, plan_files};
pub use from_kafka::{Bound, KafkaBackfill, KafkaPlan, KafkaReport, Piece, create_kafka, create_kafka_on, plan_kafka};
pub(crate) use recompute::units_left;
pub use resume::{Figures, Report, ResumeOptions, UnitFigures, find, resume, resume_on, what_is_left, what_is_left_on};
pub use state::Backfill;
pub use status::{Cancelled, Line, cancel, cancel_on, list, list_on, status, status_on};

#[cfg(test)]
mod tests;

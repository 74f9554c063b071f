//! OFFSETS: moved by hand, with the plan first and an audit row after.
//!
//! ```text
//!   target ─> plan (per partition: what would be read again, be lost, be there twice) ─┬─> rewind: Kafka ─> fill
//!                                                                                      └─> skip: raw's `next`
//! ```
//!
//! A rewind fills in what is below `next` and is nowhere yet; it never lowers `next`. A skip moves `next` up, by the
//! same compare-and-set as landing does.

// in flow order
mod plan;

mod rewind;

mod skip;

pub(crate) mod audit;

pub use crate::fill::kafka::Target;
pub use crate::fill::{RangeRead, Reread};
pub use plan::{Act, PartitionPlan, Targets, plan, plan_on};
pub use rewind::{RewindOptions, rewind, rewind_on};
pub use skip::{SkipReport, Skipped, plan_skip, plan_skip_on, skip, skip_on};

#[cfg(test)]
mod tests;

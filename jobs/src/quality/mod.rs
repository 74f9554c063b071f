//! QUALITY: the contracts' rules over dates of raw, measured, judged and recorded.
//!
//! ```text
//!   raw (one version) ─> dates ─> measure (a pass over a date for all counts, a query for each other rule) ─> judge ─> ops.quality
//! ```
//!
//! What must be is decided by [`deltaworks_core::quality`]. A rule sees the rows of raw as they were landed: copies of
//! an event too. Rules for people and for other engines are reported as not run, never as kept.

// in flow order
mod check;

mod run;

mod measure;

mod record;

mod rulings;

pub use check::check;
pub use rulings::{Ruling, Rulings};
pub use run::{Judged, QualityOptions, QualityReport, quality, quality_on};
pub(crate) use run::{RawDates, breached};

#[cfg(test)]
mod tests;

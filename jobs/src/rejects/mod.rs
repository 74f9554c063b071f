//! REJECTS: what broke its contract, settled.
//!
//! ```text
//!   rejects ──┐
//!   resolutions ─> current (what stands open) ─> filter, select ─┬─> redrive ─> fill ─> raw, then resolutions
//!   raw ──────┘        └─> the view `rejects.<pipeline>_current`   └─> discard ─────────────> resolutions
//! ```
//!
//! The rejects table is never written here. How a reject stands is decided by [`deltaworks_core::resolution`].

// in flow order
mod resolutions;

mod current;

mod filter;
mod select;

mod redrive;

mod discard;

pub use current::{CURRENT, Current, settled_schema};
pub use discard::{DiscardOptions, DiscardReport, discard, discard_on};
pub use filter::Filter;
pub use redrive::{RedriveOptions, RedriveReport, plan_redrive, plan_redrive_on, redrive, redrive_on};
pub use resolutions::resolutions_table;
pub use select::LeftOut;

#[cfg(test)]
pub(crate) mod tests;

//! LINEAGE: what jobs read and wrote, told as OpenLineage events. Never in the way of a job.
//!
//! ```text
//!   job (what it means to do) ─┐
//!   witness of the lake ───────┼─> datasets ─> facets ─> event ─> telling ─> teller (queue, one task) ─> http | file
//!   facts (rows, rulings) ─────┘
//! ```
//!
//! The events are those of OpenLineage's spec 2-0-2; each facet names its own version, see `facets.rs`. What a job
//! reads is declared by its [`Kind`]; at which version it was read, and what was written, is what the lake's
//! [`Witness`](crate::lake::Witness) saw, so no stage tells anything.
//!
//! Invariants: L1 telling never waits and never fails: what cannot be delivered is dropped and counted, with one
//! warning; L2 the end of a process waits at most [`Teller::end`]'s deadline; L3 no event and no message has a secret.

// in flow order
mod job;

mod datasets;

mod facets;

mod event;

mod telling;

mod teller;

mod file;
mod http;

// beside the flow
mod config;
mod secrets;

pub use config::{env_parent, resolve};
pub use event::{EventType, RunEvent};
pub use job::{Facts, Job, Kept, Kind, Parent, RunOf};
pub use teller::{Counts, Teller};
pub use telling::{Outcome, Telling};

#[cfg(test)]
mod tests;

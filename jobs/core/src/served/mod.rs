//! What a served table knows of its units, and what a reconcile does with one.
//!
//! ```text
//! entries  the table's txn entries: what was taken over from batch, and of which speed states the rest is
//! plan     both against what batch and speed offer now: which of them to take
//! state    one row of a covered window: what it becomes
//! settled  how far back every window is final, so that states may go away
//! ```
//!
//! A window is *covered* iff it ends at or before the bound that its unit took over from batch. What is covered
//! is batch's, row for row; what is not is speed's.

mod entries;
mod plan;
mod settled;
mod state;

pub use entries::{BrokenServed, Entry, Shown, Taken, read_entry, read_ledger};
pub use plan::{FromBatch, FromSpeed, Kept, judge_batch, judge_speed};
pub use settled::{Reach, settled_before};
pub use state::{State, Verdict, judge};

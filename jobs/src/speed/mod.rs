//! SPEED: landed rows into partial states, seconds after their raw commit.
//!
//! ```text
//!   land ─(rows of a raw commit)─> live ──> states ─> append ─┐
//!                                   │ behind, or a gap        ├─> speed.<aggregate>   states per base window, key,
//!   raw ─────────────────────────> catch_up ─> states ─> ─────┘        │              partition and range of offsets
//!                                                     merge, drop <────┘
//! ```
//!
//! Only rows that are on time and no repeats change a value; late ones and repeats are counted beside them, and
//! fills never get here. How far each partition is in is in the table's own txn entries, in the commit of its
//! states; [`deltaworks_core::speed`] decides what may be appended. Whatever fails here is made good from raw
//! later, so the whole table may go away at any time.
//!
//! [`SpeedTable`] is what readers of the states need; reconciling is not done here.

// in flow order
mod live;
mod run;

mod inlet;
mod member;

mod catch_up;
mod floor;
mod raw_rows;

mod portions;

mod rows;

mod append;
mod table;

mod upkeep;

// beside the flow
mod status;

pub use catch_up::{Anew, CaughtUp, Planned};
pub use live::Live;
pub use raw_rows::from_raw;
pub use rows::Counts;
pub use run::{SpeedOptions, VerbReport, plan_only, run, run_on};
pub use status::{Health, SpeedReport, Status};
pub use table::{SpeedTable, origin, speed_name};
pub use upkeep::Kept;

#[cfg(test)]
mod tests;

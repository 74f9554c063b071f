//! Units: what batch replaces as a whole, what each was computed from, and which to compute again.
//!
//! ```text
//! fingerprint  short stable names for pins and definitions
//! ledger       what a batch table's txn entries say of its units
//! pin          what a result was computed from, and how far it is covered
//! changes      what differs between the last pin and now
//! plan         facts about a unit in, what to do with it and why out
//! ```

mod changes;
mod fingerprint;
mod ledger;
#[cfg(test)]
mod model;
mod pin;
mod plan;
#[cfg(test)]
mod tests;

pub use fingerprint::{Fingerprint, NotAFingerprint};
pub use ledger::{BrokenEntry, Entry, read_entry, read_ledger};
pub(crate) use ledger::{app_id, parse_app_id};
pub use pin::{Pin, covered_bound};
pub use plan::{Facts, Idle, Ids, Interval, Last, Plan, Reason, Refusal, Removed, plan, window_dates};

use crate::windows::Granularity;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The piece that batch replaces. Ordered by aggregate, granularity, date.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Unit {
    /// Name of the aggregate.
    pub aggregate: String,
    /// Size of its windows.
    pub granularity: Granularity,
    /// Local date on which its windows start.
    pub window_date: Date,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.aggregate, self.granularity, self.window_date)
    }
}

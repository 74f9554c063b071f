//! What a speed table knows of itself, and what may be appended to it.
//!
//! ```text
//! entries  the table's txn entries: how far each partition is in, of which raw table, under which definition
//! ranges   offset ranges against that progress: append, already there, a gap, an overlap
//! ```
//!
//! The states of a speed table together are those of all rows of each partition below its `next`, each row
//! once. A partition without an entry stands at 0: nothing of it is in. So the first range of a partition
//! that raw began to land further up is a gap, too, and is closed from raw.

mod entries;
mod ranges;

pub use entries::{Nexts, SpeedIds, Standing, Stored};
pub use ranges::{Collision, Gap, Overlapping, Verdict, joined, judge};

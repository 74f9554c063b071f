//! FILL: rows below what the stream has reached, and rows that were never in a topic, each place once.
//!
//! ```text
//!   messages (read again, out of rejects, out of files) ─> stamper ─(rows, rejects)─> filler ─> rejects, then raw
//!                                                          decode                     anti-join by place
//! ```
//!
//! A fill never lowers `next`. Its rows carry the number of the fill in `_fill`, by which a pin tells them from what it
//! has seen; they have no `_behind_ms` and never enter speed. Rows of a file have a place too: its URL, partition −1,
//! and the number of the row.

// in flow order
mod stamper;

mod filler;

mod places;

// messages that the stream has passed, read once more
pub mod kafka;

mod again;

pub use again::{Again, RangeRead, Reread};
pub use filler::{Added, Filler, Part, Progress};
pub use stamper::{Pushed, Stamper};

pub(crate) use places::{PLACE, Places, each_place, scan};

#[cfg(test)]
mod tests;

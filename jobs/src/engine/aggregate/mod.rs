//! Window aggregates: one SQL file becomes a checked definition, and rows become states and results.
//!
//! ```text
//! file ─> parse (clauses) ─> shape (known) ─> definition (columns, canonical) ─> halves
//!                        lookups ─┘
//! rows ─> projection ─> groups ─> states ─> rollup ─> values ─> HAVING, SELECT list ─> results
//!          (halves)   (grouping)        (compute)                      (finish)
//! ```
//!
//! A caller makes a [`Session`], loads the [`Lookups`], and makes a [`Definition`] of each file. Then rows
//! that count go through [`Definition::partial`], with the duplicates among them through
//! [`Definition::partial_with_duplicates`], and rows that are just landed through [`Definition::landed`];
//! [`Definition::merge`] brings states together, also stored ones, and
//! [`Definition::finish`] gives the windows of every granularity. States of any portions of the rows, merged
//! in any order, finish to the same bytes.
//!
//! Decides nothing about which rows, dates or windows: callers bring rows, freed of duplicates, and take
//! results. Knows Delta only by the types that its tables hold.

mod canonical;
mod check;
mod clauses;
mod columns;
mod compute;
mod definition;
mod finish;
mod grouping;
mod halves;
mod keyed;
mod known;
mod landed;
mod lookups;
mod neutral;
mod parse;
mod places;
mod rows;
mod scalars;
mod session;
mod shape;
mod source;
mod states;
mod types;

pub use check::{Checked, check};
pub use columns::{OutputColumn, RESERVED};
pub use compute::{Bucket, Counted, Finished, Life, Take, is_out_of_memory};
pub use definition::Definition;
pub use lookups::{Lookup, Lookups};
pub use neutral::kind_of;
pub use rows::Batches;
pub use session::{Limits, Session};
pub use source::Source;
pub use states::States;

/// Version of the query engine, which decides how states are kept.
pub const ENGINE_VERSION: &str = deltalake::datafusion::DATAFUSION_VERSION;

#[cfg(test)]
pub(crate) mod tests;

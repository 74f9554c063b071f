//! The query engine edge: the only user of DataFusion.
//!
//! ```text
//! SQL ─> sql (parse, AS OF, read-only gate) ─> tables (open what is named) ─> query (plan, run) ─> output (formats)
//! ```
//!
//! Apart from that: `aggregate`, the SQL files of aggregates and windows computed from rows; `sort`, rows in order.
//!
//! Reads Delta tables and nothing else: no Kafka, and of the project only its settings. What became of rejects is
//! asked of [`crate::rejects`].

pub mod aggregate;
pub mod functions;
pub mod output;
mod query;
pub mod sort;
mod sql;
mod tables;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

pub use output::{Format, write};
pub use query::{Rows, plan_over, query, query_over};

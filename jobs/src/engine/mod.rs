//! The query engine edge: the only user of DataFusion.
//!
//! ```text
//! SQL ─> sql (parse, AS OF, read-only gate) ─> tables (open what is named) ─> query (plan, run) ─> output (formats)
//! ```
//!
//! Reads Delta tables and nothing else: no Kafka, no project beyond where the lake is.

pub mod functions;
pub mod output;
mod query;
mod sql;
mod tables;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

pub use output::{Format, write};
pub use query::{Rows, query};

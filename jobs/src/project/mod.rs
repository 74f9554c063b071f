//! The project's files: what a user writes, read, judged and turned into [`settings::Settings`].
//!
//! ```text
//! deltaworks.yaml ─> yaml ─> variables ─> shape (config) ─┐
//! *.odcs.yaml ─────> yaml ─> odcs ─> contract ────────────┼─> validate ─> settings
//! *.sql ───────────> yaml ─> shape (aggregate) ───────────┘
//! ```
//!
//! Every step goes on after an error, so that a [`Report`] holds all of them.

pub mod contract;
pub mod diagnostics;
pub mod settings;

mod aggregate;
mod check;
mod config;
mod init;
pub(crate) mod lake_url;
mod lineage;
mod load;
mod odcs;
mod odcs_quality;
mod odcs_rules;
mod odcs_types;
mod shape;
mod time_format;
pub(crate) mod units;
mod validate;
mod variables;
mod yaml;

pub use check::{CheckReport, check, survey};
pub use config::json_schema;
pub use diagnostics::{Diagnostic, Place, Report};
pub use init::init;
pub use lineage::{ENDPOINT, EVERY, NAMESPACE, endpoint_url, is_header};
pub use load::{FILE, aggregate_file, aggregate_text, find, load};
pub use validate::KAFKA_OWNED;
pub use variables::Env;

#[cfg(test)]
mod tests;

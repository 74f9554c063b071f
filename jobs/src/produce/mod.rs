//! Events into a topic: from a file, generated from a contract, or a built-in stream; and the truth
//! about them into a file, so that what was landed can be compared with what was sent.
//!
//! ```text
//! file · generate (values, pattern, corrupt) · shapes ─> run (kafka::producer) ─> topic, truth
//! ```

pub mod generate;
pub mod run;
pub mod shapes;

mod corrupt;
mod file;
mod pattern;
mod values;

pub use run::{Input, ProduceOptions, Progress, Summary, run};

#[cfg(test)]
mod tests;

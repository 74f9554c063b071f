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

use crate::project::contract::Kind;
use crate::project::settings::{EventTime, ExtraFields, Pipeline, Tombstones};
use deltaworks_core::reason::Reason;

/// The reasons for which a generated event can break the pipeline's contract. `too_large` is left out:
/// few brokers would take the message.
#[must_use]
pub fn breakable(pipeline: &Pipeline) -> Vec<Reason> {
    let columns = &pipeline.contract.columns;
    let bounded = |kind: &Kind| matches!(kind, Kind::Integer | Kind::Decimal { .. } | Kind::Double | Kind::Float);
    let can = |reason: &Reason| match reason {
        Reason::TooLarge => false,
        Reason::ExtraField => pipeline.extra_fields == ExtraFields::Reject,
        Reason::Tombstone => pipeline.tombstones == Tombstones::Reject,
        Reason::EventTimeTooOld => pipeline.event_time_min_us.is_some(),
        Reason::EventTimeInFuture => pipeline.event_time != EventTime::KafkaTime,
        Reason::Pattern => columns.iter().any(|c| c.rules.pattern.is_some()),
        Reason::OutOfRange => columns.iter().any(|c| bounded(&c.kind)),
        Reason::MissingField => columns.iter().any(|c| c.required),
        _ => true,
    };
    Reason::ALL.into_iter().filter(can).collect()
}

#[cfg(test)]
mod tests;

//! The one error of the stages: which stage, what happened, who must act.
//!
//! A message is in lower case, without a full stop, with names in backticks; a place (topic,
//! partition, offset; table, version; file, line) is part of it. The exit code and whether a retry
//! can help come from the [`Class`] alone.

pub use deltaworks_core::exit::Class;
use std::fmt;

/// Result of a stage.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where in the flow an error arose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reading the project's files.
    Project,
    /// Producing events.
    Produce,
    /// The Kafka edge.
    Kafka,
    /// The lake edge: object store and Delta log.
    Lake,
    /// Landing.
    Land,
    /// Fills: rows below what the stream has reached, and rows of files.
    Fill,
    /// The query engine.
    Query,
    /// Speed.
    Speed,
    /// Proving.
    Prove,
    /// Batch.
    Batch,
    /// Backfills.
    Backfill,
    /// Upkeep of tables.
    Upkeep,
    /// Reconcile.
    Reconcile,
    /// Rules over dates of data.
    Quality,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Project => "project",
            Self::Produce => "produce",
            Self::Kafka => "kafka",
            Self::Lake => "lake",
            Self::Land => "land",
            Self::Fill => "fill",
            Self::Query => "query",
            Self::Speed => "speed",
            Self::Prove => "prove",
            Self::Batch => "batch",
            Self::Backfill => "backfill",
            Self::Upkeep => "upkeep",
            Self::Reconcile => "reconcile",
            Self::Quality => "quality",
        })
    }
}

/// Something went wrong in a stage.
#[derive(Debug, thiserror::Error)]
#[error("{stage}: {message}")]
pub struct Error {
    /// Where.
    pub stage: Stage,
    /// What kind of ending this is.
    pub class: Class,
    /// What happened, and where in the data.
    pub message: String,
    /// What a person can do.
    pub hint: Option<String>,
    /// What the library below said; see [`Error::told`].
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error without hint or source.
    pub fn new(stage: Stage, class: Class, message: impl Into<String>) -> Self {
        Self { stage, class, message: message.into(), hint: None, source: None }
    }

    /// Adds what a person can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what the library below said.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The message and what the libraries below said of it, without the stage.
    #[must_use]
    pub fn told(&self) -> String {
        let causes = self.causes();
        if causes.is_empty() { self.message.clone() } else { format!("{}: {causes}", self.message) }
    }

    /// What the libraries below said, from the nearest to the deepest; empty if nothing. Many of them have their cause in
    /// their own text already: nothing is said twice.
    #[must_use]
    pub fn causes(&self) -> String {
        let nearest = self.source.as_deref().map(|source| source as &dyn std::error::Error);
        let mut said = String::new();
        for cause in std::iter::successors(nearest, |cause| cause.source()) {
            let cause = cause.to_string();
            if said.is_empty() {
                said = cause;
            } else if !said.contains(&cause) {
                said = format!("{said}: {cause}");
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    #[test]
    fn what_a_cause_has_in_its_text_is_not_said_again() {
        let refused = Said("connection refused", None);
        let client = Said("error sending request", Some(Box::new(refused)));
        let list = Said("error listing: error sending request", Some(Box::new(client)));
        let error = Error::new(Stage::Lake, Class::Outside, "cannot list the log");
        assert_eq!(error.told(), "cannot list the log");
        let error = error.because(Said("generic: error listing: error sending request", Some(Box::new(list))));
        assert_eq!(
            error.told(),
            "cannot list the log: generic: error listing: error sending request: connection refused"
        );
    }
}

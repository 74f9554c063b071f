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
    /// What the library below said. Its text is shown after the message.
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
}

//! What ends a job, and the process exit code that says so; the same in every verb.

use serde::Serialize;

/// Class of an ending. Exit codes come from here and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Failed, nothing published; running again may help (a store or broker that was away).
    Outside,
    /// Failed, nothing published; running again does not help. A bug, or a table broken from outside.
    Internal,
    /// Usage, config or contract: the user must change something.
    User,
    /// An audit, reject or drift limit is broken; not published.
    Limit,
    /// Partly done; the same command continues.
    Partly,
    /// Another run is at the same work, after retries.
    Overlap,
    /// The input is no longer complete: offsets or files are gone.
    InputLost,
    /// The input is not complete yet.
    InputNotYet,
    /// Nothing to do, reported as such because the user asked.
    Skipped,
    /// Interrupted by SIGINT; resumable.
    Interrupted,
    /// Terminated by SIGTERM; resumable.
    Terminated,
}

impl Class {
    /// The process exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Outside | Self::Internal => 1,
            Self::User => 2,
            Self::Limit => 3,
            Self::Partly => 4,
            Self::Overlap => 5,
            Self::InputLost => 6,
            Self::InputNotYet => 7,
            Self::Skipped => 99,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// Whether the same command may succeed later without anybody changing anything.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::Outside | Self::Partly | Self::Overlap | Self::InputNotYet | Self::Interrupted | Self::Terminated
        )
    }
}

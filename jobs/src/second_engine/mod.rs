//! Another engine than the one that made the windows: Polars computes them anew from the bytes of raw files.
//!
//! ```text
//! decode   Parquet bytes ─> frames, columns as `<table>.<name>`
//! input    rows of a pin, without copies, each in its window ─> counts
//! terms    expressions of the neutral SELECT ─> Polars expressions (numbers: what Polars lacks or rounds elsewhere)
//! calls    aggregate functions ─> what Polars gathers, and what is folded of it (fold)
//! windows  input, joined, filtered, grouped, HAVING, SELECT list ─> rows of cells
//! cells    values that compare as the product says: null = null, −0.0 = 0.0, NaN last
//! ```
//!
//! The only user of Polars. It blocks, and belongs on a blocking thread. Of the product's own arithmetic it takes
//! the list of a unit's windows alone: a caller brings it. What it has no words for it says by name
//! ([`Told`]), and computes nothing.

mod calls;
mod cells;
mod decode;
mod fold;
mod input;
mod numbers;
mod terms;
#[cfg(test)]
mod tests;
mod windows;

pub use cells::Cell;
pub use decode::{Frame, decode};
pub use input::{Counts, NEEDED, Place, Rules};
pub use windows::{Recipe, Recomputed, Row};

/// A value, or what cannot be expressed, in a few words that follow "the second engine does not know".
pub type Told<T> = std::result::Result<T, Unknown>;

/// Why nothing was computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// A part of the SELECT has no translation.
    #[error("the second engine does not know {0}")]
    Part(String),
    /// Polars refused, or a file cannot be decoded.
    #[error("the second engine failed: {0}")]
    Failed(String),
}

impl From<polars::error::PolarsError> for Unknown {
    fn from(error: polars::error::PolarsError) -> Self {
        Self::Failed(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}

/// The rows of a plan, computed as it is written: its author knows the rows, and rewriting costs more than it saves.
fn computed(plan: polars::prelude::LazyFrame) -> Told<polars::prelude::DataFrame> {
    Ok(plan.without_optimizations().collect()?)
}

fn unknown<T>(part: impl Into<String>) -> Told<T> {
    Err(Unknown::Part(part.into()))
}

//! From one message to one row, or to the reason why not.
//!
//! A decoder is driven by the contract. It appends a row only when all of it is good: a bad message
//! leaves no trace in the columns and costs its neighbours nothing. JSON is the first format behind
//! the trait.

mod columns;
mod depth;
mod flat;
mod ids;
pub mod json;
mod leaf;
mod node;
mod number;
mod object;
mod refusal;
mod rules;
#[cfg(test)]
mod tests;
mod timestamp;

pub use ids::id_hashes;

use crate::Result;
use crate::kafka::message::Message;
use crate::project::settings::Pipeline;
use arrow::array::RecordBatch;
use deltaworks_core::reason::Refusal;

/// Turns messages into the contract's columns.
pub trait Decoder: Send {
    /// Appends the message as one row.
    ///
    /// # Errors
    /// The reason why the message breaks the contract; the columns are then as they were before.
    /// Tombstones never come here.
    fn push(&mut self, message: &Message<'_>) -> Result<Decoded, Refusal>;

    /// Rows since the last [`Decoder::finish`].
    fn rows(&self) -> usize;

    /// Bytes held by these rows, for the memory budget.
    fn bytes(&self) -> usize;

    /// Takes the rows: the contract's columns in order, then `_extra` if it is kept.
    ///
    /// # Errors
    /// None that a message can cause: only if the columns do not make a record batch.
    fn finish(&mut self) -> Result<RecordBatch>;
}

/// A decoder for the pipeline's messages.
///
/// # Errors
/// If the contract asks for what the format cannot give.
pub fn decoder(pipeline: &Pipeline) -> Result<Box<dyn Decoder>> {
    Ok(Box::new(json::JsonDecoder::new(pipeline)?))
}

/// What landing must know of a row that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Event time, microseconds since the Unix epoch.
    pub event_us: i64,
    /// 128-bit hash of the event id, if the contract has one and the row has a value.
    pub id_hash: Option<u128>,
}

//! The Kafka edge: the only user of rdkafka.
//!
//! ```text
//! config ─> source (client, batch) ─> message::Chunk ─> (decode)
//!        ─> watermarks (inquiry) ─> start     admin, producer, mock: what a topic needs to exist
//! ```

pub mod admin;
pub mod message;
pub mod mock;
pub mod monitor;
pub mod producer;
pub mod source;
pub mod start;
pub mod watermarks;

pub(crate) mod ask;
mod batch;
mod client;
mod close;
mod config;
mod context;
mod inquiry;

#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod tests;

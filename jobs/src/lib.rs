//! The stages of deltaworks, in flow order, and the edges they use.
//!
//! ```text
//! project ─> land (kafka ─> decode ─> flush ─> lake) ─> engine (query)
//! ```

pub mod checksum;
pub mod error;
pub mod project;

pub mod produce;

pub mod land;

pub mod engine;
pub mod kafka;
pub mod lake;

pub use error::{Class, Error, Result, Stage};

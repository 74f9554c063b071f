//! Batch against a naive model, against other runs, and against stores and tables that misbehave.

pub(crate) mod guards;
pub(crate) mod kit;
mod memory;
mod model;
pub(crate) mod naive;
mod neighbours;
mod overlap;
mod scan;

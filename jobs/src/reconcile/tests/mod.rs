//! Served tables against a naive model, against other reconcilers, and against stores and tables that misbehave.

mod crowd;
mod drift;
mod explain;
pub(crate) mod kit;
mod live;
mod memory;
mod model;
mod steps;
mod ways;

//! Served tables against a naive model, against other reconcilers, and against stores and tables that misbehave.

mod crowd;
mod drift;
mod kit;
mod live;
mod model;
mod steps;
mod ways;

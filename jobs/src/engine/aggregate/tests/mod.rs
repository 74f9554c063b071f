//! Aggregates end to end.

mod edges;
mod example;
mod first;
mod golden;
mod lookups;
mod trips;
mod whole;

use super::{Limits, Session};

fn session(parallel: usize) -> Session {
    Session::new(&Limits { memory_bytes: 64 << 20, parallel, spill: None }).unwrap()
}

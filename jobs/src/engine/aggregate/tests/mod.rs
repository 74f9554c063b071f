//! Aggregates end to end.

mod edges;
mod example;
mod first;
pub(crate) mod golden;
mod landed;
mod lookups;
pub(crate) mod trips;
pub(crate) mod whole;

use super::{Limits, Session};
use std::sync::OnceLock;

pub(crate) fn session(parallel: usize) -> Session {
    Session::new(&Limits { memory_bytes: 64 << 20, parallel }).unwrap()
}

/// For property tests, which are not async.
pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

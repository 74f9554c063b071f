//! The real binary, from outside: started as a child, killed, paused, interrupted, and judged by what
//! the test itself sent.
//!
//! The broker is librdkafka's mock inside this process, so nothing has to be installed; stories that
//! need a real broker or store are in `e2e` and are `#[ignore]`d.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "tests")]

mod harness;

mod backfill_files;
mod batch;
mod cases;
mod commands;
mod contracts;
mod crash;
mod crowd;
mod disorder;
mod e2e;
mod files;
mod groups;
mod help;
mod lineage;
mod offsets;
mod poison;
mod prove;
mod quality;
mod reconcile;
mod rejects;
mod removal;
mod signals;
mod speed;
mod start;
mod tables;
mod unknown;
mod writers;

//! `make bench`: what things cost, in one run, as ratios.
//!
//! Everything measured is a whole process: CPU seconds and peak memory as the kernel counts them. The
//! last line is JSON; figures are medians, ratios are of medians. `BENCH_ONLY` names one part.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark may stop"
)]

mod batch;
mod events;
mod landing;
mod limit;
mod measure;
mod reconcile;
mod states;
mod visible;

use serde_json::json;
use std::path::Path;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, mode, brokers, topic, shape, dir] = &args[..]
        && mode == "limit"
    {
        let schema = if shape == "small" { limit::small() } else { limit::large() };
        limit::run(brokers, topic, &schema, Path::new(dir));
        return;
    }
    let brokers = std::env::var("DELTAWORKS_KAFKA")
        .unwrap_or_else(|_| panic!("DELTAWORKS_KAFKA names the broker: run `make bench`, which starts one"));
    let only = std::env::var("BENCH_ONLY").ok();
    let mut result = json!({ "status": "done", "machine": measure::machine() });
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    if wanted("landing") {
        result["landing"] = landing::run(&brokers);
    }
    if wanted("batch") {
        result["batch"] = batch::run(&brokers);
    }
    if wanted("speed") {
        result["speed"] = states::run(&brokers);
    }
    if wanted("reconcile") {
        result["reconcile"] = reconcile::run(&brokers);
    }
    if wanted("visible") {
        result["visible"] = visible::run(&brokers);
    }
    println!("{result}");
}

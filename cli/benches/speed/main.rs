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
mod compact;
mod events;
mod files;
mod landing;
mod limit;
mod measure;
mod reconcile;
mod sending;
mod states;
mod steady;
mod visible;

use serde_json::{Value, json};
use std::path::Path;

/// Measures something on a broker.
type Part = fn(&str) -> Value;

/// Each part, and what measures it.
const PARTS: [(&str, Part); 8] = [
    ("landing", landing::run),
    ("batch", batch::run),
    ("speed", states::run),
    ("reconcile", reconcile::run),
    ("visible", visible::run),
    ("files", files::run),
    ("compact", compact::run),
    ("steady", steady::run),
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, mode, brokers, topic, shape, dir] = &args[..]
        && mode == "limit"
    {
        let schema = if shape == "small" { limit::small() } else { limit::large() };
        limit::run(brokers, topic, &schema, Path::new(dir));
        return;
    }
    if let [_, mode, from, to] = &args[..]
        && mode == "rewrite"
    {
        compact::rewrite(Path::new(from), Path::new(to));
        return;
    }
    let brokers = std::env::var("DELTAWORKS_KAFKA")
        .unwrap_or_else(|_| panic!("DELTAWORKS_KAFKA names the broker: run `make bench`, which starts one"));
    let only = std::env::var("BENCH_ONLY").ok();
    let mut result = json!({ "status": "done", "machine": measure::machine() });
    for (part, run) in PARTS {
        if only.as_deref().is_none_or(|only| only == part) {
            result[part] = run(&brokers);
        }
    }
    println!("{result}");
}

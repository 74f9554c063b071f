//! What it costs to serve what changed: one unit among 1,000, against all of them.
//!
//! Windows of an hour on 1,000 dates, so 1,000 units. All of them are reconciled into a lake that serves nothing
//! yet; then late events change one date, `batch` computes it, and what `reconcile` needs for that is measured.

use super::events::{DAY_MS, Events, START_MS};
use super::measure::{Cost, deltaworks_in, measure, median, number, result_of};
use serde_json::{Value, json};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::Command;

const UNITS: u64 = 1_000;
/// The first date; the last one is past too.
const FROM_MS: u64 = START_MS - UNITS * DAY_MS;
/// Most of the time of all units that one may take.
const GOAL: f64 = 1.0 / 50.0;

/// Time for one unit to that for all.
pub fn run(brokers: &str) -> Value {
    let (events, runs) = (number("BENCH_RECONCILE_EVENTS", 4_000_000), number("BENCH_RUNS", 3));
    let folder = tempfile::tempdir().unwrap().keep();
    let bench = Bench { brokers, topic: format!("bench-reconcile-{}", std::process::id()), folder: folder.clone() };
    measure(&mut bench.command(&["topics", "create", "small", "--partitions", "4"]));
    bench.land(Events { seed: 6, count: events, from_ms: FROM_MS, over_ms: UNITS * DAY_MS, twice: 100 });
    measure(&mut bench.command(&["batch"]));
    let (mut all, mut one) = (Vec::new(), Vec::new());
    for run in 0..runs {
        // nothing is served, and nothing told, as before the first time
        for layer in ["served", "drift"] {
            if let Err(error) = std::fs::remove_dir_all(folder.join("lake").join(layer)) {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            }
        }
        all.push(bench.reconcile(UNITS..=UNITS));
        let from_ms = FROM_MS + (100 + 200 * run) % UNITS * DAY_MS;
        bench.land(Events { seed: 7 + run, count: events / UNITS, from_ms, over_ms: DAY_MS, twice: 100 });
        measure(&mut bench.command(&["batch"]));
        // the date after is pinned anew, because an id of the new events might have been there too
        one.push(bench.reconcile(1..=2));
    }
    std::fs::remove_dir_all(folder).unwrap();
    let side = |costs: &mut [Cost]| {
        json!({
            "seconds": median(costs, |c| c.wall_s), "cpu_seconds": median(costs, |c| c.cpu_s),
            "peak_rss_mib": median(costs, |c| c.rss_mib),
        })
    };
    let ratio = |of: fn(&Cost) -> f64, one: &mut [Cost], all: &mut [Cost]| median(one, of) / median(all, of);
    let (wall, cpu) = (ratio(|c| c.wall_s, &mut one, &mut all), ratio(|c| c.cpu_s, &mut one, &mut all));
    eprintln!(
        "reconcile: one of {UNITS} units takes {wall:.4} of the time of all, {cpu:.4} of CPU time; the goal is {GOAL}"
    );
    json!({
        "events": events, "units": UNITS, "runs": runs, "all": side(&mut all), "one": side(&mut one),
        "one_to_all": wall, "one_to_all_cpu": cpu, "goal": GOAL,
    })
}

struct Bench<'a> {
    brokers: &'a str,
    topic: String,
    folder: PathBuf,
}

impl Bench<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = deltaworks_in("live", self.brokers, args);
        command.env("BENCH_TOPIC_SMALL", &self.topic).env("BENCH_GROUP", &self.topic).env("BENCH_SQL", "hours");
        command.env("DELTAWORKS_LAKE", self.folder.join("lake"));
        command
    }

    fn land(&self, events: Events) {
        events.send(self.command(&["produce", "small", "--file", "/dev/stdin"]));
        measure(&mut self.command(&["stream", "small", "--until-caught-up"]));
    }

    /// Reconciles, which must change so many units.
    fn reconcile(&self, units: RangeInclusive<u64>) -> Cost {
        let told = self.folder.join("result.json");
        let cost = measure(self.command(&["reconcile"]).arg("--result-file").arg(&told));
        let result = result_of(&told);
        eprintln!("{}: {} {result}", self.topic, cost.json());
        assert!(units.contains(&result["units"]["reconciled"].as_u64().unwrap()), "not {units:?} units: {result}");
        cost
    }
}

//! What the speed layer adds to landing: the same topic, with and without states of one aggregate of three
//! granularities over 1,000 cameras.
//!
//! Whole processes, in turn: `stream --until-caught-up`, which ends when all states are in. What speed has counted
//! must be what was landed.

use super::events::{DAY_MS, Events, START_MS};
use super::measure::{Cost, deltaworks_in, measure, median, number, result_of};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

/// Most of what landing alone costs that landing with speed may cost.
const GOAL: f64 = 1.25;

/// CPU time with speed to that without.
pub fn run(brokers: &str) -> Value {
    let (events, runs) = (number("BENCH_SPEED_EVENTS", 5_000_000), number("BENCH_RUNS", 3));
    let folder = tempfile::tempdir().unwrap().keep();
    let topic = format!("bench-speed-{}", std::process::id());
    let bench = Bench { brokers, topic: &topic, folder: folder.clone() };
    measure(&mut bench.command("still", &["topics", "create", "small", "--partitions", "4"]));
    let events = Events { seed: 5, count: events, from_ms: START_MS, over_ms: DAY_MS / 24, twice: 100 };
    events.send(bench.command("still", &["produce", "small", "--file", "/dev/stdin"]));
    let (mut still, mut live) = (Vec::new(), Vec::new());
    for run in 0..runs {
        still.push(bench.land("still", run, events.count));
        live.push(bench.land("live", run, events.count));
    }
    std::fs::remove_dir_all(folder).unwrap();
    let side = |costs: &mut [Cost]| {
        json!({
            "cpu_seconds": median(costs, |c| c.cpu_s), "seconds": median(costs, |c| c.wall_s),
            "peak_rss_mib": median(costs, |c| c.rss_mib),
        })
    };
    let ratio = median(&mut live, |c| c.cpu_s) / median(&mut still, |c| c.cpu_s);
    eprintln!("speed: {ratio:.3} times the CPU time of landing alone; the goal is {GOAL}");
    json!({
        "events": events.count, "runs": runs, "landing": side(&mut still), "landing_with_speed": side(&mut live),
        "cpu_to_landing": ratio, "goal": GOAL,
    })
}

struct Bench<'a> {
    brokers: &'a str,
    topic: &'a str,
    folder: PathBuf,
}

impl Bench<'_> {
    fn command(&self, sql: &str, args: &[&str]) -> Command {
        let mut command = deltaworks_in("live", self.brokers, args);
        command.env("BENCH_TOPIC_SMALL", self.topic).env("BENCH_SQL", sql);
        command.env("DELTAWORKS_LAKE", self.folder.join("unused"));
        command
    }

    /// Lands the topic in a lake of its own, which is gone afterwards.
    fn land(&self, sql: &str, run: u64, events: u64) -> Cost {
        let lake = self.folder.join(format!("{sql}-{run}"));
        let told = self.folder.join("result.json");
        let mut stream = self.command(sql, &["stream", "small", "--until-caught-up"]);
        stream
            .arg("--result-file")
            .arg(&told)
            .env("DELTAWORKS_LAKE", &lake)
            .env("BENCH_GROUP", format!("{}-{sql}-{run}", self.topic));
        let cost = measure(&mut stream);
        let result = result_of(&told);
        assert_eq!(result["pipelines"]["small"]["landed"], events, "{result}");
        let speed = &result["speed"]["speeds"];
        eprintln!("{}: {sql}: {} {speed}", self.topic, cost.json());
        if sql == "live" {
            let counted: u64 = ["events", "late", "repeats"].iter().filter_map(|name| speed[name].as_u64()).sum();
            assert_eq!((counted, &speed["health"]), (events, &"live".into()), "{result}");
        }
        std::fs::remove_dir_all(lake).unwrap();
        cost
    }
}

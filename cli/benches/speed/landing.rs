//! What landing costs, against a loop without guarantees.
//!
//! Both are whole processes on the same topics, in turn: this program started again as the limit
//! (`limit.rs`), and `deltaworks stream --until-caught-up` with its default configuration.

use super::measure::{Cost, deltaworks, measure, median, number};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

const PARTITIONS: &str = "4";

/// Both shapes of events.
pub fn run(brokers: &str) -> Value {
    let (events, runs) = (number("BENCH_EVENTS", 5_000_000), number("BENCH_RUNS", 3));
    let bench = Bench { brokers: brokers.to_owned(), events, folder: tempfile::tempdir().unwrap().keep() };
    let mut result = json!({ "events": events, "runs": runs });
    for shape in ["small", "large"] {
        result[shape] = bench.shape(shape, runs);
    }
    std::fs::remove_dir_all(&bench.folder).unwrap();
    result
}

struct Bench {
    brokers: String,
    events: u64,
    folder: PathBuf,
}

impl Bench {
    fn shape(&self, shape: &str, runs: u64) -> Value {
        let topic = format!("bench-{shape}-{}", std::process::id());
        measure(&mut self.command(&topic, shape, &["topics", "create", shape, "--partitions", PARTITIONS]));
        let count = self.events.to_string();
        let produce = ["produce", shape, "--shape", shape, "--count", &count, "--start", "2026-01-05T08:00:00Z"];
        measure(&mut self.command(&topic, shape, &produce));
        let (mut limits, mut streams) = (Vec::new(), Vec::new());
        for run in 0..runs {
            let dir = self.folder.join(format!("{shape}-{run}"));
            std::fs::create_dir_all(&dir).unwrap();
            let mut limit = Command::new(std::env::current_exe().unwrap());
            limit.args(["limit", &self.brokers, &topic, shape]).arg(&dir);
            limits.push(measure(&mut limit));
            std::fs::remove_dir_all(&dir).unwrap();
            let mut stream = self.command(&topic, shape, &["stream", shape, "--until-caught-up"]);
            stream.env("BENCH_GROUP", format!("{topic}-{run}")).env("DELTAWORKS_LAKE", &dir);
            let result = dir.join("result.json");
            std::fs::create_dir_all(&dir).unwrap();
            stream.arg("--result-file").arg(&result);
            streams.push(measure(&mut stream));
            let line: Value = serde_json::from_slice(&std::fs::read(&result).unwrap()).unwrap();
            assert_eq!(line["pipelines"][shape]["landed"], self.events, "{line}");
            std::fs::remove_dir_all(&dir).unwrap();
        }
        self.report(shape, &mut limits, &mut streams)
    }

    fn report(&self, shape: &str, limits: &mut [Cost], streams: &mut [Cost]) -> Value {
        let events = self.events as f64;
        let per_cpu = |cpu_s: f64| (events / cpu_s).round();
        let (limit_cpu, stream_cpu) = (median(limits, |c| c.cpu_s), median(streams, |c| c.cpu_s));
        let side = |costs: &mut [Cost], cpu_s: f64| {
            json!({
                "rows_per_cpu_second": per_cpu(cpu_s),
                "rows_per_second": (events / median(costs, |c| c.wall_s)).round(),
                "cpu_seconds": cpu_s,
                "peak_rss_mib": median(costs, |c| c.rss_mib),
            })
        };
        let (limit, stream) = (side(limits, limit_cpu), side(streams, stream_cpu));
        eprintln!("{shape}: limit {limit}\n{shape}: stream {stream}");
        json!({ "limit": limit, "stream": stream, "stream_to_limit_per_cpu_second": limit_cpu / stream_cpu })
    }

    fn command(&self, topic: &str, shape: &str, args: &[&str]) -> Command {
        let mut command = deltaworks(&self.brokers, args);
        command.env("DELTAWORKS_LAKE", self.folder.join("unused"));
        command.env(format!("BENCH_TOPIC_{}", shape.to_uppercase()), topic);
        command
    }
}

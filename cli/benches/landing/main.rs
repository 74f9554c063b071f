//! `make bench`: what landing costs, against a loop without guarantees, in one run.
//!
//! Both are whole processes on the same topics, in turn: this program started again as the limit
//! (`limit.rs`), and `deltaworks stream --until-caught-up` with its default configuration. Measured
//! are CPU seconds and peak memory as the kernel counts them. The last line is JSON; figures are
//! medians, ratios are of medians.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark may stop"
)]

mod limit;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const PARTITIONS: &str = "4";

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
    let events = number("BENCH_EVENTS", 5_000_000);
    let runs = number("BENCH_RUNS", 3);
    let bench = Bench { brokers, events, folder: tempfile::tempdir().unwrap().keep() };
    let mut result = json!({ "status": "done", "events": events, "runs": runs, "machine": machine() });
    for shape in ["small", "large"] {
        result[shape] = bench.shape(shape, runs);
    }
    std::fs::remove_dir_all(&bench.folder).unwrap();
    println!("{result}");
}

struct Bench {
    brokers: String,
    events: u64,
    folder: PathBuf,
}

/// One process, as the kernel saw it.
struct Cost {
    cpu_s: f64,
    wall_s: f64,
    rss_mib: f64,
}

impl Bench {
    fn shape(&self, shape: &str, runs: u64) -> Value {
        let topic = format!("bench-{shape}-{}", std::process::id());
        self.deltaworks(&topic, shape, &["topics", "create", shape, "--partitions", PARTITIONS]);
        let count = self.events.to_string();
        self.deltaworks(
            &topic,
            shape,
            &["produce", shape, "--shape", shape, "--count", &count, "--start", "2026-01-05T08:00:00Z"],
        );
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_deltaworks"));
        let project = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/bench");
        command.args(args).args(["--project", project, "--quiet"]).env("KAFKA_BROKERS", &self.brokers);
        command.env("DELTAWORKS_LAKE", self.folder.join("unused"));
        command.env(format!("BENCH_TOPIC_{}", shape.to_uppercase()), topic).stdout(Stdio::null());
        command
    }

    fn deltaworks(&self, topic: &str, shape: &str, args: &[&str]) {
        let status = self.command(topic, shape, args).status().unwrap();
        assert!(status.success(), "{args:?}: {status}");
    }
}

/// Runs a command to its end; its CPU time and peak memory come from `wait4`.
#[expect(unsafe_code, clippy::zombie_processes, reason = "`wait4` waits: the standard library has no rusage")]
fn measure(command: &mut Command) -> Cost {
    let began = Instant::now();
    let child = command.spawn().unwrap();
    let mut status = 0;
    // SAFETY: both out-parameters live here, and the child is waited for once
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert!(libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage) > 0);
        usage
    };
    assert_eq!(status, 0, "{command:?} failed");
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Cost {
        cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        wall_s: began.elapsed().as_secs_f64(),
        rss_mib: usage.ru_maxrss as f64 / 1024.0,
    }
}

fn median(costs: &mut [Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    costs.sort_by(|a, b| of(a).total_cmp(&of(b)));
    of(&costs[costs.len() / 2])
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn machine() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).map(|l| l.trim_start_matches(['\t', ' ', ':']));
    json!({ "cpu": model, "cores": std::thread::available_parallelism().map_or(1, std::num::NonZero::get) })
}

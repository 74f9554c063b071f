//! What exact windows cost: against DuckDB and Polars on the same raw table, after a few late events, when
//! nothing changed, and in little memory.
//!
//! All are whole processes, in turn, on one local lake that `stream` landed. The results of the three
//! engines are compared, so that no time is the time of a wrong answer.

use super::events::{DAY_MS, Events, START_MS};
use super::measure::{Cost, deltaworks, measure, number, tried};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const DAYS: u64 = 30;
const SECOND_DAY: &str = "2026-01-06";
const LAST_DAY: &str = "2026-02-03";
/// The date that gets late events.
const LATE_DAY: u64 = 14;
/// Memory that DuckDB is given where we are measured in little memory.
const LITTLE: &str = "512MB";

/// All parts.
pub fn run(brokers: &str) -> Value {
    let events = number("BENCH_BATCH_EVENTS", 20_000_000);
    let folder = tempfile::tempdir().unwrap().keep();
    let bench = Bench { brokers: brokers.to_owned(), folder: folder.clone() };
    let result = json!({
        "events": events,
        "windows": bench.windows(events),
        "memory": bench.memory(events),
        "plan": bench.plan(),
    });
    std::fs::remove_dir_all(folder).unwrap();
    result
}

struct Bench {
    brokers: String,
    folder: PathBuf,
}

/// A topic, and the lake that it is landed in.
struct Lake<'a> {
    bench: &'a Bench,
    topic: String,
    folder: PathBuf,
}

impl Bench {
    /// Three granularities of 30 dates, 1,000 cameras, 1 % of events twice.
    fn windows(&self, events: u64) -> Value {
        let lake = self.lake("windows");
        lake.land(Events { seed: 1, count: events, from_ms: START_MS, over_ms: DAYS * DAY_MS, twice: 100 }, 1_000_000);
        let ours = lake.batch("speeds", &[]);
        let found = lake.found("speeds", LAST_DAY);
        let (duckdb, seen) = lake.peer("duckdb", "speeds", LAST_DAY, None).unwrap();
        lake.agree(&found, &seen);
        let (polars, seen) = lake.peer("polars", "speeds", LAST_DAY, None).unwrap();
        lake.agree(&found, &seen);
        let idle = lake.batch("speeds", &[]);
        let late = Events {
            seed: 2,
            count: events / 1_000,
            from_ms: START_MS + LATE_DAY * DAY_MS,
            over_ms: DAY_MS,
            twice: 100,
        };
        lake.land(late, 1_000_000);
        let recompute = lake.batch("speeds", &[]);
        let faster = |peer: &Cost| peer.wall_s / ours.wall_s;
        json!({
            "batch": ours.json(), "duckdb": duckdb.json(), "polars": polars.json(),
            "times_faster_than_duckdb": faster(&duckdb), "times_faster_than_polars": faster(&polars),
            "memory_to_duckdb": ours.rss_mib / duckdb.rss_mib, "memory_to_polars": ours.rss_mib / polars.rss_mib,
            "nothing_to_do": idle.json(),
            "late": recompute.json(), "late_to_full": recompute.wall_s / ours.wall_s,
        })
    }

    /// Exact medians and distinct ids of events that all come twice, on two dates.
    fn memory(&self, events: u64) -> Value {
        let lake = self.lake("memory");
        lake.land(Events { seed: 3, count: events, from_ms: START_MS, over_ms: 2 * DAY_MS, twice: 1 }, 1_000_000);
        let ours = lake.batch("medians", &[]);
        let found = lake.found("medians", SECOND_DAY);
        let (duckdb, seen) = lake.peer("duckdb", "medians", SECOND_DAY, None).unwrap();
        lake.agree(&found, &seen);
        let limited = lake.peer("duckdb", "medians", SECOND_DAY, Some(LITTLE));
        json!({
            "batch": ours.json(), "duckdb": duckdb.json(),
            "duckdb_in_512_mb": limited.map_or_else(|| json!("failed"), |(cost, _)| cost.json()),
        })
    }

    /// Planning over 10,000 files and 5,000 versions: nothing to do, and all of it.
    fn plan(&self) -> Value {
        let commits = number("BENCH_COMMITS", 5_000);
        let lake = self.lake("plan");
        lake.land(Events { seed: 4, count: commits * 200, from_ms: START_MS, over_ms: 2 * DAY_MS, twice: 100 }, 200);
        let full = lake.batch("speeds", &[]);
        let planned = lake.batch("speeds", &["--dry-run"]);
        json!({ "commits": commits, "batch": full.json(), "plan": planned.json(), "plan_to_full": planned.wall_s / full.wall_s })
    }

    fn lake(&self, name: &str) -> Lake<'_> {
        let topic = format!("bench-{name}-{}", std::process::id());
        let lake = Lake { bench: self, topic, folder: self.folder.join(name) };
        measure(&mut lake.command(&["topics", "create", "small", "--partitions", "4"]));
        lake
    }
}

impl Lake<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = deltaworks(&self.bench.brokers, args);
        command.env("BENCH_TOPIC_SMALL", &self.topic).env("BENCH_GROUP", &self.topic);
        command.env("DELTAWORKS_LAKE", &self.folder);
        command
    }

    /// Sends events and lands them.
    fn land(&self, events: Events, commit_rows: u64) {
        events.send(self.command(&["produce", "small", "--file", "/dev/stdin"]));
        let mut stream = self.command(&["stream", "small", "--until-caught-up"]);
        stream.env("BENCH_COMMIT_ROWS", commit_rows.to_string());
        assert!(stream.status().unwrap().success());
    }

    fn batch(&self, aggregate: &str, args: &[&str]) -> Cost {
        let cost = measure(self.command(&["batch", aggregate]).args(args));
        eprintln!("{}: batch {aggregate} {args:?}: {}", self.topic, cost.json());
        cost
    }

    /// Rows and vehicles of the windows of 1 h before `day`: those of the last day are not all covered yet.
    fn found(&self, aggregate: &str, day: &str) -> Value {
        let sql = format!(
            "SELECT count(*) AS rows, sum(vehicles) AS vehicles FROM batch.{aggregate} \
             WHERE granularity = '1h' AND window_date < DATE '{day}'"
        );
        let output = self.command(&["query", &sql, "--format", "json"]).stdout(Stdio::piped()).output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What a peer needs for the same windows, and what it found; `None` if it failed.
    fn peer(&self, engine: &str, aggregate: &str, day: &str, memory: Option<&str>) -> Option<(Cost, Value)> {
        let out = self.folder.join(format!("out-{engine}"));
        std::fs::create_dir_all(&out).unwrap();
        let said = out.join("said.json");
        let python = std::env::var("BENCH_PYTHON")
            .unwrap_or_else(|_| panic!("BENCH_PYTHON names a Python that has the peers: run `make bench`"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/bench/peers.py");
        let mut command = Command::new(python);
        command.args([script, engine, aggregate]).arg(self.folder.join("raw/small")).arg(&out).arg(day);
        command.args(memory.map(|limit| format!("--memory={limit}")));
        command.stdout(std::fs::File::create(&said).unwrap());
        let cost = tried(&mut command);
        let found = cost.map(|cost| (cost, serde_json::from_slice(&std::fs::read(&said).unwrap()).unwrap()));
        if let Some((cost, _)) = &found {
            eprintln!("{}: {engine} {aggregate} {memory:?}: {}", self.topic, cost.json());
        }
        std::fs::remove_dir_all(&out).unwrap();
        found
    }

    /// Whether a peer found the same as [`Self::found`].
    fn agree(&self, ours: &Value, peer: &Value) {
        assert_eq!(ours, peer, "{}: the engines disagree", self.topic);
    }
}

//! What exact windows cost: against DuckDB and Polars on the same raw table, after a few late events, when
//! nothing changed, and in little memory.
//!
//! All are whole processes, in turn, on one local lake that `stream` landed. The results of the three
//! engines are compared, so that no time is the time of a wrong answer.

use super::measure::{Cost, deltaworks, measure, number, tried};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const CAMERAS: u64 = 1_000;
const DAYS: u64 = 30;
const DAY_MS: u64 = 86_400_000;
/// 2026-01-05, in ms since the epoch.
const START_MS: u64 = 1_767_571_200_000;
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

/// A stream of events.
#[derive(Clone, Copy)]
struct Events {
    seed: u64,
    count: u64,
    from_ms: u64,
    days: u64,
    /// One event in this many comes twice.
    twice: u64,
}

impl Bench {
    /// Three granularities of 30 dates, 1,000 cameras, 1 % of events twice.
    fn windows(&self, events: u64) -> Value {
        let lake = self.lake("windows");
        lake.land(Events { seed: 1, count: events, from_ms: START_MS, days: DAYS, twice: 100 }, 1_000_000);
        let ours = lake.batch("speeds", &[]);
        let found = lake.found("speeds", LAST_DAY);
        let (duckdb, seen) = lake.peer("duckdb", "speeds", LAST_DAY, None).unwrap();
        lake.agree(&found, &seen);
        let (polars, seen) = lake.peer("polars", "speeds", LAST_DAY, None).unwrap();
        lake.agree(&found, &seen);
        let idle = lake.batch("speeds", &[]);
        let late =
            Events { seed: 2, count: events / 1_000, from_ms: START_MS + LATE_DAY * DAY_MS, days: 1, twice: 100 };
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
        lake.land(Events { seed: 3, count: events, from_ms: START_MS, days: 2, twice: 1 }, 1_000_000);
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
        lake.land(Events { seed: 4, count: commits * 200, from_ms: START_MS, days: 2, twice: 100 }, 200);
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
        let mut produce = self.command(&["produce", "small", "--file", "/dev/stdin"]);
        let mut child = produce.stdin(Stdio::piped()).spawn().unwrap();
        let mut lines = BufWriter::with_capacity(1 << 20, child.stdin.take().unwrap());
        events.write(&mut lines);
        lines.flush().unwrap();
        drop(lines);
        assert!(child.wait().unwrap().success());
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

impl Events {
    /// One JSON object a line, about in the order of event time.
    fn write(self, out: &mut impl Write) {
        let mut line = Vec::with_capacity(256);
        for n in 0..self.count {
            // each second one of a pair repeats the first
            let original = if self.is_copy(n) { n - 1 } else { n };
            let a = mix(self.seed << 40 ^ original);
            let b = mix(a);
            let at_ms = self.from_ms + original * (self.days * DAY_MS - 10_000) / self.count + b % 10_000;
            line.clear();
            event(&mut line, a, b, at_ms);
            out.write_all(&line).unwrap();
        }
    }

    const fn is_copy(self, n: u64) -> bool {
        !n.is_multiple_of(2) && (n / 2).is_multiple_of(self.twice)
    }
}

fn event(line: &mut Vec<u8>, a: u64, b: u64, at_ms: u64) {
    let at = jiff::Timestamp::from_millisecond(at_ms as i64).unwrap();
    let (camera, speed, plate) = (b % CAMERAS, a % 1_400, a % 10_000);
    writeln!(
        line,
        r#"{{"event_id":"{a:016x}{b:016x}","camera_id":"cam-{camera:04}","timestamp":"{at:.3}","vehicle_speed":{}.{},"plate_number":"AB{plate:04}CD"}}"#,
        speed / 10,
        speed % 10
    )
    .unwrap();
}

/// splitmix64.
const fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

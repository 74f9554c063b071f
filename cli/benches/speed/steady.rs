//! Whether landing stays as quick as it was: thousands of commits by one process, the last against the first.
//!
//! Events come at BENCH_STEADY_RATE a second (0, the default: as fast as they are landed) and each commit has 20,000 of
//! them, so 20,000 a second are a commit a second. What commits take is what the process counts itself, upload, log and
//! upkeep of the log together; memory is what the kernel says while it runs.

use super::events::{START_MS, mix};
use super::measure::{deltaworks, measure, number, result_of, term};
use super::sending::Sending;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PARTITIONS: u64 = 4;
const ROWS_A_COMMIT: u64 = 20_000;
/// Events that may be sent and not landed.
const AHEAD_MAX: u64 = 2_000_000;
/// Commits at each end that are compared.
const AT_EACH_END: u64 = 100;
const GOAL: f64 = 1.5;
const EVERY: Duration = Duration::from_millis(20);

/// What the process was at some moment.
#[derive(Clone, Copy)]
struct Sample {
    commits: u64,
    commit_ms: f64,
    rss_mib: f64,
    at: Instant,
}

/// Mean time of commits and peak of memory over some of them.
struct Stretch {
    commits: u64,
    commit_ms: f64,
    rss_mib: f64,
    commits_a_second: f64,
}

/// The first hundred commits against the last.
pub fn run(brokers: &str) -> Value {
    let (commits, rate) = (number("BENCH_STEADY_COMMITS", 5_000), number("BENCH_STEADY_RATE", 0));
    let folder = tempfile::tempdir().unwrap().keep();
    let topic = format!("bench-steady-{}", std::process::id());
    let bench = Bench { brokers: brokers.to_owned(), topic, folder: folder.clone() };
    measure(&mut bench.command(&["topics", "create", "small", "--partitions", &PARTITIONS.to_string()]));
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let told = folder.join("result.json");
    let began = Instant::now();
    let mut stream = bench.command(&["stream", "small", "--listen", &address.to_string()]);
    let stream = stream.arg("--result-file").arg(&told).spawn().unwrap();
    let landed = Arc::new(AtomicU64::new(0));
    let sending = std::thread::spawn({
        let landed = landed.clone();
        move || bench.send(commits * ROWS_A_COMMIT, rate, &landed)
    });
    let samples = watch(&stream, address, commits, &landed);
    let cost = term(stream, began);
    sending.join().unwrap();
    let line = result_of(&told);
    assert_eq!(line["pipelines"]["small"]["landed"], commits * ROWS_A_COMMIT, "{line}");
    let last = samples.last().unwrap().commits;
    // the very first one makes the tables
    let (first, last) = (stretch(&samples, 1, 1 + AT_EACH_END), stretch(&samples, last - AT_EACH_END, last));
    std::fs::remove_dir_all(folder).unwrap();
    let (time, memory) = (last.commit_ms / first.commit_ms, last.rss_mib / first.rss_mib);
    eprintln!("steady: commit time {time:.2}, memory {memory:.2}; the goal is {GOAL}");
    json!({
        "commits": commits, "rows_a_commit": ROWS_A_COMMIT, "first": first.json(), "last": last.json(),
        "commit_time_last_to_first": time, "memory_last_to_first": memory, "goal": GOAL, "stream": cost.json(),
    })
}

struct Bench {
    brokers: String,
    topic: String,
    folder: PathBuf,
}

impl Bench {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = deltaworks(&self.brokers, args);
        command.env("BENCH_TOPIC_SMALL", &self.topic).env("BENCH_GROUP", &self.topic);
        command.env("DELTAWORKS_LAKE", self.folder.join("lake"));
        command.env("BENCH_COMMIT_ROWS", ROWS_A_COMMIT.to_string());
        command
    }

    /// Sends events a second of event time per commit; never far ahead of what is landed.
    fn send(&self, count: u64, rate: u64, landed: &AtomicU64) {
        let topic = Sending::open(&self.brokers, &self.topic, 20);
        let (began, mut line) = (Instant::now(), Vec::with_capacity(256));
        for n in 0..count {
            if n.is_multiple_of(1_000) {
                let is_due = || rate == 0 || began.elapsed().as_secs_f64() * rate as f64 >= n as f64;
                while n > landed.load(Relaxed) + AHEAD_MAX || !is_due() {
                    sleep(Duration::from_millis(5));
                }
            }
            event(&mut line, n);
            topic.put(&line, (n % PARTITIONS) as i32, None);
        }
        topic.flush();
    }
}

/// An event that packs well: a hundred million of them have to lie in the broker.
fn event(line: &mut Vec<u8>, n: u64) {
    let at = jiff::Timestamp::from_millisecond((START_MS + n / (ROWS_A_COMMIT / 1_000)) as i64).unwrap();
    let (camera, speed) = (mix(n) % 1_000, n % 140);
    line.clear();
    write!(
        line,
        r#"{{"event_id":"{n:020}","camera_id":"cam-{camera:04}","timestamp":"{at:.3}","vehicle_speed":{speed}.5,"plate_number":"AB0001CD"}}"#
    )
    .unwrap();
}

/// Looks at the process until it has made so many commits' worth of rows.
fn watch(stream: &Child, address: SocketAddr, commits: u64, landed: &AtomicU64) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    loop {
        sleep(EVERY);
        let Some(text) = metrics(address) else { continue };
        let metric = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        landed.store(metric("deltaworks_landed_rows_total") as u64, Relaxed);
        let made = metric("deltaworks_commits_total") as u64;
        if samples.last().is_none_or(|last| last.commits < made) {
            let commit_ms = metric("deltaworks_commit_milliseconds_total");
            samples.push(Sample { commits: made, commit_ms, rss_mib: rss_mib(stream.id()), at: Instant::now() });
        }
        if landed.load(Relaxed) >= commits * ROWS_A_COMMIT {
            return samples;
        }
    }
}

/// Between two numbers of commits, as far as there are samples.
fn stretch(samples: &[Sample], from: u64, to: u64) -> Stretch {
    let inside: Vec<&Sample> = samples.iter().filter(|sample| (from..=to).contains(&sample.commits)).collect();
    let [first, .., last] = &inside[..] else { panic!("no samples of commits {from} to {to}") };
    let commits = last.commits - first.commits;
    Stretch {
        commits,
        commit_ms: (last.commit_ms - first.commit_ms) / commits as f64,
        rss_mib: inside.iter().map(|sample| sample.rss_mib).fold(0.0, f64::max),
        commits_a_second: commits as f64 / (last.at - first.at).as_secs_f64(),
    }
}

impl Stretch {
    fn json(&self) -> Value {
        json!({
            "commits": self.commits, "commit_ms": self.commit_ms, "rss_mib": self.rss_mib,
            "commits_per_second": self.commits_a_second,
        })
    }
}

/// What `/metrics` says; `None` before it is there.
fn metrics(address: SocketAddr) -> Option<String> {
    let mut connection = TcpStream::connect(address).ok()?;
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    connection.read_to_string(&mut text).ok()?;
    Some(text)
}

fn rss_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

//! How long an event takes from Kafka to a reader of the served table, while 50,000 a second come.
//!
//! Three processes and the services share the machine: this one sends, `stream` commits every second and serves windows of
//! three granularities over 1,000 cameras (`fixtures/bench/visible`), and a third, Python `deltalake`, watches the
//! served table for new versions. The lake is on the store.
//!
//! The aggregate has the greatest offset of each partition. A partition's events go into speed in the order of
//! offsets and none is late, so an event can be seen once any window of its partition has its offset or a greater
//! one: at the first version of which the watcher's rows of *every* granularity say so. Its latency is the instant at
//! which the watcher had read those rows, less the event's Kafka time, which is when it was handed to the producer.
//! Raw tells how many events have which Kafka time, to the ms; so the figures are those of all events, not of some.

use super::events::{CAMERAS, event, mix};
use super::measure::{deltaworks_in, measure, number, result_of, term};
use super::sending::Sending;
use rdkafka::ClientConfig;
use serde_json::{Value, json};
use std::fs::{File, read_to_string};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PARTITIONS: usize = 4;
/// ms.
const GOAL_MS: i64 = 3_000;
/// Events before this are not counted: tables are made, and caches are cold.
const WARM_UP: Duration = Duration::from_secs(10);
/// How long the last events may take to be seen.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the watcher saw: when, and the greatest offset of each partition that every granularity had.
struct Seen {
    at_ms: i64,
    last: [i64; PARTITIONS],
}

/// Events of one partition and Kafka time.
struct Bucket {
    partition: usize,
    sent_ms: i64,
    events: u64,
    last: i64,
}

/// Percentiles of the latency of all events.
pub fn run(brokers: &str) -> Value {
    let (rate, seconds) = (number("BENCH_VISIBLE_RATE", 50_000), number("BENCH_VISIBLE_SECONDS", 60));
    let folder = tempfile::tempdir().unwrap().keep();
    let topic = format!("bench-visible-{}", std::process::id());
    let lake = match std::env::var("DELTAWORKS_S3_BUCKET") {
        Ok(bucket) => format!("s3://{bucket}/{topic}"),
        Err(_) => panic!("DELTAWORKS_S3_BUCKET names the store's bucket: run `make bench`, which starts one"),
    };
    let bench = Bench { brokers: brokers.to_owned(), topic, lake, folder: folder.clone() };
    measure(&mut bench.command(&["topics", "create", "seen", "--partitions", &PARTITIONS.to_string()]));
    bench.send_history(number("BENCH_VISIBLE_HOURS", 0));
    let told = folder.join("result.json");
    let began = Instant::now();
    let stream = bench.command(&["stream"]).arg("--result-file").arg(&told).spawn().unwrap();
    let watcher = bench.watch();
    let counted_from = bench.send(rate, Duration::from_secs(seconds));
    let ends = bench.ends();
    let is_seen = || bench.seen().last().is_some_and(|seen| (0..PARTITIONS).all(|p| ends[p] <= seen.last[p]));
    let patience = Instant::now();
    while !is_seen() && patience.elapsed() < PATIENCE {
        sleep(Duration::from_millis(200));
    }
    let cost = term(stream, began);
    term(watcher, began);
    let stream = result_of(&told);
    assert!(is_seen(), "the last events, {ends:?}, are not seen: {stream}");
    let (latencies, events) = latencies(&bench.seen(), &bench.buckets(), counted_from);
    let at = |share: f64| percentile(&latencies, (events as f64 * share) as u64);
    eprintln!("visible: p50 {} ms, p99 {} ms, most {} ms; the goal is {GOAL_MS} ms", at(0.5), at(0.99), at(1.0));
    std::fs::remove_dir_all(folder).unwrap();
    json!({
        "events": events, "events_per_second": events as f64 / (seconds as f64 - WARM_UP.as_secs_f64()),
        "p50_ms": at(0.5), "p99_ms": at(0.99), "most_ms": at(1.0), "goal_p99_ms": GOAL_MS,
        "stream": cost.json(), "served": stream["served"], "speed": stream["speed"],
    })
}

struct Bench {
    brokers: String,
    topic: String,
    lake: String,
    folder: PathBuf,
}

impl Bench {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = deltaworks_in("visible", &self.brokers, args);
        command.env("BENCH_TOPIC_SEEN", &self.topic).env("BENCH_GROUP", &self.topic);
        command.env("DELTAWORKS_LAKE", &self.lake);
        command
    }

    /// Starts the reader.
    fn watch(&self) -> Child {
        let python = std::env::var("BENCH_PYTHON")
            .unwrap_or_else(|_| panic!("BENCH_PYTHON names a Python that has deltalake: run `make bench`"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/bench/visible/watch.py");
        let mut command = Command::new(python);
        command.arg(script).arg(format!("{}/served/seen", self.lake));
        command.stdout(File::create(self.folder.join("seen.jsonl")).unwrap()).spawn().unwrap()
    }

    /// Sends what a day has had so far, before anything is served: per window of 5 minutes of so many hours one event of each
    /// camera in each partition, so that there are all the states that there would be.
    fn send_history(&self, hours: u64) {
        let topic = self.topic();
        let (now_ms, mut line) = (now_ms().unsigned_abs(), Vec::with_capacity(256));
        for window in (0..hours * 12).rev() {
            for n in 0..CAMERAS * PARTITIONS as u64 {
                let a = mix(9 << 40 ^ window << 20 ^ n);
                line.clear();
                event(&mut line, a, n / PARTITIONS as u64, now_ms - window * 300_000);
                topic.put(&line, partition_of(n), Some(now_ms.cast_signed()));
            }
        }
        topic.flush();
    }

    /// Sends events of now at an even rate; returns the Kafka time from which on they count.
    fn send(&self, rate: u64, duration: Duration) -> i64 {
        let topic = self.topic();
        let (began, began_ms) = (Instant::now(), now_ms());
        let (mut sent, mut line) = (0_u64, Vec::with_capacity(256));
        while began.elapsed() < duration {
            let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
            let at_ms = now_ms();
            while sent < due {
                let a = mix(8 << 40 ^ sent);
                line.clear();
                event(&mut line, a, mix(a), at_ms.unsigned_abs());
                topic.put(&line, partition_of(sent), Some(at_ms));
                sent += 1;
            }
            sleep(Duration::from_millis(5));
        }
        topic.flush();
        eprintln!("{}: {sent} events in {:.1} s", self.topic, began.elapsed().as_secs_f64());
        began_ms + WARM_UP.as_millis() as i64
    }

    fn topic(&self) -> Sending<'_> {
        Sending::open(&self.brokers, &self.topic, 5)
    }

    /// The last offset of each partition.
    fn ends(&self) -> [i64; PARTITIONS] {
        let consumer: rdkafka::consumer::BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).set("group.id", &self.topic).create().unwrap();
        std::array::from_fn(|p| {
            rdkafka::consumer::Consumer::fetch_watermarks(&consumer, &self.topic, p as i32, PATIENCE).unwrap().1 - 1
        })
    }

    /// What the reader has seen so far, in order. A granularity that is not there yet has nothing.
    fn seen(&self) -> Vec<Seen> {
        let text = read_to_string(self.folder.join("seen.jsonl")).unwrap();
        let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let seen = whole.map(|line| Seen {
            at_ms: line["at_ms"].as_i64().unwrap(),
            last: std::array::from_fn(|p| {
                let of = |granularity: &str| line["last"][granularity][p].as_i64().unwrap_or(-1);
                ["5m", "1h", "1d"].map(of).into_iter().min().unwrap_or(-1)
            }),
        });
        seen.collect()
    }

    /// The events in raw by partition and Kafka time.
    fn buckets(&self) -> Vec<Bucket> {
        let sql = "SELECT at_partition, arrow_cast(_kafka_time, 'Int64') / 1000 AS sent_ms, count(*) AS events, \
                   max(at_offset) AS last FROM raw.seen GROUP BY 1, 2";
        let output = self.command(&["query", sql, "--format", "json"]).stdout(Stdio::piped()).output().unwrap();
        assert!(output.status.success());
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let bucket = |line: &[u8]| {
            let row: Value = serde_json::from_slice(line).unwrap();
            let whole = |name: &str| row[name].as_i64().unwrap();
            Bucket {
                partition: whole("at_partition") as usize,
                sent_ms: whole("sent_ms"),
                events: whole("events").unsigned_abs(),
                last: whole("last"),
            }
        };
        lines.map(bucket).collect()
    }
}

/// Latencies with how many events have them, ascending; and how many there are.
fn latencies(seen: &[Seen], buckets: &[Bucket], counted_from: i64) -> (Vec<(i64, u64)>, u64) {
    let mut found: Vec<(i64, u64)> = buckets
        .iter()
        .filter(|bucket| bucket.sent_ms >= counted_from)
        .map(|bucket| {
            let first = seen.partition_point(|seen| seen.last[bucket.partition] < bucket.last);
            (seen[first].at_ms - bucket.sent_ms, bucket.events)
        })
        .collect();
    found.sort_unstable();
    let events = found.iter().map(|(_, events)| events).sum();
    (found, events)
}

/// The latency that `rank` events are at most below.
fn percentile(latencies: &[(i64, u64)], rank: u64) -> i64 {
    let mut before = 0;
    let reached = latencies.iter().find(|(_, events)| {
        before += events;
        before >= rank
    });
    reached.or_else(|| latencies.last()).unwrap().0
}

/// Of the n-th event.
const fn partition_of(n: u64) -> i32 {
    (n % PARTITIONS as u64) as i32
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

//! Other readers look on while stream, batch and reconcile change a served table: each sees every window once and whole.
//!
//! Two kinds of windows are watched. Those of two days ago have all their events before anybody looks; then only copies
//! come, a second or more before their originals, each of which moves one count to another key of the same window. Those
//! of today fill up, open, close and are restated by late events, at an event time that runs ahead of the clock.

use super::support::{Ended, PATIENCE, World, now_ms, seconds};
use super::truth::Sender;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 2;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// How many five minutes there are that get nothing but copies.
const SETTLED: i64 = 6;
/// Events in each of these, beside those that stay for each key.
const MOVABLE: i64 = 12;
/// Minutes of event time in a second.
const SPEED: i64 = 2;
/// How long each stream goes on.
const STREAM: Duration = Duration::from_secs(6);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/e2e/served_watch.py");

/// The key is of the second, so that a copy of an event which is a second older has another one.
const PARTS: &str = "-- aggregate: parts
-- grain: one row per part and window
-- from: camera_events
-- windows: [5m, 1h, 1d]
-- timezone: Europe/Kyiv
SELECT CAST(date_part('second', observed_at) AS BIGINT) % 4 AS part, count(*) AS vehicles, sum(vehicle_speed) AS total
FROM camera_events GROUP BY CAST(date_part('second', observed_at) AS BIGINT) % 4
";

/// Sends what changes while others look on.
struct Traffic {
    /// Settled events: their numbers, partitions, and the event times that their newest copies have.
    movable: Vec<(usize, i32, i64)>,
    /// Where event time was when it began to run, and when that was.
    from_ms: i64,
    begun: Instant,
    turn: usize,
}

/// The script that looks on.
struct Watcher {
    process: Child,
    input: Option<ChildStdin>,
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn other_readers_see_each_window_once_and_whole() {
    let world = World::new("watch", PARTITIONS, &[]).set("lateness", "5m").set("idle_after", "36500d");
    fs::write(world.dir().join("sql/traffic/parts.sql"), PARTS).unwrap();
    let world = world.aggregate("parts").served_every("300ms");
    let mut sender = Sender::new(&world, PARTITIONS, 23);
    let (mut traffic, settled_ms) = Traffic::begin(&mut sender);
    world.catch_up(&[]);
    run(&world, &["batch"]);
    run(&world, &["reconcile"]);

    let facts = json!({
        "url": format!("{}/served/parts", world.lake),
        "keys": ["part"],
        "total": "vehicles",
        "settled_us": settled_ms * 1_000,
    });
    fs::write(world.dir().join("watch.json"), facts.to_string()).unwrap();
    let mut watcher = Watcher::start(&world.dir().join("watch.json"));
    let (begun, duration) = (Instant::now(), seconds("DELTAWORKS_WATCH_SECONDS", 40));
    let mut streams = 0;
    sender.while_doing(
        Duration::from_millis(100),
        |sender| traffic.send(sender),
        || {
            while begun.elapsed() < duration && watcher.is_alive() {
                let (stream, since) = (world.stream(&["--partitions", "0-1"]), Instant::now());
                while since.elapsed() < STREAM {
                    run(&world, &["batch"]);
                    run(&world, &["reconcile"]);
                }
                streams += 1;
                // every other one is killed wherever it is
                if streams % 2 == 0 {
                    assert!(stream.kill9());
                } else {
                    assert_eq!(stream.term().code(), 143);
                }
            }
        },
    );
    world.catch_up(&["--partitions", "0-1"]);
    run(&world, &["batch"]);
    run(&world, &["reconcile"]);
    watcher.verify(streams);
    world.verify(&sender.truth);
}

fn run(world: &World, verb: &[&str]) -> Ended {
    let ended = world.start(verb).wait(2 * PATIENCE);
    assert_eq!(ended.code(), 0, "{ended}");
    ended
}

impl Traffic {
    /// Sends the settled windows, and the first events of today; returns when the settled windows are over.
    fn begin(sender: &mut Sender) -> (Self, i64) {
        let first_ms = (now_ms() - 54 * HOUR_MS) / HOUR_MS * HOUR_MS;
        let mut movable = Vec::new();
        for window in 0..SETTLED {
            let start_ms = first_ms + window * 5 * MINUTE_MS;
            for part in 0..4 {
                // one for each key that stays
                sender.event((part % 2) as i32, start_ms + part * 1_000, None);
            }
            for n in 0..MOVABLE {
                let (partition, at_ms) = ((n % 2) as i32, start_ms + 4 * MINUTE_MS + n * 1_000);
                movable.push((sender.sent(), partition, at_ms));
                sender.event(partition, at_ms, None);
            }
        }
        let from_ms = (now_ms() - 6 * HOUR_MS) / HOUR_MS * HOUR_MS;
        for partition in 0..PARTITIONS {
            sender.event(partition, from_ms, None);
        }
        sender.settle();
        let traffic = Self { movable, from_ms, begun: Instant::now(), turn: 0 };
        // their day, too: nothing else is near
        (traffic, first_ms + 25 * HOUR_MS)
    }

    /// A few events on time, a late one now and then, and copies that move two counts.
    fn send(&mut self, sender: &mut Sender) {
        let now_ms = self.from_ms + self.begun.elapsed().as_millis() as i64 * 60 * SPEED;
        for n in 0..20 {
            sender.event((n % 2) as i32, now_ms + n * 250, None);
        }
        sender.event((self.turn % 2) as i32, now_ms - 12 * MINUTE_MS, None);
        sender.broken(0);
        for _ in 0..2 {
            let place = self.turn % self.movable.len();
            let (number, partition, at_ms) = &mut self.movable[place];
            // as often as there is room before it
            *at_ms -= 1_000;
            sender.copy(*number, *partition, Some(*at_ms));
            self.turn += 1;
        }
    }
}

impl Watcher {
    fn start(facts: &Path) -> Self {
        let python = std::env::var("E2E_PYTHON")
            .unwrap_or_else(|_| panic!("E2E_PYTHON names a Python that has the readers: run `make e2e`"));
        let mut process = Command::new(python)
            .arg(SCRIPT)
            .arg(facts)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        Self { process, input }
    }

    fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Ends it. Fails unless all readers have seen windows of all states come and change, and found nothing wrong.
    fn verify(mut self, streams: u32) {
        // the last change is to be seen, too
        sleep(Duration::from_secs(3));
        drop(self.input.take());
        let ended = self.process.wait_with_output().unwrap();
        let (told, said) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        eprintln!("watch: {streams} streams\n{told}");
        assert!(ended.status.success(), "{}: {said}\n{told}", ended.status);
        let readers: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(readers.len(), 3, "{told}");
        for reader in &readers {
            let seen = |what: &str| reader["moved"][what].as_u64() > Some(0);
            let all =
                ["provisional to provisional", "provisional to final", "final to restated", "restated to restated"];
            assert!(all.into_iter().all(seen), "not everything has happened: {reader}");
        }
    }
}

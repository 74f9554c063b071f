//! Rejects redriven and offsets moved, on real services: with transactions, by instants, behind retention.

use super::support::{PATIENCE, PIPELINE, World, eventually, now_ms};
use super::truth::Sender;
use deltaworks_jobs::kafka::producer::Producer;
use serde_json::{Value, json};
use std::fs;
use std::thread::sleep;
use std::time::Duration;

impl World {
    /// Runs a verb to its end, which must be this one.
    pub(super) fn ends(&self, args: &[&str], code: i32) -> Value {
        let ended = self.start(args).wait(PATIENCE);
        assert_eq!(ended.code(), code, "{ended}");
        ended.result()
    }

    pub(super) fn count(&self, of: &str) -> u64 {
        self.number(&format!("SELECT count(*) AS n FROM {of}"))
    }

    /// Every message has one row in raw or in rejects, and all of it can be proved.
    pub(super) fn whole(&self, messages: u64) {
        let places = |layer: &str| format!("SELECT concat(_partition, '/', _offset) AS place FROM {layer}.{PIPELINE}");
        let (raw, rejects) = (places("raw"), places("rejects"));
        let distinct = format!("SELECT count(DISTINCT place) AS n FROM ({raw} UNION ALL {rejects})");
        assert_eq!(self.number(&distinct), messages);
        for of in [raw, rejects] {
            let twice = format!("SELECT place FROM ({of}) GROUP BY place HAVING count(*) > 1");
            assert_eq!(self.query(&twice), Vec::<Value>::new());
        }
        self.ends(&["prove"], 0);
    }
}

fn text_of(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

/// A figure of all partitions.
fn sum(report: &Value, what: &str) -> u64 {
    report["partitions"].as_array().unwrap().iter().map(|p| p[what].as_u64().unwrap()).sum()
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn what_was_skipped_is_brought_back_by_a_rewind() {
    let world = World::new("moved", 2, &[]);
    let producer = Producer::open_transactional(&world.options, &world.topic).unwrap();
    let (mut inside, mut beside) = (Sender::over(producer, &world, 2, 21), Sender::new(&world, 2, 22));
    beside.send(300);
    beside.settle();
    world.catch_up(&[]);
    let before = world.landed();
    sleep(Duration::from_millis(50));
    let middle = text_of(now_ms());
    inside.producer.begin().unwrap();
    inside.send(150);
    inside.settle();
    inside.producer.commit().unwrap();
    inside.producer.begin().unwrap();
    inside.send(40);
    assert_eq!(inside.settle_as_never_readable(), 40);
    inside.producer.abort().unwrap();
    beside.send(100);
    beside.settle();
    let messages = (inside.truth.len() + beside.truth.len()) as u64;
    assert_eq!(messages, 550);

    // no message is so young: the end of the log
    let end = text_of(now_ms() + 3_600_000);
    let skip = ["offsets", "skip", PIPELINE, "--to-time", &end];
    assert_eq!(world.ends(&skip, 0)["status"], "planned");
    let done = world.ends(&[&skip[..], &["--yes"]].concat(), 0);
    assert_eq!(done["partitions"].as_array().unwrap().len(), 2, "{done}");
    assert_eq!(world.catch_up(&[])["landed"], 0);
    assert_eq!(world.landed(), before);
    world.ends(&["prove"], 0);

    let rewind = ["offsets", "rewind", PIPELINE, "--to-time", &middle];
    let plan = world.ends(&[&rewind[..], &["--dry-run"]].concat(), 0)["plan"].clone();
    assert_eq!((sum(&plan, "messages"), sum(&plan, "duplicates"), world.landed()), (250, 0, before), "{plan}");
    // one that is killed, wherever it is, and two at once
    let killed = world.start(&rewind);
    sleep(Duration::from_millis(400));
    drop(killed.kill9_unless_ended());
    let (one, other) = (world.start(&rewind), world.start(&rewind));
    for ended in [one.wait(PATIENCE), other.wait(PATIENCE)] {
        assert_eq!(ended.code(), 0, "{ended}");
        let report = ended.result();
        assert!(sum(&report, "messages") == 250 && sum(&report, "gaps") >= 42, "aborted ones and markers: {ended}");
    }
    world.whole(messages);
    world.ends(&[&rewind[..], &["--skip-exit-code"]].concat(), 99);
    assert_eq!(world.catch_up(&[])["landed"], 0);
    let audited = world.query("SELECT DISTINCT job FROM ops.runs ORDER BY job");
    assert_eq!(audited, [json!({ "job": "offsets rewind" }), json!({ "job": "offsets skip" })]);

    // the same by a backfill, named by Kafka's time: killed, and gone on with by two at once
    sleep(Duration::from_millis(50));
    let begun = text_of(now_ms());
    beside.send(200);
    beside.settle();
    world.ends(&[&skip[..], &["--yes"]].concat(), 0);
    assert_eq!(world.catch_up(&[])["landed"], 0);
    let create = ["backfill", "create", PIPELINE, "--from", "kafka", "--interval-start", &begun];
    let plan = world.ends(&[&create[..], &["--dry-run"]].concat(), 0);
    assert_eq!(plan["offsets"], 200, "{plan}");
    let killed = world.start(&create);
    sleep(Duration::from_millis(400));
    drop(killed.kill9_unless_ended());
    let (one, other) = (world.start(&create), world.start(&create));
    for ended in [one.wait(PATIENCE), other.wait(PATIENCE)] {
        assert_eq!(ended.code(), 0, "{ended}");
        assert_eq!(ended.result()["pieces_done"], 2, "{ended}");
    }
    world.whole(messages + 200);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn a_rewind_beyond_retention_says_what_is_gone() {
    let world = World::new("rewound", 1, &[("retention.ms", "6000")]);
    let mut sender = Sender::new(&world, 1, 23);
    for _ in 0..60 {
        sender.event(0, now_ms() - 60_000, None);
    }
    sender.settle();
    assert_eq!(world.catch_up(&[])["landed"], 60);
    let watermarks = world.watermarks();
    eventually("retention has removed everything", || watermarks.low_high(&world.topic, 0).unwrap().0 == 60);
    let rewind = ["offsets", "rewind", PIPELINE, "--partition", "0", "--to"];
    let gone = world.ends(&[&rewind[..], &["10"]].concat(), 6);
    assert!(gone["error"].as_str().unwrap().contains("no longer holds offsets below 60"), "{gone}");
    world.ends(&[&rewind[..], &["60", "--skip-exit-code"]].concat(), 99);
    assert_eq!(world.landed(), 60);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn a_mended_contract_redrives_what_it_takes() {
    let world = World::new("redriven", 3, &[]);
    let mut sender = Sender::new(&world, 3, 24);
    sender.send(2_000);
    sender.settle();
    world.catch_up(&[]);
    let fast = world.count("rejects.camera_events WHERE reason = 'out_of_range'");
    let before = world.landed();
    assert!(fast > 3, "{fast}");
    let contract = world.dir().join("schemas/traffic/camera_event.odcs.yaml");
    let text = fs::read_to_string(&contract).unwrap();
    fs::write(&contract, text.replacen("maximum: 400", "maximum: 1000", 1)).unwrap();
    let redrive = ["rejects", "redrive", PIPELINE];
    let plan = world.ends(&[&redrive[..], &["--dry-run"]].concat(), 0)["plan"].clone();
    assert_eq!(plan["passed"], json!({ "out_of_range": fast }), "{plan}");
    // one that is killed, wherever it is, and two at once beside a stream
    let killed = world.start(&redrive);
    sleep(Duration::from_millis(400));
    drop(killed.kill9_unless_ended());
    let stream = world.stream(&[]);
    let (one, other) = (world.start(&redrive), world.start(&redrive));
    for ended in [one.wait(PATIENCE), other.wait(PATIENCE)] {
        assert_eq!(ended.code(), 0, "{ended}");
    }
    assert_eq!(world.count("raw.camera_events WHERE _fill IS NOT NULL"), fast);
    sender.send(500);
    sender.settle();
    let messages = sender.truth.len() as u64;
    eventually("the stream has landed the rest", || {
        world.count("raw.camera_events WHERE _fill IS NULL") + world.count("rejects.camera_events") >= messages
    });
    let ended = stream.term();
    assert_eq!(ended.code(), 143, "{ended}");
    world.whole(messages);
    assert_eq!(world.count("rejects.camera_events_current WHERE resolution = 'redriven'"), fast);
    assert!(world.landed() > before + fast);
    world.ends(&[&redrive[..], &["--skip-exit-code"]].concat(), 99);
}

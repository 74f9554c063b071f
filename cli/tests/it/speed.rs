//! SPEED, from outside: whatever is killed, dropped or refused, the states count the rows of raw that are on
//! time and no repeats, each once, and landing goes its way.

use crate::harness::project::{CATCH_UP, Knobs, TOPIC, block_on};
use crate::harness::{Event, Feed, MockBroker, Project, Rng};
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lake::Lake as Tables;
use deltaworks_jobs::lake::faults::{Fault, Script, commits_of};
use deltaworks_jobs::land::meter::Meter;
use deltaworks_jobs::land::{DataLoss, Start, StreamOptions, stream_on};
use deltaworks_jobs::speed::{Health, Live};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const PARTITIONS: i32 = 4;

const AGGREGATE: &str = "-- aggregate: totals
-- grain: one row per residue and window
-- from: events
-- windows: [5m, 1h, 1d]
-- timezone: Europe/Kyiv
SELECT value % 3 AS residue, sum(value) AS total, count(*) AS n FROM events GROUP BY value % 3
";

/// What the states say of each base window, as a query of any reader finds it.
const STATES: &str = "SELECT arrow_cast(g00, 'Int64') AS start, sum(events) AS events, sum(late) AS late, \
     sum(repeats) AS repeats FROM speed.totals GROUP BY g00 ORDER BY 1";

/// What raw says of it.
const ROWS: &str = "SELECT arrow_cast(at, 'Int64') / 300000000 * 300000000 AS start, \
     sum(CASE WHEN _behind_ms <= 3600000 AND NOT _repeat THEN 1 ELSE 0 END) AS events, \
     sum(CASE WHEN _behind_ms > 3600000 THEN 1 ELSE 0 END) AS late, \
     sum(CASE WHEN _behind_ms <= 3600000 AND _repeat THEN 1 ELSE 0 END) AS repeats \
     FROM raw.events GROUP BY 1 ORDER BY 1";

struct Story {
    broker: MockBroker,
    project: Project,
    feed: Feed,
    rng: Rng,
}

impl Story {
    fn begin(seed: u64) -> Self {
        Self::committing(seed, "{every: 5s, rows: 30}")
    }

    fn committing(seed: u64, commit: &'static str) -> Self {
        let broker = MockBroker::start(TOPIC, PARTITIONS);
        let knobs =
            Knobs { commit, pipeline: vec!["lateness: 1h"], top: vec!["aggregates: [totals.sql]"], ..Knobs::default() };
        let project = Project::with(&broker, &knobs);
        project.put("totals.sql", AGGREGATE);
        Self { broker, project, feed: Feed::new(), rng: Rng(seed) }
    }

    /// Sends events in about the order of their time, some of them late and some twice.
    fn send(&mut self, count: usize) {
        let mut events: Vec<Event> = (0..count).map(|_| Event::good(&mut self.rng, 2)).collect();
        events.sort_by_key(|e| e.row.as_ref().unwrap().at_us);
        for n in (5..count).step_by(9) {
            let early = events[n / 2].clone();
            events.insert(n, early);
        }
        for n in (7..count - PARTITIONS as usize).step_by(11) {
            let again = events[n].clone();
            // to the same partition: they take turns
            events.insert(n + PARTITIONS as usize, again);
        }
        self.feed.send(&self.broker, PARTITIONS, &events);
    }

    #[track_caller]
    fn verify(&self) {
        self.feed.verify(&self.project);
        let (states, rows) = (self.project.rows(STATES), self.project.rows(ROWS));
        let wrong: Vec<_> = states.iter().zip(&rows).filter(|(state, row)| state != row).collect();
        assert!(
            wrong.is_empty() && states.len() == rows.len(),
            "{} and {} windows: {wrong:?}",
            states.len(),
            rows.len()
        );
        let sum = |name: &str| rows.iter().map(|r| r[name].as_i64().unwrap()).sum::<i64>();
        assert!(sum("events") > 0 && sum("late") > 0 && sum("repeats") > 0, "the story has all of them");
    }

    fn speed(&self, verb: &[&str]) -> Value {
        let args: Vec<&str> = ["speed"].iter().chain(verb).copied().collect();
        self.project.run(&args).expect(0).result()["aggregates"]["totals"].clone()
    }
}

#[test]
fn states_follow_raw_and_may_be_dropped() {
    let mut story = Story::begin(1);
    story.send(90);
    let result = story.project.catch_up().expect(0).result();
    assert_eq!(result["speed"]["totals"]["health"], "live", "{result}");
    story.verify();
    story.project.run(&["speed", "catch-up", "--skip-exit-code"]).expect(99);
    std::fs::remove_dir_all(story.project.path().join("lake/speed")).unwrap();
    let plan = story.speed(&["catch-up", "--dry-run"]);
    assert_eq!((&plan["anew"], plan["offsets"].as_i64() > Some(90)), (&json!("missing"), true), "{plan}");
    assert!(!story.project.path().join("lake/speed").exists(), "a plan writes nothing");
    let done = story.speed(&["catch-up", "totals"]);
    assert_eq!((&done["anew"], &done["offsets"]), (&json!("missing"), &plan["offsets"]));
    story.verify();
    assert_eq!(story.speed(&["rebuild"])["anew"], "asked");
    story.verify();
    story.send(40);
    story.project.catch_up().expect(0);
    story.verify();
    let unknown = story.project.run(&["speed", "rebuild", "nothing"]).expect(2);
    assert!(unknown.stderr.contains("there is no aggregate `nothing`"), "{}", unknown.stderr);
}

/// Kills a run at the `nth` time that it comes to `point`, after a first run that ended well.
fn killed_at(point: &str, nth: u64, mut story: Story, verb: &[&str]) {
    if verb[0] == "stream" {
        story.send(40);
        story.project.catch_up().expect(0);
        story.send(120);
    } else {
        story.send(90);
        story.project.catch_up().expect(0);
        std::fs::remove_dir_all(story.project.path().join("lake/speed")).unwrap();
    }
    story.project.start_faulty(&format!("{point}={}*off->return", nth - 1), verb).wait().expect_fault(point);
    let result = story.project.catch_up().expect(0).result();
    assert_eq!(result["speed"]["totals"]["health"], "live", "{result}");
    story.verify();
    story.project.run(&["speed", "catch-up", "--skip-exit-code"]).expect(99);
}

#[test]
fn killed_between_raw_and_speed() {
    killed_at("after_raw_commit", 2, Story::begin(2), &CATCH_UP);
}

#[test]
fn killed_before_a_speed_commit() {
    killed_at("before_speed_commit", 2, Story::begin(3), &CATCH_UP);
}

#[test]
fn killed_after_a_speed_commit() {
    killed_at("after_speed_commit", 2, Story::begin(4), &CATCH_UP);
}

/// States of a date are merged once it has many files.
#[test]
fn killed_before_states_are_merged() {
    killed_at("before_speed_merge", 1, Story::committing(9, "{every: 5s, rows: 2}"), &CATCH_UP);
}

#[test]
fn killed_before_a_rebuild_is_there() {
    killed_at("before_speed_catch_up", 1, Story::begin(5), &["speed", "rebuild"]);
}

#[test]
fn killed_after_a_rebuild() {
    killed_at("after_speed_catch_up", 1, Story::begin(6), &["speed", "catch-up"]);
}

#[test]
fn a_stream_that_is_told_to_end_ends_and_loses_nothing() {
    let mut story = Story::begin(8);
    story.send(60);
    story.project.catch_up().expect(0);
    let child = story.project.start(&["stream", "--partitions", "0-3"]);
    let before: i64 = story.project.nexts().values().sum();
    story.send(120);
    let begun = Instant::now();
    while story.project.nexts().values().sum::<i64>() < before + 120 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it lands nothing");
        std::thread::sleep(Duration::from_millis(50));
    }
    child.signal("TERM");
    let told = Instant::now();
    let ended = child.wait().expect(143);
    assert!(told.elapsed() < Duration::from_secs(20), "it took {:?}", told.elapsed());
    assert_ne!(ended.result()["speed"]["totals"]["health"], "degraded", "{}", ended.result());
    story.project.catch_up().expect(0);
    story.verify();
}

#[test]
fn a_store_that_refuses_speed_does_not_stop_landing() {
    let mut story = Story::begin(7);
    story.send(120);
    let settings = story.project.settings();
    let clock = Clock::system();
    let options = StreamOptions {
        run_id: deltaworks_jobs::run_id(),
        until_caught_up: true,
        start: Start::Earliest,
        partitions: Some((0..PARTITIONS).collect()),
        data_loss: DataLoss::Stop,
        give_up_after: Duration::from_secs(60),
        drain_deadline: Duration::from_secs(9),
    };
    let meters: Vec<_> = settings.pipelines.iter().map(|p| Arc::new(Meter::new(&p.name, clock.now_ms()))).collect();
    let mut script = Script::new();
    let refused = script.add(Fault::DropPut, commits_of("speed/totals"), 0, usize::MAX);
    let lake = Tables::open(&settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let stop = CancellationToken::new();
    let (report, speed) = block_on(async {
        let live = Live::start_on(&lake, &settings, &settings.pipelines, "run", &stop).await;
        let taps = live.taps().clone();
        let of = &settings.pipelines;
        let report = stream_on(&lake, &settings, of, &options, &meters, &clock, &stop, &taps).await;
        drop(taps);
        (report, live.end().await)
    });
    assert!(report.error.is_none(), "{report:?}");
    assert!(refused.fired() > 1, "the store was asked {} times", refused.fired());
    let totals = &speed["totals"];
    assert_eq!((totals.health, totals.failures), (Health::Degraded, 1), "{totals:?}");
    story.feed.verify(&story.project);
    // the store is well again: the next run makes it good, from raw
    let result = story.project.catch_up().expect(0).result();
    assert_eq!(
        (&result["speed"]["totals"]["health"], &result["pipelines"]["events"]["landed"]),
        (&json!("live"), &json!(0))
    );
    story.verify();
}

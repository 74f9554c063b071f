//! RECONCILE, from outside: whatever is killed at whatever step, a reader finds each window once, exact where batch has
//! covered it and as speed has it elsewhere.

use crate::harness::project::{Knobs, TOPIC};
use crate::harness::{Event, Feed, MockBroker, Project, Rng};
use serde_json::{Value, json};

const PARTITIONS: i32 = 4;

const AGGREGATE: &str = "-- aggregate: totals
-- grain: one row per residue and window
-- from: events
-- windows: [5m, 1h, 1d]
-- timezone: Europe/Kyiv
SELECT value % 3 AS residue, sum(value) AS total, count(*) AS n FROM events GROUP BY value % 3
";

/// Windows that are served twice, or whose values are not batch's where batch has the window.
const WRONG: &str = "SELECT s.granularity, s.window_start, s.residue, count(*) AS times \
     FROM served.totals s LEFT JOIN batch.totals b ON s.granularity = b.granularity \
       AND s.window_start = b.window_start AND (s.residue IS NOT DISTINCT FROM b.residue) \
     GROUP BY 1, 2, 3 HAVING count(*) > 1 OR max(CASE \
       WHEN b.window_start IS NULL AND s.state = 'provisional' THEN 0 \
       WHEN b.window_start IS NOT NULL AND s.state <> 'provisional' AND s.n = b.n \
         AND (s.total IS NOT DISTINCT FROM b.total) THEN 0 ELSE 1 END) > 0";

/// Windows of batch that are not served.
const MISSING: &str = "SELECT b.granularity, b.window_start, b.residue FROM batch.totals b \
     LEFT JOIN served.totals s ON s.granularity = b.granularity AND s.window_start = b.window_start \
       AND (s.residue IS NOT DISTINCT FROM b.residue) WHERE s.window_start IS NULL";

const STATES: &str = "SELECT state, count(*) AS windows FROM served.totals GROUP BY 1 ORDER BY 1";

struct Story {
    broker: MockBroker,
    project: Project,
    feed: Feed,
    rng: Rng,
}

impl Story {
    fn begin(seed: u64, served: Option<&'static str>) -> Self {
        let broker = MockBroker::start(TOPIC, PARTITIONS);
        let mut top = vec!["aggregates: [totals.sql]"];
        top.extend(served);
        let knobs = Knobs { commit: "{every: 5s, rows: 30}", pipeline: vec!["lateness: 1h"], top, ..Knobs::default() };
        let project = Project::with(&broker, &knobs);
        project.put("totals.sql", AGGREGATE);
        Self { broker, project, feed: Feed::new(), rng: Rng(seed) }
    }

    fn send(&mut self, count: usize) {
        let mut events: Vec<Event> = (0..count).map(|_| Event::good(&mut self.rng, 2)).collect();
        events.sort_by_key(|e| e.row.as_ref().unwrap().at_us);
        for n in (5..count).step_by(9) {
            let early = events[n / 2].clone();
            events.insert(n, early);
        }
        self.feed.send(&self.broker, PARTITIONS, &events);
    }

    #[track_caller]
    fn verify(&self) {
        for what in [WRONG, MISSING] {
            let found = self.project.rows(what);
            assert!(found.is_empty(), "{found:?}");
        }
    }

    /// Windows by state.
    fn states(&self) -> Value {
        let rows = self.project.rows(STATES);
        rows.iter().map(|row| (row["state"].as_str().unwrap().to_owned(), row["windows"].clone())).collect()
    }

    fn run(&self, verb: &[&str]) -> Value {
        self.project.run(verb).expect(0).result()
    }
}

#[test]
fn windows_are_provisional_first_and_then_final() {
    let mut story = Story::begin(1, None);
    story.send(90);
    story.project.catch_up().expect(0);
    let plan = story.run(&["reconcile", "--dry-run"]);
    assert_eq!(plan["status"], "planned", "{plan}");
    assert!(!story.project.path().join("lake/served").exists(), "a plan writes nothing");
    let done = story.run(&["reconcile"]);
    assert_eq!((&done["status"], &done["speed"]), (&json!("done"), &json!({ "totals": "used" })), "{done}");
    assert_eq!(done["units"]["reconciled"], plan["units"].as_array().unwrap().len(), "{done}");
    let states = story.states();
    assert_eq!(
        (states["provisional"] == done["windows"]["provisional"], states.get("final")),
        (true, None),
        "{states}"
    );
    story.run(&["batch"]);
    let done = story.run(&["reconcile", "totals"]);
    story.verify();
    let states = story.states();
    assert!(states["final"] == done["windows"]["final"] && states["final"].as_i64() > Some(0), "{states} {done}");
    assert!(states.get("provisional").is_none(), "a bounded stream knows that all of it is complete: {states}");
    let idle = story.project.run(&["reconcile", "--skip-exit-code"]).expect(99).result();
    assert_eq!((&idle["status"], &idle["units"]["reconciled"]), (&json!("nothing_to_do"), &json!(0)), "{idle}");
    let unknown = story.project.run(&["reconcile", "nothing"]).expect(2);
    assert!(unknown.stderr.contains("there is no aggregate `nothing`"), "{}", unknown.stderr);
}

/// Kills a reconcile at the `nth` time that it comes to `point`.
fn killed_at(point: &str, nth: u64) {
    let mut story = Story::begin(nth + 7, None);
    story.send(60);
    story.project.catch_up().expect(0);
    story.run(&["reconcile"]);
    story.send(60);
    story.project.catch_up().expect(0);
    story.run(&["batch"]);
    story.project.start_faulty(&format!("{point}={}*off->return", nth - 1), &["reconcile"]).wait().expect_fault(point);
    story.run(&["reconcile"]);
    story.verify();
    story.project.run(&["reconcile", "--skip-exit-code"]).expect(99);
}

#[test]
fn killed_before_a_file_is_written() {
    killed_at("before_served_write", 2);
}

#[test]
fn killed_between_a_file_and_its_commit() {
    killed_at("before_served_commit", 3);
}

#[test]
fn killed_after_a_commit() {
    killed_at("after_served_commit", 2);
}

/// What is served, and how it came to that: all that does not depend on the run.
const TOLD: [&str; 2] = [
    "SELECT granularity, window_start, residue, state, generation, total, n, late FROM served.totals ORDER BY 1, 2, 3",
    "SELECT granularity, window_start, residue, generation, served['total'] AS served, base['total'] AS base, \
     arrived['total'] AS arrived, late['total'] AS late, dedup['total'] AS dedup, unexplained \
     FROM drift.totals ORDER BY 1, 2, 3, 4",
];

/// Kills a reconcile that has late events to explain at the `nth` time that it comes to `point`, if any, and goes on;
/// what is told in the end.
fn told_after(point: Option<(&str, u64)>) -> Vec<Vec<Value>> {
    let mut story = Story::begin(11, None);
    story.send(60);
    story.project.catch_up().expect(0);
    story.run(&["reconcile"]);
    // spread over the same dates, and so behind by hours
    story.send(60);
    story.project.catch_up().expect(0);
    story.run(&["batch"]);
    if let Some((point, nth)) = point {
        let faults = format!("{point}={}*off->return", nth - 1);
        story.project.start_faulty(&faults, &["reconcile"]).wait().expect_fault(point);
    }
    story.run(&["reconcile"]);
    story.verify();
    story.project.run(&["reconcile", "--skip-exit-code"]).expect(99);
    TOLD.map(|sql| story.project.rows(sql)).to_vec()
}

#[test]
fn killed_while_drift_is_told() {
    let undisturbed = told_after(None);
    let drift = undisturbed.last().unwrap();
    assert!(drift.len() > 10 && drift.iter().all(|row| row["unexplained"] == 0), "{drift:?}");
    for point in [("before_drift_write", 1), ("before_drift_commit", 2), ("after_drift_commit", 2)] {
        assert_eq!(told_after(Some(point)), undisturbed, "{point:?}");
    }
}

/// What batch has published is not served yet; then it is.
#[test]
fn batch_is_killed_half_way() {
    let mut story = Story::begin(5, None);
    story.send(90);
    story.project.catch_up().expect(0);
    story.run(&["reconcile"]);
    let point = "after_batch_commit";
    story.project.start_faulty(&format!("{point}=1*off->return"), &["batch"]).wait().expect_fault(point);
    story.run(&["reconcile"]);
    story.verify();
    story.run(&["batch"]);
    story.run(&["reconcile"]);
    story.verify();
}

#[test]
fn a_stream_reconciles_by_itself() {
    let mut story = Story::begin(3, Some("served: { every: 100ms }"));
    story.send(120);
    let result = story.project.catch_up().expect(0).result();
    let served = &result["served"];
    assert!(served["passes"].as_i64() > Some(0) && served["why"].is_null(), "{result}");
    story.project.run(&["reconcile", "--skip-exit-code"]).expect(99);
    let states = story.states();
    assert!(states["provisional"].as_i64() > Some(0), "{states}");
    // what stands in the way of a served table stands in the way of nothing else
    std::fs::remove_dir_all(story.project.path().join("lake/served")).unwrap();
    std::fs::write(story.project.path().join("lake/served"), "no folder").unwrap();
    story.send(60);
    let result = story.project.catch_up().expect(0).result();
    assert!(result["served"]["failures"].as_i64() > Some(0) && result["served"]["why"].is_string(), "{result}");
    story.feed.verify(&story.project);
}

//! Rejects, from outside: listed, redriven and discarded; killed at every step, twice, and beside a running stream.

use crate::harness::events::{CONTRACT, DAY_US, Values};
use crate::harness::project::{CATCH_UP, Knobs, TOPIC};
use crate::harness::{Ended, Event, Feed, MockBroker, Project, Rng, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

const PARTITIONS: i32 = 4;
const REDRIVE: [&str; 3] = ["rejects", "redrive", "events"];
/// 2024-03-01T00:00:00Z.
const FIRST_US: i64 = 1_709_251_200_000_000;

pub const AGGREGATE: &str = "-- aggregate: totals
-- grain: one row per residue and window
-- from: events
-- windows: [1h, 1d]
SELECT value % 3 AS residue, sum(value) AS total, count(*) AS n FROM events GROUP BY value % 3
";

/// The contract that lets greater values in.
pub fn mended() -> String {
    let mended = CONTRACT.replace("version: 1.0.0", "version: 2.0.0").replace("maximum: 1000", "maximum: 10000");
    assert!(mended.contains("version: 2.0.0") && mended.contains("maximum: 10000"));
    mended
}

/// An event that only the mended contract takes.
fn fixable(n: u64, at_us: i64) -> Event {
    let values = Values { id: format!("f-{n:x}"), at_us, value: 5_000 + (n % 100) as i64, note: None };
    Event { reason: Some("out_of_range"), ..Event::of(values) }
}

/// Good events, events that a mended contract takes, and events that none does: as many of each.
pub fn mix(rng: &mut Rng, first: u64, count: u64) -> Vec<Event> {
    (first..first + count)
        .flat_map(|n| {
            let at_us = FIRST_US + rng.below(2 * DAY_US as u64) as i64;
            [Event::good(rng, 2), fixable(n, at_us), Event::some_bad_of(rng, "not_json")]
        })
        .collect()
}

/// A project that has landed `count` events of each kind, and has a mended contract since.
fn landed(seed: u64, count: u64) -> (MockBroker, Project, Feed) {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &mix(&mut Rng(seed), 0, count));
    project.catch_up().expect_worked();
    project.deploy(&mended());
    (broker, project, feed)
}

fn lines(ended: &Ended) -> Vec<Value> {
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How many messages `rejects list` shows, by reason and resolution.
fn listed(project: &Project, more: &[&str]) -> Vec<(String, Value, i64)> {
    let args = [&["rejects", "list", "events", "--format", "json"], more].concat();
    let mut rows: Vec<_> = lines(&project.run(&args).expect(0))
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            (text("reason"), row["resolution"].clone(), row["messages"].as_i64().unwrap())
        })
        .collect();
    rows.sort_by_key(|(reason, resolution, _)| (reason.clone(), resolution.to_string()));
    rows
}

fn resolutions(project: &Project) -> i64 {
    let sql = "SELECT count(*) AS n, count(DISTINCT concat(_topic, _partition, '/', _offset, resolution)) AS places \
               FROM ops.resolutions";
    let rows = project.rows(sql);
    assert_eq!(rows[0]["n"], rows[0]["places"], "a place has a resolution twice");
    rows[0]["n"].as_i64().unwrap()
}

#[test]
fn what_a_mended_contract_takes_is_redriven_once() {
    let (_broker, project, feed) = landed(201, 20);
    let row = |reason: &str, resolution: Value, n| (reason.to_owned(), resolution, n);
    let open = vec![row("not_json", Value::Null, 20), row("out_of_range", Value::Null, 20)];
    assert_eq!(listed(&project, &[]), open);

    let planned = project.run(&[&REDRIVE[..], &["--dry-run"]].concat()).expect(0).result();
    let counts = json!([{ "out_of_range": 20 }, { "not_json": 20 }, 0]);
    let plan = &planned["plan"];
    assert_eq!(
        (&planned["status"], json!([plan["passed"], plan["refused"], plan["landed"]])),
        (&"planned".into(), counts)
    );
    assert_eq!(listed(&project, &[]), open, "a plan writes nothing");

    let done = project.run(&REDRIVE).expect(0).result();
    assert_eq!(
        json!([done["passed"], done["refused"], done["landed"]]),
        json!([{ "out_of_range": 20 }, { "not_json": 20 }, 20])
    );
    assert_eq!(done["status"], "done");
    assert_eq!((feed.verify(&project).both, resolutions(&project)), (20, 20));
    project.run(&[&REDRIVE[..], &["--skip-exit-code"]].concat()).expect(99);
    feed.verify(&project);

    assert_eq!(listed(&project, &[]), [row("not_json", Value::Null, 20)]);
    assert_eq!(
        listed(&project, &["--all"]),
        [row("not_json", Value::Null, 20), row("out_of_range", "redriven".into(), 20)]
    );
    let shown = lines(&project.run(&["rejects", "show", "events", "--limit", "99", "--format", "json"]).expect(0));
    assert!(shown.len() == 20 && shown.iter().all(|row| row["reason"] == "not_json"), "{shown:?}");
    let all = ["rejects", "show", "events", "--all", "--reason", "out_of_range", "--format", "json"];
    let shown = lines(&project.run(&all).expect(0));
    assert!(shown.len() == 10 && shown.iter().all(|row| row["resolution"] == "redriven"), "{shown:?}");
    let sql = "SELECT count(*) AS n, count(fill) AS fills, count(resolved_at) AS times FROM rejects.events_current \
               WHERE resolution = 'redriven' AND contract_version = '1.0.0'";
    assert_eq!(project.rows(sql), [json!({ "n": 20, "fills": 20, "times": 20 })]);
    project.run(&["prove"]).expect(0);
}

#[test]
fn what_is_given_up_says_why_and_stays_readable() {
    let (_broker, project, feed) = landed(202, 12);
    let discard = ["rejects", "discard", "events", "--reason", "not_json", "--because", "a producer that was cut off"];
    let planned = project.run(&[&discard[..], &["--dry-run"]].concat()).expect(0).result();
    assert_eq!(planned["plan"]["discarded"], json!({ "not_json": 12 }));
    let done = project.run(&discard).expect(0).result();
    assert_eq!(done["discarded"], json!({ "not_json": 12 }));
    project.run(&[&discard[..], &["--skip-exit-code"]].concat()).expect(99);
    let sql = "SELECT count(*) AS n FROM rejects.events_current WHERE because = 'a producer that was cut off' \
               AND resolution = 'discarded' AND payload IS NOT NULL";
    assert_eq!(project.rows(sql), [json!({ "n": 12 })]);
    let redriven = project.run(&REDRIVE).expect(0).result();
    assert_eq!((&redriven["landed"], &redriven["left_out"]["discarded"]), (&12.into(), &12.into()), "{redriven}");
    // asked for by name they are looked at again, and are no better
    let again = project.run(&[&REDRIVE[..], &["--discarded"]].concat()).expect(0).result();
    assert_eq!((&again["refused"], &again["landed"]), (&json!({ "not_json": 12 }), &0.into()), "{again}");
    assert_eq!(listed(&project, &[]), []);
    feed.verify(&project);
    project.run(&["prove"]).expect(0);
}

#[test]
fn redrive_killed_at_each_step_goes_on() {
    let (_broker, project, feed) = landed(203, 20);
    let kills = [
        ("after_fill_rejects", "0"),
        ("before_fill_commit", "0"),
        ("after_fill_commit", "1"),
        ("before_resolutions", "2"),
        ("after_resolutions", "3"),
    ];
    for (point, partition) in kills {
        let some = [&REDRIVE[..], &["--partition", partition]].concat();
        project.start_faulty(&format!("{point}=return"), &some).wait().expect_fault(point);
        feed.verify(&project);
        project.run(&["prove"]).expect(0);
        if point != "after_fill_rejects" {
            let before = feed.verify(&project).both;
            let done = project.run(&some).expect(0).result();
            let (landed, repaired) = (done["landed"].as_u64().unwrap(), done["repaired"].as_u64().unwrap());
            let was_in_raw = !point.starts_with("before_fill");
            assert_eq!((landed == 0, repaired > 0), (was_in_raw, was_in_raw && point != "after_resolutions"), "{done}");
            assert_eq!(feed.verify(&project).both - before, landed as usize);
            assert_eq!(resolutions(&project) as usize, feed.verify(&project).both, "{point}");
        }
    }
    assert_eq!((feed.verify(&project).both, resolutions(&project)), (20, 20));
    project.run(&[&REDRIVE[..], &["--skip-exit-code"]].concat()).expect(99);
    project.run(&["prove"]).expect(0);
}

#[test]
fn discard_killed_at_each_step_goes_on() {
    let (_broker, project, feed) = landed(204, 8);
    let discard = ["rejects", "discard", "events", "--because", "never mind"];
    project.start_faulty("before_resolutions=return", &discard).wait().expect_fault("before_resolutions");
    assert_eq!(listed(&project, &[]).len(), 2);
    project.start_faulty("after_resolutions=return", &discard).wait().expect_fault("after_resolutions");
    assert_eq!(listed(&project, &[]), []);
    project.run(&[&discard[..], &["--skip-exit-code"]].concat()).expect(99);
    assert_eq!((resolutions(&project), feed.verify(&project).both), (16, 0));
}

#[test]
fn two_redrives_beside_a_running_stream_add_each_row_once() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 50ms, rows: 20}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(205));
    // it goes on with the contract that it began with
    let mut stream = project.start(&["stream", "--partitions", "0-3"]);
    stream.wait_for("partitions begin");
    project.deploy(&mended());
    let mut redriven = 0;
    for round in 0..6 {
        feed.send(&broker, PARTITIONS, &mix(&mut rng, round * 20, 20));
        let landed = || project.nexts().values().sum::<i64>() >= feed.len() as i64;
        wait_until("what was sent is landed", landed);
        let (one, other) = (project.start(&REDRIVE), project.start(&REDRIVE));
        for ended in [one.wait().expect(0), other.wait().expect(0)] {
            redriven += ended.result()["landed"].as_i64().unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    stream.signal("TERM");
    stream.wait().expect(143);
    assert_eq!(redriven, 120);
    project.run(&REDRIVE).expect(0);
    assert_eq!((feed.verify(&project).both, resolutions(&project)), (120, 120));
    project.run(&CATCH_UP).expect_idle();
    project.run(&["prove"]).expect(0);
}

/// Rows that are redriven before a window is first complete are its fills, later ones restate it; each is explained.
#[test]
fn batch_takes_redriven_rows_up_and_drift_names_them() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let knobs = Knobs { pipeline: vec!["lateness: 1h"], top: vec!["aggregates: [totals.sql]"], ..Knobs::default() };
    let project = Project::with(&broker, &knobs);
    project.put("totals.sql", AGGREGATE);
    let mut feed = Feed::new();
    let mut events = mix(&mut Rng(206), 0, 30);
    events.retain(|event| event.reason != Some("not_json"));
    events.sort_by_key(|event| event.row.as_ref().unwrap().at_us);
    feed.send(&broker, PARTITIONS, &events);
    // all partitions reach the end of both days
    let late =
        |n: u64| Event::of(Values { id: format!("z-{n:x}"), at_us: FIRST_US + 3 * DAY_US, value: 1, note: None });
    feed.send(&broker, PARTITIONS, &(0..4).map(late).collect::<Vec<_>>());
    project.catch_up().expect_worked();
    project.deploy(&mended());
    let serve = || {
        for verb in [&["batch"][..], &["reconcile"], &["prove"]] {
            project.run(verb).expect(0);
        }
        let shown = project.run(&["drift", "show", "totals", "--by", "granularity", "--format", "json"]).expect(0);
        let rows = lines(&shown);
        let day = rows.iter().find(|row| row["granularity"] == "1d").unwrap_or_else(|| panic!("{rows:?}")).clone();
        assert_eq!(day["unexplained"], 0, "{day}");
        (day["fills"].as_i64().unwrap(), day["arrived"].as_i64().unwrap())
    };
    let first =
        project.run(&[&REDRIVE[..], &["--partition", "0"]].concat()).expect(0).result()["landed"].as_i64().unwrap();
    assert!(first > 0 && first < 30);
    let (fills, arrived) = serve();
    assert_eq!(fills, first);
    let rest = project.run(&REDRIVE).expect(0).result()["landed"].as_i64().unwrap();
    assert_eq!(first + rest, 30);
    // each generation tells its whole way
    let then = serve();
    assert_eq!(then.1, arrived + rest);
    assert!(then.0 >= fills, "{then:?}");
    let restated = "SELECT count(*) AS n FROM served.totals WHERE state = 'restated'";
    assert!(project.rows(restated)[0]["n"].as_i64().unwrap() > 0);
    let counted = project.rows("SELECT sum(n) AS n FROM served.totals WHERE granularity = '1d'");
    assert_eq!(counted, [json!({ "n": 64 })], "60 of two days, and four of a third");
    feed.verify(&project);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let (_broker, project, _) = landed(207, 4);
    let says = |args: &[&str], text: &str| {
        let ended = project.run(args).expect(2);
        assert!(ended.stderr.contains(text), "{args:?}: {}", ended.stderr);
    };
    says(&["rejects", "redrive", "events", "--reason", "no_such"], "there is no reason code `no_such`");
    says(&["rejects", "show", "events", "--reason", "no_such"], "wrong_type");
    says(&["rejects", "redrive", "nobody"], "there is no pipeline `nobody`");
    says(&["rejects", "discard", "events"], "--because");
    says(&["rejects", "discard", "events", "--because", " "], "without a reason");
    says(&["rejects", "redrive", "events", "--from-offset", "3"], "add `--partition`");
    says(
        &[
            "rejects",
            "redrive",
            "events",
            "--interval-start",
            "2024-01-02T00:00:00Z",
            "--interval-end",
            "2024-01-02T00:00:00Z",
        ],
        "is empty",
    );
    says(&["query", "SELECT 1 FROM rejects.events_current AS OF 1"], "has no versions");
    says(&["query", "SELECT 1 FROM rejects.nobody_current"], "there is no table `rejects.nobody`");
    assert_eq!(project.rows("SELECT count(*) AS n FROM rejects.events_current"), [json!({ "n": 8 })]);
}

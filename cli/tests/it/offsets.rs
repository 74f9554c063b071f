//! Offsets moved by hand, from outside: the plan first, killed at every step, beside a running stream.

use crate::harness::project::{CATCH_UP, Knobs, TOPIC};
use crate::harness::{Event, Feed, MockBroker, Project, Rng, wait_until};
use serde_json::{Value, json};

const PARTITIONS: i32 = 4;

/// Two rounds of 80 events, of which the first is landed: each partition stands at 20 of 40.
fn begun(seed: u64) -> (MockBroker, Project, Feed) {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let (mut feed, mut rng) = (Feed::new(), Rng(seed));
    feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 80, 20));
    project.catch_up().expect_worked();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 80, 20));
    (broker, project, feed)
}

fn nexts(project: &Project) -> Vec<i64> {
    project.nexts().into_values().collect()
}

/// Job and verdict of every audit row.
fn audit(project: &Project) -> Vec<Value> {
    if !project.path().join("lake/ops/runs/_delta_log").exists() {
        return Vec::new();
    }
    project.rows(
        "SELECT job, verdict, count(*) AS n FROM ops.runs WHERE detail LIKE '%partition%' GROUP BY 1, 2 ORDER BY 1, 2",
    )
}

fn audited(job: &str, begun: u64, done: u64) -> Vec<Value> {
    let row = |verdict: &str, n: u64| json!({ "job": job, "verdict": verdict, "n": n });
    [row("begun", begun), row("done", done)].into_iter().filter(|row| row["n"] != 0).collect()
}

#[test]
fn a_skip_shows_its_plan_and_waits_for_yes() {
    let (_broker, project, mut feed) = begun(301);
    let skip = ["offsets", "skip", "events", "--partition", "1,3", "--to", "25"];
    let plan = ["offsets", "plan", "events", "--partition", "1,3", "--to", "25", "--format", "json"];
    let shown = project.run(&plan).expect(0);
    let shown: Vec<Value> = shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(shown.len(), 2);
    for row in &shown {
        let figures =
            json!([row["act"], row["low"], row["next"], row["high"], row["to"], row["loses"], row["duplicates"]]);
        assert_eq!(figures, json!(["skip", 0, 20, 40, 25, 5, 0]));
    }
    for more in [&[][..], &["--dry-run"], &["--dry-run", "--yes"]] {
        let ended = project.run(&[&skip[..], more].concat()).expect(0);
        assert_eq!(
            (&ended.result()["status"], ended.result()["plan"].as_array().unwrap().len()),
            (&"planned".into(), 2)
        );
        assert!(ended.stderr.contains("events/1 loses offsets 20 to 25: at most 5 messages"), "{}", ended.stderr);
    }
    assert_eq!((nexts(&project), audit(&project)), (vec![20; 4], vec![]));
    let done = project.run(&[&skip[..], &["--yes"]].concat()).expect(0).result();
    assert_eq!(done["partitions"][0], json!({ "partition": 1, "from": 20, "to": 25 }), "{done}");
    assert_eq!((nexts(&project), audit(&project)), (vec![20, 25, 20, 25], audited("offsets skip", 1, 1)));
    project.catch_up().expect_worked();
    feed.retain(|(partition, offset)| partition % 2 == 0 || !(20..25).contains(&offset));
    feed.verify(&project);
    project.run(&["prove"]).expect(0);
    let refused = project.run(&["offsets", "skip", "events", "--partition", "0", "--to", "30", "--yes"]).expect(2);
    assert!(refused.stderr.contains("cannot be skipped") && refused.stderr.contains("offsets rewind"), "{refused:?}");
    project.run(&["offsets", "skip", "events", "--to", "30", "--yes"]).expect(2);
    project.run(&["offsets", "skip", "events", "--partition", "0", "--yes"]).expect(2);
    assert_eq!(nexts(&project), [40; 4]);
}

#[test]
fn a_skip_killed_at_each_step_is_made_once() {
    let (_broker, project, mut feed) = begun(302);
    let skip = ["offsets", "skip", "events", "--partition", "0-3", "--to", "30", "--yes"];
    project.start_faulty("before_audit=return", &skip).wait().expect_fault("before_audit");
    assert_eq!((nexts(&project), audit(&project)), (vec![20; 4], vec![]), "nothing moves before it is written down");
    project.start_faulty("before_skip_commit=return", &skip).wait().expect_fault("before_skip_commit");
    assert_eq!((nexts(&project), audit(&project)), (vec![20; 4], audited("offsets skip", 1, 0)));
    project.start_faulty("after_skip_commit=return", &skip).wait().expect_fault("after_skip_commit");
    assert_eq!((nexts(&project), audit(&project)), (vec![30; 4], audited("offsets skip", 2, 0)));
    let again = project.run(&skip).expect(0).result();
    assert_eq!((&again["version"], audit(&project)), (&Value::Null, audited("offsets skip", 2, 0)), "{again}");
    project.catch_up().expect_worked();
    feed.retain(|(_, offset)| !(20..30).contains(&offset));
    feed.verify(&project);
    project.run(&["prove"]).expect(0);
}

#[test]
fn a_rewind_killed_at_each_step_fills_in_the_rest() {
    let (_broker, project, feed) = begun(303);
    project.run(&["offsets", "skip", "events", "--partition", "0-3", "--to", "40", "--yes"]).expect(0);
    let rewind = ["offsets", "rewind", "events", "--partition", "0-3", "--to", "0"];
    let planned = project.run(&[&rewind[..], &["--dry-run"]].concat()).expect(0).result();
    let sum = |report: &Value, what: &str| {
        report["partitions"].as_array().unwrap().iter().map(|p| p[what].as_i64().unwrap()).sum::<i64>()
    };
    let plan = &planned["plan"];
    assert_eq!((sum(plan, "messages"), sum(plan, "duplicates")), (160, 0), "{plan}");
    assert_eq!(sum(plan, "landed") + sum(plan, "rejected"), 80, "{plan}");
    for point in ["before_audit", "after_fill_rejects", "before_fill_commit", "after_fill_commit"] {
        project.start_faulty(&format!("{point}=return"), &rewind).wait().expect_fault(point);
        project.run(&["prove"]).expect(0);
    }
    let done = project.run(&rewind).expect(0).result();
    assert_eq!((sum(&done, "messages"), &done["landed"]), (160, &0.into()), "the one before it had landed all: {done}");
    assert_eq!(nexts(&project), [40; 4]);
    feed.verify(&project);
    project.run(&[&rewind[..], &["--skip-exit-code"]].concat()).expect(99);
    project.catch_up().expect_idle();
    feed.verify(&project);
    project.run(&["prove"]).expect(0);
}

/// A stream in the middle of the range drops what it has, and goes on behind; a rewind then brings what it left out.
#[test]
fn skip_and_rewind_beside_a_running_stream_lose_nothing() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 6s, rows: 100000}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(304));
    let mut stream = project.start(&["stream", "--partitions", "0-3"]);
    stream.wait_for("partitions begin");
    let mut skipped = 0;
    for round in 1..4 {
        feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 400, 20));
        // the stream has read it, and commits later
        // into what the stream has read, and once exactly to its end
        let to = (round * 100 - if round == 2 { 0 } else { 30 }).to_string();
        let done = project.run(&["offsets", "skip", "events", "--partition", "0-3", "--to", &to, "--yes"]);
        // unless the stream was there first
        if done.code == Some(0) {
            let moved = done.result()["partitions"].as_array().unwrap().clone();
            skipped += moved.iter().map(|p| p["to"].as_i64().unwrap() - p["from"].as_i64().unwrap()).sum::<i64>();
        }
        wait_until("the stream is through", || project.nexts().values().all(|next| *next == round * 100));
        project.run(&["offsets", "rewind", "events", "--partition", "0-3", "--to", "0"]).expect(0);
    }
    stream.signal("TERM");
    let ended = stream.wait().expect(143);
    assert!(skipped > 0, "the stream was always there first");
    assert!(ended.stderr.contains("another writer was ahead"), "{ended:?}");
    project.run(&CATCH_UP).expect_idle();
    feed.verify(&project);
    project.run(&["prove"]).expect(0);
}

/// A project that has skipped ten messages of each partition, and landed all others.
fn skipped(seed: u64) -> (MockBroker, Project, Feed) {
    let (broker, project, feed) = begun(seed);
    project.run(&["offsets", "skip", "events", "--partition", "0-3", "--to", "30", "--yes"]).expect(0);
    project.catch_up().expect_worked();
    (broker, project, feed)
}

const FROM_KAFKA: [&str; 5] = ["backfill", "create", "events", "--from", "kafka"];
const SKIPPED: [&str; 6] = ["--partition", "0-3", "--from-offset", "15", "--to-offset", "35"];

#[test]
fn a_range_of_the_topic_is_filled_in_wherever_it_is_killed() {
    let create = [&FROM_KAFKA[..], &SKIPPED].concat();
    let points = ["before_backfill_create", "after_backfill_create", "before_fill_commit", "after_fill_commit"];
    for point in [&points[..], &["before_fill_finish"]].concat() {
        let (_broker, project, feed) = skipped(311);
        let planned = project.run(&[&create[..], &["--dry-run"]].concat()).expect(0).result();
        assert_eq!((planned["pieces"].as_array().unwrap().len(), &planned["offsets"]), (4, &80.into()), "{planned}");
        project.start_faulty(&format!("{point}=return"), &create).wait().expect_fault(point);
        let ended = project.run(&create).expect(0);
        let done = ended.result();
        assert_eq!((&done["pieces"], &done["pieces_done"]), (&4.into(), &4.into()), "{point}: {done}");
        let id = done["backfill"].as_str().unwrap();
        assert!(ended.stderr.lines().next().unwrap().contains(&format!("deltaworks backfill resume {id}")));
        feed.verify(&project);
        project.run(&["prove"]).expect(0);
        project.run(&["backfill", "resume", id, "--skip-exit-code"]).expect(99);
        // a place that is there adds nothing
        let again = project.run(&create).expect(0).result();
        assert_eq!((&again["landed"], &again["rejected"]), (&0.into(), &0.into()), "{again}");
        feed.verify(&project);
    }
}

#[test]
fn a_range_of_the_topic_lies_below_what_the_stream_has_reached() {
    let (broker, project, mut feed) = skipped(312);
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(5), 40, 10));
    let all = [&FROM_KAFKA[..], &["--partition", "0-3", "--from-offset", "0"]].concat();
    let planned = project.run(&[&all[..], &["--dry-run"]].concat()).expect(0).result();
    assert_eq!(planned["offsets"], 160, "what is beyond is the stream's: {planned}");
    let done = project.run(&all).expect(0).result();
    assert_eq!(done["landed"].as_u64().unwrap() + done["rejected"].as_u64().unwrap(), 40, "{done}");
    project.catch_up().expect_worked();
    feed.verify(&project);
    project.run(&["prove"]).expect(0);
    let beyond = [&FROM_KAFKA[..], &["--partition", "0", "--from-offset", "1000", "--skip-exit-code"]].concat();
    project.run(&beyond).expect(99);
    for (wrong, says) in [
        (&[][..], "--from kafka needs --from-offset with --partition, or --interval-start"),
        (&["--interval-start", "2000-01-01T00:00:00Z", "--path", "x"], "--path means nothing for --from kafka"),
        (&["--partition", "7", "--from-offset", "0"], "has landed nothing of partition 7"),
    ] {
        let ended = project.run(&[&FROM_KAFKA[..], wrong].concat()).expect(2);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}

#[test]
fn a_range_of_the_topic_is_filled_in_beside_a_stream_and_by_two_at_once() {
    let (broker, project, mut feed) = skipped(313);
    let stream = project.start(&["stream", "--partitions", "0-3"]);
    let create = [&FROM_KAFKA[..], &SKIPPED].concat();
    let both = [project.start(&create), project.start(&create)];
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(6), 80, 20));
    for child in both {
        let ended = child.wait();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    stream.signal("TERM");
    stream.wait().expect(143);
    project.catch_up().expect(0);
    feed.verify(&project);
    project.run(&["prove"]).expect(0);
}

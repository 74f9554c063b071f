//! Quality rules from outside: exit codes, what is printed, killed and gone on with, beside a running stream.

use crate::harness::events::CONTRACT;
use crate::harness::project::{CATCH_UP, TOPIC};
use crate::harness::{Event, Feed, MockBroker, Project, Rng};

const PARTITIONS: i32 = 4;
const RUN: [&str; 2] = ["quality", "run"];

/// The contract with one rule for the event.
fn contract(rule: &str) -> String {
    let properties = "    properties:\n";
    assert!(CONTRACT.contains(properties));
    CONTRACT.replacen(properties, &format!("    quality:\n      - {{{rule}}}\n{properties}"), 1)
}

/// A project that has landed events of several dates.
fn landed(rule: &str) -> (MockBroker, Project, Feed) {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    project.deploy(&contract(rule));
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(5), 200, 20));
    project.run(&CATCH_UP).expect_worked();
    (broker, project, feed)
}

#[test]
fn a_breach_is_exit_3_a_warning_is_not_and_a_run_with_nothing_to_do_says_so() {
    let (_broker, project, _feed) = landed("id: many, metric: rowCount, mustBeGreaterThan: 100000");
    let ended = project.run(&RUN).expect(3);
    assert!(ended.stdout.contains("row count") && ended.stdout.contains("> 100000"), "{}", ended.stdout);
    assert!(ended.stderr.contains("rule `many` of `raw.events` is breached on 2024-"), "{}", ended.stderr);
    let dates = ended.result()["dates"].as_u64().unwrap();
    assert!(dates > 1);
    assert_eq!(ended.result()["breached"]["error"], dates);
    project.deploy(&contract("id: many, metric: rowCount, mustBeGreaterThan: 100000, severity: warning"));
    let ended = project.run(&RUN).expect(0);
    assert_eq!((&ended.result()["dates"], &ended.result()["breached"]["warning"]), (&dates.into(), &dates.into()));
    let ended = project.run(&[&RUN[..], &["--skip-exit-code"]].concat()).expect(99);
    assert_eq!(ended.result()["dates_left"], dates);
    project.run(&["quality", "run", "nothing"]).expect(2);
    project.deploy(&contract("id: many, type: sql, query: 'SELECT valeu FROM {object}'"));
    let ended = project.run(&RUN).expect(2);
    assert!(ended.stderr.contains("rule `many`: there is no column `valeu`"), "{}", ended.stderr);
    assert_eq!(project.run(&["check"]).expect(2).stderr.lines().next(), ended.stderr.lines().next());
}

#[test]
fn killed_at_its_commits_it_goes_on_with_the_next_date() {
    let (_broker, project, _feed) = landed("metric: rowCount, mustBeGreaterThan: 0");
    project.start_faulty("before_quality_commit=2*off->return", &RUN).wait().expect_fault("before_quality_commit");
    let ended = project.run(&RUN).expect(0);
    assert_eq!(ended.result()["dates_left"], 2, "{}", ended.stdout);
    project.deploy(&contract("metric: rowCount, mustBeGreaterThan: 1, severity: info"));
    project.start_faulty("after_quality_commit=1*off->return", &RUN).wait().expect_fault("after_quality_commit");
    let ended = project.run(&RUN).expect(0);
    assert_eq!(ended.result()["dates_left"], 2, "{}", ended.stdout);
    let recorded =
        project.run(&["query", "--format", "csv", "SELECT count(*), count(DISTINCT event_date) FROM ops.quality"]);
    let counts = recorded.expect(0).stdout;
    let counts: Vec<u64> = counts.lines().last().unwrap().split(',').map(|n| n.parse().unwrap()).collect();
    assert_eq!(counts[0], 2 * counts[1], "each date once by each wording of the rule");
}

#[test]
fn beside_a_running_stream_each_run_judges_one_version() {
    let (broker, project, mut feed) =
        landed("type: sql, query: 'SELECT count(*) = count(DISTINCT concat(_partition, _offset)) FROM {object}'");
    let stream = project.start(&["stream", "--partitions", "0-3"]);
    let mut judged = 0;
    for round in 0..6 {
        feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(50 + round), 50, 10));
        std::thread::sleep(std::time::Duration::from_millis(300));
        judged += project.run(&RUN).expect(0).result()["judged"].as_u64().unwrap();
    }
    stream.signal("TERM");
    stream.wait().expect(143);
    assert!(judged >= 12, "{judged}");
    project.catch_up().expect(0);
    feed.verify(&project);
    project.run(&["prove", "--offline"]).expect(0);
}

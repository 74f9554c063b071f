//! What scripts and people rely on: exit codes, the last line, files, and what is never printed.

use crate::harness::project::{CATCH_UP, Knobs, TOPIC};
use crate::harness::{Event, Feed, MockBroker, Project, Rng};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

const PARTITIONS: i32 = 4;

/// A project that has landed 40 messages, some bad.
fn landed(seed: u64) -> (MockBroker, Project, Feed) {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(seed), 40, 30));
    project.catch_up().expect_worked();
    (broker, project, feed)
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn files_below(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|e| if e.path().is_dir() { files_below(&e.path()) } else { 1 }).sum()
}

#[test]
fn the_last_line_of_a_run_says_what_it_did() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { pipeline: vec!["tombstones: skip"], ..Knobs::default() });
    let (mut rng, mut feed) = (Rng(101), Feed::new());
    feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 8, 0));
    feed.send(&broker, PARTITIONS, &[Event::bad("not_json", "{"), Event::tombstone(), Event::tombstone()]);
    let file = project.path().join("result.json");
    let mut args = CATCH_UP.to_vec();
    args.extend(["--result-file", file.to_str().unwrap()]);
    let ended = project.run(&args).expect(0);
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    let result = ended.result();
    assert_eq!(result["status"], "done");
    assert_eq!(result["exit_code"], 0);
    assert_eq!(result["run_id"].as_str().map(str::len), Some(36), "{result}");
    let pipeline = &result["pipelines"]["events"];
    let wanted = json!({ "landed": 8, "rejected": 1, "skipped": 2, "gaps": 0 });
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(pipeline[key], *value, "{key} in {result}");
    }
    assert_eq!(pipeline["first"], json!({ "0": 0, "1": 0, "2": 0, "3": 0 }));
    assert_eq!(pipeline["next"], json!({ "0": 3, "1": 3, "2": 3, "3": 2 }));
    assert!(pipeline["version"].as_i64().unwrap() > 0, "{result}");
    assert!(pipeline["valid_through"].as_str().is_some_and(|t| t.parse::<jiff::Timestamp>().is_ok()), "{result}");
    assert_eq!(fs::read_to_string(&file).unwrap(), ended.stdout);
}

#[test]
fn the_result_file_is_written_on_failure_too() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let file = project.path().join("result.json");
    let ended = project.run(&["stream", "nobody", "--result-file", file.to_str().unwrap()]).expect(2);
    assert!(ended.stderr.contains("there is no pipeline `nobody`"), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: deltaworks.yaml has `events`"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), ended.stdout);
    let result = ended.result();
    assert_eq!(result["status"], "failed");
    assert_eq!(result["retryable"], false);
    assert!(result["error"].as_str().unwrap().contains("`nobody`"), "{result}");
}

#[test]
fn a_missing_topic_is_the_users_to_mend() {
    let broker = MockBroker::start("other", PARTITIONS);
    let project = Project::new(&broker);
    let ended = project.catch_up().expect(2);
    assert!(ended.stderr.contains("`events`") && ended.stderr.contains("hint:"), "{}", ended.stderr);
    assert_eq!(ended.result()["status"], "failed");
}

#[test]
fn what_cannot_be_typed_is_exit_2() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    for args in [&["land"][..], &["stream", "--partitions", "3-1"], &["stream", "--fast"], &["query"]] {
        let ended = project.run(args).expect(2);
        assert!(ended.stderr.contains("error:"), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn dry_runs_write_nothing() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    Feed::new().send(&broker, PARTITIONS, &Event::mix(&mut Rng(102), 10, 30));
    let ended = project.run(&["stream", "--dry-run"]).expect(0);
    assert_eq!(ended.result()["status"], "planned");
    let plan = ended.result()["partitions"].clone();
    assert_eq!(plan.as_array().unwrap().len(), 4, "{plan}");
    assert_eq!(plan.as_array().unwrap().iter().map(|p| p["lag"].as_i64().unwrap()).sum::<i64>(), 10);
    let topics = project.run(&["topics", "create", "--dry-run"]).expect(0);
    assert_eq!(topics.result()["topics"], json!([TOPIC]));
    assert_eq!(files_below(&project.path().join("lake")), 0);
}

#[test]
fn a_reader_that_leaves_is_success() {
    let (_broker, project, _) = landed(103);
    for format in ["table", "json", "csv"] {
        let sql = "SELECT value AS n, repeat('x', 100) AS text FROM generate_series(1, 200000)";
        let mut command = project.command(&["query", sql, "--format", format]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert!(!first.is_empty());
        assert!(ended.status.success(), "{format}: {ended:?}");
        assert!(ended.stderr.is_empty(), "{format}: {ended:?}");
    }
}

#[test]
fn a_query_answers_on_stdout_and_blames_on_stderr() {
    let (_broker, project, feed) = landed(104);
    let both =
        "SELECT count(*) AS n FROM (SELECT _offset FROM raw.events UNION ALL SELECT _offset FROM rejects.events)";
    let ended = project.run(&["query", both, "--format", "json"]).expect(0);
    assert_eq!(json_lines(&ended.stdout), [json!({ "n": feed.len() })]);
    let csv = project.run(&["query", "SELECT 1 AS a, NULL AS b", "--format", "csv"]).expect(0);
    assert_eq!(csv.stdout, "a,b\n1,\n");
    for wrong in ["SELECT nothing FROM raw.events", "SELECT 1 FROM raw.evnets", "DELETE FROM raw.events", "SELEC"] {
        let ended = project.run(&["query", wrong]).expect(2);
        assert!(ended.stderr.starts_with("error: "), "{wrong}: {}", ended.stderr);
    }
}

#[test]
fn init_writes_what_check_accepts_and_overwrites_nothing() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    for example in [None, Some("traffic")] {
        let dir = project.path().join(example.unwrap_or("own"));
        let mut args = vec!["init", dir.to_str().unwrap()];
        args.extend(example.iter().flat_map(|e| ["--example", e]));
        let ended = project.run(&args).expect(0);
        assert_eq!(ended.result()["status"], "done");
        assert!(dir.join("deltaworks.yaml").is_file());
        project.run(&args).expect(2);
        let mut check = Command::new(env!("CARGO_BIN_EXE_deltaworks"));
        let checked =
            check.arg("check").env("DELTAWORKS_PROJECT", &dir).env_remove("DELTAWORKS_LAKE").output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
    }
}

#[test]
fn check_names_every_error_with_its_place() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let good = project.run(&["check"]).expect(0);
    assert_eq!(good.result()["pipelines"], json!(["events"]));
    let pipeline = vec!["latenes: 1h", "idle_after: soon"];
    project.configure(&Knobs { pipeline, ..Knobs::default() });
    let bad = project.run(&["check"]).expect(2);
    for part in ["deltaworks.yaml:", "latenes", "lateness", "idle_after"] {
        assert!(bad.stderr.contains(part), "`{part}` in {}", bad.stderr);
    }
    // nothing else works with such a project either, and nothing is written
    project.catch_up().expect(2);
    assert_eq!(files_below(&project.path().join("lake")), 0);
}

#[test]
fn check_judges_aggregates_and_lookups() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let header = "-- aggregate: per_site\n-- grain: one row per site\n-- from: events\n-- windows: [1h, 1d]\n";
    let write = |name: &str, text: &str| std::fs::write(project.path().join(name), text).unwrap();
    let top = vec!["aggregates: [per_site.sql]", "lookups: { sites: { path: sites.csv, key: site } }"];
    project.configure(&Knobs { top, ..Knobs::default() });
    write("sites.csv", "site,name\n1,North\n2,South\n");
    write("per_site.sql", &format!("{header}SELECT count(DISTINCT _offset) AS n FROM events\n"));
    let good = project.run(&["check"]).expect(0);
    assert_eq!(good.result()["aggregates"], json!(["per_site"]));
    assert!(good.stderr.contains("ok  aggregate `per_site`: windows 1h, 1d, 1 columns"), "{}", good.stderr);
    assert!(good.stderr.contains("costly  per_site.sql:5:8: "), "{}", good.stderr);
    write("per_site.sql", &format!("{header}SELECT count(*) AS n FROM events ORDER BY n\n"));
    let bad = project.run(&["check"]).expect(2);
    assert!(bad.stderr.contains("per_site.sql:5:34: ORDER BY is not possible"), "{}", bad.stderr);
    write("sites.csv", "site,name\n1,North\n1,South\n");
    let bad = project.run(&["check"]).expect(2);
    assert!(bad.stderr.contains("`1` occurs twice"), "{}", bad.stderr);
}

#[test]
fn offsets_and_status_tell_the_same_story() {
    let (broker, project, mut feed) = landed(105);
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(106), 4, 0));
    let offsets = json_lines(&project.run(&["offsets", "show", "--format", "json"]).expect(0).stdout);
    assert_eq!(offsets.len(), 4);
    for row in &offsets {
        assert_eq!((&row["delta"], &row["high"], &row["lag"]), (&json!(10), &json!(11), &json!(1)), "{row}");
        assert_eq!(row["group"], json!(10), "the group's offsets follow for lag tools: {row}");
    }
    let status = json_lines(&project.run(&["status", "--format", "json"]).expect(0).stdout);
    let raw = status.iter().find(|t| t["table"] == "raw.events").unwrap();
    let rejects = status.iter().find(|t| t["table"] == "rejects.events").unwrap();
    assert_eq!(raw["lag"], 4);
    assert_eq!(raw["rows"].as_u64().unwrap() + rejects["rows"].as_u64().unwrap(), 40);
    let offline = json_lines(&project.run(&["status", "--offline", "--format", "json"]).expect(0).stdout);
    assert!(offline.iter().all(|t| t["lag"].is_null()), "{offline:?}");
    project.run(&["status", "--max-lag", "4"]).expect(0);
    project.run(&["status", "--max-lag", "3"]).expect(3);
    project.run(&["status", "--max-age", "1s", "--offline"]).expect(3);
}

#[test]
fn rejects_can_be_looked_at_whatever_their_bytes() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let mut feed = Feed::new();
    let bad = [
        Event::tombstone(),
        Event::bad("not_utf8", b"\xff\xfe\x00".as_slice()),
        Event::bad("not_json", "{\"cut"),
        Event::bad("not_json", "{\"off"),
        Event::bad("not_one_object", format!("\"{}\"", "long ".repeat(2_000))),
    ];
    feed.send(&broker, PARTITIONS, &bad);
    project.catch_up().expect_worked();
    let list = json_lines(&project.run(&["rejects", "list", "events", "--format", "json"]).expect(0).stdout);
    let counted: Vec<_> =
        list.iter().map(|r| (r["reason"].as_str().unwrap(), r["messages"].as_u64().unwrap())).collect();
    assert_eq!(counted, [("not_json", 2), ("not_one_object", 1), ("not_utf8", 1), ("tombstone", 1)]);
    for format in ["table", "json", "csv"] {
        let shown = project.run(&["rejects", "show", "events", "--format", format]).expect(0);
        assert!(shown.stdout.contains("cut") && shown.stdout.contains("0xfffe00"), "{}", shown.stdout);
        let long = shown.stdout.matches("long ").count();
        if format == "table" {
            assert!(long < 100 && shown.stdout.contains("… of 10002 characters"), "{}", shown.stdout);
        } else {
            assert_eq!(long, 2_000, "all of it in {format}");
        }
    }
    let one = project.run(&["rejects", "show", "events", "--reason", "not_json", "--limit", "1", "--format", "json"]);
    let one = json_lines(&one.expect(0).stdout);
    assert_eq!(one.len(), 1);
    assert_eq!(one[0]["payload"], "{\"cut");
    let unknown = project.run(&["rejects", "show", "events", "--reason", "bad_luck"]).expect(2);
    assert!(unknown.stderr.contains("not_json"), "the codes are not named: {}", unknown.stderr);
}

#[test]
fn reset_plans_then_acts_and_landing_starts_over() {
    let (_broker, project, feed) = landed(107);
    let plan = project.run(&["reset", "events"]).expect(0);
    assert_eq!(plan.result()["status"], "planned");
    assert!(plan.stderr.contains("--yes"), "{}", plan.stderr);
    let tables: Vec<_> =
        plan.result()["plan"]["tables"].as_array().unwrap().iter().map(|t| t["table"].clone()).collect();
    assert_eq!(tables, ["rejects.events", "raw.events"]);
    feed.verify(&project);
    assert_eq!(project.run(&["reset", "events", "--dry-run", "--yes"]).expect(0).result()["status"], "planned");
    feed.verify(&project);
    assert_eq!(project.run(&["reset", "events", "--yes"]).expect(0).result()["status"], "done");
    project.run(&["query", "SELECT 1 FROM raw.events"]).expect(2);
    assert_eq!(project.catch_up().expect(0).messages(), 40);
    feed.verify(&project);
}

/// Every verb that reads the secrets, with everything logged that can be.
#[test]
fn secrets_are_never_printed() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let kafka = vec!["sasl.username: user", "sasl.password: kafka-s3cr3t", "debug: all"];
    let knobs = Knobs { kafka, ..Knobs::default() };
    let project = Project::with(&broker, &knobs);
    Feed::new().send(&broker, PARTITIONS, &Event::mix(&mut Rng(108), 10, 30));
    let silent_about_secrets = |args: &[&str], wrong_lake: bool| {
        let mut command = project.command(args);
        command
            .env("DELTAWORKS_LOG", "trace")
            .env("AWS_ACCESS_KEY_ID", "access")
            .env("AWS_SECRET_ACCESS_KEY", "aws-s3cr3t");
        if wrong_lake {
            command
                .env("DELTAWORKS_LAKE", "s3://bucket/lake")
                .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
                .env("AWS_ALLOW_HTTP", "true");
        }
        let ended = crate::harness::Child::start(command).wait();
        let refused = ended.code == Some(2);
        assert!(refused || ended.stderr.contains("TRACE"), "nothing was logged: {}", ended.stderr);
        for secret in ["kafka-s3cr3t", "aws-s3cr3t"] {
            let place = ended
                .stdout
                .find(secret)
                .map(|at| &ended.stdout[..at])
                .or(ended.stderr.find(secret).map(|at| &ended.stderr[..at]));
            assert!(place.is_none(), "{args:?} prints `{secret}` after: …{}", tail(place.unwrap_or_default()));
        }
        ended
    };
    silent_about_secrets(&CATCH_UP, false).expect(0);
    silent_about_secrets(&["offsets", "show"], false).expect(0);
    silent_about_secrets(&["check", "--online"], false);
    silent_about_secrets(&["status", "--offline"], true).expect(1);
    // a refused value is not shown either
    project
        .configure(&Knobs { kafka: vec!["sasl.password: kafka-s3cr3t", "security.protocol: kafka-s3cr3t"], ..knobs });
    silent_about_secrets(&["offsets", "show"], false).expect(2);
}

fn tail(text: &str) -> String {
    let chars: Vec<char> = text.chars().rev().take(300).collect();
    chars.into_iter().rev().collect()
}

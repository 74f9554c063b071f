//! Rows that leave for good, from outside: beside a running stream and batch, killed at each commit, and what is said.

use crate::harness::project::{CATCH_UP, Knobs, TOPIC};
use crate::harness::{Event, MockBroker, Project, Rng};
use serde_json::Value;

const PARTITIONS: i32 = 4;
const TOTALS: &str = "-- aggregate: totals
-- grain: one row per note and window
-- from: events
-- windows: [6h, 1d]
SELECT note, sum(value) AS total, count(*) AS n FROM events GROUP BY note
";

struct Story {
    broker: MockBroker,
    project: Project,
    rng: Rng,
}

impl Story {
    fn begin(seed: u64) -> Self {
        let broker = MockBroker::start(TOPIC, PARTITIONS);
        let knobs =
            Knobs { commit: "{every: 5s, rows: 30}", top: vec!["aggregates: [totals.sql]"], ..Knobs::default() };
        let project = Project::with(&broker, &knobs);
        project.put("totals.sql", TOTALS);
        Self { broker, project, rng: Rng(seed) }
    }

    /// Three dates, landed, computed, served.
    fn served(seed: u64) -> Self {
        let mut story = Self::begin(seed);
        story.send(300);
        story.keep_up();
        story
    }

    fn send(&mut self, count: usize) {
        let mut feed = crate::harness::Feed::new();
        feed.send(&self.broker, PARTITIONS, &Event::mix(&mut self.rng, count, 10));
    }

    fn keep_up(&self) {
        self.project.run(&CATCH_UP).expect(0);
        self.project.run(&["batch"]).expect(0);
        self.project.run(&["reconcile"]).expect(0);
    }

    fn run(&self, args: &[&str]) -> Value {
        self.project.run(args).expect(0).result()
    }

    fn prove(&self) {
        self.project.run(&["prove"]).expect(0);
    }

    fn count(&self, sql: &str) -> u64 {
        self.project.rows(sql)[0]["n"].as_u64().unwrap()
    }

    fn events(&self) -> u64 {
        self.count("SELECT count(*) AS n FROM raw.events")
    }
}

const RETAIN: [&str; 5] = ["tables", "retain", "raw.events", "--before", "2024-03-02"];

#[test]
fn dates_go_once_wherever_it_is_killed() {
    let story = Story::served(81);
    let served = story.project.rows("SELECT * FROM served.totals ORDER BY granularity, window_start, note");
    let (all, gone) =
        (story.events(), story.count("SELECT count(*) AS n FROM raw.events WHERE event_date < DATE '2024-03-02'"));
    assert!(gone > 0 && gone < all);
    let planned = story.run(&[&RETAIN[..], &["--dry-run"]].concat());
    assert_eq!((&planned["status"], &planned["tables"][0]["dates"][0]["rows"]), (&"planned".into(), &gone.into()));
    story.project.start_faulty("before_retain_commit=return", &RETAIN).wait().expect_fault("before_retain_commit");
    assert_eq!(story.events(), all);
    story.project.start_faulty("after_retain_commit=return", &RETAIN).wait().expect_fault("after_retain_commit");
    assert_eq!(story.events(), all - gone);
    story.prove();
    story.project.run(&[&RETAIN[..], &["--skip-exit-code"]].concat()).expect(99);
    story.project.run(&["batch", "--skip-exit-code"]).expect(99);
    story.project.run(&["reconcile", "--skip-exit-code"]).expect(99);
    let now = story.project.rows("SELECT * FROM served.totals ORDER BY granularity, window_start, note");
    assert_eq!(now, served);
    story.prove();
}

#[test]
fn dates_that_are_not_final_stay_and_are_named() {
    let mut story = Story::begin(82);
    story.send(200);
    story.project.run(&CATCH_UP).expect_worked();
    let all = story.events();
    let ended = story.project.run(&RETAIN).expect(6);
    assert!(ended.stderr.contains("unit `totals/6h/2024-03-01` is to be computed"), "{}", ended.stderr);
    assert!(ended.stderr.contains("--force"), "{}", ended.stderr);
    assert_eq!(ended.result()["status"], "failed");
    assert!(ended.result()["tables"][0]["refused"].as_array().unwrap().len() > 1);
    assert_eq!(story.events(), all);
    story.project.run(&["tables", "retain", "served.totals"]).expect(2);
    story.project.run(&["tables", "retain", "raw.events", "--before", "2999-01-01"]).expect(2);
    story.project.run(&[&RETAIN[..], &["--force"]].concat()).expect(0);
    assert!(story.events() < all);
    story.prove();
}

#[test]
fn rejects_stay_as_long_as_their_pipeline_says() {
    let story = Story::served(83);
    assert!(story.count("SELECT count(*) AS n FROM rejects.events") > 10);
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let retain = ["tables", "retain", "rejects.events", "--before", &today.to_string()];
    // the pipeline keeps them for 30 days
    story.project.run(&["tables", "retain", "rejects.events", "--skip-exit-code"]).expect(99);
    assert!(story.project.run(&retain).expect(2).stderr.contains("the contract keeps 30 days"));
    story.prove();
}

#[test]
fn beside_a_stream_and_batch_nothing_is_lost() {
    let mut story = Story::served(84);
    let stream = story.project.start(&["stream", "--partitions", "0-3"]);
    for round in 0..6 {
        story.send(60);
        let batch = story.project.start(&["batch"]);
        let retain = story.project.start(&RETAIN);
        let forget = story.project.start(&["tables", "forget", "events", "--where", &format!("value={round}")]);
        for (what, child) in [("retain", retain), ("forget", forget), ("batch", batch)] {
            let ended = child.wait();
            // a late event makes its window one to be computed first
            let fine = ended.code == Some(0) || (what == "retain" && ended.code == Some(6)) || ended.code == Some(5);
            assert!(fine, "{what}: {ended:?}");
        }
        story.project.run(&["reconcile"]).expect(0);
    }
    stream.signal("TERM");
    stream.wait().expect(143);
    story.keep_up();
    for round in 0..6 {
        story.run(&["tables", "forget", "events", "--where", &format!("value={round}")]);
    }
    story.keep_up();
    story.project.run(&RETAIN).expect(0);
    assert_eq!(story.count("SELECT count(*) AS n FROM raw.events WHERE value < 6"), 0);
    story.prove();
}

#[test]
fn a_person_goes_wherever_it_is_killed_and_is_never_named() {
    let story = Story::served(85);
    let all = story
        .project
        .rows("SELECT note, count(*) AS n FROM raw.events WHERE note IS NOT NULL GROUP BY 1 ORDER BY 2 DESC");
    let (who, rows) = (all[0]["note"].as_str().unwrap().to_owned(), all[0]["n"].as_u64().unwrap());
    let total = story.events();
    let key = format!("note={who}");
    let forget = ["tables", "forget", "events", "--where", &key, "--because", "case 12"];
    let planned = story.run(&[&forget[..], &["--dry-run"]].concat());
    let counted = |dates: &Value| dates.as_array().unwrap().iter().map(|d| d["rows"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(counted(&planned["dates"]), rows);
    let said = |ended: &crate::harness::Ended| assert!(!format!("{}{}", ended.stdout, ended.stderr).contains(&who));
    let killed = story.project.start_faulty("before_forget_commit=return", &forget).wait();
    said(&killed.expect_fault("before_forget_commit"));
    assert_eq!(story.events(), total);
    let killed = story.project.start_faulty("after_forget_commit=return", &forget).wait();
    said(&killed.expect_fault("after_forget_commit"));
    let ended = story.project.run(&forget).expect(0);
    said(&ended);
    assert!(
        ended.stderr.contains("deltaworks tables vacuum raw.events --older-than 1h") || rows == 1,
        "{}",
        ended.stderr
    );
    assert_eq!(story.events(), total - rows);
    assert_eq!(
        story.count("SELECT count(*) AS n FROM raw.events WHERE note IS NULL"),
        total - all.iter().map(|r| r["n"].as_u64().unwrap()).sum::<u64>()
    );
    story.prove();
    said(&story.project.run(&[&forget[..], &["--skip-exit-code"]].concat()).expect(99));
    story.keep_up();
    let shown = story.project.rows("SELECT note FROM served.totals WHERE note IS NOT NULL");
    assert!(shown.iter().all(|row| row["note"] != who.as_str()));
    let drift = story.count("SELECT count(*) AS n FROM drift.totals WHERE unexplained <> 0");
    assert_eq!(drift, 0);
    story.prove();
    // old versions hold the rows until they are vacuumed, and not after
    let holding = || {
        let folder = story.project.path().join("lake/raw/events");
        files_below(&folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "parquet")).count()
    };
    let before = holding();
    story.run(&["tables", "vacuum", "raw.events", "--older-than", "0s", "--force"]);
    assert!(holding() < before);
    for bad in ["nobody=1", "at=2024-03-01", "value=secretive"] {
        let ended = story.project.run(&["tables", "forget", "events", "--where", bad]).expect(2);
        assert!(!ended.stderr.contains("secretive"), "{}", ended.stderr);
    }
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn an_archive_is_whole_wherever_it_is_killed() {
    let story = Story::served(86);
    let url = format!("file://{}", story.project.path().join("archive").display());
    let archive = ["tables", "archive", "raw.events", "--before", "2024-03-03", "--to", &url, "--codec", "snappy"];
    let retain = ["tables", "retain", "raw.events", "--before", "2024-03-03", "--archived-to", &url];
    let planned = story.run(&[&archive[..], &["--dry-run"]].concat());
    assert_eq!(planned["dates"].as_array().unwrap().len(), 2);
    let killed = story.project.start_faulty("before_archive_manifest=return", &archive).wait();
    killed.expect_fault("before_archive_manifest");
    let ended = story.project.run(&retain).expect(6);
    assert!(ended.stderr.contains("2024-03-01 is not in the archive"), "{}", ended.stderr);
    let killed = story.project.start_faulty("after_archive_manifest=return", &archive).wait();
    killed.expect_fault("after_archive_manifest");
    let done = story.run(&archive);
    assert_eq!((done["dates"].as_array().unwrap().len(), &done["already"]), (1, &1.into()), "the other was done");
    story.project.run(&[&archive[..], &["--skip-exit-code"]].concat()).expect(99);
    let gone = story.run(&retain)["tables"][0]["dates"].as_array().unwrap().clone();
    let rows = gone.iter().map(|d| d["rows"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(rows, done_rows(&planned));
    story.prove();
}

fn done_rows(planned: &Value) -> u64 {
    planned["dates"].as_array().unwrap().iter().map(|d| d["rows"].as_u64().unwrap()).sum()
}

#[test]
fn upkeep_does_what_is_due_and_says_what_is_not_done() {
    let mut story = Story::served(87);
    let contract = story.project.path().join("event.odcs.yaml");
    let text = std::fs::read_to_string(&contract).unwrap();
    std::fs::write(&contract, format!("{text}slaProperties:\n  - {{property: retention, value: 30, unit: d}}\n"))
        .unwrap();
    story.send(30);
    story.project.run(&CATCH_UP).expect_worked();
    let all = story.events();
    let planned = story.run(&["upkeep", "--dry-run"]);
    assert_eq!((&planned["status"], &planned["retain"][0]["table"]), (&"planned".into(), &"raw.events".into()));
    let ended = story.project.run(&["upkeep"]).expect(4);
    assert_eq!((&ended.result()["status"], &ended.result()["retryable"]), (&"partly".into(), &true.into()));
    assert_eq!(ended.result()["not_done"][0]["step"], "retain");
    assert_eq!(story.events(), all);
    story.keep_up();
    story.project.start_faulty("before_retain_commit=return", &["upkeep"]).wait().expect_fault("before_retain_commit");
    let done = story.run(&["upkeep"]);
    assert!(done["retain"][0]["version"].is_number(), "{done}");
    assert_eq!(story.events(), 0);
    story.project.run(&["upkeep", "--skip-exit-code"]).expect(99);
    story.prove();
}

/// A project whose first two dates went to an archive, and what was in raw and served before.
fn archived(seed: u64) -> (Story, String, Vec<Value>, Vec<Value>) {
    let story = Story::served(seed);
    let url = format!("file://{}", story.project.path().join("archive").display());
    let (rows, served) = (story.project.rows(ROWS), story.project.rows(SERVED));
    story.run(&["tables", "archive", "raw.events", "--before", "2024-03-03", "--to", &url]);
    story.run(&["tables", "retain", "raw.events", "--before", "2024-03-03", "--archived-to", &url]);
    assert!(story.project.rows(ROWS).len() < rows.len());
    (story, url, rows, served)
}

const ROWS: &str = "SELECT _partition, _offset, id, value, _behind_ms, _repeat FROM raw.events ORDER BY 1, 2";
const SERVED: &str = "SELECT granularity, window_start, note, total, n FROM served.totals ORDER BY 1, 2, 3";

#[test]
fn archived_dates_come_back_wherever_it_is_killed() {
    for point in ["after_backfill_create", "before_fill_commit", "after_fill_commit", "before_fill_finish"] {
        let (story, url, rows, served) = archived(91);
        let create = [
            "backfill",
            "create",
            "events",
            "--from",
            "archive",
            "--path",
            &url,
            "--interval-start",
            "2024-03-01T00:00:00Z",
            "--interval-end",
            "2024-03-03T00:00:00Z",
        ];
        let planned = story.run(&[&create[..], &["--dry-run"]].concat());
        assert_eq!(planned["dates"], serde_json::json!(["2024-03-01", "2024-03-02"]), "{planned}");
        story.project.start_faulty(&format!("{point}=return"), &create).wait().expect_fault(point);
        let done = story.run(&create);
        let id = done["backfill"].as_str().unwrap();
        assert_eq!(story.project.rows(ROWS), rows, "{point}: {done}");
        story.project.run(&["backfill", "resume", id, "--skip-exit-code"]).expect(99);
        story.project.run(&[&create[..], &["--skip-exit-code"]].concat()).expect(99);
        story.run(&["batch"]);
        story.run(&["reconcile"]);
        assert_eq!(story.project.rows(SERVED), served, "{point}");
        story.prove();
    }
}

#[test]
fn a_backfill_from_an_archive_says_what_it_needs() {
    let (story, url, ..) = archived(92);
    let from = ["backfill", "create", "events", "--from", "archive"];
    let says = |more: &[&str], code: i32, text: &str| {
        let ended = story.project.run(&[&from[..], more].concat()).expect(code);
        assert!(ended.stderr.contains(text), "{}", ended.stderr);
    };
    let whole = ["--interval-start", "2024-03-01T00:00:00Z", "--interval-end", "2024-03-02T00:00:00Z"];
    says(&whole, 2, "--from archive needs one --path, the URL of the archive");
    says(&["--path", &url], 2, "--from archive needs --interval-start and --interval-end");
    says(&[&["--path", &url, "--force"], &whole[..]].concat(), 2, "--force means nothing for --from archive");
    let elsewhere = format!("{url}-elsewhere");
    says(&[&["--path", &elsewhere], &whole[..]].concat(), 6, "2024-03-01 is not in the archive");
}

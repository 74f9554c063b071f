//! `batch --try`: what an aggregate would give, and nothing written.

use super::{FIRST_US, Story, ZONE, reach, three_days};
use crate::harness::events::DAY_US;
use crate::harness::project::Knobs;
use crate::harness::{Ended, Rng};
use deltaworks_jobs::engine::Format;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const FROM: &str = "2024-03-30T12:30:00Z";
const TO: &str = "2024-04-01T09:00:00+03:00";
const COLUMNS: &str = "granularity, window_start, window_end, window_date, residue, spread, mean, middle, n, events, late, \
                       duplicates, filled";

/// Half of its windows are those of no other aggregate, and medians keep every value.
fn spread() -> String {
    format!(
        "-- aggregate: spread\n-- grain: one row per residue and window\n-- from: events\n-- windows: [15m, 1d]\n\
         -- timezone: {ZONE}\n\
         SELECT value % 3 AS residue, max(value) - min(value) AS spread, avg(value) AS mean, median(value) AS middle,\n\
         \x20 count(*) AS n\n\
         FROM events\nWHERE value <> 500\nGROUP BY value % 3\nHAVING count(*) > 0\n"
    )
}

fn write(story: &Story, name: &str, sql: &str) -> String {
    let path = story.project.path().join("sql").join(name);
    fs::write(&path, sql).unwrap();
    path.to_str().unwrap().to_owned()
}

fn try_out(story: &Story, file: &str, more: &[&str]) -> Ended {
    story.batch(&[&["--try", file], more].concat())
}

/// Every file of the lake and what is in it.
fn files(story: &Story) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(dir: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else {
                files.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    let mut files_of_lake = BTreeMap::new();
    walk(&story.project.path().join("lake"), &mut files_of_lake);
    files_of_lake
}

/// What is published of the windows that end within the interval.
fn published(story: &Story, from: &str, to: &str) -> String {
    let sql = format!(
        "SELECT {COLUMNS} FROM batch.spread WHERE window_end > TIMESTAMP '{from}' AND window_end <= TIMESTAMP '{to}' \
         ORDER BY granularity = '1d', window_start, residue"
    );
    String::from_utf8(story.project.query(&sql, Format::Csv)).unwrap()
}

#[test]
fn gives_what_batch_would_publish_and_writes_nothing() {
    let mut story = Story::begin();
    story.send(&three_days(&mut Rng(404)));
    story.send(&reach(1_000, FIRST_US + 3 * DAY_US));
    let file = write(&story, "spread.sql", &spread());
    let interval = ["--interval-start", FROM, "--interval-end", TO];
    let csv = [&interval[..], &["--format", "csv"]].concat();

    // neither it nor any other aggregate was ever published
    let before = files(&story);
    let tried = try_out(&story, &file, &csv).expect(0);
    assert_eq!(files(&story), before);
    assert!(!tried.stderr.contains("valid through"), "{}", tried.stderr);
    let (quarters, days): (Vec<_>, Vec<_>) = tried.stdout.lines().skip(1).partition(|line| line.starts_with("15m,"));
    assert!(quarters.len() > 50 && !days.is_empty(), "{}", tried.stdout);
    assert!(days.iter().all(|line| line.starts_with("1d,")), "{}", tried.stdout);
    let only_days = try_out(&story, &file, &[&csv[..], &["--granularity", "1d"]].concat()).expect(0);
    assert_eq!(only_days.stdout.lines().skip(1).collect::<Vec<_>>(), days);
    let table = try_out(&story, &file, &interval).expect(0);
    assert!(table.stdout.starts_with("+-") && table.stdout.contains("| spread |"), "{table:?}");
    assert_eq!(files(&story), before);

    story.project.configure(&Knobs {
        pipeline: vec!["lateness: 1h", "idle_after: 36500d"],
        top: vec!["aggregates: [sql/totals.sql, sql/spread.sql]"],
        ..Knobs::default()
    });
    story.batch(&[]).expect(0);
    assert_eq!(published(&story, FROM, "2024-04-01T06:00:00Z"), tried.stdout);

    // what is published plays no part, and what is not complete is left out with a word
    let before = files(&story);
    let far = ["--interval-start", "2024-03-01T00:00:00Z", "--interval-end", "2024-05-01T00:00:00Z", "--format", "csv"];
    let all = try_out(&story, &file, &far).expect(0);
    assert_eq!(all.stdout, published(&story, "2024-03-01T00:00:00Z", "2024-05-01T00:00:00Z"));
    // the day of 2024-04-02 and quarters from its morning on
    assert!(all.stderr.contains("raw is valid through 2024-04-02T"), "{}", all.stderr);
    let open = all.stderr.split("left out, ").nth(1).and_then(|text| text.split(' ').next()).unwrap();
    assert!(open.parse::<u64>().unwrap() > 4, "{}", all.stderr);
    assert_eq!(files(&story), before);
}

#[test]
fn an_older_version_and_a_lake_without_events() {
    let mut story = Story::begin();
    let file = write(&story, "spread.sql", &spread());
    let csv = ["--interval-start", FROM, "--interval-end", TO, "--format", "csv"];
    let nothing = try_out(&story, &file, &csv).expect(0);
    assert_eq!(nothing.stdout.trim_end(), COLUMNS.replace(", ", ","));
    assert!(nothing.stderr.contains("no instant yet"), "{nothing:?}");
    assert!(!story.project.path().join("lake/batch").exists());

    story.send(&three_days(&mut Rng(405)));
    story.send(&reach(1_000, FIRST_US + 3 * DAY_US));
    let before = try_out(&story, &file, &csv).expect(0);
    let version = story.project.rows("SELECT max(version) AS v FROM ops.offsets")[0]["v"].as_i64().unwrap();
    story.send(&[super::event(2_000, FIRST_US + DAY_US, 1)]);
    let after = try_out(&story, &file, &csv).expect(0);
    assert_ne!(after.stdout, before.stdout);
    let version = version.to_string();
    let pinned = try_out(&story, &file, &[&csv[..], &["--input-version", &version]].concat()).expect(0);
    assert_eq!(pinned.stdout, before.stdout);
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_a_hint() {
    let mut story = Story::begin();
    story.send(&reach(1_000, FIRST_US));
    let before = files(&story);
    let interval = ["--interval-start", FROM, "--interval-end", TO];
    let refused = |name: &str, sql: &str, told: &[&str]| {
        let file = write(&story, name, sql);
        let ended = try_out(&story, &file, &interval).expect(2);
        assert_eq!(ended.stdout, "");
        for told in told {
            assert!(ended.stderr.contains(told), "no `{told}`: {}", ended.stderr);
        }
    };
    refused("spread.sql", &spread().replace("max(value)", "max(vallue)"), &["spread.sql:6:34", "did you mean `value`"]);
    refused("spread.sql", &spread().replace("median(value)", "array_agg(value)"), &["spread.sql:6", "array_agg"]);
    refused("spread.sql", &spread().replace("from: events", "from: event"), &["spread.sql:3:10", "`events`"]);
    refused("other.sql", &spread(), &["other.sql:1:15", "hint"]);
    refused("spread.sql", "SELECT 1", &["spread.sql:1:1", "no header"]);

    let file = write(&story, "spread.sql", &spread());
    let unbounded = try_out(&story, &file, &["--interval-end", TO]).expect(2);
    assert!(unbounded.stderr.contains("`--try` needs an interval"), "{unbounded:?}");
    assert!(unbounded.stderr.contains("--interval-start TIME"), "{unbounded:?}");
    assert_eq!(unbounded.stdout, "");
    let size = try_out(&story, &file, &[&interval[..], &["--granularity", "5m"]].concat()).expect(2);
    assert!(size.stderr.contains("no aggregate has windows of `5m`"), "{size:?}");
    let missing = story.batch(&[&["--try", "not/there.sql"][..], &interval].concat()).expect(2);
    assert!(missing.stderr.contains("not/there.sql"), "{missing:?}");
    for beside in ["totals", "--force", "--dry-run", "--skip-exit-code"] {
        try_out(&story, &file, &[&interval[..], &[beside]].concat()).expect(2);
    }
    story.batch(&["--format", "csv"]).expect(2);
    assert_eq!(files(&story), before);
}

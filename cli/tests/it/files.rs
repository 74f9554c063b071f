//! A pipeline filled from files by a process that is killed at every step, and a year of dates in little memory.
//!
//! The process is this test's own binary: it carries a frozen plan out, as any machine may.

use crate::harness::{Child, Ended, MockBroker, Project, project::Knobs, project::TOPIC, project::block_on};
use deltaworks_jobs::backfill::files::{self, FilesPlan, FilesRun};
use deltaworks_jobs::batch::meter::Meter;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::project::settings::Settings;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use tokio_util::sync::CancellationToken;

/// Says where the project of the process is.
const DIR: &str = "FILES_STORY_DIR";
/// The budget of the process, beside what it takes for a few rows: this is an unoptimised build of everything.
const BUDGET: &str = "memory: 128MiB";
const BUDGET_KIB: u64 = 128 << 10;
/// Bytes of the year's files.
const YEAR_BYTES: usize = 120 << 20;

/// Not a test: what the process does.
#[test]
#[ignore = "the other stories start it as a process of its own"]
fn as_a_process() {
    let _faults = deltaworks_jobs::faults::arm();
    let Ok(dir) = std::env::var(DIR) else { return };
    let (settings, plan) = (settings(Path::new(&dir)), plan_of(Path::new(&dir)));
    let (clock, stop) = (Clock::system(), CancellationToken::new());
    let lake = deltaworks_jobs::lake::Lake::open(&settings.lake).unwrap();
    let (pipeline, meter) = (&settings.pipelines[0], &Meter::default());
    let (lake, settings, plan, clock, stop) = (&lake, &settings, &plan, &clock, &stop);
    let report = block_on(FilesRun { lake, settings, pipeline, id: "x", plan, meter, clock, stop }.run());
    assert!(report.error.is_none(), "{:?}", report.error);
    eprintln!("\nreport: {}", serde_json::to_string(&report).unwrap());
}

fn settings(dir: &Path) -> Settings {
    let find = |name: &str| match name {
        "KAFKA_BROKERS" => Some("nowhere".to_owned()),
        "DELTAWORKS_LAKE" => Some(format!("file://{}/lake", dir.display())),
        _ => None,
    };
    deltaworks_jobs::project::load(dir, &find).unwrap()
}

fn plan_of(dir: &Path) -> FilesPlan {
    serde_json::from_slice(&fs::read(dir.join("plan.json")).unwrap()).unwrap()
}

/// A project with files below `in/`.
struct Story {
    project: Project,
}

impl Story {
    fn new(knobs: &Knobs) -> Self {
        let broker = MockBroker::start(TOPIC, 1);
        let project = Project::with(&broker, knobs);
        fs::create_dir(project.path().join("in")).unwrap();
        Self { project }
    }

    fn path(&self) -> &Path {
        self.project.path()
    }

    /// Freezes what is below `in/`, and keeps it where the process finds it.
    fn freeze(&self) {
        let settings = settings(self.path());
        let lake = deltaworks_jobs::lake::Lake::open(&settings.lake).unwrap();
        let pipeline = &settings.pipelines[0];
        let (from, reading) = (["in".to_owned()], files::reading(pipeline));
        let plan = block_on(files::plan(&lake, &settings, pipeline, &from, &reading, &[])).unwrap();
        fs::write(self.path().join("plan.json"), serde_json::to_vec(&plan).unwrap()).unwrap();
    }

    fn start(&self, fault: Option<String>) -> Ended {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "files::as_a_process", "--ignored", "--nocapture"]);
        // the product has an allocator of its own, with one arena for each processor
        command.env("MALLOC_ARENA_MAX", "2");
        command.env(DIR, self.path()).env_remove("FAILPOINTS").envs(fault.map(|fault| ("FAILPOINTS", fault)));
        Child::start(command).wait()
    }

    fn run(&self) -> (Value, Ended) {
        let ended = self.start(None).expect(0);
        let report = ended.stderr.lines().find_map(|line| line.strip_prefix("report: ")).expect("a report");
        (serde_json::from_str(report).unwrap(), ended)
    }

    /// Number of rows, and of places, in a table.
    fn count(&self, table: &str) -> (i64, i64) {
        let sql = format!("SELECT count(*) AS n, count(DISTINCT _topic || '@' || _offset) AS places FROM {table}");
        let rows = self.project.rows(&sql);
        (rows[0]["n"].as_i64().unwrap(), rows[0]["places"].as_i64().unwrap())
    }
}

fn line(n: usize, note: &str) -> String {
    let at =
        jiff::Timestamp::from_second(1_704_067_200 + (n as i64 * 86_400 % (366 * 86_400)) + n as i64 % 86_400).unwrap();
    format!("{{\"id\":\"e-{n:x}\",\"at\":\"{at}\",\"value\":{},\"note\":\"{note}\"}}\n", n % 1_000)
}

/// Twelve small files, a large one, and one with bad rows; killed at the `nth` time that the process comes to `point`.
fn killed_at(point: &str, nth: u64) {
    let story = Story::new(&Knobs { commit: "{every: 60s, rows: 25}", ..Knobs::default() });
    let (mut n, input) = (0, story.path().join("in"));
    let mut file = |name: String, rows: usize, bad: usize| {
        let text: String = (n..n + rows).map(|n| line(n, "")).collect();
        n += rows;
        fs::write(input.join(name), text + &"{\n".repeat(bad)).unwrap();
    };
    (0..12).for_each(|i| file(format!("a{i:02}.jsonl"), 5, 0));
    file("b.jsonl".into(), 20_000, 0);
    (0..6).for_each(|i| file(format!("c{i}.jsonl"), 20, 7));
    story.freeze();
    story.start(Some(format!("{point}={}*off->return", nth - 1))).expect_fault(point);
    let (report, _) = story.run();
    let rows = 60 + 20_000 + 120;
    assert_eq!((story.count("raw.events"), story.count("rejects.events")), ((rows, rows), (42, 42)), "{report}");
    assert_eq!((report["files"].as_u64(), report["files_done"].as_u64()), (Some(19), Some(19)));
    let again = report["already"].as_i64().unwrap();
    assert!(again <= 20_000, "only the file that was begun is read again: {report}");
    let (idle, _) = story.run();
    assert_eq!(
        (idle["landed"].as_u64(), idle["already"].as_u64(), idle["commits"].as_u64()),
        (Some(0), Some(0), Some(0))
    );
    assert_eq!(story.project.run(&["prove", "--offline"]).code, Some(0));
}

macro_rules! killed_at {
    ($($test:ident: $point:literal at $($nth:literal),+;)+) => {$(
        #[test]
        fn $test() {
            $(killed_at($point, $nth);)+
        }
    )+};
}

killed_at! {
    before_files_part: "before_files_part" at 1, 4;
    after_files_part: "after_files_part" at 1, 3, 5;
    before_fill_commit: "before_fill_commit" at 1, 4;
    after_fill_commit: "after_fill_commit" at 2, 5;
    after_fill_rejects: "after_fill_rejects" at 3, 6;
}

/// Fills `bytes` of rows, spread over all dates of a year; says the most memory that the process took, in KiB.
fn year(bytes: usize) -> u64 {
    let story = Story::new(&Knobs { commit: "{every: 600s}", top: vec![BUDGET], ..Knobs::default() });
    let note = "x".repeat(4_000);
    let (mut n, mut text) = (0, String::new());
    for name in ["a.jsonl", "b.jsonl", "c.jsonl"] {
        text.clear();
        while text.len() < bytes / 3 {
            let _ = write!(text, "{}", line(n, &note));
            n += 1;
        }
        fs::write(story.path().join("in").join(name), &text).unwrap();
    }
    drop(text);
    story.freeze();
    let (report, ended) = story.run();
    assert_eq!(story.count("raw.events"), (n as i64, n as i64), "{report}");
    let dates = story.project.rows("SELECT count(DISTINCT event_date) AS n FROM raw.events");
    assert_eq!(dates[0]["n"].as_u64(), Some(n.min(366) as u64));
    eprintln!("{} MiB at most, {report}", ended.peak_rss_kib >> 10);
    ended.peak_rss_kib
}

#[test]
fn a_year_of_dates_from_files_stays_in_memory() {
    let (little, much) = (year(1 << 10), year(YEAR_BYTES));
    assert!(little > 0, "the memory was never measured");
    assert!(much < little + BUDGET_KIB, "{} MiB, and {} MiB for a few rows", much >> 10, little >> 10);
}

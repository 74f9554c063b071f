//! The golden cases of `fixtures/cases`, found by themselves and run to their end by the real binary.
//!
//! All cases share a project, a pipeline and an aggregate each, so that a step of all of them is one `stream`
//! and one `batch`. How they are run must not matter: one expected file serves all ways.

use crate::harness::project::Knobs;
use crate::harness::{Lake, MockBroker, Project};
use deltaworks_jobs::engine::Format;
use deltaworks_jobs::kafka::producer::Outgoing;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/cases");
const CONTRACT: &str = include_str!("../../../../fixtures/cases/event.odcs.yaml");

/// A folder of `fixtures/cases`.
struct Case {
    name: String,
    aggregate: String,
    /// The lines of each step.
    steps: Vec<Vec<String>>,
    expected: String,
}

/// How the cases are run.
struct Way {
    partitions: i32,
    commit: &'static str,
    /// Whether each step is landed and computed before the next is sent.
    apart: bool,
}

#[test]
fn a_commit_for_each_step() {
    run(&Way { partitions: 1, commit: "{}", apart: true });
}

#[test]
fn many_small_commits() {
    run(&Way { partitions: 3, commit: "{rows: 2}", apart: true });
}

#[test]
fn all_steps_at_once() {
    run(&Way { partitions: 8, commit: "{rows: 7}", apart: false });
}

fn run(way: &Way) {
    let cases = cases();
    let (broker, project) = begin(&cases, way);
    // by hand: the group would wait for members that may come
    let partitions = format!("0-{}", way.partitions - 1);
    let step_count = cases.iter().map(|case| case.steps.len()).max().unwrap();
    let mut sent = vec![0; cases.len()];
    let mut seen = vec![String::new(); cases.len()];
    for step in 0..step_count {
        for (case, sent) in cases.iter().zip(&mut sent) {
            case.send(step, &broker, way.partitions, sent);
        }
        if way.apart || step + 1 == step_count {
            project.run(&["stream", "--until-caught-up", "--partitions", &partitions]).expect(0);
            project.run(&["batch"]).expect(0);
        }
        for (case, seen) in cases.iter().zip(&mut seen).filter(|(case, _)| way.apart && case.loses_rows()) {
            seen.push_str(&case.published(&project));
        }
    }
    for (case, sent) in cases.iter().zip(sent) {
        assert_eq!(case.landed(&project), sent, "{}: events in raw", case.name);
        assert_eq!(case.published(&project), case.expected, "{}", case.name);
    }
    for (case, seen) in cases.iter().zip(&seen).filter(|_| way.apart) {
        case.verify_lost(seen);
    }
    // every unit is known, those without rows too
    project.run(&["batch", "--skip-exit-code"]).expect(99);
}

/// Every case; fails where a folder is not whole.
fn cases() -> Vec<Case> {
    let mut folders: Vec<_> = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    assert!(!folders.is_empty(), "{FOLDER} has no cases");
    folders.iter().map(|folder| Case::read(folder)).collect()
}

fn begin(cases: &[Case], way: &Way) -> (MockBroker, Project) {
    let broker = MockBroker::start(&cases[0].pipeline(), way.partitions);
    for case in &cases[1..] {
        broker.create_topic(&case.pipeline(), way.partitions);
    }
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::folder(&dir.path().join("lake"));
    let project = Project::on(dir, &broker, &lake, &Knobs::default());
    project.deploy(CONTRACT);
    fs::create_dir(project.path().join("sql")).unwrap();
    let (mut aggregates, mut pipelines) = (String::new(), String::new());
    for case in cases {
        let file = format!("sql/{}.sql", case.name);
        fs::write(project.path().join(&file), &case.aggregate).unwrap();
        writeln!(aggregates, "  - {file}").unwrap();
        writeln!(
            pipelines,
            "  {pipeline}:\n    topic: {pipeline}\n    contract: event.odcs.yaml\n    event_time: at\n    \
             lateness: 1h\n    commit: {commit}",
            pipeline = case.pipeline(),
            commit = way.commit
        )
        .unwrap();
    }
    let text = format!(
        "version: 1\nlake: ${{DELTAWORKS_LAKE}}\nkafka:\n  bootstrap.servers: ${{KAFKA_BROKERS}}\n\
         pipelines:\n{pipelines}aggregates:\n{aggregates}"
    );
    fs::write(project.path().join("deltaworks.yaml"), text).unwrap();
    (broker, project)
}

impl Case {
    fn read(folder: &Path) -> Self {
        let read = |file: &str| {
            let path = folder.join(file);
            fs::read_to_string(&path).unwrap_or_else(|e| panic!("{} cannot be read: {e}", path.display()))
        };
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let events = read("events.jsonl");
        let steps = events.trim_end().split("\n\n").map(|step| step.lines().map(str::to_owned).collect()).collect();
        let case = Self { name, aggregate: read("aggregate.sql"), steps, expected: read("expected.csv") };
        assert!(case.steps.iter().all(|step| !step.is_empty()), "{}: a step without events", case.name);
        assert!(case.expected.lines().count() > 1, "{}: no window is expected", case.name);
        case
    }

    fn pipeline(&self) -> String {
        format!("{}_events", self.name)
    }

    /// Sends a step, if the case has that many, over the partitions in turn.
    fn send(&self, step: usize, broker: &MockBroker, partitions: i32, sent: &mut i64) {
        let Some(lines) = self.steps.get(step) else { return };
        let since_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64 - 60_000;
        let messages: Vec<_> = lines
            .iter()
            .zip(*sent..)
            .map(|(line, n)| Outgoing {
                partition: Some((n % i64::from(partitions)) as i32),
                payload: Some(line.as_bytes()),
                timestamp_ms: Some(since_ms + n),
                ..Outgoing::default()
            })
            .collect();
        broker.send(&self.pipeline(), &messages);
        *sent += messages.len() as i64;
    }

    fn landed(&self, project: &Project) -> i64 {
        let rows = project.rows(&format!("SELECT count(*) AS n FROM raw.{}", self.pipeline()));
        rows[0]["n"].as_i64().unwrap()
    }

    /// The columns of `expected.csv` as they are published.
    fn published(&self, project: &Project) -> String {
        let columns = self.expected.lines().next().unwrap();
        let order = columns.replace(',', " NULLS LAST, ");
        let sql = format!("SELECT {columns} FROM batch.{} ORDER BY {order} NULLS LAST", self.name);
        String::from_utf8(project.query(&sql, Format::Csv)).unwrap()
    }

    /// Whether it is about rows that go.
    fn loses_rows(&self) -> bool {
        self.name.starts_with("gone_by_")
    }

    /// Fails if rows should go, and none of those seen after any step is gone.
    fn verify_lost(&self, seen: &str) {
        let row = |line: &str| line.splitn(4, ',').take(3).map(str::to_owned).collect::<Vec<_>>();
        let kept: Vec<_> = self.expected.lines().map(row).collect();
        let lost = seen.lines().map(row).any(|row| !kept.contains(&row));
        assert_eq!(lost, self.loses_rows(), "{}: seen after the steps:\n{seen}", self.name);
    }
}

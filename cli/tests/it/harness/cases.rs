//! The golden cases of `fixtures/cases`, found by themselves: each has a pipeline and an aggregate of its own in one
//! project, so that one run of a verb does its part for all of them.
//!
//! What the windows must be comes from the files of a case alone, for its events in the order of their lines, dealt out
//! to the partitions in turn. How they are sent, landed, computed and interrupted in between is the test's.

use super::{Ended, MockBroker, Project};
use deltaworks_jobs::engine::Format;
use deltaworks_jobs::kafka::producer::Outgoing;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/cases");
const CONTRACT: &str = include_str!("../../../../fixtures/cases/event.odcs.yaml");
/// A message that no contract takes.
const BROKEN: &str = "{\"id\": \"broken\", ";

/// A folder of `fixtures/cases`.
pub struct Case {
    pub name: String,
    aggregate: String,
    /// The lines of each step.
    steps: Vec<Vec<String>>,
    expected: String,
    /// These two for each count of partitions.
    provisional: String,
    drift: String,
}

/// How the cases are set up.
pub struct Setup {
    pub partitions: i32,
    /// `commit` of each pipeline.
    pub commit: &'static str,
    /// Whether windows are shown before they are complete.
    pub speed: bool,
    /// More lines at the top level of `deltaworks.yaml`.
    pub top: &'static str,
}

/// All cases in one project, on a broker of their own.
pub struct Cases {
    pub all: Vec<Case>,
    pub project: Project,
    broker: MockBroker,
    partitions: i32,
    /// Kafka's time of the first line, ms.
    since_ms: i64,
    /// Lines of each case that are sent.
    sent: Vec<usize>,
    /// Messages of each case that break the contract.
    broken: i64,
}

impl Cases {
    /// Reads every case and sends nothing yet; fails where a folder is not whole.
    pub fn begin(setup: &Setup) -> Self {
        let mut folders: Vec<_> = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.retain(|path| path.is_dir() && !path.ends_with("__pycache__"));
        folders.sort();
        assert!(!folders.is_empty(), "{FOLDER} has no cases");
        let all: Vec<Case> = folders.iter().map(|folder| Case::read(folder)).collect();
        let broker = MockBroker::start(&all[0].pipeline(), setup.partitions);
        for case in &all[1..] {
            broker.create_topic(&case.pipeline(), setup.partitions);
        }
        let project = Project::new(&broker);
        write_project(&project, &all, setup);
        let since_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64 - 60_000;
        Self { sent: vec![0; all.len()], all, project, broker, partitions: setup.partitions, since_ms, broken: 0 }
    }

    /// How many steps the longest case has.
    pub fn step_count(&self) -> usize {
        self.all.iter().map(|case| case.steps.len()).max().unwrap()
    }

    /// Sends a step of each case that has that many.
    pub fn send_step(&mut self, step: usize) {
        for n in 0..self.all.len() {
            let upto: usize = self.all[n].steps.iter().take(step + 1).map(Vec::len).sum();
            self.send_upto(n, upto);
        }
    }

    /// Sends what is not sent yet.
    pub fn send_all(&mut self) {
        self.send_step(self.step_count());
    }

    /// Sends up to `count` more lines of the `n`-th case; whether there were any.
    pub fn send_some(&mut self, n: usize, count: usize) -> bool {
        let before = self.sent[n];
        self.send_upto(n, before + count);
        self.sent[n] > before
    }

    /// Sends a message that breaks the contract to each partition of each case.
    pub fn send_broken(&mut self) {
        let broken = |partition| Outgoing {
            partition: Some(partition),
            payload: Some(BROKEN.as_bytes()),
            ..Outgoing::default()
        };
        let messages: Vec<_> = (0..self.partitions).map(broken).collect();
        for case in &self.all {
            self.broker.send(&case.pipeline(), &messages);
        }
        self.broken += i64::from(self.partitions);
    }

    /// Sends the lines of a case that come before the `upto`-th and are not sent yet, over the partitions in turn.
    fn send_upto(&mut self, n: usize, upto: usize) {
        let (case, partitions) = (&self.all[n], self.partitions as usize);
        let lines = case.steps.iter().flatten().enumerate().take(upto).skip(self.sent[n]);
        let messages: Vec<_> = lines
            .map(|(n, line)| Outgoing {
                partition: Some((n % partitions) as i32),
                payload: Some(line.as_bytes()),
                timestamp_ms: Some(self.since_ms + n as i64),
                ..Outgoing::default()
            })
            .collect();
        if !messages.is_empty() {
            self.broker.send(&case.pipeline(), &messages);
            self.sent[n] += messages.len();
        }
    }

    /// All partitions, by hand: the group would wait for members that may come.
    pub fn partitions(&self) -> String {
        format!("0-{}", self.partitions - 1)
    }

    /// Lands everything that is there.
    pub fn land(&self) -> Ended {
        self.project.run(&["stream", "--until-caught-up", "--partitions", &self.partitions()]).expect(0)
    }

    /// Computes what is complete.
    pub fn batch(&self) -> Ended {
        self.project.run(&["batch"]).expect(0)
    }

    /// Brings served windows up to date.
    pub fn reconcile(&self) -> Ended {
        self.project.run(&["reconcile"]).expect(0)
    }

    /// Runs a verb that is killed at the `nth` time that it comes to `point`.
    #[track_caller]
    pub fn killed(&self, point: &str, nth: u64, verb: &[&str]) {
        let fault = format!("{point}={}*off->return", nth - 1);
        self.project.start_faulty(&fault, verb).wait().expect_fault(point);
    }

    /// Fails unless every message is in its table once.
    #[track_caller]
    pub fn verify_landed(&self) {
        let raw = self.all.iter().zip(&self.sent).map(|(case, sent)| ("raw", case, *sent as i64));
        let rejects = self.all.iter().map(|case| ("rejects", case, self.broken)).filter(|(.., broken)| *broken > 0);
        let expected: BTreeMap<_, _> =
            raw.chain(rejects).map(|(layer, case, count)| (format!("{layer}.{}", case.pipeline()), count)).collect();
        let count = |table: &String| {
            format!(
                "SELECT '{table}' AS landed, count(*) AS n, count(DISTINCT 1000000 * _partition + _offset) AS places \
                 FROM {table}"
            )
        };
        let rows = self.project.rows(&expected.keys().map(count).collect::<Vec<_>>().join(" UNION ALL "));
        assert_eq!(rows.len(), expected.len());
        for row in rows {
            let expected = expected[row["landed"].as_str().unwrap()];
            assert_eq!((row["n"].as_i64(), row["places"].as_i64()), (Some(expected), Some(expected)), "{row}");
        }
    }

    /// Fails unless each case has exactly the windows of `expected.csv` in a table of this layer.
    #[track_caller]
    pub fn verify_final(&self, layer: &str) {
        for case in &self.all {
            assert_eq!(self.windows(layer, case), case.expected, "{}: {layer}", case.name);
        }
        if layer == "served" {
            let states = self.states(&self.all.iter().collect::<Vec<_>>());
            assert!(states.iter().all(|state| state != "provisional"), "{states:?}");
        }
    }

    /// Fails unless each case is served exactly the windows of `provisional.csv` for this count of partitions.
    #[track_caller]
    pub fn verify_provisional(&self) {
        self.verify_provisional_of(&self.all.iter().collect::<Vec<_>>());
    }

    /// The same for some cases.
    #[track_caller]
    pub fn verify_provisional_of(&self, some: &[&Case]) {
        for case in some {
            let (columns, expected) = of_partitions(&case.provisional, self.partitions);
            assert!(expected.lines().count() > 1, "{}: no window is expected", case.name);
            assert_eq!(self.read("served", case, &columns), expected, "{}: provisional", case.name);
        }
        assert_eq!(self.states(some), ["provisional"]);
    }

    /// Fails unless each case has exactly the drift of `drift.csv` for this count of partitions, all of it explained.
    #[track_caller]
    pub fn verify_drift(&self) {
        for case in &self.all {
            let (columns, expected) = of_partitions(&case.drift, self.partitions);
            let one = |column: &str| match column.split_once('_') {
                Some((step @ ("base" | "late" | "dedup"), value)) => {
                    format!("get_field({step}, '{value}') AS {column}")
                }
                _ => column.to_owned(),
            };
            let named: Vec<_> = columns.split(',').map(one).collect();
            let source = format!("(SELECT {}, unexplained FROM drift.{})", named.join(", "), case.name);
            assert_eq!(self.read_from(&source, &columns), expected, "{}: drift", case.name);
            let unexplained = self.project.rows(&format!("SELECT sum(unexplained) AS n FROM {source}"));
            assert_eq!(unexplained[0]["n"].as_i64().unwrap_or(0), 0, "{}", case.name);
        }
    }

    /// The columns of `expected.csv` as they are in a table of this layer.
    pub fn windows(&self, layer: &str, case: &Case) -> String {
        self.read(layer, case, case.expected.lines().next().unwrap())
    }

    /// These columns of a case's table, in the order of the golden files.
    fn read(&self, layer: &str, case: &Case, columns: &str) -> String {
        self.read_from(&format!("{layer}.{}", case.name), columns)
    }

    fn read_from(&self, source: &str, columns: &str) -> String {
        let order = columns.replace(',', " NULLS LAST, ");
        let sql = format!("SELECT {columns} FROM {source} ORDER BY {order} NULLS LAST");
        String::from_utf8(self.project.query(&sql, Format::Csv)).unwrap()
    }

    /// The states that served windows of these cases have, each once.
    fn states(&self, some: &[&Case]) -> Vec<String> {
        let states: Vec<_> = some.iter().map(|case| format!("SELECT state FROM served.{}", case.name)).collect();
        let rows = self.project.rows(&format!("SELECT DISTINCT state FROM ({})", states.join(" UNION ALL ")));
        rows.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
    }
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
        let (provisional, drift) = (read("provisional.csv"), read("drift.csv"));
        let case =
            Self { name, aggregate: read("aggregate.sql"), steps, expected: read("expected.csv"), provisional, drift };
        assert!(case.steps.iter().all(|step| !step.is_empty()), "{}: a step without events", case.name);
        assert!(case.expected.lines().count() > 1, "{}: no window is expected", case.name);
        case
    }

    fn pipeline(&self) -> String {
        format!("{}_events", self.name)
    }

    /// What tells windows of one granularity apart beside their start, as the aggregate groups by it.
    pub fn keys(&self) -> &str {
        self.aggregate.split("\nGROUP BY ").nth(1).map_or("", |keys| keys.lines().next().unwrap())
    }

    /// The golden windows.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// Whether it is about rows that go.
    pub fn loses_rows(&self) -> bool {
        self.name.starts_with("gone_by_")
    }
}

/// The columns of a golden file that has a column of partitions, and what it says of so many.
fn of_partitions(golden: &str, partitions: i32) -> (String, String) {
    let columns = golden.lines().next().unwrap().strip_prefix("partitions,").unwrap();
    let prefix = format!("{partitions},");
    let mut text = format!("{columns}\n");
    for row in golden.lines().skip(1).filter_map(|row| row.strip_prefix(&prefix)) {
        writeln!(text, "{row}").unwrap();
    }
    (columns.to_owned(), text)
}

fn write_project(project: &Project, cases: &[Case], setup: &Setup) {
    project.deploy(CONTRACT);
    fs::create_dir(project.path().join("sql")).unwrap();
    let (mut aggregates, mut pipelines) = (String::new(), String::new());
    for case in cases {
        let file = format!("sql/{}.sql", case.name);
        let header = if setup.speed { "" } else { "-- speed: false\n" };
        fs::write(project.path().join(&file), format!("{header}{}", case.aggregate)).unwrap();
        writeln!(aggregates, "  - {file}").unwrap();
        writeln!(
            pipelines,
            "  {pipeline}:\n    topic: {pipeline}\n    contract: event.odcs.yaml\n    event_time: at\n    \
             lateness: 1h\n    commit: {commit}",
            pipeline = case.pipeline(),
            commit = setup.commit
        )
        .unwrap();
    }
    let text = format!(
        "version: 1\nlake: ${{DELTAWORKS_LAKE}}\nkafka:\n  bootstrap.servers: ${{KAFKA_BROKERS}}\n{top}\
         pipelines:\n{pipelines}aggregates:\n{aggregates}",
        top = setup.top
    );
    fs::write(project.path().join("deltaworks.yaml"), text).unwrap();
}

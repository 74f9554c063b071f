//! A project in a temporary folder, and what a test asks of it.

use super::child::Child;
use super::{Broker, Ended, PATIENCE};
use deltaworks_core::progress::AppIds;
use deltaworks_jobs::engine;
use deltaworks_jobs::lake::TableName;
use deltaworks_jobs::project::{self, settings::Settings};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Topic of every story.
pub const TOPIC: &str = "events";

/// Lands everything that is there. By hand and not by the group: the mock's group waits long for a
/// member that was killed.
pub const CATCH_UP: [&str; 4] = ["stream", "--until-caught-up", "--partitions", "0-3"];

/// An option whose variable is not set counts as not given.
const STORAGE: &str = "  aws_access_key_id: ${AWS_ACCESS_KEY_ID:-}
  aws_secret_access_key: ${AWS_SECRET_ACCESS_KEY:-}
  aws_region: ${AWS_REGION:-}
  aws_endpoint: ${AWS_ENDPOINT_URL:-}
  aws_allow_http: ${AWS_ALLOW_HTTP:-}
";

/// What may be different in a story's `deltaworks.yaml`.
#[derive(Debug, Clone)]
pub struct Knobs {
    /// `commit` of the pipeline.
    pub commit: &'static str,
    /// More lines of the pipeline, each `key: value`.
    pub pipeline: Vec<&'static str>,
    /// More options of librdkafka.
    pub kafka: Vec<&'static str>,
    /// More lines at the top level.
    pub top: Vec<&'static str>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self { commit: "{every: 100ms, rows: 10}", pipeline: Vec::new(), kafka: Vec::new(), top: Vec::new() }
    }
}

/// A project whose one pipeline is `events`.
pub struct Project {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Project {
    /// A project with defaults.
    pub fn new(broker: &Broker) -> Self {
        Self::with(broker, &Knobs::default())
    }

    /// A project with its lake a folder in it.
    pub fn with(broker: &Broker, knobs: &Knobs) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = vec![
            ("KAFKA_BROKERS".to_owned(), broker.bootstrap.clone()),
            ("DELTAWORKS_LAKE".to_owned(), format!("file://{}", dir.path().join("lake").display())),
        ];
        let project = Self { dir, env };
        project.configure(knobs);
        project.deploy(super::events::CONTRACT);
        project
    }

    /// Writes `deltaworks.yaml`.
    pub fn configure(&self, knobs: &Knobs) {
        let block = |lines: &[&str], indent: &str| lines.iter().map(|l| format!("{indent}{l}\n")).collect::<String>();
        let text = format!(
            "version: 1\nlake: ${{DELTAWORKS_LAKE}}\n{top}\
             storage:\n{STORAGE}\
             kafka:\n  bootstrap.servers: ${{KAFKA_BROKERS}}\n{kafka}\
             pipelines:\n  events:\n    topic: {TOPIC}\n    contract: event.odcs.yaml\n    event_time: at\n\
             \x20   commit: {commit}\n{pipeline}",
            top = block(&knobs.top, ""),
            kafka = block(&knobs.kafka, "  "),
            commit = knobs.commit,
            pipeline = block(&knobs.pipeline, "    "),
        );
        fs::write(self.path().join("deltaworks.yaml"), text).unwrap();
    }

    /// Puts a contract in place.
    pub fn deploy(&self, contract: &str) {
        self.put("event.odcs.yaml", contract);
    }

    /// Puts a file in place, such as that of an aggregate.
    pub fn put(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Folder of the project.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The binary, ready to run here. No variable of the caller that means something to it gets through.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deltaworks"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["DELTAWORKS_", "AWS_", "KAFKA_", "OPENLINEAGE_", "FAILPOINTS", "RUST_LOG"]
                .iter()
                .any(|p| text.starts_with(p))
            {
                command.env_remove(&name);
            }
        }
        command.args(args).arg("--project").arg(self.path()).envs(self.env.iter().cloned());
        command
    }

    /// Starts a verb.
    pub fn start(&self, args: &[&str]) -> Child {
        Child::start(self.command(args))
    }

    /// Starts a verb with a fault point armed, e.g. `after_write=2*off->return`.
    pub fn start_faulty(&self, fault: &str, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.env("FAILPOINTS", fault);
        Child::start(command)
    }

    /// Runs a verb to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        self.start(args).wait()
    }

    /// Lands everything that is there.
    pub fn catch_up(&self) -> Ended {
        self.run(&CATCH_UP)
    }

    /// The next offset to read of each partition, as the log says.
    pub fn nexts(&self) -> BTreeMap<i32, i64> {
        let settings = self.settings();
        let name = TableName::new("raw", "events");
        let read = async {
            let table = deltaworks_jobs::lake::Lake::open(&settings.lake).unwrap().open_table(&name).await.unwrap();
            AppIds::new("events").read(TOPIC, table.expect("raw.events").txns()).nexts()
        };
        block_on(read).into_iter().map(|(partition, next)| (partition, next.0)).collect()
    }

    /// The settings as this process reads them.
    pub fn settings(&self) -> Settings {
        let find = |name: &str| self.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        project::load(self.path(), &find).unwrap()
    }

    /// Rows of a query, read in this process.
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        let json = self.query(sql, engine::Format::Json);
        json.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect()
    }

    /// What `query` prints, written in this process.
    pub fn query(&self, sql: &str, format: engine::Format) -> Vec<u8> {
        let settings = self.settings();
        let mut out = Vec::new();
        let read = async {
            let rows = engine::query(&settings.lake, sql, 256 << 20).await.unwrap();
            engine::write(rows, format, &mut out).await.unwrap();
        };
        block_on(read);
        out
    }
}

/// Runs something of the product in this process.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("work in this process is stuck") })
}

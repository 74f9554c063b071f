//! A project of its own for each test, and processes of the binary that are waited for and ended.

use super::truth::Truth;
use deltaworks_jobs::kafka::admin::{Admin, Made, NewTopicSpec};
use deltaworks_jobs::kafka::message::Chunk;
use deltaworks_jobs::kafka::source::{Event, Mode, Source};
use deltaworks_jobs::kafka::watermarks::Watermarks;
use deltaworks_jobs::project::settings::Options;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long anything may take that should simply happen.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const PIPELINE: &str = "camera_events";

/// Tests that kill a service take it for writing, all others for reading.
static SERVICES: RwLock<()> = RwLock::new(());

/// A right to the services for the time of one test.
pub enum Claim {
    Shared(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

/// One test's project, topic and lake.
pub struct World {
    pub name: String,
    pub topic: String,
    pub group: String,
    pub lake: String,
    pub options: Options,
    dir: tempfile::TempDir,
    pipeline: BTreeMap<&'static str, String>,
    kafka: BTreeMap<&'static str, String>,
    aggregates: Vec<&'static str>,
    /// How often `stream` reconciles, if it does.
    served_every: Option<&'static str>,
    runs: AtomicU32,
    #[expect(dead_code, reason = "held")]
    claim: Claim,
}

impl World {
    /// A project on a new topic with `partitions` partitions. Panics if the services are not named.
    pub fn new(name: &str, partitions: i32, topic_configs: &[(&str, &str)]) -> Self {
        let claim = Claim::Shared(SERVICES.read().unwrap_or_else(PoisonError::into_inner));
        Self::claimed(name, partitions, topic_configs, claim)
    }

    /// The same for a test that kills a service.
    pub fn alone(name: &str, partitions: i32) -> Self {
        let claim = Claim::Alone(SERVICES.write().unwrap_or_else(PoisonError::into_inner));
        Self::claimed(name, partitions, &[], claim)
    }

    fn claimed(name: &str, partitions: i32, topic_configs: &[(&str, &str)], claim: Claim) -> Self {
        let tag = format!("{:x}", now_ms());
        let topic = format!("e2e.{name}.{tag}");
        for needed in ["DELTAWORKS_S3_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            env(needed);
        }
        let world = Self {
            name: name.to_owned(),
            group: format!("e2e.{name}.{tag}"),
            lake: format!("s3://{}/e2e/{name}-{tag}", env("DELTAWORKS_S3_BUCKET")),
            options: options(&env("DELTAWORKS_KAFKA")),
            dir: tempfile::tempdir().unwrap(),
            pipeline: BTreeMap::from([
                ("event_time", "observed_at".to_owned()),
                ("lateness", "1h".to_owned()),
                ("commit", "{ every: 200ms }".to_owned()),
            ]),
            kafka: BTreeMap::from([
                ("bootstrap.servers", env("DELTAWORKS_KAFKA")),
                ("session.timeout.ms", "6000".to_owned()),
                ("topic.metadata.refresh.interval.ms", "2000".to_owned()),
            ]),
            aggregates: Vec::new(),
            served_every: None,
            runs: AtomicU32::new(0),
            topic,
            claim,
        };
        world.create_topic(partitions, topic_configs);
        let init = world.command(&["init", "--example", "traffic"]).arg(world.dir()).output().unwrap();
        assert!(init.status.success(), "{init:?}");
        world.write_project();
        world
    }

    /// Sets a key of the pipeline in deltaworks.yaml.
    pub fn set(mut self, key: &'static str, value: &str) -> Self {
        self.pipeline.insert(key, value.to_owned());
        self.write_project();
        self
    }

    /// Sets an option of librdkafka in deltaworks.yaml.
    pub fn set_kafka(mut self, key: &'static str, value: &str) -> Self {
        self.kafka.insert(key, value.to_owned());
        self.write_project();
        self
    }

    /// Names an aggregate, whose file is in `sql/traffic`, in deltaworks.yaml.
    pub fn aggregate(mut self, name: &'static str) -> Self {
        self.aggregates.push(name);
        self.write_project();
        self
    }

    /// Lets `stream` reconcile by itself, as often as this.
    pub fn served_every(mut self, every: &'static str) -> Self {
        self.served_every = Some(every);
        self.write_project();
        self
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn write_project(&self) {
        let block = |map: &BTreeMap<&str, String>, indent: &str| -> String {
            map.iter().map(|(k, v)| format!("{indent}{k}: {v}\n")).collect()
        };
        let text = format!(
            "version: 1\nlake: {lake}\nstorage:\n  aws_access_key_id: ${{AWS_ACCESS_KEY_ID}}\n  \
             aws_secret_access_key: ${{AWS_SECRET_ACCESS_KEY}}\n  aws_region: ${{AWS_REGION:-}}\n  \
             aws_endpoint: ${{AWS_ENDPOINT_URL}}\n  aws_allow_http: ${{AWS_ALLOW_HTTP:-}}\n\
             {served}kafka:\n{kafka}\
             pipelines:\n  {PIPELINE}:\n    topic: {topic}\n    group: {group}\n    \
             contract: schemas/traffic/camera_event.odcs.yaml\n{pipeline}aggregates: [{aggregates}]\n",
            aggregates =
                self.aggregates.iter().map(|name| format!("sql/traffic/{name}.sql")).collect::<Vec<_>>().join(", "),
            lake = self.lake,
            served = self.served_every.map(|every| format!("served: {{ every: {every} }}\n")).unwrap_or_default(),
            kafka = block(&self.kafka, "  "),
            topic = self.topic,
            group = self.group,
            pipeline = block(&self.pipeline, "    "),
        );
        fs::write(self.dir().join("deltaworks.yaml"), text).unwrap();
    }

    pub fn admin(&self) -> Admin {
        Admin::open(&self.options).unwrap()
    }

    /// Makes the topic, waiting while an old one of that name is still being deleted.
    pub fn create_topic(&self, partitions: i32, configs: &[(&str, &str)]) {
        let configs = configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let spec = NewTopicSpec { name: self.topic.clone(), partitions, replication: 1, configs };
        let admin = self.admin();
        eventually("the topic can be made", || admin.create(&spec).is_ok_and(|made| made == Made::Created));
        let watermarks = self.watermarks();
        eventually("the topic is there", || watermarks.partition_count(&self.topic).is_ok_and(|n| n == partitions));
    }

    pub fn watermarks(&self) -> Watermarks {
        Watermarks::open(&self.options).unwrap()
    }

    /// A command of the binary in this project.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env("DELTAWORKS_PROJECT", self.dir()).env("DELTAWORKS_LOG", "info").stdin(Stdio::null());
        command
    }

    /// Starts the binary with its output in files.
    pub fn start(&self, args: &[&str]) -> Running {
        self.spawn(self.command(args), args)
    }

    /// The same with an armed fault point that makes it slow, so that something can happen in its middle.
    pub fn start_slowed(&self, fault: &str, args: &[&str]) -> Running {
        let mut command = self.command(args);
        command.env("FAILPOINTS", fault);
        self.spawn(command, args)
    }

    fn spawn(&self, mut command: Command, args: &[&str]) -> Running {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let path = |kind: &str| self.dir().join(format!("run-{number}.{kind}"));
        let (out, err) = (path("out"), path("err"));
        let child =
            command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap()).spawn().unwrap();
        Running { child, out, err, what: format!("{} run {number}: {}", self.name, args.join(" ")) }
    }

    /// Starts a `stream`.
    pub fn stream(&self, more: &[&str]) -> Running {
        self.start(&[&["stream"], more].concat())
    }

    /// Runs `stream --until-caught-up` to its end, which must be a good one.
    pub fn catch_up(&self, more: &[&str]) -> Value {
        let ended = self.stream(&[&["--until-caught-up"], more].concat()).wait(PATIENCE);
        assert_eq!(ended.code(), 0, "{ended}");
        ended.pipeline()
    }

    /// The rows of a query.
    pub fn query(&self, sql: &str) -> Vec<Value> {
        let asked = self.command(&["query", "--quiet", "--format", "json", sql]).output().unwrap();
        assert!(asked.status.success(), "{sql}: {asked:?}");
        let text = String::from_utf8(asked.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Rows in raw now; 0 while there is no table.
    pub fn landed(&self) -> u64 {
        self.number("SELECT count(*) AS n FROM raw.camera_events")
    }

    /// How many runs the ledger names that landed rows; it is behind by some commits.
    pub fn runs_that_landed(&self) -> u64 {
        self.number("SELECT count(DISTINCT run_id) AS n FROM ops.offsets WHERE landed > 0")
    }

    /// The number `n` of a query; 0 while there is no table.
    pub fn number(&self, sql: &str) -> u64 {
        self.only(sql).and_then(|row| row["n"].as_u64()).unwrap_or(0)
    }

    /// The only row of a query; `None` while there is no table.
    pub fn only(&self, sql: &str) -> Option<Value> {
        let asked = self.command(&["query", "--quiet", "--format", "json", sql]).output().unwrap();
        serde_json::from_slice(&asked.stdout).ok()
    }

    /// Valid-through as `status` shows it; the beginning of time while there is none.
    pub fn valid_through_ms(&self) -> i64 {
        let asked = self.command(&["status", "--quiet", "--offline", "--format", "json"]).output().unwrap();
        let text = String::from_utf8_lossy(&asked.stdout).into_owned();
        let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let raw = rows.filter(|row| row["table"] == format!("raw.{PIPELINE}")).map(|row| row["valid_through"].clone());
        raw.filter(|through| through.is_string()).map(|through| instant_ms(&through)).max().unwrap_or(i64::MIN)
    }

    /// How many partitions have progress in the raw table.
    pub fn starts(&self) -> usize {
        let asked = self.command(&["offsets", "show", "--quiet", "--format", "json"]).output().unwrap();
        let text = String::from_utf8_lossy(&asked.stdout).into_owned();
        let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        rows.filter(|row| row["delta"].is_i64()).count()
    }

    /// The offsets of a partition that can be read now.
    pub fn readable(&self, partition: i32) -> Vec<i64> {
        let mode = Mode::Manual { group: format!("{}.look", self.group), partitions: vec![partition] };
        let mut source = Source::open(&self.options, &self.topic, mode, 1 << 20, false).unwrap();
        let (mut chunk, mut offsets) = (Chunk::default(), Vec::new());
        loop {
            let events = source.poll(&mut chunk, 1_000, Duration::from_millis(100), 0).unwrap();
            offsets.extend(chunk.iter().map(|message| message.offset()));
            for event in events {
                match event {
                    Event::Assigning(_) => source.assign(&[(partition, 0)]).unwrap(),
                    Event::EndOfPartition { .. } => return offsets,
                    _ => {}
                }
            }
        }
    }

    /// Holds the tables against what was sent; see [`Truth::holds`].
    pub fn verify(&self, truth: &Truth) {
        truth.holds(self);
        truth.hand_over(self);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = std::env::temp_dir().join(format!("deltaworks-{}", self.topic));
            let copied = Command::new("cp").arg("-r").arg(self.dir()).arg(&kept).status();
            eprintln!("{}: lake {}, project and logs {} ({copied:?})", self.name, self.lake, kept.display());
        } else if let Err(error) = self.admin().delete(&self.topic) {
            eprintln!("{}: the topic stays: {error}", self.name);
        }
    }
}

/// A process of the binary; killed if the test forgets it.
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    pub what: String,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
    what: String,
}

impl Running {
    /// Waits for the end; panics when it takes longer.
    pub fn wait(mut self, patience: Duration) -> Ended {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < patience, "{} does not end:\n{}", self.what, self.log());
            sleep(Duration::from_millis(20));
        }
        self.ended(begun.elapsed())
    }

    /// SIGTERM, then the end: nine seconds for what was read, five for leaving the group, the rest for the ledger.
    pub fn term(self) -> Ended {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "{} was gone before SIGTERM:\n{}", self.what, self.log());
        self.wait(Duration::from_secs(20))
    }

    /// SIGKILL. Returns whether it was alive, so that the fault fired.
    pub fn kill9(mut self) -> bool {
        let alive = self.is_alive();
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert!(!alive || status.code().is_none(), "{} ended by itself: {status}", self.what);
        alive
    }

    /// SIGKILL for one that may end by itself; how it ended, if it was first.
    pub fn kill9_unless_ended(mut self) -> Option<Ended> {
        self.child.kill().unwrap();
        let ended = self.ended(Duration::ZERO);
        ended.status.code().is_some().then_some(ended)
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    fn ended(&mut self, took: Duration) -> Ended {
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let status = self.child.wait().unwrap();
        Ended { status, stdout: read(&self.out), stderr: read(&self.err), took, what: self.what.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // gone already is fine
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The exit code; a signal counts as −1.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// The last line on stdout.
    pub fn result(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|e| panic!("the last line is no JSON: {e}\n{self}"))
    }

    /// What it says about the pipeline.
    pub fn pipeline(&self) -> Value {
        self.result()["pipelines"][PIPELINE].clone()
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} after {:?}\n{}{}", self.what, self.status, self.took, self.stderr, self.stdout)
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("DELTAWORKS_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_deltaworks").into(), PathBuf::from)
}

/// Runs the services script; panics if it fails or the services are not ours to touch.
pub fn service(command: &str, service: &str) {
    let own = std::env::var("SERVICES_OWN").unwrap_or_default();
    assert!(own.split(' ').any(|s| s == service), "`{service}` is given by the environment and cannot be killed");
    let done = Command::new(env("SERVICES_SH")).args([command, service]).output().unwrap();
    assert!(done.status.success(), "{command} {service}: {done:?}");
}

/// Polls until `done`; panics after [`PATIENCE`].
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for: {what}");
        sleep(Duration::from_millis(100));
    }
}

/// An instant in a result, ms.
pub fn instant_ms(text: &Value) -> i64 {
    let text = text.as_str().unwrap_or_else(|| panic!("no instant: {text}"));
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

pub fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Seconds that the environment sets.
pub fn seconds(name: &str, default: u64) -> Duration {
    Duration::from_secs(std::env::var(name).map_or(default, |text| text.parse().unwrap()))
}

pub fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `make e2e`, or eval \"$(fixtures/services/services.sh env)\"")
    })
}

fn options(brokers: &str) -> Options {
    Options(BTreeMap::from([("bootstrap.servers".to_owned(), brokers.to_owned())]))
}

//! `demo`: the whole story in a minute, without any service.
//!
//! The broker is librdkafka's mock, inside this process; the lake is a local folder. `stream` is a
//! child process that is ended by a real SIGKILL in the middle of its work and started again.

mod breakage;

use crate::args::{Demo, Format};
use crate::ending::Ending;
use crate::output;
use breakage::{Gone, Twice};
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::kafka::mock::Mock;
use deltaworks_jobs::kafka::producer::{Outgoing, Producer};
use deltaworks_jobs::land::inspect::{self, TableStatus};
use deltaworks_jobs::project::settings::Settings;
use deltaworks_jobs::prove::{ProveOptions, ProveReport, Verdict, prove};
use deltaworks_jobs::{Class, Error, Result, Stage, engine, project};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The shipped events: several cameras, some hours late, some twice, some broken.
const EVENTS: &str = include_str!("../../../../fixtures/traffic/camera_events.jsonl");
const PIPELINE: &str = "camera_events";
const TOPIC: &str = "traffic.camera-events";
const PARTITIONS: i32 = 4;
/// Behind the newest event by more than this is late: the traffic pipeline's lateness.
const LATE: SignedDuration = SignedDuration::from_hours(1);
/// Where the children log.
const LOG: &str = "demo.log";
/// Says that a folder was made by the demo, so the next one may remove it.
const MARK: &str = ".deltaworks-demo";
/// Between two bursts of events, so that the stream is in the middle of its work when it is killed.
const PAUSE: Duration = Duration::from_millis(20);
const BURST: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the verb.
pub async fn run(args: &Demo) -> Result<Ending> {
    let dir = fresh(&args.dir)?;
    project::init(&dir, Some("traffic"))?;
    let mock = Mock::start()?;
    mock.create_topic(TOPIC, PARTITIONS)?;
    let story = Story { dir: dir.clone(), brokers: mock.bootstrap() };
    let settings = story.settings()?;
    let all: Vec<&[u8]> = EVENTS.as_bytes().split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    let (late, events) = part_late(&all);
    // every other one is late enough to miss the provisional values, the others come after the exact ones
    let (soon, later): (Vec<_>, Vec<_>) = late.iter().enumerate().partition(|(n, _)| n % 2 == 0);
    let [soon, later] = [soon, later].map(|late| late.into_iter().map(|(_, event)| *event).collect::<Vec<_>>());
    let producer = Producer::open(&settings.kafka, false)?;

    say("A broker runs inside this process, and the lake is a folder. Cameras report passing vehicles:");
    let mut child = story.stream(&[])?;
    let killed_at = send_and_kill(&settings, &producer, &events, &mut child).await?;
    send_all(&producer, &events[killed_at..])?;
    send_all(&producer, &soon)?;
    let first = story.until_caught_up()?;
    say(&format!("  started again until it is caught up: {}", landed_of(&first)));
    say("`reconcile` shows windows before they are complete; `batch` computes them exactly, late events included:");
    let provisional = story.reconcile(&settings).await?;
    let exact = (story.batch()?, story.reconcile(&settings).await?);
    say(&format!("  then {} more events arrive, hours late; `stream`, `batch` and `reconcile` run again", later.len()));
    send_all(&producer, &later)?;
    let second = story.until_caught_up()?;
    let restated = (story.batch()?, story.reconcile(&settings).await?);
    let idle = (story.until_caught_up()?, story.batch()?, story.reconcile(&settings).await?);
    let versions = [provisional.version, exact.1.version, restated.1.version];
    follow(&settings, &story, versions).await?;
    let missing = offsets_not_once(&settings, all.len()).await?;
    let proof = prove_and_break(&settings, &dir).await?;
    next_commands(&dir);
    let result = json!({
        "sent": all.len(),
        "landed_twice_or_never": missing,
        "landed": [counts(&first), counts(&second), counts(&idle.0)],
        "units": [units(&exact.0), units(&restated.0), units(&idle.1)],
        "windows": [provisional.windows, exact.1.windows, restated.1.windows, idle.2.windows],
        "drift": { "moved": restated.1.moved, "unexplained": exact.1.unexplained + restated.1.unexplained },
        "prove": proof,
        "lake": dir.join("lake"),
    });
    let error = wrong(&result).map(|(stage, what)| Error::new(stage, Class::Internal, what));
    Ok(Ending::with(result).and_error(error))
}

/// What is not as the story tells it.
fn wrong(result: &Value) -> Option<(Stage, &'static str)> {
    let count = |path: &str| result.pointer(path).and_then(Value::as_u64).unwrap_or(u64::MAX);
    if count("/landed_twice_or_never") > 0 {
        return Some((Stage::Land, "offsets are not there exactly once"));
    }
    if count("/units/1/changed") == 0 || count("/units/2/computed") != 0 {
        return Some((Stage::Batch, "late events changed nothing, or nothing changed twice"));
    }
    let states = [count("/windows/0/provisional"), count("/windows/1/final"), count("/windows/2/restated")];
    if states.contains(&0) || count("/drift/moved") == 0 || count("/drift/unexplained") != 0 {
        return Some((
            Stage::Reconcile,
            "windows were not provisional, final and restated, or something is unexplained",
        ));
    }
    let whole = count("/prove/whole") == 0 && count("/prove/mended") == 0;
    if !whole || count("/prove/file_gone") != 4 || count("/prove/landed_twice") != 4 {
        return Some((Stage::Prove, "the proof did not find what was broken, or found more"));
    }
    None
}

/// Follows one camera through one day: what was served of it each time, and which events moved it.
async fn follow(settings: &Settings, story: &Story, [provisional, exact, restated]: [i64; 3]) -> Result<()> {
    let chosen = "SELECT b.window_start, b.camera_id FROM drift.avg_speed a JOIN drift.avg_speed b \
                  USING (granularity, window_start, camera_id) WHERE b.granularity = '1d' AND a.generation < b.generation \
                  ORDER BY b.arrived['events'] - b.base['events'] DESC, 1, 2 LIMIT 1";
    let chosen = first_row(settings, chosen).await?;
    let text = |name: &str| chosen[name].as_str().unwrap_or_default().to_owned();
    let (start, camera) = (text("window_start"), text("camera_id"));
    say(&format!("\nOne day of {camera}, as anybody who reads `served.avg_speed` saw it:"));
    let seen = |when: &str, version: i64| {
        format!(
            "SELECT '{when}' AS \"when\", state, avg_speed, vehicles, late, generation \
             FROM served.avg_speed AS OF {version} \
             WHERE granularity = '1d' AND window_start = TIMESTAMP '{start}' AND camera_id = '{camera}'"
        )
    };
    let seen = [
        seen("1 while events came in", provisional),
        seen("2 after batch", exact),
        seen("3 after more late events", restated),
    ];
    table(settings, &format!("SELECT * FROM ({}) ORDER BY 1", seen.join(" UNION ALL "))).await?;
    say("\nWhy it moved: `drift explain` has its value after each step, and the events that made them:");
    let explain = ["drift", "explain", "avg_speed", &format!("1d/{start}"), &format!("camera_id={camera}")];
    say(story.output(&explain)?.trim_end());
    Ok(())
}

/// Proves it all, breaks it twice and proves again; how many checks were refuted each time.
async fn prove_and_break(settings: &Settings, dir: &Path) -> Result<Value> {
    let lake = dir.join("lake");
    say("\nCan it be trusted? `prove` reads it all again: the ledger, every row, the broker, the windows:");
    let whole = proof(settings).await?;
    super::prove::show(&whole)?;
    let gone = Gone::take(settings, &lake, PIPELINE).await?;
    say("Then it is broken on purpose. A file of raw is taken away:");
    let file_gone = proof(settings).await?;
    say_refuted(&file_gone);
    gone.put_back()?;
    let twice = Twice::land(settings, &lake, PIPELINE).await?;
    say(&format!("It is put back; but somebody appends {} rows by hand that are there already:", twice.rows));
    let landed_twice = proof(settings).await?;
    say_refuted(&landed_twice);
    twice.take_back().await?;
    let mended = proof(settings).await?;
    say(&format!("These are taken out again, and {} checks of {} are refuted.", mended.refuted, mended.checks.len()));
    let refuted = [whole, file_gone, landed_twice, mended].map(|report| report.refuted);
    Ok(json!({ "whole": refuted[0], "file_gone": refuted[1], "landed_twice": refuted[2], "mended": refuted[3] }))
}

/// What a proof refutes, a line each.
fn say_refuted(report: &ProveReport) {
    for check in report.checks.iter().filter(|check| check.verdict == Verdict::Refuted) {
        let example = check.examples.first().map_or("", String::as_str);
        say(&format!("  {} of {} REFUTED: {example}", check.check, check.of));
    }
}

async fn proof(settings: &Settings) -> Result<ProveReport> {
    prove(settings, &ProveOptions::default(), &Clock::system()).await
}

/// What one `reconcile` did.
struct Served {
    /// Of the served table.
    version: i64,
    windows: Value,
    moved: u64,
    unexplained: u64,
}

struct Story {
    dir: PathBuf,
    brokers: String,
}

impl Story {
    fn settings(&self) -> Result<Settings> {
        Ok(project::load(&self.dir, &|name| self.variables().into_iter().find(|(n, _)| *n == name).map(|(_, v)| v))?)
    }

    fn variables(&self) -> [(&'static str, String); 2] {
        [("KAFKA_BROKERS", self.brokers.clone()), ("COMMIT_EVERY", "200ms".to_owned())]
    }

    /// Starts `deltaworks stream`, by hand and not by the group, which would wait for the killed member
    /// to time out.
    fn stream(&self, more: &[&str]) -> Result<Child> {
        self.start(&[&["stream", "--partitions", &format!("0-{}", PARTITIONS - 1)], more].concat())
    }

    /// Starts a verb as a process of its own, its log beside the lake.
    fn start(&self, verb: &[&str]) -> Result<Child> {
        let failed = |e: std::io::Error| {
            Error::new(Stage::Land, Class::Outside, format!("`{}` cannot be started", verb[0])).because(e)
        };
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join(LOG)).map_err(failed)?;
        Command::new(std::env::current_exe().map_err(failed)?)
            .args(verb)
            .arg("--project")
            .arg(&self.dir)
            .env_remove("DELTAWORKS_LAKE")
            .envs(self.variables())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed)
    }

    /// Lands what is there; the last line of the run.
    fn until_caught_up(&self) -> Result<String> {
        self.last_line("stream", self.stream(&["--until-caught-up"])?)
    }

    /// Computes exact windows; the last line of the run.
    fn batch(&self) -> Result<String> {
        self.last_line("batch", self.start(&["batch"])?)
    }

    /// Serves what there is.
    async fn reconcile(&self, settings: &Settings) -> Result<Served> {
        let line: Value =
            serde_json::from_str(&self.last_line("reconcile", self.start(&["reconcile"])?)?).unwrap_or_default();
        let count = |name: &str| line["drift"][name].as_u64().unwrap_or(u64::MAX);
        let (moved, unexplained) = (count("moved"), count("unexplained"));
        Ok(Served { version: version(settings).await?, windows: line["windows"].clone(), moved, unexplained })
    }

    /// What a verb prints.
    fn output(&self, verb: &[&str]) -> Result<String> {
        self.all_lines(verb[0], self.start(verb)?)
    }

    fn last_line(&self, verb: &str, child: Child) -> Result<String> {
        Ok(self.all_lines(verb, child)?.lines().last().unwrap_or_default().to_owned())
    }

    fn all_lines(&self, verb: &str, child: Child) -> Result<String> {
        let failed = |text: &str| {
            Error::new(Stage::Land, Class::Internal, format!("`{verb}` {text}"))
                .hint(format!("its log is {}", self.dir.join(LOG).display()))
        };
        let ended = child.wait_with_output().map_err(|e| failed("is gone").because(e))?;
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        if ended.status.success() { Ok(text) } else { Err(failed(&format!("ended with {}: {text}", ended.status))) }
    }
}

/// Parts the events into those more than an hour behind an earlier one, and all others.
fn part_late<'e>(events: &[&'e [u8]]) -> (Vec<&'e [u8]>, Vec<&'e [u8]>) {
    let at = |event: &[u8]| -> Option<Timestamp> {
        serde_json::from_slice::<Value>(event).ok()?.get("observed_at")?.as_str()?.parse().ok()
    };
    let mut latest = Timestamp::MIN;
    events.iter().partition(|event| {
        let Some(at) = at(event).filter(|at| *at < Timestamp::now()) else { return false };
        latest = latest.max(at);
        latest.duration_since(at) > LATE
    })
}

/// Sends events in small bursts, and kills the child once it has committed some of them.
async fn send_and_kill(settings: &Settings, producer: &Producer, events: &[&[u8]], child: &mut Child) -> Result<usize> {
    let begun = Instant::now();
    let mut sent = 0;
    loop {
        for event in events.iter().skip(sent).take(BURST) {
            send(producer, event)?;
            sent += 1;
        }
        producer.flush(PATIENCE)?;
        tokio::time::sleep(PAUSE).await;
        let landed = landed(settings).await?;
        let enough = sent >= events.len() / 2 && landed > 0 || sent >= events.len() * 9 / 10;
        if enough && landed > 0 {
            let pid = child.id();
            let wrong = |e| Error::new(Stage::Land, Class::Internal, "the stream cannot be killed").because(e);
            child.kill().map_err(wrong)?;
            let status = child.wait().map_err(wrong)?;
            say(&format!("  after {sent} events, {landed} of them committed: kill -9 {pid} ({status})"));
            return Ok(sent);
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(Stage::Land, Class::Internal, "the stream committed nothing in a minute"));
        }
        if sent >= events.len() * 9 / 10 {
            // all but the rest is sent: wait for the first commit without sending more
            tokio::time::sleep(PAUSE * 5).await;
        }
    }
}

fn send_all(producer: &Producer, events: &[&[u8]]) -> Result<()> {
    events.iter().try_for_each(|event| send(producer, event))?;
    producer.flush(PATIENCE)
}

fn send(producer: &Producer, event: &[u8]) -> Result<()> {
    // the camera is the key where the line can be read: one camera's events stay in order
    let parsed: Option<Value> = serde_json::from_slice(event).ok();
    let camera = parsed.as_ref().and_then(|v| v.get("camera_id")).and_then(Value::as_str).map(str::as_bytes);
    producer.send(TOPIC, Outgoing { key: camera, payload: Some(event), ..Outgoing::default() })
}

async fn tables(settings: &Settings) -> Result<Vec<TableStatus>> {
    inspect::status(settings, &settings.pipelines, false, &Clock::system()).await
}

async fn landed(settings: &Settings) -> Result<u64> {
    let tables = tables(settings).await?;
    Ok(tables.iter().filter(|t| t.table.starts_with("raw.")).map(|t| t.rows).sum())
}

/// The version of the served table.
async fn version(settings: &Settings) -> Result<i64> {
    let tables = tables(settings).await?;
    let served = tables.iter().find(|t| t.table == "served.avg_speed");
    served.map(|t| t.version).ok_or_else(|| Error::new(Stage::Reconcile, Class::Internal, "nothing is served"))
}

const PLACES: &str = "SELECT _partition, _offset FROM raw.camera_events \
                      UNION ALL SELECT _partition, _offset FROM rejects.camera_events";

/// How many offsets are missing or there more than once.
async fn offsets_not_once(settings: &Settings, sent: usize) -> Result<u64> {
    let sql = format!(
        "SELECT coalesce(sum(abs(places - 1)), 0) + abs({sent} - count(*)) AS wrong \
         FROM (SELECT _partition, _offset, count(*) AS places FROM ({PLACES}) GROUP BY _partition, _offset)"
    );
    Ok(first_row(settings, &sql).await?["wrong"].as_u64().unwrap_or(u64::MAX))
}

/// The first row of a query.
async fn first_row(settings: &Settings, sql: &str) -> Result<Value> {
    let rows = engine::query(&settings.lake, sql, settings.memory_bytes).await?;
    let mut json = Vec::new();
    engine::write(rows, engine::Format::Json, &mut json).await?;
    let line = json.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice(line).unwrap_or_default())
}

async fn table(settings: &Settings, sql: &str) -> Result<()> {
    let rows = engine::query(&settings.lake, sql, settings.memory_bytes).await?;
    output::rows(rows, Format::Table, None).await
}

fn counts(line: &str) -> Value {
    let result: Value = serde_json::from_str(line).unwrap_or_default();
    let pipeline = &result["pipelines"]["camera_events"];
    json!({ "landed": pipeline["landed"], "rejected": pipeline["rejected"] })
}

fn landed_of(line: &str) -> String {
    let counts = counts(line);
    format!("{} landed, {} broke the contract and are in `rejects`", counts["landed"], counts["rejected"])
}

fn units(line: &str) -> Value {
    let result: Value = serde_json::from_str(line).unwrap_or_default();
    json!({ "computed": result["units"]["computed"], "changed": result["units"]["changed"] })
}

fn next_commands(dir: &Path) {
    let program = std::env::args().next().unwrap_or_else(|| "deltaworks".to_owned());
    let call = format!("{program} --project {}", dir.display());
    say(&format!(
        "\nThe tables lie in {}; any Delta reader opens them. Try:\n  {call} status --offline\n  \
         {call} rejects list camera_events\n  {call} drift show avg_speed --by camera_id\n  \
         {call} query \"SELECT * FROM served.avg_speed WHERE granularity = '1d' ORDER BY window_start, camera_id\"\n",
        dir.join("lake").display()
    ));
}

fn say(text: &str) {
    output::line(text);
}

/// An empty folder for the demo; a folder that something else made is left alone.
fn fresh(dir: &Path) -> Result<PathBuf> {
    let wrong = |e: std::io::Error| {
        Error::new(Stage::Project, Class::User, format!("the demo cannot use `{}`", dir.display())).because(e)
    };
    if dir.exists() {
        if !dir.join(MARK).exists() {
            let message = format!("`{}` is there and was not made by the demo", dir.display());
            return Err(Error::new(Stage::Project, Class::User, message).hint("choose another folder with --dir"));
        }
        std::fs::remove_dir_all(dir).map_err(wrong)?;
    }
    std::fs::create_dir_all(dir).map_err(wrong)?;
    std::fs::write(dir.join(MARK), "made by deltaworks demo, and removed by the next one\n").map_err(wrong)?;
    dir.canonicalize().map_err(wrong)
}

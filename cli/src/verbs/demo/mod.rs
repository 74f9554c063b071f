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
use deltaworks_jobs::prove::{ProveOptions, prove};
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

    say("A broker runs inside this process, and the lake is a folder. Events of traffic cameras go in:");
    let all: Vec<&[u8]> = EVENTS.as_bytes().split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    let (late, events) = part_late(&all);
    let producer = Producer::open(&settings.kafka, false)?;
    let mut child = story.stream(&[])?;
    let killed_at = send_and_kill(&settings, &producer, &events, &mut child).await?;
    for event in &events[killed_at..] {
        send(&producer, event)?;
    }
    producer.flush(PATIENCE)?;
    say(&format!("  the other {} events were sent while nobody was landing them", events.len() - killed_at));

    say("The stream is started again, until it is caught up:");
    let second = story.until_caught_up()?;
    say(&format!("  {}", counts(&second)));
    say("Exact windows of 5 minutes, an hour and a day are computed:");
    let exact = story.batch()?;
    say(&format!("  {}", windows(&exact)));
    let before = version(&settings).await?;

    say(&format!(
        "Now {} events arrive that are more than an hour late. They are landed, and batch runs again:",
        late.len()
    ));
    for event in &late {
        send(&producer, event)?;
    }
    producer.flush(PATIENCE)?;
    say(&format!("  {}", counts(&story.until_caught_up()?)));
    let restated = story.batch()?;
    say(&format!("  {}", windows(&restated)));
    say("Both once more, which must find nothing to do:");
    let idle = (story.until_caught_up()?, story.batch()?);
    say(&format!("  {}\n  {}", counts(&idle.0), windows(&idle.1)));
    show(&settings, before).await?;
    let missing = offsets_not_once(&settings, all.len()).await?;
    let proof = prove_and_break(&settings, &dir).await?;
    next_commands(&dir);
    let result = json!({
        "sent": all.len(),
        "landed_twice_or_never": missing,
        "second_run": counts(&second),
        "units": { "first": units(&exact), "after_late_events": units(&restated), "once_more": units(&idle.1) },
        "once_more": counts(&idle.0),
        "prove": proof,
        "lake": dir.join("lake"),
    });
    if missing > 0 {
        let error = Error::new(Stage::Land, Class::Internal, format!("{missing} offsets are not there exactly once"));
        return Ok(Ending::with(result).and_error(Some(error)));
    }
    if result["units"]["after_late_events"]["changed"] == 0 || result["units"]["once_more"]["computed"] != 0 {
        let error = Error::new(Stage::Batch, Class::Internal, "late events changed nothing, or nothing changed twice");
        return Ok(Ending::with(result).and_error(Some(error)));
    }
    if result["prove"] != json!({ "whole": 0, "file_gone": 3, "landed_twice": 2, "mended": 0 }) {
        let error = Error::new(Stage::Prove, Class::Internal, "the proof did not find what was broken, or found more");
        return Ok(Ending::with(result).and_error(Some(error)));
    }
    Ok(Ending::with(result))
}

/// Proves what was landed, breaks it twice and proves again; how many checks were refuted each time.
async fn prove_and_break(settings: &Settings, dir: &Path) -> Result<Value> {
    let lake = dir.join("lake");
    say("\nIs it all there, and once? `prove` reads it all again: the ledger, every row, and the broker:");
    let whole = proof(settings).await?;
    let gone = Gone::take(settings, &lake, PIPELINE).await?;
    say(&format!("Now it is broken on purpose. The file {} is taken away:", gone.name()));
    let file_gone = proof(settings).await?;
    gone.put_back()?;
    let twice = Twice::land(settings, &lake, PIPELINE).await?;
    say(&format!("It is put back; but somebody appends {} rows by hand that are there already:", twice.rows));
    let landed_twice = proof(settings).await?;
    twice.take_back().await?;
    say("These are taken out again, and the lake proves itself as before:");
    let mended = proof(settings).await?;
    Ok(json!({ "whole": whole, "file_gone": file_gone, "landed_twice": landed_twice, "mended": mended }))
}

async fn proof(settings: &Settings) -> Result<u64> {
    let options = ProveOptions { names: vec![PIPELINE.to_owned()], ..ProveOptions::default() };
    let report = prove(settings, &options, &Clock::system()).await?;
    super::prove::show(&report)?;
    Ok(report.refuted)
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

    fn last_line(&self, verb: &str, child: Child) -> Result<String> {
        let failed = |text: &str| {
            Error::new(Stage::Land, Class::Internal, format!("`{verb}` {text}"))
                .hint(format!("its log is {}", self.dir.join(LOG).display()))
        };
        let ended = child.wait_with_output().map_err(|e| failed("is gone").because(e))?;
        let text = String::from_utf8_lossy(&ended.stdout);
        let line = text.lines().last().unwrap_or_default().to_owned();
        if ended.status.success() { Ok(line) } else { Err(failed(&format!("ended with {}: {line}", ended.status))) }
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

/// The version of the batch table.
async fn version(settings: &Settings) -> Result<i64> {
    let tables = tables(settings).await?;
    let batch = tables.iter().find(|t| t.table == "batch.avg_speed");
    batch.map(|t| t.version).ok_or_else(|| Error::new(Stage::Batch, Class::Internal, "batch made no table"))
}

async fn show(settings: &Settings, before: i64) -> Result<()> {
    say("\nWhat late events did to the hours that were computed before them (the first 8):");
    table(
        settings,
        &format!(
            "SELECT after.window_start, after.camera_id, before.vehicles AS before, after.vehicles AS after, \
             round(before.avg_speed, 2) AS speed_before, round(after.avg_speed, 2) AS speed_after, after.late, \
             after.generation FROM batch.avg_speed after LEFT JOIN batch.avg_speed AS OF {before} before \
             USING (granularity, window_start, camera_id) \
             WHERE after.granularity = '1h' AND after.vehicles IS DISTINCT FROM before.vehicles \
             ORDER BY after.window_start, after.camera_id LIMIT 8"
        ),
    )
    .await?;
    say("\nRows per event date; `late` came more than an hour behind its partition, `again` is an id seen before:");
    table(
        settings,
        "SELECT event_date, count(*) AS rows, count(DISTINCT camera_id) AS cameras, \
         count(*) FILTER (WHERE _behind_ms > 3600000) AS late, count(*) FILTER (WHERE _repeat) AS again \
         FROM raw.camera_events GROUP BY event_date ORDER BY event_date",
    )
    .await?;
    say("Rejects: nothing that broke the contract is lost, and each says why:");
    table(
        settings,
        "SELECT reason, field, count(*) AS messages, min(detail) AS for_example \
         FROM rejects.camera_events GROUP BY reason, field ORDER BY messages DESC, reason, field",
    )
    .await?;
    say("Each offset exactly once, in raw or in rejects, although the stream was killed:");
    table(
        settings,
        &format!(
            "SELECT _partition, min(_offset) AS first, max(_offset) AS last, count(*) AS places, \
             count(DISTINCT _offset) AS distinct_places FROM ({PLACES}) GROUP BY _partition ORDER BY _partition"
        ),
    )
    .await
}

const PLACES: &str = "SELECT _partition, _offset FROM raw.camera_events \
                      UNION ALL SELECT _partition, _offset FROM rejects.camera_events";

/// How many offsets are missing or there more than once.
async fn offsets_not_once(settings: &Settings, sent: usize) -> Result<u64> {
    let sql = format!(
        "SELECT coalesce(sum(abs(places - 1)), 0) + abs({sent} - count(*)) AS wrong \
         FROM (SELECT _partition, _offset, count(*) AS places FROM ({PLACES}) GROUP BY _partition, _offset)"
    );
    let rows = engine::query(&settings.lake, &sql, settings.memory_bytes).await?;
    let mut json = Vec::new();
    engine::write(rows, engine::Format::Json, &mut json).await?;
    let row: Value = serde_json::from_slice(&json).unwrap_or_default();
    Ok(row["wrong"].as_u64().unwrap_or(u64::MAX))
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

fn windows(line: &str) -> Value {
    let result: Value = serde_json::from_str(line).unwrap_or_default();
    json!({ "units": result["units"], "rows": result["rows"], "late": result["late"], "duplicates": result["duplicates"] })
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
         {call} rejects show camera_events\n  \
         {call} query \"SELECT * FROM batch.avg_speed WHERE granularity = '1d' ORDER BY window_start, camera_id\"\n",
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

//! What filling from files costs against landing: the same events of 30 dates, once from a topic by `stream`, once from
//! files, one a date, by one `backfill create --from files`, each into a lake of its own.

use super::events::{DAY_MS, Events, START_MS};
use super::measure::{Cost, deltaworks, measure, median, number, result_of};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const DATES: u64 = 30;
const GOAL: f64 = 0.8;

/// Rates of both, and their ratio.
pub fn run(brokers: &str) -> Value {
    let (events, runs) = (number("BENCH_FILES_EVENTS", 6_000_000) / DATES * DATES, number("BENCH_RUNS", 3));
    let folder = tempfile::tempdir().unwrap().keep();
    let topic = format!("bench-files-{}", std::process::id());
    let bench = Bench { brokers: brokers.to_owned(), topic, folder: folder.clone() };
    let of_date = |date: u64| Events {
        seed: 5 + date,
        count: events / DATES,
        from_ms: START_MS + date * DAY_MS,
        over_ms: DAY_MS,
        twice: 100,
    };
    measure(&mut bench.command("unused", &["topics", "create", "small", "--partitions", "4"]));
    let files = folder.join("files");
    std::fs::create_dir_all(&files).unwrap();
    for date in 0..DATES {
        of_date(date).send(bench.command("unused", &["produce", "small", "--file", "/dev/stdin"]));
        let mut out = BufWriter::new(std::fs::File::create(files.join(format!("{date:02}.jsonl"))).unwrap());
        of_date(date).write(&mut out);
        out.flush().unwrap();
    }
    let (mut landings, mut backfills) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let group = format!("{}-{run}", bench.topic);
        let mut landing = bench.command("landed", &["stream", "small", "--until-caught-up"]);
        landings.push(bench.filled(
            landing.env("BENCH_GROUP", group),
            |line| &line["pipelines"]["small"]["landed"],
            events,
        ));
        let pattern = format!("{}/*.jsonl", files.display());
        let mut backfill =
            bench.command("filled", &["backfill", "create", "small", "--from", "files", "--path", &pattern]);
        backfills.push(bench.filled(&mut backfill, |line| &line["landed"], events));
    }
    std::fs::remove_dir_all(folder).unwrap();
    let (landing, backfill) = (side(&mut landings, events), side(&mut backfills, events));
    let ratio = |what: &str| backfill[what].as_f64().unwrap() / landing[what].as_f64().unwrap();
    let (rate, per_cpu) = (ratio("rows_per_second"), ratio("rows_per_cpu_second"));
    eprintln!("backfill from files: {rate:.2} of landing's rate, {per_cpu:.2} per CPU second; the goal is {GOAL}");
    json!({
        "events": events, "dates": DATES, "landing": landing, "backfill": backfill, "backfill_to_landing": rate,
        "backfill_to_landing_per_cpu_second": per_cpu, "goal": GOAL,
    })
}

struct Bench {
    brokers: String,
    topic: String,
    folder: PathBuf,
}

impl Bench {
    fn command(&self, lake: &str, args: &[&str]) -> Command {
        let mut command = deltaworks(&self.brokers, args);
        command.env("BENCH_TOPIC_SMALL", &self.topic).env("DELTAWORKS_LAKE", self.folder.join(lake));
        command
    }

    /// Fills an empty lake; all events must be there.
    fn filled(&self, command: &mut Command, landed: impl Fn(&Value) -> &Value, events: u64) -> Cost {
        let told = self.folder.join("result.json");
        let cost = measure(command.arg("--result-file").arg(&told));
        let line = result_of(&told);
        assert_eq!(*landed(&line), events, "{line}");
        eprintln!("{command:?}: {}", cost.json());
        for lake in ["landed", "filled"] {
            remove(&self.folder.join(lake));
        }
        cost
    }
}

fn remove(folder: &Path) {
    if folder.exists() {
        std::fs::remove_dir_all(folder).unwrap();
    }
}

fn side(costs: &mut [Cost], events: u64) -> Value {
    let events = events as f64;
    json!({
        "rows_per_second": (events / median(costs, |c| c.wall_s)).round(),
        "rows_per_cpu_second": (events / median(costs, |c| c.cpu_s)).round(),
        "peak_rss_mib": median(costs, |c| c.rss_mib),
    })
}

//! What compaction costs against what cannot be spared: reading the same Parquet and writing it once, by stock `parquet` with
//! the same compression, on the same disk, with no log and no checks.

use super::events::{DAY_MS, Events, START_MS};
use super::measure::{Cost, deltaworks, measure, number, result_of};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

const DATES: u64 = 4;
const ROWS_A_COMMIT: u64 = 20_000;
const GOAL: f64 = 0.5;

/// Rates of both, and their ratio.
pub fn run(brokers: &str) -> Value {
    let events = number("BENCH_COMPACT_EVENTS", 10_000_000);
    let folder = tempfile::tempdir().unwrap().keep();
    let topic = format!("bench-compact-{}", std::process::id());
    let command = |args: &[&str]| {
        let mut command = deltaworks(brokers, args);
        command.env("BENCH_TOPIC_SMALL", &topic).env("BENCH_GROUP", &topic).env("DELTAWORKS_LAKE", folder.join("lake"));
        command.env("BENCH_COMMIT_ROWS", ROWS_A_COMMIT.to_string());
        command
    };
    measure(&mut command(&["topics", "create", "small", "--partitions", "4"]));
    let events = Events { seed: 41, count: events, from_ms: START_MS, over_ms: DATES * DAY_MS, twice: 100 };
    events.send(command(&["produce", "small", "--file", "/dev/stdin"]));
    measure(&mut command(&["stream", "small", "--until-caught-up"]));

    let (raw, out) = (folder.join("lake/raw/small"), folder.join("out"));
    std::fs::create_dir_all(&out).unwrap();
    let mut plain = Command::new(std::env::current_exe().unwrap());
    let plain = measure(plain.arg("rewrite").arg(&raw).arg(&out));
    let told = folder.join("result.json");
    let compact = measure(command(&["tables", "compact", "raw.small"]).arg("--result-file").arg(&told));
    let line = result_of(&told);
    let sum =
        |what: &str| line["dates"].as_array().unwrap().iter().map(|date| date[what].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("rows"), events.count, "{line}");
    let files = sum("files");
    std::fs::remove_dir_all(&folder).unwrap();
    let ratio = |of: fn(&Cost) -> f64| of(&plain) / of(&compact);
    let (rate, per_cpu) = (ratio(|c| c.wall_s), ratio(|c| c.cpu_s));
    eprintln!("compaction: {rate:.2} of plain Parquet's rate, {per_cpu:.2} per CPU second; the goal is {GOAL}");
    json!({
        "rows": events.count, "files": files, "plain": plain.json(), "compact": compact.json(),
        "compact_to_plain": rate, "compact_to_plain_per_cpu_second": per_cpu, "goal": GOAL,
    })
}

/// Reads all Parquet files below `from`, and writes one per folder that they lie in.
pub fn rewrite(from: &Path, to: &Path) {
    for folder in folders(from) {
        let mut files: Vec<PathBuf> =
            entries(&folder).filter(|path| path.extension().is_some_and(|e| e == "parquet")).collect();
        files.sort();
        let mut writer = None;
        for file in files {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
            let schema = reader.schema().clone();
            let writer = writer.get_or_insert_with(|| {
                let file = File::create(to.join(folder.file_name().unwrap()).with_extension("parquet")).unwrap();
                let zstd = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
                let properties = WriterProperties::builder().set_compression(zstd).build();
                ArrowWriter::try_new(file, schema, Some(properties)).unwrap()
            });
            for batch in reader.with_batch_size(8_192).build().unwrap() {
                writer.write(&batch.unwrap()).unwrap();
            }
        }
        if let Some(writer) = writer {
            writer.close().unwrap();
        }
    }
}

/// The folders of dates.
fn folders(table: &Path) -> Vec<PathBuf> {
    let is_date = |path: &PathBuf| path.is_dir() && path.file_name().is_some_and(|name| name != "_delta_log");
    entries(table).filter(is_date).collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())
}

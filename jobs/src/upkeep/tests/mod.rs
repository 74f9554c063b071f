//! Compaction and vacuum beside other writers, and on stores that misbehave. Time is moved by the files' own dates.

mod archive;
mod compact;
mod due;
mod forget;
mod looks;
mod overlap;
mod retain;
mod vacuum;

use super::{CompactOptions, CompactReport, compact_on};
use crate::batch::meter::Meter;
use crate::batch::tests::kit::{Kit, Row};
use crate::checksum::{RowSum, total};
use crate::lake::{Lake, LiveFile, Table, TableName, file_schema};
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio_util::sync::CancellationToken;

const DAY_US: i64 = 86_400_000_000;

fn raw_name() -> TableName {
    TableName::new("raw", "events")
}

/// Everything of raw, whatever its size, into files of the usual size.
fn options() -> CompactOptions {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    CompactOptions {
        run_id: format!("compaction-{}", RUNS.fetch_add(1, Relaxed)),
        tables: vec![raw_name()],
        before: None,
        target_bytes: 128 << 20,
        sort_by: Vec::new(),
        files_min: 0,
    }
}

async fn compacted(kit: &Kit, lake: &Lake, options: &CompactOptions) -> CompactReport {
    let report = compact_on(lake, &kit.settings, options, &Meter::default(), &CancellationToken::new()).await;
    assert!(report.error.is_none() && !report.stopped, "{report:?}");
    report
}

/// Rows of a version, with their checksum over all columns, by date.
async fn rows_of(lake: &Lake, version: Option<i64>) -> BTreeMap<String, RowSum> {
    let table = match version {
        Some(version) => lake.open_table_at(&raw_name(), version).await,
        None => lake.open_table(&raw_name()).await,
    };
    let (table, mut sums) = (table.unwrap().unwrap(), BTreeMap::<String, RowSum>::new());
    let schema = file_schema(table.schema(), table.partition_columns());
    let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    for file in table.live_files().await.unwrap() {
        let date = file.partition_values["event_date"].clone().unwrap();
        for batch in table.read_file(&file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
            sums.entry(date.clone()).or_default().merge(total(&batch, &[]).unwrap());
        }
    }
    sums
}

async fn live(lake: &Lake) -> (Table, Vec<LiveFile>) {
    let table = lake.open_table(&raw_name()).await.unwrap().unwrap();
    let files = table.live_files().await.unwrap();
    (table, files)
}

/// How many commits of raw were rewrites, and how many rows all commits brought.
async fn rewrites(lake: &Lake) -> (usize, u64) {
    let history = live(lake).await.0.history(usize::MAX).await.unwrap();
    let count = history.iter().filter(|c| c.operation.as_deref() == Some("OPTIMIZE")).count();
    (count, history.iter().map(|c| c.rows_added).sum())
}

/// Lands `count` rows of three days from `from` on, in files of `file_rows`.
async fn land(kit: &Kit, from: i64, count: i64, file_rows: usize) {
    let row = |n: i64| Row {
        id: format!("id-{n}"),
        at_us: (n % 3) * DAY_US + n,
        value: (n % 5 != 0).then_some(n),
        key: Some(format!("key {}", n % 4)),
        kafka_us: Some(n),
        partition: 0,
        offset: n,
        behind_ms: n % 7,
        repeat: false,
    };
    let rows: Vec<Row> = (from..from + count).map(row).collect();
    kit.land(&rows, file_rows, 5 * DAY_US).await;
}

//! Little memory: the same bits, or an error that says what to do.

use super::guards::rows;
use super::kit::{Kit, Sql};
use crate::batch::meter::Meter;
use crate::batch::{BatchReport, batch_on};
use crate::clock::Clock;
use crate::lake::TableName;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio_util::sync::CancellationToken;

const DAY_US: i64 = 86_400_000_000;
const PER_DAY: i64 = 6_000;
const DAYS: i64 = 20;
const SELECT: &str = "SELECT key, sum(value) AS total, max(value) AS greatest, median(value) AS middle, \
                      count(DISTINCT id) AS ids, stddev(value) AS spread FROM events GROUP BY key";
const VALUES: Sql = Sql { name: "totals", windows: "[6h, 1d, 1w, 1mo]", zone: "Europe/Kyiv", select: SELECT };
const NO_KEYS: Sql = Sql { select: "SELECT median(value) AS middle FROM events", ..VALUES };

/// Every key has windows that stay open over all dates, each row an id of its own, some come twice.
async fn landed(aggregate: Sql) -> Kit {
    let kit = Kit::new(&[aggregate]);
    let mut all = rows(0, PER_DAY * DAYS, PER_DAY);
    for row in &mut all {
        row.key = Some(format!("key {}", row.offset % 16));
        row.value = Some(row.offset * 7_919 % 10_007);
        if row.offset % 100 == 99 {
            row.id = format!("id-{}", row.offset - 50);
        }
    }
    kit.land(&all, 4_000, 70 * DAY_US).await;
    kit
}

async fn run(kit: &mut Kit, memory_bytes: usize) -> (BatchReport, u64) {
    kit.settings.memory_bytes = memory_bytes;
    let (clock, stop, meter) = (Clock::of(|| 1_700_000_000_000), CancellationToken::new(), Arc::new(Meter::default()));
    let options = crate::batch::BatchOptions { forced: true, ..kit.options() };
    let report = batch_on(&kit.lake, &kit.settings, &options, &meter, &clock, &stop).await;
    (report, meter.begun_again.load(Relaxed))
}

/// All rows of all columns but those that say where they come from, sorted.
async fn published(kit: &Kit) -> Vec<String> {
    let table = kit.lake.open_table(&TableName::new("batch", "totals")).await.unwrap().unwrap();
    let columns = ["window_start", "window_end", "key", "total", "greatest", "middle", "ids", "spread", "events"];
    let mut found = Vec::new();
    for file in table.live_files().await.unwrap() {
        for batch in table.read_file(&file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
            let options = FormatOptions::default();
            let cells: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
            found.extend((0..batch.num_rows()).map(|row| {
                let cells: Vec<String> = cells.iter().map(|cell| cell.value(row).to_string()).collect();
                format!("{:?} {}", file.partition_values, cells.join(" "))
            }));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn little_memory_gives_the_same_bits() {
    let mut kit = landed(VALUES).await;
    let (roomy, again) = run(&mut kit, 256 << 20).await;
    assert!(roomy.error.is_none() && again == 0, "{roomy:?}");
    assert!(roomy.duplicates > 300, "{roomy:?}");
    let expected = published(&kit).await;
    assert!(expected.len() > 1_000, "{}", expected.len());
    let (tight, again) = run(&mut kit, 6 << 20).await;
    assert!(tight.error.is_none(), "{tight:?}");
    assert!(again > 0, "memory was not too small for anything");
    assert_eq!((tight.units.changed, tight.units.unchanged), (0, roomy.units.changed), "{tight:?}");
    assert_eq!((tight.rows, tight.duplicates, tight.windows), (roomy.rows, roomy.duplicates, roomy.windows));
    assert_eq!(published(&kit).await, expected);
}

#[tokio::test]
async fn memory_that_buckets_of_keys_cannot_save() {
    for (aggregate, memory_bytes, message) in
        [(VALUES, 64 << 10, "64 buckets of keys are not enough"), (NO_KEYS, 1 << 20, "no keys")]
    {
        let mut kit = landed(aggregate).await;
        let (report, _) = run(&mut kit, memory_bytes).await;
        let error = report.error.expect("the run fails");
        assert!(error.message.contains(message), "{error}");
        assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("`memory`")), "{error:?}");
    }
}

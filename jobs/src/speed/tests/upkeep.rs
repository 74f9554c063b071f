//! Merging keeps every bit, and dropping keeps every window that is not final.

use super::kit::{ALL, FIRST_US, HOUR_US, Kit, Row, Windows, rows_of, some_rows};
use crate::batch::{BatchOptions, batch_on, meter::Meter};
use crate::clock::Clock;
use crate::lake::CommitOutcome;
use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use deltaworks_core::units::Interval;
use deltaworks_core::windows::Instant;
use jiff::civil::date;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub fn committed(outcome: CommitOutcome) {
    assert!(matches!(outcome, CommitOutcome::Committed(_)), "{outcome:?}");
}

fn parts(rows: &[Row]) -> Vec<Vec<Row>> {
    rows.chunks(15).map(<[Row]>::to_vec).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merged_states_are_fewer_and_say_the_same() {
    let kit = Kit::new(ALL);
    let mut more = some_rows(150);
    for row in &mut more {
        // the same two hours of each day, so that windows have several commits
        let past = row.at_us - FIRST_US;
        row.at_us = FIRST_US + past / (24 * HOUR_US) * 24 * HOUR_US + past % (2 * HOUR_US);
    }
    kit.stream(&parts(&more[..120])).await;
    let (before, states, files) = (kit.windows().await, kit.states().await, files(&kit).await);
    let mut table = kit.table().await;
    let kept = table.merge(2, u64::MAX, &kit.run()).await.unwrap();
    assert_eq!(kept.merged, 2, "both dates");
    assert!(kit.states().await < states && self::files(&kit).await < files);
    assert_eq!(kit.windows().await, before);
    // merged files stay for those who read an older version, and then go; live ones never do
    let removed = table.take_removed();
    assert_eq!(removed.len(), files);
    let live = table.live().await.unwrap().to_vec();
    assert!(table.table.delete_removed(&live[..1]).await.is_err());
    table.table.delete_removed(&removed).await.unwrap();
    table.table.delete_removed(&removed).await.unwrap();
    assert_eq!(kit.windows().await, before);
    let once_more = table.merge(2, u64::MAX, &kit.run()).await.unwrap();
    assert_eq!(once_more.merged, 0, "one file for each date");
    // what comes later follows the joined ranges
    kit.stream(&parts(&more[120..])).await;
    let right = Kit::new(ALL);
    right.stream(&[more]).await;
    assert_eq!(kit.windows().await, right.windows().await);
    kit.table().await.merge(2, u64::MAX, &kit.run()).await.unwrap();
    assert_eq!(kit.windows().await, right.windows().await);
}

async fn files(kit: &Kit) -> usize {
    kit.table().await.live().await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_merge_at_once_do_not_double() {
    let kit = Kit::new(ALL);
    let rows = some_rows(90);
    kit.stream(&parts(&rows)).await;
    let before = kit.windows().await;
    let (mut a, mut b) = (kit.table().await, kit.table().await);
    let (run_a, run_b) = (kit.run(), kit.run());
    let (a, b) = tokio::join!(a.merge(2, u64::MAX, &run_a), b.merge(2, u64::MAX, &run_b));
    assert!(a.unwrap().merged + b.unwrap().merged >= 2);
    assert_eq!(kit.windows().await, before);
}

/// Windows that start at or after `us`.
fn from(windows: &Windows, us: i64) -> Windows {
    let keep = |batch: &arrow::array::RecordBatch| {
        let starts = batch["window_start"].as_primitive::<TimestampMicrosecondType>();
        let mask: arrow::array::BooleanArray = starts.values().iter().map(|s| Some(*s >= us)).collect();
        arrow::compute::filter_record_batch(batch, &mask).unwrap()
    };
    windows.iter().map(|(g, batches)| (g.clone(), batches.iter().map(keep).collect())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_of_final_dates_go_and_stay_away() {
    let kit = Kit::new(ALL);
    let rows = some_rows(120);
    kit.stream(&parts(&rows[..60])).await;
    let midnight = FIRST_US + 24 * HOUR_US;
    let mut table = kit.table().await;
    let before = table.drop_final(Instant(midnight - 1), &kit.run()).await.unwrap();
    assert_eq!((before.dropped, table.floor()), (0, Some(date(2026, 3, 1))), "the first date is not over");
    let kept = table.drop_final(Instant(midnight), &kit.run()).await.unwrap();
    assert_eq!((kept.dropped, table.floor()), (1, Some(date(2026, 3, 2))));
    let version = table.version();
    table.drop_final(Instant(midnight - HOUR_US), &kit.run()).await.unwrap();
    assert_eq!((table.version(), table.floor()), (version, Some(date(2026, 3, 2))), "the floor never falls");
    // rows that come for the date later are left out, and those of the others are not
    kit.stream(&parts(&rows[60..])).await;
    let right = Kit::new(ALL);
    right.stream(&[rows]).await;
    let expected = from(&right.windows().await, midnight);
    assert!(rows_of(&expected) > 10);
    assert_eq!(kit.windows().await, expected);
    assert_eq!(kit.table().await.window_dates().await.unwrap(), [date(2026, 3, 2)].into());
    kit.catch_up(true).await;
    assert_eq!(kit.windows().await, expected, "made anew, from the floor on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_made_anew_from_the_first_window_that_is_not_final() {
    let kit = Kit::new("SELECT key, count(*) AS rows FROM events GROUP BY key");
    let mut rows = some_rows(100);
    let midnight = FIRST_US + 24 * HOUR_US;
    kit.land(&rows).await;
    kit.catch_up(false).await;
    assert_eq!(kit.table().await.floor(), None, "batch has published nothing, so nobody can know");
    let all = kit.windows().await;
    // both partitions are read to the middle of the second date, so the first one is covered
    let reached = rows.iter().map(|r| r.at_us).max().unwrap();
    assert!(reached > midnight + 2 * HOUR_US);
    let options = BatchOptions {
        run_id: "batch".into(),
        aggregates: Vec::new(),
        interval: Interval::default(),
        forced: false,
        any_age: false,
        granularities: Vec::new(),
        parallel: 2,
        input_version: None,
    };
    let (meter, clock, stop) = (Arc::new(Meter::default()), Clock::of(|| 1_700_000_000_000), CancellationToken::new());
    let report = batch_on(&kit.lake, &kit.settings, &options, &meter, &clock, &stop).await;
    assert!(report.error.is_none(), "{report:?}");
    std::fs::remove_dir_all(kit.path()).unwrap();
    kit.catch_up(false).await;
    assert_eq!(kit.table().await.floor(), Some(date(2026, 3, 2)), "the day of the second is open");
    assert_eq!(kit.windows().await, from(&all, midnight));
    // a row for the first date, which is late or not, changes nothing here
    rows[0].offset = 1_000;
    kit.stream(&[vec![Row { partition: 1, ..rows[0].clone() }]]).await;
    assert_eq!(kit.windows().await, from(&all, midnight));
}

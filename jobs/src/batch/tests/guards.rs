//! Input that cannot be right: an exit code, a message, and nothing published.

use super::kit::{Kit, LATENESS_US, Row, Sql, committed};
use super::naive;
use crate::batch::{BatchOptions, plan_only};
use crate::error::Class;
use crate::lake::Commit;
use deltaworks_core::units::Interval;
use deltaworks_core::windows::Instant;

const DAY_US: i64 = 86_400_000_000;
pub const TOTALS: Sql = Sql {
    name: "totals",
    windows: "[6h, 1d]",
    zone: "UTC",
    select: "SELECT key, sum(value) AS total, max(value) AS greatest FROM events GROUP BY key",
};

/// Rows `from..to` of one partition, `per_day` a day from 1970-01-01 on.
pub fn rows(from: i64, to: i64, per_day: i64) -> Vec<Row> {
    (from..to)
        .map(|n| Row {
            id: format!("id-{n}"),
            at_us: n * (DAY_US / per_day),
            value: Some(n),
            key: Some(format!("key {}", n % 2)),
            kafka_us: Some(n),
            partition: 0,
            offset: n,
            behind_ms: 0,
            repeat: false,
        })
        .collect()
}

async fn three_days() -> (Kit, Vec<Row>) {
    let (kit, rows) = (Kit::new(&[TOTALS]), rows(0, 30, 10));
    kit.land(&rows, 100, 4 * DAY_US).await;
    (kit, rows)
}

async fn fails(kit: &Kit, options: BatchOptions, class: Class, message: &str) {
    let before = kit.published("totals").await;
    let report = kit.batch(&options).await;
    let error = report.error.expect("the run fails");
    assert_eq!(error.class, class, "{error}");
    assert!(error.message.contains(message), "{error}");
    assert_eq!(kit.published("totals").await, before, "nothing was published");
    assert_eq!((report.units.changed, report.units.unchanged), (0, 0));
}

#[tokio::test]
async fn a_file_that_is_gone() {
    let (kit, _) = three_days().await;
    let raw = kit.raw().await;
    let file = &raw.live_files().await.unwrap()[0];
    std::fs::remove_file(kit.path().join("lake/raw/events").join(&file.path)).unwrap();
    fails(&kit, kit.options(), Class::InputLost, "cannot read").await;
}

#[tokio::test]
async fn a_file_with_other_rows_than_the_log_says() {
    let kit = Kit::new(&[TOTALS]);
    kit.land(&rows(0, 10, 10), 100, 4 * DAY_US).await;
    let mut raw = kit.raw().await;
    let files = raw.live_files().await.unwrap();
    let mut added = kit.put(&raw, "1970-01-01", &kit.batch_of(&rows(0, 10, 10))).await;
    added.stats = "{\"numRecords\":11}".into();
    committed(raw.commit(Commit { adds: vec![added], removes: files, ..kit.commit() }).await);
    fails(&kit, kit.options(), Class::Internal, "10 rows, the log says 11").await;
}

#[tokio::test]
async fn dates_that_lost_rows() {
    let (kit, rows) = three_days().await;
    kit.batch_well().await;
    let mut raw = kit.raw().await;
    let files: Vec<_> = raw.live_files().await.unwrap().into_iter().take(1).collect();
    committed(raw.commit(Commit { removes: files, ..kit.commit() }).await);
    fails(&kit, kit.options(), Class::InputLost, "raw has lost rows of 1970-01-01").await;
    // the user accepts the loss
    let report = kit.batch(&BatchOptions { forced: true, ..kit.options() }).await;
    assert!(report.error.is_none(), "{report:?}");
    let left: Vec<Row> = rows.into_iter().filter(|r| r.at_us >= DAY_US).collect();
    let expected = naive::windows(&left, &["6h", "1d"], "UTC", 4 * DAY_US - LATENESS_US, |_| true, |_| true);
    assert_eq!(kit.published("totals").await, expected);
}

#[tokio::test]
async fn removed_dates_are_left_as_they_are_and_reported() {
    let (kit, all) = three_days().await;
    kit.batch_well().await;
    let before = kit.published("totals").await;
    let mut raw = kit.raw().await;
    let files: Vec<_> = raw.live_files().await.unwrap().into_iter().take(1).collect();
    let txns = vec![("deltaworks/events/removed_through".to_owned(), 0)];
    committed(raw.commit(Commit { removes: files, txns, ..kit.commit() }).await);
    let idle = kit.batch_well().await;
    assert_eq!((idle.units.computed, idle.left.beyond_retention), (0, 0), "{idle:?}");
    // a row for the removed date, and for the day after, whose dedup day it is
    let late = Row { id: "late".into(), offset: 30, at_us: 5, ..all[0].clone() };
    kit.land(&[late], 100, 4 * DAY_US).await;
    let report = kit.batch_well().await;
    assert!(report.left.beyond_retention >= 2, "{report:?}");
    assert_eq!(kit.published("totals").await, before);
    fails(&kit, BatchOptions { forced: true, ..kit.options() }, Class::InputLost, "raw no longer keeps").await;
}

#[tokio::test]
async fn an_interval_that_is_not_complete_and_one_that_is() {
    let (kit, rows) = three_days().await;
    let until = |to: i64| BatchOptions { interval: Interval { from: None, to: Some(Instant(to)) }, ..kit.options() };
    fails(&kit, until(5 * DAY_US), Class::InputNotYet, "are not complete").await;
    let report = kit.batch(&until(DAY_US)).await;
    assert!(report.error.is_none() && report.units.changed == 2, "{report:?}");
    let first: Vec<Row> = rows.into_iter().filter(|r| r.at_us < DAY_US).collect();
    let expected = naive::windows(&first, &["6h", "1d"], "UTC", DAY_US, |_| true, |_| true);
    assert_eq!(kit.published("totals").await, expected);
}

#[tokio::test]
async fn names_that_are_not_there() {
    let (kit, _) = three_days().await;
    let named = BatchOptions { aggregates: vec!["total".into()], ..kit.options() };
    fails(&kit, named, Class::User, "there is no aggregate `total`").await;
    let sized = BatchOptions { granularities: vec!["5m".parse().unwrap()], ..kit.options() };
    fails(&kit, sized, Class::User, "no aggregate has windows of `5m`").await;
    let some = BatchOptions { granularities: vec!["1d".parse().unwrap()], ..kit.options() };
    assert_eq!(kit.batch(&some).await.units.changed, 3);
    assert!(kit.published("totals").await.keys().all(|(granularity, ..)| granularity == "1d"));
}

#[tokio::test]
async fn an_older_version_than_the_pin() {
    let (kit, _) = three_days().await;
    let older = kit.raw().await.version();
    kit.land(&rows(30, 40, 10), 100, 6 * DAY_US).await;
    kit.batch_well().await;
    let at = |version| BatchOptions { input_version: Some(version), ..kit.options() };
    fails(&kit, at(older), Class::User, "is older").await;
    fails(&kit, at(99), Class::User, "has no version 99").await;
    let same = kit.batch(&at(older + 1)).await;
    assert!(same.is_idle(), "the same pin and definition does nothing: {same:?}");
}

#[tokio::test]
async fn a_version_asked_for_is_what_is_read() {
    let (kit, all) = three_days().await;
    let older = kit.raw().await.version();
    kit.land(&rows(30, 40, 10), 100, 6 * DAY_US).await;
    let report = kit.batch(&BatchOptions { input_version: Some(older), ..kit.options() }).await;
    assert!(report.error.is_none(), "{report:?}");
    let expected = naive::windows(&all, &["6h", "1d"], "UTC", 4 * DAY_US - LATENESS_US, |_| true, |_| true);
    assert_eq!(kit.published("totals").await, expected);
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let (kit, _) = three_days().await;
    let (units, _) = plan_only(&kit.settings, &kit.options()).await.unwrap();
    let names: Vec<&str> = units.iter().map(|u| u.unit.as_str()).collect();
    let expected: Vec<String> =
        ["6h", "1d"].iter().flat_map(|g| (1..4).map(move |d| format!("totals/{g}/1970-01-0{d}"))).collect();
    assert_eq!(names, expected);
    assert!(units.iter().all(|u| u.files == 1 && u.bytes > 0));
    let json = serde_json::to_value(&units[0]).unwrap();
    assert!(json["kept_until"].is_null(), "the contract names no retention");
    assert_eq!((&json["plan"], &json["reasons"][0]["reason"]), (&"recompute".into(), &"missing".into()));
    assert!(kit.lake.list_tables().await.unwrap().iter().all(|t| t.layer == "raw"), "only raw is there");
}

#[tokio::test]
async fn a_changed_definition_is_computed_again_and_adds_its_columns() {
    let (mut kit, _) = three_days().await;
    kit.batch_well().await;
    let (before, generations) = (kit.published("totals").await, kit.generations("totals").await);
    // a remark changes nothing
    kit.define(&[Sql {
        select: "SELECT key, sum(value) AS total, max(value) AS greatest -- a remark\nFROM events GROUP BY key",
        ..TOTALS
    }]);
    assert!(kit.batch_well().await.is_idle());
    kit.define(&[Sql {
        select: "SELECT key, sum(value) AS total, max(value) AS greatest, count(*) AS more FROM events GROUP BY key",
        ..TOTALS
    }]);
    let report = kit.batch_well().await;
    assert_eq!(report.units.changed as usize, generations.len(), "{report:?}");
    assert_eq!(kit.published("totals").await, before);
    assert!(kit.generations("totals").await.values().all(|g| *g == 2));
    // the same values under another text: a new definition, and no new generation
    kit.define(&[Sql {
        select: "SELECT key, sum(value * 1) AS total, max(value) AS greatest, count(*) AS more FROM events GROUP BY key",
        ..TOTALS
    }]);
    let report = kit.batch_well().await;
    assert_eq!((report.units.changed, report.units.unchanged as usize), (0, generations.len()), "{report:?}");
    assert!(kit.batch_well().await.is_idle());
    // another type needs another name
    kit.define(&[Sql {
        select: "SELECT key, CAST(sum(value) AS VARCHAR) AS total, max(value) AS greatest FROM events GROUP BY key",
        ..TOTALS
    }]);
    fails(&kit, kit.options(), Class::User, "column `total`").await;
}

#[tokio::test]
async fn another_grain_needs_another_name() {
    let (mut kit, _) = three_days().await;
    kit.batch_well().await;
    let total = "SELECT sum(value) AS total, max(value) AS greatest FROM events";
    kit.define(&[Sql { select: total, ..TOTALS }]);
    fails(&kit, kit.options(), Class::User, "has keys ``, and the rows of table `batch.totals` have `key`").await;
    kit.define(&[Sql { zone: "Asia/Kolkata", ..TOTALS }]);
    fails(&kit, kit.options(), Class::User, "has timezone `Asia/Kolkata`").await;
    kit.define(&[TOTALS]);
    assert!(kit.batch_well().await.is_idle());
}

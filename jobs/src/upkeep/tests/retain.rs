//! Dates that go: which, when, told how, and what others make of it.

use super::{DAY_US, live, raw_name};
use crate::backfill::{RecomputeOptions, ResumeOptions, create_on, resume_on};
use crate::error::Class;
use crate::lake::faults::{Fault, Script, commits_of};
use crate::lake::{Commit, Lake};
use crate::prove::{ProveOptions, Verdict, prove_on};
use crate::reconcile::tests::kit::{Kit, LATENESS_US, Row, Sql};
use crate::upkeep::retain::finality::Windows;
use crate::upkeep::retain::{Retain, raw};
use crate::upkeep::{RetainOptions, RetainReport, RetainTable, plan_retain, retain_on};
use deltaworks_core::progress::AppIds;
use deltaworks_core::windows::Instant;
use jiff::civil::{Date, date};
use rstest::rstest;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio_util::sync::CancellationToken;

/// 1970-01-11.
const NOW_MS: i64 = 10 * 86_400_000;
pub const TOTALS: Sql = Sql {
    name: "totals",
    windows: "[6h, 1d]",
    zone: "UTC",
    select: "SELECT key, sum(value) AS total, max(value) AS greatest FROM events GROUP BY key",
};

pub fn day(day: i8) -> Date {
    date(1970, 1, day)
}

pub fn row(offset: i64, at_us: i64) -> Row {
    Row {
        id: format!("id-{offset}"),
        at_us,
        value: Some(offset),
        key: Some(format!("key {}", offset % 2)),
        kafka_us: None,
        partition: 0,
        offset,
        behind_ms: 0,
        repeat: false,
    }
}

/// Six rows of each of five days, landed, computed and served; complete up to the end of the fifth.
pub async fn served() -> Kit {
    let kit = Kit::new(&[TOTALS]);
    let rows: Vec<Row> = (0..30).map(|n| row(n, n * DAY_US / 6)).collect();
    for some in rows.chunks(7) {
        kit.land(some, 4, 5 * DAY_US + LATENESS_US).await;
    }
    kit.batch_well().await;
    kit.reconcile().await;
    kit
}

pub fn options(before: i8) -> RetainOptions {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    RetainOptions {
        run_id: format!("retain-{}", RUNS.fetch_add(1, Relaxed)),
        tables: vec![raw_name()],
        before: Some(day(before)),
        forced: false,
        archived_to: None,
    }
}

pub async fn retained_on(kit: &Kit, lake: &Lake, options: &RetainOptions) -> RetainReport {
    retain_on(lake, &kit.settings, options, NOW_MS, &CancellationToken::new()).await
}

pub async fn retained(kit: &Kit, options: &RetainOptions) -> RetainTable {
    let mut report = retained_on(kit, &kit.lake, options).await;
    assert!(report.error.is_none(), "{report:?}");
    report.tables.remove(0)
}

/// Every check that can be made without a broker is green; how many there are.
pub async fn proved(kit: &Kit) -> usize {
    let options = ProveOptions { offline: true, ..ProveOptions::default() };
    let report = prove_on(&kit.lake, &kit.settings, &options, &crate::clock::Clock::of(|| NOW_MS)).await.unwrap();
    let refuted: Vec<_> = report.checks.iter().filter(|check| check.verdict == Verdict::Refuted).collect();
    assert!(refuted.is_empty(), "{refuted:#?}");
    report.checks.iter().filter(|check| check.verdict == Verdict::Proved).count()
}

async fn dates(kit: &Kit) -> BTreeSet<String> {
    live(&kit.lake).await.1.into_iter().filter_map(|file| file.partition_values["event_date"].clone()).collect()
}

fn names(days: std::ops::RangeInclusive<i8>) -> BTreeSet<String> {
    days.map(|d| day(d).to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_whose_windows_are_final_go() {
    let kit = served().await;
    assert!(proved(&kit).await >= 5);
    let (before, batch) = (kit.served("totals").await, kit.published("totals").await);
    let planned = plan_retain(&kit.settings, &options(3), NOW_MS).await.unwrap().remove(0);
    assert_eq!((planned.refused.len(), planned.version), (0, None));
    assert_eq!(planned.dates.iter().map(|d| (d.date, d.rows)).collect::<Vec<_>>(), [(day(1), 6), (day(2), 6)]);
    assert_eq!(dates(&kit).await, names(1..=5), "a plan removes nothing");
    let done = retained(&kit, &options(3)).await;
    assert_eq!((done.dates, done.first_kept), (planned.dates, Some(day(3))));
    assert_eq!(dates(&kit).await, names(3..=5));
    let raw = kit.raw().await;
    assert_eq!(raw.txns()[&AppIds::new("events").removed_through()], 1, "days since 1970");
    let head = raw.commit_heads(raw.version(), raw.version()).await.unwrap().remove(0).info.unwrap();
    assert_eq!(head["changed"], serde_json::json!([{"topic": "events", "partition": 0, "landed": 12, "filled": 0}]));
    assert_eq!((&head["operation"], &head["dates"]["1970-01-02"]["rows"]), (&"retain".into(), &6.into()));
    // nothing else changes, and nobody misses the rows
    assert!(kit.batch_well().await.is_idle());
    kit.reconcile_again("totals").await;
    assert_eq!((kit.served("totals").await, kit.published("totals").await), (before, batch));
    assert!(proved(&kit).await >= 5);
    assert!(retained_on(&kit, &kit.lake, &options(3)).await.is_idle(), "nothing is left to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_stay_that_an_open_backfill_has_still_to_compute() {
    let kit = served().await;
    let clock = crate::clock::Clock::of(|| NOW_MS);
    let create = RecomputeOptions {
        run_id: "create".into(),
        aggregate: "totals".into(),
        from: Instant(DAY_US),
        to: Instant(2 * DAY_US),
        granularities: Vec::new(),
        forced: true,
        backwards: false,
        parallel: 1,
    };
    let backfill = create_on(&kit.lake, &kit.settings, &create, &clock).await.unwrap().unwrap();
    let refused = retained_on(&kit, &kit.lake, &options(3)).await;
    let named = |size: &str| format!("unit `totals/{size}/1970-01-02` is left of backfill `{}`", backfill.id);
    assert_eq!(refused.tables[0].refused, [named("6h"), named("1d")]);
    assert_eq!(refused.error.unwrap().class, Class::InputLost);
    assert_eq!(dates(&kit).await, names(1..=5));
    // the day before is what copies of that day are told by
    assert_eq!(retained_on(&kit, &kit.lake, &options(2)).await.tables[0].refused.len(), 2);

    let (meter, run) = (Arc::default(), ResumeOptions { run_id: "resume".into(), parallel: 1 });
    let stop = CancellationToken::new();
    let resumed = resume_on(&kit.lake, &kit.settings, backfill.id, &run, &meter, &clock, &stop).await;
    assert!(resumed.error.is_none(), "{resumed:?}");
    kit.reconcile().await;
    retained(&kit, &options(3)).await;
    assert_eq!(dates(&kit).await, names(3..=5));
    proved(&kit).await;
}

/// The copies of a date's events are told by the day before, whether or not any have landed yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_date_stays_while_the_next_may_still_land() {
    let kit = served().await;
    let refused = retained_on(&kit, &kit.lake, &options(6)).await;
    let named = |size: &str| format!("unit `totals/{size}/1970-01-06` has windows that are not complete");
    assert_eq!(refused.tables[0].refused, [named("6h"), named("1d")]);
    assert_eq!(refused.error.unwrap().class, Class::InputLost);
    let sixth = [row(40, 5 * DAY_US), row(41, 5 * DAY_US + 1)];
    kit.land(&sixth, 4, 6 * DAY_US + LATENESS_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    retained(&kit, &options(6)).await;
    assert_eq!(dates(&kit).await, names(6..=6));
    let published = kit.published("totals").await;
    assert!(published.keys().any(|(_, start, _)| *start == 5 * DAY_US), "its windows were computed before");
    proved(&kit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lands_later_is_told_and_goes_with_the_next_run() {
    let kit = served().await;
    retained(&kit, &options(3)).await;
    let before = kit.published("totals").await;
    kit.land(&[row(30, 5), row(31, DAY_US + 5), row(32, 2 * DAY_US + 5)], 4, 5 * DAY_US + LATENESS_US).await;
    let report = kit.batch_well().await;
    assert!(report.left.beyond_retention >= 2, "{report:?}");
    // the third day's dedup day is gone, so it cannot be computed either; the others are what they were
    assert_eq!(kit.published("totals").await, before);
    proved(&kit).await;
    let done = retained(&kit, &options(3)).await;
    assert_eq!(done.dates.iter().map(|d| (d.date, d.rows)).collect::<Vec<_>>(), [(day(1), 1), (day(2), 1)]);
    proved(&kit).await;
    kit.batch_well().await;
    assert_eq!(kit.published("totals").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_says_how_long_dates_are_kept() {
    let mut kit = served().await;
    let by_contract = RetainOptions { before: None, ..options(1) };
    assert_eq!(retained(&kit, &by_contract).await.first_kept, None, "it says nothing");
    let pipeline = Arc::make_mut(&mut kit.batch.settings.pipelines[0]);
    Arc::make_mut(&mut pipeline.contract).retention_days = Some(8);
    let report = retained_on(&kit, &kit.lake, &options(4)).await;
    let error = report.error.unwrap();
    assert_eq!(error.class, Class::User);
    assert!(error.message.contains("the contract keeps 8 days"), "{error}");
    assert_eq!(dates(&kit).await, names(1..=5));
    let done = retained(&kit, &by_contract).await;
    assert_eq!((done.first_kept, done.dates.len()), (Some(day(3)), 2));
    assert_eq!(dates(&kit).await, names(3..=5));
}

/// What stands in the way, and is told; with `--force` the dates go all the same.
async fn refused(kit: &Kit, before: i8, expected: &str) {
    let version = kit.raw().await.version();
    let report = retained_on(kit, &kit.lake, &options(before)).await;
    let error = report.error.as_ref().expect("it is refused");
    assert_eq!((error.class.code(), kit.raw().await.version()), (6, version), "{error}");
    assert!(report.tables[0].refused.iter().any(|why| why == expected), "{:?}", report.tables[0].refused);
    assert!(error.message.contains("keeps its dates"), "{error}");
    let planned = plan_retain(&kit.settings, &options(before), NOW_MS).await.unwrap().remove(0);
    assert_eq!(planned.refused, report.tables[0].refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_that_are_not_final_stay() {
    let kit = Kit::new(&[TOTALS]);
    let rows: Vec<Row> = (0..12).map(|n| row(n, n * DAY_US / 6)).collect();
    kit.land(&rows, 4, DAY_US).await;
    refused(&kit, 2, "it is complete only up to 1970-01-01T23:00:00Z").await;
    refused(&kit, 2, "unit `totals/1d/1970-01-01` has windows that are not complete").await;
    kit.land(&[], 4, 4 * DAY_US).await;
    refused(&kit, 2, "unit `totals/6h/1970-01-01` is to be computed").await;
    kit.batch_well().await;
    refused(&kit, 2, "unit `totals/1d/1970-01-01` is not served as batch has it").await;
    kit.reconcile().await;
    // the day after needs the last date to tell copies
    kit.land(&[row(12, DAY_US + 9)], 4, 4 * DAY_US).await;
    refused(&kit, 2, "unit `totals/1d/1970-01-02` is to be computed").await;
    kit.batch_well().await;
    kit.reconcile().await;
    assert_eq!(retained(&kit, &options(2)).await.dates.len(), 1);
    proved(&kit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_they_go_all_the_same() {
    let kit = Kit::new(&[TOTALS]);
    let rows: Vec<Row> = (0..12).map(|n| row(n, n * DAY_US / 6)).collect();
    kit.land(&rows, 4, DAY_US).await;
    let forced = RetainOptions { forced: true, ..options(2) };
    assert_eq!(retained(&kit, &forced).await.dates.len(), 1);
    assert_eq!(dates(&kit).await, names(2..=2));
    kit.land(&[], 4, 4 * DAY_US).await;
    let report = kit.batch_well().await;
    assert!(report.left.beyond_retention > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_lands_before_the_commit_is_judged_as_well() {
    let kit = served().await;
    let wanted = options(3);
    let retain = Retain::new(&kit.lake, &kit.settings, &wanted, NOW_MS).unwrap();
    let windows = Windows::of(&kit.lake, &kit.settings, "events").await.unwrap();
    let (input, plan) = raw::judge(&retain, kit.pipeline(), &windows).await.unwrap();
    let removal = raw::removal(&retain, kit.pipeline(), &input, &plan).await.unwrap();
    let mut attempts = crate::lake::Attempts::new(crate::Stage::Upkeep, "raw");
    // one elsewhere does not matter
    kit.land(&[row(30, 4 * DAY_US + 5)], 4, 5 * DAY_US + LATENESS_US).await;
    kit.land(&[row(31, 5)], 4, 5 * DAY_US + LATENESS_US).await;
    let version = kit.raw().await.version();
    assert_eq!(raw::commit(&input, &plan, &removal, &mut attempts).await.unwrap(), None);
    assert_eq!((kit.raw().await.version(), dates(&kit).await), (version, names(1..=5)));
    // it makes its window another one first
    refused(&kit, 3, "unit `totals/1d/1970-01-01` is to be computed").await;
    kit.batch_well().await;
    kit.reconcile().await;
    assert_eq!(retained(&kit, &options(3)).await.dates[0].rows, 7);
    proved(&kit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_another_date_that_lands_before_the_commit_does_not_hold_it_up() {
    let kit = served().await;
    let wanted = options(3);
    let retain = Retain::new(&kit.lake, &kit.settings, &wanted, NOW_MS).unwrap();
    let windows = Windows::of(&kit.lake, &kit.settings, "events").await.unwrap();
    let (input, plan) = raw::judge(&retain, kit.pipeline(), &windows).await.unwrap();
    let removal = raw::removal(&retain, kit.pipeline(), &input, &plan).await.unwrap();
    let mut attempts = crate::lake::Attempts::new(crate::Stage::Upkeep, "raw");
    kit.land(&[row(30, 4 * DAY_US + 5)], 4, 5 * DAY_US + LATENESS_US).await;
    let version = kit.raw().await.version();
    assert_eq!(raw::commit(&input, &plan, &removal, &mut attempts).await.unwrap(), Some(version + 1));
    assert_eq!(dates(&kit).await, names(3..=5));
    proved(&kit).await;
}

#[rstest]
#[case::lost_reply(Fault::LoseReply)]
#[case::own_write_seen(Fault::AnswerTaken)]
#[case::never_sent(Fault::DropPut)]
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_unknown_outcome_is_there_once(#[case] fault: Fault) {
    let kit = served().await;
    let mut script = Script::new();
    let count = script.add(fault, commits_of("raw/events"), 0, 1);
    let faulty = Lake::open(&kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let version = kit.raw().await.version();
    let report = retained_on(&kit, &faulty, &options(3)).await;
    assert_eq!((count.fired(), report.error.map(|e| e.message)), (1, None));
    assert_eq!((report.tables[0].version, kit.raw().await.version()), (Some(version + 1), version + 1));
    assert_eq!(dates(&kit).await, names(3..=5));
    proved(&kit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_other_rows_than_were_told_keeps_them() {
    let kit = served().await;
    let mut table = kit.raw().await;
    let added = kit.put(&table, "1970-01-01", &kit.batch_of(&[row(99, 7)])).await;
    let commit = Commit { adds: vec![added], ..kit.commit() };
    assert!(matches!(table.commit(commit).await, crate::lake::CommitOutcome::Committed(_)));
    let forced = RetainOptions { forced: true, ..options(2) };
    let error = retained_on(&kit, &kit.lake, &forced).await.error.unwrap();
    assert!(error.message.contains("7 rows of 1970-01-01, and its commits told of 6"), "{error}");
    assert_eq!(dates(&kit).await, names(1..=5));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_events_and_rejects_have_a_retention() {
    let kit = served().await;
    for (layer, name) in [("batch", "totals"), ("ops", "offsets"), ("raw", "others")] {
        let tables = vec![crate::lake::TableName::new(layer, name)];
        let report = retained_on(&kit, &kit.lake, &RetainOptions { tables, ..options(3) }).await;
        assert_eq!(report.error.map(|e| e.class), Some(Class::User), "{layer}.{name}");
    }
    assert_eq!(dates(&kit).await, names(1..=5));
}

//! Two runs at once, a run beside compaction, and replies and stores that are lost.

use super::guards::{TOTALS, rows};
use super::kit::{Kit, LATENESS_US, Row};
use super::naive;
use crate::batch::BatchOptions;
use crate::batch::publish::{Published, Publisher, Run, ledger_of};
use crate::engine::aggregate::check;
use crate::error::Class;
use crate::lake::faults::{Fault, Script, commits_of};
use crate::lake::{Table, TableName};
use arrow::array::RecordBatch;
use deltaworks_core::units::{Entry, Fingerprint, Interval, Unit};
use deltaworks_core::windows::Instant;
use futures::TryStreamExt;
use futures::future::join_all;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

const DAY_US: i64 = 86_400_000_000;

async fn landed() -> (Kit, Vec<Row>) {
    let (kit, rows) = (Kit::new(&[TOTALS]), rows(0, 40, 10));
    kit.land(&rows, 3, 5 * DAY_US).await;
    (kit, rows)
}

async fn verify(kit: &Kit, rows: &[Row]) {
    let expected = naive::windows(rows, &["6h", "1d"], "UTC", 5 * DAY_US - LATENESS_US, |_| true, |_| true);
    assert_eq!(kit.published("totals").await, expected);
    assert!(kit.generations("totals").await.values().all(|g| *g == 1), "each unit is published once");
    assert!(kit.batch_well().await.is_idle());
}

/// A unit's rows as its files hold them.
async fn rows_of(table: &Table, unit: &Unit) -> Vec<RecordBatch> {
    let (granularity, date) = (unit.granularity.to_string(), unit.window_date.to_string());
    let mut rows = Vec::new();
    for file in table.live_files().await.unwrap() {
        let is = |name: &str, value: &String| file.partition_values[name].as_ref() == Some(value);
        if is("granularity", &granularity) && is("window_date", &date) {
            let schema = table.schema();
            let names = schema.fields().iter().map(|f| f.name().as_str());
            let columns: Vec<&str> = names.filter(|name| !file.partition_values.contains_key(*name)).collect();
            rows.extend(table.read_file(&file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap());
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn four_runs_at_once_publish_each_unit_once() {
    let (kit, rows) = landed().await;
    let options: Vec<_> = (0..4).map(|_| kit.options()).collect();
    let reports = join_all(options.iter().map(|o| kit.batch(o))).await;
    for report in &reports {
        assert!(report.error.is_none(), "{report:?}");
    }
    let changed: u64 = reports.iter().map(|r| r.units.changed).sum();
    assert_eq!(changed as usize, kit.generations("totals").await.len(), "{reports:?}");
    verify(&kit, &rows).await;
}

#[tokio::test]
async fn whatever_becomes_of_a_reply_each_unit_is_published_once() {
    for fault in [Fault::LoseReply, Fault::AnswerTaken, Fault::DropPut] {
        let (kit, rows) = landed().await;
        let mut script = Script::new();
        // the first put makes the table
        let fired = script.add(fault, commits_of("batch/totals"), 1, 3);
        let pins = script.add(fault, commits_of("ops/pins"), 1, 1);
        let runs = script.add(fault, commits_of("ops/runs"), 1, 1);
        let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
        let report = kit.batch_on(&faulty, &kit.options()).await;
        assert!(report.error.is_none(), "{fault:?}: {report:?}");
        assert_eq!((fired.fired(), pins.fired(), runs.fired()), (3, 1, 1), "{fault:?}");
        verify(&kit, &rows).await;
    }
}

#[tokio::test]
async fn a_pin_that_a_listing_lacks_is_looked_for_again() {
    let (kit, rows) = landed().await;
    kit.batch_well().await;
    let mut script = Script::new();
    let stale = script.add(Fault::StaleList, |path| path.as_ref().ends_with("ops/pins/_delta_log"), 0, 1);
    let lagging = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let report = kit.batch_on(&lagging, &kit.options()).await;
    assert!(report.error.is_none(), "{report:?}");
    assert_eq!((stale.fired(), report.units.changed), (1, 0), "{report:?}");
    verify(&kit, &rows).await;
}

/// Another run lands, computes and publishes between two looks of this one: it looks again.
#[tokio::test]
async fn units_that_were_computed_from_a_later_version_meanwhile_are_planned_again() {
    let (kit, mut all) = landed().await;
    let late = Row { id: "late".into(), offset: 40, at_us: 7, ..all[0].clone() };
    all.push(late.clone());
    kit.land(&[late], 100, 5 * DAY_US).await;
    kit.batch_well().await;
    let mut script = Script::new();
    let stale = script.add(Fault::StaleList, |path| path.as_ref().ends_with("raw/events/_delta_log"), 0, 1);
    let lagging = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let report = kit.batch_on(&lagging, &kit.options()).await;
    assert!(report.error.is_none(), "{report:?}");
    assert_eq!((stale.fired(), report.units.changed), (1, 0), "{report:?}");
    verify(&kit, &all).await;
    let mut script = Script::new();
    let stale = script.add(Fault::StaleList, |path| path.as_ref().ends_with("raw/events/_delta_log"), 0, 99);
    let lagging = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let error = kit.batch_on(&lagging, &kit.options()).await.error.unwrap();
    assert_eq!((error.class, stale.fired() > 1), (Class::Overlap, true), "{error:?}");
}

#[tokio::test]
async fn a_unit_that_moved_since_it_was_planned_is_left_alone() {
    let (kit, _) = landed().await;
    let definition = check(&kit.settings).await.unwrap().definitions.remove(0);
    let unit = Unit {
        aggregate: "totals".into(),
        granularity: "1d".parse().unwrap(),
        window_date: jiff::civil::date(1970, 1, 2),
    };
    let (one, two) = (Run::new("one"), Run::new("two"));
    let mut first = Publisher::open(&kit.lake, &definition, "grain", &one).await.unwrap();
    let mut second = Publisher::open(&kit.lake, &definition, "grain", &two).await.unwrap();
    let pin = |name: &str| Fingerprint::of(name.as_bytes());
    assert_eq!(first.publish(&unit, None, &[], pin("a")).await.unwrap(), Published::Changed);
    // from a stale snapshot, and from the fresh one after its conflict
    assert_eq!(second.publish(&unit, None, &[], pin("b")).await.unwrap(), Published::Overlap);
    assert_eq!(second.publish(&unit, None, &[], pin("b")).await.unwrap(), Published::Overlap);
    let table = kit.lake.open_table(&TableName::new("batch", "totals")).await.unwrap().unwrap();
    let entry = ledger_of("totals", &table).unwrap()[&unit];
    assert_eq!((entry.generation, entry.pin), (1, pin("a")));
    assert_eq!(table.version(), 1, "an empty unit is one commit, and the loser made none");
    // the same rows under a new pin
    assert_eq!(second.publish(&unit, Some(entry), &[], pin("c")).await.unwrap(), Published::Unchanged);
    let table = kit.lake.open_table(&TableName::new("batch", "totals")).await.unwrap().unwrap();
    assert_eq!(ledger_of("totals", &table).unwrap()[&unit].generation, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_older_rows_never_takes_a_unit_back() {
    let (kit, mut all) = landed().await;
    let slow = kit.options();
    let mut script = Script::new();
    let held = script.add(Fault::HoldPut, commits_of("batch/totals"), 0, 1);
    let slowed = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let late = Row { id: "late".into(), offset: 40, at_us: 7, ..all[0].clone() };
    all.push(late.clone());
    let overtaken = async {
        held.until_fired(1).await;
        kit.land(&[late], 100, 5 * DAY_US).await;
        let report = kit.batch_well().await;
        held.let_one_through();
        report
    };
    let (older, newer) = tokio::join!(kit.batch_on(&slowed, &slow), overtaken);
    assert!(older.error.is_none() && newer.error.is_none(), "{older:?} {newer:?}");
    kit.batch_well().await;
    let expected = naive::windows(&all, &["6h", "1d"], "UTC", 5 * DAY_US - LATENESS_US, |_| true, |_| true);
    assert_eq!(kit.published("totals").await, expected);
}

/// Exit code 4: the same command continues. Where nothing was published yet it is 1.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_in_the_middle_leaves_what_is_published() {
    // the first commit makes the table
    for (commits, class) in [(1, Class::Outside), (4, Class::Partly)] {
        let (kit, rows) = landed().await;
        let mut script = Script::new();
        let gone = script.add(Fault::DropPut, commits_of("batch/totals"), commits, usize::MAX);
        for fault in [Fault::FailRead, Fault::FailList] {
            let gone = gone.clone();
            script.add(fault, move |_| gone.fired() > 0, 0, usize::MAX);
        }
        let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
        let report = kit.batch_on(&faulty, &kit.options()).await;
        let published = commits as u64 - 1;
        assert_eq!(report.error.as_ref().map(|e| e.class), Some(class), "{report:?}");
        assert_eq!((gone.fired(), report.units.changed), (1, published), "{report:?}");
        assert_eq!(report.units.failed, 8 - published, "{report:?}");
        let there = kit.generations("totals").await;
        assert_eq!(there.len() as u64, published, "{there:?}");
        let report = kit.batch_well().await;
        assert_eq!(report.units.changed, 8 - published, "{report:?}");
        verify(&kit, &rows).await;
    }
}

/// Exit code 5: in every round somebody else has published the unit when it is to be committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_gives_up_where_another_is_always_first() {
    let (kit, rows) = landed().await;
    kit.batch_well().await;
    let definition = check(&kit.settings).await.unwrap().definitions.remove(0);
    let unit = Unit {
        aggregate: "totals".into(),
        granularity: "1d".parse().unwrap(),
        window_date: jiff::civil::date(1970, 1, 2),
    };
    let table = kit.lake.open_table(&TableName::new("batch", "totals")).await.unwrap().unwrap();
    let mut entry = ledger_of("totals", &table).unwrap()[&unit];
    let theirs = rows_of(&table, &unit).await;
    // what the run is to commit waits until the rival has come first, each time
    let mut script = Script::new();
    let held = script.add(Fault::HoldPut, commits_of("batch/totals"), 0, usize::MAX);
    let slowed = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let rival = async {
        let mut publisher = Publisher::open(&kit.lake, &definition, "grain", &Run::new("rival")).await.unwrap();
        let mut rows: &[RecordBatch] = &[];
        for times in 1.. {
            held.until_fired(times).await;
            assert_eq!(publisher.publish(&unit, Some(entry), rows, entry.pin).await.unwrap(), Published::Changed);
            entry = Entry::published(Some(entry), entry.pin, entry.definition);
            rows = if rows.is_empty() { &theirs } else { &[] };
            held.let_one_through();
        }
    };
    let that_day = Interval { from: Some(Instant(DAY_US)), to: Some(Instant(2 * DAY_US)) };
    let granularities = vec![unit.granularity];
    let options = BatchOptions { granularities, interval: that_day, forced: true, ..kit.options() };
    let report = tokio::select! {
        report = kit.batch_on(&slowed, &options) => report,
        () = rival => unreachable!("it goes on for ever"),
    };
    let error = report.error.expect("it gives up");
    assert_eq!(error.class, Class::Overlap, "{error}");
    assert!(
        error.message.contains("another run keeps publishing the same units, such as `totals/1d/1970-01-02`"),
        "{error}"
    );
    assert_eq!((report.units.computed, report.units.changed, report.units.failed), (4, 0, 1), "once in each round");
    let report = kit.batch(&options).await;
    assert!(report.error.is_none(), "{report:?}");
    let expected = naive::windows(&rows, &["6h", "1d"], "UTC", 5 * DAY_US - LATENESS_US, |_| true, |_| true);
    assert_eq!(kit.published("totals").await, expected);
}

/// Files are rewritten, their rows in another order, all the while: nothing is read twice or left out, and no unit
/// calls for work.
#[tokio::test(flavor = "multi_thread")]
async fn compaction_meanwhile_changes_nothing() {
    let (kit, rows) = landed().await;
    let dates = ["1970-01-01", "1970-01-02", "1970-01-03", "1970-01-04"];
    let (over, compacted) = (AtomicBool::new(false), AtomicU64::new(0));
    let compacting = async {
        while !over.load(Relaxed) {
            for date in dates {
                kit.compact(date).await;
                compacted.fetch_add(1, Relaxed);
            }
        }
    };
    let computing = async {
        let reports = [kit.batch_well().await, kit.batch_well().await, {
            let options = BatchOptions { forced: true, ..kit.options() };
            kit.batch(&options).await
        }];
        while compacted.load(Relaxed) < 8 {
            let late = kit.batch_well().await;
            assert!(late.is_idle(), "{late:?}");
        }
        over.store(true, Relaxed);
        reports
    };
    let ([first, idle, forced], ()) = tokio::join!(computing, compacting);
    assert_eq!((first.units.changed, first.rows), (8, 40), "{first:?}");
    assert!(idle.is_idle(), "{idle:?}");
    assert!(forced.error.is_none() && forced.units.changed == 0 && forced.units.unchanged == 8, "{forced:?}");
    verify(&kit, &rows).await;
}

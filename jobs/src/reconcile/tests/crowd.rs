//! Several reconcilers at once, replies that are lost, and stores that go away: served is right all the same.

use super::kit::{Kit, Row};
use super::steps::{landed, row};
use crate::error::Class;
use crate::lake::faults::{Fault, Script, commits_of, data_files_of};
use futures::future::join_all;
use rstest::rstest;
use std::time::Duration;

const DAY_US: i64 = 86_400_000_000;

/// Two dates that are complete and one that is not.
async fn three_days() -> Kit {
    let rows: Vec<Row> = (0..30).map(|n| row(n, n * (DAY_US / 10), n)).collect();
    let kit = landed(&rows, 2 * DAY_US + DAY_US / 2).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit
}

/// What one reconciler alone makes of the same.
async fn right() -> super::kit::Windows {
    let kit = three_days().await;
    kit.reconcile().await;
    without_pins(kit.served("totals").await)
}

/// Tables of two kits have other ids, and so their pins.
fn without_pins(mut windows: super::kit::Windows) -> super::kit::Windows {
    windows.values_mut().for_each(|seen| seen.pin = seen.pin.take().map(|_| "pin".to_owned()));
    windows
}

async fn verify(kit: &Kit) {
    assert_eq!(without_pins(kit.served("totals").await), right().await);
    kit.reconcile_again("totals").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_reconcilers_at_once_write_each_unit_once() {
    let kit = three_days().await;
    let reports = join_all((0..4).map(|_| kit.reconcile())).await;
    let reconciled: u64 = reports.iter().map(|report| report.units.reconciled).sum();
    assert_eq!(reconciled, 6, "{reports:?}");
    assert_eq!(kit.version("totals").await, 6, "one commit for each unit");
    kit.no_unit_is_torn("totals", -1, 6).await;
    verify(&kit).await;
}

/// The slow one has read batch and speed before the fast one, and comes to its commits after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_older_snapshots_takes_nothing_back() {
    let kit = three_days().await;
    let mut script = Script::new();
    let delay = Fault::DelayPut(Duration::from_millis(600));
    let delayed = script.add(delay, data_files_of("served/totals"), 0, 1);
    let slowed = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let overtaken = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let late = Row { behind_ms: i64::MAX / 2, id: "late".into(), ..row(30, 7, 50) };
        kit.land(&[late, row(31, 2 * DAY_US + 9, 60)], 100, 2 * DAY_US + DAY_US / 2).await;
        kit.catch_up().await;
        kit.batch_well().await;
        kit.reconcile().await;
        kit.served("totals").await
    };
    let (slow, newer) = tokio::join!(kit.reconcile_on(&slowed), overtaken);
    assert!(slow.error.is_none(), "{slow:?}");
    assert_eq!(delayed.fired(), 1);
    assert_eq!(kit.served("totals").await, newer, "{slow:?}");
    kit.reconcile_again("totals").await;
}

#[rstest]
#[case::lost_reply(Fault::LoseReply)]
#[case::own_write_met(Fault::AnswerTaken)]
#[case::never_sent(Fault::DropPut)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_unknown_outcome_is_there_once(#[case] fault: Fault) {
    let kit = three_days().await;
    let mut script = Script::new();
    // the first commit makes the table
    let count = script.add(fault, commits_of("served/totals"), 1, 2);
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let report = kit.reconcile_on(&faulty).await;
    assert!(report.error.is_none(), "{report:?}");
    assert_eq!((count.fired(), report.units.reconciled), (2, 6), "{report:?}");
    assert_eq!(kit.version("totals").await, 6);
    kit.no_unit_is_torn("totals", -1, 6).await;
    verify(&kit).await;
}

/// Exit code 4 where something was served already, else 1; the same command goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_goes_away_in_the_middle_leaves_whole_units() {
    for (commits, class) in [(1, Class::Outside), (3, Class::Partly)] {
        let kit = three_days().await;
        let mut script = Script::new();
        let gone = script.add(Fault::DropPut, commits_of("served/totals"), commits, usize::MAX);
        for fault in [Fault::FailRead, Fault::FailList] {
            let gone = gone.clone();
            script.add(fault, move |_| gone.fired() > 0, 0, usize::MAX);
        }
        let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
        let report = kit.reconcile_on(&faulty).await;
        assert_eq!(report.error.as_ref().map(|e| e.class), Some(class), "{report:?}");
        assert_eq!((gone.fired(), report.units.reconciled), (1, commits as u64 - 1), "{report:?}");
        kit.reconcile().await;
        kit.no_unit_is_torn("totals", -1, kit.version("totals").await).await;
        verify(&kit).await;
    }
}

/// A speed table that cannot be read is told, and changes nothing but that provisional rows stay as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_that_cannot_be_read_stop_nothing() {
    let kit = three_days().await;
    let mut script = Script::new();
    let unread = script.add(Fault::FailRead, data_files_of("speed/totals"), 0, usize::MAX);
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let report = kit.reconcile_on(&faulty).await;
    assert!(report.error.is_none() && unread.fired() > 0, "{report:?}");
    assert_eq!(serde_json::to_value(&report.speed).unwrap(), serde_json::json!({ "totals": "failed" }));
    let served = kit.served("totals").await;
    assert!(!served.is_empty() && served.values().all(|seen| seen.state == "final"), "{served:?}");
    kit.reconcile().await;
    verify(&kit).await;
}

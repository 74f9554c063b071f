//! Several reconcilers at once, replies that are lost, and stores that go away: served and its drift are right all the
//! same.

use super::drift::{self, Ways, drift};
use super::kit::{Kit, Row, Windows};
use super::steps::{landed, late, row};
use crate::error::Class;
use crate::lake::faults::{Fault, Script, commits_of, data_files_of};
use futures::future::join_all;
use rstest::rstest;
use tokio::sync::OnceCell;

const DAY_US: i64 = 86_400_000_000;

/// Two dates that are complete and one that is not, each with late events.
async fn three_days() -> Kit {
    let rows = (0..30).map(|n| row(n, n * (DAY_US / 10), n));
    let rows: Vec<Row> = rows.map(|row| if row.offset % 5 == 4 { late(row) } else { row }).collect();
    let kit = landed(&rows, 2 * DAY_US + DAY_US / 2).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit
}

/// What is served and its drift. Tables of two kits have other ids, and so their pins.
async fn found(kit: &Kit) -> (Windows, Ways) {
    let mut windows = kit.served("totals").await;
    windows.values_mut().for_each(|seen| seen.pin = seen.pin.take().map(|_| "pin".to_owned()));
    (windows, drift::without_pins(drift(kit, "totals").await))
}

/// What one reconciler alone makes of the same.
async fn right() -> &'static (Windows, Ways) {
    static RIGHT: OnceCell<(Windows, Ways)> = OnceCell::const_new();
    let alone = || async {
        let kit = three_days().await;
        kit.reconcile().await;
        found(&kit).await
    };
    RIGHT.get_or_init(alone).await
}

async fn verify(kit: &Kit) {
    assert_eq!(found(kit).await, *right().await);
    kit.reconcile_again("totals").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_reconcilers_at_once_write_each_unit_once() {
    let kit = three_days().await;
    let reports = join_all((0..4).map(|_| kit.reconcile())).await;
    let reconciled: u64 = reports.iter().map(|report| report.units.reconciled).sum();
    let moved: u64 = reports.iter().map(|report| report.drift.moved).sum();
    assert_eq!((reconciled, moved), (6, right().await.1.len() as u64), "{reports:?}");
    assert_eq!(moved, 7, "five quarters and two days have late events");
    assert_eq!(kit.version("totals").await, 6, "one commit for each unit");
    kit.no_unit_is_torn("totals", -1, 6).await;
    verify(&kit).await;
}

/// More events, and what the newer of two reconcilers has read of them.
async fn overtaken(kit: &Kit) {
    let more = [Row { id: "late".into(), ..late(row(30, 7, 50)) }, row(31, 2 * DAY_US + 9, 60)];
    kit.land(&more, 100, 2 * DAY_US + DAY_US / 2).await;
    kit.catch_up().await;
    kit.batch_well().await;
}

/// The slow one has read batch and speed before the fast one, and comes to its commits after it.
#[rstest]
#[case::served("served/totals")]
#[case::drift("drift/totals")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_older_snapshots_takes_nothing_back(#[case] table: &'static str) {
    let kit = three_days().await;
    let mut script = Script::new();
    let held = script.add(Fault::HoldPut, data_files_of(table), 0, 1);
    let slowed = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let fast = async {
        held.until_fired(1).await;
        overtaken(&kit).await;
        kit.reconcile().await;
        held.let_one_through();
        found(&kit).await
    };
    let (slow, newer) = tokio::join!(kit.reconcile_on(&slowed), fast);
    assert!(slow.error.is_none(), "{slow:?}");
    assert_eq!(found(&kit).await, newer, "{slow:?}");
    kit.reconcile_again("totals").await;
}

/// The newer one has told the way of a unit, and has not served it yet, when the older one comes to tell its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_seen_in_an_older_batch_gives_way_to_what_was_seen_in_a_newer_one() {
    let kit = three_days().await;
    let slowed = |table: &'static str| {
        let mut script = Script::new();
        let held = script.add(Fault::HoldPut, data_files_of(table), 0, 1);
        (kit.lake.clone().with_store_decorator(|store| script.wrap(store)), held)
    };
    let ((older, older_held), (newer, newer_held)) = (slowed("drift/totals"), slowed("served/totals"));
    let older = async {
        let report = kit.reconcile_on(&older).await;
        newer_held.let_one_through();
        report
    };
    let newer = async {
        older_held.until_fired(1).await;
        overtaken(&kit).await;
        kit.reconcile_on(&newer).await
    };
    let meeting = async {
        newer_held.until_fired(1).await;
        older_held.let_one_through();
    };
    let (older, newer, ()) = tokio::join!(older, newer, meeting);
    assert!(older.error.is_none() && newer.error.is_none(), "{older:?} {newer:?}");
    let alone = three_days().await;
    overtaken(&alone).await;
    alone.reconcile().await;
    let (found, (windows, ways)) = (found(&kit).await, found(&alone).await);
    // units that the older one was first at have been served once more
    let last = |found: &Windows| -> Vec<_> { found.iter().map(|(key, seen)| (key.clone(), seen.values)).collect() };
    assert_eq!(last(&found.0), last(&windows), "{older:?} {newer:?}");
    let first_quarter =
        |ways: &Ways| ways.iter().find(|(key, _)| key.0 == "15m").map(|(key, way)| (key.clone(), way.clone()));
    assert_eq!(first_quarter(&found.1), first_quarter(&ways));
    kit.reconcile_again("totals").await;
}

#[rstest]
#[case::lost_reply(Fault::LoseReply)]
#[case::own_write_met(Fault::AnswerTaken)]
#[case::never_sent(Fault::DropPut)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_unknown_outcome_is_there_once(
    #[case] fault: Fault,
    #[values("served/totals", "drift/totals")] table: &'static str,
) {
    let kit = three_days().await;
    let mut script = Script::new();
    // the first commit makes the table
    let count = script.add(fault, commits_of(table), 1, 2);
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

//! Rows that are not what they were when batch computed from them: nothing is said of their windows, and these are
//! served all the same.

use super::super::kit::Kit;
use super::super::steps::{landed, late, row};
use super::{DAY_US, drift, of, unexplained};
use crate::batch::BatchOptions;
use crate::lake::{Commit, CommitOutcome, TableName};

/// Two dates, of which a first run has covered nothing and the second everything; nothing of that is served yet.
async fn not_served() -> Kit {
    let kit = landed(&[row(0, 5, 1), late(row(1, 6, 2)), row(2, DAY_US + 5, 4), late(row(3, DAY_US + 6, 8))], 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    kit.land(&[], 1, 4 * DAY_US).await;
    kit.batch_well().await;
    kit
}

async fn reconcile_unknown(kit: &Kit, unknown_units: u64, moved: u64) {
    let report = kit.reconcile().await;
    let found = (report.drift.unknown_units, report.drift.moved, report.drift.unexplained, report.drift.held_units);
    assert_eq!(found, (unknown_units, moved, 0, 0), "{report:?}");
    let served = kit.served("totals").await;
    assert!(served.len() == 4 && served.values().all(|seen| seen.state == "final"), "{served:?}");
    let total = |start: i64| served[&("1d".to_owned(), start, Some("k".to_owned()))].values.0;
    assert_eq!((total(0), total(DAY_US)), (Some(3), Some(12)), "as batch has them");
    kit.reconcile_again("totals").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_that_was_removed() {
    let kit = not_served().await;
    kit.rewrite("1970-01-02", &[]).await;
    reconcile_unknown(&kit, 2, 2).await;
    let ways = drift(&kit, "totals").await;
    assert_eq!(of(&ways, "1d", 0, 1).unwrap().totals()[1..], [1, 1, 1, 3, 3].map(Some), "the other date");
    assert_eq!(ways.len(), 2, "{ways:?}");
}

/// The day before decides about copies, so both dates are unknown without the first.
#[tokio::test(flavor = "multi_thread")]
async fn the_day_before_was_removed() {
    let kit = not_served().await;
    kit.rewrite("1970-01-01", &[]).await;
    reconcile_unknown(&kit, 4, 0).await;
}

/// As many rows as before, with other values: the stored states are of what they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_date_that_was_rewritten() {
    let kit = not_served().await;
    kit.rewrite("1970-01-02", &[row(2, DAY_US + 5, 5), late(row(3, DAY_US + 6, 9))]).await;
    reconcile_unknown(&kit, 2, 2).await;
    // batch computes from what there is now, and so does drift
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.drift.moved, report.drift.unknown_units, report.drift.unexplained), (2, 0, 0), "{report:?}");
    let ways = drift(&kit, "totals").await;
    assert_eq!(of(&ways, "1d", DAY_US, 2).unwrap().totals(), [12, 5, 5, 5, 14, 14].map(Some));
    kit.reconcile_again("totals").await;
}

/// A window that is covered for the first time after its date was rewritten: the states know nothing of that.
#[tokio::test(flavor = "multi_thread")]
async fn states_of_rewritten_rows_are_not_held_against_them() {
    let kit = landed(&[row(0, 5, 1), row(1, DAY_US + 5, 4)], 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    kit.rewrite("1970-01-02", &[row(1, DAY_US + 5, 5)]).await;
    kit.land(&[], 1, 4 * DAY_US).await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.drift.moved, report.drift.unknown_units, report.drift.unexplained), (0, 0, 0), "{report:?}");
    assert_eq!(kit.served("totals").await[&("1d".to_owned(), DAY_US, Some("k".to_owned()))].values.0, Some(5));
}

/// Units of one date that were computed at different versions are not asked about in one pass.
#[tokio::test(flavor = "multi_thread")]
async fn units_before_and_after_a_rewrite_are_told_apart() {
    let kit = not_served().await;
    kit.rewrite("1970-01-02", &[row(2, DAY_US + 5, 5)]).await;
    let options = BatchOptions { granularities: vec!["1d".parse().unwrap()], ..kit.options() };
    assert!(kit.batch(&options).await.error.is_none());
    let report = kit.reconcile().await;
    let found = (report.drift.unknown_units, report.drift.moved, report.drift.unexplained);
    assert_eq!(found, (1, 2, 0), "{report:?}");
}

/// Another table has other rows: what was served of the old one is where the way begins, and all rows are of the new.
#[tokio::test(flavor = "multi_thread")]
async fn raw_was_made_anew() {
    let kit = not_served().await;
    kit.reconcile().await;
    let before = drift(&kit, "totals").await;
    kit.lake.drop_table(&TableName::new("raw", "events")).await.unwrap();
    reconcile_idle(&kit).await;
    kit.land(&[row(0, 5, 1), late(row(1, 6, 16)), row(2, DAY_US + 5, 4), late(row(3, DAY_US + 6, 8))], 9, 4 * DAY_US)
        .await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    let found = (report.drift.unknown_units, report.drift.moved, report.drift.unexplained);
    assert_eq!(found, (0, 2, 0), "{report:?}");
    let ways = drift(&kit, "totals").await;
    let way = of(&ways, "1d", 0, 2).unwrap();
    assert_eq!(way.totals(), [3, 1, 1, 1, 17, 17].map(Some));
    assert_eq!(way.first_pin, way.pin, "there was no other of this table");
    assert!(before.iter().all(|(key, way)| ways.get(key) == Some(way)), "what was served stays");
}

async fn reconcile_idle(kit: &Kit) {
    let report = kit.reconcile().await;
    assert!(report.is_idle(), "{report:?}");
}

/// Batch has published, and raw is gone before that is served.
#[tokio::test(flavor = "multi_thread")]
async fn raw_is_gone() {
    let kit = not_served().await;
    kit.lake.drop_table(&TableName::new("raw", "events")).await.unwrap();
    reconcile_unknown(&kit, 4, 0).await;
}

/// Without the pin that was served, nobody knows what arrived since; all else is right.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_pin_is_not_there_any_more() {
    let kit = not_served().await;
    kit.reconcile().await;
    // the pins of what is served are gone, those of what comes are not
    let mut pins = kit.lake.open_table(&TableName::new("ops", "pins")).await.unwrap().unwrap();
    let old = pins.live_files().await.unwrap();
    kit.land(&[row(4, 7, 16), late(row(5, 8, 32))], 1, 4 * DAY_US).await;
    kit.batch_well().await;
    let mut commit: Commit = kit.commit();
    commit.removes = old;
    pins.refresh().await.unwrap();
    assert!(matches!(pins.commit(commit).await, CommitOutcome::Committed(_)));
    let report = kit.reconcile().await;
    let found = (report.drift.unknown_units, report.drift.moved, report.drift.unexplained);
    assert_eq!(found, (0, 2, 0), "{report:?}");
    let ways = drift(&kit, "totals").await;
    let way = of(&ways, "1d", 0, 2).unwrap();
    assert_eq!(way.totals(), [3, 17, 17, 17, 51, 51].map(Some), "all rows are of the only pin that is known");
    assert_eq!((unexplained(&ways), &way.first_pin), (0, &way.pin));
}

//! Units that a limit holds back, and how they are published all the same.

use super::super::kit::{Kit, Sql, Windows};
use super::super::steps::{TOTALS, landed, late, row};
use super::definitions::DOUBLED;
use super::{DAY_US, drift, of};
use crate::Class;
use crate::reconcile::DriftCounts;
use rstest::rstest;

/// Two dates: a third of the first is late, and nothing of the second.
async fn two_days() -> Kit {
    let kit = landed(&[row(0, 5, 8), late(row(1, 6, 4)), row(2, DAY_US + 5, 3)], 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    kit.land(&[], 1, 4 * DAY_US).await;
    kit.batch_well().await;
    kit
}

fn dated(windows: &Windows, first: bool) -> Windows {
    windows.iter().filter(|(key, _)| (key.1 < DAY_US) == first).map(|(key, seen)| (key.clone(), seen.clone())).collect()
}

/// A unit that is held back stays as it is, while others go on; accepting publishes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_moved_too_far_waits_to_be_accepted() {
    let mut kit = two_days().await;
    kit.head(|file| file.drift_limit.size = Some(0.4));
    let before = kit.served("totals").await;
    for _ in 0..2 {
        let report = kit.reconcile_on(&kit.lake).await;
        let error = report.error.unwrap();
        assert_eq!(error.class, Class::Limit);
        let expected =
            "unit `totals/15m/1970-01-01`: `events` moved by 100.0 %, and 40.0 % may; 2 units stay as they are served";
        assert_eq!(error.message, expected);
        assert!(error.hint.is_some_and(|hint| hint.contains("--accept-drift")));
        let expected = DriftCounts { moved: 2, held_units: 2, ..DriftCounts::default() };
        assert_eq!(report.drift, expected);
        let served = kit.served("totals").await;
        assert_eq!(dated(&served, true), dated(&before, true), "they stay");
        assert!(dated(&served, false).values().all(|seen| seen.state == "final"), "the other date goes on: {served:?}");
        assert_eq!(
            of(&drift(&kit, "totals").await, "1d", 0, 1).unwrap().total("late"),
            Some(12),
            "it can be looked at"
        );
    }
    let report = kit.reconcile_with(&kit.lake, true).await;
    assert!(report.error.is_none(), "{report:?}");
    assert_eq!((report.drift.moved, report.drift.held_units, report.units.reconciled), (2, 0, 2));
    let served = kit.served("totals").await;
    assert!(served.values().all(|seen| seen.state == "final"), "{served:?}");
    assert_eq!(drift(&kit, "totals").await.len(), 2);
    kit.reconcile_again("totals").await;
}

/// A restatement is measured by what was served: twelve become eighteen, and two events three.
#[rstest]
#[case::not_beyond(0.5, false)]
#[case::beyond(0.49, true)]
#[tokio::test(flavor = "multi_thread")]
async fn the_size_is_a_part_of_what_was_there(#[case] limit: f64, #[case] held: bool) {
    let mut kit = two_days().await;
    kit.reconcile().await;
    kit.head(|file| file.drift_limit.size = Some(limit));
    kit.land(&[late(row(3, 7, 6))], 1, 4 * DAY_US).await;
    kit.batch_well().await;
    let report = kit.reconcile_on(&kit.lake).await;
    assert_eq!((report.error.is_some(), report.drift.held_units > 0), (held, held), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_where_nothing_was_is_more_than_any_limit() {
    let mut kit = landed(&[late(row(0, 5, 8))], 4 * DAY_US).await;
    kit.head(|file| file.drift_limit.size = Some(1e9));
    kit.catch_up().await;
    kit.batch_well().await;
    let report = kit.reconcile_on(&kit.lake).await;
    let message = report.error.unwrap().message;
    assert!(message.contains("moved by more than all there was"), "{message}");
    assert_eq!(report.drift.held_units, 2);
}

/// Drift of a generation that was held back gives way to that of the one that is served in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_unit_is_planned_anew_with_what_came_since() {
    let mut kit = two_days().await;
    kit.head(|file| file.drift_limit.size = Some(0.4));
    assert!(kit.reconcile_on(&kit.lake).await.error.is_some());
    // most of what was late comes on time after all: an event of the same window, and a newer version of batch
    kit.land(&[row(3, 7, 90), row(4, 8, 1)], 1, 4 * DAY_US).await;
    kit.batch_well().await;
    let report = kit.reconcile_on(&kit.lake).await;
    assert!(report.error.is_none(), "{report:?}");
    let ways = drift(&kit, "totals").await;
    assert_eq!(of(&ways, "1d", 0, 1), None, "the generation that was held back was never served: {ways:?}");
    assert_eq!(of(&ways, "1d", 0, 2).unwrap().totals(), [8, 99, 99, 99, 103, 103].map(Some));
    kit.reconcile_again("totals").await;
}

/// A definition that moved too much is taken back: nothing of it was served, so nothing of it is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_definition_that_is_taken_back_leaves_no_drift() {
    let mut kit = two_days().await;
    kit.reconcile().await;
    let before = drift(&kit, "totals").await;
    let doubled = Sql { select: DOUBLED, ..TOTALS };
    for (sql, moved, held_units) in [(doubled, 4, 4), (TOTALS, 0, 0)] {
        kit.batch.define(&[sql]);
        kit.head(|file| file.drift_limit.size = Some(0.4));
        kit.batch_well().await;
        let report = kit.reconcile_on(&kit.lake).await;
        assert_eq!((report.drift.moved, report.drift.held_units), (moved, held_units), "{report:?}");
        assert_eq!(drift(&kit, "totals").await.len(), before.len() + moved as usize);
    }
    assert_eq!(drift(&kit, "totals").await, before);
    kit.reconcile_again("totals").await;
}

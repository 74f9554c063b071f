//! A date and the one after it: ids that are in both, and runs that compute only one of them.

use super::guards::{TOTALS, rows};
use super::kit::{Kit, LATENESS_US, Row};
use super::naive;
use crate::batch::BatchReport;

const DAY_US: i64 = 86_400_000_000;

/// Three days of events, published; then one more is landed, and what it moves is published.
async fn late(id: &str, at_us: i64) -> (BatchReport, Vec<String>) {
    let (kit, mut all) = (Kit::new(&[TOTALS]), rows(0, 30, 10));
    kit.land(&all, 4, 4 * DAY_US).await;
    kit.batch_well().await;
    let event = Row { id: id.into(), at_us, offset: 30, value: Some(1_000), behind_ms: 9_999_999, ..all[0].clone() };
    all.push(event.clone());
    kit.land(&[event], 4, 4 * DAY_US).await;
    let report = kit.batch_well().await;
    let expected = naive::windows(&all, &["6h", "1d"], "UTC", 4 * DAY_US - LATENESS_US, |_| true, |_| true);
    assert_eq!(kit.published("totals").await, expected);
    assert!(kit.batch_well().await.is_idle());
    let moved = kit.generations("totals").await.into_iter().filter(|(_, g)| *g == 2).map(|(unit, _)| unit);
    (report, moved.collect())
}

#[tokio::test]
async fn an_id_of_its_own_moves_its_date_alone() {
    let (report, moved) = late("new", DAY_US + 5).await;
    assert_eq!(moved, ["totals/1d/1970-01-02", "totals/6h/1970-01-02"]);
    // the next date only gets a new pin
    assert_eq!((report.units.computed, report.units.changed, report.units.unchanged), (2, 2, 2), "{report:?}");
}

#[tokio::test]
async fn a_copy_of_the_day_before_is_none_of_its_date() {
    // id-3 lies on the first date, which is not computed again
    let (report, moved) = late("id-3", DAY_US + 5).await;
    // the copy is counted as one in the window, so the row of the window moves
    assert_eq!(moved, ["totals/1d/1970-01-02", "totals/6h/1970-01-02"]);
    assert_eq!((report.units.computed, report.duplicates), (2, 1), "{report:?}");
}

#[tokio::test]
async fn an_id_of_the_day_after_takes_its_event_away_there() {
    // id-13 lies on the second date; the new one comes before it, on the first
    let (report, moved) = late("id-13", 5).await;
    let both = ["totals/1d/1970-01-01", "totals/1d/1970-01-02", "totals/6h/1970-01-01", "totals/6h/1970-01-02"];
    assert_eq!(moved, both);
    assert_eq!((report.units.computed, report.units.unchanged), (4, 0), "{report:?}");
}

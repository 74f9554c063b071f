//! Which step an event belongs to.

use super::super::kit::{Kit, Row, Sql};
use super::super::steps::{TOTALS, landed, late, row};
use super::{DAY_US, HOUR_US, drift, of, unexplained};
use crate::reconcile::DriftCounts;
use jiff::Timestamp;

/// Every event is in the step that its lateness, its copies and its arrival call for, over three generations.
#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_in_the_first_step_that_fits() {
    let copy = Row { repeat: true, ..row(2, 7, 4) };
    let kit = landed(&[row(0, 5, 1), late(row(1, 6, 2)), copy], 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    assert!(drift(&kit, "totals").await.is_empty(), "nothing is final yet");
    kit.land(&[row(3, 2 * HOUR_US, 8)], 1, 3 * HOUR_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!(report.drift, DriftCounts { moved: 1, ..DriftCounts::default() });
    let ways = drift(&kit, "totals").await;
    let first = of(&ways, "15m", 0, 1).unwrap().clone();
    // landing took an event for a repeat that batch counts
    assert_eq!(first.totals(), [Some(1), Some(1), Some(1), Some(1), Some(3), Some(7)]);
    assert_eq!((first.unexplained, ways.len()), (0, 1), "{ways:?}");
    kit.reconcile_again("totals").await;
    // late, and after what was served
    kit.land(&[late(row(4, 9, 16))], 1, 4 * HOUR_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.drift.moved, report.drift.unexplained), (1, 0));
    let ways = drift(&kit, "totals").await;
    assert_eq!(of(&ways, "15m", 0, 1), Some(&first), "what was served stays");
    let second = of(&ways, "15m", 0, 2).unwrap();
    assert_eq!(second.totals(), [Some(7), Some(1), Some(17), Some(17), Some(19), Some(23)]);
    assert_eq!((&second.first_pin, second.unexplained), (&first.first_pin, 0));
    // the day is covered at last; the quarter is restated once more
    kit.land(&[late(row(5, 11, 32))], 1, 2 * DAY_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    let third = of(&ways, "15m", 0, 3).unwrap();
    assert_eq!(third.totals(), [Some(23), Some(1), Some(33), Some(33), Some(51), Some(55)]);
    assert_eq!(third.first_pin, first.first_pin, "it outlives restatements");
    let day = of(&ways, "1d", 0, 1).unwrap();
    assert_eq!(day.totals(), [Some(9), Some(9), Some(9), Some(9), Some(59), Some(63)]);
    assert_eq!(unexplained(&ways), 0);
    kit.reconcile_again("totals").await;
}

/// A window that HAVING takes away, and one that only late events make.
#[tokio::test(flavor = "multi_thread")]
async fn windows_that_come_and_go_have_steps_without_values() {
    let kit = landed(&[row(0, 5, 99), late(row(1, DAY_US + 5, 3)), late(row(2, 6, 100))], DAY_US + 20 * HOUR_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    let gone = of(&ways, "15m", 0, 1).unwrap();
    assert_eq!(gone.totals(), [None, Some(99), Some(99), Some(99), None, None], "HAVING takes it away");
    let come = of(&ways, "15m", DAY_US, 1).unwrap();
    assert_eq!(come.totals(), [None, None, None, None, Some(3), Some(3)]);
    assert_eq!(unexplained(&ways), 0, "{ways:?}");
}

/// A fill that what is first covered has is in `fills`; one that comes later has arrived, until the next restatement.
#[tokio::test(flavor = "multi_thread")]
async fn fills_have_a_step_of_their_own() {
    let kit = landed(&[row(0, 5, 1)], 0).await;
    kit.fill(&[row(100, 6, 2)]).await;
    kit.catch_up().await;
    kit.land(&[row(1, 2 * HOUR_US, 4)], 1, 3 * HOUR_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    let first = of(&ways, "15m", 0, 1).unwrap();
    assert_eq!(first.totals(), [None, Some(1), Some(1), Some(3), Some(3), Some(3)]);
    kit.fill(&[row(101, 7, 8)]).await;
    kit.land(&[late(row(2, 8, 16))], 1, 3 * HOUR_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    let second = of(&ways, "15m", 0, 2).unwrap();
    assert_eq!(second.totals(), [Some(3), Some(1), Some(25), Some(27), Some(27), Some(27)]);
    kit.fill(&[row(102, 9, 32)]).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    let third = of(&ways, "15m", 0, 3).unwrap();
    assert_eq!(third.totals(), [Some(27), Some(1), Some(33), Some(43), Some(59), Some(59)]);
    assert_eq!(third.steps["dedup"].2, 5, "events: {third:?}");
    assert_eq!(unexplained(&ways), 0);
    kit.reconcile_again("totals").await;
}

/// An equal id on the evening before takes the count of an event after midnight: batch's verdict, in `dedup`.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_over_midnight_moves_the_count() {
    let twin = |row: Row| Row { id: "twin".into(), ..row };
    let kit = landed(&[twin(row(0, DAY_US + 5, 1)), row(1, DAY_US + 6, 2)], 3 * DAY_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit.reconcile().await;
    assert!(drift(&kit, "totals").await.is_empty(), "speed had it right");
    kit.land(&[late(twin(row(2, DAY_US - 5, 4)))], 1, 3 * DAY_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    for granularity in ["15m", "1d"] {
        let after = of(&ways, granularity, DAY_US, 2).unwrap();
        assert_eq!(after.totals(), [Some(3), Some(3), Some(3), Some(3), Some(3), Some(2)], "{granularity}");
        assert_eq!(after.steps["dedup"].2, 1);
    }
    let evening = of(&ways, "15m", DAY_US - 15 * 60_000_000, 1).or(of(&ways, "15m", DAY_US - 15 * 60_000_000, 2));
    assert_eq!(evening.unwrap().total("dedup"), Some(4));
    assert_eq!((unexplained(&ways), ways.len()), (0, 4), "{ways:?}");
}

/// Windows of one unit that were first covered under different pins are restated at once: each has a base of its own.
#[tokio::test(flavor = "multi_thread")]
async fn windows_of_one_unit_have_first_pins_of_their_own() {
    let kit = landed(&[row(0, 5, 1), row(1, 2 * HOUR_US, 2)], HOUR_US + HOUR_US / 2).await;
    kit.batch_well().await;
    kit.reconcile().await;
    // on time, and for both windows: after the first was covered, before the second was
    kit.land(&[row(2, 6, 4), row(3, 2 * HOUR_US + 1, 8)], 1, 4 * HOUR_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    kit.land(&[late(row(4, 7, 16)), late(row(5, 2 * HOUR_US + 2, 32))], 1, 4 * HOUR_US).await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.drift.moved, report.drift.unexplained), (2, 0), "{report:?}");
    let ways = drift(&kit, "totals").await;
    let (early, later) = (of(&ways, "15m", 0, 3).unwrap(), of(&ways, "15m", 2 * HOUR_US, 3).unwrap());
    assert_eq!(early.totals(), [Some(5), Some(1), Some(21), Some(21), Some(21), Some(21)]);
    assert_eq!(later.totals(), [Some(10), Some(10), Some(42), Some(42), Some(42), Some(42)]);
    assert_ne!(early.first_pin, later.first_pin);
    assert_eq!(early.first_pin, of(&ways, "15m", 0, 2).unwrap().first_pin);
    kit.reconcile_again("totals").await;
}

/// Days of 23 and 25 hours off UTC, and the weeks and months that hold them.
#[tokio::test(flavor = "multi_thread")]
async fn days_weeks_and_months_of_a_zone() {
    const KYIV: Sql = Sql { windows: "[15m, 1d, 1w, 1mo]", zone: "Europe/Kyiv", ..TOTALS };
    let us = |text: &str| text.parse::<Timestamp>().unwrap().as_microsecond();
    // the clocks go forth at 01:00Z on March 30th, and back at 01:00Z on October 26th
    for (days, week, month, after) in [
        (["2025-03-29T22:00Z", "2025-03-30T21:00Z"], "2025-03-23T22:00Z", "2025-02-28T22:00Z", "2025-04-08T00:00Z"),
        (["2025-10-25T21:00Z", "2025-10-26T22:00Z"], "2025-10-19T21:00Z", "2025-09-30T21:00Z", "2025-11-08T00:00Z"),
    ] {
        let [start, end] = days.map(us);
        let kit = Kit::new(&[KYIV]);
        let rows = [row(0, start, 1), late(row(1, end - 1, 2)), row(2, end, 4), late(row(3, start - 1, 8))];
        kit.land(&rows, 2, us(after)).await;
        kit.catch_up().await;
        kit.batch_well().await;
        let report = kit.reconcile().await;
        assert_eq!(report.drift.unexplained, 0, "{report:?}");
        let ways = drift(&kit, "totals").await;
        let late_of = |granularity: &str, start: i64| {
            let way = of(&ways, granularity, start, 1).unwrap();
            (way.total("base"), way.total("dedup"))
        };
        assert_eq!(late_of("1d", start), (Some(1), Some(3)));
        assert_eq!(late_of("1w", us(week)), (Some(1), Some(11)), "the event at its end is of the next week");
        assert_eq!(late_of("1mo", us(month)), (Some(5), Some(15)));
        assert_eq!(of(&ways, "1d", end, 1), None, "it has not moved");
        kit.land(&[late(row(4, start + HOUR_US, 16))], 1, us(after)).await;
        kit.batch_well().await;
        let report = kit.reconcile().await;
        assert_eq!((report.drift.moved, report.drift.unexplained), (4, 0), "{report:?}");
        assert_eq!(of(&drift(&kit, "totals").await, "1w", us(week), 2).unwrap().total("arrived"), Some(17));
    }
}

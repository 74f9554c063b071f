//! Definitions that change: the step `definition`, and what can be said where an old one cannot be read again.

use super::super::kit::{Kit, Sql};
use super::super::steps::{TOTALS, landed, late, row};
use super::{DAY_US, drift, of, unexplained};
use crate::project;
use std::sync::Arc;
use std::time::Duration;

pub const DOUBLED: &str =
    "SELECT key, sum(value * 2) AS total, max(value) AS greatest FROM events GROUP BY key HAVING max(value) < 100";

/// One date that is final, with a late event; speed has shown it.
async fn one_day() -> Kit {
    let kit = landed(&[row(0, 5, 1), late(row(1, 6, 2))], 3 * DAY_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit.reconcile().await;
    kit
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_is_shown_under_both_definitions() {
    let mut kit = one_day().await;
    // a new column, too: rows of drift that are older lack it
    let select = "SELECT key, sum(value * 2) AS total, max(value) AS greatest, count(*) AS n FROM events GROUP BY key";
    kit.batch.define(&[Sql { select, ..TOTALS }]);
    // batch has not computed anything anew
    kit.land(&[late(row(2, 7, 4))], 1, 3 * DAY_US).await;
    assert!(kit.reconcile().await.is_idle());
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.drift.moved, report.drift.unexplained, report.drift.unknown_units), (2, 0, 0), "{report:?}");
    let ways = drift(&kit, "totals").await;
    for granularity in ["15m", "1d"] {
        assert_eq!(of(&ways, granularity, 0, 1).unwrap().totals()[1..], [1, 1, 1, 3, 3].map(Some));
        let way = of(&ways, granularity, 0, 2).unwrap();
        assert_eq!(way.total("definition"), Some(1), "{way:?}");
        assert_eq!(way.totals(), [3, 2, 10, 10, 14, 14].map(Some));
    }
    kit.reconcile_again("totals").await;
    // the next restatement is under the same definition as what was served
    kit.land(&[late(row(3, 8, 8))], 1, 3 * DAY_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    assert_eq!(of(&ways, "1d", 0, 3).unwrap().total("definition"), None);
    assert_eq!(unexplained(&ways), 0);
}

/// What batch has under the old SQL is explained under the old SQL, whatever the files say now.
#[tokio::test(flavor = "multi_thread")]
async fn batch_under_the_old_definition_is_explained_under_it() {
    let mut kit = one_day().await;
    kit.land(&[late(row(2, 7, 4)), row(3, DAY_US + 5, 1)], 1, 3 * DAY_US).await;
    kit.batch_well().await;
    kit.batch.define(&[Sql { select: DOUBLED, ..TOTALS }]);
    kit.catch_up().await;
    let report = kit.reconcile().await;
    assert_eq!((report.drift.moved, report.drift.unexplained, report.drift.unknown_units), (2, 0, 0), "{report:?}");
    let ways = drift(&kit, "totals").await;
    assert_eq!(of(&ways, "1d", 0, 2).unwrap().totals(), [3, 1, 5, 5, 7, 7].map(Some));
    kit.batch_well().await;
    kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    let way = of(&ways, "1d", 0, 3).unwrap();
    assert_eq!((way.total("definition"), way.totals()), (Some(1), [7, 2, 2, 2, 14, 14].map(Some)));
    let way = of(&ways, "1d", DAY_US, 2).unwrap();
    assert_eq!((way.total("definition"), way.totals()), (Some(1), [1, 2, 2, 2, 2, 2].map(Some)));
    assert_eq!(unexplained(&ways), 0);
}

/// Sizes are no part of a definition: an old one answers for sizes that its file did not have.
#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_came_later_are_explained_under_the_old_definition() {
    let mut kit = Kit::new(&[Sql { windows: "[1d]", ..TOTALS }]);
    kit.land(&[row(0, 5, 1), row(1, 10 * 3_600_000_000, 2)], 1, 3 * DAY_US).await;
    kit.batch_well().await;
    kit.batch.define(&[TOTALS]);
    kit.batch_well().await;
    kit.reconcile().await;
    kit.batch.define(&[Sql { select: DOUBLED, ..TOTALS }]);
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.drift.moved, report.drift.unexplained, report.drift.unknown_units), (3, 0, 0), "{report:?}");
    let ways = drift(&kit, "totals").await;
    for (granularity, start, total) in [("15m", 0, 1), ("15m", 10 * 3_600_000_000, 2), ("1d", 0, 3)] {
        let way = of(&ways, granularity, start, 2).unwrap();
        assert_eq!((way.total("definition"), way.total("base")), (Some(total), Some(2 * total)), "{granularity}");
    }
}

/// What was late is not any more. The old definition cannot be read again: its step is null, and all else is right.
#[tokio::test(flavor = "multi_thread")]
async fn after_another_lateness_the_old_base_is_not_known() {
    let mut kit = one_day().await;
    let mut pipeline = kit.pipeline().as_ref().clone();
    pipeline.lateness += Duration::from_secs(7_200);
    kit.land(&[late(row(2, 7, 4))], 1, 3 * DAY_US).await;
    kit.batch_well().await;
    kit.batch.settings.pipelines = vec![Arc::new(pipeline)];
    // batch's rows are of a definition that is gone: they are served, and nothing is said of their way
    let report = kit.reconcile().await;
    assert_eq!((report.drift.unknown_units, report.drift.moved, report.drift.unexplained), (2, 0, 0), "{report:?}");
    assert_eq!(kit.served("totals").await[&("1d".to_owned(), 0, Some("k".to_owned()))].values.0, Some(7));
    kit.reconcile_again("totals").await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.drift.unknown_units, report.drift.moved, report.drift.unexplained), (0, 2, 0), "{report:?}");
    let way = drift(&kit, "totals").await.remove(&("1d".to_owned(), 0, Some("k".to_owned()), 3)).unwrap();
    // the first pin had two rows, and that they were late is said no more
    assert_eq!((way.total("definition"), way.totals()), (None, [7, 3, 7, 7, 7, 7].map(Some)));
    kit.reconcile_again("totals").await;
}

/// A lookup is kept as its name only: what a definition meant before it changed is not known.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_changed_lookup_the_old_base_is_not_known() {
    let select = "SELECT key, sum(value * rate) AS total, max(value) AS greatest FROM events \
                  LEFT JOIN rates ON rates.code = events.key GROUP BY key";
    let mut kit = Kit::new(&[Sql { select, ..TOTALS }]);
    let rate = |kit: &mut Kit, rate: i64| {
        std::fs::write(kit.path().join("rates.csv"), format!("code,rate\nk,{rate}\n")).unwrap();
        let file = kit.path().join("deltaworks.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        if !text.contains("lookups") {
            std::fs::write(&file, format!("{text}lookups:\n  rates: {{path: rates.csv, key: code}}\n")).unwrap();
        }
        kit.batch.settings = project::load(kit.path(), &|_| None).unwrap();
    };
    rate(&mut kit, 2);
    kit.land(&[row(0, 5, 1), late(row(1, 6, 2))], 1, 3 * DAY_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit.reconcile().await;
    let first = drift(&kit, "totals").await;
    assert_eq!(of(&first, "1d", 0, 1).unwrap().totals()[1..], [2, 2, 2, 6, 6].map(Some));
    rate(&mut kit, 3);
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.drift.moved, report.drift.unexplained, report.drift.unknown_units), (2, 0, 0), "{report:?}");
    let ways = drift(&kit, "totals").await;
    let way = of(&ways, "1d", 0, 2).unwrap();
    assert_eq!((way.total("definition"), way.totals()), (None, [6, 3, 3, 3, 9, 9].map(Some)));
    // under the lookup of before: nothing can be said
    rate(&mut kit, 5);
    kit.land(&[late(row(2, 7, 4))], 1, 3 * DAY_US).await;
    kit.batch_well().await;
    rate(&mut kit, 7);
    let report = kit.reconcile().await;
    assert_eq!(
        (report.drift.unknown_units, report.drift.unexplained, report.drift.held_units),
        (2, 0, 0),
        "{report:?}"
    );
}

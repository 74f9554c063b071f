//! What people ask of a drift table: what moved, and which events did it.

use super::kit::Row;
use super::steps::{landed, late, row};
use crate::reconcile::{ExplainOptions, ShowOptions, explain, show as show_drift};
use deltaworks_core::windows::Instant;
use std::collections::BTreeMap;

const HOUR_US: i64 = 3_600_000_000;

fn options(granularity: &str, at_us: i64, key: Option<&str>) -> ExplainOptions {
    ExplainOptions {
        aggregate: "totals".into(),
        granularity: granularity.parse().unwrap(),
        at: Instant(at_us),
        keys: BTreeMap::from([("key".to_owned(), key.map(str::to_owned))]),
        generation: None,
        limit: 100,
        parallel: 2,
    }
}

/// The events that are listed are those that moved the value, each with its reason, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn the_events_that_moved_a_window_are_listed() {
    let of_others =
        [Row { key: Some("other".into()), ..late(row(8, 8, 64)) }, Row { key: None, ..late(row(9, 8, 65)) }];
    let repeat = Row { repeat: true, ..row(2, 7, 4) };
    let copy = Row { id: "id-0".into(), ..late(row(3, 8, 8)) };
    let kit = landed(&[row(0, 5, 1), late(row(1, 6, 2)), repeat, copy, row(4, HOUR_US, 5)], 3 * HOUR_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit.reconcile().await;
    let told = async |options: &ExplainOptions| {
        let explained = explain(&kit.settings, options).await.unwrap();
        let events = explained.events.iter().map(|e| (e.step, e.offset, e.reason.clone())).collect::<Vec<_>>();
        (explained.generation, explained.unexplained, events)
    };
    let late_by = "1h 1ms behind, and late after 1h".replace(" 1ms", "");
    let first = vec![
        ("late", 1, late_by.clone()),
        ("late", 3, late_by.clone()),
        ("dedup", 2, "landing took it for a repeat, and it is none: counted".to_owned()),
        ("dedup", 3, "a copy of an event that counts: left out".to_owned()),
    ];
    assert_eq!(told(&options("15m", 14 * 60_000_000, Some("k"))).await, (1, 0, first.clone()));
    kit.land(&[late(row(7, 9, 16))], 1, 4 * HOUR_US).await;
    kit.land(&of_others, 1, 4 * HOUR_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let mut second = first.clone();
    second.insert(0, ("arrived", 7, format!("landed after it was served; {late_by}")));
    assert_eq!(told(&options("15m", 0, Some("k"))).await, (2, 0, second));
    assert_eq!(told(&ExplainOptions { generation: Some(1), ..options("15m", 0, Some("k")) }).await, (1, 0, first));
    let (_, _, null) = told(&options("15m", 0, None)).await;
    assert_eq!(null.iter().map(|event| event.1).collect::<Vec<_>>(), [9]);
    let some = explain(&kit.settings, &ExplainOptions { limit: 2, ..options("15m", 0, Some("k")) }).await.unwrap();
    assert_eq!((some.events.len(), some.more), (2, true));
    for (wrong, message) in [
        (options("15m", HOUR_US, Some("k")), "the window 15m/1970-01-01T01:00:00Z of that key has no drift"),
        (options("15m", 0, Some("nobody")), "the window 15m/1970-01-01T00:00:00Z of that key has no drift"),
        (options("1h", 0, Some("k")), "`totals` has no windows of `1h`"),
        (
            ExplainOptions { keys: BTreeMap::new(), ..options("15m", 0, None) },
            "`totals` is grouped by other keys than those given",
        ),
        (ExplainOptions { aggregate: "other".into(), ..options("15m", 0, None) }, "there is no aggregate `other`"),
    ] {
        let error = explain(&kit.settings, &wrong).await.unwrap_err();
        assert_eq!((error.class, error.message.as_str()), (crate::Class::User, message));
    }
    let show = |by: Option<&str>| ShowOptions {
        aggregate: "totals".into(),
        since: None,
        by: by.map(str::to_owned),
        limit: 50,
    };
    let rows = |options: ShowOptions| {
        let settings = &kit.settings;
        async move {
            let mut rows = show_drift(settings, &options).await.unwrap();
            let mut all = Vec::new();
            while let Some(batch) = rows.next().await.unwrap() {
                all.push(batch);
            }
            arrow::util::pretty::pretty_format_batches(&all).unwrap().to_string()
        }
    };
    insta::assert_snapshot!(rows(show(None)).await);
    insta::assert_snapshot!(rows(show(Some("key"))).await);
    let later = ShowOptions { since: Some(Instant(1)), ..show(Some("date")) };
    assert!(!rows(later).await.contains("1970"), "windows that start before are left out");
    assert!(
        show_drift(&kit.settings, &show(Some("x"))).await.unwrap_err().hint.unwrap().contains("key, date, granularity")
    );
}

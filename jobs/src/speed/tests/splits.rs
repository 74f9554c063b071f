//! However rows are cut into commits, whoever takes them in, and however often it is begun again: the same bits.

use super::kit::{ALL, Kit, Row, Windows, ended, hand_over, rows_of, some_rows};
use crate::speed::{Anew, Health};
use deltaworks_core::place::Offset;
use rstest::rstest;

fn parts(rows: &[Row], size: usize) -> Vec<Vec<Row>> {
    rows.chunks(size).map(<[Row]>::to_vec).collect()
}

async fn from_one_commit(rows: &[Row]) -> Windows {
    let kit = Kit::new(ALL);
    kit.stream(&parts(rows, rows.len())).await;
    let windows = kit.windows().await;
    assert!(rows_of(&windows) > 5);
    windows
}

#[rstest]
#[case(1)]
#[case(7)]
#[case(50)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_of_any_size_give_the_same_bits(#[case] size: usize) {
    let rows = some_rows(if size == 1 { 24 } else { 120 });
    let kit = Kit::new(ALL);
    let report = kit.stream(&parts(&rows, size)).await;
    assert_eq!((report.health, report.failures), (Health::Live, 0), "{report:?}");
    assert_eq!(kit.windows().await, from_one_commit(&rows).await);
    let counted = rows.iter().filter(|r| r.counts()).count();
    let late = rows.iter().filter(|r| r.is_late()).count();
    let repeats = rows.iter().filter(|r| r.repeat && !r.is_late()).count();
    assert!(late > 0 && repeats > 0);
    let counts = report.counts;
    assert_eq!((counts.events, counts.late, counts.repeats), (counted as i64, late as i64, repeats as i64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_do_not_matter_where_the_place_orders_nothing() {
    let select = "SELECT key, count(*) AS rows, sum(x) AS sum_x, avg(x) AS avg_x, stddev(x) AS dev, median(x) AS middle, \
                  count(DISTINCT n) AS kinds FROM events GROUP BY key";
    let rows = some_rows(90);
    let mut alone = rows.clone();
    for (offset, row) in (0..).zip(&mut alone) {
        (row.partition, row.offset) = (0, offset);
    }
    let (two, one) = (Kit::new(select), Kit::new(select));
    two.stream(&parts(&rows, 30)).await;
    one.stream(&parts(&alone, 40)).await;
    assert_eq!(two.windows().await, one.windows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_dropped_is_made_anew_with_the_same_bits() {
    let rows = some_rows(100);
    let kit = Kit::new(ALL);
    kit.stream(&parts(&rows, 20)).await;
    let before = (kit.windows().await, kit.table().await.progress());
    std::fs::remove_dir_all(kit.path()).unwrap();
    let report = kit.catch_up(false).await;
    let done = &report.aggregates["a"];
    assert_eq!((done.anew, done.offsets), (Some(Anew::Missing), 100));
    assert_eq!((kit.windows().await, kit.table().await.progress()), before);
    let again = kit.catch_up(false).await;
    assert_eq!((again.aggregates["a"].anew, again.aggregates["a"].offsets), (None, 0));
    let states = kit.states().await;
    let asked = kit.catch_up(true).await;
    assert_eq!(asked.aggregates["a"].anew, Some(Anew::Asked));
    assert_eq!((kit.windows().await, kit.table().await.progress()), before);
    assert_eq!(kit.states().await, states, "one commit, one state per window, key and partition");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_dropped_while_a_stream_runs_comes_back() {
    let rows = some_rows(90);
    let kit = Kit::new(ALL);
    let live = kit.live().await;
    for part in parts(&rows, 30) {
        hand_over(&live, kit.land(&part).await);
        let mut waited = 0;
        while live.status().reports()["a"].counts.events + live.status().reports()["a"].counts.late == 0 && waited < 100
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            waited += 1;
        }
        if part[0] == rows[0] {
            std::fs::remove_dir_all(kit.path()).unwrap();
        }
    }
    let report = ended(live).await;
    assert_eq!(report.health, Health::Live, "{report:?}");
    assert_eq!(kit.windows().await, from_one_commit(&rows).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_meaning_replaces_everything() {
    let rows = some_rows(60);
    let mut kit = Kit::new(ALL);
    kit.stream(&parts(&rows, 20)).await;
    let id = kit.table().await.table.id().to_owned();
    let select = "SELECT key, max(n) AS most FROM events WHERE flag GROUP BY key";
    kit.define("[5m, 1h]", select);
    assert!(!kit.table().await.is_usable(kit.raw().await.id()));
    // a stream that starts finds it and makes it anew, rows that land meanwhile included
    let report = kit.stream(&parts(&some_rows(80)[60..], 20)).await;
    assert_eq!((report.health, report.failures), (Health::Live, 0), "{report:?}");
    assert_eq!(kit.table().await.table.id(), id, "no reader lost its table");
    let mut fresh = Kit::new(ALL);
    fresh.define("[5m, 1h]", select);
    fresh.stream(&parts(&some_rows(80), 80)).await;
    assert_eq!(kit.windows().await, fresh.windows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_the_old_meaning_yields_to_the_new_one() {
    let rows = some_rows(60);
    let mut kit = Kit::new(ALL);
    let old = kit.live().await;
    hand_over(&old, kit.land(&rows[..20]).await);
    while old.status().reports()["a"].commits == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    kit.define("[5m, 1h]", "SELECT key, max(n) AS most FROM events GROUP BY key");
    kit.catch_up(false).await;
    hand_over(&old, kit.land(&rows[20..]).await);
    let report = ended(old).await;
    assert_eq!((report.health, report.failures), (Health::Degraded, 1), "{report:?}");
    assert!(report.why.is_some_and(|why| why.contains("another definition")));
    assert_eq!(kit.catch_up(false).await.aggregates["a"].anew, None, "it was left alone");
    let mut right = Kit::new(ALL);
    right.define("[5m, 1h]", "SELECT key, max(n) AS most FROM events GROUP BY key");
    right.stream(&[rows]).await;
    assert_eq!(kit.windows().await, right.windows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raw_table_that_was_made_anew_replaces_everything() {
    let kit = Kit::new(ALL);
    kit.stream(&parts(&some_rows(60), 20)).await;
    kit.lake.drop_table(&crate::land::tables::raw_name(kit.pipeline())).await.unwrap();
    let rows: Vec<Row> = some_rows(40).into_iter().filter(|r| r.partition == 1).collect();
    kit.land(&rows).await;
    let report = kit.catch_up(false).await;
    assert_eq!(report.aggregates["a"].anew, Some(Anew::OtherTable));
    assert_eq!(kit.table().await.stored().next_of("events", 0), Offset(0), "nothing of it is in");
    assert_eq!(kit.windows().await, from_one_commit(&rows).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_made_anew_goes_on() {
    let rows = some_rows(40);
    let kit = Kit::new("SELECT key, count(*) AS rows, sum(n) AS total FROM events GROUP BY key");
    let live = kit.live().await;
    for topic in ["events", "events#1"] {
        hand_over(&live, kit.land_as(topic, &rows).await);
    }
    let report = ended(live).await;
    assert_eq!(report.failures, 0, "{report:?}");
    let (streamed, progress) = (kit.windows().await, kit.table().await.progress());
    assert_eq!(progress.keys().collect::<Vec<_>>(), ["events", "events#1"]);
    kit.catch_up(true).await;
    assert_eq!((kit.windows().await, kit.table().await.progress()), (streamed, progress));
    assert_eq!(report.counts.events, 2 * rows.iter().filter(|r| r.counts()).count() as i64);
}

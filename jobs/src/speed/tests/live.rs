//! What fails here degrades an aggregate, is told once, and is made good from raw; landing hears nothing of it.

use super::kit::{ALL, Kit, ended, hand_over, some_rows};
use crate::engine::aggregate::is_out_of_memory;
use crate::lake::faults::{Fault, Script, commits_of, data_files_of};
use crate::speed::Health;
use futures::StreamExt;
use rstest::rstest;
use std::time::Duration;

/// Memory of a process that has too little of it.
const SMALL: usize = 4 << 20;

#[rstest]
#[case::commits(Fault::DropPut, true)]
#[case::files(Fault::DropPut, false)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_speed_degrades_it_until_it_is_back(#[case] fault: Fault, #[case] commits: bool) {
    let kit = Kit::new(ALL);
    let rows = some_rows(90);
    kit.stream(&[rows[..30].to_vec()]).await;
    let mut script = Script::new();
    // a commit is tried 20 times, a file 4 times
    let count = if commits {
        script.add(fault, commits_of("speed/a"), 0, 25)
    } else {
        script.add(fault, data_files_of("speed/a"), 0, 6)
    };
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let live = kit.live_on(&faulty).await;
    hand_over(&live, kit.land(&rows[30..60]).await);
    let status = live.status();
    let degraded = async {
        while status.reports()["a"].failures == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), degraded).await.expect("it says that it failed");
    // what is handed over meanwhile is never waited for
    let begun = std::time::Instant::now();
    hand_over(&live, kit.land(&rows[60..]).await);
    assert!(begun.elapsed() < Duration::from_secs(5));
    let report = ended(live).await;
    assert!(count.fired() > 0);
    assert_eq!((report.health, report.why.is_none()), (Health::Live, true), "{report:?}");
    assert!(report.caught_up > 0);
    let right = Kit::new(ALL);
    right.stream(&[rows]).await;
    assert_eq!(kit.windows().await, right.windows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stays_away_leaves_it_degraded() {
    let kit = Kit::new(ALL);
    let rows = some_rows(30);
    let mut script = Script::new();
    let count = script.add(Fault::FailList, |path| path.as_ref().contains("speed/a"), 0, usize::MAX);
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let live = kit.live_on(&faulty).await;
    hand_over(&live, kit.land(&rows).await);
    let report = ended(live).await;
    assert!(count.fired() > 0);
    assert_eq!((report.health, report.failures), (Health::Degraded, 1), "told once: {report:?}");
    assert!(report.why.is_some_and(|why| why.contains("speed.a")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_rows_than_there_is_room_for_come_from_raw() {
    let mut kit = Kit::new(ALL);
    kit.settings.memory_bytes = 64 << 20;
    let rows = some_rows(60);
    let live = kit.live().await;
    let tap = live.taps().of["events"].clone();
    let room = tap.room_bytes();
    assert!(room > 0 && room <= (64 << 20) / 8);
    let mut landed = kit.land(&rows).await;
    // the same rows a hundred thousand times are too much, and are not looked at
    let batch = landed.rows.as_ref().unwrap()[0].clone();
    let copies = room / batch.get_array_memory_size() + 1;
    landed.rows = Some(vec![batch; copies]);
    hand_over(&live, landed);
    let (reported, room) = (tap.columns().to_vec(), tap.room_bytes());
    assert!(reported.iter().all(|c| c != "id"), "columns that nobody needs: {reported:?}");
    assert_eq!(room, tap.room_bytes(), "nothing of it waits");
    drop(tap);
    let report = ended(live).await;
    assert_eq!((report.health, report.failures, report.caught_up), (Health::Live, 0, 1), "{report:?}");
    let right = Kit::new(ALL);
    right.stream(&[rows]).await;
    assert_eq!(kit.windows().await, right.windows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_is_too_small_for_all_rows_of_a_commit_is_enough_for_some() {
    let mut kit = Kit::new(ALL);
    let (rows, enough) = (some_rows(3_000), kit.settings.memory_bytes);
    let landed = kit.land(&rows).await;
    // what of these the speed layer of a stream gives to one computation
    kit.settings.memory_bytes = SMALL / 8;
    let all = landed.rows.clone().unwrap().into_iter().map(Ok);
    let error = kit.definition().await.landed(vec![futures::stream::iter(all).boxed()]).await.unwrap_err();
    assert!(is_out_of_memory(&error), "{error:?}");
    kit.settings.memory_bytes = SMALL;
    let live = kit.live().await;
    hand_over(&live, landed);
    let report = ended(live).await;
    assert_eq!((report.health, report.failures), (Health::Live, 0), "{report:?}");
    kit.settings.memory_bytes = enough;
    let right = Kit::new(ALL);
    right.stream(&[rows]).await;
    assert_eq!(kit.windows().await, right.windows().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_that_is_wrong_is_degraded_and_one_without_speed_is_left_alone() {
    let wrong = Kit::new("SELECT key, no_such_function(n) AS x FROM events GROUP BY key");
    let live = wrong.live().await;
    assert!(live.taps().of.is_empty());
    let report = ended(live).await;
    assert_eq!(report.health, Health::Degraded);
    assert!(report.why.is_some_and(|why| why.contains("a.sql")));
    let mut none = Kit::new("SELECT key, count(*) AS rows FROM events GROUP BY key");
    none.define("[1h]\n-- speed: false", "SELECT key, count(*) AS rows FROM events GROUP BY key");
    assert!(!none.settings.aggregates[0].speed);
    let live = none.live().await;
    assert!(live.taps().of.is_empty() && live.taps().memory_bytes == 0);
    assert!(live.end().await.is_empty());
    assert!(none.catch_up(false).await.aggregates.is_empty());
}

//! Reconcile within a stream: on a timer, once more at the end, and in nobody's way.

use super::steps::{landed, row};
use crate::lake::faults::{Fault, Script, commits_of};
use crate::reconcile::Live;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lands_is_served_by_the_timer_and_at_the_end() {
    let mut kit = landed(&[row(0, 5, 1)], 0).await;
    kit.batch.settings.served_every = Some(Duration::from_millis(50));
    let live = Live::start_on(&kit.lake, &kit.settings, &kit.settings.pipelines, "run", &CancellationToken::new());
    kit.catch_up().await;
    while kit.served("totals").await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    kit.land(&[row(1, 6, 2)], 1, 0).await;
    kit.catch_up().await;
    let report = live.end().await.unwrap();
    assert!(report.passes > 1 && report.failures == 0 && report.why.is_none(), "{report:?}");
    let served = kit.served("totals").await;
    assert!(served.values().all(|seen| seen.values.2 == 2 && seen.state == "provisional"), "{served:?}");
    kit.reconcile_again("totals").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_that_fails_is_told_and_the_next_one_makes_it_good() {
    let mut kit = landed(&[row(0, 5, 1)], 0).await;
    kit.batch.settings.served_every = Some(Duration::from_millis(50));
    kit.catch_up().await;
    let mut script = Script::new();
    let failing = script.add(Fault::FailRead, |path| path.as_ref().contains("raw/events/_delta_log"), 0, 3);
    script.add(Fault::LoseReply, commits_of("served/totals"), 0, 1);
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let live = Live::start_on(&faulty, &kit.settings, &kit.settings.pipelines, "run", &CancellationToken::new());
    let status = live.status();
    while status.report().passes == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let report = live.end().await.unwrap();
    assert!(failing.fired() > 0 && report.failures > 0 && report.why.is_none(), "{report:?}");
    assert_eq!(kit.served("totals").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_off_unless_asked_for_and_ends_when_told_to() {
    let mut kit = landed(&[row(0, 5, 1)], 0).await;
    let stop = CancellationToken::new();
    let live = Live::start_on(&kit.lake, &kit.settings, &kit.settings.pipelines, "run", &stop);
    assert!(live.end().await.is_none());
    kit.batch.settings.served_every = Some(Duration::from_secs(3_600));
    let mut script = Script::new();
    // the last pass hangs
    script.add(Fault::DelayPut(Duration::from_secs(60)), commits_of("served/totals"), 0, usize::MAX);
    let slow = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    kit.catch_up().await;
    let live = Live::start_on(&slow, &kit.settings, &kit.settings.pipelines, "run", &stop);
    let began = std::time::Instant::now();
    stop.cancel();
    let report = live.end().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{report:?}");
    assert_eq!(report.passes, 0);
}

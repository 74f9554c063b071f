//! Interrupted and resumed, run twice, by two at once, beside a stream, over a store that stumbles.

use super::kit::{Kit, line, lines};
use crate::backfill::watched::items_done;
use crate::error::Class;
use crate::lake::Lake;
use crate::lake::faults::{Fault, Script, commits_of};
use deltaworks_core::place::Offset;
use deltaworks_core::progress::{AppIds, Progress};
use rstest::rstest;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio_util::sync::CancellationToken;

/// One huge file among tiny ones; parts of 40 rows.
async fn some(kit: &Kit) -> (crate::backfill::files::FilesPlan, usize) {
    for n in 0..30 {
        kit.file(&format!("a{n:02}.jsonl"), lines(n * 3..n * 3 + 3));
    }
    kit.file("b.jsonl", lines(1_000..1_500));
    kit.file("c.jsonl", line(2_000) + "{\n");
    (kit.plan().await.unwrap(), 591)
}

const SMALL: &str = "    commit: {rows: 40}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_files_share_a_commit_and_a_huge_one_has_several() {
    let kit = Kit::with(SMALL);
    let (plan, rows) = some(&kit).await;
    let report = kit.run("x", &plan).await;
    assert!(report.error.is_none() && report.is_done(), "{report:?}");
    assert_eq!((report.landed, report.rejected, kit.count().await), (rows as u64, 1, rows));
    // a batch of rows is the least that a part has
    assert!((3..12).contains(&report.commits), "{report:?}");
    assert_eq!(items_done(&kit.lake, &kit.pipeline().name, "x").await.unwrap(), 32);
    kit.prove().await;
    let version = kit.lake.open_table(&crate::land::tables::raw_name(kit.pipeline())).await.unwrap().unwrap().version();
    let again = kit.run("x", &plan).await;
    assert!(again.error.is_none() && again.is_done(), "{again:?}");
    assert_eq!((again.landed, again.already, again.rejected, again.commits), (0, 0, 0, 0), "no file is read again");
    let now = kit.lake.open_table(&crate::land::tables::raw_name(kit.pipeline())).await.unwrap().unwrap().version();
    assert_eq!(now, version);
    // another backfill of the same files reads them, and adds nothing
    let other = kit.run("y", &plan).await;
    assert_eq!((other.landed, other.already, other.rejected), (0, rows as u64, 0));
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_add_nothing_twice() {
    let kit = Kit::with(SMALL);
    let (plan, rows) = some(&kit).await;
    let (a, b, c) = tokio::join!(kit.run("x", &plan), kit.run("x", &plan), kit.run("y", &plan));
    for report in [&a, &b, &c] {
        assert!(report.error.is_none() && report.is_done(), "{report:?}");
    }
    assert_eq!(a.landed + b.landed + c.landed, rows as u64);
    assert_eq!(a.rejected + b.rejected + c.rejected, 1);
    assert_eq!((kit.count().await, kit.rejects().await.len()), (rows, 1));
    kit.prove().await;
}

#[rstest]
#[case::lost_reply(Fault::LoseReply, "raw/events")]
#[case::never_sent(Fault::DropPut, "raw/events")]
#[case::taken(Fault::AnswerTaken, "raw/events")]
#[case::rejects_lost(Fault::LoseReply, "rejects/events")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer(#[case] fault: Fault, #[case] table: &'static str) {
    let kit = Kit::with(SMALL);
    let (plan, rows) = some(&kit).await;
    let mut script = Script::new();
    // the first commits make the tables
    let count = script.add(fault, commits_of(table), 1, 2);
    let lake = Lake::open(&kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let report = kit.run_on(&lake, "x", &plan, &CancellationToken::new()).await;
    assert!(report.error.is_none() && report.is_done(), "{report:?}");
    assert!(count.fired() > 0);
    assert_eq!((report.landed, kit.count().await, kit.rejects().await.len()), (rows as u64, rows, 1));
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_listings_that_fail_are_repeated() {
    let kit = Kit::with(SMALL);
    let (plan, rows) = some(&kit).await;
    let mut script = Script::new();
    let reads = script.add(Fault::FailRead, |path| path.as_ref().ends_with("b.jsonl"), 0, 3);
    let lists = script.add(Fault::FailList, |path| path.as_ref().ends_with("/in"), 0, 2);
    let lake = Lake::open(&kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let (from, reading) = (["in".to_owned()], kit.reading());
    let listed = crate::backfill::files::plan(&lake, &kit.settings, kit.pipeline(), &from, &reading, &[]);
    assert_eq!(listed.await.unwrap(), plan);
    let report = kit.run_on(&lake, "x", &plan, &CancellationToken::new()).await;
    assert!(report.error.is_none() && report.is_done(), "{report:?}");
    assert_eq!((reads.fired(), lists.fired(), kit.count().await), (3, 2, rows));
    // one that fails for good ends the run, and what was committed stays
    let mut script = Script::new();
    let reads = script.add(Fault::FailRead, |path| path.as_ref().ends_with("c.jsonl"), 0, usize::MAX);
    let lake = Lake::open(&kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let report = kit.run_on(&lake, "z", &plan, &CancellationToken::new()).await;
    assert_eq!(report.error.as_ref().unwrap().class, Class::Outside, "{report:?}");
    assert!(reads.fired() > 3);
    assert_eq!((report.files_done, report.already), (31, 590));
    assert!(kit.run("z", &plan).await.is_done());
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_stopped_goes_on_later() {
    let kit = Kit::with(SMALL);
    let (plan, rows) = some(&kit).await;
    let (mut runs, mut landed) = (0, 0);
    loop {
        runs += 1;
        // stopped at the next commit, over and over
        let (stop, commits) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut script = Script::new();
        let (stopper, seen) = (stop.clone(), commits.clone());
        script.add(
            Fault::FailRead,
            move |path| {
                let is_commit = path.as_ref().contains("raw/events/_delta_log") && path.as_ref().ends_with(".json");
                if is_commit && seen.fetch_add(1, SeqCst) > 3 {
                    stopper.cancel();
                }
                false
            },
            0,
            0,
        );
        let lake = Lake::open(&kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
        let report = kit.run_on(&lake, "x", &plan, &stop).await;
        assert!(report.error.is_none(), "{report:?}");
        landed += report.landed;
        if report.is_done() {
            break;
        }
        assert!(report.stopped && runs < 100, "{report:?}");
        if runs % 2 == 0 {
            let report = kit.run("x", &plan).await;
            landed += report.landed;
            break;
        }
    }
    assert_eq!((landed, kit.count().await), (rows as u64, rows));
    assert!(runs > 1, "it was never stopped");
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_stream_that_commits() {
    let kit = Kit::with(SMALL);
    let (plan, rows) = some(&kit).await;
    let mut raw = kit.lake.ensure_table(&crate::land::tables::raw_table(kit.pipeline())).await.unwrap();
    let stream = async {
        let ids = AppIds::new("events");
        for next in 1..40 {
            let identity = deltaworks_core::commit_info::Identity { run_id: "stream".into(), sequence: next as u64 };
            loop {
                let mut commit = crate::lake::Commit::new("WRITE", &identity).unwrap();
                let at = Progress { next: Offset(next), frontier_ms: None, reached_ms: None, seen_ms: None };
                commit.txns = ids.write("events", 0, &at);
                if let crate::lake::CommitOutcome::Committed(_) = raw.commit(commit).await {
                    break;
                }
                raw.refresh().await.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let (report, ()) = tokio::join!(kit.run("x", &plan), stream);
    assert!(report.error.is_none() && report.is_done(), "{report:?}");
    assert_eq!((report.landed, kit.count().await), (rows as u64, rows));
    raw.refresh().await.unwrap();
    assert_eq!(raw.txns()["deltaworks/events/events/0/next"], 39, "a fill never moves `next`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejects_of_before_land_when_the_contract_is_mended() {
    let kit = Kit::new();
    kit.file("a.jsonl", "{\"id\":\"a\",\"at\":\"2026-01-02T00:00:00Z\",\"n\":2000000000000000000}\n");
    let plan = kit.plan().await.unwrap();
    let report = kit.run("x", &plan).await;
    assert_eq!((report.landed, report.rejected), (0, 1));
    let mut mended = Kit::new();
    let mut pipeline = (**kit.pipeline()).clone();
    let mut contract = (*pipeline.contract).clone();
    contract.columns[2].rules.maximum = None;
    pipeline.contract = Arc::new(contract);
    mended.settings.pipelines[0] = Arc::new(pipeline);
    let report = mended.run_on(&kit.lake, "y", &plan, &CancellationToken::new()).await;
    assert_eq!((report.landed, report.rejected), (1, 0), "{report:?}");
    assert_eq!(kit.count().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_rejects_end_the_run() {
    let kit = Kit::with("    rejects: {limit: 10}\n    commit: {rows: 40}\n");
    kit.file("a.jsonl", lines(0..3) + &"{\n".repeat(11));
    kit.file("b.jsonl", lines(3..20_000));
    let plan = kit.plan().await.unwrap();
    let report = kit.run("x", &plan).await;
    assert_eq!(report.error.as_ref().unwrap().class, Class::Limit, "{report:?}");
    assert!(report.rejected == 11 && !report.is_done(), "{report:?}");
}

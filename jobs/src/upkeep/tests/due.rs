//! What is due for a project, and what of it cannot be done.

use super::forget::reject;
use super::retain::{day, proved, row, served};
use super::{DAY_US, live};
use crate::clock::Clock;
use crate::lake::Lake;
use crate::lake::TableName;
use crate::lake::faults::{Fault, Script};
use crate::lake::{Commit, CommitOutcome};
use crate::prove::{ProveOptions, Verdict, prove_on};
use crate::reconcile::tests::kit::{Kit, LATENESS_US};
use crate::upkeep::{Step, UpkeepOptions, UpkeepReport, plan_upkeep, upkeep_on};
use deltaworks_core::commit_info::{Identity, PartitionEntry, RawCommit};
use deltaworks_core::place::Offset;
use deltaworks_core::progress::{AppIds, Progress};
use deltaworks_core::tally::{Fate, Tally};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// 1970-01-11, the retention of the rejects being 30 days.
const NOW_MS: i64 = 10 * 86_400_000;

fn options() -> UpkeepOptions {
    UpkeepOptions { run_id: "upkeep".to_owned(), older_than: Duration::from_secs(7 * 86_400), skip: BTreeSet::new() }
}

async fn kept_on(kit: &Kit, lake: &Lake) -> UpkeepReport {
    upkeep_on(lake, &kit.settings, &options(), NOW_MS, &CancellationToken::new()).await
}

/// A retention of eight days: the first two dates are beyond it.
async fn due() -> Kit {
    let mut kit = served().await;
    let pipeline = Arc::make_mut(&mut kit.batch.settings.pipelines[0]);
    Arc::make_mut(&mut pipeline.contract).retention_days = Some(8);
    // many small files in the fourth day
    for n in 30..50 {
        kit.land(&[row(n, 3 * DAY_US + n)], 1, 5 * DAY_US + LATENESS_US).await;
    }
    kit.batch_well().await;
    kit.reconcile().await;
    kit
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_due_is_done_and_then_nothing_is() {
    let kit = due().await;
    let version = kit.raw().await.version();
    let plan = plan_upkeep(&kit.settings, &options(), NOW_MS).await.unwrap();
    assert_eq!(plan.retain.iter().map(|t| (t.table.as_str(), t.dates.len())).collect::<Vec<_>>(), [("raw.events", 2)]);
    assert_eq!(plan.compact.iter().map(|d| d.date.clone().unwrap()).collect::<Vec<_>>(), [day(4).to_string()]);
    assert!(plan.checkpoint.iter().any(|table| table.table == "raw.events"), "{plan:?}");
    assert_eq!(kit.raw().await.version(), version, "a plan changes nothing");
    let report = kept_on(&kit, &kit.lake).await;
    assert!(report.error.is_none() && report.not_done.is_empty(), "{report:?}");
    assert_eq!((report.retain[0].dates.len(), report.compact.len()), (2, 1));
    let (raw, files) = live(&kit.lake).await;
    assert_eq!(raw.version(), version + 2);
    assert_eq!(
        raw.last_checkpoint().await.unwrap().map(|last| last.version),
        Some(raw.version()),
        "after the commits of this run"
    );
    let of_fourth = files.iter().filter(|f| f.partition_values["event_date"] == Some(day(4).to_string())).count();
    assert_eq!(of_fourth, 1);
    proved(&kit).await;
    assert!(kept_on(&kit, &kit.lake).await.is_idle());
    assert!(kit.batch_well().await.is_idle());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_go_holds_up_nothing_else() {
    let kit = due().await;
    // a late row makes the first window one to be computed
    kit.land(&[row(50, 5)], 1, 5 * DAY_US + LATENESS_US).await;
    let report = kept_on(&kit, &kit.lake).await;
    let error = report.error.as_ref().expect("a part is not done");
    assert_eq!(error.class.code(), 4, "{error}");
    assert!(error.message.contains("retain of `raw.events`"), "{error}");
    assert_eq!((report.not_done.len(), report.compact.len()), (1, 1), "{report:?}");
    assert!(!report.retain[0].refused.is_empty() && report.retain[0].version.is_none());
    kit.batch_well().await;
    kit.reconcile().await;
    let report = kept_on(&kit, &kit.lake).await;
    assert!(report.error.is_none() && report.retain[0].version.is_some(), "{report:?}");
    proved(&kit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_for_one_table_holds_up_no_other() {
    let kit = due().await;
    let mut script = Script::new();
    let count = script.add(Fault::FailRead, |path| path.as_ref().contains("event_date=1970-01-04"), 0, usize::MAX);
    let faulty = Lake::open(&kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let report = kept_on(&kit, &faulty).await;
    assert!(count.fired() > 0);
    assert_eq!(
        report.not_done.iter().map(|n| (n.step, n.table.as_str())).collect::<Vec<_>>(),
        [(Step::Compact, "raw.events")]
    );
    assert_eq!(report.error.as_ref().map(|e| e.class.code()), Some(4));
    assert!(report.retain[0].version.is_some() && !report.checkpoint.is_empty(), "{report:?}");
    assert_eq!(kept_on(&kit, &kit.lake).await.compact.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_are_left_out_are_left_to_others() {
    let kit = due().await;
    let version = kit.raw().await.version();
    let all = [Step::Retain, Step::Compact, Step::Checkpoint, Step::Vacuum];
    let skip = |steps: &[Step]| UpkeepOptions { skip: steps.iter().copied().collect(), ..options() };
    let stop = CancellationToken::new();
    let report = upkeep_on(&kit.lake, &kit.settings, &skip(&all), NOW_MS, &stop).await;
    assert!(report.is_idle() && kit.raw().await.version() == version, "{report:?}");
    let plan = plan_upkeep(&kit.settings, &skip(&all[..1]), NOW_MS).await.unwrap();
    assert_eq!((plan.retain.len(), plan.compact.len()), (0, 1), "{plan:?}");
    let report = upkeep_on(&kit.lake, &kit.settings, &skip(&all[..1]), NOW_MS, &stop).await;
    assert_eq!((report.retain.len(), report.compact.len()), (0, 1), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_have_a_retention_of_their_own() {
    let kit = due().await;
    reject(&kit, &["{", "}"]).await;
    let forty_days = 40 * 86_400_000;
    let stop = CancellationToken::new();
    let report = upkeep_on(&kit.lake, &kit.settings, &options(), forty_days, &stop).await;
    let gone = report.retain.iter().find(|table| table.table == "rejects.events").expect("they are due");
    assert_eq!((gone.dates.len(), gone.dates[0].rows, gone.version.is_some()), (1, 2, true));
    let table = kit.lake.open_table(&TableName::new("rejects", "events")).await.unwrap().unwrap();
    assert!(table.live_files().await.unwrap().is_empty());
    assert_eq!(table.txns()[&AppIds::new("events").rejects_removed("events", 0)], 2);
}

/// What went from rejects, by its date or with a person, is counted, and nobody misses it.
#[tokio::test(flavor = "multi_thread")]
async fn rejects_that_went_are_not_missed() {
    let kit = Kit::new(&[]);
    reject(&kit, &[r#"{"key":"ann"}"#, "{", "}"]).await;
    tell_rejected(&kit, 3).await;
    kit.land(&[row(3, 5), row(4, 6)], 1, DAY_US).await;
    proved(&kit).await;
    let forget = crate::upkeep::ForgetOptions {
        run_id: "forget".to_owned(),
        pipeline: kit.pipeline().clone(),
        key: "key=ann".to_owned(),
        because: None,
    };
    let stop = CancellationToken::new();
    let report = crate::upkeep::forget_on(&kit.lake, &kit.settings, &forget, &stop).await;
    assert_eq!(report.dates.iter().map(|d| d.rows).collect::<Vec<_>>(), [1]);
    proved(&kit).await;
    let report = upkeep_on(&kit.lake, &kit.settings, &options(), 40 * 86_400_000, &stop).await;
    assert_eq!(report.retain.iter().map(|t| t.dates[0].rows).collect::<Vec<_>>(), [2]);
    proved(&kit).await;
    // but what goes by itself is missed
    tell_rejected(&kit, 1).await;
    let options = ProveOptions { offline: true, ..ProveOptions::default() };
    let report = prove_on(&kit.lake, &kit.settings, &options, &Clock::of(|| NOW_MS)).await.unwrap();
    let refuted: Vec<_> = report.checks.iter().filter(|check| check.verdict == Verdict::Refuted).collect();
    assert!(refuted.len() == 1 && refuted[0].examples[0].contains("should be 1 to 4"), "{refuted:?}");
}

/// Tells that the next messages were rejected.
async fn tell_rejected(kit: &Kit, count: i64) {
    let mut raw = kit.raw().await;
    let ids = AppIds::new("events");
    let next = ids.read("events", raw.txns()).nexts().get(&0).map_or(0, |next| next.0);
    let mut tally = Tally::at(Offset(next));
    (next..next + count).for_each(|offset| tally.count(Offset(offset), Fate::Rejected).unwrap());
    let progress = Progress { next: tally.to, frontier_ms: None, reached_ms: None, seen_ms: None };
    let info = RawCommit {
        identity: Identity { run_id: "stream".to_owned(), sequence: 1_000 + next.unsigned_abs() },
        pipeline: "events".to_owned(),
        topic: "events".to_owned(),
        partitions: vec![PartitionEntry { partition: 0, tally, frontier_ms: None, reached_ms: None, seen_ms: None }],
        dates: BTreeMap::new(),
    };
    let mut commit = Commit::new("WRITE", &info).unwrap();
    commit.txns = ids.write("events", 0, &progress);
    assert!(matches!(raw.commit(commit).await, CommitOutcome::Committed(_)));
}

/// Whoever lands messages looks for what a crash has left of them here.
#[tokio::test(flavor = "multi_thread")]
async fn rejects_that_are_not_in_raws_progress_stay() {
    let kit = Kit::new(&[]);
    kit.land(&[row(0, 5)], 1, DAY_US).await;
    reject(&kit, &["{", "}"]).await;
    let stop = CancellationToken::new();
    let report = upkeep_on(&kit.lake, &kit.settings, &options(), 40 * 86_400_000, &stop).await;
    assert!(report.error.is_none() && report.retain.is_empty(), "{report:?}");
    kit.land(&[row(1, 6)], 1, DAY_US).await;
    let report = upkeep_on(&kit.lake, &kit.settings, &options(), 40 * 86_400_000, &stop).await;
    assert_eq!(report.retain.iter().map(|t| t.dates[0].rows).collect::<Vec<_>>(), [2]);
}

//! Compaction beside a stream and beside itself, and commits whose outcome nobody tells.

use super::{compacted, land, live, options, rewrites, rows_of};
use crate::batch::Run;
use crate::batch::meter::Meter;
use crate::batch::tests::guards::TOTALS;
use crate::batch::tests::kit::{Kit, committed};
use crate::error::Class;
use crate::lake::faults::{Fault, Script, commits_of};
use crate::lake::{Commit, CommitOutcome, Lake};
use crate::upkeep::compact::{Compaction, Work};
use crate::upkeep::rewrite::Written;
use crate::upkeep::{CompactOptions, compact_on};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

/// A compaction whose files are written and not committed.
async fn written<'a>(kit: &Kit, options: &'a CompactOptions, run: &'a Run) -> (Compaction<'a>, Vec<(Work, Written)>) {
    let table = live(&kit.lake).await.0;
    let compaction = Compaction { table, options, run, memory_bytes: kit.settings.memory_bytes };
    let mut all = Vec::new();
    for work in compaction.plan().await.unwrap() {
        let written = compaction.write(&work).await.unwrap();
        all.push((work, written));
    }
    (compaction, all)
}

#[tokio::test]
async fn a_stream_that_read_before_the_compaction_commits_after_it() {
    let kit = Kit::new(&[TOTALS]);
    land(&kit, 0, 60, 5).await;
    kit.batch_well().await;
    let before = rows_of(&kit.lake, None).await;
    let mut stream = kit.raw().await;
    let added = kit.put(&stream, "1970-01-09", &kit.batch_of(&[])).await;
    compacted(&kit, &kit.lake, &options()).await;
    let append = || Commit { adds: vec![added.clone()], ..kit.commit() };
    assert!(matches!(stream.commit(append()).await, CommitOutcome::Conflicted));
    stream.refresh().await.unwrap();
    committed(stream.commit(append()).await);
    assert_eq!(rows_of(&kit.lake, None).await, before);
    let (_, files) = live(&kit.lake).await;
    assert_eq!(files.len(), 3 + 1, "one file a date, and the stream's");
    assert!(files.iter().any(|f| f.path == added.path));
    assert!(kit.batch_well().await.is_idle());
}

#[tokio::test]
async fn rows_that_land_before_the_commit_stay() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 60, 5).await;
    let (options, run) = (options(), Run::new("a"));
    let (mut compaction, all) = written(&kit, &options, &run).await;
    land(&kit, 60, 30, 5).await;
    let before = rows_of(&kit.lake, None).await;
    for (work, written) in &all {
        assert!(compaction.commit(work, written).await.unwrap().is_some());
    }
    assert_eq!(rows_of(&kit.lake, None).await, before);
    assert_eq!(live(&kit.lake).await.1.len(), 3 + 6, "the new files, and those that came later");
}

#[tokio::test]
async fn of_two_stale_compactions_one_lands() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 60, 5).await;
    let before = rows_of(&kit.lake, None).await;
    let (options, runs) = (options(), [Run::new("a"), Run::new("b")]);
    let (mut first, mine) = written(&kit, &options, &runs[0]).await;
    let (mut second, theirs) = written(&kit, &options, &runs[1]).await;
    assert_eq!(mine.len(), 3);
    for ((work, written), (other_work, other_written)) in mine.iter().zip(&theirs) {
        assert!(first.commit(work, written).await.unwrap().is_some());
        assert_eq!(second.commit(other_work, other_written).await.unwrap(), None, "its files are gone");
        assert_eq!(rows_of(&kit.lake, None).await, before);
    }
    assert_eq!(rewrites(&kit.lake).await.0, 3);
    assert!(second.plan().await.unwrap().is_empty(), "nothing is left to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_compactions_at_once_and_a_stream() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 200, 5).await;
    let (one, two) = (options(), options());
    let stop = CancellationToken::new();
    let landing = async {
        for n in 0..10 {
            // the next one may be first at any of the commits
            let mut raw = kit.raw().await;
            let added = kit.put(&raw, "1970-01-02", &kit.batch_of(&[])).await;
            while !matches!(
                raw.commit(Commit { adds: vec![added.clone()], ..kit.commit() }).await,
                CommitOutcome::Committed(_)
            ) {
                raw.refresh().await.unwrap();
            }
            assert!(n < 10);
        }
    };
    let before = rows_of(&kit.lake, None).await;
    let meter = Meter::default();
    let (a, b, ()) = tokio::join!(
        compact_on(&kit.lake, &kit.settings, &one, &meter, &stop),
        compact_on(&kit.lake, &kit.settings, &two, &meter, &stop),
        landing
    );
    assert!(a.error.is_none() && b.error.is_none(), "{a:?} {b:?}");
    assert_eq!(rows_of(&kit.lake, None).await, before);
    compacted(&kit, &kit.lake, &options()).await;
    let (_, files) = live(&kit.lake).await;
    assert_eq!(files.len(), 3, "{files:?}");
}

#[rstest]
#[case::lost_reply(Fault::LoseReply)]
#[case::own_write_seen(Fault::AnswerTaken)]
#[case::never_sent(Fault::DropPut)]
#[tokio::test]
async fn a_commit_of_unknown_outcome_is_there_once(#[case] fault: Fault) {
    let kit = Kit::new(&[TOTALS]);
    land(&kit, 0, 60, 5).await;
    kit.batch_well().await;
    let before = rows_of(&kit.lake, None).await;
    let mut script = Script::new();
    let count = script.add(fault, commits_of("raw/events"), 1, 1);
    let faulty = Lake::open(&kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let report = compacted(&kit, &faulty, &options()).await;
    assert_eq!(count.fired(), 1);
    assert_eq!(report.dates.len(), 3);
    assert_eq!(rows_of(&kit.lake, None).await, before);
    let (table, files) = live(&kit.lake).await;
    assert_eq!((rewrites(&kit.lake).await.0, files.len()), (3, 3));
    assert_eq!(table.txns()["deltaworks/raw.events/rewrite"], 3);
    assert!(kit.batch_well().await.is_idle());
}

/// The store is away: what was done stays, the rest is done by the next run.
#[tokio::test]
async fn a_store_that_stays_away_ends_the_run_partly() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 60, 5).await;
    let before = rows_of(&kit.lake, None).await;
    let mut script = Script::new();
    let count = script.add(Fault::FailRead, |path| path.as_ref().contains("event_date=1970-01-03"), 0, usize::MAX);
    let faulty = Lake::open(&kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let report = compact_on(&faulty, &kit.settings, &options(), &Meter::default(), &CancellationToken::new()).await;
    assert!(count.fired() > 0);
    assert_eq!((report.dates.len(), report.error.map(|e| e.class)), (2, Some(Class::Partly)));
    assert_eq!(rows_of(&kit.lake, None).await, before);
    assert_eq!(compacted(&kit, &kit.lake, &options()).await.dates.len(), 1, "only what was left");
}

#[tokio::test]
async fn a_file_that_left_meanwhile_is_not_brought_back() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 60, 5).await;
    let (options, run) = (options(), Run::new("a"));
    let (mut compaction, all) = written(&kit, &options, &run).await;
    let (mut raw, files) = live(&kit.lake).await;
    let gone: Vec<_> = files.into_iter().take(1).collect();
    committed(raw.commit(Commit { removes: gone, ..kit.commit() }).await);
    let before = rows_of(&kit.lake, None).await;
    assert_eq!(compaction.commit(&all[0].0, &all[0].1).await.unwrap(), None);
    assert_eq!(rows_of(&kit.lake, None).await, before);
    assert_eq!(compacted(&kit, &kit.lake, &options).await.dates.len(), 3, "planned anew without it");
    assert_eq!(rows_of(&kit.lake, None).await, before);
}

#[tokio::test]
async fn a_run_that_is_told_to_stop_does_so_between_dates() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 60, 5).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let report = compact_on(&kit.lake, &kit.settings, &options(), &Meter::default(), &stop).await;
    assert!(report.stopped && report.dates.is_empty() && report.error.is_none());
}

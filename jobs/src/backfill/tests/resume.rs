//! Interrupted, and gone on with: by the same machine, another, two at once; given up; under another definition.

use super::*;
use crate::backfill::{cancel_on, status_on, what_is_left_on};
use crate::error::Class;
use crate::lake::faults::{Fault, Script, commits_of};
use deltaworks_core::backfill::State;
use rstest::rstest;

/// The lake with a store that takes so many commits of the batch table, and then none.
fn breaking(kit: &Kit, commits: usize) -> Lake {
    let mut script = Script::new();
    let gone = script.add(Fault::DropPut, commits_of("batch/totals"), commits, usize::MAX);
    for fault in [Fault::FailRead, Fault::FailList] {
        let gone = gone.clone();
        script.add(fault, move |_| gone.fired() > 0, 0, usize::MAX);
    }
    kit.lake.clone().with_store_decorator(|store| script.wrap(store))
}

async fn interrupted(kit: &Kit, id: BackfillId, commits: usize) -> Report {
    resume_with(kit, &breaking(kit, commits), id, &CancellationToken::new()).await
}

#[rstest]
#[case::forced_and_every_result_is_the_same(true, 0)]
#[case::under_a_new_definition(false, 1)]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_not_repeated(#[case] forced: bool, #[case] more: i64, #[values(0, 1, 3, 7)] commits: usize) {
    let (mut kit, rows) = computed().await;
    if !forced {
        kit.define_within(&[MENDED], 0);
    }
    let backfill = create(&kit, &RecomputeOptions { forced, ..options() }).await;
    let report = interrupted(&kit, backfill.id, commits).await;
    let class = if commits == 0 { Class::Outside } else { Class::Partly };
    assert_eq!(report.error.as_ref().map(|e| e.class), Some(class), "{report:?}");
    let left = status_on(&kit.lake, backfill.id).await.unwrap();
    assert_eq!((left.done, left.left, left.state), (commits as u64, 8 - commits as u64, State::Open));
    assert_eq!(left.resume, Some(format!("deltaworks backfill resume {}", backfill.id)));
    assert_eq!(left.next.len() as u64, left.left);
    // another machine has the lake, and nothing else
    let elsewhere = Lake::open(&kit.settings.lake).unwrap();
    let rest = resume_with(&kit, &elsewhere, backfill.id, &CancellationToken::new()).await;
    let units = rest.figures.units;
    assert!(rest.error.is_none(), "{rest:?}");
    assert_eq!((units.done, units.computed, units.left), (commits as u64, 8 - commits as u64, 0));
    alike(&computations(&kit).await, 2);
    verify(&kit, &rows, more).await;
    assert!(kit.batch_well().await.is_idle());
}

#[tokio::test(flavor = "multi_thread")]
async fn backwards_the_newest_date_comes_first() {
    for (backwards, first) in [(false, "1970-01-01"), (true, "1970-01-04")] {
        let (kit, _) = computed().await;
        let backfill = create(&kit, &RecomputeOptions { backwards, ..forced() }).await;
        assert!(interrupted(&kit, backfill.id, 2).await.error.is_some());
        let done: Vec<String> =
            computations(&kit).await.into_iter().filter(|(_, n)| *n == 2).map(|(unit, _)| unit).collect();
        assert_eq!(done, [format!("totals/1d/{first}"), format!("totals/6h/{first}")]);
        let next = what_is_left_on(&kit.lake, backfill.id).await.unwrap();
        assert_eq!(next.first().unwrap(), if backwards { "totals/6h/1970-01-03" } else { "totals/6h/1970-01-02" });
        resume_well(&kit, backfill.id).await;
        alike(&computations(&kit).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_are_harmless() {
    for forced in [true, false] {
        let (mut kit, rows) = computed().await;
        if !forced {
            kit.define_within(&[MENDED], 0);
        }
        let backfill = create(&kit, &RecomputeOptions { forced, ..options() }).await;
        let mut script = Script::new();
        // both are slow to publish, so that they meet
        let slow = script.add(Fault::DelayPut(std::time::Duration::from_millis(40)), commits_of("batch/totals"), 0, 99);
        let slowed = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
        let stop = CancellationToken::new();
        let (one, other) = tokio::join!(
            resume_with(&kit, &slowed, backfill.id, &stop),
            resume_with(&kit, &slowed, backfill.id, &stop)
        );
        assert!(one.error.is_none() && other.error.is_none(), "{one:?} {other:?}");
        assert!(slow.fired() >= 8);
        alike(&computations(&kit).await, 2);
        verify(&kit, &rows, i64::from(!forced)).await;
        assert_eq!(status_on(&kit.lake, backfill.id).await.unwrap().state, State::Finished);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_told_to_end_goes_on_later() {
    let (kit, _) = computed().await;
    let backfill = create(&kit, &forced()).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let report = resume_with(&kit, &kit.lake, backfill.id, &stop).await;
    assert!(report.stopped && report.error.is_none() && report.figures.units.left == 8, "{report:?}");
    resume_well(&kit, backfill.id).await;
    alike(&computations(&kit).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_given_up_stops_at_its_next_unit() {
    let (kit, rows) = computed().await;
    let backfill = create(&kit, &forced()).await;
    // gives it up while the third unit is being committed
    let mut script = Script::new();
    let held = script.add(Fault::HoldPut, commits_of("batch/totals"), 2, 1);
    let slowed = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let giving_up = async {
        held.until_fired(1).await;
        let cancelled = cancel_on(&kit.lake, backfill.id, "somebody", &clock()).await.unwrap();
        held.let_one_through();
        cancelled
    };
    let stop = CancellationToken::new();
    let (report, cancelled) = tokio::join!(resume_with(&kit, &slowed, backfill.id, &stop), giving_up);
    assert_eq!((cancelled.state, cancelled.was_ended), (State::Cancelled, false));
    assert_eq!((report.figures.units.computed, report.figures.units.left), (3, 5), "{report:?}");
    let error = failed(report);
    assert_eq!((error.class, error.message), (Class::User, format!("backfill `{}` was cancelled", backfill.id)));
    // what is done stays, and none goes on
    let refused = failed(resume(&kit, backfill.id).await);
    assert_eq!(refused.class, Class::User, "{refused}");
    assert_eq!(computations(&kit).await.values().sum::<i64>(), 8 + 3);
    verify(&kit, &rows, 0).await;
    let line = status_on(&kit.lake, backfill.id).await.unwrap();
    assert_eq!((line.state, line.done, line.left, line.resume), (State::Cancelled, 3, 5, None));
    let again = cancel_on(&kit.lake, backfill.id, "somebody", &clock()).await.unwrap();
    assert_eq!((again.state, again.was_ended), (State::Cancelled, true));
}

#[tokio::test]
async fn one_that_is_done_cannot_be_given_up() {
    let (kit, _) = computed().await;
    let backfill = create(&kit, &forced()).await;
    resume_well(&kit, backfill.id).await;
    let cancelled = cancel_on(&kit.lake, backfill.id, "somebody", &clock()).await.unwrap();
    assert_eq!((cancelled.state, cancelled.was_ended), (State::Finished, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_changed_is_refused_until_it_is_back() {
    let (mut kit, rows) = computed().await;
    let backfill = create(&kit, &forced()).await;
    assert!(interrupted(&kit, backfill.id, 3).await.error.is_some());
    kit.define_within(&[MENDED], 0);
    let error = failed(resume(&kit, backfill.id).await);
    assert_eq!(error.class, Class::User);
    assert!(error.message.contains("`totals` means something else than when backfill"), "{error}");
    assert!(error.hint.as_ref().unwrap().contains(&format!("backfill cancel {}", backfill.id)), "{error:?}");
    assert_eq!(computations(&kit).await.values().sum::<i64>(), 8 + 3, "nothing was computed");
    // computed under the other definition in between: that does not count
    let second = create(&kit, &RecomputeOptions { to: Instant(DAY_US), ..options() }).await;
    resume_well(&kit, second.id).await;
    kit.define_within(&[TOTALS], 0);
    let left = what_is_left_on(&kit.lake, backfill.id).await.unwrap();
    assert!(left.contains(&"totals/6h/1970-01-01".to_owned()), "{left:?}");
    resume_well(&kit, backfill.id).await;
    verify(&kit, &rows, 0).await;
}

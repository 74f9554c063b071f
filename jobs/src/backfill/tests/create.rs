//! What a plan is made of, and what is refused before anything is written.

use super::*;
use crate::backfill::{list_on, plan_on, status_on};
use crate::error::Class;
use crate::lake::TableName;
use deltaworks_core::backfill::State;

async fn has_backfills(kit: &Kit) -> bool {
    kit.lake.has_table(&TableName::new("ops", "backfills")).await.unwrap()
}

#[tokio::test]
async fn nothing_to_do_writes_nothing_and_force_takes_all() {
    let (kit, rows) = computed().await;
    assert_eq!(try_create(&kit, &options()).await.unwrap(), None);
    assert!(!has_backfills(&kit).await);
    let backfill = create(&kit, &forced()).await;
    assert_eq!((backfill.items, backfill.state), (8, State::Open));
    let report = resume_well(&kit, backfill.id).await;
    let units = report.figures.units;
    assert_eq!((units.total, units.done, units.computed, units.unchanged, units.left), (8, 0, 8, 8, 0), "{report:?}");
    alike(&computations(&kit).await, 2);
    assert!(kit.generations("totals").await.values().all(|generation| *generation == 1), "no row has changed");
    verify(&kit, &rows, 0).await;
    // a second time there is nothing to do
    let again = resume_well(&kit, backfill.id).await;
    assert!(again.is_idle() && again.figures.units.done == 8, "{again:?}");
    alike(&computations(&kit).await, 2);
    let line = status_on(&kit.lake, backfill.id).await.unwrap();
    assert_eq!((line.state, line.done, line.left, line.resume), (State::Finished, 8, 0, None));
    assert!(line.ended_at.is_some());
}

#[tokio::test]
async fn a_trial_writes_nothing() {
    let (kit, _) = computed().await;
    let plan = plan_on(&kit.lake, &kit.settings, &forced()).await.unwrap();
    assert_eq!((plan.units.len(), plan.continues, plan.left.up_to_date), (8, None, 0), "{plan:?}");
    assert!(!has_backfills(&kit).await);
    let id = create(&kit, &forced()).await.id;
    let plan = plan_on(&kit.lake, &kit.settings, &forced()).await.unwrap();
    assert_eq!(plan.continues, Some(id));
}

#[tokio::test]
async fn only_what_is_asked_for() {
    let (kit, _) = computed().await;
    let some = RecomputeOptions {
        from: Instant(DAY_US),
        to: Instant(3 * DAY_US),
        granularities: vec!["1d".parse().unwrap()],
        ..forced()
    };
    resume_well(&kit, create(&kit, &some).await.id).await;
    let computed: Vec<String> =
        computations(&kit).await.into_iter().filter(|(_, n)| *n == 2).map(|(unit, _)| unit).collect();
    assert_eq!(computed, ["totals/1d/1970-01-02", "totals/1d/1970-01-03"]);
}

/// The rest of a changed definition, which batch leaves and names the command for.
#[tokio::test]
async fn what_batch_has_left_under_a_former_definition() {
    let (mut kit, rows) = computed().await;
    kit.define_within(&[MENDED], 1);
    let report = kit.batch_well().await;
    assert_eq!((report.units.changed, report.left.definition_kept), (2, 6), "{report:?}");
    let command = "deltaworks backfill create totals --interval-start 1970-01-01T00:00:00Z \
                   --interval-end 1970-01-04T00:00:00Z";
    assert_eq!(report.left.backfill, [command]);
    let told = RecomputeOptions { to: Instant(3 * DAY_US), ..options() };
    let backfill = create(&kit, &told).await;
    assert_eq!(backfill.items, 6);
    let done = resume_well(&kit, backfill.id).await;
    assert_eq!((done.figures.units.changed, done.figures.units.left), (6, 0), "{done:?}");
    verify(&kit, &rows, 1).await;
    assert!(kit.batch_well().await.is_idle());
    assert_eq!(kit.batch_well().await.left.backfill, [""; 0]);
}

#[tokio::test]
async fn an_interval_that_is_not_complete() {
    let (kit, _) = computed().await;
    let too_far = RecomputeOptions { to: Instant(7 * DAY_US), ..forced() };
    let error = try_create(&kit, &too_far).await.unwrap_err();
    assert_eq!(error.class, Class::InputNotYet, "{error}");
    assert!(!has_backfills(&kit).await);
}

#[tokio::test]
async fn names_that_are_not_there() {
    let (kit, _) = computed().await;
    let other = RecomputeOptions { aggregate: "total".into(), ..forced() };
    let error = try_create(&kit, &other).await.unwrap_err();
    assert_eq!((error.class, error.message.as_str()), (Class::User, "there is no aggregate `total`"));
    let sized = RecomputeOptions { granularities: vec!["5m".parse().unwrap()], ..forced() };
    assert_eq!(try_create(&kit, &sized).await.unwrap_err().class, Class::User);
    let id: BackfillId = "20260105-9f31c2aa".parse().unwrap();
    let error = failed(resume(&kit, id).await);
    assert_eq!((error.class, error.message.as_str()), (Class::User, "there is no backfill `20260105-9f31c2aa`"));
    create(&kit, &forced()).await;
    assert_eq!(failed(resume(&kit, id).await).class, Class::User);
}

/// So that a scheduler may simply try again.
#[tokio::test]
async fn the_same_words_go_on_with_the_one_that_is_open() {
    let (kit, _) = computed().await;
    let first = create(&kit, &forced()).await;
    assert_eq!(create(&kit, &forced()).await.id, first.id);
    let other = create(&kit, &RecomputeOptions { backwards: true, ..forced() }).await;
    assert_ne!(other.id, first.id);
    resume_well(&kit, first.id).await;
    let next = create(&kit, &forced()).await;
    assert!(next.id != first.id && next.id != other.id, "one that has ended is not gone on with");
    let listed: Vec<_> = list_on(&kit.lake, 9).await.unwrap().into_iter().map(|line| (line.id, line.state)).collect();
    let expected = [(first.id, State::Finished), (other.id, State::Open), (next.id, State::Open)];
    assert!(listed.len() == 3 && expected.iter().all(|line| listed.contains(line)), "{listed:?}");
}

/// Memory is that of a portion: each is gathered, planned and published by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_interval_is_gone_through_in_portions() {
    let kit = Kit::new(&[TOTALS]);
    let days = 110;
    let all = rows(0, days, 1);
    kit.land(&all, 100, (days + 1) * DAY_US).await;
    let backfill = create(&kit, &RecomputeOptions { to: Instant(days * DAY_US), ..options() }).await;
    assert_eq!(backfill.items, 220);
    let report = resume_well(&kit, backfill.id).await;
    assert_eq!((report.figures.units.changed, report.figures.rows), (220, days as u64), "{report:?}");
    let runs = kit.lake.open_table(&TableName::new("ops", "runs")).await.unwrap().unwrap();
    let rows: u64 = runs.live_files().await.unwrap().iter().filter_map(|file| file.rows).sum();
    assert_eq!(rows, 3, "96 units at a time");
    assert!(kit.batch_well().await.is_idle());
    assert!(kit.generations("totals").await.values().all(|generation| *generation == 1));
}

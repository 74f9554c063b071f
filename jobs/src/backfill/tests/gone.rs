//! Dates that raw no longer keeps, before a backfill is created and while it is under way.

use super::*;
use crate::backfill::{plan_on, status_on};
use crate::batch::tests::kit::{committed, date_of};
use crate::error::Class;
use crate::lake::{Commit, LiveFile, TableName};
use deltaworks_core::backfill::State;

/// Removes the dates up to `day` (days since 1970) as `retain` does.
async fn remove_through(kit: &Kit, day: i64) {
    let mut raw = kit.raw().await;
    let through = date_of(day * DAY_US);
    let is_removed =
        |file: &LiveFile| file.partition_values["event_date"].as_ref().is_some_and(|date| *date <= through);
    let removes: Vec<_> = raw.live_files().await.unwrap().into_iter().filter(is_removed).collect();
    assert!(!removes.is_empty());
    let txns = vec![("deltaworks/events/removed_through".to_owned(), day)];
    committed(raw.commit(Commit { removes, txns, ..kit.commit() }).await);
}

#[tokio::test]
async fn units_that_cannot_be_computed_any_more_are_named_and_nothing_is_created() {
    let (mut kit, _) = computed().await;
    remove_through(&kit, 0).await;
    let error = try_create(&kit, &forced()).await.unwrap_err();
    assert_eq!(error.class, Class::InputLost);
    // the second day has the first as its dedup day
    let names =
        "4 units: `totals/6h/1970-01-01`, `totals/6h/1970-01-02`, `totals/1d/1970-01-01`, `totals/1d/1970-01-02`";
    assert_eq!(error.message, format!("raw no longer keeps the dates of {names}"));
    kit.define_within(&[MENDED], 0);
    assert_eq!(try_create(&kit, &options()).await.unwrap_err().message, error.message);
    assert!(!kit.lake.has_table(&TableName::new("ops", "backfills")).await.unwrap());
    let plan = plan_on(&kit.lake, &kit.settings, &options()).await.unwrap();
    assert_eq!((plan.units.len(), plan.left.beyond_retention), (8, 4), "{plan:?}");
    // what batch says to do can be done
    let report = kit.batch_well().await;
    let command = "deltaworks backfill create totals --interval-start 1970-01-03T00:00:00Z \
                   --interval-end 1970-01-05T00:00:00Z";
    assert_eq!((report.left.definition_kept, report.left.backfill), (4, vec![command.to_owned()]));
    let told = RecomputeOptions { from: Instant(2 * DAY_US), ..options() };
    assert_eq!(resume_well(&kit, create(&kit, &told).await.id).await.figures.units.changed, 4);
}

#[tokio::test]
async fn dates_that_go_while_it_is_under_way_are_named_at_the_end() {
    let (kit, _) = computed().await;
    let backfill = create(&kit, &forced()).await;
    remove_through(&kit, 0).await;
    let report = resume(&kit, backfill.id).await;
    let units = report.figures.units;
    assert_eq!((units.computed, units.left), (4, 4), "the others are done: {report:?}");
    assert_eq!(report.figures.beyond_retention.len(), 4, "{report:?}");
    let error = failed(report);
    assert_eq!(error.class, Class::InputLost);
    assert!(error.message.contains("4 units: `totals/6h/1970-01-01`"), "{error}");
    let hint = error.hint.unwrap();
    assert!(hint.contains(&format!("deltaworks backfill cancel {}", backfill.id)), "{hint}");
    assert_eq!(status_on(&kit.lake, backfill.id).await.unwrap().state, State::Open);
    // a second time it says the same, and repeats nothing
    let again = resume(&kit, backfill.id).await;
    assert_eq!((again.figures.units.computed, failed(again).class), (0, Class::InputLost));
    // brought back from an archive
    let mut raw = kit.raw().await;
    let first: Vec<Row> = rows(0, 10, 10);
    let added = kit.put(&raw, "1970-01-01", &kit.batch_of(&first)).await;
    // the day before has no rows, and is as whole as it ever was
    let restored = ["1969-12-31", "1970-01-01"].map(|date| (format!("deltaworks/events/restored/{date}"), 1));
    let txns = restored.to_vec();
    committed(raw.commit(Commit { adds: vec![added], txns, ..kit.commit() }).await);
    assert_eq!(resume_well(&kit, backfill.id).await.figures.units.computed, 4);
    alike(&computations(&kit).await, 2);
}

/// Never published, and their rows are gone with their dates: nothing is planned for them any more.
#[tokio::test]
async fn units_that_were_never_computed_and_never_can_be() {
    let kit = Kit::new(&[TOTALS]);
    kit.land(&rows(0, 10 * DAYS, 10), 3, (DAYS + 1) * DAY_US).await;
    let backfill = create(&kit, &options()).await;
    assert_eq!(backfill.items, 8);
    remove_through(&kit, 3).await;
    let report = resume(&kit, backfill.id).await;
    assert_eq!((report.figures.beyond_retention.len(), report.figures.units.left), (8, 8), "{report:?}");
    assert_eq!(failed(report).class, Class::InputLost);
}

#[tokio::test]
async fn rows_that_nobody_removed_are_missed() {
    let (kit, _) = computed().await;
    kit.land(&[late(40, 7)], 9, (DAYS + 1) * DAY_US).await;
    let backfill = create(&kit, &options()).await;
    let mut raw = kit.raw().await;
    let removes = raw.live_files().await.unwrap().into_iter().take(2).collect();
    committed(raw.commit(Commit { removes, ..kit.commit() }).await);
    let before = computations(&kit).await;
    let error = failed(resume(&kit, backfill.id).await);
    assert_eq!(error.class, Class::InputLost, "{error}");
    assert!(error.message.contains("raw has lost rows of 1970-01-01"), "{error}");
    assert_eq!(computations(&kit).await, before);
}

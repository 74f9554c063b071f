//! Beside runs of batch on the same units, and while events are landed.

use super::*;
use crate::backfill::{status_on, what_is_left_on};
use crate::lake::faults::{Fault, Script, commits_of};
use deltaworks_core::backfill::State;
use std::time::Duration;

#[tokio::test]
async fn what_another_run_has_computed_since_is_done() {
    let (kit, mut all) = computed().await;
    let backfill = create(&kit, &forced()).await;
    let event = late(40, 7);
    kit.land(std::slice::from_ref(&event), 9, (DAYS + 1) * DAY_US).await;
    all.push(event);
    let report = kit.batch_well().await;
    assert!(report.units.computed >= 2, "{report:?}");
    let left = what_is_left_on(&kit.lake, backfill.id).await.unwrap();
    assert_eq!(left.len() as u64, 8 - report.units.computed, "{left:?}");
    let report = resume_well(&kit, backfill.id).await;
    assert_eq!(report.figures.units.computed, left.len() as u64);
    alike(&computations(&kit).await, 2);
    verify(&kit, &all, 0).await;
}

/// Its dedup day gained rows with ids of their own: the unit has a new pin, and was not computed.
#[tokio::test]
async fn a_new_pin_alone_is_no_recompute() {
    let (kit, mut all) = computed().await;
    let backfill = create(&kit, &RecomputeOptions { from: Instant(DAY_US), ..forced() }).await;
    assert_eq!(backfill.items, 6);
    let event = late(40, 7);
    kit.land(std::slice::from_ref(&event), 9, (DAYS + 1) * DAY_US).await;
    all.push(event);
    let report = kit.batch_well().await;
    assert_eq!((report.units.changed, report.units.unchanged, report.units.computed), (2, 2, 2), "{report:?}");
    assert_eq!(status_on(&kit.lake, backfill.id).await.unwrap().left, 6);
    assert_eq!(resume_well(&kit, backfill.id).await.figures.units.computed, 6);
    alike(&computations(&kit).await, 2);
    verify(&kit, &all, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_batch_of_the_same_units() {
    let (mut kit, rows) = computed().await;
    kit.define_within(&[MENDED], 1_000);
    let backfill = create(&kit, &options()).await;
    let mut script = Script::new();
    let slow = script.add(Fault::DelayPut(Duration::from_millis(40)), commits_of("batch/totals"), 0, 99);
    let slowed = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let (batch_options, stop) = (kit.options(), CancellationToken::new());
    let (report, batch) =
        tokio::join!(resume_with(&kit, &slowed, backfill.id, &stop), kit.batch_on(&slowed, &batch_options));
    assert!(report.error.is_none() && batch.error.is_none(), "{report:?} {batch:?}");
    assert!(slow.fired() >= 8);
    alike(&computations(&kit).await, 2);
    verify(&kit, &rows, 1).await;
    assert_eq!(status_on(&kit.lake, backfill.id).await.unwrap().state, State::Finished);
    assert!(kit.batch_well().await.is_idle());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_land_meanwhile_are_not_lost() {
    let (kit, mut all) = computed().await;
    let backfill = create(&kit, &RecomputeOptions { backwards: true, ..forced() }).await;
    let landing = async {
        let mut landed = Vec::new();
        for n in 0..4 {
            let event = late(40 + n, (n % DAYS) * DAY_US + n);
            kit.land(std::slice::from_ref(&event), 9, (DAYS + 1) * DAY_US).await;
            landed.push(event);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        landed
    };
    let (report, landed) = tokio::join!(resume(&kit, backfill.id), landing);
    assert!(report.error.is_none(), "{report:?}");
    all.extend(landed);
    kit.batch_well().await;
    verify(&kit, &all, 0).await;
}

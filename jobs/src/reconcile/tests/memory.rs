//! Provisional windows where memory is too small for all of them at once.

use super::kit::Row;
use super::steps::{TOTALS, landed, row};
use crate::batch::jobs_of;
use crate::engine::aggregate::is_out_of_memory;
use crate::reconcile::SpeedUse;
use crate::{Result, Stage};

const QUARTER_US: i64 = 900_000_000;
/// Memory of a process that has too little of it.
const SMALL: usize = 4 << 20;
const KEYS: i64 = 400;

/// Every key in every window of 15 minutes of one day, some of them twice.
fn rows() -> Vec<Row> {
    let of = |n: i64| {
        let (window, key) = (n % 96, n / 96 % KEYS);
        Row { key: Some(format!("key-{key}")), ..row(n, window * QUARTER_US + n % 1_000, n % 90) }
    };
    (0..96 * KEYS + 500).map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_that_do_not_fit_together_are_served_some_at_a_time() -> Result<()> {
    let (rows, name) = (rows(), TOTALS.name);
    let right = landed(&rows, 0).await;
    right.catch_up().await;
    right.reconcile().await;
    let mut kit = landed(&rows, 0).await;
    kit.catch_up().await;
    kit.batch.settings.memory_bytes = SMALL;
    let mut jobs = jobs_of(&kit.settings, &[name.to_owned()], 2, Stage::Reconcile).await?;
    let definition = jobs.remove(0).aggregates.remove(0).definition;
    let states = kit.speed_table(name).await.unwrap().all_states().await?;
    let error = definition.merge([states]).await.unwrap_err();
    assert!(is_out_of_memory(&error), "all of them fit: {error:?}");
    let report = kit.reconcile().await;
    assert_eq!(report.speed[name], SpeedUse::Used, "{report:?}");
    let served = kit.served(name).await;
    assert_eq!(served.len(), 97 * KEYS as usize);
    assert_eq!(served, right.served(name).await);
    kit.reconcile_again(name).await;
    Ok(())
}

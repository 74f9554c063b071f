//! Windows where memory is too small for all of them at once: provisional ones, and the ways of covered ones.

use super::drift::drift;
use super::kit::Row;
use super::steps::{TOTALS, landed, late, row};
use crate::batch::jobs_of;
use crate::engine::aggregate::is_out_of_memory;
use crate::reconcile::SpeedUse;
use crate::{Result, Stage};
use std::collections::BTreeMap;

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

/// Memory in which the values of a day do not fit after all steps, and its states do.
const SOME: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_whose_values_do_not_fit_together_are_explained_in_pieces() {
    let rows: Vec<Row> =
        rows().into_iter().enumerate().map(|(n, row)| if n % 7 == 0 { late(row) } else { row }).collect();
    let mut ways = Vec::new();
    for memory_bytes in [None, Some(SOME)] {
        let mut kit = landed(&rows, 3 * 96 * QUARTER_US).await;
        kit.catch_up().await;
        kit.batch_well().await;
        if let Some(memory_bytes) = memory_bytes {
            kit.batch.settings.memory_bytes = memory_bytes;
        }
        let report = kit.reconcile().await;
        assert_eq!((report.drift.unexplained, report.drift.unknown_units), (0, 0));
        // pins name the tables of their lake
        let ways_here = drift(&kit, TOTALS.name).await.into_iter();
        ways.push(ways_here.map(|(key, way)| (key, (way.steps, way.unexplained))).collect::<BTreeMap<_, _>>());
    }
    assert!(ways[0].len() > 1_000, "{} windows moved", ways[0].len());
    assert_eq!(ways[0], ways[1]);
}

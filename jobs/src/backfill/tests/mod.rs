//! Recomputes against the naive model, cut short at any place, beside other runs, and on stores that misbehave. How often a
//! unit was computed is read from its ledger, whoever computed it.

mod beside;
mod create;
mod gone;
mod resume;
mod state;

use super::{Backfill, RecomputeOptions, Report, ResumeOptions, create_on, resume_on};
use crate::batch::tests::guards::{TOTALS, rows};
use crate::batch::tests::kit::{Kit, LATENESS_US, Row, Sql};
use crate::batch::tests::naive;
use crate::batch::{batch_name, ledger_of, meter::Meter};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::lake::Lake;
use deltaworks_core::backfill::BackfillId;
use deltaworks_core::windows::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const DAY_US: i64 = 86_400_000_000;
const DAYS: i64 = 4;
/// The aggregate as it is after somebody has mended it.
const MENDED: Sql =
    Sql { select: "SELECT key, sum(value) + 1 AS total, max(value) AS greatest FROM events GROUP BY key", ..TOTALS };

fn clock() -> Clock {
    Clock::of(|| 1_700_000_000_000)
}

/// Four days of ten events, landed and computed: eight units.
async fn computed() -> (Kit, Vec<Row>) {
    let (kit, rows) = (Kit::new(&[TOTALS]), rows(0, 10 * DAYS, 10));
    kit.land(&rows, 3, (DAYS + 1) * DAY_US).await;
    kit.batch_well().await;
    (kit, rows)
}

/// All four days.
fn options() -> RecomputeOptions {
    RecomputeOptions {
        run_id: crate::run_id(),
        aggregate: "totals".into(),
        from: Instant(0),
        to: Instant(DAYS * DAY_US),
        granularities: Vec::new(),
        forced: false,
        backwards: false,
        parallel: 2,
    }
}

fn forced() -> RecomputeOptions {
    RecomputeOptions { forced: true, ..options() }
}

async fn try_create(kit: &Kit, options: &RecomputeOptions) -> Result<Option<Backfill>> {
    create_on(&kit.lake, &kit.settings, options, &clock()).await
}

async fn create(kit: &Kit, options: &RecomputeOptions) -> Backfill {
    try_create(kit, options).await.unwrap().expect("there is something to do")
}

async fn resume(kit: &Kit, id: BackfillId) -> Report {
    resume_with(kit, &kit.lake, id, &CancellationToken::new()).await
}

async fn resume_with(kit: &Kit, lake: &Lake, id: BackfillId, stop: &CancellationToken) -> Report {
    let options = ResumeOptions { run_id: crate::run_id(), parallel: 2 };
    resume_on(lake, &kit.settings, id, &options, &Arc::new(Meter::default()), &clock(), stop).await
}

async fn resume_well(kit: &Kit, id: BackfillId) -> Report {
    let report = resume(kit, id).await;
    assert!(report.error.is_none() && !report.stopped, "{report:?}");
    report
}

/// How often each unit was computed.
async fn computations(kit: &Kit) -> BTreeMap<String, i64> {
    let table = kit.lake.open_table(&batch_name("totals")).await.unwrap().unwrap();
    let ledger = ledger_of("totals", &table).unwrap();
    ledger.into_iter().map(|(unit, entry)| (unit.to_string(), entry.computations())).collect()
}

/// How often, if all units were computed alike.
#[track_caller]
fn alike(computations: &BTreeMap<String, i64>, times: i64) {
    assert_eq!(computations.len(), 8, "{computations:?}");
    assert!(computations.values().all(|n| *n == times), "{computations:?}");
}

/// Fails unless what is published is what the rows give, their totals greater by `more`.
async fn verify(kit: &Kit, rows: &[Row], more: i64) {
    let bound = (DAYS + 1) * DAY_US - LATENESS_US;
    let mut expected = naive::windows(rows, &["6h", "1d"], "UTC", bound, |_| true, |_| true);
    expected.values_mut().for_each(|window| window.0 = window.0.map(|total| total + more));
    assert_eq!(kit.published("totals").await, expected);
}

fn late(offset: i64, at_us: i64) -> Row {
    Row { id: format!("late-{offset}"), offset, at_us, ..rows(0, 1, 10).remove(0) }
}

#[track_caller]
fn failed(report: Report) -> Error {
    report.error.expect("it fails")
}

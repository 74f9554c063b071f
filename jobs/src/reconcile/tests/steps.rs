//! One window's way through the states, and what each part of a reconcile leaves alone.

use super::kit::{Kit, Row, Seen, Sql, Windows};
use crate::error::Class;
use crate::reconcile::{ReconcileOptions, plan_only};
use crate::speed::SpeedTable;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;

const DAY_US: i64 = 86_400_000_000;
const HOUR_US: i64 = 3_600_000_000;
pub const TOTALS: Sql = Sql {
    name: "totals",
    windows: "[15m, 1d]",
    zone: "UTC",
    select: "SELECT key, sum(value) AS total, max(value) AS greatest FROM events GROUP BY key HAVING max(value) < 100",
};

/// An event of partition 0 with an id of its own.
pub fn row(offset: i64, at_us: i64, value: i64) -> Row {
    Row {
        id: format!("id-{offset}"),
        at_us,
        value: Some(value),
        key: Some("k".into()),
        kafka_us: None,
        partition: 0,
        offset,
        behind_ms: 0,
        repeat: false,
    }
}

pub fn late(row: Row) -> Row {
    Row { behind_ms: super::kit::LATENESS_US / 1_000 + 1, ..row }
}

pub async fn landed(rows: &[Row], reached_us: i64) -> Kit {
    let kit = Kit::new(&[TOTALS]);
    kit.land(rows, 100, reached_us).await;
    kit
}

fn window<'w>(windows: &'w Windows, granularity: &str, start: i64) -> Option<&'w Seen> {
    windows.get(&(granularity.to_owned(), start, Some("k".to_owned())))
}

/// State, generation, total, events, late, duplicates.
type Brief<'s> = (&'s str, i64, Option<i64>, i64, i64, i64);

fn brief(seen: Option<&Seen>) -> Option<Brief<'_>> {
    seen.map(|s| (s.state.as_str(), s.generation, s.values.0, s.values.2, s.values.3, s.values.4))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_provisional_then_final_then_restated() {
    let kit = landed(&[row(0, 5, 1), late(row(1, 6, 2)), Row { repeat: true, ..row(2, 7, 4) }], 0).await;
    kit.catch_up().await;
    let report = kit.reconcile().await;
    assert_eq!((report.units.reconciled, report.windows.provisional, report.windows.finals), (2, 2, 0));
    let served = kit.served("totals").await;
    assert_eq!(brief(window(&served, "15m", 0)), Some(("provisional", 0, Some(1), 1, 1, 1)), "left out, and counted");
    assert_eq!(window(&served, "15m", 0).unwrap().pin, None);
    // the quarter is complete, the day is not
    kit.land(&[row(3, 2 * HOUR_US, 8)], 1, 3 * HOUR_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.windows.finals, report.windows.restated), (1, 0), "{report:?}");
    let served = kit.served("totals").await;
    assert_eq!(brief(window(&served, "15m", 0)), Some(("final", 1, Some(7), 3, 1, 0)));
    assert_eq!(brief(window(&served, "15m", 2 * HOUR_US)), Some(("provisional", 0, Some(8), 1, 0, 0)));
    assert_eq!(brief(window(&served, "1d", 0)), Some(("provisional", 0, Some(9), 2, 1, 1)));
    kit.reconcile_again("totals").await;
    // a late event, counted by batch; another window of the unit keeps what it has
    kit.land(&[late(row(4, 9, 16))], 1, 4 * HOUR_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.windows.finals, report.windows.restated), (1, 1), "{report:?}");
    let served = kit.served("totals").await;
    assert_eq!(brief(window(&served, "15m", 0)), Some(("restated", 2, Some(23), 4, 2, 0)));
    assert_eq!(brief(window(&served, "15m", 2 * HOUR_US)), Some(("final", 2, Some(8), 1, 0, 0)));
    kit.land(&[late(row(5, 2 * HOUR_US, 1))], 1, 4 * HOUR_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let served = kit.served("totals").await;
    assert_eq!(brief(window(&served, "15m", 0)), Some(("restated", 2, Some(23), 4, 2, 0)), "it is of its last change");
    assert_eq!(brief(window(&served, "15m", 2 * HOUR_US)), Some(("restated", 3, Some(9), 2, 1, 0)));
    kit.reconcile_again("totals").await;
}

/// HAVING takes a window away, a moved duplicate another; their absence is final, so what comes back is restated.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_vanishes_and_comes_back_is_restated() {
    let first = Row { id: "twin".into(), ..row(0, DAY_US + 5, 1) };
    let kit = landed(&[first.clone(), row(1, 5, 100)], 3 * DAY_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let served = kit.served("totals").await;
    assert_eq!(brief(window(&served, "1d", DAY_US)), Some(("final", 1, Some(1), 1, 0, 0)));
    assert_eq!(window(&served, "1d", 0), None, "HAVING takes it away");
    // an equal id on the evening before takes the count of the event after midnight
    kit.land(&[late(Row { id: "twin".into(), ..row(2, DAY_US - 5, 2) })], 1, 3 * DAY_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let served = kit.served("totals").await;
    assert_eq!(window(&served, "1d", DAY_US), None, "{served:?}");
    assert_eq!(window(&served, "15m", DAY_US), None);
    assert_eq!(brief(window(&served, "15m", DAY_US - 15 * 60_000_000)), Some(("restated", 2, Some(2), 1, 1, 0)));
    kit.reconcile_again("totals").await;
    // another event of the empty day
    kit.land(&[late(row(3, DAY_US + 6, 7))], 1, 3 * DAY_US).await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.windows.finals, report.windows.restated), (0, 2), "{report:?}");
    let served = kit.served("totals").await;
    assert_eq!(brief(window(&served, "1d", DAY_US)), Some(("restated", 3, Some(7), 1, 1, 1)));
    kit.reconcile_again("totals").await;
}

/// Speed has shown a window of which batch finds no row: it is taken away when it is covered.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_unit_takes_its_provisional_rows_away() {
    let kit = landed(&[row(0, 5, 99), Row { repeat: false, ..row(1, DAY_US + 5, 3) }], 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    assert_eq!(kit.served("totals").await.len(), 4);
    // now HAVING removes all of the first date
    kit.land(&[late(row(2, 6, 100))], 1, DAY_US + 2 * HOUR_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let served = kit.served("totals").await;
    assert_eq!((window(&served, "15m", 0), window(&served, "1d", 0)), (None, None), "{served:?}");
    assert_eq!(window(&served, "1d", DAY_US).unwrap().state, "provisional");
    kit.reconcile_again("totals").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_states_provisional_rows_stay_and_final_ones_still_come() {
    let kit = landed(&[row(0, 5, 1), row(1, DAY_US + 5, 2)], DAY_US).await;
    kit.catch_up().await;
    kit.reconcile().await;
    let before = kit.served("totals").await;
    kit.drop_speed("totals").await;
    kit.land(&[row(2, DAY_US + 6, 4)], 1, DAY_US + 2 * HOUR_US).await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!(serde_json::to_value(report.speed).unwrap(), serde_json::json!({ "totals": "none" }));
    let served = kit.served("totals").await;
    assert_eq!(window(&served, "1d", 0).unwrap().state, "final");
    assert_eq!(window(&served, "1d", DAY_US), window(&before, "1d", DAY_US), "it stays");
    kit.reconcile_again("totals").await;
    // made anew, it is as good as ever
    kit.catch_up().await;
    kit.reconcile().await;
    let served = kit.served("totals").await;
    assert_eq!(brief(window(&served, "1d", DAY_US)), Some(("provisional", 0, Some(6), 2, 0, 0)));
    kit.reconcile_again("totals").await;
}

/// States with less of the same rows in them are those of a table that is being made anew.
#[tokio::test(flavor = "multi_thread")]
async fn less_progress_never_replaces_more() {
    let kit = landed(&[row(0, 5, 1)], 0).await;
    kit.catch_up().await;
    let older = kit.path().join("older");
    copy(&kit.path().join("lake/speed/totals"), &older);
    kit.land(&[row(1, 6, 2)], 1, 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    let (before, version) = (kit.served("totals").await, kit.version("totals").await);
    assert_eq!(brief(window(&before, "15m", 0)), Some(("provisional", 0, Some(3), 2, 0, 0)));
    kit.drop_speed("totals").await;
    copy(&older, &kit.path().join("lake/speed/totals"));
    assert!(kit.reconcile().await.is_idle());
    assert_eq!(kit.served("totals").await, before);
    assert_eq!(kit.version("totals").await, version);
}

/// A lower generation is one of a batch table that was put back, or is not loaded anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_lower_generation_never_replaces_a_higher_one() {
    let kit = landed(&[row(0, 5, 1)], 2 * DAY_US).await;
    kit.batch_well().await;
    let older = kit.path().join("older");
    copy(&kit.path().join("lake/batch/totals"), &older);
    kit.land(&[late(row(1, 6, 2))], 1, 2 * DAY_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let (before, version) = (kit.served("totals").await, kit.version("totals").await);
    assert_eq!(window(&before, "1d", 0).unwrap().generation, 2);
    let batch = kit.path().join("lake/batch/totals");
    std::fs::remove_dir_all(&batch).unwrap();
    copy(&older, &batch);
    assert!(kit.reconcile().await.is_idle());
    std::fs::remove_dir_all(&batch).unwrap();
    assert!(kit.reconcile().await.is_idle(), "nor does none");
    assert_eq!((kit.served("totals").await, kit.version("totals").await), (before, version));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_rewrites_the_hours_that_change_and_no_others() {
    let rows: Vec<Row> = (0..20).map(|n| row(n, n * HOUR_US, 1)).collect();
    let kit = landed(&rows, 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    let files = |table: Option<crate::lake::Table>| async move {
        let files = table.unwrap().live_files().await.unwrap();
        files.into_iter().map(|file| file.path).collect::<std::collections::BTreeSet<_>>()
    };
    let before = files(kit.table("totals").await).await;
    assert_eq!(before.len(), 21, "one for each hour of quarters, one for the day");
    kit.land(&[row(20, 7 * HOUR_US, 1)], 1, 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    let after = files(kit.table("totals").await).await;
    let gone: Vec<&String> = before.difference(&after).collect();
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert!(gone.iter().any(|path| path.contains("granularity=15m/window_date=1970-01-01/window_hour=7/")), "{gone:?}");
    assert!(gone.iter().any(|path| path.contains("granularity=1d/window_date=1970-01-01/window_hour=0/")), "{gone:?}");
}

/// A day that is final needs no states; a pass that finds nothing new does not touch speed either.
#[tokio::test(flavor = "multi_thread")]
async fn states_of_final_days_go_away() {
    let kit = landed(&[row(0, 5, 1), row(1, DAY_US + 5, 2)], DAY_US + 2 * HOUR_US).await;
    kit.catch_up().await;
    kit.reconcile().await;
    assert_eq!(kit.floor("totals").await, None, "nothing is final yet");
    kit.batch_well().await;
    kit.reconcile().await;
    assert_eq!(kit.floor("totals").await, Some(jiff::civil::date(1970, 1, 2)));
    let version = kit.speed_table("totals").await.as_ref().map(SpeedTable::version);
    kit.reconcile_again("totals").await;
    assert_eq!(kit.speed_table("totals").await.as_ref().map(SpeedTable::version), version);
    assert_eq!(window(&kit.served("totals").await, "1d", DAY_US).unwrap().state, "provisional");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_changes_nothing_and_nothing_is_made_of_nothing() {
    let kit = Kit::new(&[TOTALS]);
    assert!(kit.reconcile().await.is_idle(), "nothing was landed");
    assert!(kit.table("totals").await.is_none());
    kit.land(&[row(0, 5, 1)], 1, DAY_US / 2).await;
    kit.catch_up().await;
    kit.batch_well().await;
    let options =
        ReconcileOptions { run_id: "r".into(), aggregates: vec!["totals".into()], parallel: 2, accept_drift: false };
    let planned = serde_json::to_value(plan_only(&kit.settings, &options).await.unwrap()).unwrap();
    let expected = serde_json::json!([
        { "unit": "totals/15m/1970-01-01", "generation": 1, "covered": "1970-01-01T11:00:00Z", "provisional": true },
        { "unit": "totals/1d/1970-01-01", "generation": null, "covered": null, "provisional": true },
    ]);
    assert_eq!(planned, expected);
    assert!(kit.table("totals").await.is_none(), "a plan makes no table");
    let unknown = ReconcileOptions { aggregates: vec!["other".into()], ..options };
    let error = plan_only(&kit.settings, &unknown).await.unwrap_err();
    assert_eq!(error.to_string(), "reconcile: there is no aggregate `other`");
}

/// A column that batch has published is served, also by a process that does not know it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_column_is_served_by_whoever_takes_it_over() {
    for old_process in [false, true] {
        let mut kit = landed(&[row(0, 5, 1), row(1, DAY_US + 5, 2)], DAY_US + 2 * HOUR_US).await;
        kit.catch_up().await;
        kit.batch_well().await;
        kit.reconcile().await;
        let old = kit.settings.clone();
        let select = "SELECT key, sum(value) AS total, max(value) AS greatest, count(*) AS n FROM events GROUP BY key";
        kit.batch.define(&[Sql { select, ..TOTALS }]);
        kit.batch_well().await;
        if old_process {
            let new = std::mem::replace(&mut kit.batch.settings, old);
            assert!(kit.reconcile().await.windows.restated > 0);
            kit.batch.settings = new;
        }
        kit.reconcile().await;
        let table = kit.table("totals").await.unwrap();
        let mut found = Vec::new();
        for file in table.live_files().await.unwrap() {
            let mut batches = table.read_file(&file, &["n", "state"]).await.unwrap();
            while let Some(batch) = batches.try_next().await.unwrap() {
                let states = batch["state"].as_string::<i32>().iter().map(|s| s.unwrap().to_owned());
                // a file that is older than the column lacks it
                let counts = batch.column_by_name("n").map(|n| n.as_primitive::<Int64Type>().clone());
                let counts = counts.unwrap_or_else(|| vec![None; batch.num_rows()].into());
                found.extend(states.zip(counts.iter()));
            }
        }
        found.sort();
        let seen = |state: &str, n: Option<i64>| (state.to_owned(), n);
        // the states are of the old definition, and stay until they are made anew
        let expected = [
            seen("provisional", None),
            seen("restated", Some(1)),
            seen("restated", Some(1)),
            seen("restated", Some(1)),
        ];
        assert_eq!(found, expected, "{old_process}");
        kit.reconcile_again("totals").await;
        kit.catch_up().await;
        kit.reconcile().await;
        assert_eq!(window(&kit.served("totals").await, "1d", DAY_US).unwrap().state, "provisional");
        kit.reconcile_again("totals").await;
    }
}

/// Values are never squeezed into a column of another type.
#[tokio::test(flavor = "multi_thread")]
async fn another_type_needs_another_name() {
    let mut kit = landed(&[row(0, 5, 1)], 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    let before = kit.served("totals").await;
    kit.batch.define(&[Sql {
        select: "SELECT key, sum(value) AS total, avg(value) AS greatest FROM events GROUP BY key",
        ..TOTALS
    }]);
    kit.catch_up().await;
    let error = kit.reconcile_on(&kit.lake).await.error.unwrap();
    assert_eq!(error.class, Class::User, "{error}");
    assert!(error.message.contains("column `greatest`"), "{error}");
    assert_eq!(kit.served("totals").await, before);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

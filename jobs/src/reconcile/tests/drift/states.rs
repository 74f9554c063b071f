//! What is stored of windows, against what the same rows give: whatever speed is like, there is no false alarm, and
//! no falsified state goes unseen.

use super::super::kit::{Kit, Row, Sql, Windows};
use super::super::steps::{TOTALS, landed, late, row};
use super::{DAY_US, HOUR_US, drift, of};
use crate::Class;
use crate::batch::Run;
use crate::lake::{Commit, CommitOutcome, FileProfile, LiveFile, Table, TableName, file_schema};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take};
use arrow::datatypes::{DataType, Int64Type};
use futures::TryStreamExt;
use proptest::prelude::*;
use std::sync::Arc;

/// What is stored is not what the same rows give: nothing explains that, and the unit is held back until the states are
/// made anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_falsified_state_is_unexplained_and_holds_its_unit_back() {
    let kit = landed(&[row(0, 5, 1), row(1, DAY_US + 5, 2)], 2 * HOUR_US).await;
    kit.catch_up().await;
    kit.reconcile().await;
    kit.batch_well().await;
    let before = kit.served("totals").await;
    let (_, _, rows) = states(&kit).await;
    let total =
        rows.schema_ref().fields().iter().find(|f| f.name().starts_with('s') && f.data_type() == &DataType::Int64);
    let lie = Lie { column: total.map(|f| f.name().clone()), row: 0 };
    assert!(lie.column.is_some(), "no state of integers: {rows:?}");
    replace(&kit, |rows| falsified(rows, &lie)).await;
    let report = kit.reconcile_on(&kit.lake).await;
    let error = report.error.unwrap();
    assert_eq!(error.class, Class::Limit);
    let expected =
        "unit `totals/15m/1970-01-01`: 1 values are unexplained, and 0 may be; the unit stays as it is served";
    assert_eq!(error.message, expected);
    assert_eq!((report.drift.unexplained, report.drift.held_units), (1, 1));
    let quarters = |served: Windows| served.into_iter().filter(|(key, _)| key.0 == "15m").collect::<Windows>();
    assert_eq!(quarters(kit.served("totals").await), quarters(before), "not published");
    let ways = drift(&kit, "totals").await;
    assert_eq!(of(&ways, "15m", 0, 1).unwrap().unexplained, 1, "and it can be looked at");
    // made anew, they are as good as ever
    kit.drop_speed("totals").await;
    kit.catch_up().await;
    kit.reconcile().await;
    assert_eq!(kit.served("totals").await[&("15m".to_owned(), 0, Some("k".to_owned()))].state, "final");
    assert!(drift(&kit, "totals").await.is_empty());
}

/// What speed is like when a date is covered for the first time.
#[derive(Debug, Clone, Copy)]
enum Speed {
    Absent,
    OfAnotherDefinition,
    BehindThePin,
    AheadOfThePin,
    Off,
}

/// The drift is the same, whatever speed is like: it comes from raw.
#[rstest::rstest]
#[case(Speed::Absent)]
#[case(Speed::OfAnotherDefinition)]
#[case(Speed::BehindThePin)]
#[case(Speed::AheadOfThePin)]
#[case(Speed::Off)]
#[tokio::test(flavor = "multi_thread")]
async fn drift_does_not_depend_on_speed(#[case] speed: Speed) {
    let mut kit = landed(&[row(0, 5, 1)], 0).await;
    if !matches!(speed, Speed::Absent) {
        if let Speed::OfAnotherDefinition = speed {
            kit.batch.define(&[Sql { select: "SELECT key, sum(value) AS total FROM events GROUP BY key", ..TOTALS }]);
        }
        kit.catch_up().await;
        kit.batch.define(&[TOTALS]);
    }
    kit.land(&[row(1, 6, 2), late(row(2, 7, 4))], 1, 4 * DAY_US).await;
    kit.batch_well().await;
    match speed {
        Speed::AheadOfThePin => {
            kit.land(&[row(3, 8, 8)], 1, 4 * DAY_US).await;
            kit.catch_up().await;
        }
        Speed::Off => kit.head(|file| file.speed = false),
        _ => {}
    }
    let report = kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    if let Speed::Off = speed {
        // nothing was shown, so nothing has moved
        assert_eq!((report.drift.moved, ways.len()), (0, 0), "{ways:?}");
        kit.land(&[late(row(3, 8, 8))], 1, 4 * DAY_US).await;
        kit.batch_well().await;
        let report = kit.reconcile().await;
        assert_eq!((report.drift.moved, report.drift.unexplained), (2, 0));
        let ways = drift(&kit, "totals").await;
        assert_eq!(of(&ways, "1d", 0, 2).unwrap().totals(), [7, 3, 11, 11, 15, 15].map(Some));
        return kit.reconcile_again("totals").await;
    }
    assert_eq!((report.drift.moved, report.drift.unexplained, report.drift.unknown_units), (2, 0, 0), "{report:?}");
    for granularity in ["15m", "1d"] {
        assert_eq!(of(&ways, granularity, 0, 1).unwrap().totals()[1..], [3, 3, 3, 7, 7].map(Some));
    }
}

/// A change of one row of the states.
#[derive(Debug, Clone)]
struct Lie {
    /// None leaves the row out.
    column: Option<String>,
    row: usize,
}

/// Each value depends on each column of its states, whatever the others are.
const FUNCTIONS: &str = "SELECT key, sum(value) AS total, max(value) AS greatest, avg(value) AS mean, \
     count(value) AS some, min(value) AS least, bool_and(value > 30) AS every, median(value) AS middle \
     FROM events GROUP BY key";

/// Two keys with two quarters each, complete, and not yet served as that.
async fn complete() -> Kit {
    let kit = Kit::new(&[Sql { select: FUNCTIONS, ..TOTALS }]);
    let rows = (0..12).map(|n| {
        let row = row(n, n % 4 / 2 * HOUR_US + n, n * n + 1);
        Row { key: Some(format!("key {}", n % 2)), repeat: n == 10, ..if n == 11 { late(row) } else { row } }
    });
    kit.land(&rows.collect::<Vec<_>>(), 9, 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    kit.land(&[], 1, 4 * DAY_US).await;
    kit.batch_well().await;
    kit
}

/// The states of the first date, as one batch, and their files.
async fn states(kit: &Kit) -> (Table, Vec<LiveFile>, RecordBatch) {
    let table = kit.lake.open_table(&TableName::new("speed", "totals")).await.unwrap().unwrap();
    let mut files = table.live_files().await.unwrap();
    let first = files.iter().map(|file| file.partition_values["window_date"].clone()).min().unwrap();
    files.retain(|file| file.partition_values["window_date"] == first);
    let schema = file_schema(table.schema(), table.partition_columns());
    let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let mut batches = Vec::new();
    for file in &files {
        batches.extend(table.read_file(file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap());
    }
    let rows = concat_batches(&batches[0].schema(), &batches).unwrap();
    (table, files, rows)
}

/// Puts other states of the first date in place, and gives those that were there.
async fn replace(kit: &Kit, change: impl FnOnce(&RecordBatch) -> RecordBatch) -> RecordBatch {
    let (mut table, files, rows) = states(kit).await;
    let put = table.put_rows(files[0].partition_values.clone(), FileProfile::new(rows.schema()), vec![change(&rows)]);
    let mut commit = Commit::new("WRITE", &Run::new("falsifier").identity()).unwrap();
    commit.adds = put.await.unwrap().into_iter().collect();
    commit.removes = files;
    assert!(matches!(table.commit(commit).await, CommitOutcome::Committed(_)));
    rows
}

fn falsified(rows: &RecordBatch, lie: &Lie) -> RecordBatch {
    let Some(column) = &lie.column else {
        let mask: BooleanArray = (0..rows.num_rows()).map(|row| Some(row != lie.row)).collect();
        return filter_record_batch(rows, &mask).unwrap();
    };
    let place = rows.schema_ref().index_of(column).unwrap();
    let mut arrays = rows.columns().to_vec();
    arrays[place] = other_in(&arrays[place], lie.row);
    let batch = RecordBatch::try_new(rows.schema(), arrays).unwrap();
    assert_ne!(&batch, rows, "{lie:?} changes nothing");
    batch
}

/// The array with another value in one row: one more, else what another row has, else null.
fn other_in(array: &ArrayRef, row: usize) -> ArrayRef {
    if let DataType::Int64 = array.data_type() {
        let values = array.as_primitive::<Int64Type>().iter().enumerate();
        let values = values.map(|(n, v)| if n == row { Some(v.map_or(7, |v| v + 1)) } else { v });
        return Arc::new(values.collect::<Int64Array>());
    }
    let differs = |n: &usize| array.slice(*n, 1).as_ref() != array.slice(row, 1).as_ref();
    let other = (0..array.len()).find(differs).map(|n| n as u32);
    let places = (0..array.len()).map(|n| if n == row { other } else { Some(n as u32) });
    take(array, &places.collect::<UInt32Array>(), None).unwrap()
}

/// Tells a lie of each column, and one of a row; `row` says in which.
async fn tell_lies(row: usize) {
    let kit = complete().await;
    let (_, _, rows) = states(&kit).await;
    let schema = rows.schema();
    let is_state = |name: &&str| !name.starts_with('_') && !["events", "late", "repeats"].contains(name);
    let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).filter(is_state).collect();
    assert!(columns.len() > 12 && rows.num_rows() == 4, "{rows:?}");
    for (n, column) in columns.into_iter().map(Some).chain([None]).enumerate() {
        let lie = Lie { column: column.map(str::to_owned), row: (row + n) % rows.num_rows() };
        let truth = replace(&kit, |rows| falsified(rows, &lie)).await;
        let report = kit.reconcile_on(&kit.lake).await;
        assert_eq!(report.error.as_ref().map(|e| e.class), Some(Class::Limit), "{lie:?}: {report:?}");
        assert!(report.drift.unexplained > 0, "{lie:?}");
        let ways = drift(&kit, "totals").await;
        assert!(ways.iter().any(|(key, way)| key.0 == "15m" && way.unexplained > 0), "{lie:?}: {ways:?}");
        replace(&kit, |_| truth).await;
    }
    let report = kit.reconcile().await;
    assert_eq!(report.drift.unexplained, 0, "{report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, ..ProptestConfig::default() })]
    #[test]
    fn any_falsified_state_of_what_is_covered_next_is_unexplained(row in 0..4_usize) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(tell_lies(row));
    }
}

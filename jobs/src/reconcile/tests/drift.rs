//! The way of windows: which step each event belongs to, what is left unexplained, and who is held back by it.

use super::kit::{Kit, Row, Windows};
use super::steps::{landed, late, row};
use crate::batch::Run;
use crate::lake::{Commit, CommitOutcome, FileProfile, TableName, file_schema};
use crate::reconcile::{DriftCounts, drift_name};
use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;

const DAY_US: i64 = 86_400_000_000;
const HOUR_US: i64 = 3_600_000_000;

/// Granularity, window start, key, generation.
type Key = (String, i64, Option<String>, i64);

/// Total and events after each step that has a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub steps: BTreeMap<&'static str, (Option<i64>, i64)>,
    pub unexplained: i64,
    pub first_pin: String,
}

impl Way {
    /// Totals of: served, base, arrived, fills, late, dedup.
    fn totals(&self) -> [Option<i64>; 6] {
        ["served", "base", "arrived", "fills", "late", "dedup"].map(|step| self.steps.get(step).and_then(|s| s.0))
    }
}

pub async fn drift(kit: &Kit, aggregate: &str) -> BTreeMap<Key, Way> {
    let mut ways = BTreeMap::new();
    let Some(table) = kit.lake.open_table(&drift_name(aggregate)).await.unwrap() else { return ways };
    let steps = ["served", "definition", "base", "arrived", "fills", "late", "dedup"];
    let columns: Vec<&str> =
        ["window_start", "key", "generation", "first_pin", "unexplained"].into_iter().chain(steps).collect();
    for file in table.live_files().await.unwrap() {
        let granularity = file.partition_values["granularity"].clone().unwrap();
        for batch in table.read_file(&file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
            let int = |name: &str| batch[name].as_primitive::<Int64Type>().clone();
            let keys = batch["key"].as_string::<i32>();
            for n in 0..batch.num_rows() {
                let key = keys.is_valid(n).then(|| keys.value(n).to_owned());
                let start = batch["window_start"].as_primitive::<TimestampMicrosecondType>().value(n);
                let values = steps.into_iter().filter(|step| batch[*step].is_valid(n)).map(|step| {
                    let column = batch[step].as_struct();
                    let int = |name: &str| column.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
                    let total = int("total");
                    (step, (total.is_valid(n).then(|| total.value(n)), int("events").value(n)))
                });
                let (steps, unexplained) = (values.collect(), int("unexplained").value(n));
                let first_pin = batch["first_pin"].as_string::<i32>().value(n).to_owned();
                let way = Way { steps, unexplained, first_pin };
                let before = ways.insert((granularity.clone(), start, key, int("generation").value(n)), way);
                assert!(before.is_none(), "one row per window, key and generation");
            }
        }
    }
    ways
}

fn of<'w>(ways: &'w BTreeMap<Key, Way>, granularity: &str, start: i64, generation: i64) -> Option<&'w Way> {
    ways.get(&(granularity.to_owned(), start, Some("k".to_owned()), generation))
}

/// Every event is in the step that its lateness, its copies and its arrival call for, over three generations.
#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_in_the_first_step_that_fits() {
    let copy = Row { repeat: true, ..row(2, 7, 4) };
    let kit = landed(&[row(0, 5, 1), late(row(1, 6, 2)), copy], 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    assert!(drift(&kit, "totals").await.is_empty(), "nothing is final yet");
    kit.land(&[row(3, 2 * HOUR_US, 8)], 1, 3 * HOUR_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!(report.drift, DriftCounts { moved: 1, ..DriftCounts::default() });
    let ways = drift(&kit, "totals").await;
    let first = of(&ways, "15m", 0, 1).unwrap().clone();
    // landing took an event for a repeat that batch counts
    assert_eq!(first.totals(), [Some(1), Some(1), Some(1), Some(1), Some(3), Some(7)]);
    assert_eq!((first.unexplained, ways.len()), (0, 1), "{ways:?}");
    kit.reconcile_again("totals").await;
    // late, and after what was served
    kit.land(&[late(row(4, 9, 16))], 1, 4 * HOUR_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    let report = kit.reconcile().await;
    assert_eq!((report.drift.moved, report.drift.unexplained), (1, 0));
    let ways = drift(&kit, "totals").await;
    assert_eq!(of(&ways, "15m", 0, 1), Some(&first), "what was served stays");
    let second = of(&ways, "15m", 0, 2).unwrap();
    assert_eq!(second.totals(), [Some(7), Some(1), Some(17), Some(17), Some(19), Some(23)]);
    assert_eq!((&second.first_pin, second.unexplained), (&first.first_pin, 0));
    // the day is covered at last; the quarter is restated once more
    kit.land(&[late(row(5, 11, 32))], 1, 2 * DAY_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    let third = of(&ways, "15m", 0, 3).unwrap();
    assert_eq!(third.totals(), [Some(23), Some(1), Some(33), Some(33), Some(51), Some(55)]);
    assert_eq!(third.first_pin, first.first_pin, "it outlives restatements");
    let day = of(&ways, "1d", 0, 1).unwrap();
    assert_eq!(day.totals(), [Some(9), Some(9), Some(9), Some(9), Some(59), Some(63)]);
    assert_eq!(ways.values().map(|way| way.unexplained).sum::<i64>(), 0);
    kit.reconcile_again("totals").await;
}

/// A window that HAVING takes away, and one that only late events make.
#[tokio::test(flavor = "multi_thread")]
async fn windows_that_come_and_go_have_steps_without_values() {
    let kit = landed(&[row(0, 5, 99), late(row(1, DAY_US + 5, 3)), late(row(2, 6, 100))], DAY_US + 20 * HOUR_US).await;
    kit.catch_up().await;
    kit.batch_well().await;
    kit.reconcile().await;
    let ways = drift(&kit, "totals").await;
    let gone = of(&ways, "15m", 0, 1).unwrap();
    assert_eq!(gone.totals(), [None, Some(99), Some(99), Some(99), None, None], "HAVING takes it away");
    let come = of(&ways, "15m", DAY_US, 1).unwrap();
    assert_eq!(come.totals(), [None, None, None, None, Some(3), Some(3)]);
    assert_eq!(ways.values().map(|way| way.unexplained).sum::<i64>(), 0, "{ways:?}");
}

/// What is stored is not what the same rows give: nothing explains that, and the unit is held back until the states are
/// made anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_falsified_state_is_unexplained_and_holds_its_unit_back() {
    let kit = landed(&[row(0, 5, 1), row(1, DAY_US + 5, 2)], 2 * HOUR_US).await;
    kit.catch_up().await;
    kit.reconcile().await;
    kit.batch_well().await;
    let before = kit.served("totals").await;
    falsify(&kit).await;
    let report = kit.reconcile_on(&kit.lake).await;
    let error = report.error.unwrap();
    assert_eq!(error.class, crate::Class::Limit);
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

/// Adds one to the first number of the states of a file.
async fn falsify(kit: &Kit) {
    let mut table = kit.lake.open_table(&TableName::new("speed", "totals")).await.unwrap().unwrap();
    let mut files = table.live_files().await.unwrap();
    files.sort_by_key(|file| file.partition_values["window_date"].clone());
    let file = files.remove(0);
    let schema = file_schema(table.schema(), table.partition_columns());
    let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let batches: Vec<_> = table.read_file(&file, &columns).await.unwrap().try_collect().await.unwrap();
    let place =
        columns.iter().position(|name| name.starts_with('s') && batches[0][*name].data_type() == &DataType::Int64);
    let place = place.unwrap_or_else(|| panic!("no state of integers: {schema:?}"));
    let falsified = batches.iter().map(|batch| {
        let mut arrays = batch.columns().to_vec();
        let values = arrays[place].as_primitive::<Int64Type>();
        arrays[place] = Arc::new(values.iter().map(|v| v.map(|v| v + 1)).collect::<Int64Array>());
        RecordBatch::try_new(batch.schema(), arrays).unwrap()
    });
    let put = table.put_rows(file.partition_values.clone(), FileProfile::new(batches[0].schema()), falsified.collect());
    let mut commit = Commit::new("WRITE", &Run::new("falsifier").identity()).unwrap();
    commit.adds = put.await.unwrap().into_iter().collect();
    commit.removes = vec![file];
    assert!(matches!(table.commit(commit).await, CommitOutcome::Committed(_)));
}

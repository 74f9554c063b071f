//! Whatever the SELECT: states of landed rows, by partition and put together again, give what the rows that
//! count give, and the number of the others.

use super::super::*;
use super::golden::{file, folder, project};
use super::session;
use super::trips::{batch, streams, trip};
use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use std::sync::Arc;

/// Landed rows: which are on time, which are late, and which of those on time are repeats.
fn landed_rows() -> (RecordBatch, [BooleanArray; 3]) {
    let mut runner = TestRunner::deterministic();
    let trips = prop::collection::vec(trip(), 400).new_tree(&mut runner).unwrap().current();
    let trips: Vec<_> = trips.into_iter().filter(|t| t.behind_ms.is_some()).enumerate().collect();
    let rows = batch(&trips);
    let repeats: BooleanArray = (0..rows.num_rows()).map(|n| Some(n % 5 == 2)).collect();
    let index = rows.schema().index_of("_repeat").unwrap();
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns[index] = Arc::new(repeats.clone());
    let rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
    let lateness_ms = super::trips::source().lateness_ms;
    let late: BooleanArray =
        rows["_behind_ms"].as_primitive::<Int64Type>().iter().map(|ms| Some(ms.unwrap() > lateness_ms)).collect();
    let pick = |of: &dyn Fn(usize) -> bool| -> BooleanArray { (0..rows.num_rows()).map(|n| Some(of(n))).collect() };
    let counts = pick(&|n| !late.value(n) && !repeats.value(n));
    let repeated = pick(&|n| !late.value(n) && repeats.value(n));
    (rows, [counts, late, repeated])
}

fn without_counts(finished: &[Finished]) -> Vec<Vec<RecordBatch>> {
    let kept = |batch: &RecordBatch| {
        let names = batch.schema();
        let columns: Vec<usize> = (0..batch.num_columns())
            .filter(|n| !["late", "duplicates"].contains(&names.field(*n).name().as_str()))
            .collect();
        batch.project(&columns).unwrap()
    };
    finished.iter().map(|f| f.rows.iter().map(kept).collect()).collect()
}

#[tokio::test]
async fn every_good_select_makes_states_of_landed_rows() {
    let settings = project();
    let session = session(2);
    let source = Source::of(&settings.pipelines[0]);
    let lookups = Lookups::load(&settings, &session).await.unwrap();
    let (rows, [counts, late, repeated]) = landed_rows();
    assert!([&counts, &late, &repeated].iter().all(|mask| mask.true_count() > 5));
    let mut seen = 0;
    for entry in std::fs::read_dir(folder().join("good")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "sql") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let file = file(&name, std::fs::read_to_string(&path).unwrap());
        let definition = Definition::new(&file, &source, &lookups, &session).await.unwrap();
        let only: Vec<usize> =
            definition.needed_landed.iter().map(|column| rows.schema().index_of(column).unwrap()).collect();
        let needed = rows.project(&only).unwrap();
        let half = rows.num_rows() / 2;
        let parts = vec![vec![needed.slice(0, half)], vec![needed.slice(half, rows.num_rows() - half)]];
        let by_partition = definition.landed(streams(parts)).await.unwrap();
        assert!(by_partition.len() <= 3, "{name}");
        let states = by_partition.into_values().flat_map(|s| s.batches().cloned().collect::<Vec<_>>());
        // through the table's types and back
        let states = definition.stored(&states.collect::<Vec<_>>()).unwrap();
        let landed = definition.finish(&definition.merge([states]).await.unwrap()).await.unwrap();
        let on_time = filter_record_batch(&rows, &counts).unwrap();
        let right = definition.partial(streams(vec![vec![on_time]]), Life::Stored).await.unwrap();
        let right = definition.finish(&right).await.unwrap();
        assert_eq!(without_counts(&landed), without_counts(&right), "{name}");
        if !definition.filters() {
            let all = |of: fn(&Counted) -> i64| landed[0].counted.values().map(of).sum::<i64>();
            let sums = [all(|c| c.events), all(|c| c.late), all(|c| c.duplicates), all(|c| c.filled)];
            let expected = [counts.true_count(), late.true_count(), repeated.true_count(), 0].map(|n| n as i64);
            assert_eq!(sums, expected, "{name}");
        }
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}

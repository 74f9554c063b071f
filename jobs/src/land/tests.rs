//! Partitions taken over where landing left many files, through a store that holds reads back.

use super::last_ids::last_ids;
use super::meter::Meter;
use super::takeover::Takeover;
use super::{StreamOptions, decode::id_hashes, rows, stream_on};
use crate::kafka::producer::Outgoing;
use crate::kafka::watermarks::Watermarks;
use crate::lake::faults::{Fault, FaultCount, Script, data_files_of};
use crate::lake::{Lake, Table, TableName};
use crate::project::settings::Pipeline;
use crate::rejects::tests::kit::{Kit, NOW_MS, PARTITIONS, TOPIC, event};
use deltaworks_core::place::Offset;
use futures::TryStreamExt;
use rstest::rstest;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Rows of a commit, by the kit's project; a poll that comes early may make it fewer.
const ROWS: usize = 20;

/// Rows for so many files of each partition and none of both; some ids come again.
async fn landed(files: usize) -> Kit {
    let kit = Kit::new();
    for partition in 0..PARTITIONS {
        let payloads: Vec<String> = (0..ROWS * files).map(|n| event(n % 47, 1)).collect();
        let message = |payload| Outgoing {
            partition: Some(partition),
            payload: Some(payload),
            timestamp_ms: Some(NOW_MS),
            ..Outgoing::default()
        };
        kit.send(&payloads.iter().map(|payload| message(payload.as_bytes())).collect::<Vec<_>>());
        kit.land().await;
    }
    kit
}

/// The kit's lake behind a store that holds reads of raw's files.
fn holding(kit: &Kit) -> (Lake, FaultCount) {
    let mut script = Script::new();
    let held = script.add(Fault::HoldRead, data_files_of("raw/events"), 0, usize::MAX);
    (kit.lake.clone().with_store_decorator(|store| script.wrap(store)), held)
}

/// The last ids by reading all of raw.
async fn naive(raw: &Table, nexts: &[(i32, Offset)], rows_max: usize) -> BTreeMap<i32, Vec<Option<u128>>> {
    let mut all = BTreeMap::new();
    for file in raw.live_files().await.unwrap() {
        let batches = raw.read_file(&file, &["_partition", "_offset", "id"]).await.unwrap();
        for batch in batches.try_collect::<Vec<_>>().await.unwrap() {
            let (partitions, offsets) = (rows::partition_column(&batch).unwrap(), rows::offset_column(&batch).unwrap());
            let places = partitions.values().iter().copied().zip(offsets.values().iter().copied());
            all.extend(places.zip(id_hashes(&batch, "id").unwrap()));
        }
    }
    let last = |partition: i32, next: i64| {
        let rows = all.range((partition, 0)..(partition, next)).map(|(_, hash)| *hash).collect::<Vec<_>>();
        rows[rows.len().saturating_sub(rows_max)..].to_vec()
    };
    nexts.iter().map(|(partition, next)| (*partition, last(*partition, next.0))).collect()
}

#[rstest]
#[case::of_all_files(5, 999, &[(0, 100), (1, 100)], 0)]
#[case::of_one_partition(5, 999, &[(1, 100)], 5)]
#[case::of_an_older_snapshot(5, 30, &[(0, 100), (1, 33)], 0)]
#[case::of_the_files_that_are_read_first(20, 20, &[(0, 400), (1, 400)], 8)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_ids_are_those_of_the_last_rows(
    #[case] files: usize,
    #[case] repeat_rows: usize,
    #[case] nexts: &[(i32, i64)],
    #[case] spared: usize,
) {
    let kit = landed(files).await;
    let wanted: Vec<_> = nexts.iter().map(|(partition, next)| (*partition, Offset(*next))).collect();
    let pipeline = Pipeline { repeat_rows, ..Pipeline::clone(kit.pipeline()) };
    let mut script = Script::new();
    let reads = script.add(Fault::FailRead, data_files_of("raw/events"), 0, 0);
    let raw = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let raw = raw.open_table(&TableName::new("raw", "events")).await.unwrap().unwrap();
    let found = last_ids(&raw, &pipeline, TOPIC, &wanted).await.unwrap();
    // footer and columns of each file
    let (read, there) = (reads.met() / 2, raw.live_files().await.unwrap().len());
    assert!(read + spared <= there && there >= 2 * files, "{read} of {there} files were read");
    assert_eq!(found, naive(&raw, &wanted, repeat_rows).await);
    for (partition, next) in nexts {
        assert_eq!(found[partition].len(), repeat_rows.min(*next as usize));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_reads_files_side_by_side_and_lets_others_commit() {
    let kit = landed(5).await;
    let (lake, held) = holding(&kit);
    let raw = lake.open_table(&TableName::new("raw", "events")).await.unwrap().unwrap();
    let raw = Arc::new(Mutex::new(raw));
    let watermarks = Arc::new(Watermarks::open(&kit.settings.kafka).unwrap());
    let (pipeline, options) = (kit.pipeline().clone(), kit.stream_options());
    let mut takeover = Takeover::begin(pipeline, options, raw.clone(), watermarks, &Kit::clock()).unwrap();
    let taking = tokio::spawn(async move { takeover.take(&[0, 1]).await });
    // none of them was let through
    held.until_fired(10).await;
    assert!(raw.try_lock().is_ok(), "a takeover keeps others from committing");
    (0..1_000).for_each(|_| held.let_one_through());
    let taken = taking.await.unwrap().unwrap();
    let shown: Vec<_> = taken.iter().map(|t| (t.partition, t.progress.next.0, t.last_ids.len())).collect();
    assert_eq!(shown, [(0, 100, 100), (1, 100, 100)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_a_takeover() {
    let kit = landed(5).await;
    kit.send_values(&[1, 2]);
    let (lake, held) = holding(&kit);
    let options = StreamOptions { until_caught_up: false, ..kit.stream_options() };
    let (clock, stop, taps) = (Kit::clock(), CancellationToken::new(), Default::default());
    let meters = [Arc::new(Meter::new("events", NOW_MS))];
    let stream = stream_on(&lake, &kit.settings, &kit.settings.pipelines, &options, &meters, &clock, &stop, &taps);
    let stopping = async {
        held.until_fired(1).await;
        stop.cancel();
    };
    let (report, ()) = tokio::join!(stream, stopping);
    assert!(report.stopped && report.error.is_none(), "{report:?}");
    assert_eq!(kit.raw().await.len(), 200);
    kit.land().await;
    assert_eq!(kit.raw().await.len(), 202);
    kit.prove().await;
}

//! Numbers, columns and counts of what is read.

use super::kit::{Kit, Row, committed};
use crate::batch::columns::named;
use crate::batch::ids::share_an_id;
use crate::batch::input::Input;
use crate::batch::scan::{Numbered, in_background};
use crate::error::Class;
use crate::lake::faults::{Fault, Script};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Date32Type, Int64Type};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};

fn row(offset: i64, at_us: i64) -> Row {
    Row {
        id: format!("id-{offset}"),
        at_us,
        value: Some(offset * 10),
        key: None,
        kafka_us: None,
        partition: 0,
        offset,
        behind_ms: 0,
        repeat: false,
    }
}

async fn input(kit: &Kit) -> Input {
    Input::gather(&kit.lake, kit.pipeline(), None).await.unwrap().unwrap()
}

async fn read(kit: &Kit, columns: &[&str], parts: usize) -> Result<Vec<Vec<Numbered>>, crate::Error> {
    let input = input(kit).await;
    let wanted = named(&input.source.schema, columns.iter().copied());
    let (_, files) = input.dates.first_key_value().unwrap();
    let streams = files.read(&input.raw, &wanted, parts);
    futures::future::try_join_all(streams.into_iter().map(|s| in_background(s).try_collect::<Vec<_>>())).await
}

#[tokio::test]
async fn a_row_has_one_number_whoever_reads_it() {
    let kit = Kit::new(&[]);
    let rows: Vec<Row> = (0..23).map(|n| row(n, n * 1_000_000)).collect();
    kit.land(&rows, 4, 1_000_000_000_000).await;
    let mut seen: BTreeSet<BTreeMap<u32, i64>> = BTreeSet::new();
    for (parts, columns) in [(1, vec!["value", "event_date"]), (2, vec!["value"]), (9, vec!["value", "_offset"])] {
        let mut numbers = BTreeMap::new();
        for Numbered { first, batch } in read(&kit, &columns, parts).await.unwrap().into_iter().flatten() {
            let values = batch["value"].as_primitive::<Int64Type>();
            numbers.extend((first..).zip(values.values().iter().copied()));
            if let Some(dates) = batch.column_by_name("event_date") {
                assert!(dates.as_primitive::<Date32Type>().values().iter().all(|day| *day == 0));
            }
        }
        assert_eq!(numbers.keys().copied().collect::<Vec<_>>(), (0..23).collect::<Vec<_>>());
        assert_eq!(numbers.values().collect::<BTreeSet<_>>().len(), 23);
        seen.insert(numbers);
    }
    assert_eq!(seen.len(), 1, "numbers do not depend on the parts");
}

#[tokio::test]
async fn ids_are_compared_without_the_files_that_the_last_pin_contains() {
    const DAY_US: i64 = 86_400_000_000;
    let (kit, of) = (Kit::new(&[]), |partition, offset, id: i64, at_us| {
        let id = format!("id-{id}");
        Row { id, partition, ..row(offset, at_us) }
    });
    // partition 1 gets no more rows, so that its low `next` hides no file
    kit.land(&[of(0, 0, 0, 5), of(0, 1, 1, 6), of(1, 0, 2, DAY_US + 5), of(0, 2, 3, DAY_US + 6)], 1, DAY_US).await;
    let (last, old) = (input(&kit).await.pin, kit.raw().await.live_files().await.unwrap());
    for (offset, id, shared) in [(3, 7, false), (4, 2, true)] {
        kit.land(&[of(0, offset, id, 7)], 1, DAY_US).await;
        let mut script = Script::new();
        let paths: Vec<String> = old.iter().map(|f| f.path.clone()).filter(|p| p.contains("1970-01-01")).collect();
        let reads = script.add(Fault::FailRead, move |p| paths.iter().any(|old| p.as_ref().ends_with(old)), 0, 0);
        let lake = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
        let now = Input::gather(&lake, kit.pipeline(), None).await.unwrap().unwrap();
        let mut dates = now.dates.values();
        let (day, next) = (dates.next(), dates.next());
        assert_eq!(share_an_id(&now, &last, day, next, 2).await.unwrap(), shared);
        assert_eq!(reads.met(), 0, "old files of the dedup day are not read");
        // a partition that appears has new rows at low offsets
        let mut without = last.clone();
        without.next.get_mut("events").unwrap().remove(&0);
        assert!(!share_an_id(&now, &without, day, next, 2).await.unwrap() || shared);
        assert!(reads.met() > 0);
    }
}

#[tokio::test]
async fn an_old_file_lacks_a_later_column() {
    let kit = Kit::new(&[]);
    let raw = kit.raw().await;
    let batch = kit.batch_of(&[row(0, 0)]);
    let without: Vec<usize> = (0..batch.num_columns()).filter(|i| batch.schema().field(*i).name() != "key").collect();
    let old: RecordBatch = batch.project(&without).unwrap();
    let profile = crate::lake::FileProfile::new(old.schema());
    let values = [("event_date".to_owned(), Some("1970-01-01".to_owned()))].into();
    let added = raw.sink().put(values, crate::lake::encode(&profile, [Ok(old)]).unwrap()).await.unwrap();
    let mut commit = kit.commit();
    commit.adds = vec![added];
    committed(raw.clone().commit(commit).await);
    let read = read(&kit, &["key", "value"], 1).await.unwrap();
    let batch = &read[0][0].batch;
    assert_eq!((batch.num_rows(), batch["key"].null_count()), (1, 1));
}

#[tokio::test]
async fn a_file_that_has_other_rows_than_the_log_says_is_an_error() {
    for (said, class) in [(3, Class::Internal), (1, Class::Internal)] {
        let kit = Kit::new(&[]);
        let mut raw = kit.raw().await;
        let mut added = kit.put(&raw, "1970-01-01", &kit.batch_of(&[row(0, 0), row(1, 1)])).await;
        added.stats = format!("{{\"numRecords\":{said}}}");
        let mut commit = kit.commit();
        commit.adds = vec![added];
        committed(raw.commit(commit).await);
        let error = read(&kit, &["value"], 1).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.contains("2 rows"), "{error}");
    }
}

#[tokio::test]
async fn a_task_that_breaks_down_is_no_end() {
    let panics = futures::stream::iter(0..3).map(|n| if n == 1 { panic!("on purpose") } else { Ok(n) }).boxed();
    let items: Vec<Result<i32, _>> = in_background(panics).collect().await;
    assert_eq!(items[0].as_ref().unwrap(), &0);
    assert!(items[1].as_ref().unwrap_err().message.contains("broke down"));
    assert_eq!(items.len(), 2);
}

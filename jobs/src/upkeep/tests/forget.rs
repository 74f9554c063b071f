//! A person's rows leave raw and rejects, and nothing else does.

use super::live;
use super::retain::{TOTALS, day, proved, row, served};
use super::{DAY_US, raw_name};
use crate::error::Class;
use crate::lake::faults::{Fault, Script, commits_of};
use crate::lake::{Commit, FileProfile, Lake, PartitionValues, Table, TableName, encode, file_schema};
use crate::land::tables::rejects_table;
use crate::reconcile::tests::kit::{Kit, LATENESS_US, Row};
use crate::upkeep::{ForgetOptions, ForgetReport, forget_on, plan_forget};
use arrow::array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array};
use deltaworks_core::progress::AppIds;
use rstest::rstest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio_util::sync::CancellationToken;

fn options(kit: &Kit, key: &str) -> ForgetOptions {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    ForgetOptions {
        run_id: format!("forget-{}", RUNS.fetch_add(1, Relaxed)),
        pipeline: kit.pipeline().clone(),
        key: key.to_owned(),
        because: Some("case 7".to_owned()),
    }
}

async fn forgotten_on(kit: &Kit, lake: &Lake, key: &str) -> ForgetReport {
    forget_on(lake, &kit.settings, &options(kit, key), &CancellationToken::new()).await
}

async fn forgotten(kit: &Kit, key: &str) -> ForgetReport {
    let report = forgotten_on(kit, &kit.lake, key).await;
    assert!(report.error.is_none() && !report.stopped, "{report:?}");
    report
}

/// Keys of all rows of raw, by place.
async fn keys(kit: &Kit) -> BTreeMap<i64, Option<String>> {
    let (table, files) = live(&kit.lake).await;
    let mut found = BTreeMap::new();
    for file in files {
        let rows = crate::batch::rows_of(&table, &[file], table.schema()).await.unwrap();
        for batch in rows {
            let offsets = crate::batch::primitive::<arrow::datatypes::Int64Type>(&batch, "_offset").unwrap();
            let keys = crate::batch::texts(&batch, "key").unwrap();
            found.extend(offsets.values().iter().copied().zip(keys.iter().map(|key| key.map(str::to_owned))));
        }
    }
    found
}

/// Everything that the log and the rows say, as bytes.
fn said(kit: &Kit) -> String {
    let log = std::fs::read_dir(kit.path().join("lake/raw/events/_delta_log")).unwrap();
    let texts = log.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_rows_go_and_their_windows_are_restated() {
    let kit = served().await;
    kit.catch_up().await;
    let before = keys(&kit).await;
    let (files, served_before) = (live(&kit.lake).await.1, kit.served("totals").await);
    // one in the third day, one in the fifth
    let ann = |offset, at| Row { key: Some("ann".to_owned()), ..row(offset, at) };
    kit.land(&[ann(30, 2 * DAY_US + 5), row(31, 2 * DAY_US + 6)], 4, 5 * DAY_US + LATENESS_US).await;
    kit.land(&[ann(32, 4 * DAY_US + 5)], 4, 5 * DAY_US + LATENESS_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    assert!(kit.served("totals").await.keys().any(|(.., key)| key.as_deref() == Some("ann")));
    let planned = plan_forget(&kit.settings, &options(&kit, "key=ann")).await.unwrap();
    assert_eq!(planned.iter().map(|d| (d.date, d.files, d.rows)).collect::<Vec<_>>(), [(day(3), 1, 1), (day(5), 1, 1)]);
    assert_eq!(keys(&kit).await.len(), 33, "a plan changes nothing");
    let report = forgotten(&kit, "key=ann").await;
    assert_eq!(report.dates.iter().map(|d| (d.date, d.rows)).collect::<Vec<_>>(), [(day(3), 1), (day(5), 1)]);
    let mut expected = before;
    expected.insert(31, row(31, 0).key);
    assert_eq!(keys(&kit).await, expected, "every other row stays");
    let paths: BTreeSet<String> = live(&kit.lake).await.1.into_iter().map(|file| file.path).collect();
    assert!(files.iter().all(|file| paths.contains(&file.path)), "files without such rows are not touched");
    let raw = kit.raw().await;
    let rewritten = |date| raw.txns().get(&AppIds::new("events").rewritten(day(date))).copied();
    assert_eq!([rewritten(2), rewritten(3), rewritten(5)], [None, Some(1), Some(1)]);
    let head = raw.commit_heads(raw.version(), raw.version()).await.unwrap().remove(0).info.unwrap();
    assert_eq!(
        (&head["operation"], &head["source"], &head["dates"]["1970-01-05"]["rows"]),
        (&"forget".into(), &"case 7".into(), &1.into())
    );
    proved(&kit).await;
    // windows are computed and served without them, and nothing is unexplained
    assert!(kit.batch_well().await.units.changed >= 4);
    let report = kit.reconcile().await;
    assert_eq!(report.drift.unexplained, 0, "{report:?}");
    let served = kit.served("totals").await;
    assert!(served.keys().all(|(.., key)| key.as_deref() != Some("ann")), "{served:?}");
    let of_first = |windows: &crate::reconcile::tests::kit::Windows| {
        windows
            .iter()
            .filter(|((_, start, _), _)| *start < 2 * DAY_US)
            .map(|(k, s)| (k.clone(), s.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of_first(&served), of_first(&served_before), "of other dates nothing changed");
    proved(&kit).await;
    assert!(forgotten(&kit, "key=ann").await.is_idle(), "nobody is left to forget");
}

/// States that had counted the person are made anew, though nothing new has landed.
#[tokio::test(flavor = "multi_thread")]
async fn speed_begins_anew() {
    let kit = Kit::new(&[TOTALS]);
    let ann = Row { key: Some("ann".to_owned()), ..row(1, 7) };
    kit.land(&[row(0, 5), ann], 4, 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    let shown = |windows: &crate::reconcile::tests::kit::Windows| {
        windows.keys().filter_map(|(.., key)| key.clone()).collect::<BTreeSet<_>>()
    };
    assert_eq!(shown(&kit.served("totals").await).len(), 2);
    forgotten(&kit, "key=ann").await;
    // until they are, what is served stays
    let report = kit.reconcile().await;
    assert!(report.is_idle(), "{report:?}");
    kit.catch_up().await;
    kit.reconcile().await;
    assert_eq!(shown(&kit.served("totals").await), BTreeSet::from(["key 0".to_owned()]));
    // and on from there as ever
    kit.land(&[row(2, 9)], 4, 0).await;
    kit.catch_up().await;
    kit.reconcile().await;
    assert_eq!(kit.served("totals").await.values().map(|seen| seen.values.2).sum::<i64>(), 2 * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_of_nobody_else_becomes_empty() {
    let kit = Kit::new(&[TOTALS]);
    let ann = |offset, at| Row { key: Some("ann".to_owned()), ..row(offset, at) };
    kit.land(&[ann(0, 5), ann(1, 6), row(2, DAY_US + 5)], 4, 3 * DAY_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let report = forgotten(&kit, "key=ann").await;
    assert_eq!(report.dates.iter().map(|d| (d.date, d.rows)).collect::<Vec<_>>(), [(day(1), 2)]);
    kit.batch_well().await;
    kit.reconcile().await;
    let starts: BTreeSet<i64> = kit.served("totals").await.keys().map(|(_, start, _)| *start / DAY_US).collect();
    assert_eq!(starts, BTreeSet::from([1]));
    proved(&kit).await;
}

/// Neither what is written nor what is told has the value in it.
#[tokio::test(flavor = "multi_thread")]
async fn the_value_is_nowhere_in_what_it_writes() {
    let kit = served().await;
    let who = Row { key: Some("whoever-it-is".to_owned()), ..row(30, 2 * DAY_US + 5) };
    kit.land(&[who], 4, 5 * DAY_US + LATENESS_US).await;
    // the statistics of the file name it once; no commit after that does
    let times = said(&kit).matches("whoever-it-is").count();
    let options = options(&kit, "key=whoever-it-is");
    let report = forget_on(&kit.lake, &kit.settings, &options, &CancellationToken::new()).await;
    assert_eq!(report.dates.len(), 1);
    assert_eq!(said(&kit).matches("whoever-it-is").count(), times);
    let told = format!("{report:?} {options:?} {}", serde_json::to_string(&report).unwrap());
    assert!(!told.contains("whoever-it-is"), "{told}");
    let because = ForgetOptions { because: Some("whoever-it-is asked".to_owned()), ..options };
    let error = forget_on(&kit.lake, &kit.settings, &because, &CancellationToken::new()).await.error.unwrap();
    assert_eq!(error.class, Class::User);
    assert!(!format!("{error:?}").contains("whoever-it-is"), "{error:?}");
}

#[rstest]
#[case::lost_reply(Fault::LoseReply)]
#[case::own_write_seen(Fault::AnswerTaken)]
#[case::never_sent(Fault::DropPut)]
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_unknown_outcome_is_there_once(#[case] fault: Fault) {
    let kit = served().await;
    let mut script = Script::new();
    let count = script.add(fault, commits_of("raw/events"), 1, 1);
    let faulty = Lake::open(&kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let report = forgotten_on(&kit, &faulty, "key=key 1").await;
    assert_eq!((count.fired(), report.error.map(|e| e.message)), (1, None));
    assert_eq!(report.dates.iter().map(|d| d.rows).sum::<u64>(), 15);
    assert!(keys(&kit).await.values().all(|key| key.as_deref() == Some("key 0")));
    let raw = kit.raw().await;
    assert!((1..=5).all(|d| raw.txns()[&AppIds::new("events").rewritten(day(d))] == 1), "{:?}", raw.txns());
    proved(&kit).await;
}

/// Files that others replace meanwhile are looked at again, and rows that land meanwhile are found.
#[tokio::test(flavor = "multi_thread")]
async fn beside_a_stream_and_a_compaction_all_rows_go() {
    let kit = served().await;
    let stop = CancellationToken::new();
    let wanted = options(&kit, "key=key 1");
    let others = async {
        for n in 0..10 {
            land_one(&kit, 30 + n).await;
            kit.compact(&day(i8::try_from(n % 5 + 1).unwrap()).to_string()).await;
        }
    };
    // compaction in the kit does not look for others
    others.await;
    let landing = async {
        for n in 10..20 {
            land_one(&kit, 30 + n).await;
        }
    };
    let (report, ()) = tokio::join!(forget_on(&kit.lake, &kit.settings, &wanted, &stop), landing);
    assert!(report.error.is_none(), "{report:?}");
    forgotten(&kit, "key=key 1").await;
    let left = keys(&kit).await;
    assert_eq!(left.len(), 15 + 10, "{left:?}");
    assert!(left.values().all(|key| key.as_deref() == Some("key 0")));
    proved(&kit).await;
}

/// Lands one row of one of five days, whoever commits meanwhile.
async fn land_one(kit: &Kit, offset: i64) {
    let row = row(offset, (offset % 5) * DAY_US + offset);
    // the next stream of this partition is only us, so what is told holds
    for _ in 0..20 {
        if kit.try_land(std::slice::from_ref(&row), 5 * DAY_US + LATENESS_US).await {
            return;
        }
    }
    panic!("others are always first");
}

/// Puts rejects of these payloads into the table, offsets from 0 on, one date.
pub async fn reject(kit: &Kit, payloads: &[&str]) -> Table {
    let mut table = kit.lake.ensure_table(&rejects_table(kit.pipeline())).await.unwrap();
    let schema = file_schema(table.schema(), table.partition_columns());
    let rows = payloads.len();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "_topic" | "reason" | "detail" | "contract_version" => Arc::new(StringArray::from(vec!["events"; rows])),
            "_partition" => Arc::new(Int32Array::from(vec![0; rows])),
            "_offset" => Arc::new(Int64Array::from_iter_values(0..rows as i64)),
            "payload" => Arc::new(BinaryArray::from_iter_values(payloads.iter().map(|p| p.as_bytes()))),
            "rejected_at" => {
                Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![5; rows]).with_timezone("UTC"))
            }
            _ => new_null_array(field.data_type(), rows),
        }
    });
    let batch = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
    let values = PartitionValues::from([("reject_date".into(), Some("1970-01-01".to_owned()))]);
    let file = table.sink().put(values, encode(&FileProfile::new(schema), [Ok(batch)]).unwrap()).await.unwrap();
    let commit = Commit { adds: vec![file], ..kit.commit() };
    assert!(matches!(table.commit(commit).await, crate::lake::CommitOutcome::Committed(_)));
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_are_looked_through_as_far_as_they_can_be_read() {
    let kit = Kit::new(&[]);
    reject(&kit, &[r#"{"key":"ann"}"#, r#"{"key":"bob","value":"ann"}"#, r#"{"key":"ann"#, "joann", ""]).await;
    let report = forgotten(&kit, "key=ann").await;
    let expected = ("rejects.events".to_owned(), day(1), 1, 2);
    let found = report.dates.iter().map(|d| (d.table.clone(), d.date, d.files, d.rows)).collect::<Vec<_>>();
    assert_eq!(found, [expected]);
    let table = kit.lake.open_table(&TableName::new("rejects", "events")).await.unwrap().unwrap();
    assert_eq!(table.txns()[&AppIds::new("events").rejects_removed("events", 0)], 2);
    assert_eq!(table.live_files().await.unwrap()[0].rows, Some(3));
    assert!(forgotten(&kit, "key=ann").await.is_idle());
    assert!(kit.lake.open_table(&raw_name()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_not_there_and_a_pipeline_that_landed_nothing() {
    let kit = Kit::new(&[]);
    for key in ["nobody=ann", "at=ann", "ann", "key=ann"] {
        let error = forgotten_on(&kit, &kit.lake, key).await.error.unwrap();
        assert_eq!(error.class, Class::User, "{key}");
        assert!(!format!("{error:?}").contains("ann"), "{error:?}");
    }
}

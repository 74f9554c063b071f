//! Dates that go to an archive, leave raw, and come back.

use super::retain::{TOTALS, day, options as retain_options, proved, retained, retained_on, row, served};
use super::{DAY_US, live, raw_name};
use crate::batch::meter::Meter;
use crate::batch::{conform, primitive, texts};
use crate::error::Class;
use crate::fill::{Filler, Part};
use crate::lake::faults::{Fault, Script, commits_of};
use crate::lake::{Codec, Lake, PartitionValues, TableName};
use crate::reconcile::tests::kit::{Kit, LATENESS_US, Row};
use crate::upkeep::{
    ArchiveOptions, ArchiveReport, Manifest, RestoreOptions, RestoreReport, RetainOptions, archive_on, plan_archive,
    restore_on,
};
use deltaworks_core::progress::AppIds;
use deltaworks_core::windows::Dates;
use rstest::rstest;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

fn folder(kit: &Kit) -> PathBuf {
    kit.path().join("archive")
}

fn url(kit: &Kit) -> String {
    format!("file://{}", folder(kit).display())
}

fn options(kit: &Kit, before: i8, codec: Codec) -> ArchiveOptions {
    ArchiveOptions { table: raw_name(), before: day(before), to: url(kit), codec }
}

async fn archived(kit: &Kit, before: i8) -> ArchiveReport {
    let report = archive_on(
        &kit.lake,
        &kit.settings,
        &options(kit, before, Codec::Zstd),
        &Meter::default(),
        &CancellationToken::new(),
    )
    .await;
    assert!(report.error.is_none(), "{report:?}");
    report
}

fn retain_archived(kit: &Kit, before: i8) -> RetainOptions {
    RetainOptions { archived_to: Some(url(kit)), ..retain_options(before) }
}

async fn restored_on(kit: &Kit, lake: &Lake) -> RestoreReport {
    let options = RestoreOptions {
        run_id: "restore".to_owned(),
        pipeline: kit.pipeline().clone(),
        from: url(kit),
        dates: Dates { from: day(1), to: day(4) },
    };
    restore_on(lake, &kit.settings, &options, &Meter::default(), &CancellationToken::new()).await
}

fn manifest(kit: &Kit, date: i8) -> Manifest {
    let path = folder(kit).join(format!("event_date={}/_manifest.json", day(date)));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Id, key, behind and whether a fill wrote it, by offset.
async fn rows(kit: &Kit) -> BTreeMap<i64, (String, Option<String>, Option<i64>, bool)> {
    let (table, files) = live(&kit.lake).await;
    let mut found = BTreeMap::new();
    for batch in crate::batch::rows_of(&table, &files, table.schema()).await.unwrap() {
        let (ids, keys) = (texts(&batch, "id").unwrap(), texts(&batch, "key").unwrap());
        let int = |name| primitive::<arrow::datatypes::Int64Type>(&batch, name).unwrap();
        let (offsets, behind, fills) = (int("_offset"), int("_behind_ms"), int("_fill"));
        for n in 0..batch.num_rows() {
            let key = keys.iter().nth(n).unwrap().map(str::to_owned);
            let row =
                (ids.value(n).to_owned(), key, behind.iter().nth(n).unwrap(), fills.iter().nth(n).unwrap().is_some());
            assert!(found.insert(offsets.value(n), row).is_none(), "a row is there twice");
        }
    }
    found
}

#[rstest]
#[case::zstd(Codec::Zstd)]
#[case::snappy(Codec::Snappy)]
#[tokio::test(flavor = "multi_thread")]
async fn dates_are_archived_once_and_as_they_are(#[case] codec: Codec) {
    let kit = served().await;
    let planned = plan_archive(&kit.settings, &options(&kit, 3, codec)).await.unwrap();
    assert!(!folder(&kit).join("event_date=1970-01-01").exists(), "a plan writes nothing");
    let wanted = options(&kit, 3, codec);
    let report = archive_on(&kit.lake, &kit.settings, &wanted, &Meter::default(), &CancellationToken::new()).await;
    let found: Vec<_> = report.dates.iter().map(|d| (d.date, d.rows, d.checksum.clone())).collect();
    assert_eq!(found, planned.iter().map(|d| (d.date, d.rows, d.checksum.clone())).collect::<Vec<_>>());
    assert_eq!(found.iter().map(|(date, rows, _)| (*date, *rows)).collect::<Vec<_>>(), [(day(1), 6), (day(2), 6)]);
    let manifest = manifest(&kit, 1);
    assert_eq!((manifest.table.as_str(), manifest.rows, manifest.files.len()), ("raw.events", 6, 1));
    assert_eq!(manifest.table_id, kit.raw().await.id());
    let bytes = std::fs::read(folder(&kit).join(&manifest.files[0].path)).unwrap();
    assert_eq!(
        (manifest.files[0].bytes, &manifest.files[0].sha256),
        (bytes.len() as u64, &super::super::archive::sha256(&bytes))
    );
    let again = archive_on(&kit.lake, &kit.settings, &wanted, &Meter::default(), &CancellationToken::new()).await;
    assert!(again.is_idle() && again.already == 2, "{again:?}");
    // a row that comes later makes its date another one
    kit.land(&[row(30, 5)], 4, 5 * DAY_US + LATENESS_US).await;
    let again = archive_on(&kit.lake, &kit.settings, &wanted, &Meter::default(), &CancellationToken::new()).await;
    assert_eq!(again.dates.iter().map(|d| (d.date, d.rows)).collect::<Vec<_>>(), [(day(1), 7)]);
    let files = std::fs::read_dir(folder(&kit).join("event_date=1970-01-01")).unwrap().count();
    assert_eq!(files, 1 + 1, "what it was before is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_safe_elsewhere_goes_where_that_is_asked() {
    let kit = served().await;
    let version = kit.raw().await.version();
    let refused = async |expected: &str| {
        let report = retained_on(&kit, &kit.lake, &retain_archived(&kit, 3)).await;
        let error = report.error.expect("it is refused");
        assert_eq!((error.class.code(), kit.raw().await.version()), (6, version), "{error}");
        assert!(error.message.contains(expected), "{error}");
    };
    refused("1970-01-01 is not in the archive").await;
    archived(&kit, 2).await;
    refused("1970-01-02 is not in the archive").await;
    archived(&kit, 3).await;
    let file = folder(&kit).join(&manifest(&kit, 2).files[0].path);
    let bytes = std::fs::read(&file).unwrap();
    let mut broken = bytes.clone();
    broken[100] ^= 1;
    std::fs::write(&file, broken).unwrap();
    refused("1970-01-02 cannot be relied on: archived file `event_date=1970-01-02/part-00000.parquet`").await;
    std::fs::remove_file(&file).unwrap();
    refused("is gone").await;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(retained(&kit, &retain_archived(&kit, 3)).await.dates.len(), 2);
    proved(&kit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_that_has_other_rows_than_its_archive_stays() {
    let kit = served().await;
    archived(&kit, 3).await;
    kit.land(&[row(30, 5)], 4, 5 * DAY_US + LATENESS_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let error = retained_on(&kit, &kit.lake, &retain_archived(&kit, 3)).await.error.unwrap();
    assert!(error.message.contains("1970-01-01 is in the archive with other rows"), "{error}");
    archived(&kit, 3).await;
    retained(&kit, &retain_archived(&kit, 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_come_back_as_they_were_and_are_computed_again() {
    let kit = Kit::new(&[TOTALS]);
    let all: Vec<Row> = (0..30).map(|n| Row { behind_ms: n, ..row(n, n * DAY_US / 6) }).collect();
    kit.land(&all, 4, 5 * DAY_US + LATENESS_US).await;
    kit.batch_well().await;
    kit.reconcile().await;
    let (before, published) = (rows(&kit).await, kit.published("totals").await);
    archived(&kit, 4).await;
    retained(&kit, &retain_archived(&kit, 4)).await;
    // one comes late, for a date that is gone
    kit.land(&[row(30, 5)], 4, 5 * DAY_US + LATENESS_US).await;
    assert_eq!(rows(&kit).await.len(), 12 + 1);
    let report = restored_on(&kit, &kit.lake).await;
    assert!(report.error.is_none(), "{report:?}");
    let found: Vec<_> = report.dates.iter().map(|d| (d.date, d.rows, d.already)).collect();
    assert_eq!(found, [(day(1), 6, 0), (day(2), 6, 0), (day(3), 6, 0)]);
    let now = rows(&kit).await;
    for (offset, (id, key, behind, _)) in &before {
        let filled = *offset < 18;
        assert_eq!(now[offset], (id.clone(), key.clone(), *behind, filled), "what landing had decided stays");
    }
    assert_eq!(now.len(), before.len() + 1);
    let txns = kit.raw().await.txns().clone();
    assert_eq!(txns[&AppIds::new("events").restored(day(2))], 1);
    proved(&kit).await;
    // whole again, so the late row counts, and all else is what it was
    kit.batch_well().await;
    let mut expected = published;
    for granularity in ["6h", "1d"] {
        let values = expected.get_mut(&(granularity.to_owned(), 0, Some("key 0".to_owned()))).unwrap();
        *values = (values.0.map(|total| total + 30), Some(30), values.2 + 1, values.3, values.4);
    }
    assert_eq!(kit.published("totals").await, expected);
    let report = kit.reconcile().await;
    assert_eq!(report.drift.unexplained, 0, "{report:?}");
    proved(&kit).await;
    let again = restored_on(&kit, &kit.lake).await;
    assert_eq!((again.dates.len(), again.there), (0, 3), "nothing is missing");
    // and they may go again, and come again
    archived(&kit, 4).await;
    retained(&kit, &retain_archived(&kit, 4)).await;
    assert_eq!(kit.raw().await.txns()[&AppIds::new("events").restored(day(2))], 2);
    assert!(kit.batch_well().await.is_idle());
    proved(&kit).await;
    let report = restored_on(&kit, &kit.lake).await;
    assert_eq!(report.dates.iter().map(|d| d.rows).collect::<Vec<_>>(), [7, 6, 6]);
    kit.batch_well().await;
    assert_eq!(kit.published("totals").await, expected);
    proved(&kit).await;
}

#[rstest]
#[case::lost_reply(Fault::LoseReply)]
#[case::own_write_seen(Fault::AnswerTaken)]
#[case::never_sent(Fault::DropPut)]
#[tokio::test(flavor = "multi_thread")]
async fn a_fill_of_unknown_outcome_is_there_once(#[case] fault: Fault) {
    let kit = served().await;
    let before = rows(&kit).await;
    archived(&kit, 4).await;
    retained(&kit, &retain_archived(&kit, 4)).await;
    let mut script = Script::new();
    let count = script.add(fault, commits_of("raw/events"), 1, 1);
    let faulty = Lake::open(&kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let report = restored_on(&kit, &faulty).await;
    assert_eq!((count.fired(), report.error.map(|e| e.message)), (1, None));
    assert!(rows(&kit).await.keys().eq(before.keys()));
    proved(&kit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_back_that_is_not_what_was_archived() {
    let kit = served().await;
    archived(&kit, 4).await;
    retained(&kit, &retain_archived(&kit, 4)).await;
    let path = folder(&kit).join("event_date=1970-01-01/_manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let other = text.replace("\"checksum\": \"", "\"checksum\": \"0");
    std::fs::write(&path, other).unwrap();
    assert_eq!(restored_on(&kit, &kit.lake).await.error.map(|e| e.class), Some(Class::User), "it cannot be read");
    let manifest: Manifest = serde_json::from_str(&text).unwrap();
    std::fs::write(&path, serde_json::to_vec(&Manifest { rows: 5, ..manifest.clone() }).unwrap()).unwrap();
    assert_eq!(restored_on(&kit, &kit.lake).await.error.map(|e| e.class), Some(Class::InputLost));
    let of_other = Manifest { table_id: "another".to_owned(), ..manifest };
    std::fs::write(&path, serde_json::to_vec(&of_other).unwrap()).unwrap();
    assert_eq!(restored_on(&kit, &kit.lake).await.error.map(|e| e.class), Some(Class::User));
    assert_eq!(rows(&kit).await.len(), 12, "nothing was added");
    std::fs::write(&path, text).unwrap();
    assert!(restored_on(&kit, &kit.lake).await.error.is_none());
}

/// A run that was killed between two files of a date goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_date_is_made_whole() {
    let mut kit = served().await;
    let before = rows(&kit).await;
    // one file for each that raw has
    let memory_bytes = std::mem::replace(&mut kit.batch.settings.memory_bytes, 4);
    archived(&kit, 4).await;
    kit.batch.settings.memory_bytes = memory_bytes;
    assert!(manifest(&kit, 1).files.len() > 1, "{:?}", manifest(&kit, 1));
    retained(&kit, &retain_archived(&kit, 4)).await;
    let mut filler = Filler::open(&kit.lake, kit.pipeline(), "killed").await.unwrap();
    let values = PartitionValues::from([("event_date".to_owned(), Some(day(1).to_string()))]);
    let some = conform(&kit.batch_of(&[row(0, 0), row(1, DAY_US / 6)]), &values, filler.raw().schema()).unwrap();
    let part = Part { source: "archive 1970-01-01".to_owned(), rows: vec![some], ..Part::default() };
    assert_eq!(filler.add(&part).await.unwrap().landed, 2);
    assert!(kit.batch_well().await.left.beyond_retention > 0, "half a date is none");
    let report = restored_on(&kit, &kit.lake).await;
    assert!(report.error.is_none(), "{report:?}");
    let found: Vec<_> = report.dates.iter().map(|d| (d.date, d.rows, d.already)).collect();
    assert_eq!(found, [(day(1), 4, 2), (day(2), 6, 0), (day(3), 6, 0)]);
    assert!(rows(&kit).await.keys().eq(before.keys()));
    proved(&kit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_lies_outside_the_lake_and_is_of_raw() {
    let kit = served().await;
    let in_lake = format!("file://{}/lake/archive", kit.path().display());
    let wrong = [
        ArchiveOptions { to: in_lake, ..options(&kit, 3, Codec::Zstd) },
        ArchiveOptions { to: "somewhere".to_owned(), ..options(&kit, 3, Codec::Zstd) },
        ArchiveOptions { table: TableName::new("batch", "totals"), ..options(&kit, 3, Codec::Zstd) },
    ];
    for wrong in wrong {
        let report = archive_on(&kit.lake, &kit.settings, &wrong, &Meter::default(), &CancellationToken::new()).await;
        assert_eq!(report.error.map(|e| e.class), Some(Class::User), "{wrong:?}");
    }
}

/// The archive of a date that raw has only the rest of stays what it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_does_not_replace_an_archive() {
    let kit = served().await;
    archived(&kit, 3).await;
    let before = manifest(&kit, 1);
    retained(&kit, &retain_archived(&kit, 3)).await;
    kit.land(&[row(30, 5)], 4, 5 * DAY_US + LATENESS_US).await;
    assert!(archived(&kit, 3).await.is_idle());
    assert_eq!(manifest(&kit, 1), before);
}

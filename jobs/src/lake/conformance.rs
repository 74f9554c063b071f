//! What every store must do for the lake: one suite, run against memory, a local folder and, in the
//! end-to-end tests, S3.

use super::commit::{Commit, Outcome};
use super::faults::{Fault, Script, commits_of, data_files_of};
use super::table::Table;
use super::{EncodedFile, Fit, Lake, PartitionValues, TableName, TableSpec, Witness, file, ledger, schema};
use crate::Class;
use crate::project::settings::{LakeSettings, Options};
use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use deltalake::datafusion::prelude::SessionContext;
use deltaworks_core::commit_info::{Checksum, DateEntry, Identity, PartitionEntry, RawCommit};
use deltaworks_core::place::Offset;
use deltaworks_core::tally::{Fate, Tally};
use futures::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A lake that lives as long as the test.
struct Place {
    lake: Lake,
    _folder: Option<tempfile::TempDir>,
}

fn open(url: &str, storage: BTreeMap<String, String>) -> Lake {
    Lake::open(&LakeSettings { url: url.parse().unwrap(), storage: Options(storage), witness: Witness::default() })
        .unwrap()
}

fn memory() -> Place {
    Place { lake: open("memory:///lake", BTreeMap::new()), _folder: None }
}

fn folder() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let url = url::Url::from_directory_path(folder.path().join("a lake")).unwrap();
    Place { lake: open(url.as_str().trim_end_matches('/'), BTreeMap::new()), _folder: Some(folder) }
}

/// `DELTAWORKS_E2E_S3` is the URL of an empty prefix; the credentials are in `AWS_*`.
fn s3() -> Place {
    let url = std::env::var("DELTAWORKS_E2E_S3").expect("`DELTAWORKS_E2E_S3` names a prefix on S3");
    let url = format!("{}/{}", url.trim_end_matches('/'), uuid::Uuid::now_v7());
    Place { lake: open(&url, BTreeMap::new()), _folder: None }
}

fn fields() -> Vec<Field> {
    vec![
        Field::new("event_date", DataType::Utf8, true),
        Field::new("city", DataType::Utf8, true),
        Field::new("id", DataType::Int64, false),
        Field::new("price", DataType::Decimal128(6, 2), true),
        Field::new("text", DataType::Utf8, true),
    ]
}

fn spec() -> TableSpec {
    TableSpec {
        name: TableName::new("raw", "events"),
        schema: Arc::new(Schema::new(fields())),
        partition_columns: vec!["event_date".into(), "city".into()],
        properties: BTreeMap::new(),
        description: Some("events".into()),
    }
}

fn file_of(ids: std::ops::Range<i64>) -> EncodedFile {
    let schema = file::file_schema(&spec().schema, &spec().partition_columns);
    let prices = Decimal128Array::from_iter_values(ids.clone().map(|i| i128::from(i) * 100 + 1));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(prices.with_precision_and_scale(6, 2).unwrap()),
        Arc::new(StringArray::from_iter_values(ids.map(|i| format!("text {i}")))),
    ];
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    file::encode(&file::FileProfile::new(schema), [Ok(batch)]).unwrap()
}

fn values(date: Option<&str>, city: Option<&str>) -> PartitionValues {
    PartitionValues::from([("event_date".into(), date.map(Into::into)), ("city".into(), city.map(Into::into))])
}

/// What a listing of the log of [`spec`]'s table asks for.
fn is_log(path: &deltalake::logstore::object_store::path::Path) -> bool {
    path.as_ref().ends_with("raw/events/_delta_log")
}

fn identity(sequence: u64) -> Identity {
    Identity { run_id: "run".into(), sequence }
}

async fn append(table: &Table, ids: std::ops::Range<i64>, sequence: u64) -> Commit {
    let next = ids.end;
    let added = table.sink().put(values(Some("2026-01-05"), Some("Kyiv")), file_of(ids)).await.unwrap();
    let txns = vec![("next".to_owned(), next)];
    Commit { adds: vec![added], txns, ..Commit::new("WRITE", &identity(sequence)).unwrap() }
}

fn committed(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Committed(version) => version,
        other => panic!("{other:?}"),
    }
}

async fn ids_of(table: &Table) -> Vec<i64> {
    let mut ids = Vec::new();
    for file in table.live_files().await.unwrap() {
        let batches: Vec<RecordBatch> = table.read_file(&file, &["id"]).await.unwrap().try_collect().await.unwrap();
        for batch in batches {
            assert_eq!(batch.num_columns(), 1);
            let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().clone();
            ids.extend(column.values().iter());
        }
    }
    ids.sort_unstable();
    ids
}

/// Rows as the query engine sees them, so that delta-rs judges what was written here.
async fn query(lake: &Lake, sql: &str) -> Vec<RecordBatch> {
    let context = SessionContext::new();
    let provider = lake.provider(&spec().name, None, Arc::new(SessionContext::new().state())).await.unwrap();
    context.register_table("events", provider).unwrap();
    context.sql(sql).await.unwrap().collect().await.unwrap()
}

fn pretty(batches: &[RecordBatch]) -> String {
    arrow::util::pretty::pretty_format_batches(batches).unwrap().to_string()
}

async fn create_race(lake: Lake) {
    let makers = (0..8).map(|_| {
        let lake = lake.clone();
        tokio::spawn(async move { lake.ensure_table(&spec()).await.unwrap().id().to_owned() })
    });
    let ids: BTreeSet<String> = futures::future::join_all(makers).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 1, "all got the same table");
    let table = lake.open_table(&spec().name).await.unwrap().unwrap();
    assert_eq!((table.version(), table.schema()), (0, &spec().schema));
    assert_eq!(lake.list_tables().await.unwrap(), [spec().name]);
    assert!(lake.open_table(&TableName::new("raw", "other")).await.unwrap().is_none());
}

async fn sixteen_committers(lake: Lake) {
    lake.ensure_table(&spec()).await.unwrap();
    let writers = (0..16i64).map(|writer| {
        let lake = lake.clone();
        tokio::spawn(async move {
            let mut table = lake.open_table(&spec().name).await.unwrap().unwrap();
            let mut conflicts = 0;
            loop {
                let commit = append(&table, writer * 10..writer * 10 + 10, u64::try_from(writer).unwrap()).await;
                match table.commit(commit).await {
                    Outcome::Committed(version) => return (version, conflicts),
                    Outcome::Conflicted => conflicts += 1,
                    other => panic!("{other:?}"),
                }
                table.refresh().await.unwrap();
                assert_eq!(table.find_commit(&identity(u64::try_from(writer).unwrap())), None);
            }
        })
    });
    let done: Vec<_> = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
    let versions: BTreeSet<i64> = done.iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, (1..=16).collect(), "each version once");
    assert!(done.iter().map(|(_, conflicts)| conflicts).sum::<usize>() > 0, "they did meet");
    let table = lake.open_table(&spec().name).await.unwrap().unwrap();
    assert_eq!(ids_of(&table).await, (0..160).collect::<Vec<_>>(), "every row once");
}

async fn unknown_outcomes(lake: Lake) {
    lake.ensure_table(&spec()).await.unwrap();
    for (sequence, fault) in [Fault::LoseReply, Fault::AnswerTaken, Fault::DropPut].into_iter().enumerate() {
        let sequence = u64::try_from(sequence).unwrap();
        let mut script = Script::new();
        let commits = script.add(fault, commits_of("raw/events"), 0, 1);
        let reads = script.add(Fault::FailList, |path| path.as_ref().ends_with("raw/events/_delta_log"), 1, 1);
        let faulty = lake.clone().with_store_decorator(|store| script.wrap(store));
        let mut table = faulty.open_table(&spec().name).await.unwrap().unwrap();
        let before = table.version();
        let commit = append(&table, 0..1, sequence).await;
        match (fault, table.commit(commit.clone()).await) {
            (Fault::AnswerTaken, Outcome::Conflicted) | (_, Outcome::Unknown(_)) => {}
            (_, other) => panic!("{fault:?}: {other:?}"),
        }
        assert_eq!(table.version(), before, "the object stays at its snapshot");
        assert!(table.refresh().await.is_err(), "the reload fails once");
        assert_eq!(table.version(), before);
        table.refresh().await.unwrap();
        match fault {
            Fault::DropPut => {
                assert_eq!((table.version(), table.find_commit(&identity(sequence))), (before, None));
                assert_eq!(committed(table.commit(commit).await), before + 1);
            }
            _ => assert_eq!(table.find_commit(&identity(sequence)), Some(before + 1)),
        }
        assert_eq!((commits.fired(), reads.fired()), (1, 1), "{fault:?}");
    }
}

/// A folder is not listed at one instant.
async fn a_listing_that_misses_a_commit(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    let mut script = Script::new();
    let missed = script.add(Fault::MissEntry, is_log, 0, 1);
    let missed_later = script.add(Fault::MissEntry, is_log, 1, 1);
    land(&mut table, 0..4).await;
    let faulty = lake.clone().with_store_decorator(|store| script.wrap(store));
    let mut other = faulty.open_table(&spec().name).await.unwrap().unwrap();
    assert_eq!((other.version(), missed.fired()), (table.version(), 1));
    land(&mut table, 4..8).await;
    other.refresh().await.unwrap();
    assert_eq!((other.version(), missed_later.fired()), (table.version(), 1));
    assert_eq!(other.find_commit(&raw_commit(6, 0).identity), Some(7), "no commit is forgotten");
}

/// Nor is that of a table that was made meanwhile.
async fn a_listing_that_misses_the_first_commit(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    land(&mut table, 0..1).await;
    let mut script = Script::new();
    let missed = script.add(Fault::MissEntry, is_log, 0, 2);
    let faulty = lake.clone().with_store_decorator(|store| script.wrap(store));
    let other = faulty.open_table(&spec().name).await.unwrap().unwrap();
    assert_eq!((other.version(), missed.fired()), (1, 2));
}

/// Who lists before another one commits, and commits after it, is told.
async fn a_listing_from_before_a_commit(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    land(&mut table, 0..4).await;
    let mut script = Script::new();
    let stale = script.add(Fault::StaleList, is_log, 0, 1);
    let faulty = lake.clone().with_store_decorator(|store| script.wrap(store));
    let mut other = faulty.open_table(&spec().name).await.unwrap().unwrap();
    assert_eq!((other.version(), stale.fired()), (table.version() - 1, 1));
    let commit = append(&other, 4..5, 9).await;
    assert!(matches!(other.commit(commit.clone()).await, Outcome::Conflicted));
    other.refresh().await.unwrap();
    assert_eq!(committed(other.commit(commit).await), table.version() + 1);
}

/// Who names a version has seen it.
async fn a_listing_without_the_version_that_is_wanted(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    land(&mut table, 0..2).await;
    let mut script = Script::new();
    let stale = script.add(Fault::StaleList, is_log, 0, 1);
    let faulty = lake.clone().with_store_decorator(|store| script.wrap(store));
    let wanted = faulty.open_table_at(&spec().name, table.version()).await.unwrap().unwrap();
    assert_eq!((wanted.version(), stale.fired()), (table.version(), 1));
    let error = faulty.open_table_at(&spec().name, table.version() + 1).await.unwrap_err();
    assert_eq!(error.class, Class::User, "{error:?}");
}

/// A version of which the log is whole is not gone because the store fails once.
async fn a_store_that_fails_is_no_version_that_is_gone(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    land(&mut table, 0..2).await;
    let mut script = Script::new();
    let failed = script.add(Fault::FailRead, commits_of("raw/events"), 0, 1);
    let faulty = lake.clone().with_store_decorator(|store| script.wrap(store));
    let error = faulty.open_table_at(&spec().name, table.version()).await.unwrap_err();
    assert_eq!((error.class, failed.fired()), (Class::Outside, 1), "{error:?}");
}

/// A listing that lacks the very version that a table object is at says nothing of its log.
async fn a_listing_without_the_version_that_was_there(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    let mut script = Script::new();
    let missed = script.add(Fault::MissEntry, is_log, 1, 1);
    let stale = script.add(Fault::StaleList, is_log, 2, 9);
    let faulty = lake.clone().with_store_decorator(|store| script.wrap(store));
    let mut other = faulty.open_table(&spec().name).await.unwrap().unwrap();
    land(&mut table, 0..1).await;
    other.refresh().await.unwrap();
    assert_eq!((other.version(), missed.fired()), (1, 1));
    assert_eq!(other.find_commit(&raw_commit(0, 0).identity), Some(1), "its commit is not forgotten");
    let error = other.refresh().await.unwrap_err();
    assert_eq!(error.class, Class::Outside, "{error:?}");
    assert!(stale.fired() > 3, "{}", stale.fired());
    assert_eq!(other.version(), 1, "a table never goes back");
}

async fn uploads_are_retried(lake: Lake) {
    let mut script = Script::new();
    let fault = script.add(Fault::LoseReply, data_files_of("raw/events"), 0, 2);
    let faulty = lake.with_store_decorator(|store| script.wrap(store));
    let mut table = faulty.ensure_table(&spec()).await.unwrap();
    let commit = append(&table, 0..3, 0).await;
    committed(table.commit(commit).await);
    assert_eq!(fault.fired(), 2);
    assert_eq!(ids_of(&table).await, [0, 1, 2]);
}

async fn txns_outlive_checkpoint_and_clean_up(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    let mut stale = table.clone();
    for i in 0..6 {
        let mut commit = append(&table, i..i + 1, u64::try_from(i).unwrap()).await;
        commit.txns.push((format!("only/{i}"), i));
        committed(table.commit(commit).await);
    }
    table.checkpoint().await.unwrap();
    table.checkpoint().await.unwrap();
    let commit = append(&table, 6..7, 6).await;
    committed(table.commit(commit).await);
    let want: BTreeMap<String, i64> =
        (0..6).map(|i| (format!("only/{i}"), i)).chain([("next".to_owned(), 7)]).collect();
    assert_eq!(table.txns(), &want);
    let (now, hour) = (jiff::Timestamp::now().as_millisecond() + 60_000, 3_600_000);
    let again = async || lake.open_table(&spec().name).await.unwrap().unwrap();
    let removed = again().await.clean_log(2, now, 0).await.unwrap();
    assert_eq!(removed, 0, "no checkpoint at or before what must be kept");
    assert_eq!(table.clean_log(i64::MAX, now, 2 * hour).await.unwrap(), 0, "all is young");
    let due = table.clone().clean_log(i64::MAX, now + hour, 0).await.unwrap();
    assert_eq!(due, 0, "nothing can have grown so old, as it was told to keep it");
    assert_eq!(table.clean_log(i64::MAX, now + 2 * hour, 2 * hour).await.unwrap(), 6, "versions 0 to 5");
    assert_eq!(again().await.clean_log(i64::MAX, now, 0).await.unwrap(), 0, "they are gone");
    let fresh = lake.open_table(&spec().name).await.unwrap().unwrap();
    assert_eq!((fresh.version(), fresh.txns()), (7, &want));
    assert_eq!((fresh.id(), fresh.schema()), (table.id(), table.schema()));
    assert_eq!(ids_of(&fresh).await, (0..7).collect::<Vec<_>>());
    stale.refresh().await.unwrap();
    assert_eq!((stale.version(), stale.txns()), (7, &want), "a snapshot from before the clean-up catches up");
    let gone = fresh.commit_heads(0, 7).await.unwrap_err();
    assert!(gone.message.contains("commit 0"), "{gone}");
    assert_eq!(pretty(&query(&lake, "SELECT count(*) AS n FROM events").await).matches("| 7 |").count(), 1);
}

async fn a_hole_is_an_error(lake: Lake) {
    use deltalake::logstore::object_store::ObjectStoreExt as _;
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    for i in 0..3 {
        let commit = append(&table, i..i + 1, u64::try_from(i).unwrap()).await;
        committed(table.commit(commit).await);
    }
    lake.store().delete(&table.log.commit_path(1)).await.unwrap();
    let error = lake.open_table(&spec().name).await.unwrap_err();
    assert!(error.message.contains("commit 1 is missing"), "{error}");
}

async fn schema_evolution(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    let commit = append(&table, 0..2, 0).await;
    committed(table.commit(commit).await);
    let mut other = table.clone();
    let mut wider = fields();
    wider.push(Field::new("speed", DataType::Float64, true));
    let wider = TableSpec { schema: Arc::new(Schema::new(wider)), ..spec() };
    let evolved = lake.ensure_table(&wider).await.unwrap();
    assert_eq!((evolved.version(), evolved.schema()), (2, &wider.schema));
    assert_eq!(evolved.txns().get("next"), Some(&2), "a new column leaves progress alone");
    assert_eq!(lake.ensure_table(&wider).await.unwrap().version(), 2, "asking again changes nothing");
    // another process finds out by its conflict
    let commit = append(&other, 2..3, 1).await;
    assert!(matches!(other.commit(commit).await, Outcome::Conflicted));
    other.refresh().await.unwrap();
    assert_eq!(other.schema(), &wider.schema);
    assert_eq!(schema::judge(other.schema(), &spec().schema), Fit::Same);
    let narrow = append(&other, 2..3, 1).await;
    committed(other.commit(narrow).await);
    assert_eq!(
        pretty(&query(&lake, "SELECT count(*) AS n, count(speed) AS s FROM events").await).matches("| 3 | 0 |").count(),
        1
    );
    let mut bad = fields();
    bad[4] = Field::new("text", DataType::Int64, true);
    let error = lake.ensure_table(&TableSpec { schema: Arc::new(Schema::new(bad)), ..spec() }).await.unwrap_err();
    assert_eq!(error.class, Class::User);
    assert!(error.message.contains("column `text` is `Utf8` in the table, wanted is `Int64`"), "{error}");
    let partitioned = TableSpec { partition_columns: vec!["city".into()], ..spec() };
    assert_eq!(lake.ensure_table(&partitioned).await.unwrap_err().class, Class::User);
}

const CITIES: [Option<&str>; 8] = [
    Some("plain"),
    Some("two words"),
    Some("a/b=c%20&?#"),
    Some("Київ ☃"),
    Some("quote \" back\\slash"),
    Some(".."),
    Some(""),
    None,
];

async fn unusual_partition_values(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    let mut commit = Commit::new("WRITE", &identity(0)).unwrap();
    for (id, city) in (0i64..).zip(CITIES) {
        commit.adds.push(table.sink().put(values(Some("2026-01-05"), city), file_of(id..id + 1)).await.unwrap());
    }
    committed(table.commit(commit).await);
    table.checkpoint().await.unwrap();
    let fresh = lake.open_table(&spec().name).await.unwrap().unwrap();
    assert_eq!(ids_of(&fresh).await, (0..8).collect::<Vec<_>>(), "every file is found by the log's path");
    let mut found: Vec<(i64, Option<String>)> = Vec::new();
    for file in fresh.live_files().await.unwrap() {
        assert_eq!(file.rows, Some(1));
        let (least, greatest) = file.bounds_of("id").unwrap();
        assert_eq!(least, greatest);
        found.push((least, file.partition_values["city"].clone()));
    }
    found.sort();
    let want: Vec<_> = (0i64..).zip(CITIES.map(|c| c.filter(|c| !c.is_empty()).map(str::to_owned))).collect();
    assert_eq!(found, want);
    for (id, city) in want {
        let filter = city.map_or("city IS NULL".to_owned(), |c| format!("city = '{c}'"));
        let seen = pretty(&query(&lake, &format!("SELECT min(id) AS i FROM events WHERE {filter}")).await);
        let want = if filter == "city IS NULL" { 6 } else { id };
        assert!(seen.contains(&format!("| {want} |")), "{filter}: {seen}");
    }
}

async fn statistics_never_hide_a_row(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    for i in 0..4 {
        let commit = append(&table, i * 10..i * 10 + 10, u64::try_from(i).unwrap()).await;
        committed(table.commit(commit).await);
    }
    for (filter, want) in [
        ("id = 17", 1),
        ("id >= 39", 1),
        ("price = 12.01", 1),
        ("price > 38.00", 2),
        ("text = 'text 5'", 1),
        ("text > 'text 38'", 7),
    ] {
        let seen = pretty(&query(&lake, &format!("SELECT count(*) AS n FROM events WHERE {filter}")).await);
        assert!(seen.contains(&format!("| {want} |")), "{filter}: {seen}");
    }
}

async fn rewrites_replace_files(lake: Lake) {
    let mut table = lake.ensure_table(&spec()).await.unwrap();
    for i in 0..3 {
        let commit = append(&table, i..i + 1, u64::try_from(i).unwrap()).await;
        committed(table.commit(commit).await);
    }
    let added = table.sink().put(values(Some("2026-01-05"), Some("Kyiv")), file_of(0..3)).await.unwrap();
    let commit = Commit {
        adds: vec![added],
        removes: table.live_files().await.unwrap(),
        rewrite: true,
        ..Commit::new("OPTIMIZE", &identity(9)).unwrap()
    };
    committed(table.commit(commit).await);
    assert_eq!(table.live_files().await.unwrap().len(), 1);
    table.checkpoint().await.unwrap();
    let fresh = lake.open_table(&spec().name).await.unwrap().unwrap();
    assert_eq!(ids_of(&fresh).await, [0, 1, 2]);
}

async fn wrong_partition_values_are_refused(lake: Lake) {
    let table = lake.ensure_table(&spec()).await.unwrap();
    let missing = PartitionValues::from([("city".into(), None)]);
    assert!(table.sink().put(missing, file_of(0..1)).await.is_err());
}

async fn large_files_go_in_parts(lake: Lake) {
    let table = lake.ensure_table(&spec()).await.unwrap();
    let mut random = 7u64;
    let noise: Float64Array = (0..1_500_000)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Some(f64::from_bits((random >> 12) | 0x3ff0_0000_0000_0000))
        })
        .collect();
    let batch = RecordBatch::try_from_iter([("f", Arc::new(noise) as ArrayRef)]).unwrap();
    let schema: SchemaRef = batch.schema();
    let file = file::encode(&file::FileProfile::new(schema), [Ok(batch)]).unwrap();
    let size = u64::try_from(file.bytes.len()).unwrap();
    assert!(size > 9_000_000, "{size} bytes are more than one part");
    let added = table.sink().put(values(None, None), file).await.unwrap();
    use deltalake::logstore::object_store::{ObjectStoreExt as _, path::Path};
    let sink = table.sink();
    let location = Path::from_iter(sink.path.parts().chain(Path::from(added.path.as_str()).parts()));
    assert_eq!((added.size, lake.store().head(&location).await.unwrap().size), (size, size));
}

fn raw_commit(sequence: u64, from: i64) -> RawCommit {
    let mut tally = Tally::at(Offset(from));
    tally.count(Offset(from), Fate::Landed).unwrap();
    tally.count(Offset(from + 2), Fate::Rejected).unwrap();
    let entry = PartitionEntry { partition: 3, tally, frontier_ms: None, reached_ms: None, seen_ms: None };
    RawCommit {
        identity: identity(sequence),
        pipeline: "events".into(),
        topic: "events".into(),
        partitions: vec![entry],
        dates: BTreeMap::from([("2026-01-05".into(), DateEntry { rows: 1, checksum: Checksum(255) })]),
    }
}

async fn land(raw: &mut Table, sequences: std::ops::Range<u64>) {
    for sequence in sequences {
        let from = i64::try_from(sequence).unwrap() * 3;
        committed(raw.commit(Commit::new("WRITE", &raw_commit(sequence, from)).unwrap()).await);
    }
}

async fn ledger_is_copied_once(lake: Lake) {
    let mut raw = lake.ensure_table(&spec()).await.unwrap();
    land(&mut raw, 0..5).await;
    assert_eq!(ledger::copied(&lake, &raw, "events").await.unwrap(), None);
    // two copiers at once, then a third whose first commit has an unknown outcome
    let (a, b) = (identity(100), identity(101));
    let (x, y) = tokio::join!(ledger::copy(&lake, &raw, "events", &a), ledger::copy(&lake, &raw, "events", &b));
    assert_eq!((x.unwrap().upto, y.unwrap().upto), (5, 5));
    land(&mut raw, 5..8).await;
    let mut script = Script::new();
    let lost = script.add(Fault::LoseReply, commits_of("ops/offsets"), 0, 1);
    let faulty = lake.clone().with_store_decorator(|store| script.wrap(store));
    assert_eq!(ledger::copy(&faulty, &raw, "events", &identity(102)).await.unwrap().upto, 8);
    assert_eq!(lost.fired(), 1);
    assert_eq!(ledger::copy(&lake, &raw, "events", &a).await.unwrap(), ledger::Copied { upto: 8, rows: 0 });
    assert_eq!(ledger::copied(&lake, &raw, "events").await.unwrap(), Some(8));

    let context = SessionContext::new();
    context
        .register_table("offsets", lake.provider(&ledger::spec().name, None, Arc::new(context.state())).await.unwrap())
        .unwrap();
    let sql = "SELECT count(*) AS n, count(DISTINCT version) AS v, sum(to_offset - from_offset) AS o,
        sum(landed + rejected + skipped + gaps) AS t, min(gap_ranges) AS g FROM offsets WHERE partition = 3";
    let seen = pretty(&context.sql(sql).await.unwrap().collect().await.unwrap());
    assert!(seen.contains(r#"| 8 | 8 | 24 | 24 | [{"from":1,"to":2}] |"#), "{seen}");
    for sequence in 8..28 {
        land(&mut raw, sequence..sequence + 1).await;
        ledger::copy(&lake, &raw, "events", &identity(200 + sequence)).await.unwrap();
    }
    let table = lake.open_table(&ledger::spec().name).await.unwrap().unwrap();
    assert_eq!(
        table.last_checkpoint().await.unwrap().map(|last| last.version),
        Some(19),
        "its next reader passes few commits"
    );
    let sql = "SELECT count(*) AS n, sum(rows) AS r, min(checksum) AS c FROM offsets
        WHERE event_date = date '2026-01-05' AND partition IS NULL";
    let seen = pretty(&context.sql(sql).await.unwrap().collect().await.unwrap());
    assert!(seen.contains("| 8 | 8 | 000000000000000000000000000000ff |"), "{seen}");
}

/// Who reads an older snapshot is told of it alone, however far the ledger is by then.
async fn a_ledger_that_is_ahead_tells_of_a_snapshot(lake: Lake) {
    let mut raw = lake.ensure_table(&spec()).await.unwrap();
    land(&mut raw, 0..5).await;
    let snapshot = raw.clone();
    let told = async || {
        let told = ledger::read(&lake, &snapshot, "events").await.unwrap();
        assert_eq!(told.broken, Vec::<String>::new());
        let last = told.partitions.values().flatten().map(|told| told.version).max();
        (last, told.partitions.values().flatten().count(), told.dates)
    };
    let before = told().await;
    assert_eq!(before.0, Some(5));
    land(&mut raw, 5..8).await;
    ledger::copy(&lake, &raw, "events", &identity(100)).await.unwrap();
    assert_eq!(told().await, before);
}

async fn check_leaves_nothing(lake: Lake) {
    let report = lake.check_store().await.unwrap();
    assert!(report.clock_skew_ms.abs() < 60_000, "{report:?}");
    let left: Vec<_> = lake.store().list(Some(&lake.root.prefix)).try_collect().await.unwrap();
    assert_eq!(left, [], "the check removes what it wrote");
    // a store that answers every condition with yes is found out
    let mut script = Script::new();
    let fault = script.add(Fault::LoseReply, |path| path.as_ref().contains("_deltaworks_check"), 0, 1);
    let faulty = lake.with_store_decorator(|store| script.wrap(store));
    assert!(faulty.check_store().await.is_err());
    assert_eq!(fault.fired(), 1);
}

/// Each case once per store. The S3 ones need a running store: `make e2e` sets `DELTAWORKS_E2E_S3` and
/// runs the ignored tests too.
macro_rules! suite {
    ($($case:ident)*) => {
        mod in_memory { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { let place = super::memory(); super::$case(place.lake.clone()).await; })* }
        mod in_a_folder { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { let place = super::folder(); super::$case(place.lake.clone()).await; })* }
        mod on_s3 { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs an S3 store in `DELTAWORKS_E2E_S3`; `make e2e` runs it"]
            async fn $case() { let place = super::s3(); super::$case(place.lake.clone()).await; })* }
    };
}

suite! {
    create_race
    sixteen_committers
    unknown_outcomes
    uploads_are_retried
    txns_outlive_checkpoint_and_clean_up
    a_listing_that_misses_a_commit
    a_listing_that_misses_the_first_commit
    a_listing_from_before_a_commit
    a_store_that_fails_is_no_version_that_is_gone
    a_listing_without_the_version_that_is_wanted
    a_listing_without_the_version_that_was_there
    a_hole_is_an_error
    schema_evolution
    unusual_partition_values
    statistics_never_hide_a_row
    rewrites_replace_files
    wrong_partition_values_are_refused
    large_files_go_in_parts
    ledger_is_copied_once
    a_ledger_that_is_ahead_tells_of_a_snapshot
    check_leaves_nothing
}

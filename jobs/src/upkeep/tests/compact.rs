//! What compaction changes, and what it must not.

use super::{DAY_US, compacted, land, live, options, raw_name, rewrites, rows_of};
use crate::batch::meter::Meter;
use crate::batch::tests::guards::TOTALS;
use crate::batch::tests::kit::{Kit, Row, committed};
use crate::error::Class;
use crate::lake::{Commit, TableName};
use crate::upkeep::{CompactOptions, compact_on, plan_compaction};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

fn random_rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0..3i64, 0..DAY_US, any::<Option<i32>>(), prop::option::of("[a-c]{0,2}"), 0..2i32);
    prop::collection::vec(row, 0..120).prop_map(|rows| {
        let numbered = (0..).zip(rows).map(|(n, (day, us, value, key, partition))| Row {
            id: format!("id-{}", n % 50),
            at_us: day * DAY_US + us,
            value: value.map(i64::from),
            key,
            kafka_us: value.map(|v| i64::from(v).rem_euclid(1_000)),
            partition,
            offset: n,
            behind_ms: us % 9,
            repeat: false,
        });
        numbered.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Rows and checksums of every date stay, batch has nothing to do, and compaction comes to rest.
    #[test]
    fn rows_stay_as_they_are(
        commits in prop::collection::vec((random_rows(), 1..40usize), 1..4),
        target_bytes in prop::sample::select(vec![1u64, 4_000, 9_000, 128 << 20]),
        sort_by in prop::sample::select(vec![vec![], vec!["key"], vec!["value", "_offset"]]),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let kit = Kit::new(&[TOTALS]);
            for (rows, file_rows) in &commits {
                kit.land(rows, *file_rows, 4 * DAY_US).await;
            }
            kit.batch_well().await;
            let (before, windows) = (rows_of(&kit.lake, None).await, kit.published("totals").await);
            let (table, files) = live(&kit.lake).await;
            let sort_by: Vec<String> = sort_by.iter().map(|c| (*c).to_owned()).collect();
            let wanted = CompactOptions { target_bytes, sort_by, ..options() };
            let planned = plan_compaction(&kit.settings, &wanted).await.unwrap();
            let report = compacted(&kit, &kit.lake, &wanted).await;
            assert_eq!(report.dates.iter().map(|d| d.plan.clone()).collect::<Vec<_>>(), planned, "as planned");
            assert_eq!(rows_of(&kit.lake, None).await, before);
            let (after, fewer) = live(&kit.lake).await;
            let saved: u64 = planned.iter().map(|d| d.files - d.files_after).sum();
            assert_eq!((after.id(), fewer.len() as u64 + saved), (table.id(), files.len() as u64));
            let rewrite = after.txns().get("deltaworks/raw.events/rewrite").copied().unwrap_or(0);
            assert_eq!((rewrite, after.version()), (planned.len() as i64, table.version() + planned.len() as i64));
            let all: u64 = before.values().map(|sum| sum.rows).sum();
            assert_eq!(rewrites(&kit.lake).await, (planned.len(), all), "rewrites bring no rows");
            assert!(kit.batch_well().await.is_idle(), "no date is dirty");
            let mut runs = 0;
            while !compacted(&kit, &kit.lake, &wanted).await.is_idle() {
                runs += 1;
                assert!(runs < files.len(), "it comes to rest");
            }
            assert_eq!(rows_of(&kit.lake, None).await, before);
            // the same windows from the new files
            let forced = crate::batch::BatchOptions { forced: true, ..kit.options() };
            assert!(kit.batch(&forced).await.error.is_none());
            assert_eq!(kit.published("totals").await, windows);
        });
    }
}

#[tokio::test]
async fn dates_from_the_limit_on_are_left_alone() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 60, 5).await;
    let until = CompactOptions { before: Some(jiff::civil::date(1970, 1, 3)), ..options() };
    let report = compacted(&kit, &kit.lake, &until).await;
    let dates: Vec<_> = report.dates.iter().map(|d| (d.plan.date.clone().unwrap(), d.plan.files)).collect();
    assert_eq!(dates, [("1970-01-01".to_owned(), 4), ("1970-01-02".to_owned(), 4)]);
    assert_eq!(live(&kit.lake).await.1.len(), 1 + 1 + 4);
}

#[tokio::test]
async fn rows_are_sorted_over_all_new_files() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 300, 7).await;
    let bytes: u64 = live(&kit.lake).await.1.iter().map(|f| f.size).sum();
    let wanted = CompactOptions { sort_by: vec!["value".into()], target_bytes: bytes / 6, ..options() };
    assert!(!compacted(&kit, &kit.lake, &wanted).await.is_idle());
    let (table, mut files) = live(&kit.lake).await;
    files.retain(|f| f.partition_values["event_date"].as_deref() == Some("1970-01-02"));
    assert!(files.len() > 1, "{}", files.len());
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut values: Vec<Option<i64>> = Vec::new();
    for file in &files {
        let batches: Vec<_> = table.read_file(file, &["value"]).await.unwrap().try_collect().await.unwrap();
        values.extend(batches.iter().flat_map(|b| b["value"].as_primitive::<Int64Type>().iter().collect::<Vec<_>>()));
    }
    assert_eq!(values.len(), 100);
    assert!(values.is_sorted_by_key(|v| (v.is_none(), *v)), "{values:?}");
}

/// A file in the making is never larger than the memory allows, whatever is asked for.
#[tokio::test]
async fn the_memory_bounds_the_files() {
    let mut kit = Kit::new(&[]);
    land(&kit, 0, 3_000, 50).await;
    let before = rows_of(&kit.lake, None).await;
    kit.settings.memory_bytes = 64 << 10;
    compacted(&kit, &kit.lake, &options()).await;
    let (_, files) = live(&kit.lake).await;
    assert!((6..60).contains(&files.len()), "{}", files.len());
    assert!(files.iter().all(|f| f.size < 32 << 10), "{files:?}");
    assert_eq!(rows_of(&kit.lake, None).await, before);
}

async fn refused(kit: &Kit, options: &CompactOptions, class: Class, message: &str) {
    let before = live(&kit.lake).await;
    let report = compact_on(&kit.lake, &kit.settings, options, &Meter::default(), &CancellationToken::new()).await;
    let error = report.error.expect("it is refused");
    assert_eq!(error.class, class, "{error}");
    assert!(error.message.contains(message), "{error}");
    let after = live(&kit.lake).await;
    assert_eq!((before.0.version(), before.1), (after.0.version(), after.1), "nothing was changed");
}

#[tokio::test]
async fn what_cannot_be_compacted_is_refused() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 30, 5).await;
    let table = |layer: &str, name: &str| CompactOptions { tables: vec![TableName::new(layer, name)], ..options() };
    refused(&kit, &table("speed", "totals"), Class::User, "is not compacted by hand").await;
    refused(&kit, &table("raw", "nobody"), Class::User, "there is no table `raw.nobody`").await;
    for column in ["nothing", "event_date"] {
        let by = CompactOptions { sort_by: vec![column.into()], ..options() };
        refused(&kit, &by, Class::User, &format!("no column `{column}` to sort by")).await;
    }
}

#[tokio::test]
async fn a_log_that_counts_other_rows_is_not_compacted() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 30, 5).await;
    let mut raw = kit.raw().await;
    let mut added = kit.put(&raw, "1970-01-01", &kit.batch_of(&[])).await;
    added.stats = "{\"numRecords\":3}".into();
    committed(raw.commit(Commit { adds: vec![added], ..kit.commit() }).await);
    refused(&kit, &options(), Class::Internal, "the log says 13 rows").await;
}

/// A file that is older than a column is rewritten with it, and its rows are what they were.
#[tokio::test]
async fn files_older_than_a_column_are_rewritten() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 30, 5).await;
    let before = rows_of(&kit.lake, None).await;
    let mut spec = crate::land::tables::raw_table(kit.pipeline());
    let mut fields: Vec<_> = spec.schema.fields().iter().cloned().collect();
    fields.push(std::sync::Arc::new(arrow::datatypes::Field::new("later", arrow::datatypes::DataType::Utf8, true)));
    spec.schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
    kit.lake.ensure_table(&spec).await.unwrap();
    assert_eq!(compacted(&kit, &kit.lake, &options()).await.dates.len(), 3);
    assert_eq!(rows_of(&kit.lake, None).await, before);
    let (table, files) = live(&kit.lake).await;
    let batch = table.read_file(&files[0], &["later"]).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(batch[0]["later"].null_count(), 10, "the column is in the file now");
    assert_eq!(table.name(), &raw_name());
}

/// The tables that batch keeps: what they say is read from fewer files, and they are written to as before.
#[tokio::test]
async fn pins_and_runs_are_compacted_too() {
    let kit = Kit::new(&[TOTALS]);
    for n in 0..4 {
        land(&kit, n * 30, 30, 10).await;
        assert!(kit.batch_well().await.units.computed > 0);
    }
    let generations = kit.generations("totals").await;
    let names = [("ops", "pins"), ("ops", "runs"), ("batch", "totals")].map(|(layer, n)| TableName::new(layer, n));
    let wanted = CompactOptions { tables: names.to_vec(), ..options() };
    let report = compacted(&kit, &kit.lake, &wanted).await;
    let tables: Vec<&str> = report.dates.iter().map(|d| d.plan.table.as_str()).collect();
    assert_eq!(tables, ["ops.pins", "ops.runs"], "a unit of batch is one file already");
    for name in &names[..2] {
        let table = kit.lake.open_table(name).await.unwrap().unwrap();
        assert_eq!(table.live_files().await.unwrap().len(), 1);
        assert_eq!(table.txns()[&format!("deltaworks/{name}/rewrite")], 1);
    }
    assert!(kit.batch_well().await.is_idle());
    // planning reads the pins of every unit
    land(&kit, 120, 30, 10).await;
    assert!(kit.batch_well().await.units.computed > 0);
    assert!(kit.generations("totals").await.iter().all(|(unit, n)| *n == generations[unit] + 1));
    assert!(kit.batch_well().await.is_idle());
}

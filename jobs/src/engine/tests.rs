//! Queries over small Delta tables in a folder.

use super::{Format, query, write};
use crate::error::{Class, Error};
use crate::lake::Witness;
use crate::project::settings::{LakeSettings, Options};
use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, StructArray};
use arrow::array::{Float64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use deltalake::DeltaTableBuilder;
use rstest::rstest;
use std::io::Write;
use std::sync::Arc;
use tempfile::TempDir;
use url::Url;

const MEMORY: usize = 64 << 20;

fn settings(dir: &TempDir) -> LakeSettings {
    LakeSettings {
        url: Url::from_directory_path(dir.path()).unwrap(),
        storage: Options::default(),
        witness: Witness::default(),
    }
}

fn events(first: i64) -> RecordBatch {
    let lat: ArrayRef = Arc::new(Float64Array::from(vec![Some(50.45), None]));
    let location = StructArray::from(vec![(Arc::new(Field::new("lat", DataType::Float64, true)), lat)]);
    let speed = Decimal128Array::from(vec![Some(5_050), None]).with_precision_and_scale(6, 2).unwrap();
    let at = TimestampMicrosecondArray::from(vec![1_772_323_200_000_000 + first, 1_772_323_200_500_000]);
    RecordBatch::try_from_iter_with_nullable([
        ("camera_id", Arc::new(StringArray::from(vec!["cam-001", "cam,\"002"])) as ArrayRef, true),
        ("_offset", Arc::new(Int64Array::from(vec![first, first + 1])) as ArrayRef, true),
        ("observed_at", Arc::new(at.with_timezone("UTC")) as ArrayRef, true),
        ("vehicle_speed", Arc::new(speed) as ArrayRef, true),
        ("location", Arc::new(location) as ArrayRef, true),
        ("event_date", Arc::new(StringArray::from(vec!["2026-03-01", "2026-03-02"])) as ArrayRef, true),
    ])
    .unwrap()
}

/// `raw.camera_events` with versions 0 (2 rows) and 1 (4 rows), and `ops.offsets` with 2 rows.
async fn lake() -> TempDir {
    let dir = TempDir::new().unwrap();
    for (table, batches) in [("raw/camera_events", vec![events(0), events(2)]), ("ops/offsets", vec![events(0)])] {
        let path = dir.path().join(table);
        std::fs::create_dir_all(&path).unwrap();
        let mut table = DeltaTableBuilder::from_url(Url::from_directory_path(path).unwrap()).unwrap().build().unwrap();
        for batch in batches {
            table = table.write([batch]).with_partition_columns(["event_date"]).await.unwrap();
        }
    }
    std::fs::create_dir_all(dir.path().join("raw/not_a_table")).unwrap();
    dir
}

async fn bytes(dir: &TempDir, sql: &str, format: Format) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    write(query(&settings(dir), sql, MEMORY).await?, format, &mut out).await?;
    Ok(out)
}

async fn csv(dir: &TempDir, sql: &str) -> String {
    String::from_utf8(bytes(dir, sql, Format::Csv).await.unwrap()).unwrap()
}

#[rstest]
#[case::no_column("SELECT 1 FROM raw.camera_events LIMIT 3", 3)]
#[case::of_a_date("SELECT 1 FROM raw.camera_events WHERE event_date = '2026-03-01' LIMIT 1", 1)]
#[case::partition_column("SELECT event_date FROM raw.camera_events LIMIT 3", 3)]
#[case::column("SELECT _offset FROM raw.camera_events LIMIT 3", 3)]
#[case::skipped("SELECT 1 FROM raw.camera_events LIMIT 3 OFFSET 2", 2)]
#[case::below_a_count(
    "SELECT * FROM (SELECT 1 FROM raw.camera_events LIMIT 3), (SELECT 2 FROM ops.offsets LIMIT 1)",
    3
)]
#[case::of_a_union("(SELECT 1 FROM raw.camera_events UNION ALL SELECT 2 FROM ops.offsets) LIMIT 5", 5)]
#[tokio::test]
async fn a_limit_is_kept_whatever_is_read(#[case] sql: &str, #[case] rows: usize) {
    assert_eq!(csv(&lake().await, sql).await.lines().count(), rows + 1);
}

#[tokio::test]
async fn rows_below_a_limit_are_counted() {
    let dir = lake().await;
    assert_eq!(csv(&dir, "SELECT count(*) AS n FROM (SELECT 1 FROM raw.camera_events LIMIT 3)").await, "n\n3\n");
}

#[tokio::test]
async fn tables_are_joined_grouped_and_read_as_they_were() {
    let dir = lake().await;
    assert_eq!(csv(&dir, "SELECT count(*) AS n FROM raw.camera_events").await, "n\n4\n");
    assert_eq!(csv(&dir, "SELECT count(*) AS n FROM raw.camera_events AS OF 0").await, "n\n2\n");
    assert_eq!(
        csv(
            &dir,
            "SELECT new._offset FROM raw.camera_events new LEFT JOIN raw.camera_events AS OF 0 old \
             ON new._offset = old._offset WHERE old._offset IS NULL ORDER BY 1",
        )
        .await,
        "_offset\n2\n3\n"
    );
    assert!(csv(&dir, "DESCRIBE raw.camera_events").await.contains("vehicle_speed,\"Decimal128(6, 2)\",YES"));
    // columns of a versioned table are qualified by its own name
    assert_eq!(
        csv(&dir, "SELECT max(camera_events._offset) AS m FROM raw.camera_events VERSION AS OF 0").await,
        "m\n1\n"
    );
    assert_eq!(
        csv(
            &dir,
            "WITH per_date AS (SELECT event_date, sum(_offset) AS s FROM raw.camera_events GROUP BY 1) \
             SELECT p.event_date, p.s, count(*) AS n FROM per_date p JOIN ops.offsets o USING (event_date) \
             GROUP BY 1, 2 ORDER BY 1",
        )
        .await,
        "event_date,s,n\n2026-03-01,2,1\n2026-03-02,4,1\n"
    );
}

#[rstest]
#[case(
    "SELECT 1 FROM raw.camera_event",
    "there is no table `raw.camera_event`",
    "did you mean `raw.camera_events`? tables are `ops.offsets`, `raw.camera_events`"
)]
#[case("SELECT 1 FROM camera_events", "there is no table `camera_events`", "did you mean `raw.camera_events`?")]
#[case("SELECT 1 FROM raw.not_a_table", "there is no table `raw.not_a_table`", "tables are")]
#[case("SELECT 1 FROM raw.\"../ops/offsets\"", "there is no table", "tables are")]
#[case("SELECT 1 FROM '/etc/passwd'", "there is no table", "tables are")]
#[case("SELECT camera FROM raw.camera_events", "there is no column `camera`", "did you mean `camera_id`?")]
#[case("SELECT nope(1) FROM raw.camera_events", "nope", "")]
#[case("SELECT 1 FROM raw.camera_events AS OF 7", "`raw.camera_events` has no version 7", "the newest is 1")]
#[case("SELECT CAST(camera_id AS INT) FROM raw.camera_events", "a value cannot be computed", "TRY_CAST")]
#[tokio::test]
async fn what_is_wrong_is_named(#[case] sql: &str, #[case] message: &str, #[case] hint: &str) {
    let error = bytes(&lake().await, sql, Format::Json).await.unwrap_err();
    assert_eq!(error.class, Class::User, "{error:?}");
    assert!(error.message.contains(message), "{}", error.message);
    assert!(error.hint.as_deref().unwrap_or_default().contains(hint), "{:?}", error.hint);
}

#[rstest]
#[case("INSERT INTO raw.camera_events SELECT * FROM raw.camera_events")]
#[case("WITH a AS (SELECT * FROM raw.camera_events) INSERT INTO raw.camera_events SELECT * FROM a")]
#[case("EXPLAIN ANALYZE INSERT INTO raw.camera_events SELECT * FROM raw.camera_events")]
#[case("SELECT * INTO raw.copy FROM raw.camera_events")]
#[case("COPY raw.camera_events TO 'x.csv'")]
#[tokio::test]
async fn writes_are_refused_and_change_nothing(#[case] sql: &str) {
    let dir = lake().await;
    let error = bytes(&dir, sql, Format::Table).await.unwrap_err();
    assert_eq!(error.class, Class::User, "{error:?}");
    assert_eq!(csv(&dir, "SELECT count(*) AS n FROM raw.camera_events").await, "n\n4\n");
    assert!(!dir.path().join("raw/copy").exists());
}

#[tokio::test]
async fn text_formats_show_types_as_people_write_them() {
    let dir = lake().await;
    let sql = "SELECT camera_id, observed_at, vehicle_speed, location FROM ops.offsets ORDER BY _offset";
    let json = String::from_utf8(bytes(&dir, sql, Format::Json).await.unwrap()).unwrap();
    let rows: Vec<serde_json::Value> = json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows[0]["observed_at"], "2026-03-01T00:00:00Z");
    assert_eq!(rows[0]["location"]["lat"], 50.45);
    assert!(rows[1].as_object().unwrap().contains_key("vehicle_speed") && rows[1]["vehicle_speed"].is_null());
    let text = csv(&dir, sql).await;
    assert!(text.contains("cam-001,2026-03-01T00:00:00Z,50.50,\"{\"\"lat\"\":50.45}\""), "{text}");
    assert!(text.contains("\"cam,\"\"002\""), "{text}");
    let table = String::from_utf8(bytes(&dir, sql, Format::Table).await.unwrap()).unwrap();
    assert!(table.contains("| cam-001") && table.contains("| camera_id"), "{table}");
}

#[tokio::test]
async fn binary_formats_round_trip() {
    let dir = lake().await;
    let sql = "SELECT * FROM raw.camera_events ORDER BY _offset";
    let arrow = bytes(&dir, sql, Format::Arrow).await.unwrap();
    let ipc = arrow::ipc::reader::StreamReader::try_new(arrow.as_slice(), None).unwrap();
    let ipc: Vec<RecordBatch> = ipc.map(Result::unwrap).collect();
    let file = bytes::Bytes::from(bytes(&dir, sql, Format::Parquet).await.unwrap());
    let parquet = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1_024).unwrap();
    let parquet: Vec<RecordBatch> = parquet.map(Result::unwrap).collect();
    let join = |batches: &[RecordBatch]| arrow::compute::concat_batches(&batches[0].schema(), batches).unwrap();
    assert_eq!(join(&ipc).columns(), join(&parquet).columns());
    assert_eq!(join(&ipc).num_rows(), 4);
    assert_eq!(join(&ipc).schema().field_with_name("camera_id").unwrap().data_type(), &DataType::Utf8);
}

#[rstest]
#[case(Format::Table, "| camera_id |")]
#[case(Format::Csv, "camera_id")]
#[case(Format::Json, "")]
#[tokio::test]
async fn no_rows_still_have_a_header(#[case] format: Format, #[case] want: &str) {
    let sql = "SELECT camera_id FROM raw.camera_events WHERE false";
    let text = String::from_utf8(bytes(&lake().await, sql, format).await.unwrap()).unwrap();
    assert!(text.contains(want), "{text:?}");
}

#[tokio::test]
async fn long_tables_come_in_parts_and_lose_no_row() {
    let dir = lake().await;
    let sql = "SELECT value FROM generate_series(1, 2500)";
    let table = String::from_utf8(bytes(&dir, sql, Format::Table).await.unwrap()).unwrap();
    assert_eq!(table.lines().filter(|l| l.starts_with("| value")).count(), 3);
    let numbers = table.lines().filter_map(|l| l.trim_matches(['|', ' ']).parse::<u32>().ok());
    assert_eq!(numbers.collect::<Vec<_>>(), (1..=2_500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_query_beyond_its_memory_fails_and_says_so() {
    let dir = lake().await;
    let sql = "SELECT array_agg(value) AS v FROM generate_series(1, 5000000)";
    let rows = query(&settings(&dir), sql, 1 << 20).await.unwrap();
    let error = write(rows, Format::Json, std::io::sink()).await.unwrap_err();
    assert!(error.message.contains("needs more memory"), "{error:?}");
}

struct Closed;
impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[rstest]
#[case(Format::Table)]
#[case(Format::Json)]
#[case(Format::Csv)]
#[case(Format::Arrow)]
#[tokio::test]
async fn a_reader_that_goes_away_is_no_error(#[case] format: Format) {
    let dir = lake().await;
    let rows = query(&settings(&dir), "SELECT * FROM raw.camera_events", MEMORY).await.unwrap();
    write(rows, format, Closed).await.unwrap();
}

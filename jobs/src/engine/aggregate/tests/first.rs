//! The aggregate of the traffic example, from its file to its windows.

use super::super::*;
use crate::project::settings::AggregateFile;
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use deltaworks_core::windows::Zone;
use futures::StreamExt;
use std::path::PathBuf;
use std::sync::Arc;

fn schema() -> SchemaRef {
    let instant = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("camera_id", DataType::Utf8, false),
        Field::new("vehicle_speed", DataType::Float64, true),
        Field::new("observed_at", instant(), false),
        Field::new("_topic", DataType::Utf8, false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_kafka_time", instant(), true),
        Field::new("_behind_ms", DataType::Int64, true),
        Field::new("_repeat", DataType::Boolean, true),
        Field::new("_fill", DataType::Int64, true),
    ]))
}

fn rows(events: &[(&str, Option<f64>, &str)]) -> RecordBatch {
    let at: Vec<i64> = events.iter().map(|e| e.2.parse::<jiff::Timestamp>().unwrap().as_microsecond()).collect();
    let n = events.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(events.iter().map(|e| e.0))),
        Arc::new(Float64Array::from_iter(events.iter().map(|e| e.1))),
        Arc::new(TimestampMicrosecondArray::from(at.clone()).with_timezone("UTC")),
        Arc::new(StringArray::from(vec!["t"; n])),
        Arc::new(Int32Array::from(vec![0; n])),
        Arc::new(Int64Array::from_iter_values(0..n as i64)),
        Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC")),
        Arc::new(Int64Array::from_iter((0..n as i64).map(|i| (i % 3 != 2).then_some(i * 3_600_000)))),
        Arc::new(BooleanArray::from(vec![false; n])),
        Arc::new(Int64Array::from_iter((0..n as i64).map(|i| (i % 3 == 2).then_some(1)))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

#[tokio::test]
async fn the_example_is_computed() {
    let session = Session::new(&Limits { memory_bytes: 64 << 20, parallel: 2 }).unwrap();
    let source = Source {
        name: "camera_events".to_owned(),
        schema: schema(),
        event_time: vec!["observed_at".to_owned()],
        lateness_ms: 3_600_000,
    };
    let file = AggregateFile {
        name: "avg_speed".to_owned(),
        path: PathBuf::from("sql/avg_speed.sql"),
        grain: "one row per camera and window".to_owned(),
        from: "camera_events".to_owned(),
        windows: ["5m", "1h", "1d"].map(|g| g.parse().unwrap()).to_vec(),
        zone: Zone::new(jiff::tz::TimeZone::get("Europe/Kyiv").unwrap()),
        redefine_days: 7,
        drift_limit: Default::default(),
        speed: true,
        sql: "SELECT camera_id, avg(vehicle_speed) AS avg_speed, count(*) AS vehicles FROM camera_events GROUP BY camera_id".to_owned(),
    };
    let definition = Definition::new(&file, &source, &Lookups::default(), &session).await.unwrap();
    assert_eq!(definition.needed, ["camera_id", "vehicle_speed", "observed_at", "_behind_ms", "_fill"]);
    let one = rows(&[
        ("a", Some(50.0), "2026-03-28T20:59:59Z"),
        ("b", None, "2026-03-28T22:00:00Z"),
        ("a", Some(70.0), "2026-03-28T22:01:00Z"),
    ]);
    let two = rows(&[
        ("a", Some(10.0), "2026-03-28T22:04:59Z"),
        ("a", Some(20.0), "2026-03-28T22:05:00Z"),
        ("b", Some(1.5), "2026-03-29T20:59:59Z"),
    ]);
    let streams = [one, two].map(|b| futures::stream::iter([Ok(b)]).boxed()).into_iter().collect();
    let states = definition.partial(streams, Life::Stored).await.unwrap();
    assert_eq!(states.len(), 5);
    let finished = definition.finish(&states).await.unwrap();
    let all: Vec<RecordBatch> = finished.into_iter().flat_map(|f| f.rows).collect();
    let shown = pretty_format_batches(&all).unwrap().to_string();
    let expected = "\
+-------------+----------------------+----------------------+-------------+-----------+--------------------+----------+--------+------+------------+--------+
| granularity | window_start         | window_end           | window_date | camera_id | avg_speed          | vehicles | events | late | duplicates | filled |
+-------------+----------------------+----------------------+-------------+-----------+--------------------+----------+--------+------+------------+--------+
| 5m          | 2026-03-28T20:55:00Z | 2026-03-28T21:00:00Z | 2026-03-28  | a         | 50.0               | 1        | 1      | 0    | 0          | 0      |
| 5m          | 2026-03-28T22:00:00Z | 2026-03-28T22:05:00Z | 2026-03-29  | a         | 40.0               | 2        | 2      | 0    | 0          | 1      |
| 5m          | 2026-03-28T22:00:00Z | 2026-03-28T22:05:00Z | 2026-03-29  | b         |                    | 1        | 1      | 0    | 0          | 0      |
| 5m          | 2026-03-28T22:05:00Z | 2026-03-28T22:10:00Z | 2026-03-29  | a         | 20.0               | 1        | 1      | 0    | 0          | 0      |
| 5m          | 2026-03-29T20:55:00Z | 2026-03-29T21:00:00Z | 2026-03-29  | b         | 1.5                | 1        | 1      | 0    | 0          | 1      |
| 1h          | 2026-03-28T20:00:00Z | 2026-03-28T21:00:00Z | 2026-03-28  | a         | 50.0               | 1        | 1      | 0    | 0          | 0      |
| 1h          | 2026-03-28T22:00:00Z | 2026-03-28T23:00:00Z | 2026-03-29  | a         | 33.333333333333336 | 3        | 3      | 0    | 0          | 1      |
| 1h          | 2026-03-28T22:00:00Z | 2026-03-28T23:00:00Z | 2026-03-29  | b         |                    | 1        | 1      | 0    | 0          | 0      |
| 1h          | 2026-03-29T20:00:00Z | 2026-03-29T21:00:00Z | 2026-03-29  | b         | 1.5                | 1        | 1      | 0    | 0          | 1      |
| 1d          | 2026-03-27T22:00:00Z | 2026-03-28T22:00:00Z | 2026-03-28  | a         | 50.0               | 1        | 1      | 0    | 0          | 0      |
| 1d          | 2026-03-28T22:00:00Z | 2026-03-29T21:00:00Z | 2026-03-29  | a         | 33.333333333333336 | 3        | 3      | 0    | 0          | 1      |
| 1d          | 2026-03-28T22:00:00Z | 2026-03-29T21:00:00Z | 2026-03-29  | b         | 1.5                | 2        | 2      | 0    | 0          | 1      |
+-------------+----------------------+----------------------+-------------+-----------+--------------------+----------+--------+------+------------+--------+";
    assert_eq!(shown, expected, "\n{shown}");
}

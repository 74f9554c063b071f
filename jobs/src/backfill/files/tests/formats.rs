//! Every format and compression gives the same rows; no value is lost; what breaks the contract is a reject.

use super::kit::{Kit, gzip, line, lines, zstd};
use crate::lake::TableName;
use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, TimeUnit};
use rstest::rstest;
use std::sync::Arc;

const COLUMNS: [&str; 13] =
    ["id", "at", "n", "price", "ratio", "ok", "day", "note", "seen", "tags", "spot", "rest", "camera"];

const JSONL: &str = r#"{"id":"a","at":"2026-01-02T03:04:05.678901Z","n":900719925474099312,"price":12345678901234.567891,"ratio":0.1,"ok":true,"day":"2026-01-02","note":"ü \"x\", y","seen":1767323045678,"tags":["p","q"],"spot":{"lane":3},"rest":{"k":[1,null]},"camera":"c1"}
{"id":"b","at":"2026-03-04T00:00:00Z","note":""}
"#;

const CSV: &str = "at,id,n,price,ratio,ok,day,note,seen,tags,spot,rest,camera,more\r\n\
2026-01-02T03:04:05.678901Z,a,900719925474099312,12345678901234.567891,0.1,True,2026-01-02,\"ü \"\"x\"\", y\",1767323045678,\"[\"\"p\"\",\"\"q\"\"]\",\"{\"\"lane\"\":3}\",\"{\"\"k\"\":[1,null]}\",c1,x\r\n\
2026-03-04T00:00:00Z,b,,,,,,\"\",,,,,,\r\n";

fn typed() -> RecordBatch {
    let at = [1_767_323_045_678_901, 1_772_582_400_000_000];
    let lane = Field::new("lane", DataType::Int32, true);
    let spot = StructArray::try_new(
        vec![lane].into(),
        vec![Arc::new(Int32Array::from(vec![Some(3), None])) as ArrayRef],
        Some(vec![true, false].into()),
    );
    let tags = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(0), Some(1)]), None]);
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["p", "q"]));
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let tags = ListArray::try_new(item, tags.offsets().clone(), texts, tags.nulls().cloned()).unwrap();
    let price = Decimal128Array::from(vec![Some(12_345_678_901_234_567_891), None]);
    let columns: [(&str, ArrayRef); 13] = [
        ("at", Arc::new(TimestampMicrosecondArray::from(at.to_vec()).with_timezone("UTC"))),
        ("id", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("n", Arc::new(Int64Array::from(vec![Some(900_719_925_474_099_312), None]))),
        ("price", Arc::new(price.with_precision_and_scale(20, 6).unwrap())),
        ("ratio", Arc::new(Float64Array::from(vec![Some(0.1), None]))),
        ("ok", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("day", Arc::new(Date32Array::from(vec![Some(20_455), None]))),
        ("note", Arc::new(StringArray::from(vec!["ü \"x\", y", ""]))),
        (
            "seen",
            Arc::new(
                arrow::array::TimestampMillisecondArray::from(vec![Some(1_767_323_045_678), None]).with_timezone("UTC"),
            ),
        ),
        ("tags", Arc::new(tags)),
        ("spot", Arc::new(spot.unwrap())),
        ("rest", Arc::new(StringArray::from(vec![Some("{\"k\":[1,null]}"), None]))),
        ("camera", Arc::new(StringArray::from(vec![Some("c1"), None]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

pub fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

pub fn avro(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = arrow_avro::writer::AvroWriter::new(Vec::new(), (*batch.schema()).clone()).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner()
}

#[rstest]
#[case::jsonl("a.jsonl", JSONL.as_bytes().to_vec())]
#[case::jsonl_gz("a.jsonl.gz", gzip(JSONL.as_bytes()))]
#[case::jsonl_two_members("a.ndjson.gz", [gzip(&JSONL.as_bytes()[..100]), gzip(&JSONL.as_bytes()[100..])].concat())]
#[case::jsonl_zst("a.json.zst", zstd(JSONL.as_bytes()))]
#[case::jsonl_bom_crlf("a.jsonl", format!("\u{feff}{}", JSONL.replace('\n', "\r\n")).into_bytes())]
#[case::jsonl_no_last_end("a.jsonl", JSONL.trim_end().as_bytes().to_vec())]
#[case::csv("a.csv", CSV.as_bytes().to_vec())]
#[case::csv_gz("a.csv.gz", gzip(CSV.as_bytes()))]
#[case::csv_zst("a.csv.zst", zstd(CSV.as_bytes()))]
#[case::csv_bom_lf("a.csv", format!("\u{feff}{}", CSV.replace("\r\n", "\n")).into_bytes())]
#[case::csv_no_last_end("a.csv", CSV.trim_end().as_bytes().to_vec())]
#[case::parquet("a.parquet", parquet(&typed()))]
#[case::avro("a.avro", avro(&typed()))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_formats_give_the_same_rows(#[case] name: &str, #[case] bytes: Vec<u8>) {
    let expected = {
        let kit = Kit::new();
        kit.file("a.jsonl", JSONL);
        kit.fill().await;
        kit.rows("raw", &COLUMNS).await.into_values().collect::<Vec<_>>()
    };
    assert_eq!(expected.len(), 2);
    let kit = Kit::new();
    kit.file(name, bytes);
    let report = kit.fill().await;
    assert_eq!((report.landed, report.rejected), (2, 0), "{:?}", kit.rejects().await);
    let rows = kit.rows("raw", &COLUMNS).await;
    assert_eq!(rows.keys().map(|(_, number)| *number).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(rows.into_values().collect::<Vec<_>>(), expected);
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_is_url_minus_one_and_row_and_nothing_is_said_of_the_stream() {
    let kit = Kit::new();
    let path = kit.file("day=1/a ü%.jsonl", lines(0..3));
    kit.fill().await;
    let table = kit.lake.open_table(&TableName::new("raw", "events")).await.unwrap().unwrap();
    let mut seen = 0;
    for file in table.live_files().await.unwrap() {
        use futures::TryStreamExt;
        let columns = ["_topic", "_partition", "_kafka_time", "_behind_ms", "_repeat", "_fill"];
        let batches: Vec<RecordBatch> = table.read_file(&file, &columns).await.unwrap().try_collect().await.unwrap();
        for batch in batches {
            seen += batch.num_rows();
            let url = arrow::array::AsArray::as_string::<i32>(&batch["_topic"]).value(0).to_owned();
            assert_eq!(url::Url::parse(&url).unwrap().to_file_path().unwrap(), path);
            for name in ["_kafka_time", "_behind_ms", "_repeat"] {
                assert_eq!(batch[name].null_count(), batch.num_rows(), "{name}");
            }
            assert_eq!(batch["_fill"].null_count(), 0);
        }
    }
    assert_eq!(seen, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_rows_are_rejects_with_their_bytes() {
    let kit = Kit::new();
    kit.file("a.jsonl", "{\"id\":\"a\"\n\n{\"id\":\"b\",\"at\":\"2026-01-02T00:00:00Z\",\"n\":\"x\"}\r\n[1]\n\u{0}\n{\"id\":\"c\",\"at\":\"2027-01-01T00:00:00Z\"}\n");
    kit.file("b.csv", b"id,at,n\n1,2026-01-02T00:00:00Z\n2,2026-01-02T00:00:00Z,\"7\n3,2026-01-02T00:00:00Z,07\n4,2026-01-02T00:00:00Z,4\n\xff,2026-01-02T00:00:00Z,5\n".as_slice());
    let report = kit.fill().await;
    let rejects = kit.rejects().await;
    let found: Vec<_> =
        rejects.iter().map(|((name, n), r)| (name.as_str(), *n, r[0].as_str(), r[1].as_str(), r[2].as_str())).collect();
    let expected = [
        ("a.jsonl", 0, "not_json", "∅", "{\"id\":\"a\""),
        ("a.jsonl", 2, "wrong_type", "n", "{\"id\":\"b\",\"at\":\"2026-01-02T00:00:00Z\",\"n\":\"x\"}"),
        ("a.jsonl", 3, "not_one_object", "∅", "[1]"),
        ("a.jsonl", 4, "not_json", "∅", "\u{0}"),
        ("a.jsonl", 5, "event_time_in_future", "at", "{\"id\":\"c\",\"at\":\"2027-01-01T00:00:00Z\"}"),
        ("b.csv", 0, "not_one_object", "∅", "1,2026-01-02T00:00:00Z"),
        ("b.csv", 1, "not_one_object", "∅", "2,2026-01-02T00:00:00Z,\"7"),
        ("b.csv", 2, "wrong_type", "n", "3,2026-01-02T00:00:00Z,07"),
        ("b.csv", 4, "not_utf8", "∅", "\u{fffd},2026-01-02T00:00:00Z,5"),
    ];
    assert_eq!(found, expected);
    assert_eq!((report.landed, report.rejected), (1, 9));
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_rows_are_rejects_in_their_json_form() {
    let kit = Kit::new();
    let at: ArrayRef =
        Arc::new(TimestampNanosecondArray::from(vec![1_767_323_045_678_901_001; 1]).with_timezone("UTC"));
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    kit.file("fine.parquet", parquet(&RecordBatch::try_from_iter([("id", ids.clone()), ("at", at)]).unwrap()));
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_767_323_045_678_901]));
    kit.file("naive.parquet", parquet(&RecordBatch::try_from_iter([("id", ids.clone()), ("at", at.clone())]).unwrap()));
    let ratio: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN]));
    let at = Arc::new(at.as_any().downcast_ref::<TimestampMicrosecondArray>().unwrap().clone().with_timezone("UTC"));
    let at: ArrayRef = at;
    kit.file(
        "nan.avro",
        avro(&RecordBatch::try_from_iter([("id", ids.clone()), ("at", at.clone()), ("ratio", ratio)]).unwrap()),
    );
    let rest: ArrayRef = Arc::new(StringArray::from(vec!["1,\"id\":2"]));
    kit.file("rest.parquet", parquet(&RecordBatch::try_from_iter([("id", ids), ("at", at), ("rest", rest)]).unwrap()));
    kit.fill().await;
    let found: Vec<_> = kit.rejects().await.into_iter().map(|((name, _), r)| (name, r.join(" "))).collect();
    let expected = [
        ("fine.parquet", r#"out_of_range at {"id":"a","at":"2026-01-02T03:04:05.678901001Z"}"#),
        ("naive.parquet", r#"wrong_type at {"id":"a","at":"2026-01-02T03:04:05.678901"}"#),
        ("nan.avro", r#"wrong_type ratio {"id":"a","at":"2026-01-02T03:04:05.678901Z","ratio":"NaN"}"#),
        ("rest.parquet", r#"wrong_type rest {"id":"a","at":"2026-01-02T03:04:05.678901Z","rest":"1,\"id\":2"}"#),
    ];
    assert_eq!(found, expected.map(|(name, row)| (name.to_owned(), row.to_owned())));
    // a zone for times without one is the user's to name
    let other = Kit::new();
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_767_323_045_678_901]));
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    other.file("naive.parquet", parquet(&RecordBatch::try_from_iter([("id", ids), ("at", at)]).unwrap()));
    let mut plan = other.plan().await.unwrap();
    plan.spec.reading.timezone = Some("Europe/Kyiv".into());
    assert_eq!(other.run("x", &plan).await.landed, 1);
    assert_eq!(other.rows("raw", &["at"]).await.into_values().next().unwrap(), ["2026-01-02T01:04:05.678901Z"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_the_contract_does_not_know_are_kept_where_the_pipeline_says_so() {
    let kit = Kit::with("    extra_fields: keep\n");
    kit.file("a.jsonl", "{\"id\":\"a\",\"at\":\"2026-01-02T00:00:00Z\",\"more\":\"7\"}\n");
    kit.file("b.csv", "id,at,more\nb,2026-01-02T00:00:00Z,7\n");
    let schema = Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("more", DataType::Utf8, true),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["c"])),
        Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC")),
        Arc::new(StringArray::from(vec!["7"])),
    ];
    kit.file("c.parquet", parquet(&RecordBatch::try_new(schema.into(), columns).unwrap()));
    kit.fill().await;
    let rows: Vec<_> = kit.rows("raw", &["_extra"]).await.into_values().collect();
    assert_eq!(rows, vec![vec!["{\"more\":\"7\"}".to_owned()]; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_any_length() {
    let kit = Kit::with("    max_message_bytes: 1000B\n");
    let long = format!("{{\"id\":\"x\",\"note\":\"{}\"}}", "y".repeat(600_000));
    let exact = |n: usize| {
        let frame = "{\"id\":\"z\",\"at\":\"2026-01-02T00:00:00Z\",\"note\":\"\"}".len();
        format!("{{\"id\":\"z\",\"at\":\"2026-01-02T00:00:00Z\",\"note\":\"{}\"}}", "y".repeat(n - frame))
    };
    kit.file("a.jsonl", format!("{}{long}\n{}\n{}\r\n{}\n{}", line(0), exact(1000), exact(1000), exact(1001), line(5)));
    kit.file(
        "b.csv",
        format!(
            "id,at,note\na,2026-01-02T00:00:00Z,{}\nb,2026-01-02T00:00:00Z,\"{}\nc,2026-01-02T00:00:00Z,x\n",
            "y".repeat(3_000),
            "z\n".repeat(700)
        ),
    );
    kit.fill().await;
    let rejects = kit.rejects().await;
    let found: Vec<_> = rejects
        .iter()
        .filter(|(_, r)| r[0] == "too_large")
        .map(|((name, n), r)| (name.as_str(), *n, r[2].len()))
        .collect();
    assert_eq!(found, [("a.jsonl", 1, 1000), ("a.jsonl", 4, 1000), ("b.csv", 0, 1000)]);
    assert!(
        rejects.values().any(|r| r[2] == "b,2026-01-02T00:00:00Z,\"z"),
        "a quote that is never closed costs one line"
    );
    let rows = kit.rows("raw", &[]).await;
    assert_eq!(rows.keys().filter(|(name, _)| name == "a.jsonl").map(|(_, n)| *n).collect::<Vec<_>>(), [0, 2, 3, 5]);
    assert_eq!(rows.keys().filter(|(name, _)| name == "b.csv").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reject_can_be_read_again_without_its_file() {
    let (kit, later) = (Kit::new(), Kit::with("    max_ahead: 10000d\n"));
    let ahead = 1_830_000_000_000_i64;
    kit.file("a.jsonl", "{\"id\":\"a\",\"at\":\"2027-12-28T21:20:00Z\",\"seen\":1830000000000,\"camera\":\"c\"}\n");
    kit.file("b.csv", "id;at;seen;camera\n\"a\";2027-12-28T21:20:00Z;1830000000000;c\n");
    let time = || Arc::new(arrow::array::TimestampMillisecondArray::from(vec![ahead]).with_timezone("UTC")) as ArrayRef;
    let text = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
    let batch =
        RecordBatch::try_from_iter([("id", text("a")), ("at", time()), ("seen", time()), ("camera", text("c"))]);
    kit.file("c.parquet", parquet(&batch.unwrap()));
    let mut plan = kit.plan_of(&["in/a.jsonl", "in/c.parquet"], &[]).await.unwrap();
    let reading = crate::backfill::files::Reading { delimiter: Some(';'), ..kit.reading() };
    let from = ["in/b.csv".to_owned()];
    let csv = crate::backfill::files::plan(&kit.lake, &kit.settings, kit.pipeline(), &from, &reading, &[]);
    plan.files.extend(csv.await.unwrap().files);
    plan.spec.reading = reading;
    let report = kit.run("x", &plan).await;
    assert_eq!((report.landed, report.rejected), (0, 3), "{report:?}");
    let rejects = kit.rows("rejects", &["reason", "payload", "headers"]).await;
    for ((name, number), reject) in rejects {
        assert_eq!(reject[0], "event_time_in_future", "{name}");
        let url = format!("file:///in/{name}");
        let (pipeline, message) =
            crate::backfill::files::reread(later.pipeline(), &url, reject[1].as_bytes(), Some(&reject[2])).unwrap();
        let mut stamper = crate::fill::Stamper::new(&pipeline, url).unwrap();
        let mut chunk = crate::kafka::message::Chunk { clock_ms: super::kit::CLOCK_MS, ..Default::default() };
        chunk.push(-1, number, None, None, Some(&message), []);
        for message in chunk.iter() {
            assert_eq!(stamper.push(&message).unwrap(), crate::fill::Pushed::Row, "{name}: {message:?}");
        }
        let (rows, _) = stamper.finish().unwrap();
        let seen = arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(&rows[0]["seen"]);
        assert_eq!((seen.value(0), rows[0]["camera"].null_count()), (ahead * 1_000, 0), "{name}");
    }
}

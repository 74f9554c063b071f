//! Files that are broken, changed, gone, equal to others, or none at all.

use super::formats::{avro, parquet};
use super::kit::{Kit, gzip, line, lines, zstd};
use crate::backfill::files::{Earlier, FilesPlan};
use crate::error::Class;
use crate::lake::TableName;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use rstest::rstest;
use std::sync::Arc;

fn ids() -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..3_000).map(|n| format!("id-{n}"))));
    RecordBatch::try_from_iter([("id", ids)]).unwrap()
}

fn cut(mut bytes: Vec<u8>, by: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - by);
    bytes
}

#[rstest]
#[case::gzip_cut("a.jsonl.gz", cut(gzip(lines(0..1_000).as_bytes()), 9), "is broken")]
#[case::gzip_sum("a.jsonl.gz", { let mut b = gzip(lines(0..9).as_bytes()); let at = b.len() - 6; b[at] ^= 1; b }, "is broken")]
#[case::no_gzip("a.jsonl.gz", lines(0..9).into_bytes(), "is broken")]
#[case::zstd_cut("a.csv.zst", cut(zstd(lines(0..1_000).as_bytes()), 5), "is broken")]
#[case::parquet_cut("a.parquet", cut(parquet(&ids()), 3), "is broken")]
#[case::no_parquet("a.parquet", lines(0..9).into_bytes(), "is broken")]
#[case::empty_parquet("a.parquet", Vec::new(), "is broken")]
#[case::avro_cut("a.avro", cut(avro(&ids()), 20), "is broken")]
#[case::avro_mark("a.avro", cut(avro(&ids()), 1), "is broken")]
#[case::no_avro("a.avro", lines(0..9).into_bytes(), "is broken")]
#[case::empty_avro("a.avro", Vec::new(), "is broken")]
#[case::header_twice("a.csv", b"id,at,id\n".to_vec(), "has a header that names a field `id` twice or not at all")]
#[case::header_of_others("a.csv", b"x;y\n1;2\n".to_vec(), "has a header that names no field of the contract")]
#[case::header_open("a.csv", b"\"id,at\n1,2\n".to_vec(), "has a broken header: a quote is opened and not closed")]
#[case::utf16("a.jsonl", vec![0xFF, 0xFE, b'{', 0], "is written in UTF-16")]
#[case::no_format("part-0", lines(0..9).into_bytes(), "does not say by its name what it is")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_is_refused_before_anything_lands(
    #[case] name: &str,
    #[case] bytes: Vec<u8>,
    #[case] what: &str,
) {
    let kit = Kit::new();
    kit.file("good.jsonl", lines(0..3));
    kit.file(name, bytes);
    let error = kit.plan().await.unwrap_err();
    assert_eq!(error.class, Class::User, "{error}");
    assert!(error.message.contains(name) && error.message.ends_with(what), "{error}");
    assert!(kit.lake.open_table(&TableName::new("raw", "events")).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_without_rows_are_fine_and_equal_to_nothing() {
    let kit = Kit::new();
    for name in ["a.jsonl", "b.jsonl", "c.csv"] {
        kit.file(name, "");
    }
    kit.file("d.csv", "id,at\n");
    kit.file("e.csv", "id,at\n");
    kit.file("f.jsonl.gz", gzip(b""));
    kit.file("g.jsonl", "\n\n");
    kit.file("_SUCCESS", "");
    kit.file(".h.crc", "x");
    let report = kit.fill().await;
    assert_eq!((report.files, report.landed, report.rejected, report.commits), (7, 0, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_without_files_is_refused() {
    let kit = Kit::new();
    kit.file("a.jsonl", lines(0..3));
    for from in ["nowhere", "in/*.csv", "in/a.jsonl/b", "gs://b/x", "s3://b"] {
        assert_eq!(kit.plan_of(&[from], &[]).await.unwrap_err().class, Class::User, "{from}");
    }
}

#[rstest]
#[case(&["in"], &["a.jsonl", "b.jsonl", "x/c.jsonl", "x/y/d.jsonl"])]
#[case(&["in/"], &["a.jsonl", "b.jsonl", "x/c.jsonl", "x/y/d.jsonl"])]
#[case(&["in/*.jsonl"], &["a.jsonl", "b.jsonl"])]
#[case(&["./in/../in/[a-b].jsonl", "in/a.jsonl"], &["a.jsonl", "b.jsonl"])]
#[case(&["in/x"], &["x/c.jsonl", "x/y/d.jsonl"])]
#[case(&["in/**/?.jsonl"], &["a.jsonl", "b.jsonl", "x/c.jsonl", "x/y/d.jsonl"])]
#[case(&["in/*/*.jsonl"], &["x/c.jsonl"])]
#[case(&["in/x/y/d.jsonl"], &["x/y/d.jsonl"])]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns(#[case] from: &[&str], #[case] expected: &[&str]) {
    let kit = Kit::new();
    for (n, name) in ["x/y/d.jsonl", "x/c.jsonl", "b.jsonl", "a.jsonl", "_x/e.jsonl"].into_iter().enumerate() {
        kit.file(name, line(n as i64));
    }
    let root = format!("file://{}/in/", kit.path().display());
    let below = |plan: FilesPlan| -> Vec<String> {
        plan.files.iter().map(|f| f.facts.url.strip_prefix(&root).unwrap().to_owned()).collect()
    };
    assert_eq!(below(kit.plan_of(from, &[]).await.unwrap()), expected);
    let urls: Vec<String> =
        from.iter().map(|f| format!("file://{}/{}", kit.path().display(), f.trim_start_matches("./in/../"))).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    assert_eq!(below(kit.plan_of(&urls, &[]).await.unwrap()), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_kept_as_json() {
    let kit = Kit::new();
    kit.file("a.jsonl.gz", gzip(lines(0..3).as_bytes()));
    let plan = kit.plan().await.unwrap();
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["files"][0]["compression"], "gzip");
    assert_eq!(json["files"][0]["blake3"].as_str().unwrap().len(), 64);
    assert!(json["files"][0]["etag"].is_string() && json["files"][0]["modified_ms"].is_i64(), "{json}");
    assert_eq!(serde_json::from_value::<FilesPlan>(json).unwrap(), plan);
    assert_eq!(kit.plan().await.unwrap(), plan, "the same files give the same listing");
}

#[rstest]
#[case::longer("b.jsonl", Some(lines(3..7)), "has changed since it was listed")]
#[case::other_content("b.jsonl", Some(lines(5..8)), "has changed since it was listed")]
#[case::gone("b.jsonl", None, "is gone since it was listed")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_the_frozen_one_is_refused(
    #[case] name: &str,
    #[case] now: Option<String>,
    #[case] what: &str,
) {
    let kit = Kit::new();
    kit.file("a.jsonl", lines(0..3));
    let path = kit.file("b.jsonl", lines(2..5));
    kit.file("c.jsonl", lines(8..9));
    let plan = kit.plan().await.unwrap();
    match now {
        Some(text) => drop(kit.file(name, text)),
        None => std::fs::remove_file(path).unwrap(),
    }
    for _ in 0..2 {
        let report = kit.run("x", &plan).await;
        let error = report.error.as_ref().unwrap();
        assert_eq!(error.class, Class::InputLost, "{error}");
        assert!(error.message.contains("b.jsonl") && error.message.ends_with(what), "{error}");
        assert!(error.hint.is_some());
        assert_eq!((report.files_done, kit.count().await), (1, 3), "the file before it has landed, and nothing of it");
    }
    // put back, it goes on
    kit.file("b.jsonl", lines(2..5));
    let report = kit.run("x", &plan).await;
    assert!(report.error.is_none() && report.is_done(), "{report:?}");
    assert_eq!((report.landed, kit.count().await), (4, 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_while_it_is_read_is_refused() {
    let kit = Kit::new();
    let path = kit.file("a.jsonl", lines(0..60_000));
    let facts = kit.plan().await.unwrap().files[0].facts.clone();
    let files = kit.lake.files(&url::Url::parse(&facts.url).unwrap()).unwrap();
    assert_eq!(files.read(&facts, 0..10).await.unwrap().len(), 10);
    std::fs::write(&path, lines(1..60_001)).unwrap();
    assert_eq!(files.read(&facts, 10..20).await.unwrap_err().class, Class::InputLost);
    std::fs::write(&path, "x").unwrap();
    assert_eq!(files.read(&facts, 10..20).await.unwrap_err().class, Class::InputLost);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(files.read(&facts, 10..20).await.unwrap_err().class, Class::InputLost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_content_is_refused_by_both_names() {
    let kit = Kit::new();
    kit.file("a.jsonl", lines(0..3));
    kit.file("b.jsonl", lines(0..3));
    let error = kit.plan().await.unwrap_err();
    assert_eq!(error.class, Class::User);
    assert!(
        error.message.contains("/in/b.jsonl` has the same content as") && error.message.contains("/in/a.jsonl`"),
        "{error}"
    );
    let plan = kit.plan_of(&["in/a.jsonl"], &[]).await.unwrap();
    assert_eq!(kit.run("x", &plan).await.landed, 3);
    let earlier = Earlier { id: "x", plan: &plan, open: false };
    let error = kit.plan_of(&["in/b.jsonl"], &[earlier]).await.unwrap_err();
    assert!(error.message.ends_with("a.jsonl` of backfill x"), "{error}");
    // the same file again adds nothing
    let again = kit.plan_of(&["in/a.jsonl"], &[earlier]).await.unwrap();
    let report = kit.run("y", &again).await;
    assert_eq!((report.landed, report.already, report.is_done()), (0, 3, true));
    // its name with other content is refused
    kit.file("a.jsonl", lines(5..9));
    let error = kit.plan_of(&["in/a.jsonl"], &[earlier]).await.unwrap_err();
    assert!(error.message.contains("had other content when backfill x read it"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cancelled_backfill_never_read_is_no_equal() {
    let kit = Kit::new();
    for n in 0..3 {
        kit.file(&format!("a{n}.jsonl"), lines(n * 3..n * 3 + 3));
    }
    let plan = kit.plan().await.unwrap();
    kit.file("b.jsonl", lines(6..9));
    for (open, refused) in [(true, true), (false, false)] {
        let made = kit.plan_of(&["in/b.jsonl"], &[Earlier { id: "x", plan: &plan, open }]).await;
        assert_eq!(made.is_err(), refused, "{open}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafkas_time_cannot_be_had_from_a_file() {
    let mut kit = Kit::new();
    kit.file("a.jsonl", lines(0..3));
    let mut pipeline = (**kit.pipeline()).clone();
    pipeline.event_time = crate::project::settings::EventTime::KafkaTime;
    kit.settings.pipelines[0] = Arc::new(pipeline);
    let error = kit.plan().await.unwrap_err();
    assert_eq!(error.class, Class::User);
    assert!(error.message.contains("Kafka's time"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_the_lake_itself_are_refused() {
    let kit = Kit::new();
    kit.file("a.jsonl", lines(0..3));
    kit.fill().await;
    let error = kit.plan_of(&["lake/**/*.parquet"], &[]).await.unwrap_err();
    assert_eq!(error.class, Class::User);
    assert!(error.message.ends_with("belongs to a table of the lake"), "{error}");
}

//! What lookups may be, and what is said of those that may not.

use super::super::Lookups;
use super::session;
use crate::lake::{Commit, CommitOutcome, FileProfile, Lake, TableName, TableSpec, Witness, encode};
use crate::project::Place;
use crate::project::settings::{LakeSettings, LookupFile, LookupFormat, Options, Settings};
use arrow::array::{ArrayRef, Int32Array, Int64Array, LargeStringArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::pretty::pretty_format_batches;
use parquet::arrow::ArrowWriter;
use rstest::rstest;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn settings(path: &Path, format: LookupFormat, key: &str) -> Settings {
    let mut settings = super::golden::project();
    let places = (Place { line: 3, column: 5 }, Place { line: 3, column: 20 });
    settings.lookups = vec![LookupFile { name: "sites".into(), path: path.into(), format, key: key.into(), places }];
    settings
}

async fn csv(text: &str, key: &str) -> Result<Lookups, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sites.csv");
    std::fs::write(&path, text).unwrap();
    let loaded = Lookups::load(&settings(&path, LookupFormat::Csv, key), &session(1)).await;
    loaded.map_err(|e| crate::project::Report::new(e).to_string())
}

#[tokio::test]
async fn csv_values_keep_their_spelling() {
    let text = "id,n,x,flag,day,mixed,empty\n007,1,1.5,true,2026-01-31,1,\n008,-20,2,false,2026-02-01,a,\n";
    let lookups = csv(text, "id").await.unwrap();
    let rows = &lookups.get("sites").unwrap().rows;
    let types: Vec<String> = rows.schema().fields().iter().map(|f| f.data_type().to_string()).collect();
    assert_eq!(types, ["Utf8", "Int64", "Float64", "Boolean", "Date32", "Utf8", "Utf8"]);
    let shown = pretty_format_batches(std::slice::from_ref(rows)).unwrap().to_string();
    assert!(shown.contains("| 007 | 1   | 1.5 | true  | 2026-01-31 | 1     |       |"), "{shown}");
}

#[rstest]
#[case(
    "id,n\n1,a\n2,b\n1,c\n",
    "id",
    "deltaworks.yaml:3:20: the key `id` of the lookup `sites` is not unique: `1` occurs twice\n  hint: a join would count an event twice; keep one row per key"
)]
#[case(
    "id,n\n1,a\n,b\n",
    "id",
    "deltaworks.yaml:3:20: the key `id` of the lookup `sites` is empty in 1 rows\n  hint: give every row a key, or take the row away"
)]
#[case("id,n\n1,a\n", "ids", "deltaworks.yaml:3:20: unknown column `ids`\n  hint: did you mean `id`?")]
#[case(
    "id,n\n1.5,a\n",
    "id",
    "deltaworks.yaml:3:20: `id` cannot be a key: its type is `Float64`\n  hint: a key is a text, a number without fraction, a date or the like"
)]
#[case("id,ID\n1,a\n", "id", "deltaworks.yaml:3:5: the lookup `sites` has two columns `ID`")]
#[tokio::test]
async fn a_bad_lookup_is_refused(#[case] text: &str, #[case] key: &str, #[case] said: &str) {
    assert_eq!(csv(text, key).await.unwrap_err(), said);
}

#[tokio::test]
async fn what_is_no_csv_says_so() {
    let said = csv("id,n\n1,a,b\n", "id").await.unwrap_err();
    assert!(said.starts_with("deltaworks.yaml:3:5: the lookup `sites` cannot be read: "), "{said}");
}

#[tokio::test]
async fn the_fingerprint_is_of_the_content() {
    let of =
        |text: &'static str| async move { csv(text, "id").await.unwrap().get("sites").unwrap().fingerprint.clone() };
    let one = of("id,n\n1,a\n2,b\n").await;
    assert_eq!(one, of("id,n\n2,b\n1,a\n").await, "rows in another order");
    assert_eq!(one, of("n,id\na,1\nb,2\n").await, "columns in another order");
    assert_ne!(one, of("id,n\n1,a\n2,c\n").await, "another value");
    assert_ne!(one, of("id,n\n1,a\n2,\n").await, "a null");
    assert_ne!(one, of("id,m\n1,a\n2,b\n").await, "another name");
    assert_ne!(one, of("id,n\n1,a\n2,b\n3,\n").await, "another row");
}

#[tokio::test]
async fn a_delta_table_is_read_at_its_newest_version() {
    let folder = tempfile::tempdir().unwrap();
    let url = url::Url::from_directory_path(folder.path().join("a lake")).unwrap();
    let lake = Lake::open(&LakeSettings { url, storage: Options::default(), witness: Witness::default() }).unwrap();
    let schema =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]));
    let name = TableName::new("reference", "sites");
    let spec =
        TableSpec { name, schema, partition_columns: Vec::new(), properties: BTreeMap::new(), description: None };
    let mut table = lake.ensure_table(&spec).await.unwrap();
    for ids in [vec![2, 1], vec![3]] {
        let names = StringArray::from_iter_values(ids.iter().map(|i| format!("site {i}")));
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ids.clone())), Arc::new(names)];
        let batch = RecordBatch::try_new(Arc::clone(&spec.schema), columns).unwrap();
        let file = encode(&FileProfile::new(Arc::clone(&spec.schema)), [Ok(batch)]).unwrap();
        let adds = vec![table.sink().put(BTreeMap::new(), file).await.unwrap()];
        let identity = json!({ "run_id": "one", "sequence": ids.len() });
        let commit = Commit { adds, ..Commit::new("WRITE", &identity).unwrap() };
        assert!(matches!(table.commit(commit).await, CommitOutcome::Committed(_)));
    }
    let path = folder.path().join("a lake/reference/sites");
    let lookups = Lookups::load(&settings(&path, LookupFormat::Delta, "id"), &session(2)).await.unwrap();
    let shown = pretty_format_batches(std::slice::from_ref(&lookups.get("sites").unwrap().rows)).unwrap().to_string();
    assert_eq!(shown.lines().filter(|l| l.contains("site ")).count(), 3, "{shown}");
    let csv = csv("id,name\n1,site 1\n2,site 2\n3,site 3\n", "id").await.unwrap();
    let fingerprint = |lookups: &Lookups| lookups.get("sites").unwrap().fingerprint.clone();
    assert_eq!(fingerprint(&csv), fingerprint(&lookups), "the format does not count");
}

#[tokio::test]
async fn parquet_is_read_in_plain_types() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sites.parquet");
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(Int32Array::from(vec![2, 1]))),
        ("name", Arc::new(LargeStringArray::from(vec![Some("b"), None]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let lookups = Lookups::load(&settings(&path, LookupFormat::Parquet, "id"), &session(1)).await.unwrap();
    let rows = &lookups.get("sites").unwrap().rows;
    let types: Vec<String> = rows.schema().fields().iter().map(|f| f.data_type().to_string()).collect();
    assert_eq!(types, ["Int32", "Utf8"]);
}

//! The same files in every kind of store: found, frozen, filled, refused when they change.

use super::formats::parquet;
use super::kit::{CLOCK_MS, Kit, gzip, lines};
use crate::backfill::files::{FilesRun, plan};
use crate::batch::meter::Meter;
use crate::clock::Clock;
use crate::error::Class;
use crate::lake::Lake;
use crate::lake::files::{FilePattern, Files};
use crate::project::settings::LakeSettings;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A lake of this URL, and the files of its store.
fn at(kit: &mut Kit, url: &str) -> (Lake, Files) {
    kit.settings.lake = LakeSettings { url: url.parse().unwrap(), ..kit.settings.lake.clone() };
    let lake = Lake::open(&kit.settings.lake).unwrap();
    let files = lake.files(&kit.settings.lake.url).unwrap();
    (lake, files)
}

fn typed(rows: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|n| format!("p-{n}"))));
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(0..rows).with_timezone("UTC"));
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(|n| n * 7_919 % 10_007)));
    RecordBatch::try_from_iter([("id", ids), ("at", at), ("n", n)]).unwrap()
}

async fn story(url: &str) {
    let mut kit = Kit::new();
    let (lake, files) = at(&mut kit, &format!("{url}/lake"));
    let below = |name: &str| format!("{url}/in/{name}");
    files.put(&below("day=1/a b.jsonl"), lines(0..500).into_bytes()).await;
    files.put(&below("day=2/c.jsonl.gz"), gzip(lines(500..900).as_bytes())).await;
    files.put(&below("day=2/d.parquet"), parquet(&typed(30_000))).await;
    files.put(&below("_SUCCESS"), Vec::new()).await;
    let (pipeline, reading) = (kit.pipeline().clone(), kit.reading());
    let list = async |from: &str| plan(&lake, &kit.settings, &pipeline, &[from.to_owned()], &reading, &[]).await;
    let frozen = list(&below("")).await.unwrap();
    let names: Vec<&str> = frozen.files.iter().map(|file| file.facts.url.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["a%20b.jsonl", "c.jsonl.gz", "d.parquet"]);
    assert!(frozen.files.iter().all(|file| file.facts.etag.is_some() && file.facts.modified_ms > 0), "{frozen:?}");
    assert_eq!(list(&below("day=*/*.{jsonl}")).await.unwrap_err().class, Class::User, "no glob of shells");
    assert_eq!(list(&below("day=2/*")).await.unwrap().files, frozen.files[1..]);
    assert_eq!(list(&frozen.files[0].facts.url).await.unwrap().files, frozen.files[..1], "as the listing spells it");

    let (meter, clock, stop) = (Meter::default(), Clock::of(|| CLOCK_MS), CancellationToken::new());
    let fill = async || {
        let (lake, settings, pipeline, plan) = (&lake, &kit.settings, &pipeline, &frozen);
        let (meter, clock, stop) = (&meter, &clock, &stop);
        FilesRun { lake, settings, pipeline, id: "x", plan, meter, clock, stop }.run().await
    };
    files.put(&below("day=2/c.jsonl.gz"), gzip(lines(501..900).as_bytes())).await;
    let report = fill().await;
    assert_eq!(report.error.as_ref().unwrap().class, Class::InputLost, "{report:?}");
    assert_eq!((report.files_done, report.landed), (1, 500));
    // the same content is written again: another tag or time, and the very file
    files.put(&below("day=2/c.jsonl.gz"), gzip(lines(500..900).as_bytes())).await;
    let report = fill().await;
    assert!(report.error.is_none() && report.is_done(), "{report:?}");
    assert_eq!((report.landed, report.already, report.rejected), (30_400, 0, 0));
    assert_eq!(fill().await.commits, 0);

    // what was read is of one content, or an error
    let old = files.head(&frozen.files[2].facts.url).await.unwrap().unwrap();
    assert_eq!(old, frozen.files[2].facts, "listing and look say the same");
    files.put(&below("day=2/d.parquet"), parquet(&typed(30_001))).await;
    assert_eq!(files.read(&old, 0..4).await.unwrap_err().class, Class::InputLost);
    assert_eq!(files.head(&below("nothing")).await.unwrap(), None);
    assert!(lake.find_files(&FilePattern::new(&below("nothing"), kit.path()).unwrap()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    story("memory:///some where").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    story(&format!("file://{}", folder.path().display())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an S3 store in `DELTAWORKS_E2E_S3`; `make e2e` runs it"]
async fn on_s3() {
    let url = std::env::var("DELTAWORKS_E2E_S3").expect("`DELTAWORKS_E2E_S3` names a prefix on S3");
    story(&format!("{}/{}", url.trim_end_matches('/'), uuid::Uuid::now_v7())).await;
}

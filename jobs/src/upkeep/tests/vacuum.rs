//! What vacuum deletes, and what it must not.

use super::{compacted, land, live, options, raw_name, rows_of};
use crate::batch::tests::guards::TOTALS;
use crate::batch::tests::kit::Kit;
use crate::batch::{BatchOptions, Run, batch_on, meter::Meter};
use crate::clock::Clock;
use crate::error::Class;
use crate::upkeep::compact::Compaction;
use crate::upkeep::{VacuumOptions, VacuumTable, plan_vacuum, vacuum_on};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

const DAY: Duration = Duration::from_secs(86_400);

fn now_ms() -> i64 {
    Clock::system().now_ms()
}

fn in_days(days: i64) -> i64 {
    now_ms() + days * 86_400_000
}

fn week() -> VacuumOptions {
    VacuumOptions { tables: vec![raw_name()], older_than: 7 * DAY, forced: false }
}

async fn vacuumed(kit: &Kit, now_ms: i64) -> VacuumTable {
    let mut report = vacuum_on(&kit.lake, &week(), now_ms, &CancellationToken::new()).await;
    assert!(report.error.is_none(), "{report:?}");
    report.tables.remove(0)
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

fn all_files(kit: &Kit) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files_below(&kit.path().join("lake/raw/events"), &mut found);
    found
}

fn data_files(kit: &Kit) -> BTreeSet<PathBuf> {
    all_files(kit).into_iter().filter(|p| !p.to_str().unwrap().contains("_delta_log")).collect()
}

/// Makes everything in the table look `days` older.
fn age(kit: &Kit, days: u32) {
    for path in all_files(kit) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let before: SystemTime = file.metadata().unwrap().modified().unwrap();
        file.set_modified(before - days * DAY).unwrap();
    }
}

#[tokio::test]
async fn files_that_left_go_once_they_are_old() {
    let kit = Kit::new(&[TOTALS]);
    land(&kit, 0, 60, 5).await;
    kit.batch_well().await;
    age(&kit, 10);
    let before = rows_of(&kit.lake, None).await;
    let old = kit.raw().await.version();
    let old_files = data_files(&kit);
    compacted(&kit, &kit.lake, &options()).await;
    // old files, which left just now: the version before can still be read
    let kept = vacuumed(&kit, now_ms()).await;
    assert_eq!((kept.files, kept.readable_from), (0, old), "{kept:?}");
    assert_eq!(rows_of(&kit.lake, Some(old)).await, before);
    let at_pin = BatchOptions { forced: true, input_version: Some(old), ..kit.options() };
    assert!(kit.batch(&at_pin).await.error.is_none(), "an older version inside the window still reads");
    let planned = plan_vacuum(&kit.settings, &week(), in_days(8)).await.unwrap().remove(0);
    assert_eq!((planned.files, planned.list.len()), (12, 12));
    assert!(planned.list.iter().all(|f| old_files.iter().any(|o| o.ends_with(&f.path))), "{planned:?}");
    assert_eq!(data_files(&kit).len(), 12 + 3, "a plan deletes nothing");
    let done = vacuumed(&kit, in_days(8)).await;
    assert_eq!((done.files, done.bytes, done.young), (12, planned.bytes, 0));
    assert!(data_files(&kit).is_disjoint(&old_files));
    assert_eq!(rows_of(&kit.lake, None).await, before);
    assert!(kit.batch_well().await.is_idle());
    assert_eq!(vacuumed(&kit, in_days(8)).await.files, 0, "nothing is left to do");
    // and the version that was given up says so
    let report = kit.batch(&BatchOptions { forced: true, input_version: Some(old), ..kit.options() }).await;
    let error = report.error.expect("its files are gone");
    assert_eq!((error.class, error.class.code()), (Class::InputLost, 6), "{error}");
}

#[tokio::test]
async fn a_killed_compaction_leaves_orphans_that_go_later() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 60, 5).await;
    age(&kit, 30);
    let (before, version) = (rows_of(&kit.lake, None).await, kit.raw().await.version());
    let (options, run) = (options(), Run::new("killed"));
    let table = live(&kit.lake).await.0;
    let compaction = Compaction { table, options: &options, run: &run, memory_bytes: kit.settings.memory_bytes };
    for work in compaction.plan().await.unwrap() {
        compaction.write(&work).await.unwrap();
    }
    assert_eq!((rows_of(&kit.lake, None).await, kit.raw().await.version()), (before.clone(), version));
    let young = vacuumed(&kit, now_ms()).await;
    assert_eq!((young.files, young.young), (0, 3), "their writer may be slow");
    let young = vacuumed(&kit, in_days(6)).await;
    assert_eq!((young.files, young.young), (0, 3));
    let old = vacuumed(&kit, in_days(8)).await;
    assert_eq!((old.files, old.young), (3, 0));
    assert_eq!(rows_of(&kit.lake, None).await, before);
    assert_eq!(data_files(&kit).len(), 12);
}

/// A run may ask for a version that has long been replaced; it says so in `ops.pins` before it reads.
#[tokio::test]
async fn a_version_that_was_pinned_lately_is_kept() {
    let kit = Kit::new(&[TOTALS]);
    land(&kit, 0, 60, 5).await;
    let old = kit.raw().await.version();
    age(&kit, 10);
    compacted(&kit, &kit.lake, &options()).await;
    age(&kit, 10);
    let planned = plan_vacuum(&kit.settings, &week(), now_ms()).await.unwrap().remove(0);
    assert_eq!((planned.files, planned.pinned.as_slice()), (12, [].as_slice()));
    let (meter, stop) = (Arc::new(Meter::default()), CancellationToken::new());
    let at_pin = BatchOptions { input_version: Some(old), ..kit.options() };
    let report = batch_on(&kit.lake, &kit.settings, &at_pin, &meter, &Clock::system(), &stop).await;
    assert!(report.error.is_none() && report.units.changed > 0, "{report:?}");
    let kept = vacuumed(&kit, now_ms()).await;
    assert_eq!((kept.files, kept.pinned.as_slice()), (0, [old].as_slice()), "{kept:?}");
    let again = BatchOptions { forced: true, input_version: Some(old), ..kit.options() };
    assert!(kit.batch(&again).await.error.is_none());
    assert_eq!(vacuumed(&kit, in_days(9)).await.files, 12, "an old pin holds no files");
}

#[tokio::test]
async fn no_live_file_goes_however_short_the_limit() {
    let kit = Kit::new(&[]);
    for n in 0..8 {
        land(&kit, n * 30, 30, 5).await;
        compacted(&kit, &kit.lake, &options()).await;
        let before = rows_of(&kit.lake, None).await;
        let none = VacuumOptions { older_than: Duration::ZERO, forced: true, ..week() };
        let report = vacuum_on(&kit.lake, &none, in_days(1), &CancellationToken::new()).await;
        assert!(report.error.is_none() && report.tables[0].files > 0, "{report:?}");
        assert_eq!(rows_of(&kit.lake, None).await, before);
        assert_eq!(data_files(&kit).len(), live(&kit.lake).await.1.len(), "and nothing else is left");
    }
}

#[tokio::test]
async fn a_short_limit_has_to_be_forced() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 30, 5).await;
    let short = VacuumOptions { older_than: Duration::from_secs(3_599), ..week() };
    let report = vacuum_on(&kit.lake, &short, in_days(8), &CancellationToken::new()).await;
    let error = report.error.expect("refused");
    assert_eq!(error.class, Class::User);
    assert!(error.hint.unwrap().contains("--force"));
}

#[tokio::test]
async fn where_the_log_was_cleaned_all_that_it_has_stays_readable() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 60, 5).await;
    compacted(&kit, &kit.lake, &options()).await;
    land(&kit, 60, 30, 5).await;
    let raw = kit.raw().await;
    raw.checkpoint().await.unwrap();
    assert!(raw.clean_log(i64::MAX, i64::MAX >> 1, 0).await.unwrap() > 0);
    let (at_checkpoint, before) = (raw.version(), rows_of(&kit.lake, None).await);
    compacted(&kit, &kit.lake, &options()).await;
    // a limit from before the log begins; the files that the log has forgotten are orphans by now
    age(&kit, 100);
    let limit = VacuumOptions { older_than: 99 * DAY, ..week() };
    let report = vacuum_on(&kit.lake, &limit, in_days(-2), &CancellationToken::new()).await;
    assert_eq!((report.tables[0].files, report.tables[0].young), (0, 12), "{report:?}");
    let report = vacuum_on(&kit.lake, &limit, in_days(0), &CancellationToken::new()).await;
    assert!(report.error.is_none(), "{report:?}");
    assert!(report.tables[0].readable_from > at_checkpoint);
    assert_eq!(rows_of(&kit.lake, None).await, before);
}

#[tokio::test]
async fn a_file_that_is_live_by_now_is_not_deleted() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 30, 5).await;
    let (mut table, files) = live(&kit.lake).await;
    let stored = table.stored_files().await.unwrap();
    assert_eq!(stored.len(), files.len());
    let error = table.delete_stored(&stored[..1]).await.unwrap_err();
    assert!(error.message.contains("is live"), "{error}");
    assert_eq!(data_files(&kit).len(), files.len());
}

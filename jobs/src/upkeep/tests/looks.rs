//! What `describe`, `history` and `checkpoint` say.

use super::{compacted, land, live, options, raw_name};
use crate::batch::tests::kit::Kit;
use crate::upkeep::{checkpoints_on, describe, history};
use serde_json::json;

#[tokio::test]
async fn a_table_is_described() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 60, 5).await;
    let described = describe(&kit.settings, &raw_name()).await.unwrap();
    let (table, files) = live(&kit.lake).await;
    let mut sizes: Vec<u64> = files.iter().map(|f| f.size).collect();
    sizes.sort_unstable();
    assert_eq!((described.version, described.rows, described.files), (table.version(), 60, 12));
    assert_eq!(described.bytes, sizes.iter().sum::<u64>());
    let spread = [described.smallest, described.median, described.largest];
    assert_eq!(spread, [Some(sizes[0]), Some(sizes[6]), Some(sizes[11])]);
    assert_eq!((described.checkpoint, described.versions_since_checkpoint), (None, table.version() + 1));
    assert_eq!(described.entries["next"], json!({ "count": 2, "least": 0, "greatest": 60 }));
    assert_eq!(described.partition_columns, ["event_date"]);
    let names: Vec<&str> = described.columns.iter().map(|c| c.name.as_str()).collect();
    let expected: Vec<&str> = table.schema().fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, expected);
    let at = described.columns.iter().find(|c| c.name == "at").unwrap();
    assert_eq!((at.data_type.as_str(), at.nullable), ("timestamp", false));
}

#[tokio::test]
async fn commits_are_listed_the_newest_first() {
    let kit = Kit::new(&[]);
    land(&kit, 0, 60, 5).await;
    let wanted = options();
    compacted(&kit, &kit.lake, &wanted).await;
    let lines = history(&kit.settings, &raw_name(), 4).await.unwrap();
    let told: Vec<_> = lines.iter().map(|l| (l.version, l.files_added, l.files_removed, l.rows_added)).collect();
    assert_eq!(told, [(4, 1, 4, 0), (3, 1, 4, 0), (2, 1, 4, 0), (1, 12, 0, 60)]);
    assert_eq!(lines[0].run_id.as_deref(), Some(wanted.run_id.as_str()));
    assert_eq!((lines[0].operation.as_deref(), lines[3].operation.as_deref()), (Some("OPTIMIZE"), Some("WRITE")));
    assert!(lines[0].time.as_deref().is_some_and(|t| t.parse::<jiff::Timestamp>().is_ok()));
    let raw = kit.raw().await;
    raw.checkpoint().await.unwrap();
    land(&kit, 60, 3, 5).await;
    raw.clean_log(i64::MAX, i64::MAX >> 1, 0).await.unwrap();
    let kept: Vec<i64> = history(&kit.settings, &raw_name(), 100).await.unwrap().iter().map(|l| l.version).collect();
    assert_eq!(kept, [5, 4], "what the log still has");
}

#[tokio::test]
async fn a_checkpoint_is_written_when_it_is_due() {
    let kit = Kit::new(&[]);
    for n in 0..18 {
        land(&kit, n * 3, 3, 5).await;
    }
    let ask =
        async |forced, planned| checkpoints_on(&kit.lake, &[raw_name()], forced, planned).await.unwrap().remove(0);
    let early = ask(false, false).await;
    assert_eq!((early.versions_since, early.write, early.last), (19, false, None));
    land(&kit, 100, 3, 5).await;
    assert!(ask(false, true).await.write);
    let due = ask(false, false).await;
    assert_eq!((due.version, due.write, due.last), (19, true, None), "a plan writes nothing");
    assert_eq!((ask(true, false).await.write, ask(true, false).await.last), (false, Some(19)), "it is there");
    land(&kit, 103, 3, 5).await;
    assert!(!ask(false, false).await.write);
    assert!(ask(true, false).await.write);
    assert_eq!(ask(true, false).await.last, Some(20));
}

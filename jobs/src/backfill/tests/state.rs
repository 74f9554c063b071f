//! `ops.backfills` itself: replies that are lost, several that create at once, files that others rewrite.

use super::*;
use crate::backfill::state::{Created, New, all, create as create_any, end, find, items};
use crate::batch::Run;
use crate::lake::faults::{Fault, Script, commits_of};
use crate::lake::{Commit, PartitionValues, TableName, Witness, encode};
use crate::lake::{FileProfile, file_schema};
use crate::project::settings::{LakeSettings, Options};
use arrow::compute::concat_batches;
use deltaworks_core::backfill::{Event, Kind, State, Turn};
use futures::TryStreamExt;
use futures::future::join_all;
use serde_json::json;

fn new(spec: i64) -> New<String> {
    let items = (0..300).map(|n| format!("file {n}")).collect();
    New { kind: Kind::Files, target: "events".into(), spec: json!({ "from": spec }), items, judged_against: None }
}

fn memory() -> Lake {
    let url = url::Url::parse("memory:///lake").unwrap();
    Lake::open(&LakeSettings { url, storage: Options::default(), witness: Witness::default() }).unwrap()
}

async fn created(lake: &Lake, spec: i64, run: &str) -> Created {
    create_any(lake, &new(spec), &Run::new(run), 1_700_000_000_000).await.unwrap()
}

#[tokio::test]
async fn a_backfill_of_any_kind_has_its_plan_and_ends_once() {
    let lake = memory();
    let Created::New(first) = created(&lake, 1, "a").await else { panic!("it is the first") };
    let Created::New(other) = created(&lake, 2, "b").await else { panic!("it does something else") };
    assert_eq!((first.kind, first.target.as_str(), first.items), (Kind::Files, "events", 300));
    assert_eq!(find(&lake, first.id).await.unwrap(), first);
    assert_eq!(items::<String>(&lake, &other).await.unwrap(), new(2).items);
    let run = Run::new("c");
    assert_eq!(end(&lake, first.id, Event::Finished, &run, 1_700_000_001_000).await.unwrap(), Turn::Record);
    for event in [Event::Finished, Event::Cancelled] {
        let turn = end(&lake, first.id, event, &run, 1_700_000_002_000).await.unwrap();
        assert_eq!(turn, Turn::Ended(State::Finished));
    }
    assert_eq!(end(&lake, other.id, Event::Cancelled, &run, 1_700_000_002_000).await.unwrap(), Turn::Record);
    let states: Vec<State> = all(&lake).await.unwrap().iter().map(|b| b.state).collect();
    assert!(states.len() == 2 && states.contains(&State::Finished) && states.contains(&State::Cancelled));
    let unknown = end(&lake, "20260105-9f31c2aa".parse().unwrap(), Event::Finished, &run, 0).await;
    assert_eq!(unknown.unwrap_err().class, crate::Class::User);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_at_once_one_is_created() {
    let lake = memory();
    let runs = ["a", "b", "c", "d"];
    let all_created = join_all(runs.map(|run| created(&lake, 1, run))).await;
    let new = all_created.iter().filter(|c| matches!(c, Created::New(_))).count();
    assert_eq!((new, all(&lake).await.unwrap().len()), (1, 1), "{all_created:?}");
    let ended = join_all(runs.map(|run| {
        let (lake, id) = (
            &lake,
            all_created
                .iter()
                .map(|c| match c {
                    Created::New(b) | Created::Same(b) => b.id,
                    Created::Outdated => panic!("nothing was judged"),
                })
                .next(),
        );
        async move { end(lake, id.unwrap(), Event::Finished, &Run::new(run), 1).await.unwrap() }
    }))
    .await;
    assert_eq!(ended.iter().filter(|turn| **turn == Turn::Record).count(), 1, "{ended:?}");
}

#[tokio::test]
async fn whatever_becomes_of_a_reply_there_is_one() {
    for fault in [Fault::LoseReply, Fault::AnswerTaken, Fault::DropPut] {
        let mut script = Script::new();
        // the first put makes the table
        let fired = script.add(fault, commits_of("ops/backfills"), 1, 1);
        let ending = script.add(fault, commits_of("ops/backfills"), 1, 1);
        let lake = memory().with_store_decorator(|store| script.wrap(store));
        let Created::New(backfill) = created(&lake, 1, "a").await else { panic!("{fault:?}: it is its own") };
        let turn = end(&lake, backfill.id, Event::Finished, &Run::new("a"), 1).await.unwrap();
        assert_eq!((turn, fired.fired(), ending.fired()), (Turn::Record, 1, 1), "{fault:?}");
        assert_eq!(items::<String>(&lake, &backfill).await.unwrap().len(), 300);
        assert_eq!(all(&lake).await.unwrap().len(), 1);
        assert_eq!(find(&lake, backfill.id).await.unwrap().state, State::Finished);
    }
}

#[tokio::test]
async fn files_that_others_rewrite_tell_the_same() {
    let lake = memory();
    let Created::New(first) = created(&lake, 1, "a").await else { panic!("it is the first") };
    let Created::New(second) = created(&lake, 2, "b").await else { panic!("it is the second") };
    let turn = end(&lake, second.id, Event::Cancelled, &Run::new("c"), 1_700_000_002_000).await.unwrap();
    assert_eq!(turn, Turn::Record);
    let mut table = lake.open_table(&TableName::new("ops", "backfills")).await.unwrap().unwrap();
    let schema = file_schema(table.schema(), table.partition_columns());
    let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let (files, mut batches) = (table.live_files().await.unwrap(), Vec::new());
    for file in files.iter().rev() {
        batches.extend(table.read_file(file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap());
    }
    let all_rows = concat_batches(&schema, &batches).unwrap();
    let values = PartitionValues::from([("created_date".into(), Some(first.id.created().to_string()))]);
    let encoded = encode(&FileProfile::new(schema.clone()), [Ok(all_rows)]).unwrap();
    let added = table.sink().put(values, encoded).await.unwrap();
    let identity = Run::new("compaction").identity();
    let commit =
        Commit { adds: vec![added], removes: files, rewrite: true, ..Commit::new("OPTIMIZE", &identity).unwrap() };
    crate::batch::tests::kit::committed(table.commit(commit).await);
    assert_eq!(find(&lake, first.id).await.unwrap(), first);
    assert_eq!(find(&lake, second.id).await.unwrap().state, State::Cancelled);
    assert_eq!(items::<String>(&lake, &first).await.unwrap(), new(1).items);
}

#[tokio::test]
async fn a_plan_that_was_not_judged_against_all_is_not_created() {
    let lake = memory();
    let Created::New(first) = created(&lake, 1, "a").await else { panic!("it is the first") };
    let judged = |ids: Vec<BackfillId>| New { judged_against: Some(ids), ..new(2) };
    let create = |new: New<String>| {
        let lake = &lake;
        async move { create_any(lake, &new, &Run::new("b"), 1_700_000_000_000).await.unwrap() }
    };
    assert!(matches!(create(judged(vec![])).await, Created::Outdated));
    // another pipeline's is no matter
    let other = New { target: "others".into(), ..judged(vec![]) };
    assert!(matches!(create(other).await, Created::New(_)));
    assert!(matches!(create(judged(vec![first.id])).await, Created::New(_)));
    assert_eq!(all(&lake).await.unwrap().len(), 3);
}

//! Every SELECT of `fixtures/aggregates`: what a good one is, and what is said of a refused one.
//!
//! The text beside each file is all there is to say about it. With `UPDATE_FIXTURES=1` the texts are
//! written anew, for a look at their diff.

use super::super::*;
use super::session;
use super::trips::{batch, streams, trip};
use crate::project::settings::{AggregateFile, Settings};
use deltaworks_core::windows::Zone;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/aggregates")
}

pub fn project() -> Settings {
    crate::project::load(&folder(), &|_| None).unwrap_or_else(|report| panic!("{report}"))
}

pub fn file(name: &str, sql: String) -> AggregateFile {
    AggregateFile {
        name: name.to_owned(),
        path: PathBuf::from(format!("{name}.sql")),
        grain: "one row per window".to_owned(),
        from: "trips".to_owned(),
        windows: ["5m", "1d"].map(|g| g.parse().unwrap()).to_vec(),
        zone: Zone::utc(),
        redefine_days: 7,
        sql: format!("-- aggregate: {name}\n{sql}"),
    }
}

async fn judge(below: &str, say: impl AsyncFn(Result<Definition, Vec<crate::project::Diagnostic>>) -> String) {
    let settings = project();
    let session = session(1);
    let source = Source::of(&settings.pipelines[0]);
    let lookups = Lookups::load(&settings, &session).await.unwrap();
    let (mut wrong, mut seen) = (BTreeMap::new(), 0);
    for entry in std::fs::read_dir(folder().join(below)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "sql") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let file = file(&name, std::fs::read_to_string(&path).unwrap());
        let said = say(Definition::new(&file, &source, &lookups, &session).await).await;
        let text = path.with_extension("txt");
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            std::fs::write(&text, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&text).unwrap_or_default();
        if said != expected {
            wrong.insert(name, format!("expected:\n{expected}said:\n{said}"));
        }
        seen += 1;
    }
    assert!(seen > 0, "no fixtures in {below}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn good_selects_are_understood() {
    judge("good", async |definition| {
        let definition = match definition {
            Ok(definition) => definition,
            Err(errors) => return format!("refused:\n{}\n", crate::project::Report::new(errors)),
        };
        let computed = tokio::time::timeout(Duration::from_secs(20), compute(&definition)).await.unwrap();
        assert!(computed > 0, "{} computes", definition.name);
        for schema in [definition.result_schema(), definition.states_schema()] {
            crate::lake::schema::supported(&schema).unwrap();
        }
        let mut said = String::new();
        for column in &definition.columns {
            let role = column.key.map_or("value".to_owned(), |k| format!("key {k}"));
            let null = if column.nullable { "" } else { ", never null" };
            writeln!(said, "{}: {}{null}, {role}", column.name, column.data_type).unwrap();
        }
        writeln!(said, "needs {}", definition.needed.join(", ")).unwrap();
        for cost in &definition.costs {
            writeln!(said, "costs {cost}").unwrap();
        }
        writeln!(said, "{}", definition.canonical).unwrap();
        said
    })
    .await;
}

/// Windows of a few random trips.
async fn compute(definition: &Definition) -> usize {
    let mut runner = TestRunner::deterministic();
    let trips = prop::collection::vec(trip(), 200).new_tree(&mut runner).unwrap().current();
    let rows = batch(&trips.into_iter().enumerate().collect::<Vec<_>>());
    let states = definition.partial(streams(vec![vec![rows]]), Life::Stored).await.unwrap();
    let finished = definition.finish(&states).await.unwrap();
    finished.iter().flat_map(|f| &f.rows).map(|b| b.num_rows()).sum()
}

#[tokio::test]
async fn refused_selects_are_told_why() {
    judge("refused", async |definition| match definition {
        Ok(definition) => format!("not refused: {:?}\n", definition.columns),
        Err(errors) => format!("{}\n", crate::project::Report::new(errors)),
    })
    .await;
}

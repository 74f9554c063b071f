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
        drift_limit: Default::default(),
        speed: true,
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

const MUTILATED: &str = "SELECT t.town AS place, avg(t.distance) FILTER (WHERE t.paid) / 1000 AS a, \
    percentile_cont(0.9) WITHIN GROUP (ORDER BY distance) AS p, first_value(stops ORDER BY at DESC) AS f\n\
    FROM trips AS t LEFT JOIN towns w ON t.town = w.code AND w.people > 3\n\
    WHERE t.distance >= 0 AND upper(t.route.via) <> 'x'\n\
    GROUP BY t.town HAVING count(*) > 1";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever a SELECT is mutilated to, it is understood or refused with a reason and a place in the file.
    #[test]
    fn a_mutilated_select_is_understood_or_refused(
        at in 0..MUTILATED.len(),
        cut in 0_usize..25,
        put in prop_oneof![
            Just(String::new()),
            "[-+*/(),.;:'\"<>=!@# \n\ta-z0-9$%é]{0,6}",
            prop::sample::select(vec!["SELECT", " OVER () ", "NULL", "count(*)", "(SELECT 1)", "ORDER BY 1", "t.", "::INT", "[1]"])
                .prop_map(str::to_owned),
        ],
    ) {
        let text = format!("{}{put}{}", &MUTILATED[..at], &MUTILATED[(at + cut).min(MUTILATED.len())..]);
        let errors = super::runtime().block_on(async {
            let (settings, session) = (project(), session(1));
            let lookups = Lookups::load(&settings, &session).await.unwrap();
            let source = Source::of(&settings.pipelines[0]);
            Definition::new(&file("x", text.clone()), &source, &lookups, &session).await.err()
        });
        if let Some(errors) = errors {
            let lines = text.lines().count() + 2;
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.iter().all(|e| e.place.line <= lines && e.place.column >= 1), "{:?}", errors);
            prop_assert!(errors.iter().all(|e| !e.message.is_empty() && !e.message.contains('\n')), "{:?}", errors);
        }
    }
}

//! Every aggregate of the engine's own tests, computed by both engines over the same random events: each function
//! alone and with FILTER, keys and filters of all shapes, HAVING, joins; in zones off UTC, with windows from
//! minutes to months, nulls, both zeros, and doubles of all sizes.

use super::super::recount::{Origin, Published, TOLERANCE, compare, day, of_user};
use super::super::report::{Checking, Verdict};
use super::super::windows::{published, recipe};
use crate::engine::aggregate::tests::golden::{file, folder, project};
use crate::engine::aggregate::tests::trips::{Trip, batch, source, streams, trip};
use crate::engine::aggregate::tests::whole::{CASES, window};
use crate::engine::aggregate::tests::{runtime, session};
use crate::engine::aggregate::{Definition, Finished, Life, Lookups, kind_of};
use crate::lake::{FileProfile, PartitionValues, encode};
use crate::second_engine::{Frame, NEEDED, Place, Recipe, Recomputed, Rules, Unknown, decode};
use arrow::array::RecordBatch;
use deltaworks_core::select::Kind;
use deltaworks_core::windows::{Granularity, Instant, Zone};
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;

/// What the second engine does not know.
const UNKNOWN: [&str; 2] = ["array_agg", "arrow_cast"];

/// Values whose greatest and least is asked for.
const VALUES: [&str; 54] = [
    "stops / 3",
    "stops % 3",
    "stops / -2",
    "stops % -4",
    "stops * 2 - 1",
    "-stops",
    "abs(stops)",
    "driver + stops",
    "distance / 3",
    "distance * 2 + 1",
    "-distance",
    "abs(distance)",
    "sqrt(abs(distance))",
    "floor(distance)",
    "ceil(distance)",
    "round(distance)",
    "round(distance, 1)",
    "stops / 4.0",
    "fare + 1",
    "fare - stops",
    "fare * 2",
    "fare * fare",
    "fare / 3",
    "fare / 7.25",
    "-fare",
    "round(fare, 1)",
    "round(fare)",
    "fare / stops",
    "CAST(stops AS DOUBLE)",
    "CAST(fare AS DOUBLE)",
    "CAST(fare AS DECIMAL(9, 1))",
    "CAST(stops AS DECIMAL(9, 3))",
    "CAST(paid AS INT)",
    "CAST(stops AS VARCHAR)",
    "CAST(born AS VARCHAR)",
    "CAST(paid AS VARCHAR)",
    "CAST(at AS DATE)",
    "CAST(at AT TIME ZONE 'Europe/Kyiv' AS DATE)",
    "upper(town)",
    "trim(town)",
    "length(town)",
    "town || '-' || t.route.via",
    "concat(town, t.route.via)",
    "substr(town, 2)",
    "substr(town, 1, 2)",
    "reverse(town)",
    "coalesce(driver, stops)",
    "nullif(stops, 3)",
    "CASE town WHEN '007' THEN 1 WHEN 'x' THEN 2 END",
    "CASE WHEN paid THEN distance ELSE 0 END",
    "date_trunc('hour', at)",
    "date_trunc('month', at)",
    "date_trunc('day', at AT TIME ZONE 'Europe/Kyiv')",
    "born",
];

/// Conditions that rows are counted by.
const CONDITIONS: [&str; 26] = [
    "town LIKE '00%'",
    "town NOT LIKE '_08'",
    "t.route.via ILIKE '0%8'",
    "town IN ('007', 'x')",
    "driver NOT IN (1, 2)",
    "driver IN (1, NULL)",
    "driver NOT IN (1, NULL)",
    "stops BETWEEN 2 AND 5",
    "driver NOT BETWEEN 2 AND 3",
    "NOT (paid OR driver = 2)",
    "paid AND driver > 1",
    "paid IS TRUE",
    "paid IS NOT TRUE",
    "paid IS FALSE",
    "paid IS NOT FALSE",
    "driver IS NULL",
    "driver IS DISTINCT FROM 2",
    "driver IS NOT DISTINCT FROM NULL",
    "at >= '2026-03-29T00:00:00Z'",
    "at < TIMESTAMP '2026-10-25T00:00:00Z'",
    "born > DATE '1970-01-05'",
    "CAST(at AS DATE) = DATE '2026-03-29'",
    "fare > 10.5",
    "starts_with(town, '00')",
    "distance >= 0.1",
    "town < t.route.via",
];

/// SELECTs that all terms are dealt out to.
const SELECTS: usize = 13;

/// Parts of an instant.
const PARTS: [&str; 10] = ["year", "quarter", "month", "week", "day", "doy", "dow", "hour", "minute", "second"];

/// What is computed of results.
const ABOVE: [&str; 8] = [
    "sum(fare) / count(*)",
    "sum(fare) * 2.5",
    "count(*) * 100 / count(stops)",
    "round(avg(distance), 2)",
    "avg(distance) / 1000 + 1",
    "max(stops) - min(stops)",
    "CASE WHEN count(*) > 1 THEN upper(min(town)) ELSE 'one' END",
    "CAST(count(*) AS INT UNSIGNED)",
];

fn frame(rows: &RecordBatch, wanted: impl IntoIterator<Item = String>) -> Frame {
    let schema = rows.schema();
    let encoded = encode(&FileProfile::new(schema.clone()), [Ok(rows.clone())]).unwrap();
    let kind = |name: String| {
        let kind = kind_of(schema.field_with_name(&name).unwrap().data_type()).unwrap();
        (name, kind)
    };
    let wanted: Vec<(String, Kind)> = wanted.into_iter().map(kind).collect();
    decode(&encoded.bytes, 0, &wanted, &PartitionValues::new()).unwrap()
}

/// The windows of one granularity that have events, by the second engine.
fn computed(recipe: &Recipe, trips: &[Trip], granularity: Granularity, zone: &TimeZone) -> Result<Recomputed, Unknown> {
    let numbered: Vec<(usize, Trip)> = trips.iter().cloned().enumerate().collect();
    let of_select = recipe.select.columns_of(0).into_iter().map(|(name, _)| name);
    let wanted: BTreeSet<String> =
        of_select.chain(NEEDED.map(str::to_owned)).chain(["id".into(), "at".into()]).collect();
    let raw = frame(&batch(&numbered), wanted);
    let windows: BTreeSet<(i64, i64)> =
        trips.iter().map(|trip| window(granularity, zone, trip.at_us)).map(|(start, end, _)| (start, end)).collect();
    let size_us = match granularity {
        Granularity::Under(size) => Some(size.micros()),
        _ => None,
    };
    let rules = |windows: Vec<(i64, i64)>| Rules {
        event_time: source().event_time,
        id: Some("id".into()),
        lateness_ms: source().lateness_ms,
        next: (0..3).map(|partition| Place { topic: "trips".into(), partition, next: trips.len() as i64 }).collect(),
        fill: 7,
        days: (i32::MIN, i32::MAX),
        windows,
        size_us,
    };
    let mut all = Recomputed::default();
    let each = match size_us {
        Some(_) => vec![windows.into_iter().collect()],
        None => windows.into_iter().map(|window| vec![window]).collect::<Vec<_>>(),
    };
    for windows in each {
        let recomputed = recipe.recompute(raw.clone(), &rules(windows))?;
        all.rows.extend(recomputed.rows);
        all.counts.landed += recomputed.counts.landed;
    }
    assert_eq!(all.counts.landed, trips.len() as u64, "each event lies in one window");
    Ok(all)
}

/// Rows of the first engine, as `prove` reads them.
fn told(finished: &Finished, definition: &Definition) -> Vec<Published> {
    let own = ["window_start", "window_end", "events", "late", "duplicates", "filled"];
    let origin = ["granularity", "granularity", "granularity"];
    let names: Vec<&str> =
        own.into_iter().chain(origin).chain(definition.columns.iter().map(|column| column.name.as_str())).collect();
    let rows = finished.rows.iter().flat_map(|rows| {
        let wanted: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
        frame(rows, wanted).cells(&names).unwrap()
    });
    rows.map(published).collect()
}

/// Rows that were compared, or what differs.
async fn both(sql: &str, trips: &[Trip], windows: &str, zone: &str) -> Result<u64, String> {
    let session = session(1);
    let lookups = Lookups::load(&project(), &session).await.unwrap();
    let zone = TimeZone::get(zone).unwrap();
    let mut file = file("x", sql.to_owned());
    file.windows = windows.split(' ').map(|w| w.parse().unwrap()).collect();
    file.zone = Zone::new(zone.clone());
    let definition = Definition::new(&file, &source(), &lookups, &session).await;
    let definition = definition.map_err(|e| format!("{sql}: {}", crate::project::Report::new(e)))?;
    let recipe = recipe(&definition, &lookups).unwrap().map_err(|why| format!("{sql}: {why}"))?;
    let columns = of_user(&recipe.select, &definition.keys().map(|column| column.name.clone()).collect());
    let numbered: Vec<(usize, Trip)> = trips.iter().cloned().enumerate().collect();
    let states = definition.partial(streams(vec![vec![batch(&numbered)]]), Life::Pass).await.unwrap();
    let mut compared = 0;
    for finished in definition.finish(&states).await.unwrap() {
        let mut check = Checking::new("windows", "both");
        let name = finished.granularity.to_string();
        let computed =
            computed(&recipe, trips, finished.granularity, &zone).map_err(|why| format!("{sql} by {name}: {why}"))?;
        let recorded = BTreeSet::from([name.clone()]);
        let origin = Origin { generation: 0, recorded: &recorded };
        let mut told = told(&finished, &definition);
        told.iter_mut().for_each(|row| row.origin[0] = "0".into());
        compare(&mut check, &name, &columns, &told, &computed.rows, &origin);
        check.compared("units", 1);
        let check = check.end();
        compared += check.compared.get("window rows").copied().unwrap_or(0);
        if check.verdict != Verdict::Proved {
            return Err(format!("{sql}: {} differ: {:#?}", check.found, check.examples));
        }
    }
    Ok(compared)
}

fn is_unknown(sql: &str) -> bool {
    UNKNOWN.iter().any(|function| sql.contains(function))
}

#[test]
fn every_case_comes_out_the_same_by_both_engines() {
    let mut runner = TestRunner::deterministic();
    let trips = prop::collection::vec(trip(), 80).new_tree(&mut runner).unwrap().current();
    let (mut wrong, mut compared) = (String::new(), 0);
    for case in CASES {
        let sql = case.aggregate();
        match runtime().block_on(both(&sql, &trips, "1h 1d", "Europe/Kyiv")) {
            Ok(_) if is_unknown(&sql) => wrong += &format!("{sql} is known\n"),
            Err(why) if is_unknown(&sql) => assert!(why.contains("does not know"), "{why}"),
            Ok(rows) => compared += rows,
            Err(why) => wrong += &format!("{why}\n"),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(compared > 2_000, "{compared} rows");
}

#[test]
fn good_selects_are_known_or_told_by_name() {
    let mut runner = TestRunner::deterministic();
    let trips = prop::collection::vec(trip(), 30).new_tree(&mut runner).unwrap().current();
    let mut unknown = Vec::new();
    let mut names: Vec<_> = std::fs::read_dir(folder().join("good")).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|e| e == "sql"));
    names.sort();
    for path in names {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let sql = std::fs::read_to_string(&path).unwrap();
        match runtime().block_on(both(&sql, &trips, "5m 1d 1mo", "Asia/Kolkata")) {
            Ok(_) => {}
            Err(why) => unknown.push(format!("{name}: {}", why.trim_start_matches(&sql).trim_start_matches(": "))),
        }
    }
    let said = unknown.join("\n");
    assert_eq!(
        said,
        "every_function: the second engine does not know `array_agg` of `text`\n\
         min_nested: the second engine does not know `min` of `struct`\n\
         odd_types: the second engine does not know the type `Timestamp(s, \"UTC\")`"
    );
}

#[test]
fn terms_mean_the_same_to_both_engines() {
    let mut runner = TestRunner::deterministic();
    let mut trips = prop::collection::vec(trip(), 60).new_tree(&mut runner).unwrap().current();
    // neither engine divides by it
    trips.iter_mut().filter(|trip| trip.stops == 0).for_each(|trip| trip.stops = -7);
    let values = VALUES.iter().flat_map(|value| ["max", "min"].map(|of| format!("{of}({value})")));
    let conditions = CONDITIONS.iter().map(|condition| format!("count(*) FILTER (WHERE {condition})"));
    let parts = PARTS.iter().flat_map(|part| {
        ["at", "at AT TIME ZONE 'America/St_Johns'"].map(|of| format!("max(date_part('{part}', {of}))"))
    });
    let all: Vec<String> = values.chain(conditions).chain(parts).chain(ABOVE.map(str::to_owned)).collect();
    let mut wrong = String::new();
    // neighbours apart: casts of one column have one name to the first engine
    for n in 0..SELECTS {
        let some = all.iter().skip(n).step_by(SELECTS);
        let list: String = some.enumerate().map(|(n, term)| format!(", {term} AS a{n}")).collect();
        let sql = format!("SELECT driver{list} FROM trips t GROUP BY driver");
        match runtime().block_on(both(&sql, &trips, "1d", "UTC")) {
            Ok(rows) => assert!(rows > 4, "{sql}"),
            Err(why) => wrong += &format!("{why}\n"),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn doubles_may_differ_by_the_tolerance_only_where_they_are_sums() {
    let of = |list: &str| {
        runtime().block_on(async {
            let session = session(1);
            let lookups = Lookups::load(&project(), &session).await.unwrap();
            let sql = format!("SELECT town, {list} AS a FROM trips GROUP BY town");
            let definition = Definition::new(&file("x", sql), &source(), &lookups, &session).await.unwrap();
            let recipe = recipe(&definition, &lookups).unwrap().unwrap();
            of_user(&recipe.select, &BTreeSet::from(["town".into()]))
        })
    };
    let exact = ["sum(stops)", "avg(fare)", "min(distance)", "median(distance)", "count(*) * 0.5", "max(fare)"];
    let inexact = ["sum(distance)", "1 + avg(distance) / 2", "stddev(stops)", "CASE WHEN var(fare) > 1 THEN 1 END"];
    for (list, is_inexact) in exact.map(|l| (l, false)).into_iter().chain(inexact.map(|l| (l, true))) {
        let columns = of(list);
        assert_eq!((columns[0].is_key, columns[0].is_inexact), (true, false));
        assert_eq!((columns[1].is_key, columns[1].is_inexact), (false, is_inexact), "{list}");
    }
    assert_eq!(TOLERANCE, 1e-12);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_engines_agree_on_random_events(
        trips in prop::collection::vec(trip(), 0..30),
        case in prop::sample::select((0..CASES.len()).collect::<Vec<_>>()),
        zone in prop::sample::select(vec!["Europe/Kyiv", "Asia/Kolkata", "UTC", "America/St_Johns", "Australia/Lord_Howe"]),
        windows in prop::sample::select(vec!["5m 1h 1d", "1d", "1h 1w 1mo", "90m", "30s 1mo"]),
    ) {
        let sql = CASES[case].aggregate();
        prop_assume!(!is_unknown(&sql));
        let same = runtime().block_on(both(&sql, &trips, windows, zone));
        prop_assert!(same.is_ok(), "{}", same.unwrap_err());
    }
}

#[test]
fn days_count_from_the_epoch() {
    assert_eq!([day(Instant(0).utc_date().unwrap()), day(Instant(-1).utc_date().unwrap())], [0, -1]);
}

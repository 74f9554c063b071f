//! Rules over dates of a raw table whose rows a test writes itself.

use super::{QualityOptions, QualityReport, quality_on};
use crate::batch::BatchOptions;
use crate::batch::tests::kit::{Kit, Row, Sql, Windows};
use crate::clock::Clock;
use crate::error::Class;
use crate::lake::TableName;
use crate::project;
use crate::project::settings::Settings;
use deltaworks_core::quality::Verdict;
use deltaworks_core::units::Interval;
use deltaworks_core::windows::{DAY_US, Instant};
use futures::TryStreamExt;
use rstest::rstest;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// The contract of [`Kit`], with rules.
fn with_rules(kit: &Kit, of_event: &str, of_value: &str, of_key: &str) -> Settings {
    let list = |rules: &str| if rules.is_empty() { "[]".to_owned() } else { format!("[{rules}]") };
    let contract = format!(
        "apiVersion: v3.1.0\nkind: DataContract\nid: event\nversion: 1.0.0\nstatus: active\nschema:\n  - name: event\n    quality: {}\n    properties:\n      \
         - {{name: id, logicalType: string, primaryKey: true, required: true}}\n      \
         - {{name: at, logicalType: timestamp, required: true}}\n      \
         - {{name: value, logicalType: integer, quality: {}}}\n      - {{name: key, logicalType: string, quality: {}}}\n",
        list(of_event),
        list(of_value),
        list(of_key)
    );
    std::fs::write(kit.path().join("event.odcs.yaml"), contract).unwrap();
    project::load(kit.path(), &|_| None).unwrap_or_else(|report| panic!("{report}"))
}

fn row(day: i64, n: i64, value: Option<i64>, key: Option<&str>) -> Row {
    Row {
        id: format!("id-{day}-{n}"),
        at_us: day * DAY_US + n * 1_000_000,
        value,
        key: key.map(str::to_owned),
        kafka_us: None,
        partition: 0,
        offset: day * 100 + n,
        behind_ms: 0,
        repeat: false,
    }
}

/// Two dates: on the first 8 rows with values 0 to 7 but two nulls and keys a, b, N/A, ''; on the second 2 rows.
async fn landed() -> Kit {
    let kit = Kit::new(&[]);
    let key = |n: i64| [Some("a"), Some("b"), Some("N/A"), Some(""), None][(n % 5) as usize];
    let value = |n: i64| (n != 3 && n != 6).then_some(if n == 7 { 1 } else { n });
    let mut rows: Vec<Row> = (0..8).map(|n| row(20_000, n, value(n), key(n))).collect();
    rows.extend([row(20_001, 0, Some(5), Some("a")), row(20_001, 1, Some(5), Some("a"))]);
    // an hour more than the lateness: both dates are complete
    kit.land(&rows, 3, 20_002 * DAY_US + 2 * 3_600_000_000).await;
    kit
}

async fn run(kit: &Kit, settings: &Settings, interval: Interval) -> crate::Result<QualityReport> {
    let options = QualityOptions { run_id: "r".into(), pipelines: Vec::new(), interval };
    let clock = Clock::of(|| 20_002 * DAY_US / 1_000);
    quality_on(&kit.lake, settings, &options, &clock, &CancellationToken::new()).await
}

fn day(day: i64) -> Interval {
    Interval { from: Some(Instant(day * DAY_US)), to: Some(Instant((day + 1) * DAY_US)) }
}

#[rstest]
#[case::nulls("", "{metric: nullValues, mustBe: -1}", "", 2.0)]
#[case::share_of_nulls("", "{metric: nullValues, mustBe: -1, unit: percent}", "", 25.0)]
#[case::missing("", "", "{metric: missingValues, mustBe: -1, arguments: {missingValues: [null, '', N/A]}}", 4.0)]
#[case::missing_numbers("", "{metric: missingValues, mustBe: -1, arguments: {missingValues: [0, 4]}}", "", 2.0)]
#[case::invalid("", "", "{metric: invalidValues, mustBe: -1, arguments: {validValues: [a, b]}}", 3.0)]
#[case::invalid_numbers("", "{metric: invalidValues, mustBe: -1, arguments: {validValues: [1, 2, 4]}}", "", 2.0)]
#[case::pattern("", "", "{metric: invalidValues, mustBe: -1, arguments: {pattern: '[a-z]'}}", 3.0)]
#[case::both("", "", "{metric: invalidValues, mustBe: -1, arguments: {pattern: '[a-z]', validValues: [a]}}", 5.0)]
#[case::duplicates("", "{metric: duplicateValues, mustBe: -1}", "", 1.0)]
#[case::duplicates_together(
    "{metric: duplicateValues, mustBe: -1, arguments: {properties: [value, key]}}",
    "",
    "",
    0.0
)]
#[case::rows("{metric: rowCount, mustBe: -1}", "", "", 8.0)]
#[case::sql("{type: sql, query: 'SELECT sum(value) FROM {object} o WHERE o.key IS NOT NULL', mustBe: -1}", "", "", 9.0)]
#[case::sql_of_a_property("", "{type: sql, query: 'SELECT max({property}) FROM ${object}', mustBe: -1}", "", 5.0)]
#[case::sql_that_says_no("{type: sql, query: 'SELECT count(*) > 100 FROM {object}'}", "", "", 0.0)]
#[tokio::test]
async fn each_metric_is_measured_over_one_date(
    #[case] of_event: &str,
    #[case] of_value: &str,
    #[case] of_key: &str,
    #[case] expected: f64,
) {
    let kit = landed().await;
    let settings = with_rules(&kit, of_event, of_value, of_key);
    let report = run(&kit, &settings, day(20_000)).await.unwrap();
    let [breach] = &report.breaches[..] else { panic!("{report:?}") };
    assert_eq!((breach.value, breach.rows, report.dates, report.judged), (Some(expected), 8, 1, 1), "{breach:?}");
    assert_eq!(report.error().unwrap().class, Class::Limit);
}

#[tokio::test]
async fn severity_decides_what_a_breach_means() {
    let kit = landed().await;
    let rules = "{metric: rowCount, mustBeGreaterThan: 5, severity: SEVERITY}";
    for (severity, stops) in [("error", true), ("warning", false), ("info", false)] {
        let settings = with_rules(&kit, &rules.replace("SEVERITY", severity), "", "");
        let report = run(&kit, &settings, Interval { from: None, to: Some(Instant(20_002 * DAY_US)) }).await.unwrap();
        assert_eq!((report.dates, report.breached.get(severity)), (2, Some(&1)));
        assert_eq!(report.breaches[0].date.to_string(), "2024-10-05");
        assert_eq!(report.error().is_some(), stops);
    }
}

#[tokio::test]
async fn a_date_that_was_well_is_measured_again_only_if_rows_or_rules_are_new() {
    let kit = landed().await;
    let settings = with_rules(
        &kit,
        "{metric: rowCount, mustBeGreaterThan: 5}",
        "{metric: nullValues, mustBe: 2, severity: warning}",
        "",
    );
    let whole = Interval::default();
    let report = run(&kit, &settings, whole).await.unwrap();
    assert_eq!((report.dates, report.dates_left, report.breached.get("error")), (2, 0, Some(&1)));
    // the second date broke a rule that stops, and is looked at again
    let report = run(&kit, &settings, whole).await.unwrap();
    assert_eq!((report.dates, report.dates_left, report.breached.get("error")), (1, 1, Some(&1)));
    kit.land(&[row(20_000, 50, Some(1), None)], 3, 20_002 * DAY_US).await;
    let report = run(&kit, &settings, whole).await.unwrap();
    assert_eq!((report.dates, report.dates_left), (2, 0));
    let settings = with_rules(&kit, "{metric: rowCount, mustBeGreaterThan: 1}", "", "");
    let report = run(&kit, &settings, whole).await.unwrap();
    assert_eq!((report.dates, report.error().is_none()), (2, true));
    let report = run(&kit, &settings, whole).await.unwrap();
    assert_eq!((report.dates, report.dates_left, report.is_idle()), (0, 2, true));
    // asked for, it is measured
    assert_eq!(run(&kit, &settings, day(20_000)).await.unwrap().dates, 1);
}

#[tokio::test]
async fn what_was_judged_is_recorded() {
    let kit = landed().await;
    let settings = with_rules(
        &kit,
        "{id: enough, metric: rowCount, mustBeBetween: [5, 9]}, {type: text, description: all are good}",
        "",
        "",
    );
    let report = run(&kit, &settings, Interval::default()).await.unwrap();
    assert_eq!(report.not_run, ["text of events: it is a text for people"]);
    let table = kit.lake.open_table(&TableName::new("ops", "quality")).await.unwrap().unwrap();
    let mut verdicts = BTreeMap::new();
    for file in table.live_files().await.unwrap() {
        let columns = ["rule", "rows", "value", "verdict", "must", "table"];
        for batch in table.read_file(&file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
            use arrow::array::AsArray;
            use arrow::datatypes::{Float64Type, Int64Type};
            for row in 0..batch.num_rows() {
                let text = |name: &str| batch[name].as_string::<i32>().value(row).to_owned();
                assert_eq!(
                    (text("rule"), text("must"), text("table")),
                    ("enough".into(), "5 to 9".into(), "raw.events".into())
                );
                let rows = batch["rows"].as_primitive::<Int64Type>().value(row);
                verdicts.insert(rows, (batch["value"].as_primitive::<Float64Type>().value(row), text("verdict")));
            }
        }
    }
    let verdict = |verdict: Verdict| verdict.as_str().to_owned();
    assert_eq!(verdicts, BTreeMap::from([(8, (8.0, verdict(Verdict::Kept))), (2, (2.0, verdict(Verdict::Breached)))]));
}

const TOTALS: Sql = Sql {
    name: "totals",
    windows: "[1h, 1d]",
    zone: "UTC",
    select: "SELECT key, sum(value) AS total, max(value) AS greatest FROM events GROUP BY key",
};

#[tokio::test]
async fn windows_of_a_date_that_breaks_a_rule_are_held_back_until_it_keeps_it() {
    let mut kit = landed().await;
    kit.define(&[TOTALS]);
    with_rules(
        &kit,
        "{id: enough, metric: rowCount, mustBeGreaterThan: 5}, {metric: rowCount, mustBe: 0, severity: warning}",
        "",
        "",
    );
    kit.define(&[TOTALS]);
    let asked = |kit: &Kit| BatchOptions { quality_first: true, ..kit.options() };
    // the day of the second date, and its hours
    let report = kit.batch(&asked(&kit)).await;
    let error = report.error.as_ref().unwrap();
    assert_eq!(error.class, Class::Limit);
    assert!(error.message.contains("2024-10-05 breaks the quality rule `enough`"), "{error}");
    let held: Vec<&str> = report.held.iter().map(|held| held.unit.as_str()).collect();
    assert_eq!(held.len(), 2, "{held:?}");
    assert!(report.held.iter().all(|held| held.date.to_string() == "2024-10-05"));
    let of_first_date = |windows: &Windows| windows.keys().all(|(_, start, _)| *start < 20_001 * DAY_US);
    let windows = kit.published("totals").await;
    assert!(!windows.is_empty() && of_first_date(&windows), "{windows:?}");
    // with more rows it keeps the rule
    let rows: Vec<Row> = (2..8).map(|n| row(20_001, n, Some(1), None)).collect();
    kit.land(&rows, 3, 20_002 * DAY_US + 2 * 3_600_000_000).await;
    let report = kit.batch(&asked(&kit)).await;
    assert!(report.error.is_none() && report.held.is_empty(), "{report:?}");
    assert!(!of_first_date(&kit.published("totals").await));
    let report = kit.batch(&asked(&kit)).await;
    assert!(report.is_idle(), "{report:?}");
}

#[rstest]
#[case::two_rows("SELECT key FROM {object}", "the query has more than one row")]
#[case::no_number("SELECT min(key) FROM {object}", "the query has a value that is no number")]
#[case::null("SELECT max(value) FROM {object} WHERE value > 100", "the query answers null")]
#[case::two_columns("SELECT count(*), min(value) FROM {object}", "the query has 2 columns, and a rule is one number")]
#[tokio::test]
async fn what_cannot_be_measured_is_breached_and_says_why(#[case] query: &str, #[case] expected: &str) {
    let kit = landed().await;
    let settings = with_rules(&kit, &format!("{{type: sql, query: '{query}', mustBe: 0}}"), "", "");
    let report = run(&kit, &settings, day(20_000)).await.unwrap();
    let detail = report.breaches[0].detail.clone().unwrap();
    assert!(detail.contains(expected), "{detail}");
    assert_eq!(report.error().unwrap().class, Class::Limit);
}

#[rstest]
#[case::no_sql("SELECT (1 FROM {object}", "not valid SQL")]
#[case::no_column("SELECT count(valeu) FROM {object}", "there is no column `valeu`")]
#[case::writes("DELETE FROM {object}", "queries only read")]
#[tokio::test]
async fn a_query_that_cannot_be_planned_is_refused_before_anything_is_measured(
    #[case] query: &str,
    #[case] expected: &str,
) {
    let kit = landed().await;
    let settings = with_rules(&kit, &format!("{{id: mine, type: sql, query: '{query}', mustBe: 0}}"), "", "");
    let error = run(&kit, &settings, day(20_000)).await.unwrap_err();
    assert_eq!(error.class, Class::User);
    assert!(error.message.contains(expected) && error.message.contains("rule `mine`"), "{}", error.message);
    let recorded = kit.lake.open_table(&TableName::new("ops", "quality")).await.unwrap();
    assert!(recorded.is_none());
}

//! Whole units, from raw and batch tables: what batch has published is proved whatever was landed and compacted,
//! and what cannot be recomputed is listed with its reason.

use super::super::report::{Check, Verdict};
use super::super::windows::windows;
use crate::batch::tests::guards::rows;
use crate::batch::tests::kit::{Kit, LATENESS_US, Row, Sql, committed, date_of};
use crate::batch::tests::naive;
use deltaworks_core::units::Interval;
use deltaworks_core::windows::Instant;
use proptest::prelude::*;
use rstest::rstest;
use std::sync::Arc;
use std::time::Duration;

const HOUR_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * HOUR_US;
const SELECT: &str = "SELECT key, sum(value) AS total, max(value) AS greatest FROM events GROUP BY key";
const TOTALS: Sql = Sql { name: "totals", windows: "[6h, 1d]", zone: "UTC", select: SELECT };

async fn proved(kit: &Kit, interval: Interval) -> Vec<Check> {
    windows(&kit.lake, &kit.settings, &kit.settings.aggregates[0], interval).await.unwrap()
}

/// How much of it was compared, if both checks are green.
fn green(checks: &[Check], what: &str) -> u64 {
    assert_eq!(checks.len(), 2, "{checks:#?}");
    assert!(checks.iter().all(|check| check.verdict == Verdict::Proved), "{checks:#?}");
    checks.iter().filter_map(|check| check.compared.get(what)).sum()
}

fn not_proved(checks: &[Check]) -> &str {
    let check = checks.iter().find(|check| check.verdict == Verdict::NotProved);
    check.and_then(|check| check.why.as_deref()).unwrap_or_else(|| panic!("{checks:#?}"))
}

async fn three_days(aggregates: &[Sql]) -> Kit {
    let kit = Kit::new(aggregates);
    kit.land(&rows(0, 30, 10), 7, 3 * DAY_US + LATENESS_US).await;
    kit.batch_well().await;
    kit
}

#[derive(Debug, Clone)]
struct Event {
    hour: i64,
    second: i64,
    id: u8,
    value: Option<i64>,
    key: Option<u8>,
    kafka_us: Option<i64>,
    partition: bool,
    behind_ms: i64,
}

/// Few ids over three days, so that copies lie on both sides of midnight and some are far enough to count again.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let landed = (prop::option::of(0..3_i64), any::<bool>(), 0..8_000_000_i64);
    let event = (-30..50_i64, 0..3_600_i64, 0..9_u8, prop::option::of(-3..9_i64), prop::option::of(0..2_u8), landed);
    let event = event.prop_map(|(hour, second, id, value, key, (kafka_us, partition, behind_ms))| Event {
        hour,
        second,
        id,
        value,
        key,
        kafka_us,
        partition,
        behind_ms,
    });
    prop::collection::vec(event, 1..25)
}

async fn play(first_us: i64, zone: &'static str, events: Vec<Event>, again: Vec<Event>) {
    let kit = Kit::new(&[Sql { name: "totals", windows: "[15m, 1d, 1mo]", zone, select: SELECT }]);
    let (mut all, mut offsets): (Vec<Row>, [i64; 2]) = (Vec::new(), [0, 0]);
    let reached = first_us + 45 * HOUR_US;
    for events in [events, again] {
        let first = all.len();
        for e in events {
            let partition = usize::from(e.partition);
            all.push(Row {
                id: format!("id-{}", e.id),
                at_us: first_us + e.hour * HOUR_US + e.second * 1_000_000,
                value: e.value,
                key: e.key.map(|k| format!("key {k}")),
                kafka_us: e.kafka_us,
                partition: partition as i32,
                offset: offsets[partition],
                behind_ms: e.behind_ms,
                repeat: false,
            });
            offsets[partition] += 1;
        }
        kit.land(&all[first..], 4, reached).await;
        kit.batch_well().await;
        let plain = naive::windows(&all, &["15m", "1d", "1mo"], zone, reached - LATENESS_US, |_| true, |_| true);
        assert_eq!(kit.published("totals").await, plain);
        let checks = proved(&kit, Interval::default()).await;
        assert_eq!(green(&checks, "window rows"), plain.len() as u64);
    }
    // rows that came later are in no pin, and a rewrite of files changes no row
    let late = Row { offset: offsets[0], partition: 0, at_us: first_us, ..all[0].clone() };
    kit.land(std::slice::from_ref(&late), 4, reached).await;
    kit.compact(&date_of(first_us)).await;
    green(&proved(&kit, Interval::default()).await, "window rows");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 50, ..ProptestConfig::default() })]
    #[test]
    fn what_batch_has_published_is_proved(
        first_us in prop::sample::select(vec![1_730_592_000_000_000, -HOUR_US * 30, 0]),
        zone in prop::sample::select(vec!["UTC", "America/St_Johns", "Europe/Kyiv", "Australia/Lord_Howe"]),
        events in events(),
        again in events(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(first_us, zone, events, again));
    }
}

#[tokio::test]
async fn an_interval_takes_units_that_have_windows_ending_in_it() {
    let kit = three_days(&[TOTALS]).await;
    let all = green(&proved(&kit, Interval::default()).await, "windows recomputed");
    assert_eq!(all, 3 * (4 + 1));
    let second = Interval { from: Some(Instant(DAY_US)), to: Some(Instant(2 * DAY_US)) };
    assert_eq!(green(&proved(&kit, second).await, "windows recomputed"), 4 + 1);
    let never = Interval { from: Some(Instant(90 * DAY_US)), to: None };
    assert_eq!(not_proved(&proved(&kit, never).await), "batch has published no window of these");
}

#[tokio::test]
async fn units_of_removed_dates_are_listed() {
    let kit = three_days(&[TOTALS]).await;
    let mut raw = kit.raw().await;
    let mut commit = kit.commit();
    commit.txns = vec![("deltaworks/events/removed_through".into(), 0)];
    committed(raw.commit(commit).await);
    let checks = proved(&kit, Interval::default()).await;
    // of the first date, and of the second, whose copies the first tells
    assert_eq!(
        not_proved(&checks),
        "4 of 6 units, such as totals/6h/1970-01-01: raw dates of theirs were removed by retention"
    );
    assert_eq!(green(&checks[..2], "windows recomputed"), 4 + 1);
}

#[rstest]
#[case::in_order("array_agg(value ORDER BY at)", "the second engine does not know `array_agg` of `int64`")]
#[case::log("ln(avg(value))", "the second engine does not know `ln`")]
#[tokio::test]
async fn what_the_second_engine_does_not_know_is_listed(#[case] what: &str, #[case] why: &str) {
    let select = format!("SELECT key, {what} AS x FROM events GROUP BY key");
    let kit = three_days(&[Sql { select: select.leak(), ..TOTALS }]).await;
    let checks = proved(&kit, Interval::default()).await;
    assert!(checks.iter().all(|check| check.verdict == Verdict::NotProved), "{checks:#?}");
    assert_eq!(not_proved(&checks), format!("6 of 6 units, such as totals/6h/1970-01-01: {why}"));
}

#[tokio::test]
async fn units_of_an_older_definition_are_computed_under_it() {
    let mut kit = three_days(&[TOTALS]).await;
    let select = "SELECT key, sum(value) AS total, min(value) AS greatest FROM events GROUP BY key";
    kit.define(&[Sql { select, ..TOTALS }]);
    assert!(green(&proved(&kit, Interval::default()).await, "window rows") > 0);
    // what `ops.pins` does not keep, such as lateness, cannot be brought back
    let mut pipeline = kit.settings.pipelines[0].as_ref().clone();
    pipeline.lateness = Duration::from_secs(7);
    kit.settings.pipelines[0] = Arc::new(pipeline);
    let checks = proved(&kit, Interval::default()).await;
    let why = not_proved(&checks);
    assert!(why.contains("of which lateness, lookups or SQL are no longer known"), "{why}");
}

#[tokio::test]
async fn a_raw_file_that_is_dropped_is_found() {
    let kit = three_days(&[TOTALS]).await;
    let mut raw = kit.raw().await;
    let file = raw.live_files().await.unwrap().swap_remove(0);
    let mut commit = kit.commit();
    commit.removes = vec![file];
    committed(raw.commit(commit).await);
    let checks = proved(&kit, Interval::default()).await;
    assert!(checks.iter().all(|check| check.verdict == Verdict::Refuted), "{checks:#?}");
    let balance = &checks[1].examples[0];
    assert!(balance.contains("inside its pin: 3, and should be 10"), "{balance}");
}

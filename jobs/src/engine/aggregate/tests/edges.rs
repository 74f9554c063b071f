//! What goes wrong while computing, what is counted, and what changes a fingerprint.

use super::super::*;
use super::golden::{file, project};
use super::session;
use super::trips::{Trip, batch, source, streams};
use crate::error::{Class, Error, Stage};
use arrow::array::{AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use deltalake::datafusion::physical_plan::displayable;
use futures::StreamExt;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rstest::rstest;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

const HOUR_US: i64 = 3_600_000_000;

fn trip(at_us: i64, town: &'static str) -> Trip {
    Trip {
        at_us,
        driver: Some(1),
        town,
        distance: Some(1.5),
        fare: None,
        stops: 3,
        paid: Some(true),
        via: None,
        behind_ms: Some(0),
        kafka_us: None,
    }
}

async fn define(sql: &str, session: &Session) -> Definition {
    let lookups = Lookups::load(&project(), session).await.unwrap();
    Definition::new(&file("x", sql.to_owned()), &source(), &lookups, session).await.unwrap()
}

fn rows(trips: &[Trip]) -> RecordBatch {
    batch(&trips.iter().cloned().enumerate().collect::<Vec<_>>())
}

#[tokio::test]
async fn what_having_takes_away_is_still_counted() {
    let definition =
        define("SELECT town, count(*) AS n FROM trips WHERE stops > 0 GROUP BY town HAVING count(*) > 1", &session(2))
            .await;
    let late = Trip { behind_ms: Some(3_600_001), ..trip(HOUR_US, "b") };
    let filled = Trip { behind_ms: None, ..trip(HOUR_US, "b") };
    let dropped = Trip { stops: 0, ..trip(HOUR_US, "b") };
    let all = [trip(0, "a"), late, filled, trip(HOUR_US, "c"), dropped];
    let states = definition.partial(streams(vec![vec![rows(&all)]]), Life::Pass).await.unwrap();
    let [small, day] = definition.finish(&states).await.unwrap().try_into().unwrap();
    assert_eq!(small.rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    let one = Counted { keys: 1, events: 1, late: 0, duplicates: 0, filled: 0 };
    let two = Counted { keys: 2, events: 3, late: 1, duplicates: 0, filled: 1 };
    assert_eq!(small.counted.into_iter().collect::<Vec<_>>(), [(0, one), (HOUR_US, two)]);
    assert_eq!(day.counted[&0], Counted { keys: 3, events: 4, late: 1, duplicates: 0, filled: 1 });
}

#[tokio::test]
async fn duplicates_are_counted_and_nothing_else() {
    let sql = "SELECT town, sum(stops) AS s, count(DISTINCT driver) AS d, median(stops) AS m, \
               first_value(stops ORDER BY at) AS f, count(*) AS n FROM trips WHERE stops > 0 GROUP BY town";
    for parallel in [1, 3] {
        let definition = define(sql, &session(parallel)).await;
        let counted = [trip(0, "a"), trip(HOUR_US, "b"), trip(HOUR_US + 1, "b")];
        let dropped = Trip { stops: 0, ..trip(0, "a") };
        let other = Trip { stops: 9, driver: Some(2), ..trip(5, "a") };
        let duplicates = [other.clone(), other, dropped, trip(HOUR_US, "a"), trip(2 * HOUR_US, "c")];
        let alone = definition.partial(streams(vec![vec![rows(&counted)]]), Life::Pass).await.unwrap();
        let (counted, duplicates) = (streams(vec![vec![rows(&counted)]]), streams(vec![vec![rows(&duplicates)]]));
        let with = definition.partial_with_duplicates(counted, duplicates, Life::Pass).await.unwrap();
        let with = definition.finish(&with).await.unwrap();
        for (with, without) in with.iter().zip(definition.finish(&alone).await.unwrap()) {
            let (with, without) = (one(&with.rows), one(&without.rows));
            let shared: Vec<usize> = (0..with.num_columns()).filter(|c| *c != with.num_columns() - 2).collect();
            assert_eq!(with.project(&shared).unwrap(), without.project(&shared).unwrap());
            let numbers = with.column_by_name("duplicates").unwrap().as_primitive::<Int64Type>();
            let expected = if is_day(&with) { [3, 0] } else { [2, 0] };
            assert_eq!(numbers.values(), &expected[..]);
        }
        let small = &with[0].counted;
        assert_eq!(small[&0], Counted { keys: 1, events: 1, late: 0, duplicates: 2, filled: 0 });
        assert_eq!(small[&(2 * HOUR_US)], Counted { keys: 0, events: 0, late: 0, duplicates: 1, filled: 0 });
    }
}

fn one(batches: &[RecordBatch]) -> RecordBatch {
    arrow::compute::concat_batches(&batches[0].schema(), batches).unwrap()
}

fn is_day(rows: &RecordBatch) -> bool {
    rows.column(0).as_string::<i32>().value(0) == "1d"
}

#[tokio::test]
async fn days_can_be_kept_while_their_minutes_go() {
    let sql = "SELECT town, median(stops) AS m, count(*) AS n FROM trips GROUP BY town";
    let lookups = Lookups::default();
    let mut file = file("x", sql.to_owned());
    file.windows = ["5m", "1d", "1mo"].map(|w| w.parse().unwrap()).to_vec();
    let definition = Definition::new(&file, &source(), &lookups, &session(2)).await.unwrap();
    let trips: Vec<Trip> = (0..300).map(|n| Trip { stops: n * n % 17, ..trip(n * 7 * HOUR_US, "a") }).collect();
    let portions: Vec<States> = {
        let mut kept = Vec::new();
        for portion in trips.chunks(90) {
            let states = definition.partial(streams(vec![vec![rows(portion)]]), Life::Pass).await.unwrap();
            let days = definition.rollup(&states, "1d".parse().unwrap()).await.unwrap();
            assert!(days.len() < states.len() && days.memory_bytes() > 0);
            kept.push(days);
        }
        kept
    };
    let merged = definition.merge(portions).await.unwrap();
    let months = definition.finish_one(&merged, "1mo".parse().unwrap()).await.unwrap();
    let whole = definition.partial(streams(vec![vec![rows(&trips)]]), Life::Stored).await.unwrap();
    let whole = definition.finish(&whole).await.unwrap().pop().unwrap();
    assert_eq!((one(&months.rows), months.counted), (one(&whole.rows), whole.counted));
}

#[rstest]
#[case(&["route", "began"], "trips", 7 * HOUR_US)]
#[case(&["_kafka_time"], "parcels", 5 * HOUR_US)]
#[tokio::test]
async fn the_event_time_may_be_nested_or_kafkas(#[case] path: &[&str], #[case] name: &str, #[case] window: i64) {
    let event_time = path.iter().map(ToString::to_string).collect();
    let source = Source { event_time, name: name.to_owned(), ..source() };
    let mut file =
        file("x", format!("SELECT town, first_value(stops ORDER BY stops) AS f FROM {name} p GROUP BY p.town"));
    file.windows = vec!["1h".parse().unwrap()];
    let definition = Definition::new(&file, &source, &Lookups::default(), &session(1)).await.unwrap();
    let event = Trip { kafka_us: Some(5 * HOUR_US + 1), ..trip(7 * HOUR_US + 1, "a") };
    let states = definition.partial(streams(vec![vec![rows(&[event])]]), Life::Pass).await.unwrap();
    let [hours] = definition.finish(&states).await.unwrap().try_into().unwrap();
    assert_eq!(hours.counted.into_keys().collect::<Vec<_>>(), [window]);
}

#[rstest]
#[case("SELECT driver, town, distance, median(stops) AS m FROM trips GROUP BY 2, 3, 1 HAVING count(*) < 9")]
#[case("SELECT upper(town) AS t, count(*) AS n FROM trips JOIN drivers USING (driver) GROUP BY 1")]
#[case("SELECT count(*) AS n, sum(fare) AS f FROM trips")]
#[tokio::test]
async fn buckets_of_keys_make_the_whole(#[case] sql: &str) {
    let definition = define(sql, &session(2)).await;
    let mut runner = TestRunner::deterministic();
    let trips = prop::collection::vec(super::trips::trip(), 400).new_tree(&mut runner).unwrap().current();
    let all = || streams(vec![vec![rows(&trips)]]);
    let whole = definition.finish(&definition.partial(all(), Life::Pass).await.unwrap()).await.unwrap();
    let of = NonZeroU32::new(5).unwrap();
    let (mut buckets, mut spread): (Vec<Vec<Finished>>, usize) = (Vec::new(), 0);
    for index in 0..5 {
        let take = Take { life: Life::Pass, bucket: Bucket { index, of } };
        let states = definition.partial(all(), take).await.unwrap();
        spread += usize::from(!states.is_empty());
        buckets.push(definition.finish(&states).await.unwrap());
    }
    assert!(definition.keys().count() == 0 || spread > 1, "keys are spread");
    for (n, whole) in whole.into_iter().enumerate() {
        let of_bucket = || buckets.iter().map(|finished| &finished[n]);
        let mut counted: BTreeMap<i64, Counted> = BTreeMap::new();
        for (start, more) in of_bucket().flat_map(|finished| &finished.counted) {
            counted.entry(*start).or_default().add(*more);
        }
        assert_eq!(counted, whole.counted);
        let united: Vec<RecordBatch> = of_bucket().flat_map(|finished| finished.rows.clone()).collect();
        assert_eq!(definition.sorted(&united).unwrap(), one(&whole.rows));
    }
}

#[test]
fn computing_can_be_spawned() {
    fn is_send<T: Send>(_: impl Fn(&'static Definition) -> T) {}
    is_send(|definition| definition.partial(Vec::new(), Life::Pass));
    is_send(|definition| definition.merge(Vec::new()));
    is_send(|definition| async move { definition.finish(&definition.merge(Vec::new()).await.unwrap()).await });
}

#[tokio::test]
async fn no_rows_make_no_windows() {
    let definition = define("SELECT count(*) AS n FROM trips", &session(3)).await;
    for parts in [vec![], vec![vec![rows(&[])], vec![]]] {
        let states = definition.partial(streams(parts), Life::Stored).await.unwrap();
        assert!(states.is_empty());
        let merged = definition.merge([states]).await.unwrap();
        let finished = definition.finish(&merged).await.unwrap();
        assert!(finished.iter().all(|f| f.rows.iter().all(|b| b.num_rows() == 0) && f.counted.is_empty()));
    }
}

#[tokio::test]
async fn columns_are_found_by_name() {
    let definition = define("SELECT town, sum(stops) AS s FROM trips GROUP BY town", &session(1)).await;
    let all = rows(&[trip(0, "a")]);
    let mut wanted: Vec<usize> = definition.needed.iter().map(|n| all.schema().index_of(n).unwrap()).collect();
    wanted.reverse();
    let needed_only = all.project(&wanted).unwrap();
    let states = definition.partial(streams(vec![vec![needed_only.clone()]]), Life::Pass).await.unwrap();
    assert_eq!(states.len(), 1);
    let lacking = needed_only.project(&(1..wanted.len()).collect::<Vec<_>>()).unwrap();
    let error = definition.partial(streams(vec![vec![lacking]]), Life::Pass).await.unwrap_err();
    assert_eq!(error.class, Class::Internal);
    assert!(error.message.contains("lack the column `_fill`"), "{error}");
}

#[tokio::test]
async fn the_error_of_a_stream_stays_what_it_was() {
    let definition = define("SELECT town, sum(stops) AS s FROM trips GROUP BY town", &session(2)).await;
    let broken =
        Error::new(Stage::Lake, Class::Outside, "table `raw.trips`: cannot read `x.parquet`").hint("look there");
    let stream = futures::stream::iter([Ok(rows(&[trip(0, "a")])), Err(broken.because("the disk is gone"))]).boxed();
    let error = definition.partial(vec![stream], Life::Pass).await.unwrap_err();
    assert_eq!((error.stage, error.class, error.hint.as_deref()), (Stage::Lake, Class::Outside, Some("look there")));
    assert_eq!(error.message, "aggregate `x`: table `raw.trips`: cannot read `x.parquet`");
    assert_eq!(error.source.as_ref().unwrap().to_string(), "the disk is gone");
    assert!(!is_out_of_memory(&error));
}

#[tokio::test]
async fn an_event_without_time_is_an_error() {
    let definition = define("SELECT count(*) AS n FROM trips", &session(1)).await;
    let all = rows(&[trip(0, "a")]);
    let columns = all.columns().iter().enumerate().map(|(i, c)| match all.schema().field(i).name().as_str() {
        "at" => Arc::new(TimestampMicrosecondArray::from(vec![None]).with_timezone("UTC")) as _,
        _ => Arc::clone(c),
    });
    let fields: Vec<_> = all.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    let timeless = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns.collect()).unwrap();
    assert!(definition.partial(streams(vec![vec![timeless]]), Life::Pass).await.is_err());
}

#[tokio::test]
async fn too_little_memory_is_told_apart() {
    let small = Session::new(&Limits { memory_bytes: 200_000, parallel: 1 }).unwrap();
    let definition = define("SELECT town, median(stops) AS m FROM trips GROUP BY town", &small).await;
    let many: Vec<Trip> = (0..40_000).map(|n| Trip { stops: n, ..trip(n * HOUR_US, "a") }).collect();
    let parts = vec![many.chunks(4_000).map(rows).collect()];
    let error = definition.partial(streams(parts), Life::Pass).await.unwrap_err();
    assert!(is_out_of_memory(&error), "{error:?}");
    // also where it comes through the streams of the plan above the aggregation
    let sql = "SELECT median(stops) AS m FROM trips";
    let (roomy, small) = (define(sql, &session(1)).await, define(sql, &small).await);
    let one: Vec<Trip> = (0..40_000).map(|n| Trip { stops: n, ..trip(n, "a") }).collect();
    let states = roomy.partial(streams(vec![one.chunks(4_000).map(rows).collect()]), Life::Pass).await.unwrap();
    for granularity in &small.granularities {
        let error = small.finish_one(&states, *granularity).await.unwrap_err();
        assert!(is_out_of_memory(&error), "{granularity}: {error:?}");
    }
}

#[tokio::test]
async fn states_of_another_definition_are_refused() {
    let (one, other) = ("SELECT sum(stops) AS s FROM trips", "SELECT town, count(*) AS n FROM trips GROUP BY town");
    let (one, other) = (define(one, &session(1)).await, define(other, &session(1)).await);
    let states = one.partial(streams(vec![vec![rows(&[trip(0, "a")])]]), Life::Stored).await.unwrap();
    let stored: Vec<RecordBatch> = states.batches().cloned().collect();
    assert_eq!(one.stored(&stored).unwrap().len(), 1);
    assert_eq!(other.stored(&stored).unwrap_err().class, Class::Internal);
    assert_ne!(one.states_fingerprint, other.states_fingerprint);
}

#[tokio::test]
async fn the_stream_is_never_the_side_of_a_join_that_is_kept() {
    let sql = "SELECT w.region, d.name, count(*) AS n FROM trips t JOIN drivers d ON d.driver = t.driver \
               LEFT JOIN towns w ON w.code = t.town GROUP BY w.region, d.name";
    for parallel in [1, 4] {
        let definition = define(sql, &session(parallel)).await;
        let plan = definition.shown_plan().await;
        let lines: Vec<&str> = plan.lines().collect();
        let depth = |line: &str| line.len() - line.trim_start().len();
        let stream = lines.iter().position(|l| l.contains("StreamingTableExec")).unwrap();
        // of each join, the side that is kept in memory comes first
        for (at, join) in lines.iter().enumerate().filter(|(_, l)| l.contains("HashJoinExec")) {
            let sides: Vec<usize> =
                (at + 1..lines.len()).filter(|n| depth(lines[*n]) == depth(join) + 2).take(2).collect();
            assert!(stream >= sides[1], "the rows of trips would be kept:\n{plan}");
        }
    }
}

#[rstest]
#[case("select   count(*) as n, TOWN /* a remark */ from trips group by town -- and another", false)]
#[case("SELECT t.town, count(*) AS n FROM trips AS t GROUP BY 1", true)]
#[case("SELECT town, count(*) AS n FROM trips GROUP BY trips.town", true)]
#[case("SELECT town, count(1) AS n FROM trips GROUP BY town", true)]
#[case("SELECT town, count(*) AS m FROM trips GROUP BY town", false)]
#[case("SELECT town, count(stops) AS n FROM trips GROUP BY town", false)]
#[case("SELECT town, count(*) AS n FROM trips WHERE stops > 1 GROUP BY town", false)]
#[case("SELECT town, count(*) AS n FROM trips GROUP BY town HAVING count(*) > 1", false)]
#[case("SELECT town, count(*) AS n FROM trips t LEFT JOIN towns w ON t.town = w.code GROUP BY town", false)]
#[tokio::test]
async fn the_fingerprint_is_of_the_meaning(#[case] sql: &str, #[case] same: bool) {
    let session = session(1);
    let base = define("SELECT town, count(*) AS n FROM trips GROUP BY town", &session).await;
    let other = define(sql, &session).await;
    assert_eq!(base.fingerprint == other.fingerprint, same, "{}", other.canonical);
    assert_eq!(base.states_fingerprint == other.states_fingerprint, same);
}

#[tokio::test]
async fn the_fingerprint_is_of_lateness_zone_and_lookups_too() {
    let session = session(1);
    let mut lookups = Lookups::load(&project(), &session).await.unwrap();
    let sql = "SELECT region, count(*) AS n FROM trips t LEFT JOIN towns w ON t.town = w.code GROUP BY region";
    let plain = file("x", sql.to_owned());
    let of = async |file: &crate::project::settings::AggregateFile, source: &Source, lookups: &Lookups| {
        Definition::new(file, source, lookups, &session).await.unwrap().fingerprint
    };
    let base = of(&plain, &source(), &lookups).await;
    assert_eq!(base, of(&plain, &source(), &lookups).await);
    let zone = deltaworks_core::windows::Zone::new(jiff::tz::TimeZone::get("Europe/Kyiv").unwrap());
    let mut moved = plain.clone();
    moved.zone = zone;
    assert_ne!(base, of(&moved, &source(), &lookups).await);
    let mut more = plain.clone();
    more.windows = vec!["1h".parse().unwrap()];
    assert_eq!(base, of(&more, &source(), &lookups).await, "each granularity has units of its own");
    let later = Source { lateness_ms: 1, ..source() };
    assert_ne!(base, of(&plain, &later, &lookups).await);
    lookups.change("drivers");
    assert_eq!(base, of(&plain, &source(), &lookups).await, "a lookup that is not joined");
    lookups.change("towns");
    assert_ne!(base, of(&plain, &source(), &lookups).await);
}

impl Lookups {
    fn change(&mut self, name: &str) {
        let mut lookup = self.get(name).unwrap().clone();
        lookup.fingerprint.push('x');
        self.put(name, lookup);
    }
}

impl Definition {
    async fn shown_plan(&self) -> String {
        let rows = super::super::rows::Rows::new(Arc::clone(&self.source_schema), Vec::new());
        let (input, _) = self.eaten.0.plan(&self.session, rows, Bucket::ALL).await.unwrap();
        displayable(input.as_ref()).indent(false).to_string()
    }
}

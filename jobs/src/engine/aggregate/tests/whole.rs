//! Split, merged and rolled up equals the whole: every aggregate over random trips, in random splits,
//! against one plain query per granularity that knows nothing of states.
//!
//! The plain query runs in the same session, so it has the same functions; its windows are computed here,
//! with jiff alone. What the functions themselves compute is tested beside them.

use super::super::*;
use super::golden::{file, project};
use super::trips::{Trip, batch, source, streams, trip};
use super::{runtime, session};
use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use deltalake::datafusion::datasource::MemTable;
use deltaworks_core::windows::{Granularity, Zone};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit, Zoned};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use std::sync::Arc;

/// SELECT list (keys first), FROM and WHERE, keys, HAVING.
pub(crate) struct Case {
    list: &'static str,
    from: &'static str,
    keys: &'static [&'static str],
    having: &'static str,
}

const fn values(list: &'static str) -> Case {
    Case { list, from: "trips", keys: &["town"], having: "" }
}

/// Each function alone, with FILTER, and all the shapes.
pub(crate) const CASES: &[Case] = &[
    values("count(*) AS a, count(driver) AS b, count(*) FILTER (WHERE paid) AS c"),
    values("count(DISTINCT driver) AS a, count(DISTINCT town) AS b, count(DISTINCT distance) FILTER (WHERE paid) AS c"),
    values("sum(distance) AS a, sum(distance) FILTER (WHERE paid) AS b"),
    values("sum(fare) AS a, sum(stops) AS b, sum(fare) FILTER (WHERE stops > 3) AS c"),
    values("avg(distance) AS a, avg(fare) AS b, avg(stops) AS c, avg(fare) FILTER (WHERE NOT paid) AS d"),
    values("min(distance) AS a, max(distance) AS b, min(distance) FILTER (WHERE paid) AS c"),
    values("min(via) AS a, max(at) AS b, min(fare) AS c, max(born) AS d, max(paid) FILTER (WHERE stops > 0) AS e"),
    values("stddev(distance) AS a, stddev_pop(distance) AS b, stddev(stops) FILTER (WHERE paid) AS c"),
    values("var(distance) AS a, var_pop(distance) AS b, var(fare) FILTER (WHERE paid) AS c"),
    values("median(distance) AS a, median(fare) AS b, median(stops) AS c, median(distance) FILTER (WHERE paid) AS d"),
    values("percentile_cont(0.9) WITHIN GROUP (ORDER BY distance) AS a, percentile_cont(stops, 0.25) AS b"),
    values("percentile_cont(0.1) WITHIN GROUP (ORDER BY distance DESC) AS a"),
    values("percentile_cont(0.5) WITHIN GROUP (ORDER BY distance) FILTER (WHERE paid) AS a"),
    values("bool_and(paid) AS a, bool_or(paid) AS b, bool_and(distance > 0) FILTER (WHERE stops > 0) AS c"),
    values("bit_and(stops) AS a, bit_or(stops) AS b, bit_xor(stops) FILTER (WHERE paid) AS c"),
    values("first_value(stops ORDER BY at) AS a, last_value(stops ORDER BY at) AS b"),
    values("first_value(driver ORDER BY stops DESC, distance) AS a, last_value(id ORDER BY fare NULLS FIRST) AS b"),
    values("first_value(fare ORDER BY at) FILTER (WHERE paid) AS a, last_value(distance ORDER BY paid) AS b"),
    values("array_agg(stops ORDER BY at) AS a, array_agg(driver ORDER BY stops DESC) FILTER (WHERE paid) AS b"),
    values("avg(distance) / 2 + 1 AS a, CASE WHEN count(*) > 2 THEN max(stops) - min(stops) END AS b"),
    values("sum(stops * 2 + 1) AS a, sum(CASE WHEN paid THEN stops ELSE 0 END) AS b, max(abs(distance)) AS c"),
    values("sum(stops) AS a, sum(stops) + 1 AS b, avg(stops) AS c, town AS again, upper(town) AS loud"),
    Case { list: "count(*) AS a, avg(distance) AS b, 1 AS one", from: "trips", keys: &[], having: "" },
    Case {
        list: "median(stops) AS a",
        from: "trips WHERE driver = 3 OR distance > 5",
        keys: &[],
        having: "count(*) > 1",
    },
    Case { list: "count(*) AS a", from: "trips", keys: &["driver", "town", "paid"], having: "" },
    Case { list: "driver AS d2", from: "trips", keys: &["driver"], having: "" },
    Case { list: "count(*) AS a", from: "trips", keys: &["distance"], having: "" },
    Case { list: "count(*) AS a, sum(fare) AS b", from: "trips", keys: &["fare"], having: "" },
    Case { list: "max(stops) AS a", from: "trips", keys: &["date_part('hour', at)", "stops % 2"], having: "" },
    Case {
        list: "sum(fare) AS a",
        from: "trips WHERE paid",
        keys: &["town"],
        having: "sum(stops) > 5 AND count(*) < 4",
    },
    Case {
        list: "count(*) AS a, max(people) AS b",
        from: "trips t JOIN towns w ON t.town = w.code WHERE w.people IS NULL OR w.people > 10",
        keys: &["w.region"],
        having: "",
    },
    Case {
        list: "count(*) AS a, count(since) AS b, min(since) AS c",
        from: "trips LEFT JOIN drivers USING (driver)",
        keys: &["name"],
        having: "",
    },
    Case {
        list: "sum(distance) AS a",
        from: "trips t LEFT JOIN towns w ON w.code = upper(t.route.via) LEFT JOIN towns h ON h.code = t.town",
        keys: &["w.region", "h.region"],
        having: "min(h.people) IS NOT NULL",
    },
];

impl Case {
    fn via(&self) -> String {
        self.list.replace("(via)", "(trips.route.via)")
    }

    fn list_of_keys(&self) -> String {
        self.keys.iter().enumerate().map(|(n, key)| format!("{key} AS k{n}, ")).collect()
    }

    fn having(&self) -> String {
        if self.having.is_empty() { String::new() } else { format!(" HAVING {}", self.having) }
    }

    pub(crate) fn aggregate(&self) -> String {
        let group = if self.keys.is_empty() { String::new() } else { format!(" GROUP BY {}", self.keys.join(", ")) };
        format!("SELECT {}{} FROM {}{group}{}", self.list_of_keys(), self.via(), self.from, self.having())
    }

    /// The same with the window as one more key, and the engine's counts; orders completed by hand.
    fn plain(&self) -> String {
        let place = "at, _kafka_time NULLS LAST, _topic, _partition, _offset";
        let mut list = self.via();
        for by in [
            "ORDER BY at",
            "ORDER BY stops DESC",
            "ORDER BY stops DESC, distance",
            "ORDER BY fare NULLS FIRST",
            "ORDER BY paid",
        ] {
            let place = if by == "ORDER BY at" { place.trim_start_matches("at, ") } else { place };
            list = list.replace(&format!("{by})"), &format!("{by}, {place})"));
        }
        let group: String = self.keys.iter().map(|key| format!(", {key}")).collect();
        let order: String = (0..self.keys.len()).map(|n| format!(", k{n} ASC NULLS LAST")).collect();
        format!(
            "SELECT granularity, window_start, window_end, window_date, {}{list}, count(*) AS events, \
             count(*) FILTER (WHERE _behind_ms > 3600000) AS late, CAST(0 AS BIGINT) AS duplicates, count(*) FILTER (WHERE _fill IS NOT NULL) AS filled \
             FROM {} GROUP BY granularity, window_start, window_end, window_date{group}{} ORDER BY window_start{order}",
            self.list_of_keys(),
            self.from,
            self.having(),
        )
    }
}

/// Start, end and date of a window, from local times alone.
pub(crate) fn window(granularity: Granularity, zone: &TimeZone, at_us: i64) -> (i64, i64, i32) {
    let local = |us: i64| Timestamp::from_microsecond(us).unwrap().to_zoned(zone.clone());
    let days = |z: &Zoned| (z.date() - jiff::civil::date(1970, 1, 1)).get_days();
    let us = |z: &Zoned| z.timestamp().as_microsecond();
    if let Granularity::Under(size) = granularity {
        let start = at_us.div_euclid(size.micros()) * size.micros();
        return (start, start + size.micros(), days(&local(start)));
    }
    let day = local(at_us).round(jiff::ZonedRound::new().smallest(Unit::Day).mode(jiff::RoundMode::Trunc)).unwrap();
    let (first, next) = match granularity {
        Granularity::Week => {
            let first = day.checked_sub(jiff::Span::new().days(day.weekday().to_monday_zero_offset())).unwrap();
            let first = first.start_of_day().unwrap();
            (first.clone(), first.checked_add(jiff::Span::new().weeks(1)).unwrap())
        }
        Granularity::Month => {
            let first = day.first_of_month().unwrap().start_of_day().unwrap();
            (first.clone(), first.checked_add(jiff::Span::new().months(1)).unwrap())
        }
        _ => (day.clone(), day.tomorrow().unwrap()),
    };
    let next = next.start_of_day().unwrap();
    (us(&first), us(&next), days(&first))
}

/// The rows with their windows of one granularity as columns.
fn with_windows(rows: &RecordBatch, trips: &[Trip], granularity: Granularity, zone: &TimeZone) -> RecordBatch {
    let windows: Vec<_> = trips.iter().map(|t| window(granularity, zone, t.at_us)).collect();
    let instants = |us: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(us).with_timezone("UTC")) as ArrayRef;
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields: Vec<Field> = rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend([
        Field::new("granularity", DataType::Utf8, false),
        Field::new("window_start", instant.clone(), false),
        Field::new("window_end", instant, false),
        Field::new("window_date", DataType::Date32, false),
    ]);
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(StringArray::from(vec![granularity.to_string(); trips.len()])));
    columns.push(instants(windows.iter().map(|w| w.0).collect()));
    columns.push(instants(windows.iter().map(|w| w.1).collect()));
    columns.push(Arc::new(arrow::array::Date32Array::from_iter_values(windows.iter().map(|w| w.2))));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

async fn plain(case: &Case, rows: RecordBatch, session: &Session, lookups: &Lookups) -> Vec<RecordBatch> {
    let context = session.without_tables();
    // −0.0 and 0.0 are equal: the engine shows 0.0
    let columns = rows.columns().iter().map(|c| match c.data_type() {
        DataType::Float64 => {
            use arrow::array::AsArray;
            let plain: arrow::array::Float64Array =
                c.as_primitive::<arrow::datatypes::Float64Type>().unary(|x| x + 0.0);
            Arc::new(plain) as ArrayRef
        }
        _ => Arc::clone(c),
    });
    let rows = RecordBatch::try_new(rows.schema(), columns.collect()).unwrap();
    context.register_table("trips", Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap())).unwrap();
    for name in ["drivers", "towns"] {
        context.register_table(name, lookups.get(name).unwrap().provider()).unwrap();
    }
    let sql = case.plain();
    let frame = context.sql(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    frame.collect().await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// Bits, not text: floats must agree in every digit.
fn same(ours: &[RecordBatch], theirs: &[RecordBatch], schema: &Arc<Schema>) -> Result<(), String> {
    let theirs: Vec<RecordBatch> = theirs.iter().map(|b| super::super::types::cast(b, schema).unwrap()).collect();
    let (ours, theirs) = (concat_batches(schema, ours).unwrap(), concat_batches(schema, &theirs).unwrap());
    let equal = ours.num_rows() == theirs.num_rows()
        && ours.columns().iter().zip(theirs.columns()).all(|(a, b)| a.as_ref().to_data() == b.as_ref().to_data());
    if equal {
        return Ok(());
    }
    let show = |b: RecordBatch| pretty_format_batches(&[b]).unwrap().to_string();
    Err(format!("ours\n{}\nplain\n{}", show(ours), show(theirs)))
}

/// How the rows are split: stream and run of each row, and threads.
#[derive(Debug, Clone)]
struct Split {
    runs: Vec<Vec<usize>>,
    parallel: usize,
    life: Life,
}

fn run_of(trips: &[Trip], split: &Split, run: usize) -> Vec<Vec<RecordBatch>> {
    let part = |stream: usize| -> Vec<RecordBatch> {
        let rows: Vec<(usize, Trip)> = trips
            .iter()
            .enumerate()
            .filter(|(n, _)| split.runs[0][*n] == run && split.runs[1][*n] == stream)
            .map(|(n, t)| (n, t.clone()))
            .collect();
        // in batches of a few rows, backwards
        rows.rchunks(3).map(batch).collect()
    };
    (0..2).map(part).collect()
}

async fn check_case(
    case: &Case,
    trips: &[Trip],
    split: &Split,
    windows: &[Granularity],
    zone: &str,
) -> Result<(), String> {
    let session = session(split.parallel);
    let lookups = Lookups::load(&project(), &session).await.unwrap();
    let zone = TimeZone::get(zone).unwrap();
    let mut file = file("x", case.aggregate());
    file.windows = windows.to_vec();
    file.zone = Zone::new(zone.clone());
    let definition = Definition::new(&file, &source(), &lookups, &session).await;
    let definition = definition.map_err(|e| format!("{}: {}", case.aggregate(), crate::project::Report::new(e)))?;
    let mut runs = Vec::new();
    for run in 0..2 {
        let states =
            definition.partial(streams(run_of(trips, split, run)), split.life).await.map_err(|e| e.to_string())?;
        // as if they had been stored and read again
        let stored: Vec<RecordBatch> = states.batches().cloned().collect();
        runs.push(definition.stored(&stored).map_err(|e| e.to_string())?);
    }
    let merged = definition.merge(runs).await.map_err(|e| e.to_string())?;
    let numbered: Vec<(usize, Trip)> = trips.iter().cloned().enumerate().collect();
    for finished in definition.finish(&merged).await.map_err(|e| e.to_string())? {
        let rows = with_windows(&batch(&numbered), trips, finished.granularity, &zone);
        let plain = plain(case, rows, &session, &lookups).await;
        same(&finished.rows, &plain, &definition.result_schema())
            .map_err(|e| format!("{} by {} in {zone:?}:\n{e}", case.aggregate(), finished.granularity))?;
    }
    Ok(())
}

#[test]
fn every_case_is_right_once() {
    let mut runner = TestRunner::deterministic();
    let trips = prop::collection::vec(trip(), 60).new_tree(&mut runner).unwrap().current();
    let runs = [3, 4].map(|by| (0..60).map(|n| usize::from(n % by == 0)).collect()).to_vec();
    let split = Split { runs, parallel: 3, life: Life::Stored };
    let windows = ["5m", "1h", "1d"].map(|w| w.parse().unwrap());
    let wrong = runtime().block_on(async {
        let mut wrong = String::new();
        for case in CASES {
            wrong += &check_case(case, &trips, &split, &windows, "Europe/Kyiv").await.err().unwrap_or_default();
        }
        wrong
    });
    assert!(wrong.is_empty(), "{wrong}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_parts_make_the_whole(
        (trips, runs) in (0_usize..40).prop_flat_map(|n| {
            let assigned = || prop::collection::vec(0_usize..2, n);
            (prop::collection::vec(trip(), n), (assigned(), assigned()))
        }),
        case in prop::sample::select((0..CASES.len()).collect::<Vec<_>>()),
        parallel in 1_usize..4,
        stored in any::<bool>(),
        zone in prop::sample::select(vec!["Europe/Kyiv", "Asia/Kolkata", "UTC", "America/St_Johns"]),
        windows in prop::sample::select(vec!["5m 1h 1d", "1d", "1h 1w 1mo", "90m", "30s 1mo"]),
    ) {
        let life = if stored { Life::Stored } else { Life::Pass };
        let split = Split { runs: vec![runs.0, runs.1], parallel, life };
        let windows: Vec<Granularity> = windows.split(' ').map(|w| w.parse().unwrap()).collect();
        let right = runtime().block_on(check_case(&CASES[case], &trips, &split, &windows, zone));
        prop_assert!(right.is_ok(), "{}", right.unwrap_err());
    }
}

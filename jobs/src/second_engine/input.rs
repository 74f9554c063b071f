//! The rows of a pin that lie in the windows of a unit, each in its window and known as a copy or not.
//!
//! A copy is a row before which, in the order (event time, Kafka time with null last, topic, partition, offset), an
//! equal id lies on its own event date or the day before. Sorted by id and that order, the row just before is the
//! one to look at: of all earlier ones it has the latest date.

use super::decode::column_name;
use super::{Frame, Told, computed};
use polars::prelude::{
    DataFrame, DataType, Expr, IntoLazy, JoinArgs, JoinType, LazyFrame, NamedFrom, Series, SortMultipleOptions, col,
    len, lit, when,
};
use std::collections::BTreeMap;

/// Event time.
pub(super) const AT: &str = "#at";
/// Start and end of the window, microseconds.
pub(super) const WINDOW: [&str; 2] = ["#start", "#end"];
/// Whether a row is a copy.
pub(super) const COPY: &str = "#copy";
/// Whether a row is late.
pub(super) const LATE: &str = "#late";
/// Whether a row is a fill.
pub(super) const FILLED: &str = "#filled";
/// What completes every order, after the event time.
pub(super) const PLACE: [&str; 4] = ["_kafka_time", "_topic", "_partition", "_offset"];
/// Columns of the raw table that the rules need.
pub const NEEDED: [&str; 7] = ["event_date", "_kafka_time", "_topic", "_partition", "_offset", "_behind_ms", "_fill"];

const DAY: &str = "#day";
const NEXT: [&str; 3] = ["#topic", "#partition", "#next"];

/// How far a partition is in a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Topic, with its epoch.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The next offset to read.
    pub next: i64,
}

/// Which rows are in, and in which windows.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Path of the event time.
    pub event_time: Vec<String>,
    /// The column that tells copies.
    pub id: Option<String>,
    /// Rows further behind are late, ms.
    pub lateness_ms: i64,
    /// Rows of the stream below these are in.
    pub next: Vec<Place>,
    /// Fills up to this one are in.
    pub fill: i64,
    /// Event dates of the unit, days since the Unix epoch, half-open; rows of the day before tell copies only.
    pub days: (i32, i32),
    /// Starts and ends of the windows to compute, microseconds.
    pub windows: Vec<(i64, i64)>,
    /// Their size, where it is under a day.
    pub size_us: Option<i64>,
}

/// What was counted on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows inside the pin by event date, the day before the unit's among them.
    pub inside: BTreeMap<i32, u64>,
    /// Rows in the windows.
    pub landed: u64,
    /// Of these: left out by WHERE or an inner join.
    pub filtered: u64,
    /// Of the others: events.
    pub events: u64,
    /// Of the others: copies.
    pub duplicates: u64,
    /// Windows with their keys that have events, before HAVING.
    pub groups: u64,
}

/// Puts rows into windows.
pub(super) fn rows(frame: Frame, rules: &Rules, counts: &mut Counts) -> Told<DataFrame> {
    let inside = inside(frame.0, rules)?;
    for (day, rows) in by_day(&inside)? {
        counts.inside.insert(day, rows);
    }
    let (from, to) = rules.days;
    let judged = inside.lazy().sort_by_exprs(order(rules), ordered(order(rules).len()));
    let judged =
        judged.with_column(copy(rules).alias(COPY)).filter(col(DAY).gt_eq(lit(from)).and(col(DAY).lt(lit(to))));
    let rows = computed(windowed(judged, rules)?)?;
    counts.landed = rows.height() as u64;
    Ok(rows)
}

/// Ascending, nulls last.
pub(super) fn ordered(columns: usize) -> SortMultipleOptions {
    SortMultipleOptions {
        descending: vec![false; columns],
        nulls_last: vec![true; columns],
        maintain_order: true,
        ..SortMultipleOptions::default()
    }
}

/// A column of the raw table.
pub(super) fn raw(name: &str) -> Expr {
    col(column_name(0, name))
}

fn inside(frame: DataFrame, rules: &Rules) -> Told<DataFrame> {
    let mut path = rules.event_time.iter();
    let first = raw(path.next().map_or("", String::as_str));
    let at = path.fold(first, |of, field| of.struct_().field_by_name(field));
    let each = |get: fn(&Place) -> i64| rules.next.iter().map(get).collect::<Vec<_>>();
    let topics: Vec<&str> = rules.next.iter().map(|place| place.topic.as_str()).collect();
    let next = DataFrame::new(
        rules.next.len(),
        vec![
            Series::new(NEXT[0].into(), topics).into(),
            Series::new(NEXT[1].into(), each(|place| place.partition.into())).cast(&DataType::Int32)?.into(),
            Series::new(NEXT[2].into(), each(|place| place.next)).into(),
        ],
    )?;
    let by_stream = raw("_offset").lt(col(NEXT[2])).fill_null(lit(false));
    let is_inside = when(raw("_fill").is_null()).then(by_stream).otherwise(raw("_fill").lt_eq(lit(rules.fill)));
    let columns = [
        at.alias(AT),
        raw("event_date").cast(DataType::Int32).alias(DAY),
        raw("_behind_ms").gt(lit(rules.lateness_ms)).fill_null(lit(false)).alias(LATE),
        raw("_fill").is_not_null().alias(FILLED),
    ];
    let keys = ([raw("_topic"), raw("_partition")], [col(NEXT[0]), col(NEXT[1])]);
    let joined = frame.lazy().join(next.lazy(), keys.0, keys.1, JoinArgs::new(JoinType::Left));
    computed(joined.filter(is_inside).with_columns(columns))
}

fn by_day(rows: &DataFrame) -> Told<Vec<(i32, u64)>> {
    let counted = computed(rows.clone().lazy().group_by([col(DAY)]).agg([len().cast(DataType::UInt64).alias("rows")]))?;
    let (days, rows) = (counted.column(DAY)?.i32()?, counted.column("rows")?.u64()?);
    Ok(days.iter().zip(rows.iter()).filter_map(|(day, rows)| day.zip(rows)).collect())
}

/// The id, then what decides which of equal ids is the first.
fn order(rules: &Rules) -> Vec<Expr> {
    let id = rules.id.as_deref().map(raw);
    id.into_iter().chain([col(AT)]).chain(PLACE.map(raw)).collect()
}

fn copy(rules: &Rules) -> Expr {
    let Some(id) = rules.id.as_deref().map(raw) else { return lit(false) };
    let same = id.clone().eq(id.shift(lit(1)));
    let near = (col(DAY) - col(DAY).shift(lit(1))).lt_eq(lit(1));
    same.and(near).fill_null(lit(false))
}

fn windowed(rows: LazyFrame, rules: &Rules) -> Told<LazyFrame> {
    let [start, end] = WINDOW;
    let at = || col(AT).cast(DataType::Int64);
    let Some(size_us) = rules.size_us else {
        let (from, to) = rules.windows.first().copied().unwrap_or_default();
        let rows = rows.filter(at().gt_eq(lit(from)).and(at().lt(lit(to))));
        let whole = |us: i64| lit(us).cast(DataType::Int64);
        return Ok(rows.with_columns([whole(from).alias(start), whole(to).alias(end)]));
    };
    let (starts, ends): (Vec<i64>, Vec<i64>) = rules.windows.iter().copied().unzip();
    let windows = DataFrame::new(
        starts.len(),
        vec![Series::new(start.into(), starts).into(), Series::new(end.into(), ends).into()],
    )?;
    let rows = rows.with_column((at().floor_div(lit(size_us)) * lit(size_us)).alias(start));
    Ok(rows.join(windows.lazy(), [col(start)], [col(start)], JoinArgs::new(JoinType::Inner)))
}

//! What batch must publish, by two loops and jiff alone. No function of the product is called.

use super::kit::{LATENESS_US, Row, Windows};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

const DAY_US: i64 = 86_400_000_000;

/// The rows that count and those that are copies: the least of an id in its date and the day before counts.
pub fn is_copy(rows: &[Row], of: &Row) -> bool {
    let day = |r: &Row| r.at_us.div_euclid(DAY_US);
    let order = |r: &Row| (r.at_us, r.kafka_us.is_none(), r.kafka_us, r.partition, r.offset);
    rows.iter().any(|r| r.id == of.id && (day(r) == day(of) || day(r) == day(of) - 1) && order(r) < order(of))
}

/// All windows that end by `through_us`: of rows that pass `filter`, kept by `having` of their count.
pub fn windows(
    rows: &[Row],
    granularities: &[&str],
    zone: &str,
    through_us: i64,
    filter: impl Fn(&Row) -> bool,
    having: impl Fn(i64) -> bool,
) -> Windows {
    let zone = TimeZone::get(zone).unwrap();
    let mut windows = Windows::new();
    for row in rows.iter().filter(|r| filter(r)) {
        let copy = is_copy(rows, row);
        for granularity in granularities {
            let (start, end) = window(granularity, row.at_us, &zone);
            if end > through_us {
                continue;
            }
            let w = windows.entry(((*granularity).into(), start, row.key.clone())).or_insert((None, None, 0, 0, 0));
            if copy {
                w.4 += 1;
                continue;
            }
            w.0 = row.value.map_or(w.0, |v| Some(w.0.unwrap_or(0) + v));
            w.1 = w.1.max(row.value);
            w.2 += 1;
            w.3 += i64::from(row.behind_ms > LATENESS_US / 1_000);
        }
    }
    windows.retain(|_, w| w.2 > 0 && having(w.2));
    windows
}

/// Start and end of the window that an instant lies in.
pub fn window(granularity: &str, at_us: i64, zone: &TimeZone) -> (i64, i64) {
    let under_day = |us: i64| (at_us.div_euclid(us) * us, at_us.div_euclid(us) * us + us);
    let date = Timestamp::from_microsecond(at_us).unwrap().to_zoned(zone.clone()).date();
    let begin = |date: Date| date.to_zoned(zone.clone()).unwrap().timestamp().as_microsecond();
    let monday = date.checked_sub(i64::from(date.weekday().to_monday_zero_offset()).days()).unwrap();
    let first = date.first_of_month();
    match granularity {
        "15m" => under_day(900_000_000),
        "6h" => under_day(21_600_000_000),
        "1d" => (begin(date), begin(date.tomorrow().unwrap())),
        "1w" => (begin(monday), begin(monday.checked_add(7.days()).unwrap())),
        "1mo" => (begin(first), begin(first.checked_add(1.month()).unwrap())),
        other => panic!("`{other}`"),
    }
}

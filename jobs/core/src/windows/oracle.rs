//! Windows computed naively, to test against: walks instants and asks jiff for the local date of each.
//! Shares no function with the product.

use jiff::Timestamp;
use jiff::ToSpan as _;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use std::cell::RefCell;
use std::collections::HashMap;

/// A window: start and end in microseconds, and its window date.
pub type Naive = (i64, i64, Date);

/// The window of the granularity spelled `text` that holds the instant.
pub fn window_of(text: &str, zone: &TimeZone, us: i64) -> Naive {
    let (start, end) = match text {
        "1d" | "1w" | "1mo" => {
            // begin at a date that is surely before, and walk to the last window that has begun
            let back = if text == "1d" { 3 } else { 10 };
            let mut first = first_of(text, local(zone, us).checked_sub(back.days()).unwrap());
            loop {
                let next = next_of(text, first);
                if begins(zone, next) > us {
                    break (begins(zone, first), begins(zone, next));
                }
                first = next;
            }
        }
        _ => {
            let size = size_us(text);
            let utc_date = local(&TimeZone::UTC, us);
            let mut start = TimeZone::UTC.to_timestamp(utc_date.at(0, 0, 0, 0)).unwrap().as_microsecond();
            start += (us - start) / size * size;
            (start, start + size)
        }
    };
    (start, end, local(zone, start))
}

/// The size of a text such as `30s`, `5m`, `1h`.
pub fn size_us(text: &str) -> i64 {
    let (number, unit) = text.split_at(text.len() - 1);
    number.parse::<i64>().unwrap()
        * [("s", 1), ("m", 60), ("h", 3_600)].iter().find(|u| u.0 == unit).unwrap().1
        * 1_000_000
}

/// A step that meets every window of the granularity spelled `text`.
pub fn size_or_day_us(text: &str) -> i64 {
    if matches!(text, "1d" | "1w" | "1mo") { 3_600_000_000 } else { size_us(text) }
}

/// The date that local clocks show.
pub fn local(zone: &TimeZone, us: i64) -> Date {
    zone.to_datetime(Timestamp::from_microsecond(us).unwrap()).date()
}

/// The first instant whose local date is `date` or later. Walked once per zone and date.
pub fn begins(zone: &TimeZone, date: Date) -> i64 {
    thread_local!(static WALKED: RefCell<HashMap<(String, Date), i64>> = RefCell::default());
    let key = (zone.iana_name().unwrap().to_owned(), date);
    WALKED.with_borrow_mut(|walked| *walked.entry(key).or_insert_with(|| walk(zone, date)))
}

/// Walks minute by minute to the date, then back second by second to where it began.
fn walk(zone: &TimeZone, date: Date) -> i64 {
    let utc = TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).unwrap().as_microsecond();
    let hour = 3_600_000_000;
    let mut at = utc - 27 * hour;
    // no offset is under -27 hours, and a jump back crosses no more than 26: skip to where it gets close
    while local(zone, at + hour) < date.yesterday().unwrap() {
        at += hour;
    }
    while local(zone, at) < date {
        at += 60_000_000;
    }
    while local(zone, at - 1_000_000) >= date {
        at -= 1_000_000;
    }
    at
}

fn first_of(text: &str, date: Date) -> Date {
    let mut first = date;
    while (text == "1w" && first.weekday() != Weekday::Monday) || (text == "1mo" && first.day() != 1) {
        first = first.yesterday().unwrap();
    }
    first
}

fn next_of(text: &str, first: Date) -> Date {
    let mut next = first.tomorrow().unwrap();
    while first_of(text, next) != next {
        next = next.tomorrow().unwrap();
    }
    next
}

//! Each rule of the plan by itself.

use super::*;
use crate::exit::Class;
use crate::place::Offset;
use crate::windows::{Dates, Extent, Instant, Zone};
use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use rstest::rstest;
use std::collections::{BTreeMap, BTreeSet};

pub fn at(text: &str) -> Instant {
    Instant(text.parse::<Timestamp>().unwrap().as_microsecond())
}

pub fn day(n: i8) -> Date {
    date(2026, 1, n)
}

/// The topic `t`, read to these offsets.
pub fn read_to(next: &[(i32, i64)]) -> (String, BTreeMap<i32, Offset>) {
    ("t".into(), next.iter().map(|(partition, next)| (*partition, Offset(*next))).collect())
}

/// A pin at version 7, complete to the morning of 7 January, with 10 rows on each of the first six days.
pub fn pin() -> Pin {
    Pin {
        table: "raw-1".into(),
        version: 7,
        next: BTreeMap::from([read_to(&[(0, 100), (10, 20), (2, 7)])]),
        fill: 2,
        valid_through: Some(at("2026-01-07T06:00:00Z")),
        covered: Some(at("2026-01-07T06:00:00Z")),
        rows: (1..7).map(|n| (day(n), 10)).collect(),
        rewritten: BTreeMap::new(),
    }
}

pub fn with(change: impl FnOnce(&mut Pin)) -> Pin {
    let mut pin = pin();
    change(&mut pin);
    pin
}

/// The pin with another count of rows on `n` January; none if 0.
fn with_rows(n: i8, rows: u64) -> Pin {
    with(|pin| {
        pin.rows.insert(day(n), rows);
        pin.rows.retain(|_, rows| *rows > 0);
    })
}

fn extent(granularity: &str, zone: &str, date: Date) -> Extent {
    let zone = Zone::new(TimeZone::get(zone).unwrap());
    Extent::of(granularity.parse().unwrap(), &zone, date).unwrap().unwrap()
}

const OLD: &[u8] = b"old definition";
const NEW: &[u8] = b"new definition";

/// Plans the day 5 January (UTC): its dedup day is the 4th. Published before from [`pin`].
struct Case {
    now: Pin,
    last: Option<Pin>,
    definition: &'static [u8],
    removed: Removed,
    dedup: bool,
    interval: Interval,
    forced: bool,
    redefine_days: u32,
    ids: Ids,
    extent: Extent,
}

impl Case {
    fn of(now: Pin) -> Self {
        Self {
            now,
            last: Some(pin()),
            definition: OLD,
            removed: Removed::default(),
            dedup: true,
            interval: Interval::default(),
            forced: false,
            redefine_days: 7,
            ids: Ids::Unknown,
            extent: extent("1d", "UTC", day(5)),
        }
    }

    fn plan(&self) -> Plan {
        let facts = Facts {
            now: &self.now,
            definition: Fingerprint::of(self.definition),
            removed: &self.removed,
            dedup: self.dedup,
            interval: self.interval,
            forced: self.forced,
            redefine_days: self.redefine_days,
        };
        let last = self.last.as_ref().map(|pin| Last { pin, definition: Fingerprint::of(OLD) });
        plan(&facts, &self.extent, last, self.ids)
    }
}

#[track_caller]
fn recomputes(case: &Case, reasons: &[Reason]) {
    let bound = covered_bound(case.now.valid_through, case.last.as_ref()).unwrap();
    assert_eq!(case.plan(), Plan::Recompute { reasons: reasons.to_vec(), covered: bound });
}

#[track_caller]
fn leaves(case: &Case, why: Idle) {
    assert_eq!(case.plan(), Plan::Nothing { why });
}

#[track_caller]
fn refuses(case: &Case, why: Refusal, class: Option<Class>) {
    assert_eq!(why.class(), class);
    assert_eq!(case.plan(), Plan::Refused { why });
}

fn removed_through(n: i8) -> Removed {
    Removed { through: Some(day(n)), restored: BTreeSet::new() }
}

#[test]
fn a_narrowed_pin_still_plans_its_units() {
    let rewritten = with(|p| p.rewritten = (3..7).map(|n| (day(n), 1)).collect());
    let last = rewritten.clone().narrowed(Dates { from: day(4), to: day(6) });
    assert_eq!(last.rows.keys().copied().collect::<Vec<_>>(), [day(4), day(5)]);
    assert_eq!(last.rewritten.keys().copied().collect::<Vec<_>>(), [day(4), day(5)]);
    leaves(&Case { last: Some(last), ..Case::of(rewritten) }, Idle::UpToDate);
}

#[test]
fn nothing_new_plans_nothing_also_after_compaction() {
    leaves(&Case::of(pin()), Idle::UpToDate);
    leaves(&Case::of(with(|p| p.version = 900)), Idle::UpToDate);
    leaves(&Case::of(with(|p| p.valid_through = Some(at("2026-02-01T00:00:00Z")))), Idle::UpToDate);
}

#[test]
fn missing() {
    recomputes(&Case { last: None, ..Case::of(pin()) }, &[Reason::Missing]);
    let empty = with_rows(5, 0);
    leaves(&Case { last: None, ..Case::of(empty) }, Idle::NoRows);
}

#[test]
fn not_covered_until_valid_through_is_the_end() {
    let through = |text| with(|p| p.valid_through = Some(at(text)));
    leaves(&Case { last: None, ..Case::of(through("2026-01-05T23:59:59.999999Z")) }, Idle::NotCovered);
    recomputes(&Case { last: None, ..Case::of(through("2026-01-06T00:00:00Z")) }, &[Reason::Missing]);
    leaves(&Case { last: None, ..Case::of(with(|p| p.valid_through = None)) }, Idle::NotCovered);
    leaves(&Case { last: None, forced: true, ..Case::of(with(|p| p.valid_through = None)) }, Idle::NotCovered);
}

#[test]
fn newly_covered_windows_are_counted() {
    let last = with(|p| p.covered = Some(at("2026-01-05T10:30:00Z")));
    let now = with(|p| p.valid_through = Some(at("2026-01-05T13:00:00Z")));
    let case = Case { last: Some(last), extent: extent("1h", "UTC", day(5)), ..Case::of(now) };
    recomputes(&case, &[Reason::NewlyCovered { windows: 3 }]);
    let now = with(|p| p.valid_through = Some(at("2026-01-05T10:59:59Z")));
    leaves(&Case { now, ..case }, Idle::UpToDate);
}

#[test]
fn dirty_by_its_own_dates() {
    let more = |n| with_rows(n, 11);
    recomputes(&Case::of(more(5)), &[Reason::Dirty { dates: vec![day(5)] }]);
    leaves(&Case::of(more(6)), Idle::UpToDate);
    leaves(&Case::of(more(3)), Idle::UpToDate);
    let kyiv = || Case { extent: extent("1d", "Europe/Kyiv", day(5)), ..Case::of(more(4)) };
    recomputes(&kyiv(), &[Reason::Dirty { dates: vec![day(4)] }]);
    leaves(&Case { now: more(6), ..kyiv() }, Idle::UpToDate);
    let week = |n| Case { extent: extent("1w", "UTC", date(2025, 12, 29)), ..Case::of(more(n)) };
    recomputes(&week(4), &[Reason::Dirty { dates: vec![day(4)] }]);
    leaves(&week(5), Idle::UpToDate);
}

#[test]
fn forget_makes_dirty_even_if_the_count_is_the_same() {
    let rewritten = |n, times| with(|p| p.rewritten.extend([(day(n), times)]));
    recomputes(&Case::of(rewritten(5, 1)), &[Reason::Dirty { dates: vec![day(5)] }]);
    recomputes(&Case::of(rewritten(4, 1)), &[Reason::DedupDay { date: day(4) }]);
    leaves(&Case { last: Some(rewritten(5, 1)), ..Case::of(rewritten(5, 1)) }, Idle::UpToDate);
    recomputes(
        &Case { last: Some(rewritten(5, 1)), ..Case::of(rewritten(5, 2)) },
        &[Reason::Dirty { dates: vec![day(5)] }],
    );
}

#[test]
fn the_dedup_day_asks_for_the_ids() {
    let now = || with_rows(4, 11);
    let question = Plan::CompareIds { dedup_day: day(4), first: day(5) };
    assert_eq!(Case::of(now()).plan(), question);
    assert_eq!(Case { ids: Ids::Apart, ..Case::of(now()) }.plan(), Plan::Repin);
    recomputes(&Case { ids: Ids::Shared, ..Case::of(now()) }, &[Reason::DedupDay { date: day(4) }]);
    leaves(&Case { dedup: false, ..Case::of(now()) }, Idle::UpToDate);
    recomputes(&Case { forced: true, ..Case::of(now()) }, &[Reason::Forced]);
    let kept = || Case { definition: NEW, redefine_days: 0, ..Case::of(now()) };
    assert_eq!(kept().plan(), question, "an old definition is kept, wrong content is not");
    assert_eq!(Case { ids: Ids::Apart, ..kept() }.plan(), Plan::Repin);
    recomputes(&Case { ids: Ids::Shared, ..kept() }, &[Reason::DedupDay { date: day(4) }, Reason::DefinitionChanged]);
}

#[test]
fn a_changed_definition_reaches_back_redefine_days() {
    // the day ended 30 hours before valid-through
    let changed = |redefine_days| Case { definition: NEW, redefine_days, ..Case::of(pin()) };
    recomputes(&changed(2), &[Reason::DefinitionChanged]);
    leaves(&changed(1), Idle::DefinitionKept);
    let through = |text| with(|p| p.valid_through = Some(at(text)));
    leaves(&Case { now: through("2026-01-08T00:00:00Z"), ..changed(2) }, Idle::DefinitionKept);
    recomputes(&Case { now: through("2026-01-07T23:59:59Z"), ..changed(2) }, &[Reason::DefinitionChanged]);
    leaves(&changed(0), Idle::DefinitionKept);
    recomputes(&changed(u32::MAX), &[Reason::DefinitionChanged]);
    recomputes(&Case { forced: true, ..changed(0) }, &[Reason::DefinitionChanged, Reason::Forced]);
    let dirty = with_rows(5, 11);
    recomputes(&Case { now: dirty, ..changed(0) }, &[Reason::Dirty { dates: vec![day(5)] }, Reason::DefinitionChanged]);
    leaves(&Case { now: with(|p| p.valid_through = None), ..changed(7) }, Idle::DefinitionKept);
}

#[test]
fn an_older_input_is_refused() {
    let older = with(|p| p.version = 6);
    let why = || Refusal::OlderPin { version: 6, last: 7 };
    refuses(&Case::of(older.clone()), why(), Some(Class::User));
    refuses(&Case { forced: true, ..Case::of(older.clone()) }, why(), Some(Class::User));
    recomputes(&Case { last: None, ..Case::of(older) }, &[Reason::Missing]);
}

#[rstest]
#[case::offset(with(|p| p.next.extend([read_to(&[(0, 99), (2, 7), (10, 20)])])))]
#[case::partition(with(|p| p.next.extend([read_to(&[(0, 100), (2, 7)])])))]
#[case::topic(with(|p| p.next.clear()))]
#[case::fill(with(|p| p.fill = 1))]
fn a_table_that_went_back_is_refused(#[case] now: Pin) {
    refuses(&Case::of(Pin { version: 8, ..now }), Refusal::WentBack, Some(Class::Internal));
}

#[test]
fn removed_dates_leave_the_unit_alone_until_somebody_wants_it() {
    for through in [4, 5] {
        let gone = with(|p| p.rows.retain(|date, _| *date > day(through)));
        let case = || Case { removed: removed_through(through), ..Case::of(gone.clone()) };
        let dates: Vec<_> = (4..=through).map(day).collect();
        leaves(&case(), Idle::UpToDate);
        let why = |reasons: &[Reason]| Refusal::BeyondRetention { dates: dates.clone(), reasons: reasons.to_vec() };
        refuses(&Case { forced: true, ..case() }, why(&[Reason::Forced]), Some(Class::InputLost));
        refuses(&Case { definition: NEW, ..case() }, why(&[Reason::DefinitionChanged]), None);
    }
}

#[test]
fn late_rows_beyond_retention_are_reported() {
    let gone = || with(|p| p.rows.retain(|date, _| *date > day(5)));
    let late = |n| {
        let mut now = gone();
        now.rows.insert(day(n), 1);
        Case { removed: removed_through(5), ..Case::of(now) }
    };
    let why = |reason| Refusal::BeyondRetention { dates: vec![day(4), day(5)], reasons: vec![reason] };
    refuses(&late(5), why(Reason::Dirty { dates: vec![day(5)] }), None);
    refuses(&late(4), why(Reason::DedupDay { date: day(4) }), None);
    refuses(&Case { last: None, ..late(5) }, why(Reason::Missing), None);
}

#[test]
fn a_restored_date_outranks_its_removal() {
    let removed = Removed { through: Some(day(5)), restored: BTreeSet::from([day(4), day(5)]) };
    let case = || Case { removed: removed.clone(), ..Case::of(pin()) };
    leaves(&case(), Idle::UpToDate);
    recomputes(&Case { forced: true, ..case() }, &[Reason::Forced]);
    let dirty = with_rows(5, 12);
    recomputes(&Case { now: dirty, ..case() }, &[Reason::Dirty { dates: vec![day(5)] }]);
    let half = Removed { restored: BTreeSet::from([day(4)]), ..removed };
    let gone = with(|p| p.rows = BTreeMap::from([(day(4), 11)]));
    let why = Refusal::BeyondRetention { dates: vec![day(5)], reasons: vec![Reason::DedupDay { date: day(4) }] };
    refuses(&Case { removed: half, ..Case::of(gone) }, why, None);
}

#[rstest]
#[case(5)]
#[case(4)]
fn rows_that_went_without_a_word_are_refused(#[case] n: i8) {
    for rows in [0, 9] {
        let now = with_rows(n, rows);
        refuses(&Case::of(now.clone()), Refusal::FewerRows { dates: vec![day(n)] }, Some(Class::InputLost));
        assert!(matches!(Case { forced: true, ..Case::of(now) }.plan(), Plan::Recompute { .. }), "by force");
    }
}

#[test]
fn a_recreated_table_replaces_only_what_it_covers_again() {
    let recreated = |through, rows: u64| {
        Case::of(with(|p| {
            (p.table, p.version, p.next) = ("raw-2".into(), 1, BTreeMap::new());
            p.valid_through = Some(at(through));
            p.rows = (4..6).map(|n| (day(n), rows)).collect();
        }))
    };
    leaves(&recreated("2026-01-05T20:00:00Z", 5), Idle::RecreatedBehind);
    leaves(&Case { forced: true, ..recreated("2026-01-05T20:00:00Z", 5) }, Idle::RecreatedBehind);
    recomputes(&recreated("2026-01-06T00:00:00Z", 10), &[Reason::TableRecreated]);
    let lost = Refusal::FewerRows { dates: vec![day(4), day(5)] };
    refuses(&recreated("2026-01-06T00:00:00Z", 5), lost.clone(), Some(Class::InputLost));
    let last = with(|p| p.rewritten.extend([(day(4), 1), (day(5), 1)]));
    refuses(&Case { last: Some(last), ..recreated("2026-01-06T00:00:00Z", 5) }, lost, Some(Class::InputLost));
}

#[rstest]
#[case::around("2026-01-05T00:00:00Z", "2026-01-06T00:00:00Z", true)]
#[case::next_day("2026-01-06T00:00:00Z", "2026-01-07T00:00:00Z", false)]
#[case::day_before("2026-01-04T00:00:00Z", "2026-01-05T00:00:00Z", false)]
#[case::part("2026-01-05T00:00:00Z", "2026-01-05T23:00:00Z", false)]
#[case::last_hour("2026-01-05T23:00:00Z", "2026-01-06T00:00:00Z", true)]
fn an_interval_selects_windows_by_their_end(#[case] from: &str, #[case] to: &str, #[case] selected: bool) {
    let interval = Interval { from: Some(at(from)), to: Some(at(to)) };
    let case = Case { last: None, interval, ..Case::of(pin()) };
    if selected { recomputes(&case, &[Reason::Missing]) } else { leaves(&case, Idle::OutsideInterval) }
}

#[test]
fn an_interval_waits_for_windows_that_are_not_covered() {
    let hours = extent("1h", "UTC", day(5)).windows;
    let interval = Interval { from: Some(at("2026-01-05T02:00:00Z")), to: Some(at("2026-01-05T04:30:00Z")) };
    assert_eq!(interval.select(&hours).len(), 2);
    assert!(interval.waits_for(&hours, None));
    assert!(interval.waits_for(&hours, Some(at("2026-01-05T03:59:59Z"))));
    assert!(!interval.waits_for(&hours, Some(at("2026-01-05T04:00:00Z"))));
    let past = Interval { from: Some(at("2026-01-06T00:00:00Z")), to: None };
    assert!(!past.waits_for(&hours, None), "nothing selected, nothing to wait for");
}

#[test]
fn all_units_that_hold_rows_are_planned() {
    let zone = |name| Zone::new(TimeZone::get(name).unwrap());
    let rows = BTreeMap::from([(day(5), 3), (day(9), 0)]);
    let dates = |granularity: &str, name| {
        window_dates(granularity.parse().unwrap(), &zone(name), &rows).unwrap().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(dates("1h", "UTC"), [day(5)]);
    assert_eq!(dates("1d", "Europe/Kyiv"), [day(5), day(6)]);
    assert_eq!(dates("1mo", "America/New_York"), [day(1)]);
    assert_eq!(dates("1w", "America/New_York"), [date(2025, 12, 29), day(5)]);
}

#[test]
fn plans_are_json_that_says_why() {
    let dirty = Case::of(with_rows(5, 11)).plan();
    let json = r#"{"plan":"recompute","reasons":[{"reason":"dirty","dates":["2026-01-05"]}],"covered":"2026-01-07T06:00:00Z"}"#;
    assert_eq!(serde_json::to_string(&dirty).unwrap(), json);
    let idle = serde_json::to_string(&Case::of(pin()).plan()).unwrap();
    assert_eq!(idle, r#"{"plan":"nothing","why":"up_to_date"}"#);
    let refused = serde_json::to_string(&Case::of(with(|p| p.version = 6)).plan()).unwrap();
    assert_eq!(refused, r#"{"plan":"refused","why":{"refused":"older_pin","version":6,"last":7}}"#);
    let unit = Unit { aggregate: "avg_speed".into(), granularity: "60m".parse().unwrap(), window_date: day(5) };
    assert_eq!(unit.to_string(), "avg_speed/1h/2026-01-05");
}

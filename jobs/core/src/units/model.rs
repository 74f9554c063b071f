//! Batch by plan against batch that computes everything each time: whatever happens to raw, in whatever
//! order, each unit that the plan leaves alone is what the full recompute gives, and planning again
//! calls for nothing. Rows are binned by the naive oracle and deduplicated in two loops.

use super::*;
use crate::place::Offset;
use crate::windows::{Dates, Extent, Instant, Zone, oracle};
use jiff::civil::date;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SIZES: [&str; 5] = ["1h", "6h", "1d", "1w", "1mo"];
const HOUR: i64 = 3_600_000_000;

/// What may happen between two runs, and the run itself. Hours count from the first day of the case.
#[derive(Debug, Clone)]
enum Step {
    Land { hour: i64, id: u8, value: i64, by_fill: bool },
    Through { hour: i64 },
    Define { definition: u8 },
    Forget { id: u8 },
    Remove { days: i64 },
    Compact,
    Recreate { hour: i64 },
    Batch { redefine_days: u32, forced: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hours = -30i64..200;
    let step = prop_oneof![
        10 => (hours.clone(), 0u8..8, 0i64..9, prop::bool::weighted(0.2))
            .prop_map(|(hour, id, value, by_fill)| Step::Land { hour, id, value, by_fill }),
        4 => prop_oneof![hours.clone(), 0i64..1_000].prop_map(|hour| Step::Through { hour }),
        1 => (0u8..3).prop_map(|definition| Step::Define { definition }),
        1 => (0u8..8).prop_map(|id| Step::Forget { id }),
        1 => (-1i64..4).prop_map(|days| Step::Remove { days }),
        1 => Just(Step::Compact),
        1 => hours.prop_map(|hour| Step::Recreate { hour }),
        6 => (prop::sample::select(vec![0, 2, 1_000]), prop::bool::weighted(0.05))
            .prop_map(|(redefine_days, forced)| Step::Batch { redefine_days, forced }),
    ];
    prop::collection::vec(step, 1..40)
}

#[derive(Debug, Clone)]
struct Row {
    us: i64,
    event_date: Date,
    id: u8,
    value: i64,
    offset: i64,
    fill: Option<i64>,
    /// Its window of each size.
    windows: Vec<oracle::Naive>,
}

/// Events counted and a value summed, per window start.
type Content = BTreeMap<i64, (u64, i64)>;

#[derive(Debug, Clone)]
struct Published {
    pin: Pin,
    definition: u8,
    content: Content,
    /// The greatest valid-through that any run saw since it was published.
    bound_us: i64,
}

struct World {
    zone: TimeZone,
    first_us: i64,
    rows: Vec<Row>,
    pin: Pin,
    definition: u8,
    removed: Removed,
    published: BTreeMap<(usize, Date), Published>,
}

fn name_of(definition: u8) -> Fingerprint {
    Fingerprint::of(&[definition])
}

impl World {
    fn new(zone: &str, first: Date) -> Self {
        let pin = Pin {
            table: "raw-0".into(),
            version: 0,
            next: BTreeMap::from([("t".into(), BTreeMap::from([(0, Offset(0))]))]),
            fill: 0,
            valid_through: None,
            covered: None,
            rows: BTreeMap::new(),
            rewritten: BTreeMap::new(),
        };
        Self {
            zone: TimeZone::get(zone).unwrap(),
            first_us: Instant::of_utc_date(first).unwrap().0,
            rows: Vec::new(),
            pin,
            definition: 0,
            removed: Removed::default(),
            published: BTreeMap::new(),
        }
    }

    fn play(&mut self, step: &Step) {
        self.pin.version += 1;
        let at = |hour: i64| self.first_us + hour * HOUR;
        match *step {
            Step::Land { hour, id, value, by_fill } => {
                let us = at(hour) + value * 60_000_000;
                let next = self.pin.next.get_mut("t").unwrap().get_mut(&0).unwrap();
                let offset = next.0;
                let fill = by_fill.then(|| self.pin.fill + 1);
                self.pin.fill = fill.unwrap_or(self.pin.fill);
                *next = Offset(offset + 1);
                let windows = SIZES.map(|size| oracle::window_of(size, &self.zone, us)).to_vec();
                let event_date = oracle::local(&TimeZone::UTC, us);
                self.rows.push(Row { us, event_date, id, value, offset, fill, windows });
            }
            Step::Through { hour } => self.pin.valid_through = Some(Instant(at(hour))),
            Step::Define { definition } => self.definition = definition,
            Step::Forget { id } => {
                let dates: BTreeSet<_> = self.rows.iter().filter(|r| r.id == id).map(|r| r.event_date).collect();
                dates.into_iter().for_each(|date| *self.pin.rewritten.entry(date).or_default() += 1);
                self.rows.retain(|row| row.id != id);
            }
            Step::Remove { days } => {
                let through = oracle::local(&TimeZone::UTC, at(days * 24));
                self.removed.through = self.removed.through.max(Some(through));
                self.rows.retain(|row| row.event_date > through);
            }
            Step::Compact => {}
            Step::Recreate { hour } => {
                (self.pin.table, self.pin.version) = (format!("{}+", self.pin.table), 0);
                (self.pin.rewritten, self.removed) = (BTreeMap::new(), Removed::default());
                self.pin.valid_through = Some(Instant(at(hour)));
            }
            Step::Batch { .. } => {}
        }
        self.pin.rows = BTreeMap::new();
        for row in &self.rows {
            *self.pin.rows.entry(row.event_date).or_default() += 1;
        }
    }

    /// The unit as it must be: all rows, all windows, from nothing.
    fn full_recompute(&self, unit: (usize, Date), definition: u8, bound_us: i64) -> Content {
        let mut content = Content::new();
        for row in &self.rows {
            let (start, end, filed) = row.windows[unit.0];
            let scope = [row.event_date, row.event_date.yesterday().unwrap()];
            let is_before = |other: &Row| (other.us, other.offset) < (row.us, row.offset);
            let is_copy = |other: &Row| other.id == row.id && is_before(other) && scope.contains(&other.event_date);
            let is_filtered = definition == 2 && row.value % 2 == 1;
            if filed == unit.1 && end <= bound_us && !is_filtered && !self.rows.iter().any(is_copy) {
                let (events, sum) = content.entry(start).or_default();
                *events += 1;
                *sum += row.value * (1 + i64::from(definition));
            }
        }
        content
    }

    fn units(&self) -> BTreeSet<(usize, Date)> {
        let zone = Zone::new(self.zone.clone());
        let of_size = |n: usize| window_dates(SIZES[n].parse().unwrap(), &zone, &self.pin.rows).unwrap();
        let live = (0..SIZES.len()).flat_map(|n| of_size(n).into_iter().map(move |date| (n, date)));
        live.chain(self.published.keys().copied()).collect()
    }

    fn extent(&self, unit: (usize, Date)) -> Extent {
        Extent::of(SIZES[unit.0].parse().unwrap(), &Zone::new(self.zone.clone()), unit.1).unwrap().unwrap()
    }

    /// Plans a unit; the question about ids is answered by looking at all rows.
    fn plan(&self, unit: (usize, Date), redefine_days: u32, forced: bool) -> Plan {
        let facts = Facts {
            now: &self.pin,
            definition: name_of(self.definition),
            removed: &self.removed,
            dedup: true,
            interval: Interval::default(),
            forced,
            redefine_days,
        };
        let published = self.published.get(&unit);
        let last = published.map(|p| Last { pin: &p.pin, definition: name_of(p.definition) });
        let planned = plan(&facts, &self.extent(unit), last, Ids::Unknown);
        let (Plan::CompareIds { dedup_day, first }, Some(last)) = (&planned, last) else { return planned };
        let on = |date| self.rows.iter().filter(move |row| row.event_date == date);
        let is_new = |row: &&Row| !last.pin.contains("t", 0, Offset(row.offset), row.fill);
        let is_shared = on(*dedup_day).filter(is_new).any(|new| on(*first).any(|row| row.id == new.id));
        plan(&facts, &self.extent(unit), Some(last), if is_shared { Ids::Shared } else { Ids::Apart })
    }

    fn carry_out(&mut self, unit: (usize, Date), plan: &Plan) {
        let previous = self.published.get(&unit).cloned();
        let pin = self.pin.after(previous.as_ref().map(|p| &p.pin)).narrowed(Dates {
            from: self.extent(unit).dates.from.yesterday().unwrap(),
            to: self.extent(unit).dates.to,
        });
        match (plan, previous) {
            (Plan::Recompute { covered, .. }, previous) => {
                assert_eq!(pin.covered, Some(*covered));
                let content = self.full_recompute(unit, self.definition, covered.0);
                let bound_us = previous.map_or(i64::MIN, |p| p.bound_us);
                self.published.insert(unit, Published { pin, definition: self.definition, content, bound_us });
            }
            (Plan::Repin, Some(previous)) => drop(self.published.insert(unit, Published { pin, ..previous })),
            (Plan::Repin | Plan::CompareIds { .. }, _) => panic!("{plan:?} with nothing left to ask"),
            (Plan::Nothing { .. } | Plan::Refused { .. }, _) => {}
        }
    }

    /// Runs batch and compares each unit with its full recompute.
    fn batch(&mut self, redefine_days: u32, forced: bool) {
        for unit in self.units() {
            let before = self.published.get(&unit).cloned();
            let planned = self.plan(unit, redefine_days, forced);
            self.carry_out(unit, &planned);
            self.check(unit, before, &planned);
            let again = self.plan(unit, redefine_days, false);
            let is_settled = matches!(again, Plan::Nothing { .. }) || matches!(planned, Plan::Refused { .. });
            assert!(is_settled, "{unit:?} was {planned:?}, then {again:?}");
        }
    }

    fn check(&mut self, unit: (usize, Date), before: Option<Published>, plan: &Plan) {
        let dates = self.extent(unit).dates;
        let is_removed = dates.from.yesterday().into_iter().chain(dates.iter()).any(|d| self.removed.contains(d));
        let content = |p: Option<&Published>| p.map(|p| p.content.clone()).unwrap_or_default();
        let after = self.published.get(&unit).cloned();
        let is_other_table = before.as_ref().is_some_and(|p| p.pin.table != self.pin.table);
        match plan {
            Plan::Refused { why: Refusal::BeyondRetention { .. } } => assert!(is_removed),
            Plan::Refused { why: Refusal::FewerRows { .. } } | Plan::Nothing { why: Idle::RecreatedBehind } => {
                assert!(is_other_table, "rows of one table never go without a word");
            }
            Plan::Refused { why } => panic!("{unit:?} was refused: {why:?}"),
            _ if is_removed => assert!(!matches!(plan, Plan::Recompute { .. }), "never from a part of its rows"),
            _ => {
                let through_us = self.pin.valid_through.map_or(i64::MIN, |through| through.0);
                let bound_us = before.as_ref().map_or(i64::MIN, |p| p.bound_us).max(through_us);
                let definition = after.as_ref().map_or(self.definition, |p| p.definition);
                assert_eq!(
                    content(after.as_ref()),
                    self.full_recompute(unit, definition, bound_us),
                    "{unit:?} {plan:?}"
                );
                let may_be_old = matches!(plan, Plan::Repin | Plan::Nothing { why: Idle::DefinitionKept });
                assert!(may_be_old || definition == self.definition, "{unit:?} {plan:?}");
                if let Some(published) = self.published.get_mut(&unit) {
                    published.bound_us = bound_us;
                }
                return;
            }
        }
        assert_eq!(content(after.as_ref()), content(before.as_ref()), "what is refused stays");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_planned_batch_is_a_full_recompute(
        (zone, first) in prop::sample::select(vec![
            ("UTC", date(2026, 1, 30)),
            ("Europe/Kyiv", date(2026, 3, 27)),
            ("Asia/Kolkata", date(2025, 12, 29)),
            ("America/Sao_Paulo", date(2018, 11, 2)),
            ("Pacific/Apia", date(2011, 12, 28)),
        ]),
        steps in steps(),
    ) {
        let mut world = World::new(zone, first);
        for step in steps.iter().chain([&Step::Batch { redefine_days: 1_000, forced: false }]) {
            world.play(step);
            if let Step::Batch { redefine_days, forced } = *step {
                world.batch(redefine_days, forced);
            }
        }
    }
}

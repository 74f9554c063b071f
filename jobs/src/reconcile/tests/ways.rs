//! The naive model of drift: the way of every window, by loops over rows. No function of the product is called.
//!
//! The pin under which a window was first covered is what its rows say: that of a row which is still final, or the one
//! that its drift has kept. A window that had neither then, since it was empty or HAVING hid it, has left no trace of
//! that moment: its way begins at the first pin that any other window of its unit remembers, or that is served.

use super::drift::{Values, Way, Ways};
use super::kit::{LATENESS_US, Row, Seen, UnitName, Windows};
use crate::batch::tests::naive;
use deltaworks_core::units::Entry;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};

/// What has landed, and how it is judged now.
pub struct World<'a> {
    pub rows: &'a [Row],
    /// Which of them are fills.
    pub fills: &'a BTreeSet<usize>,
    /// Lateness now, ms.
    pub late_ms: i64,
    /// Lateness when batch ran last, ms. Where it is another, the definition of then cannot be read again.
    pub batch_late_ms: i64,
    pub zone: &'a TimeZone,
    /// HAVING: of the greatest value.
    pub passes: fn(Option<i64>) -> bool,
}

/// What a unit was computed from: how many rows there were, and up to where it is covered.
#[derive(Debug, Clone, Copy)]
struct Pin {
    rows: usize,
    covered: i64,
}

#[derive(Default)]
pub struct WaysModel {
    pins: BTreeMap<String, Pin>,
    /// What was served of each unit, one after the other.
    taken: BTreeMap<UnitName, Vec<Entry>>,
    pub drift: Ways,
}

/// One window of a unit.
struct Window<'a> {
    unit: &'a UnitName,
    start: i64,
    end: i64,
}

impl WaysModel {
    /// Batch has run: units that it computed have pins of all rows.
    pub fn batch(&mut self, ledger: &BTreeMap<UnitName, (Entry, i64)>, rows: usize) {
        for (entry, covered) in ledger.values() {
            self.pins.entry(entry.pin.to_string()).or_insert(Pin { rows, covered: *covered });
        }
    }

    /// All of batch is served in place of `served`.
    pub fn reconcile(&mut self, world: &World<'_>, ledger: &BTreeMap<UnitName, (Entry, i64)>, served: &Windows) {
        for (unit, (entry, _)) in ledger {
            let before = self.taken.get(unit).and_then(|taken| taken.last()).copied();
            if before == Some(*entry) {
                continue;
            }
            if world.late_ms == world.batch_late_ms {
                let found = self.unit(world, unit, before, *entry, served);
                for (key, way) in found {
                    assert!(self.drift.insert(key, way).is_none(), "a row of drift is written once");
                }
            }
            self.taken.entry(unit.clone()).or_default().push(*entry);
        }
    }

    fn unit(&self, world: &World<'_>, unit: &UnitName, before: Option<Entry>, now: Entry, served: &Windows) -> Ways {
        let taken = self.pins[&now.pin.to_string()];
        let last = before.map(|before| self.pins[&before.pin.to_string()]);
        let mut ways = Ways::new();
        for (start, end) in world.windows(unit, taken.rows) {
            let window = Window { unit, start, end };
            let is_old = last.is_some_and(|last| end <= last.covered);
            if end > taken.covered {
                continue;
            }
            let exact = world.exact(&window, taken.rows);
            let old_of = |key: &Option<String>| served.get(&(unit.0.clone(), start, key.clone()));
            let shown = served.keys().filter(|key| key.0 == unit.0 && key.1 == start).map(|key| &key.2);
            let keys: BTreeSet<Option<String>> = shown.chain(world.rows.iter().map(|row| &row.key)).cloned().collect();
            let first_pin = match (is_old, before) {
                (true, Some(before)) => self.first_pin(world, &window, [before, now], served),
                _ => now.pin.to_string(),
            };
            let pins = [self.pins[&first_pin].rows, last.filter(|_| is_old).unwrap_or(taken).rows, taken.rows];
            for key in keys {
                let [base, arrived, fills, late] = world.steps(&window, &key, pins);
                let (old, batch) = (old_of(&key), exact.get(&key).copied());
                let dedup = batch.map(|(total, greatest, events, ..)| (total, greatest, events));
                let has_moved = if is_old { old.map(|seen| seen.values) != batch } else { base != dedup };
                if !has_moved {
                    continue;
                }
                let was = old.map(|Seen { values, .. }| (values.0, values.1, values.2));
                let steps = [("served", was), ("base", base), ("arrived", arrived), ("fills", fills), ("late", late)];
                let steps = steps.into_iter().chain([("dedup", dedup)]).filter_map(|(name, v)| Some((name, v?)));
                let (pin, first_pin) = (now.pin.to_string(), first_pin.clone());
                let way = Way { steps: steps.collect(), unexplained: 0, pin, first_pin };
                ways.insert((unit.0.clone(), start, key, now.generation), way);
            }
        }
        ways
    }

    /// The pin under which a window was first covered, as far as rows tell.
    fn first_pin(&self, world: &World<'_>, window: &Window<'_>, [before, now]: [Entry; 2], served: &Windows) -> String {
        let mut firsts: BTreeMap<i64, String> = BTreeMap::new();
        let is_of = |granularity: &String, start: i64| world.unit_of(granularity, start) == *window.unit;
        for ((granularity, start, ..), way) in self.drift.iter().filter(|(key, _)| is_of(&key.0, key.1)) {
            let known = firsts.insert(*start, way.first_pin.clone());
            assert!(known.is_none_or(|known| known == way.first_pin), "{granularity} {start} has two first pins");
        }
        for ((_, start, _), seen) in served.iter().filter(|(key, seen)| is_of(&key.0, key.1) && seen.state == "final") {
            let pin = seen.pin.clone().unwrap();
            if *start == window.start {
                // what was served, one after the other: the first that covers it
                let mut all = self.taken[window.unit].iter().map(|entry| entry.pin.to_string());
                assert_eq!(Some(&pin), all.find(|pin| window.end <= self.pins[pin].covered).as_ref());
            }
            firsts.insert(*start, pin);
        }
        if let Some(known) = firsts.get(&window.start) {
            return known.clone();
        }
        let known = firsts.into_values().chain([before.pin.to_string(), now.pin.to_string()]);
        let covering = known.map(|pin| (self.pins[&pin].covered, pin)).filter(|(covered, _)| window.end <= *covered);
        covering.min().unwrap().1
    }
}

impl World<'_> {
    fn unit_of(&self, granularity: &str, start: i64) -> UnitName {
        let date = Timestamp::from_microsecond(start).unwrap().to_zoned(self.zone.clone()).date();
        (granularity.to_owned(), date.to_string())
    }

    /// Start and end of the windows of a unit that any of the first rows is in.
    fn windows(&self, unit: &UnitName, rows: usize) -> BTreeSet<(i64, i64)> {
        let all = self.rows[..rows].iter().map(|row| naive::window(&unit.0, row.at_us, self.zone));
        all.filter(|(start, _)| self.unit_of(&unit.0, *start) == *unit).collect()
    }

    /// What batch has of a window, by key.
    fn exact(&self, window: &Window<'_>, rows: usize) -> BTreeMap<Option<String>, super::kit::Values> {
        let judged = self.rows[..rows].iter().map(|row| {
            let is_late = row.behind_ms > self.late_ms;
            Row { behind_ms: if is_late { LATENESS_US / 1_000 + 1 } else { 0 }, ..row.clone() }
        });
        let zone = self.zone.iana_name().unwrap();
        let judged: Vec<Row> = judged.collect();
        let all = naive::windows(&judged, &[window.unit.0.as_str()], zone, i64::MAX, |_| true, |_| true);
        let own = all.into_iter().filter(|(key, values)| key.1 == window.start && (self.passes)(values.1));
        own.map(|((_, _, key), values)| (key, values)).collect()
    }

    /// Values of a window and key after base, arrived, fills and late. `pins`: how many rows there were when the window
    /// was first covered, when it was last served, and now.
    fn steps(&self, window: &Window<'_>, key: &Option<String>, pins: [usize; 3]) -> [Option<Values>; 4] {
        let [first, served, taken] = pins;
        let mut steps = [(None, None, 0); 4];
        for (n, row) in self.rows[..taken].iter().enumerate() {
            if row.repeat || row.key != *key || row.at_us < window.start || row.at_us >= window.end {
                continue;
            }
            let (is_fill, is_late) = (self.fills.contains(&n), row.behind_ms > self.late_ms);
            let step = if n < first && !is_fill && !is_late {
                0
            } else if n >= served {
                1
            } else if is_fill {
                2
            } else if is_late {
                3
            } else {
                1
            };
            for (total, greatest, events) in &mut steps[step..] {
                *total = row.value.map_or(*total, |v| Some(total.unwrap_or(0) + v));
                *greatest = (*greatest).max(row.value);
                *events += 1;
            }
        }
        steps.map(|values| Some(values).filter(|(_, greatest, events)| *events > 0 && (self.passes)(*greatest)))
    }
}

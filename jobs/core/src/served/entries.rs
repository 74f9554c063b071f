//! The `txn` entries of a served table, of empty units too: app id
//! `deltaworks/<aggregate>/<granularity>/<window_date>/<entry>`, in the commit that changes the unit's rows.
//!
//! `generation`, `pin`, `covered` (microseconds), `batch` (the batch table's version) and `definition` say what was
//! taken over; `origin`, `progress` and `states` of which speed states the provisional rows are.
//!
//! Invariant E1: a unit has all entries of a kind or none of it.

use crate::units::{Fingerprint, Unit, app_id, parse_app_id};
use crate::windows::Instant;
use std::collections::BTreeMap;

const TAKEN: [&str; 5] = ["generation", "pin", "covered", "batch", "definition"];
const SHOWN: [&str; 3] = ["origin", "progress", "states"];

/// What was taken over from batch, or what batch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How often batch had published the unit.
    pub generation: i64,
    /// Its pin.
    pub pin: Fingerprint,
    /// That pin's covered bound.
    pub covered: Instant,
    /// The version of the batch table where that was found.
    pub version: i64,
    /// The definition that its rows were last computed under.
    pub definition: Fingerprint,
}

/// Which speed states provisional rows are of, or which there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The raw table and the definition that they are states of.
    pub origin: Fingerprint,
    /// How many offsets were in: the sum of `next` over all partitions, which only grows for one origin.
    pub progress: i64,
    /// The files that held the states of the unit's open windows.
    pub states: Fingerprint,
}

/// What the entries say of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// What covered windows are of.
    pub taken: Option<Taken>,
    /// What the others are of.
    pub shown: Option<Shown>,
}

/// The entries of a unit are not what one of our commits writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the served entries of unit `{0}` are not complete")]
pub struct BrokenServed(pub Unit);

impl Taken {
    const fn txns(&self) -> [i64; 5] {
        [self.generation, self.pin.txn(), self.covered.0, self.version, self.definition.txn()]
    }
}

impl Entry {
    /// The txn entries that record this.
    #[must_use]
    pub fn write(&self, unit: &Unit) -> Vec<(String, i64)> {
        let taken = self.taken.map(|t| TAKEN.into_iter().zip(t.txns()));
        let shown = self.shown.map(|s| SHOWN.into_iter().zip([s.origin.txn(), s.progress, s.states.txn()]));
        let all = taken.into_iter().flatten().chain(shown.into_iter().flatten());
        all.map(|(entry, version)| (app_id(unit, entry), version)).collect()
    }

    /// Up to where its windows are covered.
    #[must_use]
    pub fn covered(&self) -> Option<Instant> {
        self.taken.map(|taken| taken.covered)
    }
}

/// Reads the entries of one unit; nothing in it if it was never served.
///
/// # Errors
/// E1 does not hold for it.
pub fn read_entry(unit: &Unit, txns: &BTreeMap<String, i64>) -> Result<Entry, BrokenServed> {
    let get = |entry: &str| txns.get(&app_id(unit, entry)).copied();
    judge(unit, TAKEN.map(get), SHOWN.map(get))
}

/// Reads the entries of all units of `aggregate`; those of others are left alone.
///
/// # Errors
/// E1 does not hold for a unit.
pub fn read_ledger(aggregate: &str, txns: &BTreeMap<String, i64>) -> Result<BTreeMap<Unit, Entry>, BrokenServed> {
    let mut found: BTreeMap<Unit, Found> = BTreeMap::new();
    for (id, version) in txns {
        let Some((unit, name)) = parse_app_id(aggregate, id) else { continue };
        if let Some(n) = TAKEN.iter().position(|known| *known == name) {
            found.entry(unit).or_default().0[n] = Some(*version);
        } else if let Some(n) = SHOWN.iter().position(|known| *known == name) {
            found.entry(unit).or_default().1[n] = Some(*version);
        }
    }
    found.into_iter().map(|(unit, (taken, shown))| judge(&unit, taken, shown).map(|entry| (unit, entry))).collect()
}

/// Versions of both kinds.
type Found = ([Option<i64>; 5], [Option<i64>; 3]);

fn judge(unit: &Unit, taken: [Option<i64>; 5], shown: [Option<i64>; 3]) -> Result<Entry, BrokenServed> {
    let broken = || BrokenServed(unit.clone());
    let taken = match taken {
        [None, None, None, None, None] => None,
        [Some(generation), Some(pin), Some(covered), Some(version), Some(definition)] if generation > 0 => {
            let named = Fingerprint::of_txn(pin).zip(Fingerprint::of_txn(definition));
            let (pin, definition) = named.ok_or_else(broken)?;
            Some(Taken { generation, pin, covered: Instant(covered), version, definition })
        }
        _ => return Err(broken()),
    };
    let shown = match shown {
        [None, None, None] => None,
        [Some(origin), Some(progress), Some(states)] => {
            let named = Fingerprint::of_txn(origin).zip(Fingerprint::of_txn(states));
            let (origin, states) = named.ok_or_else(broken)?;
            Some(Shown { origin, progress, states })
        }
        _ => return Err(broken()),
    };
    Ok(Entry { taken, shown })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn unit(aggregate: &str, granularity: &str) -> Unit {
        let granularity = granularity.parse().unwrap();
        Unit { aggregate: aggregate.into(), granularity, window_date: date(2026, 1, 5) }
    }

    fn taken() -> Taken {
        let (pin, definition) = (Fingerprint::of(b"pin"), Fingerprint::of(b"definition"));
        Taken { generation: 3, pin, covered: Instant(-7), version: 12, definition }
    }

    fn shown() -> Shown {
        Shown { origin: Fingerprint::of(b"raw"), progress: 9, states: Fingerprint::of(b"files") }
    }

    #[test]
    fn what_is_written_is_read_and_others_are_left_alone() {
        let ours = BTreeMap::from([
            (unit("a", "5m"), Entry { taken: Some(taken()), shown: Some(shown()) }),
            (unit("a", "1h"), Entry { taken: Some(taken()), shown: None }),
            (unit("a", "1d"), Entry { taken: None, shown: Some(shown()) }),
        ]);
        let mut txns: BTreeMap<_, _> = ours.iter().flat_map(|(unit, entry)| entry.write(unit)).collect();
        txns.extend(Entry { taken: Some(taken()), shown: None }.write(&unit("b", "5m")));
        txns.extend([("deltaworks/served.a/rewrite".into(), 4), ("deltaworks/a/5m/2026-01-05/other".into(), 4)]);
        for (unit, entry) in &ours {
            assert_eq!(read_entry(unit, &txns), Ok(*entry));
        }
        assert_eq!(read_entry(&unit("a", "1w"), &txns), Ok(Entry::default()));
        assert_eq!(read_ledger("a", &txns), Ok(ours));
    }

    #[test]
    fn half_an_entry_is_an_error() {
        let unit = unit("a", "5m");
        let whole: BTreeMap<_, _> =
            Entry { taken: Some(taken()), shown: Some(shown()) }.write(&unit).into_iter().collect();
        assert_eq!(whole.len(), 8);
        for id in whole.keys() {
            let mut less = whole.clone();
            less.remove(id);
            assert_eq!(read_ledger("a", &less), Err(BrokenServed(unit.clone())), "without {id}");
            assert_eq!(read_entry(&unit, &less), Err(BrokenServed(unit.clone())), "without {id}");
        }
        let spoiled = whole.into_iter().map(|(id, version)| {
            let version = if id.ends_with("/pin") { -1 } else { version };
            (id, version)
        });
        assert_eq!(read_entry(&unit, &spoiled.collect()), Err(BrokenServed(unit)));
    }
}

//! What a batch table's `txn` entries say of its units: the ledger, of empty units too.
//!
//! Three entries per unit, app id `deltaworks/<aggregate>/<granularity>/<window_date>/<entry>`, in the
//! commit that replaces its rows. Each unit counts by itself: one number that grows per job would make
//! the recompute of an older day look like something that is done already.
//!
//! A fourth, `held`, comes where a unit was computed again and its rows were what they are. A unit that
//! is computed twice from the same rows has the same pin, so nothing else would tell that it was.
//!
//! Invariants: U4 a unit has all three entries or none; U5 `generation` grows by one with each
//! publication, and stays when only the pin is renewed, because the rows that carry it stay too;
//! U6 [`Entry::computations`] grows by one with each computation, and with nothing else.

use super::{Fingerprint, Unit};
use std::collections::BTreeMap;

/// What each unit has, in the order of [`Entry::write`]; the last only where it is not 0.
const ENTRIES: [&str; 4] = ["generation", "pin", "definition", "held"];

/// What the ledger says of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// How often it has been published, from 1 on.
    pub generation: i64,
    /// What it was computed from: [`super::Pin::id`].
    pub pin: Fingerprint,
    /// Under which definition.
    pub definition: Fingerprint,
    /// How often it was computed and its rows were what they are.
    pub held: i64,
}

/// The entries of a unit are not what one of our commits writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ledger entries of unit `{0}` are not complete")]
pub struct BrokenEntry(pub Unit);

impl Entry {
    /// The entry of the next publication.
    #[must_use]
    pub fn published(previous: Option<Self>, pin: Fingerprint, definition: Fingerprint) -> Self {
        let (generation, held) = previous.map_or((0, 0), |p| (p.generation, p.held));
        Self { generation: generation + 1, pin, definition, held }
    }

    /// The entry after a computation that gave the very rows that are published.
    #[must_use]
    pub const fn held(self, pin: Fingerprint, definition: Fingerprint) -> Self {
        Self { pin, definition, held: self.held + 1, ..self }
    }

    /// The entry after [`super::Plan::Repin`]: the same rows, under the same definition.
    #[must_use]
    pub const fn repinned(self, pin: Fingerprint) -> Self {
        Self { pin, ..self }
    }

    /// How often it was computed.
    #[must_use]
    pub const fn computations(self) -> i64 {
        self.generation + self.held
    }

    /// The txn entries that record this.
    #[must_use]
    pub fn write(self, unit: &Unit) -> Vec<(String, i64)> {
        let versions = [self.generation, self.pin.txn(), self.definition.txn(), self.held];
        let mut entries: Vec<_> = app_ids(unit).into_iter().zip(versions).collect();
        if self.held == 0 {
            entries.pop();
        }
        entries
    }
}

/// Reads the entry of one unit; `None` if it was never published.
///
/// # Errors
/// U4 does not hold for it.
pub fn read_entry(unit: &Unit, txns: &BTreeMap<String, i64>) -> Result<Option<Entry>, BrokenEntry> {
    match app_ids(unit).map(|id| txns.get(&id).copied()) {
        [None, None, None, None] => Ok(None),
        versions => judge(unit, versions).map(Some),
    }
}

/// Reads the ledger of `aggregate` from a table's txn entries; entries of others are left alone.
///
/// # Errors
/// U4 does not hold for a unit.
pub fn read_ledger(aggregate: &str, txns: &BTreeMap<String, i64>) -> Result<BTreeMap<Unit, Entry>, BrokenEntry> {
    let mut found: BTreeMap<Unit, [Option<i64>; 4]> = BTreeMap::new();
    for (id, version) in txns {
        let Some((unit, name)) = parse_app_id(aggregate, id) else { continue };
        if let Some(entry) = ENTRIES.iter().position(|known| *known == name) {
            found.entry(unit).or_default()[entry] = Some(*version);
        }
    }
    found.into_iter().map(|(unit, versions)| judge(&unit, versions).map(|entry| (unit, entry))).collect()
}

/// The entry that its versions make.
fn judge(unit: &Unit, [generation, pin, definition, held]: [Option<i64>; 4]) -> Result<Entry, BrokenEntry> {
    let held = held.unwrap_or(0);
    let entry = match (generation, pin, definition) {
        (Some(generation), Some(pin), Some(definition)) if generation > 0 && held >= 0 => Fingerprint::of_txn(pin)
            .zip(Fingerprint::of_txn(definition))
            .map(|(pin, definition)| Entry { generation, pin, definition, held }),
        _ => None,
    };
    entry.ok_or_else(|| BrokenEntry(unit.clone()))
}

fn app_ids(unit: &Unit) -> [String; 4] {
    ENTRIES.map(|entry| app_id(unit, entry))
}

/// The app id of one entry of a unit.
pub(crate) fn app_id(unit: &Unit, entry: &str) -> String {
    format!("deltaworks/{unit}/{entry}")
}

/// The unit of an app id, and the name of the entry.
pub(crate) fn parse_app_id<'i>(aggregate: &str, id: &'i str) -> Option<(Unit, &'i str)> {
    let (name, entry) = id.strip_prefix("deltaworks/")?.rsplit_once('/')?;
    let (granularity, date) = name.strip_prefix(aggregate)?.strip_prefix('/')?.split_once('/')?;
    let (granularity, window_date) = (granularity.parse().ok()?, date.parse().ok()?);
    let unit = Unit { aggregate: aggregate.to_owned(), granularity, window_date };
    (unit.to_string() == name).then_some((unit, entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use proptest::prelude::*;

    fn unit(aggregate: &str, granularity: &str, day: i8) -> Unit {
        let granularity = granularity.parse().unwrap();
        Unit { aggregate: aggregate.into(), granularity, window_date: date(2026, 1, day) }
    }

    fn entry(generation: i64) -> Entry {
        Entry { generation, pin: Fingerprint::of(b"pin"), definition: Fingerprint::of(b"definition"), held: 0 }
    }

    #[test]
    fn what_is_written_is_read_and_others_are_left_alone() {
        let held = entry(3).held(Fingerprint::of(b"later"), Fingerprint::of(b"definition"));
        let ours = BTreeMap::from([
            (unit("a", "5m", 1), entry(1)),
            (unit("a", "1d", 1), entry(7)),
            (unit("a", "1d", 2), held),
        ]);
        let mut txns: BTreeMap<_, _> = ours.iter().flat_map(|(unit, entry)| entry.write(unit)).collect();
        txns.extend(entry(3).write(&unit("a.longer", "5m", 1)));
        txns.extend(entry(3).write(&unit("b", "5m", 1)));
        for other in
            ["deltaworks/a/rewrite", "a/5m/2026-01-02/pin", "deltaworks/a/60m/2026-01-02/pin", "deltaworks/a/x/y/pin"]
        {
            txns.insert(other.into(), 4);
        }
        for (unit, entry) in &ours {
            assert_eq!(read_entry(unit, &txns), Ok(Some(*entry)));
        }
        assert_eq!(read_entry(&unit("a", "5m", 2), &txns), Ok(None));
        assert_eq!(read_ledger("a", &txns), Ok(ours));
        assert_eq!(entry(1).write(&unit("a", "60m", 5))[0].0, "deltaworks/a/1h/2026-01-05/generation");
    }

    #[test]
    fn half_an_entry_is_an_error() {
        let unit = unit("a", "5m", 1);
        let whole: BTreeMap<_, _> = entry(1).write(&unit).into_iter().collect();
        for id in whole.keys() {
            let mut less = whole.clone();
            less.remove(id);
            assert_eq!(read_ledger("a", &less), Err(BrokenEntry(unit.clone())), "without {id}");
            assert_eq!(read_entry(&unit, &less), Err(BrokenEntry(unit.clone())), "without {id}");
            less.insert(id.clone(), -1);
            assert_eq!(read_ledger("a", &less), Err(BrokenEntry(unit.clone())), "{id} is -1");
            assert_eq!(read_entry(&unit, &less), Err(BrokenEntry(unit.clone())), "{id} is -1");
        }
        assert_eq!(BrokenEntry(unit).to_string(), "the ledger entries of unit `a/5m/2026-01-01` are not complete");
    }

    #[test]
    fn the_generation_counts_publications() {
        let (pin, definition) = (Fingerprint::of(b"later"), Fingerprint::of(b"definition"));
        assert_eq!(Entry::published(None, pin, definition), Entry { generation: 1, pin, definition, held: 0 });
        assert_eq!(
            Entry::published(Some(entry(4)), pin, definition),
            Entry { generation: 5, pin, definition, held: 0 }
        );
        assert_eq!(entry(4).repinned(pin), Entry { pin, ..entry(4) });
    }

    #[test]
    fn every_computation_counts_and_a_new_pin_alone_does_not() {
        let Entry { pin, definition, .. } = entry(4);
        let held = entry(4).held(pin, definition);
        assert_eq!((held.generation, held.held, held.computations()), (4, 1, 5));
        assert_eq!(held.repinned(Fingerprint::of(b"later")).computations(), 5);
        let published = Entry::published(Some(held), pin, definition);
        assert_eq!((published.generation, published.held, published.computations()), (5, 1, 6));
        assert_eq!((entry(4).write(&unit("a", "1d", 1)).len(), held.write(&unit("a", "1d", 1)).len()), (3, 4));
        let alone = BTreeMap::from([(app_id(&unit("a", "1d", 1), "held"), 1)]);
        assert_eq!(read_ledger("a", &alone), Err(BrokenEntry(unit("a", "1d", 1))));
    }

    proptest! {
        #[test]
        fn any_app_id_is_read_or_left_alone(id in "(deltaworks/)?[a-b/]{0,3}/?(5m|1d|60m)?/2026-0[01]-0[0-3]/(pin|generation|held)?") {
            let read = read_ledger("a", &BTreeMap::from([(id.clone(), 1)]));
            let is_ours = id.starts_with("deltaworks/a/") && read.is_err();
            prop_assert!(is_ours || read == Ok(BTreeMap::new()), "{id}: {read:?}");
        }
    }
}

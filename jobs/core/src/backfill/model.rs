//! Backfills that are interrupted, resumed, cut short by other runs and by new definitions, against a naive list of
//! everything that was ever computed.

use super::*;
use jiff::civil::date;
use proptest::prelude::*;

/// What may happen to units, by their number.
#[derive(Debug, Clone)]
enum Step {
    /// The backfill goes on for so many units.
    Resume { units: usize, changes: bool },
    /// Another run computes a unit.
    Other { unit: usize, changes: bool },
    /// Another run finds that a unit's rows hold without computing it.
    Repin { unit: usize },
    /// The aggregate means something else, or again what it did.
    Define { definition: u8 },
}

const UNITS: usize = 6;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..=UNITS, any::<bool>()).prop_map(|(units, changes)| Step::Resume { units, changes }),
        3 => (0..UNITS, any::<bool>()).prop_map(|(unit, changes)| Step::Other { unit, changes }),
        2 => (0..UNITS).prop_map(|unit| Step::Repin { unit }),
        1 => (0u8..2).prop_map(|definition| Step::Define { definition }),
    ];
    prop::collection::vec(step, 0..40)
}

fn unit(number: usize) -> Unit {
    let window_date = date(2026, 1, 1 + i8::try_from(number).unwrap());
    Unit { aggregate: "a".into(), granularity: "1d".parse().unwrap(), window_date }
}

fn name(definition: u8) -> Fingerprint {
    Fingerprint::of(&[definition])
}

/// The ledger, and beside it each computation of each unit as it happened.
#[derive(Default)]
struct World {
    ledger: BTreeMap<Unit, Entry>,
    computed: Vec<(usize, u8)>,
    pins: u64,
    definition: u8,
}

impl World {
    fn compute(&mut self, number: usize, changes: bool) {
        // the raw table stands still as often as not, so a pin may be what it was
        self.pins += u64::from(number.is_multiple_of(2));
        let (pin, definition) = (Fingerprint::of(&self.pins.to_le_bytes()), name(self.definition));
        let before = self.ledger.get(&unit(number)).copied();
        let after = match before {
            Some(entry) if !changes => entry.held(pin, definition),
            before => Entry::published(before, pin, definition),
        };
        self.ledger.insert(unit(number), after);
        self.computed.push((number, self.definition));
    }

    fn repin(&mut self, number: usize) {
        self.pins += 1;
        let pin = Fingerprint::of(&self.pins.to_le_bytes());
        self.ledger.entry(unit(number)).and_modify(|entry| *entry = entry.repinned(pin));
    }
}

/// The units whose last computation since the plan was made, if any, was under `definition`.
fn naive(computed: &[(usize, u8)], definition: u8) -> Vec<Unit> {
    let is_done = |number: &usize| computed.iter().rev().find(|(n, _)| n == number).is_some_and(|c| c.1 == definition);
    (0..UNITS).filter(|number| !is_done(number)).map(unit).collect()
}

proptest! {
    #[test]
    fn what_is_left_is_what_was_not_computed_since(before in steps(), after in steps()) {
        let mut world = World::default();
        let play = |world: &mut World, steps: &[Step], plan: &[FrozenUnit], frozen: u8| -> Result<(), TestCaseError> {
            for step in steps {
                match *step {
                    Step::Other { unit, changes } => world.compute(unit, changes),
                    Step::Repin { unit } => world.repin(unit),
                    Step::Define { definition } => world.definition = definition,
                    // a resume under another definition is refused
                    Step::Resume { .. } if world.definition != frozen => {}
                    Step::Resume { units, changes } => {
                        let todo: Vec<Unit> =
                            left(plan, name(frozen), &world.ledger).into_iter().take(units).map(|f| f.unit.clone()).collect();
                        for unit in todo {
                            let number = usize::try_from(unit.window_date.day() - 1).unwrap();
                            world.compute(number, changes);
                            // repeats no unit that it has finished
                            let still = left(plan, name(frozen), &world.ledger);
                            prop_assert!(still.iter().all(|f| f.unit != unit));
                        }
                    }
                }
            }
            Ok(())
        };
        play(&mut world, &before, &[], 9)?;
        world.computed.clear();
        let plan: Vec<FrozenUnit> =
            (0..UNITS).map(|n| FrozenUnit::of(unit(n), world.ledger.get(&unit(n)).copied())).collect();
        let frozen = world.definition;
        for step in &after {
            play(&mut world, std::slice::from_ref(step), &plan, frozen)?;
            let left: Vec<Unit> = left(&plan, name(frozen), &world.ledger).iter().map(|f| f.unit.clone()).collect();
            prop_assert_eq!(left, naive(&world.computed, frozen));
        }
    }
}

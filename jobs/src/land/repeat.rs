//! Is this event id among the last N landed rows of its partition?
//!
//! A hint for the speed layer: raw keeps the row either way, and batch decides alone. Yet it is exact
//! in its own terms, so that a run that was killed and resumed marks the same rows.
//!
//! Two generations of hash maps hold id hash → row number; the younger becomes the older every N
//! rows. An id within the last N rows is always in one of them. 64 bits of the hash are kept: a
//! false hit is a wrong hint once in about 2^64 / N rows.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// The last N ids of one partition.
#[derive(Debug)]
pub struct RepeatMemory {
    rows_max: u64,
    row: u64,
    /// The row at which the young generation becomes the old one.
    turn: u64,
    young: HashMap<u64, u64, FixedState>,
    old: HashMap<u64, u64, FixedState>,
}

impl RepeatMemory {
    /// Remembers `rows_max` rows; 0 remembers nothing.
    #[must_use]
    pub fn new(rows_max: usize) -> Self {
        let rows_max = rows_max as u64;
        Self { rows_max, row: 0, turn: rows_max, young: HashMap::default(), old: HashMap::default() }
    }

    /// Takes in the id of the next landed row; says whether it was among the last N.
    pub fn observe(&mut self, id_hash: Option<u128>) -> bool {
        if self.rows_max == 0 {
            return false;
        }
        let row = self.row;
        self.row += 1;
        if row == self.turn {
            self.turn += self.rows_max;
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        let Some(hash) = id_hash.map(|h| h as u64) else { return false };
        let before = self.young.insert(hash, row).or_else(|| self.old.get(&hash).copied());
        before.is_some_and(|before| row - before <= self.rows_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_naive_window(ids in prop::collection::vec(prop::option::of(0u128..12), 0..200), n in 0usize..9) {
            let mut memory = RepeatMemory::new(n);
            for (i, id) in ids.iter().enumerate() {
                let window = &ids[i.saturating_sub(n)..i];
                let want = n > 0 && id.is_some() && window.contains(id);
                prop_assert_eq!(memory.observe(*id), want, "row {}", i);
            }
        }
    }
}

//! A set of uniformly spread keys in little more memory than the keys themselves.
//!
//! A key's home is its share of the range times the number of slots, and keys lie in ascending
//! order with gaps between them. So a search ends at the first greater key, the set needs no
//! control bytes, and its sorted form is there by reading it. Slots grow by a quarter at a time,
//! and a big set is cut by the top byte of its keys into parts that grow one by one: at no time
//! are two copies of more than a 256th of it there. Slots are at most 7/8 full: about 18 to 23
//! bytes for each key of 16 bytes.
//!
//! Invariant K1: two sets of the same keys write the same bytes, in whatever order they were made.

use std::fmt::Debug;

/// A key of fixed width that is spread uniformly over its range. 0 marks a free slot.
pub(super) trait Key: Copy + Ord + Default + Debug + Send + Sync + 'static {
    /// Bytes of a key.
    const WIDTH: usize;
    /// The top 64 bits.
    fn top(self) -> u64;
    /// Appends the bytes, most significant first, so that they sort as the keys do.
    fn write(self, out: &mut Vec<u8>);
    /// From as many bytes as [`Self::WIDTH`]; 0 for any other number.
    fn read(bytes: &[u8]) -> Self;
}

/// A set of keys.
#[derive(Debug, Clone)]
pub(super) enum KeySet<K> {
    /// Up to [`FEW_MAX`] keys.
    Few(Table<K>),
    /// By the top byte of the key.
    Many(Box<Parts<K>>),
}

/// A big set in parts.
#[derive(Debug, Clone)]
pub(super) struct Parts<K> {
    tables: [Table<K>; PARTS],
    heap_bytes: usize,
}

/// Keys in ascending order, with gaps.
#[derive(Debug, Clone, Default)]
pub(super) struct Table<K> {
    /// One for each home, then what found no room before the end.
    slots: Vec<K>,
    homes: u32,
    /// Slots in use.
    used: u32,
    /// Key 0 cannot lie in a slot.
    has_zero: bool,
}

const FEW_MAX: usize = 8192;
const PARTS: usize = 256;
/// Bits of a key that say in which part it lies.
const PART_BITS: u32 = 8;

impl<K: Key> Default for KeySet<K> {
    fn default() -> Self {
        Self::Few(Table::default())
    }
}

impl<K: Key> KeySet<K> {
    /// Adds a key, if it is not there.
    #[inline]
    pub(super) fn insert(&mut self, key: K) {
        match self {
            Self::Few(table) => {
                table.insert(key, 0);
                if table.len() > FEW_MAX {
                    self.part();
                }
            }
            Self::Many(parts) => {
                let table = &mut parts.tables[part_of(key)];
                let before = table.heap_bytes();
                table.insert(key, PART_BITS);
                parts.heap_bytes = parts.heap_bytes + table.heap_bytes() - before;
            }
        }
    }

    /// Looks at the place of a key, so that it is in the cache when the key is inserted soon after.
    #[inline]
    pub(super) fn touch(&self, key: K) -> u64 {
        match self {
            Self::Few(table) => table.touch(key, 0),
            Self::Many(parts) => parts.tables[part_of(key)].touch(key, PART_BITS),
        }
    }

    /// Makes room in an empty set.
    pub(super) fn reserve(&mut self, keys: usize) {
        if keys <= FEW_MAX {
            *self = Self::Few(Table::with_room(keys));
        } else {
            self.part();
            if let Self::Many(parts) = self {
                parts.tables.fill(Table::with_room(keys / PARTS));
                parts.heap_bytes = parts.tables.iter().map(Table::heap_bytes).sum();
            }
        }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.tables().iter().map(Table::len).sum()
    }

    /// Calls with the keys in ascending order, letting go of each part when it is done.
    pub(super) fn drain(self, call: impl FnMut(K)) {
        match self {
            Self::Few(table) => table.keys().for_each(call),
            Self::Many(parts) => parts.tables.into_iter().flat_map(Table::keys).for_each(call),
        }
    }

    /// Bytes held outside the value itself.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Few(table) => table.heap_bytes(),
            Self::Many(parts) => size_of::<Parts<K>>() + parts.heap_bytes,
        }
    }

    fn tables(&self) -> &[Table<K>] {
        match self {
            Self::Few(table) => std::slice::from_ref(table),
            Self::Many(parts) => &parts.tables,
        }
    }

    #[cold]
    fn part(&mut self) {
        let keys = std::mem::take(self);
        let tables = std::array::from_fn(|_| Table::default());
        *self = Self::Many(Box::new(Parts { tables, heap_bytes: 0 }));
        keys.drain(|key| self.insert(key));
    }
}

impl<K: Key> Table<K> {
    fn with_room(keys: usize) -> Self {
        let homes = keys + keys / 6 + 1;
        let mut slots = Vec::with_capacity(homes + homes / 32);
        slots.resize(homes, K::default());
        Self { slots, homes: homes as u32, used: 0, has_zero: false }
    }

    /// Adds a key; its first `skip` bits are the same for all keys of this table.
    #[inline]
    fn insert(&mut self, key: K, skip: u32) {
        if key == K::default() {
            self.has_zero = true;
            return;
        }
        let mut at = self.home(key, skip);
        while let Some(held) = self.slots.get(at) {
            if *held == key {
                return;
            }
            if *held > key || *held == K::default() {
                break;
            }
            at += 1;
        }
        if self.used < self.homes - self.homes / 8 {
            self.used += 1;
            self.push_in(at, key);
        } else {
            self.grow(skip);
            self.insert(key, skip);
        }
    }

    /// Puts the key in a slot and moves what was there to the right, as far as the next gap.
    #[inline]
    fn push_in(&mut self, from: usize, mut key: K) {
        for slot in &mut self.slots[from..] {
            std::mem::swap(slot, &mut key);
            if key == K::default() {
                return;
            }
        }
        self.slots.reserve_exact(1 + self.slots.len() / 64);
        self.slots.push(key);
    }

    #[cold]
    fn grow(&mut self, skip: u32) {
        self.homes = (self.homes + self.homes / 4).max(self.homes + 2);
        let homes = self.homes as usize;
        let held = std::mem::replace(&mut self.slots, Vec::with_capacity(homes + homes / 32));
        for key in held.into_iter().filter(|key| *key != K::default()) {
            let home = self.home(key, skip).max(self.slots.len());
            self.slots.resize(home, K::default());
            self.slots.push(key);
        }
        self.slots.resize(self.slots.len().max(homes), K::default());
    }

    #[inline]
    fn touch(&self, key: K, skip: u32) -> u64 {
        self.slots.get(self.home(key, skip)).map_or(0, |held| held.top())
    }

    #[inline]
    fn home(&self, key: K, skip: u32) -> usize {
        ((u128::from(key.top() << skip) * u128::from(self.homes)) >> 64) as usize
    }

    fn len(&self) -> usize {
        self.used as usize + usize::from(self.has_zero)
    }

    fn keys(self) -> impl Iterator<Item = K> {
        let zero = self.has_zero.then(K::default);
        zero.into_iter().chain(self.slots.into_iter().filter(|key| *key != K::default()))
    }

    #[inline]
    fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<K>()
    }
}

#[inline]
fn part_of<K: Key>(key: K) -> usize {
    (key.top() >> (u64::BITS - PART_BITS)) as usize
}

impl Key for u64 {
    const WIDTH: usize = 8;

    #[inline]
    fn top(self) -> u64 {
        self
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        bytes.try_into().map_or(0, Self::from_be_bytes)
    }
}

impl Key for u128 {
    const WIDTH: usize = 16;

    #[inline]
    fn top(self) -> u64 {
        (self >> 64) as u64
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        bytes.try_into().map_or(0, Self::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn filled<K: Key>(keys: impl IntoIterator<Item = K>) -> KeySet<K> {
        let mut set = KeySet::default();
        keys.into_iter().for_each(|key| set.insert(key));
        set
    }

    fn sorted<K: Key>(set: &KeySet<K>) -> Vec<K> {
        let mut keys = Vec::new();
        set.clone().drain(|key| keys.push(key));
        keys
    }

    /// Spread keys, and such as crowd at either end or in the middle of the range.
    fn key() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), 0..50_u64, (u64::MAX - 50)..=u64::MAX, (1 << 63)..(1 << 63) + 50_u64]
    }

    proptest! {
        #[test]
        fn it_holds_what_a_set_holds(keys in prop::collection::vec(key(), 0..400)) {
            let model: Vec<u64> = keys.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let mut set = filled(keys.iter().copied());
            prop_assert_eq!(set.len(), model.len());
            prop_assert_eq!(&sorted(&set), &model);
            set.reserve(model.len());
            model.iter().for_each(|key| set.insert(*key));
            prop_assert_eq!(&sorted(&set), &model);
            let wide = |key: &u64| u128::from(*key) << 64 | 7;
            prop_assert_eq!(sorted(&filled(keys.iter().map(wide))), model.iter().map(wide).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_big_set_is_cut_in_parts_and_stays_small() {
        let spread = |i: u64| u128::from(super::super::distinct::mix(i)) << 64 | u128::from(i);
        let count = 300_000;
        let mut most: f64 = 0.0;
        let mut set = KeySet::default();
        for i in 0..count {
            set.insert(spread(i));
            set.insert(spread(i / 2));
            if i > 10_000 && i % 1000 == 0 {
                most = most.max(set.heap_bytes() as f64 / set.len() as f64);
            }
        }
        assert!(matches!(set, KeySet::Many(_)));
        assert_eq!(set.len(), count as usize);
        let mut expected: Vec<u128> = (0..count).map(spread).collect();
        expected.sort_unstable();
        assert_eq!(sorted(&set), expected);
        let mut copy = KeySet::default();
        copy.reserve(expected.len());
        let room = copy.heap_bytes();
        expected.iter().for_each(|key| copy.insert(*key));
        assert!(sorted(&copy) == expected && copy.heap_bytes() < room + room / 8);
        assert_eq!(sorted(&filled(expected.iter().rev().copied())), expected);
        assert!(most < 25.0, "{most} bytes a key");
    }
}

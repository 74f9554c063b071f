//! Which rows of a date are copies of an event that was counted already.
//!
//! An event counts unless an equal event id lies before it in the total order (event time, Kafka time
//! with null last, topic, partition, offset) within its `event_date` and the day before. The caller
//! brings the ids of each date once, dates ascending; rows are known by their number in that date.
//!
//! Ids are 128-bit hashes: among 10^10 ids two different ones meet with a chance of about 10^-19.
//! Rows are dealt out by hash into buckets, and one bucket is judged at a time. Where two dates fit in
//! memory they wait there, in buckets so small that a processor's cache holds one; otherwise in temporary
//! files, so that memory is bounded by the largest bucket and not by the date.
//!
//! Invariants: D1 of all rows of an id in one date, if the day before has none, exactly the least
//! counts; if it has one, none counts; D2 the verdict does not depend on the order of rows, nor on
//! how many buckets there are.

use crate::error::{Class, Error, Result, Stage};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};

/// Rows of a bucket that is held in memory.
const HELD_ROWS: usize = 8_192;
/// Bytes that one row takes in memory: itself, and a share of what a bucket has more than its even part.
const HELD_ROW_BYTES: usize = size_of::<Row>() + size_of::<Row>() / 16;
/// Bytes that one row takes while its bucket is judged out of a file: itself, and its place in the table of
/// ids, of which half may be empty.
const FILED_ROW_BYTES: usize = size_of::<Row>() + 2 * (size_of::<Seen>() + 1);

/// What decides between two rows with one id: the least counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// Event time, microseconds.
    pub event_us: i64,
    /// Kafka time, microseconds; [`i64::MAX`] where it is null.
    pub kafka_us: i64,
    /// Rank of the topic's name among all names of the run.
    pub topic: u32,
    /// Partition.
    pub partition: i32,
    /// Offset, or row of a file.
    pub offset: i64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    id: Id,
    order: Order,
    number: u32,
}

/// Some rows of one date, by their number: its copies, or those outside the pin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marked {
    bits: Vec<u64>,
    count: u64,
}

impl Marked {
    /// Whether this row is marked.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.bits.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Marks a row, once.
    pub fn insert(&mut self, number: u32) {
        let word = number as usize / 64;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= 1 << (number % 64);
        self.count += 1;
    }
}

/// Judges dates one after the other.
#[derive(Debug)]
pub struct Dedup {
    buckets: Vec<Bucket>,
    ids: Ids,
}

/// Rows whose hash falls here: ids of the day before, and rows of the date that is being read.
#[derive(Debug)]
enum Bucket {
    Held { before: Vec<Id>, now: Vec<Row> },
    Filed { before: Filed, now: Filed },
}

type Id = [u64; 2];

/// The ids of one bucket.
#[derive(Debug, Default)]
struct Ids(HashTable<Seen>);

#[derive(Debug)]
struct Seen {
    id: Id,
    /// Index of the row that counts; none for an id of the day before.
    counts: Option<u32>,
}

/// Rows in a file.
#[derive(Debug)]
struct Filed {
    file: BufWriter<File>,
    rows: usize,
}

impl Dedup {
    /// `rows_max` is the greatest number of rows of two neighbouring dates; `memory_bytes` is what
    /// judging may take.
    ///
    /// # Errors
    /// [`Class::Outside`] if a temporary file is needed and cannot be made.
    pub fn new(rows_max: u64, memory_bytes: usize) -> Result<Self> {
        let rows_max = rows_max as usize;
        if rows_max.saturating_mul(HELD_ROW_BYTES) <= memory_bytes {
            return Ok(Self::held(rows_max.div_ceil(2 * HELD_ROWS).max(1)));
        }
        Self::filed(rows_max.saturating_mul(FILED_ROW_BYTES).div_ceil(memory_bytes.max(1)))
    }

    fn held(buckets: usize) -> Self {
        let bucket = || Bucket::Held { before: Vec::new(), now: Vec::new() };
        Self { buckets: (0..buckets).map(|_| bucket()).collect(), ids: Ids::default() }
    }

    fn filed(buckets: usize) -> Result<Self> {
        let bucket = || Ok(Bucket::Filed { before: Filed::new()?, now: Filed::new()? });
        Ok(Self { buckets: (0..buckets).map(|_| bucket()).collect::<Result<_>>()?, ids: Ids::default() })
    }

    /// Begins a date of `rows` rows.
    pub fn begin_date(&mut self, rows: u64) {
        let each = (rows as usize).div_ceil(self.buckets.len());
        // hashes fall evenly; what falls elsewhere makes its bucket grow
        let each = each + each / 16;
        for bucket in &mut self.buckets {
            if let Bucket::Held { now, .. } = bucket {
                now.reserve_exact(each);
            }
        }
    }

    /// Brings one row of the current date.
    ///
    /// # Errors
    /// [`Class::Outside`] if a temporary file cannot be written.
    pub fn push(&mut self, id: u128, order: Order, number: u32) -> Result<()> {
        let id = [(id >> 64) as u64, id as u64];
        let bucket = ((u128::from(id[0]) * self.buckets.len() as u128) >> 64) as usize;
        let row = Row { id, order, number };
        match &mut self.buckets[bucket] {
            Bucket::Held { now, .. } => now.push(row),
            Bucket::Filed { now, .. } => now.push(row)?,
        }
        Ok(())
    }

    /// Ends the current date: its copies. It is the day before of the next one.
    ///
    /// # Errors
    /// [`Class::Outside`] if a temporary file cannot be read.
    pub fn end_date(&mut self) -> Result<Marked> {
        let mut duplicates = Marked::default();
        for bucket in &mut self.buckets {
            match bucket {
                Bucket::Held { before, now } => {
                    self.ids.judge(before.iter().copied(), now, &mut duplicates);
                    before.clear();
                    before.extend(now.iter().map(|row| row.id));
                    now.clear();
                }
                Bucket::Filed { before, now } => {
                    let ids = before.read()?.into_iter().map(|row| row.id);
                    self.ids.judge(ids, &now.read()?, &mut duplicates);
                    std::mem::swap(before, now);
                    now.clear()?;
                }
            }
        }
        Ok(duplicates)
    }

    /// The next date does not follow the one that ended last.
    ///
    /// # Errors
    /// [`Class::Outside`] if a temporary file cannot be emptied.
    pub fn forget(&mut self) -> Result<()> {
        self.buckets.iter_mut().try_for_each(|bucket| match bucket {
            Bucket::Held { before, .. } => {
                before.clear();
                Ok(())
            }
            Bucket::Filed { before, .. } => before.clear(),
        })
    }
}

impl Ids {
    /// Marks the copies of a date in one bucket.
    fn judge(&mut self, before: impl ExactSizeIterator<Item = Id>, now: &[Row], duplicates: &mut Marked) {
        self.0.clear();
        self.0.reserve(before.len() + now.len(), Seen::hash);
        for id in before {
            if let Entry::Vacant(free) = self.entry(id) {
                free.insert(Seen { id, counts: None });
            }
        }
        for (at, row) in (0_u32..).zip(now) {
            match self.entry(row.id) {
                Entry::Vacant(free) => {
                    free.insert(Seen { id: row.id, counts: Some(at) });
                }
                Entry::Occupied(mut seen) => match &mut seen.get_mut().counts {
                    Some(counts) if row.order < now[*counts as usize].order => {
                        duplicates.insert(now[*counts as usize].number);
                        *counts = at;
                    }
                    _ => duplicates.insert(row.number),
                },
            }
        }
    }

    fn entry(&mut self, id: Id) -> Entry<'_, Seen> {
        self.0.entry(Seen::hash_of(id), |seen| seen.id == id, Seen::hash)
    }
}

impl Seen {
    fn hash(&self) -> u64 {
        Self::hash_of(self.id)
    }

    /// The upper half has chosen the bucket.
    const fn hash_of(id: Id) -> u64 {
        id[1]
    }
}

impl Row {
    const BYTES: usize = 16 + 8 + 8 + 4 + 4 + 8 + 4;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut rest = &mut bytes[..];
        let o = self.order;
        for part in [
            &self.id[0].to_le_bytes()[..],
            &self.id[1].to_le_bytes(),
            &o.event_us.to_le_bytes(),
            &o.kafka_us.to_le_bytes(),
            &o.topic.to_le_bytes(),
            &o.partition.to_le_bytes(),
            &o.offset.to_le_bytes(),
            &self.number.to_le_bytes(),
        ] {
            let (head, tail) = rest.split_at_mut(part.len());
            head.copy_from_slice(part);
            rest = tail;
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self {
            id: [long(0), long(8)],
            order: Order {
                event_us: long(16) as i64,
                kafka_us: long(24) as i64,
                topic: short(32),
                partition: short(36) as i32,
                offset: long(40) as i64,
            },
            number: short(48),
        }
    }
}

impl Filed {
    fn new() -> Result<Self> {
        // nameless: the system frees it, however this process ends
        let file = tempfile::tempfile().map_err(spilling)?;
        Ok(Self { file: BufWriter::with_capacity(32 << 10, file), rows: 0 })
    }

    fn push(&mut self, row: Row) -> Result<()> {
        self.rows += 1;
        self.file.write_all(&row.to_bytes()).map_err(spilling)
    }

    fn read(&mut self) -> Result<Vec<Row>> {
        self.file.flush().map_err(spilling)?;
        let file = self.file.get_mut();
        file.rewind().map_err(spilling)?;
        let mut reader = BufReader::with_capacity(256 << 10, file);
        let mut bytes = [0; Row::BYTES];
        let mut read = Vec::with_capacity(self.rows);
        for _ in 0..self.rows {
            reader.read_exact(&mut bytes).map_err(spilling)?;
            read.push(Row::from_bytes(&bytes));
        }
        Ok(read)
    }

    fn clear(&mut self) -> Result<()> {
        // what is still buffered belongs to the old rows
        self.file.flush().map_err(spilling)?;
        let file = self.file.get_mut();
        file.set_len(0).map_err(spilling)?;
        file.rewind().map_err(spilling)?;
        self.rows = 0;
        Ok(())
    }
}

fn spilling(error: std::io::Error) -> Error {
    Error::new(Stage::Batch, Class::Outside, "a temporary file for event ids cannot be used")
        .because(error)
        .hint("`TMPDIR` names the folder for temporary files; it needs about 60 bytes per event of a date")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn order(event_us: i64, kafka: Option<i64>, offset: i64) -> Order {
        let partition = (offset % 3) as i32;
        Order { event_us, kafka_us: kafka.unwrap_or(i64::MAX), topic: 0, partition, offset }
    }

    /// Every date's copies by the definition: all rows with that id in the two dates, sorted.
    fn naive(dates: &[Vec<(u128, Order)>]) -> Vec<Vec<u32>> {
        (0..dates.len())
            .map(|day| {
                let mut first: BTreeMap<u128, (usize, Order)> = BTreeMap::new();
                for (scope, rows) in dates.iter().enumerate().take(day + 1).skip(day.saturating_sub(1)) {
                    for (id, order) in rows {
                        let place = (scope, *order);
                        first.entry(*id).and_modify(|least| *least = place.min(*least)).or_insert(place);
                    }
                }
                let copies = dates[day].iter().enumerate().filter(|(_, (id, order))| first[id] != (day, *order));
                copies.map(|(n, _)| n as u32).collect()
            })
            .collect()
    }

    fn run(dates: &[Vec<(u128, Order)>], mut dedup: Dedup) -> Vec<Vec<u32>> {
        let judged = dates.iter().map(|rows| {
            dedup.begin_date(rows.len() as u64);
            for (number, (id, order)) in (0..).zip(rows) {
                // spread over the hash's high bits, which choose the bucket
                dedup.push(id.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835), *order, number).unwrap();
            }
            let found = dedup.end_date().unwrap();
            let copies: Vec<u32> = (0..rows.len() as u32).filter(|n| found.contains(*n)).collect();
            assert_eq!(found.count(), copies.len() as u64);
            copies
        });
        judged.collect()
    }

    proptest! {
        #[test]
        fn equals_the_definition_in_any_number_of_buckets(
            dates in prop::collection::vec(
                prop::collection::vec((0u128..12, 0i64..4, prop::option::of(0i64..2)), 0..30), 1..5),
            buckets in 1usize..5,
        ) {
            let dates: Vec<Vec<(u128, Order)>> = dates.iter().map(|rows| {
                (0..).zip(rows).map(|(n, (id, event, kafka))| (*id, order(*event, *kafka, n))).collect()
            }).collect();
            let want = naive(&dates);
            prop_assert_eq!(&run(&dates, Dedup::held(buckets)), &want);
            prop_assert_eq!(&run(&dates, Dedup::filed(buckets).unwrap()), &want);
            // the order of rows decides nothing
            let turned: Vec<Vec<_>> = dates.iter().map(|rows| rows.iter().rev().copied().collect()).collect();
            let back: Vec<Vec<u32>> = run(&turned, Dedup::held(buckets)).iter().zip(&dates).map(|(copies, rows)| {
                let mut numbers: Vec<u32> = copies.iter().map(|n| rows.len() as u32 - 1 - n).collect();
                numbers.sort_unstable();
                numbers
            }).collect();
            prop_assert_eq!(&back, &want);
        }
    }

    #[test]
    fn a_date_that_does_not_follow_knows_no_ids() {
        let mut dedup = Dedup::new(1, 1 << 20).unwrap();
        dedup.push(7, order(0, None, 0), 0).unwrap();
        assert_eq!(dedup.end_date().unwrap().count(), 0);
        dedup.forget().unwrap();
        dedup.push(7, order(0, None, 1), 0).unwrap();
        assert_eq!(dedup.end_date().unwrap().count(), 0);
        dedup.push(7, order(0, None, 2), 0).unwrap();
        assert_eq!(dedup.end_date().unwrap().count(), 1);
    }

    #[test]
    fn rows_wait_in_files_only_where_two_dates_do_not_fit_in_memory() {
        let held = |rows: usize, bytes: usize| {
            let dedup = Dedup::new(rows as u64, bytes).unwrap();
            (dedup.buckets.iter().all(|b| matches!(b, Bucket::Held { .. })), dedup.buckets.len())
        };
        assert_eq!(held(0, 0), (true, 1));
        assert_eq!(held(4 * HELD_ROWS, 4 * HELD_ROWS * HELD_ROW_BYTES), (true, 2));
        assert_eq!(held(1_000, 1_000 * HELD_ROW_BYTES - 1), (false, 2));
        assert_eq!(held(1_000, 100 * FILED_ROW_BYTES), (false, 10));
    }

    #[test]
    fn a_row_survives_its_file() {
        let row = Row { id: [1, u64::MAX], order: order(i64::MIN, None, 5), number: u32::MAX };
        let back = Row::from_bytes(&row.to_bytes());
        assert_eq!((back.id, back.order, back.number), (row.id, row.order, row.number));
    }
}

//! `count(DISTINCT x)`, exact to the odds of a 128-bit hash, in little memory.
//!
//! | argument | key | a collision |
//! |---|---|---|
//! | numbers up to 64 bits, booleans, dates, times | 8 bytes, one to one | cannot be |
//! | `decimal` | 16 bytes, one to one | cannot be |
//! | strings, binary, and all else by its row encoding | xxh3-128 | see below |
//!
//! Among n values two share a hash with odds of n² / 2^129: 1.5e-25 for ten million. Who makes
//! values so that they collide can make the count too small; xxh3 is not made against that.
//! −0.0 counts as 0.0 and all NaNs as one, but not inside a list or a struct.

use super::definition::{Call, Definition};
use super::groups::{Function, Groups, Peek, PerGroup, Rows, STATE, Summary};
use super::key_set::{Key, KeySet};
use super::numbers::order_key;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{BinaryType, LargeBinaryType, LargeUtf8Type, Utf8Type};
use arrow::datatypes::{ByteArrayType, DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type};
use arrow::row::{RowConverter, SortField};
use deltalake::datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// `count`, where it is of distinct values; DataFusion's own counts the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CountDistinct;

impl Definition for CountDistinct {
    fn coerce(&self, _name: &str, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments.to_vec())
    }

    fn returns(&self, _arguments: &[DataType]) -> DataType {
        DataType::Int64
    }

    fn state(&self, _arguments: &[DataType]) -> DataType {
        STATE
    }

    fn groups(&self, call: &Call<'_>) -> Result<Box<dyn Peek>> {
        let [argument] = &call.arguments[..] else {
            return plan_err!("`count(DISTINCT ..)` takes one argument: count a `struct(..)` of them");
        };
        Ok(match keys(argument) {
            Keys::Narrow => Box::new(PerGroup::new(OfNarrow)),
            Keys::Decimal | Keys::Bytes | Keys::Rows => Box::new(PerGroup::new(OfWide)),
        })
    }

    fn covers(&self, _arguments: &[DataType], distinct: bool) -> bool {
        distinct
    }

    fn takes_distinct(&self) -> bool {
        true
    }

    fn of_nothing(&self, _returns: &DataType) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(0)))
    }
}

/// Spreads numbers over 64 bits, one to one (the finalizer of SplitMix64, Steele et al. 2014).
#[inline]
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

enum Keys {
    Narrow,
    Decimal,
    Bytes,
    Rows,
}

fn keys(argument: &DataType) -> Keys {
    match argument {
        DataType::Dictionary(_, values) => keys(values),
        DataType::Decimal128(..) => Keys::Decimal,
        DataType::Null | DataType::Boolean => Keys::Narrow,
        other if other.is_integer() || other.is_floating() => Keys::Narrow,
        DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => Keys::Narrow,
        DataType::Timestamp(..) | DataType::Duration(_) => Keys::Narrow,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Keys::Bytes,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Keys::Bytes,
        _ => Keys::Rows,
    }
}

impl<K: Key> Summary for KeySet<K> {
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn merge_state(&mut self, state: &[u8]) -> Result<()> {
        if self.is_empty() {
            self.reserve(state.len() / K::WIDTH);
        }
        let mut last = None;
        for bytes in state.chunks(K::WIDTH) {
            let key = K::read(bytes);
            if bytes.len() != K::WIDTH || last.is_some_and(|last| last >= key) {
                return exec_err!("the bytes are not the state of a `count(DISTINCT ..)`");
            }
            last = Some(key);
            self.insert(key);
        }
        Ok(())
    }

    fn write_state(self, out: &mut Vec<u8>) {
        out.reserve(self.len() * K::WIDTH);
        self.drain(|key| key.write(out));
    }

    fn heap_bytes(&self) -> usize {
        Self::heap_bytes(self)
    }
}

#[derive(Debug, Clone)]
struct OfNarrow;

impl Function for OfNarrow {
    type Summary = KeySet<u64>;

    fn update(&self, arguments: &[ArrayRef], rows: &Rows<'_>, groups: &mut Groups<KeySet<u64>>) -> Result<()> {
        let values = whole(&arguments[0])?;
        let mut ahead = Ahead::of(groups);
        rows.for_each(|row, group| ahead.insert(group, mix(values.value(row).cast_unsigned())));
        ahead.flush();
        Ok(())
    }

    fn finish(&self, groups: &[KeySet<u64>]) -> Result<ArrayRef> {
        Ok(counts(groups))
    }
}

#[derive(Debug, Clone)]
struct OfWide;

impl Function for OfWide {
    type Summary = KeySet<u128>;

    fn update(&self, arguments: &[ArrayRef], rows: &Rows<'_>, groups: &mut Groups<KeySet<u128>>) -> Result<()> {
        let mut values = Arc::clone(&arguments[0]);
        if let DataType::Dictionary(_, plain) = values.data_type() {
            values = cast(&values, plain)?;
        }
        let mut ahead = Ahead::of(groups);
        let mut insert = |group: usize, key: u128| ahead.insert(group, key);
        match values.data_type() {
            DataType::Decimal128(..) => {
                let values = values.as_primitive::<Decimal128Type>();
                rows.for_each(|row, group| insert(group, spread(values.value(row))));
            }
            DataType::Utf8 => hash::<Utf8Type>(&values, rows, insert),
            DataType::LargeUtf8 => hash::<LargeUtf8Type>(&values, rows, insert),
            DataType::Binary => hash::<BinaryType>(&values, rows, insert),
            DataType::LargeBinary => hash::<LargeBinaryType>(&values, rows, insert),
            DataType::Utf8View => {
                let values = values.as_string_view();
                rows.for_each(|row, group| insert(group, xxh3_128(values.value(row).as_bytes())));
            }
            DataType::BinaryView => {
                let values = values.as_binary_view();
                rows.for_each(|row, group| insert(group, xxh3_128(values.value(row))));
            }
            other => {
                let converter = RowConverter::new(vec![SortField::new(other.clone())])?;
                let encoded = converter.convert_columns(&[Arc::clone(&values)])?;
                rows.for_each(|row, group| insert(group, xxh3_128(encoded.row(row).as_ref())));
            }
        }
        ahead.flush();
        Ok(())
    }

    fn finish(&self, groups: &[KeySet<u128>]) -> Result<ArrayRef> {
        Ok(counts(groups))
    }
}

/// Inserts a few keys at a time and looks at their places first: one wait for memory, not one each.
struct Ahead<'a, K> {
    groups: &'a mut Groups<KeySet<K>>,
    keys: [(usize, K); 32],
    held: usize,
}

impl<'a, K: Key> Ahead<'a, K> {
    fn of(groups: &'a mut Groups<KeySet<K>>) -> Self {
        Self { groups, keys: [(0, K::default()); 32], held: 0 }
    }

    #[inline]
    fn insert(&mut self, group: usize, key: K) {
        self.keys[self.held] = (group, key);
        self.held += 1;
        if self.held == self.keys.len() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let keys = &self.keys[..self.held];
        let seen = keys.iter().fold(0, |seen, (group, key)| seen ^ self.groups.get(*group).touch(*key));
        std::hint::black_box(seen);
        for (group, key) in keys {
            self.groups.change(*group, |set| set.insert(*key));
        }
        self.held = 0;
    }
}

fn hash<T: ByteArrayType>(values: &ArrayRef, rows: &Rows<'_>, mut insert: impl FnMut(usize, u128)) {
    let values = values.as_bytes::<T>();
    rows.for_each(|row, group| insert(group, xxh3_128(values.value(row).as_ref())));
}

fn counts<K: Key>(groups: &[KeySet<K>]) -> ArrayRef {
    Arc::new(groups.iter().map(|set| i64::try_from(set.len()).ok()).collect::<Int64Array>())
}

/// Spreads a decimal over 128 bits, one to one (two rounds of a Feistel network).
#[inline]
fn spread(value: i128) -> u128 {
    let (mut high, mut low) = ((value >> 64) as u64, value as u64);
    high ^= mix(low);
    low ^= mix(high);
    u128::from(high) << 64 | u128::from(low)
}

/// A column of numbers, times or booleans as whole numbers, one to one.
fn whole(values: &ArrayRef) -> Result<Int64Array> {
    let mut values = Arc::clone(values);
    if let DataType::Dictionary(_, plain) = values.data_type() {
        values = cast(&values, plain)?;
    }
    Ok(match values.data_type() {
        DataType::UInt64 => values.as_primitive::<UInt64Type>().unary(u64::cast_signed),
        other if other.is_floating() => {
            cast(&values, &DataType::Float64)?.as_primitive::<Float64Type>().unary(order_key)
        }
        _ => cast(&values, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
    })
}

//! A checksum of rows that does not depend on their order, their batches or their files.
//!
//! Decides one `u128` per row and sums them, so that what was written can be compared with what is
//! there, years later and by another engine. It is a format: a change of anything below breaks
//! every ledger written before. It guards against loss and mix-ups, not against forgery.
//!
//! All arithmetic wraps. `mix` is the finaliser of MurmurHash3 (`fmix64`).
//!
//! ```text
//! seed     of a top-level column: xxh3_64(its name in UTF-8)
//! integer  (signed, unsigned, Boolean 0/1, Date32 as days, Timestamp as microseconds whatever its
//!          zone): v = sign- or zero-extended to 64 bits
//!          cell = mix(mix(v + 0x9E3779B97F4A7C15) ^ seed)
//! float    v = bits of the value widened to 64 bits, -0.0 as 0.0, every NaN as 0x7FF8000000000000:
//!          cell = as an integer, with seed ^ 0xF10A
//! decimal  v = unscaled value, 128 bits:
//!          cell = mix(mix(low 64 bits + 0x9E3779B97F4A7C15) ^ mix(high 64 bits ^ seed))
//! text     (Utf8, LargeUtf8, Utf8View): cell = xxh3_64_with_seed(bytes in UTF-8, seed)
//! binary   (Binary, LargeBinary, BinaryView, FixedSizeBinary): the same, with seed ^ 0xB1
//! list     items are hashed with seed mix(seed + 1), a null item is mix(seed); i counts from 1:
//!          cell = mix((seed ^ 0x715A) + length + sum over i of mix(item_i + mix(i)))
//! struct   a field is hashed with seed xxh3_64_with_seed(field name, seed); null ones add nothing:
//!          cell = mix((seed ^ 0x57C7) + sum of fields)
//! row      acc = sum of its non-null top-level cells
//!          (mix(acc ^ 0xD6E8FEB86659FD93) << 64) | mix(acc + 0xA0761D6478BD642F)
//! ```
//!
//! Invariants: C1 a null adds nothing, so a later nullable column leaves old sums as they are; C2
//! sums of parts add up to the sum of the whole; C3 a dictionary or view equals its plain values.

use crate::{Class, Error, Result, Stage};
use arrow::array::{Array, AsArray, GenericListArray, OffsetSizeTrait, RecordBatch, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use deltaworks_core::commit_info::{Checksum, DateEntry};
use deltaworks_core::windows::date_of_epoch_days;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// How many rows, and the sum of their checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowSum {
    /// Rows.
    pub rows: u64,
    /// Sum of the rows' checksums, modulo 2^128.
    pub sum: u128,
}

impl RowSum {
    /// Takes in the rows of `other`.
    pub const fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Takes in one row.
    pub const fn add(&mut self, row: u128) {
        self.merge(Self { rows: 1, sum: row });
    }

    /// The sum as tables and ledgers hold it: 32 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        format!("{:032x}", self.sum)
    }
}

/// The sums of dates, given as days since the Unix epoch, as commits tell them.
#[must_use]
pub fn entries(dates: &BTreeMap<i32, RowSum>) -> BTreeMap<String, DateEntry> {
    let spelled = |days: i32| date_of_epoch_days(days).map_or_else(|| format!("day {days}"), |date| date.to_string());
    let entry = |sum: &RowSum| DateEntry { rows: sum.rows, checksum: Checksum(sum.sum) };
    dates.iter().map(|(date, sum)| (spelled(*date), entry(sum))).collect()
}

/// The checksum of every row of `batch`, over all columns but those named in `skip`.
///
/// # Errors
/// A column has a type that no table of ours holds.
pub fn row_sums(batch: &RecordBatch, skip: &[&str]) -> Result<Vec<u128>> {
    let mut sums = vec![0u64; batch.num_rows()];
    let mut cells = Vec::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let empty = column.null_count() == column.len();
        if skip.contains(&field.name().as_str()) || *column.data_type() == DataType::Null || empty {
            continue;
        }
        let nulls = hash(column, xxh3_64(field.name().as_bytes()), &mut cells)
            .map_err(|error| error.hint(format!("column `{}`", field.name())))?;
        add(&mut sums, &cells, nulls.as_ref());
    }
    Ok(sums.into_iter().map(finish).collect())
}

/// The sum of all rows of `batch`.
///
/// # Errors
/// As [`row_sums`].
pub fn total(batch: &RecordBatch, skip: &[&str]) -> Result<RowSum> {
    let sums = row_sums(batch, skip)?;
    let sum = sums.iter().fold(0, |sum: u128, row| sum.wrapping_add(*row));
    Ok(RowSum { rows: sums.len() as u64, sum })
}

/// The sums of `batch` by the days of its Date32 column `date_column`, which is part of the rows.
///
/// # Errors
/// As [`row_sums`]; there is no such column; it is no Date32; it has nulls.
pub fn by_date(batch: &RecordBatch, date_column: &str) -> Result<BTreeMap<i32, RowSum>> {
    let dates = batch.column_by_name(date_column).and_then(|c| c.as_primitive_opt::<Date32Type>());
    let dates = dates.filter(|dates| dates.null_count() == 0).ok_or_else(|| {
        Error::new(Stage::Land, Class::Internal, format!("`{date_column}` is not a date column without nulls"))
    })?;
    let mut groups: BTreeMap<i32, RowSum> = BTreeMap::new();
    // neighbours mostly share their date, so the map is asked once per run of equal dates
    let mut run: Option<(i32, RowSum)> = None;
    for (date, row) in dates.values().iter().zip(row_sums(batch, &[])?) {
        match &mut run {
            Some((day, sum)) if day == date => sum.add(row),
            _ => {
                if let Some((day, sum)) = run.replace((*date, RowSum { rows: 1, sum: row })) {
                    groups.entry(day).or_default().merge(sum);
                }
            }
        }
    }
    if let Some((day, sum)) = run {
        groups.entry(day).or_default().merge(sum);
    }
    Ok(groups)
}

/// MurmurHash3's `fmix64`.
#[inline]
const fn mix(mut v: u64) -> u64 {
    v ^= v >> 33;
    v = v.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    v ^= v >> 33;
    v = v.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    v ^ (v >> 33)
}

#[inline]
const fn finish(sum: u64) -> u128 {
    let high = mix(sum ^ 0xD6E8_FEB8_6659_FD93);
    let low = mix(sum.wrapping_add(0xA076_1D64_78BD_642F));
    ((high as u128) << 64) | low as u128
}

/// Adds the cells of one column to the rows; nulls add nothing.
fn add(sums: &mut [u64], cells: &[u64], nulls: Option<&NullBuffer>) {
    match nulls.filter(|nulls| nulls.null_count() > 0) {
        None => sums.iter_mut().zip(cells).for_each(|(sum, cell)| *sum = sum.wrapping_add(*cell)),
        Some(nulls) => nulls.valid_indices().for_each(|i| sums[i] = sums[i].wrapping_add(cells[i])),
    }
}

/// Hashes every value of `array` into `cells` and returns which of them count.
fn hash(array: &dyn Array, seed: u64, cells: &mut Vec<u64>) -> Result<Option<NullBuffer>> {
    cells.clear();
    cells.reserve(array.len());
    match array.data_type() {
        DataType::Boolean => {
            let values = array.as_boolean().values();
            cells.extend(values.iter().map(|v| integer(u64::from(v), seed)));
        }
        DataType::Int8 => integers::<Int8Type>(array, seed, cells, |v| v as i64 as u64),
        DataType::Int16 => integers::<Int16Type>(array, seed, cells, |v| v as i64 as u64),
        DataType::Int32 => integers::<Int32Type>(array, seed, cells, |v| v as i64 as u64),
        DataType::Int64 => integers::<Int64Type>(array, seed, cells, |v| v as u64),
        DataType::UInt8 => integers::<UInt8Type>(array, seed, cells, u64::from),
        DataType::UInt16 => integers::<UInt16Type>(array, seed, cells, u64::from),
        DataType::UInt32 => integers::<UInt32Type>(array, seed, cells, u64::from),
        DataType::UInt64 => integers::<UInt64Type>(array, seed, cells, |v| v),
        DataType::Date32 => integers::<Date32Type>(array, seed, cells, |v| v as i64 as u64),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            integers::<TimestampMicrosecondType>(array, seed, cells, |v| v as u64);
        }
        DataType::Float32 => integers::<Float32Type>(array, seed ^ 0xF10A, cells, |v| float_bits(f64::from(v))),
        DataType::Float64 => integers::<Float64Type>(array, seed ^ 0xF10A, cells, float_bits),
        DataType::Decimal128(_, _) => {
            let values = array.as_primitive::<Decimal128Type>().values();
            cells.extend(values.iter().map(|v| decimal(*v, seed)));
        }
        DataType::Utf8 => bytes(array.as_string::<i32>().iter().map(|v| v.map(str::as_bytes)), seed, cells),
        DataType::LargeUtf8 => bytes(array.as_string::<i64>().iter().map(|v| v.map(str::as_bytes)), seed, cells),
        DataType::Utf8View => bytes(array.as_string_view().iter().map(|v| v.map(str::as_bytes)), seed, cells),
        DataType::Binary => bytes(array.as_binary::<i32>().iter(), seed ^ 0xB1, cells),
        DataType::LargeBinary => bytes(array.as_binary::<i64>().iter(), seed ^ 0xB1, cells),
        DataType::BinaryView => bytes(array.as_binary_view().iter(), seed ^ 0xB1, cells),
        DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().iter(), seed ^ 0xB1, cells),
        DataType::List(_) => list(array.as_list::<i32>(), seed, cells)?,
        DataType::LargeList(_) => list(array.as_list::<i64>(), seed, cells)?,
        DataType::Struct(_) => structs(array.as_struct(), seed, cells)?,
        DataType::Dictionary(_, _) => dictionary(array, seed, cells)?,
        other => {
            return Err(Error::new(Stage::Land, Class::Internal, format!("a checksum does not cover type `{other}`")));
        }
    }
    Ok(array.logical_nulls())
}

#[inline]
const fn integer(v: u64, seed: u64) -> u64 {
    mix(mix(v.wrapping_add(GOLDEN)) ^ seed)
}

#[inline]
const fn decimal(v: i128, seed: u64) -> u64 {
    mix(mix((v as u64).wrapping_add(GOLDEN)) ^ mix((v >> 64) as u64 ^ seed))
}

fn float_bits(v: f64) -> u64 {
    // -0.0 + 0.0 is 0.0
    if v.is_nan() { 0x7FF8_0000_0000_0000 } else { (v + 0.0).to_bits() }
}

fn integers<T: ArrowPrimitiveType>(
    array: &dyn Array,
    seed: u64,
    cells: &mut Vec<u64>,
    bits: impl Fn(T::Native) -> u64,
) {
    cells.extend(array.as_primitive::<T>().values().iter().map(|v| integer(bits(*v), seed)));
}

fn bytes<'a>(values: impl Iterator<Item = Option<&'a [u8]>>, seed: u64, cells: &mut Vec<u64>) {
    // a constant column is hashed once
    let mut last: (&[u8], u64) = (&[], xxh3_64_with_seed(&[], seed));
    cells.extend(values.map(|v| {
        let Some(v) = v else { return 0 };
        if v != last.0 {
            last = (v, xxh3_64_with_seed(v, seed));
        }
        last.1
    }));
}

fn list<O: OffsetSizeTrait>(array: &GenericListArray<O>, seed: u64, cells: &mut Vec<u64>) -> Result<()> {
    let offsets = array.value_offsets();
    let first = offsets.first().map_or(0, |o| o.as_usize());
    let last = offsets.last().map_or(0, |o| o.as_usize());
    let mut items = Vec::new();
    let nulls = hash(&array.values().slice(first, last - first), mix(seed.wrapping_add(1)), &mut items)?;
    if let Some(nulls) = nulls {
        let null = mix(seed);
        items.iter_mut().zip(nulls.iter()).filter(|(_, valid)| !valid).for_each(|(item, _)| *item = null);
    }
    cells.extend(offsets.windows(2).map(|ends| {
        let items = &items[ends[0].as_usize() - first..ends[1].as_usize() - first];
        let start = (seed ^ 0x715A).wrapping_add(items.len() as u64);
        mix((1u64..).zip(items).fold(start, |sum, (i, item)| sum.wrapping_add(mix(item.wrapping_add(mix(i))))))
    }));
    Ok(())
}

fn structs(array: &StructArray, seed: u64, cells: &mut Vec<u64>) -> Result<()> {
    cells.resize(array.len(), seed ^ 0x57C7);
    let mut below = Vec::new();
    for (field, column) in array.fields().iter().zip(array.columns()) {
        if *column.data_type() == DataType::Null {
            continue;
        }
        let nulls = hash(column, xxh3_64_with_seed(field.name().as_bytes(), seed), &mut below)?;
        add(cells, &below, nulls.as_ref());
    }
    cells.iter_mut().for_each(|cell| *cell = mix(*cell));
    Ok(())
}

/// Hashes each distinct value once.
fn dictionary(array: &dyn Array, seed: u64, cells: &mut Vec<u64>) -> Result<()> {
    let dictionary = array.as_any_dictionary();
    if dictionary.values().is_empty() {
        // every key is null
        cells.resize(array.len(), 0);
        return Ok(());
    }
    let mut distinct = Vec::new();
    hash(dictionary.values(), seed, &mut distinct)?;
    cells.extend(dictionary.normalized_keys().into_iter().map(|key| distinct[key]));
    Ok(())
}

#[cfg(test)]
mod tests;

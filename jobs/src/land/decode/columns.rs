//! Growing column vectors that can be cut back to an earlier length.
//!
//! arrow's own builders cannot forget a row; these can, so a refused message leaves no trace.
//!
//! Invariant: V1 `Validity` is empty while every value is valid, and else as long as its column.

use arrow::array::{ArrayRef, BooleanArray, PrimitiveArray, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::ArrowPrimitiveType;
use arrow::error::ArrowError;
use std::sync::Arc;

/// Which rows have a value.
#[derive(Debug, Default)]
pub(super) struct Validity(Vec<bool>);

impl Validity {
    /// Appends a valid row.
    #[inline]
    pub(super) fn valid(&mut self) {
        if !self.0.is_empty() {
            self.0.push(true);
        }
    }

    /// Appends a null row to a column of `len` rows.
    pub(super) fn null(&mut self, len: usize) {
        self.0.resize(len, true);
        self.0.push(false);
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Whether row `at` has a value.
    pub(super) fn is_valid(&self, at: usize) -> bool {
        self.0.get(at).copied().unwrap_or(true)
    }

    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }

    pub(super) fn take(&mut self) -> Option<NullBuffer> {
        let bits = std::mem::take(&mut self.0);
        bits.contains(&false).then(|| NullBuffer::from(bits))
    }
}

/// Texts, one after the other.
#[derive(Debug, Default)]
pub(super) struct Texts {
    ends: Vec<i32>,
    bytes: Vec<u8>,
}

impl Texts {
    /// Appends a text. The decoder bounds a batch to less than 2 GiB of text before this is called.
    #[inline]
    pub(super) fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len() as i32);
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
    }

    /// The last text.
    pub(super) fn last(&self) -> &[u8] {
        let start = self.ends.len().checked_sub(2).map_or(0, |i| self.ends[i] as usize);
        &self.bytes[start..]
    }

    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.ends.len() * 4
    }

    pub(super) fn take(&mut self, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        let bytes = replace(&mut self.bytes);
        let array = StringArray::try_new(offsets(&mut self.ends), Buffer::from_vec(bytes), nulls)?;
        Ok(Arc::new(array))
    }
}

/// Fixed-width values as an array.
pub(super) fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
) -> Result<PrimitiveArray<T>, ArrowError> {
    PrimitiveArray::try_new(ScalarBuffer::from(replace(values)), nulls)
}

/// Booleans as an array.
pub(super) fn booleans(values: &mut Vec<bool>, nulls: Option<NullBuffer>) -> BooleanArray {
    BooleanArray::new(replace(values).into(), nulls)
}

/// Ends of lists or texts as Arrow's offsets, which begin with 0.
pub(super) fn offsets(ends: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let mut all = Vec::with_capacity(ends.len() + 1);
    all.push(0);
    all.append(ends);
    OffsetBuffer::new(all.into())
}

/// Takes the values and leaves room for as many.
fn replace<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = values.len();
    std::mem::replace(values, Vec::with_capacity(room))
}

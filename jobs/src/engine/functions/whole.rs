//! Sums of integers and decimals that cannot wrap on the way, and their count.
//!
//! The sum of a column may fit although a part of it, in some order, does not. Parts are therefore
//! kept wide enough for any number of rows, and only the result is held against its type.

use super::groups::{Function, Groups, Rows, Summary};
use super::numbers::for_each_whole;
use arrow::array::ArrayRef;
use arrow::datatypes::i256;
use deltalake::datafusion::common::{Result, exec_err};
use std::marker::PhantomData;

/// A number that holds the sum of 2^63 values of the column.
pub(super) trait Wide: Copy + Default + Send + Sync + 'static {
    /// The number that is wide enough for one value.
    fn of(value: i128) -> Self;
    /// The sum; `None` if damaged states made it overflow.
    fn plus(self, other: Self) -> Option<Self>;
    /// For arithmetic with the result.
    fn widest(self) -> i256;
    /// From arithmetic; `None` if it does not fit.
    fn narrow(value: i256) -> Option<Self>;
}

/// For values up to 64 bits, and decimals of up to 18 digits.
impl Wide for i128 {
    fn of(value: i128) -> Self {
        value
    }
    #[inline]
    fn plus(self, other: Self) -> Option<Self> {
        self.checked_add(other)
    }
    fn widest(self) -> i256 {
        i256::from_i128(self)
    }
    fn narrow(value: i256) -> Option<Self> {
        value.to_i128()
    }
}

/// For decimals of up to 38 digits.
impl Wide for i256 {
    fn of(value: i128) -> Self {
        Self::from_i128(value)
    }
    #[inline]
    fn plus(self, other: Self) -> Option<Self> {
        self.checked_add(other)
    }
    fn widest(self) -> i256 {
        self
    }
    fn narrow(value: i256) -> Option<Self> {
        Some(value)
    }
}

/// Sum and count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Whole<N> {
    /// The sum, exact.
    pub(super) sum: N,
    /// How many values.
    pub(super) count: u64,
}

/// How a sum and its count become a column.
pub(super) type Finish = fn(&Output, &mut dyn Iterator<Item = Option<(i256, u64)>>) -> Result<ArrayRef>;

/// What the result must fit in.
#[derive(Debug, Clone)]
pub(super) struct Output {
    /// The function's name, for the error.
    pub(super) name: &'static str,
    /// Scale of the column; 0 for integers.
    pub(super) scale: i8,
    /// Type of the result.
    pub(super) returns: arrow::datatypes::DataType,
}

/// A function of sum and count of whole numbers.
#[derive(Clone)]
pub(super) struct OfWhole<N> {
    output: Output,
    finish: Finish,
    number: PhantomData<N>,
}

impl<N> OfWhole<N> {
    /// The function that ends with `finish`.
    pub(super) fn new(output: Output, finish: Finish) -> Self {
        Self { output, finish, number: PhantomData }
    }
}

impl<N: Wide> Summary for Whole<N> {
    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn merge_state(&mut self, state: &[u8]) -> Result<()> {
        let read = read_state(state).and_then(|(sum, count)| {
            let sum = self.sum.plus(N::narrow(sum)?)?;
            Some(Self { sum, count: self.count.checked_add(count)? })
        });
        let Some(merged) = read else {
            return exec_err!("the bytes are not the state of a sum of whole numbers");
        };
        *self = merged;
        Ok(())
    }

    /// The count in 8 bytes, then the sum in as few bytes as show its sign, least first.
    fn write_state(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(shortest(&self.sum.widest().to_le_bytes()));
    }

    fn heap_bytes(&self) -> usize {
        0
    }
}

impl<N: Wide> Function for OfWhole<N> {
    type Summary = Whole<N>;

    fn update(&self, arguments: &[ArrayRef], rows: &Rows<'_>, groups: &mut Groups<Whole<N>>) -> Result<()> {
        let mut is_exact = true;
        for_each_whole(&arguments[0], rows, |value, group| {
            groups.change(group, |whole| match whole.sum.plus(N::of(value)) {
                Some(sum) => *whole = Whole { sum, count: whole.count + 1 },
                None => is_exact = false,
            });
        })?;
        if is_exact { Ok(()) } else { exec_err!("`{}` has no room for a sum of so many values", self.output.name) }
    }

    fn finish(&self, groups: &[Whole<N>]) -> Result<ArrayRef> {
        let mut sums = groups.iter().map(|whole| (whole.count > 0).then(|| (whole.sum.widest(), whole.count)));
        (self.finish)(&self.output, &mut sums)
    }
}

fn read_state(state: &[u8]) -> Option<(i256, u64)> {
    let (count, sum) = state.split_at_checked(8)?;
    let count = u64::from_le_bytes(count.try_into().ok()?);
    let filler = if *sum.last()? >= 0x80 { 0xff } else { 0 };
    let mut bytes = [filler; 32];
    bytes.get_mut(..sum.len())?.copy_from_slice(sum);
    let is_canonical = count > 0 && shortest(&bytes) == sum;
    is_canonical.then(|| (i256::from_le_bytes(bytes), count))
}

/// Without the bytes on top that only repeat the sign; one byte at least.
fn shortest(bytes: &[u8; 32]) -> &[u8] {
    let repeats = |at: usize| match bytes[at] {
        0 => bytes[at - 1] < 0x80,
        0xff => bytes[at - 1] >= 0x80,
        _ => false,
    };
    let mut length = bytes.len();
    while length > 1 && repeats(length - 1) {
        length -= 1;
    }
    &bytes[..length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(0, 1)]
    #[case(-1, 1)]
    #[case(127, 1)]
    #[case(128, 2)]
    #[case(-128, 1)]
    #[case(-129, 2)]
    #[case(65_535, 3)]
    #[case(i128::MAX, 16)]
    #[case(i128::MIN, 16)]
    fn a_state_is_as_short_as_its_sum(#[case] sum: i128, #[case] length: usize) {
        let mut state = Vec::new();
        Whole { sum, count: 3 }.write_state(&mut state);
        assert_eq!(state.len(), 8 + length);
        let mut read = Whole::<i256>::default();
        read.merge_state(&state).unwrap();
        assert_eq!((read.sum, read.count), (i256::from_i128(sum), 3));
        state.push(if sum < 0 { 0xff } else { 0 });
        assert!(read.merge_state(&state).is_err());
    }

    #[rstest]
    #[case(&[])]
    #[case(&[1, 0, 0, 0, 0, 0, 0])]
    #[case(&[1, 0, 0, 0, 0, 0, 0, 0])]
    #[case(&[0, 0, 0, 0, 0, 0, 0, 0, 1])]
    #[case(&[1; 41])]
    fn other_bytes_are_refused(#[case] state: &[u8]) {
        let mut whole = Whole::<i128>::default();
        assert!(whole.merge_state(state).is_err() && whole.is_empty());
    }

    #[test]
    fn a_sum_of_sums_that_has_no_room_is_refused() {
        let mut state = Vec::new();
        Whole { sum: i128::MAX, count: 1 }.write_state(&mut state);
        let mut whole = Whole { sum: 1_i128, count: 1 };
        assert!(whole.merge_state(&state).is_err() && whole.sum == 1);
    }
}

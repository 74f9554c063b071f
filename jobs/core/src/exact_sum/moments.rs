//! Variance and standard deviation from exact sums of values and of their squares.
//!
//! Welford's running mean depends on the order of the rows. Here n, Σx and Σx² are exact (a square
//! of a double has 106 bits and is added whole, so it neither rounds nor under- or overflows), and
//! n·Σx² − (Σx)² is computed in whole numbers: no cancellation, one rounding at the very end. The
//! result is the double nearest to the true value, for values however close to each other.

use super::limbs::Limbs;
use super::natural::{Cut, Natural};
use super::state::{BadState, Reader, write_limbs, write_number};
use super::{COUNT_MAX, is_special};

/// What the sum of squared deviations is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Divisor {
    /// n − 1: `var_samp`, `stddev_samp`. No result for a single value.
    Sample,
    /// n: `var_pop`, `stddev_pop`.
    Population,
}

/// Number, sum and sum of squares of values, all exact.
#[derive(Debug, Clone, Default)]
pub struct ExactMoments {
    count: u64,
    /// A value was infinite or not a number: so is the result.
    special: bool,
    sum: Limbs<5>,
    squares: Limbs<8>,
}

impl ExactMoments {
    /// Adds a double.
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        if is_special(value) {
            self.special = true;
            return;
        }
        self.sum.add(value);
        self.squares.add_product(value, value, false);
    }

    /// Adds a whole number, or a decimal in units of its last digit.
    pub fn add_integer(&mut self, value: i128) {
        self.count += 1;
        self.sum.add_integer(value);
        self.squares.add_square(value);
    }

    /// Adds what another one has seen.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.special |= other.special;
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
    }

    /// How many values were added.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The variance of the values divided by 10^`scale`, to the nearest double; `None` for too few
    /// values; NaN if one was infinite or not a number.
    #[must_use]
    pub fn variance(&self, divisor: Divisor, scale: u32) -> Option<f64> {
        Some(self.exact_variance(divisor, scale)?.map_or(f64::NAN, Cut::round))
    }

    /// The standard deviation, to the nearest double; otherwise as [`Self::variance`].
    #[must_use]
    pub fn deviation(&self, divisor: Divisor, scale: u32) -> Option<f64> {
        Some(self.exact_variance(divisor, scale)?.map_or(f64::NAN, Cut::sqrt))
    }

    /// Appends the state's bytes: equal states have equal bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.special));
        write_number(out, self.count);
        write_limbs(out, &self.sum);
        write_limbs(out, &self.squares);
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Refuses bytes that `encode` does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadState> {
        let mut reader = Reader(bytes);
        let special = match reader.byte()? {
            0 => false,
            1 => true,
            _ => return Err(BadState("its flags are unknown")),
        };
        let count = reader.number()?;
        let state = Self { count, special, sum: reader.limbs()?, squares: reader.limbs()? };
        reader.end()?;
        let holds = special || !state.squares.is_zero() || !state.sum.is_zero();
        if count > COUNT_MAX || count == 0 && holds {
            return Err(BadState("its count cannot be"));
        }
        Ok(state)
    }

    /// Bytes held outside the value itself.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.sum.heap_bytes() + self.squares.heap_bytes()
    }

    /// `None`: too few values. `Some(None)`: not a number.
    fn exact_variance(&self, divisor: Divisor, scale: u32) -> Option<Option<Cut>> {
        let less = match divisor {
            Divisor::Sample => self.count.checked_sub(1).filter(|less| *less > 0)?,
            Divisor::Population => Some(self.count).filter(|count| *count > 0)?,
        };
        if self.special {
            return Some(None);
        }
        let (_, sum, sum_exponent) = self.sum.read();
        let (_, squares, squares_exponent) = self.squares.read();
        let (square, square_exponent) = (sum.times(&sum), 2 * sum_exponent);
        let exponent = match (square.is_zero(), squares.is_zero()) {
            (true, _) => squares_exponent,
            (_, true) => square_exponent,
            _ => square_exponent.min(squares_exponent),
        };
        // Both exponents are multiples of 32, and at or above `exponent` unless the number is 0.
        let align = |number: Natural, own: i32| number.shifted(((own - exponent).max(0) / 32) as usize);
        let deviations =
            align(squares.times(&Natural::from(self.count)), squares_exponent).minus(&align(square, square_exponent));
        let mut divisors = vec![self.count, less];
        for _ in 0..2 {
            divisors.extend((0..scale).step_by(19).map(|done| 10_u64.pow((scale - done).min(19))));
        }
        Some(Some(deviations.divided(exponent, &divisors)))
    }
}

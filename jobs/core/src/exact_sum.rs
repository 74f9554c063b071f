//! Sums of doubles that do not depend on the order of the values, nor on how they were split.
//!
//! A superaccumulator: a fixed-point number so wide that an addition never rounds (U. Kulisch,
//! "Computer Arithmetic and Validity", 2008; the lazy carries follow the small superaccumulator of
//! R. M. Neal, "Fast Exact Summation Using Small and Large Superaccumulators", arXiv:1505.05571,
//! 2015). Adding and merging are exact, hence associative and commutative; rounding happens once,
//! to nearest even, when the value is asked for. Up to 2^63 values cannot overflow it.
//!
//! - The sum of nothing, and of zeros of either sign, is 0.0.
//! - A NaN makes NaN; infinities of both signs make NaN; of one sign, that infinity. Every NaN
//!   returned is `f64::NAN`.
//! - A sum beyond the greatest double is infinite, as IEEE 754 rounds; sums on the way do not count.
//!
//! Invariant E1: equal multisets of values give equal states, and equal states equal bytes.

mod limbs;
mod moments;
mod natural;
mod state;
#[cfg(test)]
mod tests;

pub use moments::{Divisor, ExactMoments};
pub use state::BadState;

use limbs::Limbs;
use natural::{Cut, Natural};
use state::{Reader, write_limbs, write_number};

/// Values that one state may have seen.
const COUNT_MAX: u64 = 1 << 63;
const NAN: u8 = 1;
const PLUS: u8 = 2;
const MINUS: u8 = 4;

/// The exact sum of doubles, and their number.
#[derive(Debug, Clone, Default)]
pub struct ExactSum {
    count: u64,
    limbs: Limbs<5>,
    specials: u8,
}

impl ExactSum {
    /// Adds a value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        if is_special(value) {
            self.specials |= match value {
                f64::INFINITY => PLUS,
                f64::NEG_INFINITY => MINUS,
                _ => NAN,
            };
            return;
        }
        self.limbs.add(value);
    }

    /// Adds what another sum has seen.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.specials |= other.specials;
        self.limbs.merge(&other.limbs);
    }

    /// How many values were added.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The double nearest to the sum.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.divided(&[])
    }

    /// The double nearest to the sum divided by the count; `None` if nothing was added.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.divided(&[self.count]))
    }

    /// Appends the state's bytes: equal states have equal bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.specials);
        write_number(out, self.count);
        write_limbs(out, &self.limbs);
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Refuses bytes that `encode` does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadState> {
        let mut state = Self::default();
        state.merge_encoded(bytes)?;
        Ok(state)
    }

    /// Adds what a sum has seen that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// As [`Self::decode`]; nothing was added.
    pub fn merge_encoded(&mut self, bytes: &[u8]) -> Result<(), BadState> {
        let mut reader = Reader(bytes);
        let specials = reader.byte()?;
        if specials > NAN | PLUS | MINUS {
            return Err(BadState("its flags are unknown"));
        }
        let (count, sum) = (reader.number()?, reader.written()?);
        reader.end()?;
        if count > COUNT_MAX || count == 0 && (specials != 0 || !sum.is_zero()) {
            return Err(BadState("its count cannot be"));
        }
        self.count = self.count.saturating_add(count);
        self.specials |= specials;
        sum.add_to(&mut self.limbs);
        Ok(())
    }

    /// Bytes held outside the value itself.
    #[inline]
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.limbs.heap_bytes()
    }

    fn divided(&self, divisors: &[u64]) -> f64 {
        match self.specials {
            0 => signed_quotient(&self.limbs, divisors),
            PLUS => f64::INFINITY,
            MINUS => f64::NEG_INFINITY,
            _ => f64::NAN,
        }
    }
}

/// The double nearest to `sum / count`; `None` if `count` is 0.
#[must_use]
pub fn mean_of_integers(sum: i128, count: u64) -> Option<f64> {
    let mean = (count > 0).then(|| Natural::from(sum.unsigned_abs()).divided(0, &[count]).round())?;
    Some(if sum < 0 { -mean } else { mean })
}

/// The double nearest to `low + (high - low) * weight`, for a weight in [0, 1].
///
/// Infinite ends count as in IEEE 754: between −∞ and +∞ lies NaN.
#[must_use]
pub fn interpolate(low: f64, high: f64, weight: f64) -> f64 {
    if weight == 0.0 || low == high {
        return canonical(low);
    }
    if is_special(low) || is_special(high) {
        return canonical(low + high);
    }
    let mut exact = Limbs::<8>::default();
    exact.add(low);
    exact.add_product(high, weight, false);
    exact.add_product(low, weight, true);
    signed_quotient(&exact, &[])
}

/// The one double that stands for all that equal it: 0.0 for −0.0, one NaN for every NaN.
#[inline]
#[must_use]
pub fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

fn signed_quotient<const N: usize>(limbs: &Limbs<N>, divisors: &[u64]) -> f64 {
    let (negative, value) = match (limbs.short(), divisors) {
        (Some(short), []) => (short.negative, Cut::of(short.magnitude, short.exponent).round()),
        (Some(short), [divisor]) => (short.negative, Cut::of(short.magnitude, short.exponent).over(*divisor).round()),
        _ => {
            let (negative, magnitude, exponent) = limbs.read();
            (negative, magnitude.divided(exponent, divisors).round())
        }
    };
    if negative && value != 0.0 { -value } else { value }
}

/// Infinite or not a number.
#[inline]
fn is_special(value: f64) -> bool {
    !value.is_finite()
}

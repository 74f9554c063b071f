//! Whole numbers of any size, and the one place where an exact value becomes a double.
//!
//! Rounding is to nearest, ties to even, and happens once: what is cut off before that is kept as
//! a flag ("something above 0 was here"), which is all that rounding needs to know.

/// A whole number at or above 0: 32-bit digits, least first, no zero on top.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Natural(Vec<u32>);

/// A value at or above 0: `mantissa * 2^exponent`, plus less than one unit of the mantissa if
/// `more`. The mantissa has at least 64 bits if `more`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    mantissa: u128,
    exponent: i32,
    more: bool,
}

impl FromIterator<u32> for Natural {
    fn from_iter<I: IntoIterator<Item = u32>>(digits: I) -> Self {
        Self(digits.into_iter().collect()).trimmed()
    }
}

impl Natural {
    /// Whether it is 0.
    pub(super) fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes without zeros at either end, least first, and how many zero bytes lie below them.
    pub(super) fn to_bytes(&self) -> (usize, Vec<u8>) {
        let bytes: Vec<u8> = self.0.iter().flat_map(|digit| digit.to_le_bytes()).collect();
        let Some(first) = bytes.iter().position(|byte| *byte != 0) else { return (0, Vec::new()) };
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(first);
        (first, bytes[first..=last].to_vec())
    }

    /// The product with another number.
    pub(super) fn times(&self, other: &Self) -> Self {
        let mut digits = vec![0; self.0.len() + other.0.len()];
        for (i, a) in self.0.iter().enumerate() {
            let mut carry = 0;
            for (j, b) in other.0.iter().enumerate() {
                let value = u64::from(*a) * u64::from(*b) + u64::from(digits[i + j]) + carry;
                digits[i + j] = value as u32;
                carry = value >> 32;
            }
            digits[i + other.0.len()] = carry as u32;
        }
        Self(digits).trimmed()
    }

    /// This number less another; 0 if that is greater.
    pub(super) fn minus(mut self, other: &Self) -> Self {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        let mut borrow = 0;
        for (i, digit) in self.0.iter_mut().enumerate() {
            let value = i64::from(*digit) - i64::from(other.0.get(i).copied().unwrap_or(0)) + borrow;
            *digit = value as u32;
            borrow = value >> 32;
        }
        if borrow == 0 { self.trimmed() } else { Self::default() }
    }

    /// This number times 2^(32 * digits).
    pub(super) fn shifted(mut self, digits: usize) -> Self {
        if !self.is_zero() {
            self.0.splice(0..0, std::iter::repeat_n(0, digits));
        }
        self
    }

    /// `self * 2^exponent` divided by all of `divisors`, none of them 0, with 128 bits or more if
    /// it does not come out even.
    pub(super) fn divided(self, mut exponent: i32, divisors: &[u64]) -> Cut {
        let mut quotient = self;
        let mut more = false;
        if !divisors.is_empty() {
            // 5 digits hold 128 bits wherever the top bit lies; each divisor takes away up to 2.
            let digits = 5 + 2 * divisors.len();
            let missing = digits.saturating_sub(quotient.0.len());
            quotient = quotient.shifted(missing);
            exponent -= 32 * missing as i32;
        }
        for divisor in divisors {
            more |= quotient.divide(*divisor) != 0;
        }
        quotient.cut(exponent, more)
    }

    /// Divides in place and returns the remainder.
    fn divide(&mut self, divisor: u64) -> u64 {
        let mut rest = 0;
        for digit in self.0.iter_mut().rev() {
            let value = u128::from(rest) << 32 | u128::from(*digit);
            *digit = (value / u128::from(divisor)) as u32;
            rest = (value % u128::from(divisor)) as u64;
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        rest
    }

    /// The top 128 bits.
    fn cut(&self, exponent: i32, more: bool) -> Cut {
        let below = self.0.len().saturating_sub(5);
        let (low, top) = self.0.split_at(below);
        let more = more || low.iter().any(|digit| *digit != 0);
        let exponent = exponent + 32 * below as i32;
        let Some((lowest, upper)) = top.split_first().filter(|_| top.len() == 5) else {
            let mantissa = top.iter().rev().fold(0, |value, digit| value << 32 | u128::from(*digit));
            return Cut { mantissa, exponent, more };
        };
        // 129 to 160 bits: keep the upper 128.
        let upper = upper.iter().rev().fold(0, |value: u128, digit| value << 32 | u128::from(*digit));
        let free = upper.leading_zeros();
        let mantissa = upper << free | u128::from(*lowest) >> (32 - free);
        let more = more || u64::from(*lowest) << free & 0xffff_ffff != 0;
        Cut { mantissa, exponent: exponent + 32 - free as i32, more }
    }

    fn trimmed(mut self) -> Self {
        let length = self.0.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        self.0.truncate(length);
        self
    }
}

impl From<u64> for Natural {
    fn from(value: u64) -> Self {
        [value as u32, (value >> 32) as u32].into_iter().collect()
    }
}

impl From<u128> for Natural {
    fn from(value: u128) -> Self {
        [0, 32, 64, 96].into_iter().map(|shift| (value >> shift) as u32).collect()
    }
}

impl Cut {
    /// `mantissa * 2^exponent`, exactly.
    pub(super) const fn of(mantissa: u128, exponent: i32) -> Self {
        Self { mantissa, exponent, more: false }
    }

    /// An exact value divided by what is not 0.
    pub(super) fn over(self, divisor: u64) -> Self {
        if self.mantissa == 0 {
            return self;
        }
        // at least 2^127 over less than 2^64: 64 bits or more
        let free = self.mantissa.leading_zeros();
        let (mantissa, divisor) = (self.mantissa << free, u128::from(divisor));
        let more = mantissa % divisor != 0;
        Self { mantissa: mantissa / divisor, exponent: self.exponent - free as i32, more }
    }

    /// The nearest double, ties to even; infinite beyond the greatest.
    pub(super) fn round(self) -> f64 {
        if self.mantissa == 0 {
            return 0.0;
        }
        let top = self.exponent + 127 - self.mantissa.leading_zeros() as i32;
        if top > 1023 {
            return f64::INFINITY;
        }
        let unit = (top - 52).max(-1074);
        let drop = unit - self.exponent;
        let mantissa = match drop {
            ..=0 => (self.mantissa << -drop) as u64,
            1..128 => {
                let kept = (self.mantissa >> drop) as u64;
                let half = 1 << (drop - 1);
                let rest = self.mantissa & (half | (half - 1));
                kept + u64::from(rest > half || rest == half && (self.more || kept & 1 == 1))
            }
            128 => u64::from(self.mantissa > 1 << 127 || self.mantissa == 1 << 127 && self.more),
            _ => 0,
        };
        // The leading bit of a normal mantissa adds the last 1 of its exponent, as does its carry.
        f64::from_bits(mantissa + (((unit + 1074) as u64) << 52))
    }

    /// The square root, to the nearest double.
    pub(super) fn sqrt(self) -> f64 {
        let Self { mut mantissa, mut exponent, mut more } = self;
        if mantissa == 0 {
            return 0.0;
        }
        let free = if more { 0 } else { mantissa.leading_zeros() };
        mantissa <<= free;
        exponent -= free as i32;
        if exponent % 2 != 0 {
            more |= mantissa & 1 == 1;
            mantissa >>= 1;
            exponent += 1;
        }
        let root = mantissa.isqrt();
        Self { mantissa: root, exponent: exponent / 2, more: more || root * root != mantissa }.round()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Halfway between two doubles, of which the lower is even.
    const TIE: u128 = (1 << 53) + 1;

    #[test]
    fn a_rest_of_any_division_breaks_a_tie() {
        let tie = |more: u128| {
            let number = Natural::from(15 * TIE).shifted(10);
            let digits = number.0.into_iter().enumerate();
            digits.map(|(i, digit)| digit + if i == 0 { more as u32 } else { 0 }).collect::<Natural>()
        };
        let even = 2_f64.powi(53) * 2_f64.powi(320);
        assert_eq!(tie(0).divided(0, &[3, 5]).round(), even);
        assert_eq!(tie(1).divided(0, &[3, 5]).round(), (2_f64.powi(53) + 2.0) * 2_f64.powi(320));
        assert_eq!(tie(4).divided(0, &[5, 3]).round(), (2_f64.powi(53) + 2.0) * 2_f64.powi(320));
    }

    #[test]
    fn a_bit_below_the_root_breaks_a_tie() {
        let root = TIE << 10;
        let square = |more| Natural::from(2 * root * root + more).divided(1, &[]).sqrt();
        assert_eq!(square(0), 2_f64.powi(53) * 2_f64.powi(11));
        assert_eq!(square(1), (2_f64.powi(53) + 2.0) * 2_f64.powi(11));
    }
}

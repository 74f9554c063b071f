//! A fixed-point number wide enough that adding doubles, or products of two doubles, never rounds.
//!
//! The number is cut into signed 64-bit limbs that weigh 2^32 times their right neighbour, so a
//! limb takes many additions before carries must be passed on. Only the limbs in use are kept: a
//! few inline, more on the heap for values of very different size.
//!
//! Invariant L1: the top limb is 0 between calls of [`Limbs::make_room`], so carries have a place
//! to go. L2: a limb has taken at most [`PENDING_MAX`] additions below 2^53 since it last was a
//! balanced digit (in [-2^31, 2^31)), so none can overflow.

use super::natural::Natural;

/// Bits below the binary point: the square of the least subnormal double is 2^-2148.
pub(super) const POINT: usize = 2176;
/// The limb of weight 2^0.
const ONES: usize = POINT / 32;
/// Bytes that a state may reach up to: the square of the greatest double, 2^63 times, and more.
pub(super) const BYTES_MAX: usize = 136 * 4;
const PENDING_MAX: u16 = 1000;
const LOW: u64 = 0xffff_ffff;

/// The number, with `N` limbs inline.
#[derive(Debug, Clone)]
pub(super) struct Limbs<const N: usize> {
    few: [i64; N],
    many: Option<Box<Many>>,
    /// Index of the first limb held; its weight is 2^(32 * base - POINT).
    base: u16,
    pending: u16,
}

#[derive(Debug, Clone)]
struct Many {
    limbs: Vec<i64>,
}

/// A number of at most 128 bits: `magnitude * 2^exponent`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Short {
    pub(super) negative: bool,
    pub(super) magnitude: u128,
    pub(super) exponent: i32,
}

/// A finite double as `mantissa * 2^(position - POINT)`, or a factor of a product.
struct Parts {
    mantissa: u64,
    /// Biased exponent, at least 1: the mantissa weighs 2^(exponent - 1075).
    exponent: usize,
    negative: bool,
}

impl<const N: usize> Default for Limbs<N> {
    fn default() -> Self {
        Self { few: [0; N], many: None, base: 0, pending: 0 }
    }
}

impl<const N: usize> Limbs<N> {
    /// Adds a finite double.
    #[inline]
    pub(super) fn add(&mut self, value: f64) {
        let Parts { mantissa, exponent, negative } = parts(value);
        if mantissa == 0 {
            return;
        }
        let (limb, shift) = split(exponent + POINT - 1075);
        let low = ((mantissa << shift) & LOW) as i64;
        let high = (mantissa >> (32 - shift)) as i64;
        let sign = if negative { -1 } else { 1 };
        let limbs = self.room(limb, 2);
        limbs[0] += sign * low;
        limbs[1] += sign * high;
    }

    /// Adds the exact product of two finite doubles, or its negative.
    #[inline]
    pub(super) fn add_product(&mut self, a: f64, b: f64, minus: bool) {
        let (a, b) = (parts(a), parts(b));
        let product = u128::from(a.mantissa) * u128::from(b.mantissa);
        if product == 0 {
            return;
        }
        let (limb, shift) = split(a.exponent + b.exponent + POINT - 2150);
        let rest = product >> (32 - shift);
        let pieces =
            [((product as u64) << shift) & LOW, rest as u64 & LOW, (rest >> 32) as u64 & LOW, (rest >> 64) as u64];
        self.add_pieces(limb, pieces, a.negative ^ b.negative ^ minus);
    }

    /// Adds a whole number.
    pub(super) fn add_integer(&mut self, value: i128) {
        self.add_u128(ONES, value.unsigned_abs(), value < 0);
    }

    /// Adds the square of a whole number.
    pub(super) fn add_square(&mut self, value: i128) {
        let magnitude = value.unsigned_abs();
        let (low, high) = (magnitude & u128::from(u64::MAX), magnitude >> 64);
        self.add_u128(ONES, low * low, false);
        self.add_u128(ONES + 2, low * high, false);
        self.add_u128(ONES + 2, low * high, false);
        self.add_u128(ONES + 4, high * high, false);
    }

    /// Adds another number.
    pub(super) fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        other.carry();
        let Some((from, to)) = other.used() else { return };
        let base = usize::from(other.base);
        let limbs = self.room(from, to - from);
        for (into, digit) in limbs.iter_mut().zip(&other.limbs()[from - base..to - base]) {
            *into += digit;
        }
    }

    /// Adds `magnitude * 2^(8 * position - POINT)`, digits least first.
    pub(super) fn add_bytes(&mut self, position: usize, magnitude: &[u8], negative: bool) {
        let first = position / 4;
        let digits = (position % 4 + magnitude.len()).div_ceil(4);
        let sign = if negative { -1 } else { 1 };
        let limbs = self.room(first, digits);
        if digits <= 4 {
            let mut bytes = [0; 16];
            bytes[position % 4..position % 4 + magnitude.len()].copy_from_slice(magnitude);
            let value = u128::from_le_bytes(bytes);
            limbs.iter_mut().zip(digits_of(value)).for_each(|(limb, digit)| *limb += sign * digit as i64);
            return;
        }
        for (i, byte) in magnitude.iter().enumerate() {
            let at = position % 4 + i;
            limbs[at / 4] += sign * (i64::from(*byte) << (8 * (at % 4)));
        }
    }

    /// The number, if the limbs in use lie so close together that 128 bits hold them: most sums of values
    /// of about one size. Takes no heap.
    #[inline]
    pub(super) fn short(&self) -> Option<Short> {
        let limbs = self.limbs();
        let first = limbs.iter().position(|limb| *limb != 0).unwrap_or(0);
        let last = limbs.iter().rposition(|limb| *limb != 0).unwrap_or(0);
        if last - first > 2 {
            return None;
        }
        // by L2 the top one is below 2^63, so three of them are below 2^127
        let value = limbs[first..=last].iter().rev().fold(0_i128, |value, limb| (value << 32) + i128::from(*limb));
        let exponent = (32 * (usize::from(self.base) + first)) as i32 - POINT as i32;
        Some(Short { negative: value < 0, magnitude: value.unsigned_abs(), exponent })
    }

    /// Whether it is 0.
    pub(super) fn is_zero(&self) -> bool {
        self.short().map_or_else(|| self.read().1.is_zero(), |short| short.magnitude == 0)
    }

    /// Whether it is below 0, and its magnitude as `natural * 2^exponent`.
    pub(super) fn read(&self) -> (bool, Natural, i32) {
        let mut copy = self.clone();
        copy.carry();
        let Some((from, to)) = copy.used() else { return (false, Natural::default(), 0) };
        let base = usize::from(copy.base);
        let digits = &copy.limbs()[from - base..to - base];
        let negative = digits.last().is_some_and(|top| *top < 0);
        let sign = if negative { -1 } else { 1 };
        let mut carry = 0;
        let digits = digits.iter().map(|digit| {
            let value = sign * digit + carry;
            carry = value >> 32;
            (value as u64 & LOW) as u32
        });
        (negative, digits.collect(), (from * 32) as i32 - POINT as i32)
    }

    /// Bytes held on the heap.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        match &self.many {
            None => 0,
            Some(many) => size_of::<Many>() + many.limbs.capacity() * size_of::<i64>(),
        }
    }

    fn add_u128(&mut self, limb: usize, value: u128, negative: bool) {
        self.add_pieces(limb, digits_of(value), negative);
    }

    #[inline]
    fn add_pieces(&mut self, limb: usize, pieces: [u64; 4], negative: bool) {
        let sign = if negative { -1 } else { 1 };
        for (into, piece) in self.room(limb, 4).iter_mut().zip(pieces) {
            *into += sign * piece as i64;
        }
    }

    /// The limbs from `first`, `count` of them, ready for one addition below 2^53 each.
    #[inline]
    fn room(&mut self, first: usize, count: usize) -> &mut [i64] {
        let from = first.wrapping_sub(usize::from(self.base));
        let length = self.many.as_ref().map_or(N, |many| many.limbs.len());
        if self.pending >= PENDING_MAX || from >= length || from + count >= length {
            self.make_room(first, count);
        }
        self.pending += 1;
        let from = first - usize::from(self.base);
        &mut self.limbs_mut()[from..from + count]
    }

    /// Passes carries on, then moves or widens the window so that it holds what is used, the limbs
    /// asked for, and a zero limb on top.
    #[cold]
    fn make_room(&mut self, first: usize, count: usize) {
        self.carry();
        let used = self.used();
        let (from, to) = used.map_or((first, first + count), |(a, z)| (a.min(first), z.max(first + count)));
        let base = usize::from(self.base);
        let length = self.limbs().len();
        if from >= base && to < base + length {
            return;
        }
        let held = used.map_or_else(Vec::new, |(a, z)| self.limbs()[a - base..z - base].to_vec());
        let needed = to - from + 1;
        if needed > length {
            // Two spare limbs, so that values that grow slowly do not move it each time.
            self.many = Some(Box::new(Many { limbs: vec![0; needed + 2] }));
        }
        let spare = self.limbs().len() - needed;
        let base = from.saturating_sub(spare / 2);
        self.base = base as u16;
        let limbs = self.limbs_mut();
        limbs.fill(0);
        if let Some((a, z)) = used {
            limbs[a - base..z - base].copy_from_slice(&held);
        }
    }

    /// Makes every limb a balanced digit, by passing the rest to the left.
    fn carry(&mut self) {
        self.pending = 0;
        let mut carry = 0;
        for limb in self.limbs_mut() {
            let value = *limb + carry;
            carry = (value + (1 << 31)) >> 32;
            *limb = value - (carry << 32);
        }
        debug_assert_eq!(carry, 0, "the top limb has room for every carry");
    }

    /// The range of limbs that are not 0, by index.
    fn used(&self) -> Option<(usize, usize)> {
        let limbs = self.limbs();
        let first = limbs.iter().position(|limb| *limb != 0)?;
        let last = limbs.iter().rposition(|limb| *limb != 0)?;
        let base = usize::from(self.base);
        Some((base + first, base + last + 1))
    }

    #[inline]
    fn limbs(&self) -> &[i64] {
        self.many.as_ref().map_or(&self.few, |many| &many.limbs)
    }

    #[inline]
    fn limbs_mut(&mut self) -> &mut [i64] {
        match &mut self.many {
            None => &mut self.few,
            Some(many) => &mut many.limbs,
        }
    }
}

#[inline]
fn parts(value: f64) -> Parts {
    let bits = value.to_bits();
    let exponent = (bits >> 52) as usize & 0x7ff;
    let fraction = bits & ((1 << 52) - 1);
    let hidden = u64::from(exponent != 0) << 52;
    Parts { mantissa: fraction | hidden, exponent: exponent.max(1), negative: value.is_sign_negative() }
}

/// The digits of a number, 32 bits each, least first.
#[inline]
fn digits_of(value: u128) -> [u64; 4] {
    [0, 32, 64, 96].map(|shift| (value >> shift) as u64 & LOW)
}

#[inline]
fn split(bit: usize) -> (usize, usize) {
    (bit / 32, bit % 32)
}

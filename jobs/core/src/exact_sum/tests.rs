//! Plays the sums against whole-number arithmetic that knows nothing of limbs, carries or rounding:
//! a result is right iff the exact value lies between the midpoints to its neighbours.

use super::*;
use proptest::prelude::*;
use rstest::rstest;
use std::cmp::Ordering;

/// A whole number of any size, least digit first: slow and plain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Big {
    negative: bool,
    digits: Vec<u32>,
}

impl Big {
    fn new(value: i128) -> Self {
        let digits = (0..4).map(|i| (value.unsigned_abs() >> (32 * i)) as u32).collect();
        Self { negative: value < 0, digits }.trim()
    }

    /// A finite double in units of 2^-1074.
    fn of(value: f64) -> Self {
        let bits = value.to_bits();
        let exponent = (bits >> 52) as u32 & 0x7ff;
        let fraction = i128::from(bits & ((1 << 52) - 1));
        let mantissa = if exponent == 0 { fraction } else { fraction + (1 << 52) };
        let sign = if value < 0.0 { -1 } else { 1 };
        Self::new(sign * mantissa).shift(exponent.max(1) - 1)
    }

    fn shift(mut self, bits: u32) -> Self {
        for _ in 0..bits / 32 {
            self.digits.insert(0, 0);
        }
        self.trim().times(&Self::new(1 << (bits % 32)))
    }

    fn trim(mut self) -> Self {
        while self.digits.last() == Some(&0) {
            self.digits.pop();
        }
        self.negative &= !self.digits.is_empty();
        self
    }

    fn plus(&self, other: &Self) -> Self {
        let signed = |big: &Self, i: usize| {
            let digit = i64::from(big.digits.get(i).copied().unwrap_or(0));
            if big.negative { -digit } else { digit }
        };
        let length = self.digits.len().max(other.digits.len()) + 1;
        let mut sums: Vec<i64> = (0..length).map(|i| signed(self, i) + signed(other, i)).collect();
        let negative = sums.iter().rev().find(|d| **d != 0).is_some_and(|d| *d < 0);
        let mut carry = 0;
        for sum in &mut sums {
            let value = if negative { -*sum } else { *sum } + carry;
            *sum = value.rem_euclid(1 << 32);
            carry = value.div_euclid(1 << 32);
        }
        Self { negative, digits: sums.into_iter().map(|d| d as u32).collect() }.trim()
    }

    fn minus(&self, other: &Self) -> Self {
        self.plus(&Self { negative: !other.negative, ..other.clone() })
    }

    fn times(&self, other: &Self) -> Self {
        let mut total = Self::new(0);
        for (i, digit) in self.digits.iter().enumerate() {
            let mut row = vec![0; i];
            let mut carry = 0;
            for b in &other.digits {
                let value = u64::from(*digit) * u64::from(*b) + carry;
                row.push(value as u32);
                carry = value >> 32;
            }
            row.push(carry as u32);
            total = total.plus(&Self { negative: false, digits: row }.trim());
        }
        total.negative = self.negative != other.negative;
        total.trim()
    }

    fn compare(&self, other: &Self) -> Ordering {
        let difference = self.minus(other);
        match (difference.negative, difference.digits.is_empty()) {
            (_, true) => Ordering::Equal,
            (true, _) => Ordering::Less,
            _ => Ordering::Greater,
        }
    }
}

/// The double above a magnitude in units of 2^-1074, where infinity counts as 2^1024.
fn next(magnitude: f64) -> Big {
    if magnitude.to_bits() + 1 == f64::INFINITY.to_bits() {
        return Big::new(1).shift(1024 + 1074);
    }
    Big::of(f64::from_bits(magnitude.to_bits() + 1))
}

/// Whether `value` is what `numerator / (denominator * 2^1074)` rounds to; its square root's
/// square is compared if `root` (then the unit is 2^-2148).
fn is_nearest(value: f64, numerator: &Big, denominator: &Big, root: bool) -> bool {
    let magnitude = value.abs();
    if value != 0.0 && (value < 0.0) != numerator.negative {
        return false;
    }
    let square = |big: Big| if root { big.times(&big) } else { big };
    // Twice a midpoint, times the denominator, against twice (four times, squared) the numerator.
    let exact = Big { negative: false, ..numerator.clone() }.times(&Big::new(if root { 4 } else { 2 }));
    let side = |below: &Big, above: &Big| exact.compare(&square(below.plus(above)).times(denominator));
    let even = magnitude.to_bits() & 1 == 0;
    let is_low_enough = magnitude.is_infinite() || {
        let order = side(&Big::of(magnitude), &next(magnitude));
        order.is_lt() || order.is_eq() && even
    };
    let is_high_enough = magnitude == 0.0 || {
        let below = f64::from_bits(magnitude.to_bits() - 1);
        let order = side(&Big::of(below), &next(below));
        order.is_gt() || order.is_eq() && even
    };
    is_low_enough && is_high_enough
}

fn total(values: &[f64]) -> Big {
    values.iter().fold(Big::new(0), |sum, value| sum.plus(&Big::of(*value)))
}

/// n·Σx² − (Σx)², in units of 2^-2148.
fn spread(values: &[Big]) -> Big {
    let sum = values.iter().fold(Big::new(0), |sum, value| sum.plus(value));
    let squares = values.iter().fold(Big::new(0), |sum, value| sum.plus(&value.times(value)));
    squares.times(&Big::new(values.len() as i128)).minus(&sum.times(&sum))
}

fn bytes(sum: &ExactSum) -> Vec<u8> {
    let mut out = Vec::new();
    sum.encode(&mut out);
    out
}

fn moment_bytes(moments: &ExactMoments) -> Vec<u8> {
    let mut out = Vec::new();
    moments.encode(&mut out);
    out
}

fn sum(values: &[f64]) -> ExactSum {
    let mut sum = ExactSum::default();
    values.iter().for_each(|value| sum.add(*value));
    sum
}

fn moments(values: &[f64]) -> ExactMoments {
    let mut moments = ExactMoments::default();
    values.iter().for_each(|value| moments.add(*value));
    moments
}

/// Any bit pattern that is finite, and often values of like size, halves, and the extremes.
fn finite() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite()),
        (-1000_i32..1000, 0_i32..20).prop_map(|(value, halvings)| f64::from(value) / f64::from(1 << halvings)),
        (-1e9..1e9),
        prop::sample::select(vec![
            0.0,
            -0.0,
            f64::MAX,
            -f64::MAX,
            f64::MIN_POSITIVE,
            -5e-324,
            5e-324,
            1e16,
            -1e16,
            0.1,
            1.0,
        ]),
    ]
}

proptest! {
    #[test]
    fn a_sum_and_its_mean_are_the_nearest_doubles(values in prop::collection::vec(finite(), 0..60)) {
        let (sum, exact) = (sum(&values), total(&values));
        prop_assert!(is_nearest(sum.value(), &exact, &Big::new(1), false), "{}", sum.value());
        prop_assert!(sum.value() != 0.0 || sum.value().is_sign_positive());
        match sum.mean() {
            Some(mean) => prop_assert!(is_nearest(mean, &exact, &Big::new(values.len() as i128), false), "{mean}"),
            None => prop_assert!(values.is_empty()),
        }
    }

    #[test]
    fn order_splits_and_merges_leave_no_trace(
        values in prop::collection::vec(any::<u64>().prop_map(f64::from_bits), 1..60),
        shuffled in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        tree in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 6),
    ) {
        let expected = (bytes(&sum(&values)), moment_bytes(&moments(&values)));
        let mut other = values.clone();
        other.rotate_left(shuffled.index(values.len()));
        other.reverse();
        let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut.index(values.len())).collect();
        bounds.extend([0, values.len()]);
        bounds.sort_unstable();
        let mut parts: Vec<_> = bounds.windows(2).map(|w| (sum(&other[w[0]..w[1]]), moments(&other[w[0]..w[1]]))).collect();
        for (a, b) in tree {
            if parts.len() > 1 {
                let (taken, more) = parts.swap_remove(a.index(parts.len()));
                let at = b.index(parts.len());
                // Half of the way over the wire.
                parts[at].0.merge(&ExactSum::decode(&bytes(&taken)).unwrap());
                parts[at].1.merge(&more);
            }
        }
        let (mut merged, mut more) = parts.pop().unwrap();
        for (part, other) in &parts {
            merged.merge(part);
            more.merge(&ExactMoments::decode(&moment_bytes(other)).unwrap());
        }
        prop_assert_eq!((bytes(&merged), moment_bytes(&more)), expected);
        prop_assert_eq!(merged.value().to_bits(), sum(&values).value().to_bits());
    }

    #[test]
    fn variance_and_deviation_are_the_nearest_doubles(values in prop::collection::vec(finite(), 0..12)) {
        let moments = moments(&values);
        let n = values.len() as i128;
        let spread = spread(&values.iter().map(|value| Big::of(*value)).collect::<Vec<_>>());
        for (divisor, less) in [(Divisor::Sample, n - 1), (Divisor::Population, n)] {
            let Some(variance) = moments.variance(divisor, 0) else {
                prop_assert!(less < 1);
                continue;
            };
            // The unit of `spread` is 2^-2148, that of `is_nearest` 2^-1074.
            let denominator = Big::new(n).times(&Big::new(less));
            prop_assert!(is_nearest(variance, &spread, &denominator.clone().shift(1074), false), "{variance}");
            let deviation = moments.deviation(divisor, 0).unwrap();
            prop_assert!(is_nearest(deviation, &spread, &denominator, true), "{deviation}");
        }
    }

    #[test]
    fn moments_of_decimals_are_exact(values in prop::collection::vec(any::<i128>(), 2..8), shift in 0..120, scale in 0_u32..39) {
        let mut moments = ExactMoments::default();
        let values: Vec<i128> = values.into_iter().map(|value| value >> shift).collect();
        values.iter().for_each(|value| moments.add_integer(*value));
        let n = values.len() as i128;
        let spread = spread(&values.iter().map(|value| Big::new(*value)).collect::<Vec<_>>());
        let power = (0..2 * scale).fold(Big::new(1), |power, _| power.times(&Big::new(10)));
        let denominator = power.times(&Big::new(n * n));
        let variance = moments.variance(Divisor::Population, scale).unwrap();
        prop_assert!(is_nearest(variance, &spread.clone().shift(1074), &denominator, false), "{variance}");
        let deviation = moments.deviation(Divisor::Population, scale).unwrap();
        prop_assert!(is_nearest(deviation, &spread.shift(2148), &denominator, true), "{deviation}");
        let whole = ExactMoments::decode(&moment_bytes(&moments)).unwrap();
        prop_assert_eq!(whole.variance(Divisor::Population, scale), Some(variance));
    }

    #[test]
    fn a_mean_of_integers_is_the_nearest_double(sum: i128, shift in 0..127, count in 1..u64::MAX) {
        let sum = sum >> shift;
        let mean = mean_of_integers(sum, count).unwrap();
        prop_assert!(is_nearest(mean, &Big::new(sum).shift(1074), &Big::new(i128::from(count)), false), "{mean}");
    }

    #[test]
    fn between_two_doubles_lies_the_nearest(low in finite(), high in finite(), weight in 0.0..1.0) {
        let value = interpolate(low, high, weight);
        let exact = Big::of(low).shift(1074).plus(&Big::of(high).minus(&Big::of(low)).times(&Big::of(weight)));
        prop_assert!(is_nearest(value, &exact, &Big::new(1).shift(1074), false), "{value}");
    }

    #[test]
    fn foreign_bytes_are_refused_or_mean_themselves(mut state in prop::collection::vec(any::<u8>(), 0..24), flags in 0_u8..9) {
        if let Some(first) = state.first_mut() {
            *first = flags;
        }
        if let Ok(sum) = ExactSum::decode(&state) {
            prop_assert_eq!(bytes(&sum), state.clone());
        }
        if let Ok(moments) = ExactMoments::decode(&state) {
            prop_assert_eq!(moment_bytes(&moments), state);
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_mean_themselves(values in prop::collection::vec(finite(), 1..5), at: prop::sample::Index, byte: u8) {
        let mut state = bytes(&sum(&values));
        let at = at.index(state.len());
        state[at] = byte;
        if let Ok(sum) = ExactSum::decode(&state) {
            prop_assert_eq!(bytes(&sum), state.clone());
        }
        prop_assert!(ExactSum::decode(&state[..at]).is_err());
    }
}

#[rstest]
#[case(&[], 0.0)]
#[case(&[-0.0, -0.0], 0.0)]
#[case(&[1e308, 1e308, -1e308], 1e308)]
#[case(&[f64::MAX, f64::MAX], f64::INFINITY)]
#[case(&[f64::MAX, f64::MAX, -f64::MAX, -f64::MAX, 5e-324], 5e-324)]
#[case(&[1e16, 1.0, -1e16], 1.0)]
#[case(&[f64::INFINITY, -f64::MAX], f64::INFINITY)]
#[case(&[f64::NEG_INFINITY, 1.0], f64::NEG_INFINITY)]
#[case(&[f64::INFINITY, f64::NEG_INFINITY], f64::NAN)]
#[case(&[-f64::NAN, f64::INFINITY], f64::NAN)]
fn sums_of_the_extremes(#[case] values: &[f64], #[case] expected: f64) {
    let state = sum(values);
    assert_eq!(state.value().to_bits(), expected.to_bits());
    let read = ExactSum::decode(&bytes(&state)).unwrap();
    assert_eq!((read.value().to_bits(), read.count()), (expected.to_bits(), values.len() as u64));
}

#[test]
fn variance_of_the_extremes() {
    let population = |values: &[f64]| moments(values).variance(Divisor::Population, 0);
    assert_eq!(population(&[]), None);
    assert_eq!(moments(&[1.0]).variance(Divisor::Sample, 0), None);
    assert_eq!(population(&[0.1, 0.1, 0.1]), Some(0.0));
    assert_eq!(population(&[1e9, 1e9 + 1.0]), Some(0.25));
    // Two-product in doubles would overflow here, and underflow below.
    assert_eq!(population(&[f64::MAX, -f64::MAX]), Some(f64::INFINITY));
    assert_eq!(moments(&[f64::MAX, -f64::MAX]).deviation(Divisor::Population, 0), Some(f64::MAX));
    assert_eq!(moments(&[5e-324, -5e-324]).deviation(Divisor::Population, 0), Some(5e-324));
    assert!(population(&[f64::INFINITY, 1.0]).unwrap().is_nan());
}

#[test]
fn a_million_additions_of_one_sign_carry_as_they_should() {
    let mut state = ExactSum::default();
    let mut squares = ExactMoments::default();
    for _ in 0..1_000_000 {
        state.add(f64::MAX);
        squares.add(-f64::MAX);
    }
    assert_eq!(state.mean(), Some(f64::MAX));
    assert_eq!(squares.variance(Divisor::Population, 0), Some(0.0));
    // 2^20 doublings stay exact, far beyond what a double holds.
    for _ in 0..20 {
        let copy = state.clone();
        state.merge(&copy);
    }
    assert_eq!(state.mean(), Some(f64::MAX));
}

#[test]
fn values_of_one_size_stay_small() {
    let mut state = sum(&[60.0, 0.25, 1e6, 0.1, -79.3]);
    assert_eq!(state.heap_bytes(), 0);
    assert!(bytes(&sum(&[60.0, 70.0])).len() <= 8);
    state.add(1e-300);
    assert!(state.heap_bytes() > 0);
    assert!(size_of::<ExactSum>() <= 72 && size_of::<ExactMoments>() <= 160);
}

#[test]
fn the_least_bit_breaks_a_tie() {
    let half = 2_f64.powi(-53);
    assert_eq!(sum(&[1.0, half]).value(), 1.0);
    for power in 54..=1074 {
        let least = f64::from_bits(1) * 2_f64.powi(1074 - power);
        assert_eq!(sum(&[1.0, half, least]).value(), 1.0 + 2.0 * half, "{power}");
        assert_eq!(sum(&[1.0, half, -least]).value(), 1.0, "{power}");
        assert_eq!(sum(&[-1.0, -half, -least]).mean(), sum(&[1.0, half, least]).mean().map(|mean| -mean), "{power}");
    }
}

#[test]
fn carries_are_passed_on_in_time_wherever_a_limb_is_cut() {
    for power in 0..32 {
        let value = (2.0 - f64::EPSILON) * 2_f64.powi(power);
        let mut state = ExactSum::default();
        (0..5000).for_each(|_| state.add(value));
        assert_eq!(state.mean(), Some(value));
    }
}

#[test]
fn any_number_of_values_is_divided_right() {
    let mut state = moments(&[1.0, 2.0, 4.0]);
    for doublings in 0..61 {
        assert_eq!(state.count(), 3 << doublings);
        assert_eq!(state.variance(Divisor::Population, 0), Some(14.0 / 9.0));
        let deviation = state.deviation(Divisor::Population, 0).unwrap();
        assert!(is_nearest(deviation, &Big::new(14).shift(2148), &Big::new(9), true), "{deviation}");
        let copy = state.clone();
        state.merge(&copy);
    }
}

#[test]
fn a_mean_that_vanishes_has_no_sign() {
    let mean = sum(&[-5e-324, 0.0, 0.0, 0.0]).mean().unwrap();
    assert_eq!(mean.to_bits(), 0);
}

#[rstest]
#[case(&[8, 1, 0], "flags")]
#[case(&[0, 0, 2, 20, 1], "count")]
#[case(&[1, 0, 0], "count")]
#[case(&[0, 1, 1], "no sign")]
#[case(&[0, 1, 4, 20, 0, 1], "shortest")]
#[case(&[0, 1, 4, 20, 1, 0], "shortest")]
#[case(&[0, 0x81, 0, 0], "shortest")]
#[case(&[0, 1, 2, 0xff, 0x7f, 1], "out of range")]
#[case(&[0, 1, 2, 20], "cut short")]
#[case(&[0, 1, 2, 20, 1, 7], "follows")]
fn bytes_that_no_sum_writes_are_refused(#[case] state: &[u8], #[case] message: &str) {
    let error = ExactSum::decode(state).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
    assert_eq!(bytes(&ExactSum::decode(&[0, 1, 2, 20, 1]).unwrap()), [0, 1, 2, 20, 1]);
}

#[rstest]
#[case(&[2, 1, 0, 0], "flags")]
#[case(&[0, 0, 2, 20, 1, 0], "count")]
#[case(&[0, 0, 0, 2, 20, 1], "count")]
#[case(&[1, 0, 0, 0], "count")]
#[case(&[0, 1, 0], "cut short")]
fn bytes_that_no_moments_write_are_refused(#[case] state: &[u8], #[case] message: &str) {
    let error = ExactMoments::decode(state).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

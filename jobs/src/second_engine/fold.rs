//! Sums, means, spreads and ranks of the values of one window and key, by textbook ways.
//!
//! Doubles are summed by Shewchuk's expansions, whole numbers in 128 bits with a carry; nothing here is shared
//! with the accumulators that it is held against. Means and sums come out as the nearest double; a spread is
//! computed in two passes, with an error of a few units in the last place.

/// A power of two that takes doubles out of reach of an overflow.
const DOWN: f64 = 1.0 / 18_446_744_073_709_551_616.0;

/// What squared deviations are divided by: the count, less this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Divisor {
    /// The count.
    Population,
    /// The count less one.
    Sample,
}

/// A variance as `squared` · `unit`², so that it is no less exact where it is beyond all doubles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    squared: f64,
    unit: f64,
}

/// Non-overlapping doubles whose exact sum is that of all that were added.
#[derive(Debug, Clone, Default)]
struct Expansion(Vec<f64>);

/// The double nearest to the sum; infinite where that is beyond all doubles.
pub(super) fn sum_of_doubles(values: &[f64]) -> f64 {
    special(values).unwrap_or_else(|| {
        expanded(values).map_or_else(|| down(values).map_or(0.0, |e| e.rounded() / DOWN), |e| e.rounded())
    })
}

/// The double nearest to the mean; `None` of nothing.
pub(super) fn mean_of_doubles(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let count = values.len() as f64;
    Some(special(values).unwrap_or_else(|| match expanded(values) {
        Some(sum) => sum.over(count),
        None => down(values).map_or(0.0, |sum| sum.over(count) / DOWN),
    }))
}

/// The spread of doubles; `None` where there are too few.
pub(super) fn spread_of_doubles(values: &[f64], divisor: Divisor) -> Option<Spread> {
    let divided = divided_by(values.len(), divisor)?;
    if special(values).is_some() {
        return Some(Spread { squared: f64::NAN, unit: 1.0 });
    }
    let mean = mean_of_doubles(values)?;
    if values.iter().all(|value| *value == values[0]) {
        return Some(Spread { squared: 0.0, unit: 1.0 });
    }
    // halves, for the greatest difference of two doubles is beyond all doubles
    let halves: Vec<f64> = values.iter().map(|value| value / 2.0 - mean / 2.0).collect();
    let Spread { squared, unit } = of_deviations(&halves, divided);
    Some(Spread { squared: squared * 4.0, unit })
}

/// The spread of whole numbers of `scale` digits behind the point.
pub(super) fn spread_of_wholes(values: &[i128], scale: u8, divisor: Divisor) -> Option<Spread> {
    let divided = divided_by(values.len(), divisor)?;
    let (mean, _) = divided_sum(values)?;
    let deviations: Vec<f64> = values.iter().map(|value| (value - mean) as f64).collect();
    let Spread { squared, unit } = of_deviations(&deviations, divided);
    Some(Spread { squared: squared / 10_f64.powi(2 * i32::from(scale)), unit })
}

impl Spread {
    /// The variance.
    pub(super) const fn variance(self) -> f64 {
        self.squared * self.unit * self.unit
    }

    /// The standard deviation.
    pub(super) fn deviation(self) -> f64 {
        self.squared.sqrt() * self.unit
    }
}

/// The sum of whole numbers, where it fits.
pub(super) fn sum_of_wholes(values: &[i128]) -> Option<i128> {
    let (high, low) = carried(values);
    high.checked_mul(1 << 64)?.checked_add(low)
}

/// The double nearest to the mean of whole numbers; `None` of nothing.
pub(super) fn mean_of_wholes(values: &[i128]) -> Option<f64> {
    let (quotient, rest) = divided_sum(values)?;
    let count = values.len() as f64;
    let high = quotient as f64;
    let low = (quotient - high as i128) as f64;
    // the rest is below the count, and both are exact as doubles
    let (rest, mut exact) = (rest as f64, Expansion::default());
    let fraction = rest / count;
    let below = (-fraction).mul_add(count, rest) / count;
    for part in [high, low, fraction, below] {
        exact.add(part)?;
    }
    Some(exact.rounded())
}

/// The mean of decimals with this many more digits behind the point, halves to even; `None` of nothing.
pub(super) fn mean_of_decimals(values: &[i128], more_digits: u32) -> Option<i128> {
    let (quotient, rest) = divided_sum(values)?;
    let (count, power) = (values.len() as i128, 10_i128.pow(more_digits));
    let mean = quotient.checked_mul(power)?.checked_add(rest * power / count)?;
    Some(half_even(mean, rest * power % count, count))
}

/// The median of ordered decimals with `more_digits` (0 or 1) more behind the point, halves to even.
pub(super) fn median_of_decimals(ordered: &[i128], more_digits: u32) -> Option<i128> {
    let (low, high) = middle(ordered)?;
    let (twice, power) = (low.checked_add(high)?, 10_i128.pow(more_digits));
    let twice = twice.checked_mul(power)?;
    Some(half_even(twice.div_euclid(2), twice.rem_euclid(2), 2))
}

/// The double nearest to the median of ordered whole numbers.
pub(super) fn median_of_wholes(ordered: &[i128]) -> Option<f64> {
    let (low, high) = middle(ordered)?;
    mean_of_wholes(&[low, high])
}

/// The value at the rank `percentile` · (count − 1) of ordered doubles, NaN last; between two, the double
/// nearest to the point between them.
pub(super) fn percentile(ordered: &[f64], percentile: f64) -> Option<f64> {
    let rank = percentile * (ordered.len().checked_sub(1)? as f64);
    let (before, weight) = (rank.floor() as usize, rank - rank.floor());
    let low = *ordered.get(before)?;
    let high = *ordered.get(before + 1).unwrap_or(&low);
    if weight == 0.0 || low == high {
        return Some(low);
    }
    if !low.is_finite() || !high.is_finite() {
        return Some(low + high);
    }
    // low + (high - low) * weight, in pieces that are exact
    let mut exact = Expansion::default();
    for (factor, weight) in [(low, 1.0), (high, weight), (-low, weight)] {
        let product = factor * weight;
        exact.add(product)?;
        exact.add(factor.mul_add(weight, -product))?;
    }
    Some(exact.rounded())
}

/// Σd² less what a mean that is not exact has put in, divided; in a unit in which no square is beyond all doubles.
fn of_deviations(deviations: &[f64], divided: f64) -> Spread {
    let greatest = deviations.iter().fold(0.0_f64, |greatest, d| greatest.max(d.abs()));
    if greatest == 0.0 {
        return Spread { squared: 0.0, unit: 1.0 };
    }
    let unit = 2_f64.powi((greatest.log2().floor() as i32).clamp(-1_000, 1_000));
    let deviations: Vec<f64> = deviations.iter().map(|d| d / unit).collect();
    let squares: Vec<f64> = deviations.iter().map(|d| d * d).collect();
    let off = sum_of_doubles(&deviations);
    let squared = (sum_of_doubles(&squares) - off * off / deviations.len() as f64).max(0.0);
    Spread { squared: squared / divided, unit }
}

fn divided_by(count: usize, divisor: Divisor) -> Option<f64> {
    match divisor {
        Divisor::Population => (count > 0).then_some(count as f64),
        Divisor::Sample => (count > 1).then(|| (count - 1) as f64),
    }
}

fn middle<T: Copy>(ordered: &[T]) -> Option<(T, T)> {
    let last = ordered.len().checked_sub(1)?;
    Some((ordered[last / 2], ordered[ordered.len() / 2]))
}

/// `floor` and what is left over of a positive divisor, to the nearest, halves to even.
const fn half_even(floor: i128, rest: i128, divisor: i128) -> i128 {
    let up = 2 * rest > divisor || (2 * rest == divisor && floor.rem_euclid(2) == 1);
    if up { floor + 1 } else { floor }
}

/// The sum as high · 2⁶⁴ + low.
fn carried(values: &[i128]) -> (i128, i128) {
    let mask = (1_i128 << 64) - 1;
    let (high, low) = values.iter().fold((0, 0), |(high, low), v| (high + (v >> 64), low + (v & mask)));
    (high + (low >> 64), low & mask)
}

/// The sum divided by the count, rounded down, and the rest, which is not below 0; `None` of nothing.
fn divided_sum(values: &[i128]) -> Option<(i128, i128)> {
    let (high, low) = carried(values);
    let count = i128::try_from(values.len()).ok().filter(|count| *count > 0)?;
    let rest = (high.rem_euclid(count) << 64) + low;
    let quotient = high.div_euclid(count).checked_mul(1 << 64)?.checked_add(rest / count)?;
    Some((quotient, rest % count))
}

/// The sum where it is made of infinities and NaN.
fn special(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().filter(|value| !value.is_finite()).sum();
    values.iter().any(|value| !value.is_finite()).then_some(sum)
}

fn down(values: &[f64]) -> Option<Expansion> {
    expanded(&values.iter().map(|value| value * DOWN).collect::<Vec<_>>())
}

/// The exact sum, unless it passes beyond all doubles. Signs take turns, so that it does so only at the end.
fn expanded(values: &[f64]) -> Option<Expansion> {
    let (mut above, mut below): (Vec<f64>, Vec<f64>) = values.iter().partition(|value| **value > 0.0);
    let mut exact = Expansion::default();
    loop {
        let is_above = exact.0.last().is_some_and(|greatest| *greatest > 0.0);
        let next = if is_above { below.pop().or_else(|| above.pop()) } else { above.pop().or_else(|| below.pop()) };
        let Some(next) = next else { return Some(exact) };
        exact.add(next)?;
    }
}

impl Expansion {
    /// Adds exactly; `None` if that is beyond all doubles.
    fn add(&mut self, value: f64) -> Option<()> {
        let (mut value, mut kept) = (value, Vec::with_capacity(self.0.len() + 1));
        for part in &self.0 {
            let (large, small) = if value.abs() < part.abs() { (*part, value) } else { (value, *part) };
            let high = large + small;
            let low = small - (high - large);
            if !high.is_finite() {
                return None;
            }
            if low != 0.0 {
                kept.push(low);
            }
            value = high;
        }
        kept.push(value);
        self.0 = kept;
        Some(())
    }

    /// The nearest double, halves to even.
    fn rounded(&self) -> f64 {
        let mut parts = self.0.iter().rev().copied();
        let (mut high, mut low) = (parts.next().unwrap_or(0.0), 0.0);
        for part in parts.by_ref() {
            let before = high;
            high = before + part;
            low = part - (high - before);
            if low != 0.0 {
                break;
            }
        }
        // what lies below decides where the rest is just half a unit
        if parts.next().is_some_and(|next| (low < 0.0 && next < 0.0) || (low > 0.0 && next > 0.0)) {
            let (twice, moved) = (low * 2.0, high + low * 2.0);
            if moved - high == twice {
                high = moved;
            }
        }
        high + 0.0
    }

    /// The double nearest to the sum divided by `count`.
    fn over(&self, count: f64) -> f64 {
        let quotient = self.rounded() / count;
        let (product, mut rest) = (quotient * count, self.clone());
        let exact = [-product, -quotient.mul_add(count, -product)].into_iter().all(|part| rest.add(part).is_some());
        if !exact {
            return quotient;
        }
        let mut nearest = Self(vec![quotient]);
        match nearest.add(rest.rounded() / count) {
            Some(()) => nearest.rounded(),
            None => quotient,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deltaworks_core::exact_sum::{Divisor as Exact, ExactMoments, ExactSum, interpolate};
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case::nothing(&[], 0.0, None)]
    #[case::beyond_and_back(&[1e308, 1e308, -1e308, -1e308, 1.0], 1.0, Some(0.2))]
    #[case::far_apart(&[1e308, 1e-300, -1e308], 1e-300, Some(3.333_333_333_333_333_4e-301))]
    #[case::tenths(&[0.1; 10], 1.0, Some(0.1))]
    #[case::tie(&[1.0, 1.110_223_024_625_156_5e-16], 1.0, Some(0.5))]
    #[case::over_a_tie(&[1.0, 1.110_223_024_625_156_5e-16, 1e-300], 1.000_000_000_000_000_2, Some(0.333_333_333_333_333_37))]
    #[case::too_great(&[f64::MAX, f64::MAX], f64::INFINITY, Some(f64::MAX))]
    #[case::least(&[5e-324, 5e-324, 5e-324, -1e-323], 5e-324, Some(0.0))]
    #[case::infinite(&[1.0, f64::INFINITY], f64::INFINITY, Some(f64::INFINITY))]
    fn sums_and_means_are_the_nearest_doubles(#[case] values: &[f64], #[case] sum: f64, #[case] mean: Option<f64>) {
        assert_eq!((sum_of_doubles(values), mean_of_doubles(values)), (sum, mean));
        let turned: Vec<f64> = values.iter().rev().copied().collect();
        assert_eq!((sum_of_doubles(&turned), mean_of_doubles(&turned)), (sum, mean));
    }

    #[test]
    fn spreads_of_few_and_of_equal_values() {
        let doubles = |values: &[f64], divisor| spread_of_doubles(values, divisor).map(Spread::variance);
        assert_eq!(doubles(&[3.0], Divisor::Sample), None);
        assert_eq!(doubles(&[3.0], Divisor::Population), Some(0.0));
        assert_eq!(doubles(&[0.1; 7], Divisor::Sample), Some(0.0));
        assert_eq!(doubles(&[1.0, 3.0], Divisor::Sample), Some(2.0));
        assert!(doubles(&[1.0, f64::NAN], Divisor::Sample).is_some_and(f64::is_nan));
        let wholes = spread_of_wholes(&[10, 30], 1, Divisor::Population).unwrap();
        assert_eq!((wholes.variance(), wholes.deviation()), (1.0, 1.0));
        let far = spread_of_doubles(&[1e300, -1e300], Divisor::Population).unwrap();
        assert_eq!((far.variance(), far.deviation()), (f64::INFINITY, 1e300));
    }

    #[test]
    fn wholes_are_divided_exactly_and_halves_go_to_even() {
        let most = 10_i128.pow(38) - 1;
        assert_eq!(sum_of_wholes(&[most, most, -most, -1]), Some(most - 1));
        assert_eq!(sum_of_wholes(&[most, most]), None);
        assert_eq!(mean_of_decimals(&[most, most, most - 3], 0), Some(most - 1));
        assert_eq!((mean_of_decimals(&[1, 0, 0], 4), mean_of_decimals(&[-1, 0, 0], 4)), (Some(3_333), Some(-3_333)));
        let halves = |n: i128| mean_of_decimals(&[n, 0], 0);
        assert_eq!([halves(1), halves(3), halves(-1), halves(-3)], [Some(0), Some(2), Some(0), Some(-2)]);
        assert_eq!((median_of_decimals(&[1, 2, 4], 1), median_of_decimals(&[1, 2, 4, 9], 1)), (Some(20), Some(30)));
        assert_eq!(mean_of_wholes(&[i64::MAX.into(), i64::MAX.into(), -1]), Some(6.148_914_691_236_517e18));
        assert_eq!((mean_of_wholes(&[]), median_of_wholes(&[7, 8])), (None, Some(7.5)));
    }

    proptest! {
        #[test]
        fn both_ways_to_sum_give_the_same_double(
            values in prop::collection::vec(prop_oneof![any::<f64>(), -1.0..1.0, -1e6..1e6], 0..40),
        ) {
            let mut exact = ExactSum::default();
            values.iter().for_each(|value| exact.add(*value));
            let finite = values.iter().all(|value| value.is_finite());
            let (ours, theirs) = (sum_of_doubles(&values), exact.value());
            prop_assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{ours:e} {theirs:e}");
            let (ours, theirs) = (mean_of_doubles(&values), exact.mean());
            prop_assert!(ours == theirs || !finite, "{ours:?} {theirs:?}");
        }

        #[test]
        fn both_ways_to_a_variance_are_near(
            values in prop::collection::vec(prop_oneof![-1.0..1.0, -1e6..1e6, 1e9..1.000_000_1e9], 2..40),
        ) {
            let mut exact = ExactMoments::default();
            values.iter().for_each(|value| exact.add(*value));
            let (ours, theirs) = (spread_of_doubles(&values, Divisor::Sample).unwrap().variance(), exact.variance(Exact::Sample, 0).unwrap());
            prop_assert!((ours - theirs).abs() <= 1e-14 * theirs, "{ours:e} {theirs:e}");
        }

        #[test]
        fn both_ways_between_two_ranks_give_the_same_double(
            low in any::<f64>(), high in any::<f64>(), at in 0.0..=1.0,
        ) {
            // the low half of a product of such numbers has no room below all doubles
            prop_assume!(low < high && low.abs().min(high.abs()) > 1e-270);
            let (ours, theirs) = (percentile(&[low, high], at).unwrap(), interpolate(low, high, at));
            prop_assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{ours:e} {theirs:e}");
        }
    }
}

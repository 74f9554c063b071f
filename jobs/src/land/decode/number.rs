//! Numbers from their JSON text, exactly or not at all.
//!
//! The text has passed the JSON grammar, so only value and range are judged here. Nothing is
//! rounded except to the nearest `double` or `float`, which is what these types mean.
//!
//! Choices: an integer is written in plain digits (`5.0` and `5e0` are `wrong_type`: a producer that
//! sends fractions should have a contract that says so); a decimal may be written in any way that
//! has no more digits than the column (`1.500` fits scale 2, `1.005` does not); a number too small
//! for its float type is `out_of_range` like one too large; `-0.0` stays.

use super::refusal::{Judged, out_of_range, wrong_type};

/// A whole number in plain digits.
pub(super) fn integer(text: &str) -> Judged<i64> {
    let bytes = text.as_bytes();
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    if digits.len() <= 18 {
        let mut value = 0i64;
        for &byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return Err(with_fraction());
            }
            value = value * 10 + i64::from(digit);
        }
        return Ok(if digits.len() == bytes.len() { value } else { -value });
    }
    if digits.iter().any(|b| !b.is_ascii_digit()) {
        return Err(with_fraction());
    }
    text.parse().map_err(|_| out_of_range("the integer does not fit 64 bits"))
}

#[cold]
fn with_fraction() -> Box<deltaworks_core::reason::Refusal> {
    wrong_type("expected an integer in plain digits, found a number with a fraction or an exponent")
}

/// The nearest 64-bit float.
pub(super) fn double(text: &str) -> Judged<f64> {
    let value: f64 = text.parse().map_err(|_| wrong_type("expected a number"))?;
    if !value.is_finite() {
        return Err(out_of_range("the number is too large for a 64-bit float"));
    }
    if value == 0.0 && has_digit(text) {
        return Err(out_of_range("the number is too small for a 64-bit float"));
    }
    Ok(value)
}

/// The nearest 32-bit float.
pub(super) fn float(text: &str) -> Judged<f32> {
    let value: f32 = text.parse().map_err(|_| wrong_type("expected a number"))?;
    if !value.is_finite() {
        return Err(out_of_range("the number is too large for a 32-bit float"));
    }
    if value == 0.0 && has_digit(text) {
        return Err(out_of_range("the number is too small for a 32-bit float"));
    }
    Ok(value)
}

/// Whether the digits before the exponent have any but zeros.
fn has_digit(text: &str) -> bool {
    text.bytes().take_while(|b| !matches!(b, b'e' | b'E')).any(|b| matches!(b, b'1'..=b'9'))
}

/// A decimal as its unscaled value at `scale`.
pub(super) fn decimal(text: &str, precision: u8, scale: i8) -> Judged<i128> {
    let bytes = text.as_bytes();
    let (negative, bytes) = match bytes.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, bytes),
    };
    let magnitude = match plain(bytes, precision, scale) {
        Some(value) => i128::from(value),
        None => general(bytes, precision, scale)?,
    };
    Ok(if negative { -magnitude } else { magnitude })
}

/// The usual shape: at most 18 digits, no exponent, no more digits after the point than `scale`.
fn plain(bytes: &[u8], precision: u8, scale: i8) -> Option<i64> {
    let scale = usize::try_from(scale).ok()?;
    if bytes.len() > 18 || scale > 18 {
        return None;
    }
    let (mut value, mut after, mut point) = (0i64, 0usize, false);
    for &byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            value = value * 10 + i64::from(digit);
            after += usize::from(point);
        } else if byte == b'.' {
            point = true;
        } else {
            return None;
        }
    }
    let missing = u32::try_from(scale.checked_sub(after)?).ok()?;
    let value = value.checked_mul(10i64.checked_pow(missing)?)?;
    (i128::from(value) < 10i128.pow(u32::from(precision.min(38)))).then_some(value)
}

/// Every shape: the significant digits and the power of ten of the last one.
fn general(bytes: &[u8], precision: u8, scale: i8) -> Judged<i128> {
    let (mut digits, mut count, mut power, mut zeros, mut point) = (0u128, 0i64, 0i64, 0i64, false);
    let mut rest = bytes.iter();
    let mut exponent = 0i64;
    while let Some(&byte) = rest.next() {
        match byte {
            b'.' => point = true,
            b'e' | b'E' => {
                exponent = saturating_exponent(rest.as_slice());
                break;
            }
            _ => {
                power -= i64::from(point);
                if byte == b'0' {
                    zeros += i64::from(count > 0);
                    continue;
                }
                // zeros count only once another digit follows them
                count += zeros + 1;
                if count <= 38 {
                    let shift = 10u128.pow(u32::try_from(zeros + 1).unwrap_or(38));
                    digits = digits * shift + u128::from(byte - b'0');
                }
                zeros = 0;
            }
        }
    }
    if count == 0 {
        return Ok(0);
    }
    let shift = power.saturating_add(zeros).saturating_add(exponent).saturating_add(i64::from(scale));
    if count.saturating_add(shift) > i64::from(precision) {
        let whole = i64::from(precision) - i64::from(scale);
        return Err(out_of_range(format!("at most {whole} digits before the point are allowed")));
    }
    if shift < 0 {
        return Err(out_of_range(format!("at most {scale} digits after the point are allowed")));
    }
    // count + shift <= precision <= 38, so both fit
    let shift = 10u128.pow(u32::try_from(shift).unwrap_or(0));
    i128::try_from(digits * shift).map_err(|_| out_of_range("the number does not fit the decimal"))
}

fn saturating_exponent(text: &[u8]) -> i64 {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let value = digits.iter().fold(0i64, |v, b| (v * 10 + i64::from(b.wrapping_sub(b'0'))).min(1_000_000_000_000));
    if negative { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deltaworks_core::reason::Reason;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("1.5", Ok(150))]
    #[case("1.500", Ok(150))]
    #[case("-0.01", Ok(-1))]
    #[case("1e2", Ok(10_000))]
    #[case("1E+2", Ok(10_000))]
    #[case("1500e-3", Ok(150))]
    #[case("9999.99", Ok(999_999))]
    #[case("0", Ok(0))]
    #[case("-0.0", Ok(0))]
    #[case("0e999999999999999999999", Ok(0))]
    #[case("0.00000000000000000000000000000000000000000000000000", Ok(0))]
    #[case("1.50000000000000000000000000000000000000000000000000", Ok(150))]
    #[case("1.005", Err("at most 2 digits after the point are allowed"))]
    #[case("0.001", Err("at most 2 digits after the point are allowed"))]
    #[case("10000", Err("at most 4 digits before the point are allowed"))]
    #[case("1e400", Err("at most 4 digits before the point are allowed"))]
    #[case("1e99999999999999999999", Err("at most 4 digits before the point are allowed"))]
    #[case("1e-99999999999999999999", Err("at most 2 digits after the point are allowed"))]
    #[case("123456789012345678901234567890123456789012345", Err("at most 4 digits before the point are allowed"))]
    fn decimals(#[case] text: &str, #[case] expected: Result<i128, &str>) {
        let got = decimal(text, 6, 2);
        match expected {
            Ok(value) => assert_eq!(got.unwrap(), value),
            Err(detail) => {
                let refusal = got.unwrap_err();
                assert_eq!((refusal.reason, refusal.detail.as_str()), (Reason::OutOfRange, detail));
            }
        }
    }

    #[rstest]
    #[case("0", Some(0))]
    #[case("-0", Some(0))]
    #[case("9223372036854775807", Some(i64::MAX))]
    #[case("-9223372036854775808", Some(i64::MIN))]
    #[case("9223372036854775808", None)]
    #[case("5.0", None)]
    #[case("5e0", None)]
    #[case("99999999999999999999.5", None)]
    fn integers(#[case] text: &str, #[case] expected: Option<i64>) {
        assert_eq!(integer(text).ok(), expected);
    }

    #[test]
    fn floats_are_finite_and_keep_their_sign() {
        assert!(double("-0.0").unwrap().is_sign_negative());
        for text in ["1e400", "-1e400", "1e-400"] {
            assert_eq!(double(text).unwrap_err().reason, Reason::OutOfRange, "{text}");
        }
        assert_eq!(float("1e39").unwrap_err().reason, Reason::OutOfRange);
        assert_eq!(float("16777217").unwrap(), 16_777_216.0);
        assert_eq!(double("0e5").unwrap(), 0.0);
    }

    proptest! {
        #[test]
        fn both_ways_to_a_decimal_agree(unscaled in -(10i128.pow(17))..10i128.pow(17), pad in 0usize..4) {
            let sign = if unscaled < 0 { "-" } else { "" };
            let digits = format!("{:05}", unscaled.abs());
            let (whole, part) = digits.split_at(digits.len() - 3);
            let whole = if whole.trim_start_matches('0').is_empty() { "0" } else { whole.trim_start_matches('0') };
            let text = format!("{sign}{whole}.{part}{}", "0".repeat(pad));
            prop_assert_eq!(decimal(&text, 38, 3).unwrap(), unscaled);
            prop_assert_eq!(general(text.trim_start_matches('-').as_bytes(), 38, 3).unwrap(), unscaled.abs());
            let scientific = format!("{unscaled}e-3");
            prop_assert_eq!(decimal(&scientific, 38, 3).unwrap(), unscaled);
        }

        #[test]
        fn thirty_eight_digits_are_exact(unscaled in -(10i128.pow(38) - 1)..10i128.pow(38)) {
            prop_assert_eq!(decimal(&unscaled.to_string(), 38, 0).unwrap(), unscaled);
        }
    }
}

//! Durations and sizes as people type them.

use jiff::{Span, SpanRelativeTo};
use std::time::Duration;

/// `90s`, `5m`, `1h 30m`, `30d`: positive, days of 24 hours, nothing longer than weeks.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let span: Span = text.trim().parse().ok()?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return None;
    }
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok()
}

/// `30d`, `2w`: whole days.
pub(crate) fn days(text: &str) -> Option<u32> {
    let seconds = duration(text)?.as_secs();
    (seconds % 86_400 == 0).then(|| u32::try_from(seconds / 86_400).ok()).flatten()
}

/// `512KiB`, `128MiB`, `1.5GiB`, `10MB`, `4096B`: whole bytes.
pub(crate) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = (text[..unit_at].trim_end(), &text[unit_at..]);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit()) && s.len() <= 9;
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
        return None;
    }
    let scale = 10_u64.pow(fraction.len() as u32);
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let below = u128::from(fraction) * u128::from(factor) / u128::from(scale);
    whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(u64::try_from(below).ok()?)
}

/// A share such as `1%`, from 0 to 1.
pub(crate) fn share(text: &str) -> Option<f64> {
    let percent: f64 = text.trim().strip_suffix('%')?.trim_end().parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

/// What a duration looks like, for messages.
pub(crate) const DURATION_HINT: &str = "write a number with a unit, such as `90s`, `5m`, `1h` or `30d`";
/// What a size looks like, for messages.
pub(crate) const SIZE_HINT: &str = "write a number with a unit, such as `512KiB`, `128MiB` or `1GiB`";

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("90s", Some(90))]
    #[case("1h 30m", Some(5_400))]
    #[case("30d", Some(2_592_000))]
    #[case("2w", Some(1_209_600))]
    #[case("0s", Some(0))]
    #[case("PT5M", Some(300))]
    #[case("-1h", None)]
    #[case("1 month", None)]
    #[case("1y", None)]
    #[case("60", None)]
    #[case("", None)]
    #[case("soon", None)]
    fn durations(#[case] text: &str, #[case] seconds: Option<u64>) {
        assert_eq!(duration(text), seconds.map(Duration::from_secs));
    }

    #[rstest]
    #[case("128MiB", Some(134_217_728))]
    #[case("1.5 GiB", Some(1_610_612_736))]
    #[case("10MB", Some(10_000_000))]
    #[case("4096B", Some(4_096))]
    #[case("4096", None)]
    #[case("-1MiB", None)]
    #[case(".MiB", None)]
    #[case("1.MiB", None)]
    #[case("1e9B", None)]
    #[case("999999999999GiB", None)]
    #[case("5 parsecs", None)]
    fn sizes(#[case] text: &str, #[case] bytes: Option<u64>) {
        assert_eq!(size(text), bytes);
    }

    #[test]
    fn days_are_whole() {
        assert_eq!(days("30d"), Some(30));
        assert_eq!(days("48h"), Some(2));
        assert_eq!(days("36h"), None);
    }

    #[test]
    fn shares_stay_in_range() {
        assert_eq!(share("1%"), Some(0.01));
        assert_eq!(share("0.5 %"), Some(0.005));
        assert_eq!(share("101%"), None);
        assert_eq!(share("5"), None);
    }
}

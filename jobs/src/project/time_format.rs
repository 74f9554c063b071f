//! Date and time formats: from the letters of Java's `DateTimeFormatter`, which ODCS prescribes, to
//! strptime, which the decoder runs.
//!
//! Only letters whose meaning is the same on both sides are translated; any other is refused by
//! name. A translated format is tried on a sample, so what it gives is known to be an instant.

use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;

/// A translated format.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TimeFormat {
    /// strptime format.
    pub(super) strptime: String,
    /// The text itself says its offset or zone.
    pub(super) has_offset: bool,
}

/// Whether a format says what RFC 3339 says: such values need no format. (`X` allows the offset `Z`,
/// which strptime does not know, so it is understood here only.)
pub(super) fn is_rfc3339(format: &str) -> bool {
    let rest = format.strip_prefix("yyyy-MM-dd'T'HH:mm:ss").or_else(|| format.strip_prefix("uuuu-MM-dd'T'HH:mm:ss"));
    let rest = rest.map(|r| r.strip_prefix('.').map_or(r, |f| f.trim_start_matches('S')));
    matches!(rest, Some("XXX" | "XX" | "X"))
}

/// Translates `yyyy-MM-dd HH:mm:ss` and its like.
///
/// # Errors
/// Says which letters are unknown or what the format lacks.
pub(super) fn translate(format: &str) -> Result<TimeFormat, String> {
    let mut strptime = String::new();
    let mut has_offset = false;
    let mut rest = format;
    while let Some(c) = rest.chars().next() {
        if c == '\'' {
            rest = quoted(rest, &mut strptime)?;
        } else if c.is_ascii_alphabetic() {
            let run = &rest[..rest.len() - rest.trim_start_matches(c).len()];
            strptime.push_str(directive(run).ok_or_else(|| format!("`{run}` is not known"))?);
            has_offset |= matches!(c, 'x' | 'Z' | 'V');
            rest = &rest[run.len()..];
        } else {
            push_literal(c, &mut strptime);
            rest = &rest[c.len_utf8()..];
        }
    }
    let format = TimeFormat { strptime, has_offset };
    if gives_an_instant(&format) { Ok(format) } else { Err("it does not give a whole date and time".to_owned()) }
}

fn directive(run: &str) -> Option<&'static str> {
    Some(match run {
        "yyyy" | "uuuu" | "y" | "u" => "%Y",
        "yy" | "uu" => "%y",
        "MM" | "M" => "%m",
        "MMM" => "%b",
        "MMMM" => "%B",
        "dd" | "d" => "%d",
        "DDD" | "D" => "%j",
        "E" | "EE" | "EEE" => "%a",
        "EEEE" => "%A",
        "HH" | "H" => "%H",
        "hh" | "h" => "%I",
        "a" => "%p",
        "mm" | "m" => "%M",
        "ss" | "s" => "%S",
        "S" | "SS" | "SSS" | "SSSS" | "SSSSS" | "SSSSSS" => "%f",
        "xxx" => "%:z",
        "xx" | "Z" => "%z",
        "VV" => "%Q",
        _ => return None,
    })
}

/// Copies a text in single quotes; two of them stand for one.
fn quoted<'f>(format: &'f str, strptime: &mut String) -> Result<&'f str, String> {
    let inside = &format[1..];
    if let Some(rest) = inside.strip_prefix('\'') {
        strptime.push('\'');
        return Ok(rest);
    }
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        if c != '\'' {
            push_literal(c, strptime);
        } else if inside[at + 1..].starts_with('\'') {
            strptime.push('\'');
            chars.next();
        } else {
            return Ok(&inside[at + 1..]);
        }
    }
    Err("a quote is not closed".to_owned())
}

fn push_literal(c: char, strptime: &mut String) {
    if c == '%' {
        strptime.push('%');
    }
    strptime.push(c);
}

fn gives_an_instant(format: &TimeFormat) -> bool {
    let Ok(sample) = jiff::civil::date(2001, 12, 23).at(13, 4, 5, 0).to_zoned(TimeZone::UTC) else {
        return false;
    };
    if format.strptime.contains("%I") != format.strptime.contains("%p") {
        return false;
    }
    let round = BrokenDownTime::from(&sample)
        .to_string(&format.strptime)
        .and_then(|text| BrokenDownTime::parse(&format.strptime, text));
    match round {
        Ok(parts) if parts.hour().is_none() => false,
        Ok(parts) if format.has_offset => parts.to_timestamp().is_ok() || parts.to_zoned().is_ok(),
        Ok(parts) => parts.to_datetime().is_ok(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("yyyy-MM-dd HH:mm:ss", "%Y-%m-%d %H:%M:%S", false)]
    #[case("dd.MM.yyyy HH:mm:ss.SSS", "%d.%m.%Y %H:%M:%S.%f", false)]
    #[case("yyyy-MM-dd'T'HH:mm:ssxxx", "%Y-%m-%dT%H:%M:%S%:z", true)]
    #[case("EEE, dd MMM yyyy HH:mm:ss Z", "%a, %d %b %Y %H:%M:%S %z", true)]
    #[case("MM/dd/yy hh:mm a", "%m/%d/%y %I:%M %p", false)]
    #[case("yyyyMMdd'100%'HHmm", "%Y%m%d100%%%H%M", false)]
    #[case("yyyy-MM-dd HH 'o''clock'", "%Y-%m-%d %H o'clock", false)]
    fn translates(#[case] java: &str, #[case] strptime: &str, #[case] has_offset: bool) {
        assert_eq!(translate(java), Ok(TimeFormat { strptime: strptime.to_owned(), has_offset }));
    }

    #[test]
    fn iso_formats_with_z_are_rfc_3339() {
        assert!(is_rfc3339("yyyy-MM-dd'T'HH:mm:ss.SSSXXX"));
        assert!(is_rfc3339("uuuu-MM-dd'T'HH:mm:ssX"));
        assert!(!is_rfc3339("yyyy-MM-dd HH:mm:ssXXX"));
        assert!(!is_rfc3339("yyyy-MM-dd'T'HH:mm:ss"));
    }

    #[rstest]
    #[case("yyyy-MM-dd Q", "`Q` is not known")]
    #[case("dd.MM.yyyy HH:mm XXX", "`XXX` is not known")]
    #[case("yyyy-MM-ddTHH:mm", "`T` is not known")]
    #[case("HH:mm:ss", "it does not give a whole date and time")]
    #[case("yyyy-MM-dd", "it does not give a whole date and time")]
    #[case("yyyy-MM-dd hh:mm", "it does not give a whole date and time")]
    #[case("yyyy 'x", "a quote is not closed")]
    fn refuses(#[case] java: &str, #[case] why: &str) {
        assert_eq!(translate(java), Err(why.to_owned()));
    }
}

//! Plausible values of a contract's columns, as JSON text.
//!
//! A value respects its type and its rules. What cannot be made (a pattern at odds with a length, a
//! minimum above the maximum) is an error before the first event, not a bad event.

use super::pattern::Texts;
use crate::error::{Class, Error, Result, Stage};
use crate::project::contract::{BoundValue, Column, Kind, Rules, TimestampForm};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::io::Write;

const DAY_US: i64 = 86_400_000_000;
/// One optional value in this many is left out.
const ABSENT_EVERY: u32 = 10;
/// Distinct texts of a column without pattern.
const POOL: u32 = 50;
/// Attempts to meet pattern and length together.
const ATTEMPTS: u32 = 100;

/// Makes values of one column.
#[derive(Debug, Clone)]
pub(super) struct Values {
    pub column: Column,
    texts: Option<Texts>,
    nested: Vec<Values>,
}

impl Values {
    pub fn of(column: &Column) -> Result<Self> {
        let texts = column.rules.pattern.as_ref().and_then(|p| Texts::of(p.as_str()));
        let nested = match &column.kind {
            Kind::Object(fields) => fields.iter().map(Self::of).collect::<Result<_>>()?,
            Kind::Array(item) => vec![Self::of(item)?],
            _ => Vec::new(),
        };
        Ok(Self { column: column.clone(), texts, nested })
    }

    /// Whether the value is left out this time.
    pub fn absent(&self, rng: &mut ChaCha8Rng) -> bool {
        !self.column.required && !self.column.is_id && rng.random_range(0..ABSENT_EVERY) == 0
    }

    /// Writes one value; `at_us` is the event's time, `serial` its number.
    pub fn write(&self, rng: &mut ChaCha8Rng, at_us: i64, serial: u64, out: &mut Vec<u8>) -> Result<()> {
        match &self.column.kind {
            Kind::String => quote(&self.text(rng, serial)?, out),
            Kind::Integer if self.column.is_id => put(out, format_args!("{serial}")),
            Kind::Integer => {
                let (least, most) = self.whole(0, 1_000)?;
                put(out, format_args!("{}", rng.random_range(least..=most)));
            }
            Kind::Double | Kind::Float => put(out, format_args!("{}", self.real(rng)?)),
            Kind::Decimal { precision, scale } => self.decimal(rng, *precision, *scale, out)?,
            Kind::Boolean => put(out, format_args!("{}", rng.random::<bool>())),
            Kind::Date => {
                let day = at_us.div_euclid(DAY_US);
                let (least, most) = self.whole(day, day)?;
                let day = rng.random_range(least..=most);
                let date = instant(day * DAY_US)?.to_zoned(TimeZone::UTC).date();
                put(out, format_args!("\"{date}\""));
            }
            Kind::Timestamp(form) => {
                let (least, most) = self.whole(at_us - 3_600_000_000, at_us)?;
                timestamp(form, rng.random_range(least..=most), out)?;
            }
            Kind::Object(_) => self.object(rng, at_us, serial, None, out)?,
            Kind::Array(_) => {
                let (least, most) = self.lengths(0, 3)?;
                out.push(b'[');
                for i in 0..rng.random_range(least..=most) {
                    if i > 0 {
                        out.push(b',');
                    }
                    self.nested[0].write(rng, at_us, serial, out)?;
                }
                out.push(b']');
            }
            Kind::Json => put(out, format_args!("{{\"note\":\"n{}\",\"n\":{serial}}}", rng.random_range(0..POOL))),
        }
        Ok(())
    }

    /// Writes one value in which the field at `path` (empty: the value itself) is the event's time.
    pub fn write_with_time(
        &self,
        rng: &mut ChaCha8Rng,
        at_us: i64,
        serial: u64,
        path: &[String],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        match (&self.column.kind, path) {
            (Kind::Timestamp(form), []) => timestamp(form, at_us, out),
            (Kind::Object(_), [_, ..]) => self.object(rng, at_us, serial, Some(path), out),
            _ => Err(self.cannot("is not where an event time can be")),
        }
    }

    fn object(
        &self,
        rng: &mut ChaCha8Rng,
        at_us: i64,
        serial: u64,
        time: Option<&[String]>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        out.push(b'{');
        let mut first = true;
        for field in &self.nested {
            let time = time.filter(|path| path[0] == field.column.name).map(|path| &path[1..]);
            if time.is_none() && field.absent(rng) {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            quote(&field.column.name, out);
            out.push(b':');
            match time {
                Some(path) => field.write_with_time(rng, at_us, serial, path, out)?,
                None => field.write(rng, at_us, serial, out)?,
            }
        }
        out.push(b'}');
        Ok(())
    }

    /// A text without quotes.
    pub fn text(&self, rng: &mut ChaCha8Rng, serial: u64) -> Result<String> {
        let rules = &self.column.rules;
        let fits = |text: &str| {
            let length = text.chars().count();
            rules.length_min.is_none_or(|l| length >= l)
                && rules.length_max.is_none_or(|l| length <= l)
                && matches(rules, text)
        };
        if let Some(texts) = &self.texts {
            return (0..ATTEMPTS)
                .map(|_| texts.text(rng))
                .find(|t| fits(t))
                .ok_or_else(|| self.cannot("has a pattern that no generated text meets together with its length"));
        }
        let (least, most) = self.lengths(0, usize::MAX)?;
        let mut text = if self.column.is_id {
            format!("{:08x}{:016x}{serial:08x}", rng.random::<u32>(), rng.random::<u64>())
        } else {
            format!("{}-{:04}", self.column.name, rng.random_range(0..POOL))
        };
        if text.len() > most {
            // The end carries what tells values apart.
            text = text.chars().rev().take(most).collect::<Vec<_>>().into_iter().rev().collect();
        }
        while text.chars().count() < least {
            text.push('x');
        }
        Ok(text)
    }

    fn real(&self, rng: &mut ChaCha8Rng) -> Result<f64> {
        let of = |bound: Option<crate::project::contract::Bound>, other: f64| match bound.map(|b| b.value) {
            Some(BoundValue::Double(value)) => value,
            Some(BoundValue::Integer(value)) => value as f64,
            _ => other,
        };
        let least = of(self.column.rules.minimum, f64::NEG_INFINITY);
        let most = of(self.column.rules.maximum, f64::INFINITY);
        let (least, most) = match (least.is_finite(), most.is_finite()) {
            (true, true) => (least, most),
            (true, false) => (least, least + 100.0),
            (false, true) => (most - 100.0, most),
            (false, false) => (0.0, 100.0),
        };
        if least > most {
            return Err(self.cannot("has a minimum above its maximum"));
        }
        // Away from both ends, which may be exclusive.
        let value = least + (most - least) * rng.random_range(0.001..0.999);
        let rounded = (value * 10.0).round() / 10.0;
        Ok(if rounded > least && rounded < most { rounded } else { value })
    }

    fn decimal(&self, rng: &mut ChaCha8Rng, precision: u8, scale: i8, out: &mut Vec<u8>) -> Result<()> {
        let scale = u32::try_from(scale).unwrap_or(0);
        let rules = &self.column.rules;
        let digits = u32::from(precision).min(scale + 3);
        let bound = |bound: Option<crate::project::contract::Bound>, step: i128| match bound {
            Some(b) => match b.value {
                BoundValue::Unscaled(v) => Some(v + if b.exclusive { step } else { 0 }),
                _ => None,
            },
            None => None,
        };
        let span = 10_i128.pow(digits) - 1;
        let (least, most) = match (bound(rules.minimum, 1), bound(rules.maximum, -1)) {
            (Some(least), Some(most)) => (least, most),
            (Some(least), None) => (least, least.saturating_add(span).min(10_i128.pow(u32::from(precision)) - 1)),
            (None, Some(most)) => (most.saturating_sub(span).max(1 - 10_i128.pow(u32::from(precision))), most),
            (None, None) => (0, span),
        };
        if least > most {
            return Err(self.cannot("has a minimum above its maximum"));
        }
        let value = rng.random_range(least..=most);
        let unit = 10_u128.pow(scale);
        let size = value.unsigned_abs();
        let sign = if value < 0 { "-" } else { "" };
        if scale == 0 {
            put(out, format_args!("{sign}{size}"));
        } else {
            put(out, format_args!("{sign}{}.{:0width$}", size / unit, size % unit, width = scale as usize));
        }
        Ok(())
    }

    fn whole(&self, least: i64, most: i64) -> Result<(i64, i64)> {
        let bound = |bound: Option<crate::project::contract::Bound>, step: i64| match bound {
            Some(b) => match b.value {
                BoundValue::Integer(v) => Some(v.saturating_add(if b.exclusive { step } else { 0 })),
                _ => None,
            },
            None => None,
        };
        let span = most - least;
        let (low, high) = (bound(self.column.rules.minimum, 1), bound(self.column.rules.maximum, -1));
        let range = match (low, high) {
            (None, None) => (least, most),
            // The usual range where the rules leave it room.
            (low, high) if low.is_none_or(|l| l <= least) && high.is_none_or(|h| h >= most) => (least, most),
            (Some(low), Some(high)) => (low, high),
            (Some(low), None) => (low.max(least), low.max(least).saturating_add(span)),
            (None, Some(high)) => (high.min(most).saturating_sub(span), high.min(most)),
        };
        if range.0 > range.1 { Err(self.cannot("has a minimum above its maximum")) } else { Ok(range) }
    }

    fn lengths(&self, least: usize, most: usize) -> Result<(usize, usize)> {
        let rules = &self.column.rules;
        let low = rules.length_min.unwrap_or(least.min(rules.length_max.unwrap_or(usize::MAX)));
        let high = rules.length_max.unwrap_or(most).min(most).max(low);
        match rules.length_max {
            Some(max) if low > max => Err(self.cannot("has a least length above its greatest")),
            _ => Ok((low, high)),
        }
    }

    fn cannot(&self, why: &str) -> Error {
        Error::new(Stage::Produce, Class::User, format!("column `{}` {why}, so no event can be made", self.column.name))
    }
}

/// Whether the whole text matches the column's pattern, if it has one.
pub(super) fn matches(rules: &Rules, text: &str) -> bool {
    rules.pattern.as_ref().is_none_or(|p| p.find_iter(text).any(|m| m.start() == 0 && m.end() == text.len()))
}

/// Appends a JSON string.
pub(super) fn quote(text: &str, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(&mut *out, text);
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(text);
}

fn instant(us: i64) -> Result<Timestamp> {
    Timestamp::from_microsecond(us).map_err(|e| {
        Error::new(Stage::Produce, Class::User, format!("event time {us} microseconds is out of range")).because(e)
    })
}

fn timestamp(form: &TimestampForm, us: i64, out: &mut Vec<u8>) -> Result<()> {
    match form {
        TimestampForm::Rfc3339 { .. } => put(out, format_args!("\"{}\"", instant(us)?)),
        TimestampForm::EpochSeconds => put(out, format_args!("{}", us.div_euclid(1_000_000))),
        TimestampForm::EpochMillis => put(out, format_args!("{}", us.div_euclid(1_000))),
        TimestampForm::EpochMicros => put(out, format_args!("{us}")),
        TimestampForm::Format { format, zone } => {
            let zone = zone.clone().unwrap_or(TimeZone::UTC);
            let at = instant(us)?.to_zoned(zone).round(Unit::Microsecond);
            let text = at.and_then(|z| jiff::fmt::strtime::format(format, &z)).map_err(|e| {
                Error::new(Stage::Produce, Class::User, format!("time format `{format}` cannot be written")).because(e)
            })?;
            quote(&text, out);
        }
    }
    Ok(())
}

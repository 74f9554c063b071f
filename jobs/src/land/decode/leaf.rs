//! Columns of single values: from a JSON token or a plain text to one more value, or a refusal.
//!
//! A token is one JSON value whose grammar was checked before; a plain text comes from a message
//! key or a header. Objects and arrays are [`super::node`]'s.
//!
//! Invariant: a refused value leaves the column as it was.

use super::columns::{Texts, booleans, primitive};
use super::number;
use super::object::has_half_surrogate;
use super::refusal::{Judged, expected, wrong_type};
use super::rules::{Limits, TextRules, limits, show_decimal};
use super::timestamp;
use crate::project::contract::{BoundValue, Column, Kind, TimestampForm};
use crate::{Class, Error, Result, Stage};
use arrow::array::ArrayRef;
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Date32Type, Decimal128Type, Float32Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// A column of single values, with what judges them.
#[derive(Debug)]
pub(super) enum Leaf {
    Text { values: Texts, rules: TextRules },
    Json { values: Texts },
    Integer { values: Vec<i64>, limits: Limits<i64> },
    Double { values: Vec<f64>, limits: Limits<f64> },
    Float { values: Vec<f32>, limits: Limits<f32> },
    Decimal { values: Vec<i128>, limits: Limits<i128>, precision: u8, scale: i8 },
    Boolean { values: Vec<bool> },
    Date { values: Vec<i32>, limits: Limits<i64> },
    Timestamp { values: Vec<i64>, limits: Limits<i64>, form: TimestampForm },
}

impl Leaf {
    /// The leaf of a column of a single-valued type.
    pub(super) fn new(column: &Column) -> Result<Self> {
        let whole = |bound| match bound {
            BoundValue::Integer(value) => Some(value),
            _ => None,
        };
        let real = |bound| match bound {
            BoundValue::Double(value) => Some(value),
            BoundValue::Integer(value) => Some(value as f64),
            BoundValue::Unscaled(_) => None,
        };
        let unscaled = |bound| match bound {
            BoundValue::Unscaled(value) => Some(value),
            _ => None,
        };
        Ok(match &column.kind {
            Kind::String => Self::Text { values: Texts::default(), rules: TextRules::new(column)? },
            Kind::Json => Self::Json { values: Texts::default() },
            Kind::Integer => Self::Integer { values: Vec::new(), limits: limits(column, whole)? },
            Kind::Double => Self::Double { values: Vec::new(), limits: limits(column, real)? },
            // a bound such as 0.1 means the float nearest to it
            Kind::Float => Self::Float { values: Vec::new(), limits: limits(column, |b| real(b).map(|v| v as f32))? },
            Kind::Decimal { precision, scale } => Self::Decimal {
                values: Vec::new(),
                limits: limits(column, unscaled)?,
                precision: *precision,
                scale: *scale,
            },
            Kind::Boolean => Self::Boolean { values: Vec::new() },
            Kind::Date => Self::Date { values: Vec::new(), limits: limits(column, whole)? },
            Kind::Timestamp(form) => {
                Self::Timestamp { values: Vec::new(), limits: limits(column, whole)?, form: form.clone() }
            }
            Kind::Object(_) | Kind::Array(_) => {
                let message = format!("column `{}` has many values, and a leaf holds one", column.name);
                return Err(Error::new(Stage::Land, Class::Internal, message));
            }
        })
    }

    /// Appends the value of a JSON token that is not `null`.
    pub(super) fn push(&mut self, token: &str) -> Judged<()> {
        match self {
            Self::Json { values } => {
                if has_half_surrogate(token) {
                    return Err(half_surrogate());
                }
                values.push(token.as_bytes());
                Ok(())
            }
            Self::Boolean { values } => match token {
                "true" | "false" => {
                    values.push(token == "true");
                    Ok(())
                }
                _ => Err(expected("true or false", token)),
            },
            _ if self.is_text() => {
                if !token.starts_with('"') {
                    return Err(expected(self.describe(), token));
                }
                self.push_text(&content(token)?)
            }
            _ => {
                if !token.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
                    return Err(expected(self.describe(), token));
                }
                self.push_number(token)
            }
        }
    }

    /// Appends the value of a plain text, as if it were a JSON string or a bare JSON value.
    pub(super) fn push_plain(&mut self, text: &str) -> Judged<()> {
        if self.is_text() {
            return self.push_text(text);
        }
        let token = bare(text, self.describe())?;
        self.push(token)
    }

    /// Appends a value to keep a null's place.
    pub(super) fn push_null(&mut self) {
        match self {
            Self::Text { values, .. } | Self::Json { values } => values.push(b""),
            Self::Integer { values, .. } | Self::Timestamp { values, .. } => values.push(0),
            Self::Double { values, .. } => values.push(0.0),
            Self::Float { values, .. } => values.push(0.0),
            Self::Decimal { values, .. } => values.push(0),
            Self::Boolean { values } => values.push(false),
            Self::Date { values, .. } => values.push(0),
        }
    }

    /// Appends an instant in microseconds; only for timestamps.
    pub(super) fn push_instant(&mut self, us: i64) -> Judged<()> {
        let Self::Timestamp { values, limits, .. } = self else {
            return Err(wrong_type("a timestamp cannot fill this column"));
        };
        limits.judge(us, show_instant)?;
        values.push(us);
        Ok(())
    }

    fn push_number(&mut self, token: &str) -> Judged<()> {
        match self {
            Self::Integer { values, limits } => {
                let value = number::integer(token)?;
                limits.judge(value, |v| v.to_string())?;
                values.push(value);
            }
            Self::Double { values, limits } => {
                let value = number::double(token)?;
                limits.judge(value, |v| v.to_string())?;
                values.push(value);
            }
            Self::Float { values, limits } => {
                let value = number::float(token)?;
                limits.judge(value, |v| v.to_string())?;
                values.push(value);
            }
            Self::Decimal { values, limits, precision, scale } => {
                let value = number::decimal(token, *precision, *scale)?;
                limits.judge(value, |v| show_decimal(v, *scale))?;
                values.push(value);
            }
            Self::Timestamp { form, .. } => {
                let us = timestamp::from_number(token, form)?;
                return self.push_instant(us);
            }
            _ => return Err(expected(self.describe(), token)),
        }
        Ok(())
    }

    fn push_text(&mut self, text: &str) -> Judged<()> {
        match self {
            Self::Text { values, rules } => {
                rules.judge(text)?;
                values.push(text.as_bytes());
                Ok(())
            }
            Self::Date { values, limits } => {
                let days = timestamp::date(text)?;
                limits.judge(i64::from(days), show_date)?;
                values.push(days);
                Ok(())
            }
            Self::Timestamp { form, .. } => {
                let us = timestamp::from_text(text, form)?;
                self.push_instant(us)
            }
            _ => Err(expected(self.describe(), "\"")),
        }
    }

    /// Whether a JSON message writes these values as strings.
    fn is_text(&self) -> bool {
        match self {
            Self::Text { .. } | Self::Date { .. } => true,
            Self::Timestamp { form, .. } => {
                matches!(form, TimestampForm::Rfc3339 { .. } | TimestampForm::Format { .. })
            }
            _ => false,
        }
    }

    fn describe(&self) -> &'static str {
        match self {
            Self::Text { .. } => "a string",
            Self::Json { .. } => "a JSON value",
            Self::Integer { .. } => "an integer",
            Self::Double { .. } | Self::Float { .. } | Self::Decimal { .. } => "a number",
            Self::Boolean { .. } => "true or false",
            Self::Date { .. } => "a string with a date `YYYY-MM-DD`",
            Self::Timestamp { form, .. } => timestamp::describe(form),
        }
    }

    pub(super) fn truncate(&mut self, len: usize) {
        match self {
            Self::Text { values, .. } | Self::Json { values } => values.truncate(len),
            Self::Integer { values, .. } | Self::Timestamp { values, .. } => values.truncate(len),
            Self::Double { values, .. } => values.truncate(len),
            Self::Float { values, .. } => values.truncate(len),
            Self::Decimal { values, .. } => values.truncate(len),
            Self::Boolean { values } => values.truncate(len),
            Self::Date { values, .. } => values.truncate(len),
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text { values, .. } | Self::Json { values } => values.size(),
            Self::Integer { values, .. } | Self::Timestamp { values, .. } => values.len() * 8,
            Self::Double { values, .. } => values.len() * 8,
            Self::Float { values, .. } => values.len() * 4,
            Self::Decimal { values, .. } => values.len() * 16,
            Self::Boolean { values } => values.len(),
            Self::Date { values, .. } => values.len() * 4,
        }
    }

    /// The last instant; `None` for other types.
    pub(super) fn last_instant(&self) -> Option<i64> {
        match self {
            Self::Timestamp { values, .. } => values.last().copied(),
            _ => None,
        }
    }

    /// xxh3_128 of the last value: text as UTF-8, everything else as its fixed width in little
    /// endian (floats by their bits with -0.0 as 0.0, a boolean as one byte).
    pub(super) fn last_hash(&self) -> Option<u128> {
        Some(match self {
            Self::Text { values, .. } | Self::Json { values } => xxh3_128(values.last()),
            Self::Integer { values, .. } | Self::Timestamp { values, .. } => xxh3_128(&values.last()?.to_le_bytes()),
            Self::Double { values, .. } => xxh3_128(&(values.last()? + 0.0).to_le_bytes()),
            Self::Float { values, .. } => xxh3_128(&(values.last()? + 0.0).to_le_bytes()),
            Self::Decimal { values, .. } => xxh3_128(&values.last()?.to_le_bytes()),
            Self::Boolean { values } => xxh3_128(&[u8::from(*values.last()?)]),
            Self::Date { values, .. } => xxh3_128(&values.last()?.to_le_bytes()),
        })
    }

    /// Takes the values as an Arrow array.
    pub(super) fn take(&mut self, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Text { values, .. } | Self::Json { values } => values.take(nulls)?,
            Self::Integer { values, .. } => Arc::new(primitive::<Int64Type>(values, nulls)?),
            Self::Double { values, .. } => Arc::new(primitive::<Float64Type>(values, nulls)?),
            Self::Float { values, .. } => Arc::new(primitive::<Float32Type>(values, nulls)?),
            Self::Decimal { values, precision, scale, .. } => {
                let array = primitive::<Decimal128Type>(values, nulls)?;
                Arc::new(array.with_precision_and_scale(*precision, *scale)?)
            }
            Self::Boolean { values } => Arc::new(booleans(values, nulls)),
            Self::Date { values, .. } => Arc::new(primitive::<Date32Type>(values, nulls)?),
            Self::Timestamp { values, .. } => {
                Arc::new(primitive::<TimestampMicrosecondType>(values, nulls)?.with_timezone("UTC"))
            }
        })
    }
}

/// The text of a JSON string token. Without escapes it is a slice of the token.
fn content(token: &str) -> Judged<Cow<'_, str>> {
    let inner = &token[1..token.len() - 1];
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(token).map(Cow::Owned).map_err(|_| half_surrogate())
}

/// One bare JSON value, without the whitespace around it.
pub(super) fn bare<'t>(text: &'t str, what: &str) -> Judged<&'t str> {
    let token: Result<&'t RawValue, _> = serde_json::from_str(text);
    token.map(RawValue::get).map_err(|_| wrong_type(format!("expected {what}, found other text")))
}

#[cold]
pub(super) fn half_surrogate() -> Box<deltaworks_core::reason::Refusal> {
    wrong_type("expected Unicode text, found an escape of half a surrogate pair")
}

fn show_instant(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).map_or_else(|_| format!("{us} µs"), |t| t.to_string())
}

fn show_date(days: i64) -> String {
    let epoch = jiff::civil::date(1970, 1, 1);
    let date = jiff::Span::new().try_days(days).and_then(|span| epoch.checked_add(span));
    date.map_or_else(|_| format!("day {days}"), |d| d.to_string())
}

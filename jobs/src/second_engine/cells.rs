//! Values as they are compared and shown, in no engine's types.

use super::{Told, Unknown, unknown};
use polars::prelude::{AnyValue, Column};
use std::fmt;

/// One value. Equal cells are equal values: −0.0 is 0.0, and every NaN the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// Nothing, which equals nothing else.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number of any size.
    Integer(i128),
    /// A double.
    Float(Double),
    /// A decimal: digits, and how many of them are behind the point.
    Decimal(i128, u8),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Days since the Unix epoch.
    Date(i32),
    /// Microseconds since the Unix epoch.
    Instant(i64),
    /// Several.
    List(Vec<Cell>),
}

/// The bits of a double in the order of doubles, NaN last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Double(u64);

impl From<f64> for Double {
    fn from(value: f64) -> Self {
        let bits = if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() };
        Self(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
    }
}

impl From<Double> for f64 {
    fn from(Double(bits): Double) -> Self {
        Self::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits })
    }
}

impl fmt::Debug for Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&f64::from(*self), f)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Boolean(b) => write!(f, "{b}"),
            Self::Integer(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x:?}"),
            Self::Decimal(n, 0) => write!(f, "{n}"),
            Self::Decimal(n, scale) => {
                let (digits, scale) =
                    (format!("{:0>1$}", n.unsigned_abs(), usize::from(*scale) + 1), usize::from(*scale));
                let (whole, fraction) = digits.split_at(digits.len() - scale);
                write!(f, "{}{whole}.{fraction}", if *n < 0 { "-" } else { "" })
            }
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Date(days) => match jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(*days)) {
                Ok(date) => write!(f, "{date}"),
                Err(_) => write!(f, "day {days}"),
            },
            Self::Instant(us) => write!(f, "{}", deltaworks_core::windows::Instant(*us)),
            Self::List(cells) => {
                let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", cells.join(", "))
            }
        }
    }
}

/// The cells of a column.
pub(super) fn cells(column: &Column) -> Told<Vec<Cell>> {
    let series = column.as_materialized_series();
    (0..series.len()).map(|row| cell(&series.get(row)?)).collect()
}

fn cell(value: &AnyValue<'_>) -> Told<Cell> {
    Ok(match value {
        AnyValue::Null => Cell::Null,
        AnyValue::Boolean(b) => Cell::Boolean(*b),
        AnyValue::String(text) => Cell::Text((*text).to_owned()),
        AnyValue::StringOwned(text) => Cell::Text(text.to_string()),
        AnyValue::Binary(bytes) => Cell::Bytes(bytes.to_vec()),
        AnyValue::BinaryOwned(bytes) => Cell::Bytes(bytes.clone()),
        AnyValue::UInt8(n) => Cell::Integer((*n).into()),
        AnyValue::UInt16(n) => Cell::Integer((*n).into()),
        AnyValue::UInt32(n) => Cell::Integer((*n).into()),
        AnyValue::UInt64(n) => Cell::Integer((*n).into()),
        AnyValue::Int8(n) => Cell::Integer((*n).into()),
        AnyValue::Int16(n) => Cell::Integer((*n).into()),
        AnyValue::Int32(n) => Cell::Integer((*n).into()),
        AnyValue::Int64(n) => Cell::Integer((*n).into()),
        AnyValue::Int128(n) => Cell::Integer(*n),
        AnyValue::Float32(x) => Cell::Float(f64::from(*x).into()),
        AnyValue::Float64(x) => Cell::Float((*x).into()),
        AnyValue::Decimal(n, _, scale) => {
            Cell::Decimal(*n, u8::try_from(*scale).map_err(|e| Unknown::Failed(e.to_string()))?)
        }
        AnyValue::Date(days) => Cell::Date(*days),
        AnyValue::Datetime(at, unit, _) | AnyValue::DatetimeOwned(at, unit, _) => Cell::Instant(match unit {
            polars::prelude::TimeUnit::Nanoseconds => at.div_euclid(1_000),
            polars::prelude::TimeUnit::Microseconds => *at,
            polars::prelude::TimeUnit::Milliseconds => at * 1_000,
        }),
        AnyValue::List(series) => Cell::List((0..series.len()).map(|n| cell(&series.get(n)?)).collect::<Told<_>>()?),
        other => return unknown(format!("values such as `{other}`")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_sort_as_numbers_and_nan_last() {
        let ascending = [f64::NEG_INFINITY, -1.5, -5e-324, 0.0, 5e-324, 1.5, f64::INFINITY, f64::NAN];
        let cells: Vec<Double> = ascending.map(Double::from).to_vec();
        assert!(cells.is_sorted() && cells.windows(2).all(|pair| pair[0] != pair[1]), "{cells:?}");
        assert_eq!((Double::from(-0.0), Double::from(-f64::NAN)), (Double::from(0.0), Double::from(f64::NAN)));
        assert!(cells.iter().zip(ascending).all(|(cell, x)| f64::from(*cell) == x || x.is_nan()));
    }

    #[test]
    fn cells_are_shown_as_people_write_them() {
        let shown = |cell: Cell| cell.to_string();
        assert_eq!(shown(Cell::Decimal(-5, 2)), "-0.05");
        assert_eq!(shown(Cell::Decimal(12_345, 2)), "123.45");
        assert_eq!(shown(Cell::Instant(0)), "1970-01-01T00:00:00Z");
        assert_eq!(shown(Cell::Date(1)), "1970-01-02");
        assert_eq!(shown(Cell::List(vec![Cell::Null, Cell::Text("a".into())])), "[null, \"a\"]");
    }
}

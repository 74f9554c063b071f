//! Terms of the neutral SELECT as Polars expressions.
//!
//! Columns of tables are called `<table>.<name>`, keys `k<n>` and results `a<n>`. An instant is microseconds of UTC
//! whatever its zone; the zone is put in where parts of it are asked for. A term is translated only where both
//! engines are known to mean the same; everything else is told by name.

use super::decode::column_name;
use super::numbers::{Arithmetic, arithmetic, cast_number, quotient_of_doubles, round};
use super::{Told, unknown};
use deltaworks_core::select::{Kind, Term, Value};
use polars::prelude::{
    AnyValue, DataType, Expr, Field, LiteralValue, Null, PlSmallStr, Scalar, StrptimeOptions, TimeUnit, TimeZone, col,
    concat_str, lit, when,
};
use std::sync::Arc;

/// The name of a key.
pub(super) fn key_name(n: usize) -> String {
    format!("k{n}")
}

/// The name of a call's value.
pub(super) fn result_name(n: usize) -> String {
    format!("a{n}")
}

/// The type that holds values of a kind.
pub(super) fn data_type(kind: &Kind) -> Told<DataType> {
    Ok(match kind {
        Kind::Null => DataType::Null,
        Kind::Boolean => DataType::Boolean,
        Kind::Integer { bits: 8, signed: true } => DataType::Int8,
        Kind::Integer { bits: 16, signed: true } => DataType::Int16,
        Kind::Integer { bits: 32, signed: true } => DataType::Int32,
        Kind::Integer { bits: 64, signed: true } => DataType::Int64,
        Kind::Integer { bits: 32, signed: false } => DataType::UInt32,
        Kind::Integer { bits: 64, signed: false } => DataType::UInt64,
        Kind::Integer { bits, .. } => return unknown(format!("whole numbers of {bits} bits without a sign")),
        Kind::Float { bits: 32 } => DataType::Float32,
        Kind::Float { .. } => DataType::Float64,
        Kind::Decimal { precision, scale } => DataType::Decimal((*precision).into(), (*scale).into()),
        Kind::Text => DataType::String,
        Kind::Bytes => DataType::Binary,
        Kind::Date => DataType::Date,
        Kind::Instant { .. } => DataType::Datetime(TimeUnit::Microseconds, Some(TimeZone::UTC)),
        Kind::Struct(fields) => {
            let fields = fields.iter().map(|(name, kind)| Ok(Field::new(name.as_str().into(), data_type(kind)?)));
            DataType::Struct(fields.collect::<Told<_>>()?)
        }
        Kind::List(item) => DataType::List(Box::new(data_type(item)?)),
    })
}

/// A constant.
pub(super) fn literal(value: &Value, kind: &Kind) -> Told<Expr> {
    let data_type = data_type(kind)?;
    let value = match value {
        Value::Null => return Ok(lit(Null {}).cast(data_type)),
        Value::Boolean(b) => AnyValue::Boolean(*b),
        Value::Integer(n) => match i64::try_from(*n) {
            Ok(n) => return Ok(lit(n).strict_cast(data_type)),
            Err(_) => return unknown(format!("the number {n}")),
        },
        Value::Float(x) => return Ok(lit(*x).cast(data_type)),
        Value::Decimal(n) => match kind {
            Kind::Decimal { precision, scale } => AnyValue::Decimal(*n, (*precision).into(), (*scale).into()),
            _ => return unknown("a decimal of another type"),
        },
        Value::Text(text) => AnyValue::StringOwned(PlSmallStr::from_str(text)),
        Value::Date(days) => AnyValue::Date(*days),
        Value::Instant(us) => AnyValue::DatetimeOwned(*us, TimeUnit::Microseconds, Some(Arc::new(TimeZone::UTC))),
    };
    Ok(Expr::Literal(LiteralValue::Scalar(Scalar::new(data_type, value))))
}

/// The expression that a term is.
pub(super) fn expression(term: &Term) -> Told<Expr> {
    match term {
        Term::Column { table, name, .. } => Ok(col(column_name(*table, name))),
        Term::Key(n, _) => Ok(col(key_name(*n))),
        Term::Result(n, _) => Ok(col(result_name(*n))),
        Term::Field { of, name, .. } => Ok(expression(of)?.struct_().field_by_name(name)),
        Term::Literal(value, kind) => literal(value, kind),
        Term::Apply { function, arguments, kind } => apply(function, arguments, kind),
        Term::Cast { of, kind } => cast(of, kind),
        Term::Case { branches, otherwise, kind } => {
            let mut case = match otherwise {
                Some(otherwise) => expression(otherwise)?,
                None => lit(Null {}).cast(data_type(kind)?),
            };
            for (condition, value) in branches.iter().rev() {
                case = when(expression(condition)?.fill_null(lit(false))).then(expression(value)?).otherwise(case);
            }
            Ok(case.cast(data_type(kind)?))
        }
    }
}

fn apply(function: &str, arguments: &[Term], kind: &Kind) -> Told<Expr> {
    let terms = arguments.iter().map(expression).collect::<Told<Vec<_>>>()?;
    match (terms.as_slice(), arguments) {
        ([a], [of]) => unary(function, a.clone(), of, kind),
        ([a, b], [left, right]) => binary(function, [a.clone(), b.clone()], [left, right], kind),
        _ => many(function, terms, arguments, kind),
    }
}

fn unary(function: &str, a: Expr, of: &Term, kind: &Kind) -> Told<Expr> {
    Ok(match (function, of.kind()) {
        ("NOT", Kind::Boolean) => a.not(),
        ("IS NULL", _) => a.is_null(),
        ("IS NOT NULL", _) => a.is_not_null(),
        ("IS TRUE", Kind::Boolean) => a.fill_null(lit(false)),
        ("IS NOT TRUE", Kind::Boolean) => a.fill_null(lit(false)).not(),
        ("IS FALSE", Kind::Boolean) => a.not().fill_null(lit(false)),
        ("IS NOT FALSE", Kind::Boolean) => a.fill_null(lit(true)),
        ("NEGATIVE", Kind::Decimal { .. }) => arithmetic(Arithmetic::Minus, [lit(0_i64), a], [0, scale_of(of)?], kind)?,
        ("NEGATIVE", Kind::Integer { signed: true, .. } | Kind::Float { .. }) => -a,
        ("abs", Kind::Integer { .. } | Kind::Float { .. }) => a.abs(),
        ("round", from) => round(a, from, 0, kind)?,
        ("floor", Kind::Float { .. }) => a.floor(),
        ("ceil", Kind::Float { .. }) => a.ceil(),
        ("sqrt", Kind::Float { .. }) => a.sqrt(),
        ("isnan", Kind::Float { .. }) => a.is_nan(),
        ("upper", Kind::Text) => a.str().to_uppercase(),
        ("lower", Kind::Text) => a.str().to_lowercase(),
        ("btrim", Kind::Text) => a.str().strip_chars(lit(" ")),
        ("ltrim", Kind::Text) => a.str().strip_chars_start(lit(" ")),
        ("rtrim", Kind::Text) => a.str().strip_chars_end(lit(" ")),
        ("character_length", Kind::Text) => a.str().len_chars().cast(data_type(kind)?),
        ("octet_length", Kind::Text) => a.str().len_bytes().cast(data_type(kind)?),
        ("reverse", Kind::Text) => a.str().reverse(),
        ("coalesce", _) => a,
        _ => return no_function(function),
    })
}

fn binary(function: &str, [a, b]: [Expr; 2], [left, right]: [&Term; 2], kind: &Kind) -> Told<Expr> {
    if let "=" | "!=" | "<" | "<=" | ">" | ">=" | "IS DISTINCT FROM" | "IS NOT DISTINCT FROM" | "nullif" = function {
        comparable(function, left.kind(), right.kind())?;
    }
    Ok(match (function, left.kind(), right.kind()) {
        ("AND", ..) => a.and(b),
        ("OR", ..) => a.or(b),
        ("=", ..) => a.eq(b),
        ("!=", ..) => a.neq(b),
        ("<", ..) => a.lt(b),
        ("<=", ..) => a.lt_eq(b),
        (">", ..) => a.gt(b),
        (">=", ..) => a.gt_eq(b),
        ("IS DISTINCT FROM", ..) => a.neq_missing(b),
        ("IS NOT DISTINCT FROM", ..) => a.eq_missing(b),
        ("nullif", ..) => when(a.clone().eq(b).fill_null(lit(false))).then(lit(Null {})).otherwise(a),
        ("+", Kind::Integer { .. } | Kind::Float { .. }, of) if of == left.kind() => a + b,
        ("-", Kind::Integer { .. } | Kind::Float { .. }, of) if of == left.kind() => a - b,
        ("*", Kind::Integer { .. } | Kind::Float { .. }, of) if of == left.kind() => a * b,
        ("/", Kind::Float { .. }, of) if of == left.kind() => quotient_of_doubles([a, b], kind)?,
        ("/", Kind::Integer { .. }, of) if of == left.kind() => quotient(a, b),
        ("%", Kind::Integer { .. }, of) if of == left.kind() => a.clone() - quotient(a, b.clone()) * b,
        ("+" | "-" | "*" | "/", Kind::Decimal { .. }, Kind::Decimal { .. }) => {
            let how = match function {
                "+" => Arithmetic::Plus,
                "-" => Arithmetic::Minus,
                "*" => Arithmetic::Times,
                _ => Arithmetic::Over,
            };
            arithmetic(how, [a, b], [scale_of(left)?, scale_of(right)?], kind)?
        }
        ("||", Kind::Text, Kind::Text) => concat_str([a, b], "", false),
        ("LIKE", Kind::Text, _) => like(a, right, false)?,
        ("NOT LIKE", Kind::Text, _) => like(a, right, false)?.not(),
        ("ILIKE", Kind::Text, _) => like(a, right, true)?,
        ("NOT ILIKE", Kind::Text, _) => like(a, right, true)?.not(),
        ("starts_with", Kind::Text, Kind::Text) => a.str().starts_with(b),
        ("ends_with", Kind::Text, Kind::Text) => a.str().ends_with(b),
        ("contains", Kind::Text, Kind::Text) => a.str().contains_literal(b),
        ("round", from, Kind::Integer { .. }) => match right {
            Term::Literal(Value::Integer(digits), _) => {
                round(a, from, i32::try_from(*digits).unwrap_or(i32::MAX), kind)?
            }
            _ => return unknown("`round` to digits in a column"),
        },
        ("date_part", Kind::Text, _) => date_part(text(left)?, b, right.kind(), kind)?,
        ("date_trunc", Kind::Text, _) => date_trunc(text(left)?, b, right.kind())?,
        ("btrim", Kind::Text, Kind::Text) => a.str().strip_chars(b),
        ("IN" | "NOT IN" | "coalesce" | "concat" | "substr", ..) => {
            return many(function, vec![a, b], &[left.clone(), right.clone()], kind);
        }
        _ => return no_function(&format!("{function}` of `{}` and `{}", left.kind(), right.kind())),
    })
}

fn many(function: &str, terms: Vec<Expr>, arguments: &[Term], kind: &Kind) -> Told<Expr> {
    let mut terms = terms.into_iter();
    let Some(first) = terms.next() else { return no_function(function) };
    let kinds = || arguments.iter().map(Term::kind);
    let all = |of: &Kind| kinds().all(|k| k == of);
    match function {
        "IN" | "NOT IN" => {
            let mut is_in = lit(false);
            for (item, of) in terms.zip(kinds().skip(1)) {
                comparable(function, arguments[0].kind(), of)?;
                is_in = is_in.or(first.clone().eq(item));
            }
            Ok(if function == "IN" { is_in } else { is_in.not() })
        }
        "BETWEEN" | "NOT BETWEEN" => match (terms.next(), terms.next()) {
            (Some(low), Some(high)) if kinds().all(|of| comparable(function, arguments[0].kind(), of).is_ok()) => {
                let between = first.clone().gt_eq(low).and(first.lt_eq(high));
                Ok(if function == "BETWEEN" { between } else { between.not() })
            }
            _ => no_function(function),
        },
        "coalesce" if all(kind) => Ok(terms.fold(first, |value, next| value.fill_null(next))),
        // nulls are passed over, and nothing but nulls is an empty text
        "concat" if all(&Kind::Text) => {
            let parts: Vec<Expr> = std::iter::once(first).chain(terms).map(|part| part.fill_null(lit(""))).collect();
            Ok(concat_str(parts, "", false))
        }
        "substr" if kinds().next() == Some(&Kind::Text) => match (arguments.get(1), terms.nth(1)) {
            (Some(Term::Literal(Value::Integer(from), _)), length) if *from > 0 => {
                let length = length.map_or(lit(Null {}).cast(DataType::UInt64), |length| length.cast(DataType::UInt64));
                let from = i64::try_from(from - 1).unwrap_or(i64::MAX);
                Ok(first.str().slice(lit(from), length))
            }
            _ => no_function(function),
        },
        _ => no_function(function),
    }
}

fn no_function<T>(function: &str) -> Told<T> {
    unknown(format!("`{function}`"))
}

fn comparable(function: &str, left: &Kind, right: &Kind) -> Told<()> {
    match (left, right) {
        (Kind::Instant { .. }, Kind::Instant { .. }) | (Kind::Null, _) | (_, Kind::Null) => Ok(()),
        (Kind::Struct(_) | Kind::List(_), _) => unknown(format!("`{function}` of records or lists")),
        (left, right) if left == right => Ok(()),
        _ => unknown(format!("`{function}` of `{left}` and `{right}`")),
    }
}

/// The quotient of whole numbers, cut towards zero as SQL has it; Polars rounds down.
fn quotient(a: Expr, b: Expr) -> Expr {
    let down = a.clone().floor_div(b.clone());
    let is_whole = (down.clone() * b.clone()).eq(a.clone());
    let is_below = a.lt(lit(0_i64)).neq(b.lt(lit(0_i64)));
    when(is_below.and(is_whole.not())).then(down.clone() + lit(1_i64)).otherwise(down)
}

fn scale_of(term: &Term) -> Told<u8> {
    match term.kind() {
        Kind::Decimal { scale, .. } => Ok(*scale),
        other => unknown(format!("decimals made of `{other}`")),
    }
}

fn text(term: &Term) -> Told<&str> {
    match term {
        Term::Literal(Value::Text(text), _) => Ok(text),
        _ => unknown("a part of a date that is no constant"),
    }
}

/// A pattern of LIKE as a regular expression.
fn like(of: Expr, pattern: &Term, any_case: bool) -> Told<Expr> {
    let Term::Literal(Value::Text(pattern), _) = pattern else { return unknown("LIKE of a pattern in a column") };
    if pattern.contains('\\') {
        return unknown("LIKE with a backslash");
    }
    let mut regex = if any_case { "(?si)^".to_owned() } else { "(?s)^".to_owned() };
    for letter in pattern.chars() {
        match letter {
            '%' => regex.push_str(".*"),
            '_' => regex.push('.'),
            other => regex.push_str(&regex::escape(&other.to_string())),
        }
    }
    regex.push('$');
    Ok(of.str().contains(lit(regex), true))
}

/// An instant with the clock of its zone, or a date.
fn local(of: Expr, kind: &Kind) -> Told<Expr> {
    match kind {
        Kind::Date => Ok(of),
        Kind::Instant { zone: None } => Ok(of),
        Kind::Instant { zone: Some(zone) } if is_utc(zone) => Ok(of),
        Kind::Instant { zone: Some(zone) } => match TimeZone::opt_try_new(Some(zone.as_str())) {
            Ok(Some(zone)) => Ok(of.dt().convert_time_zone(zone)),
            _ => unknown(format!("the zone `{zone}`")),
        },
        other => unknown(format!("parts of `{other}`")),
    }
}

fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "+00:00" | "Z" | "utc")
}

fn date_part(part: &str, of: Expr, of_kind: &Kind, kind: &Kind) -> Told<Expr> {
    let of = local(of, of_kind)?.dt();
    let is_instant = matches!(of_kind, Kind::Instant { .. });
    let part = match part.to_lowercase().as_str() {
        "year" => of.year(),
        "quarter" => of.quarter(),
        "month" => of.month(),
        "week" => of.week(),
        "day" => of.day(),
        "doy" => of.ordinal_day(),
        "dow" => of.weekday().cast(DataType::Int32) % lit(7_i32),
        "hour" if is_instant => of.hour(),
        "minute" if is_instant => of.minute(),
        "second" if is_instant => of.second(),
        other => return unknown(format!("`date_part` of `{other}`")),
    };
    Ok(part.cast(data_type(kind)?))
}

fn date_trunc(part: &str, of: Expr, of_kind: &Kind) -> Told<Expr> {
    let every = match part.to_lowercase().as_str() {
        "year" => "1y",
        "quarter" => "1q",
        "month" => "1mo",
        "week" => "1w",
        "day" => "1d",
        "hour" => "1h",
        "minute" => "1m",
        "second" => "1s",
        other => return unknown(format!("`date_trunc` to `{other}`")),
    };
    if !matches!(of_kind, Kind::Instant { .. }) {
        return unknown(format!("`date_trunc` of `{of_kind}`"));
    }
    Ok(local(of, of_kind)?.dt().truncate(lit(every)).dt().convert_time_zone(TimeZone::UTC))
}

fn cast(of: &Term, to: &Kind) -> Told<Expr> {
    let (from, value) = (of.kind(), expression(of)?);
    let is_plain = |zone: &Option<String>| zone.as_deref().is_none_or(is_utc);
    Ok(match (from, to) {
        (from, to) if from == to => value,
        (Kind::Null, to) => value.cast(data_type(to)?),
        (Kind::Instant { zone: Some(_) }, Kind::Instant { zone: Some(_) }) => value,
        (Kind::Instant { zone: from }, Kind::Instant { zone: to }) if is_plain(from) && is_plain(to) => value,
        (Kind::Instant { .. }, Kind::Date) => local(value, from)?.dt().date(),
        (Kind::Date, Kind::Instant { zone }) if is_plain(zone) => {
            value.cast(DataType::Datetime(TimeUnit::Microseconds, None)).cast(data_type(to)?)
        }
        (Kind::Date, Kind::Text) => value.dt().to_string("%Y-%m-%d"),
        (Kind::Text, Kind::Date) => value.str().to_date(StrptimeOptions {
            format: Some("%Y-%m-%d".into()),
            strict: true,
            ..StrptimeOptions::default()
        }),
        (Kind::Boolean, Kind::Integer { .. })
        | (Kind::Integer { .. }, Kind::Integer { .. } | Kind::Float { .. } | Kind::Text)
        | (Kind::Float { .. }, Kind::Float { .. } | Kind::Integer { .. }) => value.strict_cast(data_type(to)?),
        (Kind::Integer { .. }, Kind::Boolean) => value.neq(lit(0_i64)),
        (Kind::Boolean, Kind::Text) => {
            when(value.clone()).then(lit("true")).when(value.not()).then(lit("false")).otherwise(lit(Null {}))
        }
        (Kind::Integer { .. } | Kind::Decimal { .. }, _) => cast_number(value, from, to)?,
        _ => return unknown(format!("a cast of `{from}` to `{to}`")),
    })
}

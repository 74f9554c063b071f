//! Parquet bytes into frames, by Polars' own decoder.
//!
//! Every column gets the type that is expected, under the name `<table>.<name>`; one that the file does not have
//! is a partition's value, or null.

use super::terms::{data_type, literal};
use super::{Told, computed, unknown};
use bytes::Bytes;
use deltaworks_core::select::{Kind, Value};
use jiff::civil::{Date, date};
use polars::prelude::{DataFrame, Expr, IntoLazy, Null, ParquetReader, SerReader, col, lit};
use std::collections::BTreeMap;
use std::io::Cursor;

/// Decoded rows.
#[derive(Debug, Clone)]
pub struct Frame(pub(super) DataFrame);

impl Frame {
    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.0.height()
    }

    /// Rows after rows; none of nothing.
    ///
    /// # Errors
    /// Their columns differ.
    pub fn stacked(frames: impl IntoIterator<Item = Self>) -> Told<Option<Self>> {
        let mut frames = frames.into_iter();
        let Some(Self(mut all)) = frames.next() else { return Ok(None) };
        for Self(frame) in frames {
            all.vstack_mut(&frame)?;
        }
        Ok(Some(Self(all)))
    }
}

/// The `wanted` columns of a Parquet file with these partition values, as columns of table number `table`.
///
/// # Errors
/// The bytes are no Parquet, or a column does not have the wanted type.
pub fn decode(
    bytes: &Bytes,
    table: usize,
    wanted: &[(String, Kind)],
    partition: &BTreeMap<String, Option<String>>,
) -> Told<Frame> {
    let mut reader = ParquetReader::new(Cursor::new(bytes.clone()));
    let schema = reader.schema()?;
    let have: Vec<String> = wanted.iter().map(|(name, _)| name.clone()).filter(|name| schema.contains(name)).collect();
    // a frame needs one column to know its rows by
    let extra = schema.iter_names().next().filter(|_| have.is_empty()).map(ToString::to_string);
    let read: Vec<String> = have.iter().cloned().chain(extra).collect();
    let frame = reader.with_columns(Some(read)).finish()?;
    let columns = wanted.iter().map(|(name, kind)| {
        let data_type = data_type(kind)?;
        let column: Expr = match partition.get(name) {
            _ if have.contains(name) && frame.column(name)?.dtype() == &data_type => col(name.as_str()),
            _ if have.contains(name) => col(name.as_str()).strict_cast(data_type),
            Some(Some(value)) => constant(value, kind)?,
            _ => lit(Null {}).cast(data_type),
        };
        Ok(column.alias(column_name(table, name)))
    });
    let columns = columns.collect::<Told<Vec<_>>>()?;
    let names: Vec<Expr> = wanted.iter().map(|(name, _)| col(column_name(table, name))).collect();
    Ok(Frame(computed(frame.lazy().with_columns(columns).select(names))?))
}

/// A partition's value, spelled as Delta spells them.
fn constant(value: &str, kind: &Kind) -> Told<Expr> {
    let constant = match kind {
        Kind::Text => Some(Value::Text(value.to_owned())),
        Kind::Date => value.parse::<Date>().ok().map(|at| Value::Date((at - date(1970, 1, 1)).get_days())),
        Kind::Integer { .. } => value.parse().ok().map(Value::Integer),
        Kind::Boolean => value.parse().ok().map(Value::Boolean),
        _ => None,
    };
    match constant {
        Some(constant) => literal(&constant, kind),
        None => unknown(format!("the partition value `{value}`")),
    }
}

/// What a column of a table is called in a frame.
pub(super) fn column_name(table: usize, name: &str) -> String {
    format!("{table}.{name}")
}

//! `first_value` and `last_value` with ORDER BY, nulls ignored.
//!
//! A candidate is one row of bytes, the ordering columns and then the value, in the encoding that
//! sorts as they do (arrow's row format). The least or the greatest of a group wins, so that even
//! rows which the ORDER BY does not tell apart have one winner, by their values. DataFusion's own
//! keep five boxed values a group for a place and walk over all groups at every batch.

use super::definition::{Call, Definition};
use super::groups::{Function, Groups, Peek, PerGroup, Rows, STATE, Summary};
use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::compute::{SortOptions, cast, interleave};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::row::{RowConverter, SortField};
use deltalake::datafusion::common::{Result, exec_err, internal_err, plan_err};
use deltaworks_core::exact_sum::canonical;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The first or the last.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FirstLast {
    /// `last_value` instead of `first_value`.
    pub(super) is_last: bool,
}

impl Definition for FirstLast {
    fn coerce(&self, _name: &str, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments.to_vec())
    }

    fn returns(&self, arguments: &[DataType]) -> DataType {
        arguments[0].clone()
    }

    fn state(&self, _arguments: &[DataType]) -> DataType {
        STATE
    }

    fn groups(&self, call: &Call<'_>) -> Result<Box<dyn Peek>> {
        if call.args.order_bys.is_empty() {
            return plan_err!("`{0}` needs an ORDER BY, as in `{0}(x ORDER BY t)`", call.name);
        }
        let mut fields = Vec::new();
        for order in call.args.order_bys {
            fields.push((order.expr.data_type(call.args.schema)?, order.options));
        }
        fields.push((call.returns.clone(), SortOptions::default()));
        Ok(match self.is_last {
            true => Box::new(PerGroup::new(OfRows::<true> { fields })),
            false => Box::new(PerGroup::new(OfRows::<false> { fields })),
        })
    }

    fn takes_distinct(&self) -> bool {
        true
    }

    fn sees_order(&self) -> bool {
        true
    }
}

/// The ordering columns, then the value.
#[derive(Debug, Clone)]
struct OfRows<const LAST: bool> {
    fields: Vec<(DataType, SortOptions)>,
}

/// The best candidate so far.
#[derive(Debug, Clone, Default)]
struct Winner<const LAST: bool>(Option<Box<[u8]>>);

impl<const LAST: bool> Winner<LAST> {
    #[inline]
    fn add(&mut self, candidate: &[u8]) {
        let wins = match &self.0 {
            None => true,
            Some(held) if LAST => *candidate > **held,
            Some(held) => *candidate < **held,
        };
        match &mut self.0 {
            Some(held) if wins && held.len() == candidate.len() => held.copy_from_slice(candidate),
            held if wins => *held = Some(candidate.into()),
            _ => {}
        }
    }
}

impl<const LAST: bool> Summary for Winner<LAST> {
    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn merge_state(&mut self, state: &[u8]) -> Result<()> {
        match state.split_at_checked(8) {
            Some((sum, row)) if *sum == checksum(row) => self.add(row),
            _ => return exec_err!("the bytes are not the state of a `first_value` or `last_value`"),
        }
        Ok(())
    }

    /// A checksum goes before the row: arrow stops the process at bytes that are not a row.
    fn write_state(self, out: &mut Vec<u8>) {
        if let Some(row) = self.0 {
            out.extend_from_slice(&checksum(&row));
            out.extend_from_slice(&row);
        }
    }

    fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.len())
    }
}

impl<const LAST: bool> OfRows<LAST> {
    fn converter(&self) -> Result<RowConverter> {
        let field =
            |(data_type, options): &(DataType, SortOptions)| SortField::new_with_options(data_type.clone(), *options);
        Ok(RowConverter::new(self.fields.iter().map(field).collect())?)
    }
}

impl<const LAST: bool> Function for OfRows<LAST> {
    type Summary = Winner<LAST>;

    fn update(&self, arguments: &[ArrayRef], rows: &Rows<'_>, groups: &mut Groups<Winner<LAST>>) -> Result<()> {
        if arguments.len() != self.fields.len() {
            return internal_err!("the ordering columns are missing from the arguments");
        }
        let columns: Vec<_> = arguments[1..].iter().chain(&arguments[..1]).map(plain_floats).collect();
        let encoded = self.converter()?.convert_columns(&columns)?;
        rows.for_each(|row, group| groups.change(group, |winner| winner.add(encoded.row(row).data())));
        Ok(())
    }

    fn finish(&self, groups: &[Winner<LAST>]) -> Result<ArrayRef> {
        let converter = self.converter()?;
        let parser = converter.parser();
        let held = groups.iter().filter_map(|winner| winner.0.as_deref());
        let mut columns = converter.convert_rows(held.map(|row| parser.parse(row)))?;
        let Some((value, (returns, _))) = columns.pop().zip(self.fields.last()) else {
            return internal_err!("a row has no value");
        };
        let values = cast(&value, returns)?;
        // Place 0 of the second array is the null for groups without a value.
        let mut next = 0..;
        let places = groups.iter().map(|winner| if winner.is_empty() { (1, 0) } else { (0, next.next().unwrap_or(0)) });
        Ok(interleave(&[&values, &new_null_array(returns, 1)], &places.collect::<Vec<_>>())?)
    }
}

fn checksum(row: &[u8]) -> [u8; 8] {
    xxh3_64(row).to_le_bytes()
}

/// Floats with one zero and one NaN, so that equal ones are equal bytes.
fn plain_floats(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(canonical)),
        DataType::Float32 => {
            let plain = |value: f32| if value.is_nan() { f32::NAN } else { value + 0.0 };
            Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(plain))
        }
        _ => Arc::clone(column),
    }
}

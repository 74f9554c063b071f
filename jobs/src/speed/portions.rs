//! States of landed rows, where memory is too small for all of them at once too.
//!
//! Invariant H1: states of portions add up to those of the whole, so how rows are portioned changes no value.

use crate::engine::aggregate::{Batches, Definition, States, is_out_of_memory};
use crate::error::Result;
use arrow::array::RecordBatch;
use futures::StreamExt;
use std::collections::BTreeMap;

/// Rows that are not portioned further.
const ROWS_MIN: usize = 64;

/// The states of some rows by partition; of halves of them, and of halves of those, as far as memory needs it.
///
/// # Errors
/// A value cannot be computed, or memory is too small for [`ROWS_MIN`] rows.
pub(super) async fn landed(definition: &Definition, rows: Vec<RecordBatch>) -> Result<BTreeMap<i32, Vec<States>>> {
    let mut states: BTreeMap<i32, Vec<States>> = BTreeMap::new();
    let mut left = vec![rows];
    while let Some(rows) = left.pop() {
        let stream: Batches = futures::stream::iter(rows.clone().into_iter().map(Ok)).boxed();
        match definition.landed(vec![stream]).await {
            Ok(by_partition) => {
                by_partition.into_iter().for_each(|(partition, some)| states.entry(partition).or_default().push(some));
            }
            Err(error) => {
                let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
                if !is_out_of_memory(&error) || count <= ROWS_MIN {
                    return Err(error);
                }
                tracing::debug!(rows = count, "memory is too small for all rows at once: states of the halves");
                let (first, second) = halves(rows, count / 2);
                left.extend([second, first]);
            }
        }
    }
    Ok(states)
}

/// The first `count` rows, and the others.
fn halves(rows: Vec<RecordBatch>, mut count: usize) -> (Vec<RecordBatch>, Vec<RecordBatch>) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for batch in rows {
        let here = count.min(batch.num_rows());
        count -= here;
        if here > 0 {
            first.push(batch.slice(0, here));
        }
        if here < batch.num_rows() {
            second.push(batch.slice(here, batch.num_rows() - here));
        }
    }
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn halves_have_every_row_once_and_in_order(sizes in prop::collection::vec(0usize..5, 0..6), at in 0usize..30) {
            let mut next = 0;
            let batches = sizes.iter().map(|size| {
                let values: Int64Array = (next..next + *size as i64).map(Some).collect();
                next += *size as i64;
                RecordBatch::try_from_iter([("n", Arc::new(values) as _)]).unwrap()
            });
            let (first, second) = halves(batches.collect(), at);
            let values = |rows: &[RecordBatch]| -> Vec<i64> {
                rows.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
            };
            prop_assert_eq!(values(&first).len(), at.min(next as usize));
            prop_assert_eq!([values(&first), values(&second)].concat(), (0..next).collect::<Vec<_>>());
            prop_assert!(first.iter().chain(&second).all(|rows| rows.num_rows() > 0));
        }
    }
}

//! Results of windows from states, also where memory is too small for all of these at once too.
//!
//! A day of minutes of many keys does not fit where its pieces do. Invariant N1: a window is finished from all of its
//! states, so how they are portioned changes no result.

use super::gather::out;
use crate::engine::aggregate::{Definition, States, is_out_of_memory};
use crate::error::Result;
use arrow::array::RecordBatch;
use deltaworks_core::windows::{Granularity, Instant, Window, window_of};
use std::collections::BTreeMap;

/// Rows of results, by granularity.
pub(super) type Results = BTreeMap<Granularity, Vec<RecordBatch>>;

/// The results of some granularities, from fine to coarse, each from the one before: all windows at once.
///
/// # Errors
/// A value cannot be computed, or memory is too small.
pub(super) async fn together(
    definition: &Definition,
    states: &States,
    granularities: &[Granularity],
) -> Result<Results> {
    let mut results = Results::new();
    for (granularity, rolled) in definition.rollups(states, granularities).await? {
        results.insert(granularity, definition.finish_one(&rolled, granularity).await?.rows);
    }
    Ok(results)
}

/// The results of the windows of one granularity, some windows at a time as far as memory needs it.
///
/// # Errors
/// A value cannot be computed, or memory is too small for one base window or for all keys of one window.
pub(super) async fn results(
    definition: &Definition,
    states: States,
    granularity: Granularity,
) -> Result<Vec<RecordBatch>> {
    let (mut rows, mut left) = (Vec::new(), vec![states]);
    while let Some(states) = left.pop() {
        match finished(definition, states.clone(), granularity).await {
            Ok(some) => rows.extend(some),
            Err(error) if is_out_of_memory(&error) => match between(definition, granularity, &states)? {
                Some(at) => {
                    let (before, after) = states.split(at)?;
                    left.extend([after, before]);
                }
                None => {
                    let rolled_up = rolled_up(definition, states, granularity).await?;
                    rows.extend(finished(definition, definition.merge(rolled_up).await?, granularity).await?);
                }
            },
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

async fn finished(definition: &Definition, states: States, granularity: Granularity) -> Result<Vec<RecordBatch>> {
    let merged = definition.merge([states]).await?;
    Ok(definition.finish_one(&merged, granularity).await?.rows)
}

/// States by the windows of `granularity`, several for a window where its base windows do not fit together.
async fn rolled_up(definition: &Definition, states: States, granularity: Granularity) -> Result<Vec<States>> {
    let (mut rolled_up, mut left) = (Vec::new(), vec![states]);
    while let Some(states) = left.pop() {
        let some = match definition.merge([states.clone()]).await {
            Ok(merged) => definition.rollup(&merged, granularity).await,
            Err(error) => Err(error),
        };
        match some {
            Ok(some) => rolled_up.push(some),
            Err(error) => {
                let middle = states.span().and_then(middle).filter(|_| is_out_of_memory(&error));
                let Some(at) = middle else { return Err(error) };
                let (before, after) = states.split(at)?;
                left.extend([after, before]);
            }
        }
    }
    Ok(rolled_up)
}

/// The middle of a span, if it is not at its start.
fn middle(span: Window) -> Option<Instant> {
    let at = Instant(span.start.0 + (span.end.0 - span.start.0) / 2);
    (at > span.start).then_some(at)
}

/// Where a window of `granularity` ends and another begins, about in the middle; `None` if all states are of one window.
fn between(definition: &Definition, granularity: Granularity, states: &States) -> Result<Option<Instant>> {
    let Some((span, at)) = states.span().and_then(|span| Some((span, middle(span)?))) else { return Ok(None) };
    let window = window_of(granularity, &definition.zone, at).map_err(out)?;
    let is_inside = |at: &Instant| span.start < *at && *at < span.end;
    Ok([window.start, window.end].into_iter().find(is_inside))
}

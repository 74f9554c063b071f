//! Windows in pieces, where their values after every step would take too much memory at once.
//!
//! Invariant P1: each window is in one piece, with its pins.

use super::windows::{Looks, Subject};
use crate::batch::primitive;
use crate::error::Result;
use arrow::datatypes::TimestampMicrosecondType;
use deltaworks_core::windows::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that one row (a window and a key) takes while it is looked at: its values after each step, its keys, and what
/// is compared.
const ROW_BYTES: usize = 2 << 10;
/// Rows of a piece in any case.
const ROWS_MIN: usize = 1_000;

/// The windows of all units, in pieces that take about `memory_bytes`; in each, the windows of every unit.
///
/// # Errors
/// Rows lack their windows, which is a bug.
pub(super) fn pieces(looks: &[Looks], subjects: &[Subject<'_>], memory_bytes: usize) -> Result<Vec<Vec<Looks>>> {
    let mut rows: Vec<(Instant, usize, usize)> = Vec::new();
    for (number, (look, subject)) in looks.iter().zip(subjects).enumerate() {
        let mut counts: BTreeMap<Instant, usize> = look.windows.keys().map(|start| (*start, 1)).collect();
        for batch in subject.batch.iter().chain([&subject.rows]) {
            for start in primitive::<TimestampMicrosecondType>(batch, "window_start")?.values() {
                if let Some(count) = counts.get_mut(&Instant(*start)) {
                    *count += 1;
                }
            }
        }
        rows.extend(counts.into_iter().map(|(start, count)| (start, number, count)));
    }
    rows.sort_unstable();
    let rows_max = (memory_bytes / ROW_BYTES).max(ROWS_MIN);
    let (mut pieces, mut held) = (Vec::new(), 0);
    let mut piece: Vec<BTreeSet<Instant>> = vec![BTreeSet::new(); looks.len()];
    for (start, number, count) in rows {
        if held > 0 && held + count > rows_max {
            pieces.push(cut(looks, &piece));
            piece.iter_mut().for_each(BTreeSet::clear);
            held = 0;
        }
        held += count;
        if let Some(starts) = piece.get_mut(number) {
            starts.insert(start);
        }
    }
    if held > 0 {
        pieces.push(cut(looks, &piece));
    }
    Ok(pieces)
}

/// The windows with these starts.
fn cut(looks: &[Looks], starts: &[BTreeSet<Instant>]) -> Vec<Looks> {
    let cut = |(look, starts): (&Looks, &BTreeSet<Instant>)| {
        let windows = look.windows.iter().filter(|(start, _)| starts.contains(start));
        let by_pins = look.by_pins.iter().filter_map(|(pins, windows)| {
            let some: Vec<_> = windows.iter().filter(|window| starts.contains(&window.start)).copied().collect();
            (!some.is_empty()).then(|| (pins.clone(), some))
        });
        Looks { windows: windows.map(|(start, looked)| (*start, *looked)).collect(), by_pins: by_pins.collect() }
    };
    looks.iter().zip(starts).map(cut).collect()
}

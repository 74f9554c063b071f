//! May these ranges of offsets be appended to a speed table on this snapshot?
//!
//! Asked before every attempt, on the very snapshot that the attempt is built from, and again after a
//! conflict or an unknown outcome. Partitions are independent of each other: another process may have
//! caught one up from raw meanwhile. Per partition, with the table's `next` and the range `[from, to)`:
//!
//! | table's `next` | the range |
//! |---|---|
//! | at or beyond `to` | is there already: ours, or caught up by another |
//! | equals `from` | is appended |
//! | below `from` | follows a gap: what is missing comes from raw first |
//! | between `from` and `to` | overlaps: refused, since raw commits ranges as a whole |
//!
//! Invariants: R1 what is appended begins where the table ends, so no row is in twice and none is jumped;
//! R2 one overlap refuses all.

use crate::commit_plan::Claim;
use crate::place::{Offset, OffsetRange};
use std::collections::BTreeMap;

/// What to do with the ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Append those of these partitions, at least one; the others are there.
    Append(Vec<i32>),
    /// All of them are there: done.
    AlreadyThere,
    /// Rows between the table's progress and a range are missing.
    CatchUp(Vec<Gap>),
    /// A range lies across the table's progress.
    Refused(Vec<Collision>),
}

/// Offsets between a table's progress and a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Partition.
    pub partition: i32,
    /// What is missing.
    pub missing: OffsetRange,
}

/// A range that lies across a table's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collision {
    /// Partition.
    pub partition: i32,
    /// The range.
    pub range: OffsetRange,
    /// The table's progress.
    pub next: Offset,
}

/// Two ranges that share offsets, and are not the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the offsets {0} and {1} overlap")]
pub struct Overlapping(pub OffsetRange, pub OffsetRange);

/// Judges ranges against the table's `next` per partition; one without an entry stands at 0.
pub fn judge(claims: &[Claim], next: &BTreeMap<i32, Offset>) -> Verdict {
    let (mut append, mut gaps, mut collisions) = (Vec::new(), Vec::new(), Vec::new());
    for Claim { partition, range } in claims.iter().copied() {
        let next = next.get(&partition).copied().unwrap_or(Offset(0));
        if next >= range.to {
            continue;
        } else if next == range.from {
            append.push(partition);
        } else if next < range.from {
            gaps.push(Gap { partition, missing: OffsetRange { from: next, to: range.from } });
        } else {
            collisions.push(Collision { partition, range, next });
        }
    }
    match (collisions.is_empty(), gaps.is_empty(), append.is_empty()) {
        (false, ..) => Verdict::Refused(collisions),
        (true, false, _) => Verdict::CatchUp(gaps),
        (true, true, false) => Verdict::Append(append),
        (true, true, true) => Verdict::AlreadyThere,
    }
}

/// The range that states of these ranges have once they are merged; `None` without any. Equal ranges are
/// parts of one commit. Holes stay inside: no row of theirs fell into these windows.
///
/// # Errors
/// Two ranges share offsets and differ, so rows would be counted twice.
pub fn joined(ranges: impl IntoIterator<Item = OffsetRange>) -> Result<Option<OffsetRange>, Overlapping> {
    let mut ranges: Vec<OffsetRange> = ranges.into_iter().collect();
    ranges.sort_unstable_by_key(|range| (range.from, range.to));
    ranges.dedup();
    let overlap = ranges.windows(2).find(|pair| pair[1].from < pair[0].to);
    if let Some(pair) = overlap {
        return Err(Overlapping(pair[0], pair[1]));
    }
    let (first, last) = (ranges.first(), ranges.last());
    Ok(first.zip(last).map(|(first, last)| OffsetRange { from: first.from, to: last.to }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    /// From and to.
    type Ends = (i64, i64);

    const RANGE: OffsetRange = OffsetRange { from: Offset(5), to: Offset(9) };

    fn claim(partition: i32, from: i64, to: i64) -> Claim {
        Claim { partition, range: OffsetRange::new(from, to) }
    }
    fn at(entries: &[(i32, i64)]) -> BTreeMap<i32, Offset> {
        entries.iter().map(|&(p, o)| (p, Offset(o))).collect()
    }
    fn gap(partition: i32, from: i64, to: i64) -> Gap {
        Gap { partition, missing: OffsetRange::new(from, to) }
    }

    #[rstest]
    #[case::begins_where_the_table_ends(5, Verdict::Append(vec![0]))]
    #[case::lost_reply(9, Verdict::AlreadyThere)]
    #[case::caught_up_beyond(12, Verdict::AlreadyThere)]
    #[case::gap(3, Verdict::CatchUp(vec![gap(0, 3, 5)]))]
    #[case::first_offset_of_it(6, Verdict::Refused(vec![Collision { partition: 0, range: RANGE, next: Offset(6) }]))]
    #[case::last_offset_of_it(8, Verdict::Refused(vec![Collision { partition: 0, range: RANGE, next: Offset(8) }]))]
    fn one_partition(#[case] next: i64, #[case] expected: Verdict) {
        assert_eq!(judge(&[Claim { partition: 0, range: RANGE }], &at(&[(0, next)])), expected);
    }

    #[rstest]
    #[case::from_the_beginning(0, 4, Verdict::Append(vec![7]))]
    #[case::raw_began_further_up(3, 4, Verdict::CatchUp(vec![gap(7, 0, 3)]))]
    #[case::nothing_at_all(0, 0, Verdict::AlreadyThere)]
    #[case::nothing_further_up(3, 3, Verdict::CatchUp(vec![gap(7, 0, 3)]))]
    fn a_partition_that_is_not_in(#[case] from: i64, #[case] to: i64, #[case] expected: Verdict) {
        assert_eq!(judge(&[claim(7, from, to)], &at(&[(0, 9)])), expected);
    }

    #[rstest]
    #[case::both_follow(&[(0, 5), (1, 0)], Verdict::Append(vec![0, 1]))]
    #[case::one_was_caught_up_by_another(&[(0, 9), (1, 0)], Verdict::Append(vec![1]))]
    #[case::a_gap_in_one_holds_both(&[(0, 5), (1, -2)], Verdict::CatchUp(vec![gap(1, -2, 0)]))]
    #[case::an_overlap_in_one_refuses_all(
        &[(0, 2), (1, 1)],
        Verdict::Refused(vec![Collision { partition: 1, range: OffsetRange::new(0, 3), next: Offset(1) }])
    )]
    #[case::both_are_there(&[(0, 9), (1, 3)], Verdict::AlreadyThere)]
    fn several_partitions(#[case] next: &[(i32, i64)], #[case] expected: Verdict) {
        assert_eq!(judge(&[claim(0, 5, 9), claim(1, 0, 3)], &at(next)), expected);
    }

    #[rstest]
    #[case::none(&[], Ok(None))]
    #[case::contiguous(&[(5, 9), (0, 5)], Ok(Some((0, 9))))]
    #[case::with_a_hole(&[(0, 2), (7, 9)], Ok(Some((0, 9))))]
    #[case::parts_of_one_commit(&[(0, 2), (2, 9), (0, 2)], Ok(Some((0, 9))))]
    #[case::overlap(&[(0, 5), (4, 9)], Err(((0, 5), (4, 9))))]
    #[case::inside(&[(0, 9), (3, 4)], Err(((0, 9), (3, 4))))]
    #[case::same_beginning(&[(0, 9), (0, 4)], Err(((0, 4), (0, 9))))]
    fn ranges_are_joined(#[case] ranges: &[(i64, i64)], #[case] expected: Result<Option<Ends>, (Ends, Ends)>) {
        let range = |(from, to): (i64, i64)| OffsetRange::new(from, to);
        let expected = expected.map(|r| r.map(range)).map_err(|(a, b)| Overlapping(range(a), range(b)));
        assert_eq!(joined(ranges.iter().map(|r| range(*r))), expected);
    }

    proptest! {
        /// However landing cuts the offsets, and whoever commits what twice: each offset is in once.
        #[test]
        fn every_offset_is_in_once(cuts in prop::collection::btree_set(1_i64..40, 1..8), tries in prop::collection::vec(0_usize..8, 0..40)) {
            let ends: Vec<i64> = cuts.into_iter().collect();
            let ranges: Vec<(i64, i64)> = std::iter::once(0).chain(ends.iter().copied()).zip(ends.iter().copied()).collect();
            let (mut next, mut seen) = (at(&[]), Vec::new());
            for n in tries {
                let (from, to) = ranges[n % ranges.len()];
                match judge(&[claim(0, from, to)], &next) {
                    Verdict::Append(_) => {
                        seen.extend(from..to);
                        next.insert(0, Offset(to));
                    }
                    Verdict::AlreadyThere => prop_assert!((from..to).all(|o| seen.contains(&o))),
                    Verdict::CatchUp(gaps) => prop_assert_eq!(gaps[0].missing.from.0, seen.len() as i64),
                    Verdict::Refused(_) => prop_assert!(false, "raw's ranges never lie across each other"),
                }
            }
            prop_assert_eq!(seen.clone(), (0..seen.len() as i64).collect::<Vec<_>>());
        }
    }
}

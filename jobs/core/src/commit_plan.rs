//! May this flush be committed on this snapshot of the table?
//!
//! Asked before every attempt, on the very snapshot that the attempt is built from, and again after
//! a conflict or an unknown outcome. The log's `next` per partition is the only fact that counts:
//!
//! | log's `next`, for every partition of the flush | verdict |
//! |---|---|
//! | equals the flush's `from` | `Commit` |
//! | equals the flush's `to`, and some range is not empty | `AlreadyThere` |
//! | anything else, also a mixture | `Elsewhere`: somebody else owns the partition, or the table went back |
//!
//! Invariants: P1 a flush whose first offset is not the snapshot's `next` is never committed, so no
//! offset lands twice and none is jumped; P2 a flush is there as a whole or not at all, because its
//! commit is one file.

use crate::place::{Offset, OffsetRange};
use std::collections::BTreeMap;

/// The range of one partition in a flush. Its beginning is in the log before the first message is
/// read: taking over a partition without progress commits its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Partition number.
    pub partition: i32,
    /// Offsets that the flush covers.
    pub range: OffsetRange,
}

/// What to do with the flush.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Commit it on this snapshot.
    Commit,
    /// It is in the log already: done.
    AlreadyThere,
    /// Drop the whole flush and go to these offsets; `None` where the log has no progress.
    Elsewhere(Vec<(i32, Option<Offset>)>),
}

/// Judges a flush against the log's `next` per partition.
pub fn judge(claims: &[Claim], log: &BTreeMap<i32, Offset>) -> Verdict {
    let next = |c: &Claim| log.get(&c.partition).copied();
    if claims.iter().all(|c| next(c) == Some(c.range.from)) {
        return Verdict::Commit;
    }
    if claims.iter().all(|c| next(c) == Some(c.range.to)) && claims.iter().any(|c| !c.range.is_empty()) {
        return Verdict::AlreadyThere;
    }
    Verdict::Elsewhere(claims.iter().map(|c| (c.partition, next(c))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(partition: i32, from: i64, to: i64) -> Claim {
        Claim { partition, range: OffsetRange::new(from, to) }
    }
    fn log(entries: &[(i32, i64)]) -> BTreeMap<i32, Offset> {
        entries.iter().map(|&(p, o)| (p, Offset(o))).collect()
    }

    #[test]
    fn truth_table() {
        let flush = [claim(0, 5, 9), claim(1, 0, 3)];
        assert_eq!(judge(&flush, &log(&[(0, 5), (1, 0)])), Verdict::Commit);
        assert_eq!(judge(&flush, &log(&[(0, 9), (1, 3)])), Verdict::AlreadyThere);
        for other in [[(0, 9), (1, 0)], [(0, 5), (1, 3)], [(0, 7), (1, 0)], [(0, 4), (1, 0)], [(0, 10), (1, 3)]] {
            let want = other.iter().map(|&(p, o)| (p, Some(Offset(o)))).collect();
            assert_eq!(judge(&flush, &log(&other)), Verdict::Elsewhere(want), "{other:?}");
        }
    }

    #[test]
    fn progress_that_vanished_is_never_guessed() {
        assert_eq!(judge(&[claim(0, 5, 9)], &log(&[])), Verdict::Elsewhere(vec![(0, None)]));
    }

    #[test]
    fn a_heartbeat_is_committed_not_taken_for_done() {
        assert_eq!(judge(&[claim(0, 5, 5)], &log(&[(0, 5)])), Verdict::Commit);
    }

    proptest! {
        /// Two owners with overlapping claims: whichever commits first, the other is refused.
        #[test]
        fn no_two_overlapping_claims_both_commit(start in 0i64..5, a in 1i64..9, b in 1i64..9) {
            let mut next = log(&[(0, start)]);
            let (x, y) = ([claim(0, start, start + a)], [claim(0, start, start + b)]);
            prop_assert_eq!(judge(&x, &next), Verdict::Commit);
            next.insert(0, x[0].range.to);
            prop_assert_ne!(judge(&y, &next), Verdict::Commit);
        }
    }
}

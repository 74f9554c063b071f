//! Whether what the raw commits said of one partition joins, from the first offset landed to the next to
//! read, without a hole.

use crate::place::{Offset, OffsetRange};

/// What one raw commit said of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Version of the raw table.
    pub version: i64,
    /// The offsets that it was about.
    pub range: OffsetRange,
    /// Rows that went to raw.
    pub landed: u64,
    /// Messages that went to rejects.
    pub rejected: u64,
    /// Messages left out by a rule.
    pub skipped: u64,
    /// Offsets that hold no readable message.
    pub gaps: Vec<OffsetRange>,
}

/// What does not join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Offsets between two commits that neither is about.
    #[error("nothing is told of offsets {missing}, before version {version}")]
    Hole {
        /// The offsets.
        missing: OffsetRange,
        /// The commit after them.
        version: i64,
    },
    /// A commit is about offsets that an earlier one was about.
    #[error("version {version} begins at {from}, and offsets below {before} were told of before")]
    Twice {
        /// The later commit.
        version: i64,
        /// Where it begins.
        from: Offset,
        /// Where the earlier one ended.
        before: Offset,
    },
    /// landed + rejected + skipped + gaps is not the number of offsets.
    #[error("version {version} tells of {range}, {offsets} offsets, and counts {counted}")]
    Unbalanced {
        /// The commit.
        version: i64,
        /// Its offsets.
        range: OffsetRange,
        /// How many there are.
        offsets: u64,
        /// How many it counts.
        counted: u64,
    },
    /// A gap lies outside its commit's offsets.
    #[error("version {version} tells of {range}, and of a gap {gap}")]
    Outside {
        /// The commit.
        version: i64,
        /// Its offsets.
        range: OffsetRange,
        /// The gap.
        gap: OffsetRange,
    },
    /// The last commit ends elsewhere than the progress of the raw table.
    #[error("what is told ends at {told}, and the raw table reads on at {next}")]
    End {
        /// Where the last commit ends.
        told: Offset,
        /// The next offset to read.
        next: Offset,
    },
}

/// Everything that does not join in one partition; `told` in the order of versions.
#[must_use]
pub fn flaws(told: &[Told], next: Offset) -> Vec<Flaw> {
    let mut found = Vec::new();
    let mut at: Option<Offset> = None;
    for Told { version, range, landed, rejected, skipped, gaps } in told {
        let (version, range) = (*version, *range);
        match at {
            Some(before) if before < range.from => {
                found.push(Flaw::Hole { missing: OffsetRange { from: before, to: range.from }, version });
            }
            Some(before) if before > range.from => found.push(Flaw::Twice { version, from: range.from, before }),
            _ => {}
        }
        let counted = landed + rejected + skipped + gaps.iter().map(|gap| gap.len()).sum::<u64>();
        if counted != range.len() || range.to < range.from {
            found.push(Flaw::Unbalanced { version, range, offsets: range.len(), counted });
        }
        let outside = |gap: &&OffsetRange| gap.from < range.from || gap.to > range.to;
        found.extend(gaps.iter().filter(outside).map(|gap| Flaw::Outside { version, range, gap: *gap }));
        at = Some(at.map_or(range.to, |before| before.max(range.to)));
    }
    match at {
        Some(told) if told != next => found.push(Flaw::End { told, next }),
        None if next > Offset(0) => found.push(Flaw::End { told: Offset(0), next }),
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn told(version: i64, from: i64, to: i64, gaps: &[(i64, i64)]) -> Told {
        let gaps: Vec<OffsetRange> = gaps.iter().map(|(from, to)| OffsetRange::new(*from, *to)).collect();
        let empty: u64 = gaps.iter().map(|gap| gap.len()).sum();
        let (range, landed) = (OffsetRange::new(from, to), (to - from) as u64 - empty);
        Told { version, range, landed, rejected: 0, skipped: 0, gaps }
    }

    #[test]
    fn what_joins_has_no_flaws() {
        let whole = [told(1, 5, 9, &[]), told(2, 9, 9, &[]), told(4, 9, 20, &[(10, 12), (19, 20)])];
        assert_eq!(flaws(&whole, Offset(20)), []);
        assert_eq!(flaws(&[], Offset(0)), []);
    }

    #[rstest]
    #[case::hole([told(1, 0, 4, &[]), told(2, 6, 9, &[])], 9, "nothing is told of offsets [4, 6), before version 2")]
    #[case::twice([told(1, 0, 4, &[]), told(2, 3, 9, &[])], 9, "version 2 begins at 3, and offsets below 4 were told of before")]
    #[case::short([told(1, 0, 4, &[]), told(2, 4, 9, &[])], 8, "what is told ends at 9, and the raw table reads on at 8")]
    #[case::long([told(1, 0, 4, &[]), told(2, 4, 9, &[])], 10, "what is told ends at 9, and the raw table reads on at 10")]
    #[case::gap([told(1, 0, 4, &[]), told(2, 4, 9, &[(8, 10)])], 9, "version 2 tells of [4, 9), and of a gap [8, 10)")]
    #[case::count([told(1, 0, 4, &[]), Told { landed: 4, ..told(2, 4, 9, &[]) }], 9, "version 2 tells of [4, 9), 5 offsets, and counts 4")]
    fn what_does_not_join_is_named(#[case] told: [Told; 2], #[case] next: i64, #[case] expected: &str) {
        let found: Vec<String> = flaws(&told, Offset(next)).iter().map(ToString::to_string).collect();
        assert_eq!(found, [expected]);
    }

    #[test]
    fn progress_that_nobody_told_of_is_a_flaw() {
        assert_eq!(flaws(&[], Offset(3)), [Flaw::End { told: Offset(0), next: Offset(3) }]);
    }
}

//! May a computed unit be published? Only if every row that was read is accounted for.
//!
//! `replaceWhere` with no rows deletes what was published, so an empty unit is the one result that a bug
//! and a legal outcome share: a filter that matched nothing, rows that turned out to be duplicates, HAVING.
//! It is published as empty only if the counts say which of these it was.
//!
//! Counts are of raw rows whose event time lies in the unit's covered windows, but for `read` and
//! `expected`, which are of whole event dates. Invariants: B1 rows read equal the `numRecords` of the files
//! of the pin; B2 landed = counted + duplicates + filtered; B3 what is empty is explained.

use serde::Serialize;

/// What happened to the rows of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Rows that the files of the unit's event dates hold, as the Delta log says (`numRecords`), less
    /// those that the pin does not contain.
    pub expected: u64,
    /// Rows read from these files and contained in the pin.
    pub read: u64,
    /// Rows read that lie in covered windows of the unit.
    pub landed: u64,
    /// Of these: rows that went into an aggregate.
    pub counted: u64,
    /// Of these: rows with an equal id before them.
    pub duplicates: u64,
    /// Of these: rows that WHERE, or an inner join with a lookup, left out.
    pub filtered: u64,
    /// Windows with their keys that rows were counted in.
    pub groups: u64,
    /// Windows with their keys that HAVING left, which are the rows to publish.
    pub rows: u64,
}

/// What the counts say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "balance")]
#[must_use]
pub enum Verdict {
    /// Publish the rows.
    Publish,
    /// Publish the unit as empty.
    PublishEmpty {
        /// Why it is.
        why: Empty,
    },
    /// Publish nothing: something counted wrong.
    Broken {
        /// What does not fit.
        what: Imbalance,
    },
}

/// Why a unit has no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Empty {
    /// No raw row lies in its covered windows.
    NothingLanded,
    /// All rows are duplicates of rows elsewhere, or filtered.
    NothingCounted,
    /// HAVING removed every group.
    Having,
}

/// What does not fit. A bug, or a table broken from outside; another run gives the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "imbalance")]
pub enum Imbalance {
    /// B1: files were read in part, or more than once.
    #[error("{read} rows were read where the log says {expected}")]
    Read {
        /// Rows read.
        read: u64,
        /// Rows there are.
        expected: u64,
    },
    /// More rows in windows than were read at all.
    #[error("{landed} rows lie in the windows, and only {read} were read")]
    Windows {
        /// Rows in windows.
        landed: u64,
        /// Rows read.
        read: u64,
    },
    /// B2: a row has no fate, or two.
    #[error("{landed} rows landed, but {counted} counted + {duplicates} duplicates + {filtered} filtered")]
    Rows {
        /// Rows in windows.
        landed: u64,
        /// Counted.
        counted: u64,
        /// Duplicates.
        duplicates: u64,
        /// Filtered.
        filtered: u64,
    },
    /// B3: more groups than rows, no group although rows were counted, or more rows out than groups.
    #[error("{counted} rows were counted in {groups} groups, of which {rows} are left")]
    Groups {
        /// Rows counted.
        counted: u64,
        /// Groups before HAVING.
        groups: u64,
        /// Groups after.
        rows: u64,
    },
    /// Groups are gone, and the aggregate has no HAVING that could have removed them.
    #[error("{groups} groups were counted and {rows} are left, without HAVING")]
    Lost {
        /// Groups before.
        groups: u64,
        /// Groups after.
        rows: u64,
    },
}

/// Judges the counts of one unit; `having` says whether the aggregate may remove groups.
pub fn judge(counts: &Counts, having: bool) -> Verdict {
    if let Err(what) = check(counts, having) {
        return Verdict::Broken { what };
    }
    match *counts {
        Counts { rows: 1.., .. } => Verdict::Publish,
        Counts { counted: 1.., .. } => Verdict::PublishEmpty { why: Empty::Having },
        Counts { landed: 1.., .. } => Verdict::PublishEmpty { why: Empty::NothingCounted },
        _ => Verdict::PublishEmpty { why: Empty::NothingLanded },
    }
}

fn check(counts: &Counts, having: bool) -> Result<(), Imbalance> {
    let Counts { expected, read, landed, counted, duplicates, filtered, groups, rows } = *counts;
    if read != expected {
        return Err(Imbalance::Read { read, expected });
    }
    if landed > read {
        return Err(Imbalance::Windows { landed, read });
    }
    let fates = counted.checked_add(duplicates).and_then(|sum| sum.checked_add(filtered));
    if fates != Some(landed) {
        return Err(Imbalance::Rows { landed, counted, duplicates, filtered });
    }
    if groups > counted || (groups == 0 && counted > 0) || rows > groups {
        return Err(Imbalance::Groups { counted, groups, rows });
    }
    if rows < groups && !having {
        return Err(Imbalance::Lost { groups, rows });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::collections::BTreeSet;

    /// 10 rows in 3 groups: 7 counted, 2 duplicates, 1 filtered; 5 more in other windows of the dates.
    const GOOD: Counts =
        Counts { expected: 15, read: 15, landed: 10, counted: 7, duplicates: 2, filtered: 1, groups: 3, rows: 3 };

    #[rstest]
    #[case::good(GOOD, false, Verdict::Publish)]
    #[case::having(Counts { rows: 1, ..GOOD }, true, Verdict::Publish)]
    #[case::having_removed_all(Counts { rows: 0, ..GOOD }, true, Verdict::PublishEmpty { why: Empty::Having })]
    #[case::all_filtered(
        Counts { counted: 0, filtered: 8, groups: 0, rows: 0, ..GOOD }, false,
        Verdict::PublishEmpty { why: Empty::NothingCounted }
    )]
    #[case::all_duplicates(
        Counts { counted: 0, duplicates: 10, filtered: 0, groups: 0, rows: 0, ..GOOD }, true,
        Verdict::PublishEmpty { why: Empty::NothingCounted }
    )]
    #[case::only_other_windows(
        Counts { expected: 15, read: 15, ..Counts::default() }, false,
        Verdict::PublishEmpty { why: Empty::NothingLanded }
    )]
    #[case::no_rows_at_all(Counts::default(), false, Verdict::PublishEmpty { why: Empty::NothingLanded })]
    fn published(#[case] counts: Counts, #[case] having: bool, #[case] verdict: Verdict) {
        assert_eq!(judge(&counts, having), verdict);
    }

    #[rstest]
    #[case::nothing_read(Counts { expected: 15, ..Counts::default() }, "0 rows were read where the log says 15")]
    #[case::read_twice(Counts { read: 30, ..GOOD }, "30 rows were read where the log says 15")]
    #[case::too_many_in_windows(
        Counts { expected: 9, read: 9, ..GOOD }, "10 rows lie in the windows, and only 9 were read"
    )]
    #[case::a_row_without_fate(
        Counts { counted: 6, ..GOOD }, "10 rows landed, but 6 counted + 2 duplicates + 1 filtered"
    )]
    #[case::a_row_with_two(
        Counts { duplicates: 3, ..GOOD }, "10 rows landed, but 7 counted + 3 duplicates + 1 filtered"
    )]
    #[case::overflow(
        Counts { counted: u64::MAX, duplicates: 11, filtered: 0, ..GOOD },
        "10 rows landed, but 18446744073709551615 counted + 11 duplicates + 0 filtered"
    )]
    #[case::empty_although_counted(
        Counts { groups: 0, rows: 0, ..GOOD }, "7 rows were counted in 0 groups, of which 0 are left"
    )]
    #[case::groups_of_nothing(
        Counts { counted: 0, filtered: 8, ..GOOD }, "0 rows were counted in 3 groups, of which 3 are left"
    )]
    #[case::more_groups_than_rows(
        Counts { groups: 8, rows: 8, ..GOOD }, "7 rows were counted in 8 groups, of which 8 are left"
    )]
    #[case::groups_doubled(Counts { rows: 6, ..GOOD }, "7 rows were counted in 3 groups, of which 6 are left")]
    fn refused(#[case] counts: Counts, #[case] message: &str) {
        for having in [false, true] {
            let Verdict::Broken { what } = judge(&counts, having) else { panic!("{counts:?} was let through") };
            assert_eq!(what.to_string(), message);
        }
    }

    #[test]
    fn groups_are_lost_only_without_having() {
        let lost = Counts { rows: 0, ..GOOD };
        let what = Imbalance::Lost { groups: 3, rows: 0 };
        assert_eq!(judge(&lost, false), Verdict::Broken { what });
        assert_eq!(what.to_string(), "3 groups were counted and 0 are left, without HAVING");
    }

    proptest! {
        #[test]
        fn rows_dealt_out_balance_and_one_wrong_count_does_not(
            // per row: other window, counted, duplicate or filtered; and its group
            fates in prop::collection::vec((0u8..4, 0u8..3), 0..12),
            having in any::<bool>(),
            kept in 0u64..3,
            which in 0usize..6,
        ) {
            let n = |fate| fates.iter().filter(|(f, _)| *f == fate).count() as u64;
            let counted_in: BTreeSet<_> = fates.iter().filter(|(f, _)| *f == 1).map(|(_, group)| group).collect();
            let groups = counted_in.len() as u64;
            let all = fates.len() as u64;
            let rows = if having { kept.min(groups) } else { groups };
            let (landed, counted, duplicates, filtered) = (all - n(0), n(1), n(2), n(3));
            let counts = Counts { expected: all, read: all, landed, counted, duplicates, filtered, groups, rows };
            match judge(&counts, having) {
                Verdict::Publish => prop_assert!(rows > 0),
                Verdict::PublishEmpty { why } => {
                    prop_assert_eq!(rows, 0);
                    prop_assert_eq!(why == Empty::Having, groups > 0);
                    prop_assert_eq!(why == Empty::NothingLanded, n(0) == all);
                }
                Verdict::Broken { what } => prop_assert!(false, "{what}"),
            }
            let mut wrong = counts;
            let Counts { expected, read, landed, counted, duplicates, filtered, .. } = &mut wrong;
            *[expected, read, landed, counted, duplicates, filtered][which] += 1;
            let broken = matches!(judge(&wrong, having), Verdict::Broken { .. });
            prop_assert!(broken, "{:?}", wrong);
        }
    }
}

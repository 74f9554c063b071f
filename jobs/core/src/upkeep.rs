//! What upkeep does to a table: which files become larger ones, which may go, when a checkpoint is due.
//!
//! Nothing here reads or writes: `jobs::upkeep` fetches listings and carries the verdicts out.
//!
//! Invariants: M1 a rewrite leaves fewer files than it takes, so a table that is compacted again and again comes to
//! rest; M2 a file that any version needs which was the newest at or after the limit is never unneeded, whatever
//! its age.

pub mod retention;

use jiff::civil::Date;
use std::collections::BTreeMap;

/// Versions after a checkpoint that make the next one due, where it holds little.
pub const VERSIONS_PER_CHECKPOINT_MIN: i64 = 20;

/// The same, however much it holds.
pub const VERSIONS_PER_CHECKPOINT_MAX: i64 = 100;

/// A checkpoint waits one version longer for so many actions.
const ACTIONS_PER_VERSION: u64 = 40;

/// Small files of a date that make it due to be compacted, where nobody asks for more.
pub const FILES_DUE: u64 = 16;

/// Size of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSize {
    /// Bytes.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
}

/// Small files to be written anew as fewer, larger ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// Positions of the small files.
    pub files: Vec<usize>,
    /// Files that come in their place; none for no rows.
    pub files_after: u64,
    /// Rows of each of them, but for the last; at least 1.
    pub rows_per_file: u64,
}

/// What to do about a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// Write one of the newest version.
    Write,
    /// There are too few versions after the last one.
    NotDue,
    /// The newest version has one.
    AlreadyThere,
}

/// The newest checkpoint of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCheckpoint {
    /// Its version.
    pub version: i64,
    /// Actions in it, of which most are files; 0 where that is not known.
    pub actions: u64,
}

/// What becomes of a file in a table's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A version needs it that may still be read.
    Needed,
    /// No version needs it yet: its writer may be slow.
    Young,
    /// It may go.
    Unneeded,
}

/// Txn entries of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    /// The part of their ids that says what they are.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// Least and greatest value.
    pub range: (i64, i64),
}

/// Which files of one partition are too small beside `target_bytes`, and what comes in their place; `None` if it
/// would not be fewer.
#[must_use]
pub fn rewrite(files: &[FileSize], target_bytes: u64) -> Option<Rewrite> {
    let target = u128::from(target_bytes.max(1));
    let is_small = |size: &FileSize| u128::from(size.bytes) * 4 < target * 3;
    let small: Vec<usize> = files.iter().enumerate().filter(|(_, size)| is_small(size)).map(|(n, _)| n).collect();
    let bytes: u128 = small.iter().map(|n| u128::from(files[*n].bytes)).sum();
    let rows: u64 = small.iter().map(|n| files[*n].rows).sum();
    let after = u64::try_from(bytes.div_ceil(target)).unwrap_or(u64::MAX).max(1);
    let fewer = usize::try_from(after).is_ok_and(|after| after < small.len());
    let rows_per_file = rows.div_ceil(after).max(1);
    fewer.then(|| Rewrite { files: small, files_after: rows.div_ceil(rows_per_file), rows_per_file })
}

/// The version from which on a checkpoint is due after the last one. It takes as long to write as it is large, so the
/// larger the last one was, the more commits share the time of the next.
#[must_use]
pub fn checkpoint_due(last: Option<LastCheckpoint>) -> i64 {
    let (version, actions) = last.map_or((-1, 0), |last| (last.version, last.actions));
    let versions = i64::try_from(actions / ACTIONS_PER_VERSION).unwrap_or(i64::MAX);
    version.saturating_add(versions.clamp(VERSIONS_PER_CHECKPOINT_MIN, VERSIONS_PER_CHECKPOINT_MAX))
}

/// Whether a checkpoint of `version` is due after the last one; `forced` asks for one now.
#[must_use]
pub fn checkpoint(version: i64, last: Option<LastCheckpoint>, forced: bool) -> Checkpoint {
    let since = versions_since(version, last);
    if since == 0 {
        Checkpoint::AlreadyThere
    } else if forced || version >= checkpoint_due(last) {
        Checkpoint::Write
    } else {
        Checkpoint::NotDue
    }
}

/// Commits that a reader has to pass after the last checkpoint.
#[must_use]
pub const fn versions_since(version: i64, last: Option<LastCheckpoint>) -> i64 {
    match last {
        Some(last) => version - last.version,
        None => version + 1,
    }
}

/// The fate of a file that was written at `written_ms`, where files may go that nobody has needed since
/// `limit_ms`.
#[must_use]
pub const fn fate(needed: bool, written_ms: i64, limit_ms: i64) -> Fate {
    match needed {
        true => Fate::Needed,
        false if written_ms >= limit_ms => Fate::Young,
        false => Fate::Unneeded,
    }
}

/// Txn entries by kind: `deltaworks/events/events/3/next` is a `next`, `…/rewritten/2026-01-05` a `rewritten`.
#[must_use]
pub fn summarize<'e>(entries: impl IntoIterator<Item = (&'e str, i64)>) -> Vec<Entries> {
    let mut kinds: BTreeMap<&str, Entries> = BTreeMap::new();
    for (id, value) in entries {
        let is_value = |part: &str| part.parse::<i64>().is_ok() || part.parse::<Date>().is_ok();
        let kind = id.rsplit('/').find(|part| !is_value(part)).unwrap_or(id);
        let known =
            kinds.entry(kind).or_insert_with(|| Entries { kind: kind.to_owned(), count: 0, range: (value, value) });
        known.count += 1;
        known.range = (known.range.0.min(value), known.range.1.max(value));
    }
    kinds.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case::none(&[], &[], 0)]
    #[case::one(&[5], &[], 0)]
    #[case::two(&[5, 5], &[0, 1], 1)]
    #[case::large_ones_stay(&[5, 80, 5, 75, 5], &[0, 2, 4], 1)]
    #[case::not_fewer(&[70, 70], &[], 0)]
    #[case::three_become_two(&[60, 60, 60], &[0, 1, 2], 2)]
    fn small_files_become_fewer(#[case] bytes: &[u64], #[case] small: &[usize], #[case] after: u64) {
        let files: Vec<FileSize> = bytes.iter().map(|bytes| FileSize { bytes: *bytes, rows: bytes * 10 }).collect();
        let found = rewrite(&files, 100).map(|r| (r.files, r.files_after));
        assert_eq!(found.unwrap_or_default(), (small.to_vec(), after));
    }

    proptest! {
        /// M1, and no file of the new ones has more rows than the others.
        #[test]
        fn a_rewrite_leaves_fewer_files(
            sizes in prop::collection::vec((0u64..2_000, 0u64..500), 0..40), target in 0u64..3_000,
        ) {
            let files: Vec<FileSize> = sizes.iter().map(|(bytes, rows)| FileSize { bytes: *bytes, rows: *rows }).collect();
            if let Some(found) = rewrite(&files, target) {
                prop_assert!(found.files_after < found.files.len() as u64);
                let rows: u64 = found.files.iter().map(|n| files[*n].rows).sum();
                prop_assert_eq!(rows.div_ceil(found.rows_per_file), found.files_after);
            }
        }
    }

    #[rstest]
    #[case(0, None, false, Checkpoint::NotDue)]
    #[case(0, None, true, Checkpoint::Write)]
    #[case(19, None, false, Checkpoint::Write)]
    #[case(18, None, false, Checkpoint::NotDue)]
    #[case(39, Some((20, 0)), false, Checkpoint::NotDue)]
    #[case(40, Some((20, 0)), false, Checkpoint::Write)]
    #[case(40, Some((40, 0)), true, Checkpoint::AlreadyThere)]
    #[case::large(69, Some((20, 2_000)), false, Checkpoint::NotDue)]
    #[case::large(70, Some((20, 2_000)), false, Checkpoint::Write)]
    #[case::huge(119, Some((20, u64::MAX)), false, Checkpoint::NotDue)]
    #[case::huge(120, Some((20, u64::MAX)), false, Checkpoint::Write)]
    #[case::wanted(40, Some((20, u64::MAX)), true, Checkpoint::Write)]
    fn checkpoints(
        #[case] version: i64,
        #[case] last: Option<(i64, u64)>,
        #[case] forced: bool,
        #[case] expected: Checkpoint,
    ) {
        let last = last.map(|(version, actions)| LastCheckpoint { version, actions });
        assert_eq!(checkpoint(version, last, forced), expected);
    }

    #[rstest]
    #[case(true, 0, 100, Fate::Needed)]
    #[case(true, 200, 100, Fate::Needed)]
    #[case(false, 100, 100, Fate::Young)]
    #[case(false, 99, 100, Fate::Unneeded)]
    fn fates(#[case] needed: bool, #[case] written: i64, #[case] limit: i64, #[case] expected: Fate) {
        assert_eq!(fate(needed, written, limit), expected);
    }

    #[test]
    fn entries_are_counted_by_kind() {
        let entries = [
            ("deltaworks/p/t/0/next", 7),
            ("deltaworks/p/t/1/next", 3),
            ("deltaworks/p/rewritten/2026-01-05", 1),
            ("deltaworks/raw.p/rewrite", 4),
        ];
        let found: Vec<_> = summarize(entries).into_iter().map(|e| (e.kind, e.count, e.range)).collect();
        let expected = [("next", 2, (3, 7)), ("rewrite", 1, (4, 4)), ("rewritten", 1, (1, 1))];
        assert_eq!(found, expected.map(|(kind, count, range)| (kind.to_owned(), count, range)));
    }
}

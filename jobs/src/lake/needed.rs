//! Which files of a table's folder its versions need, and the deletion of the others.
//!
//! What a version needs is known from the log alone: its live files at some version and everything added since
//! are all that any version from there on has ever held. So no tombstone has to be kept or trusted.
//!
//! Invariant N1: whoever asks lists the folder first and reads the log after it. A file that was committed in
//! between is then needed, and one that was written in between is not listed.

use super::log::Entry;
use super::table::Table;
use crate::{Class, Result};
use deltalake::logstore::object_store::{self, ObjectMeta, ObjectStore as _, path::Path};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeSet;

/// A data file in a table's folder, in the log or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    location: Path,
    /// Path below the table, as the store spells it.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// When it was written, by the store's clock, ms.
    pub written_ms: i64,
}

/// The files that some versions of a table need.
#[derive(Debug, Clone, Default)]
pub struct Needed {
    /// The first of the versions that follow one another.
    pub from_version: i64,
    locations: BTreeSet<Path>,
}

impl Needed {
    /// Whether one of the versions needs the file.
    #[must_use]
    pub fn has(&self, file: &StoredFile) -> bool {
        self.locations.contains(&file.location)
    }
}

impl Table {
    /// The data files in the table's folder: Parquet files that are not below a folder like `_delta_log`.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn stored_files(&self) -> Result<Vec<StoredFile>> {
        let root = self.sink().path;
        let listed = self.log.store.list(Some(&root)).try_collect::<Vec<ObjectMeta>>().await;
        let listed = listed.map_err(|e| self.log.store_error("cannot list its folder", e))?;
        let mut files: Vec<StoredFile> = listed.into_iter().filter_map(|meta| stored_file(&root, meta)).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// The files that this version needs, and every version that was the newest at or after `since_ms` by the
    /// store's clock. Where the log does not reach back so far, every version that it has.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn needed_since(&self, since_ms: i64) -> Result<Needed> {
        let listed = self.log.list(0).await?;
        let from_version = first_needed(&listed, since_ms).min(self.version());
        let mut needed = Needed { from_version, ..Needed::default() };
        self.need_version(&mut needed, from_version).await?;
        for path in self.changes_since(from_version).await?.added {
            needed.locations.insert(self.locate(&path)?);
        }
        Ok(needed)
    }

    /// Adds the files of one more version; `false` if the log no longer knows it.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn need_version(&self, needed: &mut Needed, version: i64) -> Result<bool> {
        let table = match self.lake.open_table_at(&self.name, version).await {
            Ok(table) => table,
            Err(e) if e.class == Class::User => return Ok(false),
            Err(e) => return Err(e),
        };
        for file in table.ok_or_else(|| self.log.error(Class::Outside, "the table is gone"))?.live_files().await? {
            needed.locations.insert(self.locate(&file.path)?);
        }
        Ok(true)
    }

    /// Deletes files; those that are gone already are no error. Looks at the newest version once more.
    ///
    /// # Errors
    /// A file is live; the store refuses to delete.
    pub async fn delete_stored(&mut self, files: &[StoredFile]) -> Result<()> {
        self.refresh().await?;
        let mut live = Needed::default();
        for file in self.live_files().await? {
            live.locations.insert(self.locate(&file.path)?);
        }
        if let Some(file) = files.iter().find(|file| live.has(file)) {
            return Err(self.log.error(Class::Internal, format!("`{}` is live and cannot be deleted", file.path)));
        }
        let locations: Vec<_> = files.iter().map(|file| Ok(file.location.clone())).collect();
        let mut deleted = self.log.store.delete_stream(futures::stream::iter(locations).boxed());
        while let Some(one) = deleted.next().await {
            match one {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(self.log.store_error("cannot delete a file", e)),
            }
        }
        Ok(())
    }
}

fn stored_file(root: &Path, meta: ObjectMeta) -> Option<StoredFile> {
    let below: Vec<_> = meta.location.prefix_match(root)?.map(|part| part.as_ref().to_owned()).collect();
    // Delta's own folders begin so; a partition column may too
    let hidden = below.iter().any(|part| part.starts_with('_') && !part.contains('='));
    let is_data = !hidden && below.last()?.ends_with(".parquet");
    is_data.then(|| StoredFile {
        path: below.join("/"),
        size: meta.size,
        written_ms: meta.last_modified.timestamp_millis(),
        location: meta.location,
    })
}

/// The version that was the newest at `since_ms`, or the first that can be read.
fn first_needed(listed: &[(Entry, ObjectMeta)], since_ms: i64) -> i64 {
    let commits: Vec<(i64, i64)> = listed
        .iter()
        .filter_map(|(e, meta)| match e {
            Entry::Commit(version) => Some((*version, meta.last_modified.timestamp_millis())),
            _ => None,
        })
        .collect();
    let young = commits.iter().find(|(_, at_ms)| *at_ms >= since_ms).map(|(version, _)| version - 1);
    let checkpoints = listed.iter().filter(|(e, _)| matches!(e, Entry::Checkpoint { .. })).map(|(e, _)| e.version());
    let readable = match commits.first() {
        Some((0, _)) => 0,
        _ => checkpoints.min().unwrap_or(0),
    };
    young.unwrap_or(i64::MAX).max(readable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn meta(name: &str, second: i64) -> ObjectMeta {
        let second = u64::try_from(second).unwrap();
        ObjectMeta {
            location: Path::from(format!("t/{name}")),
            last_modified: (std::time::UNIX_EPOCH + std::time::Duration::from_secs(second)).into(),
            size: 1,
            e_tag: None,
            version: None,
        }
    }

    /// One commit a second.
    fn log(commits: std::ops::Range<i64>, checkpoints: &[i64]) -> Vec<(Entry, ObjectMeta)> {
        let mut out: Vec<_> = commits.map(|v| (Entry::Commit(v), meta("c", v))).collect();
        out.extend(checkpoints.iter().map(|v| (Entry::Checkpoint { version: *v, part: 1, parts: 1 }, meta("p", *v))));
        out.sort_by_key(|(e, _)| e.version());
        out
    }

    #[rstest]
    #[case::in_between(log(0..10, &[]), 4_500, 4)]
    #[case::at_a_commit(log(0..10, &[]), 4_000, 3)]
    #[case::before_all(log(0..10, &[]), 0, 0)]
    #[case::after_all(log(0..10, &[]), 60_000, i64::MAX)]
    #[case::cleaned_before(log(6..10, &[6, 8]), 2_000, 6)]
    #[case::cleaned_and_later(log(6..10, &[6, 8]), 8_500, 8)]
    fn what_was_the_newest(#[case] listed: Vec<(Entry, ObjectMeta)>, #[case] since_ms: i64, #[case] expected: i64) {
        assert_eq!(first_needed(&listed, since_ms), expected);
    }

    #[rstest]
    #[case("a.parquet", true)]
    #[case("d=1/a.parquet", true)]
    #[case("_d=1/a.parquet", true)]
    #[case("_delta_log/5.checkpoint.parquet", false)]
    #[case("_change_data/d=1/a.parquet", false)]
    #[case("d=1/a.crc", false)]
    fn data_files(#[case] name: &str, #[case] expected: bool) {
        assert_eq!(stored_file(&Path::from("t"), meta(name, 0)).is_some(), expected);
    }
}

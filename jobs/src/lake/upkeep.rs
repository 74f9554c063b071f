//! Checkpoints and log clean-up, as explicit calls: when is the caller's decision.
//!
//! Invariants: U1 clean-up leaves a log from which every version at or after its checkpoint can be
//! read; U2 it never passes `keep_from`, so the ledger has copied what goes away.

use super::live::LiveFile;
use super::log::Entry;
use super::table::Table;
use super::{Lake, TableName, store};
use crate::{Class, Result};
use deltalake::logstore::object_store::{ObjectMeta, ObjectStore as _, path::Path};
use deltaworks_core::upkeep::{VERSIONS_PER_CHECKPOINT_MIN, checkpoint_due};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

/// A log is looked through once in so long at most.
const LOOK_EVERY_MS: i64 = 3_600_000;

impl Table {
    /// Writes a classic checkpoint of this version, so that the next reader starts here. Harmless when
    /// repeated.
    ///
    /// # Errors
    /// The log cannot be read or written. The table is as good as before.
    pub async fn checkpoint(&self) -> Result<()> {
        let table = self.lake.delta_table(&self.name, Some(self.version())).await?;
        let version = self.version();
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            self.log.error(Class::Outside, format!("cannot write the checkpoint of version {version}")).because(e)
        };
        deltalake::checkpoints::create_checkpoint(&table, None).await.map_err(|e| failed(Box::new(e)))
    }

    /// Whether a checkpoint is due, whoever wrote the last one. Once it was said to be, some versions pass before it is
    /// again, whatever became of it.
    pub async fn is_checkpoint_due(&self) -> bool {
        if self.version() < self.checkpoint_at.load(Relaxed) {
            return false;
        }
        let due_at = checkpoint_due(self.log.last_checkpoint().await);
        let is_due = self.version() >= due_at;
        self.checkpoint_at.store(if is_due { self.version() + VERSIONS_PER_CHECKPOINT_MIN } else { due_at }, Relaxed);
        is_due
    }

    /// Writes a checkpoint if one is due.
    ///
    /// # Errors
    /// As [`Self::checkpoint`].
    pub async fn checkpoint_if_due(&self) -> Result<()> {
        if self.is_checkpoint_due().await { self.checkpoint().await } else { Ok(()) }
    }

    /// The same after a commit, which stands whatever becomes of it: a failure is logged, and a later commit tries again.
    pub async fn keep_log_short(&self) {
        if let Err(error) = self.checkpoint_if_due().await {
            tracing::warn!(table = %self.name, %error, "log upkeep will be tried again");
        }
    }

    /// Removes log files before the newest checkpoint that has nothing to keep before it: a commit is kept unless it was
    /// written more than `retention_ms` before `now_ms` (ms since the epoch, by the store's clock), or if its version is
    /// `keep_from` or later. Returns how many files went. It looks only where something can have grown so old since this
    /// table or a clone of it last looked, and once an hour at most: looking lists the whole log.
    ///
    /// # Errors
    /// The store cannot be listed or refuses to delete. Files go in the order of versions, so the log
    /// stays whole.
    pub async fn clean_log(&self, keep_from: i64, now_ms: i64, retention_ms: i64) -> Result<usize> {
        if now_ms < self.clean_log_at_ms.load(Relaxed) {
            return Ok(0);
        }
        let listed = self.log.list(0).await?;
        let doomed = doomed(&listed, keep_from.min(self.version()), now_ms - retention_ms);
        let going: BTreeSet<&Path> = doomed.iter().collect();
        let left = listed.iter().filter(|(_, meta)| !going.contains(&meta.location));
        let oldest_ms = left.map(|(_, meta)| meta.last_modified.timestamp_millis()).min().unwrap_or(now_ms);
        let removed = self.remove_from_log(doomed).await?;
        self.clean_log_at_ms.store((oldest_ms + retention_ms).max(now_ms + LOOK_EVERY_MS), Relaxed);
        Ok(removed)
    }

    async fn remove_from_log(&self, doomed: Vec<Path>) -> Result<usize> {
        let count = doomed.len();
        for path in doomed {
            let one = futures::stream::iter([Ok(path.clone())]).boxed();
            let deleted = self.log.store.delete_stream(one).try_collect::<Vec<_>>().await;
            match deleted {
                Ok(_) | Err(deltalake::logstore::object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(self.log.store_error(format!("cannot remove `{path}`"), e)),
            }
        }
        Ok(count)
    }

    /// Deletes files that have left the table: versions that held them can no longer be read. Files that are gone
    /// already are no error.
    ///
    /// # Errors
    /// A file is live; the store refuses to delete.
    pub async fn delete_removed(&self, files: &[LiveFile]) -> Result<()> {
        let live = self.live_files().await?;
        if let Some(file) = files.iter().find(|file| live.iter().any(|live| live.path == file.path)) {
            return Err(self.log.error(Class::Internal, format!("`{}` is live and cannot be deleted", file.path)));
        }
        for file in files {
            let path = self.location(file)?;
            let one = futures::stream::iter([Ok(path.clone())]).boxed();
            match self.log.store.delete_stream(one).try_collect::<Vec<_>>().await {
                Ok(_) | Err(deltalake::logstore::object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(self.log.store_error(format!("cannot delete `{path}`"), e)),
            }
        }
        Ok(())
    }
}

impl Lake {
    /// Removes a table: its log first, the newest commit before the older ones, so that a reader finds
    /// an older version or no table, never half of one. Interrupted, it may be called again.
    ///
    /// # Errors
    /// The store cannot be listed or refuses to delete.
    pub async fn drop_table(&self, name: &TableName) -> Result<()> {
        let failed = |e| store::error(format!("table `{name}`: cannot be dropped"), e);
        let prefix = self.table_path(name);
        let mut paths: Vec<Path> =
            self.store().list(Some(&prefix)).map_ok(|meta| meta.location).try_collect().await.map_err(failed)?;
        let in_log = |path: &Path| path.parts().any(|part| part.as_ref() == "_delta_log");
        paths.sort_by(|a, b| (in_log(b), b.as_ref()).cmp(&(in_log(a), a.as_ref())));
        let paths = futures::stream::iter(paths.into_iter().map(Ok)).boxed();
        self.store().delete_stream(paths).try_collect::<Vec<_>>().await.map(drop).map_err(failed)
    }
}

/// The files to remove, oldest version first.
fn doomed(listed: &[(Entry, ObjectMeta)], keep_from: i64, older_than_ms: i64) -> Vec<Path> {
    let young = listed
        .iter()
        .filter(|(e, meta)| matches!(e, Entry::Commit(_)) && meta.last_modified.timestamp_millis() >= older_than_ms);
    let keep_from = young.map(|(e, _)| e.version()).min().map_or(keep_from, |v| v.min(keep_from));
    let whole = |e: &Entry| matches!(e, Entry::Checkpoint { parts: 1, .. });
    let checkpoint =
        listed.iter().filter(|(e, _)| whole(e) && e.version() <= keep_from).map(|(e, _)| e.version()).max();
    let Some(checkpoint) = checkpoint else { return Vec::new() };
    listed.iter().filter(|(e, _)| e.version() < checkpoint).map(|(_, meta)| meta.location.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Versions 0 to 9, one second apart, with checkpoints of 4 and 8.
    fn listing() -> Vec<(Entry, ObjectMeta)> {
        let file = |name: String, second: u64| {
            let meta = ObjectMeta {
                location: Path::from(format!("t/_delta_log/{name}")),
                last_modified: (std::time::UNIX_EPOCH + std::time::Duration::from_secs(second)).into(),
                size: 1,
                e_tag: None,
                version: None,
            };
            (Entry::of(&name).unwrap(), meta)
        };
        let mut out: Vec<_> = (0..10).map(|v| file(format!("{v:020}.json"), v)).collect();
        out.extend([4, 8].map(|v| file(format!("{v:020}.checkpoint.parquet"), v)));
        out.sort_by_key(|(e, _)| e.version());
        out
    }

    #[rstest]
    #[case::all_old(9, 100_000, 9)] // 0..=7 and the checkpoint of 4
    #[case::copied_up_to_5(6, 100_000, 4)]
    #[case::copied_up_to_2(3, 100_000, 0)]
    #[case::young_from_6(9, 6_000, 4)]
    #[case::young_from_0(9, 0, 0)]
    fn only_what_lies_before_a_checkpoint_goes(#[case] keep_from: i64, #[case] older_ms: i64, #[case] want: usize) {
        assert_eq!(doomed(&listing(), keep_from, older_ms).len(), want);
    }
}

//! What commits did, as far as the log still has them.

use super::actions::Line;
use super::live::LiveFile;
use super::log::Entry;
use super::table::Table;
use crate::Result;
use deltaworks_core::commit_info;
use deltaworks_core::upkeep::LastCheckpoint;
use serde_json::Value;
use std::collections::BTreeSet;

/// What one commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitFacts {
    /// Version.
    pub version: i64,
    /// When it was committed, by the writer's clock, ms.
    pub timestamp_ms: Option<i64>,
    /// Delta's operation.
    pub operation: Option<String>,
    /// The run that made it, if it is one of ours.
    pub run_id: Option<String>,
    /// Files that joined.
    pub files_added: u64,
    /// Files that left.
    pub files_removed: u64,
    /// Rows that joined; files that only replace others bring none.
    pub rows_added: u64,
}

/// What some commits together did to the files of a table, by the log's paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files that joined.
    pub added: BTreeSet<String>,
    /// Files that left.
    pub removed: BTreeSet<String>,
}

/// What one commit says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitHead {
    /// Version.
    pub version: i64,
    /// When it was committed, by the writer's clock, ms.
    pub timestamp_ms: Option<i64>,
    /// Delta's operation.
    pub operation: Option<String>,
    /// The value of `deltaworks`, if the commit is one of ours.
    pub info: Option<Value>,
}

impl Table {
    /// The first commit that the log still has; its own version if it has none but checkpoints.
    ///
    /// # Errors
    /// The log cannot be listed.
    pub async fn first_commit(&self) -> Result<i64> {
        let first = self.log.list(0).await?.into_iter().find(|(entry, _)| matches!(entry, Entry::Commit(_)));
        Ok(first.map_or(self.version(), |(entry, _)| entry.version()))
    }

    /// What the commits `from..=to` say about themselves, in order.
    ///
    /// # Errors
    /// A commit is not there (any more), or cannot be read.
    pub async fn commit_heads(&self, from: i64, to: i64) -> Result<Vec<CommitHead>> {
        let versions: Vec<i64> = (from..=to).collect();
        let mut heads: Vec<CommitHead> = versions
            .iter()
            .map(|v| CommitHead { version: *v, timestamp_ms: None, operation: None, info: None })
            .collect();
        let take = |version: i64, line: Line| {
            let head = usize::try_from(version - from).ok().and_then(|i| heads.get_mut(i));
            if let (Some(mut info), Some(head)) = (line.commit_info, head) {
                head.timestamp_ms = info.get("timestamp").and_then(Value::as_i64);
                head.operation = info.get("operation").and_then(Value::as_str).map(str::to_owned);
                head.info = info.remove(commit_info::KEY);
            }
        };
        self.log.replay_commits(&versions, take).await?;
        Ok(heads)
    }

    /// What the last `limit` commits up to this version did, the newest first; fewer where the log was cleaned.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn history(&self, limit: usize) -> Result<Vec<CommitFacts>> {
        let mut versions = self.kept_commits().await?;
        versions.drain(..versions.len().saturating_sub(limit));
        let Some(first) = versions.first().copied() else { return Ok(Vec::new()) };
        let of = |version: &i64| CommitFacts { version: *version, ..CommitFacts::default() };
        let mut all: Vec<CommitFacts> = versions.iter().map(of).collect();
        let take = |version: i64, line: Line| {
            if let Some(facts) = usize::try_from(version - first).ok().and_then(|n| all.get_mut(n)) {
                facts.take(line);
            }
        };
        self.log.replay_commits(&versions, take).await?;
        all.reverse();
        Ok(all)
    }

    /// What the commits after `version` up to this one did.
    ///
    /// # Errors
    /// One of them cannot be read (any more).
    pub async fn changes_since(&self, version: i64) -> Result<Changes> {
        let versions: Vec<i64> = (version + 1..=self.version()).collect();
        let mut changes = Changes::default();
        let take = |_, line: Line| {
            changes.removed.extend(line.remove.map(|remove| remove.path));
            changes.added.extend(line.add.map(|add| add.path));
        };
        self.log.replay_commits(&versions, take).await?;
        Ok(changes)
    }

    /// The newest checkpoint at or before this version.
    ///
    /// # Errors
    /// The log cannot be listed.
    pub async fn last_checkpoint(&self) -> Result<Option<LastCheckpoint>> {
        let segment = self.log.segment(Some(self.version())).await?;
        let Some((version, _)) = segment.and_then(|segment| segment.checkpoint) else { return Ok(None) };
        let hint = self.log.last_checkpoint().await.filter(|hint| hint.version == version);
        Ok(hint.or(Some(LastCheckpoint { version, actions: 0 })))
    }

    /// The commits up to this version that the log has without a hole, in order.
    async fn kept_commits(&self) -> Result<Vec<i64>> {
        let listed = self.log.list(0).await?;
        let commits = listed.iter().rev().filter_map(|(e, _)| if let Entry::Commit(v) = e { Some(*v) } else { None });
        let up_to_here = commits.skip_while(|version| *version > self.version());
        let mut kept: Vec<i64> =
            (0..).zip(up_to_here).take_while(|(n, v)| *v == self.version() - n).map(|(_, v)| v).collect();
        kept.reverse();
        Ok(kept)
    }
}

impl CommitFacts {
    fn take(&mut self, line: Line) {
        if let Some(info) = line.commit_info {
            let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
            self.timestamp_ms = info.get("timestamp").and_then(Value::as_i64);
            self.operation = text(info.get("operation"));
            self.run_id = text(info.get(commit_info::KEY).and_then(|ours| ours.get("run_id")));
        }
        self.files_removed += u64::from(line.remove.is_some());
        if let Some(add) = line.add {
            self.files_added += 1;
            let changes = add.data_change;
            self.rows_added += LiveFile::of(add).rows.filter(|_| changes).unwrap_or(0);
        }
    }
}

//! Reads a table's Delta log: which files make up a version, and what they say.
//!
//! A [`Segment`] is a checkpoint (or none) and the commits after it, without a hole. [`replay`] passes
//! over one segment once and hands every line to the caller, who keeps what it needs: [`State`]
//! keeps protocol, metadata and txns; the file list is replayed on demand only, so a table object
//! stays small however many files the table has.
//!
//! Invariant L1: a segment is complete or an error. A commit that is missing in the middle, or before
//! the first one without a checkpoint, is never skipped.

use super::actions::{Line, Metadata, Protocol};
use super::{reader, store};
use crate::{Class, Error, Result, Stage};
use arrow::json::{WriterBuilder, writer::LineDelimited};
use deltalake::logstore::object_store::{self, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};
use deltaworks_core::upkeep::LastCheckpoint;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Commit files fetched at a time.
const COMMITS_IN_FLIGHT: usize = 8;

/// Times that a log is listed while a commit is missing in the middle.
const LISTINGS_MAX: usize = 3;

/// Where one table's log is, and how errors call the table.
#[derive(Debug, Clone)]
pub(super) struct LogRoot {
    /// Rooted like [`store::Root`].
    pub store: Arc<dyn ObjectStore>,
    /// `<table>/_delta_log`.
    pub path: Path,
    /// `raw.events`, for messages.
    pub table: String,
}

/// The files that make up one version.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    /// Version and parts of the checkpoint.
    pub checkpoint: Option<(i64, Vec<Path>)>,
    /// Commits after the checkpoint, in order.
    pub commits: Vec<i64>,
}

impl Segment {
    /// The version that the segment makes up.
    pub fn version(&self) -> Option<i64> {
        self.commits.last().copied().or(self.checkpoint.as_ref().map(|(version, _)| *version))
    }
}

/// What is always kept of a table.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub version: i64,
    pub protocol: Protocol,
    pub metadata: Metadata,
    pub txns: BTreeMap<String, i64>,
    /// The checkpoint that it was loaded from.
    pub checkpoint: Option<i64>,
}

/// What a file of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Commit(i64),
    Checkpoint {
        version: i64,
        part: u32,
        parts: u32,
    },
    /// A checkpoint of the V2 kind, which needs a table feature that we do not write.
    ForeignCheckpoint(i64),
    /// A checksum or compacted-log file of some version.
    Side(i64),
}

impl Entry {
    /// Reads a file name of `_delta_log`; `None` for anything that is not numbered.
    pub fn of(name: &str) -> Option<Self> {
        let (digits, rest) = name.split_at_checked(20)?;
        let version = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()?;
        let pieces: Vec<&str> = rest.strip_prefix('.')?.split('.').collect();
        Some(match pieces.as_slice() {
            ["json"] => Self::Commit(version),
            ["checkpoint", "parquet"] => Self::Checkpoint { version, part: 1, parts: 1 },
            ["checkpoint", part, parts, "parquet"] => match (part.parse(), parts.parse()) {
                (Ok(part), Ok(parts)) => Self::Checkpoint { version, part, parts },
                _ => Self::Side(version),
            },
            ["checkpoint", _, "parquet" | "json"] => Self::ForeignCheckpoint(version),
            _ => Self::Side(version),
        })
    }

    pub const fn version(self) -> i64 {
        match self {
            Self::Commit(v) | Self::Checkpoint { version: v, .. } | Self::ForeignCheckpoint(v) | Self::Side(v) => v,
        }
    }
}

impl LogRoot {
    /// The file of one commit.
    pub fn commit_path(&self, version: i64) -> Path {
        self.path.clone().join(format!("{version:020}.json"))
    }

    pub fn error(&self, class: Class, message: impl std::fmt::Display) -> Error {
        Error::new(Stage::Lake, class, format!("table `{}`: {message}", self.table))
    }

    pub fn store_error(&self, what: impl std::fmt::Display, source: object_store::Error) -> Error {
        store::error(format!("table `{}`: {what}", self.table), source)
    }

    /// Lists the numbered files of the log, from `from` on. A folder is not listed at one instant: a commit
    /// that is made meanwhile may be missed and the next one seen. So where one is missing it looks again.
    pub async fn list(&self, from: i64) -> Result<Vec<(Entry, ObjectMeta)>> {
        let mut found = self.list_once(from).await?;
        for _ in 1..LISTINGS_MAX {
            if !has_hole(&found) {
                break;
            }
            found = self.list_once(from).await?;
        }
        Ok(found)
    }

    /// The commits after `version`, in order; `None` if the log does not go on from it: it was cleaned up to a later one,
    /// or is another table's. A listing may lag behind, so where one lacks what was there it looks again.
    pub async fn commits_after(&self, version: i64) -> Result<Option<Vec<i64>>> {
        for _ in 0..LISTINGS_MAX {
            let listed = self.list(version).await?;
            let commits = listed.iter().filter_map(|(e, _)| if let Entry::Commit(v) = e { Some(*v) } else { None });
            let commits: Vec<i64> = commits.collect();
            if commits.first() == Some(&version) && !has_hole(&listed) {
                return Ok(Some(commits[1..].to_vec()));
            }
        }
        Ok(None)
    }

    async fn list_once(&self, from: i64) -> Result<Vec<(Entry, ObjectMeta)>> {
        // a point is less than any digit or letter, so the offset lies right before the first file
        let offset = self.path.clone().join(format!("{:020}", from.max(0)));
        let found: Vec<ObjectMeta> = self
            .store
            .list_with_offset(Some(&self.path), &offset)
            .try_collect()
            .await
            .map_err(|e| self.store_error("cannot list the log", e))?;
        let mut found: Vec<_> = found
            .into_iter()
            .filter_map(|meta| Some((Entry::of(meta.location.filename()?)?, meta)))
            .filter(|(entry, _)| entry.version() >= from)
            .collect();
        found.sort_by(|(a, x), (b, y)| (a.version(), &x.location).cmp(&(b.version(), &y.location)));
        Ok(found)
    }

    /// The segment that makes up `version`, or the newest one; `None` if there is no table.
    ///
    /// # Errors
    /// The log has a hole, or the version is not there (any more).
    pub async fn segment(&self, version: Option<i64>) -> Result<Option<Segment>> {
        let hint = self.last_checkpoint().await.filter(|hint| version.is_none_or(|v| hint.version <= v));
        if let Some(hint) = hint {
            let segment = build(&self.list(hint.version).await?, version);
            if let Ok(Some(segment)) = segment
                && segment.checkpoint.is_some()
            {
                return Ok(Some(segment));
            }
        }
        let mut built = build(&self.list(0).await?, version);
        for _ in 1..LISTINGS_MAX {
            match built {
                // the first commit, of a table that was made meanwhile
                Err(Hole::Missing { .. }) => {}
                // who names a version has seen it, unless it is a person: a listing may lag behind
                Err(Hole::NotThere { version: wanted, last, .. }) if wanted > last => {}
                _ => break,
            }
            built = build(&self.list(0).await?, version);
        }
        built.map_err(|hole| self.hole_error(hole))
    }

    fn hole_error(&self, hole: Hole) -> Error {
        match hole {
            Hole::Missing { version, after } => self
                .error(Class::Internal, format!("commit {version} is missing from its log, which goes on to {after}"))
                .hint("restore the file under `_delta_log` from a backup, or `reset` the pipeline"),
            Hole::NotThere { version, first, last } => {
                self.error(Class::User, format!("version {version} is not in its log, which holds {first} to {last}"))
            }
            Hole::ForeignCheckpoint(version) => self.error(
                Class::User,
                format!("the checkpoint of version {version} is of the V2 kind, written by another tool"),
            ),
        }
    }

    /// What `_last_checkpoint` says. It is a hint: whatever is wrong with it means none.
    pub async fn last_checkpoint(&self) -> Option<LastCheckpoint> {
        #[derive(serde::Deserialize)]
        struct Hint {
            version: i64,
            #[serde(default)]
            size: u64,
        }
        let found = self.store.get(&self.path.clone().join("_last_checkpoint")).await.ok()?;
        let hint = serde_json::from_slice::<Hint>(&found.bytes().await.ok()?).ok()?;
        Some(LastCheckpoint { version: hint.version, actions: hint.size })
    }

    /// Passes over the segment in order; `columns` are the leaf prefixes read from the checkpoint
    /// (`txn`, `add.path`).
    pub async fn replay(&self, segment: &Segment, columns: &[&str], mut take: impl FnMut(Line)) -> Result<()> {
        for part in segment.checkpoint.iter().flat_map(|(_, parts)| parts) {
            self.replay_checkpoint(part, columns, &mut take).await?;
        }
        self.replay_commits(&segment.commits, |_, line| take(line)).await
    }

    /// Passes over commits in order, with their versions.
    pub async fn replay_commits(&self, versions: &[i64], mut take: impl FnMut(i64, Line)) -> Result<()> {
        let fetch = |version: i64| async move { Ok::<_, Error>((version, self.commit_lines(version).await?)) };
        let mut fetched = futures::stream::iter(versions.iter().copied().map(fetch)).buffered(COMMITS_IN_FLIGHT);
        while let Some((version, lines)) = fetched.try_next().await? {
            lines.into_iter().for_each(|line| take(version, line));
        }
        Ok(())
    }

    /// The lines of one commit.
    pub async fn commit_lines(&self, version: i64) -> Result<Vec<Line>> {
        let failed = |e| self.store_error(format!("cannot read commit {version}"), e);
        let found = self.store.get(&self.commit_path(version)).await.map_err(failed)?;
        parse(&found.bytes().await.map_err(failed)?)
            .map_err(|e| self.error(Class::Internal, format!("commit {version} is not a Delta commit")).because(e))
    }

    async fn replay_checkpoint(&self, part: &Path, columns: &[&str], take: &mut impl FnMut(Line)) -> Result<()> {
        let broken = |e: Box<dyn std::error::Error + Send + Sync>| {
            self.error(Class::Outside, format!("cannot read checkpoint `{part}`")).because(e)
        };
        let opened = reader::open(self.store.clone(), part.clone(), None, columns).await;
        let mut batches = opened.map_err(|e| broken(Box::new(e)))?;
        while let Some(batch) = batches.try_next().await.map_err(|e| broken(Box::new(e)))? {
            // nulls are spelled out: a null partition value must not vanish from its map
            let writer = WriterBuilder::new().with_explicit_nulls(true);
            let mut writer = writer.build::<_, LineDelimited>(Vec::new());
            writer.write(&batch).and_then(|()| writer.finish()).map_err(|e| broken(Box::new(e)))?;
            parse(&writer.into_inner()).map_err(|e| broken(Box::new(e)))?.into_iter().for_each(&mut *take);
        }
        Ok(())
    }

    /// Loads the newest state; `None` if there is no table.
    pub async fn load(&self, version: Option<i64>) -> Result<Option<State>> {
        let Some(segment) = self.segment(version).await? else { return Ok(None) };
        let Some(version) = segment.version() else { return Ok(None) };
        let (mut protocol, mut metadata, mut txns) = (None, None, BTreeMap::new());
        self.replay(&segment, &["txn", "protocol", "metaData"], |line| {
            protocol = line.protocol.or(protocol.take());
            metadata = line.meta_data.or(metadata.take());
            txns.extend(line.txn.map(|txn| (txn.app_id, txn.version)));
        })
        .await?;
        let (Some(protocol), Some(metadata)) = (protocol, metadata) else {
            return Err(self.error(Class::Internal, "its log has no protocol or no metadata"));
        };
        let checkpoint = segment.checkpoint.map(|(version, _)| version);
        let state = State { version, protocol, metadata, txns, checkpoint };
        self.judge_protocol(&state)?;
        Ok(Some(state))
    }

    /// Refuses tables that we could read or write wrongly.
    pub fn judge_protocol(&self, state: &State) -> Result<()> {
        let Protocol { min_reader_version: reader, min_writer_version: writer } = state.protocol;
        if reader > 1 || writer > 2 {
            return Err(self
                .error(Class::User, format!("it needs reader version {reader} and writer version {writer}"))
                .hint("deltaworks keeps reader version 1 and writer version 2; another tool has raised the table"));
        }
        if state.metadata.configuration.contains_key("delta.setTransactionRetentionDuration") {
            return Err(self
                .error(Class::User, "the table property `delta.setTransactionRetentionDuration` lets progress expire")
                .hint("unset the property"));
        }
        Ok(())
    }
}

/// Reads the lines of a commit.
pub(super) fn parse(bytes: &[u8]) -> serde_json::Result<Vec<Line>> {
    bytes.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty()).map(serde_json::from_slice).collect()
}

/// Whether a commit is missing between two others.
fn has_hole(found: &[(Entry, ObjectMeta)]) -> bool {
    let mut commits = found.iter().filter_map(|(entry, _)| if let Entry::Commit(v) = entry { Some(*v) } else { None });
    let Some(mut last) = commits.next() else { return false };
    commits.any(|version| version != std::mem::replace(&mut last, version) + 1)
}

/// Why a listing makes up no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hole {
    Missing { version: i64, after: i64 },
    NotThere { version: i64, first: i64, last: i64 },
    ForeignCheckpoint(i64),
}

/// Picks the newest complete checkpoint at or before `wanted` and the commits after it.
fn build(found: &[(Entry, ObjectMeta)], wanted: Option<i64>) -> Result<Option<Segment>, Hole> {
    let upto = wanted.unwrap_or(i64::MAX);
    let commits: Vec<i64> =
        found.iter().filter_map(|(entry, _)| if let Entry::Commit(v) = entry { Some(*v) } else { None }).collect();
    let mut parts: BTreeMap<(i64, u32), Vec<Path>> = BTreeMap::new();
    let mut foreign = None;
    for (entry, meta) in found.iter().filter(|(entry, _)| entry.version() <= upto) {
        match *entry {
            Entry::Checkpoint { version, parts: count, .. } => {
                parts.entry((version, count)).or_default().push(meta.location.clone());
            }
            Entry::ForeignCheckpoint(version) => foreign = Some(version),
            Entry::Commit(_) | Entry::Side(_) => {}
        }
    }
    let checkpoint = parts
        .into_iter()
        .rev()
        .find(|((_, count), paths)| paths.len() == *count as usize)
        .map(|((version, _), paths)| (version, paths));
    let start = checkpoint.as_ref().map_or(0, |(version, _)| version + 1);
    let tail: Vec<i64> = commits.iter().copied().filter(|v| (start..=upto).contains(v)).collect();
    for (want, got) in (start..).zip(&tail) {
        if want != *got {
            return Err(foreign.map_or(Hole::Missing { version: want, after: *got }, Hole::ForeignCheckpoint));
        }
    }
    let segment = Segment { checkpoint, commits: tail };
    let reached = segment.version();
    match wanted {
        Some(version) if reached != Some(version) && !found.is_empty() => {
            let (first, last) = (commits.first().copied().unwrap_or(0), commits.last().copied().unwrap_or(0));
            Err(Hole::NotThere { version, first, last })
        }
        _ => Ok(reached.map(|_| segment)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn listing(names: &[&str]) -> Vec<(Entry, ObjectMeta)> {
        let meta = |name: &str| ObjectMeta {
            location: Path::from(format!("t/_delta_log/{name}")),
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: 1,
            e_tag: None,
            version: None,
        };
        names.iter().map(|n| (Entry::of(n).unwrap(), meta(n))).collect()
    }

    fn commit(version: i64) -> String {
        format!("{version:020}.json")
    }

    fn log(commits: impl IntoIterator<Item = i64>, others: &[&str]) -> Vec<(Entry, ObjectMeta)> {
        let commits: Vec<String> = commits.into_iter().map(commit).collect();
        let mut names: Vec<&str> = commits.iter().map(String::as_str).collect();
        names.extend(others);
        listing(&names)
    }

    const AT_5: &str = "00000000000000000005.checkpoint.parquet";

    #[rstest]
    #[case::from_the_beginning(log(0..=3, &[]), None, None, vec![0, 1, 2, 3])]
    #[case::checkpoint_and_tail(log(0..=7, &[AT_5]), None, Some(5), vec![6, 7])]
    #[case::cleaned_before_the_checkpoint(log(5..=7, &[AT_5]), None, Some(5), vec![6, 7])]
    #[case::checkpoint_alone(log([], &[AT_5]), None, Some(5), vec![])]
    #[case::an_older_version(log(0..=7, &[AT_5]), Some(3), None, vec![0, 1, 2, 3])]
    #[case::half_a_checkpoint_is_none(
        log(0..=6, &["00000000000000000005.checkpoint.0000000001.0000000002.parquet"]), None, None, (0..=6).collect())]
    #[case::two_parts(log(5..=6, &["00000000000000000005.checkpoint.0000000001.0000000002.parquet",
        "00000000000000000005.checkpoint.0000000002.0000000002.parquet"]), None, Some(5), vec![6])]
    fn segments(
        #[case] found: Vec<(Entry, ObjectMeta)>,
        #[case] wanted: Option<i64>,
        #[case] checkpoint: Option<i64>,
        #[case] commits: Vec<i64>,
    ) {
        let segment = build(&found, wanted).unwrap().unwrap();
        assert_eq!(segment.checkpoint.as_ref().map(|(v, _)| *v), checkpoint);
        assert_eq!(segment.commits, commits);
    }

    #[rstest]
    #[case::in_the_middle(log([0, 1, 3], &[]), None, Hole::Missing { version: 2, after: 3 })]
    #[case::at_the_beginning(log([1, 2], &[]), None, Hole::Missing { version: 0, after: 1 })]
    #[case::after_the_checkpoint(log([7], &[AT_5]), None, Hole::Missing { version: 6, after: 7 })]
    #[case::not_yet(log(0..=3, &[]), Some(9), Hole::NotThere { version: 9, first: 0, last: 3 })]
    #[case::no_more(log(5..=7, &[AT_5]), Some(4), Hole::NotThere { version: 4, first: 5, last: 7 })]
    #[case::foreign(log(6..=7, &["00000000000000000005.checkpoint.80a083e8.parquet"]), None, Hole::ForeignCheckpoint(5))]
    fn holes(#[case] found: Vec<(Entry, ObjectMeta)>, #[case] wanted: Option<i64>, #[case] hole: Hole) {
        assert_eq!(build(&found, wanted).unwrap_err(), hole);
    }

    #[test]
    fn names_that_are_not_numbered_are_left_alone() {
        for name in ["_last_checkpoint", "0001.json", "0000000000000000000x.json", ".tmp", ""] {
            assert_eq!(Entry::of(name), None, "{name}");
        }
        assert_eq!(Entry::of("00000000000000000003.crc"), Some(Entry::Side(3)));
    }
}

//! One table: a snapshot that is kept small, and commits that land at exactly the next version.
//!
//! A [`Table`] keeps version, schema, properties and txns, never the file list. [`Table::commit`] is
//! one compare-and-set: the commit file of `version() + 1` is put if absent. Whoever builds a commit
//! reads its txns from the same object, so read, check and commit happen on one snapshot.
//!
//! Invariants: C1 a commit lands at `version() + 1` or not at all; C2 nothing is retried blind: what
//! is not [`Outcome::Committed`] is answered by [`Table::refresh`] and a comparison, by the caller;
//! C3 [`Outcome::Conflicted`] does not say whose commit is there: a store that repeats a request
//! whose reply was lost sees its own write.

use super::actions::{Add, Line, Metadata, PartitionValues, Remove, Txn};
use super::file::{AddedFile, FileProfile, FileSink, encode};
use super::log::{Entry, LogRoot, State};
use super::witness::Attempt;
use super::{Lake, TableName, schema};
use crate::{Class, Error, Result, Stage};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use deltalake::logstore::object_store::{self, ObjectStore, PutMode};
use deltaworks_core::commit_info::{self, Identity};
use deltaworks_core::upkeep::{LastCheckpoint, checkpoint_due};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

/// Commits whose identity is remembered for [`Table::find_commit`].
const RECENT_COMMITS_MAX: usize = 4_096;
/// A snapshot older than this is never committed on: log clean-up may have removed the commits after
/// it, and the next version's file would then seem to be absent.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(3_600);

/// A table at one version.
#[derive(Debug, Clone)]
pub struct Table {
    pub(super) lake: Lake,
    pub(super) name: TableName,
    pub(super) log: LogRoot,
    pub(super) state: State,
    schema: SchemaRef,
    recent: VecDeque<(i64, Identity)>,
    loaded_at: Instant,
    /// When its log is next looked through for what may go, ms since the epoch.
    pub(super) clean_log_at_ms: Arc<AtomicI64>,
    /// No checkpoint is due before this version.
    pub(super) checkpoint_at: Arc<AtomicI64>,
}

/// What a commit does.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Commit {
    /// Delta's operation, for `history`: `WRITE`, `ADD COLUMNS`, `OPTIMIZE`.
    pub operation: String,
    /// The value of `deltaworks` in commitInfo; begins with an [`Identity`].
    pub info: Value,
    /// Files that join.
    pub adds: Vec<AddedFile>,
    /// Files that leave.
    pub removes: Vec<LiveFile>,
    /// The rows of adds and removes are the same: a rewrite.
    pub rewrite: bool,
    /// Txn entries.
    pub txns: Vec<(String, i64)>,
    /// A new schema, as [`schema::judge`] made it.
    pub schema: Option<SchemaRef>,
}

impl Commit {
    /// A commit with nothing in it yet but who wrote it.
    ///
    /// # Errors
    /// `info` is not an object with an [`Identity`].
    pub fn new(operation: impl Into<String>, info: &impl Serialize) -> Result<Self> {
        let internal = |e| {
            let message = "commitInfo needs a run id and a sequence";
            Error::new(crate::Stage::Lake, Class::Internal, message).because(e)
        };
        let info = serde_json::to_value(info).map_err(|e| internal(Box::new(e)))?;
        serde_json::from_value::<Identity>(info.clone()).map_err(|e| internal(Box::new(e)))?;
        Ok(Self { operation: operation.into(), info, ..Self::default() })
    }
}

/// What became of a commit.
#[derive(Debug)]
#[must_use]
pub enum Outcome {
    /// It is there, at this version; the table object has moved on to it.
    Committed(i64),
    /// The next version is there already, or the snapshot is too old. Refresh and compare.
    Conflicted,
    /// Nobody knows: no answer, or one that says nothing. Refresh and compare.
    Unknown(Error),
    /// It is surely not there.
    Failed(Error),
}

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveFile {
    /// Path below the table, as the log spells it.
    pub path: String,
    /// Values of the partition columns.
    pub partition_values: PartitionValues,
    /// Bytes.
    pub size: u64,
    /// `numRecords` of its statistics; `None` if another writer left them out.
    pub rows: Option<u64>,
    /// When it was added, ms.
    pub modified_ms: i64,
    /// Delta's statistics as JSON.
    pub stats: Option<String>,
}

impl LiveFile {
    pub(super) fn of(add: Add) -> Self {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Rows {
            num_records: Option<u64>,
        }
        let rows = add.stats.as_deref().and_then(|s| serde_json::from_str::<Rows>(s).ok()?.num_records);
        Self {
            path: add.path,
            partition_values: add.partition_values,
            size: u64::try_from(add.size).unwrap_or(0),
            rows,
            modified_ms: add.modification_time,
            stats: add.stats,
        }
    }

    /// Whether the statistics say that a column (dotted) has no value in any row.
    #[must_use]
    pub fn is_all_null(&self, column: &str) -> bool {
        let stats: Option<Value> = self.stats.as_deref().and_then(|s| serde_json::from_str(s).ok());
        let nulls = stats
            .as_ref()
            .and_then(|stats| column.split('.').try_fold(&stats["nullCount"], |node, name| node.get(name))?.as_u64());
        nulls.is_some() && nulls == self.rows
    }

    /// Least and greatest value of a text column (dotted), as far as the statistics know them; long texts
    /// are cut there.
    #[must_use]
    pub fn text_bounds_of(&self, column: &str) -> (Option<String>, Option<String>) {
        let stats: Option<Value> = self.stats.as_deref().and_then(|s| serde_json::from_str(s).ok());
        let bound = |side: &str| {
            let bounds = &stats.as_ref()?[side];
            Some(column.split('.').try_fold(bounds, |node, name| node.get(name))?.as_str()?.to_owned())
        };
        (bound("minValues"), bound("maxValues"))
    }

    /// Least and greatest value of an integer column (dotted), if the statistics know them.
    #[must_use]
    pub fn bounds_of(&self, column: &str) -> Option<(i64, i64)> {
        let stats: Value = serde_json::from_str(self.stats.as_deref()?).ok()?;
        let bound = |side: &str| column.split('.').try_fold(&stats[side], |node, name| node.get(name))?.as_i64();
        Some((bound("minValues")?, bound("maxValues")?))
    }
}

impl From<&AddedFile> for LiveFile {
    fn from(added: &AddedFile) -> Self {
        Self {
            path: added.path.clone(),
            partition_values: added.partition_values.clone(),
            size: added.size,
            rows: Some(added.rows),
            modified_ms: 0,
            stats: Some(added.stats.clone()),
        }
    }
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
    pub(super) fn new(lake: Lake, name: TableName, log: LogRoot, state: State) -> Result<Self> {
        let schema = schema::from_delta(&state.metadata.schema_string, &log.table)?;
        let checkpoint = state.checkpoint.map(|version| LastCheckpoint { version, actions: 0 });
        Ok(Self {
            lake,
            name,
            log,
            state,
            schema,
            recent: VecDeque::new(),
            loaded_at: Instant::now(),
            clean_log_at_ms: Arc::default(),
            checkpoint_at: Arc::new(checkpoint_due(checkpoint).into()),
        })
    }

    /// Name.
    #[must_use]
    pub const fn name(&self) -> &TableName {
        &self.name
    }
    /// Version of this snapshot.
    #[must_use]
    pub const fn version(&self) -> i64 {
        self.state.version
    }
    /// The table's id: a table that was dropped and made anew has another one.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.state.metadata.id
    }
    /// Schema, partition columns included.
    #[must_use]
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }
    /// Names of the partition columns, in order.
    #[must_use]
    pub fn partition_columns(&self) -> &[String] {
        &self.state.metadata.partition_columns
    }
    /// Table properties.
    #[must_use]
    pub const fn properties(&self) -> &BTreeMap<String, Option<String>> {
        &self.state.metadata.configuration
    }
    /// Txn entries: application id to version.
    #[must_use]
    pub const fn txns(&self) -> &BTreeMap<String, i64> {
        &self.state.txns
    }
    /// The table's URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.lake.table_url(&self.name)
    }

    /// Where files of this table are put.
    #[must_use]
    pub fn sink(&self) -> FileSink {
        FileSink {
            store: self.log.store.clone(),
            path: self.lake.table_path(&self.name),
            table: self.log.table.clone(),
            partition_columns: self.partition_columns().into(),
        }
    }

    /// Puts rows into a file of one partition, encoded in the background; no file for no rows.
    ///
    /// # Errors
    /// Rows do not fit the profile, or the store fails.
    pub async fn put_rows(
        &self,
        partition_values: PartitionValues,
        profile: FileProfile,
        rows: Vec<RecordBatch>,
    ) -> Result<Option<AddedFile>> {
        if rows.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(None);
        }
        let encoded = tokio::task::spawn_blocking(move || encode(&profile, rows.into_iter().map(Ok)));
        let broken = |e| Error::new(Stage::Lake, Class::Internal, "encoding a file broke down").because(e);
        let file = encoded.await.map_err(broken)??;
        self.sink().put(partition_values, file).await.map(Some)
    }

    /// Loads the commits since this snapshot, one by one.
    ///
    /// # Errors
    /// The store cannot be read or lists less than was there, the log has a hole, or the table was dropped and made anew.
    pub async fn refresh(&mut self) -> Result<()> {
        let loaded_at = Instant::now();
        match self.log.commits_after(self.version()).await? {
            Some(commits) => self.advance(&commits).await?,
            None => self.reload().await?,
        }
        self.loaded_at = loaded_at;
        Ok(())
    }

    async fn advance(&mut self, versions: &[i64]) -> Result<()> {
        if versions.is_empty() {
            return Ok(());
        }
        let mut state = self.state.clone();
        let mut heads = Vec::new();
        self.log
            .replay_commits(versions, |version, line| {
                state.version = version;
                heads.extend(line.commit_info.as_ref().and_then(|info| identity(version, info)));
                apply(&mut state, line);
            })
            .await?;
        self.adopt(state, heads)
    }

    async fn reload(&mut self) -> Result<()> {
        let gone = || self.log.error(Class::Outside, "the table is gone");
        let state = self.log.load(None).await?.ok_or_else(gone)?;
        if state.metadata.id != self.state.metadata.id {
            return Err(self
                .log
                .error(Class::Internal, "it was dropped and made anew while it was in use")
                .hint("start the job again"));
        }
        if state.version < self.state.version {
            let message =
                format!("its log is listed up to version {}, but {} was there", state.version, self.state.version);
            return Err(self.log.error(Class::Outside, message));
        }
        self.adopt(state, Vec::new())
    }

    fn adopt(&mut self, state: State, heads: Vec<(i64, Identity)>) -> Result<()> {
        self.log.judge_protocol(&state)?;
        if state.metadata.schema_string != self.state.metadata.schema_string {
            self.schema = schema::from_delta(&state.metadata.schema_string, &self.log.table)?;
        }
        self.state = state;
        self.recent.extend(heads);
        let surplus = self.recent.len().saturating_sub(RECENT_COMMITS_MAX);
        self.recent.drain(..surplus);
        Ok(())
    }

    /// The version that carries this identity, among the commits this object has made or loaded by
    /// [`Table::refresh`].
    #[must_use]
    pub fn find_commit(&self, identity: &Identity) -> Option<i64> {
        let version = self.recent.iter().rev().find(|(_, i)| i == identity).map(|(version, _)| *version)?;
        self.lake.witness.found(&self.name, identity, version);
        Some(version)
    }

    /// Makes one attempt to commit at `version() + 1`.
    pub async fn commit(&mut self, commit: Commit) -> Outcome {
        if self.loaded_at.elapsed() > SNAPSHOT_AGE_MAX {
            return Outcome::Conflicted;
        }
        let version = self.version() + 1;
        let attempt = Attempt::of(&commit);
        let body = match self.lines(commit).and_then(|lines| Ok((self.body(&lines)?, lines))) {
            Ok(done) => done,
            Err(e) => return Outcome::Failed(e),
        };
        let (body, lines) = body;
        match put_new(self.log.store.as_ref(), &self.log, version, body).await {
            Put::Done => {
                let mut state = self.state.clone();
                state.version = version;
                let mut heads = Vec::new();
                for line in lines {
                    heads.extend(line.commit_info.as_ref().and_then(|info| identity(version, info)));
                    apply(&mut state, line);
                }
                match self.adopt(state, heads) {
                    Ok(()) => {
                        self.lake.witness.committed(&self.name, version, attempt, &self.schema);
                        Outcome::Committed(version)
                    }
                    Err(e) => {
                        self.lake.witness.doubted(&self.name, attempt);
                        Outcome::Unknown(e)
                    }
                }
            }
            // a store that repeats a request whose reply was lost sees its own write
            Put::Taken => {
                self.lake.witness.doubted(&self.name, attempt);
                Outcome::Conflicted
            }
            Put::Unknown(e) => {
                self.lake.witness.doubted(&self.name, attempt);
                Outcome::Unknown(e)
            }
            Put::Refused(e) => Outcome::Failed(e),
        }
    }

    fn body(&self, lines: &[Line]) -> Result<Vec<u8>> {
        body(lines).map_err(|e| self.log.error(Class::Internal, "cannot write a commit").because(e))
    }

    fn lines(&self, commit: Commit) -> Result<Vec<Line>> {
        let now_ms = self.lake.now_ms();
        let blind = commit.removes.is_empty() && commit.schema.is_none();
        let mut lines = vec![commit_info_line(now_ms, &commit.operation, blind, commit.info)];
        if let Some(schema) = commit.schema {
            let schema_string = schema::to_delta(&schema)?;
            let metadata = Metadata { schema_string, ..self.state.metadata.clone() };
            lines.push(Line { meta_data: Some(metadata), ..Line::default() });
        }
        lines.extend(commit.txns.into_iter().map(|(app_id, version)| Line {
            txn: Some(Txn { app_id, version, last_updated: Some(now_ms) }),
            ..Line::default()
        }));
        let data_change = !commit.rewrite;
        lines.extend(commit.removes.into_iter().map(|file| Line {
            remove: Some(Remove {
                path: file.path,
                deletion_timestamp: Some(now_ms),
                data_change,
                extended_file_metadata: Some(true),
                partition_values: Some(file.partition_values),
                size: i64::try_from(file.size).ok(),
            }),
            ..Line::default()
        }));
        lines.extend(commit.adds.into_iter().map(|file| Line {
            add: Some(Add {
                path: file.path,
                partition_values: file.partition_values,
                size: i64::try_from(file.size).unwrap_or(i64::MAX),
                modification_time: now_ms,
                data_change,
                stats: Some(file.stats),
                deletion_vector: None,
            }),
            ..Line::default()
        }));
        Ok(lines)
    }

    /// The files of this version, by path. Passes over the whole log segment: ask once, keep what you
    /// need.
    ///
    /// # Errors
    /// The log cannot be read, or the version has been cleaned away.
    pub async fn live_files(&self) -> Result<Vec<LiveFile>> {
        let segment = self.log.segment(Some(self.version())).await?;
        let segment = segment.ok_or_else(|| self.log.error(Class::Outside, "the table is gone"))?;
        let mut files = BTreeMap::new();
        let mut marked = false;
        let columns =
            ["add.path", "add.partitionValues", "add.size", "add.modificationTime", "add.stats", "add.dataChange"];
        self.log
            .replay(&segment, &columns, |line| {
                if let Some(remove) = line.remove {
                    files.remove(&remove.path);
                }
                if let Some(add) = line.add {
                    marked |= add.deletion_vector.is_some();
                    files.insert(add.path.clone(), LiveFile::of(add));
                }
            })
            .await?;
        if marked {
            return Err(self.log.error(Class::User, "it has deletion vectors, written by another tool"));
        }
        Ok(files.into_values().collect())
    }

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
}

fn identity(version: i64, info: &Map<String, Value>) -> Option<(i64, Identity)> {
    Some((version, serde_json::from_value(info.get(commit_info::KEY)?.clone()).ok()?))
}

fn apply(state: &mut State, line: Line) {
    if let Some(protocol) = line.protocol {
        state.protocol = protocol;
    }
    if let Some(metadata) = line.meta_data {
        state.metadata = metadata;
    }
    state.txns.extend(line.txn.map(|txn| (txn.app_id, txn.version)));
}

pub(super) fn commit_info_line(now_ms: i64, operation: &str, blind: bool, info: Value) -> Line {
    let mut map = Map::new();
    map.insert("timestamp".into(), json!(now_ms));
    map.insert("operation".into(), json!(operation));
    map.insert("operationParameters".into(), json!({}));
    map.insert("isBlindAppend".into(), json!(blind));
    map.insert("engineInfo".into(), json!(concat!("deltaworks:", env!("CARGO_PKG_VERSION"))));
    if !info.is_null() {
        map.insert(commit_info::KEY.into(), info);
    }
    Line { commit_info: Some(map), ..Line::default() }
}

/// The bytes of a commit file.
pub(super) fn body(lines: &[Line]) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut out, line)?;
        out.push(b'\n');
    }
    Ok(out)
}

/// What became of a put-if-absent.
pub(super) enum Put {
    Done,
    Taken,
    Unknown(Error),
    Refused(Error),
}

/// Puts the commit file of `version` if it is absent.
pub(super) async fn put_new(store: &dyn ObjectStore, log: &LogRoot, version: i64, body: Vec<u8>) -> Put {
    use object_store::Error as E;
    let put = store.put_opts(&log.commit_path(version), body.into(), PutMode::Create.into()).await;
    match put {
        Ok(_) => Put::Done,
        Err(E::AlreadyExists { .. } | E::Precondition { .. }) => Put::Taken,
        Err(
            e @ (E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::NotFound { .. }
            | E::NotImplemented { .. }
            | E::NotSupported { .. }
            | E::InvalidPath { .. }),
        ) => Put::Refused(log.store_error(format!("commit {version} was refused"), e)),
        Err(e) => Put::Unknown(log.store_error(format!("commit {version} has no known outcome"), e)),
    }
}

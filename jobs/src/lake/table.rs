//! One table: a snapshot that is kept small.
//!
//! A [`Table`] keeps version, schema, properties and txns, never the file list. Whoever builds a commit reads its txns
//! from the same object, so read, check and commit happen on one snapshot: see [`super::commit`].

use super::actions::{Line, PartitionValues};
use super::file::{AddedFile, FileProfile, FileSink, encode};
use super::log::{LogRoot, State};
use super::{Lake, TableName, schema};
use crate::{Class, Error, Result, Stage};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use deltaworks_core::commit_info::{self, Identity};
use deltaworks_core::upkeep::{LastCheckpoint, checkpoint_due};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Instant;

/// Commits whose identity is remembered for [`Table::find_commit`].
const RECENT_COMMITS_MAX: usize = 4_096;

/// A table at one version.
#[derive(Debug, Clone)]
pub struct Table {
    pub(super) lake: Lake,
    pub(super) name: TableName,
    pub(super) log: LogRoot,
    pub(super) state: State,
    pub(super) schema: SchemaRef,
    recent: VecDeque<(i64, Identity)>,
    pub(super) loaded_at: Instant,
    /// When its log is next looked through for what may go, ms since the epoch.
    pub(super) clean_log_at_ms: Arc<AtomicI64>,
    /// No checkpoint is due before this version.
    pub(super) checkpoint_at: Arc<AtomicI64>,
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

    pub(super) fn adopt(&mut self, state: State, heads: Vec<(i64, Identity)>) -> Result<()> {
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
}

pub(super) fn identity(version: i64, info: &Map<String, Value>) -> Option<(i64, Identity)> {
    Some((version, serde_json::from_value(info.get(commit_info::KEY)?.clone()).ok()?))
}

pub(super) fn apply(state: &mut State, line: Line) {
    if let Some(protocol) = line.protocol {
        state.protocol = protocol;
    }
    if let Some(metadata) = line.meta_data {
        state.metadata = metadata;
    }
    state.txns.extend(line.txn.map(|txn| (txn.app_id, txn.version)));
}

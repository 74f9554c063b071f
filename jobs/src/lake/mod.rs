//! The lake edge: the only user of deltalake and object_store.
//!
//! ```text
//! store (URL ─> object store) ─> log (segments, replay) ─> table (snapshot) ─> commit (compare-and-set)
//!                                 actions (the log's lines)   │   live (its files)
//! schema (judgement) ─> file (Parquet) ─> stats ──────────────┘    history · needed · upkeep · ledger · check · faults
//! witness (what was opened and committed)
//! files (what lies beside the tables, to be read as it is) · folder (archives)
//! ```
//!
//! Tables lie at `<lake>/<layer>/<name>`. Every one is readable by any Delta reader: reader version 1,
//! writer version 2, no deletion vectors, no column mapping, classic checkpoints. Checkpoints and log
//! clean-up are explicit calls; nothing happens behind a commit.

mod actions;
mod attempts;
pub mod check;
mod commit;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod conformance;
pub mod faults;
pub mod file;
pub mod files;
mod folder;
mod history;
pub mod ledger;
mod live;
mod log;
mod needed;
mod reader;
pub mod schema;
mod stats;
mod store;
mod table;
mod upkeep;
mod witness;

pub use actions::PartitionValues;
pub use attempts::Attempts;
pub use commit::{Commit, Outcome as CommitOutcome};
pub use file::{AddedFile, Codec, EncodedFile, FileEncoder, FileProfile, FileSink, encode, file_schema};
pub use folder::Folder;
pub use history::{Changes, CommitFacts, CommitHead};
pub use live::LiveFile;
pub use needed::{Needed, StoredFile};
pub use schema::Fit;
pub use table::Table;
#[cfg(test)]
pub(crate) use witness::Attempt;
pub use witness::{Offsets, Touched, Witness, Written};

use crate::project::settings::LakeSettings;
use crate::{Class, Error, Result, Stage};
use actions::{Format, Line, Metadata, Protocol};
use arrow::datatypes::SchemaRef;
use commit::Put;
use deltalake::DeltaTableBuilder;
use deltalake::datafusion::catalog::TableProvider;
use deltalake::datafusion::execution::SessionState;
use deltalake::logstore::object_store::{ObjectStore, path::Path};
use log::LogRoot;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Layers that tables live in.
const LAYERS: [&str; 7] = ["raw", "rejects", "speed", "batch", "served", "drift", "ops"];

/// The tables of one lake. Cheap to clone.
#[derive(Clone)]
pub struct Lake {
    root: store::Root,
    clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    witness: Witness,
}

impl fmt::Debug for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lake").field("url", &self.root.url.as_str()).finish_non_exhaustive()
    }
}

/// Name of a table: `raw.events` lies at `<lake>/raw/events`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// `raw`, `rejects`, `ops` and so on.
    pub layer: String,
    /// Name within the layer.
    pub name: String,
}

impl TableName {
    /// A name.
    pub fn new(layer: impl Into<String>, name: impl Into<String>) -> Self {
        Self { layer: layer.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.layer, self.name)
    }
}

/// What a table must be like.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// Name.
    pub name: TableName,
    /// Schema, partition columns included.
    pub schema: SchemaRef,
    /// Names of the partition columns, in order.
    pub partition_columns: Vec<String>,
    /// Table properties; only looked at when the table is made.
    pub properties: BTreeMap<String, String>,
    /// What the table is for.
    pub description: Option<String>,
}

impl Lake {
    /// Opens a lake: `file:` (the folder is created), `s3:` or `memory:` (lives as long as this
    /// object and its clones).
    ///
    /// # Errors
    /// [`Class::User`] if the URL or an option cannot be used. Nothing is asked of a remote store yet.
    pub fn open(settings: &LakeSettings) -> Result<Self> {
        let clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
        };
        Ok(Self { root: store::open(settings)?, clock: Arc::new(clock), witness: settings.witness.clone() })
    }

    /// The same lake with another clock, ms since the Unix epoch. It only dates commits and files.
    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// The same lake behind a decorated store: faults, limits, counters.
    #[must_use]
    pub fn with_store_decorator(mut self, decorate: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        self.root.store = decorate(self.root.store);
        self
    }

    /// The store, rooted at the bucket or at `/`.
    #[must_use]
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        self.root.store.clone()
    }

    pub(crate) fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    fn table_path(&self, name: &TableName) -> Path {
        self.root.prefix.clone().join(name.layer.as_str()).join(name.name.as_str())
    }

    /// URL of a table.
    #[must_use]
    pub fn table_url(&self, name: &TableName) -> String {
        format!("{}/{}/{}", self.root.url.as_str().trim_end_matches('/'), name.layer, name.name)
    }

    fn log(&self, name: &TableName) -> LogRoot {
        LogRoot {
            store: self.root.store.clone(),
            path: self.table_path(name).join("_delta_log"),
            table: name.to_string(),
        }
    }

    /// Opens the newest version of a table; `None` if there is none.
    ///
    /// # Errors
    /// The log cannot be read, has a hole, or needs more than reader version 1 and writer version 2.
    pub async fn open_table(&self, name: &TableName) -> Result<Option<Table>> {
        let log = self.log(name);
        let state = log.load(None).await?;
        self.table(name, log, state)
    }

    /// Opens a version of a table, to read; commits on it conflict unless it is the newest. `None` if there is no
    /// such table.
    ///
    /// # Errors
    /// As [`Self::open_table`]; [`Class::User`] if the table never had the version, or its log was cleaned.
    pub async fn open_table_at(&self, name: &TableName, version: i64) -> Result<Option<Table>> {
        let log = self.log(name);
        let state = match log.load(Some(version)).await {
            Ok(state) => state,
            Err(why) => return Err(self.unreadable(name, u64::try_from(version).ok(), why).await),
        };
        self.table(name, log, state)
    }

    fn table(&self, name: &TableName, log: LogRoot, state: Option<log::State>) -> Result<Option<Table>> {
        let table = state.map(|state| Table::new(self.clone(), name.clone(), log, state)).transpose()?;
        if let Some(table) = &table {
            self.witness.opened(name, table.version(), Some(table.schema()));
        }
        Ok(table)
    }

    /// Opens the table, makes it if it is missing, and adds the columns that it lacks. Another process
    /// may do the same at the same time.
    ///
    /// # Errors
    /// [`Class::User`] naming the column if the table cannot hold rows of this schema, or is
    /// partitioned otherwise; [`Class::Overlap`] if others keep getting in between.
    pub async fn ensure_table(&self, spec: &TableSpec) -> Result<Table> {
        const ATTEMPTS: usize = 10;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let Some(mut table) = self.open_table(&spec.name).await? else {
                if let Put::Refused(e) | Put::Unknown(e) = self.create(spec).await? {
                    last = Some(e);
                }
                continue;
            };
            let log = self.log(&spec.name);
            if table.partition_columns() != spec.partition_columns {
                let have = table.partition_columns();
                let message = format!("it is partitioned by {have:?}, wanted is {:?}", spec.partition_columns);
                return Err(log.error(Class::User, message).hint("a table keeps its partitioning; use another name"));
            }
            match schema::judge(table.schema(), &spec.schema) {
                Fit::Same => return Ok(table),
                Fit::Refuse(refusal) => return Err(refused(&log, &refusal)),
                Fit::AddColumns { schema, added } => {
                    tracing::info!(table = %spec.name, columns = ?added, "add columns");
                    let commit = Commit { operation: "ADD COLUMNS".into(), schema: Some(schema), ..Commit::default() };
                    match table.commit(commit).await {
                        CommitOutcome::Committed(_) => return Ok(table),
                        CommitOutcome::Conflicted => {}
                        CommitOutcome::Unknown(e) => last = Some(e),
                        CommitOutcome::Failed(e) => return Err(e),
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            self.log(&spec.name).error(Class::Overlap, "others keep changing it while its schema is being settled")
        }))
    }

    async fn create(&self, spec: &TableSpec) -> Result<Put> {
        let (log, now_ms) = (self.log(&spec.name), self.now_ms());
        let mut configuration: BTreeMap<String, Option<String>> =
            spec.properties.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
        // other writers must not clean the log either: the ledger is copied from it first
        configuration.entry("delta.enableExpiredLogCleanup".into()).or_insert(Some("false".into()));
        let metadata = Metadata {
            id: uuid::Uuid::now_v7().to_string(),
            name: Some(spec.name.to_string()),
            description: spec.description.clone(),
            format: Format::default(),
            schema_string: schema::to_delta(&spec.schema)?,
            partition_columns: spec.partition_columns.clone(),
            configuration,
            created_time: Some(now_ms),
        };
        let lines = [
            commit::commit_info_line(now_ms, "CREATE TABLE", true, serde_json::Value::Null),
            Line { protocol: Some(Protocol { min_reader_version: 1, min_writer_version: 2 }), ..Line::default() },
            Line { meta_data: Some(metadata), ..Line::default() },
        ];
        let body =
            commit::body(&lines).map_err(|e| log.error(Class::Internal, "cannot write its first commit").because(e))?;
        Ok(commit::put_new(log.store.as_ref(), &log, 0, body).await)
    }

    /// The tables of the lake, by name.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn list_tables(&self) -> Result<Vec<TableName>> {
        let mut found = Vec::new();
        for layer in LAYERS {
            let path = self.root.prefix.clone().join(layer);
            let listed = self.root.store.list_with_delimiter(Some(&path)).await;
            let listed = listed.map_err(|e| store::error(format!("cannot list the lake's layer `{layer}`"), e))?;
            for folder in listed.common_prefixes {
                let Some(name) = folder.filename() else { continue };
                let name = TableName::new(layer, name);
                if !self.log(&name).list(0).await?.is_empty() {
                    found.push(name);
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Whether there is such a table.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn has_table(&self, name: &TableName) -> Result<bool> {
        Ok(!self.log(name).list(0).await?.is_empty())
    }

    /// The lake's URL, without trailing slash.
    #[must_use]
    pub const fn url(&self) -> &url::Url {
        &self.root.url
    }

    /// A table for the query engine, at `version` or the newest one.
    ///
    /// # Errors
    /// [`Class::User`] if the table never had the version or can no longer be read at it.
    pub async fn provider(
        &self,
        name: &TableName,
        version: Option<u64>,
        session: Arc<SessionState>,
    ) -> Result<Arc<dyn TableProvider>> {
        let table = match self.delta_table(name, version.and_then(|v| i64::try_from(v).ok())).await {
            Ok(table) => table,
            Err(why) => return Err(self.unreadable(name, version, why).await),
        };
        if let Some(version) = table.version().and_then(|v| i64::try_from(v).ok()) {
            self.witness.opened(name, version, None);
        }
        let failed = |e| self.log(name).error(Class::Internal, "cannot be queried").because(Box::new(e));
        table.table_provider().with_session(session).await.map_err(failed)
    }

    /// Says why a table could not be loaded: a version that it never had is the user's to mend.
    async fn unreadable(&self, name: &TableName, version: Option<u64>, why: Error) -> Error {
        let Some(version) = version else { return why };
        let newest = match self.open_table(name).await {
            Ok(Some(table)) => table.version(),
            _ => return why,
        };
        let user = |message: String| Error::new(Stage::Query, Class::User, message);
        if let Some(version) = i64::try_from(version).ok().filter(|v| *v <= newest) {
            // where its log is whole, it is the store that failed
            if matches!(self.log(name).segment(Some(version)).await, Ok(Some(_))) {
                return why;
            }
            return user(format!("version {version} of `{name}` can no longer be read"))
                .hint(format!("its log may have been cleaned up; the newest version is {newest}"))
                .because(why);
        }
        user(format!("`{name}` has no version {version}")).hint(format!("the newest is {newest}"))
    }

    /// delta-rs's own table, for what is not done here.
    async fn delta_table(&self, name: &TableName, version: Option<i64>) -> Result<deltalake::DeltaTable> {
        let at = version.map_or_else(|| "cannot be opened".to_owned(), |v| format!("cannot be opened at version {v}"));
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| self.log(name).error(Class::Outside, &at).because(e);
        let url = url::Url::parse(&self.table_url(name)).map_err(|e| failed(Box::new(e)))?;
        let builder = DeltaTableBuilder::from_url(url.clone()).map_err(|e| failed(Box::new(e)))?;
        let mut builder = builder.with_storage_backend(self.store(), url);
        if let Some(version) = version {
            let version = u64::try_from(version).map_err(|e| failed(Box::new(e)))?;
            builder = builder.with_version(version);
        }
        builder.load().await.map_err(|e| failed(Box::new(e)))
    }
}

fn refused(log: &LogRoot, refusal: &schema::Refusal) -> Error {
    let schema::Refusal { column, table, wanted } = refusal;
    log.error(Class::User, format!("column `{column}` is {table} in the table, wanted is {wanted}"))
        .hint("only new optional columns can be added; give the pipeline another name, or change the contract back")
}

/// What to call an error that has no table.
fn lake_error(class: Class, message: impl Into<String>) -> Error {
    Error::new(Stage::Lake, class, message)
}

//! Commits, each at exactly the next version: one compare-and-set puts the commit file of `version() + 1` if it is absent.
//!
//! Invariants: C1 a commit lands at `version() + 1` or not at all; C2 nothing is retried blind: what
//! is not [`Outcome::Committed`] is answered by [`Table::refresh`] and a comparison, by the caller;
//! C3 [`Outcome::Conflicted`] does not say whose commit is there: a store that repeats a request
//! whose reply was lost sees its own write.

use super::actions::{Add, Line, Metadata, Remove, Txn};
use super::file::AddedFile;
use super::live::LiveFile;
use super::log::LogRoot;
use super::schema;
use super::table::{Table, apply, identity};
use super::witness::Attempt;
use crate::{Class, Error, Result};
use arrow::datatypes::SchemaRef;
use deltalake::logstore::object_store::{self, ObjectStore, PutMode};
use deltaworks_core::commit_info::{self, Identity};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A snapshot older than this is never committed on: log clean-up may have removed the commits after
/// it, and the next version's file would then seem to be absent.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(3_600);

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

impl Table {
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

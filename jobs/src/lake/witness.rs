//! What has been opened and committed by way of one lake's settings, for whoever tells others of it.
//!
//! Seen at the edge, so no stage has to tell what it read and wrote, and none can forget. One witness lives as long as
//! one job: jobs read the project anew. Nothing is decided by it.
//!
//! Invariants: W1 a commit counts once, and only when it is known to be there; one whose reply was lost counts when its
//! writer finds it by its identity. W2 what is remembered grows with tables and partitions, not with time.

use super::{Commit, TableName};
use arrow::datatypes::SchemaRef;
use deltaworks_core::commit_info::{Identity, RawCommit};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Remembers what was done to each table. Clones share what they remember.
#[derive(Debug, Clone, Default)]
pub struct Witness(Arc<Mutex<BTreeMap<TableName, Remembered>>>);

/// What was done to one table.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    /// The newest version that was opened.
    pub opened: Option<i64>,
    /// What was committed, if anything was.
    pub written: Option<Written>,
    /// Schema at the newest version seen, partition columns included.
    pub schema: Option<SchemaRef>,
    /// Offsets that landing commits took in, by topic with its epoch and partition.
    pub offsets: BTreeMap<String, BTreeMap<i32, Offsets>>,
}

/// Offsets of one partition, from the first that was taken in to the next to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    /// The first.
    pub from: i64,
    /// The next to read.
    pub next: i64,
}

/// What the commits of one table added up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Version of the last one.
    pub version: i64,
    /// Commits.
    pub commits: u64,
    /// Files that joined.
    pub files: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that left.
    pub files_removed: u64,
}

/// What one commit would do, taken before it is tried.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    identity: Option<Identity>,
    written: Written,
    landing: Option<RawCommit>,
}

#[derive(Debug, Default)]
struct Remembered {
    touched: Touched,
    /// Attempts of unknown outcome; a writer has one at a time.
    doubtful: BTreeMap<String, Attempt>,
}

impl Witness {
    /// What has been done so far, by table.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<TableName, Touched> {
        self.lock().iter().map(|(name, remembered)| (name.clone(), remembered.touched.clone())).collect()
    }

    pub(crate) fn opened(&self, name: &TableName, version: i64, schema: Option<&SchemaRef>) {
        let mut all = self.lock();
        let touched = &mut all.entry(name.clone()).or_default().touched;
        touched.opened = touched.opened.max(Some(version));
        if let Some(schema) = schema {
            touched.schema = Some(schema.clone());
        }
    }

    pub(crate) fn committed(&self, name: &TableName, version: i64, attempt: Attempt, schema: &SchemaRef) {
        let mut all = self.lock();
        let remembered = all.entry(name.clone()).or_default();
        if let Some(identity) = &attempt.identity {
            remembered.doubtful.remove(&identity.run_id);
        }
        remembered.touched.schema = Some(schema.clone());
        remembered.touched.add(version, attempt);
    }

    /// The outcome is not known: the commit may be there.
    pub(super) fn doubted(&self, name: &TableName, attempt: Attempt) {
        let Some(run_id) = attempt.identity.as_ref().map(|identity| identity.run_id.clone()) else { return };
        self.lock().entry(name.clone()).or_default().doubtful.insert(run_id, attempt);
    }

    /// The writer has found its commit.
    pub(super) fn found(&self, name: &TableName, identity: &Identity, version: i64) {
        let mut all = self.lock();
        let Some(remembered) = all.get_mut(name) else { return };
        let same = |attempt: &Attempt| attempt.identity.as_ref() == Some(identity);
        if remembered.doubtful.get(&identity.run_id).is_some_and(same)
            && let Some(attempt) = remembered.doubtful.remove(&identity.run_id)
        {
            remembered.touched.add(version, attempt);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TableName, Remembered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    pub(crate) fn of(commit: &Commit) -> Self {
        let written = Written {
            version: 0,
            commits: 1,
            files: commit.adds.len() as u64,
            rows: commit.adds.iter().map(|file| file.rows).sum(),
            bytes: commit.adds.iter().map(|file| file.size).sum(),
            files_removed: commit.removes.len() as u64,
        };
        let landing = RawCommit::deserialize(&commit.info).ok();
        Self { identity: Identity::deserialize(&commit.info).ok(), written, landing }
    }
}

impl Touched {
    fn add(&mut self, version: i64, attempt: Attempt) {
        let Attempt { written: new, landing, .. } = attempt;
        let written = self.written.get_or_insert_default();
        written.version = written.version.max(version);
        written.commits += new.commits;
        written.files += new.files;
        written.rows += new.rows;
        written.bytes += new.bytes;
        written.files_removed += new.files_removed;
        let Some(RawCommit { topic, partitions, .. }) = landing else { return };
        let of_topic = self.offsets.entry(topic).or_default();
        for entry in partitions {
            let (from, next) = (entry.tally.from.0, entry.tally.to.0);
            let offsets = of_topic.entry(entry.partition).or_insert(Offsets { from, next });
            *offsets = Offsets { from: offsets.from.min(from), next: offsets.next.max(next) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::AddedFile;
    use arrow::datatypes::Schema;
    use serde_json::json;

    fn attempt(sequence: u64, rows: u64) -> Attempt {
        let file = AddedFile {
            path: format!("{sequence}.parquet"),
            partition_values: BTreeMap::default(),
            size: 10 * rows,
            rows,
            stats: String::new(),
        };
        let first = 100 * i64::try_from(sequence).unwrap();
        let info = json!({
            "run_id": "r", "sequence": sequence, "pipeline": "events", "topic": "events#1", "dates": {},
            "partitions": [{ "partition": 2, "from": first, "to": first + 100, "landed": rows, "rejected": 0,
                "skipped": 0, "gaps": [] }],
        });
        Attempt::of(&Commit { info, adds: vec![file], ..Commit::default() })
    }

    fn identity(sequence: u64) -> Identity {
        Identity { run_id: "r".into(), sequence }
    }

    #[test]
    fn commits_add_up_and_clones_see_them() {
        let (witness, name) = (Witness::default(), TableName::new("raw", "events"));
        let clone = witness.clone();
        let schema = Arc::new(Schema::empty());
        clone.opened(&name, 4, Some(&schema));
        clone.committed(&name, 5, attempt(0, 7), &schema);
        clone.committed(&name, 8, attempt(1, 1), &schema);
        let seen = witness.seen();
        let touched = &seen[&name];
        let wanted = Written { version: 8, commits: 2, files: 2, rows: 8, bytes: 80, files_removed: 0 };
        assert_eq!((touched.opened, touched.written), (Some(4), Some(wanted)));
        assert_eq!(touched.offsets["events#1"], BTreeMap::from([(2, Offsets { from: 0, next: 200 })]));
    }

    #[test]
    fn a_doubtful_commit_counts_once_and_only_if_it_is_found() {
        let (witness, name) = (Witness::default(), TableName::new("raw", "events"));
        witness.doubted(&name, attempt(0, 7));
        assert_eq!(witness.seen()[&name].written, None);
        witness.found(&name, &identity(1), 5);
        assert_eq!(witness.seen()[&name].written, None, "another commit was found");
        witness.found(&name, &identity(0), 5);
        witness.found(&name, &identity(0), 5);
        let written = witness.seen()[&name].written.unwrap();
        assert_eq!((written.version, written.commits, written.rows), (5, 1, 7));
        witness.doubted(&name, attempt(2, 1));
        witness.committed(&name, 6, attempt(2, 1), &Arc::new(Schema::empty()));
        witness.found(&name, &identity(2), 6);
        assert_eq!(witness.seen()[&name].written.unwrap().commits, 2, "the retry was the same commit");
    }
}

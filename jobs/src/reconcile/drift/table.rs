//! `drift.<aggregate>`: one row per window, key and generation whose value moved.
//!
//! Filed by granularity and window date, as batch is: the drift of a unit is one partition, and is replaced as a
//! whole. Rows of what was served stay; rows that a reconcile wrote and then did not come to serve give way.
//!
//! Invariants: T1 the rows of a unit and its entries change in one commit; T2 what was seen in an older version of
//! batch never replaces what was seen in a newer one; T3 nothing is retried blind.

use super::rows::{Columns, ending_in};
use crate::batch::{batch_table, conform, live_by_partition, partition_of, primitive, rows_of, same_rows};
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{
    Commit, CommitOutcome, FileProfile, Lake, LiveFile, PartitionValues, Table, TableName, TableSpec, file_schema,
};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use deltaworks_core::commit_info::Identity;
use deltaworks_core::served::{Entry, Taken, read_entry};
use deltaworks_core::units::Unit;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The drift table of an aggregate, at one version.
#[derive(Debug)]
pub(in super::super) struct Drift {
    table: Table,
    live: BTreeMap<PartitionValues, Vec<LiveFile>>,
}

/// What became of the rows of a unit.
#[derive(Debug)]
#[must_use]
pub(in super::super) enum Put {
    /// They are in.
    Done,
    /// Another reconciler has looked at a newer version of batch.
    Behind,
    /// The table has moved on, or nobody knows: it may be tried again once it is certain that what was served before
    /// is still served.
    Again(CommitOutcome),
}

/// `drift.<aggregate>`.
#[must_use]
pub fn drift_name(aggregate: &str) -> TableName {
    TableName::new("drift", aggregate)
}

fn drift_table(definition: &Definition, grain: &str, columns: &Columns) -> TableSpec {
    let batch = batch_table(definition, grain);
    let mut fields =
        vec![Field::new("granularity", DataType::Utf8, false), Field::new("window_date", DataType::Date32, false)];
    fields.extend(columns.schema().fields().iter().map(|f| f.as_ref().clone()));
    TableSpec {
        name: drift_name(&definition.name),
        schema: Arc::new(Schema::new(fields)),
        partition_columns: batch.partition_columns,
        properties: batch.properties,
        description: Some(format!("how windows came to their values, step by step: {grain}")),
    }
}

impl Drift {
    /// Opens the table; makes it, or adds what is new.
    ///
    /// # Errors
    /// As [`Lake::ensure_table`].
    pub(super) async fn open(lake: &Lake, definition: &Definition, grain: &str, columns: &Columns) -> Result<Self> {
        let table = lake.ensure_table(&drift_table(definition, grain, columns)).await?;
        let live = live_by_partition(&table).await?;
        Ok(Self { table, live })
    }

    /// All columns.
    pub fn columns(&self) -> &SchemaRef {
        self.table.schema()
    }

    fn schema(&self) -> SchemaRef {
        file_schema(self.table.schema(), self.table.partition_columns())
    }

    fn files(&self, unit: &Unit) -> &[LiveFile] {
        self.live.get(&partition_of(unit)).map_or(&[], Vec::as_slice)
    }

    /// Whether a unit has rows.
    pub fn has(&self, unit: &Unit) -> bool {
        !self.files(unit).is_empty()
    }

    /// The rows of a unit, with these columns.
    ///
    /// # Errors
    /// A file cannot be read.
    pub async fn rows(&self, unit: &Unit, wanted: &SchemaRef) -> Result<Vec<RecordBatch>> {
        rows_of(&self.table, self.files(unit), wanted).await
    }

    /// The batch that the newest rows of a unit were written for.
    fn entry(&self, unit: &Unit) -> Result<Entry> {
        read_entry(unit, self.table.txns()).map_err(|e| {
            Error::new(Stage::Reconcile, Class::Internal, format!("table `{}`: {e}", self.table.name()))
                .hint("another tool has changed it; drop it, and `reconcile` goes on with a new one")
        })
    }

    /// Tries to put the rows of one unit in, beside those of what was served before.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub async fn put(
        &mut self,
        unit: &Unit,
        served: Option<&Taken>,
        taken: Taken,
        rows: &RecordBatch,
        identity: &Identity,
    ) -> Result<Put> {
        if self.entry(unit)?.taken.is_some_and(|entry| taken.is_behind(&entry)) {
            return Ok(Put::Behind);
        }
        let schema = self.schema();
        let have = self.rows(unit, &schema).await?;
        let mut now = vec![conform(rows, &PartitionValues::new(), &schema)?];
        if let Some(served) = served {
            now.extend(have.iter().map(|rows| of_served(rows, served)).collect::<Result<Vec<_>>>()?);
        }
        if same_rows(&have, &now)? {
            return Ok(Put::Done);
        }
        faults::point("before_drift_write");
        let file = self.table.put_rows(partition_of(unit), FileProfile::new(schema), now).await?;
        let mut commit = Commit::new("WRITE", identity)?;
        commit.removes = self.files(unit).to_vec();
        commit.adds = file.iter().cloned().collect();
        commit.txns = Entry { taken: Some(taken), shown: None }.write(unit);
        faults::point("before_drift_commit");
        match self.table.commit(commit).await {
            CommitOutcome::Committed(_) => {
                faults::point("after_drift_commit");
                self.live.insert(partition_of(unit), file.iter().map(LiveFile::from).collect());
                Ok(Put::Done)
            }
            outcome => Ok(Put::Again(outcome)),
        }
    }

    /// Moves on to the newest version; whether it has a commit of this identity.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn refresh(&mut self, identity: &Identity) -> Result<bool> {
        self.table.refresh().await?;
        self.live = live_by_partition(&self.table).await?;
        Ok(self.table.find_commit(identity).is_some())
    }

    /// Writes a checkpoint if one is due.
    ///
    /// # Errors
    /// The store fails; the next run tries again.
    pub async fn end(&self) -> Result<()> {
        self.table.checkpoint_if_due().await
    }
}

/// The rows of what was served: of its generation or an older one, and of windows that it covered.
fn of_served(rows: &RecordBatch, served: &Taken) -> Result<RecordBatch> {
    let rows = ending_in(rows, None, served.covered)?;
    let generations = primitive::<Int64Type>(&rows, "generation")?;
    let mask: BooleanArray = generations.values().iter().map(|g| Some(*g <= served.generation)).collect();
    filter_record_batch(&rows, &mask)
        .map_err(|e| Error::new(Stage::Reconcile, Class::Internal, "rows of drift cannot be split").because(e))
}

//! Puts computed units into `batch.<aggregate>`, each by one commit, and keeps their ledger.
//!
//! Read, decide, act: the unit's entry in this snapshot, whether its rows differ from those published,
//! one compare-and-set. A conflict or an unknown outcome is answered by loading the log anew and
//! comparing: our run id and sequence there = done; the entry as it was = try again; moved = another run
//! was first, and the caller plans the unit again.
//!
//! Invariants: G1 a unit's rows and its entries change in one commit; G2 the generation grows iff
//! the rows change; G3 nothing is retried blind.

use super::columns::conform;
use crate::checksum::total;
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{
    AddedFile, Attempts, Commit, CommitOutcome, FileProfile, Lake, LiveFile, PartitionValues, Table, TableName,
    TableSpec, file_schema,
};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use deltaworks_core::commit_info::Identity;
use deltaworks_core::units::{BrokenEntry, Entry, Fingerprint, Unit, read_entry, read_ledger};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Columns that say where rows come from, and not what they are.
const ORIGIN: [&str; 3] = ["generation", "pin", "definition"];
/// Columns that are the unit's name.
const UNIT: [&str; 2] = ["granularity", "window_date"];

/// What became of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Published {
    /// Its rows are new.
    Changed,
    /// Its rows are what they were; its pin is new.
    Unchanged,
    /// Another run has published it meanwhile.
    Overlap,
}

/// A unit's new entry and, where its rows change, its new rows.
#[derive(Debug, Clone)]
struct Change {
    unit: Unit,
    before: Option<Entry>,
    after: Entry,
    rows: Option<Option<AddedFile>>,
}

/// The numbers of a run's commits.
#[derive(Debug, Clone)]
pub struct Run {
    /// Id of the run.
    pub id: String,
    sequence: Arc<AtomicU64>,
}

/// The batch table of one aggregate.
#[derive(Debug)]
pub struct Publisher {
    table: Table,
    definition_id: Fingerprint,
    /// The columns of a row, but for those of the partition.
    file_schema: SchemaRef,
    run: Run,
    live: BTreeMap<PartitionValues, Vec<LiveFile>>,
}

impl Run {
    /// A run that has committed nothing yet.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), sequence: Arc::default() }
    }

    /// The identity of its next commit.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { run_id: self.id.clone(), sequence: self.sequence.fetch_add(1, Relaxed) }
    }
}

/// `batch.<aggregate>`.
#[must_use]
pub fn batch_name(aggregate: &str) -> TableName {
    TableName::new("batch", aggregate)
}

/// The short name of a definition.
#[must_use]
pub fn definition_id(definition: &Definition) -> Fingerprint {
    Fingerprint::of(definition.fingerprint.as_bytes())
}

/// The table of an aggregate. The user's columns may be null, so that one that comes later can be added.
#[must_use]
pub fn batch_table(definition: &Definition, grain: &str) -> TableSpec {
    let result = definition.result_schema();
    let users: Vec<&str> = definition.columns.iter().map(|c| c.name.as_str()).collect();
    let mut fields: Vec<Field> = result
        .fields()
        .iter()
        .map(|f| {
            if users.contains(&f.name().as_str()) { f.as_ref().clone().with_nullable(true) } else { f.as_ref().clone() }
        })
        .collect();
    fields.push(Field::new("generation", DataType::Int64, false));
    fields.push(Field::new("pin", DataType::Utf8, false));
    fields.push(Field::new("definition", DataType::Utf8, false));
    TableSpec {
        name: batch_name(&definition.name),
        schema: Arc::new(Schema::new(fields)),
        partition_columns: UNIT.map(str::to_owned).to_vec(),
        properties: grain_of(definition),
        description: Some(format!("exact windows: {grain}")),
    }
}

/// What a row is about, as the table says it: rows of different grains do not go together.
fn grain_of(definition: &Definition) -> BTreeMap<String, String> {
    let keys: Vec<&str> = definition.keys().map(|c| c.name.as_str()).collect();
    BTreeMap::from([
        ("deltaworks.keys".to_owned(), keys.join(",")),
        ("deltaworks.timezone".to_owned(), definition.zone.name().unwrap_or("UTC").to_owned()),
    ])
}

/// Whether the rows of a table have the grain of the definition.
///
/// # Errors
/// [`Class::User`] if they have not.
pub fn judge_grain(definition: &Definition, table: &Table) -> Result<()> {
    for (property, wanted) in grain_of(definition) {
        let have = table.properties().get(&property).cloned().flatten().unwrap_or_default();
        if have != wanted {
            let what = property.trim_start_matches("deltaworks.");
            let message = format!(
                "aggregate `{}` has {what} `{wanted}`, and the rows of table `{}` have `{have}`",
                definition.name,
                table.name()
            );
            return Err(Error::new(Stage::Batch, Class::User, message)
                .hint("give the aggregate a new name: windows of another grain do not go into one table"));
        }
    }
    Ok(())
}

/// The ledger of an aggregate.
///
/// # Errors
/// [`Class::Internal`] if another tool has broken it.
pub fn ledger_of(aggregate: &str, table: &Table) -> Result<BTreeMap<Unit, Entry>> {
    read_ledger(aggregate, table.txns()).map_err(|e| broken_ledger(table, e))
}

fn broken_ledger(table: &Table, error: BrokenEntry) -> Error {
    Error::new(Stage::Batch, Class::Internal, format!("table `{}`: its ledger", table.name())).because(error)
}

impl Publisher {
    /// Opens the table; makes it, or adds new columns.
    ///
    /// # Errors
    /// As [`Lake::ensure_table`]: a column with another type needs another aggregate.
    pub async fn open(lake: &Lake, definition: &Definition, grain: &str, run: &Run) -> Result<Self> {
        let table = lake.ensure_table(&batch_table(definition, grain)).await?;
        let file_schema = file_schema(table.schema(), table.partition_columns());
        let live = live_by_partition(&table).await?;
        let definition_id = definition_id(definition);
        Ok(Self { table, definition_id, file_schema, run: run.clone(), live })
    }

    /// Publishes a unit that was planned when its entry was `before`.
    ///
    /// # Errors
    /// The store fails, or others keep committing first.
    pub async fn publish(
        &mut self,
        unit: &Unit,
        before: Option<Entry>,
        rows: &[RecordBatch],
        pin: Fingerprint,
    ) -> Result<Published> {
        let content = self.content(rows)?;
        let published = match before {
            Some(_) if self.entry(unit)? == before => Some(self.published_rows(unit).await?),
            _ => None,
        };
        if let (Some(entry), Some(published)) = (before, published)
            && same_rows(&content, &published)?
        {
            let after = entry.held(pin, self.definition_id);
            let done = self.commit(Change { unit: unit.clone(), before, after, rows: None }).await?;
            return Ok(if done { Published::Unchanged } else { Published::Overlap });
        }
        let after = Entry::published(before, pin, self.definition_id);
        faults::point("before_batch_write");
        let file = self.upload(unit, content, after).await?;
        faults::point("before_batch_commit");
        let done = self.commit(Change { unit: unit.clone(), before, after, rows: Some(file) }).await?;
        faults::point("after_batch_commit");
        Ok(if done { Published::Changed } else { Published::Overlap })
    }

    /// Records a new pin of a unit whose content holds.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn repin(&mut self, unit: &Unit, before: Entry, pin: Fingerprint) -> Result<Published> {
        let change = Change { unit: unit.clone(), before: Some(before), after: before.repinned(pin), rows: None };
        Ok(if self.commit(change).await? { Published::Unchanged } else { Published::Overlap })
    }

    /// Writes a checkpoint if one is due.
    ///
    /// # Errors
    /// The store fails; the next run tries again.
    pub async fn end(&self) -> Result<()> {
        self.table.checkpoint_if_due().await
    }

    fn entry(&self, unit: &Unit) -> Result<Option<Entry>> {
        read_entry(unit, self.table.txns()).map_err(|e| broken_ledger(&self.table, e))
    }

    /// Commits a change; `false` if another run was first.
    async fn commit(&mut self, change: Change) -> Result<bool> {
        let identity = self.run.identity();
        let partition = partition_of(&change.unit);
        let mut attempts = Attempts::new(Stage::Batch, format!("unit `{}`", change.unit));
        loop {
            if self.entry(&change.unit)? != change.before {
                return Ok(false);
            }
            let mut commit = Commit::new("WRITE", &identity)?;
            commit.txns = change.after.write(&change.unit);
            if let Some(file) = &change.rows {
                commit.removes = self.live.get(&partition).cloned().unwrap_or_default();
                commit.adds = file.iter().cloned().collect();
            }
            match self.table.commit(commit).await {
                CommitOutcome::Committed(_) => {
                    if let Some(file) = change.rows {
                        self.live.insert(partition, file.iter().map(LiveFile::from).collect());
                    }
                    return Ok(true);
                }
                outcome => attempts.after(outcome).await?,
            }
            self.table.refresh().await?;
            self.live = live_by_partition(&self.table).await?;
            if self.table.find_commit(&identity).is_some() {
                return Ok(true);
            }
        }
    }

    /// The rows of a unit as they are published, without their origin.
    async fn published_rows(&self, unit: &Unit) -> Result<Vec<RecordBatch>> {
        let files = self.live.get(&partition_of(unit)).map_or(&[][..], Vec::as_slice);
        rows_of(&self.table, files, &self.content_schema()).await
    }

    /// Rows of a result as they will be published, without their origin.
    fn content(&self, rows: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
        let wanted = self.content_schema();
        rows.iter().map(|batch| conform(batch, &PartitionValues::new(), &wanted)).collect()
    }

    fn content_schema(&self) -> SchemaRef {
        let fields = self.file_schema.fields().iter().filter(|f| !ORIGIN.contains(&f.name().as_str())).cloned();
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Puts the rows into a file; none for no rows.
    async fn upload(&self, unit: &Unit, content: Vec<RecordBatch>, entry: Entry) -> Result<Option<AddedFile>> {
        let whole = content.iter().map(|batch| with_origin(&self.file_schema, batch, entry));
        let profile = FileProfile::new(self.file_schema.clone());
        self.table.put_rows(partition_of(unit), profile, whole.collect::<Result<_>>()?).await
    }
}

/// Rows of the batch table: what was computed, and where it comes from.
fn with_origin(schema: &SchemaRef, content: &RecordBatch, entry: Entry) -> Result<RecordBatch> {
    let rows = content.num_rows();
    let text = |text: String| -> ArrayRef { Arc::new(StringArray::new_repeated(text, rows)) };
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "generation" => Arc::new(Int64Array::from(vec![entry.generation; rows])),
            "pin" => text(entry.pin.to_string()),
            "definition" => text(entry.definition.to_string()),
            name => content
                .column_by_name(name)
                .cloned()
                .unwrap_or_else(|| arrow::array::new_null_array(field.data_type(), rows)),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect())
        .map_err(|e| Error::new(Stage::Batch, Class::Internal, "rows do not fit the batch table").because(e))
}

/// The partition of a unit.
pub(crate) fn partition_of(unit: &Unit) -> PartitionValues {
    PartitionValues::from([
        ("granularity".into(), Some(unit.granularity.to_string())),
        ("window_date".into(), Some(unit.window_date.to_string())),
    ])
}

/// The files of a table, by partition.
///
/// # Errors
/// The log cannot be read.
pub(crate) async fn live_by_partition(table: &Table) -> Result<BTreeMap<PartitionValues, Vec<LiveFile>>> {
    let mut live: BTreeMap<PartitionValues, Vec<LiveFile>> = BTreeMap::new();
    for file in table.live_files().await? {
        live.entry(file.partition_values.clone()).or_default().push(file);
    }
    Ok(live)
}

/// The rows of these files of a table, with the columns of `wanted`.
///
/// # Errors
/// A file cannot be read, or its columns do not fit.
pub(crate) async fn rows_of(table: &Table, files: &[LiveFile], wanted: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let columns: Vec<&str> = wanted.fields().iter().map(|f| f.name().as_str()).collect();
    let mut rows = Vec::new();
    for file in files {
        let mut batches = table.read_file(file, &columns).await?;
        while let Some(batch) = batches.next().await.transpose()? {
            rows.push(conform(&batch, &file.partition_values, wanted)?);
        }
    }
    Ok(rows)
}

/// Whether both hold the same rows, bit for bit, in whatever order and files.
///
/// # Errors
/// None that data can cause.
pub(crate) fn same_rows(a: &[RecordBatch], b: &[RecordBatch]) -> Result<bool> {
    let count = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    if count(a) != count(b) {
        return Ok(false);
    }
    let (Some(first), Some(_)) = (a.first(), b.first()) else { return Ok(true) };
    let one = |batches| concat_batches(&first.schema(), batches).map_err(not_compared);
    let (a, b) = (one(a)?, one(b)?);
    if a.columns() == b.columns() {
        return Ok(true);
    }
    // what others rewrote may have another order
    Ok(total(&a, &[])? == total(&b, &[])? && sorted(&[a])? == sorted(&[b])?)
}

fn not_compared(error: ArrowError) -> Error {
    Error::new(Stage::Batch, Class::Internal, "rows cannot be compared").because(error)
}

fn sorted(batches: &[RecordBatch]) -> Result<Vec<Box<[u8]>>> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let fields = first.schema_ref().fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
    let converter = RowConverter::new(fields).map_err(not_compared)?;
    let mut rows: Vec<Box<[u8]>> = Vec::new();
    for batch in batches {
        let converted = converter.convert_columns(batch.columns()).map_err(not_compared)?;
        rows.extend(converted.iter().map(|row| Box::from(row.as_ref())));
    }
    rows.sort_unstable();
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[(i64, &str)]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(values.iter().map(|v| v.0).collect::<Int64Array>());
        let texts: ArrayRef = Arc::new(values.iter().map(|v| Some(v.1)).collect::<StringArray>());
        RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap()
    }

    #[test]
    fn rows_are_the_same_in_any_order_and_any_batches_and_no_others_are() {
        let whole = [rows(&[(1, "a"), (2, "b"), (2, "b")])];
        assert!(same_rows(&whole, &[rows(&[(1, "a")]), rows(&[(2, "b"), (2, "b")])]).unwrap());
        assert!(same_rows(&whole, &[rows(&[(2, "b"), (1, "a"), (2, "b")])]).unwrap());
        assert!(!same_rows(&whole, &[rows(&[(1, "a"), (1, "a"), (2, "b")])]).unwrap());
        assert!(!same_rows(&whole, &[rows(&[(1, "b"), (2, "a"), (2, "b")])]).unwrap());
        assert!(!same_rows(&whole, &[rows(&[(1, "a"), (2, "b")])]).unwrap());
        assert!(!same_rows(&whole, &[]).unwrap());
        assert!(same_rows(&[], &[]).unwrap());
    }
}

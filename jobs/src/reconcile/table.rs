//! `served.<aggregate>`: what it is like, its rows and entries at one version, and one commit per unit.
//!
//! Filed by granularity, window date and window hour: the hour of UTC in which a window starts where windows are
//! shorter than an hour, and 0 elsewhere. So minutes of today are refreshed without rewriting their whole day.
//!
//! Invariants: T1 a unit's rows and its entries change in one commit; T2 equal entries mean equal rows, whoever
//! rewrote the files; T3 nothing is retried blind.

use crate::batch::{Run, batch_table, judge_grain, partition_of, rows_of};
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{
    AddedFile, Attempts, Commit, CommitOutcome, FileProfile, Lake, LiveFile, PartitionValues, Table, TableName,
    TableSpec, file_schema,
};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use deltaworks_core::served::{Entry, read_entry, read_ledger};
use deltaworks_core::units::Unit;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Partition column of hours.
const WINDOW_HOUR: &str = "window_hour";

/// The hour of UTC in which windows start, where they are shorter than that; else 0.
pub(super) type Hour = i32;

/// The served table of an aggregate, at one version.
#[derive(Debug)]
pub(super) struct Served {
    table: Table,
    aggregate: String,
    /// Its files, once they are asked for.
    live: OnceCell<ByUnit>,
}

/// Files by unit and hour.
type ByUnit = BTreeMap<PartitionValues, BTreeMap<Hour, Vec<LiveFile>>>;

/// New rows of some hours of a unit, and what its entries become.
#[derive(Debug)]
pub(super) struct Change {
    pub unit: Unit,
    pub before: Entry,
    pub after: Entry,
    /// The hours that change, with all their rows.
    pub hours: BTreeMap<Hour, Vec<RecordBatch>>,
}

/// `served.<aggregate>`.
#[must_use]
pub fn served_name(aggregate: &str) -> TableName {
    TableName::new("served", aggregate)
}

/// The table of an aggregate: columns as batch has them, but that a row says how sure it is, and a provisional one
/// has no pin. `published`: the columns of the batch table, some of which another definition may have made.
fn served_table(definition: &Definition, grain: &str, published: Option<&SchemaRef>) -> TableSpec {
    let batch = batch_table(definition, grain);
    let mut fields: Vec<Field> = Vec::new();
    for field in batch.schema.fields() {
        match field.name().as_str() {
            "definition" => {}
            "generation" => fields.extend([Field::new("state", DataType::Utf8, false), field.as_ref().clone()]),
            "pin" => fields.push(field.as_ref().clone().with_nullable(true)),
            "window_date" => fields.extend([field.as_ref().clone(), Field::new(WINDOW_HOUR, DataType::Int32, false)]),
            _ => fields.push(field.as_ref().clone()),
        }
    }
    let others =
        published.into_iter().flat_map(|schema| schema.fields()).filter(|f| batch.schema.index_of(f.name()).is_err());
    fields.extend(others.map(|field| field.as_ref().clone().with_nullable(true)));
    let mut partition_columns = batch.partition_columns;
    partition_columns.push(WINDOW_HOUR.to_owned());
    TableSpec {
        name: served_name(&definition.name),
        schema: Arc::new(Schema::new(fields)),
        partition_columns,
        properties: batch.properties,
        description: Some(format!("each window once, and how sure it is: {grain}")),
    }
}

impl Served {
    /// Opens the newest version; `None` if nothing was ever served.
    ///
    /// # Errors
    /// The table cannot be read, or its rows have another grain.
    pub async fn open(lake: &Lake, definition: &Definition) -> Result<Option<Self>> {
        match lake.open_table(&served_name(&definition.name)).await? {
            Some(table) => Self::of(table, definition).map(Some),
            None => Ok(None),
        }
    }

    /// The table with all columns that the definition and `published` have; makes it, or adds what is new.
    ///
    /// # Errors
    /// As [`Lake::ensure_table`], and [`Self::open`].
    pub async fn ensure(
        opened: Option<Self>,
        lake: &Lake,
        definition: &Definition,
        grain: &str,
        published: Option<&SchemaRef>,
    ) -> Result<Self> {
        let spec = served_table(definition, grain, published);
        let has = |table: &Table| {
            let same =
                |f: &Field| table.schema().field_with_name(f.name()).is_ok_and(|h| h.data_type() == f.data_type());
            spec.schema.fields().iter().all(|f| same(f))
        };
        match opened {
            Some(served) if has(&served.table) => Ok(served),
            _ => Self::of(lake.ensure_table(&spec).await?, definition),
        }
    }

    fn of(table: Table, definition: &Definition) -> Result<Self> {
        judge_grain(definition, &table)?;
        let live = OnceCell::new();
        Ok(Self { table, aggregate: definition.name.clone(), live })
    }

    /// The columns of a row, but for those of the partition.
    pub fn schema(&self) -> SchemaRef {
        file_schema(self.table.schema(), self.table.partition_columns())
    }

    /// What this version says of a unit.
    pub fn entry(&self, unit: &Unit) -> Result<Entry> {
        read_entry(unit, self.table.txns()).map_err(|e| self.broken(&e))
    }

    /// What the newest version says of a unit. The object has then moved on to it.
    pub async fn newest_entry(&mut self, unit: &Unit) -> Result<Entry> {
        let version = self.table.version();
        self.table.refresh().await?;
        if self.table.version() != version {
            self.live = OnceCell::new();
        }
        self.entry(unit)
    }

    /// What this version says of all units.
    pub fn ledger(&self) -> Result<BTreeMap<Unit, Entry>> {
        read_ledger(&self.aggregate, self.table.txns()).map_err(|e| self.broken(&e))
    }

    /// The hours of a unit that have rows.
    pub async fn hours(&self, unit: &Unit) -> Result<BTreeSet<Hour>> {
        let hours = self.live().await?.get(&partition_of(unit));
        Ok(hours.into_iter().flat_map(BTreeMap::keys).copied().collect())
    }

    /// The rows of one hour of a unit.
    pub async fn rows(&self, unit: &Unit, hour: Hour) -> Result<Vec<RecordBatch>> {
        let files = self.live().await?.get(&partition_of(unit)).and_then(|hours| hours.get(&hour));
        rows_of(&self.table, files.map_or(&[][..], Vec::as_slice), &self.schema()).await
    }

    /// Makes one unit what the change says, by one commit; `false` if another reconciler has changed it meanwhile.
    /// The object has then moved on to what that one made.
    ///
    /// # Errors
    /// The store fails, or others keep committing first.
    pub async fn commit(&mut self, change: &Change, run: &Run) -> Result<bool> {
        faults::point("before_served_write");
        let mut adds: BTreeMap<Hour, Option<AddedFile>> = BTreeMap::new();
        for (hour, rows) in &change.hours {
            adds.insert(*hour, self.upload(&change.unit, *hour, rows.clone()).await?);
        }
        faults::point("before_served_commit");
        let identity = run.identity();
        let mut attempts = Attempts::new(Stage::Reconcile, format!("served unit `{}`", change.unit));
        loop {
            if self.entry(&change.unit)? != change.before {
                return Ok(false);
            }
            let mut commit = Commit::new("WRITE", &identity)?;
            commit.txns = change.after.write(&change.unit);
            let live = self.live().await?.get(&partition_of(&change.unit));
            commit.removes = adds.keys().filter_map(|hour| live?.get(hour)).flatten().cloned().collect();
            commit.adds = adds.values().flatten().cloned().collect();
            match self.table.commit(commit).await {
                CommitOutcome::Committed(_) => {
                    faults::point("after_served_commit");
                    self.adopt(&change.unit, &adds);
                    return Ok(true);
                }
                outcome => attempts.after(outcome).await?,
            }
            self.table.refresh().await?;
            self.live = OnceCell::new();
            if self.table.find_commit(&identity).is_some() {
                return Ok(true);
            }
        }
    }

    /// Writes a checkpoint if one is due.
    ///
    /// # Errors
    /// The store fails; the next run tries again.
    pub async fn end(&self) -> Result<()> {
        self.table.checkpoint_if_due().await
    }

    async fn live(&self) -> Result<&ByUnit> {
        self.live.get_or_try_init(|| live_by_unit(&self.table)).await
    }

    /// Keeps the files of this version, after a commit of this object.
    fn adopt(&mut self, unit: &Unit, adds: &BTreeMap<Hour, Option<AddedFile>>) {
        let Some(units) = self.live.get_mut() else { return };
        let hours = units.entry(partition_of(unit)).or_default();
        for (hour, file) in adds {
            match file {
                Some(file) => hours.insert(*hour, vec![LiveFile::from(file)]),
                None => hours.remove(hour),
            };
        }
    }

    /// Puts the rows of one hour into a file; none for no rows.
    async fn upload(&self, unit: &Unit, hour: Hour, rows: Vec<RecordBatch>) -> Result<Option<AddedFile>> {
        let mut values = partition_of(unit);
        values.insert(WINDOW_HOUR.to_owned(), Some(hour.to_string()));
        self.table.put_rows(values, FileProfile::new(self.schema()), rows).await
    }

    fn broken(&self, what: &dyn std::fmt::Display) -> Error {
        Error::new(Stage::Reconcile, Class::Internal, format!("table `{}`: {what}", self.table.name()))
            .hint("another tool has changed it; drop it, and `reconcile` makes it anew")
    }
}

async fn live_by_unit(table: &Table) -> Result<ByUnit> {
    let mut live = ByUnit::new();
    for file in table.live_files().await? {
        let mut unit = file.partition_values.clone();
        let hour = unit.remove(WINDOW_HOUR).flatten().and_then(|hour| hour.parse().ok()).ok_or_else(|| {
            let message = format!("table `{}`: file `{}` has no window hour", table.name(), file.path);
            Error::new(Stage::Reconcile, Class::Internal, message).hint("another tool has changed it")
        })?;
        live.entry(unit).or_default().entry(hour).or_default().push(file);
    }
    Ok(live)
}

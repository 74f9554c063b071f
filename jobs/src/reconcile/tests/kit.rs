//! The batch kit, with speed and reconcile beside it, and what a reader finds in the served table.

use crate::batch::tests::kit::{self as batch, committed, date_of};
use crate::batch::{ledger_of, pins};
use crate::lake::{Lake, Table, TableName};
use crate::project::settings::AggregateFile;
use crate::reconcile::{ReconcileOptions, ReconcileReport, run_on, served_name};
use crate::speed::{self, SpeedOptions, SpeedTable};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use deltaworks_core::progress::AppIds;
use deltaworks_core::units::Entry;
use futures::TryStreamExt;
use jiff::civil::Date;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio_util::sync::CancellationToken;

pub use crate::batch::tests::kit::{LATENESS_US, Row, Sql};

/// Granularity, window start in microseconds, key.
pub type Key = (String, i64, Option<String>);

/// Total, greatest, events, late, duplicates.
pub type Values = (Option<i64>, Option<i64>, i64, i64, i64);

/// A row as a reader finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub values: Values,
    pub state: String,
    pub generation: i64,
    pub pin: Option<String>,
}

pub type Windows = BTreeMap<Key, Seen>;

/// Granularity and window date, as text.
pub type UnitName = (String, String);

pub struct Kit {
    pub batch: batch::Kit,
    runs: AtomicU64,
}

impl Deref for Kit {
    type Target = batch::Kit;

    fn deref(&self) -> &batch::Kit {
        &self.batch
    }
}

impl Kit {
    pub fn new(aggregates: &[Sql]) -> Self {
        Self { batch: batch::Kit::new(aggregates), runs: AtomicU64::new(0) }
    }

    fn run_id(&self) -> String {
        format!("other-{}", self.runs.fetch_add(1, Relaxed))
    }

    /// Brings speed up to raw.
    pub async fn catch_up(&self) {
        let options = SpeedOptions { run_id: self.run_id(), aggregates: Vec::new(), rebuild: false, parallel: 2 };
        let report = speed::run_on(&self.lake, &self.settings, &options, &CancellationToken::new()).await;
        assert!(report.error.is_none(), "{report:?}");
    }

    pub async fn reconcile_on(&self, lake: &Lake) -> ReconcileReport {
        self.reconcile_with(lake, false).await
    }

    pub async fn reconcile_with(&self, lake: &Lake, accept_drift: bool) -> ReconcileReport {
        let options = ReconcileOptions { run_id: self.run_id(), aggregates: Vec::new(), parallel: 2, accept_drift };
        run_on(lake, &self.settings, &options, &CancellationToken::new()).await
    }

    /// Changes what the header of the first aggregate says.
    pub fn head(&mut self, change: impl FnOnce(&mut AggregateFile)) {
        change(Arc::make_mut(&mut self.batch.settings.aggregates[0]));
    }

    /// Writes rows as a redrive does: one commit, with a number of its own.
    pub async fn fill(&self, rows: &[Row]) {
        let mut raw = self.raw().await;
        let id = AppIds::new("events").fill();
        let number = raw.txns().get(&id).copied().unwrap_or(0) + 1;
        let mut commit = self.commit();
        for row in rows {
            let batch = self.batch_of(std::slice::from_ref(row));
            let columns = batch.schema_ref().fields().iter().zip(batch.columns());
            let columns = columns.map(|(field, column)| -> ArrayRef {
                match field.name().as_str() {
                    "_fill" => Arc::new(Int64Array::from(vec![number])),
                    "_behind_ms" => new_null_array(field.data_type(), 1),
                    _ => Arc::clone(column),
                }
            });
            let batch = RecordBatch::try_new(batch.schema(), columns.collect()).unwrap();
            commit.adds.push(self.put(&raw, &date_of(row.at_us), &batch).await);
        }
        commit.txns.push((id, number));
        committed(raw.commit(commit).await);
    }

    /// Takes the files of a date of raw away and puts these rows in their place, as `forget` does.
    pub async fn rewrite(&self, date: &str, rows: &[Row]) {
        let mut raw = self.raw().await;
        let mut commit = self.commit();
        commit.removes = raw.live_files().await.unwrap();
        commit.removes.retain(|file| file.partition_values["event_date"].as_deref() == Some(date));
        assert!(!commit.removes.is_empty(), "there is no {date}");
        if !rows.is_empty() {
            commit.adds = vec![self.put(&raw, date, &self.batch_of(rows)).await];
            commit.txns = vec![(format!("deltaworks/events/rewritten/{date}"), 1)];
        }
        committed(raw.commit(commit).await);
    }

    /// Reconciles, and fails unless it ended well.
    pub async fn reconcile(&self) -> ReconcileReport {
        let report = self.reconcile_on(&self.lake).await;
        assert!(report.error.is_none(), "{report:?}");
        report
    }

    /// Reconciling again changes nothing.
    pub async fn reconcile_again(&self, aggregate: &str) {
        let before = self.version(aggregate).await;
        let report = self.reconcile().await;
        assert!(report.is_idle(), "{report:?}");
        assert_eq!(self.version(aggregate).await, before);
    }

    pub async fn table(&self, aggregate: &str) -> Option<Table> {
        self.lake.open_table(&served_name(aggregate)).await.unwrap()
    }

    pub async fn version(&self, aggregate: &str) -> i64 {
        self.table(aggregate).await.map_or(-1, |table| table.version())
    }

    pub async fn served(&self, aggregate: &str) -> Windows {
        match self.table(aggregate).await {
            Some(table) => read(&table).await.into_values().flatten().collect(),
            None => Windows::new(),
        }
    }

    /// What a reader of that version finds, by unit.
    pub async fn served_at(&self, aggregate: &str, version: i64) -> BTreeMap<UnitName, Windows> {
        if version < 0 {
            return BTreeMap::new();
        }
        read(&self.lake.open_table_at(&served_name(aggregate), version).await.unwrap().unwrap()).await
    }

    /// Every reader of any version between two finds each unit whole: as it was or as it became.
    pub async fn no_unit_is_torn(&self, aggregate: &str, from: i64, to: i64) {
        let (before, after) = (self.served_at(aggregate, from).await, self.served_at(aggregate, to).await);
        for version in from + 1..to {
            let seen = self.served_at(aggregate, version).await;
            let units = before.keys().chain(after.keys()).chain(seen.keys());
            for unit in units {
                let is_whole = seen.get(unit) == before.get(unit) || seen.get(unit) == after.get(unit);
                assert!(is_whole, "version {version} has a torn unit {unit:?}");
            }
        }
    }

    /// Generation and covered bound of each unit that batch published.
    pub async fn ledger(&self, aggregate: &str) -> BTreeMap<UnitName, (Entry, i64)> {
        let Some(table) = self.lake.open_table(&TableName::new("batch", aggregate)).await.unwrap() else {
            return BTreeMap::new();
        };
        let entries = ledger_of(aggregate, &table).unwrap();
        let pins = pins(&self.lake, &entries.values().map(|entry| entry.pin).collect()).await.unwrap();
        let named = entries.into_iter().map(|(unit, entry)| {
            let covered = pins[&entry.pin].covered.unwrap().0;
            ((unit.granularity.to_string(), unit.window_date.to_string()), (entry, covered))
        });
        named.collect()
    }

    pub async fn speed_table(&self, aggregate: &str) -> Option<SpeedTable> {
        let jobs = crate::batch::jobs_of(&self.settings, &[aggregate.to_owned()], 2, crate::Stage::Reconcile).await;
        let definition = Arc::new(jobs.unwrap().remove(0).aggregates.remove(0).definition);
        SpeedTable::open(&self.lake, &definition).await.unwrap()
    }

    pub async fn floor(&self, aggregate: &str) -> Option<Date> {
        self.speed_table(aggregate).await.and_then(|table| table.floor())
    }

    pub async fn drop_speed(&self, aggregate: &str) {
        self.lake.drop_table(&TableName::new("speed", aggregate)).await.unwrap();
    }
}

async fn read(table: &Table) -> BTreeMap<UnitName, Windows> {
    let columns = [
        "window_start",
        "key",
        "total",
        "greatest",
        "events",
        "late",
        "duplicates",
        "filled",
        "state",
        "generation",
        "pin",
    ];
    let mut units: BTreeMap<UnitName, Windows> = BTreeMap::new();
    for file in table.live_files().await.unwrap() {
        let partition = |name: &str| file.partition_values[name].clone().unwrap();
        let unit = (partition("granularity"), partition("window_date"));
        for batch in table.read_file(&file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
            let starts = batch["window_start"].as_primitive::<TimestampMicrosecondType>();
            let text = |name: &str, row: usize| {
                let column = batch[name].as_string::<i32>();
                column.is_valid(row).then(|| column.value(row).to_owned())
            };
            let int = |name: &str, row: usize| {
                let column = batch[name].as_primitive::<Int64Type>();
                column.is_valid(row).then(|| column.value(row))
            };
            for row in 0..batch.num_rows() {
                let count = |name| int(name, row).unwrap();
                let (start, key) = (starts.value(row), text("key", row));
                let short = matches!(unit.0.as_str(), "15m");
                let hour = if short { start.div_euclid(3_600_000_000).rem_euclid(24) } else { 0 };
                assert_eq!(partition("window_hour"), hour.to_string());
                let seen = Seen {
                    values: (
                        int("total", row),
                        int("greatest", row),
                        count("events"),
                        count("late"),
                        count("duplicates"),
                    ),
                    state: text("state", row).unwrap(),
                    generation: count("generation"),
                    pin: text("pin", row),
                };
                let windows = units.entry(unit.clone()).or_default();
                let before = windows.insert((unit.0.clone(), start, key), seen);
                assert!(before.is_none(), "a window is served twice");
            }
        }
    }
    units
}

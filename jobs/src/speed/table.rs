//! `speed.<aggregate>`: what it is like, what it knows of itself, and its states for whoever reads them.
//!
//! One row per base window, key, partition and range of offsets, filed by the local date on which the window
//! starts. A commit whose states did not fit into memory at once may have several rows of one kind, which add
//! up like any others.
//!
//! Invariants: T1 ranges of one partition and date are equal or apart, and none goes beyond the partition's
//! progress: else reading is an error, since rows would be counted twice; T2 states are read of one version,
//! the one whose progress was read.

use super::rows;
use crate::engine::aggregate::{Definition, States};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Attempts, Commit, CommitOutcome, Lake, LiveFile, Table, TableName, TableSpec};
use arrow::datatypes::{DataType, Field, Schema};
use deltaworks_core::speed::{Nexts, SpeedIds, Standing, Stored};
use deltaworks_core::units::Fingerprint;
use deltaworks_core::windows::{Instant, OutOfRange, Window};
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Grows when rows are filed or counted otherwise than before.
const FORMAT: u32 = 1;
/// Partition column.
pub(super) const WINDOW_DATE: &str = "window_date";

/// The speed table of one aggregate, at one version.
#[derive(Debug, Clone)]
pub struct SpeedTable {
    pub(super) definition: Arc<Definition>,
    pub(super) table: Table,
    live: OnceCell<Vec<LiveFile>>,
    /// Files that commits of this object took out.
    pub(super) removed: Vec<LiveFile>,
}

/// `speed.<aggregate>`.
#[must_use]
pub fn speed_name(aggregate: &str) -> TableName {
    TableName::new("speed", aggregate)
}

/// What states are of, as entries of the table spell it: the rows of the raw table, by the name that
/// [`deltaworks_core::progress::AppIds::rows_id`] gives them, and what they are states of. Where rows are forgotten
/// the others have another name, so that all states are made anew.
#[must_use]
pub fn origin(raw_rows: &str, definition: &Definition) -> (Fingerprint, Fingerprint) {
    let meaning = format!("{FORMAT} {} {}", definition.fingerprint, definition.states_fingerprint);
    (Fingerprint::of(raw_rows.as_bytes()), Fingerprint::of(meaning.as_bytes()))
}

/// The table of an aggregate.
pub(super) fn speed_table(definition: &Definition) -> TableSpec {
    let mut fields = vec![
        Field::new(WINDOW_DATE, DataType::Date32, false),
        Field::new("_topic", DataType::Utf8, false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_from_offset", DataType::Int64, false),
        Field::new("_to_offset", DataType::Int64, false),
        Field::new("events", DataType::Int64, false),
        Field::new("late", DataType::Int64, false),
        Field::new("repeats", DataType::Int64, false),
    ];
    fields.extend(definition.states_schema().fields().iter().map(|f| f.as_ref().clone()));
    TableSpec {
        name: speed_name(&definition.name),
        schema: Arc::new(Schema::new(fields)),
        partition_columns: vec![WINDOW_DATE.to_owned()],
        properties: BTreeMap::new(),
        description: Some("partial states of landed rows; may be dropped at any time".to_owned()),
    }
}

impl SpeedTable {
    /// Opens the newest version; `None` if there is no such table, which is no error: it is transient.
    ///
    /// # Errors
    /// As [`Lake::open_table`].
    pub async fn open(lake: &Lake, definition: &Arc<Definition>) -> Result<Option<Self>> {
        let table = lake.open_table(&speed_name(&definition.name)).await?;
        Ok(table.map(|table| Self::of(table, definition)))
    }

    pub(super) fn of(table: Table, definition: &Arc<Definition>) -> Self {
        Self { definition: Arc::clone(definition), table, live: OnceCell::new(), removed: Vec::new() }
    }

    /// Version of the table.
    #[must_use]
    pub const fn version(&self) -> i64 {
        self.table.version()
    }

    /// What the table knows of itself: progress per topic and partition, origin, floor.
    #[must_use]
    pub fn stored(&self) -> Stored {
        SpeedIds::new(&self.definition.name).read(self.table.txns())
    }

    /// Next offset per topic (with its epoch) and partition: rows below it, in whatever partition, are in.
    #[must_use]
    pub fn progress(&self) -> Nexts {
        self.stored().next
    }

    /// Whether the states are of these rows of a raw table, under the definition as it is now. Only then does
    /// [`Self::states`] give any.
    pub fn standing(&self, raw_rows: &str) -> Standing {
        let (table, definition) = origin(raw_rows, &self.definition);
        self.stored().standing(table, definition)
    }

    /// Whether [`Self::standing`] is [`Standing::Usable`].
    #[must_use]
    pub fn is_usable(&self, raw_rows: &str) -> bool {
        self.standing(raw_rows) == Standing::Usable
    }

    /// States of base windows that start on earlier local dates are dropped: those windows were final.
    #[must_use]
    pub fn floor(&self) -> Option<Date> {
        self.stored().floor
    }

    /// The local dates that have states.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn window_dates(&self) -> Result<BTreeSet<Date>> {
        let floor = self.floor();
        let dates = self.live().await?.iter().map(|file| self.date_of(file)).collect::<Result<BTreeSet<_>>>()?;
        Ok(dates.into_iter().filter(|date| floor.is_none_or(|floor| floor <= *date)).collect())
    }

    /// The states of all base windows that start within `within`, as they are stored: mostly several per window
    /// and key, for [`Definition::merge`], [`Definition::rollup`] and [`Definition::finish`] to make one. A
    /// window with late rows or repeats alone has states without events, which no result shows.
    ///
    /// # Errors
    /// A file cannot be read; [`Class::Internal`] if offsets are in twice, or the columns are not those of
    /// the definition.
    pub async fn states(&self, within: Window) -> Result<States> {
        self.states_in(&self.files(within).await?, within).await
    }

    /// The states of these files of this version; see [`Self::states`]. Files never change, so whoever has read
    /// some at an earlier version, and finds all of them here still, needs only the others.
    ///
    /// # Errors
    /// As [`Self::states`]; offsets that are in twice are seen within these files only.
    pub async fn states_in(&self, files: &[LiveFile], within: Window) -> Result<States> {
        let read = rows::read(&self.table, &self.definition, files).await?;
        rows::check_ranges(&read, &self.stored()).map_err(|e| self.broken(&e))?;
        let batches = read.iter().map(|part| part.states_within(within)).collect::<Result<Vec<_>>>()?;
        self.definition.stored(&batches)
    }

    /// The files that may hold states of base windows that start within `within`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn files(&self, within: Window) -> Result<Vec<LiveFile>> {
        let zone = &self.definition.zone;
        // beyond the years that dates are made for there is nothing to leave out
        let date = |instant: Instant| zone.local_date(instant).ok();
        // the clocks may have gone back over a midnight, so dates need not grow with instants
        let first = date(within.start).and_then(|date| date.yesterday().ok());
        let last = date(within.end).and_then(|date| date.tomorrow().ok());
        let floor = self.floor();
        let mut files = Vec::new();
        for file in self.live().await? {
            let date = self.date_of(file)?;
            // what came after its date was dropped is a part only
            if floor.is_some_and(|floor| date < floor) {
                continue;
            }
            if first.is_none_or(|first| first <= date) && last.is_none_or(|last| date <= last) {
                files.push(file.clone());
            }
        }
        Ok(files)
    }

    /// All states there are; see [`Self::states`].
    ///
    /// # Errors
    /// As [`Self::states`].
    pub async fn all_states(&self) -> Result<States> {
        self.states(Window { start: Instant(i64::MIN), end: Instant(i64::MAX) }).await
    }

    /// Makes one attempt to commit on this version.
    pub(super) async fn commit(&mut self, commit: Commit) -> CommitOutcome {
        let removes = commit.removes.clone();
        let outcome = self.table.commit(commit).await;
        if matches!(outcome, CommitOutcome::Committed(_)) {
            self.removed.extend(removes);
        }
        self.live = OnceCell::new();
        outcome
    }

    /// Moves on to the newest version.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        self.live = OnceCell::new();
        self.table.refresh().await
    }

    /// The live files of this version.
    pub(super) async fn live(&self) -> Result<&[LiveFile]> {
        self.live.get_or_try_init(|| self.table.live_files()).await.map(Vec::as_slice)
    }

    pub(super) fn date_of(&self, file: &LiveFile) -> Result<Date> {
        let spelled = file.partition_values.get(WINDOW_DATE).and_then(Option::as_deref);
        spelled
            .and_then(|date| date.parse().ok())
            .ok_or_else(|| self.broken(&format!("file `{}` has no window date", file.path)))
    }

    pub(super) fn attempts(&self) -> Attempts {
        Attempts::new(Stage::Speed, format!("table `{}`", self.table.name()))
    }

    pub(super) fn broken(&self, what: &dyn std::fmt::Display) -> Error {
        Error::new(Stage::Speed, Class::Internal, format!("table `{}`: {what}", self.table.name()))
            .hint(format!("`deltaworks speed rebuild {}` makes it anew from raw", self.definition.name))
    }
}

pub(super) fn out_of_range(e: OutOfRange) -> Error {
    Error::new(Stage::Speed, Class::User, "windows cannot be made").because(e)
}

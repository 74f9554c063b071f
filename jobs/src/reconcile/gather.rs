//! What there is of one aggregate: its served table, its states and what batch has published, each at one version,
//! and the units that any of them knows.

use super::provisional::{Speed, SpeedUse};
use super::table::Served;
use crate::batch::{Engine, batch_name, judge_grain, ledger_of, live_by_partition, partition_of, pins, rows_of};
use crate::engine::aggregate::Definition;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Lake, LiveFile, PartitionValues, Table};
use crate::land::tables::raw_name;
use crate::project::settings::Pipeline;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use deltaworks_core::drift::Limit;
use deltaworks_core::progress::AppIds;
use deltaworks_core::served::{Entry, FromBatch, FromSpeed, Kept, Taken, judge_batch, judge_speed};
use deltaworks_core::units::{Fingerprint, Unit};
use deltaworks_core::windows::{Extent, Instant, OutOfRange, Window, window_dates_of_local};
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub pipeline: Arc<Pipeline>,
    pub definition: Arc<Definition>,
    pub grain: String,
    /// Whether it keeps states.
    pub speed: bool,
    /// How much may move before a unit is held back.
    pub limit: Limit,
    /// What older definitions are made in.
    pub engine: Arc<Engine>,
    /// Threads' worth of work at a time.
    pub parallel: usize,
    /// What dedup may take.
    pub memory_bytes: usize,
}

/// What there is.
#[derive(Debug)]
pub(super) struct Facts {
    pub served: Option<Served>,
    pub speed: Option<Speed>,
    pub speed_use: SpeedUse,
    batch: Batch,
    /// All units that there are, with their windows.
    pub units: BTreeMap<Unit, Extent>,
}

/// What batch has published.
#[derive(Debug)]
struct Batch {
    table: Option<Table>,
    live: OnceCell<BTreeMap<PartitionValues, Vec<LiveFile>>>,
    offers: BTreeMap<Unit, Taken>,
}

/// What to do with one unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    pub before: Entry,
    pub batch: FromBatch,
    pub speed: FromSpeed,
    /// Up to where its windows will be covered.
    pub covered: Option<Instant>,
}

impl Planned {
    /// Whether nothing calls for a look at the rows.
    pub const fn is_idle(&self) -> bool {
        !matches!(self.batch, FromBatch::Take(_)) && !matches!(self.speed, FromSpeed::Take(_))
    }

    /// What the unit's entries become.
    pub const fn after(&self) -> Entry {
        let mut after = self.before;
        if let FromBatch::Take(taken) = self.batch {
            after.taken = Some(taken);
        }
        if let FromSpeed::Take(shown) = self.speed {
            after.shown = Some(shown);
        }
        after
    }
}

impl Facts {
    /// Loads the newest versions, in the order that the module promises.
    ///
    /// # Errors
    /// A table cannot be read, or is not as we write it. A speed table that cannot be read is told and done without.
    pub async fn gather(lake: &Lake, wanted: &Wanted) -> Result<Self> {
        let Wanted { pipeline, definition, .. } = wanted;
        let served = Served::open(lake, definition).await?;
        let ledger = served.as_ref().map(Served::ledger).transpose()?.unwrap_or_default();
        let raw = lake.open_table(&raw_name(pipeline)).await?;
        let ids = AppIds::new(&pipeline.name);
        let raw_rows = raw.as_ref().map(|raw| ids.rows_id(raw.id(), raw.txns()));
        let opened = match wanted.speed {
            true => open_speed(lake, definition, raw_rows.as_deref()).await,
            false => Ok((None, BTreeSet::new(), SpeedUse::None)),
        };
        let (speed, dates, speed_use) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(aggregate = %definition.name, %error, "provisional windows stay as they are");
                (None, BTreeSet::new(), SpeedUse::Failed)
            }
        };
        let batch = Batch::open(lake, definition, &ledger).await?;
        let mut names: BTreeSet<Unit> = ledger.into_keys().chain(batch.offers.keys().cloned()).collect();
        names.extend(units_on(definition, &dates)?);
        let mut units = BTreeMap::new();
        for unit in names.into_iter().filter(|unit| definition.granularities.contains(&unit.granularity)) {
            // a date that was one in another zone may be none in this one
            if let Some(extent) = Extent::of(unit.granularity, &definition.zone, unit.window_date).map_err(out)? {
                units.insert(unit, extent);
            }
        }
        Ok(Self { served, speed, speed_use, batch, units })
    }

    /// What to do with a unit.
    ///
    /// # Errors
    /// A log cannot be read.
    pub async fn plan(&self, unit: &Unit, extent: &Extent) -> Result<Planned> {
        let before = self.served.as_ref().map(|served| served.entry(unit)).transpose()?.unwrap_or_default();
        let batch = judge_batch(before.taken, self.batch.offers.get(unit).copied());
        let covered = if let FromBatch::Take(taken) = batch { Some(taken.covered) } else { before.covered() };
        let speed = match (open_windows(extent, covered), &self.speed) {
            (None, _) => FromSpeed::Same,
            (Some(_), None) => FromSpeed::Keep(Kept::NoStates),
            (Some(open), Some(speed)) => judge_speed(before.shown, Some(speed.offer(open).await?)),
        };
        Ok(Planned { before, batch, speed, covered })
    }

    /// The columns of the batch table, whatever definition made them.
    pub fn published(&self) -> Option<&SchemaRef> {
        self.batch.table.as_ref().map(Table::schema)
    }

    /// Batch's rows of a unit, with these columns.
    ///
    /// # Errors
    /// A file cannot be read.
    pub async fn batch_rows(&self, unit: &Unit, wanted: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let Some(table) = &self.batch.table else { return Ok(Vec::new()) };
        let live = self.batch.live.get_or_try_init(|| live_by_partition(table)).await?;
        rows_of(table, live.get(&partition_of(unit)).map_or(&[][..], Vec::as_slice), wanted).await
    }
}

impl Batch {
    async fn open(lake: &Lake, definition: &Definition, served: &BTreeMap<Unit, Entry>) -> Result<Self> {
        let Some(table) = lake.open_table(&batch_name(&definition.name)).await? else {
            return Ok(Self { table: None, live: OnceCell::new(), offers: BTreeMap::new() });
        };
        judge_grain(definition, &table)?;
        let entries = ledger_of(&definition.name, &table)?;
        let taken = |unit: &Unit| served.get(unit).and_then(|entry| entry.taken);
        let is_new = |unit: &Unit, pin: Fingerprint| taken(unit).is_none_or(|taken| taken.pin != pin);
        let named = entries.iter().filter(|(unit, entry)| is_new(unit, entry.pin)).map(|(_, entry)| entry.pin);
        let pins = pins(lake, &named.collect()).await?;
        let (mut offers, version) = (BTreeMap::new(), table.version());
        for (unit, entry) in entries {
            let covered = match pins.get(&entry.pin) {
                Some(pin) => pin.covered,
                None => taken(&unit).map(|taken| taken.covered),
            };
            // what was published covers something
            if let Some(covered) = covered {
                let (generation, pin, definition) = (entry.generation, entry.pin, entry.definition);
                offers.insert(unit, Taken { generation, pin, covered, version, definition });
            }
        }
        Ok(Self { table: Some(table), live: OnceCell::new(), offers })
    }
}

async fn open_speed(
    lake: &Lake,
    definition: &Arc<Definition>,
    raw_rows: Option<&str>,
) -> Result<(Option<Speed>, BTreeSet<Date>, SpeedUse)> {
    let (speed, speed_use) = Speed::open(lake, definition, raw_rows).await?;
    let dates = match &speed {
        Some(speed) => speed.window_dates().await?,
        None => BTreeSet::new(),
    };
    Ok((speed, dates, speed_use))
}

/// The units whose windows hold base windows of these local dates.
fn units_on(definition: &Definition, dates: &BTreeSet<Date>) -> Result<BTreeSet<Unit>> {
    let mut units = BTreeSet::new();
    for granularity in &definition.granularities {
        for date in dates {
            for window_date in window_dates_of_local(*granularity, &definition.zone, *date).map_err(out)? {
                units.insert(Unit { aggregate: definition.name.clone(), granularity: *granularity, window_date });
            }
        }
    }
    Ok(units)
}

/// From the start of the first window that is not covered to the end of the last.
pub(super) fn open_windows(extent: &Extent, covered: Option<Instant>) -> Option<Window> {
    let open = extent.windows.ending_in(covered, Instant(i64::MAX));
    Some(Window { start: open.start()?, end: open.end()? })
}

pub(super) fn out(e: OutOfRange) -> Error {
    Error::new(Stage::Reconcile, Class::User, "windows cannot be told apart").because(e)
}

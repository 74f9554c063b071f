//! The published windows of an aggregate, computed anew from raw by a second engine.
//!
//! Every unit that batch has published, or those that the interval selects, date by date: its pin says which rows
//! are in. Of batch's own work nothing is used but the pin, the SELECT after its names and types are resolved, and
//! the list of windows that a unit has. What cannot be recomputed is listed, with the reason, and never green.

use super::recount::{OfUser, Origin, Published, balance, compare, day, of_user};
use super::report::{Check, Checking};
use crate::batch::{Engine, Input, Kept, batch_name, definition_id, kept, ledger_of, live_by_partition, partition_of};
use crate::engine::aggregate::{Definition, Lookups, Source, kind_of};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{FileProfile, Lake, LiveFile, PartitionValues, Table, encode};
use crate::project::Report;
use crate::project::settings::{AggregateFile, Pipeline, Settings};
use crate::second_engine::{Cell, Frame, NEEDED, Place, Recipe, Recomputed, Row, Rules, Unknown, decode};
use bytes::Bytes;
use deltaworks_core::select::Kind;
use deltaworks_core::units::{Entry, Fingerprint, Interval, Pin, Unit};
use deltaworks_core::windows::{Extent, Granularity};
use futures::{StreamExt, TryStreamExt};
use jiff::civil::Date;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Files that are fetched at the same time.
const READS_MAX: usize = 4;
/// Frames of raw dates that are kept for the next unit.
const DATES_KEPT: usize = 3;
/// Columns of a batch row beside the user's.
const OWN: [&str; 9] =
    ["window_start", "window_end", "events", "late", "duplicates", "filled", "generation", "pin", "definition"];

/// A definition, ready to be computed anew.
#[derive(Clone)]
struct Anew {
    recipe: Arc<Recipe>,
    columns: Vec<OfUser>,
    /// Columns of raw that it needs.
    needed: Vec<(String, Kind)>,
}

/// Why a unit, or a whole aggregate, is not proved; or how it is found red.
enum Left {
    NotProved(String),
    Refuted(String),
}

/// A result, or why there is none.
type Tried<T> = std::result::Result<T, Left>;

/// The columns that were wanted of a raw date, and its rows if it has files.
type Decoded = (Vec<(String, Kind)>, Option<Frame>);

/// What the units of an aggregate share.
struct Recounting<'a> {
    engine: Engine,
    file: &'a AggregateFile,
    source: Source,
    id: Option<String>,
    input: Input,
    batch: Table,
    published: BTreeMap<PartitionValues, Vec<LiveFile>>,
    raw_files: BTreeMap<Date, Vec<LiveFile>>,
    kept: Kept,
    /// Ids of all that it keeps.
    recorded: BTreeSet<String>,
    /// What each definition is, or why it is not known.
    definitions: BTreeMap<Fingerprint, std::result::Result<Anew, String>>,
    /// Raw dates that were decoded lately, by the columns that were wanted.
    dates: BTreeMap<Date, Decoded>,
}

/// The checks `windows` and `balance` of one aggregate, and what of them is not proved.
pub(super) async fn windows(
    lake: &Lake,
    settings: &Settings,
    file: &AggregateFile,
    interval: Interval,
) -> Result<Vec<Check>> {
    let of = batch_name(&file.name);
    let not_proved = |why: &str| {
        ["windows", "balance"].map(|check| Checking::new(check, &of).not_proved(why)).into_iter().collect::<Vec<_>>()
    };
    let pipeline = settings.pipelines.iter().find(|p| p.name == file.from);
    let (Some(batch), Some(pipeline)) = (lake.open_table(&of).await?, pipeline) else {
        return Ok(not_proved("batch has published nothing yet"));
    };
    let units = units(file, ledger_of(&file.name, &batch)?, interval)?;
    if units.is_empty() {
        return Ok(not_proved("batch has published no window of these"));
    }
    let Some(input) = Input::gather(lake, pipeline, None).await? else {
        return Ok(not_proved("the raw table is gone"));
    };
    let mut recounting = Recounting::begin(lake, settings, file, pipeline, batch, input).await?;
    let (mut windows, mut balance) = (Checking::new("windows", &of), Checking::new("balance", &of));
    let mut left: BTreeMap<String, Vec<Unit>> = BTreeMap::new();
    let all = units.len();
    for (unit, entry, extent) in units {
        match recounting.unit(&mut windows, &mut balance, &unit, entry, &extent).await? {
            None => {}
            Some(Left::NotProved(why)) => left.entry(why).or_default().push(unit),
            Some(Left::Refuted(example)) => windows.refute(format!("{unit}: {example}")),
        }
    }
    let mut checks = Vec::new();
    if left.values().map(Vec::len).sum::<usize>() < all {
        checks.extend([windows.end(), balance.end()]);
    }
    for (why, units) in left {
        let first = units.first().map(ToString::to_string).unwrap_or_default();
        let why = format!("{} of {all} units, such as {first}: {why}", units.len());
        checks.extend(["windows", "balance"].map(|check| Checking::new(check, &of).not_proved(&why)));
    }
    Ok(checks)
}

/// A published unit and its extent.
type Chosen = (Unit, Entry, Extent);

/// The published units that the interval selects, by date.
fn units(file: &AggregateFile, ledger: BTreeMap<Unit, Entry>, interval: Interval) -> Result<Vec<Chosen>> {
    let mut chosen = Vec::new();
    for (unit, entry) in ledger {
        let failed = |e| Error::new(Stage::Prove, Class::Internal, format!("the windows of unit `{unit}`")).because(e);
        let Some(extent) = Extent::of(unit.granularity, &file.zone, unit.window_date).map_err(failed)? else {
            continue;
        };
        if !interval.select(&extent.windows).is_empty() {
            chosen.push((unit, entry, extent));
        }
    }
    chosen.sort_by_key(|(unit, ..)| (unit.window_date, unit.granularity));
    Ok(chosen)
}

impl<'a> Recounting<'a> {
    async fn begin(
        lake: &Lake,
        settings: &Settings,
        file: &'a AggregateFile,
        pipeline: &Pipeline,
        batch: Table,
        input: Input,
    ) -> Result<Self> {
        let mut raw_files: BTreeMap<Date, Vec<LiveFile>> = BTreeMap::new();
        for raw in input.raw.live_files().await? {
            let date = raw.partition_values.get("event_date").and_then(Option::as_deref);
            if let Some(date) = date.and_then(|date| date.parse().ok()) {
                raw_files.entry(date).or_default().push(raw);
            }
        }
        let kept = kept(lake, &file.name).await?;
        Ok(Self {
            recorded: kept.recorded(),
            kept,
            engine: Engine::start(settings, 1).await?,
            file,
            source: Source::of(pipeline),
            id: pipeline.contract.id_column().map(|column| column.name.clone()),
            published: live_by_partition(&batch).await?,
            input,
            batch,
            raw_files,
            definitions: BTreeMap::new(),
            dates: BTreeMap::new(),
        })
    }

    /// Proves one unit; why it was left otherwise.
    async fn unit(
        &mut self,
        windows: &mut Checking,
        balances: &mut Checking,
        unit: &Unit,
        entry: Entry,
        extent: &Extent,
    ) -> Result<Option<Left>> {
        let dates = extent.dates.from.yesterday().into_iter().chain(extent.dates.iter()).collect::<Vec<_>>();
        let pin = match self.pin(entry, &dates) {
            Ok(pin) => pin.clone(),
            Err(left) => return Ok(Some(left)),
        };
        let anew = match self.definition(entry.definition).await? {
            Ok(anew) => anew,
            Err(why) => return Ok(Some(Left::NotProved(why))),
        };
        let computed = match self.computed(&anew, &pin, unit, extent, &dates).await? {
            Ok(computed) => computed,
            Err(left) => return Ok(Some(left)),
        };
        let published = match self.published(unit, &anew).await? {
            Ok(published) => published,
            Err(left) => return Ok(Some(left)),
        };
        let covered = pin.covered.map_or(0, |covered| extent.windows.ending_in(None, covered).len());
        windows.compared("windows recomputed", covered);
        let origin = Origin { generation: entry.generation, recorded: &self.recorded };
        let name = unit.to_string();
        compare(windows, &name, &anew.columns, &published, &computed.rows, &origin);
        balance(balances, &name, &pin, dates.into_iter(), &published, &computed);
        Ok(None)
    }

    /// The pin of a unit, if its rows are still there.
    fn pin(&self, entry: Entry, dates: &[Date]) -> Tried<&Pin> {
        let not_proved = |why: &str| Err(Left::NotProved(why.to_owned()));
        let Some(pin) = self.kept.pins.get(&entry.pin) else {
            return Err(Left::Refuted(format!("its pin `{}` is not in `ops.pins`", entry.pin)));
        };
        if pin.table != self.input.pin.table {
            return not_proved("the raw table was made anew since");
        }
        if dates.iter().any(|date| self.input.removed.contains(*date)) {
            return not_proved("raw dates of theirs were removed by retention");
        }
        if dates.iter().any(|date| pin.rewritten_of(*date) != self.input.pin.rewritten_of(*date)) {
            return not_proved("raw rows of theirs were forgotten or brought back since");
        }
        Ok(pin)
    }

    /// A definition by its id: the one of now, or one of those that `ops.pins` keeps.
    async fn definition(&mut self, id: Fingerprint) -> Result<std::result::Result<Anew, String>> {
        if let Some(known) = self.definitions.get(&id) {
            return Ok(known.clone());
        }
        let now = self.defined(&self.file.sql).await.map_err(|found| Error::from(Report::new(found)))?;
        let wanted = if definition_id(&now) == id {
            Some(now)
        } else {
            match self.kept.sql.get(&id) {
                Some(sql) => self.defined(sql).await.ok().filter(|definition| definition_id(definition) == id),
                None => None,
            }
        };
        let anew = match wanted {
            Some(definition) => self.anew(&definition).await?,
            None => Err(format!(
                "they were computed under definition `{id}`, of which lateness, lookups or SQL are no longer known"
            )),
        };
        self.definitions.insert(id, anew.clone());
        Ok(anew)
    }

    async fn defined(&self, sql: &str) -> std::result::Result<Definition, Vec<crate::project::Diagnostic>> {
        let file = AggregateFile { sql: sql.to_owned(), ..self.file.clone() };
        Definition::new(&file, &self.source, &self.engine.lookups, &self.engine.session).await
    }

    /// Makes a definition ready; what of it the second engine does not know otherwise.
    async fn anew(&self, definition: &Definition) -> Result<std::result::Result<Anew, String>> {
        let recipe = match recipe(definition, &self.engine.lookups)? {
            Ok(recipe) => recipe,
            Err(why) => return Ok(Err(why.to_string())),
        };
        let keys: BTreeSet<String> = definition.keys().map(|column| column.name.clone()).collect();
        let columns = of_user(&recipe.select, &keys);
        Ok(self.needed(&recipe).map(|needed| Anew { recipe: Arc::new(recipe), columns, needed }))
    }

    /// The columns of raw that a recipe and its rules need.
    fn needed(&self, recipe: &Recipe) -> std::result::Result<Vec<(String, Kind)>, String> {
        let of_select = recipe.select.columns_of(0).into_iter().map(|(name, _)| name);
        let names = of_select.chain(NEEDED.map(str::to_owned)).chain(self.source.event_time.first().cloned());
        let names: BTreeSet<String> = names.chain(self.id.clone()).collect();
        let kind = |name: String| {
            let field = self.source.schema.field_with_name(&name).map_err(|e| e.to_string())?;
            Ok((name, kind_of(field.data_type())?))
        };
        names.into_iter().map(kind).collect()
    }

    /// The windows of a unit by the second engine.
    async fn computed(
        &mut self,
        anew: &Anew,
        pin: &Pin,
        unit: &Unit,
        extent: &Extent,
        dates: &[Date],
    ) -> Result<Tried<Recomputed>> {
        let mut frames = Vec::new();
        for date in dates {
            match self.date(*date, &anew.needed).await? {
                Ok(frame) => frames.extend(frame),
                Err(left) => return Ok(Err(left)),
            }
        }
        while self.dates.len() > DATES_KEPT {
            self.dates.pop_first();
        }
        let rules = self.rules(pin, unit, extent);
        let recipe = anew.recipe.clone();
        let computed = blocking(move || match Frame::stacked(frames)? {
            Some(frame) => recipe.recompute(frame, &rules),
            None => Ok(Recomputed::default()),
        });
        Ok(computed.await?.map_err(left))
    }

    fn rules(&self, pin: &Pin, unit: &Unit, extent: &Extent) -> Rules {
        let covered = pin.covered.map(|covered| extent.windows.ending_in(None, covered)).unwrap_or_default();
        let partitions = pin.next.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |p| (topic, p)));
        Rules {
            event_time: self.source.event_time.clone(),
            id: self.id.clone(),
            lateness_ms: self.source.lateness_ms,
            next: partitions
                .map(|(topic, (partition, next))| Place { topic: topic.clone(), partition: *partition, next: next.0 })
                .collect(),
            fill: pin.fill,
            days: (day(extent.dates.from), day(extent.dates.to)),
            windows: covered.iter().map(|window| (window.start.0, window.end.0)).collect(),
            size_us: match unit.granularity {
                Granularity::Under(size) => Some(size.micros()),
                _ => None,
            },
        }
    }

    /// The rows of a raw date; none where it has no files.
    async fn date(&mut self, date: Date, needed: &[(String, Kind)]) -> Result<Tried<Option<Frame>>> {
        if let Some((_, frame)) = self.dates.get(&date).filter(|(of, _)| of == needed) {
            return Ok(Ok(frame.clone()));
        }
        let files = self.raw_files.get(&date).map_or(&[][..], Vec::as_slice);
        let frame = match decoded(&self.input.raw, files, needed).await? {
            Ok(frame) => frame,
            Err(left) => return Ok(Err(left)),
        };
        self.dates.insert(date, (needed.to_vec(), frame.clone()));
        Ok(Ok(frame))
    }

    /// The rows of a unit as they are published.
    async fn published(&self, unit: &Unit, anew: &Anew) -> Result<Tried<Vec<Published>>> {
        let files = self.published.get(&partition_of(unit)).map_or(&[][..], Vec::as_slice);
        let users = anew.columns.iter().map(|column| column.name.as_str());
        let names: Vec<&str> = OWN.into_iter().chain(users).collect();
        let mut wanted = Vec::new();
        for name in &names {
            let field = self.batch.schema().field_with_name(name);
            let kind = field.map_err(|e| e.to_string()).and_then(|field| kind_of(field.data_type()));
            match kind {
                Ok(kind) => wanted.push(((*name).to_owned(), kind)),
                Err(why) => return Ok(Err(Left::Refuted(format!("the table has no such column: {why}")))),
            }
        }
        let rows = match decoded(&self.batch, files, &wanted).await? {
            Ok(frame) => frame.map_or_else(|| Ok(Vec::new()), |frame| frame.cells(&names)),
            Err(left) => return Ok(Err(left)),
        };
        Ok(rows.map(|rows| rows.into_iter().map(published).collect()).map_err(left))
    }
}

/// A definition for the second engine; what of it that does not know otherwise.
pub(super) fn recipe(definition: &Definition, lookups: &Lookups) -> Result<std::result::Result<Recipe, Unknown>> {
    let select = match &definition.select {
        Ok(select) => select.clone(),
        Err(part) => return Ok(Err(Unknown::Part(part.clone()))),
    };
    let mut frames = Vec::new();
    for (n, join) in select.joins.iter().enumerate() {
        let Some(lookup) = lookups.get(&join.lookup) else { continue };
        let encoded = encode(&FileProfile::new(lookup.rows.schema()), [Ok(lookup.rows.clone())])?;
        match decode(&encoded.bytes, n + 1, &select.columns_of(n + 1), &PartitionValues::new()) {
            Ok(frame) => frames.push(frame),
            Err(why) => return Ok(Err(why)),
        }
    }
    let recipe = Recipe { select, lookups: frames };
    Ok(recipe.judge().map(|()| recipe))
}

/// A row of a batch table from its cells, in the order of [`OWN`] and then the user's.
pub(super) fn published(mut cells: Vec<Cell>) -> Published {
    let values = cells.split_off(OWN.len().min(cells.len()));
    let whole = |n: usize| match cells.get(n) {
        Some(Cell::Instant(us)) => *us,
        Some(Cell::Integer(n)) => i64::try_from(*n).unwrap_or(i64::MAX),
        _ => i64::MIN,
    };
    let shown = |n: usize| match cells.get(n) {
        Some(Cell::Text(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let row = Row { start: whole(0), end: whole(1), values, counts: [whole(2), whole(3), whole(4), whole(5)] };
    Published { row, origin: [shown(6), shown(7), shown(8)] }
}

/// The rows of some files of a table, decoded by the second engine; none of no files.
async fn decoded(table: &Table, files: &[LiveFile], wanted: &[(String, Kind)]) -> Result<Tried<Option<Frame>>> {
    let reads = files.iter().map(|file| async move { Ok::<_, Error>((file, table.file_bytes(file).await?)) });
    let read: Result<Vec<(&LiveFile, Bytes)>> = futures::stream::iter(reads).buffered(READS_MAX).try_collect().await;
    let read = match read {
        Ok(read) => read,
        Err(error) if error.class == Class::InputLost => return Ok(Err(Left::Refuted(error.message))),
        Err(error) => return Err(error),
    };
    let files: Vec<(String, Option<u64>, PartitionValues, Bytes)> =
        read.into_iter().map(|(f, bytes)| (f.path.clone(), f.rows, f.partition_values.clone(), bytes)).collect();
    let wanted = wanted.to_vec();
    let frames = blocking(move || {
        let decoded = files.iter().map(|(path, rows, partition, bytes)| {
            let frame = decode(bytes, 0, &wanted, partition)?;
            match rows {
                Some(rows) if frame.rows() as u64 != *rows => {
                    Err(Unknown::Failed(format!("`{path}` has {} rows, and the log says {rows}", frame.rows())))
                }
                _ => Ok(frame),
            }
        });
        Frame::stacked(decoded.collect::<std::result::Result<Vec<_>, _>>()?)
    });
    Ok(frames.await?.map_err(left))
}

/// A part that is not known is not proved; anything else is red, for it should not happen.
fn left(why: Unknown) -> Left {
    match why {
        Unknown::Part(_) => Left::NotProved(why.to_string()),
        Unknown::Failed(_) => Left::Refuted(why.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    compute: impl FnOnce() -> std::result::Result<T, Unknown> + Send + 'static,
) -> Result<std::result::Result<T, Unknown>> {
    let broken = |e| Error::new(Stage::Prove, Class::Internal, "the second engine broke down").because(e);
    tokio::task::spawn_blocking(compute).await.map_err(broken)
}

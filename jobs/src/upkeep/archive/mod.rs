//! Dates of a raw table, kept elsewhere as plain Parquet files with checksums, and brought back from there.
//!
//! ```text
//!   raw, one version ─> dates that the archive lacks ─> files ─> read back ─> manifest ──> `retain --archived-to`
//!   archive ─> manifest and rows agree? ─> fill under the old places, `…/restored/<date>` ─> raw
//! ```
//!
//! The folder is laid out as Hive has it, so any engine reads it; which files count, the manifests say. A date is
//! archived as it is at one version; if rows come later it is archived anew as long as raw still has it whole.
//!
//! Invariants: A1 what is archived has rows and checksum of the ledger; A2 the archive of a date that raw no longer
//! keeps is never touched; A3 a date comes back whole, and only from files that are what the manifest says.

mod manifest;
mod restore;
mod rows;

pub use manifest::{ArchivedColumn, ArchivedFile, Manifest};
pub use restore::{RestoreOptions, RestoreReport, RestoredDate, restore_on};

use super::open::open;
use crate::batch::meter::Meter;
use crate::batch::{Input, conform};
use crate::checksum::{RowSum, total};
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{Codec, EncodedFile, FileEncoder, FileProfile, Folder, Lake, LiveFile, TableName, ledger};
use crate::land::tables::raw_name;
use crate::project::settings::{Pipeline, Settings};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use deltaworks_core::commit_info::DateEntry;
use futures::StreamExt;
use jiff::civil::Date;
use manifest::folder_of;
pub(super) use manifest::sha256;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What a file in the making may hold, as a share of the memory budget.
const FILE_SHARE: usize = 4;
/// And at most, bytes.
const FILE_BYTES_MAX: usize = 128 << 20;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// A table of the layer `raw`.
    pub table: TableName,
    /// Dates before this one.
    pub before: Date,
    /// URL of the archive.
    pub to: String,
    /// How its files are compressed.
    pub codec: Codec,
}

/// A date, as it is in raw and in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchivedDate {
    /// The date.
    pub date: Date,
    /// Rows.
    pub rows: u64,
    /// Their checksum, 32 hexadecimal digits.
    pub checksum: String,
    /// Files in the archive; 0 in a plan.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a run did.
#[derive(Debug, Default, Serialize)]
pub struct ArchiveReport {
    /// Each date that was archived.
    pub dates: Vec<ArchivedDate>,
    /// Dates that were there already.
    pub already: u64,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// One table at one version, and where its dates go.
struct Archive {
    folder: Folder,
    input: Input,
    codec: Codec,
    file_bytes_max: usize,
    /// The dates that are lacking, with what the ledger has of them.
    lacking: BTreeMap<Date, DateEntry>,
    already: u64,
}

impl ArchiveReport {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.error.is_none() && self.dates.is_empty()
    }
}

/// Looks, and does nothing.
///
/// # Errors
/// The table is not there or is none of raw; a store cannot be read.
pub async fn plan_archive(settings: &Settings, options: &ArchiveOptions) -> Result<Vec<ArchivedDate>> {
    let archive = Archive::open(&Lake::open(&settings.lake)?, settings, options).await?;
    let dates = archive.lacking.iter().map(|(date, entry)| ArchivedDate {
        date: *date,
        rows: entry.rows,
        checksum: entry.checksum.to_string(),
        files: 0,
        bytes: 0,
    });
    Ok(dates.collect())
}

/// Archives; the report says how far it got, also if it failed. Run again, it goes on with the next date.
pub async fn archive(
    settings: &Settings,
    options: &ArchiveOptions,
    meter: &Meter,
    stop: &CancellationToken,
) -> ArchiveReport {
    match Lake::open(&settings.lake) {
        Ok(lake) => archive_on(&lake, settings, options, meter, stop).await,
        Err(error) => ArchiveReport { error: Some(error), ..ArchiveReport::default() },
    }
}

/// The same, on a lake that is open.
pub async fn archive_on(
    lake: &Lake,
    settings: &Settings,
    options: &ArchiveOptions,
    meter: &Meter,
    stop: &CancellationToken,
) -> ArchiveReport {
    let mut report = ArchiveReport::default();
    let done = async {
        let archive = Archive::open(lake, settings, options).await?;
        report.already = archive.already;
        Meter::add(&meter.units, archive.lacking.len() as u64);
        for (date, entry) in &archive.lacking {
            if stop.is_cancelled() {
                report.stopped = true;
                break;
            }
            report.dates.push(archive.date(*date, *entry, meter).await?);
            Meter::add(&meter.units_done, 1);
        }
        Ok::<(), Error>(())
    };
    if let Err(error) = done.await {
        let class = if report.dates.is_empty() || error.class != Class::Outside { error.class } else { Class::Partly };
        report.error = Some(Error { class, ..error });
    }
    report
}

/// What of some dates is not in an archive as the ledger has it; everything there is read again.
///
/// # Errors
/// A store cannot be read.
pub(super) async fn not_archived(
    archive: &Folder,
    input: &Input,
    dates: &BTreeMap<Date, DateEntry>,
) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (date, entry) in dates {
        let why = match Manifest::read(archive, *date).await? {
            None => Some("is not in the archive".to_owned()),
            Some(manifest) if manifest.table_id != input.raw.id() => {
                Some("is in the archive of another table".to_owned())
            }
            Some(manifest) if manifest.entry() != *entry => Some("is in the archive with other rows".to_owned()),
            Some(manifest) => match rows::verify(archive, &manifest, input.raw.schema()).await {
                Ok(()) => None,
                Err(error) if error.class == Class::InputLost => {
                    Some(format!("cannot be relied on: {}", error.message))
                }
                Err(error) => return Err(error),
            },
        };
        found.extend(why.map(|why| format!("{date} {why}")));
    }
    Ok(found)
}

impl Archive {
    async fn open(lake: &Lake, settings: &Settings, options: &ArchiveOptions) -> Result<Self> {
        let pipeline = raw_pipeline(settings, &options.table)?;
        // names the tables of the lake where there is none
        open(lake, &options.table).await?;
        let folder = Folder::open(&options.to, &settings.lake.storage)?;
        if format!("{}/", folder.url()).starts_with(&format!("{}/", lake.url())) {
            let message = format!("the archive `{}` lies in the lake", folder.url());
            return Err(Error::new(Stage::Upkeep, Class::User, message)
                .hint("upkeep deletes files there that no table knows: name another folder or bucket"));
        }
        let gone = || Error::new(Stage::Upkeep, Class::Outside, format!("table `{}` is gone", options.table));
        let input = Input::gather(lake, &pipeline, None).await?.ok_or_else(gone)?;
        let told = ledger::read(lake, &input.raw, &pipeline.name).await?;
        let (mut lacking, mut already) = (BTreeMap::new(), 0);
        for date in input.dates.keys().filter(|date| **date < options.before && !input.removed.contains(**date)) {
            let entry = told.dates.get(date).copied().unwrap_or(DateEntry { rows: 0, checksum: Default::default() });
            match Manifest::read(&folder, *date).await? {
                Some(manifest) if manifest.table_id != input.raw.id() => {
                    let message = format!("`{}` holds {date} of another table `{}`", folder.url(), manifest.table);
                    return Err(Error::new(Stage::Upkeep, Class::User, message)
                        .hint("a table that was made anew needs another folder: the old rows are nowhere else"));
                }
                Some(manifest) if manifest.entry() == entry => already += 1,
                _ => drop(lacking.insert(*date, entry)),
            }
        }
        let file_bytes_max = (settings.memory_bytes / FILE_SHARE).min(FILE_BYTES_MAX);
        Ok(Self { folder, input, codec: options.codec, file_bytes_max, lacking, already })
    }

    /// Archives one date.
    async fn date(&self, date: Date, entry: DateEntry, meter: &Meter) -> Result<ArchivedDate> {
        Manifest::clear(&self.folder, date).await?;
        let raw = &self.input.raw;
        let (table, id) = (raw.name().to_string(), raw.id().to_owned());
        let mut manifest = Manifest::new(table, id, raw.version(), date, raw.schema());
        self.write(&mut manifest, meter).await?;
        if manifest.entry() != entry {
            let message = format!(
                "table `{}` has {} rows of {date} with checksum {}, and its commits told of {} with {}",
                raw.name(),
                manifest.rows,
                manifest.checksum,
                entry.rows,
                entry.checksum
            );
            return Err(Error::new(Stage::Upkeep, Class::Internal, message)
                .hint("the table was changed by another tool: see `deltaworks prove`"));
        }
        rows::verify(&self.folder, &manifest, raw.schema()).await?;
        faults::point("before_archive_manifest");
        manifest.write(&self.folder).await?;
        faults::point("after_archive_manifest");
        Ok(ArchivedDate {
            date,
            rows: manifest.rows,
            checksum: manifest.checksum.to_string(),
            files: manifest.files.len() as u64,
            bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        })
    }

    /// Writes the files of a date.
    async fn write(&self, manifest: &mut Manifest, meter: &Meter) -> Result<()> {
        let whole = self.input.raw.schema().clone();
        let fields = whole.fields().iter().filter(|field| field.name() != "event_date").cloned();
        let of_file: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let profile = FileProfile::new(of_file.clone()).codec(self.codec);
        let columns: Vec<&str> = of_file.fields().iter().map(|field| field.name().as_str()).collect();
        let (mut encoder, mut sum) = (None, RowSum::default());
        for file in self.files_of(manifest.date).await? {
            let mut batches = self.input.raw.read_file(&file, &columns).await?;
            while let Some(batch) = batches.next().await.transpose()? {
                let batch = conform(&batch, &file.partition_values, &whole)?;
                sum.merge(total(&batch, &[])?);
                Meter::add(&meter.rows, batch.num_rows() as u64);
                let batch = conform(&batch, &file.partition_values, &of_file)?;
                let filled = push(encoder.take(), &profile, batch).await?;
                if filled.memory_bytes() >= self.file_bytes_max {
                    self.put(manifest, filled, std::mem::take(&mut sum)).await?;
                } else {
                    encoder = Some(filled);
                }
            }
        }
        match encoder {
            Some(encoder) => self.put(manifest, encoder, sum).await,
            None => Ok(()),
        }
    }

    async fn files_of(&self, date: Date) -> Result<Vec<LiveFile>> {
        let is_of = |file: &LiveFile| {
            let spelled = file.partition_values.get("event_date").and_then(Option::as_deref);
            spelled.and_then(|spelled| spelled.parse::<Date>().ok()) == Some(date)
        };
        Ok(self.input.raw.live_files().await?.into_iter().filter(is_of).collect())
    }

    async fn put(&self, manifest: &mut Manifest, encoder: FileEncoder, sum: RowSum) -> Result<()> {
        let EncodedFile { bytes, rows, .. } = blocking(move || encoder.finish()).await?;
        let path = format!("{}/part-{:05}.parquet", folder_of(manifest.date), manifest.files.len());
        let file = ArchivedFile { path, rows, bytes: bytes.len() as u64, sha256: sha256(&bytes) };
        self.folder.put(&file.path, bytes).await?;
        manifest.add(file, sum);
        Ok(())
    }
}

/// The pipeline of a raw table.
fn raw_pipeline(settings: &Settings, table: &TableName) -> Result<Arc<Pipeline>> {
    let pipeline = settings.pipelines.iter().find(|pipeline| raw_name(pipeline) == *table).cloned();
    pipeline.ok_or_else(|| {
        let message = format!("table `{table}` is no raw table of the project");
        Error::new(Stage::Upkeep, Class::User, message).hint("events are archived: name a table of the layer `raw`")
    })
}

async fn push(encoder: Option<FileEncoder>, profile: &FileProfile, batch: RecordBatch) -> Result<FileEncoder> {
    let mut encoder = encoder.map_or_else(|| FileEncoder::new(profile), Ok)?;
    blocking(move || encoder.push(&batch).map(|()| encoder)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let broken = |e| Error::new(Stage::Upkeep, Class::Internal, "encoding a file broke down").because(e);
    tokio::task::spawn_blocking(work).await.map_err(broken)?
}

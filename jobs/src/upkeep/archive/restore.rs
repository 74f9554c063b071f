//! Archived dates back into raw: as a fill, under their old places, with what landing had decided about each row.
//!
//! A date is read twice: once to hold everything against its manifest, and once to write it. One part is one file of
//! the archive; the last part carries `…/restored/<date>`, so a date is whole when it counts as there. What is in raw
//! already, by place, is not added again: an interrupted run repeats no row, and one too many adds nothing.
//!
//! Dates of which no commit ever told are whole as they are: they count as brought back too, and so does the day before
//! the first, by whose ids copies would be told.

use super::manifest::Manifest;
use super::rows::{bytes_of, rows_of, verify};
use crate::batch::Input;
use crate::batch::meter::Meter;
use crate::error::{Class, Error, Result, Stage};
use crate::fill::{Filler, Part, Progress};
use crate::lake::{Folder, Lake, Table, ledger};
use crate::project::settings::{Pipeline, Settings};
use arrow::array::{RecordBatch, new_null_array};
use deltaworks_core::progress::AppIds;
use deltaworks_core::windows::Dates;
use jiff::civil::Date;
use serde::Serialize;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Id of the run.
    pub run_id: String,
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// URL of the archive.
    pub from: String,
    /// The event dates.
    pub dates: Dates,
}

/// What became of one date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoredDate {
    /// The date.
    pub date: Date,
    /// Rows that were added.
    pub rows: u64,
    /// Rows that were in raw already.
    pub already: u64,
}

/// What a run did.
#[derive(Debug, Default, Serialize)]
pub struct RestoreReport {
    /// Each date that was brought back.
    pub dates: Vec<RestoredDate>,
    /// Dates that raw had whole.
    pub there: u64,
    /// Whether it ended because it was told to.
    #[serde(skip)]
    pub stopped: bool,
    /// Why it did not get to its end.
    #[serde(skip)]
    pub error: Option<Error>,
}

/// Brings the dates back that raw no longer keeps; those that it has whole are left alone. The next batch computes
/// the units of these dates again. Run again, it goes on with the date that it had come to.
pub async fn restore_on(
    lake: &Lake,
    settings: &Settings,
    options: &RestoreOptions,
    meter: &Meter,
    stop: &CancellationToken,
) -> RestoreReport {
    let mut report = RestoreReport::default();
    if let Err(error) = all_dates(lake, settings, options, &mut report, meter, stop).await {
        let class = if report.dates.is_empty() || error.class != Class::Outside { error.class } else { Class::Partly };
        report.error = Some(Error { class, ..error });
    }
    report
}

async fn all_dates(
    lake: &Lake,
    settings: &Settings,
    options: &RestoreOptions,
    report: &mut RestoreReport,
    meter: &Meter,
    stop: &CancellationToken,
) -> Result<()> {
    let archive = Folder::open(&options.from, &settings.lake.storage)?;
    let user = |message: String| Error::new(Stage::Upkeep, Class::User, message);
    let Some(input) = Input::gather(lake, &options.pipeline, None).await? else {
        return Err(user(format!("pipeline `{}` has landed nothing yet", options.pipeline.name)));
    };
    let mut filler = Filler::open(lake, &options.pipeline, options.run_id.clone()).await?;
    let told = ledger::read(lake, &input.raw, &options.pipeline.name).await?;
    let is_empty = |date: &Date| input.removed.contains(*date) && !told.dates.contains_key(date);
    let day_before = options.dates.from.yesterday().ok();
    let empty: Vec<Date> = day_before.into_iter().chain(options.dates.iter()).filter(is_empty).collect();
    count_empty(&empty, &mut filler, &options.pipeline).await?;
    let is_gone = |date: &Date| input.removed.contains(*date) && !is_empty(date);
    Meter::add(&meter.units, options.dates.iter().filter(is_gone).count() as u64);
    for date in options.dates.iter() {
        if stop.is_cancelled() {
            report.stopped = true;
            return Ok(());
        }
        if !input.removed.contains(date) {
            report.there += u64::from(input.dates.contains_key(&date));
            continue;
        }
        if is_empty(&date) {
            continue;
        }
        let Some(manifest) = Manifest::read(&archive, date).await? else {
            let message = format!("{date} is not in the archive `{}`", archive.url());
            return Err(Error::new(Stage::Upkeep, Class::InputLost, message).hint("name dates that it has"));
        };
        if manifest.table_id != input.raw.id() {
            let message = format!("`{}` holds {date} of another table than `{}`", archive.url(), input.raw.name());
            return Err(user(message).hint("its rows have the places of a table that was dropped"));
        }
        verify(&archive, &manifest, input.raw.schema()).await?;
        report.dates.push(one_date(&archive, &manifest, &mut filler, &options.pipeline, meter).await?);
        Meter::add(&meter.units_done, 1);
    }
    filler.end().await;
    Ok(())
}

/// Counts dates without rows as brought back.
async fn count_empty(dates: &[Date], filler: &mut Filler, pipeline: &Pipeline) -> Result<()> {
    let ids = AppIds::new(&pipeline.name);
    let txn = |date: &Date| {
        let app_id = ids.restored(*date);
        let times = filler.raw().txns().get(&app_id).copied().unwrap_or(0);
        (app_id, times + 1)
    };
    let txns: Vec<(String, i64)> = dates.iter().map(txn).collect();
    let part = Part { source: "archive, dates without rows".to_owned(), txns, ..Part::default() };
    filler.add(&part).await.map(drop)
}

/// Adds the rows of a date, file by file.
async fn one_date(
    archive: &Folder,
    manifest: &Manifest,
    filler: &mut Filler,
    pipeline: &Pipeline,
    meter: &Meter,
) -> Result<RestoredDate> {
    let (date, app_id) = (manifest.date, AppIds::new(&pipeline.name).restored(manifest.date));
    let times = filler.raw().txns().get(&app_id).copied().unwrap_or(0);
    let mut done = RestoredDate { date, rows: 0, already: 0 };
    for (number, file) in manifest.files.iter().enumerate() {
        let rows = rows_of(date, bytes_of(archive, file).await?, filler.raw().schema()).await?;
        let is_last = number + 1 == manifest.files.len();
        let part = Part {
            source: format!("archive {date}"),
            rows: rows.into_iter().map(|batch| without_fill(&batch, filler.raw())).collect::<Result<_>>()?,
            rejects: Vec::new(),
            progress: is_last.then(|| Progress { app_id: app_id.clone(), from: times, to: times + 1 }),
            txns: Vec::new(),
        };
        let added = filler.add(&part).await?;
        if added.elsewhere {
            let message = format!("{date} is being brought back by another run");
            return Err(Error::new(Stage::Upkeep, Class::Overlap, message));
        }
        done.rows += added.landed;
        done.already += added.already;
        Meter::add(&meter.rows, added.landed + added.already);
    }
    Ok(done)
}

/// The same rows without the number of a fill that they may have come by.
fn without_fill(batch: &RecordBatch, raw: &Table) -> Result<RecordBatch> {
    let columns = batch.schema_ref().fields().iter().zip(batch.columns()).map(|(field, column)| {
        if field.name() == "_fill" { new_null_array(field.data_type(), batch.num_rows()) } else { Arc::clone(column) }
    });
    let failed = |e| {
        let message = format!("archived rows do not fit table `{}`", raw.name());
        Error::new(Stage::Upkeep, Class::Internal, message).because(e)
    };
    RecordBatch::try_new(batch.schema(), columns.collect()).map_err(failed)
}

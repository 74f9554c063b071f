//! Backfills that bring archived dates back: their plans in `ops.backfills`, and going on with them.
//!
//! The plan is the dates that raw no longer keeps; a date is done when raw counts it as there. The archive itself is
//! looked at when a date is read: its manifest says what must be in it.

use super::state::{self, Backfill, New};
use super::watched::{Filled, Resumed, spec_of, spelled};
use crate::batch::{Run, removed_from};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Lake, TableName};
use crate::project::settings::Settings;
use crate::upkeep::{RestoreOptions, RestoreReport, restore_on};
use deltaworks_core::backfill::{BackfillId, Kind};
use deltaworks_core::windows::Dates;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct ArchiveBackfill {
    /// Id of the run.
    pub run_id: String,
    /// The pipeline.
    pub pipeline: String,
    /// URL of the archive.
    pub from: String,
    /// Event dates.
    pub dates: Dates,
}

/// The dates of a plan, as they are shown.
#[derive(Debug, Serialize)]
pub struct ArchivePlan {
    /// The open backfill of the same words, which would be gone on with.
    pub continues: Option<BackfillId>,
    /// Dates that raw no longer keeps.
    pub dates: Vec<Date>,
}

/// What a backfill was made to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Spec {
    archive: String,
    /// First date.
    from: Date,
    /// First date after.
    to: Date,
}

/// Looks, and writes nothing.
///
/// # Errors
/// As [`create_archive`].
pub async fn plan_archive(settings: &Settings, options: &ArchiveBackfill) -> Result<ArchivePlan> {
    let lake = Lake::open(&settings.lake)?;
    let pipeline = settings.pipeline(&options.pipeline)?;
    let spec = spelled(&spec(options))?;
    if let Some(open) = state::open_one(&lake, Kind::Archive, &pipeline.name, &spec).await? {
        return Ok(ArchivePlan { continues: Some(open.id), dates: state::items(&lake, &open).await? });
    }
    Ok(ArchivePlan { continues: None, dates: gone(&lake, &pipeline.name, options.dates).await?.into_iter().collect() })
}

/// Creates a backfill, or finds the open one of the same words; none where raw keeps all of the dates.
///
/// # Errors
/// [`Class::User`] if there is no such pipeline; the store fails.
pub async fn create_archive(settings: &Settings, options: &ArchiveBackfill, clock: &Clock) -> Result<Option<Backfill>> {
    create_archive_on(&Lake::open(&settings.lake)?, settings, options, clock).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`create_archive`].
pub async fn create_archive_on(
    lake: &Lake,
    settings: &Settings,
    options: &ArchiveBackfill,
    clock: &Clock,
) -> Result<Option<Backfill>> {
    let pipeline = settings.pipeline(&options.pipeline)?;
    let items: Vec<Date> = gone(lake, &pipeline.name, options.dates).await?.into_iter().collect();
    let (target, spec) = (pipeline.name.clone(), spelled(&spec(options))?);
    if items.is_empty() {
        return state::open_one(lake, Kind::Archive, &target, &spec).await;
    }
    let new = New { kind: Kind::Archive, target, spec, items, judged_against: None };
    state::create(lake, &new, &Run::new(options.run_id.clone()), clock.now_ms()).await?.by_itself().map(Some)
}

impl Resumed<'_> {
    /// Goes on; the report says how far it got, also if it failed.
    ///
    /// # Errors
    /// The plan cannot be read, or the pipeline is gone.
    pub async fn restore_from_archive(&self) -> Result<RestoreReport> {
        let Self { lake, settings, backfill, meter, .. } = *self;
        let Spec { archive, from, to } = spec_of(backfill)?;
        let pipeline = settings.pipeline(&backfill.target)?.clone();
        let run_id = self.options.run_id.clone();
        let options = RestoreOptions { run_id, pipeline, from: archive, dates: Dates { from, to } };
        self.watched(async |stop| restore_on(lake, settings, &options, meter, stop).await).await
    }
}

/// Dates of the plan that raw does not keep yet, in their order.
pub(super) async fn dates_left(lake: &Lake, backfill: &Backfill) -> Result<Vec<String>> {
    let plan: Vec<Date> = state::items(lake, backfill).await?;
    let Spec { from, to, .. } = spec_of(backfill)?;
    let gone = gone(lake, &backfill.target, Dates { from, to }).await?;
    Ok(plan.into_iter().filter(|date| gone.contains(date)).map(|date| date.to_string()).collect())
}

/// The dates among these that raw no longer keeps.
async fn gone(lake: &Lake, pipeline: &str, dates: Dates) -> Result<BTreeSet<Date>> {
    let Some(raw) = lake.open_table(&TableName::new("raw", pipeline)).await? else {
        let message = format!("pipeline `{pipeline}` has landed nothing yet");
        return Err(Error::new(Stage::Backfill, Class::User, message));
    };
    let removed = removed_from(pipeline, &raw);
    Ok(dates.iter().filter(|date| removed.contains(*date)).collect())
}

fn spec(options: &ArchiveBackfill) -> Spec {
    Spec { archive: options.from.clone(), from: options.dates.from, to: options.dates.to }
}

impl Filled for RestoreReport {
    fn error(&mut self) -> &mut Option<Error> {
        &mut self.error
    }
    fn stopped(&mut self) -> &mut bool {
        &mut self.stopped
    }
    fn has_changed(&self) -> bool {
        self.dates.iter().any(|date| date.rows > 0)
    }
    fn is_done(&self) -> bool {
        self.error.is_none() && !self.stopped
    }
}

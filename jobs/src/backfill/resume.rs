//! Goes on with a backfill of any kind, wherever it was created: judges where it is, and hands it to its kind.

use super::files::FilesReport;
use super::freeze::Spec;
use super::from_kafka::KafkaReport;
use super::recompute::left_of;
use super::state::{self, Backfill, cancelled};
use super::watched::{Filled, Resumed};
use super::{from_archive, from_files, from_kafka};
use crate::batch::meter::Meter;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::lake::Lake;
use crate::project::settings::Settings;
use crate::upkeep::RestoreReport;
use deltaworks_core::backfill::{BackfillId, FrozenUnit, Kind, State};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What going on is asked for.
#[derive(Debug, Clone)]
pub struct ResumeOptions {
    /// Id of the run.
    pub run_id: String,
    /// Files read, and threads' worth of work, at a time.
    pub parallel: usize,
}

/// How a run over a backfill ended.
#[derive(Debug, Default)]
pub struct Report {
    /// What was done of units.
    pub figures: Figures,
    /// What was done of files, if it is about files.
    pub files: Option<FilesReport>,
    /// What was read again, if it is about a topic.
    pub pieces: Option<KafkaReport>,
    /// What was brought back, if it is about an archive.
    pub dates: Option<RestoreReport>,
    /// The command that goes on, where something is left.
    pub resume: Option<String>,
    /// Whether it ended because it was told to.
    pub stopped: bool,
    /// Why it did not get to its end.
    pub error: Option<Error>,
}

/// What a run over a recompute did.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Units.
    pub units: UnitFigures,
    /// Windows with events, of the units computed.
    pub windows: u64,
    /// Raw rows read.
    pub rows: u64,
    /// Late ones among them.
    pub late: u64,
    /// Copies among them.
    pub duplicates: u64,
    /// Units whose dates raw no longer keeps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub beyond_retention: Vec<String>,
}

/// Units of a recompute.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct UnitFigures {
    /// In the plan.
    pub total: u64,
    /// Done before this run began, by whomever.
    pub done: u64,
    /// Computed by this run.
    pub computed: u64,
    /// Of these, with new rows.
    pub changed: u64,
    /// Of these, with the rows that they had.
    pub unchanged: u64,
    /// Begun by this run and not published.
    pub failed: u64,
    /// Still to do.
    pub left: u64,
}

impl Report {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let filled = self.files.as_ref().is_some_and(Filled::has_changed)
            || self.pieces.as_ref().is_some_and(Filled::has_changed)
            || self.dates.as_ref().is_some_and(Filled::has_changed);
        self.error.is_none() && !self.stopped && self.figures.units.computed == 0 && !filled
    }

    /// What was done, as one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let json = match self {
            Self { files: Some(files), .. } => serde_json::to_value(files),
            Self { pieces: Some(pieces), .. } => serde_json::to_value(pieces),
            Self { dates: Some(dates), .. } => serde_json::to_value(dates),
            _ => serde_json::to_value(&self.figures),
        };
        json.unwrap_or_default()
    }
}

/// The backfill of this id.
///
/// # Errors
/// [`crate::Class::User`] if there is none; the table cannot be read.
pub async fn find(settings: &Settings, id: BackfillId) -> Result<Backfill> {
    state::find(&Lake::open(&settings.lake)?, id).await
}

/// Goes on with a backfill; the report says how far it got, also if it failed.
pub async fn resume(
    settings: &Settings,
    id: BackfillId,
    options: &ResumeOptions,
    meter: &Arc<Meter>,
    clock: &Clock,
    stop: &CancellationToken,
) -> Report {
    match Lake::open(&settings.lake) {
        Ok(lake) => resume_on(&lake, settings, id, options, meter, clock, stop).await,
        Err(error) => Report { error: Some(error), ..Report::default() },
    }
}

/// The same, on a lake that is open.
pub async fn resume_on(
    lake: &Lake,
    settings: &Settings,
    id: BackfillId,
    options: &ResumeOptions,
    meter: &Arc<Meter>,
    clock: &Clock,
    stop: &CancellationToken,
) -> Report {
    let mut report = Report::default();
    let ended = async {
        let backfill = &state::find(lake, id).await?;
        match backfill.state {
            State::Open => {}
            State::Cancelled => return Err(cancelled(id)),
            State::Finished => {
                let all = backfill.items;
                match backfill.kind {
                    Kind::Recompute => (report.figures.units.total, report.figures.units.done) = (all, all),
                    Kind::Files => {
                        report.files = Some(FilesReport { files: all, files_done: all, ..FilesReport::default() });
                    }
                    Kind::Kafka => {
                        report.pieces = Some(KafkaReport { pieces: all, pieces_done: all, ..KafkaReport::default() });
                    }
                    Kind::Archive => report.dates = Some(RestoreReport { there: all, ..RestoreReport::default() }),
                }
                return Ok(false);
            }
        }
        let resumed = Resumed { lake, settings, backfill, options, meter, clock, stop };
        match backfill.kind {
            Kind::Recompute => resumed.recompute(&mut report.figures).await,
            Kind::Files => ended_as(report.files.insert(resumed.fill_from_files().await?)),
            Kind::Kafka => ended_as(report.pieces.insert(resumed.fill_from_kafka().await?)),
            Kind::Archive => ended_as(report.dates.insert(resumed.restore_from_archive().await?)),
        }
    };
    match ended.await {
        Ok(stopped) => report.stopped = stopped,
        Err(error) => report.error = Some(error),
    }
    if report.stopped || report.error.is_some() {
        report.resume = match state::find(lake, id).await {
            Ok(backfill) => (backfill.state == State::Open).then(|| backfill.resume_command()),
            Err(_) => None,
        };
    }
    report
}

/// The units, files, pieces or dates that are left, in their order, as people read them.
///
/// # Errors
/// [`crate::Class::User`] if there is none of this id, or it was given up; a table cannot be read.
pub async fn what_is_left(settings: &Settings, id: BackfillId) -> Result<Vec<String>> {
    what_is_left_on(&Lake::open(&settings.lake)?, id).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`what_is_left`].
pub async fn what_is_left_on(lake: &Lake, id: BackfillId) -> Result<Vec<String>> {
    let backfill = state::find(lake, id).await?;
    match backfill.state {
        State::Open => items_left(lake, &backfill).await,
        State::Finished => Ok(Vec::new()),
        State::Cancelled => Err(cancelled(id)),
    }
}

/// What of its plan a backfill has not done, in its order, as people read it.
///
/// # Errors
/// A table cannot be read.
pub async fn items_left(lake: &Lake, backfill: &Backfill) -> Result<Vec<String>> {
    match backfill.kind {
        Kind::Recompute => {
            let plan: Vec<FrozenUnit> = state::items(lake, backfill).await?;
            let left = left_of(lake, backfill, &Spec::of(backfill)?, &plan).await?;
            Ok(left.into_iter().map(|frozen| frozen.unit.to_string()).collect())
        }
        Kind::Files => from_files::files_left(lake, backfill).await,
        Kind::Kafka => from_kafka::pieces_left(lake, backfill).await,
        Kind::Archive => from_archive::dates_left(lake, backfill).await,
    }
}

/// Whether a fill was stopped, or why it did not get to its end.
fn ended_as(fill: &mut impl Filled) -> Result<bool> {
    match fill.error().take() {
        Some(error) => Err(error),
        None => Ok(*fill.stopped()),
    }
}

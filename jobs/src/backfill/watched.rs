//! A backfill that is gone on with: its fill ends where somebody gives it up, and what came of it is told.

use super::resume::ResumeOptions;
use super::state::{self, Backfill, Watch, cancelled};
use crate::batch::meter::Meter;
use crate::batch::{Permit, Run};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::faults;
use crate::lake::{Lake, TableName};
use crate::project::settings::Settings;
use deltaworks_core::backfill::{Event, State, Turn};
use deltaworks_core::progress::AppIds;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a run looks whether it was given up.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a fill tells of itself.
pub trait Filled {
    /// Why it did not get to its end.
    fn error(&mut self) -> &mut Option<Error>;
    /// Whether it ended because it was told to.
    fn stopped(&mut self) -> &mut bool;
    /// Whether anything was written.
    fn has_changed(&self) -> bool;
    /// Whether all of its plan is done.
    fn is_done(&self) -> bool;
}

/// What a backfill is gone on with; each kind has a method that does it.
pub struct Resumed<'a> {
    /// The lake.
    pub lake: &'a Lake,
    /// The project.
    pub settings: &'a Settings,
    /// Which backfill.
    pub backfill: &'a Backfill,
    /// What is asked for.
    pub options: &'a ResumeOptions,
    /// Live figures.
    pub meter: &'a Arc<Meter>,
    /// The time.
    pub clock: &'a Clock,
    /// Cancelled where it is to end.
    pub stop: &'a CancellationToken,
}

impl Resumed<'_> {
    /// Carries `fill` out until it ends or the backfill is given up, and records its end if all is done.
    ///
    /// # Errors
    /// The backfill cannot be read or ended. What went wrong with the fill is in what it gives.
    pub async fn watched<R: Filled>(&self, fill: impl AsyncFnOnce(&CancellationToken) -> R) -> Result<R> {
        let Self { lake, backfill, options, clock, stop, .. } = self;
        let watch = Watch::new(lake, backfill.id).await?;
        let (given_up, done) = (stop.child_token(), CancellationToken::new());
        let looking = async {
            while !done.is_cancelled() {
                tokio::select! {
                    () = done.cancelled() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                match watch.may_go_on().await {
                    Ok(true) => {}
                    Ok(false) => given_up.cancel(),
                    Err(error) => tracing::debug!(%error, "whether the backfill was given up will be looked at again"),
                }
            }
        };
        let filling = async {
            let report = fill(&given_up).await;
            done.cancel();
            report
        };
        let (mut report, ()) = tokio::join!(filling, looking);
        if let Some(error) = report.error().take() {
            let partly = report.has_changed() && error.class == Class::Outside;
            *report.error() = Some(if partly { Error { class: Class::Partly, ..error } } else { error });
        } else if watch.is_cancelled().await {
            *report.error() = Some(cancelled(backfill.id));
            *report.stopped() = false;
        } else if report.is_done() {
            faults::point("before_fill_finish");
            let run = Run::new(options.run_id.clone());
            let ended = state::end(lake, backfill.id, Event::Finished, &run, clock.now_ms()).await?;
            if ended == Turn::Ended(State::Cancelled) {
                *report.error() = Some(cancelled(backfill.id));
            }
        }
        Ok(report)
    }
}

/// How many items of the plan of a fill are wholly in raw.
///
/// # Errors
/// The table cannot be read.
pub async fn items_done(lake: &Lake, pipeline: &str, id: &str) -> Result<usize> {
    let raw = lake.open_table(&TableName::new("raw", pipeline)).await?;
    let done = raw.and_then(|raw| raw.txns().get(&AppIds::new(pipeline).backfill(id)).copied());
    Ok(usize::try_from(done.unwrap_or(0)).unwrap_or(0))
}

/// What a backfill was made to do, as its kind has it.
///
/// # Errors
/// It was written by another version.
pub fn spec_of<T: DeserializeOwned>(backfill: &Backfill) -> Result<T> {
    serde_json::from_value(backfill.spec.clone()).map_err(|e| {
        let message = format!("what backfill `{}` was made to do cannot be read", backfill.id);
        Error::new(Stage::Backfill, Class::Internal, message).because(e)
    })
}

/// The same, as it is kept.
///
/// # Errors
/// None but for bugs.
pub fn spelled(spec: &impl Serialize) -> Result<Value> {
    let failed = |e| Error::new(Stage::Backfill, Class::Internal, "options cannot be spelled").because(e);
    serde_json::to_value(spec).map_err(failed)
}

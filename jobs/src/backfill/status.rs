//! What there is to tell of backfills, and giving one up. Progress is what the lake says, asked anew each time.

use super::resume::items_left;
use super::state::{self, Backfill};
use crate::batch::Run;
use crate::clock::Clock;
use crate::error::Result;
use crate::lake::Lake;
use crate::project::settings::Settings;
use deltaworks_core::backfill::{BackfillId, Event, Kind, State, Turn};
use deltaworks_core::windows::Instant;
use serde::Serialize;
use serde_json::Value;

/// Items that are named of what is left.
const NAMES_MAX: usize = 10;

/// A backfill, as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Its id.
    pub id: BackfillId,
    /// What it does.
    pub kind: Kind,
    /// The aggregate or pipeline that it is about.
    pub target: String,
    /// Where it is.
    pub state: State,
    /// Items of its plan that are done, by whomever.
    pub done: u64,
    /// Items of its plan.
    pub total: u64,
    /// Items that are not.
    pub left: u64,
    /// The first of these.
    pub next: Vec<String>,
    /// When it was created.
    pub created_at: Instant,
    /// When it ended.
    pub ended_at: Option<Instant>,
    /// What it was made to do.
    pub spec: Value,
    /// The command that goes on with it, while it is open.
    pub resume: Option<String>,
}

/// What came of giving a backfill up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cancelled {
    /// Its id.
    pub backfill: BackfillId,
    /// Where it is now.
    pub state: State,
    /// Whether it had ended before.
    #[serde(skip)]
    pub was_ended: bool,
}

/// The last backfills, the newest first.
///
/// # Errors
/// A table cannot be read.
pub async fn list(settings: &Settings, limit: usize) -> Result<Vec<Line>> {
    list_on(&Lake::open(&settings.lake)?, limit).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`list`].
pub async fn list_on(lake: &Lake, limit: usize) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for backfill in state::all(lake).await?.into_iter().take(limit) {
        lines.push(line(lake, backfill).await?);
    }
    Ok(lines)
}

/// One backfill.
///
/// # Errors
/// [`crate::Class::User`] if there is none of this id; a table cannot be read.
pub async fn status(settings: &Settings, id: BackfillId) -> Result<Line> {
    status_on(&Lake::open(&settings.lake)?, id).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`status`].
pub async fn status_on(lake: &Lake, id: BackfillId) -> Result<Line> {
    let backfill = state::find(lake, id).await?;
    line(lake, backfill).await
}

/// Gives a backfill up: one that runs stops before its next item, and none goes on with it. What it did stays.
///
/// # Errors
/// [`crate::Class::User`] if there is none of this id; the store fails.
pub async fn cancel(settings: &Settings, id: BackfillId, run_id: &str, clock: &Clock) -> Result<Cancelled> {
    cancel_on(&Lake::open(&settings.lake)?, id, run_id, clock).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`cancel`].
pub async fn cancel_on(lake: &Lake, id: BackfillId, run_id: &str, clock: &Clock) -> Result<Cancelled> {
    let turn = state::end(lake, id, Event::Cancelled, &Run::new(run_id), clock.now_ms()).await?;
    let (state, was_ended) = match turn {
        Turn::Record => (State::Cancelled, false),
        Turn::Ended(state) => (state, true),
    };
    Ok(Cancelled { backfill: id, state, was_ended })
}

async fn line(lake: &Lake, backfill: Backfill) -> Result<Line> {
    let left = match backfill.state {
        State::Finished => Vec::new(),
        State::Open | State::Cancelled => items_left(lake, &backfill).await?,
    };
    let count = left.len() as u64;
    let resume = (backfill.state == State::Open).then(|| backfill.resume_command());
    Ok(Line {
        id: backfill.id,
        kind: backfill.kind,
        target: backfill.target,
        state: backfill.state,
        done: backfill.items.saturating_sub(count),
        total: backfill.items,
        left: count,
        next: left.into_iter().take(NAMES_MAX).collect(),
        created_at: backfill.created_at,
        ended_at: backfill.ended_at,
        spec: backfill.spec,
        resume,
    })
}

//! Gives rejects up, with a reason that is kept for audit. Their messages stay in the rejects table.
//!
//! Only open ones: what is in raw cannot be given up any more, and what the stream judges again is not settled yet.

use super::current::Current;
use super::filter::Filter;
use super::resolutions::{Author, Settled};
use super::select::{LeftOut, files, heads, taken};
use crate::batch::texts;
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::fill::each_place;
use crate::lake::Lake;
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::resolution::{Resolution, Standing};
use serde::Serialize;
use std::collections::BTreeMap;

/// Places of one commit.
const AT_A_TIME: usize = 100_000;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct DiscardOptions {
    /// Id of the run.
    pub run_id: String,
    /// Which rejects.
    pub filter: Filter,
    /// Why they are given up.
    pub because: String,
    /// Only count.
    pub dry_run: bool,
}

/// What was discarded, or would be.
#[derive(Debug, Default, Serialize)]
pub struct DiscardReport {
    /// Messages, by the reason for which they were refused.
    pub discarded: BTreeMap<String, u64>,
    /// Meant, and left as they are.
    pub left_out: LeftOut,
}

impl DiscardReport {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.discarded.is_empty()
    }
}

/// Discards. Interrupted, it may be called again.
///
/// # Errors
/// The filter means nothing, or no reason is given; a table cannot be read or written.
pub async fn discard(
    settings: &Settings,
    pipeline: &Pipeline,
    options: &DiscardOptions,
    clock: &Clock,
) -> Result<DiscardReport> {
    discard_on(&Lake::open(&settings.lake)?, pipeline, options, clock).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`discard`].
pub async fn discard_on(
    lake: &Lake,
    pipeline: &Pipeline,
    options: &DiscardOptions,
    clock: &Clock,
) -> Result<DiscardReport> {
    options.filter.validate()?;
    if options.because.trim().is_empty() {
        return Err(Error::new(Stage::Fill, Class::User, "rejects are not given up without a reason")
            .hint("say it with `--because TEXT`; it is kept in `ops.resolutions`"));
    }
    let mut report = DiscardReport::default();
    let Some(mut current) = Current::load(lake, &pipeline.name).await? else { return Ok(report) };
    let mut given_up = Vec::new();
    for file in files(&current, &options.filter).await? {
        heads(&current, &file, |batch| {
            let rows = taken(batch, &options.filter, &current, Standing::may_be_discarded, &mut report.left_out)?;
            let reasons = texts(batch, "reason")?;
            each_place(batch, |row, topic, partition, offset| {
                if rows[row] {
                    *report.discarded.entry(reasons.value(row).to_owned()).or_default() += 1;
                    given_up.push(Settled { topic: topic.to_owned(), partition, offset, fill: None });
                }
            })
        })
        .await?;
    }
    if !options.dry_run {
        let by = Author { run_id: options.run_id.clone(), because: Some(options.because.clone()) };
        for some in given_up.chunks(AT_A_TIME) {
            current.resolutions.append(some, Resolution::Discarded, &by, clock.now_ms()).await?;
        }
    }
    Ok(report)
}

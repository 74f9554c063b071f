//! What a run reads: one version of a raw table, its pin, and the files of each event date.

use super::scan::DateFiles;
use crate::engine::aggregate::Source;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Lake, LiveFile, Table};
use crate::land::tables::raw_name;
use crate::project::settings::Pipeline;
use deltaworks_core::progress::{AppIds, valid_through_ms};
use deltaworks_core::units::{Pin, Removed};
use deltaworks_core::windows::Instant;
use jiff::ToSpan as _;
use jiff::civil::{Date, date};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One version of a raw table.
#[derive(Debug, Clone)]
pub struct Input {
    /// The pipeline that landed it.
    pub pipeline: Arc<Pipeline>,
    /// The pipeline, as aggregates see it.
    pub source: Source,
    /// The table at that version.
    pub raw: Table,
    /// Its pin.
    pub pin: Pin,
    /// The files of each event date that has any.
    pub dates: BTreeMap<Date, DateFiles>,
    /// Dates that it no longer keeps.
    pub removed: Removed,
}

impl Input {
    /// The newest version, or the one asked for; `None` if nothing was ever landed.
    ///
    /// # Errors
    /// The table cannot be read, or was written by another tool that left out `numRecords`.
    pub async fn gather(lake: &Lake, pipeline: &Arc<Pipeline>, version: Option<i64>) -> Result<Option<Self>> {
        let name = raw_name(pipeline);
        let raw = match version {
            Some(version) => lake.open_table_at(&name, version).await?,
            None => lake.open_table(&name).await?,
        };
        let Some(raw) = raw else { return Ok(None) };
        let mut by_date: BTreeMap<Date, Vec<LiveFile>> = BTreeMap::new();
        for file in raw.live_files().await? {
            by_date.entry(event_date(&file)?).or_default().push(file);
        }
        let dates = by_date.into_iter().map(|(date, files)| Ok((date, DateFiles::new(date, files)?)));
        let dates: BTreeMap<Date, DateFiles> = dates.collect::<Result<_>>()?;
        let lateness_ms = i64::try_from(pipeline.lateness.as_millis()).unwrap_or(i64::MAX);
        let progress = AppIds::new(&pipeline.name).read(&pipeline.topic, raw.txns());
        let valid_through = valid_through_ms(&progress, lateness_ms).map(Instant::of_ms);
        let rows = dates.iter().filter(|(_, files)| files.rows > 0).map(|(date, files)| (*date, files.rows)).collect();
        let pin = Pin::of_snapshot(&pipeline.name, raw.id().to_owned(), raw.version(), raw.txns(), valid_through, rows);
        let removed = removed(&pipeline.name, raw.txns());
        Ok(Some(Self { pipeline: pipeline.clone(), source: Source::of(pipeline), raw, pin, dates, removed }))
    }

    /// The name of its rows: another one once some of them were forgotten.
    #[must_use]
    pub fn rows_id(&self) -> String {
        AppIds::new(&self.pipeline.name).rows_id(self.raw.id(), self.raw.txns())
    }

    /// Whether events have an id to tell copies by.
    #[must_use]
    pub fn has_ids(&self) -> bool {
        self.pipeline.contract.id_column().is_some()
    }
}

/// The dates that a raw table no longer keeps.
pub fn removed_from(pipeline: &str, raw: &Table) -> Removed {
    removed(pipeline, raw.txns())
}

fn event_date(file: &LiveFile) -> Result<Date> {
    let spelled = file.partition_values.get("event_date").and_then(Option::as_deref);
    spelled.and_then(|date| date.parse().ok()).ok_or_else(|| {
        let message = format!("raw file `{}` has no event date", file.path);
        Error::new(Stage::Batch, Class::Internal, message).hint("the raw table was written by another tool")
    })
}

/// What `retain` removed and archive fills brought back: days since the Unix epoch, and dates. A date that is
/// brought back, and one that is removed once more, add one each: odd is there.
fn removed(pipeline: &str, txns: &BTreeMap<String, i64>) -> Removed {
    let prefix = format!("deltaworks/{pipeline}/");
    let day = |days: i64| date(1970, 1, 1).checked_add(days.days()).ok();
    let through = txns.get(&format!("{prefix}removed_through")).and_then(|days| day(*days));
    let is_there = txns.iter().filter(|(_, times)| *times % 2 == 1).map(|(id, _)| id);
    let restored = is_there.filter_map(|id| id.strip_prefix(&prefix)?.strip_prefix("restored/")?.parse().ok());
    Removed { through, restored: restored.collect::<BTreeSet<_>>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_read_from_the_pipelines_own_entries() {
        let txns = [
            ("deltaworks/p/removed_through", 31),
            ("deltaworks/p/restored/1970-01-05", 1),
            ("deltaworks/p/restored/1970-01-06", 2),
            ("deltaworks/p2/removed_through", 99),
            ("deltaworks/p/t/0/next", 7),
        ];
        let txns = txns.into_iter().map(|(id, version)| (id.to_owned(), version)).collect();
        let expected = Removed { through: Some(date(1970, 2, 1)), restored: BTreeSet::from([date(1970, 1, 5)]) };
        assert_eq!(removed("p", &txns), expected);
        assert_eq!(removed("q", &txns), Removed::default());
    }
}

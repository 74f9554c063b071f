//! What landing has reached, read from the tables and, if asked, from the broker. Nothing is written.

use super::tables::raw_name;
use crate::clock::Clock;
use crate::error::Result;
use crate::kafka::watermarks::Watermarks;
use crate::lake::Lake;
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::progress::{AppIds, TopicProgress, valid_through_ms};
use serde::Serialize;
use std::sync::Arc;

/// One partition's offsets, wherever they are kept.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionOffsets {
    /// Pipeline.
    pub pipeline: String,
    /// Topic with its epoch.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Next offset to read, from the Delta log: the truth.
    pub delta: Option<i64>,
    /// The consumer group's offset: for lag tools only.
    pub group: Option<i64>,
    /// Low watermark.
    pub low: i64,
    /// High watermark.
    pub high: i64,
    /// Offsets that the topic still has and that are not landed yet.
    pub lag: i64,
    /// Offsets that the topic no longer has and that were never landed.
    pub lost: i64,
}

/// State of one table.
#[derive(Debug, Clone, Serialize)]
pub struct TableStatus {
    /// `<layer>.<name>`.
    pub table: String,
    /// Version.
    pub version: i64,
    /// Rows.
    pub rows: u64,
    /// Live files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The instant up to which a raw table is complete, RFC 3339.
    pub valid_through: Option<String>,
    /// Seconds from that instant to now.
    pub age_s: Option<i64>,
    /// Messages not landed yet; absent for other tables and offline.
    pub lag: Option<i64>,
}

/// Offsets of every partition of a pipeline.
///
/// # Errors
/// If store or broker do not answer, or the topic is not there.
pub async fn offsets(settings: &Settings, pipeline: &Pipeline) -> Result<Vec<PartitionOffsets>> {
    let progress = progress(&Lake::open(&settings.lake)?, pipeline).await?;
    let watermarks = Watermarks::open(&settings.kafka)?;
    let count = watermarks.partition_count(&pipeline.topic)?;
    let group = watermarks.group_offsets(&pipeline.group, &pipeline.topic)?;
    (0..count)
        .map(|partition| {
            let (low, high) = watermarks.low_high(&pipeline.topic, partition)?;
            let delta = progress.partitions.get(&partition).map(|p| p.next.0);
            let (lag, lost) = behind(delta, low, high);
            Ok(PartitionOffsets {
                pipeline: pipeline.name.clone(),
                topic: progress.topic.clone(),
                partition,
                delta,
                group: group.get(&partition).copied(),
                low,
                high,
                lag,
                lost,
            })
        })
        .collect()
}

/// State of every table of the lake; raw tables of `pipelines` with valid-through and, if `online`, lag.
///
/// # Errors
/// If the store, or, if `online`, the broker does not answer.
pub async fn status(
    settings: &Settings,
    pipelines: &[Arc<Pipeline>],
    online: bool,
    clock: &Clock,
) -> Result<Vec<TableStatus>> {
    let lake = Lake::open(&settings.lake)?;
    let mut out = Vec::new();
    for name in lake.list_tables().await? {
        let Some(table) = lake.open_table(&name).await? else { continue };
        let pipeline = pipelines.iter().find(|p| name == raw_name(p));
        if pipeline.is_none() && settings.pipelines.iter().any(|p| p.name == name.name) && name.layer == "raw" {
            continue;
        }
        let files = table.live_files().await?;
        let valid_ms = pipeline.and_then(|p| {
            let progress = AppIds::new(&p.name).read(&p.topic, table.txns());
            valid_through_ms(&progress, i64::try_from(p.lateness.as_millis()).unwrap_or(i64::MAX))
        });
        let lag = match pipeline {
            Some(p) if online => Some(offsets(settings, p).await?.iter().map(|o| o.lag).sum()),
            _ => None,
        };
        out.push(TableStatus {
            table: name.to_string(),
            version: table.version(),
            rows: files.iter().filter_map(|f| f.rows).sum(),
            files: files.len() as u64,
            bytes: files.iter().map(|f| f.size).sum(),
            valid_through: valid_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|t| t.to_string()),
            age_s: valid_ms.map(|ms| (clock.now_ms() - ms) / 1_000),
            lag,
        });
    }
    Ok(out)
}

/// What of a partition has yet to be landed: what the topic still has, and what is gone.
fn behind(next: Option<i64>, low: i64, high: i64) -> (i64, i64) {
    let next = next.unwrap_or(low);
    ((high - next.max(low)).max(0), (low - next).max(0))
}

async fn progress(lake: &Lake, pipeline: &Pipeline) -> Result<TopicProgress> {
    let table = lake.open_table(&raw_name(pipeline)).await?;
    let none = std::collections::BTreeMap::new();
    let txns = table.as_ref().map_or(&none, |t| t.txns());
    Ok(AppIds::new(&pipeline.name).read(&pipeline.topic, txns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::never_landed(None, 150, 175, (25, 0))]
    #[case::in_the_middle(Some(160), 150, 175, (15, 0))]
    #[case::at_the_end(Some(175), 150, 175, (0, 0))]
    #[case::retention_was_faster(Some(100), 150, 175, (25, 50))]
    #[case::all_is_gone(Some(100), 175, 175, (0, 75))]
    #[case::made_anew(Some(100), 0, 7, (0, 0))]
    fn what_is_lost_is_no_lag(
        #[case] next: Option<i64>,
        #[case] low: i64,
        #[case] high: i64,
        #[case] want: (i64, i64),
    ) {
        assert_eq!(behind(next, low, high), want);
    }
}

//! What the broker still holds, read again: every readable message has a row, or was left out by a rule, and
//! none lies in a gap.

use super::landed::Landed;
use super::report::{Check, Checking};
use crate::error::{Class, Error, Result, Stage};
use crate::kafka::message::Chunk;
use crate::kafka::source::{Event, Mode, Source};
use crate::kafka::watermarks::Watermarks;
use crate::project::settings::{Options, Pipeline};
use deltaworks_core::place::Offset;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Group of the reader; it assigns by hand and never commits.
const GROUP: &str = "deltaworks.prove";
/// Memory for prefetched messages.
const QUEUE_BYTES: usize = 32 << 20;
/// Messages of one poll.
const AT_A_TIME: usize = 10_000;
/// One wait for messages.
const WAIT: Duration = Duration::from_millis(200);
/// A broker that sends nothing for so long is away.
const PATIENCE: Duration = Duration::from_secs(60);

/// Checks the current epoch of the topic; blocks.
pub(super) fn broker(options: &Options, pipeline: &Pipeline, landed: &Landed, now_ms: i64) -> Result<Check> {
    let (mut check, progress) = (Checking::new("broker", &pipeline.topic), &landed.progress);
    let asked = Watermarks::open(options)?;
    let mut ends: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for (partition, of_partition) in &progress.partitions {
        let (low, high) = asked.low_high(&pipeline.topic, *partition)?;
        let from = landed.first(&(progress.topic.clone(), *partition)).map_or(low, |first| first.0.max(low));
        let end = of_partition.next.0.min(high);
        check.compared("partitions", 1);
        if from < end {
            ends.insert(*partition, (from, end));
        }
    }
    if ends.is_empty() {
        return Ok(check.end());
    }
    let mode = Mode::Manual { group: GROUP.to_owned(), partitions: ends.keys().copied().collect() };
    let mut source = Source::open(options, &pipeline.topic, mode, QUEUE_BYTES, false)?;
    let (mut chunk, mut heard) = (Chunk::default(), Instant::now());
    let mut missing: BTreeMap<i32, u64> = BTreeMap::new();
    while !ends.is_empty() {
        chunk.clear();
        let events = source.poll(&mut chunk, AT_A_TIME, WAIT, now_ms)?;
        for message in &chunk.messages {
            heard = Instant::now();
            let (partition, offset) = (message.partition, message.offset);
            let Some((_, end)) = ends.get(&partition) else { continue };
            if offset >= *end {
                ends.remove(&partition);
                continue;
            }
            check.compared("messages", 1);
            let key = (progress.topic.clone(), partition);
            if let Some(gap) = landed.gap_at(&key, Offset(offset)) {
                check
                    .refute(format!("{}/{partition}@{offset} is readable, and was told to be in the gap {gap}", key.0));
            } else if !landed.has(&key, Offset(offset)) {
                *missing.entry(partition).or_default() += 1;
                if missing[&partition] > landed.without_row(&key) {
                    check.refute(format!("{}/{partition}@{offset} is readable, and has no row", key.0));
                }
            }
        }
        for event in events {
            match event {
                Event::Assigning(partitions) => {
                    let starts: Vec<(i32, i64)> =
                        partitions.iter().filter_map(|p| ends.get(p).map(|(from, _)| (*p, *from))).collect();
                    source.assign(&starts)?;
                }
                Event::EndOfPartition { partition, position } => {
                    if ends.get(&partition).is_some_and(|(_, end)| position >= *end) {
                        ends.remove(&partition);
                    }
                }
                Event::Revoking(partitions) | Event::Lost(partitions) => source.unassign(&partitions)?,
                Event::Trouble { text } => tracing::debug!(%text, "the broker is read again"),
            }
        }
        if heard.elapsed() > PATIENCE {
            let message = format!("topic `{}` sends nothing more: {} partitions are left", pipeline.topic, ends.len());
            return Err(Error::new(Stage::Kafka, Class::Outside, message));
        }
    }
    Ok(check.end())
}

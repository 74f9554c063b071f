//! What a change of offsets would bring or cost, partition by partition, before it is made.
//!
//! Only watermarks, times and tables are looked at. What a rewind would land is known after the messages are read:
//! see [`super::rewind`].

use crate::error::{Class, Error, Result, Stage};
use crate::fill::kafka::{Target, held, landed, resolve};
use crate::kafka::watermarks::Watermarks;
use crate::lake::Lake;
use crate::land::tables::raw_name;
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::progress::{AppIds, TopicProgress};
use serde::Serialize;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Targets {
    /// Partitions; `None` for all that were landed.
    pub partitions: Option<Vec<i32>>,
    /// Where to.
    pub to: Target,
}

/// What a change of one partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Offsets below `next` are read again, as a fill.
    Rewind,
    /// Offsets from `next` on are left out.
    Skip,
    /// It stands there already.
    Nothing,
}

/// What a change of one partition would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionPlan {
    /// Partition.
    pub partition: i32,
    /// What it is.
    pub act: Act,
    /// The earliest offset that the broker holds.
    pub low: i64,
    /// The offset after the last one.
    pub high: i64,
    /// Where the stream goes on.
    pub next: i64,
    /// Where the target lies.
    pub to: i64,
    /// Offsets that would be read again.
    pub reads: u64,
    /// Rows that would be there twice.
    pub duplicates: u64,
    /// Offsets below `next` that were asked for, and that the broker no longer holds.
    pub gone: u64,
    /// Offsets that would never be read: at most so many messages.
    pub loses: u64,
    /// Kafka's time of the first and of the last of these offsets, RFC 3339; null where no message lies there.
    pub first_time: Option<String>,
    /// Of the last.
    pub last_time: Option<String>,
}

/// The plan of every partition that is meant.
///
/// # Errors
/// [`Class::User`] if nothing of a partition was landed; [`Class::InputLost`] if the topic was recreated; store or
/// broker do not answer.
pub async fn plan(settings: &Settings, pipeline: &Pipeline, targets: &Targets) -> Result<Vec<PartitionPlan>> {
    plan_on(&Lake::open(&settings.lake)?, settings, pipeline, targets).await
}

/// The same, on a lake that is open.
///
/// # Errors
/// As [`plan`].
pub async fn plan_on(
    lake: &Lake,
    settings: &Settings,
    pipeline: &Pipeline,
    targets: &Targets,
) -> Result<Vec<PartitionPlan>> {
    let mut plans = judged(lake, settings, pipeline, targets).await?;
    let broker = Watermarks::open(&settings.kafka)?;
    for plan in &mut plans {
        let PartitionPlan { partition, low, high, next, to, .. } = *plan;
        let (first, last) = if plan.act == Act::Rewind { (to.max(low), next) } else { (next, to.min(high)) };
        if first < last {
            plan.first_time = time_at(&broker, pipeline, partition, first)?;
            plan.last_time = time_at(&broker, pipeline, partition, last - 1)?;
        }
    }
    Ok(plans)
}

/// The plans without times: each of them takes a message to be read.
pub(super) async fn judged(
    lake: &Lake,
    settings: &Settings,
    pipeline: &Pipeline,
    targets: &Targets,
) -> Result<Vec<PartitionPlan>> {
    let progress = progress(lake, pipeline).await?;
    let partitions = partitions(pipeline, &progress, targets)?;
    let broker = Watermarks::open(&settings.kafka)?;
    let mut plans = Vec::new();
    for (partition, to) in resolve(&broker, &pipeline.topic, &partitions, targets.to)? {
        let at = landed(pipeline, &progress, partition)?;
        let (low, high) = held(&broker, pipeline, partition, at)?;
        plans.push(judge(partition, low, high, at.next.0, to));
    }
    Ok(plans)
}

/// The progress of a pipeline that has landed something.
async fn progress(lake: &Lake, pipeline: &Pipeline) -> Result<TopicProgress> {
    let raw = lake.open_table(&raw_name(pipeline)).await?.ok_or_else(|| {
        Error::new(Stage::Fill, Class::User, format!("pipeline `{}` has landed nothing yet", pipeline.name))
            .hint("`deltaworks stream --start` says where a pipeline without progress begins")
    })?;
    Ok(AppIds::new(&pipeline.name).read(&pipeline.topic, raw.txns()))
}

/// The partitions that are meant, each with progress.
fn partitions(pipeline: &Pipeline, progress: &TopicProgress, targets: &Targets) -> Result<Vec<i32>> {
    let partitions = match &targets.partitions {
        Some(partitions) => partitions.clone(),
        None => progress.partitions.keys().copied().collect(),
    };
    for partition in &partitions {
        landed(pipeline, progress, *partition)?;
    }
    Ok(partitions)
}

fn judge(partition: i32, low: i64, high: i64, next: i64, to: i64) -> PartitionPlan {
    let count = |from: i64, to: i64| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
    let act = match to.cmp(&next) {
        std::cmp::Ordering::Less => Act::Rewind,
        std::cmp::Ordering::Equal => Act::Nothing,
        std::cmp::Ordering::Greater => Act::Skip,
    };
    let rewinds = act == Act::Rewind;
    PartitionPlan {
        partition,
        act,
        low,
        high,
        next,
        to,
        reads: if rewinds { count(to.max(low), next) } else { 0 },
        duplicates: 0,
        gone: if rewinds { count(to, low.min(next)) } else { 0 },
        loses: count(next, to),
        first_time: None,
        last_time: None,
    }
}

fn time_at(broker: &Watermarks, pipeline: &Pipeline, partition: i32, offset: i64) -> Result<Option<String>> {
    let ms = broker.message_time_at(&pipeline.topic, partition, offset)?;
    Ok(ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|at| at.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// What a log of [10, 100) that the stream has read up to 50 says of a target: reads, gone, loses.
    #[rstest]
    #[case::rewind(30, Act::Rewind, [20, 0, 0])]
    #[case::to_what_is_gone(4, Act::Rewind, [40, 6, 0])]
    #[case::where_it_stands(50, Act::Nothing, [0, 0, 0])]
    #[case::skip(70, Act::Skip, [0, 0, 20])]
    #[case::to_the_end(100, Act::Skip, [0, 0, 50])]
    fn targets_are_judged(#[case] to: i64, #[case] act: Act, #[case] counts: [u64; 3]) {
        let plan = judge(3, 10, 100, 50, to);
        assert_eq!((plan.act, [plan.reads, plan.gone, plan.loses]), (act, counts));
        assert_eq!((plan.duplicates, plan.partition), (0, 3));
    }

    #[test]
    fn retention_may_have_passed_all_that_was_landed() {
        let plan = judge(0, 60, 100, 50, 20);
        assert_eq!((plan.act, plan.reads, plan.gone), (Act::Rewind, 0, 30));
    }
}

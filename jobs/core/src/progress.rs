//! Progress of a raw table, as Delta `txn` entries, and what follows from it.
//!
//! Progress lives in the same commit as the rows. Per partition there are up to four entries, app id
//! `deltaworks/<pipeline>/<topic>/<partition>/<entry>`; a fifth names the partition count. A topic
//! that was recreated goes on as `topic#1`, so its entries never mix with the old ones.
//!
//! Invariants: G1 `next`, `frontier` and `reached` never fall; G2 a partition without `reached`
//! holds valid-through open, so a partition nobody has read yet cannot be overtaken.

use crate::place::Offset;
use jiff::civil::Date;
use serde::Serialize;
use std::collections::BTreeMap;

/// `seen` of an offset that held no message, or a message without a time.
const UNKNOWN: i64 = -1;

/// Progress of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Next offset to read.
    pub next: Offset,
    /// Greatest believable event time seen, ms.
    pub frontier_ms: Option<i64>,
    /// The instant up to which the partition was read, ms of event time.
    pub reached_ms: Option<i64>,
    /// Kafka time of the message at `next` − 1, ms.
    pub seen_ms: Option<i64>,
}

/// Progress of one topic in one raw table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TopicProgress {
    /// Topic with its epoch, as the txn entries spell it.
    pub topic: String,
    /// Number of partitions as last recorded.
    pub partition_count: Option<i32>,
    /// Progress per partition.
    pub partitions: BTreeMap<i32, Progress>,
}

impl TopicProgress {
    /// The log's `next` per partition, as [`crate::commit_plan::judge`] wants it.
    #[must_use]
    pub fn nexts(&self) -> BTreeMap<i32, Offset> {
        self.partitions.iter().map(|(p, progress)| (*p, progress.next)).collect()
    }
}

/// Spells and reads the app ids of one pipeline.
#[derive(Debug, Clone)]
pub struct AppIds<'a> {
    pipeline: &'a str,
}

impl<'a> AppIds<'a> {
    /// The app ids of `pipeline`.
    #[must_use]
    pub const fn new(pipeline: &'a str) -> Self {
        Self { pipeline }
    }

    fn entry(&self, topic: &str, partition: i32, entry: &str) -> String {
        format!("deltaworks/{}/{topic}/{partition}/{entry}", self.pipeline)
    }

    /// Txn of the rejects table that orders its commits for one partition.
    #[must_use]
    pub fn rejects(&self, topic: &str, partition: i32) -> String {
        self.entry(topic, partition, "rejects")
    }

    /// Txn that says up to which date, days since 1970, dates were removed by their retention.
    #[must_use]
    pub fn removed_through(&self) -> String {
        format!("deltaworks/{}/removed_through", self.pipeline)
    }

    /// Txn that counts how often a date was brought back from an archive, and removed after that: odd while it is there.
    #[must_use]
    pub fn restored(&self, date: Date) -> String {
        format!("deltaworks/{}/restored/{date}", self.pipeline)
    }

    /// Txn that counts how often rows of a date were forgotten.
    #[must_use]
    pub fn rewritten(&self, date: Date) -> String {
        format!("deltaworks/{}/rewritten/{date}", self.pipeline)
    }

    /// Txn that orders fills (redrive, rewind, backfill).
    #[must_use]
    pub fn fill(&self) -> String {
        format!("deltaworks/{}/fill", self.pipeline)
    }

    /// Txn of the rejects table that orders the rejects of fills.
    #[must_use]
    pub fn fill_rejects(&self) -> String {
        format!("deltaworks/{}/fill_rejects", self.pipeline)
    }

    /// Txn that counts the units of a backfill that are wholly in the table.
    #[must_use]
    pub fn backfill(&self, id: &str) -> String {
        format!("deltaworks/{}/backfill/{id}", self.pipeline)
    }

    /// The next offset of one partition of one epoch, current or not.
    #[must_use]
    pub fn next_of(&self, topic: &str, partition: i32, txns: &BTreeMap<String, i64>) -> Option<Offset> {
        txns.get(&self.entry(topic, partition, "next")).copied().map(Offset)
    }

    /// The txn entries that record `progress`.
    #[must_use]
    pub fn write(&self, topic: &str, partition: i32, progress: &Progress) -> Vec<(String, i64)> {
        let mut out = vec![
            (self.entry(topic, partition, "next"), progress.next.0),
            (self.entry(topic, partition, "seen"), progress.seen_ms.unwrap_or(UNKNOWN)),
        ];
        out.extend(progress.frontier_ms.map(|ms| (self.entry(topic, partition, "frontier"), ms)));
        out.extend(progress.reached_ms.map(|ms| (self.entry(topic, partition, "reached"), ms)));
        out
    }

    /// The txn entry that records the partition count.
    #[must_use]
    pub fn write_partition_count(&self, topic: &str, count: i32) -> (String, i64) {
        (format!("deltaworks/{}/{topic}/partitions", self.pipeline), i64::from(count))
    }

    /// Txn of the rejects table that counts how many rejects of a partition were removed on purpose.
    #[must_use]
    pub fn rejects_removed(&self, topic: &str, partition: i32) -> String {
        self.entry(topic, partition, "rejects_removed")
    }

    /// How many rejects of each topic (with its epoch) and partition were removed on purpose.
    #[must_use]
    pub fn read_rejects_removed(&self, txns: &BTreeMap<String, i64>) -> BTreeMap<(String, i32), u64> {
        let prefix = format!("deltaworks/{}/", self.pipeline);
        let removed = txns.iter().filter_map(|(id, count)| {
            let (topic, partition) = id.strip_prefix(&prefix)?.strip_suffix("/rejects_removed")?.rsplit_once('/')?;
            Some(((topic.to_owned(), partition.parse().ok()?), u64::try_from(*count).ok()?))
        });
        removed.collect()
    }

    /// Names the rows of a raw table: its id, and, where rows of it were forgotten, how often. What was made of rows
    /// under another name may hold some that are no more.
    #[must_use]
    pub fn rows_id(&self, table: &str, txns: &BTreeMap<String, i64>) -> String {
        let prefix = format!("deltaworks/{}/rewritten/", self.pipeline);
        let of_dates = txns.range(prefix.clone()..).take_while(|(id, _)| id.starts_with(&prefix));
        match of_dates.map(|(_, times)| times).sum() {
            0_i64 => table.to_owned(),
            times => format!("{table} rewritten {times}"),
        }
    }

    /// Reads the progress of the current epoch of `topic` from a table's txn entries. The current
    /// epoch is the greatest one that has an entry; without any it is the topic itself.
    #[must_use]
    pub fn read(&self, topic: &str, txns: &BTreeMap<String, i64>) -> TopicProgress {
        let prefix = format!("deltaworks/{}/", self.pipeline);
        let ours = || {
            txns.iter().filter_map(|(id, version)| {
                let (spelled, entry) = id.strip_prefix(&prefix)?.split_once('/')?;
                let epoch = epoch_of(spelled, topic)?;
                Some((epoch, spelled, entry, *version))
            })
        };
        let Some(current) = ours().map(|(epoch, ..)| epoch).max() else {
            return TopicProgress { topic: topic.to_owned(), ..TopicProgress::default() };
        };
        let mut progress = TopicProgress { topic: with_epoch(topic, current), ..TopicProgress::default() };
        let mut entries: BTreeMap<i32, BTreeMap<&str, i64>> = BTreeMap::new();
        for (_, _, entry, version) in ours().filter(|(epoch, ..)| *epoch == current) {
            if entry == "partitions" {
                progress.partition_count = i32::try_from(version).ok();
            } else if let Some((partition, name)) = entry.split_once('/')
                && let Ok(partition) = partition.parse()
            {
                entries.entry(partition).or_default().insert(name, version);
            }
        }
        for (partition, entry) in entries {
            if let Some(next) = entry.get("next") {
                progress.partitions.insert(
                    partition,
                    Progress {
                        next: Offset(*next),
                        frontier_ms: entry.get("frontier").copied(),
                        reached_ms: entry.get("reached").copied(),
                        seen_ms: entry.get("seen").copied().filter(|ms| *ms != UNKNOWN),
                    },
                );
            }
        }
        progress
    }
}

/// Spells a topic with its epoch: `orders`, `orders#1`, `orders#2`.
#[must_use]
pub fn with_epoch(topic: &str, epoch: u32) -> String {
    if epoch == 0 { topic.to_owned() } else { format!("{topic}#{epoch}") }
}

/// The epoch in a spelled topic, if it is that topic at all. Kafka allows no `#` in topic names.
#[must_use]
pub fn epoch_of(spelled: &str, topic: &str) -> Option<u32> {
    match spelled.strip_prefix(topic)? {
        "" => Some(0),
        rest => rest.strip_prefix('#')?.parse().ok(),
    }
}

/// `reached` of one partition: its frontier, or, where the stream is quiet, the latest instant at
/// which it was known to be read to its end, less `idle_after`. All in ms; never falls.
#[must_use]
pub fn reached_ms(
    stored_ms: Option<i64>,
    frontier_ms: Option<i64>,
    read_to_end_at_ms: Option<i64>,
    idle_after_ms: i64,
) -> Option<i64> {
    let idle = read_to_end_at_ms.map(|t| t.saturating_sub(idle_after_ms));
    [stored_ms, frontier_ms, idle].into_iter().flatten().max()
}

/// Valid-through of a raw table, ms: the minimum over all partitions of `reached` − lateness, or
/// `None` while a partition has no `reached` or the partition count is unknown.
#[must_use]
pub fn valid_through_ms(progress: &TopicProgress, lateness_ms: i64) -> Option<i64> {
    let count = progress.partition_count?;
    (0..count)
        .map(|p| progress.partitions.get(&p).and_then(|progress| progress.reached_ms))
        .try_fold(i64::MAX, |least, reached| reached.map(|r| least.min(r)))
        .filter(|_| count > 0)
        .map(|least| least.saturating_sub(lateness_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(next: i64, reached_ms: Option<i64>) -> Progress {
        Progress { next: Offset(next), frontier_ms: Some(7), reached_ms, seen_ms: None }
    }

    #[test]
    fn what_is_written_is_read() {
        let ids = AppIds::new("p");
        let progress = Progress { next: Offset(9), frontier_ms: Some(-5), reached_ms: None, seen_ms: Some(3) };
        let mut txns: BTreeMap<_, _> = ids.write("t", 2, &progress).into_iter().collect();
        txns.extend([ids.write_partition_count("t", 4), (ids.fill(), 1), ("someone/else".into(), 2)]);
        txns.extend(AppIds::new("other").write("t", 2, &at(1, None)));
        txns.extend(ids.write("t.longer", 2, &at(1, None)));
        let read = ids.read("t", &txns);
        assert_eq!(read.partitions, BTreeMap::from([(2, progress)]));
        assert_eq!((read.topic.as_str(), read.partition_count), ("t", Some(4)));
    }

    #[test]
    fn removed_rejects_are_counted_by_partition() {
        let ids = AppIds::new("p");
        let txns = BTreeMap::from([
            (ids.rejects_removed("t", 0), 3),
            (ids.rejects_removed("t#1", 12), 4),
            (ids.rejects("t", 1), 9),
            (AppIds::new("p2").rejects_removed("t", 0), 5),
        ]);
        let expected = BTreeMap::from([(("t".to_owned(), 0), 3), (("t#1".to_owned(), 12), 4)]);
        assert_eq!(ids.read_rejects_removed(&txns), expected);
    }

    #[test]
    fn rows_have_another_name_once_some_were_forgotten() {
        let ids = AppIds::new("p");
        let mut txns: BTreeMap<_, _> = ids.write("t", 0, &at(9, None)).into_iter().collect();
        txns.extend([("deltaworks/p2/rewritten/2026-01-05".into(), 7), ("deltaworks/p/rewritten".into(), 7)]);
        assert_eq!(ids.rows_id("raw-1", &txns), "raw-1");
        txns.extend([("deltaworks/p/rewritten/2026-01-05".into(), 1), ("deltaworks/p/rewritten/2026-01-06".into(), 2)]);
        assert_eq!(ids.rows_id("raw-1", &txns), "raw-1 rewritten 3");
    }

    #[test]
    fn the_greatest_epoch_is_current_and_the_old_ones_are_left_alone() {
        let ids = AppIds::new("p");
        let mut txns: BTreeMap<_, _> = ids.write("t", 0, &at(900, Some(5))).into_iter().collect();
        txns.extend(ids.write("t#2", 0, &at(3, None)));
        txns.extend(ids.write("t#1", 1, &at(4, None)));
        let read = ids.read("t", &txns);
        assert_eq!(read.topic, "t#2");
        assert_eq!(read.nexts(), BTreeMap::from([(0, Offset(3))]));
    }

    #[test]
    fn a_partition_without_reached_holds_valid_through_open() {
        let mut progress = TopicProgress { topic: "t".into(), partition_count: Some(2), ..TopicProgress::default() };
        progress.partitions.insert(0, at(1, Some(10_000)));
        assert_eq!(valid_through_ms(&progress, 1_000), None);
        progress.partitions.insert(1, at(1, None));
        assert_eq!(valid_through_ms(&progress, 1_000), None);
        progress.partitions.insert(1, at(1, Some(4_000)));
        assert_eq!(valid_through_ms(&progress, 1_000), Some(3_000));
        progress.partition_count = None;
        assert_eq!(valid_through_ms(&progress, 1_000), None);
    }

    #[test]
    fn reached_never_falls_and_idles_forward() {
        assert_eq!(reached_ms(None, None, None, 5), None);
        assert_eq!(reached_ms(Some(9), Some(3), Some(8), 5), Some(9));
        assert_eq!(reached_ms(Some(9), Some(30), Some(8), 5), Some(30));
        assert_eq!(reached_ms(Some(9), Some(3), Some(100), 5), Some(95));
    }
}

//! What all commits of a raw table told, out of the ledger and out of raw's own log.

use super::rows::{Row, from_batch, rows_of};
use super::{copied_id, spec};
use crate::Result;
use crate::lake::{Lake, Table};
use deltaworks_core::commit_info::{Checksum, DateEntry};
use deltaworks_core::place::OffsetRange;
use deltaworks_core::proof::Told;
use deltaworks_core::windows::date_of_epoch_days;
use futures::StreamExt;
use jiff::civil::Date;
use std::collections::BTreeMap;

/// What the commits of a raw table told, whether copied yet or not.
#[derive(Debug, Clone, Default)]
pub struct ToldByAll {
    /// Of each partition of each topic (with its epoch), in the order of versions.
    pub partitions: BTreeMap<(String, i32), Vec<Told>>,
    /// Rows that came by fills, and rows that went, by partition of each topic; those of a file have its URL as topic.
    pub changed: BTreeMap<(String, i32), Changed>,
    /// Of each event date: rows, and the sum of their checksums.
    pub dates: BTreeMap<Date, DateEntry>,
    /// What the ledger has that no copier writes.
    pub broken: Vec<String>,
}

/// What all commits that were no landings did to one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Rows that the stream had landed and that went.
    pub removed: u64,
    /// Rows of fills that came, less those that went.
    pub filled: u64,
    /// Rows of fills that went.
    pub filled_removed: u64,
}

/// What every commit of `raw` up to its version told: out of the ledger as far as that was copied, out of
/// raw's own log above, and where both have it they are compared.
///
/// # Errors
/// The ledger cannot be read; a raw commit that is not in it was cleaned away.
pub async fn read(lake: &Lake, raw: &Table, pipeline: &str) -> Result<ToldByAll> {
    let mut told = ToldByAll::default();
    let (mut copied, mut rows) = (-1, BTreeMap::<i64, Vec<Row>>::new());
    if let Some(ledger) = lake.open_table(&spec().name).await? {
        copied = ledger.txns().get(&copied_id(pipeline, raw.id())).copied().unwrap_or(-1).min(raw.version());
        let columns: Vec<String> = ledger.schema().fields().iter().map(|f| f.name().clone()).collect();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        for file in ledger.live_files().await? {
            let mut batches = ledger.read_file(&file, &columns).await?;
            while let Some(batch) = batches.next().await.transpose()? {
                // the ledger may be ahead of the snapshot: others land and copy meanwhile
                let told =
                    from_batch(&batch, pipeline, raw.id())?.into_iter().filter(|row| row.version <= raw.version());
                for row in told {
                    rows.entry(row.version).or_default().push(row);
                }
            }
        }
    }
    // commits that raw's log still has say it themselves, copied or not
    let first = raw.first_commit().await?.min(copied + 1);
    for head in raw.commit_heads(first, raw.version()).await? {
        let mut own = rows_of(raw, &head)?;
        if head.version <= copied {
            let have = rows.entry(head.version).or_default();
            own.sort_unstable();
            have.sort_unstable();
            if *have != own {
                told.broken.push(format!("raw version {} told something else than the ledger has", head.version));
            }
        } else if rows.insert(head.version, own).is_some() {
            told.broken.push(format!("raw version {} is in the ledger, and was not copied yet", head.version));
        }
    }
    for row in rows.into_values().flatten() {
        told.take(row);
    }
    told.partitions.values_mut().for_each(|told| told.sort_by_key(|told| told.version));
    Ok(told)
}

impl ToldByAll {
    fn take(&mut self, row: Row) {
        let version = row.version;
        if self.add(row).is_none() {
            self.broken.push(format!("the row of raw version {version} is none that a commit told"));
        }
    }

    fn add(&mut self, row: Row) -> Option<()> {
        let count = |n: i64| u64::try_from(n).ok();
        if row.operation.is_some() && row.partition.is_some() {
            let changed = self.changed.entry((row.topic, row.partition?)).or_default();
            changed.removed = changed.removed.checked_add(count(row.changed?[0].checked_neg()?)?)?;
            let filled = row.changed?[1];
            changed.filled = changed.filled.checked_add_signed(filled)?;
            changed.filled_removed = changed.filled_removed.checked_add(count(filled.min(0).checked_neg()?)?)?;
        } else if let (Some(partition), Some([from, to, landed, rejected, skipped, in_gaps])) =
            (row.partition, row.counts)
        {
            let gaps: Vec<OffsetRange> = serde_json::from_str(row.gap_ranges.as_deref()?).ok()?;
            let told = Told {
                version: row.version,
                range: OffsetRange::new(from, to),
                landed: count(landed)?,
                rejected: count(rejected)?,
                skipped: count(skipped)?,
                gaps,
            };
            if told.gaps.iter().map(|gap| gap.len()).sum::<u64>() != count(in_gaps)? {
                return None;
            }
            self.partitions.entry((row.topic, partition)).or_default().push(told);
        } else {
            let date = date_of_epoch_days(row.event_date?)?;
            let checksum = row.checksum?.parse::<Checksum>().ok()?;
            let sum = self.dates.entry(date).or_insert(DateEntry { rows: 0, checksum: Checksum::default() });
            *sum = DateEntry { rows: sum.rows.checked_add_signed(row.rows?)?, checksum: sum.checksum.plus(checksum) };
        }
        Some(())
    }
}

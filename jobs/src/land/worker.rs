//! Decodes and stamps messages, holds the rows, and encodes them when a flush is ordered.
//!
//! A worker owns its partitions alone, so frontier and repeat memory see a partition's messages in
//! the order of offsets. It never talks to broker or store.
//!
//! Invariants: W1 each message of an owned partition is counted once in the partition's tally, as
//! landed, rejected or skipped, and each jump between offsets as a gap; W2 a flush holds exactly the
//! rows and rejects that its tallies count.

use super::flush::{Flush, PartitionFlush};
use super::judge::{Judged, headers, judge};
use super::repeat::RepeatMemory;
use super::rows::{Reject, Rejects, Stamp, Stamps, encode_split, without_partitions};
use super::tap::{self, Share};
use super::{schema, tables};
use crate::checksum::{self, RowSum};
use crate::error::Result;
use crate::kafka::message::{Chunk, Message};
use crate::lake::FileProfile;
use crate::land::decode::Decoder;
use crate::project::settings::Pipeline;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use crossbeam_channel::{Receiver, Sender};
use deltaworks_core::event_time::{EventTimeLimits, Frontier, believable_ms};
use deltaworks_core::place::Offset;
use deltaworks_core::progress::{Progress, reached_ms};
use deltaworks_core::tally::{Fate, Tally};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows after which decoded columns become a batch.
const BATCH_ROWS: usize = 8_192;
/// Bytes after which decoded columns become a batch.
const BATCH_BYTES: usize = 2 << 20;

/// What the reader tells a worker, in order.
#[derive(Debug)]
pub enum Item {
    /// These partitions are this worker's from now on.
    Take(Vec<Taken>),
    /// Messages; those of other workers' partitions are passed over.
    Chunk(Arc<Chunk>),
    /// Everything before this offset has been delivered.
    Position {
        /// Partition.
        partition: i32,
        /// Next offset that the broker would deliver.
        position: i64,
    },
    /// Forget these partitions and all of their uncommitted rows.
    Drop(Vec<i32>),
    /// Encode what there is and hand it over.
    Flush(FlushOrder),
}

/// A partition that was taken over.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Partition.
    pub partition: i32,
    /// Topic with its epoch.
    pub topic: String,
    /// Progress in the log.
    pub progress: Progress,
    /// Offsets below this one are gone, and the user accepted it.
    pub lost_below: Option<i64>,
    /// Hashes of the ids of the last landed rows, oldest first.
    pub last_ids: Vec<Option<u128>>,
}

/// An order to flush.
#[derive(Debug, Clone, Default)]
pub struct FlushOrder {
    /// Number of the flush in this run.
    pub sequence: u64,
    /// Per partition, the latest instant (ms) at which its end was observed that has since been reached.
    pub read_to_end_at_ms: BTreeMap<i32, i64>,
}

/// Everything a worker needs beside messages.
pub struct Worker {
    pipeline: Arc<Pipeline>,
    decoder: Box<dyn Decoder>,
    raw_schema: SchemaRef,
    rejects_schema: SchemaRef,
    partition_columns: Vec<String>,
    profile: FileProfile,
    topic: String,
    owned: Vec<Option<Owned>>,
    stamps: Stamps,
    rejects: Rejects,
    batches: Vec<Batch>,
    reject_batches: Vec<RecordBatch>,
    tap: Option<Share>,
}

/// Rows that wait for the flush, with their checksums.
struct Batch {
    rows: RecordBatch,
    dates: BTreeMap<i32, RowSum>,
}

impl Batch {
    /// Summed while the rows are still in the processor's cache.
    fn of(rows: RecordBatch) -> Result<Self> {
        let dates = checksum::by_date(&rows, "event_date")?;
        Ok(Self { rows, dates })
    }
}

struct Owned {
    tally: Tally,
    frontier: Frontier,
    reached_ms: Option<i64>,
    seen_ms: Option<i64>,
    repeats: RepeatMemory,
}

impl Worker {
    /// A worker without partitions.
    pub fn new(pipeline: Arc<Pipeline>, decoder: Box<dyn Decoder>, tap: Option<Share>) -> Self {
        Self {
            raw_schema: schema::raw_schema(&pipeline),
            rejects_schema: schema::rejects_schema(),
            partition_columns: tables::raw_partition_columns(&pipeline),
            profile: tables::raw_profile(&pipeline),
            topic: pipeline.topic.clone(),
            pipeline,
            decoder,
            owned: Vec::new(),
            stamps: Stamps::default(),
            rejects: Rejects::default(),
            batches: Vec::new(),
            reject_batches: Vec::new(),
            tap,
        }
    }

    /// Works until the reader hangs up. Used chunks go back through `used`.
    ///
    /// # Errors
    /// Only for bugs and for files that cannot be encoded: bad messages are rejects.
    pub fn run(
        mut self,
        items: &Receiver<Item>,
        used: &Sender<Chunk>,
        parts: &tokio::sync::mpsc::UnboundedSender<Flush>,
    ) -> Result<()> {
        for item in items {
            match item {
                Item::Take(taken) => self.take(taken),
                Item::Chunk(chunk) => {
                    self.chunk(&chunk)?;
                    if let Ok(chunk) = Arc::try_unwrap(chunk) {
                        // nobody may be waiting for it: then it is freed
                        let _ = used.try_send(chunk);
                    }
                }
                Item::Position { partition, position } => self.position(partition, position),
                Item::Drop(partitions) => self.drop_partitions(&partitions)?,
                Item::Flush(order) => {
                    if parts.send(self.flush(&order)?).is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, taken: Vec<Taken>) {
        for t in taken {
            let mut repeats = RepeatMemory::new(self.pipeline.repeat_rows);
            for id in t.last_ids {
                repeats.observe(id);
            }
            let mut tally = Tally::at(t.progress.next);
            if let Some(low) = t.lost_below {
                // cannot fail: the takeover only names a low watermark above `next`
                let _ = tally.advance(Offset(low));
            }
            self.topic = t.topic;
            let slot = t.partition as usize;
            if self.owned.len() <= slot {
                self.owned.resize_with(slot + 1, || None);
            }
            self.owned[slot] = Some(Owned {
                tally,
                frontier: Frontier(t.progress.frontier_ms),
                reached_ms: t.progress.reached_ms,
                seen_ms: t.progress.seen_ms,
                repeats,
            });
        }
    }

    fn chunk(&mut self, chunk: &Chunk) -> Result<()> {
        for message in chunk.iter() {
            self.message(&message);
        }
        self.mark_repeats();
        // a chunk is small: asking once for each is often enough
        if self.decoder.rows() >= BATCH_ROWS || self.decoder.bytes() >= BATCH_BYTES {
            self.seal()?;
        }
        if self.rejects.bytes() >= BATCH_BYTES {
            self.seal_rejects()?;
        }
        Ok(())
    }

    /// After a chunk and not row by row: each lookup misses the processor's cache, and neighbours can
    /// be waited for together.
    fn mark_repeats(&mut self) {
        let owned = &mut self.owned;
        self.stamps.mark_repeats(|partition, id| {
            let owned = owned.get_mut(partition as usize).and_then(Option::as_mut);
            owned.is_some_and(|owned| owned.repeats.observe(id))
        });
    }

    fn message(&mut self, message: &Message<'_>) {
        let Some(Some(owned)) = self.owned.get_mut(message.partition() as usize) else { return };
        let offset = Offset(message.offset());
        // delivered a second time, after a seek: it is counted already
        if offset < owned.tally.to {
            return;
        }
        let fate = match judge(self.decoder.as_mut(), &self.pipeline, message) {
            Judged::Row(decoded) => {
                let limits = EventTimeLimits {
                    ahead_ms_max: i64::try_from(self.pipeline.max_ahead.as_millis()).unwrap_or(i64::MAX),
                    earliest_us: None,
                };
                let latest = believable_ms(message.kafka_time_ms(), message.clock_ms(), limits);
                self.stamps.push(Stamp {
                    partition: message.partition(),
                    offset: offset.0,
                    kafka_time_ms: message.kafka_time_ms(),
                    event_us: decoded.event_us,
                    behind_ms: owned.frontier.observe(decoded.event_us, latest),
                    id_hash: decoded.id_hash,
                });
                Fate::Landed
            }
            Judged::Refused(refusal) => {
                self.rejects.push(Reject {
                    partition: message.partition(),
                    offset: offset.0,
                    kafka_time_ms: message.kafka_time_ms(),
                    key: message.key(),
                    payload: message.payload(),
                    headers: headers(message),
                    refusal: &refusal,
                    clock_ms: message.clock_ms(),
                });
                Fate::Rejected
            }
            Judged::Skipped => Fate::Skipped,
        };
        // cannot fail: `offset` is not below `tally.to`
        let _ = owned.tally.count(offset, fate);
        owned.seen_ms = message.kafka_time_ms();
    }

    fn position(&mut self, partition: i32, position: i64) {
        if let Some(Some(owned)) = self.owned.get_mut(partition as usize)
            && Offset(position) > owned.tally.to
            && owned.tally.advance(Offset(position)).is_ok()
        {
            owned.seen_ms = None;
        }
    }

    fn drop_partitions(&mut self, partitions: &[i32]) -> Result<()> {
        self.seal()?;
        self.seal_rejects()?;
        for batch in &mut self.batches {
            *batch = Batch::of(without_partitions(&batch.rows, partitions)?)?;
        }
        for batch in &mut self.reject_batches {
            *batch = without_partitions(batch, partitions)?;
        }
        for partition in partitions {
            if let Some(slot) = self.owned.get_mut(*partition as usize) {
                *slot = None;
            }
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<()> {
        if self.decoder.rows() > 0 {
            let decoded = self.decoder.finish()?;
            self.batches.push(Batch::of(self.stamps.join(&decoded, &self.raw_schema, &self.topic)?)?);
        }
        Ok(())
    }

    fn seal_rejects(&mut self) -> Result<()> {
        if self.rejects.rows() > 0 {
            let version = &self.pipeline.contract.version;
            self.reject_batches.push(self.rejects.finish(&self.rejects_schema, &self.topic, version)?);
        }
        Ok(())
    }

    fn flush(&mut self, order: &FlushOrder) -> Result<Flush> {
        self.seal()?;
        self.seal_rejects()?;
        let idle_after_ms = i64::try_from(self.pipeline.idle_after.as_millis()).unwrap_or(i64::MAX);
        let mut partitions = BTreeMap::new();
        for (partition, owned) in (0..).zip(&mut self.owned) {
            let Some(owned) = owned else { continue };
            let at_ms = order.read_to_end_at_ms.get(&partition).copied();
            owned.reached_ms = reached_ms(owned.reached_ms, owned.frontier.0, at_ms, idle_after_ms);
            let tally = std::mem::replace(&mut owned.tally, Tally::at(Offset(0)));
            owned.tally = Tally::at(tally.to);
            let progress = Progress {
                next: tally.to,
                frontier_ms: owned.frontier.0,
                reached_ms: owned.reached_ms,
                seen_ms: owned.seen_ms,
            };
            partitions.insert(partition, PartitionFlush { tally, progress });
        }
        let tapped = self.tap.as_ref().and_then(|tap| tap::wanted(tap, self.batches.iter().map(|batch| &batch.rows)));
        let mut dates: BTreeMap<i32, RowSum> = BTreeMap::new();
        let mut batches = Vec::with_capacity(self.batches.len());
        for batch in std::mem::take(&mut self.batches) {
            for (date, sum) in batch.dates {
                dates.entry(date).or_default().merge(sum);
            }
            batches.push(batch.rows);
        }
        let files = encode_split(batches, &self.partition_columns, &self.profile)?;
        // those of dropped partitions may have left nothing
        let rejects = std::mem::take(&mut self.reject_batches).into_iter().filter(|b| b.num_rows() > 0).collect();
        Ok(Flush { sequence: order.sequence, files, rejects, partitions, dates, tapped })
    }
}

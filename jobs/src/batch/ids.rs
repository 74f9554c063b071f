//! The ids of event dates, one date after the other: which rows are copies, and which are not in the pin.
//!
//! Files are read and hashed by as many tasks as there are streams; judging is [`super::dedup`]'s.
//! Invariant I1: every row of a date is read once, in or out of the pin, and those inside are in the
//! checksum of places.

use super::columns::{event_times, named, primitive, texts};
use super::dedup::{Dedup, Marked, Order};
use super::input::Input;
use super::meter::Meter;
use super::scan::{DateFiles, Numbered, in_background};
use crate::checksum::{RowSum, total};
use crate::error::{Class, Error, Result, Stage};
use crate::land::decode::id_hashes;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use deltaworks_core::place::Offset;
use deltaworks_core::units::Pin;
use futures::StreamExt;
use futures::stream::{BoxStream, select_all};
use jiff::civil::Date;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// The columns of a place.
const PLACE: [&str; 3] = ["_topic", "_partition", "_offset"];
/// More new ids than this are not compared: the unit is computed again.
const COMPARED_MAX: usize = 1_000_000;

/// What is known of the rows of one date before their values are read.
#[derive(Debug, Clone, Default)]
pub struct DateIds {
    /// Copies of events that count.
    pub duplicates: Arc<Marked>,
    /// Rows that the pin does not contain.
    pub outside: Arc<Marked>,
    /// Rows inside, and the checksum of their places.
    pub places: RowSum,
}

/// Reads the ids of dates, ascending.
#[derive(Debug)]
pub struct IdScan {
    reader: Reader,
    dedup: Option<Dedup>,
    last: Option<Date>,
}

/// How ids are read; cheap to clone.
#[derive(Debug, Clone)]
struct Reader {
    wanted: SchemaRef,
    id: Option<String>,
    event_time: Arc<[String]>,
    /// Order of the topics' names.
    ranks: Arc<BTreeMap<String, u32>>,
    pin: Arc<Pin>,
}

/// What one batch says.
#[derive(Debug, Default)]
struct Digest {
    rows: Vec<(u128, Order, u32)>,
    outside: Vec<u32>,
    places: RowSum,
}

impl IdScan {
    /// `rows_max` is the greatest number of rows of two neighbouring dates, `memory_bytes` what dedup may take.
    ///
    /// # Errors
    /// As [`Dedup::new`].
    pub fn new(input: &Input, rows_max: u64, memory_bytes: usize) -> Result<Self> {
        let reader = Reader::new(input, Arc::new(input.pin.clone()));
        let dedup = reader.id.is_some().then(|| Dedup::new(rows_max, memory_bytes)).transpose()?;
        Ok(Self { reader, dedup, last: None })
    }

    /// Reads the next date; `files` is `None` where the date has none.
    ///
    /// # Errors
    /// A file cannot be read, or a temporary file cannot be used.
    pub async fn date(
        &mut self,
        input: &Input,
        date: Date,
        files: Option<&DateFiles>,
        parts: usize,
        meter: &Meter,
    ) -> Result<DateIds> {
        let follows = self.last.is_some_and(|last| last.tomorrow().is_ok_and(|next| next == date));
        self.last = Some(date);
        if let Some(dedup) = self.dedup.as_mut().filter(|_| !follows) {
            dedup.forget()?;
        }
        let (mut outside, mut places) = (Marked::default(), RowSum::default());
        if let Some(files) = files {
            if let Some(dedup) = &mut self.dedup {
                dedup.begin_date(files.rows);
            }
            let mut digests = self.reader.read(input, files, parts);
            while let Some(digest) = digests.next().await.transpose()? {
                Meter::add(&meter.rows, digest.places.rows + digest.outside.len() as u64);
                places.merge(digest.places);
                digest.outside.into_iter().for_each(|number| outside.insert(number));
                if let Some(dedup) = &mut self.dedup {
                    for (id, order, number) in digest.rows {
                        dedup.push(id, order, number)?;
                    }
                }
            }
        }
        let duplicates = self.dedup.as_mut().map(Dedup::end_date).transpose()?.unwrap_or_default();
        Ok(DateIds { duplicates: Arc::new(duplicates), outside: Arc::new(outside), places })
    }
}

/// Whether an id among the rows of `dedup_day` that `last` does not contain occurs in `first`. Where there
/// are very many of them, the answer is yes.
///
/// # Errors
/// A file cannot be read.
pub async fn share_an_id(
    input: &Input,
    last: &Pin,
    dedup_day: Option<&DateFiles>,
    first: Option<&DateFiles>,
    parts: usize,
) -> Result<bool> {
    let (Some(dedup_day), Some(first)) = (dedup_day, first) else { return Ok(false) };
    let since = Reader::new(input, Arc::new(last.clone()));
    let mut new: HashSet<u128> = HashSet::new();
    let mut digests = since.read_ids(input, &dedup_day.newer_than(last, &input.pin), parts, false);
    while let Some(digest) = digests.next().await.transpose()? {
        new.extend(digest.rows.iter().map(|(id, ..)| *id));
        if new.len() > COMPARED_MAX {
            return Ok(true);
        }
    }
    if new.is_empty() {
        return Ok(false);
    }
    let mut digests = Reader::new(input, Arc::new(input.pin.clone())).read(input, first, parts);
    while let Some(digest) = digests.next().await.transpose()? {
        if digest.rows.iter().any(|(id, ..)| new.contains(id)) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Reader {
    fn new(input: &Input, pin: Arc<Pin>) -> Self {
        let id = input.pipeline.contract.id_column().map(|c| c.name.clone());
        let event_time: Arc<[String]> = input.source.event_time.as_slice().into();
        let names = PLACE.into_iter().chain(["_kafka_time", "_fill"]).chain(id.as_deref());
        let wanted = named(&input.source.schema, names.chain(event_time.first().map(String::as_str)));
        let ranks = pin.next.keys().zip(0..).map(|(topic, rank)| (topic.clone(), rank)).collect();
        Self { wanted, id, event_time, ranks: Arc::new(ranks), pin }
    }

    fn read(&self, input: &Input, files: &DateFiles, parts: usize) -> BoxStream<'static, Result<Digest>> {
        self.read_ids(input, files, parts, true)
    }

    /// Ids of the rows that the pin contains, or of those that it does not.
    fn read_ids(
        &self,
        input: &Input,
        files: &DateFiles,
        parts: usize,
        inside: bool,
    ) -> BoxStream<'static, Result<Digest>> {
        let parts = files.read(&input.raw, &self.wanted, parts).into_iter().map(|part| {
            let reader = self.clone();
            in_background(part.map(move |numbered| reader.digest(&numbered?, inside)).boxed())
        });
        select_all(parts).boxed()
    }

    fn digest(&self, numbered: &Numbered, inside: bool) -> Result<Digest> {
        let Numbered { first, batch } = numbered;
        let mut digest = Digest::default();
        let contained = contained(&self.pin, batch)?;
        digest.outside.extend((*first..).zip(&contained).filter(|(_, inside)| !**inside).map(|(number, _)| number));
        digest.places = if digest.outside.is_empty() {
            places(batch)?
        } else {
            let mask = contained.clone().into();
            places(&arrow::compute::filter_record_batch(batch, &mask).map_err(arrow_error)?)?
        };
        let Some(id) = &self.id else { return Ok(digest) };
        let (ids, orders) = (id_hashes(batch, id)?, self.orders(batch)?);
        let rows = ids.into_iter().zip(orders).zip(*first..).zip(contained);
        digest.rows = rows
            .filter(|(_, contained)| *contained == inside)
            .filter_map(|(((id, order), number), _)| Some((id?, order, number)))
            .collect();
        Ok(digest)
    }

    fn orders(&self, batch: &RecordBatch) -> Result<Vec<Order>> {
        let times = event_times(batch, &self.event_time)?;
        let kafka = primitive::<TimestampMicrosecondType>(batch, "_kafka_time")?;
        let (topics, partitions) = (texts(batch, "_topic")?, primitive::<Int32Type>(batch, "_partition")?);
        let offsets = primitive::<Int64Type>(batch, "_offset")?;
        let mut last: Option<(&str, u32)> = None;
        Ok((0..batch.num_rows())
            .map(|row| {
                let topic = topics.value(row);
                let rank = match last {
                    Some((t, rank)) if t == topic => rank,
                    _ => self.rank(topic),
                };
                last = Some((topic, rank));
                Order {
                    event_us: times.value(row),
                    kafka_us: if kafka.is_valid(row) { kafka.value(row) } else { i64::MAX },
                    topic: rank,
                    partition: partitions.value(row),
                    offset: offsets.value(row),
                }
            })
            .collect())
    }

    /// Topics of the pin in the order of their names. Files that were filled in are no topics: they come
    /// after them, in an order of their own that only their names decide.
    fn rank(&self, topic: &str) -> u32 {
        self.ranks.get(topic).copied().unwrap_or_else(|| {
            let hash = xxhash_rust::xxh3::xxh3_64(topic.as_bytes()) as u32;
            hash | 1 << 31
        })
    }
}

/// Row by row, whether the pin contains it.
///
/// # Errors
/// A column of the place is not there, which is a bug.
pub fn contained(pin: &Pin, batch: &RecordBatch) -> Result<Vec<bool>> {
    let (topics, partitions) = (texts(batch, "_topic")?, primitive::<Int32Type>(batch, "_partition")?);
    let (offsets, fills) = (primitive::<Int64Type>(batch, "_offset")?, primitive::<Int64Type>(batch, "_fill")?);
    // neighbours mostly come from one partition
    let mut last: Option<(&str, i32, Option<Offset>)> = None;
    Ok((0..batch.num_rows())
        .map(|row| {
            if fills.is_valid(row) {
                return fills.value(row) <= pin.fill;
            }
            let (topic, partition) = (topics.value(row), partitions.value(row));
            let next = match last {
                Some((t, p, next)) if t == topic && p == partition => next,
                _ => pin.next.get(topic).and_then(|p| p.get(&partition)).copied(),
            };
            last = Some((topic, partition, next));
            next.is_some_and(|next| Offset(offsets.value(row)) < next)
        })
        .collect())
}

fn places(batch: &RecordBatch) -> Result<RowSum> {
    let columns: Vec<usize> = PLACE.iter().filter_map(|name| batch.schema_ref().index_of(name).ok()).collect();
    total(&batch.project(&columns).map_err(arrow_error)?, &[])
}

fn arrow_error(e: arrow::error::ArrowError) -> Error {
    Error::new(Stage::Batch, Class::Internal, "ids cannot be read").because(e)
}

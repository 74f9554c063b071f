//! The rejects that are meant, as messages again.
//!
//! A file is read for what the filter asks first, and whole only where it holds one that is meant: payloads may be
//! large. A batch of a file has at most some MiB, see [`crate::lake`].

use super::current::Current;
use super::filter::{COLUMNS, Filter};
use crate::batch::{conform, named, primitive, texts};
use crate::error::Result;
use crate::fill::each_place;
use crate::kafka::message::Chunk;
use crate::lake::LiveFile;
use crate::land::schema::rejects_schema;
use arrow::array::{Array, AsArray, BinaryArray, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use deltaworks_core::resolution::{Resolution, Standing};
use futures::TryStreamExt;
use serde::Serialize;

/// What makes up a message, beside [`COLUMNS`].
const CONTENT: [&str; 3] = ["key", "payload", "headers"];

/// Rejects that the filter means, and that are left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LeftOut {
    /// Redriven before.
    pub redriven: u64,
    /// Discarded before.
    pub discarded: u64,
    /// Ahead of raw's progress: the stream judges them again.
    pub pending: u64,
}

impl LeftOut {
    /// Counts one.
    pub const fn count(&mut self, standing: Standing) {
        match standing {
            Standing::Open => {}
            Standing::Pending => self.pending += 1,
            Standing::Settled(Resolution::Redriven) => self.redriven += 1,
            Standing::Settled(Resolution::Discarded) => self.discarded += 1,
        }
    }
}

/// Which rows of a batch are meant, and stand so that `may` lets them be taken.
///
/// # Errors
/// The batch lacks a column, which is a bug.
pub fn taken(
    batch: &RecordBatch,
    filter: &Filter,
    current: &Current,
    may: impl Fn(Standing) -> bool,
    left_out: &mut LeftOut,
) -> Result<Vec<bool>> {
    let mut taken = filter.rows(batch)?;
    each_place(batch, |row, topic, partition, offset| {
        if taken[row] {
            let standing = current.standing(topic, partition, offset);
            taken[row] = may(standing);
            if !taken[row] {
                left_out.count(standing);
            }
        }
    })?;
    Ok(taken)
}

/// The files that may hold rejects that are meant, the oldest first.
///
/// # Errors
/// The table cannot be read.
pub async fn files(current: &Current, filter: &Filter) -> Result<Vec<LiveFile>> {
    let mut files = current.rejects.live_files().await?;
    files.retain(|file| filter.may_lie_in(file));
    files.sort_by(|a, b| (&a.partition_values, &a.path).cmp(&(&b.partition_values, &b.path)));
    Ok(files)
}

/// The batches of a file, with [`COLUMNS`] only.
///
/// # Errors
/// The file cannot be read.
pub async fn heads(current: &Current, file: &LiveFile, mut take: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
    let schema = named(&rejects_schema(), COLUMNS);
    let mut batches = current.rejects.read_file(file, &COLUMNS).await?;
    while let Some(batch) = batches.try_next().await? {
        take(&conform(&batch, &file.partition_values, &schema)?)?;
    }
    Ok(())
}

/// The columns that a whole reject needs, and their schema.
#[must_use]
pub fn whole() -> (Vec<&'static str>, SchemaRef) {
    let columns = [&COLUMNS[..], &CONTENT[..]].concat();
    let schema = named(&rejects_schema(), columns.iter().copied());
    (columns, schema)
}

/// Makes rows of a batch messages again, of one topic: `taken` says which, and the chunk's clock is that of now.
///
/// # Errors
/// The batch lacks a column, which is a bug.
pub fn to_chunk(batch: &RecordBatch, taken: &[bool], topic: &str, clock_ms: i64) -> Result<(Chunk, Vec<usize>)> {
    let mut chunk = Chunk { clock_ms, ..Chunk::default() };
    let mut rows = Vec::new();
    let kafka = primitive::<TimestampMicrosecondType>(batch, "_kafka_time")?;
    let (keys, payloads) = (bytes(batch, "key"), bytes(batch, "payload"));
    let headers = texts(batch, "headers")?;
    let value = |column: Option<&'_ BinaryArray>, row: usize| -> Option<Vec<u8>> {
        column.filter(|column| column.is_valid(row)).map(|column| column.value(row).to_vec())
    };
    each_place(batch, |row, of, partition, offset| {
        if !taken[row] || of != topic {
            return;
        }
        let time_ms = kafka.is_valid(row).then(|| kafka.value(row).div_euclid(1_000));
        let pairs = if headers.is_valid(row) { pairs(headers.value(row)) } else { Vec::new() };
        let pairs = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_deref().map(str::as_bytes)));
        let (key, payload) = (value(keys, row), value(payloads, row));
        chunk.push(partition, offset, time_ms, key.as_deref(), payload.as_deref(), pairs);
        rows.push(row);
    })?;
    Ok((chunk, rows))
}

/// The topics of the rows that are taken.
///
/// # Errors
/// The batch lacks a column, which is a bug.
pub fn topics(batch: &RecordBatch, taken: &[bool]) -> Result<std::collections::BTreeSet<String>> {
    let topics = texts(batch, "_topic")?;
    Ok(taken.iter().enumerate().filter(|(_, taken)| **taken).map(|(row, _)| topics.value(row).to_owned()).collect())
}

fn bytes<'b>(batch: &'b RecordBatch, name: &str) -> Option<&'b BinaryArray> {
    batch.column_by_name(name).and_then(|column| column.as_binary_opt::<i32>())
}

/// Headers as they were kept: a JSON array of name and value.
fn pairs(text: &str) -> Vec<(String, Option<String>)> {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::land::rows::{Reject, Rejects};
    use deltaworks_core::reason::{Reason, Refusal};

    #[test]
    fn a_reject_is_the_message_that_it_was() {
        let mut rejects = Rejects::default();
        let refusal = Refusal::of(Reason::NotJson, "it is not");
        let reject = |offset, payload: Option<&'static [u8]>, headers: Option<&str>| Reject {
            partition: 3,
            offset,
            kafka_time_ms: (offset > 0).then_some(1_234),
            key: (offset > 0).then_some(b"k\xff".as_slice()),
            payload,
            headers: headers.map(str::to_owned),
            refusal: &refusal,
            clock_ms: 5,
        };
        rejects.push(reject(0, None, None));
        rejects.push(reject(1, Some(b"\xfe{"), Some("[[\"a\",\"1\"],[\"b\",null],[\"a\",\"2\"]]")));
        let batch = rejects.finish(&rejects_schema(), "t#1", "1").unwrap();
        let (chunk, rows) = to_chunk(&batch, &[true, true], "t#1", 77).unwrap();
        assert_eq!(rows, [0, 1]);
        let messages: Vec<_> = chunk.iter().collect();
        assert_eq!((messages[0].payload(), messages[0].key(), messages[0].kafka_time_ms()), (None, None, None));
        let second = messages[1];
        assert_eq!((second.partition(), second.offset(), second.clock_ms()), (3, 1, 77));
        assert_eq!(second.payload(), Some(b"\xfe{".as_slice()));
        assert_eq!((second.key(), second.kafka_time_ms()), (Some(b"k\xff".as_slice()), Some(1_234)));
        let headers: Vec<_> = second.headers().collect();
        let one = |name: &'static [u8], value: Option<&'static [u8]>| (name, value);
        assert_eq!(headers, [one(b"a", Some(b"1")), one(b"b", None), one(b"a", Some(b"2"))]);
        assert!(to_chunk(&batch, &[true, true], "t", 0).unwrap().1.is_empty());
        assert_eq!(topics(&batch, &[false, true]).unwrap().len(), 1);
    }
}

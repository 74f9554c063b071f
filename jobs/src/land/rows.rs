//! Landed rows and rejects of one flush, as they wait for their commit.
//!
//! Rows stay in small Arrow batches until the flush, and are split by partition value only then:
//! a backlog spread over 400 dates must not hold 400 files open. Splitting touches one batch at a
//! time, so its extra memory is that of one batch.

use crate::error::{Class, Error, Result, Stage};
use crate::lake::{EncodedFile, FileProfile, PartitionValues, encode};
use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanArray, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::compute::{SortColumn, filter_record_batch, lexsort_to_indices, partition, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use deltaworks_core::reason::Refusal;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Values of the partition columns, in their order.
type Values = Vec<Option<String>>;

/// Rows in memory take more than this many times the bytes that their file takes, mostly.
const ENCODED_SHARE: usize = 4;

/// Microseconds of a UTC day.
const DAY_US: i64 = 86_400_000_000;

/// What landing adds to each decoded row, column by column.
#[derive(Debug, Default)]
pub struct Stamps {
    partition: Vec<i32>,
    offset: Vec<i64>,
    kafka_time_us: Vec<Option<i64>>,
    behind_ms: Vec<i64>,
    id_hash: Vec<Option<u128>>,
    repeat: Vec<bool>,
    event_date: Vec<i32>,
}

/// The stamps of one row.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Kafka's time, ms.
    pub kafka_time_ms: Option<i64>,
    /// Event time, microseconds; its UTC date partitions the table.
    pub event_us: i64,
    /// How far behind the frontier, ms.
    pub behind_ms: i64,
    /// Hash of the event id, for [`Stamps::mark_repeats`].
    pub id_hash: Option<u128>,
}

impl Stamps {
    /// Appends the stamps of one row.
    pub fn push(&mut self, stamp: Stamp) {
        self.partition.push(stamp.partition);
        self.offset.push(stamp.offset);
        self.kafka_time_us.push(stamp.kafka_time_ms.map(|ms| ms.saturating_mul(1_000)));
        self.behind_ms.push(stamp.behind_ms);
        self.id_hash.push(stamp.id_hash);
        self.event_date.push(event_date(stamp.event_us));
    }

    /// Decides `_repeat` of the rows pushed since the last call, in their order; `observe` takes a
    /// partition and an id.
    pub fn mark_repeats(&mut self, mut observe: impl FnMut(i32, Option<u128>) -> bool) {
        let new = self.partition[self.repeat.len()..].iter().zip(self.id_hash.drain(..));
        self.repeat.extend(new.map(|(partition, id)| observe(*partition, id)));
    }

    /// Joins decoded columns and stamps into rows of `schema`.
    ///
    /// # Errors
    /// Only if decoder and schema disagree, which is a bug.
    pub fn join(&mut self, decoded: &RecordBatch, schema: &SchemaRef, topic: &str) -> Result<RecordBatch> {
        let rows = decoded.num_rows();
        let mut stamps = std::mem::take(self);
        let columns = schema
            .fields()
            .iter()
            .map(|field| -> ArrayRef {
                match field.name().as_str() {
                    "_topic" => Arc::new(StringArray::new_repeated(topic, rows)),
                    "_partition" => Arc::new(Int32Array::from(std::mem::take(&mut stamps.partition))),
                    "_offset" => Arc::new(Int64Array::from(std::mem::take(&mut stamps.offset))),
                    "_kafka_time" => Arc::new(
                        TimestampMicrosecondArray::from(std::mem::take(&mut stamps.kafka_time_us)).with_timezone("UTC"),
                    ),
                    "_behind_ms" => Arc::new(Int64Array::from(std::mem::take(&mut stamps.behind_ms))),
                    "_repeat" => Arc::new(BooleanArray::from(std::mem::take(&mut stamps.repeat))),
                    "event_date" => Arc::new(Date32Array::from(std::mem::take(&mut stamps.event_date))),
                    name => {
                        decoded.column_by_name(name).cloned().unwrap_or_else(|| new_null_array(field.data_type(), rows))
                    }
                }
            })
            .collect();
        RecordBatch::try_new(schema.clone(), columns).map_err(internal)
    }
}

/// The UTC date of an event time, as days since the Unix epoch. A decoder admits no event time whose
/// date does not fit.
#[must_use]
pub fn event_date(event_us: i64) -> i32 {
    event_us.div_euclid(DAY_US) as i32
}

/// One reject, borrowed.
#[derive(Debug, Clone)]
pub struct Reject<'a> {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Kafka's time, ms.
    pub kafka_time_ms: Option<i64>,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Payload, byte for byte; absent in a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Headers as JSON, where they are read.
    pub headers: Option<String>,
    /// Why.
    pub refusal: &'a Refusal,
    /// When it was judged, ms.
    pub clock_ms: i64,
}

/// Builds rows of the rejects table.
#[derive(Debug, Default)]
pub struct Rejects {
    partition: Vec<i32>,
    offset: Vec<i64>,
    kafka_time_us: Vec<Option<i64>>,
    key: BinaryBuilder,
    payload: BinaryBuilder,
    headers: StringBuilder,
    reason: StringBuilder,
    field: StringBuilder,
    detail: StringBuilder,
    judged_us: Vec<i64>,
}

impl Rejects {
    /// Appends one reject.
    pub fn push(&mut self, reject: Reject<'_>) {
        self.partition.push(reject.partition);
        self.offset.push(reject.offset);
        self.kafka_time_us.push(reject.kafka_time_ms.map(|ms| ms.saturating_mul(1_000)));
        self.key.append_option(reject.key);
        self.payload.append_option(reject.payload);
        self.headers.append_option(reject.headers);
        self.reason.append_value(reject.refusal.reason.as_str());
        self.field.append_option(reject.refusal.field.as_deref());
        self.detail.append_value(&reject.refusal.detail);
        self.judged_us.push(reject.clock_ms.saturating_mul(1_000));
    }

    /// How many.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.offset.len()
    }

    /// Bytes of payload and keys.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.values_slice().len() + self.payload.values_slice().len() + self.rows() * 96
    }

    /// Takes them as rows of `schema`, the rejects table's.
    ///
    /// # Errors
    /// Only if the schema has columns that nobody fills, which is a bug.
    pub fn finish(&mut self, schema: &SchemaRef, topic: &str, contract_version: &str) -> Result<RecordBatch> {
        let mut taken = std::mem::take(self);
        let rows = taken.rows();
        let dates: Vec<i32> = taken.judged_us.iter().map(|us| event_date(*us)).collect();
        let columns = schema
            .fields()
            .iter()
            .map(|field| -> ArrayRef {
                match field.name().as_str() {
                    "_topic" => Arc::new(StringArray::new_repeated(topic, rows)),
                    "_partition" => Arc::new(Int32Array::from(std::mem::take(&mut taken.partition))),
                    "_offset" => Arc::new(Int64Array::from(std::mem::take(&mut taken.offset))),
                    "_kafka_time" => Arc::new(
                        TimestampMicrosecondArray::from(std::mem::take(&mut taken.kafka_time_us)).with_timezone("UTC"),
                    ),
                    "key" => Arc::new(taken.key.finish()),
                    "payload" => Arc::new(taken.payload.finish()),
                    "headers" => Arc::new(taken.headers.finish()),
                    "reason" => Arc::new(taken.reason.finish()),
                    "field" => Arc::new(taken.field.finish()),
                    "detail" => Arc::new(taken.detail.finish()),
                    "contract_version" => {
                        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(contract_version, rows)))
                    }
                    "rejected_at" => Arc::new(
                        TimestampMicrosecondArray::from(std::mem::take(&mut taken.judged_us)).with_timezone("UTC"),
                    ),
                    "reject_date" => Arc::new(Date32Array::from(dates.clone())),
                    _ => new_null_array(field.data_type(), rows),
                }
            })
            .collect();
        RecordBatch::try_new(schema.clone(), columns).map_err(internal)
    }
}

/// Keeps the rows whose `_partition` is not in `dropped`.
///
/// # Errors
/// Only if the batch has no such column, which is a bug.
pub fn without_partitions(batch: &RecordBatch, dropped: &[i32]) -> Result<RecordBatch> {
    let partitions = partition_column(batch)?;
    let keep: BooleanArray = partitions.values().iter().map(|p| Some(!dropped.contains(p))).collect();
    filter_record_batch(batch, &keep).map_err(internal)
}

/// The `_partition` column of landed rows or rejects.
///
/// # Errors
/// Only if the batch has no such column, which is a bug.
pub fn partition_column(batch: &RecordBatch) -> Result<&Int32Array> {
    batch
        .column_by_name("_partition")
        .and_then(|c| c.as_any().downcast_ref())
        .ok_or_else(|| internal("rows without `_partition`"))
}

/// The `_offset` column of landed rows or rejects.
///
/// # Errors
/// Only if the batch has no such column, which is a bug.
pub fn offset_column(batch: &RecordBatch) -> Result<&Int64Array> {
    batch
        .column_by_name("_offset")
        .and_then(|c| c.as_any().downcast_ref())
        .ok_or_else(|| internal("rows without `_offset`"))
}

/// Encodes batches as one file for each combination of partition values; blocks.
///
/// # Errors
/// Only if rows and profile disagree, which is a bug.
pub fn encode_split(
    batches: Vec<RecordBatch>,
    by: &[String],
    profile: &FileProfile,
) -> Result<Vec<(PartitionValues, EncodedFile)>> {
    let mut files = Vec::new();
    for (values, rows) in split(batches, by)? {
        let bytes: usize = rows.iter().map(slice_bytes).sum();
        // batches are freed one by one as they are encoded
        let columns = rows.into_iter().map(|mut batch| {
            for name in by {
                let index = batch.schema().index_of(name).map_err(internal)?;
                batch.remove_column(index);
            }
            Ok(batch)
        });
        let file = encode(&profile.clone().room(bytes / ENCODED_SHARE), columns)?;
        files.push((by.iter().cloned().zip(values).collect(), file));
    }
    Ok(files)
}

/// Bytes that the rows of a batch take, not counting what it shares with others.
fn slice_bytes(batch: &RecordBatch) -> usize {
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
    batch.columns().iter().map(bytes).sum()
}

/// Splits batches by the values of the partition columns, in their order; `None` is null. Rows keep
/// their order within a group.
fn split(batches: Vec<RecordBatch>, by: &[String]) -> Result<BTreeMap<Values, Vec<RecordBatch>>> {
    let mut groups: BTreeMap<Values, Vec<RecordBatch>> = BTreeMap::new();
    for batch in batches {
        if batch.num_rows() == 0 {
            continue;
        }
        for (values, rows) in split_one(batch, by)? {
            groups.entry(values).or_default().push(rows);
        }
    }
    Ok(groups)
}

fn split_one(batch: RecordBatch, by: &[String]) -> Result<Vec<(Values, RecordBatch)>> {
    let columns = |batch: &RecordBatch| -> Result<Vec<ArrayRef>> {
        by.iter()
            .map(|name| {
                batch
                    .column_by_name(name)
                    .cloned()
                    .ok_or_else(|| internal(format!("rows without partition column `{name}`")))
            })
            .collect()
    };
    if partition(&columns(&batch)?).map_err(internal)?.len() == 1 {
        return Ok(vec![(values_at(&columns(&batch)?, 0)?, batch)]);
    }
    // the row number as last key keeps the order of delivery within a group
    let mut keys: Vec<SortColumn> =
        columns(&batch)?.into_iter().map(|values| SortColumn { values, options: None }).collect();
    let row_numbers = Arc::new(UInt32Array::from_iter_values(0..batch.num_rows() as u32));
    keys.push(SortColumn { values: row_numbers, options: None });
    let order = lexsort_to_indices(&keys, None).map_err(internal)?;
    let sorted = take_record_batch(&batch, &order).map_err(internal)?;
    drop(batch);
    let columns = columns(&sorted)?;
    partition(&columns)
        .map_err(internal)?
        .ranges()
        .into_iter()
        .map(|range| Ok((values_at(&columns, range.start)?, sorted.slice(range.start, range.len()))))
        .collect()
}

/// Spells one row's partition values as Delta wants them: ISO dates, plain numbers, text as it is.
fn values_at(columns: &[ArrayRef], row: usize) -> Result<Values> {
    let options = FormatOptions::default();
    columns
        .iter()
        .map(|column| {
            if column.is_null(row) {
                return Ok(None);
            }
            debug_assert!(!matches!(column.data_type(), DataType::Timestamp(..)), "spelled otherwise in Delta");
            let formatter = ArrayFormatter::try_new(column.as_ref(), &options).map_err(internal)?;
            Ok(Some(formatter.value(row).to_string()))
        })
        .collect()
}

fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Stage::Land, Class::Internal, "rows and schema disagree").because(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{Field, Schema};

    fn rows(dates: &[i32], cams: &[&str]) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![
            Field::new("cam", DataType::Utf8, false),
            Field::new("_partition", DataType::Int32, false),
            Field::new("event_date", DataType::Date32, false),
        ]));
        let n = dates.len() as i32;
        RecordBatch::try_new(
            schema,
            vec![
                Arc::new(StringArray::from(cams.to_vec())),
                Arc::new(Int32Array::from_iter_values(0..n)),
                Arc::new(Date32Array::from(dates.to_vec())),
            ],
        )
        .unwrap()
    }

    #[test]
    fn split_groups_by_value_and_keeps_order() {
        let batch = rows(&[1, 0, 1, -1, 1], &["a", "b", "c", "d", "a"]);
        let groups = split(vec![batch.clone(), rows(&[1], &["z"])], &["event_date".into()]).unwrap();
        let names: Vec<_> = groups.keys().map(|k| k[0].clone().unwrap()).collect();
        assert_eq!(names, ["1969-12-31", "1970-01-01", "1970-01-02"]);
        let day = &groups[&vec![Some("1970-01-02".to_owned())]];
        assert_eq!(partition_column(&day[0]).unwrap().values(), &[0, 2, 4]);
        assert_eq!(day[1].num_rows(), 1);
        let two = split(vec![batch], &["event_date".into(), "cam".into()]).unwrap();
        assert_eq!(two.len(), 4);
    }

    #[test]
    fn dropped_partitions_leave_no_row() {
        let kept = without_partitions(&rows(&[1, 1, 1], &["a", "b", "c"]), &[0, 2]).unwrap();
        assert_eq!(partition_column(&kept).unwrap().values(), &[1]);
    }

    #[test]
    fn dates_before_1970_floor() {
        assert_eq!(event_date(-1), -1);
        assert_eq!(event_date(0), 0);
        assert_eq!(event_date(DAY_US), 1);
    }
}

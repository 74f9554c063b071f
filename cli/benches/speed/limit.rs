//! The limit: consume, decode, encode by stock libraries, with none of our code and no guarantees.
//!
//! One consumer thread takes batches from librdkafka and copies the payloads, one worker decodes them
//! with arrow-json and encodes Parquet with the library's defaults and zstd 1 into local files. Bad
//! rows, offsets, commits and memory are nobody's concern here: what `stream` costs beyond this is
//! the price of its promises.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use arrow::json::ReaderBuilder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::ffi::CString;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const BATCH: usize = 4_096;
const FILE_BYTES: usize = 64 << 20;

/// Reads the whole topic into Parquet files under `dir`; returns the rows.
pub fn run(brokers: &str, topic: &str, schema: &SchemaRef, dir: &Path) -> usize {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench-limit")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .unwrap();
    let wait = Duration::from_secs(30);
    let metadata = consumer.fetch_metadata(Some(topic), wait).unwrap();
    let mut list = TopicPartitionList::new();
    let mut total = 0;
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), wait).unwrap();
        total += (high - low) as usize;
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    let queue = Queue::open(&consumer, topic, &list);
    let (full_in, full) = std::sync::mpsc::sync_channel::<Vec<u8>>(8);
    let (empty_in, empty) = std::sync::mpsc::sync_channel::<Vec<u8>>(16);
    let (schema, dir) = (schema.clone(), dir.to_owned());
    let worker = std::thread::spawn(move || work(&full, &empty_in, &schema, &dir));
    let mut rows = 0;
    while rows < total {
        let mut arena = empty.try_recv().unwrap_or_default();
        rows += queue.take(&mut arena);
        if !arena.is_empty() {
            full_in.send(arena).unwrap();
        }
    }
    drop(full_in);
    assert_eq!(worker.join().unwrap(), total);
    total
}

fn work(
    full: &std::sync::mpsc::Receiver<Vec<u8>>,
    empty: &std::sync::mpsc::SyncSender<Vec<u8>>,
    schema: &SchemaRef,
    dir: &Path,
) -> usize {
    let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(BATCH * 2).build_decoder().unwrap();
    let mut files = Files { dir, schema, count: 0, writer: None };
    let mut rows = 0;
    for mut arena in full {
        let mut rest = &arena[..];
        while !rest.is_empty() {
            rest = &rest[decoder.decode(rest).unwrap()..];
            if decoder.len() >= BATCH * 2 {
                rows += files.write(&decoder.flush().unwrap().unwrap());
            }
        }
        arena.clear();
        let _ = empty.try_send(arena);
    }
    if let Some(batch) = decoder.flush().unwrap() {
        rows += files.write(&batch);
    }
    files.roll();
    rows
}

struct Files<'a> {
    dir: &'a Path,
    schema: &'a SchemaRef,
    count: usize,
    writer: Option<ArrowWriter<File>>,
}

impl Files<'_> {
    fn write(&mut self, batch: &RecordBatch) -> usize {
        let writer = self.writer.get_or_insert_with(|| {
            self.count += 1;
            let file = File::create(self.dir.join(format!("{:05}.parquet", self.count))).unwrap();
            let zstd = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
            let properties = WriterProperties::builder().set_compression(zstd).build();
            ArrowWriter::try_new(file, self.schema.clone(), Some(properties)).unwrap()
        });
        writer.write(batch).unwrap();
        if writer.bytes_written() + writer.in_progress_size() >= FILE_BYTES {
            self.roll();
        }
        batch.num_rows()
    }

    fn roll(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.into_inner().unwrap();
        }
    }
}

/// librdkafka's own batches, the fastest way to take messages.
struct Queue<'a> {
    raw: *mut rd::rd_kafka_queue_t,
    _consumer: &'a BaseConsumer,
}

impl<'a> Queue<'a> {
    #[expect(unsafe_code, reason = "rdkafka has no safe batch call")]
    fn open(consumer: &'a BaseConsumer, topic: &str, list: &TopicPartitionList) -> Self {
        consumer.assign(list).unwrap();
        let topic = CString::new(topic).unwrap();
        // SAFETY: the client outlives the queue (the borrow), and each partition queue is released here
        unsafe {
            let client = consumer.client().native_ptr();
            let raw = rd::rd_kafka_queue_new(client);
            for partition in 0..list.count() as i32 {
                let queue = rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
                rd::rd_kafka_queue_forward(queue, raw);
                rd::rd_kafka_queue_destroy(queue);
            }
            Self { raw, _consumer: consumer }
        }
    }

    /// Copies one batch of payloads into `arena`; returns how many.
    #[expect(unsafe_code, reason = "rdkafka has no safe batch call")]
    fn take(&self, arena: &mut Vec<u8>) -> usize {
        let mut messages = [std::ptr::null_mut(); BATCH];
        let mut rows = 0;
        // SAFETY: the array has BATCH slots; each message is read and then destroyed exactly once
        unsafe {
            let count = rd::rd_kafka_consume_batch_queue(self.raw, 20, messages.as_mut_ptr(), BATCH);
            for message in &messages[..usize::try_from(count).unwrap_or(0)] {
                let m = &**message;
                if m.err == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && !m.payload.is_null() {
                    arena.extend_from_slice(std::slice::from_raw_parts(m.payload.cast(), m.len));
                    rows += 1;
                }
                rd::rd_kafka_message_destroy(*message);
            }
        }
        rows
    }
}

impl Drop for Queue<'_> {
    #[expect(unsafe_code, reason = "rdkafka has no safe batch call")]
    fn drop(&mut self) {
        // SAFETY: made in `open`, and not used after this
        unsafe { rd::rd_kafka_queue_destroy(self.raw) }
    }
}

/// The small event's columns.
pub fn small() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("event_id"),
        text("camera_id"),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("vehicle_speed", DataType::Float64, false),
        text("plate_number"),
    ]))
}

/// The large event's columns.
pub fn large() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let metadata: Fields = ["firmware", "site", "region", "serial", "note", "diagnostic", "tags", "pad"]
        .into_iter()
        .map(|name| Field::new(name, DataType::Utf8, true))
        .collect();
    Arc::new(Schema::new(vec![
        text("device_id"),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        text("metric_name"),
        Field::new("metric_value", DataType::Float64, false),
        Field::new("metadata", DataType::Struct(metadata), true),
    ]))
}

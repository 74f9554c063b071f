#![expect(unsafe_code, reason = "rdkafka has no safe way to take messages in batches, which is twice as fast")]
//! Takes messages from librdkafka in batches: the one file with `unsafe`.
//!
//! An own queue stands between librdkafka and us. Every assigned partition's queue is forwarded to
//! it *before* the partition is assigned: librdkafka then never puts a message anywhere else
//! (`RD_KAFKA_Q_F_FWD_APP` is kept over assignments). Messages are copied into a
//! [`Chunk`] and destroyed at once, so no pointer of librdkafka's leaves this file.
//!
//! Messages of before a seek, pause or revocation carry an older version than their partition, and
//! librdkafka's own batch call destroys them; what is left of a whole assignment goes with its queue.

use super::context::Context;
use super::message::Chunk;
use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

/// What one taken batch said besides its messages.
#[derive(Debug)]
pub(super) struct Notice {
    pub partition: i32,
    /// For `PartitionEOF` the position: the next offset the broker would deliver.
    pub offset: i64,
    pub code: RDKafkaErrorCode,
    pub text: String,
}

/// The own queue of one assignment.
pub(super) struct OwnQueue {
    queue: *mut rd::rd_kafka_queue_t,
    slots: Vec<*mut rd::rd_kafka_message_t>,
    // Keeps the client alive: a queue must be destroyed before its client.
    consumer: Arc<BaseConsumer<Context>>,
}

// SAFETY: the queue is a handle of librdkafka, which may be used from any thread. `slots` holds
// pointers only within one call of `take`, which has `&mut self`.
unsafe impl Send for OwnQueue {}

impl OwnQueue {
    pub fn new(consumer: &Arc<BaseConsumer<Context>>) -> Self {
        // SAFETY: the client handle is alive as long as `consumer`, of which we keep a share. The
        // call allocates and does not fail.
        let queue = unsafe { rd::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Self { queue, slots: Vec::new(), consumer: Arc::clone(consumer) }
    }

    /// Sends this partition's messages to the own queue from now on. Returns whether it could.
    pub fn forward(&self, topic: &CStr, partition: i32) -> bool {
        // SAFETY: client and own queue are alive (see `new`); `topic` is a C string. The partition's
        // queue comes with a reference that we give back after forwarding; the forwarding itself
        // holds references of its own.
        unsafe {
            let client = self.consumer.client().native_ptr();
            let source = rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition);
            if source.is_null() {
                return false;
            }
            rd::rd_kafka_queue_forward(source, self.queue);
            rd::rd_kafka_queue_destroy(source);
        }
        true
    }

    /// Waits up to `timeout` for up to `max` messages and hands each that `keep` wants to `chunk`.
    /// Returns how many librdkafka delivered, notices included.
    pub fn take(
        &mut self,
        chunk: &mut Chunk,
        max: usize,
        timeout: Duration,
        want_headers: bool,
        notices: &mut Vec<Notice>,
        mut keep: impl FnMut(i32, i64) -> bool,
    ) -> usize {
        self.slots.clear();
        self.slots.resize(max, ptr::null_mut());
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: `slots` has room for exactly `max` pointers, of which librdkafka fills the first n.
        let n = unsafe { rd::rd_kafka_consume_batch_queue(self.queue, timeout_ms, self.slots.as_mut_ptr(), max) };
        let n = usize::try_from(n).unwrap_or(0).min(max);
        for message in &self.slots[..n] {
            // SAFETY: librdkafka filled these slots with valid messages that are ours until they
            // are destroyed; `copy` keeps nothing of them; each is destroyed once.
            unsafe {
                let m = &**message;
                if m.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                    if keep(m.partition, m.offset) {
                        copy(*message, chunk, want_headers);
                    }
                } else {
                    notices.push(notice(m));
                }
                rd::rd_kafka_message_destroy(*message);
            }
        }
        n
    }
}

impl Drop for OwnQueue {
    fn drop(&mut self) {
        // SAFETY: the only reference of ours; the client outlives it through `consumer`. Messages
        // still in the queue, and those that are forwarded to it later, are destroyed by librdkafka.
        unsafe { rd::rd_kafka_queue_destroy(self.queue) }
    }
}

/// The name of a topic as librdkafka wants it; `None` if it holds a NUL.
pub(super) fn c_name(topic: &str) -> Option<CString> {
    CString::new(topic).ok()
}

/// # Safety
/// `message` must be a valid message without error.
unsafe fn copy(message: *mut rd::rd_kafka_message_t, chunk: &mut Chunk, want_headers: bool) {
    // SAFETY: valid by the caller's promise; key, payload and headers live as long as the message,
    // which is destroyed only after they were copied into the chunk.
    unsafe {
        let m = &*message;
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        let time = rd::rd_kafka_message_timestamp(message, &raw mut kind);
        let known = !matches!(kind, rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE) && time >= 0;
        let mut headers = ptr::null_mut();
        let some = want_headers
            && rd::rd_kafka_message_headers(message, &raw mut headers) == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
        let headers = Headers { list: if some { headers } else { ptr::null() }, at: 0, of: PhantomData };
        chunk.push(
            m.partition,
            m.offset,
            known.then_some(time),
            bytes(m.key, m.key_len),
            bytes(m.payload, m.len),
            headers,
        );
    }
}

/// Headers of one message that is alive for `'m`; `list` is null if it has none.
struct Headers<'m> {
    list: *const rd::rd_kafka_headers_t,
    at: usize,
    of: PhantomData<&'m rd::rd_kafka_message_t>,
}

impl<'m> Iterator for Headers<'m> {
    type Item = (&'m [u8], Option<&'m [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.list.is_null() {
            return None;
        }
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `list`, its names and values belong to the message, which is alive for `'m`.
        unsafe {
            let err = rd::rd_kafka_header_get_all(self.list, self.at, &raw mut name, &raw mut value, &raw mut size);
            if err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            self.at += 1;
            Some((CStr::from_ptr(name).to_bytes(), bytes(value, size)))
        }
    }
}

/// # Safety
/// `data` must be null or point to `len` bytes that live for `'a`.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by the caller's promise.
    (!data.is_null()).then(|| unsafe { slice::from_raw_parts(data.cast(), len) })
}

/// # Safety
/// `m` must be a valid message with an error; its payload is then librdkafka's text.
unsafe fn notice(m: &rd::rd_kafka_message_t) -> Notice {
    // SAFETY: by the caller's promise; the text is copied.
    let text = unsafe { bytes(m.payload, m.len) }.map(|t| String::from_utf8_lossy(t).into_owned()).unwrap_or_default();
    Notice { partition: m.partition, offset: m.offset, code: m.err.into(), text }
}

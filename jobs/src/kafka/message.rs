//! Messages on their way from the broker to the decoder: copied once, into a reused arena.

use std::ops::Range;

/// Messages of one poll, in the order of delivery.
///
/// The arena owns every byte; the messages point into it. librdkafka's own messages are destroyed
/// right after the copy, so its queue budget is freed at the poll edge.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Keys, payloads and headers, one after the other.
    pub arena: Vec<u8>,
    /// Headers of all messages: name and value as ranges of the arena.
    pub headers: Vec<(Range<u32>, Option<Range<u32>>)>,
    /// The messages.
    pub messages: Vec<Meta>,
    /// The poll's clock, ms since the Unix epoch.
    pub clock_ms: i64,
}

/// One message of a [`Chunk`].
#[derive(Debug, Clone)]
pub struct Meta {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Kafka's timestamp, ms; `None` where the broker has none.
    pub kafka_time_ms: Option<i64>,
    /// Key, as a range of the arena.
    pub key: Option<Range<u32>>,
    /// Payload, as a range of the arena; `None` is a tombstone.
    pub payload: Option<Range<u32>>,
    /// Its headers, as a range of [`Chunk::headers`].
    pub headers: Range<u32>,
}

/// One message, borrowed from its chunk.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    chunk: &'a Chunk,
    meta: &'a Meta,
    /// The whole arena, if all of it is UTF-8.
    text: Option<&'a str>,
}

impl Chunk {
    /// Empties the chunk and keeps its memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.headers.clear();
        self.messages.clear();
    }

    /// Appends one message.
    pub fn push<'h>(
        &mut self,
        partition: i32,
        offset: i64,
        kafka_time_ms: Option<i64>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) {
        let key = key.map(|b| self.copy(b));
        let payload = payload.map(|b| self.copy(b));
        let first = self.headers.len() as u32;
        for (name, value) in headers {
            let header = (self.copy(name), value.map(|b| self.copy(b)));
            self.headers.push(header);
        }
        let headers = first..self.headers.len() as u32;
        self.messages.push(Meta { partition, offset, kafka_time_ms, key, payload, headers });
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<u32> {
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        start..self.arena.len() as u32
    }

    /// The messages in order. The whole arena is checked for UTF-8 at once: that is several times
    /// faster than checking small payloads one by one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Message<'_>> {
        let text = simdutf8::basic::from_utf8(&self.arena).ok();
        self.messages.iter().map(move |meta| Message { chunk: self, meta, text })
    }

    fn bytes(&self, range: &Range<u32>) -> &[u8] {
        &self.arena[range.start as usize..range.end as usize]
    }
}

impl<'a> Message<'a> {
    /// Partition.
    #[must_use]
    pub const fn partition(&self) -> i32 {
        self.meta.partition
    }
    /// Offset.
    #[must_use]
    pub const fn offset(&self) -> i64 {
        self.meta.offset
    }
    /// Kafka's timestamp, ms.
    #[must_use]
    pub const fn kafka_time_ms(&self) -> Option<i64> {
        self.meta.kafka_time_ms
    }
    /// The poll's clock, ms.
    #[must_use]
    pub const fn clock_ms(&self) -> i64 {
        self.chunk.clock_ms
    }
    /// Key.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.meta.key.as_ref().map(|r| self.chunk.bytes(r))
    }
    /// Payload; `None` is a tombstone.
    #[must_use]
    pub fn payload(&self) -> Option<&'a [u8]> {
        self.meta.payload.as_ref().map(|r| self.chunk.bytes(r))
    }
    /// Payload as text; `None` is a tombstone.
    ///
    /// # Errors
    /// The payload is not UTF-8.
    pub fn payload_text(&self) -> Option<Result<&'a str, simdutf8::basic::Utf8Error>> {
        let range = self.meta.payload.as_ref()?;
        // `get` refuses a range that cuts a character: that payload alone is no UTF-8
        let text = self.text.and_then(|text| text.get(range.start as usize..range.end as usize));
        Some(text.map_or_else(|| simdutf8::basic::from_utf8(self.chunk.bytes(range)), Ok))
    }
    /// Headers, in order.
    pub fn headers(&self) -> impl DoubleEndedIterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let chunk = self.chunk;
        chunk.headers[self.meta.headers.start as usize..self.meta.headers.end as usize]
            .iter()
            .map(|(name, value)| (chunk.bytes(name), value.as_ref().map(|v| chunk.bytes(v))))
    }
}

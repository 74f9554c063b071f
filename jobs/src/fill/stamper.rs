//! Messages into rows and rejects, outside the stream: by the same decoder and rules, without frontier or repeats.

use crate::error::{Class, Error, Result, Stage};
use crate::kafka::message::Message;
use crate::land::decode::{self, Decoder};
use crate::land::judge::{Judged, headers, judge};
use crate::land::rows::{Reject, Rejects, Stamp, Stamps};
use crate::land::schema;
use crate::project::settings::Pipeline;
use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use deltaworks_core::reason::Refusal;
use std::sync::Arc;

/// Rows after which decoded columns become a batch.
const BATCH_ROWS: usize = 8_192;
/// Bytes after which decoded columns become a batch.
const BATCH_BYTES: usize = 2 << 20;
/// What only the stream can say of a row.
const BY_THE_STREAM: [&str; 2] = ["_behind_ms", "_repeat"];

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// It is a row.
    Row,
    /// It breaks the contract; [`Stamper::reject`] keeps it.
    Refused(Refusal),
    /// It is left out by a rule.
    Skipped,
}

/// Decodes messages and holds their rows and rejects.
pub struct Stamper {
    pipeline: Arc<Pipeline>,
    topic: String,
    decoder: Box<dyn Decoder>,
    raw_schema: SchemaRef,
    rejects_schema: SchemaRef,
    stamps: Stamps,
    rejects: Rejects,
    rows: Vec<RecordBatch>,
    reject_rows: Vec<RecordBatch>,
    bytes: usize,
}

impl Stamper {
    /// For messages of `topic`, spelled with its epoch, or of a file with this URL.
    ///
    /// # Errors
    /// The contract asks for what the format cannot give.
    pub fn new(pipeline: &Arc<Pipeline>, topic: impl Into<String>) -> Result<Self> {
        Ok(Self {
            topic: topic.into(),
            decoder: decode::decoder(pipeline)?,
            raw_schema: schema::raw_schema(pipeline),
            rejects_schema: schema::rejects_schema(),
            stamps: Stamps::default(),
            rejects: Rejects::default(),
            rows: Vec::new(),
            reject_rows: Vec::new(),
            bytes: 0,
            pipeline: pipeline.clone(),
        })
    }

    /// Takes one message in; one that breaks the contract leaves nothing.
    ///
    /// # Errors
    /// Only for bugs: bad messages are refused.
    pub fn push(&mut self, message: &Message<'_>) -> Result<Pushed> {
        let pushed = match judge(self.decoder.as_mut(), &self.pipeline, message) {
            Judged::Row(decoded) => {
                self.stamps.push(Stamp {
                    partition: message.partition(),
                    offset: message.offset(),
                    kafka_time_ms: message.kafka_time_ms(),
                    event_us: decoded.event_us,
                    behind_ms: 0,
                    id_hash: None,
                });
                Pushed::Row
            }
            Judged::Refused(refusal) => Pushed::Refused(refusal),
            Judged::Skipped => Pushed::Skipped,
        };
        if self.decoder.rows() >= BATCH_ROWS || self.decoder.bytes() >= BATCH_BYTES {
            self.seal()?;
        }
        Ok(pushed)
    }

    /// Takes in a message that was refused, as a reject.
    ///
    /// # Errors
    /// Only for bugs.
    pub fn reject(&mut self, message: &Message<'_>, refusal: &Refusal) -> Result<()> {
        self.rejects.push(Reject {
            partition: message.partition(),
            offset: message.offset(),
            kafka_time_ms: message.kafka_time_ms(),
            key: message.key(),
            payload: message.payload(),
            headers: headers(message),
            refusal,
            clock_ms: message.clock_ms(),
        });
        if self.rejects.bytes() >= BATCH_BYTES { self.seal_rejects() } else { Ok(()) }
    }

    /// Bytes that rows and rejects hold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes + self.decoder.bytes() + self.rejects.bytes()
    }

    /// Takes the rows of raw, and those of rejects.
    ///
    /// # Errors
    /// Only for bugs.
    pub fn finish(&mut self) -> Result<(Vec<RecordBatch>, Vec<RecordBatch>)> {
        self.seal()?;
        self.seal_rejects()?;
        self.bytes = 0;
        Ok((std::mem::take(&mut self.rows), std::mem::take(&mut self.reject_rows)))
    }

    fn seal(&mut self) -> Result<()> {
        if self.decoder.rows() > 0 {
            let decoded = self.decoder.finish()?;
            self.stamps.mark_repeats(|_, _| false);
            let joined = self.stamps.join(&decoded, &self.raw_schema, &self.topic)?;
            let columns = self.raw_schema.fields().iter().zip(joined.columns()).map(|(field, column)| {
                let unknown = BY_THE_STREAM.contains(&field.name().as_str());
                if unknown { new_null_array(field.data_type(), joined.num_rows()) } else { column.clone() }
            });
            let rows = RecordBatch::try_new(self.raw_schema.clone(), columns.collect())
                .map_err(|e| Error::new(Stage::Fill, Class::Internal, "rows and schema disagree").because(e))?;
            self.bytes += rows.get_array_memory_size();
            self.rows.push(rows);
        }
        Ok(())
    }

    fn seal_rejects(&mut self) -> Result<()> {
        if self.rejects.rows() > 0 {
            let version = &self.pipeline.contract.version;
            let rows = self.rejects.finish(&self.rejects_schema, &self.topic, version)?;
            self.bytes += rows.get_array_memory_size();
            self.reject_rows.push(rows);
        }
        Ok(())
    }
}

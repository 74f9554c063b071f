//! Opens a frozen file as rows, each a message for the decoder; and a reject of a file as the message that it was.

use super::bytes::{Source, Window};
use super::format::{Format, Reading};
use super::listing::FrozenFile;
use super::{csv, fit, jsonl, typed};
use crate::error::{Class, Error, Result, Stage};
use crate::kafka::message::Chunk;
use crate::project::settings::Pipeline;
use deltaworks_core::reason::{Reason, Refusal};
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The partition of every row of a file.
pub const PARTITION: i32 = -1;
/// How a reject says what its row was written in: names among its headers.
const FORMAT: &str = "deltaworks.format";
const DELIMITER: &str = "deltaworks.delimiter";
const HEADER: &str = "deltaworks.header";
const TIMES: &str = "deltaworks.times";
const TIMEZONE: &str = "deltaworks.timezone";
/// Rows of a batch.
const ROWS_MAX: usize = 8_192;
/// Bytes of a batch, if one row does not have more.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// Some rows of a file, in order.
#[derive(Debug, Default)]
pub(super) struct RowBatch {
    /// What the decoder is to read, or what a reject keeps of a row that is already refused.
    pub(super) chunk: Chunk,
    /// Rows that no decoder is asked about, by their index in the chunk.
    pub(super) refused: BTreeMap<usize, Refusal>,
    /// The bytes of the rows as the file has them, where these are others: one range for each row.
    pub(super) originals: Vec<Range<usize>>,
    /// What `originals` point into.
    pub(super) original_bytes: Vec<u8>,
}

impl RowBatch {
    /// Appends the row of a number.
    pub(super) fn push(&mut self, number: i64, payload: &[u8]) {
        self.chunk.push(PARTITION, number, None, None, Some(payload), []);
    }

    /// Appends a row that is a reject already.
    pub(super) fn refuse(&mut self, number: i64, payload: &[u8], refusal: Refusal) {
        self.refused.insert(self.chunk.messages.len(), refusal);
        self.push(number, payload);
    }

    pub(super) fn is_full(&self) -> bool {
        self.chunk.messages.len() >= ROWS_MAX || self.chunk.arena.len() + self.original_bytes.len() >= BATCH_BYTES
    }
}

/// The rows of one file, from the first to the last.
pub(super) trait Rows: Send {
    /// Adds rows to a batch until it is full; `false` if these were the last.
    ///
    /// # Errors
    /// The file cannot be read, is broken, or is not the frozen one any more. Bad rows are no errors.
    fn fill(&mut self, batch: &mut RowBatch) -> Result<bool>;
}

/// A file that is being read.
pub(super) struct Opened {
    pub(super) rows: Box<dyn Rows>,
    /// The pipeline as it judges these rows.
    pub(super) pipeline: Arc<Pipeline>,
    /// How a row is written, kept with each reject so that it can be read again without its file.
    pub(super) notes: Vec<(&'static str, String)>,
}

/// Opens a file; blocks.
///
/// # Errors
/// The file cannot be read, or has no rows of its format: no header, another frame.
pub(super) fn open(source: &Source, file: &FrozenFile, pipeline: &Pipeline, reading: &Reading) -> Result<Opened> {
    let url = &file.facts.url;
    let zone = zone(reading)?;
    let mut notes = vec![(FORMAT, file.format.to_string())];
    let untyped = || fit::fitted(pipeline, url, None, zone.as_ref());
    let window = || source.unpacked(file.compression).map(Window::new);
    Ok(match file.format {
        Format::Jsonl => Opened {
            rows: Box::new(jsonl::Lines::open(source.clone(), window()?, reading.row_bytes_max)?),
            pipeline: untyped(),
            notes,
        },
        Format::Csv => {
            let pipeline = untyped();
            let delimiter = reading.delimiter(url)?;
            let rows = csv::Records::open(source.clone(), window()?, delimiter, reading.row_bytes_max, &pipeline)?;
            notes.push((DELIMITER, char::from(delimiter).to_string()));
            notes.push((HEADER, rows.header().to_owned()));
            Opened { rows: Box::new(rows), pipeline, notes }
        }
        Format::Parquet | Format::Avro => {
            let file = match file.format {
                Format::Avro => typed::avro(source, pipeline)?,
                _ => typed::parquet(source, pipeline)?,
            };
            let times = fit::times(file.schema.fields());
            if !times.is_empty() {
                notes.push((TIMES, serde_json::Value::from(times).to_string()));
                notes.extend(reading.timezone.clone().map(|name| (TIMEZONE, name)));
            }
            let pipeline = fit::fitted(pipeline, url, Some(file.schema.fields()), zone.as_ref());
            Opened { rows: Box::new(typed::TypedRows::new(source.clone(), file, &pipeline)), pipeline, notes }
        }
    })
}

/// The message that a reject of a file stands for, and the pipeline that judges it, so that it can be judged again
/// without its file. `payload` and `headers` are the reject's columns, `url` is its topic.
///
/// # Errors
/// The row is none, now as then.
pub fn reread(
    pipeline: &Pipeline,
    url: &str,
    payload: &[u8],
    headers: Option<&str>,
) -> Result<(Arc<Pipeline>, Vec<u8>), Refusal> {
    let notes: Vec<(String, Option<String>)> =
        headers.and_then(|headers| serde_json::from_str(headers).ok()).unwrap_or_default();
    let note = |name: &str| notes.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.as_deref());
    let times: Vec<&str> = note(TIMES).and_then(|times| serde_json::from_str(times).ok()).unwrap_or_default();
    let zone = note(TIMEZONE).and_then(|name| TimeZone::get(name).ok());
    let pipeline = fit::refitted(pipeline, url, &times, zone.as_ref());
    let message = match (note(HEADER), note(DELIMITER).and_then(|text| text.bytes().next())) {
        (Some(header), Some(delimiter)) => csv::reread(payload, header, delimiter, &pipeline)?,
        _ => payload.to_vec(),
    };
    Ok((pipeline, message))
}

/// The zone of times without one.
pub(super) fn zone(reading: &Reading) -> Result<Option<TimeZone>> {
    let Some(name) = &reading.timezone else { return Ok(None) };
    TimeZone::get(name).map(Some).map_err(|e| {
        Error::new(Stage::Fill, Class::User, format!("`{name}` is no time zone that is known here")).because(e)
    })
}

/// A line is too long to be a message; its beginning is kept.
pub(super) fn too_large(bytes: u64, bytes_max: usize) -> Refusal {
    let detail = format!("the line has {bytes} bytes, at most {bytes_max} are allowed; the first {bytes_max} are kept");
    Refusal::of(Reason::TooLarge, detail)
}

/// Passes the byte order mark of UTF-8 at the start of a text.
///
/// # Errors
/// [`Class::User`] for a text in UTF-16.
pub(super) fn pass_mark(source: &Source, window: &mut Window) -> Result<()> {
    while window.bytes().len() < 3 && window.more().map_err(|e| source.broken(e))? {}
    match window.bytes() {
        [0xEF, 0xBB, 0xBF, ..] => window.pass(3),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => {
            return Err(source.refused("is written in UTF-16").hint("write it in UTF-8"));
        }
        _ => {}
    }
    Ok(())
}

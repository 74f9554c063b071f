//! Cuts rows into parts of bounded size: one huge file is several, many tiny ones share one.
//!
//! ```text
//!   reader ─(rows)─> cutter ─(parts)─> the one who fills
//!   store, unpack    decode, hold       commit
//! ```
//!
//! Two threads that block, each ahead by what its queue holds, so that reading, decoding and committing go on at the
//! same time. Rows are held as they were decoded; the dates in them matter to nobody before the flush.
//!
//! Each file is compared with the frozen one before it is read. A store that gives the same content another tag (a
//! copied or touched file) is believed only after the whole content was hashed again.
//!
//! Invariants: R1 a part's progress counts just the files whose last row is in it or in an earlier part; R2 of a file
//! that turns out to be broken, nothing of the part that is being held is handed on.

use super::bytes::Source;
use super::format::{Compression, Reading};
use super::listing::{FrozenFile, files_of};
use super::source::{self, Opened, RowBatch};
use crate::clock::Clock;
use crate::error::{Class, Error, Result, Stage};
use crate::fill::{Pushed, Stamper};
use crate::kafka::message::Chunk;
use crate::lake::Lake;
use crate::lake::files::{changed, gone};
use crate::project::settings::Pipeline;
use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, Sender};
use deltaworks_core::reason::Refusal;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Batches between reader and cutter.
const BATCHES_AHEAD: usize = 3;

/// How large a part becomes.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartLimits {
    /// Bytes of decoded rows.
    pub(super) bytes: usize,
    /// Rows.
    pub(super) rows: u64,
    /// Time since the last one.
    pub(super) every: Duration,
}

/// Rows that go into one commit.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) rows: Vec<RecordBatch>,
    pub(super) rejects: Vec<RecordBatch>,
    /// Rows and rejects in it.
    pub(super) messages: u64,
    /// Rejects among them.
    pub(super) rejected: u64,
    /// Files that are wholly done with it.
    pub(super) done: i64,
}

/// What both threads need.
pub(super) struct Job {
    pub(super) lake: Lake,
    /// Bytes of one request.
    pub(super) piece_bytes: u64,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) reading: Reading,
    /// The files that are left, in order.
    pub(super) files: Vec<FrozenFile>,
    /// How many come before them.
    pub(super) done: i64,
    pub(super) limits: PartLimits,
    pub(super) clock: Clock,
}

enum Item {
    Begin { pipeline: Arc<Pipeline>, url: String, notes: Vec<(&'static str, String)> },
    Rows(RowBatch),
    End,
    Failed(Error),
}

/// Begins to read; the parts come out in order, an error last. They end when nobody takes them any more.
pub(super) fn start(job: Job) -> mpsc::Receiver<Result<Cut>> {
    // none waits beside the one that is being held and the one that is being committed
    let (parts, taken) = mpsc::channel(1);
    let (items, read) = crossbeam_channel::bounded(BATCHES_AHEAD);
    let cutter = Cutter::new(&job);
    tokio::task::spawn_blocking(move || reader(&job, &items));
    tokio::task::spawn_blocking(move || cut(cutter, &read, &parts));
    taken
}

fn reader(job: &Job, items: &Sender<Item>) {
    for file in &job.files {
        match read_file(job, file, items) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                let _ = items.send(Item::Failed(error));
                return;
            }
        }
    }
}

/// `false` if nobody listens any more.
fn read_file(job: &Job, file: &FrozenFile, items: &Sender<Item>) -> Result<bool> {
    let source = unchanged(job, file)?;
    let Opened { mut rows, pipeline, notes } = source::open(&source, file, &job.pipeline, &job.reading)?;
    let mut go_on = items.send(Item::Begin { pipeline, url: file.facts.url.clone(), notes }).is_ok();
    let mut more = true;
    while go_on && more {
        let mut batch =
            RowBatch { chunk: Chunk { clock_ms: job.clock.now_ms(), ..Chunk::default() }, ..RowBatch::default() };
        more = rows.fill(&mut batch)?;
        go_on = items.send(Item::Rows(batch)).is_ok();
    }
    Ok(go_on && items.send(Item::End).is_ok())
}

/// The file as its store has it now, if that is the frozen one.
fn unchanged(job: &Job, file: &FrozenFile) -> Result<Source> {
    let url = &file.facts.url;
    let files = files_of(&job.lake, url)?;
    let now = Handle::current().block_on(files.head(url))?.ok_or_else(|| gone(url))?;
    if now.size != file.facts.size {
        return Err(changed(url));
    }
    let is_same = now.etag == file.facts.etag;
    let source = Source::new(files, now, Some(&file.blake3), job.piece_bytes);
    if !is_same {
        // at its end it says whether the hash is the frozen one
        io::copy(&mut source.unpacked(Compression::None)?, &mut io::sink()).map_err(|e| source.broken(e))?;
        tracing::info!(url, "the store's tag is another, the content is the same");
    }
    Ok(source)
}

fn cut(mut cutter: Cutter, items: &Receiver<Item>, parts: &mpsc::Sender<Result<Cut>>) {
    let mut work = || -> Result<()> {
        for item in items {
            if let Some(part) = cutter.take(item)?
                && parts.blocking_send(Ok(part)).is_err()
            {
                return Ok(());
            }
        }
        Ok(())
    };
    let worked = work();
    if cutter.held.done > cutter.handed && parts.blocking_send(Ok(std::mem::take(&mut cutter.held))).is_err() {
        return;
    }
    if let Err(error) = worked {
        // nobody listens: then nobody wants to know
        let _ = parts.blocking_send(Err(error));
    }
}

struct Cutter {
    limits: PartLimits,
    held: Cut,
    /// Bytes of what is held.
    bytes: usize,
    /// Files that are done with the parts handed on.
    handed: i64,
    since: Instant,
    file: Option<File>,
}

/// The file whose rows come.
struct File {
    stamper: Stamper,
    notes: Vec<(&'static str, String)>,
    messages: u64,
    rejected: u64,
}

impl Cutter {
    fn new(job: &Job) -> Self {
        Self {
            limits: job.limits,
            held: Cut { done: job.done, ..Cut::default() },
            bytes: 0,
            handed: job.done,
            since: Instant::now(),
            file: None,
        }
    }

    /// Takes one item in; gives a part if it is full.
    fn take(&mut self, item: Item) -> Result<Option<Cut>> {
        match item {
            Item::Begin { pipeline, url, notes } => {
                self.file = Some(File { stamper: Stamper::new(&pipeline, url)?, notes, messages: 0, rejected: 0 });
                return Ok(None);
            }
            Item::Rows(batch) => match &mut self.file {
                Some(file) => file.push(&batch)?,
                None => return Err(Error::new(Stage::Fill, Class::Internal, "rows of no file")),
            },
            Item::End => {
                self.hold()?;
                self.file = None;
                self.held.done += 1;
            }
            Item::Failed(error) => return Err(error),
        }
        let (bytes, rows) = self.file.as_ref().map_or((0, 0), |file| (file.stamper.bytes(), file.messages));
        let is_full = self.bytes + bytes >= self.limits.bytes
            || self.held.messages + rows >= self.limits.rows
            || self.since.elapsed() >= self.limits.every;
        if !is_full || (self.held.messages + rows == 0 && self.held.done == self.handed) {
            return Ok(None);
        }
        self.hold()?;
        let next = Cut { done: self.held.done, ..Cut::default() };
        let part = std::mem::replace(&mut self.held, next);
        (self.bytes, self.handed, self.since) = (0, part.done, Instant::now());
        Ok(Some(part))
    }

    /// Takes over the rows of the file at hand.
    fn hold(&mut self) -> Result<()> {
        if let Some(file) = &mut self.file {
            self.bytes += file.stamper.bytes();
            let (rows, rejects) = file.stamper.finish()?;
            self.held.rows.extend(rows);
            self.held.rejects.extend(rejects);
            self.held.messages += std::mem::take(&mut file.messages);
            self.held.rejected += std::mem::take(&mut file.rejected);
        }
        Ok(())
    }
}

impl File {
    fn push(&mut self, batch: &RowBatch) -> Result<()> {
        for (index, message) in batch.chunk.iter().enumerate() {
            self.messages += 1;
            let refusal = match batch.refused.get(&index) {
                Some(refusal) => refusal.clone(),
                None => match self.stamper.push(&message)? {
                    Pushed::Refused(refusal) => refusal,
                    Pushed::Row | Pushed::Skipped => continue,
                },
            };
            let original = batch.originals.get(index).map(|range| &batch.original_bytes[range.clone()]);
            self.reject(message.offset(), original.or(message.payload()), batch.chunk.clock_ms, &refusal)?;
        }
        Ok(())
    }

    fn reject(&mut self, number: i64, bytes: Option<&[u8]>, clock_ms: i64, refusal: &Refusal) -> Result<()> {
        self.rejected += 1;
        let mut chunk = Chunk { clock_ms, ..Chunk::default() };
        let notes = self.notes.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())));
        chunk.push(source::PARTITION, number, None, None, bytes, notes);
        for message in chunk.iter() {
            self.stamper.reject(&message, refusal)?;
        }
        Ok(())
    }
}

//! The bytes of one frozen file, for code that blocks: in order and read ahead, or here and there.
//!
//! The libraries that read formats have errors of their own, in which ours would lose its class. So what the store said
//! is kept in the [`Source`], and [`Source::broken`] prefers it.
//!
//! Invariants: B1 no byte is given of another content than the frozen one, as far as size and tag can tell; B2 whoever
//! reads all in order is told at the end if the hash is another.

use super::format::Compression;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::files::{FileFacts, Files, changed};
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use std::collections::VecDeque;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// First size of a [`Window`].
const WINDOW_BYTES: usize = 256 << 10;

/// One frozen file.
#[derive(Debug, Clone)]
pub(super) struct Source {
    files: Files,
    pub(super) facts: Arc<FileFacts>,
    /// Hash of its content; `None` if it is not known yet.
    hash: Option<Arc<str>>,
    runtime: Handle,
    /// Bytes of one request.
    piece_bytes: u64,
    failed: Arc<Mutex<Option<Error>>>,
}

impl Source {
    /// The file of `facts`, read in pieces of `piece_bytes`. Call it where tokio runs.
    pub(super) fn new(files: Files, facts: FileFacts, hash: Option<&str>, piece_bytes: u64) -> Self {
        let failed = Arc::default();
        Self {
            files,
            facts: Arc::new(facts),
            hash: hash.map(Arc::from),
            runtime: Handle::current(),
            piece_bytes,
            failed,
        }
    }

    /// All bytes in order.
    pub(super) fn stream(&self) -> Stream {
        Stream {
            source: self.clone(),
            at: 0,
            piece: Bytes::new(),
            ahead: None,
            hasher: blake3::Hasher::new(),
            hashed: None,
        }
    }

    /// All bytes in order, unpacked.
    pub(super) fn unpacked(&self, compression: Compression) -> Result<Box<dyn Read + Send>> {
        let stream = self.stream();
        Ok(match compression {
            Compression::None => Box::new(stream),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stream)),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(stream).map_err(|e| self.broken(e))?),
        })
    }

    /// Any bytes: up to `blocks` pieces of `block_bytes` are kept, the ones that were used last.
    pub(super) fn random(&self, blocks: usize, block_bytes: u64) -> Random {
        Random(Arc::new(Blocks { source: self.clone(), blocks, block_bytes, kept: Mutex::default() }))
    }

    /// Why the file could not be read: what the store said, or else that its content is broken.
    pub(super) fn broken(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.unwrap_or_else(|| {
            self.refused("is broken")
                .because(why)
                .hint("give a whole copy of it another name, and take that one in its place")
        })
    }

    /// The user must change this file.
    pub(super) fn refused(&self, what: &str) -> Error {
        Error::new(Stage::Fill, Class::User, format!("`{}` {what}", self.facts.url))
    }

    fn fetch(&self, range: Range<u64>) -> JoinHandle<Result<Bytes>> {
        let (files, facts) = (self.files.clone(), self.facts.clone());
        self.runtime.spawn(async move { files.read(&facts, range).await })
    }

    fn wait(&self, fetched: JoinHandle<Result<Bytes>>) -> io::Result<Bytes> {
        let found = self.runtime.block_on(fetched);
        let found = found.unwrap_or_else(|e| {
            Err(Error::new(Stage::Fill, Class::Internal, format!("reading `{}` broke down", self.facts.url)).because(e))
        });
        found.map_err(|e| self.failed(e))
    }

    fn failed(&self, error: Error) -> io::Error {
        let said = error.to_string();
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        io::Error::other(said)
    }
}

/// A file from its first byte to its last; the next piece is under way while one is read.
pub(super) struct Stream {
    source: Source,
    at: u64,
    piece: Bytes,
    ahead: Option<JoinHandle<Result<Bytes>>>,
    hasher: blake3::Hasher,
    hashed: Option<String>,
}

impl Stream {
    /// Hash of the content; only after the last byte.
    pub(super) fn hash(&mut self) -> io::Result<String> {
        if let Some(hash) = &self.hashed {
            return Ok(hash.clone());
        }
        io::copy(self, &mut io::sink())?;
        Ok(self.hashed.clone().unwrap_or_default())
    }

    fn next_piece(&mut self) -> io::Result<()> {
        let size = self.source.facts.size;
        let range = |at: u64| at..(at + self.source.piece_bytes).min(size);
        if self.at < size {
            let fetched = self.ahead.take().unwrap_or_else(|| self.source.fetch(range(self.at)));
            self.piece = self.source.wait(fetched)?;
            self.hasher.update(&self.piece);
            self.at += self.piece.len() as u64;
            self.ahead = (self.at < size).then(|| self.source.fetch(range(self.at)));
        } else if self.hashed.is_none() {
            let hash = self.hasher.finalize().to_hex().to_string();
            if self.source.hash.as_deref().is_some_and(|frozen| frozen != hash) {
                return Err(self.source.failed(changed(&self.source.facts.url)));
            }
            self.hashed = Some(hash);
        }
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.next_piece()?;
        }
        let taken = self.piece.split_to(self.piece.len().min(buffer.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(ahead) = &self.ahead {
            ahead.abort();
        }
    }
}

/// A file of which any part can be read, as the Parquet library asks for it.
#[derive(Clone)]
pub(super) struct Random(Arc<Blocks>);

struct Blocks {
    source: Source,
    blocks: usize,
    block_bytes: u64,
    kept: Mutex<VecDeque<(u64, Bytes)>>,
}

impl Blocks {
    fn get(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let end = start + length as u64;
        if end > self.source.facts.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if length == 0 {
            return Ok(Bytes::new());
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |(at, bytes): &(u64, Bytes)| *at <= start && end <= *at + bytes.len() as u64;
        let (at, bytes) = match kept.iter().position(holds).and_then(|index| kept.remove(index)) {
            Some(block) => block,
            None => {
                let to = end.max(start + self.block_bytes).min(self.source.facts.size);
                (start, self.source.wait(self.source.fetch(start..to))?)
            }
        };
        let within = (start - at) as usize;
        let found = bytes.slice(within..within + length);
        kept.push_front((at, bytes));
        kept.truncate(self.blocks.max(1));
        Ok(found)
    }
}

impl Length for Random {
    fn len(&self) -> u64 {
        self.0.source.facts.size
    }
}

impl ChunkReader for Random {
    type T = BufReader<RandomRead>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        // headers of pages are read byte by byte
        Ok(BufReader::with_capacity(1 << 10, RandomRead { blocks: self.0.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.get(start, length).map_err(|e| ParquetError::External(Box::new(e)))
    }
}

/// Bytes of a [`Random`] file from some place on.
pub(super) struct RandomRead {
    blocks: Arc<Blocks>,
    at: u64,
}

impl Read for RandomRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.blocks.source.facts.size.saturating_sub(self.at);
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let found = self.blocks.get(self.at, length)?;
        buffer[..length].copy_from_slice(&found);
        self.at += length as u64;
        Ok(length)
    }
}

/// A piece of a stream that grows until it holds what is looked for.
pub(super) struct Window {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Window {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> Self {
        Self { reader, buffer: vec![0; WINDOW_BYTES], start: 0, end: 0 }
    }

    /// What was read and not yet passed.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Passes the first `count` bytes.
    pub(super) fn pass(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Reads on; `false` at the end.
    pub(super) fn more(&mut self) -> io::Result<bool> {
        if self.start > 0 && (self.start == self.end || self.end == self.buffer.len()) {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Passes the rest of the line; returns its bytes, without the end of the line.
    pub(super) fn pass_line(&mut self) -> io::Result<u64> {
        let mut passed = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', self.bytes()) {
                self.pass(at + 1);
                return Ok(passed + at as u64);
            }
            passed += self.bytes().len() as u64;
            self.pass(self.bytes().len());
            if !self.more()? {
                return Ok(passed);
            }
        }
    }
}

//! JSONL: each line is a message as it stands, and its number is the number of the line.
//!
//! Blank lines are passed over and counted. A line may end with CR LF, the last one with nothing.

use super::bytes::{Source, Window};
use super::source::{RowBatch, Rows, pass_mark, too_large};
use crate::error::Result;
use std::io;

/// The lines of a file.
pub(super) struct Lines {
    source: Source,
    window: Window,
    row_bytes_max: usize,
    number: i64,
}

impl Lines {
    /// Begins to read.
    ///
    /// # Errors
    /// The file cannot be read, or is written in UTF-16.
    pub(super) fn open(source: Source, mut window: Window, row_bytes_max: usize) -> Result<Self> {
        pass_mark(&source, &mut window)?;
        Ok(Self { source, window, row_bytes_max, number: 0 })
    }

    /// Adds one line; `false` at the end.
    fn line(&mut self, batch: &mut RowBatch) -> io::Result<bool> {
        let mut searched = 0;
        let (length, ended) = loop {
            if let Some(at) = memchr::memchr(b'\n', &self.window.bytes()[searched..]) {
                break (searched + at, 1);
            }
            searched = self.window.bytes().len();
            if searched > self.row_bytes_max {
                return self.long_line(batch);
            }
            if !self.window.more()? {
                if searched == 0 {
                    return Ok(false);
                }
                break (searched, 0);
            }
        };
        let line = &self.window.bytes()[..length];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.row_bytes_max {
            return self.long_line(batch);
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            batch.push(self.number, line);
        }
        self.window.pass(length + ended);
        self.number += 1;
        Ok(true)
    }

    fn long_line(&mut self, batch: &mut RowBatch) -> io::Result<bool> {
        let head = self.window.bytes()[..self.row_bytes_max].to_vec();
        let bytes = self.window.pass_line()?;
        batch.refuse(self.number, &head, too_large(bytes, self.row_bytes_max));
        self.number += 1;
        Ok(true)
    }
}

impl Rows for Lines {
    fn fill(&mut self, batch: &mut RowBatch) -> Result<bool> {
        while !batch.is_full() {
            if !self.line(batch).map_err(|e| self.source.broken(e))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

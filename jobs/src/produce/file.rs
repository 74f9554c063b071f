//! Events from a JSONL file, plain or gzip: one message per line that is not blank, byte for byte.

use super::generate::{Event, EventKind, unquoted};
use crate::error::{Class, Error, Result, Stage};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Reads the events of a file.
pub(super) struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    key: Option<Vec<String>>,
    number: u64,
}

impl Lines {
    /// Opens a file; `key` is the dotted path of the field that becomes the message key.
    pub fn open(path: &Path, key: Option<&str>) -> Result<Self> {
        let failed = |e: std::io::Error| unreadable(path, e);
        let mut file = File::open(path).map_err(failed)?;
        // a pipe gives its bytes once, so the head is put back before the rest
        let mut head = Vec::new();
        Read::by_ref(&mut file).take(GZIP.len() as u64).read_to_end(&mut head).map_err(failed)?;
        let packed = head == GZIP;
        let whole = Cursor::new(head).chain(file);
        let reader: Box<dyn BufRead> = if packed {
            Box::new(BufReader::new(MultiGzDecoder::new(whole)))
        } else {
            Box::new(BufReader::with_capacity(1 << 16, whole))
        };
        let key = key.map(|k| k.split('.').map(str::to_owned).collect());
        Ok(Self { path: path.to_owned(), reader, key, number: 0 })
    }

    /// The next event; `None` at the end.
    pub fn event(&mut self) -> Result<Option<Event>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = self.reader.read_until(b'\n', &mut line).map_err(|e| unreadable(&self.path, e))?;
            if n == 0 {
                return Ok(None);
            }
            self.number += 1;
            while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                line.pop();
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        let key = match &self.key {
            Some(path) => Some(self.key_of(path, &line)?),
            None => None,
        };
        Ok(Some(Event {
            key,
            payload: Some(line),
            headers: Vec::new(),
            kafka_time_ms: None,
            kind: EventKind::Unknown,
            reason: None,
            event_us: None,
            id: None,
        }))
    }

    fn key_of(&self, path: &[String], line: &[u8]) -> Result<Vec<u8>> {
        let value: Option<serde_json::Value> = serde_json::from_slice(line).ok();
        let found = path.iter().try_fold(value.as_ref(), |at, step| Some(at?.get(step))).flatten();
        match found {
            Some(value) if !value.is_null() => Ok(unquoted(value.to_string().as_bytes()).into_bytes()),
            _ => Err(Error::new(
                Stage::Produce,
                Class::User,
                format!("{}:{}: no field `{}` to take the key from", self.path.display(), self.number, path.join(".")),
            )),
        }
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(Stage::Produce, Class::User, format!("file `{}` cannot be read", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn plain_and_packed_files_give_the_same_lines() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"a\":{\"b\":7}}\r\n\n{\"a\":{\"b\":\"x\"}}";
        let plain = dir.path().join("events.jsonl");
        std::fs::write(&plain, text).unwrap();
        let packed = dir.path().join("events.jsonl.gz");
        let mut gz = flate2::write::GzEncoder::new(File::create(&packed).unwrap(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        gz.finish().unwrap();
        for path in [plain, packed] {
            let mut lines = Lines::open(&path, Some("a.b")).unwrap();
            let mut got = Vec::new();
            while let Some(event) = lines.event().unwrap() {
                got.push((String::from_utf8(event.key.unwrap()).unwrap(), event.payload.unwrap().len()));
            }
            assert_eq!(got, [("7".to_owned(), 13), ("x".to_owned(), 15)]);
            let error = Lines::open(&path, Some("a.c")).unwrap().event().unwrap_err().to_string();
            assert!(error.contains(":1: no field `a.c`"), "{error}");
        }
    }
}

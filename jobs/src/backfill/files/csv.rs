//! CSV: each record is the JSON object of its fields, under the names of the header.
//!
//! The grammar is RFC 4180, with any delimiter: a field that begins with a quote ends with one, two quotes inside stand
//! for one, and such a field may hold delimiters and ends of lines. In any other field a quote is a character. The number
//! of a row counts records after the header, blank lines too, which are passed over.
//!
//! A cell has no type, so the contract says how it is read. Columns of text, dates and written times take it as it is;
//! the others take it as JSON, so `7` is an integer and `{"a":1}` an object (and `True`, as Python writes it, is true).
//! An empty cell without quotes is no value at all; with quotes it is the empty text.
//!
//! Invariant: C1 a record that is none costs one line: what a stray quote would swallow is looked at line by line.

use super::bytes::{Source, Window};
use super::csv_record::{Field, Scan, scan, unquoted};
use super::source::{RowBatch, Rows, pass_mark, too_large};
use crate::error::Result;
use crate::project::contract::{Kind, Source as From, TimestampForm};
use crate::project::settings::{ExtraFields, Pipeline};
use deltaworks_core::reason::{Reason, Refusal};
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::io;

/// How the cells of a column become JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    /// A text.
    Text,
    /// A value in JSON's own spelling.
    Bare,
    /// The same, but other spellings are usual too.
    Boolean,
    /// Any JSON value.
    Json,
    /// Nobody wants it.
    Ignored,
}

struct Column {
    name: String,
    /// `"name":`
    key: Vec<u8>,
    cell: Cell,
}

/// The records of a file.
pub(super) struct Records {
    source: Source,
    window: Window,
    delimiter: u8,
    row_bytes_max: usize,
    header: String,
    columns: Vec<Column>,
    number: i64,
    fields: Vec<Field>,
    json: Vec<u8>,
}

impl Records {
    /// Reads the header and maps it to the contract; a file without a byte has no header and no rows.
    ///
    /// # Errors
    /// The file cannot be read, or its header is no header: broken, too long, a name that is empty or comes twice.
    pub(super) fn open(
        source: Source,
        mut window: Window,
        delimiter: u8,
        row_bytes_max: usize,
        pipeline: &Pipeline,
    ) -> Result<Self> {
        pass_mark(&source, &mut window)?;
        let mut records = Self {
            source,
            window,
            delimiter,
            row_bytes_max,
            header: String::new(),
            columns: Vec::new(),
            number: 0,
            fields: Vec::new(),
            json: Vec::new(),
        };
        records.read_header(pipeline)?;
        Ok(records)
    }

    /// The header's line.
    pub(super) fn header(&self) -> &str {
        &self.header
    }

    fn read_header(&mut self, pipeline: &Pipeline) -> Result<()> {
        let scanned = self.scan().map_err(|e| self.source.broken(e))?;
        let (length, passed) = match scanned {
            Scan::Record { length: 0, .. } if self.window.bytes().is_empty() => return Ok(()),
            Scan::Record { length, passed } => (length, passed),
            Scan::More => return Err(self.source.refused("has a header that is too long")),
            Scan::Broken(why) => return Err(self.source.refused(&format!("has a broken header: {why}"))),
        };
        let refused = |what: &str| {
            self.source.refused(what).hint("the first line of a CSV file names its fields, each once; if these are parted by another sign, give `--delimiter`")
        };
        let line = &self.window.bytes()[..length];
        let line = std::str::from_utf8(line).map_err(|e| refused("has a header that is not UTF-8").because(e))?;
        let mut names = BTreeSet::new();
        for field in &self.fields {
            let name = unquoted(&line[field.range.clone()], field.quoted).into_owned();
            if name.trim().is_empty() || !names.insert(name.clone()) {
                return Err(refused(&format!("has a header that names a field `{name}` twice or not at all")));
            }
            self.columns.push(column(name, pipeline));
        }
        if !pipeline.contract.columns.iter().any(|c| c.source == From::Field && names.contains(&c.name)) {
            return Err(refused("has a header that names no field of the contract"));
        }
        self.header = line.to_owned();
        self.window.pass(passed);
        Ok(())
    }

    /// Looks for the record at the start of the window. [`Scan::More`] only if it is longer than allowed.
    fn scan(&mut self) -> io::Result<Scan> {
        let mut ended = false;
        loop {
            match scan(self.window.bytes(), self.delimiter, ended, &mut self.fields) {
                Scan::More if self.window.bytes().len() <= self.row_bytes_max + 1 => ended = !self.window.more()?,
                found => return Ok(found),
            }
        }
    }

    /// Adds one record; `false` at the end.
    fn record(&mut self, batch: &mut RowBatch) -> io::Result<bool> {
        if self.window.bytes().is_empty() && !self.window.more()? {
            return Ok(false);
        }
        let scanned = self.scan()?;
        match scanned {
            Scan::Record { length, .. } if length > self.row_bytes_max => self.long_line(batch)?,
            Scan::Record { length, passed } => {
                self.row(length, batch);
                self.window.pass(passed);
            }
            Scan::Broken(why) => self.broken_line(why, batch)?,
            Scan::More if self.window.bytes().contains(&b'\n') => {
                self.broken_line("a quote is opened and not closed", batch)?;
            }
            Scan::More => self.long_line(batch)?,
        }
        self.number += 1;
        Ok(true)
    }

    fn row(&mut self, length: usize, batch: &mut RowBatch) {
        let line = &self.window.bytes()[..length];
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let made = match std::str::from_utf8(line) {
            Ok(line) => object(line, &self.fields, &self.columns, &mut self.json),
            Err(e) => Err(not_utf8(e)),
        };
        original(batch, line);
        match made {
            Ok(()) => batch.push(self.number, &self.json),
            Err(refusal) => batch.refuse(self.number, &[], refusal),
        }
    }

    fn broken_line(&mut self, why: &str, batch: &mut RowBatch) -> io::Result<()> {
        let bytes = self.window.bytes();
        let length = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len()).min(self.row_bytes_max);
        let line = &bytes[..length];
        original(batch, line.strip_suffix(b"\r").unwrap_or(line));
        batch.refuse(self.number, &[], Refusal::of(Reason::NotOneObject, why));
        self.window.pass_line().map(drop)
    }

    fn long_line(&mut self, batch: &mut RowBatch) -> io::Result<()> {
        let head = self.window.bytes()[..self.row_bytes_max].to_vec();
        let bytes = self.window.pass_line()?;
        original(batch, &head);
        batch.refuse(self.number, &[], too_large(bytes, self.row_bytes_max));
        Ok(())
    }
}

impl Rows for Records {
    fn fill(&mut self, batch: &mut RowBatch) -> Result<bool> {
        if self.columns.is_empty() {
            return Ok(false);
        }
        while !batch.is_full() {
            if !self.record(batch).map_err(|e| self.source.broken(e))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn original(batch: &mut RowBatch, line: &[u8]) {
    let start = batch.original_bytes.len();
    batch.original_bytes.extend_from_slice(line);
    batch.originals.push(start..batch.original_bytes.len());
}

fn column(name: String, pipeline: &Pipeline) -> Column {
    let known = pipeline.contract.columns.iter().find(|c| c.source == From::Field && c.name == name);
    let cell = match known.map(|column| &column.kind) {
        None if pipeline.extra_fields == ExtraFields::Ignore => Cell::Ignored,
        None | Some(Kind::String | Kind::Date) => Cell::Text,
        Some(Kind::Timestamp(TimestampForm::Rfc3339 { .. } | TimestampForm::Format { .. })) => Cell::Text,
        Some(Kind::Boolean) => Cell::Boolean,
        Some(Kind::Json) => Cell::Json,
        Some(_) => Cell::Bare,
    };
    let key = format!("{}:", serde_json::Value::from(name.as_str()));
    Column { name, key: key.into_bytes(), cell }
}

/// The record as a JSON object.
fn object(line: &str, fields: &[Field], columns: &[Column], json: &mut Vec<u8>) -> Result<(), Refusal> {
    if fields.len() != columns.len() {
        let detail = format!("expected the {} fields of the header, found {}", columns.len(), fields.len());
        return Err(Refusal::of(Reason::NotOneObject, detail));
    }
    json.clear();
    json.push(b'{');
    for (field, column) in fields.iter().zip(columns) {
        let written = &line[field.range.clone()];
        if column.cell == Cell::Ignored || (written.is_empty() && !field.quoted) {
            continue;
        }
        if json.len() > 1 {
            json.push(b',');
        }
        json.extend_from_slice(&column.key);
        let text = unquoted(written, field.quoted);
        match token(&text, column.cell) {
            Some(token) => json.extend_from_slice(token.as_bytes()),
            None if column.cell == Cell::Json => {
                return Err(Refusal::at(Reason::WrongType, &column.name, "expected a JSON value, found other text"));
            }
            // a text where another type belongs is for the decoder to refuse; writing to memory cannot fail
            None => drop(serde_json::to_writer(&mut *json, &*text)),
        }
    }
    json.push(b'}');
    Ok(())
}

/// The cell in JSON's spelling, if it is to be read so and can be.
fn token(text: &str, cell: Cell) -> Option<&str> {
    let text = text.trim_ascii();
    match (cell, text) {
        (Cell::Text | Cell::Ignored, _) => None,
        (Cell::Boolean, "True" | "TRUE") => Some("true"),
        (Cell::Boolean, "False" | "FALSE") => Some("false"),
        // a word, and not the absence of a value
        (Cell::Bare | Cell::Boolean, "null") => None,
        _ => serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get),
    }
}

/// The JSON object of a line that was kept as a reject, with the header and the delimiter of its file.
///
/// # Errors
/// The line is no row under that header, now as then.
pub(super) fn reread(line: &[u8], header: &str, delimiter: u8, pipeline: &Pipeline) -> Result<Vec<u8>, Refusal> {
    let (mut fields, mut json) = (Vec::new(), Vec::new());
    scan(header.as_bytes(), delimiter, true, &mut fields);
    let name = |field: &Field| unquoted(&header[field.range.clone()], field.quoted).into_owned();
    let columns: Vec<Column> = fields.iter().map(|field| column(name(field), pipeline)).collect();
    let text = std::str::from_utf8(line).map_err(not_utf8)?;
    match scan(line, delimiter, true, &mut fields) {
        Scan::Record { length, .. } if length == line.len() => object(text, &fields, &columns, &mut json)?,
        Scan::Broken(why) => return Err(Refusal::of(Reason::NotOneObject, why)),
        _ => return Err(Refusal::of(Reason::NotOneObject, "the line is more than one row")),
    }
    Ok(json)
}

fn not_utf8(error: std::str::Utf8Error) -> Refusal {
    Refusal::of(Reason::NotUtf8, format!("the line is not UTF-8 at byte {}", error.valid_up_to()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("7", Cell::Bare, Some("7"))]
    #[case(" 7 ", Cell::Bare, Some("7"))]
    #[case("007", Cell::Bare, None)]
    #[case("null", Cell::Bare, None)]
    #[case("null", Cell::Json, Some("null"))]
    #[case("True", Cell::Boolean, Some("true"))]
    #[case("True", Cell::Bare, None)]
    #[case("1,\"id\":2", Cell::Bare, None)]
    #[case("7", Cell::Text, None)]
    fn tokens(#[case] text: &str, #[case] cell: Cell, #[case] expected: Option<&str>) {
        assert_eq!(token(text, cell), expected);
    }
}

//! The only file that prints. stdout is data, stderr is talk.
//!
//! A reader that goes away (`| head`) is success: broken pipes are ignored.

use crate::args::Format;
use deltaworks_jobs::engine::{self, Rows};
use deltaworks_jobs::{Class, Error, Result, Stage};
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::path::Path;

/// Writes data to stdout.
pub fn data(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a line of data to stdout.
pub fn line(text: &str) {
    // nobody is left to hear of a failure
    let _ = data(format!("{text}\n").as_bytes());
}

/// Says something to the person at the terminal.
pub fn talk(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes the rows of a query in the format asked for, to stdout or a file.
///
/// # Errors
/// If the query fails midway or the file cannot be written.
pub async fn rows(rows: Rows, format: Format, file: Option<&Path>) -> Result<()> {
    let format = match format {
        Format::Table => engine::Format::Table,
        Format::Json => engine::Format::Json,
        Format::Csv => engine::Format::Csv,
        Format::Parquet => engine::Format::Parquet,
        Format::Arrow => engine::Format::Arrow,
    };
    match file {
        Some(path) => {
            let cannot =
                |e| Error::new(Stage::Query, Class::User, format!("`{}` cannot be written", path.display())).because(e);
            let out = std::fs::File::create(path).map_err(cannot)?;
            engine::write(rows, format, io::BufWriter::new(out)).await?;
        }
        None => {
            engine::write(rows, format, io::stdout()).await?;
        }
    }
    Ok(())
}

/// Writes records as a table for people, JSON lines or CSV, with these columns in this order.
///
/// # Errors
/// If the format has no sense for a handful of records.
pub fn records<T: Serialize>(records: &[T], columns: &[&str], format: Format) -> Result<()> {
    let values: Vec<Map<String, Value>> = records
        .iter()
        .filter_map(|r| match serde_json::to_value(r) {
            Ok(Value::Object(map)) => Some(map),
            _ => None,
        })
        .collect();
    match format {
        Format::Json => values.iter().for_each(|v| line(&Value::Object(v.clone()).to_string())),
        Format::Csv | Format::Table => {
            let cells = values
                .iter()
                .map(|v| columns.iter().map(|n| v.get(*n).map_or(String::new(), cell)).collect::<Vec<_>>());
            if format == Format::Csv {
                line(&columns.join(","));
                cells.for_each(|row| line(&row.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(",")));
            } else {
                let mut table = comfy_table::Table::new();
                table.load_preset(comfy_table::presets::UTF8_FULL_CONDENSED).set_header(columns).add_rows(cells);
                line(&table.to_string());
            }
        }
        Format::Parquet | Format::Arrow => {
            let message = "this command prints table, json or csv";
            return Err(
                Error::new(Stage::Query, Class::User, message).hint("`deltaworks query` writes Parquet and Arrow")
            );
        }
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

//! Rows out of files into a pipeline's raw table, through its contract, each once.
//!
//! ```text
//!   pattern ─> listing (frozen: size, tag, hash) ─> plan
//!   plan ─> bytes ─> jsonl │ csv │ typed (Parquet, Avro) ─(messages)─> parts ─(rows, rejects)─> fill ─> rejects, then raw
//!           store    unpack, cut, check the frame          decode by the contract
//! ```
//!
//! A row of a file is a message for the pipeline's decoder: the line of a JSONL file as it is, and the row of any other
//! format as the JSON object that it stands for. So rules, reasons and ids are those of landing. Its place is (URL, −1,
//! number of the row from 0); progress is the number of files that are wholly in raw, in the frozen order.
//!
//! A file has no message around its rows: no key, no headers, no Kafka time. A column that is taken from one of these
//! is read from the field of its own name; topic, partition and offset are those of the place. An event time that is
//! Kafka's cannot be had, and is refused before anything is read.

// in flow order
pub mod format;

pub mod listing;

mod fit;

mod bytes;

mod source;

mod jsonl;

mod csv;
mod csv_record;

mod typed;

mod json_values;

mod parts;

pub mod run;

#[cfg(test)]
mod tests;

pub use format::{Compression, Format, Reading};
pub use listing::{Earlier, FilesPlan, FilesSpec, FrozenFile, plan, reading};
pub use run::{FilesReport, FilesRun};
pub use source::reread;

//! Reads the files of one event date, each once, with a number for every row.
//!
//! Decides the numbers: files in the order of their paths, rows in the order of the file. So the ids and
//! the values of a row meet again under its number, whoever reads the file in which thread.
//!
//! Invariant N1: a file has as many rows as the log says, or reading it is an error.

use super::columns::conform;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{LiveFile, Table};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use deltaworks_core::units::Pin;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use jiff::civil::Date;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

/// Items that a task in the background may be ahead.
const AHEAD: usize = 2;

/// The live files of one event date.
#[derive(Debug, Clone)]
pub struct DateFiles {
    /// Rows in all of them.
    pub rows: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    files: Vec<NumberedFile>,
}

#[derive(Debug, Clone)]
struct NumberedFile {
    /// The number of its first row.
    first: u32,
    rows: u32,
    file: Arc<LiveFile>,
}

/// Rows in a row, by number.
#[derive(Debug, Clone)]
pub struct Numbered {
    /// Number of the first.
    pub first: u32,
    /// The rows.
    pub batch: RecordBatch,
}

/// Rows as they come; an error ends them.
pub type NumberedBatches = BoxStream<'static, Result<Numbered>>;

impl DateFiles {
    /// The files of `date`, in any order.
    ///
    /// # Errors
    /// [`Class::Internal`] if a file has no `numRecords`, or the date more rows than can be numbered.
    pub fn new(date: Date, mut files: Vec<LiveFile>) -> Result<Self> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut whole = Self { rows: 0, bytes: 0, files: Vec::with_capacity(files.len()) };
        for file in files {
            let wrong = |what: &str| {
                Error::new(Stage::Batch, Class::Internal, format!("file `{}` of {date}: {what}", file.path))
            };
            let rows = file.rows.ok_or_else(|| wrong("the log does not say how many rows it has"))?;
            let too_many = || wrong("the date has more than 4 billion rows");
            let first = u32::try_from(whole.rows).map_err(|_| too_many())?;
            whole.rows += rows;
            whole.bytes += file.size;
            if whole.rows > u64::from(u32::MAX) {
                return Err(too_many());
            }
            let rows = u32::try_from(rows).map_err(|_| too_many())?;
            whole.files.push(NumberedFile { first, rows, file: Arc::new(file) });
        }
        Ok(whole)
    }

    /// The files that may hold rows that `last` does not contain, numbered as they are here; `now` contains
    /// all rows. What the statistics do not know, they may.
    #[must_use]
    pub fn newer_than(&self, last: &Pin, now: &Pin) -> Self {
        let first_new = first_new_offset(last, now);
        self.only(|file| {
            !file.is_all_null("_fill") || file.bounds_of("_offset").is_none_or(|(_, greatest)| greatest >= first_new)
        })
    }

    /// Those of the files that pass, numbered as they are here.
    #[must_use]
    pub fn only(&self, passes: impl Fn(&LiveFile) -> bool) -> Self {
        Self { files: self.files.iter().filter(|f| passes(&f.file)).cloned().collect(), ..self.clone() }
    }

    /// Bytes of the files that are here, which may be some of the date's.
    #[must_use]
    pub fn bytes_of_files(&self) -> u64 {
        self.files.iter().map(|f| f.file.size).sum()
    }

    /// How many files there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.files.len()
    }

    /// The rows with the columns of `wanted`, in at most `parts` streams of about equal size that may be
    /// read at the same time.
    #[must_use]
    pub fn read(&self, table: &Table, wanted: &SchemaRef, parts: usize) -> Vec<NumberedBatches> {
        let mut dealt: Vec<(u64, Vec<NumberedFile>)> = vec![(0, Vec::new()); parts.clamp(1, self.files.len().max(1))];
        let mut by_size = self.files.clone();
        by_size.sort_by_key(|f| std::cmp::Reverse(f.file.size));
        for file in by_size {
            if let Some((bytes, files)) = dealt.iter_mut().min_by_key(|(bytes, _)| *bytes) {
                *bytes += file.file.size;
                files.push(file);
            }
        }
        dealt.into_iter().map(|(_, files)| read_files(table.clone(), wanted.clone(), files)).collect()
    }
}

/// The least offset that a row of `now` and not of `last` can have, in whatever partition.
fn first_new_offset(last: &Pin, now: &Pin) -> i64 {
    let gained = now.next.iter().flat_map(|(topic, partitions)| {
        let before = last.next.get(topic);
        partitions.iter().filter_map(move |(partition, next)| {
            let before = before.and_then(|p| p.get(partition)).map_or(0, |next| next.0);
            (before < next.0).then_some(before)
        })
    });
    gained.min().unwrap_or(i64::MAX)
}

/// The items of `stream`, made by a task of its own that stays a little ahead of whoever takes them.
pub fn in_background<T: Send + 'static>(mut stream: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Some(item) = stream.next().await {
            if sender.send(item).await.is_err() {
                break;
            }
        }
    });
    let items = futures::stream::unfold((receiver, task), |(mut receiver, mut task)| async move {
        if let Some(item) = receiver.recv().await {
            return Some((item, (receiver, task)));
        }
        // a task that broke down is no end
        let broken = task.join_next().await.and_then(Result::err)?;
        Some((Err(broke_down(broken)), (receiver, task)))
    });
    items.boxed()
}

/// The error of a task that broke down.
pub fn broke_down(error: JoinError) -> Error {
    Error::new(Stage::Batch, Class::Internal, "a task that reads rows broke down").because(error)
}

fn read_files(table: Table, wanted: SchemaRef, files: Vec<NumberedFile>) -> NumberedBatches {
    let opened = futures::stream::iter(files).then(move |file| {
        let (table, wanted) = (table.clone(), wanted.clone());
        async move { read_file(&table, wanted, file).await }
    });
    opened.try_flatten().boxed()
}

async fn read_file(table: &Table, wanted: SchemaRef, file: NumberedFile) -> Result<NumberedBatches> {
    let columns: Vec<&str> = wanted.fields().iter().map(|f| f.name().as_str()).collect();
    let batches = table.read_file(&file.file, &columns).await?;
    let read =
        futures::stream::try_unfold((batches, 0_u64, file, wanted), |(mut batches, at, file, wanted)| async move {
            let expected = u64::from(file.rows);
            let Some(batch) = batches.next().await.transpose()? else {
                return if at == expected { Ok(None) } else { Err(miscounted(&file, at)) };
            };
            let next = at + batch.num_rows() as u64;
            if next > expected {
                return Err(miscounted(&file, next));
            }
            let batch = conform(&batch, &file.file.partition_values, &wanted)?;
            // both are within what `DateFiles::new` has numbered
            let first = file.first + at as u32;
            Ok(Some((Numbered { first, batch }, (batches, next, file, wanted))))
        });
    Ok(read.boxed())
}

fn miscounted(file: &NumberedFile, rows: u64) -> Error {
    let message = format!("file `{}` has {rows} rows, the log says {}", file.file.path, file.rows);
    Error::new(Stage::Batch, Class::Internal, message).hint("the raw table was written by another tool, or is damaged")
}

//! States of windows that are still open, from one date of a computation to the next.
//!
//! With one bucket of keys they stay in memory, one state per window and key. With several, memory was too
//! small for all keys: then each bucket's states wait in a temporary file, as they came, until the first of
//! their windows ends.

use crate::engine::aggregate::{Bucket, Definition, States};
use crate::error::{Class, Error, Result, Stage};
use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use deltaworks_core::windows::{Granularity, Instant};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};

/// Open windows of one aggregate.
#[derive(Debug, Default)]
pub struct Carried {
    open: BTreeMap<(Granularity, u32), Open>,
}

#[derive(Debug)]
enum Open {
    Held(States),
    Filed(Filed),
}

/// States in a file, one Arrow stream after the other.
#[derive(Debug)]
struct Filed {
    file: BufWriter<File>,
    /// Of each stream, how many batches each part has.
    streams: Vec<Vec<usize>>,
    first_start: Instant,
}

impl Carried {
    /// Takes the states of a date in; those of windows that start before `open_from` have ended.
    ///
    /// # Errors
    /// As [`Definition::merge`]; [`Class::Outside`] if a temporary file cannot be used.
    pub async fn advance(
        &mut self,
        definition: &Definition,
        (granularity, bucket): (Granularity, Bucket),
        now: Option<States>,
        open_from: Instant,
    ) -> Result<Option<States>> {
        let key = (granularity, bucket.index);
        let before = match self.open.remove(&key) {
            // nothing of it ends: what is new joins it as it is
            Some(Open::Filed(filed)) if filed.first_start >= open_from => {
                let (ended, open) = now.map(|now| now.split(open_from)).transpose()?.unzip();
                let filed = open.into_iter().try_fold(filed, Filed::append)?;
                self.open.insert(key, Open::Filed(filed));
                return Ok(ended.filter(|ended| !ended.is_empty()));
            }
            Some(Open::Filed(filed)) => Some(definition.merge(filed.read()?).await?),
            Some(Open::Held(states)) => Some(states),
            None => None,
        };
        let all = match (before, now) {
            (None, None) => return Ok(None),
            (Some(one), None) | (None, Some(one)) => one,
            (Some(before), Some(now)) => definition.merge([before, now]).await?,
        };
        let (ended, open) = all.split(open_from)?;
        if !open.is_empty() {
            let open = if bucket == Bucket::ALL { Open::Held(open) } else { Open::Filed(Filed::of(open)?) };
            self.open.insert(key, open);
        }
        Ok(Some(ended).filter(|ended| !ended.is_empty()))
    }

    /// Lets go of all.
    pub fn clear(&mut self) {
        self.open.clear();
    }
}

impl Filed {
    fn of(states: States) -> Result<Self> {
        // nameless: the system frees it, however this process ends
        let file = BufWriter::new(tempfile::tempfile().map_err(unusable)?);
        Self { file, streams: Vec::new(), first_start: Instant(i64::MAX) }.append(states)
    }

    fn append(mut self, states: States) -> Result<Self> {
        let (Some(first), Some(start)) = (states.batches().next(), states.first_start()) else { return Ok(self) };
        let mut writer = StreamWriter::try_new(&mut self.file, &first.schema()).map_err(unusable)?;
        states.batches().try_for_each(|batch| writer.write(batch)).map_err(unusable)?;
        writer.finish().map_err(unusable)?;
        self.streams.push(states.parts().iter().map(Vec::len).collect());
        self.first_start = self.first_start.min(start);
        Ok(self)
    }

    /// All states, as they were appended.
    fn read(mut self) -> Result<Vec<States>> {
        self.file.flush().map_err(unusable)?;
        let mut file = self.file.into_inner().map_err(|e| unusable(e.into_error()))?;
        file.rewind().map_err(unusable)?;
        let mut file = BufReader::new(file);
        self.streams.iter().map(|parts| read_one(&mut file, parts)).collect()
    }
}

fn read_one(file: &mut BufReader<File>, parts: &[usize]) -> Result<States> {
    let mut batches = StreamReader::try_new(file, None).map_err(unusable)?;
    let parts = parts.iter().map(|count| batches.by_ref().take(*count).collect::<Result<Vec<RecordBatch>, _>>());
    let parts = parts.collect::<Result<_, _>>().map_err(unusable)?;
    // reads the end of this stream, after which the next one begins
    match batches.next() {
        None => Ok(States::of_parts(parts)),
        Some(_) => {
            Err(Error::new(Stage::Batch, Class::Internal, "a temporary file holds more states than were written"))
        }
    }
}

fn unusable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Stage::Batch, Class::Outside, "a temporary file for states cannot be used")
        .because(error)
        .hint("`TMPDIR` names the folder for temporary files")
}

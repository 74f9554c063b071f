//! Freezes what a backfill will read: which files, in which order, with which content.
//!
//! Each file is read once, to its end: for its hash, and to find out before anything is landed that it is whole and of
//! its format. A broken file that has landed in part is a mess: its rows are known by its name, and its mended copy
//! would need another one.
//!
//! Invariants: P1 equal content comes once, under whatever name, within a listing and over all backfills of a pipeline;
//! P2 a name that was read before has the same content as then. What has no rows is equal to nothing.

use super::bytes::Source;
use super::fit;
use super::format::{Compression, Format, Reading};
use super::source::{self, RowBatch};
use super::typed::count_avro;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::files::{FileFacts, FilePattern, Files};
use crate::lake::{Lake, Table};
use crate::land::tables::raw_name;
use crate::project::settings::{Pipeline, Settings};
use deltaworks_core::progress::AppIds;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

/// Files that are looked at side by side.
const LOOKS_MAX: usize = 4;
/// Least and greatest bytes of one request.
const PIECE_BYTES: (u64, u64) = (256 << 10, 4 << 20);

/// One file of a frozen listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenFile {
    /// What its store said of it.
    #[serde(flatten)]
    pub facts: FileFacts,
    /// BLAKE3 of its bytes as they are stored, in hex.
    pub blake3: String,
    /// How its rows are written.
    pub format: Format,
    /// What is around it.
    pub compression: Compression,
    /// Whether it has any row.
    pub has_rows: bool,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesSpec {
    /// The pipeline that is filled.
    pub pipeline: String,
    /// Paths, folders, globs, URLs.
    pub from: Vec<String>,
    /// How the files are read.
    pub reading: Reading,
}

/// What a backfill from files will do: frozen when it is made, kept with it, and enough to go on from anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesPlan {
    /// What was asked for.
    #[serde(flatten)]
    pub spec: FilesSpec,
    /// In the order in which they are read: by URL.
    pub files: Vec<FrozenFile>,
}

/// Another backfill from files of the same pipeline.
#[derive(Debug, Clone, Copy)]
pub struct Earlier<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its plan.
    pub plan: &'a FilesPlan,
    /// Whether it may still go on; a finished or cancelled one may not.
    pub open: bool,
}

impl FilesPlan {
    /// Bytes of all files as they are stored.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.facts.size).sum()
    }
}

/// The reading for a pipeline, where the user says nothing else.
#[must_use]
pub fn reading(pipeline: &Pipeline) -> Reading {
    Reading { format: None, delimiter: None, timezone: None, row_bytes_max: pipeline.message_bytes_max }
}

/// Finds the files of `from` (each a path, a folder, a glob, a URL), looks at each, and freezes them. Writes nothing.
///
/// # Errors
/// [`Class::User`] if there is none; if one is broken or of no known format; if two are equal, or one is equal to what
/// an earlier backfill has read; if one is of the lake's own tables; if the pipeline's event time is Kafka's. [`Class::InputLost`] if one changes meanwhile.
/// Else the store does not answer.
pub async fn plan(
    lake: &Lake,
    settings: &Settings,
    pipeline: &Arc<Pipeline>,
    from: &[String],
    reading: &Reading,
    earlier: &[Earlier<'_>],
) -> Result<FilesPlan> {
    fit::check(pipeline)?;
    source::zone(reading)?;
    let mut found = BTreeMap::new();
    for typed in from {
        let listed = lake.find_files(&FilePattern::new(typed, &settings.dir)?).await?;
        if listed.is_empty() {
            return Err(user(format!("no file matches `{typed}`")).hint(
                "names that begin with `_` or `.` are left out; quote a glob, so that the shell leaves it alone",
            ));
        }
        if let Some(own) = listed.iter().find(|facts| lake.has_in_a_table(&facts.url)) {
            return Err(user(format!("`{}` belongs to a table of the lake", own.url))
                .hint("its rows are there already; export them elsewhere to take them into another pipeline"));
        }
        found.extend(listed.into_iter().map(|facts| (facts.url.clone(), facts)));
    }
    let piece_bytes = piece_bytes(settings);
    let looks = found.into_values().map(|facts| look(lake, pipeline, reading, facts, piece_bytes));
    let files: Vec<FrozenFile> = futures::stream::iter(looks).buffered(LOOKS_MAX).try_collect().await?;
    let spec = FilesSpec { pipeline: pipeline.name.clone(), from: from.to_vec(), reading: reading.clone() };
    let plan = FilesPlan { spec, files };
    let raw = lake.open_table(&raw_name(pipeline)).await?;
    refuse_equals(&plan, &read_before(raw.as_ref(), pipeline, earlier))?;
    Ok(plan)
}

/// Bytes of one request, out of the memory there is.
pub(super) fn piece_bytes(settings: &Settings) -> u64 {
    (settings.memory_bytes as u64 / 64).clamp(PIECE_BYTES.0, PIECE_BYTES.1)
}

/// The store in which a file lies.
pub(super) fn files_of(lake: &Lake, url: &str) -> Result<Files> {
    let parsed = url::Url::parse(url).map_err(|e| user(format!("`{url}` is no URL")).because(e))?;
    lake.files(&parsed)
}

/// Reads a file to its end: its hash, whether it is whole, and whether it has rows.
async fn look(
    lake: &Lake,
    pipeline: &Arc<Pipeline>,
    reading: &Reading,
    facts: FileFacts,
    piece_bytes: u64,
) -> Result<FrozenFile> {
    let (format, compression) = reading.of(&facts.url)?;
    let source = Source::new(files_of(lake, &facts.url)?, facts.clone(), None, piece_bytes);
    let (pipeline, reading) = (pipeline.clone(), reading.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let blake3 = hash_whole(&source, format, compression).map_err(|e| source.broken(e))?;
        let mut file = FrozenFile { facts, blake3, format, compression, has_rows: false };
        let mut opened = source::open(&source, &file, &pipeline, &reading)?;
        let mut batch = RowBatch::default();
        while opened.rows.fill(&mut batch)? && batch.chunk.messages.is_empty() {}
        file.has_rows = !batch.chunk.messages.is_empty();
        Ok(file)
    });
    let broken = |e| Error::new(Stage::Fill, Class::Internal, "looking at a file broke down").because(e);
    looked.await.map_err(broken)?
}

/// Reads all bytes, through what is packed around them, and gives their hash.
fn hash_whole(source: &Source, format: Format, compression: Compression) -> io::Result<String> {
    let mut stream = source.stream();
    let mut unpacked: Box<dyn Read + '_> = match (format, compression) {
        (Format::Avro, _) => {
            count_avro(&mut stream)?;
            return stream.hash();
        }
        (_, Compression::None) => return stream.hash(),
        (_, Compression::Gzip) => Box::new(flate2::read::MultiGzDecoder::new(&mut stream)),
        (_, Compression::Zstd) => Box::new(zstd::stream::read::Decoder::new(&mut stream)?),
    };
    io::copy(&mut unpacked, &mut io::sink())?;
    drop(unpacked);
    stream.hash()
}

/// What was read before, or may still be: its hash and name, and the backfill.
fn read_before<'a>(
    raw: Option<&Table>,
    pipeline: &Pipeline,
    earlier: &[Earlier<'a>],
) -> Vec<(&'a FrozenFile, &'a str)> {
    let ids = AppIds::new(&pipeline.name);
    let mut read = Vec::new();
    for earlier in earlier.iter().filter(|earlier| earlier.plan.spec.pipeline == pipeline.name) {
        let done = raw.and_then(|raw| raw.txns().get(&ids.backfill(earlier.id)));
        // some rows of the one after those that are done may be there too
        let begun = usize::try_from(done.copied().unwrap_or(0)).unwrap_or(0).saturating_add(1);
        let count = if earlier.open { earlier.plan.files.len() } else { begun };
        read.extend(earlier.plan.files.iter().take(count).map(|file| (file, earlier.id)));
    }
    read
}

fn refuse_equals(plan: &FilesPlan, before: &[(&FrozenFile, &str)]) -> Result<()> {
    let mut by_hash: BTreeMap<&str, (&str, Option<&str>)> = BTreeMap::new();
    let mut by_url: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for (file, id) in before.iter().filter(|(file, _)| file.has_rows) {
        by_hash.insert(&file.blake3, (&file.facts.url, Some(id)));
        by_url.insert(&file.facts.url, (&file.blake3, id));
    }
    for file in plan.files.iter().filter(|file| file.has_rows) {
        let url = file.facts.url.as_str();
        if let Some((hash, id)) = by_url.get(url)
            && *hash != file.blake3
        {
            return Err(user(format!("`{url}` had other content when backfill {id} read it"))
                .hint("give the new content a new name: rows of a file are known by its name and their number"));
        }
        match by_hash.get(file.blake3.as_str()) {
            Some((other, id)) if *other != url => {
                let whose = id.map_or_else(|| "in the same listing".to_owned(), |id| format!("of backfill {id}"));
                return Err(user(format!("`{url}` has the same content as `{other}` {whose}"))
                    .hint("its rows would be there twice; leave one of the two out"));
            }
            Some(_) => {}
            None => drop(by_hash.insert(&file.blake3, (url, None))),
        }
    }
    Ok(())
}

fn user(message: String) -> Error {
    Error::new(Stage::Fill, Class::User, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn listing(files: &[(&str, &str)]) -> FilesPlan {
        let file = |(url, hash): &(&str, &str)| FrozenFile {
            facts: FileFacts { url: (*url).into(), size: 1, etag: None, version: None, modified_ms: 0 },
            blake3: (*hash).into(),
            format: Format::Jsonl,
            compression: Compression::None,
            has_rows: *hash != "empty",
        };
        let reading = Reading { format: None, delimiter: None, timezone: None, row_bytes_max: 1 };
        FilesPlan {
            spec: FilesSpec { pipeline: "p".into(), from: vec![], reading },
            files: files.iter().map(file).collect(),
        }
    }

    #[rstest]
    #[case(&[("a", "1"), ("b", "2")], &[], None)]
    #[case(&[("a", "1"), ("b", "1")], &[], Some("`b` has the same content as `a` in the same listing"))]
    #[case(&[("a", "empty"), ("b", "empty")], &[("c", "empty")], None)]
    #[case(&[("a", "1")], &[("b", "1")], Some("`a` has the same content as `b` of backfill x"))]
    #[case(&[("a", "1")], &[("a", "1")], None)]
    #[case(&[("a", "2")], &[("a", "1")], Some("`a` had other content when backfill x read it"))]
    #[case(&[("a", "1"), ("b", "1")], &[("a", "1")], Some("`b` has the same content as `a` of backfill x"))]
    fn equal_content_comes_once(
        #[case] files: &[(&str, &str)],
        #[case] before: &[(&str, &str)],
        #[case] expected: Option<&str>,
    ) {
        let before = listing(before);
        let before: Vec<_> = before.files.iter().map(|file| (file, "x")).collect();
        let refused = refuse_equals(&listing(files), &before).err();
        assert_eq!(refused.as_ref().map(|e| e.message.as_str()), expected);
    }
}

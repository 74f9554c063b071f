//! Files beside the tables: found by a pattern, described so that a change is seen, and read in pieces.
//!
//! What was listed ([`FileFacts`]) is the promise: [`Files::read`] gives bytes of that file or an error, never those
//! of what has taken its place. Reading is repeated where the store stumbles; listing too.
//!
//! Invariants: L1 a listing is in the order of URLs, each once; L2 no piece is given out of a file whose size or tag
//! is not the one listed.

use super::{Lake, store};
use crate::project::lake_url::plain;
use crate::{Class, Error, Result, Stage};
use bytes::Bytes;
use deltalake::logstore::object_store::{self, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _, path::Path};
use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::path::Path as LocalPath;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Times that one request is tried.
const ATTEMPTS_MAX: u32 = 6;
/// First pause between attempts; doubles.
const PAUSE: Duration = Duration::from_millis(50);
/// More files than this are not listed at once.
pub const FILES_MAX: usize = 100_000;

/// A file as its store described it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Where it is.
    pub url: String,
    /// Bytes.
    pub size: u64,
    /// The store's tag of this content, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The store's version of it, if it keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When it was last written, ms since the Unix epoch, floored to the second, by the store's clock.
    pub modified_ms: i64,
}

/// Files of one store: a bucket, the local disk, the memory of a lake.
#[derive(Debug, Clone)]
pub struct Files {
    store: Arc<dyn ObjectStore>,
    /// URL of the store's root.
    root: Url,
}

/// What files are looked for: one file, all below a folder, or those that a glob matches.
#[derive(Debug, Clone)]
pub struct FilePattern {
    root: Url,
    /// Path below the root, plain text.
    path: String,
}

impl FilePattern {
    /// Reads `typed`: a URL, or a path; a path that is not absolute begins at `dir`.
    ///
    /// # Errors
    /// A message that says what is wrong with it.
    pub fn new(typed: &str, dir: &LocalPath) -> Result<Self> {
        let user = |what: &str| Error::new(Stage::Lake, Class::User, format!("`{typed}`: {what}"));
        let scheme = typed.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
        let (root, path) = match scheme.as_ref().map(|(scheme, rest)| (scheme.as_str(), *rest)) {
            None => ("file:///".to_owned(), absolute(&dir.join(typed)).ok_or_else(|| user("it is no UTF-8 path"))?),
            Some((scheme @ ("file" | "memory"), rest)) if rest.starts_with('/') => {
                (format!("{scheme}:///"), rest.to_owned())
            }
            Some((scheme @ ("s3" | "s3a"), rest)) => {
                let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
                (format!("{scheme}://{bucket}/"), path.to_owned())
            }
            Some(_) => {
                return Err(user("it is in no store that is known here")
                    .hint("use a path, or a `file:///`, `s3://` or `memory:///` URL"));
            }
        };
        let root = Url::parse(&root).map_err(|e| user("it is no URL").because(e))?;
        let plain = if scheme.is_some() { Path::from_url_path(&path) } else { Path::parse(&path) };
        let path = plain.map_err(|e| user("its path cannot be used").because(e))?.to_string();
        if path.is_empty() {
            return Err(user("it names a whole store").hint("name a file, a folder or a glob in it"));
        }
        Ok(Self { root, path })
    }

    fn is_glob(&self) -> bool {
        self.path.contains(['*', '?', '['])
    }

    /// The folders before the first that has a wildcard; without one, everything.
    fn folder(&self) -> String {
        let plain = self.path.split('/').take_while(|part| !part.contains(['*', '?', '[']));
        plain.collect::<Vec<_>>().join("/")
    }
}

impl Lake {
    /// The files of the store in which a URL lies, by the lake's storage options.
    ///
    /// # Errors
    /// [`Class::User`] if there is no such store.
    pub fn files(&self, of: &Url) -> Result<Files> {
        let mut root = of.clone();
        root.set_path("/");
        Ok(Files { store: store::elsewhere(&self.root, &root)?, root })
    }

    /// Whether the file of this URL lies in the folder of a table.
    #[must_use]
    pub fn has_in_a_table(&self, url: &str) -> bool {
        let below = url.strip_prefix(self.url().as_str()).and_then(|rest| rest.strip_prefix('/'));
        below.and_then(|rest| rest.split_once('/')).is_some_and(|(layer, _)| super::LAYERS.contains(&layer))
    }

    /// The files that `pattern` names: the one file, all below that folder, or what the glob matches. Names that
    /// begin with `_` or `.` are left out unless they are named in full: other tools keep their own notes there.
    ///
    /// # Errors
    /// The store cannot be listed; [`Class::User`] for a glob that is none, and for more than [`FILES_MAX`] files.
    pub async fn find_files(&self, pattern: &FilePattern) -> Result<Vec<FileFacts>> {
        let files = self.files(&pattern.root)?;
        if !pattern.is_glob()
            && let Some(one) = files.head(&files.url_of(&pattern.path)?).await?
        {
            return Ok(vec![one]);
        }
        let shown = files.url_of(&pattern.folder())?;
        let user = |what: String| Error::new(Stage::Lake, Class::User, what);
        let glob =
            Pattern::new(&pattern.path).map_err(|e| user(format!("`{}` is no glob: {}", pattern.path, e.msg)))?;
        let literal =
            MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
        let folder = pattern.folder();
        let listed = again(&format!("cannot list `{shown}`"), || files.list(&folder)).await?;
        let mut found = BTreeMap::new();
        for meta in listed {
            let path = meta.location.as_ref();
            let below = path.strip_prefix(&folder).unwrap_or(path);
            let hidden = below.split('/').any(|part| part.starts_with(['_', '.']));
            if !hidden && !is_folder(&meta) && (!pattern.is_glob() || glob.matches_with(path, literal)) {
                let facts = files.facts(&meta)?;
                found.insert(facts.url.clone(), facts);
            }
        }
        if found.len() > FILES_MAX {
            let message = format!("{} files below `{shown}`, at most {FILES_MAX} are taken at once", found.len());
            return Err(user(message).hint("take them in several runs, folder by folder"));
        }
        Ok(found.into_values().collect())
    }
}

impl Files {
    /// What the store says of a file; `None` if it is not there.
    ///
    /// # Errors
    /// The store does not answer, or refuses.
    pub async fn head(&self, url: &str) -> Result<Option<FileFacts>> {
        let path = self.path_of(url)?;
        let what = format!("cannot look at `{url}`");
        let found = again(&what, || async {
            match self.store.head(&path).await {
                Ok(meta) => Ok(Some(meta)),
                Err(e) if is_gone(&e) => Ok(None),
                Err(e) => Err(e),
            }
        });
        found.await?.map(|meta| self.facts(&meta)).transpose()
    }

    /// Bytes of a listed file.
    ///
    /// # Errors
    /// [`Class::InputLost`] if it is gone, or is no longer the file that was listed; else the store does not answer.
    pub async fn read(&self, file: &FileFacts, range: Range<u64>) -> Result<Bytes> {
        let path = self.path_of(&file.url)?;
        let what = format!("cannot read `{}`", file.url);
        let found = again(&what, || async {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            match self.store.get_opts(&path, options).await {
                Ok(found) if self.is_same(file, &found.meta) => found.bytes().await.map(Found::Bytes),
                Ok(_) => Ok(Found::Changed),
                Err(e) if is_gone(&e) => Ok(Found::Gone),
                // a file that has become shorter may not have the range
                Err(e) => match self.store.head(&path).await {
                    Ok(meta) if !self.is_same(file, &meta) => Ok(Found::Changed),
                    _ => Err(e),
                },
            }
        });
        match found.await? {
            Found::Bytes(bytes) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
            Found::Bytes(_) | Found::Changed => Err(changed(&file.url)),
            Found::Gone => Err(gone(&file.url)),
        }
    }

    /// Writes a file, as somebody else would.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(crate) async fn put(&self, url: &str, bytes: Vec<u8>) {
        self.store.put(&self.path_of(url).unwrap(), bytes.into()).await.unwrap();
    }

    fn is_same(&self, file: &FileFacts, meta: &ObjectMeta) -> bool {
        meta.size == file.size && (file.etag.is_none() || file.etag == meta.e_tag)
    }

    async fn list(&self, folder: &str) -> object_store::Result<Vec<ObjectMeta>> {
        let folder = Path::parse(folder)?;
        let mut listed = self.store.list(Some(&folder));
        let mut found = Vec::new();
        loop {
            match listed.try_next().await {
                Ok(Some(meta)) => found.push(meta),
                Ok(None) => return Ok(found),
                Err(e) if is_gone(&e) => return Ok(found),
                Err(e) => return Err(e),
            }
        }
    }

    fn facts(&self, meta: &ObjectMeta) -> Result<FileFacts> {
        Ok(FileFacts {
            url: self.url_of(meta.location.as_ref())?,
            size: meta.size,
            etag: meta.e_tag.clone(),
            version: meta.version.clone(),
            // S3 lists milliseconds, and says whole seconds of one file
            modified_ms: meta.last_modified.timestamp() * 1_000,
        })
    }

    fn url_of(&self, path: &str) -> Result<String> {
        let mut url = self.root.clone();
        let broken = || Error::new(Stage::Lake, Class::Internal, format!("`{}` cannot have paths", self.root));
        url.path_segments_mut().map_err(|()| broken())?.clear().extend(path.split('/'));
        Ok(url.into())
    }

    fn path_of(&self, url: &str) -> Result<Path> {
        let broken = || Error::new(Stage::Lake, Class::User, format!("`{url}` is no URL of a file"));
        let parsed = Url::parse(url).map_err(|e| broken().because(e))?;
        Path::from_url_path(parsed.path()).map_err(|e| broken().because(e))
    }
}

enum Found {
    Bytes(Bytes),
    Changed,
    Gone,
}

/// The file is not the one that was listed.
#[must_use]
pub fn changed(url: &str) -> Error {
    Error::new(Stage::Lake, Class::InputLost, format!("`{url}` has changed since it was listed"))
        .hint("put the listed file back and resume; or cancel, and give the new content a new name: rows of a file are known by its name and their number")
}

/// The file is not there any more.
#[must_use]
pub fn gone(url: &str) -> Error {
    Error::new(Stage::Lake, Class::InputLost, format!("`{url}` is gone since it was listed"))
        .hint("put it back and resume, or cancel and list anew")
}

/// Asks, and asks again where the store stumbles.
async fn again<T, F: Future<Output = object_store::Result<T>>>(what: &str, ask: impl Fn() -> F) -> Result<T> {
    let mut attempt = 1;
    loop {
        match ask().await {
            Err(e) if attempt < ATTEMPTS_MAX && !is_gone(&e) && matches!(e, object_store::Error::Generic { .. }) => {
                tracing::debug!(what, attempt, error = %e, "ask again");
                tokio::time::sleep(PAUSE * 2u32.pow(attempt)).await;
                attempt += 1;
            }
            done => return done.map_err(|e| store::error(what, e)),
        }
    }
}

/// Some stores keep an empty object where a folder is.
fn is_folder(meta: &ObjectMeta) -> bool {
    meta.size == 0 && meta.location.filename().is_none_or(|name| !name.contains('.'))
}

/// The local disk also says so of a path that leads through a file.
fn is_gone(e: &object_store::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(error) = source {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::NotADirectory) {
            return true;
        }
        source = error.source();
    }
    matches!(e, object_store::Error::NotFound { .. })
}

/// A path from the root, without `.` and `..`; `None` if it is not UTF-8.
fn absolute(path: &LocalPath) -> Option<String> {
    plain(path).to_str().map(str::to_owned)
}

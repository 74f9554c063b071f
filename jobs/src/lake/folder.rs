//! A folder of any store that is no lake: whole objects, by paths below it.

use super::Witness;
use super::store::{self, Root};
use crate::project::settings::{LakeSettings, Options};
use crate::{Class, Error, Result, Stage};
use bytes::Bytes;
use deltalake::logstore::object_store::{self, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, path::Path};
use futures::{StreamExt, TryStreamExt};
use std::fmt;

/// A folder. Cheap to clone.
#[derive(Clone)]
pub struct Folder {
    root: Root,
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder").field("url", &self.root.url.as_str()).finish_non_exhaustive()
    }
}

impl Folder {
    /// Opens a `file:`, `s3:` or `memory:` URL with the options of a store; a local folder is made.
    ///
    /// # Errors
    /// [`Class::User`] if the URL or an option cannot be used. Nothing is asked of a remote store yet.
    pub fn open(typed: &str, storage: &Options) -> Result<Self> {
        let user = || {
            Error::new(Stage::Lake, Class::User, "the folder's URL cannot be used")
                .hint("write `file:///an/absolute/path` or `s3://bucket/path`; keys go under `lake.storage`")
        };
        let mut url: url::Url = typed.parse().map_err(|_| user())?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if !is_plain || url.fragment().is_some() {
            return Err(user());
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self { root: store::open(&LakeSettings { url, storage: storage.clone(), witness: Witness::default() })? })
    }

    /// The URL, without trailing slash.
    #[must_use]
    pub const fn url(&self) -> &url::Url {
        &self.root.url
    }

    /// Puts an object, in place of one that may be there.
    ///
    /// # Errors
    /// The store fails.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        let put = self.root.store.put(&self.at(path)?, bytes.into()).await;
        put.map(drop).map_err(|e| self.failed("write", path, e))
    }

    /// An object; `None` if there is none.
    ///
    /// # Errors
    /// The store fails.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let found = match self.root.store.get(&self.at(path)?).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(|e| self.failed("read", path, e))?,
        };
        found.bytes().await.map(Some).map_err(|e| self.failed("read", path, e))
    }

    /// The objects below `path`, in order, by their paths below the folder.
    ///
    /// # Errors
    /// The store fails.
    pub async fn list(&self, path: &str) -> Result<Vec<String>> {
        let below = self.at(path)?;
        let listed = self.root.store.list(Some(&below)).try_collect::<Vec<ObjectMeta>>().await;
        let listed = listed.map_err(|e| self.failed("list", path, e))?;
        let paths = listed.into_iter().filter_map(|meta| {
            let parts = meta.location.prefix_match(&self.root.prefix)?;
            Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
        });
        let mut paths: Vec<String> = paths.collect();
        paths.sort();
        Ok(paths)
    }

    /// Deletes an object; one that is gone already is no error.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let one = futures::stream::iter([Ok(self.at(path)?)]).boxed();
        match self.root.store.delete_stream(one).try_collect::<Vec<_>>().await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed("delete", path, e)),
        }
    }

    fn at(&self, path: &str) -> Result<Path> {
        Path::parse(format!("{}/{path}", self.root.prefix))
            .map_err(|e| Error::new(Stage::Lake, Class::Internal, format!("`{path}` is no path")).because(e))
    }

    fn failed(&self, what: &str, path: &str, e: object_store::Error) -> Error {
        store::error(format!("cannot {what} `{path}` below `{}`", self.root.url), e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_come_and_go() {
        let folder = Folder::open("memory:///a/b", &Options::default()).unwrap();
        folder.put("d=1/x", Bytes::from_static(b"one")).await.unwrap();
        folder.put("d=1/x", Bytes::from_static(b"two")).await.unwrap();
        folder.put("d=2/y", Bytes::from_static(b"three")).await.unwrap();
        assert_eq!(folder.get("d=1/x").await.unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(folder.list("d=1").await.unwrap(), ["d=1/x"]);
        folder.delete("d=1/x").await.unwrap();
        folder.delete("d=1/x").await.unwrap();
        assert_eq!((folder.get("d=1/x").await.unwrap(), folder.list("d=1").await.unwrap().len()), (None, 0));
    }

    #[test]
    fn a_url_with_a_key_in_it_is_refused_and_not_repeated() {
        for typed in ["s3://who:secret@bucket/x", "s3://bucket/x?secret=1", "secret", "ftp://host/secret"] {
            let error = Folder::open(typed, &Options::default()).unwrap_err();
            assert_eq!(error.class, Class::User);
        }
        let error = Folder::open("s3://who:secret@bucket/x", &Options::default()).unwrap_err();
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}

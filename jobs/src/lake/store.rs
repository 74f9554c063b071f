//! From the lake's URL to an object store, and from the store's errors to ours.
//!
//! The store is rooted at the bucket (or at `/`), the lake is a prefix in it, because that is how
//! delta-rs addresses tables too. S3 commits go by conditional put; no other way is ever configured.

use crate::project::settings::{LakeSettings, Options};
use crate::{Class, Error, Result, Stage};
use deltalake::logstore::object_store::{
    self, ObjectStore, aws::AmazonS3Builder, local::LocalFileSystem, memory::InMemory, path::Path,
};
use std::sync::Arc;
use url::Url;

/// A store and the lake's prefix in it.
#[derive(Debug, Clone)]
pub(super) struct Root {
    /// Rooted at the bucket, or at `/`.
    pub store: Arc<dyn ObjectStore>,
    /// The lake.
    pub prefix: Path,
    /// The lake's URL, without trailing slash.
    pub url: Url,
    /// Options of the store.
    pub storage: Options,
}

/// Opens the store of `settings`; a local lake folder is created.
pub(super) fn open(settings: &LakeSettings) -> Result<Root> {
    let url = settings.url.clone();
    let user = |message: String| Error::new(Stage::Lake, Class::User, message);
    let prefix = Path::from_url_path(url.path())
        .map_err(|e| user(format!("the path of the lake `{url}` cannot be used")).because(e))?;
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "file" => {
            let folder = url
                .to_file_path()
                .map_err(|()| user(format!("`{url}` is no local folder")).hint("write `file:///an/absolute/path`"))?;
            std::fs::create_dir_all(&folder)
                .map_err(|e| user(format!("cannot create the lake folder `{}`", folder.display())).because(e))?;
            Arc::new(LocalFileSystem::new())
        }
        "memory" => Arc::new(InMemory::new()),
        "s3" | "s3a" => Arc::new(open_s3(&url, &settings.storage)?),
        other => {
            return Err(
                user(format!("the lake's scheme `{other}` is not known")).hint("use a `file:`, `s3:` or `memory:` URL")
            );
        }
    };
    Ok(Root { store, prefix, url, storage: settings.storage.clone() })
}

/// The store of another URL, rooted as the lake's is; with the lake's options, and the same one if it lies there.
pub(super) fn elsewhere(lake: &Root, url: &Url) -> Result<Arc<dyn ObjectStore>> {
    if url.scheme() == lake.url.scheme() && url.host_str() == lake.url.host_str() {
        return Ok(lake.store.clone());
    }
    match url.scheme() {
        "file" => Ok(Arc::new(LocalFileSystem::new())),
        "s3" | "s3a" => Ok(Arc::new(open_s3(url, &lake.storage)?)),
        "memory" => Err(Error::new(Stage::Lake, Class::User, format!("`{url}` is not there: the lake is elsewhere"))
            .hint("what is in memory lives as long as its lake")),
        other => Err(Error::new(Stage::Lake, Class::User, format!("the scheme `{other}` is not known"))
            .hint("use a `file:`, `s3:` or `memory:` URL, or a path")),
    }
}

fn open_s3(url: &Url, storage: &Options) -> Result<object_store::aws::AmazonS3> {
    let user = |message: String| Error::new(Stage::Lake, Class::User, message);
    let mut builder = AmazonS3Builder::from_env().with_url(url.as_str());
    for (name, value) in &storage.0 {
        let key = name
            .to_ascii_lowercase()
            .parse()
            .map_err(|e| user(format!("storage option `{name}` is not known to object_store")).because(Box::new(e)))?;
        builder = builder.with_config(key, value);
    }
    builder.build().map_err(|e| user(format!("cannot set up the store of `{url}`")).because(e))
}

/// Turns a store's error into ours. `what` says what was tried, with its place.
pub(super) fn error(what: impl Into<String>, source: object_store::Error) -> Error {
    use object_store::Error as E;
    let what = what.into();
    let (class, hint) = match &source {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            (Class::User, Some("check the credentials under `lake.storage` and the rights on the bucket or folder"))
        }
        E::UnknownConfigurationKey { .. } => (Class::User, Some("see object_store's option names")),
        E::InvalidPath { .. } | E::NotSupported { .. } | E::NotImplemented { .. } => (Class::Internal, None),
        _ => (Class::Outside, None),
    };
    let error = Error::new(Stage::Lake, class, what).because(source);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

//! Faults of an object store, scripted: a decorator for tests of every stage that commits.
//!
//! Each [`Fault`] hits the requests that match, after some have passed, a number of times; its
//! [`FaultCount`] tells how often it fired, so that a test can assert that it did.

use async_trait::async_trait;
use deltalake::logstore::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write is never sent; the answer is an error that says nothing.
    DropPut,
    /// A write is performed; the answer is an error that says nothing.
    LoseReply,
    /// A write is performed; the answer is that the object was there already, as after a repeated
    /// request.
    AnswerTaken,
    /// A write is performed after a pause.
    DelayPut(Duration),
    /// A read is never sent; the answer is an error.
    FailRead,
    /// A listing is never sent; the answer is an error.
    FailList,
    /// A listing from an offset on leaves out its last object but one, as if that was made meanwhile.
    MissEntry,
}

impl Fault {
    const fn kind(self) -> Kind {
        match self {
            Self::DropPut | Self::LoseReply | Self::AnswerTaken | Self::DelayPut(_) => Kind::Put,
            Self::FailRead => Kind::Read,
            Self::FailList | Self::MissEntry => Kind::List,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Read,
    List,
}

/// How often a fault met a matching request, and fired.
#[derive(Debug, Clone, Default)]
pub struct FaultCount {
    met: Arc<AtomicUsize>,
    fired: Arc<AtomicUsize>,
}

impl FaultCount {
    /// Requests that matched.
    #[must_use]
    pub fn met(&self) -> usize {
        self.met.load(Ordering::SeqCst)
    }
    /// Requests that were hit.
    #[must_use]
    pub fn fired(&self) -> usize {
        self.fired.load(Ordering::SeqCst)
    }
}

struct Rule {
    fault: Fault,
    matches: Box<dyn Fn(&Path) -> bool + Send + Sync>,
    skip: usize,
    times: usize,
    count: FaultCount,
}

/// A script of faults.
#[derive(Default)]
pub struct Script {
    rules: Vec<Rule>,
}

impl Script {
    /// Nothing goes wrong.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault: of the requests of its kind whose path matches, `skip` pass and the next `times`
    /// are hit. The first rule that hits a request is the only one.
    pub fn add(
        &mut self,
        fault: Fault,
        matches: impl Fn(&Path) -> bool + Send + Sync + 'static,
        skip: usize,
        times: usize,
    ) -> FaultCount {
        let count = FaultCount::default();
        self.rules.push(Rule { fault, matches: Box::new(matches), skip, times, count: count.clone() });
        count
    }

    /// Wraps a store; fits [`super::Lake::with_store_decorator`].
    #[must_use]
    pub fn wrap(self, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(FaultyStore { inner, rules: self.rules })
    }
}

/// Matches commit files of the tables whose path contains `table` (`raw/events`).
pub fn commits_of(table: &'static str) -> impl Fn(&Path) -> bool + Send + Sync + 'static {
    move |path| {
        let path = path.as_ref();
        path.contains(table) && path.contains("/_delta_log/") && path.ends_with(".json")
    }
}

/// Matches data files of the tables whose path contains `table`.
pub fn data_files_of(table: &'static str) -> impl Fn(&Path) -> bool + Send + Sync + 'static {
    move |path| {
        let path = path.as_ref();
        path.contains(table) && !path.contains("/_delta_log/") && path.ends_with(".parquet")
    }
}

/// An object store with a script of faults.
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    rules: Vec<Rule>,
}

impl FaultyStore {
    fn hit(&self, kind: Kind, path: &Path) -> Option<Fault> {
        self.rules.iter().filter(|rule| rule.fault.kind() == kind && (rule.matches)(path)).find_map(|rule| {
            let met = rule.count.met.fetch_add(1, Ordering::SeqCst);
            let fires = (rule.skip..rule.skip.saturating_add(rule.times)).contains(&met);
            fires.then(|| {
                rule.count.fired.fetch_add(1, Ordering::SeqCst);
                rule.fault
            })
        })
    }
}

async fn without_last_but_one(
    listed: BoxStream<'static, Result<ObjectMeta>>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let mut listed: Vec<Result<ObjectMeta>> = listed.collect().await;
    listed.sort_by_key(|meta| meta.as_ref().map(|meta| meta.location.clone()).ok());
    if let Some(at) = listed.len().checked_sub(2) {
        drop(listed.remove(at));
    }
    futures::stream::iter(listed).boxed()
}

fn lost(path: &Path, what: &str) -> Error {
    Error::Generic { store: "FaultyStore", source: format!("{what} of `{path}`").into() }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match self.hit(Kind::Put, location) {
            Some(Fault::DropPut) => Err(lost(location, "the request")),
            Some(Fault::LoseReply) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(lost(location, "the reply"))
            }
            Some(Fault::AnswerTaken) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(Error::AlreadyExists { path: location.to_string(), source: "a repeated request".into() })
            }
            Some(Fault::DelayPut(pause)) => {
                tokio::time::sleep(pause).await;
                self.inner.put_opts(location, payload, opts).await
            }
            _ => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        match self.hit(Kind::Put, location) {
            Some(Fault::DelayPut(pause)) => tokio::time::sleep(pause).await,
            Some(_) => return Err(lost(location, "the request")),
            None => {}
        }
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.hit(Kind::Read, location) {
            Some(_) => Err(lost(location, "the read")),
            None => self.inner.get_opts(location, options).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        match self.hit(Kind::List, &path) {
            Some(_) => futures::stream::iter([Err(lost(&path, "the listing"))]).boxed(),
            None => self.inner.list(prefix),
        }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        let listed = self.inner.list_with_offset(prefix, offset);
        match self.hit(Kind::List, &path) {
            Some(Fault::MissEntry) => futures::stream::once(without_last_but_one(listed)).flatten().boxed(),
            Some(_) => futures::stream::iter([Err(lost(&path, "the listing"))]).boxed(),
            None => listed,
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        match self.hit(Kind::List, &path) {
            Some(_) => Err(lost(&path, "the listing")),
            None => self.inner.list_with_delimiter(prefix).await,
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

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
use tokio::sync::Semaphore;

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
    /// A write is performed once it is let through: [`FaultCount::let_one_through`].
    HoldPut,
    /// A read is never sent; the answer is an error.
    FailRead,
    /// A read is performed once it is let through: [`FaultCount::let_one_through`].
    HoldRead,
    /// A listing is never sent; the answer is an error.
    FailList,
    /// A listing of a log from an offset on leaves out its last file but one, as if that was made meanwhile.
    MissEntry,
    /// A listing of a log from an offset on leaves out its last file, as if it was taken before that was made.
    StaleList,
}

impl Fault {
    const fn kind(self) -> Kind {
        match self {
            Self::DropPut | Self::LoseReply | Self::AnswerTaken | Self::DelayPut(_) | Self::HoldPut => Kind::Put,
            Self::FailRead | Self::HoldRead => Kind::Read,
            Self::FailList | Self::MissEntry | Self::StaleList => Kind::List,
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
#[derive(Debug, Clone)]
pub struct FaultCount {
    met: Arc<AtomicUsize>,
    fired: Arc<AtomicUsize>,
    passes: Arc<Semaphore>,
}

impl Default for FaultCount {
    fn default() -> Self {
        Self { met: Arc::default(), fired: Arc::default(), passes: Arc::new(Semaphore::new(0)) }
    }
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
    /// Waits until so many requests were hit.
    pub async fn until_fired(&self, times: usize) {
        while self.fired() < times {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    /// Lets one request through that is held, now or later.
    pub fn let_one_through(&self) {
        self.passes.add_permits(1);
    }
    async fn hold(&self) {
        if let Ok(pass) = self.passes.acquire().await {
            pass.forget();
        }
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
    fn hit(&self, kind: Kind, path: &Path) -> Option<(Fault, FaultCount)> {
        self.rules.iter().filter(|rule| rule.fault.kind() == kind && (rule.matches)(path)).find_map(|rule| {
            let met = rule.count.met.fetch_add(1, Ordering::SeqCst);
            let fires = (rule.skip..rule.skip.saturating_add(rule.times)).contains(&met);
            fires.then(|| {
                rule.count.fired.fetch_add(1, Ordering::SeqCst);
                (rule.fault, rule.count.clone())
            })
        })
    }
}

/// Without the numbered file that has `after` others behind it; where there is none, nothing was hit.
async fn without(
    listed: BoxStream<'static, Result<ObjectMeta>>,
    after: usize,
    count: FaultCount,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let is_numbered = |path: &Path| path.filename().is_some_and(|name| name.starts_with(|c: char| c.is_ascii_digit()));
    let mut listed: Vec<Result<ObjectMeta>> = listed.collect().await;
    listed.sort_by_key(|meta| meta.as_ref().map(|meta| meta.location.clone()).ok());
    let numbered = |meta: &Result<ObjectMeta>| meta.as_ref().is_ok_and(|meta| is_numbered(&meta.location));
    let mut from_the_end = (0..listed.len()).rev().filter(|at| listed.get(*at).is_some_and(numbered));
    match from_the_end.nth(after) {
        Some(at) => drop(listed.remove(at)),
        None => drop(count.fired.fetch_sub(1, Ordering::SeqCst)),
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
            Some((Fault::DropPut, _)) => Err(lost(location, "the request")),
            Some((Fault::LoseReply, _)) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(lost(location, "the reply"))
            }
            Some((Fault::AnswerTaken, _)) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(Error::AlreadyExists { path: location.to_string(), source: "a repeated request".into() })
            }
            Some((Fault::DelayPut(pause), _)) => {
                tokio::time::sleep(pause).await;
                self.inner.put_opts(location, payload, opts).await
            }
            Some((Fault::HoldPut, count)) => {
                count.hold().await;
                self.inner.put_opts(location, payload, opts).await
            }
            _ => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        match self.hit(Kind::Put, location) {
            Some((Fault::DelayPut(pause), _)) => tokio::time::sleep(pause).await,
            Some((Fault::HoldPut, count)) => count.hold().await,
            Some(_) => return Err(lost(location, "the request")),
            None => {}
        }
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.hit(Kind::Read, location) {
            Some((Fault::HoldRead, count)) => count.hold().await,
            Some(_) => return Err(lost(location, "the read")),
            None => {}
        }
        self.inner.get_opts(location, options).await
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
            Some((Fault::MissEntry, count)) => futures::stream::once(without(listed, 1, count)).flatten().boxed(),
            Some((Fault::StaleList, count)) => futures::stream::once(without(listed, 0, count)).flatten().boxed(),
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

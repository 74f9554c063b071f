//! The store of a simulation: dated by the simulation's clock, and, for one step, deadly, interrupted, or watched.
//!
//! Faults that a store has by itself are those of [`crate::lake::faults`]. Here are the two that are not a store's: the
//! process dies at a request, and another process does something between two requests of this one.
//!
//! A process that died sends no request any more; what was in its memory is gone, since the next step begins with a lake
//! of its own. So from that request on every request is refused in a way that no job tries again, and has no effect. What
//! the dying job makes of the refusals is not looked at. To drop its future instead would leave its threads behind.

use async_trait::async_trait;
use deltalake::logstore::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};

/// Milliseconds since the Unix epoch, moved by the simulation.
pub type Now = Arc<AtomicI64>;

/// Dates every object by the simulation's clock.
#[derive(Debug)]
pub struct Dated {
    inner: Arc<dyn ObjectStore>,
    now: Now,
    written: Arc<Mutex<HashMap<Path, i64>>>,
}

/// When a step is interrupted: before its `at`-th commit (from 0) it says so, and waits until it is told to go on.
#[derive(Debug, Clone)]
pub struct Pause {
    /// Which commit.
    pub at: usize,
    /// Who is told; the answer lets the commit go on.
    pub tell: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

/// When a step's process dies.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    /// At which request, from 0.
    pub at: usize,
    /// Whether that request is still carried out.
    pub after: bool,
}

/// What was seen of one step's requests.
#[derive(Debug, Default)]
pub struct Seen {
    requests: AtomicUsize,
    commits: AtomicUsize,
    conflicts: AtomicUsize,
    dead: AtomicBool,
}

/// One step's way to the store.
pub struct Edge {
    inner: Arc<dyn ObjectStore>,
    seen: Arc<Seen>,
    death: Option<Death>,
    pause: Option<Pause>,
}

impl Seen {
    /// Requests of the step.
    pub fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }

    /// Commits that found another one in their place.
    pub fn conflicts(&self) -> usize {
        self.conflicts.load(SeqCst)
    }

    /// Whether the process died.
    pub fn is_dead(&self) -> bool {
        self.dead.load(SeqCst)
    }
}

impl Dated {
    /// A store whose objects are written now.
    pub fn wrap(inner: Arc<dyn ObjectStore>, now: &Now) -> Arc<dyn ObjectStore> {
        Arc::new(Self { inner, now: Arc::clone(now), written: Arc::default() })
    }

    fn wrote(&self, path: &Path) {
        lock(&self.written).insert(path.clone(), self.now.load(SeqCst));
    }
}

impl Edge {
    /// One step's way to a store.
    pub fn wrap(
        inner: Arc<dyn ObjectStore>,
        seen: &Arc<Seen>,
        death: Option<Death>,
        pause: Option<Pause>,
    ) -> Arc<dyn ObjectStore> {
        Arc::new(Self { inner, seen: Arc::clone(seen), death, pause })
    }

    /// Counts a request. Refuses it if the process is dead; `true` if it is the last one that is carried out.
    fn live(&self, path: &Path) -> Result<bool> {
        let number = self.seen.requests.fetch_add(1, SeqCst);
        let Some(death) = self.death else { return Ok(false) };
        if number < death.at {
            return Ok(false);
        }
        let was_dead = self.seen.dead.swap(true, SeqCst);
        if !was_dead && number == death.at && death.after { Ok(true) } else { Err(dead(path)) }
    }

    /// Waits before a commit while another process does something.
    async fn pause(&self) {
        let number = self.seen.commits.fetch_add(1, SeqCst);
        let Some(pause) = self.pause.as_ref().filter(|pause| pause.at == number) else { return };
        let (go, wait) = oneshot::channel();
        if pause.tell.send(go).is_ok() {
            // nobody answers where the step is no longer played
            let _ = wait.await;
        }
    }
}

fn is_commit(path: &Path) -> bool {
    let path = path.as_ref();
    path.contains("/_delta_log/") && path.ends_with(".json")
}

fn dead(path: &Path) -> Error {
    Error::PermissionDenied { path: path.to_string(), source: "the process is dead".into() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dated(written: &Mutex<HashMap<Path, i64>>, mut meta: ObjectMeta) -> ObjectMeta {
    if let Some(ms) = lock(written).get(&meta.location) {
        meta.last_modified = (UNIX_EPOCH + Duration::from_millis(u64::try_from(*ms).unwrap_or(0))).into();
    }
    meta
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("inner", &self.inner).field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Edge({})", self.inner)
    }
}

impl fmt::Display for Dated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dated({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Edge {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if is_commit(location) {
            self.pause().await;
        }
        let is_last = self.live(location)?;
        let put = self.inner.put_opts(location, payload, opts).await;
        if is_last {
            return Err(dead(location));
        }
        if is_commit(location) && matches!(put, Err(Error::AlreadyExists { .. } | Error::Precondition { .. })) {
            self.seen.conflicts.fetch_add(1, SeqCst);
        }
        put
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.live(location)?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.live(location)?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.live(&Path::default()) {
            Ok(_) => self.inner.delete_stream(locations),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.live(&prefix.cloned().unwrap_or_default()) {
            Ok(_) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.live(&prefix.cloned().unwrap_or_default()) {
            Ok(_) => self.inner.list_with_offset(prefix, offset),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.live(&prefix.cloned().unwrap_or_default())?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.live(to)?;
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl ObjectStore for Dated {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let put = self.inner.put_opts(location, payload, opts).await?;
        self.wrote(location);
        Ok(put)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.wrote(location);
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut got = self.inner.get_opts(location, options).await?;
        got.meta = dated(&self.written, got.meta);
        Ok(got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let written = Arc::clone(&self.written);
        self.inner.list(prefix).map(move |meta| meta.map(|meta| dated(&written, meta))).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let written = Arc::clone(&self.written);
        self.inner.list_with_offset(prefix, offset).map(move |meta| meta.map(|meta| dated(&written, meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.inner.list_with_delimiter(prefix).await?;
        let objects = listed.objects.into_iter().map(|meta| dated(&self.written, meta)).collect();
        Ok(ListResult { objects, ..listed })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.wrote(to);
        Ok(())
    }
}

//! Is the store fit for a lake: writable, and does it honour put-if-absent?
//!
//! A store that ignores `If-None-Match` lets two writers replace each other's commits in silence, so
//! this is asked of the store itself and not of its documentation. What is written is removed again.

use super::{Lake, lake_error, store};
use crate::{Class, Error, Result};
use deltalake::logstore::object_store::{self, ObjectStore as _, ObjectStoreExt as _, PutMode, path::Path};
use uuid::Uuid;

/// What the store said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreReport {
    /// The store's clock less ours, ms; stores give whole seconds.
    pub clock_skew_ms: i64,
}

impl Lake {
    /// Writes, writes again under the condition that nothing is there, reads, and removes.
    ///
    /// # Errors
    /// The store cannot be written, ignores the condition, or returns other bytes than were written.
    pub async fn check_store(&self) -> Result<StoreReport> {
        let path = self.root.prefix.clone().join(format!("_deltaworks_check_{}", Uuid::now_v7()));
        let report = self.try_store(&path).await;
        let removed = self.root.store.delete(&path).await;
        let report = report?;
        removed.map_err(|e| store::error(format!("cannot remove `{path}` after the check"), e))?;
        Ok(report)
    }

    async fn try_store(&self, path: &Path) -> Result<StoreReport> {
        let at = self.root.url.as_str();
        let failed = |what: &str, e: object_store::Error| -> Error { store::error(format!("cannot {what} `{at}`"), e) };
        let create = || self.root.store.put_opts(path, "first".into(), PutMode::Create.into());
        create().await.map_err(|e| failed("write to", e))?;
        let now_ms = self.now_ms();
        match self.root.store.put_opts(path, "second".into(), PutMode::Create.into()).await {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
            Ok(_) => {
                return Err(lake_error(Class::User, format!("the store of `{at}` ignores put-if-absent"))
                    .hint("two writers would lose rows: use a store that honours `If-None-Match: *`"));
            }
            Err(e) => return Err(failed("write under a condition to", e)),
        }
        let found = self.root.store.get(path).await.map_err(|e| failed("read from", e))?;
        let clock_skew_ms = found.meta.last_modified.timestamp_millis() - now_ms;
        let bytes = found.bytes().await.map_err(|e| failed("read from", e))?;
        if bytes.as_ref() != b"first" {
            return Err(lake_error(Class::User, format!("the store of `{at}` returned other bytes than were written")));
        }
        Ok(StoreReport { clock_skew_ms })
    }
}

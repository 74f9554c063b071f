//! The tables of a lake as a query sees them: `<layer>.<name>` is `<lake>/<layer>/<name>` if that
//! folder has a Delta log.
//!
//! Only tables that a query names are opened; the others are listed, by folder, when a name is wrong.

use super::sql::split_version;
use crate::error::{Class, Error, Result, Stage};
use crate::project::settings::LakeSettings;
use deltalake::datafusion::catalog::TableProvider;
use deltalake::datafusion::common::TableReference;
use deltalake::datafusion::execution::SessionState;
use deltalake::logstore::LogStoreRef;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError, ObjectStore, Path};
use futures::StreamExt;
use std::fmt;
use std::sync::Arc;
use url::Url;

/// How near a name must be to be offered instead, 0 to 1.
const NEAR: f64 = 0.7;

/// A table that a query names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Layer: `raw`, `rejects`, `ops`, …
    pub layer: String,
    /// Name in the layer.
    pub name: String,
    /// Version, if the query asks for one.
    pub version: Option<u64>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.layer, self.name)
    }
}

/// A lake, for reading.
pub struct Lake {
    settings: LakeSettings,
    root: LogStoreRef,
}

impl Lake {
    /// Looks at a lake; nothing is read yet.
    ///
    /// # Errors
    /// [`Class::User`] if the URL or a storage option is not understood.
    pub fn new(settings: &LakeSettings) -> Result<Self> {
        let root = builder(settings, settings.url.clone())
            .and_then(|b| b.build_storage())
            .map_err(|e| error(Class::User, format!("the lake `{}` cannot be used", settings.url)).because(e))?;
        Ok(Self { settings: settings.clone(), root })
    }

    /// The table that a reference names.
    ///
    /// # Errors
    /// [`Class::User`] if there is no such table; the hint has the nearest name, or all of them.
    pub async fn find(&self, reference: &TableReference) -> Result<Named> {
        let named = match reference {
            TableReference::Partial { schema, table } => {
                let (name, version) = split_version(table);
                Named { layer: schema.to_string(), name: name.to_owned(), version }
            }
            TableReference::Bare { .. } | TableReference::Full { .. } => return Err(self.unknown(reference).await),
        };
        if is_name(&named.layer) && is_name(&named.name) && self.has_log(&named.layer, &named.name).await? {
            Ok(named)
        } else {
            Err(self.unknown(&TableReference::partial(named.layer, named.name)).await)
        }
    }

    /// Opens a table for DataFusion.
    ///
    /// # Errors
    /// [`Class::User`] if the version does not exist; otherwise what the store or the log said.
    pub async fn open(&self, named: &Named, session: Arc<SessionState>) -> Result<Arc<dyn TableProvider>> {
        provider(&self.settings, named, session).await
    }

    /// All tables, in order.
    async fn known(&self) -> Result<Vec<String>> {
        let store = self.root.object_store(None);
        let mut tables = Vec::new();
        for layer in folders(&*store, None).await? {
            for table in folders(&*store, Some(&layer)).await? {
                if let (Some(layer), Some(name)) = (layer.filename(), table.filename())
                    && is_name(layer)
                    && is_name(name)
                    && self.has_log(layer, name).await?
                {
                    tables.push(format!("{layer}.{name}"));
                }
            }
        }
        tables.sort();
        Ok(tables)
    }

    async fn has_log(&self, layer: &str, name: &str) -> Result<bool> {
        let log = Path::from_iter([layer, name, "_delta_log"]);
        let first = self.root.object_store(None).list(Some(&log)).next().await.transpose();
        Ok(first.map_err(|e| outside(format!("cannot list `{log}`"), e))?.is_some())
    }

    async fn unknown(&self, reference: &TableReference) -> Error {
        let known = match self.known().await {
            Ok(known) => known,
            Err(error) => return error,
        };
        let wanted = reference.to_string();
        let unknown = error(Class::User, format!("there is no table `{wanted}` in `{}`", self.settings.url));
        if known.is_empty() {
            return unknown.hint("the lake has no tables yet; `deltaworks stream` lands a topic in one");
        }
        let all = known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        unknown.hint(match nearest(&wanted, &known) {
            Some(near) => format!("did you mean `{near}`? tables are {all}"),
            None => format!("tables are {all}"),
        })
    }
}

/// Opens one Delta table, at a version if one is asked for.
async fn provider(lake: &LakeSettings, named: &Named, session: Arc<SessionState>) -> Result<Arc<dyn TableProvider>> {
    let mut url = lake.url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().push(&named.layer).push(&named.name);
    }
    let mut table = builder(lake, url)
        .and_then(DeltaTableBuilder::build)
        .map_err(|e| error(Class::Internal, format!("cannot open `{named}`")).because(e))?;
    let loaded = match named.version {
        Some(version) => table.load_version(version).await,
        None => table.load().await,
    };
    if let Err(why) = loaded {
        return Err(unreadable(named, &mut table, why).await);
    }
    let provider = table.table_provider().with_session(session).await;
    provider.map_err(|e| error(Class::Internal, format!("cannot read `{named}`")).because(e))
}

/// Says why a table could not be loaded: a version that it never had is the user's to mend.
async fn unreadable(named: &Named, table: &mut DeltaTable, why: DeltaTableError) -> Error {
    let Some(version) = named.version else {
        return outside(format!("cannot read the log of `{named}`"), why);
    };
    match table.load().await.map(|()| table.version()) {
        Ok(Some(newest)) if newest < version => {
            error(Class::User, format!("`{named}` has no version {version}")).hint(format!("the newest is {newest}"))
        }
        Ok(Some(newest)) => error(Class::User, format!("version {version} of `{named}` can no longer be read"))
            .hint(format!("its log may have been cleaned up; the newest version is {newest}"))
            .because(why),
        Ok(None) | Err(_) => outside(format!("cannot read the log of `{named}`"), why),
    }
}

fn builder(lake: &LakeSettings, url: Url) -> Result<DeltaTableBuilder, DeltaTableError> {
    let options = lake.storage.0.clone().into_iter().collect();
    Ok(DeltaTableBuilder::from_url(url)?.with_storage_options(options))
}

async fn folders(store: &dyn ObjectStore, of: Option<&Path>) -> Result<Vec<Path>> {
    let listed = store.list_with_delimiter(of).await;
    Ok(listed.map_err(|e| outside("cannot list the lake", e))?.common_prefixes)
}

/// Whether a text can be a layer or a table: also what keeps a quoted name inside the lake.
fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

fn nearest<'k>(wanted: &str, known: &'k [String]) -> Option<&'k str> {
    let table = |name: &str| name.rsplit_once('.').map_or(name.to_owned(), |(_, table)| table.to_owned());
    let likeness = |k: &String| strsim::jaro_winkler(wanted, k).max(strsim::jaro_winkler(&table(wanted), &table(k)));
    known
        .iter()
        .map(|k| (likeness(k), k.as_str()))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

fn error(class: Class, message: impl Into<String>) -> Error {
    Error::new(Stage::Query, class, message)
}

fn outside(message: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    error(Class::Outside, message).because(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_also_without_its_layer() {
        let known = ["ops.offsets", "raw.camera_events", "rejects.camera_events"].map(String::from);
        assert_eq!(nearest("raw.camera_event", &known), Some("raw.camera_events"));
        assert_eq!(nearest("offsets", &known), Some("ops.offsets"));
        assert_eq!(nearest("xyz", &known), None);
    }

    #[test]
    fn a_quoted_name_cannot_leave_the_lake() {
        assert!(is_name("camera_events"));
        assert!(!is_name("../secret") && !is_name("a/b") && !is_name("a.b") && !is_name("a b"));
    }
}

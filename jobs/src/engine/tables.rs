//! The tables of a lake as a query sees them: `<layer>.<name>` is `<lake>/<layer>/<name>` if that
//! folder has a Delta log. `rejects.<pipeline>_current` is a view: the rejects, each with what became of it.
//!
//! Only tables that a query names are opened; the others are listed, by folder, when a name is wrong.

use super::query::engine_error;
use super::sql::split_version;
use crate::error::{Class, Error, Result, Stage};
use crate::lake::{Lake, TableName};
use crate::rejects::{CURRENT, Current, settled_schema};
use deltalake::datafusion::catalog::TableProvider;
use deltalake::datafusion::common::{Column, JoinType, TableReference};
use deltalake::datafusion::datasource::MemTable;
use deltalake::datafusion::execution::SessionState;
use deltalake::datafusion::logical_expr::Expr;
use deltalake::datafusion::prelude::SessionContext;
use std::fmt;
use std::sync::Arc;

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
    /// It is the view of this table's current state.
    pub view_of: Option<TableName>,
}

impl Named {
    fn table(&self) -> TableName {
        TableName::new(&self.layer, &self.name)
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.layer, self.name)
    }
}

/// The table that a reference names.
///
/// # Errors
/// [`Class::User`] if there is no such table; the hint has the nearest name, or all of them.
pub async fn find(lake: &Lake, reference: &TableReference) -> Result<Named> {
    let TableReference::Partial { schema, table } = reference else {
        return Err(unknown(lake, reference).await);
    };
    let (name, version) = split_version(table);
    let named = Named { layer: schema.to_string(), name: name.to_owned(), version, view_of: None };
    let is_known = is_name(&named.layer) && is_name(&named.name);
    if is_known && lake.has_table(&named.table()).await? {
        return Ok(named);
    }
    match named.name.strip_suffix(CURRENT).map(|of| TableName::new(&*named.layer, of)) {
        Some(of) if is_known && named.layer == "rejects" => {
            if !lake.has_table(&of).await? {
                return Err(unknown(lake, &TableReference::partial(of.layer, of.name)).await);
            }
            if named.version.is_some() {
                let message = format!("`{named}` is a view of the current state, and has no versions");
                return Err(Error::new(Stage::Query, Class::User, message).hint(format!(
                    "`{of} AS OF` reads the rejects as they were; `ops.resolutions` dates what became of them"
                )));
            }
            Ok(Named { view_of: Some(of), ..named })
        }
        _ => Err(unknown(lake, &TableReference::partial(named.layer, named.name)).await),
    }
}

/// Opens a table for DataFusion.
///
/// # Errors
/// [`Class::User`] if the version does not exist; otherwise what the store or the log said.
pub async fn open(
    lake: &Lake,
    named: &Named,
    context: &SessionContext,
    session: Arc<SessionState>,
) -> Result<Arc<dyn TableProvider>> {
    match &named.view_of {
        Some(of) => current(lake, of, context, session).await,
        None => lake.provider(&named.table(), named.version, session).await,
    }
}

/// The rejects with what became of each: `resolution` is null while one is open, and `because`, `fill`,
/// `resolved_run` and `resolved_at` say more where somebody did.
async fn current(
    lake: &Lake,
    rejects: &TableName,
    context: &SessionContext,
    session: Arc<SessionState>,
) -> Result<Arc<dyn TableProvider>> {
    let settled = match Current::load(lake, &rejects.name).await? {
        Some(current) => current.settled().await?,
        None => Vec::new(),
    };
    let settled = MemTable::try_new(settled_schema(), vec![settled]).map_err(engine_error)?;
    let settled = context.read_table(Arc::new(settled)).map_err(engine_error)?;
    let settled = settled.alias("settled").map_err(engine_error)?;
    let all = context.read_table(lake.provider(rejects, None, session).await?).map_err(engine_error)?;
    let names: Vec<String> = all.schema().fields().iter().map(|field| field.name().clone()).collect();
    let all = all.alias("rejects").map_err(engine_error)?;
    let column = |table: &str, name: &str| Expr::Column(Column::new(Some(table), name));
    let on = [("_topic", "settled_topic"), ("_partition", "settled_partition"), ("_offset", "settled_offset")];
    let on = on.map(|(of, is)| column("rejects", of).eq(column("settled", is)));
    let joined = all.join_on(settled, JoinType::Left, on).map_err(engine_error)?;
    let kept = names.iter().filter(|name| *name != "resolution").map(|name| column("rejects", name).alias(name));
    let said = ["resolution", "because", "fill", "resolved_run", "resolved_at"];
    let shown: Vec<Expr> = kept.chain(said.map(|name| column("settled", name).alias(name))).collect();
    Ok(joined.select(shown).map_err(engine_error)?.into_view())
}

async fn unknown(lake: &Lake, reference: &TableReference) -> Error {
    let known: Vec<String> = match lake.list_tables().await {
        Ok(known) => known.iter().map(ToString::to_string).collect(),
        Err(error) => return error,
    };
    let wanted = reference.to_string();
    let unknown = Error::new(Stage::Query, Class::User, format!("there is no table `{wanted}` in `{}`", lake.url()));
    if known.is_empty() {
        return unknown.hint("the lake has no tables yet; `deltaworks stream` lands a topic in one");
    }
    let all = known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
    unknown.hint(match nearest(&wanted, &known) {
        Some(near) => format!("did you mean `{near}`? tables are {all}"),
        None => format!("tables are {all}"),
    })
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

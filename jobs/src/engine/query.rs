//! Plans and runs one query.
//!
//! The tables that the SQL names are opened, each at one snapshot, before planning; a query
//! therefore sees one state of each table. Rows come as a stream; sorts, joins and groupings are
//! bounded by a memory pool and spill to the temporary folder beyond it.

use super::{sql, tables};
use crate::error::{Class, Error, Result, Stage};
use crate::lake::Lake;
use crate::project::settings::LakeSettings;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use deltalake::datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use deltalake::datafusion::common::TableReference;
use deltalake::datafusion::common::{DataFusionError, SchemaError};
use deltalake::datafusion::datasource::empty::EmptyTable;
use deltalake::datafusion::execution::SessionStateBuilder;
use deltalake::datafusion::execution::memory_pool::FairSpillPool;
use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use deltalake::datafusion::logical_expr::LogicalPlan;
use deltalake::datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use deltalake::datafusion::physical_plan::SendableRecordBatchStream;
use deltalake::datafusion::physical_plan::memory::MemoryStream;
use deltalake::datafusion::prelude::{DataFrame, SQLOptions, SessionConfig, SessionContext};
use deltalake::datafusion::sql::parser::Statement;
use futures::StreamExt;
use std::fmt;
use std::sync::Arc;

/// Memory for planning alone, bytes.
const PLANNING_BYTES: usize = 16 << 20;

/// The rows of a query, as they are computed.
pub struct Rows {
    stream: SendableRecordBatchStream,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("schema", &self.schema()).finish_non_exhaustive()
    }
}

impl Rows {
    /// Rows that are there already, all of this schema.
    ///
    /// # Errors
    /// [`Class::Internal`] if they are not.
    pub fn of(schema: SchemaRef, rows: Vec<RecordBatch>) -> Result<Self> {
        let stream = MemoryStream::try_new(rows, schema, None).map_err(engine_error)?;
        Ok(Self { stream: Box::pin(stream) })
    }

    /// Names and types of the columns.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }

    /// The next rows; `None` is the end.
    ///
    /// # Errors
    /// What went wrong while computing them; [`Class::User`] where the query is to blame.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.stream.next().await.transpose().map_err(engine_error)
    }

    /// The only row, whose values are numbers, yes or no (1 or 0), or null.
    ///
    /// # Errors
    /// What went wrong while computing it; [`Class::User`] if there is no row, or more than one, or a value that is
    /// no number.
    pub async fn numbers(mut self) -> Result<Vec<Option<f64>>> {
        let user = |message: &str| Error::new(Stage::Query, Class::User, message);
        let mut row: Option<RecordBatch> = None;
        while let Some(batch) = self.next().await? {
            if batch.num_rows() > 1 || (batch.num_rows() == 1 && row.is_some()) {
                return Err(user("the query has more than one row"));
            }
            row = Some(batch).filter(|batch| batch.num_rows() == 1).or(row);
        }
        let row = row.ok_or_else(|| user("the query has no row"))?;
        let number = |column: &ArrayRef| {
            let is_number = column.data_type().is_numeric() || matches!(column.data_type(), DataType::Boolean);
            let cast = cast(column, &DataType::Float64).ok().filter(|_| is_number || column.null_count() == 1);
            let cast = cast.ok_or_else(|| user("the query has a value that is no number"))?;
            let numbers = cast.as_primitive::<Float64Type>();
            Ok(numbers.is_valid(0).then(|| numbers.value(0)))
        };
        row.columns().iter().map(number).collect()
    }
}

/// Begins to run one SELECT over the tables of a lake, with a memory pool of `memory_bytes`.
///
/// # Errors
/// [`Class::User`] for SQL that is wrong, would write, or names what is not there.
pub async fn query(lake: &LakeSettings, sql: &str, memory_bytes: usize) -> Result<Rows> {
    let context = session(memory_bytes)?;
    run(&Lake::open(lake)?, &context, sql).await
}

/// Begins to run one SELECT over the lake's tables and over `view`, the rows of another SELECT over them.
///
/// # Errors
/// As [`query`].
pub async fn query_over(lake: &Lake, (name, view): (&str, &str), sql: &str, memory_bytes: usize) -> Result<Rows> {
    let context = session(memory_bytes)?;
    let plan = plan(lake, &context, view).await?;
    let view = DataFrame::new(context.state(), plan).into_view();
    context.register_table(TableReference::bare(name), view).map_err(engine_error)?;
    run(lake, &context, sql).await
}

/// Plans one SELECT over a table of this schema, and computes nothing. Tables of a lake that it names too are not looked
/// at: then nothing is known.
///
/// # Errors
/// [`Class::User`] for SQL that is wrong, would write, or names columns that are not there.
pub async fn plan_over((name, schema): (&str, SchemaRef), sql: &str) -> Result<()> {
    let context = session(PLANNING_BYTES)?;
    context.register_table(TableReference::bare(name), Arc::new(EmptyTable::new(schema))).map_err(engine_error)?;
    let statement = sql::parse(sql)?;
    let state = context.state();
    let references = state.resolve_table_references(&statement).map_err(engine_error)?;
    if references.iter().any(|reference| reference.schema().is_some()) {
        return Ok(());
    }
    state.statement_to_plan(statement).await.map(drop).map_err(engine_error)
}

async fn run(lake: &Lake, context: &SessionContext, sql: &str) -> Result<Rows> {
    let plan = plan(lake, context, sql).await?;
    let stream = DataFrame::new(context.state(), plan).execute_stream().await.map_err(engine_error)?;
    Ok(Rows { stream })
}

async fn plan(lake: &Lake, context: &SessionContext, sql: &str) -> Result<LogicalPlan> {
    let statement = sql::parse(sql)?;
    register_tables(lake, context, &statement).await?;
    let plan = context.state().statement_to_plan(statement).await.map_err(engine_error)?;
    let reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads.verify_plan(&plan).map_err(|_| sql::read_only(&plan.display().to_string()))?;
    Ok(plan)
}

/// A session whose results have the plain string and binary types that every reader of Parquet and
/// Arrow IPC knows.
fn session(memory_bytes: usize) -> Result<SessionContext> {
    let config = SessionConfig::new()
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false)
        .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
        .set_str("datafusion.execution.time_zone", "UTC");
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
        .build_arc()
        .map_err(engine_error)?;
    // a scan that delta-rs answers from the log alone says that it takes limits over, and does not: LIMIT would be lost
    let rules = PhysicalOptimizer::new().rules.into_iter().filter(|rule| rule.name() != "LimitPushdown");
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rules(rules.collect());
    Ok(SessionContext::new_with_state(state.build()))
}

async fn register_tables(lake: &Lake, context: &SessionContext, statement: &Statement) -> Result<()> {
    let state = Arc::new(context.state());
    for reference in state.resolve_table_references(statement).map_err(engine_error)? {
        let is_function = reference.schema().is_none() && state.table_functions().contains_key(reference.table());
        let is_view = reference.schema().is_none() && context.table_exist(reference.clone()).map_err(engine_error)?;
        if is_function || is_view {
            continue;
        }
        let named = tables::find(lake, &reference).await?;
        let provider = tables::open(lake, &named, context, Arc::clone(&state)).await?;
        layer(context, &reference)?.register_table(reference.table().to_owned(), provider).map_err(engine_error)?;
    }
    Ok(())
}

/// The schema that a reference is resolved in, made when it is first named.
fn layer(context: &SessionContext, reference: &TableReference) -> Result<Arc<dyn SchemaProvider>> {
    let catalog = context.catalog("datafusion");
    let (Some(catalog), Some(layer)) = (catalog, reference.schema()) else {
        return Err(Error::new(Stage::Query, Class::Internal, format!("no place to register `{reference}`")));
    };
    if let Some(schema) = catalog.schema(layer) {
        return Ok(schema);
    }
    let schema: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
    catalog.register_schema(layer, Arc::clone(&schema)).map_err(engine_error)?;
    Ok(schema)
}

/// Says who must act on what DataFusion reports.
pub(super) fn engine_error(error: DataFusionError) -> Error {
    if let Some(ours) = ours(&error) {
        return ours;
    }
    let new = |class, message: String| Error::new(Stage::Query, class, message);
    match error.find_root() {
        DataFusionError::SchemaError(schema, _) => schema_error(schema),
        DataFusionError::SQL(e, _) => new(Class::User, format!("not valid SQL: {e}")),
        DataFusionError::Plan(text) | DataFusionError::Configuration(text) => new(Class::User, one_line(text)),
        DataFusionError::NotImplemented(text) => new(Class::User, format!("not supported: {}", one_line(text))),
        DataFusionError::ResourcesExhausted(text) => {
            new(Class::User, format!("the query needs more memory than it may have: {}", one_line(text)))
                .hint("select fewer columns or dates, group by less, or raise the memory limit")
        }
        DataFusionError::Execution(text) => new(Class::User, one_line(text)),
        DataFusionError::ArrowError(e, _) => new(Class::User, format!("a value cannot be computed: {e}"))
            .hint("`TRY_CAST(x AS type)` gives null where a cast fails"),
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            new(Class::Outside, "the store failed while it was read".to_owned()).because(error)
        }
        _ => new(Class::Internal, "the query engine failed".to_owned()).because(error),
    }
}

/// An error of ours that went through DataFusion, which may have shared it among threads: so it is
/// written anew, its source as text.
fn ours(error: &DataFusionError) -> Option<Error> {
    let DataFusionError::External(inner) = error.find_root() else { return None };
    let inner = inner.downcast_ref::<Error>()?;
    let Error { stage, class, message, hint, .. } = inner;
    let because = inner.causes();
    let source = (!because.is_empty()).then(|| because.into());
    Some(Error { stage: *stage, class: *class, message: message.clone(), hint: hint.clone(), source })
}

fn schema_error(error: &SchemaError) -> Error {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        return Error::new(Stage::Query, Class::User, one_line(&error.to_string()));
    };
    let wanted = field.name();
    let unknown = Error::new(Stage::Query, Class::User, format!("there is no column `{}`", field.flat_name()));
    let mut names: Vec<&str> = valid_fields.iter().map(|f| f.name()).collect();
    names.dedup();
    let near = names
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), *name))
        .filter(|(likeness, _)| *likeness >= 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let all = names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    match near {
        Some((_, near)) => unknown.hint(format!("did you mean `{near}`? columns are {all}")),
        None if names.is_empty() => unknown,
        None => unknown.hint(format!("columns are {all}")),
    }
}

/// The first line: below it DataFusion prints plans and backtraces.
fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

//! The DataFusion session that aggregates are planned and run in.
//!
//! Rows must come out the same whatever the layout, so everything that could change them is fixed here:
//! the time zone, plain string types, our own functions over the built-in ones, and no way around the
//! partial half of an aggregation.

use super::compute::Bucket;
use super::scalars::{Bins, InBucket, PlainFloat, WindowStart};
use crate::engine::functions;
use crate::engine::query::engine_error;
use crate::error::Result;
use deltalake::datafusion::catalog::{
    CatalogProvider as _, CatalogProviderList as _, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider,
};
use deltalake::datafusion::execution::SessionState;
use deltalake::datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use deltalake::datafusion::execution::memory_pool::GreedyMemoryPool;
use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use deltalake::datafusion::execution::session_state::SessionStateBuilder;
use deltalake::datafusion::logical_expr::{AggregateUDF, Expr, ScalarUDF, lit};
use deltalake::datafusion::optimizer::Optimizer;
use deltalake::datafusion::prelude::{SessionConfig, SessionContext};
use std::fmt;
use std::sync::Arc;

/// Rules that are left out: they lose the names of columns when a nested field is in a join's condition.
/// Rules about aggregations need no care: no plan here has one, see [`super::halves`].
const DROPPED_RULES: [&str; 2] = ["extract_leaf_expressions", "push_down_leaf_projections"];

/// What a computation may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of hash tables, sorts and join sides; and as many again of states that are made. The process
    /// takes more: see the batch stage.
    pub memory_bytes: usize,
    /// Threads' worth of work at a time, at least 1.
    pub parallel: usize,
}

/// Plans and runs aggregates; cheap to clone.
#[derive(Clone)]
pub struct Session {
    pub(super) state: Arc<SessionState>,
    pub(super) parallel: usize,
    pub(super) memory_bytes: usize,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("parallel", &self.parallel).finish_non_exhaustive()
    }
}

impl Session {
    /// A session with our own functions.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn new(limits: &Limits) -> Result<Self> {
        Self::with_functions(limits, functions::all().into_iter().map(Arc::new).collect())
    }

    /// A session in which `functions` stand over the built-in ones of their names.
    pub(in crate::engine) fn with_functions(limits: &Limits, functions: Vec<Arc<AggregateUDF>>) -> Result<Self> {
        let parallel = limits.parallel.max(1);
        let config = SessionConfig::new()
            .with_target_partitions(parallel)
            .with_information_schema(false)
            .set_bool("datafusion.execution.parquet.schema_force_view_types", false)
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
            .set_bool("datafusion.sql_parser.collect_spans", true)
            .set_str("datafusion.execution.time_zone", "UTC")
            // above 1 the probe never skips: `percentile_cont` panics when it does, and states must be compact
            .set_str("datafusion.execution.skip_partial_aggregation_probe_ratio_threshold", "1.1");
        // nothing is spilled, since states of all keys would be held in the end: fewer keys at a time are the way out.
        // So nobody needs a fair share, and who needs much may have it
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let pool = Arc::new(GreedyMemoryPool::new(limits.memory_bytes));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).with_disk_manager_builder(disk);
        let rules = Optimizer::new().rules.into_iter().filter(|r| !DROPPED_RULES.contains(&r.name())).collect();
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime.build_arc().map_err(engine_error)?)
            .with_default_features()
            .with_optimizer_rules(rules)
            .build();
        for function in functions {
            register(&mut state, function)?;
        }
        Ok(Self { state: Arc::new(state), parallel, memory_bytes: limits.memory_bytes })
    }

    /// A context of its own, in which tables can be registered.
    pub(super) fn without_tables(&self) -> SessionContext {
        let names = &self.state.config_options().catalog;
        let (catalog, schema) = (MemoryCatalogProvider::new(), Arc::new(MemorySchemaProvider::new()));
        // neither can fail: both are new
        let _ = catalog.register_schema(&names.default_schema, schema);
        let catalogs = MemoryCatalogProviderList::new();
        let _ = catalogs.register_catalog(names.default_catalog.clone(), Arc::new(catalog));
        let state = SessionStateBuilder::new_from_existing(self.state.as_ref().clone());
        SessionContext::new_with_state(state.with_catalog_list(Arc::new(catalogs)).build())
    }
}

fn register(state: &mut SessionState, function: Arc<AggregateUDF>) -> Result<()> {
    use deltalake::datafusion::execution::FunctionRegistry as _;
    state.register_udaf(function).map_err(engine_error)?;
    Ok(())
}

/// The start of the window of an instant.
pub(super) fn window_start(bins: &Bins, instant: Expr) -> Expr {
    ScalarUDF::from(WindowStart::new(bins.clone())).call(vec![instant])
}

/// A float without the two ways to spell zero and the many to spell NaN.
pub(super) fn plain_float(float: Expr) -> Expr {
    ScalarUDF::from(PlainFloat::new()).call(vec![float])
}

/// Whether rows of these keys belong to `bucket`.
pub(super) fn in_bucket(bucket: Bucket, keys: Vec<Expr>) -> Expr {
    if keys.is_empty() {
        return lit(bucket.index == 0);
    }
    ScalarUDF::from(InBucket::new(bucket)).call(keys)
}

//! From the values of each window and key to rows of the result: HAVING, the SELECT list, the window's
//! columns, and one order, so that equal results are equal bytes.

use super::canonical::over_results;
use super::columns::OutputColumn;
use super::definition::Definition;
use super::halves::{COUNTS, WINDOW, result_column};
use super::rows::Rows;
use super::session::Session;
use super::shape::Parts;
use super::types::cast;
use crate::engine::query::engine_error;
use crate::error::{Class, Error, Result, Stage};
use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{SortColumn, SortOptions, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use deltalake::datafusion::common::Result as EngineResult;
use deltalake::datafusion::datasource::provider_as_source;
use deltalake::datafusion::logical_expr::{EmitTo, Expr, LogicalPlan, LogicalPlanBuilder, col, lit};
use deltalake::datafusion::physical_plan::aggregates::group_values::new_group_values;
use deltalake::datafusion::physical_plan::aggregates::order::GroupOrdering;
use deltalake::datafusion::physical_plan::collect;
use deltaworks_core::windows::{Binner, Granularity, OutOfRange, Zone, window_date};
use jiff::civil::date;
use std::sync::Arc;

/// The name of the table of values, inside the plan only.
const VALUES: &str = "values";

/// HAVING and the SELECT list, over the columns of the aggregation's result.
#[derive(Debug, Clone)]
pub(super) struct Above {
    pub(super) having: Option<Expr>,
    list: Vec<Expr>,
    /// How many calls of the user there are; the engine's counts follow.
    calls: usize,
}

impl Above {
    pub(super) fn new(parts: &Parts) -> EngineResult<Self> {
        let having = parts.having.as_ref().map(|h| over_results(h, parts)).transpose()?;
        let list = parts.list.expr.iter().zip(parts.list.schema.fields());
        let list = list.map(|(e, field)| Ok(over_results(e, parts)?.unalias_nested().data.alias(field.name())));
        let calls = parts.aggregation.aggr_expr.len();
        Ok(Self { having, list: list.collect::<EngineResult<_>>()?, calls })
    }

    /// The plan over `values`: window start, the user's columns, the counts.
    fn plan(&self, values: Arc<Rows>) -> EngineResult<LogicalPlan> {
        let mut plan = LogicalPlanBuilder::scan(VALUES, provider_as_source(values), None)?;
        // what has duplicates only is no window
        plan = plan.filter(col(result_column(self.calls)).gt(lit(0_i64)))?;
        if let Some(having) = &self.having {
            plan = plan.filter(having.clone())?;
        }
        let counts = COUNTS.iter().enumerate().map(|(n, name)| col(result_column(self.calls + n)).alias(*name));
        let list = std::iter::once(col(WINDOW).alias("window_start")).chain(self.list.iter().cloned()).chain(counts);
        plan.project(list)?.build()
    }

    /// Rows of a result out of values: `window_start`, the user's columns, the counts.
    pub(super) async fn run(&self, values: Arc<Rows>, session: &Session) -> EngineResult<Vec<RecordBatch>> {
        let plan = session.state.create_physical_plan(&self.plan(values)?).await?;
        collect(plan, session.state.task_ctx()).await
    }
}

/// Schema of a result.
pub(super) fn result_schema(columns: &[OutputColumn]) -> SchemaRef {
    let instant = super::scalars::instant_type();
    let mut fields = vec![
        Field::new("granularity", DataType::Utf8, false),
        Field::new("window_start", instant.clone(), false),
        Field::new("window_end", instant, false),
        Field::new("window_date", DataType::Date32, false),
    ];
    // a contract may begin or cease to require a field; the table of the results goes on
    fields.extend(columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), true)));
    fields.extend(COUNTS.map(|name| Field::new(name, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

impl Definition {
    /// Schema of results: `granularity`, `window_start`, `window_end`, `window_date`, the user's columns,
    /// `events`, `late`, `duplicates`, `filled`.
    #[must_use]
    pub fn result_schema(&self) -> SchemaRef {
        result_schema(&self.columns)
    }

    /// By window and keys.
    pub(super) fn sorted(&self, rows: &[RecordBatch]) -> EngineResult<RecordBatch> {
        let rows = concat_batches(&self.result_schema(), rows)?;
        let mut keys: Vec<&OutputColumn> = self.keys().collect();
        keys.sort_by_key(|column| column.key);
        let keys: Vec<ArrayRef> = keys.iter().filter_map(|key| rows.column_by_name(&key.name)).cloned().collect();
        let ranks = ranks(&keys)?;
        let starts =
            rows.column_by_name("window_start").map(|starts| starts.as_primitive::<TimestampMicrosecondType>());
        let starts = starts.into_iter().flat_map(|starts| starts.values());
        let mut order: Vec<(i64, u32, u32)> = match keys.is_empty() {
            true => starts.zip(0..).map(|(start, row)| (*start, 0, row)).collect(),
            false => starts.zip(ranks).zip(0..).map(|((start, rank), row)| (*start, rank, row)).collect(),
        };
        order.sort_unstable();
        let order = UInt32Array::from_iter_values(order.into_iter().map(|(_, _, row)| row));
        Ok(take_record_batch(&rows, &order)?)
    }

    /// Adds the columns of the windows that one granularity has.
    pub(super) fn with_windows(&self, rows: &RecordBatch, granularity: Granularity) -> Result<RecordBatch> {
        let windows = Windows::of(rows.column(0), granularity, &self.zone)
            .map_err(|e| Error::new(Stage::Query, Class::User, format!("aggregate `{}`: {e}", self.name)))?;
        let mut columns = vec![windows.names, Arc::clone(rows.column(0)), windows.ends, windows.dates];
        columns.extend(rows.columns().iter().skip(1).cloned());
        let names = rows.schema();
        let unnamed = columns.iter().enumerate().map(|(i, c)| {
            let name = if i < 4 { format!("w{i}") } else { names.field(i - 3).name().clone() };
            Field::new(name, c.data_type().clone(), true)
        });
        let unnamed = Arc::new(Schema::new(unnamed.collect::<Vec<_>>()));
        let built = RecordBatch::try_new(unnamed, columns).and_then(|batch| cast(&batch, &self.result_schema()));
        built.map_err(|e| engine_error(e.into()))
    }
}

/// The rank of each row by its keys; equal keys have one. Keys are few beside rows, so only the different
/// ones are sorted.
fn ranks(keys: &[ArrayRef]) -> EngineResult<Vec<u32>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let fields = keys.iter().enumerate().map(|(n, key)| Field::new(format!("k{n}"), key.data_type().clone(), true));
    let mut values = new_group_values(Arc::new(Schema::new(fields.collect::<Vec<_>>())), &GroupOrdering::None)?;
    let mut numbers = Vec::new();
    values.intern(keys, &mut numbers)?;
    let options = Some(SortOptions { descending: false, nulls_first: false });
    let columns: Vec<SortColumn> =
        values.emit(EmitTo::All)?.into_iter().map(|values| SortColumn { values, options }).collect();
    let sorted = lexsort_to_indices(&columns, None)?;
    let mut rank_of = vec![0; sorted.len()];
    for (rank, number) in (0..).zip(sorted.values()) {
        rank_of[*number as usize] = rank;
    }
    Ok(numbers.into_iter().map(|number| rank_of[number]).collect())
}

struct Windows {
    names: ArrayRef,
    ends: ArrayRef,
    dates: ArrayRef,
}

impl Windows {
    fn of(starts: &ArrayRef, granularity: Granularity, zone: &Zone) -> Result<Self, OutOfRange> {
        let starts = starts.as_primitive::<TimestampMicrosecondType>();
        let mut binner = Binner::new(granularity, zone.clone());
        let epoch = date(1970, 1, 1);
        let (mut ends, mut dates) = (Vec::with_capacity(starts.len()), Vec::with_capacity(starts.len()));
        let mut last = None;
        for start in starts.values() {
            let (window, day) = match last {
                Some((window, day)) if Self::starts_at(window, *start) => (window, day),
                _ => {
                    let window = binner.window(deltaworks_core::windows::Instant(*start))?;
                    let day = (window_date(zone, window)? - epoch).get_days();
                    (window, day)
                }
            };
            last = Some((window, day));
            ends.push(window.end.0);
            dates.push(day);
        }
        let name = granularity.to_string();
        Ok(Self {
            names: Arc::new(StringArray::from_iter_values(std::iter::repeat_n(name.as_str(), starts.len()))),
            ends: Arc::new(TimestampMicrosecondArray::from(ends).with_timezone("UTC")),
            dates: Arc::new(Date32Array::from(dates)),
        })
    }

    const fn starts_at(window: deltaworks_core::windows::Window, start: i64) -> bool {
        window.start.0 == start
    }
}

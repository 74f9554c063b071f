//! States, as the speed layer keeps them: made apart, merged in any tree, finished at last.

use super::*;
use arrow::compute::{concat_batches, sort_to_indices, take_record_batch};
use arrow::datatypes::DataType;
use deltalake::datafusion::datasource::memory::MemorySourceConfig;
use deltalake::datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use deltalake::datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use deltalake::datafusion::physical_plan::{ExecutionPlan, collect};

/// The half of a query's aggregate that eats raw rows, and the session to run it in.
struct Half {
    partial: AggregateExec,
    context: SessionContext,
}

impl Half {
    fn of(rows: &[Row], cut: &Cut, sql: &str) -> Self {
        let context = session(rows, &Cut { threads: 1, ..cut.clone() });
        let plan = wait(async { context.sql(sql).await.unwrap().create_physical_plan().await.unwrap() });
        let mut lowest = None;
        let mut node = Some(plan);
        while let Some(plan) = node {
            lowest = plan.downcast_ref::<AggregateExec>().cloned().or(lowest);
            node = plan.children().first().map(|child| Arc::clone(child));
        }
        let whole = lowest.unwrap();
        let one: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(Arc::clone(whole.input())));
        let partial = AggregateExec::try_new(
            AggregateMode::Partial,
            whole.group_expr().clone(),
            whole.aggr_expr().to_vec(),
            whole.filter_expr().to_vec(),
            one,
            whole.input_schema(),
        );
        Self { partial: partial.unwrap(), context }
    }

    fn states(&self) -> RecordBatch {
        self.run(Arc::new(self.partial.clone()))
    }

    /// Merges states to states, or to results.
    fn merge(&self, mode: AggregateMode, states: &[RecordBatch]) -> RecordBatch {
        let input = MemorySourceConfig::try_new_exec(&[states.to_vec()], self.partial.schema(), None).unwrap();
        let merged = AggregateExec::try_new(
            mode,
            Arc::new(self.partial.group_expr().as_final()),
            self.partial.aggr_expr().to_vec(),
            vec![None; self.partial.aggr_expr().len()],
            input,
            self.partial.input_schema(),
        );
        self.run(Arc::new(merged.unwrap()))
    }

    fn run(&self, plan: Arc<dyn ExecutionPlan>) -> RecordBatch {
        let schema = plan.schema();
        let batches = wait(collect(plan, self.context.task_ctx())).unwrap();
        let whole = concat_batches(&schema, &batches).unwrap();
        take_record_batch(&whole, &sort_to_indices(whole.column(0), None, None).unwrap()).unwrap()
    }
}

/// Whether Delta has the type, or its lists of it.
fn can_be_stored(state: &DataType) -> bool {
    match state {
        DataType::List(item) => can_be_stored(item.data_type()),
        other => matches!(
            other,
            DataType::Binary
                | DataType::Utf8
                | DataType::Boolean
                | DataType::Int64
                | DataType::Float64
                | DataType::Decimal128(..)
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn merged_in_any_tree_they_are_the_same(
        rows in rows(50),
        cut in cut(),
        pieces in 1_usize..5,
        tree in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..4),
    ) {
        let rows: Vec<Row> = rows.into_iter().map(|row| Row { int: row.int.map(|int| int >> 8), ..row }).collect();
        let sql = grouped();
        let whole = Half::of(&rows, &cut, &sql);
        let expected = whole.merge(AggregateMode::PartialReduce, &[whole.states()]);
        let length = rows.len().div_ceil(pieces).max(1);
        let mut states: Vec<RecordBatch> =
            rows.chunks(length).map(|piece| Half::of(piece, &cut, &sql).states()).collect();
        for (one, other) in tree {
            if states.len() > 1 {
                let one = states.swap_remove(one.index(states.len()));
                let other = states.swap_remove(other.index(states.len()));
                states.push(whole.merge(AggregateMode::PartialReduce, &[one, other]));
            }
        }
        for field in whole.partial.schema().fields() {
            prop_assert!(can_be_stored(field.data_type()), "{field}");
        }
        prop_assert_eq!(&whole.merge(AggregateMode::PartialReduce, &states), &expected);
        let finished = whole.merge(AggregateMode::Final, &states);
        prop_assert_eq!(finished, whole.merge(AggregateMode::Final, &[expected]));
    }
}

//! What the functions say they hold is what they hold, and less memory means more work, not other results.

use super::*;
use arrow::array::{Array, AsArray, BinaryArray};
use arrow::compute::{SortOptions, cast, sort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use deltalake::datafusion::common::DataFusionError;
use deltalake::datafusion::execution::memory_pool::FairSpillPool;
use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use deltalake::datafusion::logical_expr::function::AccumulatorArgs;
use deltalake::datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use deltalake::datafusion::physical_expr::PhysicalSortExpr;
use deltalake::datafusion::physical_expr::expressions::{Column, lit};
use deltalake::datafusion::physical_plan::{ExecutionPlan, PhysicalExpr, collect};
use deltaworks_core::exact_sum::ExactSum;

/// The accumulator of a function over a column of this type.
fn accumulator(name: &str, argument: DataType, is_distinct: bool) -> Box<dyn GroupsAccumulator> {
    let function = super::super::all().into_iter().find(|function| function.name() == name).unwrap();
    let field = Arc::new(Field::new("x", argument, true));
    let fields = [Arc::clone(&field), Arc::new(Field::new("p", DataType::Float64, true))];
    let exprs: [Arc<dyn PhysicalExpr>; 2] = [Arc::new(Column::new("x", 0)), lit(0.5)];
    let order = [PhysicalSortExpr { expr: Arc::clone(&exprs[0]), options: SortOptions::default() }];
    let count = if name == "percentile_cont" { 2 } else { 1 };
    function
        .create_groups_accumulator(AccumulatorArgs {
            return_field: function.return_field(&fields[..count]).unwrap(),
            schema: &Schema::new(vec![field]),
            ignore_nulls: false,
            order_bys: if name == "first_value" { &order } else { &[] },
            is_reversed: false,
            name,
            is_distinct,
            exprs: &exprs[..count],
            expr_fields: &fields[..count],
        })
        .unwrap()
}

/// Feeds `rows` values, in batches, each row to group `row % groups`.
fn feed(accumulator: &mut dyn GroupsAccumulator, rows: usize, groups: usize, value: impl Fn(usize) -> ArrayRef) {
    for from in (0..rows).step_by(8192) {
        let to = rows.min(from + 8192);
        let indices: Vec<usize> = (from..to).map(|row| row % groups).collect();
        let column = value(from).slice(0, to - from);
        // The second is the column of ORDER BY, where there is one.
        accumulator.update_batch(&[Arc::clone(&column), column], &indices, None, groups).unwrap();
    }
}

fn floats(from: usize) -> ArrayRef {
    Arc::new((from..from + 8192).map(|i| i as f64 / 8.0).collect::<Float64Array>())
}

fn texts(from: usize) -> ArrayRef {
    Arc::new((from..from + 8192).map(|i| Some(format!("{i:032}"))).collect::<StringArray>())
}

#[rstest]
#[case("sum", 4000, (size_of::<ExactSum>() * 4000, size_of::<ExactSum>() * 8000))]
#[case("stddev", 4000, (4000 * 100, 4000 * 2 * 160))]
#[case("min", 4000, (4000 * 16, 4000 * 2 * 16))]
#[case("median", 1, (100_000 * 12, 100_000 * 20))]
#[case("median", 50_000, (100_000 * 12, 100_000 * 20))]
fn memory_of_floats(#[case] name: &str, #[case] groups: usize, #[case] bytes: (usize, usize)) {
    let mut accumulator = accumulator(name, DataType::Float64, false);
    let empty = accumulator.size();
    feed(&mut *accumulator, 100_000, groups, floats);
    assert!((bytes.0..bytes.1).contains(&accumulator.size()), "{}", accumulator.size());
    assert_eq!(accumulator.state(EmitTo::All).unwrap()[0].len(), groups);
    assert_eq!(accumulator.size(), empty);
}

#[test]
fn values_far_apart_are_counted_in() {
    let mut accumulator = accumulator("sum", DataType::Float64, false);
    let far: ArrayRef = Arc::new(Float64Array::from(vec![1e300, 1e-300]));
    accumulator.update_batch(&[Arc::clone(&far)], &[0, 1], None, 2).unwrap();
    let near = accumulator.size();
    accumulator.update_batch(&[far], &[1, 0], None, 2).unwrap();
    assert!(accumulator.size() >= near + 2 * 60 * size_of::<i64>());
    accumulator.evaluate(EmitTo::First(1)).unwrap();
    assert!(accumulator.size() < near + 120 * size_of::<i64>());
    assert_eq!(accumulator.evaluate(EmitTo::All).unwrap().len(), 1);
}

#[test]
fn distinct_strings_take_less_than_they_are_long() {
    let mut one = accumulator("count", DataType::Utf8, true);
    feed(&mut *one, 200_000, 1, texts);
    assert!((16 * 200_000..24 * 200_000).contains(&one.size()), "{}", one.size());
    let states = one.state(EmitTo::All).unwrap();
    assert_eq!(states[0].as_binary::<i32>().value(0).len(), 16 * 200_000);
    let mut merged = accumulator("count", DataType::Utf8, true);
    merged.merge_batch(&states, &[0], 1).unwrap();
    assert!((16 * 200_000..24 * 200_000).contains(&merged.size()), "{}", merged.size());
    assert_eq!(merged.evaluate(EmitTo::All).unwrap().as_ref(), &Int64Array::from(vec![200_000]) as &dyn Array);
}

#[rstest]
fn medians_of_many_values_are_found_in_passes(#[values(1, 3, 7_000, 300_000)] groups: usize) {
    let mut accumulator = accumulator("median", DataType::Float64, false);
    let rows = 250_000;
    feed(&mut *accumulator, rows, groups, floats);
    let medians = accumulator.evaluate(EmitTo::All).unwrap();
    let expected = (0..groups).map(|group| {
        // Values of a group are (group + i * groups) / 8.
        let last = (rows.checked_sub(group + 1)?) / groups;
        Some((group as f64 + last as f64 / 2.0 * groups as f64) / 8.0)
    });
    assert_eq!(medians.as_ref(), &expected.collect::<Float64Array>() as &dyn Array);
}

#[test]
fn a_slice_of_states_is_read_as_such() {
    let mut accumulator = accumulator("median", DataType::Float64, false);
    feed(&mut *accumulator, 100, 10, floats);
    let states = accumulator.state(EmitTo::All).unwrap().remove(0);
    accumulator.merge_batch(&[states.slice(4, 2)], &[1, 0], 2).unwrap();
    let medians = accumulator.evaluate(EmitTo::All).unwrap();
    assert_eq!(medians.as_ref(), &Float64Array::from(vec![50.0 / 8.0, 49.0 / 8.0]) as &dyn Array);
}

#[rstest]
#[case("sum", DataType::Float64, false)]
#[case("var_pop", DataType::Float64, false)]
#[case("max", DataType::Float64, false)]
#[case("median", DataType::Float64, false)]
#[case("percentile_cont", DataType::Float64, false)]
#[case("count", DataType::Utf8, true)]
fn groups_that_leave_first_are_not_missed(#[case] name: &str, #[case] argument: DataType, #[case] is_distinct: bool) {
    let value = if argument == DataType::Utf8 { texts } else { floats };
    let mut whole = accumulator(name, argument.clone(), is_distinct);
    let mut parts = accumulator(name, argument, is_distinct);
    feed(&mut *whole, 1000, 10, value);
    feed(&mut *parts, 1000, 10, value);
    let expected = whole.evaluate(EmitTo::All).unwrap();
    let first = parts.evaluate(EmitTo::First(3)).unwrap();
    assert_eq!(&first, &expected.slice(0, 3));
    let state = parts.state(EmitTo::First(2)).unwrap();
    // Group 5 is group 0 by now; what was written of 3 and 4 comes back after the others.
    parts.merge_batch(&state, &[5, 6], 7).unwrap();
    let rest = parts.evaluate(EmitTo::All).unwrap();
    assert_eq!(&rest.slice(0, 5), &expected.slice(5, 5));
    assert_eq!(&rest.slice(5, 2), &expected.slice(3, 2));
}

/// Damage may make another state, but never stops the process; a state that cannot be is refused.
#[rstest]
fn damaged_states_are_refused_or_are_states(
    #[values("sum", "avg", "stddev", "count", "first_value")] name: &str,
    #[values(DataType::Float64, DataType::Int64, DataType::Decimal128(38, 2))] argument: DataType,
) {
    let values = |from| cast(&floats(from), &argument).unwrap();
    let mut accumulator = accumulator(name, argument.clone(), name == "count");
    feed(&mut *accumulator, 5, 1, values);
    let state = accumulator.state(EmitTo::All).unwrap().remove(0);
    let state = state.as_binary::<i32>().value(0).to_vec();
    let mut merge = |state: &[u8]| {
        let column: ArrayRef = Arc::new(BinaryArray::from(vec![state]));
        let merged = accumulator.merge_batch(&[column], &[0], 1);
        merged.and(accumulator.evaluate(EmitTo::All))
    };
    merge(&state).unwrap();
    for at in 0..state.len() {
        if name != "count" {
            assert!(merge(&state[..at]).is_err(), "cut at {at}");
        }
        for bit in 0..8 {
            let mut damaged = state.clone();
            damaged[at] ^= 1 << bit;
            assert!(merge(&damaged).is_err() || name != "first_value", "bit {bit} of byte {at}");
        }
    }
}

/// How often the nodes of a plan that ran have spilled.
fn spills(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = plan.metrics().and_then(|metrics| metrics.spill_count()).unwrap_or(0);
    own + plan.children().into_iter().map(spills).sum::<usize>()
}

#[test]
fn a_query_that_spills_gives_the_same_bits() {
    let functions = "sum(f), stddev(f), median(f), count(DISTINCT s), min(f), first_value(s ORDER BY f, place)";
    let sql = format!("SELECT place % 5000 AS g, {functions} FROM t GROUP BY g");
    let rows: Vec<Row> = (0..60_000_i64)
        .map(|i| one(|row| (row.float, row.place, row.text) = (Some(i as f64 / 7.0), i, Some(format!("{}", i % 777)))))
        .collect();
    let cut = Cut { ends: Vec::new(), partitions: 1, threads: 1, batch_size: 1024, is_skipping: false };
    let roomy = session(&rows, &cut);
    let pool = Arc::new(FairSpillPool::new(4_000_000));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().unwrap();
    let mut config = roomy.copied_config();
    config.options_mut().execution.sort_spill_reservation_bytes = 100_000;
    let tight = SessionContext::new_with_config_rt(config, runtime);
    register(&tight);
    assert!(tight.remove_optimizer_rule("single_distinct_aggregation_to_group_by"));
    tight.register_table("t", wait(roomy.table_provider("t")).unwrap()).unwrap();
    let run = |context: &SessionContext| {
        wait(async {
            let plan = context.sql(&sql).await?.create_physical_plan().await?;
            let batches = collect(Arc::clone(&plan), context.task_ctx()).await?;
            let whole = concat_batches(&plan.schema(), &batches)?;
            let sorted = take_record_batch(&whole, &sort_to_indices(whole.column(0), None, None)?)?;
            Ok::<_, DataFusionError>((sorted, spills(&plan)))
        })
    };
    let (expected, unspilled) = run(&roomy).unwrap();
    let (answer, spilled) = run(&tight).unwrap();
    assert!(unspilled == 0 && spilled > 0, "{unspilled}, {spilled}");
    assert_eq!(answer, expected);
}

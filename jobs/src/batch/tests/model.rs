//! Whatever is landed in whatever order and files, and whatever is compacted meanwhile: after every run
//! the windows are those of the naive model, and running again does nothing.

use super::kit::{Kit, LATENESS_US, Row, Sql, date_of};
use super::naive;
use proptest::prelude::*;

const HOUR_US: i64 = 3_600_000_000;
const PLAIN: Sql = Sql {
    name: "plain",
    windows: "[15m, 1d, 1w, 1mo]",
    zone: "America/St_Johns",
    select: "SELECT key, sum(value) AS total, max(value) AS greatest FROM events GROUP BY key",
};
const PICKY: Sql = Sql {
    name: "picky",
    windows: "[6h, 1d]",
    zone: "Europe/Kyiv",
    select: "SELECT key, sum(value) AS total, max(value) AS greatest FROM events WHERE value >= 2 \
             GROUP BY key HAVING count(*) > 1",
};

#[derive(Debug, Clone)]
struct Event {
    hour: i64,
    second: i64,
    id: u8,
    value: Option<i64>,
    key: Option<u8>,
    kafka: Option<i64>,
    partition: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Land { events: Vec<Event>, file_rows: usize, reached_hour: i64 },
    Compact { hour: i64 },
    Batch { parallel: usize, forced: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hours = -20..70i64;
    let event = (hours.clone(), 0..3_600i64, 0..9u8, prop::option::of(-3..9i64), prop::option::of(0..2u8))
        .prop_flat_map(|(hour, second, id, value, key)| {
            (Just((hour, second, id, value, key)), prop::option::of(0..3i64), any::<bool>())
        })
        .prop_map(|((hour, second, id, value, key), kafka, partition)| Event {
            hour,
            second,
            id,
            value,
            key,
            kafka,
            partition,
        });
    let few = prop::collection::vec(event.clone(), 1..3);
    let step = prop_oneof![
        2 => (few, 1..5usize).prop_map(|(events, file_rows)| Step::Land { events, file_rows, reached_hour: 0 }),
        2 => (prop::collection::vec(event, 1..12), 1..5usize, 0..90i64)
            .prop_map(|(events, file_rows, reached_hour)| Step::Land { events, file_rows, reached_hour }),
        1 => hours.prop_map(|hour| Step::Compact { hour }),
        2 => (1..4usize, prop::bool::weighted(0.1)).prop_map(|(parallel, forced)| Step::Batch { parallel, forced }),
    ];
    prop::collection::vec(step, 2..8)
}

/// The first hour: in St John's the clocks go back in these days.
const FIRST_US: i64 = 1_730_592_000_000_000;

async fn play(first_us: i64, steps: Vec<Step>) {
    let kit = Kit::new(&[PLAIN, PICKY]);
    let (mut rows, mut offsets, mut reached): (Vec<Row>, [i64; 2], i64) = (Vec::new(), [0, 0], i64::MIN);
    for step in steps.into_iter().chain([Step::Batch { parallel: 2, forced: false }]) {
        match step {
            Step::Land { events, file_rows, reached_hour } => {
                let first = rows.len();
                for e in events {
                    let partition = usize::from(e.partition);
                    rows.push(Row {
                        id: format!("id-{}", e.id),
                        at_us: first_us + e.hour * HOUR_US + e.second * 1_000_000,
                        value: e.value,
                        key: e.key.map(|k| format!("key {k}")),
                        kafka_us: e.kafka,
                        partition: partition as i32,
                        offset: offsets[partition],
                        behind_ms: e.second * 2_000,
                        repeat: false,
                    });
                    offsets[partition] += 1;
                }
                reached = reached.max(first_us + reached_hour * HOUR_US);
                kit.land(&rows[first..], file_rows, reached).await;
            }
            Step::Compact { hour } => kit.compact(&date_of(first_us + hour * HOUR_US)).await,
            Step::Batch { parallel, forced } => {
                let report = kit.batch(&crate::batch::BatchOptions { parallel, forced, ..kit.options() }).await;
                assert!(report.error.is_none(), "{report:?}");
                if rows.is_empty() {
                    assert!(report.is_idle());
                    continue;
                }
                let through = reached - LATENESS_US;
                let plain = naive::windows(&rows, &["15m", "1d", "1w", "1mo"], PLAIN.zone, through, |_| true, |_| true);
                assert_eq!(kit.published("plain").await, plain);
                let passes = |r: &Row| r.value.is_some_and(|v| v >= 2);
                let picky = naive::windows(&rows, &["6h", "1d"], PICKY.zone, through, passes, |n| n > 1);
                assert_eq!(kit.published("picky").await, picky);
                let again = kit.batch_well().await;
                assert!(again.is_idle(), "{again:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn equals_the_naive_model_after_every_step(
        first_us in prop::sample::select(vec![FIRST_US, -HOUR_US * 30, 0]),
        steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(first_us, steps));
    }
}

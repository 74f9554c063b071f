//! Whatever happens in whatever order: what is in the table is what raw gives up to its own progress, and once
//! it is caught up, what raw gives at all.

use super::kit::{Kit, Row, ended, finished, hand_over, some_rows};
use crate::batch::Input;
use crate::speed::{Live, SpeedTable, from_raw};
use deltaworks_core::windows::{Instant, Window};
use proptest::prelude::*;

const SELECT: &str = "SELECT key, count(*) AS rows, sum(x) AS sum_x, avg(price) AS mean, median(x) AS middle, \
     last_value(n ORDER BY at) AS last_n FROM events WHERE n IS NULL OR n <> 17 GROUP BY key";
const EVER: Window = Window { start: Instant(i64::MIN), end: Instant(i64::MAX) };

#[derive(Debug, Clone)]
enum Step {
    /// Landed by a process that tells its speed layer, one that dies before, or one without room.
    Land {
        rows: usize,
        told: bool,
        with_rows: bool,
    },
    /// What waits is done, and another process goes on.
    Restart,
    CatchUp,
    Rebuild,
    /// Files of at least so many.
    Merge(usize),
    Drop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..25_usize, prop::bool::weighted(0.8), prop::bool::weighted(0.8))
            .prop_map(|(rows, told, with_rows)| Step::Land { rows, told, with_rows }),
        1 => Just(Step::Restart),
        1 => Just(Step::CatchUp),
        1 => Just(Step::Rebuild),
        2 => (2..5_usize).prop_map(Step::Merge),
        1 => Just(Step::Drop),
    ]
}

async fn play(steps: Vec<Step>) {
    let kit = Kit::new(SELECT);
    let all = some_rows(200);
    let (mut landed, mut live) = (0, kit.live().await);
    for step in steps {
        match step {
            Step::Land { rows, told, with_rows } => {
                let rows: &[Row] = &all[landed..(landed + rows).min(all.len())];
                landed += rows.len();
                let mut commit = kit.land(rows).await;
                commit.rows = commit.rows.filter(|_| with_rows);
                if told && !commit.claims.is_empty() {
                    hand_over(&live, commit);
                }
            }
            Step::Restart => live = restarted(&kit, live).await,
            Step::CatchUp => drop(kit.catch_up(false).await),
            Step::Rebuild => drop(kit.catch_up(true).await),
            Step::Merge(files_min) => {
                let table = SpeedTable::open(&kit.lake, &kit.definition().await).await.unwrap();
                if let Some(mut table) = table {
                    table.merge(files_min, u64::MAX, &kit.run()).await.unwrap();
                }
            }
            Step::Drop => {
                live = restarted(&kit, live).await;
                let _ = std::fs::remove_dir_all(kit.path());
            }
        }
        holds(&kit).await;
    }
    ended(live).await;
    kit.raw().await;
    kit.catch_up(false).await;
    holds(&kit).await;
    let table = kit.table().await;
    let input = Input::gather(&kit.lake, kit.pipeline(), None).await.unwrap().unwrap();
    assert!(!table.stored().is_behind(&input.pin.next));
    let right = Kit::new(SELECT);
    right.land(&all[..landed]).await;
    right.catch_up(false).await;
    assert_eq!(kit.windows().await, right.windows().await);
}

async fn restarted(kit: &Kit, live: Live) -> Live {
    ended(live).await;
    kit.live().await
}

/// The states of any moment are those of the rows up to the progress of that moment.
async fn holds(kit: &Kit) {
    let definition = kit.definition().await;
    let Some(table) = SpeedTable::open(&kit.lake, &definition).await.unwrap() else { return };
    let Some(input) = Input::gather(&kit.lake, kit.pipeline(), None).await.unwrap() else { return };
    let stored = finished(&definition, table.all_states().await.unwrap()).await;
    let right = from_raw(&input, &definition, &table.progress(), EVER).await.unwrap();
    assert_eq!(stored, finished(&definition, right).await);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 60, ..ProptestConfig::default() })]
    #[test]
    fn the_states_are_those_of_the_rows_up_to_the_progress(steps in prop::collection::vec(step(), 2..10)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(steps));
    }
}

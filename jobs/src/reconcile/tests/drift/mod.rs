//! The way of windows: which step each event belongs to, what is left unexplained, and who is held back by it.

mod definitions;
mod events;
mod gone;
mod layouts;
mod limits;
mod states;

use super::kit::Kit;
use crate::reconcile::drift_name;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt;
use std::collections::BTreeMap;

const DAY_US: i64 = 86_400_000_000;
const HOUR_US: i64 = 3_600_000_000;
const STEPS: [&str; 7] = ["served", "definition", "base", "arrived", "fills", "late", "dedup"];

/// Granularity, window start, key, generation.
pub type Key = (String, i64, Option<String>, i64);

/// Total, greatest and events after a step.
pub type Values = (Option<i64>, Option<i64>, i64);

/// A row of a drift table: the values of each step that has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub steps: BTreeMap<&'static str, Values>,
    pub unexplained: i64,
    pub pin: String,
    pub first_pin: String,
}

pub type Ways = BTreeMap<Key, Way>;

impl Way {
    /// Total after one step.
    fn total(&self, step: &str) -> Option<i64> {
        self.steps.get(step).and_then(|values| values.0)
    }

    /// Totals of: served, base, arrived, fills, late, dedup.
    fn totals(&self) -> [Option<i64>; 6] {
        ["served", "base", "arrived", "fills", "late", "dedup"].map(|step| self.total(step))
    }
}

pub async fn drift(kit: &Kit, aggregate: &str) -> Ways {
    let mut ways = Ways::new();
    let Some(table) = kit.lake.open_table(&drift_name(aggregate)).await.unwrap() else { return ways };
    let columns = ["window_start", "key", "generation", "pin", "first_pin", "unexplained"];
    let columns: Vec<&str> = columns.into_iter().chain(STEPS).collect();
    for file in table.live_files().await.unwrap() {
        let granularity = file.partition_values["granularity"].clone().unwrap();
        for batch in table.read_file(&file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
            let int = |name: &str| batch[name].as_primitive::<Int64Type>().clone();
            let text = |name: &str, row: usize| {
                let column = batch[name].as_string::<i32>();
                column.is_valid(row).then(|| column.value(row).to_owned())
            };
            for n in 0..batch.num_rows() {
                let start = batch["window_start"].as_primitive::<TimestampMicrosecondType>().value(n);
                let values = STEPS.into_iter().filter(|step| batch[*step].is_valid(n)).map(|step| {
                    let column = batch[step].as_struct();
                    let int = |name: &str| {
                        let column = column.column_by_name(name).unwrap().as_primitive::<Int64Type>();
                        column.is_valid(n).then(|| column.value(n))
                    };
                    (step, (int("total"), int("greatest"), int("events").unwrap()))
                });
                let way = Way {
                    steps: values.collect(),
                    unexplained: int("unexplained").value(n),
                    pin: text("pin", n).unwrap(),
                    first_pin: text("first_pin", n).unwrap(),
                };
                let before = ways.insert((granularity.clone(), start, text("key", n), int("generation").value(n)), way);
                assert!(before.is_none(), "one row per window, key and generation");
            }
        }
    }
    ways
}

fn of<'w>(ways: &'w Ways, granularity: &str, start: i64, generation: i64) -> Option<&'w Way> {
    ways.get(&(granularity.to_owned(), start, Some("k".to_owned()), generation))
}

fn unexplained(ways: &Ways) -> i64 {
    ways.values().map(|way| way.unexplained).sum()
}

/// Tables of two kits have other ids, and so their pins.
pub fn without_pins(mut ways: Ways) -> Ways {
    for way in ways.values_mut() {
        (way.pin, way.first_pin) = (String::new(), String::new());
    }
    ways
}

//! Whatever lands in whatever order, and whatever speed, batch and reconcile do in between: after every reconcile
//! the served and drift tables are what the naive models say, and reconciling again changes nothing.

use super::drift::drift;
use super::kit::{Kit, LATENESS_US, Row, Seen, Sql, UnitName, Values, Windows};
use super::ways::{WaysModel, World};
use crate::batch::BatchOptions;
use crate::batch::tests::naive;
use deltaworks_core::units::Entry;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const HOUR_US: i64 = 3_600_000_000;
/// Of the model's own.
const GRANULARITIES: [&str; 4] = ["15m", "6h", "1d", "1w"];

const PLAIN: Sql = Sql {
    name: "plain",
    windows: "[15m, 6h, 1d, 1w]",
    zone: "America/St_Johns",
    select: "SELECT key, sum(value) AS total, max(value) AS greatest FROM events GROUP BY key",
};
const PICKY: Sql = Sql {
    name: "picky",
    windows: "[15m, 6h, 1d, 1w]",
    zone: "America/St_Johns",
    select: "SELECT key, sum(value) AS total, max(value) AS greatest FROM events \
             GROUP BY key HAVING max(value) < 6",
};

/// What is to be served, by loops over rows. No function of the product is called.
#[derive(Default)]
struct Model {
    /// Rows that are in speed; `None` where there are no usable states.
    in_speed: Option<usize>,
    /// Rows when batch ran last.
    in_batch: usize,
    /// Lateness when speed was made, and when batch ran last, ms.
    late_ms: [i64; 2],
    /// How far each unit was covered when it was reconciled last.
    covered: BTreeMap<UnitName, i64>,
    served: Windows,
    ways: WaysModel,
}

/// HAVING, of the greatest value.
fn passes(sql: &Sql) -> fn(Option<i64>) -> bool {
    if sql.name == "plain" { |_| true } else { |greatest| greatest.is_some_and(|greatest| greatest < 6) }
}

fn zone() -> TimeZone {
    TimeZone::get(PLAIN.zone).unwrap()
}

fn date_of(us: i64) -> Date {
    Timestamp::from_microsecond(us).unwrap().to_zoned(zone()).date()
}

impl Model {
    /// On-time rows that are no repeats, of all windows; late ones and repeats are counted. Fills are in none.
    fn speed(
        sql: &Sql,
        rows: &[Row],
        fills: &BTreeSet<usize>,
        late_ms: i64,
        floor: Option<Date>,
    ) -> BTreeMap<(String, i64, i64, Option<String>), Values> {
        let mut windows: BTreeMap<_, Values> = BTreeMap::new();
        let landed = rows.iter().enumerate().filter(|(n, _)| !fills.contains(n)).map(|(_, row)| row);
        for row in landed.filter(|row| floor.is_none_or(|floor| date_of(row.at_us) >= floor)) {
            for granularity in GRANULARITIES {
                let (start, end) = naive::window(granularity, row.at_us, &zone());
                let key = (granularity.to_owned(), start, end, row.key.clone());
                let w = windows.entry(key).or_insert((None, None, 0, 0, 0));
                if row.behind_ms > late_ms {
                    w.3 += 1;
                } else if row.repeat {
                    w.4 += 1;
                } else {
                    w.0 = row.value.map_or(w.0, |v| Some(w.0.unwrap_or(0) + v));
                    w.1 = w.1.max(row.value);
                    w.2 += 1;
                }
            }
        }
        windows.retain(|_, values| values.2 > 0 && passes(sql)(values.1));
        windows
    }

    fn reconcile(&mut self, sql: &Sql, landed: &Landed, batch: &BTreeMap<UnitName, (Entry, i64)>, floor: Option<Date>) {
        let Landed { rows, fills } = landed;
        let unit = |granularity: &str, start: i64| (granularity.to_owned(), date_of(start).to_string());
        let bound = |unit: &UnitName| batch.get(unit).map(|(_, covered)| *covered);
        let mut now = Windows::new();
        let judged = rows[..self.in_batch].iter().map(|row| {
            let is_late = row.behind_ms > self.late_ms[1];
            Row { behind_ms: if is_late { LATENESS_US / 1_000 + 1 } else { 0 }, ..row.clone() }
        });
        let exact =
            naive::windows(&judged.collect::<Vec<_>>(), &GRANULARITIES, PLAIN.zone, i64::MAX, |_| true, |_| true);
        for (key, values) in exact.into_iter().filter(|(_, values)| passes(sql)(values.1)) {
            let name = unit(&key.0, key.1);
            let (_, end) = naive::window(&key.0, key.1, &zone());
            let Some((entry, covered)) = batch.get(&name).filter(|(_, covered)| end <= *covered) else { continue };
            assert!(end <= *covered);
            let before = self.covered.get(&name).is_some_and(|covered| end <= *covered);
            let new = |state: &str| Seen {
                values,
                state: state.to_owned(),
                generation: entry.generation,
                pin: Some(entry.pin.to_string()),
            };
            let seen = match self.served.get(&key) {
                _ if !before => new("final"),
                Some(old) if old.values == values => old.clone(),
                _ => new("restated"),
            };
            now.insert(key, seen);
        }
        let is_open = |granularity: &str, start: i64, end: i64| {
            bound(&unit(granularity, start)).is_none_or(|covered| covered < end)
        };
        match self.in_speed {
            Some(in_speed) => {
                for ((granularity, start, end, key), values) in
                    Self::speed(sql, &rows[..in_speed], fills, self.late_ms[0], floor)
                {
                    if is_open(&granularity, start, end) {
                        let seen = Seen { values, state: "provisional".into(), generation: 0, pin: None };
                        assert!(now.insert((granularity, start, key), seen).is_none());
                    }
                }
            }
            None => {
                let open = self.served.iter().filter(|(key, seen)| {
                    let (_, end) = naive::window(&key.0, key.1, &zone());
                    seen.state == "provisional" && is_open(&key.0, key.1, end)
                });
                now.extend(open.map(|(key, seen)| (key.clone(), seen.clone())).collect::<Vec<_>>());
            }
        }
        self.served = now;
        self.covered.extend(batch.iter().map(|(unit, (_, covered))| (unit.clone(), *covered)));
    }
}

/// What has landed.
#[derive(Default)]
struct Landed {
    rows: Vec<Row>,
    /// Which of the rows are fills.
    fills: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
struct Event {
    hour: i64,
    second: i64,
    id: u8,
    value: Option<i64>,
    key: Option<u8>,
    partition: bool,
    late: bool,
    repeat: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Land { events: Vec<Event>, reached_hour: i64 },
    Fill { events: Vec<Event> },
    Speed,
    Batch,
    Reconcile,
    DropSpeed,
    RaiseLateness { hours: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = (-20..70i64, 0..3_600i64, 0..9u8, prop::option::of(-3..9i64), prop::option::of(0..2u8)).prop_flat_map(
        |(hour, second, id, value, key)| {
            (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1)).prop_map(
                move |(partition, late, repeat)| Event { hour, second, id, value, key, partition, late, repeat },
            )
        },
    );
    let step = prop_oneof![
        4 => (prop::collection::vec(event.clone(), 1..9), 0..90i64)
            .prop_map(|(events, reached_hour)| Step::Land { events, reached_hour }),
        1 => prop::collection::vec(event, 1..3).prop_map(|events| Step::Fill { events }),
        3 => Just(Step::Speed),
        3 => Just(Step::Batch),
        4 => Just(Step::Reconcile),
        1 => Just(Step::DropSpeed),
        1 => (1..9u64).prop_map(|hours| Step::RaiseLateness { hours }),
    ];
    prop::collection::vec(step, 3..14)
}

/// In St John's the clocks go back in these days.
const FIRST_US: i64 = 1_730_592_000_000_000;

struct Play {
    kit: Kit,
    landed: Landed,
    /// Of landed rows; fills have those in between.
    offsets: [i64; 2],
    reached: i64,
    late_ms: i64,
    /// One for each aggregate.
    models: [(Sql, Model); 2],
}

impl Play {
    async fn step(&mut self, first_us: i64, step: Step) {
        match step {
            Step::Land { events, reached_hour } => {
                let rows: Vec<Row> = events.into_iter().map(|event| self.row(first_us, event, false)).collect();
                self.reached = self.reached.max(first_us + reached_hour * HOUR_US);
                self.kit.land(&rows, 3, self.reached).await;
            }
            Step::Fill { events } => {
                let rows: Vec<Row> = events.into_iter().map(|event| self.row(first_us, event, true)).collect();
                self.kit.fill(&rows).await;
            }
            Step::Speed if !self.landed.rows.is_empty() => {
                self.kit.catch_up().await;
                for (_, model) in &mut self.models {
                    (model.in_speed, model.late_ms[0]) = (Some(self.landed.rows.len()), self.late_ms);
                }
            }
            Step::Batch => {
                let report = self.kit.batch(&BatchOptions { ..self.kit.options() }).await;
                assert!(report.error.is_none(), "{report:?}");
                for (sql, model) in &mut self.models {
                    (model.in_batch, model.late_ms[1]) = (self.landed.rows.len(), self.late_ms);
                    model.ways.batch(&self.kit.ledger(sql.name).await, self.landed.rows.len());
                }
            }
            Step::Reconcile => self.reconcile().await,
            Step::DropSpeed => {
                for (sql, model) in &mut self.models {
                    if self.kit.speed_table(sql.name).await.is_some() {
                        self.kit.drop_speed(sql.name).await;
                    }
                    model.in_speed = None;
                }
            }
            Step::RaiseLateness { hours } => {
                let mut pipeline = self.kit.pipeline().as_ref().clone();
                pipeline.lateness += Duration::from_secs(3_600 * hours);
                self.late_ms += 3_600_000 * hours as i64;
                self.kit.batch.settings.pipelines = vec![Arc::new(pipeline)];
                // the aggregate means something else now
                self.models.iter_mut().for_each(|(_, model)| model.in_speed = None);
            }
            Step::Speed => {}
        }
    }

    /// A row of its own; a fill is below what is landed, and nobody knows how late it was.
    fn row(&mut self, first_us: i64, e: Event, is_fill: bool) -> Row {
        let partition = usize::from(e.partition);
        self.offsets[partition] += 2;
        let behind_ms = if e.late { LATENESS_US / 1_000 + 1 } else { e.second };
        let row = Row {
            id: format!("id-{}", e.id),
            at_us: first_us + e.hour * HOUR_US + e.second * 1_000_000,
            value: e.value,
            key: e.key.map(|k| format!("key {k}")),
            kafka_us: None,
            partition: partition as i32,
            offset: self.offsets[partition] - i64::from(is_fill),
            behind_ms: if is_fill { 0 } else { behind_ms },
            repeat: e.repeat && !is_fill,
        };
        if is_fill {
            self.landed.fills.insert(self.landed.rows.len());
        }
        self.landed.rows.push(row.clone());
        row
    }

    async fn reconcile(&mut self) {
        let mut moved = 0;
        for (sql, model) in &mut self.models {
            let (ledger, floor) = (self.kit.ledger(sql.name).await, self.kit.floor(sql.name).await);
            let world = World {
                rows: &self.landed.rows,
                fills: &self.landed.fills,
                late_ms: self.late_ms,
                batch_late_ms: model.late_ms[1],
                zone: &zone(),
                passes: passes(sql),
            };
            let known = model.ways.drift.len();
            model.ways.reconcile(&world, &ledger, &model.served);
            moved += model.ways.drift.len() - known;
            model.reconcile(sql, &self.landed, &ledger, floor);
        }
        let mut before = Vec::new();
        for (sql, _) in &self.models {
            before.push((self.kit.version(sql.name).await, self.kit.served(sql.name).await));
        }
        let report = self.kit.reconcile().await;
        assert_eq!((report.drift.moved, report.drift.unexplained), (moved as u64, 0), "{report:?}");
        for ((sql, model), (version, old)) in self.models.iter().zip(before) {
            let now = self.kit.served(sql.name).await;
            assert_eq!(now, model.served, "{}", sql.name);
            assert_eq!(drift(&self.kit, sql.name).await, model.ways.drift, "{}", sql.name);
            for (key, seen) in &now {
                let Some(old) = old.get(key) else { continue };
                assert!(old.generation <= seen.generation, "{key:?}");
                assert!(old.state == "provisional" || seen.state != "provisional", "{key:?}");
                assert!(old.generation < seen.generation || old == seen || old.state == "provisional", "{key:?}");
            }
            self.kit.no_unit_is_torn(sql.name, version, self.kit.version(sql.name).await).await;
            self.kit.reconcile_again(sql.name).await;
        }
    }
}

async fn play(first_us: i64, steps: Vec<Step>) {
    let models = [(PLAIN, Model::default()), (PICKY, Model::default())];
    let kit = Kit::new(&[PLAIN, PICKY]);
    let mut play = Play {
        kit,
        landed: Landed::default(),
        offsets: [0, 0],
        reached: i64::MIN,
        late_ms: LATENESS_US / 1_000,
        models,
    };
    for step in steps.into_iter().chain([Step::Speed, Step::Batch, Step::Reconcile]) {
        play.step(first_us, step).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 60, ..ProptestConfig::default() })]
    #[test]
    fn equals_the_naive_model_after_every_reconcile(
        first_us in prop::sample::select(vec![FIRST_US, -HOUR_US * 30, 0]),
        steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(first_us, steps));
    }
}

/// The model knows a week without naming it.
#[test]
fn weeks_begin_on_mondays() {
    let (start, end) = naive::window("1w", 0, &TimeZone::UTC);
    assert_eq!(Timestamp::from_microsecond(start).unwrap().to_string(), "1969-12-29T00:00:00Z");
    assert_eq!(end - start, 7 * 24 * HOUR_US);
    assert_eq!(date_of(0) + 1.day(), jiff::civil::date(1970, 1, 1));
}

//! Whether all is as it must be: everything is brought to rest without faults, then raw is held against what was sent,
//! served against the model, and all of it is proved.

use super::acts::Job;
use super::model::{Expected, Facts, Key, Row, Windows};
use super::world::{AGGREGATES, DAY_MS, Event, LATENESS_MS, TOPIC, World, ZONE};
use crate::batch::{primitive, removed_from, texts};
use crate::lake::{Lake, Table};
use crate::land::tables::{raw_name, rejects_name};
use crate::prove::{ProveOptions, Verdict, prove_on};
use crate::reconcile::served_name;
use arrow::array::{Array, AsArray, PrimitiveArray, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, Int32Type, Int64Type, TimestampMicrosecondType};
use deltaworks_core::progress::{AppIds, valid_through_ms};
use deltaworks_core::windows::Instant;
use futures::TryStreamExt;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};

/// How much of it a second engine proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    None,
    /// All of raw and served, and what was computed of windows of the last day.
    Lately,
    All,
}

/// What was served when all was at rest last, by aggregate.
#[derive(Debug, Default)]
pub struct Truth {
    settled: BTreeMap<&'static str, Windows>,
    /// How often there was what there is to be seen, so that nothing passes because it never came.
    pub seen: BTreeMap<&'static str, usize>,
}

/// What must be seen.
pub const SIGHTS: [&str; 11] = [
    "copies",
    "dates removed",
    "dates restored",
    "late rows",
    "open windows",
    "repeats",
    "restated windows",
    "rows of files",
    "rows of fills",
    "settled windows",
    "windows proved",
];

/// A served row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    values: (Option<i64>, Option<i64>, i64, i64, i64),
    state: String,
}

type Served = BTreeMap<Key, Seen>;
type Place = (String, i32, i64);

impl Truth {
    /// Brings all to rest, and fails with what is not as it must be.
    pub async fn check(&mut self, world: &World, proof: Proof) {
        world.end_transactions();
        let job = Job { world, lake: &world.lake };
        job.stream().await.unwrap_or_else(|error| panic!("stream at rest: {error:?}"));
        job.catch_up(false).await.unwrap_or_else(|error| panic!("speed at rest: {error:?}"));
        job.batch(false, false).await.unwrap_or_else(|error| panic!("batch at rest: {error:?}"));
        job.reconcile().await.unwrap_or_else(|error| panic!("reconcile at rest: {error:?}"));
        if proof != Proof::None {
            assert!(job.reconcile().await.unwrap(), "reconciling again changes something");
        }
        let Some(facts) = facts(world).await else { return };
        all_is_somewhere(world, &facts).await;
        self.see(&facts);
        for aggregate in AGGREGATES {
            let before = self.settled.remove(aggregate.name).unwrap_or_default();
            let expected = facts.expected(&aggregate, &before);
            let served = served(&world.lake, aggregate.name).await;
            compare(aggregate.name, &served, &expected, &before, &facts);
            self.saw("restated windows", served.values().filter(|seen| seen.state == "restated").count());
            self.saw("open windows", expected.open.len());
            self.saw("settled windows", expected.settled.len());
            self.settled.insert(aggregate.name, expected.settled);
        }
        // where nothing was landed there is nothing to prove
        if !facts.rows.is_empty() && proof != Proof::None {
            let proved = prove(world, proof).await;
            self.saw("windows proved", proved);
        }
    }

    fn saw(&mut self, what: &'static str, times: usize) {
        *self.seen.entry(what).or_default() += times;
    }

    fn see(&mut self, facts: &Facts) {
        let rows = |is: fn(&&Row) -> bool| facts.rows.iter().filter(is).count();
        let late = |row: &&Row| row.behind_ms.is_some_and(|behind| behind > LATENESS_MS);
        self.saw("late rows", rows(late));
        self.saw("repeats", rows(|row| row.repeat == Some(true)));
        self.saw("rows of fills", rows(|row| row.fill.is_some()));
        self.saw("rows of files", rows(|row| row.topic != TOPIC));
        self.saw("copies", facts.copies().into_iter().filter(|is_copy| *is_copy).count());
        self.saw("dates removed", usize::from(facts.removed.through.is_some()));
        self.saw("dates restored", facts.removed.restored.len());
    }
}

/// Fails if dates went that were needed for windows that are not complete yet.
pub async fn no_window_is_frozen_too_early(world: &World) {
    let Some(facts) = facts(world).await else { return };
    let early: Vec<_> = AGGREGATES.iter().filter_map(|of| Some((of.name, facts.frozen_too_early(of)?))).collect();
    assert!(early.is_empty(), "{:?} went, and can never be complete: {early:?}", facts.removed);
}

/// `None` where there is no raw table yet.
async fn facts(world: &World) -> Option<Facts> {
    let raw = world.lake.open_table(&raw_name(world.pipeline())).await.unwrap()?;
    let progress = AppIds::new("events").read(&world.pipeline().topic, raw.txns());
    let through_us = valid_through_ms(&progress, LATENESS_MS).map_or(i64::MIN, |ms| ms * 1_000);
    let nexts = progress.partitions.iter().map(|(partition, at)| (*partition, at.next.0)).collect();
    Some(Facts { rows: rows_of(&raw).await, nexts, through_us, removed: removed_from("events", &raw) })
}

/// How many windows were proved.
async fn prove(world: &World, proof: Proof) -> usize {
    let mut options = ProveOptions::default();
    if proof == Proof::Lately {
        options.interval.from = Some(Instant::of_ms(world.now_ms() - DAY_MS));
    }
    let report = prove_on(&world.lake, &world.settings, &options, &world.clock()).await.unwrap();
    assert!(report.error().is_none(), "{:?}: {report:#?}", report.error());
    let checks = report.checks.iter().filter(|check| check.check == "windows" && check.verdict == Verdict::Proved);
    checks.map(|check| check.compared.values().sum::<u64>() as usize).sum()
}

/// Every message that was read, and every row of a file, is in raw or in rejects as it was sent, or was left out,
/// forgotten or removed.
async fn all_is_somewhere(world: &World, facts: &Facts) {
    let sent = world.sent();
    let mut places = BTreeSet::new();
    for row in &facts.rows {
        assert!(places.insert((row.topic.clone(), row.partition, row.offset)), "twice in raw: {row:?}");
        let of_row = Event { id: row.id.clone(), at_us: row.at_us, value: row.value, key: row.key.clone() };
        if row.topic != TOPIC {
            let file = world.files.iter().find(|file| file.url == row.topic).unwrap_or_else(|| panic!("{row:?}"));
            assert_eq!(file.events.get(row.offset as usize), Some(&of_row), "{row:?}");
            continue;
        }
        let message = sent.get(&(row.partition, row.offset)).unwrap_or_else(|| panic!("never sent: {row:?}"));
        assert_eq!(message.payload.as_deref().and_then(Event::of), Some(of_row), "{row:?}");
        assert_eq!(message.time_ms.map(|ms| ms * 1_000), row.kafka_us, "{row:?}");
    }
    places.extend(rejected(world).await);
    let is_excused = |event: &Event| {
        let date = jiff::Timestamp::from_microsecond(event.at_us).unwrap().to_zoned(TimeZone::UTC).date();
        // also where the date was brought back: the archive has not what came after it
        facts.removed.through.is_some_and(|through| date <= through) || world.was_forgotten(event)
    };
    for ((partition, offset), message) in &sent {
        let is_read = facts.nexts.get(partition).is_some_and(|next| offset < next);
        let Some(payload) = message.payload.as_deref().filter(|_| is_read) else { continue };
        let place = (TOPIC.to_owned(), *partition, *offset);
        let is_somewhere = places.contains(&place)
            || world.was_skipped(*partition, *offset)
            || Event::of(payload).is_some_and(|event| is_excused(&event));
        assert!(is_somewhere, "{place:?} is nowhere: {}", String::from_utf8_lossy(payload));
    }
    for file in world.filled() {
        for (event, offset) in file.events.iter().zip(0..) {
            let is_somewhere = places.contains(&(file.url.clone(), -1, offset)) || is_excused(event);
            assert!(is_somewhere, "row {offset} of {} is nowhere: {event:?}", file.url);
        }
    }
}

fn compare(aggregate: &str, served: &Served, expected: &Expected, before: &Windows, facts: &Facts) {
    let zone = TimeZone::get(ZONE).unwrap();
    let mut wrong = Vec::new();
    for (key, values) in &expected.settled {
        match served.get(key) {
            Some(seen) if seen.values != some(*values) => wrong.push(format!("{key:?} is {seen:?}, not {values:?}")),
            Some(seen) if seen.state == "provisional" => wrong.push(format!("{key:?} is provisional, and covered")),
            Some(seen) if before.get(key).is_some_and(|was| was != values) && seen.state != "restated" => {
                wrong.push(format!("{key:?} has changed and is {}", seen.state));
            }
            Some(_) => {}
            None => wrong.push(format!("{key:?} is missing: {values:?}")),
        }
    }
    for (key, values) in &expected.open {
        // of a unit that can never be computed, what speed shows is all that there is
        match served.get(key) {
            _ if facts.is_frozen(key, &zone) => {}
            Some(seen) if seen.values != some(*values) => {
                wrong.push(format!("open {key:?} is {seen:?}, not {values:?}"))
            }
            Some(seen) if seen.state != "provisional" => wrong.push(format!("open {key:?} is {}", seen.state)),
            Some(_) => {}
            None => wrong.push(format!("open {key:?} is missing: {values:?}")),
        }
    }
    for (key, seen) in served {
        let is_known = expected.settled.contains_key(key) || expected.open.contains_key(key);
        let is_left = seen.state == "provisional" && facts.is_frozen(key, &zone);
        if !is_known && !is_left {
            wrong.push(format!("{key:?} should not be there: {seen:?}"));
        }
    }
    wrong.truncate(10);
    assert!(wrong.is_empty(), "{aggregate}: {wrong:#?}");
}

fn some(values: (i64, i64, i64, i64, i64)) -> (Option<i64>, Option<i64>, i64, i64, i64) {
    (Some(values.0), Some(values.1), values.2, values.3, values.4)
}

/// Every row of raw.
pub async fn rows_of(raw: &Table) -> Vec<Row> {
    let columns = [
        "_topic",
        "_partition",
        "_offset",
        "_kafka_time",
        "id",
        "at",
        "value",
        "key",
        "_behind_ms",
        "_repeat",
        "_fill",
    ];
    let mut rows = Vec::new();
    for batch in batches(raw, &columns).await {
        let (topics, ids, keys) =
            (texts(&batch, "_topic").unwrap(), texts(&batch, "id").unwrap(), texts(&batch, "key").unwrap());
        let repeats = batch["_repeat"].as_boolean();
        for n in 0..batch.num_rows() {
            rows.push(Row {
                topic: topics.value(n).to_owned(),
                partition: int::<Int32Type>(&batch, "_partition", n).unwrap(),
                offset: int::<Int64Type>(&batch, "_offset", n).unwrap(),
                kafka_us: int::<TimestampMicrosecondType>(&batch, "_kafka_time", n),
                id: ids.value(n).to_owned(),
                at_us: int::<TimestampMicrosecondType>(&batch, "at", n).unwrap(),
                value: int::<Int64Type>(&batch, "value", n).unwrap(),
                key: keys.is_valid(n).then(|| keys.value(n).to_owned()),
                behind_ms: int::<Int64Type>(&batch, "_behind_ms", n),
                repeat: repeats.is_valid(n).then(|| repeats.value(n)),
                fill: int::<Int64Type>(&batch, "_fill", n),
            });
        }
    }
    rows
}

async fn rejected(world: &World) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    let Some(table) = world.lake.open_table(&rejects_name(world.pipeline())).await.unwrap() else { return places };
    for batch in batches(&table, &["_topic", "_partition", "_offset"]).await {
        let topics = texts(&batch, "_topic").unwrap();
        for n in 0..batch.num_rows() {
            let partition = int::<Int32Type>(&batch, "_partition", n).unwrap();
            let place = (topics.value(n).to_owned(), partition, int::<Int64Type>(&batch, "_offset", n).unwrap());
            assert!(places.insert(place.clone()), "{place:?} is in rejects twice");
        }
    }
    places
}

async fn served(lake: &Lake, aggregate: &str) -> Served {
    let mut rows = Served::new();
    let Some(table) = lake.open_table(&served_name(aggregate)).await.unwrap() else { return rows };
    let columns = ["window_start", "key", "total", "greatest", "events", "late", "duplicates", "state"];
    for file in table.live_files().await.unwrap() {
        let granularity = file.partition_values["granularity"].clone().unwrap();
        for batch in table.read_file(&file, &columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
            let (keys, states) = (texts(&batch, "key").unwrap(), texts(&batch, "state").unwrap());
            for n in 0..batch.num_rows() {
                let start = int::<TimestampMicrosecondType>(&batch, "window_start", n).unwrap();
                let key = (granularity.clone(), start, keys.is_valid(n).then(|| keys.value(n).to_owned()));
                let of = |name| int::<Int64Type>(&batch, name, n);
                let values = (
                    of("total"),
                    of("greatest"),
                    of("events").unwrap(),
                    of("late").unwrap(),
                    of("duplicates").unwrap(),
                );
                let seen = Seen { values, state: states.value(n).to_owned() };
                assert!(rows.insert(key.clone(), seen).is_none(), "{aggregate} {key:?} is served twice");
            }
        }
    }
    rows
}

async fn batches(table: &Table, columns: &[&str]) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for file in table.live_files().await.unwrap() {
        batches.extend(table.read_file(&file, columns).await.unwrap().try_collect::<Vec<_>>().await.unwrap());
    }
    batches
}

fn int<T: ArrowPrimitiveType>(batch: &RecordBatch, name: &str, row: usize) -> Option<T::Native> {
    let column: &PrimitiveArray<T> = primitive(batch, name).unwrap();
    column.is_valid(row).then(|| column.value(row))
}

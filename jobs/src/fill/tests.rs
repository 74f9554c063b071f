//! Fills beside the stream and beside each other: each place once, and `prove` agrees with every commit.

use super::{Added, Filler, Part, Progress, Pushed, Stamper};
use crate::batch::tests::kit::{Kit, committed, date_of};
use crate::clock::Clock;
use crate::error::Class;
use crate::kafka::message::{Chunk, Message};
use crate::lake::faults::{Fault, Script, commits_of};
use crate::lake::{Commit, Lake, TableName};
use crate::land::rows::encode_split;
use crate::land::tables::{raw_partition_columns, raw_profile, rejects_table};
use crate::prove::{ProveOptions, prove_on};
use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use deltaworks_core::commit_info::{Identity, PartitionEntry, RawCommit};
use deltaworks_core::place::Offset;
use deltaworks_core::progress::{AppIds, Progress as Reached};
use deltaworks_core::tally::{Fate, Tally};
use deltaworks_core::units::Interval;
use futures::TryStreamExt;
use proptest::prelude::*;
use rstest::rstest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

const HOUR_US: i64 = 3_600_000_000;

/// Place, and the fill that wrote the row.
type Rows = BTreeMap<(String, i32, i64), Option<i64>>;

/// A pipeline whose stream a test plays.
struct Place {
    kit: Kit,
    sequence: AtomicI64,
}

/// What the messages of a range of offsets are.
fn fate(offset: i64) -> Fate {
    match offset % 5 {
        3 => Fate::Skipped,
        4 => Fate::Rejected,
        _ => Fate::Landed,
    }
}

fn payload(offset: i64) -> String {
    let at = jiff::Timestamp::from_microsecond(1_700_000_000_000_000 + offset * HOUR_US).unwrap();
    format!(r#"{{"id":"id-{offset}","at":"{at}","value":{offset},"key":null}}"#)
}

fn chunk(partition: i32, messages: &[(i64, String)]) -> Chunk {
    let mut chunk = Chunk { clock_ms: 1_800_000_000_000, ..Chunk::default() };
    for (offset, payload) in messages {
        chunk.push(partition, *offset, None, None, Some(payload.as_bytes()), []);
    }
    chunk
}

impl Place {
    fn new() -> Self {
        Self { kit: Kit::new(&[]), sequence: AtomicI64::new(0) }
    }

    fn lake(&self) -> &Lake {
        &self.kit.lake
    }

    /// As the stream would land a range of offsets of one partition.
    async fn stream(&self, partition: i32, to: i64) {
        let pipeline = self.kit.pipeline();
        let mut raw = self.kit.raw().await;
        let ids = AppIds::new("events");
        let from = ids.next_of("events", partition, raw.txns()).map_or(0, |next| next.0);
        let mut tally = Tally::at(Offset(from));
        let mut stamper = Stamper::new(pipeline, "events").unwrap();
        for offset in from..to {
            tally.count(Offset(offset), fate(offset)).unwrap();
            let bad = fate(offset) == Fate::Rejected;
            let chunk = chunk(partition, &[(offset, if bad { "{".into() } else { payload(offset) })]);
            for message in chunk.iter().filter(|_| fate(offset) != Fate::Skipped) {
                if let Pushed::Refused(refusal) = stamper.push(&message).unwrap() {
                    stamper.reject(&message, &refusal).unwrap();
                }
            }
        }
        let (rows, rejects) = stamper.finish().unwrap();
        let identity = Identity { run_id: "stream".into(), sequence: self.sequence.fetch_add(1, Relaxed) as u64 };
        if !rejects.is_empty() {
            let mut table = self.lake().ensure_table(&rejects_table(pipeline)).await.unwrap();
            let adds =
                super::filler::put(&table, rejects, vec!["reject_date".into()], crate::land::tables::rejects_profile());
            let mut commit = Commit::new("WRITE", &identity).unwrap();
            commit.adds = adds.await.unwrap();
            commit.txns = vec![(ids.rejects("events", partition), table.version() + 1)];
            committed(table.commit(commit).await);
        }
        let mut dates = BTreeMap::new();
        for batch in &rows {
            for (date, sum) in crate::checksum::by_date(batch, "event_date").unwrap() {
                let entry: &mut crate::checksum::RowSum = dates.entry(date).or_default();
                entry.merge(sum);
            }
        }
        let entry = PartitionEntry { partition, tally, frontier_ms: None, reached_ms: None, seen_ms: None };
        let info = RawCommit {
            identity,
            pipeline: "events".into(),
            topic: "events".into(),
            partitions: vec![entry],
            dates: crate::checksum::entries(&dates),
        };
        let mut commit = Commit::new("WRITE", &info).unwrap();
        for (values, file) in encode_split(rows, &raw_partition_columns(pipeline), &raw_profile(pipeline)).unwrap() {
            commit.adds.push(raw.sink().put(values, file).await.unwrap());
        }
        let reached = Reached { next: Offset(to), frontier_ms: None, reached_ms: None, seen_ms: None };
        commit.txns = ids.write("events", partition, &reached);
        committed(raw.commit(commit).await);
    }

    async fn filler(&self, run_id: &str) -> Filler {
        Filler::open(self.lake(), self.kit.pipeline(), run_id).await.unwrap()
    }

    /// Messages as they are, none of them broken, or each as a reject.
    fn part(&self, topic: &str, partition: i32, good: &[i64], bad: &[i64]) -> Part {
        let mut stamper = Stamper::new(self.kit.pipeline(), topic).unwrap();
        let messages: Vec<_> = good.iter().map(|o| (*o, payload(*o))).collect();
        for message in chunk(partition, &messages).iter() {
            assert_eq!(stamper.push(&message).unwrap(), Pushed::Row);
        }
        let messages: Vec<_> = bad.iter().map(|o| (*o, "[".to_owned())).collect();
        for message in chunk(partition, &messages).iter() {
            let Pushed::Refused(refusal) = stamper.push(&message).unwrap() else { panic!("it is broken") };
            stamper.reject(&message, &refusal).unwrap();
        }
        let (rows, rejects) = stamper.finish().unwrap();
        Part { source: "test".into(), rows, rejects, ..Part::default() }
    }

    /// Every row of a table by place; fails if one is there twice.
    async fn rows(&self, layer: &str) -> Rows {
        let mut rows = Rows::new();
        let Some(table) = self.lake().open_table(&TableName::new(layer, "events")).await.unwrap() else { return rows };
        for file in table.live_files().await.unwrap() {
            let mut batches = table.read_file(&file, &["_topic", "_partition", "_offset", "_fill"]).await.unwrap();
            while let Some(batch) = batches.try_next().await.unwrap() {
                let (topics, partitions) = (batch["_topic"].as_string::<i32>(), batch["_partition"].as_primitive());
                let (partitions, fills) = (
                    partitions as &arrow::array::PrimitiveArray<Int32Type>,
                    batch["_fill"].as_primitive::<Int64Type>(),
                );
                for row in 0..batch.num_rows() {
                    let offset = batch["_offset"].as_primitive::<Int64Type>().value(row);
                    let fill = arrow::array::Array::is_valid(fills, row).then(|| fills.value(row));
                    let place = (topics.value(row).to_owned(), partitions.value(row), offset);
                    assert!(rows.insert(place.clone(), fill).is_none(), "{place:?} is there twice");
                }
            }
        }
        rows
    }

    async fn prove(&self) {
        let options = ProveOptions { names: vec!["events".into()], offline: true, interval: Interval::default() };
        let clock = Clock::of(|| 1_800_000_000_000);
        let report = prove_on(self.lake(), &self.kit.settings, &options, &clock).await.unwrap();
        assert!(report.error().is_none(), "{:?}", report.error());
        assert!(report.compared.get("rows").copied().unwrap_or(0) > 0, "nothing was compared");
    }
}

fn filled(rows: &Rows) -> Vec<(i32, i64, i64)> {
    rows.iter().filter_map(|((_, p, o), fill)| Some((*p, *o, (*fill)?))).collect()
}

#[tokio::test]
async fn a_place_that_is_there_adds_nothing() {
    let place = Place::new();
    place.stream(0, 20).await;
    place.stream(1, 10).await;
    let mut filler = place.filler("a").await;
    // 0 and 1 landed, 3 was skipped, 4 and 9 are rejects
    let part = place.part("events", 0, &[0, 1, 3, 4], &[7, 9]);
    let added = filler.add(&part).await.unwrap();
    // 7 landed by the stream: it is no reject
    let expected = Added { fill: Some(1), version: Some(3), landed: 2, already: 2, rejected: 0, elsewhere: false };
    assert_eq!(added, expected);
    assert_eq!(filled(&place.rows("raw").await), [(0, 3, 1), (0, 4, 1)]);
    let added = filler.add(&part).await.unwrap();
    assert_eq!((added.fill, added.version, added.landed, added.already), (None, None, 0, 4));
    // a message that was left out is rejected now
    let added = filler.add(&place.part("events", 1, &[], &[3])).await.unwrap();
    assert_eq!((added.version, added.rejected), (None, 1));
    assert_eq!(filled(&place.rows("rejects").await), [(1, 3, 2)]);
    filler.end().await;
    place.prove().await;
    place.stream(0, 40).await;
    place.prove().await;
}

#[tokio::test]
async fn a_place_that_comes_twice_in_a_part_is_kept_once() {
    let place = Place::new();
    place.stream(0, 10).await;
    let mut filler = place.filler("a").await;
    let added = filler.add(&place.part("events", 0, &[3, 3, 7, 3], &[])).await.unwrap();
    assert_eq!((added.landed, added.already), (1, 3));
    place.prove().await;
}

#[tokio::test]
async fn what_the_stream_has_yet_to_read_is_refused() {
    let place = Place::new();
    place.stream(0, 10).await;
    let mut filler = place.filler("a").await;
    let error = filler.add(&place.part("events", 0, &[3, 10], &[])).await.unwrap_err();
    assert_eq!(error.message, "events/0@10 is not below 10, the next offset to land");
    assert!(filler.add(&place.part("events", 1, &[0], &[])).await.is_err());
    assert_eq!(filled(&place.rows("raw").await), []);
}

#[tokio::test]
async fn progress_moves_with_the_rows_and_only_from_where_it_stands() {
    let place = Place::new();
    let (mut one, mut two) = (place.filler("a").await, place.filler("b").await);
    let progress = |from, to| Some(Progress { app_id: AppIds::new("events").backfill("x"), from, to });
    let part = Part { progress: progress(0, 1), ..place.part("file:///a.jsonl", -1, &[0, 1, 2], &[3]) };
    let added = one.add(&part).await.unwrap();
    assert_eq!((added.fill, added.landed, added.rejected), (Some(1), 3, 1));
    let added = two.add(&part).await.unwrap();
    assert!(added.elsewhere && added.version.is_none(), "{added:?}");
    // a file without rows moves progress all the same, and is no fill
    let nothing = Part { progress: progress(1, 2), ..place.part("file:///b.jsonl", -1, &[], &[]) };
    let added = two.add(&nothing).await.unwrap();
    assert_eq!((added.fill, added.landed, added.version.is_some()), (None, 0, true));
    assert!(one.add(&nothing).await.unwrap().elsewhere);
    // what one has not read itself
    let more = Part { progress: progress(2, 3), ..place.part("file:///a.jsonl", -1, &[2, 3, 4], &[]) };
    let added = one.add(&more).await.unwrap();
    assert_eq!((added.landed, added.already), (2, 1));
    place.prove().await;
}

#[rstest]
#[case::lost_reply(Fault::LoseReply, "raw/events", 0)]
#[case::reply_taken(Fault::AnswerTaken, "raw/events", 0)]
#[case::never_sent(Fault::DropPut, "raw/events", 0)]
#[case::rejects_lost_reply(Fault::LoseReply, "rejects/events", 0)]
#[case::rejects_reply_taken(Fault::AnswerTaken, "rejects/events", 0)]
#[case::rejects_never_sent(Fault::DropPut, "rejects/events", 0)]
#[case::second_fill(Fault::LoseReply, "raw/events", 1)]
#[tokio::test]
async fn a_fill_survives_a_store_that_lies(#[case] fault: Fault, #[case] table: &'static str, #[case] skip: usize) {
    let place = Place::new();
    place.stream(0, 20).await;
    let mut script = Script::new();
    let count = script.add(fault, commits_of(table), skip, 1);
    let lake = Lake::open(&place.kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let mut filler = Filler::open(&lake, place.kit.pipeline(), "a").await.unwrap();
    let added = filler.add(&place.part("events", 0, &[3, 4], &[13])).await.unwrap();
    assert_eq!((added.fill, added.landed, added.rejected), (Some(1), 2, 1));
    let added = filler.add(&place.part("events", 0, &[3, 4, 7, 9], &[18])).await.unwrap();
    assert_eq!((added.fill, added.landed, added.already, added.rejected), (Some(2), 1, 3, 1));
    assert_eq!(count.fired(), 1);
    assert_eq!(filled(&place.rows("raw").await), [(0, 3, 1), (0, 4, 1), (0, 9, 2)]);
    assert_eq!(filled(&place.rows("rejects").await), [(0, 13, 1), (0, 18, 2)]);
    place.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_fillers_at_once() {
    let place = Place::new();
    place.stream(0, 400).await;
    let all: Vec<i64> = (0..400).collect();
    let parts: Vec<Part> = all.chunks(40).map(|some| place.part("events", 0, some, &[])).collect();
    let fill = |run_id: &'static str| {
        let (place, parts) = (&place, &parts);
        async move {
            let mut filler = place.filler(run_id).await;
            let mut landed = 0;
            for part in parts {
                landed += filler.add(part).await.unwrap().landed;
            }
            landed
        }
    };
    let (a, b, c) = tokio::join!(fill("a"), fill("b"), fill("c"));
    // the skipped and the rejected ones
    assert_eq!(a + b + c, 160);
    assert_eq!(filled(&place.rows("raw").await).len(), 160);
    place.prove().await;
}

#[tokio::test]
async fn a_fill_whose_commit_comes_after_the_streams_lands_behind_it() {
    let place = Place::new();
    place.stream(0, 10).await;
    // the filler's first look at the log fails to see the commit that the stream makes after it
    let mut script = Script::new();
    let count = script.add(Fault::DropPut, commits_of("raw/events"), 0, 1);
    let lake = Lake::open(&place.kit.settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let mut filler = Filler::open(&lake, place.kit.pipeline(), "a").await.unwrap();
    let part = place.part("events", 0, &[3, 4], &[]);
    let fill = filler.add(&part);
    let stream = async {
        count.until_fired(1).await;
        place.stream(0, 20).await;
    };
    let (added, ()) = tokio::join!(fill, stream);
    let added = added.unwrap();
    assert_eq!((added.fill, added.landed), (Some(1), 2));
    assert_eq!(added.version, Some(3), "the stream's second commit came before");
    place.prove().await;
}

#[derive(Debug, Clone)]
enum Step {
    Stream { partition: i32, more: i64 },
    Fill { by: usize, topic: u8, from: i64, offsets: Vec<i64> },
    Compact { hour: i64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..2, 1..12_i64).prop_map(|(partition, more)| Step::Stream { partition, more }),
        (0..2_usize, 0..4_u8, 0..40_i64, prop::collection::vec(0..12_i64, 0..8))
            .prop_map(|(by, topic, from, offsets)| Step::Fill { by, topic, from, offsets }),
        (0..40_i64).prop_map(|hour| Step::Compact { hour }),
    ];
    prop::collection::vec(step, 1..12)
}

/// Every place that the stream has landed, with what fills have added.
async fn play(steps: Vec<Step>) {
    let place = Place::new();
    place.stream(0, 5).await;
    let mut fillers = [place.filler("a").await, place.filler("b").await];
    let mut next = [5, 0];
    let mut model: BTreeSet<(String, i32, i64)> = (0..5).map(|o| ("events".to_owned(), 0, o)).collect();
    model.retain(|(_, _, o)| fate(*o) == Fate::Landed);
    for step in steps {
        match step {
            Step::Stream { partition, more } => {
                let at = &mut next[partition as usize];
                let range = *at..*at + more;
                *at = range.end;
                place.stream(partition, range.end).await;
                let landed = range.filter(|o| fate(*o) == Fate::Landed);
                model.extend(landed.map(|o| ("events".to_owned(), partition, o)));
            }
            Step::Fill { by, topic, from, offsets } => {
                let (name, partition) = match topic {
                    0 | 1 => ("events", i32::from(topic)),
                    2 => ("file:///a.jsonl", -1),
                    _ => ("file:///another.jsonl", -1),
                };
                let end = if partition < 0 { i64::MAX } else { next[partition as usize] };
                let good: Vec<i64> = offsets.iter().map(|o| from + o).filter(|o| *o < end).collect();
                let added = fillers[by].add(&place.part(name, partition, &good, &[])).await.unwrap();
                let before = model.len();
                model.extend(good.iter().map(|o| (name.to_owned(), partition, *o)));
                assert_eq!(added.landed as usize, model.len() - before);
                assert_eq!(added.landed + added.already, good.len() as u64);
            }
            Step::Compact { hour } => place.kit.compact(&date_of(1_700_000_000_000_000 + hour * HOUR_US)).await,
        }
    }
    assert_eq!(place.rows("raw").await.into_keys().collect::<BTreeSet<_>>(), model);
    place.prove().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 60, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_leaves_each_place_once(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(steps));
    }
}

#[test]
fn a_message_outside_the_stream_is_judged_as_the_stream_does() {
    let place = Place::new();
    let mut stamper = Stamper::new(place.kit.pipeline(), "events").unwrap();
    let messages = chunk(0, &[(7, payload(7)), (8, r#"{"id":"x"}"#.into())]);
    let pushed: Vec<Pushed> = messages.iter().map(|m: Message<'_>| stamper.push(&m).unwrap()).collect();
    assert!(matches!(&pushed[..], [Pushed::Row, Pushed::Refused(_)]), "{pushed:?}");
    assert!(stamper.bytes() > 0);
    let (rows, rejects) = stamper.finish().unwrap();
    assert!(rejects.is_empty());
    for column in ["_behind_ms", "_repeat", "_fill"] {
        assert_eq!(rows[0][column].null_count(), 1, "{column}");
    }
    assert_eq!(stamper.finish().unwrap().0.len(), 0);
}

#[tokio::test]
async fn a_pipeline_without_progress_takes_files_and_no_messages() {
    let place = Place::new();
    let mut filler = place.filler("a").await;
    assert_eq!(filler.add(&place.part("events", 0, &[0], &[])).await.unwrap_err().class, Class::Internal);
    let added = filler.add(&place.part("file:///a.jsonl", -1, &[0], &[])).await.unwrap();
    assert_eq!(added.landed, 1);
}

//! Offsets moved on a lake in memory, beside a stream and through a store that loses requests and replies.

use super::{Act, Reread, RewindOptions, SkipReport, Target, Targets, plan_on, plan_skip_on, rewind_on, skip_on};
use crate::error::{Class, Result};
use crate::fill::kafka::{PassedRange, Ranges, Reading, below_next};
use crate::kafka::watermarks::Watermarks;
use crate::lake::faults::{Fault, Script, commits_of};
use crate::lake::{Commit, CommitOutcome, Lake};
use crate::land::{DataLoss, Start, StreamOptions, stream_on};
use crate::rejects::Filter;
use crate::rejects::tests::kit::{Kit, NOW_MS, PARTITIONS, Place, TOPIC};
use arrow::array::AsArray;
use deltaworks_core::commit_info::Identity;
use deltaworks_core::place::OffsetRange;
use deltaworks_core::progress::{AppIds, Progress};
use rstest::rstest;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn to(partition: i32, offset: i64) -> Targets {
    Targets { partitions: Some(vec![partition]), to: Target::Offset(offset) }
}

impl Kit {
    async fn skip_with(&self, lake: &Lake, targets: &Targets) -> Result<SkipReport> {
        skip_on(lake, &self.settings, self.pipeline(), targets, &self.run_id(), &Self::clock()).await
    }

    async fn rewind_with(&self, lake: &Lake, targets: Targets, dry_run: bool) -> Reread {
        let (options, stop) = (RewindOptions { run_id: self.run_id(), targets, dry_run }, CancellationToken::new());
        rewind_on(lake, &self.settings, self.pipeline(), &options, &Self::clock(), &stop).await
    }

    async fn rewind(&self, partition: i32, offset: i64) -> Reread {
        let report = self.rewind_with(&self.lake, to(partition, offset), false).await;
        assert!(report.error.is_none(), "{report:?}");
        report
    }

    async fn progress(&self) -> BTreeMap<i32, Progress> {
        let raw = self.table("raw", "events").await.unwrap();
        AppIds::new("events").read(TOPIC, raw.txns()).partitions
    }

    async fn nexts(&self) -> Vec<i64> {
        self.progress().await.values().map(|at| at.next.0).collect()
    }

    /// Job and verdict of every row of `ops.runs`, by time of commit.
    async fn audit(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        for batch in self.rows("ops", "runs", &["job", "verdict", "detail"]).await {
            let text = |name: &str| batch[name].as_string::<i32>().value(0).to_owned();
            assert!(text("detail").contains("partition"), "{batch:?}");
            rows.push((text("job"), text("verdict")));
        }
        rows.sort();
        rows
    }
}

fn audited(job: &str, times: usize) -> Vec<(String, String)> {
    let rows = ["begun", "done"].into_iter().flat_map(|verdict| std::iter::repeat_n(verdict, times));
    rows.map(|verdict| (job.to_owned(), verdict.to_owned())).collect()
}

/// Twelve events, six in each partition, of which the first four are landed.
async fn begun() -> (Kit, Vec<Place>) {
    let kit = Kit::new();
    let mut places = kit.send_values(&[1, 200, 2, 3]);
    kit.land().await;
    places.extend(kit.send_values(&[4, 5, 300, 6, 7, 8, 9, 10]));
    (kit, places)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_says_what_each_way_costs() {
    let (kit, _) = begun().await;
    let plan = async |targets| plan_on(&kit.lake, &kit.settings, kit.pipeline(), &targets).await;
    let plans = plan(Targets { partitions: None, to: Target::Offset(5) }).await.unwrap();
    let shown: Vec<_> = plans.iter().map(|p| (p.act, p.low, p.next, p.high, p.loses, p.reads)).collect();
    assert_eq!(shown, [(Act::Skip, 0, 2, 6, 3, 0); 2]);
    let sent = |n: i64| jiff::Timestamp::from_millisecond(NOW_MS - 60_000 + n).ok().map(|at| at.to_string());
    assert_eq!((plans[0].first_time.clone(), plans[0].last_time.clone()), (sent(0), sent(4)));
    let back = plan(to(1, 0)).await.unwrap().remove(0);
    assert_eq!((back.act, back.reads, back.duplicates, back.loses), (Act::Rewind, 2, 0, 0));
    assert_eq!(plan(to(0, 2)).await.unwrap()[0].act, Act::Nothing);
    assert_eq!(plan(to(7, 2)).await.unwrap_err().class, Class::User);
    assert_eq!(kit.audit().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skip_leaves_out_what_it_says_and_stays_provable() {
    let (kit, places) = begun().await;
    let before = kit.progress().await;
    let done = kit.skip_with(&kit.lake, &to(0, 4)).await.unwrap();
    assert_eq!((done.partitions.len(), done.partitions[0].from, done.partitions[0].to), (1, 2, 4), "{done:?}");
    let after = kit.progress().await;
    assert_eq!((after[&0].next.0, after[&1]), (4, before[&1]));
    assert_eq!((after[&0].frontier_ms, after[&0].reached_ms), (before[&0].frontier_ms, before[&0].reached_ms));
    assert_eq!(after[&0].seen_ms, Some(NOW_MS - 60_000 + 2), "the stream knows its log again");
    assert_eq!(kit.audit().await, audited("offsets skip", 1));
    kit.land().await;
    let skipped = [places[4], places[6]];
    let raw = kit.raw().await;
    assert!(skipped.iter().all(|place| !raw.contains_key(place)), "{raw:?}");
    assert_eq!((raw.len(), kit.rejected().await.len(), kit.nexts().await), (9, 1, vec![6, 6]));
    kit.prove().await;
    let again = kit.skip_with(&kit.lake, &to(0, 6)).await.unwrap();
    assert!(again.version.is_none() && kit.audit().await == audited("offsets skip", 1), "{again:?}");
}

#[rstest]
#[case::behind(0, 1, Class::User, "cannot be skipped")]
#[case::negative(0, -1, Class::User, "cannot be skipped")]
#[case::ahead(0, 7, Class::User, "does not exist yet")]
#[case::unknown(2, 1, Class::User, "has landed nothing of partition 2")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skip_that_cannot_be_is_refused(
    #[case] partition: i32,
    #[case] offset: i64,
    #[case] class: Class,
    #[case] says: &str,
) {
    let (kit, _) = begun().await;
    for refused in [
        plan_skip_on(&kit.lake, &kit.settings, kit.pipeline(), &to(partition, offset)).await.map(drop),
        kit.skip_with(&kit.lake, &to(partition, offset)).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(error.class == class && error.message.contains(says), "{error}");
    }
    assert_eq!((kit.nexts().await, kit.audit().await), (vec![2, 2], vec![]));
}

#[rstest]
#[case::lost(Fault::DropPut)]
#[case::reply(Fault::LoseReply)]
#[case::taken(Fault::AnswerTaken)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skip_is_made_once_whatever_the_store_says(#[case] fault: Fault) {
    let (kit, _) = begun().await;
    let mut script = Script::new();
    let fired = script.add(fault, commits_of("raw/events"), 0, 1);
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let before = kit.table("raw", "events").await.unwrap().version();
    let done = kit.skip_with(&faulty, &to(0, 4)).await.unwrap();
    assert_eq!((fired.fired(), done.version), (1, Some(before + 1)), "{done:?}");
    assert_eq!((kit.nexts().await, kit.table("raw", "events").await.unwrap().version()), (vec![4, 2], before + 1));
    kit.land().await;
    kit.prove().await;
}

/// What a stream that died had rejected in the range is skipped like the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skip_over_rejects_of_a_dead_stream_stays_provable() {
    let (mut kit, _) = begun().await;
    let mut script = Script::new();
    let fired = script.add(Fault::DropPut, commits_of("raw/events"), 0, usize::MAX);
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let options = StreamOptions { give_up_after: Duration::ZERO, ..kit.stream_options() };
    let meters = [Arc::new(crate::land::meter::Meter::new("events", NOW_MS))];
    let (pipelines, stop, taps) = (&kit.settings.pipelines, CancellationToken::new(), Default::default());
    let died = stream_on(&faulty, &kit.settings, pipelines, &options, &meters, &Kit::clock(), &stop, &taps).await;
    assert!(died.error.is_some() && fired.fired() > 0 && kit.rejected().await.len() == 2);
    kit.skip_with(&kit.lake, &Targets { partitions: None, to: Target::Offset(5) }).await.unwrap();
    kit.land().await;
    kit.prove().await;
    // it stands open, and may be redriven after all
    kit.deploy("2.0.0", 1_000, "");
    assert_eq!(kit.redrive().await.landed, 2);
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_fills_in_what_is_nowhere_and_nothing_else() {
    let (mut kit, places) = begun().await;
    kit.skip_with(&kit.lake, &Targets { partitions: None, to: Target::Offset(5) }).await.unwrap();
    kit.land().await;
    let (raw, rejected, nexts) = (kit.raw().await, kit.rejected().await, kit.nexts().await);
    assert_eq!((raw.len(), rejected.len()), (5, 1));
    let planned = kit.rewind_with(&kit.lake, to(0, 0), true).await;
    assert!(planned.error.is_none() && kit.raw().await == raw && kit.audit().await.len() == 2, "{planned:?}");
    let report = kit.rewind(0, 0).await;
    assert_eq!(report.partitions, planned.partitions);
    let of = &report.partitions[0];
    assert_eq!((of.messages, of.in_raw, of.in_rejects, of.gaps, of.duplicates), (6, 3, 0, 0, 0), "{of:?}");
    assert_eq!((of.landed, of.rejected, report.landed, report.rejected), (2, 1, 2, 1), "{report:?}");
    let after = kit.raw().await;
    assert_eq!((after[&places[4]], after[&places[8]], after.len()), (Some(1), Some(1), 7));
    assert_eq!((kit.rejected().await.len(), kit.nexts().await), (2, nexts.clone()));
    kit.prove().await;

    // what is in rejects stays there: under a new contract too it is redriven, not rewound
    kit.deploy("2.0.0", 1_000, "");
    let again = kit.rewind(0, 0).await;
    assert!(again.is_idle() && again.partitions[0].in_rejects == 1, "{again:?}");
    let other = kit.rewind(1, 0).await;
    assert_eq!((other.landed, other.partitions[0].in_rejects), (3, 1), "{other:?}");
    assert_eq!((kit.raw().await.len(), kit.nexts().await), (10, nexts));
    assert_eq!(kit.redrive().await.landed, 2);
    assert_eq!(kit.raw().await.len(), 12);
    kit.prove().await;
    let all = audited("offsets rewind", 3).into_iter().chain(audited("offsets skip", 1));
    let mut all: Vec<_> = all.collect();
    all.sort();
    assert_eq!(kit.audit().await, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_discarded_is_not_rewound() {
    let (mut kit, _) = begun().await;
    kit.discard(Filter::default()).await;
    kit.deploy("2.0.0", 1_000, "");
    assert!(kit.rewind(1, 0).await.is_idle());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_rewinds_and_a_stream_at_once_land_each_message_once() {
    let kit = Kit::new();
    kit.send_values(&(0..40).collect::<Vec<_>>());
    kit.land().await;
    kit.send_values(&(0..40).collect::<Vec<_>>());
    kit.skip_with(&kit.lake, &Targets { partitions: None, to: Target::Offset(35) }).await.unwrap();
    let back = Targets { partitions: None, to: Target::Offset(0) };
    let (one, other, _) = tokio::join!(
        kit.rewind_with(&kit.lake, back.clone(), false),
        kit.rewind_with(&kit.lake, back.clone(), false),
        kit.land()
    );
    assert!(one.error.is_none() && other.error.is_none(), "{one:?} {other:?}");
    assert_eq!(one.landed + other.landed, 30, "{one:?} {other:?}");
    assert_eq!((kit.raw().await.len(), kit.nexts().await), (80, vec![40, 40]));
    kit.prove().await;
}

/// A stream that stands in the middle of the range sees that the log is elsewhere, and goes on behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_behind_a_skip() {
    let (kit, _) = begun().await;
    let mut script = Script::new();
    // the stream's rejects wait, so that the skip comes first
    let held = script.add(Fault::HoldPut, commits_of("rejects/events"), 0, 1);
    let slow = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let options = StreamOptions {
        run_id: kit.run_id(),
        start: Start::Earliest,
        data_loss: DataLoss::Stop,
        ..kit.stream_options()
    };
    let meters = [Arc::new(crate::land::meter::Meter::new("events", NOW_MS))];
    let (pipelines, stop, taps, clock) =
        (&kit.settings.pipelines, CancellationToken::new(), Default::default(), Kit::clock());
    let stream = stream_on(&slow, &kit.settings, pipelines, &options, &meters, &clock, &stop, &taps);
    let all = Targets { partitions: None, to: Target::Offset(5) };
    let skip = async {
        held.until_fired(1).await;
        let skipped = kit.skip_with(&kit.lake, &all).await.unwrap();
        held.let_one_through();
        skipped
    };
    let (report, skipped) = tokio::join!(stream, skip);
    assert!(report.error.is_none() && skipped.partitions.len() == PARTITIONS as usize, "{report:?} {skipped:?}");
    assert_eq!((kit.raw().await.len(), kit.nexts().await), (5, vec![6, 6]));
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_that_cannot_be_is_refused() {
    let (kit, _) = begun().await;
    let ahead = kit.rewind_with(&kit.lake, to(0, 5), false).await;
    assert!(ahead.error.as_ref().is_some_and(|e| e.class == Class::User && e.message.contains("has yet to read")));
    // retention cannot be played on the mock, but an offset before all can
    let gone = kit.rewind_with(&kit.lake, to(0, -3), false).await;
    assert!(gone.error.as_ref().is_some_and(|e| e.class == Class::InputLost && e.message.contains("no longer holds")));
    assert_eq!((kit.nexts().await, kit.audit().await), (vec![2, 2], vec![]));
    let nothing = kit.rewind(0, 2).await;
    assert!(nothing.is_idle() && nothing.partitions.is_empty());
}

/// Retention has removed the date since: a rewind does not bring it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_leaves_removed_dates_removed() {
    let (kit, _) = begun().await;
    kit.skip_with(&kit.lake, &Targets { partitions: None, to: Target::Offset(6) }).await.unwrap();
    let mut raw = kit.table("raw", "events").await.unwrap();
    let day = NOW_MS.div_euclid(86_400_000);
    for (through, restored, landed) in [(day, false, 0), (day, true, 7)] {
        let identity = Identity { run_id: kit.run_id(), sequence: 1 };
        let mut commit = Commit::new("RETAIN", &identity).unwrap();
        commit.txns.push(("deltaworks/events/removed_through".into(), through));
        commit.txns.extend(restored.then(|| ("deltaworks/events/restored/2026-03-01".into(), 1)));
        assert!(matches!(raw.commit(commit).await, CommitOutcome::Committed(_)));
        let report = kit.rewind_with(&kit.lake, Targets { partitions: None, to: Target::Offset(2) }, false).await;
        assert!(report.error.is_none(), "{report:?}");
        assert_eq!((report.landed, report.beyond_retention), (landed, 7 - landed), "{report:?}");
        raw.refresh().await.unwrap();
    }
    kit.prove().await;
}

/// What others fill from Kafka comes by the same ranges: each message once, in order, and none from outside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_read_once_and_no_further() {
    let (kit, _) = begun().await;
    let broker = Watermarks::open(&kit.settings.kafka).unwrap();
    let raw = kit.table("raw", "events").await.unwrap();
    let progress = AppIds::new("events").read(TOPIC, raw.txns());
    let below = |from: [(i32, i64); 2]| below_next(&broker, kit.pipeline(), &progress, &BTreeMap::from(from));
    let all = Ranges::from([(0, OffsetRange::new(1, 2)), (1, OffsetRange::new(0, 2))]);
    assert_eq!(below([(0, 1), (1, -5)]).unwrap(), all, "up to next, and from what the broker holds");
    assert_eq!(below([(0, 1), (7, 0)]).unwrap_err().class, Class::User);
    let ranges = Ranges::from([(0, OffsetRange::new(1, 4)), (1, OffsetRange::new(5, 6))]);
    let mut reading = Reading::begin(&kit.settings.kafka, TOPIC, ranges, false, &Kit::clock());
    let mut seen: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    while let Some(chunk) = reading.next().await.unwrap() {
        assert_eq!(chunk.clock_ms, NOW_MS);
        chunk.messages.iter().for_each(|message| seen.entry(message.partition).or_default().push(message.offset));
    }
    assert_eq!(seen, BTreeMap::from([(0, vec![1, 2, 3]), (1, vec![5])]));
    let passed = |messages| PassedRange { messages, gaps: 0 };
    assert_eq!(reading.passed(), BTreeMap::from([(0, passed(3)), (1, passed(1))]));
    let mut nothing = Reading::begin(&kit.settings.kafka, TOPIC, Ranges::new(), false, &Kit::clock());
    assert!(nothing.next().await.unwrap().is_none());
}

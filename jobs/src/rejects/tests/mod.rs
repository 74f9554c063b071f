//! Rejects settled on a lake in memory: by one run, by two at once, through a store that loses requests and replies.

pub(crate) mod kit;

use super::{DiscardOptions, Filter, RedriveOptions, discard_on, plan_redrive_on};
use crate::error::Class;
use crate::fill::{Filler, Part, Pushed, Stamper};
use crate::kafka::message::Chunk;
use crate::kafka::producer::Outgoing;
use crate::lake::TableName;
use crate::lake::faults::{Fault, Script, commits_of};
use deltaworks_core::reason::Reason;
use deltaworks_core::resolution::{Resolution, Standing};
use deltaworks_core::windows::Instant;
use kit::{Kit, NOW_MS, Place};
use rstest::rstest;
use std::collections::BTreeMap;

const REDRIVEN: Standing = Standing::Settled(Resolution::Redriven);
const DISCARDED: Standing = Standing::Settled(Resolution::Discarded);

/// Ten events landed, three of them bad: values of 200, 300 and 5,000 where 100 is allowed.
async fn landed() -> (Kit, [Place; 3]) {
    let kit = Kit::new();
    let places = kit.send_values(&[1, 200, 2, 3, 300, 4, 5_000, 5, 6, 7]);
    kit.land().await;
    let bad = [places[1], places[4], places[6]];
    assert_eq!((kit.raw().await.len(), kit.rejected().await.len()), (7, 3));
    kit.prove().await;
    (kit, bad)
}

fn counts(of: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    of.iter().map(|(reason, count)| (reason.as_str(), *count)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_good_now_goes_to_raw_and_the_rest_stays() {
    let (mut kit, bad) = landed().await;
    kit.deploy("2.0.0", 1_000, "");
    let before = kit.table("raw", "events").await.unwrap().version();
    let plan = plan_redrive_on(&kit.lake, &kit.settings, kit.pipeline(), &kit.redrive_options(), &Kit::clock()).await;
    let plan = plan.unwrap();
    assert_eq!((counts(&plan.passed), counts(&plan.refused)), (vec![("out_of_range", 2)], vec![("out_of_range", 1)]));
    assert_eq!(kit.table("raw", "events").await.unwrap().version(), before, "a plan writes nothing");
    assert!(kit.table("ops", "resolutions").await.is_none());

    let report = kit.redrive().await;
    assert_eq!((report.landed, report.fills.len()), (2, 1), "{report:?}");
    assert_eq!((counts(&report.passed), counts(&report.refused)), (counts(&plan.passed), counts(&plan.refused)));
    let raw = kit.raw().await;
    assert_eq!(bad.map(|place| raw.get(&place).copied()), [Some(Some(1)), Some(Some(1)), None]);
    assert_eq!((raw.len(), kit.rejected().await.len()), (9, 3), "the rejects stay as they were");
    let standings = kit.standings().await;
    assert_eq!(bad.map(|place| standings[&place]), [REDRIVEN, REDRIVEN, Standing::Open]);
    kit.prove().await;

    let again = kit.redrive().await;
    assert!(again.is_idle() && again.left_out.redriven == 2, "{again:?}");
    assert_eq!(kit.raw().await, raw);
    assert_eq!(kit.resolutions().await.len(), 2);
    // the stream is none the wiser
    kit.send_values(&[8, 9]);
    kit.land().await;
    assert_eq!(kit.raw().await.len(), 11);
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_redrives_at_once_add_each_place_once() {
    let kit = {
        let mut kit = Kit::new();
        kit.send_values(&(0..60).map(|n| if n % 3 == 0 { 500 } else { n }).collect::<Vec<_>>());
        kit.land().await;
        kit.deploy("2.0.0", 1_000, "");
        kit
    };
    let (one, other, third) = (kit.redrive_options(), kit.redrive_options(), kit.redrive_options());
    let with = |options| kit.redrive_with(&kit.lake, options);
    let reports = tokio::join!(with(&one), with(&other), with(&third));
    let reports = [reports.0, reports.1, reports.2];
    assert!(reports.iter().all(|report| report.error.is_none()), "{reports:?}");
    assert_eq!(reports.iter().map(|report| report.landed).sum::<u64>(), 20, "{reports:?}");
    assert_eq!((kit.raw().await.len(), kit.rejected().await.len()), (60, 20));
    assert_eq!(kit.resolutions().await.len(), 20);
    assert!(kit.redrive().await.is_idle());
    kit.prove().await;
}

/// Of each table a commit is lost, its reply is lost, or answered as if it were another's.
#[rstest]
#[case::raw_lost("raw/events", Fault::DropPut)]
#[case::raw_reply("raw/events", Fault::LoseReply)]
#[case::raw_taken("raw/events", Fault::AnswerTaken)]
#[case::said_lost("ops/resolutions", Fault::DropPut)]
#[case::said_reply("ops/resolutions", Fault::LoseReply)]
#[case::said_taken("ops/resolutions", Fault::AnswerTaken)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_says_nothing_changes_nothing(#[case] table: &'static str, #[case] fault: Fault) {
    let (mut kit, _) = landed().await;
    kit.deploy("2.0.0", 1_000, "");
    let mut script = Script::new();
    let fired = script.add(fault, commits_of(table), 0, 2);
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let report = kit.redrive_with(&faulty, &kit.redrive_options()).await;
    assert!(fired.fired() > 0, "the fault never fired: {report:?}");
    // whether it got through or not, another run finds the rest
    let rest = kit.redrive().await;
    assert_eq!(report.landed + rest.landed, 2, "{report:?} {rest:?}");
    assert_eq!((kit.raw().await.len(), kit.resolutions().await.len()), (9, 2), "{report:?} {rest:?}");
    assert!(kit.redrive().await.is_idle());
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_that_died_before_it_could_say_so_is_not_repeated() {
    let (mut kit, bad) = landed().await;
    kit.deploy("2.0.0", 1_000, "");
    let mut script = Script::new();
    // every attempt to say so fails: as if it had died after raw's commit
    let fired = script.add(Fault::DropPut, |path| path.as_ref().contains("ops/resolutions"), 0, usize::MAX);
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let died = kit.redrive_with(&faulty, &kit.redrive_options()).await;
    assert!(died.error.is_some() && fired.fired() > 0 && died.landed == 2, "{died:?}");
    let standings = kit.standings().await;
    assert_eq!(bad.map(|place| standings[&place]), [REDRIVEN, REDRIVEN, Standing::Open]);
    assert_eq!(kit.resolutions().await.len(), 0);
    assert_eq!(kit.discard(Filter::default()).await.left_out.redriven, 2, "what is in raw cannot be given up");

    let next = kit.redrive().await;
    assert_eq!((next.landed, next.repaired, next.left_out.redriven), (0, 2, 2), "{next:?}");
    let said: Vec<_> = kit.resolutions().await.into_iter().filter(|(_, what)| what == "redriven").collect();
    assert_eq!(said.len(), 2);
    assert_eq!(kit.raw().await.len(), 9);
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_discarded_is_redriven_only_where_that_is_asked_for() {
    let (mut kit, bad) = landed().await;
    let options = DiscardOptions {
        run_id: kit.run_id(),
        filter: Filter { partition: Some(bad[0].0), to_offset: Some(bad[0].1 + 1), ..Filter::default() },
        because: "a broken producer".into(),
        dry_run: true,
    };
    let planned = discard_on(&kit.lake, kit.pipeline(), &options, &Kit::clock()).await.unwrap();
    assert_eq!(counts(&planned.discarded), [("out_of_range", 1)]);
    assert!(kit.table("ops", "resolutions").await.is_none(), "a plan writes nothing");
    let nothing_said = DiscardOptions { because: " ".into(), ..options.clone() };
    let refused = discard_on(&kit.lake, kit.pipeline(), &nothing_said, &Kit::clock()).await.unwrap_err();
    assert_eq!(refused.class, Class::User);

    let done = kit.discard(options.filter.clone()).await;
    assert_eq!(done.discarded, planned.discarded);
    let again = kit.discard(options.filter.clone()).await;
    assert!(again.is_idle() && again.left_out.discarded == 1, "{again:?}");
    assert_eq!(kit.standings().await[&bad[0]], DISCARDED);

    kit.deploy("2.0.0", 1_000, "");
    let report = kit.redrive().await;
    assert_eq!((report.landed, report.left_out.discarded), (1, 1), "{report:?}");
    assert!(!kit.raw().await.contains_key(&bad[0]));
    let asked = RedriveOptions { discarded_too: true, ..kit.redrive_options() };
    let report = kit.redrive_with(&kit.lake, &asked).await;
    assert_eq!((report.landed, report.left_out.redriven), (1, 1), "{report:?}");
    assert_eq!(kit.standings().await[&bad[0]], REDRIVEN);
    assert!(kit.discard(options.filter).await.is_idle(), "what is in raw cannot be given up");
    assert_eq!(kit.resolutions().await.iter().filter(|(place, _)| *place == bad[0]).count(), 2, "both are kept");
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_the_filter_means_is_touched() {
    let (mut kit, bad) = landed().await;
    kit.send(&[Outgoing {
        partition: Some(0),
        payload: Some(b"{"),
        timestamp_ms: Some(NOW_MS),
        ..Outgoing::default()
    }]);
    kit.land().await;
    kit.deploy("2.0.0", 10_000, "");
    let redrive = async |filter| {
        let options = RedriveOptions { filter, ..kit.redrive_options() };
        kit.redrive_with(&kit.lake, &options).await
    };
    let sent_ms = NOW_MS - 60_000;
    let (from, to) = (Some(Instant::of_ms(sent_ms + 4)), Some(Instant::of_ms(sent_ms + 6)));
    let nothing = [
        Filter { reasons: vec![Reason::NotJson], ..Filter::default() },
        Filter { contract_version: Some("2.0.0".into()), ..Filter::default() },
        Filter { topic: Some("events#1".into()), ..Filter::default() },
    ];
    for filter in nothing {
        let report = redrive(filter).await;
        assert!(report.is_idle() && report.passed.is_empty(), "{report:?}");
    }
    let report = redrive(Filter { from, to, ..Filter::default() }).await;
    assert_eq!(report.landed, 1, "{report:?}");
    assert!(kit.raw().await.contains_key(&bad[1]));
    let report = redrive(Filter { reasons: vec![Reason::OutOfRange], ..Filter::default() }).await;
    assert_eq!((report.landed, report.left_out.redriven), (2, 1), "{report:?}");
    let wrong = redrive(Filter { from, to: from, ..Filter::default() }).await;
    assert_eq!(wrong.error.map(|error| error.class), Some(Class::User));
    kit.prove().await;
}

/// What was ahead of our clock is judged by the clock of now; what is ahead of its own Kafka time never gets true.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_future_is_judged_as_if_the_message_were_read_now() {
    let mut kit = Kit::new();
    let hour_ms = 3_600_000;
    let at = "{\"id\": \"e\", \"at\": \"2026-03-01T11:00:00Z\", \"value\": 1}";
    let message = |timestamp_ms| Outgoing {
        partition: Some(0),
        payload: Some(at.as_bytes()),
        timestamp_ms: Some(timestamp_ms),
        ..Outgoing::default()
    };
    // both say eleven: one was sent at ten, the other at eleven, which our clock at ten did not believe
    let places = kit.send(&[message(NOW_MS), message(NOW_MS + hour_ms)]);
    kit.land().await;
    assert_eq!(kit.rejected().await.len(), 2);
    assert!(kit.redrive().await.is_idle());
    let later = crate::clock::Clock::of(move || NOW_MS + hour_ms);
    let options = kit.redrive_options();
    let stop = tokio_util::sync::CancellationToken::new();
    let report = super::redrive_on(&kit.lake, &kit.settings, kit.pipeline(), &options, &later, &stop).await;
    assert_eq!(counts(&report.refused_for), [("event_time_in_future", 1)], "{report:?}");
    assert_eq!(kit.raw().await.keys().collect::<Vec<_>>(), [&places[1]]);
    // who believes the producer says so
    kit.deploy("1.0.0", 100, "    max_ahead: 2h\n");
    assert_eq!(kit.redrive().await.landed, 1);
    kit.prove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_that_a_rule_leaves_out_now_stay_open() {
    let mut kit = Kit::new();
    kit.send(&[Outgoing { partition: Some(0), key: Some(b"k"), timestamp_ms: Some(NOW_MS), ..Outgoing::default() }]);
    kit.land().await;
    let refused = kit.redrive().await;
    assert_eq!(counts(&refused.refused_for), [("tombstone", 1)]);
    kit.deploy("1.0.0", 100, "    tombstones: skip\n");
    let report = kit.redrive().await;
    assert!(report.is_idle() && report.skipped == 1, "{report:?}");
    assert_eq!(kit.standings().await[&(0, 0)], Standing::Open);
}

/// Places ahead of raw's progress are the stream's to judge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_stream_rejected_ahead_of_raw_is_left_to_the_next_one() {
    let mut kit = Kit::new();
    kit.send_values(&[1, 2]);
    kit.land().await;
    kit.send_values(&[200, 300]);
    let mut script = Script::new();
    // rejects are committed, raw is not: the run ends
    let fired = script.add(Fault::DropPut, commits_of("raw/events"), 0, usize::MAX);
    let faulty = kit.lake.clone().with_store_decorator(|store| script.wrap(store));
    let options = crate::land::StreamOptions { give_up_after: std::time::Duration::ZERO, ..kit.stream_options() };
    let meters = [std::sync::Arc::new(crate::land::meter::Meter::new("events", NOW_MS))];
    let (pipelines, stop) = (&kit.settings.pipelines, tokio_util::sync::CancellationToken::new());
    let taps = crate::land::tap::Taps::default();
    let died =
        crate::land::stream_on(&faulty, &kit.settings, pipelines, &options, &meters, &Kit::clock(), &stop, &taps).await;
    assert!(died.error.is_some() && fired.fired() > 0);
    assert_eq!(kit.standings().await.values().collect::<Vec<_>>(), [&Standing::Pending; 2]);
    kit.deploy("2.0.0", 1_000, "");
    let report = kit.redrive().await;
    assert!(report.is_idle() && report.left_out.pending == 2, "{report:?}");
    assert_eq!(kit.discard(Filter::default()).await.left_out.pending, 2);
    kit.land().await;
    assert_eq!(kit.raw().await.values().filter(|fill| fill.is_some()).count(), 0);
    assert_eq!((kit.raw().await.len(), kit.rejected().await.len()), (4, 2));
    // in raw and in rejects: landed, and nothing is left to do
    assert_eq!(kit.standings().await.values().collect::<Vec<_>>(), [&REDRIVEN; 2]);
    assert_eq!(kit.redrive().await.repaired, 2);
    kit.prove().await;
}

/// Payloads far beyond the portion: several fills, and one row each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_rejects_are_redriven_in_portions() {
    let mut kit = Kit::new();
    let payloads: Vec<String> = (0..40)
        .map(|n| {
            format!("{{\"id\": \"{}{n}\", \"at\": \"2026-03-01T09:00:00Z\", \"value\": 500}}", "x".repeat(200_000))
        })
        .collect();
    let messages = payloads.iter().map(|payload| Outgoing {
        partition: Some(0),
        payload: Some(payload.as_bytes()),
        timestamp_ms: Some(NOW_MS),
        ..Outgoing::default()
    });
    kit.send(&messages.collect::<Vec<_>>());
    kit.land().await;
    kit.deploy("2.0.0", 1_000, "");
    kit.settings.memory_bytes = 32 << 20;
    let report = kit.redrive().await;
    assert_eq!((report.landed, report.passed["out_of_range"]), (40, 40), "{report:?}");
    assert!(report.fills.len() >= 3, "{report:?}");
    assert_eq!((kit.raw().await.len(), kit.resolutions().await.len()), (40, 40));
    kit.prove().await;
}

/// Rows of a file have no `next` that they must lie below, and keep the file's URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejects_of_files_are_redriven_too() {
    const URL: &str = "file:///events.jsonl";
    let (mut kit, _) = landed().await;
    let mut chunk = Chunk { clock_ms: NOW_MS, ..Chunk::default() };
    for (offset, value) in [(0, 7), (1, 500), (2, 50_000)] {
        chunk.push(-1, offset, None, None, Some(kit::event(90, value).as_bytes()), []);
    }
    let mut stamper = Stamper::new(kit.pipeline(), URL).unwrap();
    for message in chunk.iter() {
        if let Pushed::Refused(refusal) = stamper.push(&message).unwrap() {
            stamper.reject(&message, &refusal).unwrap();
        }
    }
    let (rows, rejects) = stamper.finish().unwrap();
    let part = Part { source: "backfill b".into(), rows, rejects, ..Part::default() };
    let mut filler = Filler::open(&kit.lake, kit.pipeline(), "backfill").await.unwrap();
    let added = filler.add(&part).await.unwrap();
    assert_eq!((added.landed, added.rejected), (1, 2));
    filler.end().await;
    kit.deploy("2.0.0", 1_000, "");
    let of_the_file = Filter { topic: Some(URL.into()), partition: Some(-1), ..Filter::default() };
    let options = RedriveOptions { filter: of_the_file, ..kit.redrive_options() };
    let report = kit.redrive_with(&kit.lake, &options).await;
    assert!(report.error.is_none() && report.landed == 1, "{report:?}");
    assert_eq!(
        (counts(&report.passed), counts(&report.refused)),
        (vec![("out_of_range", 1)], vec![("out_of_range", 1)])
    );
    assert!(kit.raw().await.contains_key(&(-1, 1)));
    assert_eq!(kit.redrive().await.landed, 2, "those of the topic are left");
    assert!(kit.redrive().await.is_idle());
    assert_eq!(kit.resolutions().await.len(), 3);
    kit.prove().await;
}

/// A pipeline that was started over meets its places again: what was said of the old rejects is not said of these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolutions_are_of_one_rejects_table() {
    let (kit, bad) = landed().await;
    assert_eq!(kit.discard(Filter::default()).await.discarded["out_of_range"], 3);
    for layer in ["rejects", "raw"] {
        kit.lake.drop_table(&TableName::new(layer, "events")).await.unwrap();
    }
    kit.land().await;
    let standings = kit.standings().await;
    assert!(bad.iter().all(|place| standings[place] == Standing::Open), "{standings:?}");
    assert_eq!(kit.discard(Filter::default()).await.discarded["out_of_range"], 3);
}

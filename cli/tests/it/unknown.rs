//! The store does not say what became of a request. Landing runs in this process, behind a store that
//! loses requests, replies and reads by a script.
//!
//! Whatever happens, the run ends well, and every message is there once.

use crate::harness::project::{CATCH_UP, Knobs, TOPIC, block_on};
use crate::harness::{Event, Feed, MockBroker, Project, Rng};
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::lake::Lake;
use deltaworks_jobs::lake::faults::{Fault, FaultCount, Script, commits_of, data_files_of};
use deltaworks_jobs::land::meter::Meter;
use deltaworks_jobs::land::tap::Taps;
use deltaworks_jobs::land::{DataLoss, Start, StreamOptions, StreamReport, stream_on};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PARTITIONS: i32 = 4;
const RAW: &str = "raw/events";
const REJECTS: &str = "rejects/events";

/// Lands everything that is there through a faulty store.
fn land(project: &Project, script: Script) -> StreamReport {
    land_within(project, script, Duration::from_secs(60))
}

fn land_within(project: &Project, script: Script, give_up_after: Duration) -> StreamReport {
    let settings = project.settings();
    let clock = Clock::system();
    let options = StreamOptions {
        run_id: deltaworks_jobs::run_id(),
        until_caught_up: true,
        start: Start::Earliest,
        partitions: Some((0..PARTITIONS).collect()),
        data_loss: DataLoss::Stop,
        give_up_after,
        drain_deadline: Duration::from_secs(9),
    };
    let meters: Vec<_> = settings.pipelines.iter().map(|p| Arc::new(Meter::new(&p.name, clock.now_ms()))).collect();
    let lake = Lake::open(&settings.lake).unwrap().with_store_decorator(|store| script.wrap(store));
    let stop = CancellationToken::new();
    block_on(stream_on(&lake, &settings, &settings.pipelines, &options, &meters, &clock, &stop, &Taps::default()))
}

/// Lands a mix of events through the faults that `arm` adds, each of which has to fire.
fn through(seed: u64, arm: impl FnOnce(&mut Script) -> Vec<FaultCount>) {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 5s, rows: 20}", ..Knobs::default() });
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(seed), 160, 30));
    let mut script = Script::new();
    let counts = arm(&mut script);
    let report = land(&project, script);
    assert!(report.error.is_none(), "the run stopped: {report:?}");
    for (n, count) in counts.iter().enumerate() {
        assert!(count.fired() > 0, "fault {n} never fired, of {} requests that it met", count.met());
    }
    feed.verify(&project);
    project.run(&CATCH_UP).expect_idle();
    feed.verify(&project);
}

#[test]
fn replies_to_commits_are_lost() {
    through(71, |script| {
        vec![
            script.add(Fault::LoseReply, commits_of(RAW), 2, 3),
            script.add(Fault::LoseReply, commits_of(REJECTS), 1, 3),
        ]
    });
}

#[test]
fn replies_to_the_very_first_commits_are_lost() {
    through(72, |script| {
        vec![
            script.add(Fault::LoseReply, commits_of(RAW), 0, 2),
            script.add(Fault::LoseReply, commits_of(REJECTS), 0, 2),
        ]
    });
}

#[test]
fn own_commits_are_said_to_be_taken() {
    through(73, |script| {
        vec![
            script.add(Fault::AnswerTaken, commits_of(RAW), 0, 4),
            script.add(Fault::AnswerTaken, commits_of(REJECTS), 0, 4),
        ]
    });
}

#[test]
fn commits_never_arrive() {
    through(74, |script| {
        vec![script.add(Fault::DropPut, commits_of(RAW), 2, 2), script.add(Fault::DropPut, commits_of(REJECTS), 1, 2)]
    });
}

#[test]
fn data_files_are_lost_or_said_to_be_lost() {
    through(75, |script| {
        vec![
            script.add(Fault::DropPut, data_files_of(RAW), 0, 2),
            script.add(Fault::LoseReply, data_files_of(RAW), 4, 2),
            script.add(Fault::AnswerTaken, data_files_of(RAW), 8, 1),
            script.add(Fault::DropPut, data_files_of(REJECTS), 0, 1),
            script.add(Fault::LoseReply, data_files_of(REJECTS), 2, 1),
        ]
    });
}

/// Nobody knows whether the commit is there, and the log cannot be read to find out.
#[test]
fn the_log_cannot_be_read_after_a_lost_reply() {
    through(76, |script| {
        vec![
            script.add(Fault::LoseReply, commits_of(RAW), 2, 2),
            script.add(Fault::FailRead, commits_of(RAW), 3, 3),
            script.add(Fault::FailList, |path| path.as_ref().contains(RAW), 2, 3),
            script.add(Fault::AnswerTaken, commits_of(REJECTS), 2, 1),
            script.add(Fault::FailRead, commits_of(REJECTS), 2, 2),
            script.add(Fault::FailList, |path| path.as_ref().contains(REJECTS), 2, 2),
        ]
    });
}

/// A store that stays away ends a bounded run with an error that a scheduler may retry, and the retry
/// lands everything.
#[test]
fn a_store_that_stays_away_ends_a_bounded_run() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 5s, rows: 20}", ..Knobs::default() });
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(77), 160, 30));
    let mut script = Script::new();
    let away = script.add(Fault::DropPut, commits_of(RAW), 3, usize::MAX);
    let report = land_within(&project, script, Duration::from_secs(2));
    let error = report.error.expect("the run ended well without a store");
    assert!(away.fired() > 1, "the store was asked once and not again");
    assert!(error.class.retryable(), "{error}");
    project.run(&CATCH_UP).expect_worked();
    feed.verify(&project);
}

/// Any of it, at any time.
#[test]
fn faults_at_random() {
    for seed in 80..86 {
        let mut rng = Rng(seed);
        through(seed, |script| {
            for table in [RAW, REJECTS] {
                for fault in [Fault::LoseReply, Fault::AnswerTaken, Fault::DropPut] {
                    let (skip, times) = (rng.below(8) as usize, 1 + rng.below(3) as usize);
                    script.add(fault, commits_of(table), skip, times);
                    script.add(fault, data_files_of(table), rng.below(8) as usize, 1);
                }
                script.add(Fault::FailRead, commits_of(table), 2 + rng.below(8) as usize, 1);
                script.add(Fault::FailList, move |p| p.as_ref().contains(table), 2 + rng.below(8) as usize, 1);
            }
            vec![script.add(Fault::DelayPut(Duration::from_millis(50)), commits_of(RAW), 0, usize::MAX)]
        });
    }
}

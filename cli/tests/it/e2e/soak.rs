//! `run` in a loop, killed at random moments in every one of its steps, while late, duplicate and broken events keep
//! coming; then once to its end, and all of it held against what was sent.
//!
//! The events' clock is [`PACE`] times as fast as the wall's, and starts some days ago before a midnight: windows of all
//! sizes open, are covered, and are restated by late events within a minute. What is open at the end stays provisional:
//! quiet partitions do not move the clock.

use super::model::{AGGREGATE, Key, Model, Row, SQL, served};
use super::support::{PATIENCE, PIPELINE, World, now_ms, seconds};
use super::truth::Sender;
use crate::harness::Rng;
use deltaworks_core::reason::Reason;
use deltaworks_jobs::produce::generate::{EventKind, Generator, Plan};
use deltaworks_jobs::project::settings::{Pipeline, Settings};
use deltaworks_jobs::{produce, project};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 4;
/// Event time that passes in one of the wall's.
const PACE: i64 = 300;
/// Events of a second, about.
const RATE: i64 = 400;
const PAUSE: Duration = Duration::from_millis(50);
const LATENESS_MS: i64 = 20 * 60_000;
const DAY_MS: i64 = 86_400_000;
/// Time of day at which events begin, UTC: half past ten at night in Kyiv, in winter.
const BEGINS_MS: i64 = 20 * 3_600_000 + 30 * 60_000;
const LATE: f64 = 0.02;
const DUPLICATES: f64 = 0.01;
const BROKEN: f64 = 0.005;
const STEPS: [&str; 4] = ["stream", "batch", "reconcile", "prove"];
/// Kills of a loop that is too slow to get through its steps in its time.
const KILLS_MAX: usize = 2_000;

/// What the kills met.
#[derive(Default)]
struct Toll {
    kills: BTreeMap<String, usize>,
    /// Runs that were at their end before it was their turn.
    whole: usize,
    /// Times that raw, or what batch has published, was found to have grown.
    grown: (usize, usize),
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn runs_killed_in_every_step() {
    let duration = seconds("DELTAWORKS_SOAK_SECONDS", 60);
    let seed = std::env::var("DELTAWORKS_SEED").map_or(now_ms().unsigned_abs(), |seed| seed.parse().unwrap());
    eprintln!("soak: DELTAWORKS_SEED={seed} for {duration:?}");
    let world = World::new("soak", PARTITIONS, &[])
        .set("commit", "{ every: 150ms }")
        .set("lateness", "20m")
        .set("idle_after", "365d")
        .set("repeat_rows", "10000000");
    fs::write(world.dir().join("sql/traffic/soak.sql"), SQL).unwrap();
    let world = world.aggregate(AGGREGATE);
    let mut events = generator(&world, seed, duration);
    let mut sender = Sender::new(&world, PARTITIONS, seed);
    let mut random = Rng(seed);
    let mut kinds: BTreeMap<EventKind, usize> = BTreeMap::new();
    let burst = RATE.unsigned_abs() * PAUSE.as_millis() as u64 / 1_000;
    let mut partitions = Rng(seed + 1);
    let mut send = |sender: &mut Sender| {
        for _ in 0..=partitions.below(2 * burst) {
            let event = events.event().unwrap();
            *kinds.entry(event.kind).or_default() += 1;
            sender.made(partitions.below(PARTITIONS.unsigned_abs().into()) as i32, event, now_ms());
        }
    };
    // where nothing was landed there is nothing to prove
    (0..20).for_each(|_| send(&mut sender));
    sender.settle();
    let toll = sender.while_doing(PAUSE, &mut send, || kill_loop(&world, &mut random, duration));
    (0..20).for_each(|_| send(&mut sender));
    sender.settle();
    eprintln!("soak: {:?} kills, {} whole runs, {kinds:?}", toll.kills, toll.whole);
    toll.verify();
    verify_shares(&kinds);

    let last = whole_run(&world);
    assert!(landed(&last) > 0, "the last run had nothing left to land: {last}");
    let model = Model::of(&sender.truth, LATENESS_MS);
    let (late, duplicates) = model.shares();
    assert!(late > LATE / 2.0 && duplicates > DUPLICATES / 2.0, "late {late}, duplicates {duplicates}");
    verify_served(&world, &model);
    sender.truth.holds(&world);
    let again = whole_run(&world);
    assert_eq!((landed(&again), &again["batch"]["status"]), (0, &"nothing_to_do".into()), "{again}");
    assert_eq!(again["reconcile"]["status"], "nothing_to_do", "{again}");
}

/// Events of the traffic example's contract, in about the order of event time.
fn generator(world: &World, seed: u64, duration: Duration) -> Generator {
    let settings: Settings = project::load(world.dir(), &|name| std::env::var(name).ok()).unwrap();
    let pipeline: &Arc<Pipeline> = &settings.pipelines[0];
    // as long as the loop may take, and all of it in the past
    let ago_ms = duration.as_millis() as i64 * PACE * 2 + DAY_MS;
    let start_ms = (now_ms() - ago_ms).div_euclid(DAY_MS) * DAY_MS - DAY_MS + BEGINS_MS;
    // a tombstone has no bytes that could be compared
    let reasons = produce::breakable(pipeline).into_iter().filter(|reason| *reason != Reason::Tombstone).collect();
    let plan = Plan {
        seed,
        start_us: start_ms * 1_000,
        spacing: Duration::from_millis((1_000 * PACE / RATE).unsigned_abs()),
        jitter: Duration::from_secs(600),
        late: LATE,
        late_by: (Duration::from_secs(40 * 60), Duration::from_secs(6 * 3_600)),
        duplicates: DUPLICATES,
        corrupt: BROKEN,
        reasons,
        message_bytes_max: pipeline.message_bytes_max,
        depth_max: pipeline.depth_max,
        ..Plan::default()
    };
    Generator::new(&pipeline.contract, &pipeline.event_time, plan).unwrap()
}

/// Kills runs: two in three at some moment of a step that is chosen beforehand, the others at some moment.
fn kill_loop(world: &World, random: &mut Rng, duration: Duration) -> Toll {
    let begun = Instant::now();
    let (mut toll, mut before) = (Toll::default(), (0, 0));
    // how long each step has taken when it was not disturbed
    let mut took: BTreeMap<String, u64> = BTreeMap::new();
    for turn in 0..KILLS_MAX {
        if begun.elapsed() > duration && toll.is_enough() {
            break;
        }
        let mut run = world.start(&["run"]);
        let aim = (turn % 3 != 2).then(|| STEPS[(turn - turn / 3) % STEPS.len()]);
        let age_ms_max = match aim {
            Some(step) => {
                while run.is_alive() && !run.log().contains(&begins(step)) {
                    sleep(Duration::from_millis(5));
                }
                took.get(step).copied().unwrap_or(500)
            }
            None => took.values().sum::<u64>().max(3_000) * 5 / 4,
        };
        sleep(Duration::from_millis(random.below(age_ms_max.max(20))));
        let log = run.log();
        match run.kill9_unless_ended() {
            None => *toll.kills.entry(step_of(&log)).or_default() += 1,
            Some(ended) => {
                assert_eq!(ended.code(), 0, "{ended}");
                toll.whole += 1;
            }
        }
        for (step, ms) in durations(&log) {
            took.insert(step, ms);
        }
        if turn % 3 == 2 {
            let now = (world.landed(), world.number(&format!("SELECT sum(events) AS n FROM batch.{AGGREGATE}")));
            toll.grown.0 += usize::from(now.0 > before.0);
            toll.grown.1 += usize::from(now.1 > before.1);
            before = now;
        }
    }
    toll
}

impl Toll {
    /// Whether every step was killed, and batch has published among the kills.
    fn is_enough(&self) -> bool {
        STEPS.iter().all(|step| self.kills.contains_key(*step)) && self.grown.1 > 0
    }

    fn verify(&self) {
        let told = format!("kills {:?}, whole runs {}, grown {:?}", self.kills, self.whole, self.grown);
        assert!(STEPS.iter().all(|step| self.kills.contains_key(*step)), "not every step was killed: {told}");
        assert!(self.grown.0 > 1 && self.grown.1 > 0, "no progress between kills: {told}");
    }
}

fn begins(step: &str) -> String {
    format!("the next step begins step=\"{step}\"")
}

/// The steps of a log, each with when it began, ms.
fn steps(log: &str) -> Vec<(String, i64)> {
    let line = |line: &str| {
        let step = STEPS.iter().find(|step| line.contains(&begins(step)))?;
        let at: jiff::Timestamp = line.split_whitespace().next()?.parse().ok()?;
        Some(((*step).to_owned(), at.as_millisecond()))
    };
    log.lines().filter_map(line).collect()
}

/// The step that a run was in; one that was before its first counts as `start`.
fn step_of(log: &str) -> String {
    steps(log).pop().map_or_else(|| "start".to_owned(), |(step, _)| step)
}

/// How long each step has taken that another followed, ms.
fn durations(log: &str) -> Vec<(String, u64)> {
    let steps = steps(log);
    steps.windows(2).map(|pair| (pair[0].0.clone(), (pair[1].1 - pair[0].1).unsigned_abs())).collect()
}

/// A run that must come to a good end: everything that it held against each other agrees.
fn whole_run(world: &World) -> Value {
    let ended = world.start(&["run"]).wait(4 * PATIENCE);
    assert_eq!(ended.code(), 0, "{ended}");
    let result = ended.result();
    let proved = &result["prove"];
    assert_eq!((&proved["refuted"], &proved["status"]), (&0.into(), &"done".into()), "{result}");
    let compared = proved["compared"].as_object().unwrap_or_else(|| panic!("{result}"));
    for what in ["offsets", "rows", "messages", "windows"] {
        assert!(compared.get(what).and_then(Value::as_u64) > Some(0), "no {what} were compared: {result}");
    }
    eprintln!(
        "soak: a whole run took {:?}; compared {}; not proved {}",
        ended.took, proved["compared"], proved["not_proved"]
    );
    assert_eq!(proved["not_proved"], serde_json::json!([]), "all of it is proved");
    result
}

fn landed(run: &Value) -> u64 {
    run["stream"]["pipelines"][PIPELINE]["landed"].as_u64().unwrap_or_else(|| panic!("{run}"))
}

fn verify_shares(kinds: &BTreeMap<EventKind, usize>) {
    let all = kinds.values().sum::<usize>() as f64;
    for (kind, wanted) in [(EventKind::Late, LATE), (EventKind::Duplicate, DUPLICATES), (EventKind::Corrupt, BROKEN)] {
        let share = kinds.get(&kind).copied().unwrap_or(0) as f64 / all;
        assert!((share - wanted).abs() < wanted / 2.0, "{kind:?}: {share} instead of {wanted}: {kinds:?}");
    }
}

/// Every window that should be served is, with its values and its state, and no other.
fn verify_served(world: &World, model: &Model) {
    let wanted = model.served(world.valid_through_ms() * 1_000);
    let (found, states) = served(world);
    eprintln!("soak: served {states:?}");
    let differ: Vec<(&Key, Option<&Row>, Option<&Row>)> = wanted
        .keys()
        .chain(found.keys().filter(|key| !wanted.contains_key(*key)))
        .map(|key| (key, wanted.get(key), found.get(key)))
        .filter(|(_, wanted, found)| wanted != found)
        .collect();
    assert!(differ.is_empty(), "{} of {} rows differ, such as {:#?}", differ.len(), wanted.len(), &differ[..1]);
    for state in ["provisional", "final", "restated"] {
        assert!(states.contains_key(state), "no window is {state}: {states:?}");
    }
    let days = found.iter().filter(|((granularity, ..), row)| granularity == "1d" && row.is_covered).count();
    assert!(days > 0, "no day was covered");
    let sql = format!(
        "SELECT count(*) AS n, count(*) FILTER (WHERE unexplained IS DISTINCT FROM 0) AS unexplained FROM drift.{AGGREGATE}"
    );
    let drift = world.only(&sql).unwrap_or_else(|| panic!("there is no table `drift.{AGGREGATE}`"));
    eprintln!("soak: drift {drift}");
    assert!(drift["n"].as_u64() > Some(0) && drift["unexplained"] == 0, "{drift}");
}

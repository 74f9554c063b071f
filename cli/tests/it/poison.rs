//! Messages that break the contract in every way that has a name, and in ways that have none.

use crate::harness::project::{Knobs, TOPIC};
use crate::harness::{Event, Feed, MockBroker, Project, Rng};
use deltaworks_core::reason::Reason;
use std::collections::BTreeSet;

const PARTITIONS: i32 = 4;

/// A payload with one thing wrong: `at`, `id` and the rest as given.
fn object(id: &str, at: &str, rest: &str) -> String {
    format!("{{\"id\": \"{id}\", \"at\": \"{at}\", {rest}}}")
}

fn one_of_each() -> Vec<Event> {
    let at = "2024-03-01T00:00:00Z";
    let nested = |depth: usize| format!("{{\"deep\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
    vec![
        Event::tombstone(),
        Event::bad("too_large", object("e-1", at, &format!("\"value\": 1, \"note\": \"{}\"", "x".repeat(10_000_000)))),
        Event::bad("not_utf8", b"{\"id\": \"\xc3\x28\"}".as_slice()),
        Event::bad("too_deep", nested(65)),
        Event::bad("too_deep", nested(500_000)),
        Event::bad("too_deep", "[".repeat(500_000)),
        Event::bad("too_deep", "{\"a\":".repeat(500_000)),
        Event::bad("not_json", ""),
        Event::bad("not_json", " \n"),
        Event::bad("not_json", "{"),
        Event::bad("not_json", object("e-1", at, "\"value\": 01")),
        Event::bad("not_json", object("e-1", at, "\"value\": NaN")),
        Event::bad("not_one_object", "[1]"),
        Event::bad("not_one_object", "\"text\""),
        Event::bad("not_one_object", "null"),
        Event::bad("duplicate_key", object("e-1", at, "\"value\": 1, \"value\": 1")),
        Event::bad("duplicate_key", object("e-1", at, "\"value\": 1, \"v\\u0061lue\": 1")),
        Event::bad("extra_field", object("e-1", at, "\"value\": 1, \"more\": 1")),
        Event::bad("missing_field", object("e-1", at, "\"note\": \"no value\"")),
        Event::bad("missing_field", object("e-1", at, "\"value\": null")),
        Event::bad("wrong_type", object("e-1", at, "\"value\": {}")),
        Event::bad("wrong_type", object("e-1", "when it was dark", "\"value\": 1")),
        Event::bad("out_of_range", object("e-1", at, "\"value\": -1")),
        Event::bad("out_of_range", object("e-1", at, "\"value\": 99999999999999999999")),
        Event::bad("pattern", object("E-1", at, "\"value\": 1")),
        Event::bad("event_time_in_future", object("e-1", "2199-01-01T00:00:00Z", "\"value\": 1")),
        Event::bad("event_time_too_old", object("e-1", "1999-12-31T23:59:59Z", "\"value\": 1")),
    ]
}

#[test]
fn every_kind_of_bad_message_is_kept_and_stops_nothing() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let pipeline = vec!["extra_fields: reject", "min_event_time: 2000-01-01T00:00:00Z"];
    let project = Project::with(&broker, &Knobs { pipeline, ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(21));
    for bad in one_of_each() {
        feed.send(&broker, PARTITIONS, &[Event::good(&mut rng, 1), bad, Event::good(&mut rng, 1)]);
    }
    project.catch_up().expect_worked();
    let landed = feed.verify(&project);
    assert_eq!(landed.raw, 2 * landed.rejects);
    let seen = project.rows("SELECT DISTINCT reason FROM rejects.events");
    let seen: BTreeSet<_> = seen.iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert_eq!(seen, Reason::ALL.iter().map(|r| r.as_str()).collect(), "a reason is not tested here");
    project.catch_up().expect_idle();
}

#[test]
fn random_bytes_are_rejects_with_their_bytes() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 2s, rows: 3000}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(22));
    // half of them from the alphabet of JSON, so that they come further than the first byte
    let alphabet = b"{}[]\":,0123456789.eE+-truefalsn \\u";
    let events: Vec<Event> = (0..10_000)
        .map(|n| {
            if n % 100 == 0 {
                return Event::good(&mut rng, 2);
            }
            let len = rng.below(200) as usize;
            let byte = |rng: &mut Rng| match n % 2 {
                0 => alphabet[rng.below(alphabet.len() as u64) as usize],
                _ => rng.below(256) as u8,
            };
            Event::bad("any", (0..len).map(|_| byte(&mut rng)).collect::<Vec<u8>>())
        })
        .collect();
    feed.send(&broker, PARTITIONS, &events);
    project.catch_up().expect_worked();
    assert_eq!(feed.verify(&project).raw, 100);
}

/// Runs into a limit; what the log says was read has to be there, and without a limit the rest lands.
fn stops_at(limit: &'static str, commit: &'static str, events: usize, bad_percent: u64) {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let knobs = Knobs { commit, pipeline: vec![limit], ..Knobs::default() };
    let project = Project::with(&broker, &knobs);
    let mut feed = Feed::new();
    feed.send(&broker, PARTITIONS, &Event::mix(&mut Rng(23), events, bad_percent));
    let ended = project.catch_up().expect(3);
    assert!(ended.stderr.contains("rejects.limit"), "{}", ended.stderr);
    assert_eq!(ended.result()["status"], "failed");
    let nexts = project.nexts();
    let mut read = Feed::new();
    read.copy(&feed, |(partition, offset)| nexts.get(&partition).is_some_and(|next| offset < *next));
    assert!(read.len() > 0);
    read.verify(&project);
    project.configure(&Knobs { pipeline: Vec::new(), ..knobs });
    project.catch_up().expect(0);
    feed.verify(&project);
}

#[test]
fn a_count_of_rejects_stops_the_run() {
    stops_at("rejects: {limit: 5}", "{every: 5s, rows: 10}", 60, 50);
}

#[test]
fn a_share_of_rejects_stops_the_run() {
    stops_at("rejects: {limit: 10%}", "{every: 5s, rows: 600}", 2_000, 30);
}

#[test]
fn a_limit_that_holds_stops_nothing() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let pipeline = vec!["rejects: {limit: 5}"];
    let project = Project::with(&broker, &Knobs { pipeline, ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(24));
    feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 20, 0));
    feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 5, 100));
    project.catch_up().expect_worked();
    assert_eq!(feed.verify(&project).rejects, 5);
}

//! The generated stream against its contract, and a run against the mock broker.

use super::generate::{Event, EventKind, Generator, Plan};
use super::run::{Input, ProduceOptions, run};
use super::shapes::Shape;
use crate::error::Class;
use crate::kafka::message::Chunk;
use crate::kafka::mock::Mock;
use crate::kafka::source::{Event as SourceEvent, Mode, Source as Reader};
use crate::project::contract::{Bound, BoundValue, Column, Contract, Kind, Rules, Source, TimestampForm};
use crate::project::settings::{EventTime, Options};
use deltaworks_core::reason::Reason;
use proptest::prelude::*;
use regex::Regex;
use rstest::rstest;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const START_US: i64 = 1_769_904_000_000_000; // 2026-02-01T00:00:00Z

fn column(name: &str, kind: Kind) -> Column {
    Column {
        name: name.into(),
        source: Source::Field,
        kind,
        required: true,
        is_id: false,
        rules: Rules::default(),
        description: None,
    }
}

fn whole(value: i64) -> Option<Bound> {
    Some(Bound { value: BoundValue::Integer(value), exclusive: false })
}

fn contract() -> Contract {
    let plate = Rules { pattern: Some(Regex::new(r"^[A-Z]{2}\d{4}[A-Z]{2}$").unwrap()), ..Rules::default() };
    let speed = Rules {
        minimum: Some(Bound { value: BoundValue::Unscaled(0), exclusive: true }),
        maximum: Some(Bound { value: BoundValue::Unscaled(25_000), exclusive: false }),
        ..Rules::default()
    };
    let place = vec![
        column("lane", Kind::Integer),
        Column { required: false, ..column("road", Kind::String) },
        column("seen", Kind::Timestamp(TimestampForm::EpochMillis)),
    ];
    let columns = vec![
        Column { is_id: true, ..column("event_id", Kind::String) },
        column("timestamp", Kind::Timestamp(TimestampForm::Rfc3339 { zone: None })),
        Column { rules: plate, ..column("plate", Kind::String) },
        Column { rules: speed, ..column("speed", Kind::Decimal { precision: 6, scale: 2 }) },
        Column {
            rules: Rules { minimum: whole(1), maximum: whole(4), ..Rules::default() },
            ..column("lanes", Kind::Integer)
        },
        column("place", Kind::Object(place)),
        Column { required: false, ..column("tags", Kind::Array(Box::new(column("tag", Kind::String)))) },
        Column { required: false, ..column("temperature", Kind::Double) },
        column("day", Kind::Date),
        column("raw", Kind::Json),
        Column { source: Source::Key, ..column("camera", Kind::String) },
        Column { source: Source::Header("origin".into()), ..column("origin", Kind::String) },
    ];
    Contract {
        quality: Vec::new(),
        id: "c".into(),
        version: "1".into(),
        path: "c.odcs.yaml".into(),
        personal: false,
        retention_days: None,
        columns,
    }
}

fn by_timestamp() -> EventTime {
    EventTime::Field(vec!["timestamp".into()])
}

fn plan() -> Plan {
    Plan { start_us: START_US, spacing: Duration::from_secs(10), ..Plan::default() }
}

fn events(plan: Plan, n: usize) -> Vec<Event> {
    let mut generator = Generator::new(&contract(), &by_timestamp(), plan).unwrap();
    (0..n).map(|_| generator.event().unwrap()).collect()
}

fn object(event: &Event) -> Map<String, Value> {
    serde_json::from_slice(event.payload.as_ref().unwrap()).unwrap()
}

fn time_us(event: &Event) -> i64 {
    object(event)["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

#[test]
fn good_events_keep_the_contract() {
    let plate = Regex::new(r"^[A-Z]{2}\d{4}[A-Z]{2}$").unwrap();
    let mut optional = BTreeMap::<&str, usize>::new();
    let mut ids = BTreeSet::new();
    for (i, event) in events(plan(), 500).iter().enumerate() {
        let object = object(event);
        assert_eq!(time_us(event), START_US + i as i64 * 10_000_000);
        assert_eq!(event.event_us, Some(time_us(event)));
        assert!(ids.insert(event.id.clone().unwrap()));
        assert_eq!(object["event_id"].as_str(), event.id.as_deref());
        assert!(plate.is_match(object["plate"].as_str().unwrap()));
        let speed = object["speed"].as_f64().unwrap();
        assert!(speed > 0.0 && speed <= 250.0, "{speed}");
        assert!((1..=4).contains(&object["lanes"].as_i64().unwrap()));
        assert!(object["place"]["lane"].is_i64() && object["place"]["seen"].is_i64());
        assert_eq!(
            object["day"].as_str().unwrap(),
            jiff::Timestamp::from_microsecond(time_us(event)).unwrap().strftime("%F").to_string()
        );
        assert!(!object.contains_key("camera") && event.key.as_ref().unwrap().starts_with(b"camera-"));
        assert_eq!(event.headers[0].0, "origin");
        for name in ["tags", "temperature"] {
            *optional.entry(name).or_default() += usize::from(object.contains_key(name));
        }
    }
    assert!(optional.values().all(|n| (380..500).contains(n)), "optional fields are sometimes absent: {optional:?}");
}

#[test]
fn shares_come_out_and_late_is_late() {
    let plan = Plan {
        late: 0.1,
        duplicates: 0.2,
        corrupt: 0.05,
        reasons: Reason::ALL.to_vec(),
        jitter: Duration::from_secs(1),
        ..plan()
    };
    let all = events(plan.clone(), 4_000);
    assert_eq!(all, events(plan.clone(), 4_000), "the same seed, the same stream");
    assert_ne!(all, events(Plan { seed: 2, ..plan.clone() }, 4_000));
    let share = |kind| all.iter().filter(|e| e.kind == kind).count();
    assert!((320..480).contains(&share(EventKind::Late)));
    assert!((680..920).contains(&share(EventKind::Duplicate)));
    assert!((140..260).contains(&share(EventKind::Corrupt)));
    let mut originals: HashMap<&str, &Event> = HashMap::new();
    let mut across = 0;
    for (i, event) in all.iter().enumerate() {
        let turn = START_US + i as i64 * 10_000_000;
        let id = event.id.as_deref().unwrap_or_default();
        match event.kind {
            EventKind::Good => {
                assert!((turn - 1_000_000..=turn).contains(&time_us(event)));
                originals.insert(id, event);
            }
            EventKind::Late => {
                let behind = turn - time_us(event);
                assert!(behind > 3_600_000_000 && behind <= 6 * 3_600_000_000 + 1_000_000, "{behind}");
            }
            EventKind::Duplicate => {
                let original = originals[id];
                assert_eq!(event.event_us, Some(time_us(event)));
                if original.payload != event.payload {
                    let day = |e: &Event| e.event_us.unwrap().div_euclid(86_400_000_000);
                    assert_eq!(day(event), day(original) - 1, "across midnight");
                    assert_eq!(object(original)["plate"], object(event)["plate"]);
                    across += 1;
                }
            }
            _ => assert!(event.reason.is_some()),
        }
    }
    assert!(across > 50);
}

/// Every reason, seen by a judge that goes through them in order.
#[rstest]
fn every_reason_can_be_made(#[values(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)] index: usize) {
    let reason = Reason::ALL[index];
    let plan = Plan { corrupt: 1.0, reasons: vec![reason], message_bytes_max: 5_000, depth_max: 20, ..plan() };
    for event in events(plan, 50) {
        assert_eq!((event.kind, event.reason), (EventKind::Corrupt, Some(reason)));
        assert_eq!(judge(&event), Some(reason));
    }
    let good = Generator::new(&contract(), &by_timestamp(), self::plan()).unwrap().event().unwrap();
    assert_eq!(judge(&good), None);
}

/// A naive judge of this test's contract.
fn judge(event: &Event) -> Option<Reason> {
    let Some(payload) = &event.payload else {
        assert!(event.key.is_some());
        return Some(Reason::Tombstone);
    };
    if payload.len() > 5_000 {
        return Some(Reason::TooLarge);
    }
    let Ok(text) = std::str::from_utf8(payload) else { return Some(Reason::NotUtf8) };
    let mut depth = 0;
    let deepest = text
        .chars()
        .map(|c| {
            depth += i32::from("[{".contains(c)) - i32::from("]}".contains(c));
            depth
        })
        .max();
    if deepest > Some(20) {
        return Some(Reason::TooDeep);
    }
    let object: Map<String, Value> = match serde_json::from_str(text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Some(Reason::NotOneObject),
        Err(e) if e.to_string().contains("number out of range") => return Some(Reason::OutOfRange),
        Err(_) => return Some(Reason::NotJson),
    };
    if text.matches("\"event_id\":").count() > 1 {
        return Some(Reason::DuplicateKey);
    }
    if object.contains_key("zz_unexpected") {
        return Some(Reason::ExtraField);
    }
    if !object.contains_key("event_id") {
        return Some(Reason::MissingField);
    }
    if !object["event_id"].is_string() {
        return Some(Reason::WrongType);
    }
    if object["speed"].as_f64().unwrap() > 250.0 || object["lanes"].as_i64().is_none() {
        return Some(Reason::OutOfRange);
    }
    if !Regex::new(r"^[A-Z]{2}\d{4}[A-Z]{2}$").unwrap().is_match(object["plate"].as_str().unwrap()) {
        return Some(Reason::Pattern);
    }
    let year = &object["timestamp"].as_str().unwrap()[..4];
    match year {
        "2199" => Some(Reason::EventTimeInFuture),
        "1900" => Some(Reason::EventTimeTooOld),
        _ => None,
    }
}

#[rstest]
#[case::too_much(Plan { late: 0.6, duplicates: 0.6, ..plan() }, "shares")]
#[case::no_reason(Plan { corrupt: 0.1, ..plan() }, "reason")]
#[case::no_lateness(Plan { late: 0.1, late_by: (Duration::ZERO, Duration::ZERO), ..plan() }, "lateness")]
fn a_plan_that_cannot_be(#[case] plan: Plan, #[case] says: &str) {
    let error = Generator::new(&contract(), &by_timestamp(), plan).err().unwrap();
    assert!(error.class == Class::User && error.message.contains(says), "{error}");
}

#[test]
fn a_reason_without_a_field_for_it_is_named_before_the_first_event() {
    let mut bare = contract();
    bare.columns.retain(|c| c.name != "plate");
    let plan = Plan { corrupt: 0.1, reasons: vec![Reason::Pattern], ..plan() };
    let error = Generator::new(&bare, &by_timestamp(), plan).err().unwrap();
    assert!(error.message.contains("`pattern`"), "{error}");
}

#[test]
fn event_time_may_be_nested_or_kafkas() {
    let nested = EventTime::Field(vec!["place".into(), "seen".into()]);
    let mut generator = Generator::new(&contract(), &nested, plan()).unwrap();
    assert_eq!(object(&generator.event().unwrap())["place"]["seen"].as_i64(), Some(START_US / 1_000));
    let mut generator = Generator::new(&contract(), &EventTime::KafkaTime, plan()).unwrap();
    let event = generator.event().unwrap();
    assert_eq!((event.kafka_time_ms, event.event_us), (Some(START_US / 1_000), Some(START_US)));
}

proptest! {
    /// Whatever the bounds, values keep them.
    #[test]
    fn numbers_keep_their_bounds(a in -1_000_000i64..1_000_000, span in 0i64..10_000, seed in 0u64..50) {
        let mut c = contract();
        c.columns.truncate(2);
        let rules = Rules { minimum: whole(a), maximum: whole(a + span), ..Rules::default() };
        c.columns.push(Column { rules, ..column("n", Kind::Integer) });
        let unscaled = |v: i64| Some(Bound { value: BoundValue::Unscaled(i128::from(v)), exclusive: false });
        let rules = Rules { minimum: unscaled(a), maximum: unscaled(a + span), ..Rules::default() };
        c.columns.push(Column { rules, ..column("d", Kind::Decimal { precision: 9, scale: 3 }) });
        let mut generator = Generator::new(&c, &by_timestamp(), Plan { seed, ..plan() }).unwrap();
        for _ in 0..20 {
            let event = generator.event().unwrap();
            let object = object(&event);
            prop_assert!((a..=a + span).contains(&object["n"].as_i64().unwrap()));
            let text = String::from_utf8(event.payload.unwrap()).unwrap();
            let d = text.split("\"d\":").nth(1).unwrap().trim_end_matches('}').replace('.', "");
            let d: i64 = d.parse().unwrap();
            prop_assert!((a..=a + span).contains(&d), "{d}");
        }
    }
}

#[test]
fn the_truth_says_where_everything_lies() {
    let mock = Mock::start().unwrap();
    mock.create_topic("t", 3).unwrap();
    let kafka = Options([("bootstrap.servers".to_owned(), mock.bootstrap())].into());
    let dir = tempfile::tempdir().unwrap();
    let truth = dir.path().join("truth.jsonl");
    let plan = Plan {
        late: 0.1,
        duplicates: 0.1,
        corrupt: 0.1,
        reasons: Reason::ALL.to_vec(),
        message_bytes_max: 2_000,
        ..plan()
    };
    let options = ProduceOptions {
        kafka: kafka.clone(),
        topic: "t".into(),
        input: Input::Generated { contract: Arc::new(contract()), event_time: by_timestamp(), plan },
        count: Some(2_500),
        duration: None,
        rate: None,
        round_robin: false,
        truth: Some(truth.clone()),
        stop: None,
    };
    let reported = std::cell::Cell::new(0);
    let summary = run(options, &|p| reported.set(p.sent)).unwrap();
    assert_eq!((summary.sent, reported.get(), summary.kinds.values().sum::<u64>()), (2_500, 2_500, 2_500));
    assert_eq!(summary.reasons.len(), Reason::ALL.len());
    let told: BTreeMap<(i64, i64), Value> = std::fs::read_to_string(&truth)
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .map(|v| ((v["partition"].as_i64().unwrap(), v["offset"].as_i64().unwrap()), v))
        .collect();
    assert_eq!(told.len(), 2_500);
    for (place, payload) in read_all(&kafka, "t", 3) {
        let hash = payload.map(|p| format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&p)));
        assert_eq!(told[&place]["xxh3"].as_str(), hash.as_deref());
    }
    assert!(told.keys().map(|k| k.0).collect::<BTreeSet<_>>().len() == 3, "every partition has some");
}

#[test]
fn a_rate_is_kept_and_an_endless_stream_is_refused() {
    let mock = Mock::start().unwrap();
    mock.create_topic("t", 2).unwrap();
    let options = |count| ProduceOptions {
        kafka: Options([("bootstrap.servers".to_owned(), mock.bootstrap())].into()),
        topic: "t".into(),
        input: Input::Shape { shape: Shape::Traffic, seed: 1, start_ms: 0 },
        count,
        duration: None,
        rate: Some(200.0),
        round_robin: false,
        truth: None,
        stop: None,
    };
    let summary = run(options(Some(100)), &|_| {}).unwrap();
    assert!(summary.seconds >= 0.45, "100 events at 200 a second take half a second: {}", summary.seconds);
    assert_eq!(run(options(None), &|_| {}).unwrap_err().class, Class::User);
}

/// Every message of a topic, by place.
fn read_all(kafka: &Options, topic: &str, partitions: i32) -> BTreeMap<(i64, i64), Option<Vec<u8>>> {
    let mode = Mode::Manual { group: "all".into(), partitions: (0..partitions).collect() };
    let mut source = Reader::open(kafka, topic, mode, 16 << 20, false).unwrap();
    let (mut chunk, mut all, mut ended) = (Chunk::default(), BTreeMap::new(), BTreeSet::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    while ended.len() < partitions as usize {
        assert!(Instant::now() < deadline);
        let events = source.poll(&mut chunk, 1_000, Duration::from_millis(100), 0).unwrap();
        for m in chunk.iter() {
            let place = (i64::from(m.partition()), m.offset());
            assert!(all.insert(place, m.payload().map(<[u8]>::to_vec)).is_none());
        }
        for event in events {
            match event {
                SourceEvent::Assigning(p) => source.assign(&p.iter().map(|p| (*p, 0)).collect::<Vec<_>>()).unwrap(),
                SourceEvent::EndOfPartition { partition, .. } => drop(ended.insert(partition)),
                _ => {}
            }
        }
    }
    all
}

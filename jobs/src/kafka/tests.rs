//! The edge against a broker. Every scenario runs against librdkafka's mock; with
//! `DELTAWORKS_E2E_KAFKA` (a `bootstrap.servers`) against a real one, too, together with those that
//! the mock cannot play: transactions, offsets for times, topics by the admin API.

use super::admin::{Admin, Made, NewTopicSpec};
use super::message::Chunk;
use super::mock::Mock;
use super::monitor::Monitor;
use super::producer::{Outgoing, Producer};
use super::source::{Event, Mode, Source};
use super::start::Start;
use super::watermarks::Watermarks;
use crate::error::Class;
use crate::project::settings::Options;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker with one topic.
struct Broker {
    options: Options,
    topic: String,
    mock: Option<Mock>,
}

impl Broker {
    fn mock(partitions: i32) -> Self {
        let mock = Mock::start().unwrap();
        mock.create_topic("t", partitions).unwrap();
        Self { options: options(&mock.bootstrap()), topic: "t".into(), mock: Some(mock) }
    }

    fn real(partitions: i32) -> Self {
        let bootstrap = std::env::var("DELTAWORKS_E2E_KAFKA").expect("DELTAWORKS_E2E_KAFKA names the broker");
        let options = options(&bootstrap);
        let topic = format!("edge-{}", uuid::Uuid::now_v7());
        let spec = NewTopicSpec {
            name: topic.clone(),
            partitions,
            replication: 1,
            configs: [("retention.ms".into(), "-1".into())].into(),
        };
        assert_eq!(Admin::open(&options).unwrap().create(&spec).unwrap(), Made::Created);
        Self { options, topic, mock: None }
    }

    fn produce(&self, partition: i32, payloads: std::ops::Range<i64>) {
        let producer = Producer::open(&self.options, false).unwrap();
        for n in payloads {
            let payload = n.to_string();
            let message = Outgoing {
                partition: Some(partition),
                payload: Some(payload.as_bytes()),
                timestamp_ms: Some(1_000_000 + n),
                ..Outgoing::default()
            };
            producer.send(&self.topic, message).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    fn manual(&self, partitions: &[i32]) -> Reader {
        let mode = Mode::Manual { group: "hand".into(), partitions: partitions.to_vec() };
        Reader::new(Source::open(&self.options, &self.topic, mode, 64 << 20, true).unwrap())
    }

    fn member(&self, strategy: &str) -> Reader {
        let mut options = self.options.clone();
        options.0.insert("partition.assignment.strategy".into(), strategy.into());
        options.0.insert("heartbeat.interval.ms".into(), "200".into());
        options.0.insert("session.timeout.ms".into(), "6000".into());
        let mode = Mode::Group { group: format!("g-{}", self.topic) };
        Reader::new(Source::open(&options, &self.topic, mode, 64 << 20, false).unwrap())
    }
}

fn options(bootstrap: &str) -> Options {
    Options([("bootstrap.servers".to_owned(), bootstrap.to_owned())].into())
}

/// A source whose caller keeps `next` per partition, as landing does in the table's log.
struct Reader {
    source: Source,
    chunk: Chunk,
    /// Where each partition goes on when it is assigned; the "table".
    log: BTreeMap<i32, i64>,
    owned: BTreeSet<i32>,
    seen: Vec<(i32, i64)>,
    ends: BTreeMap<i32, i64>,
    troubles: usize,
}

impl Reader {
    fn new(source: Source) -> Self {
        Self {
            source,
            chunk: Chunk::default(),
            log: BTreeMap::new(),
            owned: BTreeSet::new(),
            seen: Vec::new(),
            ends: BTreeMap::new(),
            troubles: 0,
        }
    }

    /// One poll; every message must belong to an owned partition and come in order.
    fn poll(&mut self, max: usize) -> Vec<Event> {
        let events = self.source.poll(&mut self.chunk, max, POLL, 7).unwrap();
        for m in self.chunk.iter() {
            assert!(self.owned.contains(&m.partition()), "message of partition {} that is not ours", m.partition());
            let next = self.log.entry(m.partition()).or_insert(0);
            assert!(m.offset() >= *next, "partition {} offset {} again, {next} is next", m.partition(), m.offset());
            *next = m.offset() + 1;
            self.ends.remove(&m.partition());
            self.seen.push((m.partition(), m.offset()));
        }
        for event in &events {
            match event {
                Event::EndOfPartition { partition, position } => {
                    let next = self.log.get(partition).copied().unwrap_or(0);
                    assert!(*position >= next, "partition {partition} ends at {position}, {next} is next: {events:?}");
                    self.ends.insert(*partition, *position);
                }
                Event::Trouble { .. } => self.troubles += 1,
                _ => {}
            }
        }
        events
    }

    fn answer(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Assigning(partitions) => {
                    let starts: Vec<_> =
                        partitions.iter().map(|p| (*p, self.log.get(p).copied().unwrap_or(0))).collect();
                    self.source.assign(&starts).unwrap();
                    self.owned.extend(partitions);
                }
                Event::Revoking(partitions) | Event::Lost(partitions) => {
                    self.source.unassign(partitions).unwrap();
                    self.owned.retain(|p| !partitions.contains(p));
                }
                _ => {}
            }
        }
    }

    fn step(&mut self) {
        let events = self.poll(1_000);
        self.answer(&events);
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "gave up waiting until {what}: ends {:?}, owned {:?}",
                self.ends,
                self.owned
            );
            self.step();
        }
    }
}

fn every_partition_to_its_end(broker: &Broker) {
    broker.produce(0, 0..2_500);
    broker.produce(2, 0..10);
    let mut reader = broker.manual(&[0, 1, 2]);
    reader.until("all ends", |r| r.ends == BTreeMap::from([(0, 2_500), (1, 0), (2, 10)]));
    let of = |p| reader.seen.iter().filter(|s| s.0 == p).map(|s| s.1).collect::<Vec<_>>();
    assert_eq!(of(0), (0..2_500).collect::<Vec<_>>());
    assert_eq!(of(2), (0..10).collect::<Vec<_>>());
    // what comes after an end is delivered, and ends again
    broker.produce(1, 0..1);
    reader.until("the next end", |r| r.ends.get(&1) == Some(&1));
    assert_eq!(reader.seen.last(), Some(&(1, 0)));
}

fn seek_repeats_exactly_from_the_offset(broker: &Broker) {
    broker.produce(0, 0..3_000);
    broker.produce(1, 0..50);
    let mut reader = broker.manual(&[0, 1]);
    for (after, target) in [(500, 123), (1_200, 0), (2_999, 2_998), (700, 2_000), (3_000, 17)] {
        reader.until("the place to seek from", |r| r.log.get(&0).is_some_and(|n| *n >= after));
        reader.source.seek(&[(0, target)]);
        reader.log.insert(0, target);
        reader.ends.remove(&0);
        let from = reader.seen.len();
        reader.until("the end after the seek", |r| r.ends.get(&0) == Some(&3_000));
        let repeated: Vec<i64> = reader.seen[from..].iter().filter(|s| s.0 == 0).map(|s| s.1).collect();
        assert_eq!(repeated, (target..3_000).collect::<Vec<_>>());
        reader.source.seek(&[(0, 0)]);
        reader.log.insert(0, 0);
        reader.ends.remove(&0);
    }
    reader.until("the other partition's end", |r| r.ends.get(&1) == Some(&50));
    assert_eq!(reader.seen.iter().filter(|s| s.0 == 1).count(), 50, "a seek leaves the other partition alone");
}

fn pause_loses_and_repeats_nothing(broker: &Broker) {
    broker.produce(0, 0..100);
    let mut reader = broker.manual(&[0]);
    reader.until("the end", |r| r.ends.get(&0) == Some(&100));
    for round in 1..4 {
        // paused right after an end, which librdkafka counts as one message too many
        reader.source.pause(&[0]).unwrap();
        broker.produce(0, round * 100..round * 100 + 100);
        for _ in 0..3 {
            reader.step();
        }
        assert_eq!(reader.seen.len() as i64, round * 100, "nothing while paused");
        reader.source.resume(&[0]).unwrap();
        reader.until("the next end", |r| r.ends.get(&0) == Some(&(round * 100 + 100)));
    }
    assert_eq!(reader.seen, (0..400).map(|o| (0, o)).collect::<Vec<_>>());
}

/// A partition that stays with its owner over a rebalance, and had just ended: librdkafka would go
/// on one message too late.
fn kept_partitions_lose_nothing_in_a_rebalance(broker: &Broker) {
    for p in 0..4 {
        broker.produce(p, 0..10);
    }
    let mut first = broker.member("cooperative-sticky");
    first.until("all ends", |r| r.ends.len() == 4);
    let mut second = broker.member("cooperative-sticky");
    let deadline = Instant::now() + PATIENCE;
    while second.owned.len() != 2 || first.owned.len() != 2 {
        assert!(Instant::now() < deadline, "no balance: {:?} and {:?}", first.owned, second.owned);
        first.step();
        second.log = first.log.clone();
        second.step();
    }
    for p in 0..4 {
        broker.produce(p, 10..13);
    }
    let kept = first.owned.clone();
    first.until("the new ends", |r| kept.iter().all(|p| r.ends.get(p) == Some(&13)));
    for p in kept {
        let offsets: Vec<i64> = first.seen.iter().filter(|s| s.0 == p).map(|s| s.1).collect();
        assert_eq!(offsets, (0..13).collect::<Vec<_>>(), "partition {p}");
    }
    drop(second);
    first.until("all back", |r| r.owned.len() == 4);
}

/// Members come and go while messages arrive. The shared log stands for the table: a member that is
/// asked to give up partitions has "committed" what it saw, and whoever gets them goes on there.
fn members_come_and_go(broker: &Broker, strategy: &'static str) {
    const EACH: i64 = 400;
    let log: Arc<std::sync::Mutex<BTreeMap<i32, i64>>> = Arc::default();
    let (count, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let member = |lifetime: Duration| {
        let mut reader = broker.member(strategy);
        let (log, count, stop) = (Arc::clone(&log), Arc::clone(&count), Arc::clone(&stop));
        std::thread::spawn(move || {
            let until = Instant::now() + lifetime;
            while Instant::now() < until && !stop.load(Ordering::Relaxed) {
                let before = reader.seen.len();
                let events = reader.poll(50);
                for (p, o) in &reader.seen[before..] {
                    let mut log = log.lock().unwrap();
                    let next = log.entry(*p).or_insert(0);
                    assert_eq!(*o, *next, "partition {p}: nothing jumped, nothing twice");
                    *next = o + 1;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                reader.log = log.lock().unwrap().clone();
                reader.answer(&events);
            }
        })
    };
    let long = Duration::from_secs(50);
    let mut members = vec![member(long)];
    for round in 0..4 {
        for p in 0..6 {
            broker.produce(p, round * EACH / 4..(round + 1) * EACH / 4);
        }
        match round {
            0 => members.push(member(long)),
            1 => members.push(member(Duration::from_secs(5))),
            _ => std::thread::sleep(Duration::from_secs(2)),
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while (count.load(Ordering::Relaxed) as i64) < EACH * 6 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::Relaxed);
    for member in members {
        member.join().unwrap();
    }
    assert_eq!(*log.lock().unwrap(), (0..6).map(|p| (p, EACH)).collect());
}

fn a_lost_offset_stops_with_its_place(broker: &Broker) {
    broker.produce(0, 0..3);
    let mut reader = broker.manual(&[0]);
    reader.log.insert(0, 99);
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        assert!(Instant::now() < deadline);
        match reader.source.poll(&mut reader.chunk, 10, POLL, 0) {
            Ok(events) => reader.answer(&events),
            Err(error) => break error,
        }
    };
    assert_eq!(error.class, Class::InputLost);
    assert!(error.message.contains("partition 0 offset 99"), "{error}");
}

fn what_is_missing_is_the_users_to_mend(broker: &Broker) {
    let open = |topic: &str, partitions: &[i32]| {
        let mode = Mode::Manual { group: "hand".into(), partitions: partitions.to_vec() };
        Source::open(&broker.options, topic, mode, 1 << 20, false).err().unwrap()
    };
    let error = open("nowhere", &[0]);
    assert_eq!((error.class, error.hint.unwrap().contains("topics create")), (Class::User, true));
    assert!(open(&broker.topic, &[7]).message.contains("no partition 7"));
}

/// A member that goes away in the middle of a rebalance holds nobody up, itself included.
fn leaving_unanswered(broker: &Broker, strategy: &str) {
    let mut first = broker.member(strategy);
    first.until("everything", |r| r.owned.len() == 4);
    let mut second = broker.member(strategy);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the second member got nothing");
        first.step();
        let events = second.poll(10);
        if events.iter().any(|e| matches!(e, Event::Assigning(p) if !p.is_empty())) {
            break; // unanswered
        }
        second.answer(&events);
    }
    let started = Instant::now();
    drop(second);
    assert!(started.elapsed() < Duration::from_secs(7), "closing took {:?}", started.elapsed());
    first.until("everything again", |r| r.owned.len() == 4);
    // and one that was asked to give up
    let mut third = broker.member(strategy);
    while !first.poll(10).iter().any(|e| matches!(e, Event::Revoking(_))) {
        assert!(Instant::now() < deadline, "nobody asked");
        third.step();
    }
    let started = Instant::now();
    drop(first);
    assert!(started.elapsed() < Duration::from_secs(7), "closing took {:?}", started.elapsed());
    third.until("the rest", |r| r.owned.len() == 4);
}

fn messages_come_whole(broker: &Broker) {
    let producer = Producer::open(&broker.options, true).unwrap();
    let headers: [(&str, Option<&[u8]>); 3] = [("a", Some(b"1")), ("b", None), ("a", Some(b""))];
    let full = Outgoing {
        partition: Some(0),
        key: Some(b"k"),
        payload: Some(b"v"),
        timestamp_ms: Some(42),
        headers: &headers,
        ticket: 7,
    };
    producer.send(&broker.topic, full).unwrap();
    producer.send(&broker.topic, Outgoing { key: Some(b""), payload: None, headers: &[], ticket: 8, ..full }).unwrap();
    producer.send(&broker.topic, Outgoing { key: None, payload: Some(b""), headers: &[], ticket: 9, ..full }).unwrap();
    producer.flush(PATIENCE).unwrap();
    let reports = producer.take_reports();
    assert_eq!(
        reports.iter().map(|r| (r.ticket, r.outcome.clone().unwrap())).collect::<Vec<_>>(),
        [(7, (0, 0)), (8, (0, 1)), (9, (0, 2))]
    );
    let mut reader = broker.manual(&[0]);
    let mut got = Vec::new();
    while got.len() < 3 {
        let events = reader.poll(10);
        for m in reader.chunk.iter() {
            let headers: Vec<_> = m.headers().map(|(n, v)| (n.to_vec(), v.map(<[u8]>::to_vec))).collect();
            assert_eq!(m.clock_ms(), 7);
            got.push((m.kafka_time_ms(), m.key().map(<[u8]>::to_vec), m.payload().map(<[u8]>::to_vec), headers));
        }
        reader.answer(&events);
    }
    let sent: Vec<_> = headers.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.map(<[u8]>::to_vec))).collect();
    assert_eq!(got[0], (Some(42), Some(b"k".to_vec()), Some(b"v".to_vec()), sent));
    assert_eq!(got[1], (Some(42), Some(Vec::new()), None, Vec::new()));
    assert_eq!(got[2], (Some(42), None, Some(Vec::new()), Vec::new()));
}

fn the_broker_is_asked(broker: &Broker) {
    broker.produce(0, 0..10);
    let asked = Arc::new(Watermarks::open(&broker.options).unwrap());
    assert_eq!(asked.partition_count(&broker.topic).unwrap(), 3);
    assert_eq!(asked.low_high(&broker.topic, 0).unwrap(), (0, 10));
    assert_eq!(asked.highs(&broker.topic, &[0, 1, 2]).unwrap(), [(0, 10), (1, 0), (2, 0)].into());
    assert_eq!(asked.message_time_at(&broker.topic, 0, 4).unwrap(), Some(1_000_004));
    assert_eq!(asked.message_time_at(&broker.topic, 0, 9).unwrap(), Some(1_000_009));
    assert_eq!(asked.message_time_at(&broker.topic, 0, 10).unwrap(), None);
    assert_eq!(asked.message_time_at(&broker.topic, 1, 0).unwrap(), None);
    assert_eq!(Start::Latest.resolve(&asked, &broker.topic, &[0, 1]).unwrap(), [(0, 10), (1, 0)].into());
    assert_eq!(Start::Earliest.resolve(&asked, &broker.topic, &[0]).unwrap(), [(0, 0)].into());
    let given = Start::Offsets([(0, 10)].into());
    assert_eq!(given.resolve(&asked, &broker.topic, &[0, 1]).unwrap(), [(0, 10), (1, 0)].into());
    let beyond = Start::Offsets([(0, 11)].into()).resolve(&asked, &broker.topic, &[0]).unwrap_err();
    assert!(beyond.message.contains("start offset 11"), "{beyond}");
    // commits for lag tools are what `group:` reads
    let mut reader = broker.manual(&[0]);
    reader.until("the end", |r| r.ends.contains_key(&0));
    reader.source.commit_group(&[(0, 6)]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while asked.group_offsets("hand", &broker.topic).unwrap() != [(0, 6)].into() {
        assert!(Instant::now() < deadline, "the commit never arrived");
        reader.step();
    }
    let taken_over = Start::Group("hand".into()).resolve(&asked, &broker.topic, &[0, 1]).unwrap();
    assert_eq!(taken_over, [(0, 6), (1, 0)].into());
    // the monitor's instants are those before the question
    let ticks = Arc::new(AtomicUsize::new(100));
    let clock = {
        let ticks = Arc::clone(&ticks);
        Arc::new(move || ticks.fetch_add(1, Ordering::SeqCst) as i64)
    };
    let monitor = Monitor::start(Arc::clone(&asked), &broker.topic, Duration::from_millis(20), clock).unwrap();
    monitor.watch([0, 1]);
    let wait = |high: i64| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = monitor.seen();
            if let Some(o) = seen.highs.get(&0).filter(|o| o.high >= high) {
                assert_eq!((seen.partition_count, seen.highs.len()), (Some(3), 2));
                return *o;
            }
            assert!(Instant::now() < deadline, "nothing observed");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    assert_eq!(wait(10).high, 10);
    broker.produce(0, 10..12);
    let after = ticks.load(Ordering::SeqCst) as i64;
    let seen = wait(12);
    assert!(seen.high == 12 && seen.observed_at_ms <= after + 1_000, "{seen:?}");
}

mod mock {
    use super::*;

    #[test]
    fn reads_every_partition_to_its_end() {
        every_partition_to_its_end(&Broker::mock(3));
    }
    #[test]
    fn seeks() {
        seek_repeats_exactly_from_the_offset(&Broker::mock(2));
    }
    #[test]
    fn pauses() {
        pause_loses_and_repeats_nothing(&Broker::mock(1));
    }
    #[test]
    fn keeps_partitions_whole_over_a_rebalance() {
        kept_partitions_lose_nothing_in_a_rebalance(&Broker::mock(4));
    }
    #[test]
    fn lets_members_come_and_go_cooperative() {
        members_come_and_go(&Broker::mock(6), "cooperative-sticky");
    }
    #[test]
    fn lets_members_come_and_go_eager() {
        members_come_and_go(&Broker::mock(6), "range");
    }
    #[test]
    fn lets_a_member_leave_in_the_middle_cooperative() {
        leaving_unanswered(&Broker::mock(4), "cooperative-sticky");
    }
    #[test]
    fn lets_a_member_leave_in_the_middle_eager() {
        leaving_unanswered(&Broker::mock(4), "range");
    }
    #[test]
    fn stops_at_a_lost_offset() {
        a_lost_offset_stops_with_its_place(&Broker::mock(1));
    }
    #[test]
    fn names_what_is_missing() {
        what_is_missing_is_the_users_to_mend(&Broker::mock(1));
    }
    #[test]
    fn copies_messages_whole() {
        messages_come_whole(&Broker::mock(1));
    }
    #[test]
    fn answers_questions() {
        the_broker_is_asked(&Broker::mock(3));
    }

    #[test]
    fn goes_on_when_the_broker_comes_back() {
        let broker = Broker::mock(1);
        broker.produce(0, 0..5);
        let mut reader = broker.manual(&[0]);
        reader.until("the end", |r| r.ends.get(&0) == Some(&5));
        broker.mock.as_ref().unwrap().set_up(false).unwrap();
        reader.until("trouble", |r| r.troubles > 0);
        broker.mock.as_ref().unwrap().set_up(true).unwrap();
        broker.produce(0, 5..9);
        reader.until("the next end", |r| r.ends.get(&0) == Some(&9));
        assert_eq!(reader.seen, (0..9).map(|o| (0, o)).collect::<Vec<_>>());
    }

    #[test]
    fn a_broker_that_never_was_is_outside() {
        let mode = Mode::Manual { group: "hand".into(), partitions: vec![0] };
        let error = Source::open(&options("127.0.0.1:1"), "t", mode, 1 << 20, false).err().unwrap();
        assert_eq!(error.class, Class::Outside);
    }
}

mod real {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::ends(every_partition_to_its_end, 3)]
    #[case::seeks(seek_repeats_exactly_from_the_offset, 2)]
    #[case::pauses(pause_loses_and_repeats_nothing, 1)]
    #[case::kept_partitions(kept_partitions_lose_nothing_in_a_rebalance, 4)]
    #[case::cooperative(|b: &Broker| members_come_and_go(b, "cooperative-sticky"), 6)]
    #[case::eager(|b: &Broker| members_come_and_go(b, "range"), 6)]
    #[case::leaving_cooperative(|b: &Broker| leaving_unanswered(b, "cooperative-sticky"), 4)]
    #[case::leaving_eager(|b: &Broker| leaving_unanswered(b, "range"), 4)]
    #[case::lost_offset(a_lost_offset_stops_with_its_place, 1)]
    #[case::missing(what_is_missing_is_the_users_to_mend, 1)]
    #[case::whole(messages_come_whole, 1)]
    #[case::questions(the_broker_is_asked, 3)]
    #[ignore = "needs a real broker: make e2e"]
    fn suite(#[case] scenario: fn(&Broker), #[case] partitions: i32) {
        scenario(&Broker::real(partitions));
    }

    #[test]
    #[ignore = "needs a real broker: make e2e"]
    fn transactions() {
        let broker = Broker::real(1);
        let producer = Producer::open_transactional(&broker.options, &broker.topic).unwrap();
        let send = |n: u8| {
            let payload = [n];
            producer
                .send(&broker.topic, Outgoing { partition: Some(0), payload: Some(&payload), ..Outgoing::default() })
                .unwrap();
        };
        producer.begin().unwrap();
        (0..3).for_each(&send);
        producer.commit().unwrap(); // offsets 0 to 2, marker at 3
        producer.begin().unwrap();
        (3..5).for_each(&send);
        producer.abort().unwrap(); // aborted at 4 and 5, marker at 6
        let mut reader = broker.manual(&[0]);
        reader.until("the end behind the markers", |r| r.ends.get(&0) == Some(&7));
        assert_eq!(reader.seen, [(0, 0), (0, 1), (0, 2)]);
        let asked = Watermarks::open(&broker.options).unwrap();
        assert_eq!(asked.message_time_at(&broker.topic, 0, 4).unwrap(), None, "aborted");
        assert_eq!(asked.message_time_at(&broker.topic, 0, 3).unwrap(), None, "a marker");
        assert!(asked.message_time_at(&broker.topic, 0, 2).unwrap().is_some());
        // left open: the log goes on, the readable part does not
        producer.begin().unwrap();
        send(5);
        producer.poll(Duration::ZERO).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while asked.low_high(&broker.topic, 0).unwrap().1 != 8 {
            assert!(Instant::now() < deadline, "the open message never reached the log");
            producer.poll(POLL).unwrap();
        }
        assert_eq!(asked.highs(&broker.topic, &[0]).unwrap(), [(0, 8)].into());
        for _ in 0..5 {
            reader.step();
        }
        assert_eq!(reader.ends, [(0, 7)].into(), "an open transaction is not passed");
        producer.commit().unwrap();
        reader.until("the end", |r| r.ends.get(&0) == Some(&9));
        assert_eq!(reader.seen.last(), Some(&(0, 7)));
    }

    #[test]
    #[ignore = "needs a real broker: make e2e"]
    fn topics_and_times() {
        let broker = Broker::real(1);
        let admin = Admin::open(&broker.options).unwrap();
        let spec = NewTopicSpec { name: broker.topic.clone(), partitions: 1, replication: 1, configs: BTreeMap::new() };
        assert_eq!(admin.create(&spec).unwrap(), Made::Existed);
        let found = admin.describe(&broker.topic).unwrap().unwrap();
        assert_eq!((found.partitions, found.replication), (1, 1));
        assert_eq!(found.configs.get("retention.ms").map(String::as_str), Some("-1"));
        assert_eq!(admin.describe("nowhere-at-all").unwrap(), None);
        broker.produce(0, 0..10);
        let asked = Watermarks::open(&broker.options).unwrap();
        let at = |ms| asked.offsets_for_time(&broker.topic, &[0], ms).unwrap()[&0];
        assert_eq!((at(0), at(1_000_003), at(1_000_009), at(1_000_010)), (0, 3, 9, 10));
        let bad = NewTopicSpec { name: "x".into(), configs: [("no.such".into(), "1".into())].into(), ..spec };
        assert_eq!(admin.create(&bad).unwrap_err().class, Class::User);
        admin.add_partitions(&broker.topic, 2).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while asked.partition_count(&broker.topic).unwrap() != 2 {
            assert!(Instant::now() < deadline, "the new partition never showed");
        }
        admin.delete(&broker.topic).unwrap();
    }
}

//! SIGTERM and SIGINT: everything read is flushed, and the next run goes on from there.

use crate::harness::project::{Knobs, TOPIC};
use crate::harness::{Event, Feed, MockBroker, Project, Rng, wait_until};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// As promised to supervisors.
const DRAIN_MAX: Duration = Duration::from_secs(10);

fn drains_at(signal: &str, code: i32) {
    let broker = MockBroker::start(TOPIC, 4);
    // no commit is due while the test runs: only the drain can make it
    let project = Project::with(&broker, &Knobs { commit: "{every: 600s}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(41));
    feed.send(&broker, 4, &Event::mix(&mut rng, 500, 20));
    let address = free_address();
    let child = project.start(&["stream", "--partitions", "0-3", "--listen", &address.to_string()]);
    wait_until("all messages read", || metric(address, "deltaworks_messages_total") == Some(500));
    assert_eq!(metric(address, "deltaworks_landed_rows_total"), Some(0), "it was not the drain that committed");
    child.signal(signal);
    let ended = child.wait_within(DRAIN_MAX).expect(code);
    assert_eq!(ended.result()["status"], "interrupted");
    assert_eq!(ended.result()["exit_code"], code);
    assert_eq!(ended.messages(), 500);
    feed.verify(&project);
    let first_next = ended.pipeline()["next"].clone();
    feed.send(&broker, 4, &Event::mix(&mut rng, 40, 20));
    let second = project.catch_up().expect(0);
    assert_eq!(second.messages(), 40);
    assert_eq!(second.pipeline()["first"], first_next);
    feed.verify(&project);
}

#[test]
fn sigterm_drains() {
    drains_at("TERM", 143);
}

#[test]
fn sigint_drains() {
    drains_at("INT", 130);
}

#[test]
fn a_signal_in_a_quiet_stream_ends_it_at_once() {
    let broker = MockBroker::start(TOPIC, 4);
    let project = Project::new(&broker);
    let mut child = project.start(&["stream", "--partitions", "0-3"]);
    child.wait_for("landing begins");
    child.signal("TERM");
    let ended = child.wait_within(DRAIN_MAX).expect(143);
    assert_eq!(ended.result()["status"], "interrupted");
}

/// An address that nobody listens on at this moment.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// A counter of `/metrics`; `None` while it is not there.
fn metric(address: SocketAddr, name: &str) -> Option<u64> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let line = text.lines().find(|l| l.starts_with(name) && !l.starts_with('#'))?;
    line.rsplit(' ').next()?.parse().ok()
}

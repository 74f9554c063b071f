//! Broker and store go away and come back while a stream runs.

use super::support::{World, eventually, service};
use super::truth::Sender;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Duration;

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn the_broker_restarts_and_the_store_is_killed() {
    let world = World::alone("outages", 4);
    let mut sender = Sender::new(&world, 4, 5);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut run = world.stream(&["--listen", &address]);
    let lands = |what: &str| {
        let before = world.landed();
        eventually(what, || world.landed() > before);
    };
    sender.while_sending(15, Duration::from_millis(50), || {
        lands("rows before any fault");
        assert_eq!(get(&address, "/healthz").0, 200);

        service("restart", "kafka");
        lands("rows after the broker was restarted");
        service("kill9", "kafka");
        sleep(Duration::from_secs(2));
        service("start", "kafka");
        lands("rows after the broker was killed");
        assert!(run.log().contains("broker trouble"), "the broker was not missed:\n{}", run.log());

        service("kill9", "minio");
        sleep(Duration::from_secs(20));
        assert!(run.is_alive(), "{} ended:\n{}", run.what, run.log());
        let (status, health) = get(&address, "/healthz");
        assert!(matches!(status, 200 | 503) && health.contains("last commit"), "{status} {health}");
        let age = metric(&address, "deltaworks_commit_age_seconds");
        assert!(age > 10.0, "something was committed without a store: {age} s ago");
        service("start", "minio");
        lands("rows after the store was killed");
        assert!(run.log().contains("trying again"), "the store was not missed:\n{}", run.log());
        assert!(metric(&address, "deltaworks_commit_age_seconds") < 10.0);
        assert_eq!(get(&address, "/healthz").0, 200);
    });
    assert!(run.is_alive(), "{} ended:\n{}", run.what, run.log());
    let ended = run.term();
    assert_eq!(ended.code(), 143, "{ended}");
    world.catch_up(&[]);
    world.verify(&sender.truth);
}

fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("no HTTP answer: {answer}")), answer)
}

/// The value of a metric with one series.
fn metric(address: &str, name: &str) -> f64 {
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200);
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

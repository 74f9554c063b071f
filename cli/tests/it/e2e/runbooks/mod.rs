//! The bad days of README.md: each is made to happen, and ended by the commands that are printed there.

mod book;
mod events;
mod tables;

use super::support::World;
use super::truth::Sender;
use std::collections::BTreeSet;

/// Each has a test of its name.
const DAYS: [&str; 8] = [
    "broken-producer",
    "wrong-definition",
    "lost-retention",
    "duplicate-producer",
    "store-outage",
    "small-files",
    "disk-bill",
    "forgotten",
];

#[test]
fn every_day_of_the_readme_has_a_test() {
    let printed: BTreeSet<String> = book::blocks().into_iter().map(|(day, _)| day).collect();
    assert_eq!(printed, DAYS.map(str::to_owned).into());
}

fn at_ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// Sends good events over four partitions in turn, one every `apart_ms`, and waits until the broker has them.
fn spread(sender: &mut Sender, count: i32, from: &str, apart_ms: i64) {
    for n in 0..count {
        sender.event(n % 4, at_ms(from) + i64::from(n) * apart_ms, None);
    }
    sender.settle();
}

/// Lands and serves what was sent.
fn serve(world: &World) {
    world.catch_up(&[]);
    world.ends(&["batch"], 0);
    world.ends(&["reconcile"], 0);
}

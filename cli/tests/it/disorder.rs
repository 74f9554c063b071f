//! Events of very many dates at once.

use crate::harness::project::{Knobs, TOPIC};
use crate::harness::{Event, Feed, MockBroker, Project, Rng};

/// Most memory that the child may take; its budget is 256 MiB, and this is an unoptimised build.
const RSS_MAX_KIB: u64 = 512 << 10;

#[test]
fn four_hundred_dates_in_one_flush_stay_in_memory() {
    let broker = MockBroker::start(TOPIC, 4);
    let project = Project::with(&broker, &Knobs { commit: "{every: 30s, rows: 100000}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(31));
    let events: Vec<Event> = (0..4_000).map(|_| Event::good(&mut rng, 400)).collect();
    feed.send(&broker, 4, &events);
    let ended = project.catch_up().expect_worked();
    let dates = project.rows("SELECT count(DISTINCT event_date) AS n FROM raw.events");
    assert!(dates[0]["n"].as_i64().unwrap() > 390, "{dates:?}");
    feed.verify(&project);
    assert!(ended.peak_rss_kib > 0, "the memory was never measured");
    assert!(ended.peak_rss_kib < RSS_MAX_KIB, "{} MiB", ended.peak_rss_kib >> 10);
}

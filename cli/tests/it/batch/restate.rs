//! Late events restate exactly their windows, and a run with nothing new does nothing.

use super::{FIRST_US, Story, ZONE, event, reach, three_days};
use crate::harness::Rng;
use crate::harness::events::DAY_US;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::BTreeSet;

#[test]
fn late_events_restate_exactly_their_windows() {
    let mut story = Story::begin();
    let events = three_days(&mut Rng(401));
    story.send(&events);
    story.send(&reach(1_000, FIRST_US + 3 * DAY_US));
    let first = story.batch(&[]).expect(0).result();
    assert_eq!(first["status"], "done", "{first}");
    assert!(first["units"]["changed"].as_u64().unwrap() > 10, "{first}");
    assert_eq!(first["units"]["failed"], 0);
    assert!(first["duplicates"].as_u64().unwrap() >= 12, "{first}");
    let before = story.verify();
    let generations = story.generations();

    // nothing to do, and said so
    let idle = story.batch(&[]).expect(0).result();
    assert_eq!(idle["units"]["computed"], 0, "{idle}");
    story.batch(&["--skip-exit-code"]).expect(99);
    assert_eq!(story.generations(), generations);

    // two late events, one of them a copy that comes before what was counted
    let copied = events[100].row.clone().unwrap();
    let late = [event(2_000, FIRST_US + 5_000_000, 500), event(0, FIRST_US + 1, 3), event(2_001, copied.at_us, 1)];
    story.send(&late);
    let second = story.batch(&[]).expect(0).result();
    let after = story.verify();
    assert!(second["late"].as_u64().unwrap() >= 2, "{second}");
    assert!(second["units"]["changed"].as_u64().unwrap() > 0, "{second}");
    let moved: BTreeSet<_> = before.keys().chain(after.keys()).filter(|k| before.get(*k) != after.get(*k)).collect();
    assert!(!moved.is_empty() && moved.len() < before.len() / 4, "{} of {} windows moved", moved.len(), before.len());
    let restated: Vec<_> =
        story.generations().into_iter().filter(|(unit, g)| generations.get(unit) != Some(g)).collect();
    let zone = TimeZone::get(ZONE).unwrap();
    let mut units: Vec<_> = moved
        .iter()
        .map(|(granularity, start, _)| {
            let date = Timestamp::from_microsecond(*start).unwrap().to_zoned(zone.clone()).date();
            (granularity.clone(), date.to_string())
        })
        .collect();
    units.sort();
    units.dedup();
    assert_eq!(restated.iter().map(|(unit, _)| unit.clone()).collect::<Vec<_>>(), units);
    assert!(restated.iter().all(|(_, g)| *g == 2), "{restated:?}");

    // a third time there is nothing to do
    let third = story.batch(&["--skip-exit-code"]).expect(99).result();
    assert_eq!((&third["status"], &third["units"]["computed"]), (&"nothing_to_do".into(), &0.into()));
    // and computing it all again changes nothing
    let forced = story.batch(&["--force"]).expect(0).result();
    assert_eq!(forced["units"]["changed"], 0, "{forced}");
    assert!(forced["units"]["unchanged"].as_u64().unwrap() > 10, "{forced}");
    assert_eq!(story.verify(), after);
}

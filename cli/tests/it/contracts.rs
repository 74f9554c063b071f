//! The contract changes while messages are on their way, or between two runs.

use crate::harness::events::{CONTRACT, Values};
use crate::harness::project::{CATCH_UP, Knobs, TOPIC};
use crate::harness::{Event, Feed, MockBroker, Project, Rng};

const PARTITIONS: i32 = 4;

/// An event whose value is `value`, whatever the contract says of it.
fn of_value(rng: &mut Rng, value: i64) -> Event {
    let Some(row) = Event::good(rng, 3).row else { unreachable!("a good event is a row") };
    Event::of(Values { value, ..row })
}

/// Rejects are committed, raw is not, and the next run judges by another contract: what it now calls
/// good is in both tables, and nothing is twice in one.
#[test]
fn a_looser_contract_between_rejects_and_raw() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 5s, rows: 20}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(11));
    for n in 0..100 {
        let beyond = of_value(&mut rng, 5_000);
        let event = match n % 4 {
            0 => Event { reason: Some("out_of_range"), ..beyond },
            1 => Event::some_bad_of(&mut rng, "not_json"),
            _ => Event::good(&mut rng, 3),
        };
        feed.send(&broker, PARTITIONS, &[event]);
    }
    project.start_faulty("after_rejects_commit=2*off->return", &CATCH_UP).wait().expect_fault("after_rejects_commit");
    project.deploy(&CONTRACT.replace("version: 1.0.0", "version: 1.1.0").replace("maximum: 1000", "maximum: 10000"));
    project.catch_up().expect_worked();
    let landed = feed.verify(&project);
    assert!(landed.both > 0, "the new contract took nothing back: {landed:?}");
    assert!(landed.raw > 50, "{landed:?}");
    project.catch_up().expect_idle();
    assert_eq!(feed.verify(&project), landed);
}

#[test]
fn a_stricter_contract_between_rejects_and_raw() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::with(&broker, &Knobs { commit: "{every: 5s, rows: 20}", ..Knobs::default() });
    let (mut feed, mut rng) = (Feed::new(), Rng(12));
    for n in 0..100 {
        let high = of_value(&mut rng, 900);
        let event = match n % 4 {
            0 => Event { reason: Some("out_of_range"), ..high },
            1 => Event::some_bad_of(&mut rng, "missing_field"),
            _ => of_value(&mut rng, 400),
        };
        feed.send(&broker, PARTITIONS, &[event]);
    }
    project.start_faulty("after_rejects_commit=2*off->return", &CATCH_UP).wait().expect_fault("after_rejects_commit");
    project.deploy(&CONTRACT.replace("version: 1.0.0", "version: 2.0.0").replace("maximum: 1000", "maximum: 500"));
    project.catch_up().expect_worked();
    let landed = feed.verify(&project);
    let by_version =
        "SELECT contract_version, count(*) AS n FROM rejects.events WHERE reason = 'out_of_range' GROUP BY 1";
    let rows = project.rows(by_version);
    assert_eq!(rows.len(), 1, "only the stricter contract refuses these: {rows:?}");
    assert_eq!(rows[0]["contract_version"], "2.0.0");
    project.catch_up().expect_idle();
    assert_eq!(feed.verify(&project), landed);
}

#[test]
fn a_new_optional_column_is_null_in_old_rows() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let (mut feed, mut rng) = (Feed::new(), Rng(13));
    feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 30, 10));
    project.catch_up().expect_worked();
    project.deploy(&format!("{CONTRACT}      - name: colour\n        logicalType: string\n"));
    let mut coloured = Event::good(&mut rng, 1);
    let text = String::from_utf8(coloured.payload.unwrap()).unwrap();
    coloured.payload = Some(text.replacen('{', "{\"colour\":\"red\",", 1).into_bytes());
    feed.send(&broker, PARTITIONS, &[coloured]);
    project.catch_up().expect_worked();
    let landed = feed.verify(&project);
    let rows = project.rows("SELECT colour, count(*) AS n FROM raw.events GROUP BY colour ORDER BY n");
    assert_eq!(rows[0], serde_json::json!({ "colour": "red", "n": 1 }));
    assert_eq!(rows[1], serde_json::json!({ "colour": null, "n": landed.raw - 1 }));
}

#[test]
fn a_changed_type_is_refused_before_a_message_is_read() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let project = Project::new(&broker);
    let (mut feed, mut rng) = (Feed::new(), Rng(14));
    feed.send(&broker, PARTITIONS, &Event::mix(&mut rng, 20, 10));
    project.catch_up().expect_worked();
    let before = feed.verify(&project);
    let more = Event::mix(&mut rng, 20, 10);
    feed.send(&broker, PARTITIONS, &more);
    project.deploy(&CONTRACT.replace("logicalType: integer", "logicalType: number\n        physicalType: double"));
    let ended = project.catch_up().expect(2);
    assert!(ended.stderr.contains("`value`"), "the column is not named: {}", ended.stderr);
    assert_eq!(ended.result()["status"], "failed");
    project.deploy(CONTRACT);
    assert_eq!(project.rows("SELECT count(*) AS n FROM raw.events")[0]["n"], before.raw);
    assert_eq!(project.rows("SELECT count(*) AS n FROM rejects.events")[0]["n"], before.rejects);
    assert_eq!(project.catch_up().expect(0).messages(), more.len() as u64);
    feed.verify(&project);
}

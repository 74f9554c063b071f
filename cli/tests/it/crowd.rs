//! What is done on bad days, from outside, beside a stream, batches and reconciles that do not stop for it.

use crate::harness::project::{Knobs, TOPIC};
use crate::harness::{Ended, Feed, MockBroker, Project, Rng, wait_until};
use crate::rejects::{AGGREGATE, mended, mix};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const PARTITIONS: i32 = 4;
/// Rounds after which the jobs beside end by themselves, if a test fails in the middle.
const ROUNDS_MAX: usize = 100;

/// Commands, and how they may end beside the others: 5 says that another job was first.
const COMMANDS: [(&str, &[i32]); 12] = [
    ("tables compact raw.events rejects.events batch.totals served.totals", &[0, 5]),
    ("rejects discard events --reason not_json --because nobody-mends-it", &[0]),
    ("rejects redrive events", &[0]),
    // 2: the stream was there first
    ("offsets skip events --partition 0-3 --to {next} --yes", &[0, 2, 5]),
    ("offsets rewind events --partition 0-3 --to 0", &[0]),
    ("backfill create events --from kafka --partition 0-3 --from-offset 0", &[0]),
    (
        "backfill create totals --interval-start 2024-03-01T00:00:00Z --interval-end 2024-03-03T00:00:00Z --force",
        &[0, 5],
    ),
    ("quality run", &[0]),
    ("tables archive raw.events --before 2024-03-03 --to {archive}", &[0, 5]),
    ("tables checkpoint raw.events rejects.events batch.totals --force", &[0]),
    ("tables vacuum raw.events rejects.events batch.totals served.totals --older-than 1h", &[0]),
    ("upkeep --skip retain", &[0]),
];

#[test]
fn every_command_beside_a_stream_and_batch() {
    let broker = MockBroker::start(TOPIC, PARTITIONS);
    let knobs = Knobs { commit: "{every: 50ms, rows: 20}", top: vec!["aggregates: [totals.sql]"], ..Knobs::default() };
    let project = Project::with(&broker, &knobs);
    project.put("totals.sql", AGGREGATE);
    let archive = format!("file://{}", project.path().join("archive").display());
    let (mut feed, mut rng) = (Feed::new(), Rng(601));
    feed.send(&broker, PARTITIONS, &mix(&mut rng, 0, 40));
    project.catch_up().expect_worked();
    for verb in ["batch", "reconcile"] {
        project.run(&[verb]).expect(0);
    }
    // it goes on with the contract that it began with
    let mut stream = project.start(&["stream", "--partitions", "0-3"]);
    stream.wait_for("landing begins");
    let properties = "    properties:\n";
    let rule = format!("    quality:\n      - {{metric: rowCount, mustBeGreaterThan: 0}}\n{properties}");
    project.deploy(&mended().replacen(properties, &rule, 1));
    let is_over = AtomicBool::new(false);
    let (ended, beside) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let rounds = (0..ROUNDS_MAX).take_while(|_| !is_over.load(SeqCst));
            rounds.map(|_| [project.run(&["batch"]), project.run(&["reconcile"])]).collect::<Vec<_>>()
        });
        // each of them twice
        let ended: Vec<(String, &[i32], Ended)> = (0..2 * COMMANDS.len())
            .map(|n| {
                let (words, codes) = COMMANDS[n % COMMANDS.len()];
                feed.send(&broker, PARTITIONS, &mix(&mut rng, 40 + 12 * n as u64, 12));
                let next = (feed.len() as i64 / i64::from(PARTITIONS)).to_string();
                let words = words.replace("{next}", &next).replace("{archive}", &archive);
                let ended = project.run(&words.split(' ').collect::<Vec<_>>());
                (words, codes, ended)
            })
            .collect();
        is_over.store(true, SeqCst);
        (ended, beside.join().unwrap())
    });
    for (words, codes, ended) in &ended {
        assert!(ended.code.is_some_and(|code| codes.contains(&code)), "{words}: {ended:?}");
    }
    for ended in beside.iter().flatten() {
        assert!(matches!(ended.code, Some(0 | 5)), "{ended:?}");
    }
    let computed = |ended: &Ended| ended.result()["units"]["computed"].as_u64() > Some(0);
    assert!(beside.iter().filter(|[batch, _]| computed(batch)).count() > 3, "{beside:?}");
    wait_until("the stream is through", || project.nexts().values().sum::<i64>() == feed.len() as i64);
    stream.signal("TERM");
    stream.wait().expect(143);
    for words in ["offsets rewind events --partition 0-3 --to 0", "rejects redrive events", "batch", "reconcile"] {
        project.run(&words.split(' ').collect::<Vec<_>>()).expect(0);
    }
    let landed = feed.verify(&project);
    assert!(landed.both > 40, "{landed:?}");
    project.run(&["prove"]).expect(0);
    let unexplained = project.rows("SELECT count(*) AS n FROM drift.totals WHERE unexplained <> 0");
    assert_eq!(unexplained[0]["n"], 0);
}

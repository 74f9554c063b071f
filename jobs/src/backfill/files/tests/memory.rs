//! How much is held at a time: parts are bounded, whatever files and dates are like.

use super::super::bytes::Source;
use super::super::listing::files_of;
use super::kit::{CLOCK_MS, Kit, lines};
use crate::backfill::files::parts::{Job, PartLimits, start};
use crate::clock::Clock;
use std::io::Read;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_part_is_larger_than_its_budget_by_more_than_a_batch() {
    let kit = Kit::new();
    // many dates in each file: rows are a day apart
    let far = |n: i64| lines(n..n + 1).replace("\"n\":", &format!("\"note\":\"{}\",\"n\":", "x".repeat(200)));
    let text: String = (0..30_000).map(|n| far(n * 1_440 % 500_000)).collect();
    kit.file("a.jsonl", &text);
    for n in 0..200 {
        kit.file(&format!("b{n:03}.jsonl"), far(1_000_000 + n));
    }
    let plan = kit.plan().await.unwrap();
    let budget = 2 << 20;
    let job = Job {
        lake: kit.lake.clone(),
        piece_bytes: 256 << 10,
        pipeline: kit.pipeline().clone(),
        reading: plan.spec.reading.clone(),
        files: plan.files.clone(),
        done: 0,
        limits: PartLimits { bytes: budget, rows: 1_000_000, every: Duration::from_secs(600) },
        clock: Clock::of(|| CLOCK_MS),
    };
    let mut parts = start(job);
    let (mut count, mut messages, mut done) = (0, 0, 0);
    while let Some(part) = parts.recv().await {
        let part = part.unwrap();
        let bytes: usize = part.rows.iter().map(arrow::array::RecordBatch::get_array_memory_size).sum();
        assert!(bytes < budget + (8 << 20), "{bytes}");
        assert!(part.done >= done);
        (count, messages, done) = (count + 1, messages + part.messages, part.done);
    }
    assert_eq!((messages, done), (30_200, 201));
    assert!(count > 4, "{count} parts of {} bytes", text.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_read_in_pieces() {
    let kit = Kit::new();
    let text = lines(0..20_000);
    kit.file("a.jsonl", &text);
    let file = kit.plan().await.unwrap().files.remove(0);
    let source =
        Source::new(files_of(&kit.lake, &file.facts.url).unwrap(), file.facts.clone(), Some(&file.blake3), 10_007);
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        source.stream().read_to_end(&mut all).unwrap();
        all
    });
    assert_eq!(read.await.unwrap(), text.as_bytes());
    // the hash of other content is found at the end
    let source = Source::new(files_of(&kit.lake, &file.facts.url).unwrap(), file.facts.clone(), Some("00"), 10_007);
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        let error = source.stream().read_to_end(&mut all).unwrap_err();
        (all.len(), source.broken(error))
    });
    let (length, error) = read.await.unwrap();
    assert_eq!((length, error.class), (text.len(), crate::error::Class::InputLost));
}

//! SIGKILL at random moments, again and again, while events keep coming.

use super::support::{World, now_ms, seconds};
use super::truth::Sender;
use crate::harness::Rng;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn killed_at_random_in_a_group() {
    kill_loop("kills-group", &[], 9_000);
}

#[test]
#[ignore = "needs Kafka and MinIO: make e2e"]
fn killed_at_random_with_partitions_by_hand() {
    kill_loop("kills-by-hand", &["--partitions", "0-3"], 3_000);
}

/// Kills runs at an age of up to `age_ms_max`, for DELTAWORKS_SOAK_SECONDS. DELTAWORKS_SEED repeats the moments.
fn kill_loop(name: &str, how: &[&str], age_ms_max: u64) {
    let duration = seconds("DELTAWORKS_SOAK_SECONDS", 60);
    let seed = std::env::var("DELTAWORKS_SEED").map_or(now_ms().unsigned_abs(), |seed| seed.parse().unwrap());
    eprintln!("{name}: DELTAWORKS_SEED={seed} for {duration:?}");
    let world = World::new(name, 4, &[]).set("commit", "{ every: 150ms }");
    let mut sender = Sender::new(&world, 4, seed);
    let mut random = Rng(seed);
    let begun = Instant::now();
    let (mut kills, mut progress, mut before) = (0, 0, 0);
    sender.while_sending(30, Duration::from_millis(50), || {
        while begun.elapsed() < duration {
            let mut run = world.stream(how);
            sleep(Duration::from_millis(random.below(age_ms_max)));
            assert!(run.is_alive(), "{} ended by itself:\n{}", run.what, run.log());
            assert!(run.kill9());
            kills += 1;
            if kills % 5 == 0 {
                let landed = world.landed();
                progress += u32::from(landed > before);
                before = landed;
            }
        }
    });
    sender.send(500);
    sender.settle();
    eprintln!("{name}: {kills} kills, {} messages, {before} landed before the last one", sender.truth.len());
    assert!(kills >= 5 && progress > 0, "the faults did not fire: {kills} kills, progress {progress} times");
    assert!(catch_up_whole(&world, how) > 0, "the last run had nothing left to do");
    world.verify(&sender.truth);
    let again = world.catch_up(how);
    assert_eq!(again["landed"].as_u64(), Some(0), "{again}");
}

/// Rows landed until a run was given every partition. One in a group ends with those that it was given, and those of
/// a member that was killed come to nobody before the group has let it go.
fn catch_up_whole(world: &World, how: &[&str]) -> u64 {
    let mut landed = 0;
    for _ in 0..20 {
        let ended = world.catch_up(how);
        landed += ended["landed"].as_u64().unwrap();
        if ended["next"].as_object().is_some_and(|next| next.len() == 4) {
            return landed;
        }
        sleep(Duration::from_secs(3));
    }
    panic!("{}: no run was given every partition", world.name)
}

//! SIMULATION: the jobs as they are in production, on edges in memory that fail as a seed says.
//!
//! ```text
//!   seed ─> steps and troubles ─> jobs on a lake behind an edge ─> all brought to rest ─> raw == sent, served == model,
//!                                     │         │                                          prove is green
//!                                 topic in    store in memory: lost and dropped puts, answers taken, failed reads and
//!                                 memory      lists, stale lists; a process that dies; another one in between
//! ```
//!
//! What is real: everything above the edges, threads included: a stream is `land`'s reader, workers and committer, reading
//! [`crate::kafka::memory`] through [`crate::kafka::source::Source`]. To drive worker and committer without the reader
//! would be simpler to replay, but would leave out what seeks and drops flushes when another writer was ahead. It replays
//! all the same: no topic changes while a job runs, the clock stands, flushes are bounded by rows and not by time, and one
//! is in flight at most, so a flush holds the same messages however the threads are scheduled.
//!
//! Names of files and tables differ from play to play, but they sort by when they were made, and jobs run with one
//! thread's worth of work; so a play makes the same requests in the same order, and [`a_seed_replays`] holds it to that.
//!
//! `make sim SEED=7 STEPS=2000` plays a seed; `WITHOUT=3,17..40` leaves steps out, `SHRINK=1` looks for a short list that
//! still fails, and `TRACE=1` tells how each step went. A failure says which steps were played, and how to play them again.

mod acts;
mod check;
mod model;
mod play;
mod steps;
mod store;
mod world;

use check::SIGHTS;
use play::{Planned, Played, plan, play};
use std::collections::BTreeSet;

/// What `make test` plays.
const SEEDS: [u64; 4] = [1, 2, 3, 4];
/// Steps of each.
const STEPS: usize = 500;
/// Steps of the seed that is played twice.
const STEPS_TWICE: usize = 80;

/// A short list of steps that fails as the whole does: no single one can be left out. `None` if the whole does not fail.
fn shrink<S: Clone>(mut plan: Vec<S>, fails: impl Fn(&[S]) -> bool) -> Option<Vec<S>> {
    if !fails(&plan) {
        return None;
    }
    let mut size = plan.len() / 2;
    while size > 0 {
        let (mut at, before) = (0, plan.len());
        while at < plan.len() {
            let without: Vec<S> = plan.iter().take(at).chain(plan.iter().skip(at + size)).cloned().collect();
            if fails(&without) { plan = without } else { at += size }
        }
        // what could not go before may go without what went since
        if size > 1 || plan.len() == before {
            size /= 2;
        }
    }
    Some(plan)
}

#[expect(clippy::print_stdout, reason = "the counts of the faults are the result")]
fn tell(seed: u64, steps: usize, played: &Played) {
    println!("seed {seed}, {steps} steps");
    println!("  troubles: {:?}", played.troubles);
    println!("  done and refused: {:?}", played.ends);
    println!("  seen: {:?}", played.seen);
}

/// Fails if something never came, so that nothing passes because of that.
fn all_came(played: &Played) {
    let troubles: Vec<_> = played.troubles.iter().filter(|(_, count)| **count == 0).collect();
    assert!(troubles.is_empty(), "never came: {troubles:?}");
    let undone: Vec<_> = played.ends.iter().filter(|(_, (done, _))| *done == 0).collect();
    assert!(undone.is_empty(), "never done: {undone:?}");
    let unseen: Vec<_> = SIGHTS.into_iter().filter(|sight| played.seen.get(sight).is_none_or(|n| *n == 0)).collect();
    assert!(unseen.is_empty(), "never seen: {unseen:?}");
}

#[test]
fn whatever_happens_nothing_is_lost_and_served_is_the_model() {
    let mut all = Played::default();
    std::thread::scope(|scope| {
        let plays = SEEDS.map(|seed| (seed, scope.spawn(move || play(seed, STEPS, &plan(seed, STEPS)))));
        for (seed, playing) in plays {
            let played = playing.join().unwrap();
            tell(seed, STEPS, &played);
            all.add(&played);
        }
    });
    all_came(&all);
}

#[test]
fn a_seed_replays() {
    let plan = plan(7, STEPS_TWICE);
    let (one, two) = (play(7, STEPS_TWICE, &plan), play(7, STEPS_TWICE, &plan));
    let parts = one.diary.iter().zip(&two.diary).find(|(one, two)| one != two);
    assert_eq!((parts, one.diary.len()), (None, two.diary.len()));
    assert!(one.troubles.values().sum::<usize>() > 10, "{:?}", one.troubles);
    assert_eq!(one, two);
}

#[test]
fn leaving_steps_out_changes_none_of_the_others() {
    assert_eq!(numbers("3,17..20"), BTreeSet::from([3, 17, 18, 19]));
    let spelled = |plan: &[Planned]| plan.iter().map(|planned| format!("{planned:?}")).collect::<Vec<_>>();
    assert_eq!(spelled(&plan(7, 40)), spelled(&plan(7, 90)[..40]));
}

#[test]
fn a_failure_shrinks_to_what_it_needs() {
    let together = |steps: &[u32]| [3, 17, 18].iter().all(|step| steps.contains(step));
    assert_eq!(shrink((0..40).collect(), together), Some(vec![3, 17, 18]));
    // 2 can go once 30 has gone
    let one_by_one = |steps: &[u32]| steps.contains(&9) && (steps.contains(&2) || !steps.contains(&30));
    assert_eq!(shrink((0..40).collect(), one_by_one), Some(vec![9]));
    assert_eq!(shrink((0..40).collect(), |steps: &[u32]| steps.contains(&99)), None);
}

/// `make sim`: `DELTAWORKS_SIM_SEED`, `_STEPS`, `_WITHOUT`, `_SHRINK`, `_TRACE`.
#[test]
#[ignore = "as long as one likes: `make sim`"]
#[expect(clippy::print_stdout, reason = "it is played by hand")]
fn simulation_by_hand() {
    let of = |name: &str| std::env::var(format!("DELTAWORKS_SIM_{name}")).ok().filter(|text| !text.is_empty());
    let at_random = || std::time::UNIX_EPOCH.elapsed().map_or(0, |since| u64::from(since.subsec_nanos()));
    let seed = of("SEED").map_or_else(at_random, |text| text.parse().unwrap());
    let steps = of("STEPS").map_or(2_000, |text| text.parse().unwrap());
    let without = numbers(&of("WITHOUT").unwrap_or_default());
    println!("seed {seed}, {steps} steps");
    let mut plan = plan(seed, steps);
    plan.retain(|planned| !without.contains(&planned.number));
    if of("SHRINK").is_none() {
        let played = play(seed, steps, &plan);
        if of("TRACE").is_some() {
            println!("{}", played.diary.join("\n"));
        }
        return tell(seed, plan.len(), &played);
    }
    let fails = |plan: &[Planned]| std::panic::catch_unwind(|| drop(play(seed, steps, plan))).is_err();
    let Some(kept) = shrink(plan, fails) else { return println!("nothing fails") };
    let kept: BTreeSet<usize> = kept.into_iter().map(|planned| planned.number).collect();
    println!("{} steps are enough: {kept:?}", kept.len());
    println!("make sim SEED={seed} STEPS={steps} WITHOUT={}", spelled(&kept, steps));
}

/// The numbers below `steps` that are not kept, as [`numbers`] reads them.
fn spelled(kept: &BTreeSet<usize>, steps: usize) -> String {
    let mut parts = Vec::new();
    let mut from = 0;
    for at in kept.iter().copied().chain([steps]) {
        if from < at {
            parts.push(format!("{from}..{at}"));
        }
        from = at + 1;
    }
    parts.join(",")
}

/// Numbers and ranges, such as `3,17..40`.
fn numbers(text: &str) -> BTreeSet<usize> {
    let numbers = |part: &str| match part.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => part.parse().unwrap()..part.parse::<usize>().unwrap() + 1,
    };
    text.split(',').filter(|part| !part.is_empty()).flat_map(numbers).collect()
}

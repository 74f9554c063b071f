//! The golden cases as batch publishes them: over what partitions, in what commits and in how many runs must not matter.
//! What is served of them is in `crate::cases`.

use crate::harness::cases::{Cases, Setup};

/// How the cases are run.
struct Way {
    partitions: i32,
    commit: &'static str,
    /// Whether each step is landed and computed before the next is sent.
    apart: bool,
}

#[test]
fn many_small_commits() {
    run(&Way { partitions: 3, commit: "{rows: 2}", apart: true });
}

#[test]
fn all_steps_at_once() {
    run(&Way { partitions: 8, commit: "{rows: 7}", apart: false });
}

fn run(way: &Way) {
    let mut cases = Cases::begin(&Setup { partitions: way.partitions, commit: way.commit, speed: false, top: "" });
    let mut seen = vec![String::new(); cases.all.len()];
    for step in 0..cases.step_count() {
        cases.send_step(step);
        if way.apart || step + 1 == cases.step_count() {
            cases.land();
            cases.batch();
        }
        for (case, seen) in cases.all.iter().zip(&mut seen).filter(|(case, _)| way.apart && case.loses_rows()) {
            seen.push_str(&cases.windows("batch", case));
        }
    }
    cases.verify_landed();
    cases.verify_final("batch");
    for (case, seen) in cases.all.iter().zip(&seen).filter(|_| way.apart) {
        // rows should go where a case is about that, and some of those seen after any step are gone
        let row = |line: &str| line.splitn(4, ',').take(3).map(str::to_owned).collect::<Vec<_>>();
        let kept: Vec<_> = case.expected().lines().map(row).collect();
        let lost = seen.lines().map(row).any(|row| !kept.contains(&row));
        assert_eq!(lost, case.loses_rows(), "{}: seen after the steps:\n{seen}", case.name);
    }
    // every unit is known, those without rows too
    cases.project.run(&["batch", "--skip-exit-code"]).expect(99);
}

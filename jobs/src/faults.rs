//! Fault points: named steps at which a crash test kills the process.
//!
//! Compiled in only with the feature `faults`, which no installed binary has. A test sets
//! `FAILPOINTS="after_raw_commit=2*off->return"`; the point then says on stderr that it fired and ends
//! the process by SIGKILL, so that no destructor, flush or signal handler can soften the blow.

/// Kills the process here if the test armed this point.
#[inline]
pub fn point(name: &'static str) {
    fail::fail_point!(name, |_| die(name));
    let _ = name;
}

/// Reads `FAILPOINTS`; call once at the start of the process and keep the guard.
#[must_use]
pub fn arm() -> impl Drop {
    fail::FailScenario::setup()
}

#[cfg(feature = "faults")]
#[expect(clippy::print_stderr, reason = "the test reads this line, and the process is gone after it")]
fn die(name: &str) {
    eprintln!("fault fired: {name}");
    let _ = std::process::Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
    std::process::abort();
}

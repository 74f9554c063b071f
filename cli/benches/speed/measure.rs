//! Whole processes, as the kernel counts them.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// One process, as the kernel saw it.
pub struct Cost {
    /// User and system time, seconds.
    pub cpu_s: f64,
    /// Seconds.
    pub wall_s: f64,
    /// Peak resident memory.
    pub rss_mib: f64,
}

impl Cost {
    /// As it is printed.
    pub fn json(&self) -> Value {
        json!({ "cpu_seconds": self.cpu_s, "seconds": self.wall_s, "peak_rss_mib": self.rss_mib })
    }
}

/// `deltaworks` with the bench's project, on a broker; what it prints is dropped.
pub fn deltaworks(brokers: &str, args: &[&str]) -> Command {
    deltaworks_in("", brokers, args)
}

/// The same with the project in a folder of the bench's. DELTAWORKS_BINARY names another build of the binary.
pub fn deltaworks_in(folder: &str, brokers: &str, args: &[&str]) -> Command {
    let binary = std::env::var_os("DELTAWORKS_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_deltaworks").into());
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/bench").join(folder);
    let mut command = Command::new(binary);
    command.args(args).arg("--project").arg(project).arg("--quiet");
    command.env("KAFKA_BROKERS", brokers).stdout(Stdio::null());
    command
}

/// Runs a command to its end, which must be a success.
pub fn measure(command: &mut Command) -> Cost {
    tried(command).unwrap_or_else(|| panic!("{command:?} failed"))
}

/// Runs a command to its end; `None` if it fails.
pub fn tried(command: &mut Command) -> Option<Cost> {
    let began = Instant::now();
    let (status, cost) = ended(command.spawn().unwrap(), began);
    (status == 0).then_some(cost)
}

/// Asks a child to end by SIGTERM, and waits until it has: what it cost since `began`.
pub fn term(child: Child, began: Instant) -> Cost {
    let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(told.success(), "it was gone before it was told to end");
    ended(child, began).1
}

/// Waits for a child: its status as `wait4` tells it, and CPU time and peak memory from the same place.
#[expect(unsafe_code, clippy::needless_pass_by_value, reason = "`wait4` waits: the standard library has no rusage")]
fn ended(child: Child, began: Instant) -> (i32, Cost) {
    let mut status = 0;
    // SAFETY: both out-parameters live here, and the child is waited for once
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert!(libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage) > 0);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    let cost = Cost {
        cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        wall_s: began.elapsed().as_secs_f64(),
        rss_mib: usage.ru_maxrss as f64 / 1024.0,
    };
    (status, cost)
}

/// The median of one of the figures.
pub fn median(costs: &mut [Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    costs.sort_by(|a, b| of(a).total_cmp(&of(b)));
    of(&costs[costs.len() / 2])
}

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// What a job left in its `--result-file`.
pub fn result_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What it ran on.
pub fn machine() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).map(|l| l.trim_start_matches(['\t', ' ', ':']));
    json!({ "cpu": model, "cores": std::thread::available_parallelism().map_or(1, std::num::NonZero::get) })
}

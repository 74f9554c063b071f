//! Events of 1,000 cameras: seeded, in about the order of event time, some of them twice.

use std::io::{BufWriter, Write};
use std::process::{Command, Stdio};

/// Cameras that there are.
pub const CAMERAS: u64 = 1_000;
/// A day, ms.
pub const DAY_MS: u64 = 86_400_000;
/// 2026-01-05, in ms since the epoch.
pub const START_MS: u64 = 1_767_571_200_000;

/// A stream of events.
#[derive(Clone, Copy)]
pub struct Events {
    pub seed: u64,
    pub count: u64,
    pub from_ms: u64,
    /// Event time from the first to the last, about.
    pub over_ms: u64,
    /// One event in this many comes twice.
    pub twice: u64,
}

impl Events {
    /// Sends all of them by `produce --file /dev/stdin`.
    pub fn send(self, mut produce: Command) {
        let mut child = produce.stdin(Stdio::piped()).spawn().unwrap();
        let mut lines = BufWriter::with_capacity(1 << 20, child.stdin.take().unwrap());
        self.write(&mut lines);
        lines.flush().unwrap();
        drop(lines);
        assert!(child.wait().unwrap().success());
    }

    /// One JSON object a line, about in the order of event time.
    pub fn write(self, out: &mut impl Write) {
        let mut line = Vec::with_capacity(256);
        for n in 0..self.count {
            // each second one of a pair repeats the first
            let original = if self.is_copy(n) { n - 1 } else { n };
            let a = mix(self.seed << 40 ^ original);
            let b = mix(a);
            let at_ms = self.from_ms + original * (self.over_ms - 10_000) / self.count + b % 10_000;
            line.clear();
            event(&mut line, a, b, at_ms);
            out.write_all(&line).unwrap();
        }
    }

    const fn is_copy(self, n: u64) -> bool {
        !n.is_multiple_of(2) && (n / 2).is_multiple_of(self.twice)
    }
}

/// Appends an event's JSON and a line's end; `a` and `b` are its chances.
pub fn event(line: &mut Vec<u8>, a: u64, b: u64, at_ms: u64) {
    let at = jiff::Timestamp::from_millisecond(at_ms as i64).unwrap();
    let (camera, speed, plate) = (b % CAMERAS, a % 1_400, a % 10_000);
    writeln!(
        line,
        r#"{{"event_id":"{a:016x}{b:016x}","camera_id":"cam-{camera:04}","timestamp":"{at:.3}","vehicle_speed":{}.{},"plate_number":"AB{plate:04}CD"}}"#,
        speed / 10,
        speed % 10
    )
    .unwrap();
}

/// splitmix64.
pub const fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

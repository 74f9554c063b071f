//! Two built-in streams for benchmarks: about 150 B and about 1 KB an event, made fast enough not to
//! be what is measured.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::Write;

/// A built-in stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A vehicle passes a camera: id, camera, time, speed, plate; about 150 B.
    Traffic,
    /// A device reports a value, with metadata of several texts; about 1 KB.
    Device,
}

/// Larger than any compressor's window, so that its slices are as good as new texts.
const POOL_BYTES: usize = 4 << 20;
const METRICS: [&str; 8] =
    ["temperature", "humidity", "pressure", "vibration", "voltage", "current", "flow_rate", "rpm"];
const WORDS: [&str; 32] = [
    "pump", "valve", "north", "south", "reading", "nominal", "warning", "flow", "tank", "sector", "gateway", "uplink",
    "retry", "battery", "charge", "signal", "noise", "filter", "window", "average", "maximum", "pending", "firmware",
    "update", "rollback", "channel", "sensor", "cabinet", "router", "switch", "relay", "meter",
];
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Makes one shape; the same seed gives the same events.
pub struct Shapes {
    shape: Shape,
    rng: ChaCha8Rng,
    pool: Vec<u8>,
    serial: i64,
    start_ms: i64,
    /// Date and hour of the last event, already written: most events share them.
    hour: (i64, String),
}

impl Shapes {
    /// A stream whose event times begin at `start_ms` (ms since the epoch) and advance by 1 ms every
    /// two events, out of order by up to 2 s.
    #[must_use]
    pub fn new(shape: Shape, seed: u64, start_ms: i64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let pool = if shape == Shape::Device { words(&mut rng) } else { Vec::new() };
        Self { shape, rng, pool, serial: 0, start_ms, hour: (i64::MIN, String::new()) }
    }

    /// Writes the next payload into `out`, which is emptied first.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        out.clear();
        let at_ms = self.start_ms + self.serial / 2 + i64::from(self.rng.random_range(0..2_000u32));
        self.serial += 1;
        match self.shape {
            Shape::Traffic => self.traffic(at_ms, out),
            Shape::Device => self.device(at_ms, out),
        }
    }

    fn traffic(&mut self, at_ms: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"event_id\":\"");
        for half in [self.rng.random::<u64>(), self.rng.random()] {
            hex(half, out);
        }
        let (camera, speed) = (self.rng.random_range(0..500u32), self.rng.random_range(100..1_500u32));
        put(out, format_args!("\",\"camera_id\":\"cam-{camera:04}\",\"timestamp\":\""));
        self.time(at_ms, out);
        let plate = self.rng.random_range(0..200_000u32);
        let letter = |k: u32| char::from(b'A' + (plate.wrapping_mul(k) % 26) as u8);
        put(
            out,
            format_args!(
                "\",\"vehicle_speed\":{}.{},\"plate_number\":\"{}{}{:04}{}{}\"}}",
                speed / 10,
                speed % 10,
                letter(7),
                letter(11),
                plate % 10_000,
                letter(13),
                letter(17)
            ),
        );
    }

    fn device(&mut self, at_ms: i64, out: &mut Vec<u8>) {
        put(out, format_args!("{{\"device_id\":\"dev-{:06}\",\"timestamp\":\"", self.rng.random_range(0..10_000u32)));
        self.time(at_ms, out);
        let r = &mut self.rng;
        let (metric, whole, part) =
            (METRICS[r.random_range(0..8usize)], r.random_range(0..1_000u32), r.random_range(0..1_000u32));
        let (site, region, firmware) =
            (r.random_range(0..200u32), r.random_range(0..8u32), (r.random_range(0..10u32), r.random_range(0..30u32)));
        put(
            out,
            format_args!(
                "\",\"metric_name\":\"{metric}\",\"metric_value\":{whole}.{part:03},\"metadata\":{{\"firmware\":\"3.{}.{}\",\"site\":\"site-{site:03}\",\"region\":\"region-{region}\",\"serial\":\"",
                firmware.0, firmware.1
            ),
        );
        hex(self.rng.random(), out);
        for (name, length) in [("note", 300), ("diagnostic", 250), ("tags", 120)] {
            put(out, format_args!("\",\"{name}\":\""));
            self.text(length, out);
        }
        out.extend_from_slice(b"\",\"pad\":\"");
        self.text(1_024usize.saturating_sub(out.len() + 3), out);
        out.extend_from_slice(b"\"}}");
    }

    fn text(&mut self, length: usize, out: &mut Vec<u8>) {
        let at = self.rng.random_range(0..self.pool.len() - length);
        out.extend_from_slice(&self.pool[at..at + length]);
    }

    fn time(&mut self, at_ms: i64, out: &mut Vec<u8>) {
        let hour = at_ms.div_euclid(3_600_000);
        if hour != self.hour.0 {
            let text = jiff::Timestamp::from_millisecond(hour * 3_600_000)
                .map_or_else(|_| "1970-01-01T00".to_owned(), |t| t.strftime("%Y-%m-%dT%H").to_string());
            self.hour = (hour, text);
        }
        let rest = at_ms.rem_euclid(3_600_000);
        let (minutes, seconds, ms) = (rest / 60_000, rest / 1_000 % 60, rest % 1_000);
        put(out, format_args!("{}:{minutes:02}:{seconds:02}.{ms:03}Z", self.hour.1));
    }
}

fn words(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut pool = Vec::with_capacity(POOL_BYTES + 32);
    while pool.len() < POOL_BYTES {
        if rng.random_range(0..4u8) == 0 {
            put(&mut pool, format_args!("{:06x} ", rng.random_range(0..1u32 << 24)));
        } else {
            pool.extend_from_slice(WORDS[rng.random_range(0..WORDS.len())].as_bytes());
            pool.push(b' ');
        }
    }
    pool
}

fn hex(value: u64, out: &mut Vec<u8>) {
    out.extend((0..16).rev().map(|i| HEX[(value >> (4 * i)) as usize & 15]));
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(Shape::Traffic, 130, 170, 5)]
    #[case(Shape::Device, 1_000, 1_060, 5)]
    fn sizes_and_seeds(#[case] shape: Shape, #[case] least: usize, #[case] most: usize, #[case] fields: usize) {
        let start = 1_767_571_200_000;
        let (mut a, mut b) = (Shapes::new(shape, 7, start), Shapes::new(shape, 7, start));
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for _ in 0..500 {
            a.write(&mut x);
            b.write(&mut y);
            assert_eq!(x, y);
            assert!((least..=most).contains(&x.len()), "{} bytes", x.len());
            let event: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&x).unwrap();
            assert_eq!(event.len(), fields);
            let time: jiff::Timestamp = event["timestamp"].as_str().unwrap().parse().unwrap();
            assert!((start..start + 3_000).contains(&time.as_millisecond()));
        }
    }
}
